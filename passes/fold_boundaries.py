"""Removes the boundaries between lowered operations: the last pass.

    quantize(dequantize(q, g), g)      ->  q
    quantize(dequantize(q, g1), g2)    ->  intvit::requantize(q)      ratio s1 / s2, zero point (o1 - o2) / s2
                                           by 16 bits without offset where that differs between channels
    output(dequantize(q, g))           ->  output(q)                  requantized to one scale where g has many

A `quantize` of a float operation's result is left alone, with the reason; `lower` then refuses the graph.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from intvit import boundary
from intvit.dialect.requantize import requantize
from intvit.errors import VerifyError
from intvit.grid import LIMITS, Grid, Role, dyadic_for
from intvit.nodes import arguments, outputs
from intvit.passes.base import Pass, Result, Skip
from intvit.passes.lowering import Lowering

MIDDLE_BITS = 6
"""Fraction of an int8 step in the 16 bits between two grids with offsets."""


@dataclass(frozen=True)
class FoldBoundaries(Pass):
    """Pairs of `dequantize` and `quantize`, and the outputs."""

    name: ClassVar[str] = "fold-boundaries"

    def apply(self, graph: Lowering) -> Result:
        result = Result()
        self._outputs(graph)
        for node in graph.find(boundary.quantize):
            source = arguments(node)[0]
            if source.target is not boundary.dequantize:
                result.skips.append(Skip(node.name, f"{source} is still float"))
                continue
            with graph.replacing(node) as replacement:
                replacement(self._folded(graph, source, node))
            result.rewritten += 1
        self._drop_output_boundaries(graph)
        graph.finish(self.name)
        return result

    def _folded(self, graph: Lowering, source: fx.Node, target: fx.Node) -> fx.Node:
        integers, *own = arguments(source)
        if [_name(a) for a in own] == [_name(a) for a in arguments(target)[1:]]:
            return integers  # type: ignore[no-any-return]
        before, after = grid_of(graph, source), grid_of(graph, target)
        if len(zero_points(before, after)) > 1:
            middle = Grid(before.scale / 2**MIDDLE_BITS, torch.zeros_like(before.scale), "int16")
            integers, before = self._requantized(graph, integers, before, middle, target), middle
        return self._requantized(graph, integers, before, after, target)

    def _requantized(self, graph: Lowering, integers: fx.Node, before: Grid, after: Grid, target: fx.Node) -> fx.Node:
        found = zero_points(before, after)
        if len(found) != 1:
            raise VerifyError(f"{target.name}: a requantization needs one zero point for all channels")
        (zero_point,) = found
        ratio = (before.scale / after.scale).expand(max(before.scale.numel(), after.scale.numel()))
        span = LIMITS[after.dtype][1] + 1 + abs(zero_point)
        number = dyadic_for(ratio, min(span, 1 << 20))
        fields = (number.multiplier, number.pre_shift, number.shift, zero_point, after.dtype)
        return graph.emit(requantize, integers, *fields)

    def _outputs(self, graph: Lowering) -> None:
        """An output whose integers have no single scale is read on the grid of its role."""
        output = graph.graph.output_node()
        args = []
        for value in outputs(graph.graph):
            if value.target is boundary.dequantize and graph.stored(value) is not Role.WIDE:
                with graph.graph.inserting_before(output):
                    grid = graph.grid(value, Role.OUTPUT)
                    value = graph.write(graph.read(value, grid), grid)
            args.append(value)
        output.args = (tuple(args),)

    def _drop_output_boundaries(self, graph: Lowering) -> None:
        output = graph.graph.output_node()
        scales, args = [], []
        for value in outputs(graph.graph):
            if value.target is boundary.dequantize:
                scales.append(float(grid_of(graph, value).scale))
                value = arguments(value)[0]
            args.append(value)
        output.args = (tuple(args),)
        graph.output_scales = tuple(scales) or graph.output_scales


def zero_points(before: Grid, after: Grid) -> set[int]:
    """What is added to integers that move from one grid to another, over all channels."""
    return {int(z) for z in torch.round((before.offset - after.offset) / after.scale)}


def grid_of(graph: Lowering, node: fx.Node) -> Grid:
    """The grid of a boundary node."""
    _, scale, offset, dtype = arguments(node)
    return Grid(graph.value(scale), graph.value(offset), str(dtype))


def _name(argument: Any) -> Any:
    return argument.target if isinstance(argument, fx.Node) else argument
