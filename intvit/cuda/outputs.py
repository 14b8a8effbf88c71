"""Outputs as the kernels write them: rows of values that are read on are padded, rows of what is handed out are not."""

from dataclasses import replace

from torch import fx

from intvit.dialect.tokens import select_tokens
from intvit.kernels.cuda.fragments import CHUNK
from intvit.nodes import outputs
from intvit.stages import IntGraph, copy_of
from intvit.verify.overflow import shapes_of


def with_own_outputs(graph: IntGraph) -> IntGraph:
    """The graph with copies for outputs that are also read, in rows that kernels cannot read, or handed out twice."""
    nodes = outputs(graph.module.graph)
    if not any(len(node.users) > 1 or node in nodes[:i] for i, node in enumerate(nodes)):
        return graph
    shapes = shapes_of(graph)
    copied = [_needs_a_copy(node, i, graph, shapes) for i, node in enumerate(nodes)]
    if not any(copied):
        return graph
    module = copy_of(graph.module)
    found, last = list(outputs(module.graph)), module.graph.output_node()
    for i, node in enumerate(found):
        if copied[i]:
            with module.graph.inserting_before(last):
                found[i] = module.graph.call_function(select_tokens, (node, 0, shapes[node.name][1]))
            found[i].meta["path"] = node.meta.get("path", "")
    last.args = (tuple(found),)
    module.recompile()
    return replace(graph, module=module)


def _needs_a_copy(node: fx.Node, index: int, graph: IntGraph, shapes: dict[str, tuple[int, ...]]) -> bool:
    nodes = outputs(graph.module.graph)
    read_on = len(node.users) > 1 and shapes[node.name][-1] % CHUNK != 0
    return read_on or node in nodes[:index]
