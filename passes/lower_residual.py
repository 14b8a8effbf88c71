"""Residual additions at 16 bits: both arms to one scale in 32 bits, added, rounded once.

    before   y: f32 = add(a, b)
    after    y: i16 = intvit::add(a, m_a, b, m_b, shift)

An arm that comes out of a linear is read as its exact int32 accumulators, so that nothing is rounded between the
product and the sum; a constant arm (a position embedding) becomes int16 at its own scale.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, fx

from intvit import floatops
from intvit.dialect.requantize import add
from intvit.grid import MAX_PRE_SHIFT, Grid, Role, dyadic, shift_for
from intvit.nodes import arguments
from intvit.passes.base import LoweringPass, Skip
from intvit.passes.lowering import Lowering

ARM_BITS = 14
INT16_SPAN = 1 << 15


@dataclass(frozen=True)
class Arm:
    """One arm of an addition: its integers (a node, or a constant) and their grid."""

    integers: fx.Node | Tensor
    grid: Grid


@dataclass(frozen=True)
class LowerResidual(LoweringPass):
    """Additions of two token tensors, or of one and a constant."""

    name: ClassVar[str] = "lower-residual"
    target: ClassVar[Any] = floatops.add

    def match(self, node: fx.Node, graph: Lowering) -> fx.Node | Skip:
        return node

    def rewrite(self, site: fx.Node, graph: Lowering) -> fx.Node:
        out = graph.grid(site, Role.WIDE)
        arms = [self._arm(argument, graph) for argument in arguments(site)]
        ratios = [arm.grid.scale / out.scale for arm in arms]
        shift = min(shift_for(ratio, INT16_SPAN, ARM_BITS) for ratio in ratios)
        fields: list[Any] = []
        for arm, ratio in zip(arms, ratios, strict=True):
            wide = arm.grid.dtype == "int32"
            number = dyadic(ratio, shift, bits=ARM_BITS, max_pre_shift=MAX_PRE_SHIFT if wide else 0)
            fields += [arm.integers, number.multiplier, number.pre_shift]
        return graph.write(graph.emit(add, *fields, shift), out)

    def _arm(self, argument: Any, graph: Lowering) -> Arm:
        if graph.is_constant(argument):
            value = graph.value(argument)
            grid = Grid.symmetric(value.abs().max().reshape(1), "int16")
            return Arm(grid.quantize(value), grid)
        exact = graph.stored(argument) is Role.ACCUMULATOR
        grid = graph.grid(argument, Role.ACCUMULATOR if exact else Role.WIDE)
        return Arm(graph.read(argument, grid), grid)
