"""`rmsnorm`: blocks of channels by the root of their mean square, as `layernorm` with 0 in place of the mean.

    V   = Σx² + eps 4^min_shift                                          C (mean square + eps_real / scale²)
    F   = 2^(15 + s) / sqrt(V)                                           15 bits where sqrt(V) > 2^15; else s = 15
    y   = saturate((n · multiplier) >> shift)                            multiplier ~ γ sqrt(C) / s_y
          n = sat16((x F) >> s), Q15                                     int8
    y   = saturate((n₁ · multiplier + ((n₀ · multiplier) >> 14)) >> shift)
          n = (x F) >> (s - 14), Q29, saturated to 30 bits, = 2^14 n₁ + n₀   int16

A row of channels is cut into `groups` blocks of `C` channels each. Squares are summed in halves and `V` is 30 bits
times a power of four, as in `intvit.dialect.layernorm`, which has the bounds too: `x² <= V`, so that `x F` fits 32
bits. The error against exact arithmetic is that of `layernorm` without a bias, and one level of `n`
more where a block has one number other than 0: its end, 1, saturates.
"""

import torch
from torch import Tensor

from intvit.dialect.arithmetic import RANGE, rounding_shift
from intvit.dialect.layernorm import (
    FACTORED,
    FINE,
    HALF,
    LOWER,
    MAX_EPS,
    fine_product,
    floating_variance,
    reciprocal_root,
    unit,
)
from intvit.dialect.operation import dtype_named, operation, require, require_channels, require_dtype
from intvit.dialect.requantize import multiplier_range
from intvit.ranges import Operand, Range, Ranges


def _check(x: Tensor, multiplier: Tensor, shift: int, eps: int, min_shift: int, groups: int, dtype: str) -> Tensor:
    require_dtype("x", x, torch.int16)
    channels = x.shape[-1]
    require_channels(channels, multiplier=multiplier)
    require(groups >= 1 and channels % groups == 0, f"{channels} channels are no {groups} blocks of one size")
    require(channels < 1 << 15, f"at most {(1 << 15) - 1} channels, not {channels}")
    require(0 <= shift <= 30 and 0 <= eps <= MAX_EPS and -15 <= min_shift <= 16, "shift, eps or min_shift out of range")
    require(dtype in ("int8", "int16"), f"dtype must be int8 or int16, not {dtype!r}")
    return x.new_empty(x.shape, dtype=dtype_named(dtype))


def _ranges(x: Operand, multiplier: Tensor, shift: int, eps: int, min_shift: int, groups: int, dtype: str) -> Ranges:
    product = Range(-(1 << 15), 1 << 15) * multiplier_range(multiplier)
    return Ranges(
        product.rounding_shift(shift).clamp(*RANGE[dtype_named(dtype)]),
        {
            "halves of the squares": Range(0, (x.shape[-1] // groups << HALF) + x.shape[-1]),
            "scaled": Range(-FACTORED, FACTORED),
            "mean square": Range(0, MAX_EPS + eps),
            "product": product.union(product + Range(0, (1 << shift) >> 1)),
        },
    )


def unit_block(x: Tensor, eps: int, min_shift: int, fraction: int = 15) -> Tensor:
    """`x / sqrt(V)` of int32 blocks `[..., C]`, saturated below 1, with `fraction` (15 to 29) fraction bits."""
    squares = x * x
    high, low = (part.sum(-1, keepdim=True, dtype=torch.int32) for part in (squares >> HALF, squares & LOWER))
    none = torch.zeros_like(high)
    halves = torch.stack([high + (low >> HALF), low & LOWER])
    g, p = reciprocal_root(*floating_variance(halves, none, x.shape[-1], eps, min_shift))
    return unit(x, none, g, p, fraction)


@operation(check=_check, ranges=_ranges)
def rmsnorm(x: Tensor, multiplier: Tensor, shift: int, eps: int, min_shift: int, groups: int, dtype: str) -> Tensor:
    """Blocks of channels of int16 `[B, T, C]` by their root mean square, as int8 or int16."""
    target = dtype_named(dtype)
    blocks = x.to(torch.int32).unflatten(-1, (groups, -1))
    if target is torch.int16:
        product = fine_product(unit_block(blocks, eps, min_shift, 15 + FINE).flatten(-2), multiplier)
    else:
        product = unit_block(blocks, eps, min_shift).flatten(-2) * multiplier
    return rounding_shift(product, shift).clamp(*RANGE[target]).to(target)
