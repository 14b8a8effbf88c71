"""Arguments of fx nodes, as this project's graphs hold them: torch types them as a union that no checker can narrow."""

from typing import Any

from torch import fx


def arguments(node: fx.Node) -> tuple[Any, ...]:
    """The positional arguments of a node; operations of these graphs have no others."""
    return node.args


def outputs(graph: fx.Graph) -> tuple[fx.Node, ...]:
    """The nodes whose values a graph returns."""
    (found,) = arguments(graph.output_node())
    return tuple(found)
