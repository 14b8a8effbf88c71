"""8-bit integers on fewer levels, as a stage of an epilogue: `y = T[x + 128]` (`intvit.dialect.levels`).

The table is int16, for the permutation (`vpermi2w`) that looks whole vectors up on AVX-512 (`activation.permuted`);
elsewhere it is read lane by lane.
"""

from __future__ import annotations

from dataclasses import dataclass

from intvit.kernels.activation import permuted, permutes
from intvit.kernels.arith import Expr, lanes_of, widen
from intvit.kernels.epilogue import Fetch, Operand
from intvit.kernels.function import kept
from intvit.kernels.int16 import INT16, INT32
from intvit.kernels.isa import Isa

ENTRIES = 256
FIRST = -128


@dataclass(frozen=True)
class Levels:
    """The level of an 8-bit value."""

    def operands(self) -> tuple[Operand, ...]:
        return (Operand("levels", INT16, "table", ENTRIES),)

    def rounding(self, fetch: Fetch) -> Expr:
        return 0

    def apply(self, x: Expr, fetch: Fetch, isa: Isa, *, rounded: bool) -> Expr:
        table = fetch("levels")
        if permutes(isa, lanes_of(x)):
            return permuted(table, kept(widen(x, INT16)))
        return table[kept(widen(x, INT32) - FIRST)]
