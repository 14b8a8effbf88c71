"""Means and largest values of windows; a largest value is on the grid of the input, a mean on a finer one.

    before   y: f32 = pool(x, size, kernel, stride, padding, kind)
    after    q: i16 = intvit::pool(q_x, ..., kind, multiplier, pre_shift, shift)    s_x / (s_y n) ~ m / 2^(pre + shift)

A mean has a dyadic number for each of its windows, by the pixels that they hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from intvit import floatops
from intvit.dialect.windows import pool
from intvit.geometry import Geometry
from intvit.grid import Dyadic, Role
from intvit.nodes import arguments
from intvit.passes.base import LoweringPass, Skip
from intvit.passes.lowering import Lowering

SHIFT = 14
HEADROOM = {"int8": 5, "int16": 0}
"""Bits by which the sum of an integer's windows may be shifted less and still fit 16 bits, and a multiplier have 9."""
MOST = (1 << 15) - 1


@dataclass(frozen=True)
class LowerPool(LoweringPass):
    """Pooling."""

    name: ClassVar[str] = "lower-pool"
    target: ClassVar[Any] = floatops.pool

    def match(self, node: fx.Node, graph: Lowering) -> fx.Node | Skip:
        return node

    def rewrite(self, site: fx.Node, graph: Lowering) -> fx.Node:
        x, size, kernel, stride, padding, kind = arguments(site)
        grid, out = graph.grid(x, Role.WIDE), graph.stored_grid(site)
        lists = [list(values) for values in (size, kernel, stride, padding)]
        counts = Geometry.of(*lists).counts if kind == "mean" else (1,)
        number = averaging(counts, grid.dtype, float(grid.scale / out.scale) if kind == "mean" else 1.0)
        fields = (number.multiplier, number.pre_shift, number.shift, grid.dtype)
        return graph.write(graph.emit(pool, graph.read(x, grid), *lists, kind, *fields), out)


def averaging(counts: Sequence[int], dtype: str, finer: float = 1.0) -> Dyadic:
    """What sums of `counts` integers of a type are multiplied by for their mean; one number where all are alike.

    `finer`: steps of the mean's grid in one of the integers', at most the fewest pixels of a window.
    """
    alike = len(set(counts)) == 1
    pixels = torch.tensor(counts[:1] if alike else counts, dtype=torch.float64) / finer
    pre_shift = (pixels.log2().ceil() - HEADROOM[dtype]).clamp(min=0)
    multiplier = torch.round(torch.exp2(pre_shift + SHIFT) / pixels).clamp(max=MOST)
    return Dyadic(multiplier.to(torch.int32), pre_shift.to(torch.int32), SHIFT)
