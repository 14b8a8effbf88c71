"""Quotients of two computed tensors, as linear attention has them: sums of weighted values by sums of weights.

    before   y: f32 = divide(a, b)
    after    q = intvit::divide(a: i16, b: i16, m, p, shift, dtype)       m 2^15 / 2^(p + shift) = s_a / (s_b s_y)

Each column of `b` divides a block of neighbouring channels of `a`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from intvit import floatops
from intvit.dialect.divide import MOST_PRE_SHIFT, QUOTIENT_BITS, divide
from intvit.grid import Role, dyadic_for
from intvit.nodes import arguments
from intvit.passes.base import LoweringPass, Skip
from intvit.passes.lowering import Lowering

SPAN = {"int8": 1 << 8, "int16": 1 << 15}


@dataclass(frozen=True)
class LowerDivide(LoweringPass):
    """Divisions whose divisor depends on the image."""

    name: ClassVar[str] = "lower-divide"
    target: ClassVar[Any] = floatops.divide

    def match(self, node: fx.Node, graph: Lowering) -> fx.Node | Skip:
        if any(graph.is_constant(operand) for operand in arguments(node)):
            return Skip(node.name, "one of its operands is constant")
        return node

    def rewrite(self, site: fx.Node, graph: Lowering) -> fx.Node:
        a, b = arguments(site)
        grids, out = [graph.grid(x, Role.WIDE) for x in (a, b)], graph.stored_grid(site)
        ratio = grids[0].scale / (grids[1].scale * out.scale)
        number = dyadic_for(ratio / 2**QUOTIENT_BITS, SPAN[out.dtype], MOST_PRE_SHIFT)
        operands = [graph.read(x, grid) for x, grid in zip((a, b), grids, strict=True)]
        fields = (number.multiplier, number.pre_shift, number.shift, out.dtype)
        return graph.write(graph.emit(divide, *operands, *fields), out)
