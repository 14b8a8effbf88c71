"""A function of each element as 256 lines between 257 knots on 16-bit integers.

    before   y: f32 = pointwise(x, f)
    after    q = intvit::activation(x: i16, T: i16 [257], shift, dtype)

With input scale s and output `s' q + o`:

    T[i] = round((f(256 (i - 128) s) - o) / s' · 2^(shift - 8))      8 bits: shift 15, else shift 8

in float64, when the graph is lowered. Where f is not finite at a knot (a logarithm left of 0), the nearest knot at
which it is stands for it.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from intvit import floatops
from intvit.dialect.activation import FIRST, KNOTS, STEP_BITS, activation
from intvit.dialect.arithmetic import INT16
from intvit.grid import Grid, Role
from intvit.nodes import arguments
from intvit.passes.base import LoweringPass, Skip
from intvit.passes.lowering import Lowering
from intvit.pointwise import Function, evaluate

SHIFTS = {"int8": 15, "int16": STEP_BITS}


@dataclass(frozen=True)
class LowerActivation(LoweringPass):
    """Any function of one number, but GELU."""

    name: ClassVar[str] = "lower-activation"
    target: ClassVar[Any] = floatops.pointwise

    def match(self, node: fx.Node, graph: Lowering) -> fx.Node | Skip:
        x, function = arguments(node)
        if graph.is_constant(x):
            return Skip(node.name, "its operand is constant")
        if not bool(torch.isfinite(_values(function, graph.grid(x, Role.WIDE))).any()):
            return Skip(node.name, "its function is finite nowhere in the calibrated range")
        return node

    def rewrite(self, site: fx.Node, graph: Lowering) -> fx.Node:
        x, function = arguments(site)
        grid, out = graph.grid(x, Role.WIDE), graph.stored_grid(site)
        table = table_of(function, grid, out)
        return graph.write(graph.emit(activation, graph.read(x, grid), table, SHIFTS[out.dtype], out.dtype), out)


def table_of(function: Function, grid: Grid, out: Grid) -> Tensor:
    """int16 `[257]`: a function of integers on `grid`, one scale, in steps of `out`, one scale."""
    steps = (_filled(_values(function, grid)) - out.offset) / out.scale
    return torch.round(steps * 2 ** (SHIFTS[out.dtype] - STEP_BITS)).clamp(*INT16).to(torch.int16)


def finite_knots(function: Function, grid: Grid) -> Tensor:
    """The knots at which the function is finite, float64."""
    return _knots(grid)[torch.isfinite(_values(function, grid))]


def _knots(grid: Grid) -> Tensor:
    """float64 `[257]`."""
    places: Tensor = (torch.arange(KNOTS, dtype=torch.float64) + FIRST) * 2**STEP_BITS * grid.scale
    return places + grid.offset


def _values(function: Function, grid: Grid) -> Tensor:
    """The function at the knots, float64 `[257]`."""
    return evaluate(function, _knots(grid)).expand(KNOTS)


def _filled(values: Tensor) -> Tensor:
    """What is not finite as the nearest value that is."""
    finite = torch.nonzero(torch.isfinite(values)).flatten()
    nearest = (torch.arange(KNOTS)[:, None] - finite).abs().argmin(1)
    return values[finite[nearest]]
