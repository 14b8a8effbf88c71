"""The weights in training: float parameters, and the integer graph that they make."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from intvit import floatops
from intvit.finetune.straight import WEIGHTED, StraightThrough, Value, straight
from intvit.grid import Grid, Role
from intvit.nodes import arguments
from intvit.noise import Written, results
from intvit.passes.pipeline import lower_with_layers
from intvit.stages import CalibratedGraph, FloatGraph, IntGraph, copy_of

LEAST_REACH = 2.0**-10
"""Of a row's largest weight, against the first one: rows of zeros keep a grid."""


class Student:
    """A calibrated graph whose float constants are trained; its own copy, and the grids of its activations stay.

    Each row of weights keeps its number of steps: the grid of its sums follows its largest weight.
    """

    def __init__(self, calibrated: CalibratedGraph) -> None:
        source = _with_own_constants(calibrated.source)
        self._start = replace(calibrated, source=source)
        self._reaches = {node.name: self._reach(node) for node in _weighted(source)}
        self.parameters = {
            name: nn.Parameter(buffer)  # the same memory: an update of the parameter is one of the graph
            for name, buffer in source.module.named_buffers()
            if buffer.is_floating_point()
        }

    def weights(self) -> set[str]:
        """The names of the weights of products."""
        return {str(arguments(node)[1].target) for node in _weighted(self._start.source)}

    @torch.no_grad()
    def calibrated(self) -> CalibratedGraph:
        """The graph with its weights as they are now, and as they will be: it holds them, not a copy."""
        grids = dict(self._start.grids)
        for node in _weighted(self._start.source):
            rows, first, now = self._start.grid(node, Role.ACCUMULATOR), self._reaches[node.name], self._reach(node)
            ratio = torch.where(first > 0, now / first, 1.0).clamp(min=LEAST_REACH)
            grids[node.name, Role.ACCUMULATOR] = replace(rows, scale=rows.scale * ratio)
        return replace(self._start, grids=grids)

    @torch.no_grad()
    def lowered(self) -> "Lowered":
        """Both graphs with the weights as they are now."""
        calibrated = self.calibrated()
        return Lowered(calibrated, self.parameters, *lower_with_layers(calibrated))

    def _reach(self, node: fx.Node) -> Tensor:
        """The largest weight of each row, in steps of the input's grid; float64 `[N]`."""
        source, weight = arguments(node)[:2]
        exact = self._start.source.module.get_buffer(weight.target).double()
        steps = (exact * self._start.grid(source, Role.PRODUCT).scale).abs()
        return steps.amax(0 if node.target is floatops.depthwise else 1)


@dataclass(frozen=True)
class Lowered:
    """The weights of a moment: the float graph, whose constants are `parameters`, and the integer graph."""

    calibrated: CalibratedGraph
    parameters: Mapping[str, Tensor]
    graph: IntGraph
    written: Mapping[str, Written]

    def __call__(self, pixels: Tensor, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the integer graph, dequantized, of uint8 `pixels`; `images` are the same, normalized."""
        integers = results(self.graph.module, pixels)
        values = {
            entry.origin.name: Value(entry.grid.dequantize(integers[name]), entry.grid)
            for name, entry in self.written.items()
            if name in integers
        }
        outputs = StraightThrough(self.calibrated, self.parameters, values).run(images)
        found = zip(outputs, integers[self.graph.module.graph.output_node().name], strict=True)
        scales = zip(self.graph.output_scales, self.graph.output_shapes, strict=True)
        return tuple(
            _output(x, q, scale).reshape(len(pixels), *shape)
            for (x, q), (scale, shape) in zip(found, scales, strict=True)
        )


def digest(graph: IntGraph) -> str:
    """SHA-256 of the integers and scales of a graph."""
    found = hashlib.sha256(repr(graph.output_scales).encode())
    for name, tensor in sorted(graph.module.named_buffers()):
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def _output(x: Tensor, integers: Tensor, scale: float) -> Tensor:
    """The float32 that integers of an output stand for, as every integer model gives it."""
    dtype = str(integers.dtype).removeprefix("torch.")
    grid = Grid(torch.tensor([scale], dtype=torch.float64), torch.zeros(1, dtype=torch.float64), dtype)
    return straight(x, grid.dequantize(integers), grid)


def _with_own_constants(graph: FloatGraph) -> FloatGraph:
    module = copy_of(graph.module)
    for name, buffer in list(module.named_buffers()):
        module.register_buffer(name, buffer.detach().clone(memory_format=torch.contiguous_format))
    return replace(graph, module=module)


def _weighted(graph: FloatGraph) -> list[fx.Node]:
    """Products with constant weights."""
    return [n for n in graph.module.graph.nodes if n.target in WEIGHTED and arguments(n)[1].op == "get_attr"]
