"""`layernorm`: integer LayerNorm, exact mean and variance, one reciprocal root per row, `β` after the channel's dyadic.

    m   = (Σx + C/2) / C,   r = Σx - C m,   e = x - m                 |e| < 2^16, |r| <= C/2
    V   = Σe² - r²/C + eps 4^min_shift                                Σ(x - mean)² + C eps / scale²
    F   = 2^(15 + s) / sqrt(V)                                        15 bits; more where V is small, s >= 15
    t   = e F - r F / C                                               (x - mean) F: a unit vector in Q(15 + s)
    n   = sat16(t >> s)                                               int8:  Q15
    y   = saturate((n · multiplier + bias) >> shift)                  multiplier ~ γ sqrt(C) / s_y, bias ~ β / s_y
    n   = sat30(t >> (s - 14)) = 2^14 n₁ + n₀                         int16: Q29
    y   = saturate((n₁ · multiplier + ((n₀ · multiplier) >> 14) + bias) >> shift)

Divisions and the square root are floors unless said otherwise, shifts of `n` and `y` round. Nothing is wider than 32
bits: `Σx²` is the sum of the squares' upper and lower halves (base 2^15), from which `C m² + 2 m r` is taken exactly;
`V` is then 30 bits times a power of four. `e F` fits because `|e| < 2^16` and `F <= 2^15` where `sqrt(V) >= 2^16`, and
because `|e| <= 4/3 sqrt(V)` (for `|e| = 1`: `V >= 1/2`) where it is less.

Error, in output steps, against exact LayerNorm of the same integers, with `w = γ sqrt(C) / s_y` (the largest result
over all rows) and `a = |γ (x - mean) / deviation| / s_y <= w`:

    1/2 + a 2^-14 + w 2^-16 + |n| / 2^(shift + 1)         int8   (mean, root and factor; Q15; multiplier)
    1/2 + a 2^-14 + w 2^-29 + |n| / 2^(shift + 1) + 2^-shift     int16

each plus half a unit of `bias`. I-ViT's integer LayerNorm (its eq. 12 to 14) fails to converge for small deviations,
overflows for ordinary rows and divides `β` by `γ`; none of the three can happen here.
"""

import torch
from torch import Tensor

from intvit.dialect.arithmetic import INT16, RANGE, bit_length, integer_sqrt, rounding_shift
from intvit.dialect.operation import dtype_named, operation, require, require_channels, require_dtype
from intvit.dialect.requantize import multiplier_range
from intvit.ranges import Operand, Range, Ranges

MAX_EPS = (1 << 30) - 1
HALF = 15
"""Bits of the lower half of a square."""
LOWER = (1 << HALF) - 1
FINE = 14
"""Bits of `n` below Q15 for int16 results."""


def _check(
    x: Tensor, multiplier: Tensor, bias: Tensor, shift: int, eps: int, min_shift: int, dtype: str
) -> Tensor:
    require_dtype("x", x, torch.int16)
    channels = x.shape[-1]
    require_channels(channels, multiplier=multiplier, bias=bias)
    require(channels < 1 << 15, f"at most {(1 << 15) - 1} channels, not {channels}")
    require(0 <= shift <= 30 and 0 <= eps <= MAX_EPS and -15 <= min_shift <= 16, "shift, eps or min_shift out of range")
    return x.new_empty(x.shape, dtype=dtype_named(dtype))


def _ranges(
    x: Operand, multiplier: Tensor, bias: Tensor, shift: int, eps: int, min_shift: int, dtype: str
) -> Ranges:
    channels = x.shape[-1]
    product = Range(*INT16) * multiplier_range(multiplier)
    rounded_low = product + Range(-1, 1) if dtype_named(dtype) is torch.int16 else product
    total = rounded_low + multiplier_range(bias)
    rounded = total + Range(0, (1 << shift) >> 1)
    halves = Range(0, channels << HALF)
    return Ranges(
        total.rounding_shift(shift).clamp(*RANGE[dtype_named(dtype)]),
        {
            "sum": (x * channels).union(x * channels + (channels << HALF) + channels // 2),
            "halves of the squares": halves - halves - Range(-(1 << HALF), 1 << HALF),
            "centred, scaled": (x - x) * (1 << 15),
            "variance": Range(0, MAX_EPS + eps),
            "product": product.union(rounded),
        },
    )


def centre(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`m`, `r` and `[hi, lo]` with `Σe² = 2^15 hi + lo` of int32 rows `[..., C]`; each `[..., 1]`."""
    channels = x.shape[-1]
    total, squares = x.sum(-1, keepdim=True, dtype=torch.int32), x * x
    m = (total + ((channels << 15) + channels // 2)) // channels - (1 << 15)
    r = total - m * channels
    square, cross = m * m, 2 * m * r
    high, low = (
        part(squares).sum(-1, keepdim=True, dtype=torch.int32) - part(square) * channels - part(cross)
        for part in (lambda v: v >> HALF, lambda v: v & LOWER)
    )
    return m, r, torch.stack([high + (low >> HALF), low & LOWER])


def floating_variance(squares: Tensor, r: Tensor, channels: int, eps: int, min_shift: int) -> tuple[Tensor, Tensor]:
    """`v` of 1 to 31 bits and `q` with `V ~ v 4^q`, `q >= min_shift`; `v` has 27 bits or more unless `V = 0`."""
    high, low = squares
    bits = torch.where(high > 0, HALF + bit_length(high), bit_length(low))
    q = ((bits - 29) >> 1).clamp(min=min_shift)
    v = power(high, HALF - 2 * q) + power(low, -2 * q)
    whole, rest = r * r // channels, r * r % channels
    mean_square = (whole << 15) + (rest << 15) // channels
    floor = torch.full_like(q, eps) >> (2 * (q - min_shift)).clamp(max=31)
    return (v - power(mean_square, -2 * q - 15) + floor).clamp(min=1), q


def power(x: Tensor, exponent: Tensor) -> Tensor:
    """`floor(x 2^exponent)` of non-negative numbers; `x = 0` where the exponent is over 30."""
    return (x << exponent.clamp(0, 30)) >> (-exponent).clamp(0, 31)


def reciprocal_root(v: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """`g` of 15 bits and `p` with `g ~ 2^(29 - p) / sqrt(v 4^q)`... rounded to nearest."""
    j = (30 - bit_length(v)) >> 1
    normal = torch.where(j < 0, v >> 2, v << (2 * j).clamp(min=0))
    root = integer_sqrt(normal)
    rest = normal - root * root
    twice = 2 * root + (2 * rest >= root).to(torch.int32) + (2 * rest >= 3 * root).to(torch.int32)
    return (((1 << 30) + (twice >> 1)) // twice).clamp(max=LOWER), q - j
