"""Softmax by itself: Shiftmax of rows to weights in Q15.

    before   y: f32 = softmax(x, scale)
    after    q: i16 = intvit::softmax(x, m, p, shift, bits)       y = 2^-15 q, m / 2^(p + shift) = s_x scale log2(e) 2^8

The sums of a product are read as they are, where they have one scale: nothing is rounded between the two. Anything else
is read as int16.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from intvit import floatops
from intvit.dialect.attention import LOG2_FRACTION
from intvit.dialect.softmax import softmax, softmax_bits
from intvit.grid import Grid, Role, dyadic_for
from intvit.nodes import arguments
from intvit.passes.base import LoweringPass, Skip
from intvit.passes.lowering import Lowering

LOG2_SPAN = 1 << 13
"""Scores this far below the maximum, in log2 units with 8 fraction bits, weigh nothing."""


@dataclass(frozen=True)
class LowerSoftmax(LoweringPass):
    """Softmax over the channels of a tensor."""

    name: ClassVar[str] = "lower-softmax"
    target: ClassVar[Any] = floatops.softmax

    def match(self, node: fx.Node, graph: Lowering) -> fx.Node | Skip:
        x, scale = arguments(node)
        if graph.is_constant(x):
            return Skip(node.name, "its operand is constant")
        return node if scale > 0 else Skip(node.name, f"its scale is {scale}, not positive")

    def rewrite(self, site: fx.Node, graph: Lowering) -> fx.Node:
        x, scale = arguments(site)
        grid = _grid_read(x, graph)
        number = dyadic_for(grid.scale * scale * math.log2(math.e) * 2**LOG2_FRACTION, LOG2_SPAN)
        bits = softmax_bits(graph.origin(site).meta["shape"][-1])
        weights = graph.emit(softmax, graph.read(x, grid), number.multiplier, number.pre_shift, number.shift, bits)
        return graph.write(weights, graph.stored_grid(site))


def _grid_read(x: fx.Node, graph: Lowering) -> Grid:
    """The grid on which the operand is read: that of its sums where they have one scale, else int16."""
    if graph.stored(x) is Role.ACCUMULATOR:
        sums = graph.grid(x, Role.ACCUMULATOR)
        if sums.scale.numel() == 1:
            return sums
    return graph.grid(x, Role.WIDE)
