"""ShiftGELU as a stage of an epilogue: no row maximum, six rounding 16-bit multiplies (`intvit.dialect.gelu`).

    GELU(x) = max(x, 0) - u p(u)^4,   u = min(|x| << (13 - fraction), 2^15 - 1) in Q15 (a quarter of |x|)
    y = clamp(rshift(sat16(rshift(GELU, pre[c])) * mul[c], shift) + zero_point, -128, 127)

`x` is int16 lanes. All values of the polynomial are within int16 (tests/kernels/test_epilogue.py tries every `u`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm import tirx

from intvit.kernels.arith import Expr, half_unit, like, widen
from intvit.kernels.epilogue import Fetch, Operand, dyadic_operands, multiplier, pre_shift, requantized, shifted
from intvit.kernels.function import kept
from intvit.kernels.int16 import INT16, INT32, MOST, rounding_multiply
from intvit.kernels.isa import Isa

FRACTION = 13
POLYNOMIAL = (25768, -27313, -22560, 27617)
LOW, HIGH = -128, 127


def bump(x: Expr, fraction: int, isa: Isa) -> Expr:
    """`u p(u)^4` of `x / 2^fraction` in Q13, int16 lanes: what GELU is below `max(x, 0)`."""
    up = FRACTION - fraction
    magnitude = widen(tirx.max(x, like(x, 0) - x), "uint16")
    last = MOST >> up  # the largest that a shift does not saturate
    most = last if bump_of(last << up) == bump_of(MOST) else 1 << (15 - up)
    cut = tirx.min(magnitude, like(magnitude, most)) << like(magnitude, up)
    u = kept(widen(tirx.min(cut, like(cut, MOST)), INT16))
    p = like(x, POLYNOMIAL[0])
    for coefficient in POLYNOMIAL[1:]:
        p = rounding_multiply(p, u, isa) + like(x, coefficient)
    p = kept(p)
    p2 = kept(rounding_multiply(p, p, isa))
    return kept(rounding_multiply(u, rounding_multiply(p2, p2, isa), isa))


def bump_of(u: int) -> int:
    """The same of one `u`."""
    p = POLYNOMIAL[0]
    for coefficient in POLYNOMIAL[1:]:
        p = _round15(p * u) + coefficient
    return _round15(u * _round15(_round15(p * p) ** 2))


def _round15(x: int) -> int:
    return (x + (1 << 14)) >> 15


@dataclass(frozen=True)
class Gelu:
    """GELU of a 16-bit value with `fraction` fraction bits, requantized to 8 bits.

    Like a factor, the zero point may be an operand (`None`), within 8 bits.
    """

    fraction: int
    shift: int
    zero_point: int | None = 0
    pre: int | None = None
    mul: int | None = None
    narrow: bool | None = None  # what `fits16` found, where the numbers that it needs are operands
    halfway: bool = False  # what `ends_halfway` found

    @property
    def shared(self) -> Gelu:
        """The same with its factor and zero point as operands: one kernel for all layers of a model."""
        return replace(self, mul=None, zero_point=None, narrow=self.fits16, halfway=self.ends_halfway)

    def operands(self) -> tuple[Operand, ...]:
        zero = (Operand("zero", INT16),) if self.zero_point is None else ()
        return (*dyadic_operands(self.pre, self.mul), *zero)

    def rounding(self, fetch: Fetch) -> Expr:
        return 0

    def apply(self, x: Expr, fetch: Fetch, isa: Isa, *, rounded: bool) -> Expr:
        x = kept(widen(x, INT16))
        below, up = bump(x, self.fraction, isa), FRACTION - self.fraction
        positive = tirx.max(x, like(x, 0))
        if self.pre is not None and self.fits16:
            left = up - self.pre
            whole = tirx.min(positive, like(x, MOST >> left)) << like(x, left)
            a = whole + ((like(x, half_unit(self.pre)) - below) >> like(x, self.pre))
        else:
            a = shifted((widen(positive, INT32) << up) - widen(below, INT32), pre_shift(self.pre, fetch), isa)
        zero = fetch("zero") if self.zero_point is None else self.zero_point
        return requantized(a, multiplier(self.mul, fetch), self.shift, zero, (LOW, HIGH), isa)

    @property
    def fits16(self) -> bool:
        """Whether `sat16(rshift(GELU, pre))` can be taken in 16 bits, as `(max(x, 0) << left) - t`, `left = up - pre`.

        `t` has at most 11 bits. `x` is cut at the largest whose shifted value fits; past it `u` is saturated and `t`
        the same for all, so that if the result is `HIGH` there, it is `HIGH` for every larger `x`.
        """
        if self.narrow is not None:
            return self.narrow
        up = FRACTION - self.fraction
        if self.pre is None or self.pre > up:
            return False
        left = up - self.pre
        if left == 0:
            return True
        if self.mul is None or self.mul < 0 or self.zero_point is None:
            return False
        least = (MOST >> left << left) + ((half_unit(self.pre) - bump_of(MOST)) >> self.pre)
        result: int = ((least * self.mul + half_unit(self.shift)) >> self.shift) + self.zero_point
        return result >= HIGH

    @property
    def ends_halfway(self) -> bool:
        """Whether all `x` of at least `2^14` come to the same, and all of at most `-2^14`.

        `u` is saturated there, so that only `max(x, 0)` grows.
        """
        if self.halfway:
            return True
        up = FRACTION - self.fraction
        if up == 0 or self.pre is None or self.mul is None or self.mul < 0 or self.zero_point is None:
            return False
        whole = min(((1 << 14 << up) - bump_of(MOST) + half_unit(self.pre)) >> self.pre, MOST)
        result: int = ((whole * self.mul + half_unit(self.shift)) >> self.shift) + self.zero_point
        return result >= HIGH
