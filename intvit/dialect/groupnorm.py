"""`groupnorm`: normalization over all tokens and a block of channels, exact sums of up to 2^20 numbers in 32 bits.

With `N` numbers in a group (tokens times channels of a block) and `S = Σx`:

    m   = (S + N/2) / N,   r = S - N m,   e = x - m                      |e| < 2^16, |r| <= N/2
    f   = r / N in Q30                                                   the mean is m + f, |f| <= 1/2
    V   = Σe² / N - f² + eps 4^min_shift                                 whole part and fraction in Q30, ~ v 4^q
    g   = 2^(29 + p) / sqrt(V),   F = g << up                            15 bits; up = clamp(-9 - p, 0, 16)
    t   = e F - f F                                                      (x - m - f) / sqrt(V) in Q(20 + down)
    n   = t >> (down + 1), Q19, saturated to 30 bits, = 2^14 n₁ + n₀     down = max(9 + p, 0)
    y   = saturate((n₁ · multiplier + ((n₀ · multiplier) >> 14) + bias) >> shift)
                                                                         multiplier ~ γ / (32 s_y), bias ~ β / s_y

Divisions are floors, that of `g` and its root round as in `intvit.dialect.layernorm`, shifts of `n` and `y` round. `n`
counts deviations: of a unit vector, which `layernorm` has, the elements would have up to 2^10 times fewer levels.

No 64-bit integers: a sum has digits of 10 bits, whose own sums over 2^20 numbers fit 31 bits, in whatever order they
are made; `Σe² = Σx² - m (S + r)` digit by digit; and a division by `N` takes a digit at a time, with a remainder below
`N`.
`e F` fits 32 bits: where `up = 0` it is at most `65535 · 32767`. Elsewhere `F <= 2^20 √3 / sqrt(V)` (√3 where a
`min_shift` above that of `eps` leaves `v` a bit or two), `|x - mean| <= sqrt(N V)`, and `|f| <= sqrt(V)`, since
`V >= |f| / 2` and `|f| <= 1/2`; so `|e F| <= (2^10 + 1) 2^20 √3`.

Error, in output steps, against exact arithmetic on the same integers, with `w = |γ| / s_y` the result of one deviation
and `a` this result, `V` without `eps`:

    1/2 + a (2^-14 + 2^-29 / V) + w 2^-18 + (32 a / w + 2) 2^-(shift + 1)

So an int8 result with steps of at least `|γ| / 255` is within 1 step, and an int16 one within 4.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from intvit.dialect.arithmetic import RANGE, bit_length, rounding_shift
from intvit.dialect.layernorm import FACTORED, MAX_EPS, fine_product, power, reciprocal_root
from intvit.dialect.operation import dtype_named, operation, require, require_channels, require_dtype
from intvit.dialect.requantize import multiplier_range
from intvit.ranges import Operand, Range, Ranges

MOST = 1 << 20
"""Numbers of a group."""
DIGIT = 10
CARRY = 1 << 26
"""Bound of what a digit takes from the one below, or loses to a lower digit times `m`."""
BELOW = (1 << DIGIT) - 1
HALF = 15
"""Bits of the lower half of `f`."""
LIMIT = 1 << 29
"""Of `n`."""
MULTIPLIED = 5
"""Fraction bits of `n₁`, which is what multipliers multiply."""


def _check(
    x: Tensor,
    multiplier: Tensor,
    bias: Tensor,
    shift: int,
    groups: int,
    eps: int,
    min_shift: int,
    dtype: str,
) -> Tensor:
    require_dtype("x", x, torch.int16)
    tokens, channels = x.shape[-2:]
    require_channels(channels, multiplier=multiplier, bias=bias)
    require(groups >= 1 and channels % groups == 0, f"{channels} channels are no {groups} blocks of one size")
    require(channels < 1 << 15, f"at most {(1 << 15) - 1} channels, not {channels}")
    count = tokens * channels // groups
    require(count <= MOST, f"at most {MOST} numbers in a group, not {count}")
    require(0 <= shift <= 30 and 0 <= eps <= MAX_EPS and -15 <= min_shift <= 16, "shift, eps or min_shift out of range")
    require(dtype in ("int8", "int16"), f"dtype must be int8 or int16, not {dtype!r}")
    return x.new_empty(x.shape, dtype=dtype_named(dtype))


def _ranges(
    x: Operand,
    multiplier: Tensor,
    bias: Tensor,
    shift: int,
    groups: int,
    eps: int,
    min_shift: int,
    dtype: str,
) -> Ranges:
    count = x.shape[-2] * x.shape[-1] // groups
    product = Range(-(1 << HALF), 1 << HALF) * multiplier_range(multiplier)
    total = product + multiplier_range(bias)
    return Ranges(
        total.rounding_shift(shift).clamp(*RANGE[dtype_named(dtype)]),
        {
            "sums of digits": Range(-(count << DIGIT) - CARRY, (count << DIGIT) + CARRY),
            "remainder": Range(0, count << DIGIT),
            "centred, scaled": Range(-FACTORED, FACTORED),
            "variance": Range(0, MAX_EPS + eps),
            "product": product.union(total).union(total + Range(0, (1 << shift) >> 1)),
        },
    )


def carried(digits: Sequence[Tensor]) -> list[Tensor]:
    """The same number, lowest digit first, with all digits but the last in 0 .. 2^10 - 1."""
    found, carry = [], torch.zeros_like(digits[0])
    for digit in digits[:-1]:
        total = digit + carry
        found.append(total & BELOW)
        carry = total >> DIGIT
    return [*found, digits[-1] + carry]


def divided(digits: Sequence[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Quotient and remainder of a non-negative number with carried digits."""
    *lower, top = digits
    quotient, rest = top // count, top % count
    for digit in reversed(lower):
        rest = (rest << DIGIT) + digit
        quotient, rest = (quotient << DIGIT) + rest // count, rest % count
    return quotient, rest


def fraction(rest: Tensor, count: int) -> Tensor:
    """`rest / count` in Q30, of `0 <= rest < count`."""
    none = torch.zeros_like(rest)
    return divided([none, none, none, rest], count)[0]


def moments(x: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """`m`, `f`, and the variance as whole part and fraction, of int32 `[B, T, G, C]`; each `[B, 1, G, 1]`."""
    count = x.shape[1] * x.shape[3]

    def summed(*parts: Tensor) -> list[Tensor]:
        return carried([part.sum((1, 3), keepdim=True, dtype=torch.int32) for part in parts])

    squares = x * x
    total = summed(x & BELOW, (x >> DIGIT) & BELOW, x >> 2 * DIGIT)
    raised = carried([total[0] + count // 2, total[1] + (count << (HALF - DIGIT)), total[2]])
    quotient, rest = divided(raised, count)
    m, r = quotient - (1 << HALF), rest - count // 2
    f = fraction(r + (r < 0) * count, count) - ((r < 0).to(torch.int32) << 30)
    both = carried([total[0] + r, *total[1:]])
    digits = summed(squares & BELOW, (squares >> DIGIT) & BELOW, squares >> 2 * DIGIT)
    whole, rest = divided(carried([d - m * b for d, b in zip(digits, both, strict=True)]), count)
    upper, lower = f >> HALF, f & ((1 << HALF) - 1)
    part = fraction(rest, count) - upper * upper - ((upper * lower) >> (HALF - 1))
    return m, f, (whole + (part >> 30), part & ((1 << 30) - 1))


def floating(variance: tuple[Tensor, Tensor], eps: int, min_shift: int) -> tuple[Tensor, Tensor]:
    """`v` of 1 to 31 bits and `q` with `variance + eps 4^min_shift ~ v 4^q`."""
    whole, part = variance
    bits = torch.where(whole > 0, 30 + bit_length(whole), bit_length(part))
    q = ((bits - 59) >> 1).clamp(min=min_shift)
    floor = torch.full_like(q, eps) >> (2 * (q - min_shift)).clamp(max=31)
    return (power(whole, -2 * q) + power(part, -2 * q - 30) + floor).clamp(min=1), q


def deviations(x: Tensor, eps: int, min_shift: int) -> Tensor:
    """`(x - mean) / sqrt(V)` in Q19 of int32 `[B, T, G, C]`, saturated to 30 bits."""
    m, f, variance = moments(x)
    g, p = reciprocal_root(*floating(variance, eps, min_shift))
    up = (-9 - p).clamp(0, 16)
    upper, lower = (f >> HALF) * g, (f & ((1 << HALF) - 1)) * g
    offset = ((upper << (up - HALF).clamp(min=0)) >> (HALF - up).clamp(min=0)) + (lower >> (2 * HALF - up))
    t = (x - m) * (g << up) - offset
    n = ((t >> (9 + p).clamp(min=0)) + 1) >> 1
    return n.clamp(-LIMIT, LIMIT - 1)


@operation(check=_check, ranges=_ranges)
def groupnorm(
    x: Tensor,
    multiplier: Tensor,
    bias: Tensor,
    shift: int,
    groups: int,
    eps: int,
    min_shift: int,
    dtype: str,
) -> Tensor:
    """Normalization over the tokens and each of `groups` blocks of channels of int16 `[B, T, C]`, int8 or int16."""
    target = dtype_named(dtype)
    n = deviations(x.to(torch.int32).unflatten(-1, (groups, -1)), eps, min_shift).flatten(-2)
    return rounding_shift(fine_product(n, multiplier) + bias, shift).clamp(*RANGE[target]).to(target)
