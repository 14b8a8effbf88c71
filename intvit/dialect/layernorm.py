"""`layernorm`: integer LayerNorm, exact mean, normalized by the row's bit length, `β` after the per-channel dyadic.

    d   = C x - Σx                                       C times the centred row, no rounding of the mean
    k   = max(bits(max|d|) - 14, min_shift)              one shift per row; negative shifts left
    d14 = d >> k                                         |d14| <= 2^14
    V   = Σ (d14 >> square_shift)² + (eps >> 2(k - min_shift))
    R   = isqrt(V · 4^j) in [2^14, 2^15),   F = min(2^29 / R, 2^15 - 1)
    n   = sat16(d14 F >> (14 + square_shift - j))        Q15 of d / sqrt(Σd²): a unit vector
    y   = saturate((n · multiplier + bias) >> shift)     multiplier ~ γ sqrt(C) / s, bias ~ β / s

All shifts round; the division and the square root are floors. I-ViT's integer LayerNorm (its eq. 12 to 14) fails to
converge for small deviations, overflows for ordinary rows and divides `β` by `γ` (NUMERICS); none of the three can
happen here: `V` is within 31 bits for any row, the root is digit by digit, and a row without variance gives `β`.
"""

import torch
from torch import Tensor

from intvit.dialect.arithmetic import RANGE, bit_length, integer_sqrt, rounding_shift, saturate16, scale_by_power
from intvit.dialect.operation import dtype_named, operation, require, require_channels, require_dtype
from intvit.dialect.requantize import multiplier_range
from intvit.ranges import Operand, Range, Ranges

MAX_EPS = (1 << 30) - 1


def square_shift(channels: int) -> int:
    """Shift before squaring so that `channels` squares of 14-bit numbers sum to at most 2^30."""
    return max(0, ((channels - 1).bit_length() - 1) // 2)


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
    centred = (x - x) * channels
    squares = Range(0, channels * (1 << 2 * (14 - square_shift(channels))) + eps)
    unit = Range(-(1 << 15), (1 << 15) - 1)
    product = unit * multiplier_range(multiplier)
    total = product + multiplier_range(bias)
    rounded = total + Range(0, (1 << shift) >> 1)
    return Ranges(
        total.rounding_shift(shift).clamp(*RANGE[dtype_named(dtype)]),
        {
            "sum": x * channels,
            "centred": centred.union(centred + (1 << 16)),
            "squares": squares,
            "product": product.union(rounded),
        },
    )


def unit_row(x: Tensor, eps: int, min_shift: int) -> Tensor:
    """`(x - mean) / sqrt(Σ(x - mean)² + eps)` of int32 rows `[..., C]` in Q15."""
    channels = x.shape[-1]
    down = square_shift(channels)
    d = x * channels - x.sum(-1, keepdim=True, dtype=torch.int32)
    k = (bit_length(d.abs().amax(-1, keepdim=True)) - 14).clamp(min=min_shift)
    d14 = scale_by_power(d, k)
    squares = rounding_shift(d14, down).square().sum(-1, keepdim=True, dtype=torch.int32)
    v = (squares + (torch.full_like(k, eps) >> (2 * (k - min_shift)).clamp(max=31))).clamp(min=1)
    j = (30 - bit_length(v)) >> 1
    normal = torch.where(j < 0, v >> 2, v << (2 * j).clamp(min=0))
    reciprocal = ((1 << 29) // integer_sqrt(normal)).clamp(max=(1 << 15) - 1)
    return saturate16(rounding_shift(d14 * reciprocal, 14 + down - j))


@operation(check=_check, ranges=_ranges)
def layernorm(
    x: Tensor, multiplier: Tensor, bias: Tensor, shift: int, eps: int, min_shift: int, dtype: str
) -> Tensor:
    """LayerNorm over the last axis of int16 `[B, T, C]`, as int8 or int16."""
    target = dtype_named(dtype)
    y = rounding_shift(unit_row(x.to(torch.int32), eps, min_shift) * multiplier + bias, shift)
    return y.clamp(*RANGE[target]).to(target)
