"""ShiftGELU as a stage of an epilogue: no row maximum, six rounding 16-bit multiplies (`intvit.dialect.gelu`).

    GELU(x) = max(x, 0) - u p(u)^4,   u = min(|x| << (13 - fraction), 2^15 - 1) in Q15 (a quarter of |x|)
    y = clamp(rshift(sat16(rshift(GELU, pre[c])) * mul[c], shift) + zero_point, -128, 127)

`x` is int32 lanes within int16; every product is of two 16-bit numbers and fits int32.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from intvit.kernels.arith import Expr, clamp, let, rshift
from intvit.kernels.epilogue import Fetch, Operand, dyadic_operands, scaled

FRACTION = 13
POLYNOMIAL = (25768, -27313, -22560, 27617)


def gelu_fixed_point(x: Expr, fraction: int) -> Expr:
    """GELU of `x / 2^fraction` in Q13."""
    up = FRACTION - fraction
    u = let(tirx.min(tirx.max(x, -x) << up, 32767))
    p = u * POLYNOMIAL[0]
    for coefficient in POLYNOMIAL[1:-1]:
        p = (rshift(p, 15) + coefficient) * u
    p = let(rshift(p, 15) + POLYNOMIAL[-1])
    p2 = let(rshift(p * p, 15))
    p4 = rshift(p2 * p2, 15)
    return (tirx.max(x, 0) << up) - rshift(u * p4, 15)


@dataclass(frozen=True)
class Gelu:
    """GELU of a 16-bit value with `fraction` fraction bits, requantized to 8 bits."""

    fraction: int
    shift: int
    zero_point: int = 0
    pre: int | None = None
    mul: int | None = None

    def operands(self) -> tuple[Operand, ...]:
        return dyadic_operands(self.pre, self.mul)

    def apply(self, x: Expr, fetch: Fetch) -> Expr:
        y = rshift(scaled(gelu_fixed_point(let(x), self.fraction), self.pre, self.mul, fetch), self.shift)
        return clamp(y + self.zero_point if self.zero_point else y, -128, 127)
