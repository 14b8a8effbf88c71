"""`layernorm`: integer LayerNorm, exact mean and squares, one reciprocal root per row, `β` after the channel's dyadic.

    m   = (Σx + C/2) / C,   r = Σx - C m,   e = x - m                    |e| < 2^16, |r| <= C/2
    V   = Σe² - r²/C + eps 4^min_shift                                   Σ(x - mean)² + C eps_real / scale²
    F   = 2^(15 + s) / sqrt(V)                                           15 bits where sqrt(V) > 2^15; else s = 15
    t   = e F - r F / C                                                  (x - mean) / sqrt(V) in Q(15 + s)
    y   = saturate((n · multiplier + bias) >> shift)                     multiplier ~ γ sqrt(C) / s_y, bias ~ β / s_y
          n = sat16(t >> s), Q15                                         int8
    y   = saturate((n₁ · multiplier + ((n₀ · multiplier) >> 14) + bias) >> shift)
          n = t >> (s - 14), Q29, saturated to 30 bits, = 2^14 n₁ + n₀   int16: the finer form

Divisions and square roots are floors except that of `g`, shifts of `n` and `y` round. All fits 32 bits in every row of
up to 2^15 - 1 channels: `Σx²` is a sum of upper and one of lower halves (base 2^15) of the squares, from which
`C m² + 2 m r` is taken exactly, and `V` is then 30 bits times a power of four. `e F` is below `2^16 · 2^15` where
`sqrt(V) > 2^15`; elsewhere `F = 2^30 / sqrt(V)`, and `|e| <= 4/3 |x - mean|` or `|e| = 1` and `V >= 1/2`.

Error, in output steps, against exact LayerNorm of the same integers for up to 2^14 channels, where `s_y` is the step,
`w = |γ| sqrt(C) / s_y` the result of a unit vector's end and `a = |γ| |x - mean| / deviation / s_y <= w` this result:

    1/2 + a 2^-14 + w 2^-16 + (a 2^15 / w + 1) 2^-(shift + 1)            int8
    1/2 + a 2^-14 + w 2^-29 + (a 2^15 / w + 2) 2^-(shift + 1)            int16

(the last rounding; factor and root; `n`; multiplier, bias and the product of `n₀`). So an int8 result of up to 4096
channels with steps of at least `|γ| / 255` is within 1 step wherever `a` is below 2700, and an int16 one within 4.
I-ViT's integer LayerNorm (its eq. 12 to 14) fails to converge for small deviations, overflows for ordinary rows and
divides `β` by `γ`; none of the three can happen here.
"""

import torch
from torch import Tensor

from intvit.dialect.arithmetic import RANGE, bit_length, integer_sqrt, rounding_shift
from intvit.dialect.operation import dtype_named, operation, require, require_channels, require_dtype
from intvit.dialect.requantize import multiplier_range
from intvit.ranges import Operand, Range, Ranges

MAX_EPS = (1 << 30) - 1
HALF = 15
"""Bits of the lower half of a square."""
LOWER = (1 << HALF) - 1
FACTORED = ((1 << 16) - 1) << 15
"""Bound of `e F` in every row."""
FINE = 14
"""Bits of `n` below Q15 for int16 results."""


def _check(x: Tensor, multiplier: Tensor, bias: Tensor, shift: int, eps: int, min_shift: int, dtype: str) -> Tensor:
    require_dtype("x", x, torch.int16)
    channels = x.shape[-1]
    require_channels(channels, multiplier=multiplier, bias=bias)
    require(channels < 1 << 15, f"at most {(1 << 15) - 1} channels, not {channels}")
    require(0 <= shift <= 30 and 0 <= eps <= MAX_EPS and -15 <= min_shift <= 16, "shift, eps or min_shift out of range")
    return x.new_empty(x.shape, dtype=dtype_named(dtype))


def _ranges(x: Operand, multiplier: Tensor, bias: Tensor, shift: int, eps: int, min_shift: int, dtype: str) -> Ranges:
    channels = x.shape[-1]
    product = Range(-(1 << 15), 1 << 15) * multiplier_range(multiplier)
    total = product + multiplier_range(bias)
    rounded = total + Range(0, (1 << shift) >> 1)
    carry = (1 << HALF) + channels
    return Ranges(
        total.rounding_shift(shift).clamp(*RANGE[dtype_named(dtype)]),
        {
            "sum": (x * channels).union(x * channels + (channels << 15) + channels // 2),
            "halves of the squares": Range(-(channels << HALF) - carry, (channels << HALF) + carry),
            "centred, scaled": Range(-FACTORED, FACTORED),
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
    high = (squares >> HALF).sum(-1, keepdim=True, dtype=torch.int32) - (square >> HALF) * channels - (cross >> HALF)
    low = (squares & LOWER).sum(-1, keepdim=True, dtype=torch.int32) - (square & LOWER) * channels - (cross & LOWER)
    return m, r, torch.stack([high + (low >> HALF), low & LOWER])


def floating_variance(squares: Tensor, r: Tensor, channels: int, eps: int, min_shift: int) -> tuple[Tensor, Tensor]:
    """`v` of 1 to 31 bits and `q` with `V ~ v 4^q`; at least 28 bits where `V > 0`, and `min_shift` is the smallest."""
    high, low = squares
    bits = torch.where(high > 0, HALF + bit_length(high), bit_length(low))
    q = ((bits - 29) >> 1).clamp(min=min_shift)
    v = power(high, HALF - 2 * q) + power(low, -2 * q)
    whole, rest = r * r // channels, r * r % channels
    mean_square = (whole << 16) + (rest << 16) // channels
    floor = torch.full_like(q, eps) >> (2 * (q - min_shift)).clamp(max=31)
    return (v - power(mean_square, -2 * q - 16) + floor).clamp(min=1), q


def power(x: Tensor, exponent: Tensor) -> Tensor:
    """`floor(x 2^exponent)` of non-negative numbers; `x = 0` where the exponent is over 30."""
    return (x << exponent.clamp(0, 30)) >> (-exponent).clamp(0, 31)


def reciprocal_root(v: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """`g` of 15 bits and `p` with `g ~ 2^(29 + p) / sqrt(v 4^q)`, rounded; the root is to the nearest half."""
    j = (30 - bit_length(v)) >> 1
    normal = torch.where(j < 0, v >> 2, v << (2 * j).clamp(min=0))
    root = integer_sqrt(normal)
    rest = normal - root * root
    twice = 2 * root + (2 * rest >= root).to(torch.int32) + (2 * rest >= 3 * root).to(torch.int32)
    return (((1 << 30) + (twice >> 1)) // twice).clamp(max=(1 << 15) - 1), q - j


def unit_row(x: Tensor, eps: int, min_shift: int, fraction: int = 15) -> Tensor:
    """`(x - mean) / sqrt(V)` of int32 rows `[..., C]`, saturated below 1, with `fraction` (15 to 29) fraction bits."""
    m, r, squares = centre(x)
    g, p = reciprocal_root(*floating_variance(squares, r, x.shape[-1], eps, min_shift))
    return unit(x - m, r, g, p, fraction)


def unit(e: Tensor, r: Tensor, g: Tensor, p: Tensor, fraction: int) -> Tensor:
    """`(e - r / C) g / 2^(29 + p)` of int32 rows `[..., C]`, saturated below 1, with `fraction` fraction bits."""
    channels = e.shape[-1]
    up, s = (1 - p).clamp(0, 16), (14 + p).clamp(min=15)
    share = r * g
    offset = (share // channels << up) + ((share % channels << up) // channels)
    t = e * (g << up) - offset
    n = ((t >> (s + 14 - fraction)) + 1) >> 1
    return n.clamp(-(1 << fraction), (1 << fraction) - 1)


def fine_product(n: Tensor, multiplier: Tensor) -> Tensor:
    """`(n · multiplier) >> 14` of `n` within 30 bits, as two products of 16 bits; the lower one is rounded."""
    return (n >> FINE) * multiplier + rounding_shift((n & ((1 << FINE) - 1)) * multiplier, FINE)


@operation(check=_check, ranges=_ranges)
def layernorm(x: Tensor, multiplier: Tensor, bias: Tensor, shift: int, eps: int, min_shift: int, dtype: str) -> Tensor:
    """LayerNorm over the last axis of int16 `[B, T, C]`, as int8 or int16."""
    target = dtype_named(dtype)
    rows = x.to(torch.int32)
    if target is torch.int16:
        product = fine_product(unit_row(rows, eps, min_shift, 15 + FINE), multiplier)
    else:
        product = unit_row(rows, eps, min_shift) * multiplier
    return rounding_shift(product + bias, shift).clamp(*RANGE[target]).to(target)
