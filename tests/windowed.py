"""A small convolutional model, built from canonical float operations: convolutions and pools of every kind."""

from collections.abc import Callable
from functools import cache
from typing import Any

import tiny
import torch
from torch import fx, nn

from intvit import floatops
from intvit.calibrate import calibrate
from intvit.geometry import Geometry
from intvit.grids import PRESETS
from intvit.integer_model import IntegerModel
from intvit.metadata import Metadata
from intvit.passes.pipeline import lower
from intvit.stages import CalibratedGraph, FloatGraph

WIDTH = 16
SAME = (1, 1, 1, 1)


class Sketch:
    """A canonical graph of feature maps, a node for each call; `pixels` are the rows of its image."""

    def __init__(self, shape: tuple[int, int, int] = tiny.SHAPE) -> None:
        self.random = torch.Generator().manual_seed(1)
        self.shape = shape
        self.root, self.graph = nn.Module(), fx.Graph()
        channels, height, width = shape
        image = self.graph.placeholder("image")
        self.pixels = self.call(floatops.patchify, image, 1, 1, shape=(height * width, channels))

    def call(self, target: Callable[..., Any], *args: Any, shape: tuple[int, int]) -> fx.Node:
        node = self.graph.call_function(target, args)
        node.meta.update(path=f"layer.{node.name}", shape=shape)
        return node

    def constant(self, *shape: int, scale: float = 1.0, mean: float = 0.0) -> fx.Node:
        name = f"c{len(list(self.root.buffers()))}"
        self.root.register_buffer(name, torch.randn(*shape, generator=self.random) * scale + mean)
        return self.graph.get_attr(name)

    def linear(self, x: fx.Node, n: int = WIDTH) -> fx.Node:
        tokens, k = x.meta["shape"]
        return self.call(floatops.linear, x, self.constant(n, k, scale=k**-0.5), self.constant(n), shape=(tokens, n))

    def gelu(self, x: fx.Node) -> fx.Node:
        return self.call(floatops.gelu, x, shape=x.meta["shape"])

    def norm(self, x: fx.Node) -> fx.Node:
        n = x.meta["shape"][1]
        parameters = self.constant(n, scale=0.3, mean=1.0), self.constant(n)
        return self.call(floatops.layer_norm, x, *parameters, 1e-6, shape=x.meta["shape"])

    def add(self, a: fx.Node, b: fx.Node) -> fx.Node:
        return self.call(floatops.add, a, b, shape=a.meta["shape"])

    def convolution(
        self, x: fx.Node, size: int, kernel: int = 3, stride: int = 1, padding: tuple[int, ...] = SAME, n: int = WIDTH
    ) -> fx.Node:
        """An `unfold` and its `linear`."""
        return self.linear(self.unfold(x, size, kernel, stride, padding), n)

    def unfold(
        self, x: fx.Node, size: int, kernel: int = 3, stride: int = 1, padding: tuple[int, ...] = SAME
    ) -> fx.Node:
        channels, windows = x.meta["shape"][1], self._windows(size, kernel, stride, padding)
        shape = (self._tokens(*windows), kernel * kernel * channels)
        return self.call(floatops.unfold, x, *windows, (1, 1), shape=shape)

    def depthwise(
        self, x: fx.Node, size: int, kernel: int = 3, stride: int = 1, padding: tuple[int, ...] = SAME
    ) -> fx.Node:
        channels, windows = x.meta["shape"][1], self._windows(size, kernel, stride, padding)
        parameters = self.constant(kernel * kernel, channels, scale=1 / kernel), self.constant(channels)
        shape = (self._tokens(*windows), channels)
        return self.call(floatops.depthwise, x, *parameters, *windows, (1, 1), shape=shape)

    def pool(
        self, x: fx.Node, kind: str, size: int, kernel: int, stride: int = 1, padding: tuple[int, ...] = (0, 0, 0, 0)
    ) -> fx.Node:
        windows = self._windows(size, kernel, stride, padding)
        return self.call(floatops.pool, x, *windows, kind, shape=(self._tokens(*windows), x.meta["shape"][1]))

    def _windows(self, size: int, kernel: int, stride: int, padding: tuple[int, ...]) -> tuple[Any, ...]:
        return (size, size), (kernel, kernel), (stride, stride), padding

    def _tokens(self, size: Any, kernel: Any, stride: Any, padding: Any) -> int:
        return Geometry.of(size, kernel, stride, padding).tokens

    def calibrated(self, *outputs: fx.Node, preset: str = "default") -> CalibratedGraph:
        """Its grids, from random images."""
        self.graph.output(outputs)
        shapes = tuple(tuple(node.meta["shape"]) for node in outputs)
        source = FloatGraph.of(self.root, self.graph, self.shape, shapes)
        return calibrate(source, [tiny.pixels(32)], tiny.GRID, PRESETS[preset])


def network(sketch: Sketch) -> fx.Node:
    """A stem, blocks of convolutions with and without a residual, pools between them, and ten classes."""
    stem = sketch.convolution(sketch.pixels, 32, stride=2)
    spatial = sketch.gelu(sketch.depthwise(sketch.gelu(stem), 16))
    x = sketch.pool(sketch.add(stem, sketch.linear(spatial)), "mean", 16, 2, 2)
    both = sketch.unfold(sketch.norm(x), 8)
    x = sketch.add(sketch.linear(both), sketch.add(sketch.linear(both), x))
    x = sketch.add(x, sketch.depthwise(sketch.norm(x), 8, 5, 1, (2, 2, 2, 2)))
    x = sketch.pool(x, "max", 8, 3, 2, SAME)
    x = sketch.add(sketch.depthwise(sketch.norm(x), 4, 1, 1, (0, 0, 0, 0)), x)
    return sketch.linear(sketch.norm(sketch.pool(x, "mean", 4, 4)), 10)


@cache
def calibrated(preset: str = "default") -> CalibratedGraph:
    """The model with its grids."""
    sketch = Sketch()
    return sketch.calibrated(network(sketch), preset=preset)


@cache
def integer_model(preset: str = "default") -> IntegerModel:
    """The model in integers."""
    graph = lower(calibrated(preset))
    metadata = Metadata("windowed", preset, "0", tiny.GRID, graph.output_scales, graph.output_shapes)
    return IntegerModel(graph, metadata)
