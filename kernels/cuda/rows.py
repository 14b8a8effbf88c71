"""Kernels that go through rows eight neighbours at a time, a thread for each: how rows are dealt out to blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.tirx.script import builder as T

from intvit.kernels.arith import Expr
from intvit.kernels.cuda.arith import let, quotient, remainder
from intvit.kernels.cuda.fragments import NEIGHBOURS
from intvit.kernels.cuda.launch import Block

THREADS = 128


@dataclass(frozen=True)
class Rows:
    """Rows of `columns` elements: some rows a block, or some blocks a row."""

    columns: int

    @property
    def items(self) -> int:
        """Groups of neighbours in a row."""
        return -(-self.columns // NEIGHBOURS)

    @property
    def per(self) -> int:
        """Rows of a block."""
        return max(THREADS // self.items, 1)

    @property
    def times(self) -> int:
        """Blocks of a row."""
        return -(-self.items // THREADS)

    def visit(self, block: Block, item: Callable[[Expr, Expr], None]) -> None:
        """`item(row, first column)` for this thread, if there is one."""
        place = let(remainder(block.index, self.times) * THREADS + block.thread)
        row = let(quotient(block.index, self.times) * self.per + quotient(place, self.items))
        column = let(remainder(place, self.items) * NEIGHBOURS)
        with T.If(place < self.items * self.per), T.Then(), T.If(row < block.rows), T.Then():
            item(row, column)
