"""Sizes of an attention on a CPU, and how it is cut into tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tvm import tirx

from intvit.kernels.arith import Expr, let
from intvit.kernels.cut import RULE, Cut
from intvit.kernels.isa import Isa

Line = Callable[[Expr], Expr]  # the row of the tensors that holds query `t` of a block
Stored = Callable[[Expr, Expr], Expr]  # what is kept of the sums of a block with key `s`

TASKS = 6  # least tasks of one batch element; each packs its keys and values again
MORE_SPLITS = 4  # than the least of a head, that are tried


@dataclass(frozen=True)
class Heads:
    """Sizes of an attention, and how it is cut up."""

    heads: int
    queries: int
    keys: int
    head_size: int
    value_size: int
    isa: Isa
    cut: Cut = RULE
    windows: int = 1  # of a batch element; queries and keys are those of one

    @property
    def multiply_adds(self) -> int:
        """Of one batch element, in both products."""
        return self.windows * self.heads * self.queries * self.keys * (self.head_size + self.value_size)

    @property
    def blocks(self) -> int:
        """Blocks of queries of a head."""
        return -(-self.queries // self.isa.lanes)

    @property
    def splits(self) -> int:
        """Tasks of a head: as cut, else enough in all, and least work for the busier of two threads."""
        return self.cut.splits or min(self._choices, key=self._slowest)

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """Cuts that are worth measuring, the rule first."""
        rule = replace(self, cut=RULE).splits
        return (RULE, *(Cut(None, splits) for splits in range(1, self._choices.stop) if splits != rule))

    @property
    def _choices(self) -> range:
        least = min(self.blocks, -(-TASKS // (self.heads * self.windows)))
        return range(least, min(self.blocks, least + MORE_SPLITS) + 1)

    def _slowest(self, splits: int) -> int:
        """Work of the busier of two threads in fifths of a block: packing costs a task about one (in vectors)."""
        tasks = [(i + 1) * self.blocks // splits - i * self.blocks // splits for i in range(splits)]
        tasks *= self.heads * self.windows
        half = -(-len(tasks) // 2)
        return max(5 * sum(part) + len(part) for part in (tasks[:half], tasks[half:]))

    def key_row(self, b: Expr, s: Expr) -> Expr:
        """The row of the tensors that holds key `s`; keys past the end repeat the last."""
        return let(b * self.keys + tirx.min(s, self.keys - 1))
