"""Mean and variance of groups from the digits of their sums (`intvit.dialect.groupnorm`).

    S = s1 2^10 + s0,   Q = d2 2^20 + d1 2^10 + d0                       sums of x and x^2, digits not carried
    m = (S + N/2) / N,  r = S - N m,  f = r / N in Q30
    V = (Q - m (S + r)) / N - f^2                                        whole part and fraction in Q30

All are int32, a group in each lane or one number. A division by `N`, which is a constant, takes ten bits at a time.
Every value is put into a register by `Keep`, a part of the back end: TVM's simplifier looks through bindings, and would
take time exponential in the length of such a chain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from intvit.kernels.arith import Expr, like

DIGIT = 10
BELOW = (1 << DIGIT) - 1
HALF = 15
Keep = Callable[[Expr], Expr]
"""A value in a register."""
Power = Callable[[Expr, Expr], Expr]
"""`floor(x 2^exponent)` of a non-negative number; `x = 0` where the exponent is over 30."""


@dataclass(frozen=True)
class Moments:
    """`m`, `f`, and the variance as whole part and fraction."""

    mean: Expr
    rest: Expr
    whole: Expr
    part: Expr


def split_sum(total: Expr) -> tuple[Expr, Expr]:
    """What a sum of up to 31 bits adds to the digits of `S`."""
    return total & BELOW, total >> DIGIT


def split_squares(high: Expr, low: Expr) -> tuple[Expr, Expr, Expr]:
    """What sums of upper and lower halves (base 2^15) of squares add to the digits of `Q`."""
    return low & BELOW, (low >> DIGIT) + ((high & 31) << (HALF - DIGIT)), high >> (2 * DIGIT - HALF)


def carried(digits: Sequence[Expr], keep: Keep) -> list[Expr]:
    """The same number, lowest digit first, with all digits but the last in 0 .. 2^10 - 1."""
    found: list[Expr] = []
    carry: Expr | None = None
    for digit in digits[:-1]:
        total = keep(digit if carry is None else digit + carry)
        found.append(keep(total & BELOW))
        carry = keep(total >> DIGIT)
    return [*found, keep(digits[-1] + carry)]


def divided(digits: Sequence[Expr], count: int, keep: Keep) -> tuple[Expr, Expr]:
    """Quotient and remainder of a non-negative number with carried digits."""
    *lower, top = digits
    quotient = keep(tirx.truncdiv(top, count))
    rest = keep(top - quotient * count)
    for digit in reversed(lower):
        more = keep((rest << DIGIT) + digit)
        found = keep(tirx.truncdiv(more, count))
        quotient, rest = keep((quotient << DIGIT) + found), keep(more - found * count)
    return quotient, rest


def fraction(rest: Expr, count: int, keep: Keep) -> Expr:
    """`rest / count` in Q30, of `0 <= rest < count`."""
    none = like(rest, 0)
    return divided([none, none, none, rest], count, keep)[0]


def moments(total: Sequence[Expr], squares: Sequence[Expr], count: int, keep: Keep) -> Moments:
    """From the digits of `S`, two, and of `Q`, three."""
    none = like(total[0], 0)
    low, middle, top = carried([*total, none], keep)
    raised = carried([low + count // 2, middle + (count << (HALF - DIGIT)), top], keep)
    quotient, rest = divided(raised, count, keep)
    m, r = keep(quotient - (1 << HALF)), keep(rest - count // 2)
    negative = keep(tirx.Select(r < none, like(r, 1), none))
    f = keep(fraction(keep(r + negative * count), count, keep) - (negative << 30))
    both = carried([low + r, middle, top], keep)
    digits = carried(squares, keep)
    whole, rest = divided(carried([d - m * b for d, b in zip(digits, both, strict=True)], keep), count, keep)
    upper, lower = keep(f >> HALF), keep(f & ((1 << HALF) - 1))
    part = keep(fraction(rest, count, keep) - upper * upper - ((upper * lower) >> (HALF - 1)))
    return Moments(m, f, keep(whole + (part >> 30)), keep(part & ((1 << 30) - 1)))


def floating(
    found: Moments, eps: Expr, min_shift: Expr, bit_length: Callable[[Expr], Expr], power: Power, keep: Keep
) -> tuple[Expr, Expr]:
    """`v` of at most 31 bits and `q` with `variance + eps 4^min_shift ~ v 4^q`."""
    upper = 30 + bit_length(found.whole)
    bits = keep(tirx.Select(found.whole > like(found.whole, 0), upper, bit_length(found.part)))
    q = keep(tirx.max((bits - 59) >> 1, min_shift))
    double = keep(2 * q)
    floor = eps >> (tirx.min(double - 2 * min_shift, like(q, 31)) & 31)
    v = power(found.whole, 0 - double) + power(found.part, -30 - double) + floor
    return keep(tirx.max(v, like(v, 1))), q


def factors(found: Moments, g: Expr, p: Expr, lshift: Callable[[Expr, Expr], Expr], keep: Keep) -> tuple[Expr, ...]:
    """`F`, `f F` and `down`."""
    up = keep(tirx.min(tirx.max(-9 - p, like(p, 0)), like(p, 16)))
    upper, lower = keep((found.rest >> HALF) * g), keep((found.rest & ((1 << HALF) - 1)) * g)
    beyond, short = tirx.max(up - HALF, like(up, 0)) & 1, tirx.max(HALF - up, like(up, 0)) & 15
    offset = (keep(lshift(upper, beyond)) >> short) + (lower >> ((2 * HALF - up) & 31))
    return keep(lshift(g, up)), keep(offset), keep(tirx.max(9 + p, like(p, 0)))
