"""Selects tokens before the operations that act on each token alone, so that the others are not computed at all.

    select(layer_norm(x))      ->  layer_norm(select(x))
    select(linear(x))          ->  linear(select(x))             gelu likewise
    select(add(a, b))          ->  add(select(a), select(b))
    select(attention(q, k, v)) ->  attention(select(q), k, v)

A classifier reads one token: of the last block only its queries, projection and MLP for that token remain, 7 % of the
products of a 12-block ViT. Where anything else reads the operation (hidden states as outputs) it is left alone.
"""

from typing import Any

from torch import fx

from intvit import floatops
from intvit.nodes import arguments
from intvit.stages import FloatGraph, copy_of

FIRST_ARGUMENT = (floatops.layer_norm, floatops.linear, floatops.gelu, floatops.attention)


def hoist_selection(graph: FloatGraph) -> FloatGraph:
    """The same function with every selection of tokens as early as it can be; the input is left as it is."""
    module = copy_of(graph.module)
    while any(_hoisted(module, node) for node in _selections(module.graph)):
        module.graph.eliminate_dead_code()
    return FloatGraph.of(module, module.graph, graph.input_shape, graph.output_shapes)


def _selections(graph: fx.Graph) -> list[fx.Node]:
    return list(graph.find_nodes(op="call_function", target=floatops.select_tokens))


def _hoisted(module: fx.GraphModule, select: fx.Node) -> bool:
    source, start, stop = arguments(select)
    if _merged(select, source):
        return True
    if source.op != "call_function" or len(source.users) > 1:
        return False
    if source.target in FIRST_ARGUMENT:
        inputs = arguments(source)[:1]
    elif source.target is floatops.add:
        inputs = arguments(source)
    else:
        return False
    with module.graph.inserting_before(source):
        picked = tuple(_selected(module, argument, start, stop) for argument in inputs)
    source.args = (*picked, *source.args[len(picked) :])
    source.meta["shape"] = (stop - start, source.meta["shape"][1])
    select.replace_all_uses_with(source)
    return True


def _merged(select: fx.Node, source: fx.Node) -> bool:
    """Lets the first of several equal selections serve for all: both arms of a residual select the same tokens."""
    twins = [user for user in source.users if user.target is select.target and user.args == select.args]
    first = min(twins)
    for twin in twins:
        if twin is not first:
            twin.replace_all_uses_with(first)
    return len(twins) > 1


def _selected(module: fx.GraphModule, argument: Any, start: Any, stop: Any) -> fx.Node:
    """Some tokens of a node, or of a constant `[tokens, channels]`."""
    if argument.op == "get_attr":
        constant = module.get_buffer(argument.target)
        name = f"{argument.target}_{start}_{stop}"
        module.register_buffer(name, constant[start:stop] if constant.shape[0] > 1 else constant)
        return module.graph.get_attr(name)
    node = module.graph.call_function(floatops.select_tokens, (argument, start, stop))
    node.meta.update(path=argument.meta.get("path", ""), shape=(stop - start, argument.meta["shape"][1]))
    return node
