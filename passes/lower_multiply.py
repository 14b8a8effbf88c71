"""Products by elements, of two tensors of 16 bits, or of one and a constant.

    before   y: f32 = multiply(a, b)
    after    q = intvit::multiply(a: i16, b: i16, m, p, shift, dtype)       m / 2^(p + shift) = s_a s_b / s_y

`b` may have one token for all of `a`. Where it is a constant it becomes int16 with a scale for each channel, which
costs nothing, since the dyadic number may have one.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, fx

from intvit import floatops
from intvit.dialect.multiply import multiply
from intvit.grid import Grid, Role, dyadic_for
from intvit.nodes import arguments
from intvit.passes.base import LoweringPass, Skip
from intvit.passes.lowering import Lowering

SPAN = {"int8": 1 << 8, "int16": 1 << 15}
MOST_PRE_SHIFT = 15
"""Behind it the largest product has 16 bits."""


@dataclass(frozen=True)
class LowerMultiply(LoweringPass):
    """Gates, rotary embeddings and other products by elements."""

    name: ClassVar[str] = "lower-multiply"
    target: ClassVar[Any] = floatops.multiply

    def match(self, node: fx.Node, graph: Lowering) -> fx.Node | Skip:
        if graph.is_constant(arguments(node)[0]):
            return Skip(node.name, "its first factor is constant")
        return node

    def rewrite(self, site: fx.Node, graph: Lowering) -> fx.Node:
        a, b = arguments(site)
        grid, out = graph.grid(a, Role.WIDE), graph.stored_grid(site)
        factor, other = _factor(b, graph)
        ratio = dyadic_for(grid.scale * other.scale / out.scale, SPAN[out.dtype], MOST_PRE_SHIFT)
        numbers = (ratio.multiplier, ratio.pre_shift, ratio.shift)
        return graph.write(graph.emit(multiply, graph.read(a, grid), factor, *numbers, out.dtype), out)


def _factor(b: fx.Node, graph: Lowering) -> tuple[fx.Node | Tensor, Grid]:
    """The second factor's integers, and their grid."""
    if not graph.is_constant(b):
        grid = graph.grid(b, Role.WIDE)
        return graph.read(b, grid), grid
    value = graph.value(b)
    grid = Grid.symmetric(value.abs().amax(0), "int16")
    return grid.quantize(value), grid
