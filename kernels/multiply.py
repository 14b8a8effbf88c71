"""The product with another tensor as a stage of an epilogue (`intvit.dialect.multiply`).

    y = clamp(rshift(sat16(rshift(x * arm[r, c], pre[c])) * mul[c], shift), low, high)

`x` and the arm are int16 lanes: their product fits 32 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from intvit.kernels.arith import Expr, half_unit, widen
from intvit.kernels.epilogue import (
    Fetch,
    Operand,
    Per,
    dyadic_operands,
    multiplier,
    pre_shift,
    product32,
    requantized,
    shifted,
)
from intvit.kernels.int16 import INT16, weighted
from intvit.kernels.isa import Isa

MOST_PRE_SHIFT = 15
"""Up to which half a unit fits 16 bits."""


@dataclass(frozen=True)
class Multiply:
    """By an arm with a value for each row (`per="row"`), each of `tokens` tokens, or each image of `tokens` rows."""

    shift: int
    low: int = -128
    high: int = 127
    pre: int | None = None
    mul: int | None = None
    per: Per = "row"
    tokens: int = 0

    def operands(self) -> tuple[Operand, ...]:
        return (*dyadic_operands(self.pre, self.mul), Operand("arm", INT16, self.per, self.tokens))

    def rounding(self, fetch: Fetch) -> Expr:
        return 0

    def apply(self, x: Expr, fetch: Fetch, isa: Isa, *, rounded: bool) -> Expr:
        x, arm = widen(x, INT16), fetch("arm")
        if self.pre:
            half = half_unit(self.pre)
            one, addend, rest = (1, half, 0) if self.pre <= MOST_PRE_SHIFT else (0, 0, half)
            a = weighted(x, arm, one, addend, rest, self.pre, isa)
        else:
            a = shifted(product32(x, arm), pre_shift(self.pre, fetch), isa)
        return requantized(a, multiplier(self.mul, fetch), self.shift, 0, (self.low, self.high), isa)
