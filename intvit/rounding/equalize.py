"""Changes of queries and keys that leave every attention as it is, and their quantization finer.

    k - E[k]                        the same number is taken from all scores of a query: no softmax sees it
    q_c · r_c, k_c / r_c            r_c = sqrt(rms(k_c) / rms(q_c)): channels of a head share a scale

The second is cross-layer equalization (Nagel et al., arXiv:1906.04721, section 4.1) between the rows of two products.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, fx

from intvit import floatops
from intvit.nodes import arguments
from intvit.observers import Observer
from intvit.rounding.constants import give_constants
from intvit.rounding.evaluate import origin
from intvit.stages import FloatGraph, copy_of

LARGEST_RATIO = 16.0
"""Of a channel's factor to 1: a channel that is nearly constant is left about as it is."""


def equalized(graph: FloatGraph, observers: Mapping[str, Observer]) -> FloatGraph:
    """The same function; every attention whose queries and keys are linear layers of its own is changed."""
    module = copy_of(graph.module)
    for node in module.graph.find_nodes(op="call_function", target=floatops.attention):
        queries, keys, values = (origin(operand) for operand in arguments(node)[:3])
        if len({queries, keys, values}) == 3 and all(_belongs(x, node) for x in (queries, keys)):
            _equalize(module, queries, keys, observers)
    module.graph.eliminate_dead_code()
    return FloatGraph.of(copy_of(module), module.graph, graph.input_shape, graph.output_shapes)


def _belongs(layer: fx.Node, attention: fx.Node) -> bool:
    """A linear layer that nothing but one attention reads."""
    if layer.target is not floatops.linear or not all(x.op == "get_attr" for x in arguments(layer)[1:]):
        return False
    return all(
        user is attention or (user.target is floatops.select_tokens and set(user.users) == {attention})
        for user in layer.users
    )


def _equalize(module: fx.GraphModule, queries: fx.Node, keys: fx.Node, observers: Mapping[str, Observer]) -> None:
    mean = observers[keys.name].mean
    rms = (observers[queries.name].deviation.square() + observers[queries.name].mean.square()).sqrt()
    spread = observers[keys.name].deviation
    least = max(float(rms.max()), float(spread.max()), 1e-30) * 1e-6
    factor = (spread.clamp(min=least) / rms.clamp(min=least)).sqrt().clamp(1 / LARGEST_RATIO, LARGEST_RATIO)
    _scale(module, queries, factor, torch.zeros_like(mean))
    _scale(module, keys, 1 / factor, mean)


def _scale(module: fx.GraphModule, layer: fx.Node, factor: Tensor, mean: Tensor) -> None:
    """The rows of a layer less a mean, times a factor."""
    weight, bias = (module.get_buffer(str(x.target)).double() for x in arguments(layer)[1:])
    give_constants(module, layer, (weight * factor[:, None]).float(), ((bias - mean) * factor).float())
