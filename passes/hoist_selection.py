"""Selects tokens before the operations that act on each token alone, so that the others are not computed at all.

    select(layer_norm(x))      ->  layer_norm(select(x))
    select(linear(x))          ->  linear(select(x))             gelu likewise
    select(add(a, b))          ->  add(select(a), select(b))     multiply likewise
    select(rearrange(x))       ->  rearrange(x)                  with fewer rows of its index
    select(attention(q, k, v)) ->  attention(select(q), k, v)    in one window; of a bias its rows

A classifier reads one token: of the last block only its queries, projection and MLP for that token remain, 7 % of the
products of a 12-block ViT. Where anything else reads the operation (hidden states as outputs) it is left alone.
"""

from typing import Any

from torch import fx

from intvit import floatops
from intvit.nodes import arguments
from intvit.stages import FloatGraph, copy_of

FIRST_ARGUMENT = (
    floatops.layer_norm,
    floatops.rms_norm,
    floatops.linear,
    floatops.gelu,
    floatops.pointwise,
    floatops.attention,
)
BOTH = (floatops.add, floatops.multiply)


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
    if source.target is floatops.attention and _windows(source) > 1:
        return False
    if source.target is floatops.rearrange:
        return _rearranged(module, source, select)
    if source.target in FIRST_ARGUMENT:
        inputs = arguments(source)[:1]
    elif source.target in BOTH:
        inputs = arguments(source)
    else:
        return False
    with module.graph.inserting_before(source):
        picked = tuple(_selected(module, argument, start, stop) for argument in inputs)
    source.args = (*picked, *source.args[len(picked) :])
    if source.target is floatops.attention:
        _select_bias(module, source, start, stop)
    source.meta["shape"] = (stop - start, source.meta["shape"][1])
    select.replace_all_uses_with(source)
    return True


def _rearranged(module: fx.GraphModule, source: fx.Node, select: fx.Node) -> bool:
    """Only the selected rows of a movement."""
    operands, index, chunk = arguments(source)
    _, start, stop = arguments(select)
    name = f"{index.target}_{start}_{stop}"
    module.register_buffer(name, module.get_buffer(index.target)[start:stop].clone())
    with module.graph.inserting_before(source):
        source.args = (operands, module.graph.get_attr(name), chunk)
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


def _windows(attention: fx.Node) -> int:
    _, _, _, _, _, *rest = arguments(attention)
    return int(rest[0]) if rest else 1


def _select_bias(module: fx.GraphModule, attention: fx.Node, start: Any, stop: Any) -> None:
    """Leaves the bias of an attention only the rows of its queries that are left."""
    if len(attention.args) < 7 or attention.args[6] is None:
        return
    q, k, v, heads, scale, windows, bias, *kinds = arguments(attention)
    name = f"{bias.target}_rows_{start}_{stop}"
    module.register_buffer(name, module.get_buffer(bias.target)[:, :, start:stop].contiguous())
    with module.graph.inserting_before(attention):
        attention.args = (q, k, v, heads, scale, windows, module.graph.get_attr(name), *kinds)


def _selected(module: fx.GraphModule, argument: Any, start: Any, stop: Any) -> fx.Node:
    """Some tokens of a node, or of a constant `[tokens, channels]`; of one that there is, that."""
    if argument.op != "get_attr" and argument.meta["shape"][0] == 1:
        return argument  # type: ignore[no-any-return]
    if argument.op == "get_attr":
        constant = module.get_buffer(argument.target)
        name = f"{argument.target}_{start}_{stop}"
        module.register_buffer(name, constant[start:stop] if constant.shape[0] > 1 else constant)
        return module.graph.get_attr(name)
    node = module.graph.call_function(floatops.select_tokens, (argument, start, stop))
    node.meta.update(path=argument.meta.get("path", ""), shape=(stop - start, argument.meta["shape"][1]))
    return node
