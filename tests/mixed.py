"""A small model that weighs its tokens by products of two computed tensors, built from canonical float operations."""

from functools import cache

import tiny
import torch
from torch import fx
from windowed import Sketch

from intvit import floatops
from intvit.integer_model import IntegerModel
from intvit.metadata import Metadata
from intvit.passes.pipeline import lower
from intvit.stages import CalibratedGraph

TOKENS, WIDTH, GROUPS = 64, 16, 4


def turned(sketch: Sketch, x: fx.Node, groups: int = 1) -> fx.Node:
    """Tokens and channels exchanged, in groups of tokens: `[G·T, C]` to `[G·C, T]`."""
    tokens, channels = x.meta["shape"]
    places = torch.arange(tokens * channels).reshape(groups, -1, channels).mT.flatten(0, 1).int()
    name = f"places_{len(list(sketch.root.buffers()))}"
    sketch.root.register_buffer(name, places.contiguous())
    return sketch.call(floatops.rearrange, [x], sketch.graph.get_attr(name), 1, shape=tuple(places.shape))


def product(sketch: Sketch, a: fx.Node, b: fx.Node, groups: int = 1) -> fx.Node:
    shape = (a.meta["shape"][0], b.meta["shape"][0] // groups)
    return sketch.call(floatops.product, a, b, groups, shape=shape)


def softmax(sketch: Sketch, x: fx.Node, scale: float) -> fx.Node:
    return sketch.call(floatops.softmax, x, scale, shape=x.meta["shape"])


def quotient(sketch: Sketch, x: fx.Node) -> fx.Node:
    """Of two linears, four channels by each of what is positive."""
    tokens, channels = x.meta["shape"]
    logarithm = sketch.linear(x, channels // 4)
    divisor = sketch.call(floatops.pointwise, logarithm, (("exp", "x"),), shape=(tokens, channels // 4))
    return sketch.call(floatops.divide, sketch.linear(x), divisor, shape=(tokens, channels))


def network(sketch: Sketch) -> fx.Node:
    """Attention whose weights are read as sums, attention over channels in groups of tokens, a quotient, a gate."""
    image = sketch.pixels.args[0]
    x = sketch.linear(sketch.call(floatops.patchify, image, 4, 4, shape=(TOKENS, 48)))
    normal = sketch.norm(x)
    q, k, v = (sketch.linear(normal) for _ in range(3))
    weights = softmax(sketch, product(sketch, q, k), WIDTH**-0.5)
    x = sketch.add(x, sketch.linear(product(sketch, weights, turned(sketch, v))))
    normal = sketch.norm(x)
    q, k, v = (sketch.linear(normal) for _ in range(3))
    k = softmax(sketch, turned(sketch, k, GROUPS), 1.0)
    context = product(sketch, turned(sketch, v, GROUPS), k, GROUPS)
    x = sketch.add(product(sketch, q, context, GROUPS), x)
    x = sketch.add(x, sketch.linear(quotient(sketch, sketch.norm(x))))
    x = sketch.add(x, sketch.linear(softmax(sketch, sketch.linear(sketch.norm(x), 5), 2.0)))
    return sketch.linear(sketch.norm(sketch.call(floatops.select_tokens, x, 5, 7, shape=(2, WIDTH))), 10)


@cache
def calibrated(preset: str = "default") -> CalibratedGraph:
    """The model with its grids."""
    sketch = Sketch()
    return sketch.calibrated(network(sketch), preset=preset)


@cache
def integer_model(preset: str = "default") -> IntegerModel:
    """The model in integers."""
    graph = lower(calibrated(preset))
    metadata = Metadata("mixed", preset, "0", tiny.GRID, graph.output_scales, graph.output_shapes)
    return IntegerModel(graph, metadata)
