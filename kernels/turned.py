"""Computed rows as right operands of the dot product: turned, so that a vector has a step of many rows, a row a lane.

A step takes `group` neighbours of a row, which are one number of 32 bits (of 16 where `group` is 1); squares of such
numbers are turned in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, let, load, store
from intvit.kernels.function import scratch
from intvit.kernels.interleave import transposed
from intvit.kernels.isa import Isa
from intvit.kernels.pack import round_up
from intvit.kernels.tile import padded_depth, widen_row


def step_dtype(isa: Isa) -> str:
    """A row's part of a step, as turned rows lie in memory."""
    return isa.signed.element if isa.group == 1 else "int32"


def turn(rows: Buffer, steps: int, turned: Buffer, place: Callable[[Expr], Sequence[Expr]], isa: Isa) -> None:
    """Turns a row for each lane, of whole squares of steps; `place(step)` is where a vector lies in `turned`."""
    lanes, group = isa.lanes, isa.group
    with T.serial(steps // lanes) as square:
        first = let(square * lanes)
        parts = [load(rows, (t, first * group), lanes * group) for t in range(lanes)]
        columns = transposed([let(tirx.reinterpret(f"{step_dtype(isa)}x{lanes}", part)) for part in parts])
        for s, column in enumerate(columns):
            store(turned, place(first + s), column)


def turned_rows(x: Buffer, line: Callable[[Expr], Expr], column: Expr, size: int, isa: Isa) -> Buffer:
    """A row of `x` for each lane, `size` elements from `column` on: `[steps, lanes]` of `step_dtype`, whole squares."""
    steps = round_up(padded_depth(size, isa.group) // isa.group, isa.lanes)
    rows = scratch((isa.lanes, steps * isa.group), isa.signed.element)
    with T.serial(isa.lanes) as t:
        widen_row(x, (let(line(t)), column), rows, t, size, isa.signed)
    turned = scratch((steps, isa.lanes), step_dtype(isa))
    turn(rows, steps, turned, lambda s: (s, 0), isa)
    return turned


def right_operand(turned: Buffer, place: Sequence[Expr], isa: Isa) -> Expr:
    """A vector of turned rows as the dot product reads it."""
    return tirx.reinterpret(f"{isa.signed.element}x{isa.lanes * isa.group}", load(turned, place, isa.lanes))


def add_zeros(sums: Buffer, column: Callable[[Expr], Expr], steps: int, isa: Isa) -> None:
    """Adds what left operands that stand for 0 add to a vector of sums: `isa.zero` times its right operands."""
    zeros = tirx.const(isa.zero, f"{isa.element}x{isa.lanes * isa.group}")
    with T.serial(steps) as s:
        store(sums, (0,), isa.dot(load(sums, (0,), isa.lanes), zeros, column(s)))
