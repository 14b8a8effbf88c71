"""A small model with activations and products by elements of every kind, built from canonical float operations."""

from functools import cache
from typing import Any

import tiny
import torch
from torch import fx, nn

from intvit import floatops
from intvit.calibrate import calibrate
from intvit.grids import PRESETS
from intvit.input_grid import InputGrid
from intvit.integer_model import IntegerModel
from intvit.metadata import Metadata
from intvit.passes.pipeline import lower
from intvit.pointwise import Function
from intvit.stages import CalibratedGraph, FloatGraph

SILU: Function = (("sigmoid", "x"), ("mul", "x", "0"))
SIGMOID: Function = (("sigmoid", "x"),)
HARDSWISH: Function = (("hardswish", "x"),)


class Sketch:
    """A canonical graph: an image in square patches, embedded, then what is added to it."""

    def __init__(self, grid: InputGrid, patch: int, channels: int) -> None:
        self.random = torch.Generator().manual_seed(1)
        self.grid, self.channels = grid, channels
        colours, height, width = grid.shape
        self.count, columns = (height // patch) * (width // patch), colours * patch * patch
        self.root, self.graph = nn.Module(), fx.Graph()
        image = self.graph.placeholder("image")
        self.patches = self.call(floatops.patchify, image, patch, patch, channels=columns)
        self.tokens = self.linear(self.patches, columns)

    def call(self, target: Any, *args: Any, tokens: int | None = None, channels: int | None = None) -> fx.Node:
        """An operation, whose result has as many tokens and channels as the embedded image where nothing is said."""
        node = self.graph.call_function(target, args)
        node.meta.update(path=f"layer.{node.name}", shape=(tokens or self.count, channels or self.channels))
        return node

    def constant(self, *shape: int) -> fx.Node:
        name = f"c{len(list(self.root.buffers()))}"
        self.root.register_buffer(name, torch.randn(*shape, generator=self.random) * shape[-1] ** -0.5)
        return self.graph.get_attr(name)

    def linear(self, x: fx.Node, k: int | None = None, n: int | None = None, tokens: int | None = None) -> fx.Node:
        n = n or self.channels
        weight, bias = self.constant(n, k or self.channels), self.constant(n)
        return self.call(floatops.linear, x, weight, bias, tokens=tokens, channels=n)

    def norm(self, x: fx.Node) -> fx.Node:
        return self.call(floatops.layer_norm, x, self.constant(self.channels), self.constant(self.channels), 1e-6)

    def gate(self, tokens: fx.Node, function: Function = SILU) -> fx.Node:
        """SwiGLU, but for its last product."""
        active = self.call(floatops.pointwise, self.linear(tokens), function)
        return self.call(floatops.multiply, active, self.linear(tokens))

    def first(self, x: fx.Node) -> fx.Node:
        """A linear of one token."""
        return self.linear(self.call(floatops.select_tokens, x, 0, 1, tokens=1), tokens=1)

    def calibrated(self, *outputs: fx.Node, images: Any) -> CalibratedGraph:
        self.graph.output(outputs)
        shapes = tuple(tuple(node.meta["shape"]) for node in outputs)
        return calibrate(
            FloatGraph.of(self.root, self.graph, self.grid.shape, shapes), [images], self.grid, PRESETS["default"]
        )


@cache
def calibrated() -> CalibratedGraph:
    """Gated units, a gate of one token for all of an image, constant factors, and 8 and 16 bits behind each."""
    s = Sketch(tiny.GRID, 8, 24)
    x = s.call(floatops.add, s.tokens, s.linear(s.gate(s.norm(s.tokens))))
    excited = s.call(floatops.pointwise, s.first(x), SIGMOID, tokens=1)
    x = s.call(floatops.add, x, s.call(floatops.multiply, x, excited))
    turned = s.call(floatops.multiply, s.linear(s.norm(x)), s.constant(s.count, s.channels))
    scaled = s.call(floatops.multiply, turned, s.constant(1, s.channels))
    x = s.call(floatops.add, x, s.linear(scaled))
    active = s.call(floatops.pointwise, s.linear(s.norm(x), n=40), HARDSWISH, channels=40)
    x = s.call(floatops.add, x, s.linear(active, 40))
    square = s.call(floatops.multiply, x, x)
    return s.calibrated(s.linear(s.norm(x), n=10), s.gate(x, HARDSWISH), square, images=tiny.pixels(32))


@cache
def integer_model() -> IntegerModel:
    """The same in integers."""
    graph = lower(calibrated())
    return IntegerModel(graph, Metadata("gated", "default", "0", tiny.GRID, graph.output_scales, graph.output_shapes))
