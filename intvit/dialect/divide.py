"""`divide`: quotient of two computed tensors: a reciprocal for each divisor, then a dyadic number to the scale of `y`.

    n   = bits(|b|), 1 to 16; a divisor of 0 counts as 1
    b15 = |b| 2^(15 - n)                                    15 bits; of 2^15 half
    r   = min((2^29 + b15 / 2) / b15, 2^15 - 1) sign(b)     2^(14 + n) / b
    y   = saturate((sat16((a r) >> (n - 1 + pre)) · multiplier) >> shift)

with rounding shifts and floor division. `a r` is `a / b` with `14 + n` fraction bits, of which the first shift leaves
15 for all rows: what follows is the requantization of `2^15 a / b`. Divisors may thus span all that 16 bits hold, while
a table of `1 / b` knows the small ones by a knot or two. `|a r| <= 2^15 (2^15 - 1)` fits 32 bits with half a unit of
the largest shift, 2^29; `pre` is at most `MOST_PRE_SHIFT`, behind which the largest quotient, 2^15, has 16 bits.

Error against the exact quotient, in steps of the result: 2^-14 of it (`r` and the multiplier, 2^-15 each), half a step
for the last shift, and `multiplier / 2^(shift + 1)` for the first. A column of `b` divides a block of neighbouring
channels. `multiplier`, `pre`: int32 `[C]` or `[1]`.
"""

import torch
from torch import Tensor

from intvit.dialect.arithmetic import INT16, RANGE, bit_length, rounding_shift, saturate16
from intvit.dialect.operation import dtype_named, operation, require, require_dtype
from intvit.dialect.requantize import check_dyadic, scaled_range
from intvit.ranges import Operand, Range, Ranges

QUOTIENT_BITS = 15
"""Fraction bits of the quotient that is requantized."""
MOST_PRE_SHIFT = 15


def _check(a: Tensor, b: Tensor, multiplier: Tensor, pre_shift: Tensor, shift: int, dtype: str) -> Tensor:
    require_dtype("a", a, torch.int16)
    require_dtype("b", b, torch.int16)
    require(a.ndim == b.ndim == 3 and a.shape[:2] == b.shape[:2], "b must have the tokens of a")
    channels, blocks = a.shape[-1], b.shape[-1]
    require(blocks >= 1 and channels % blocks == 0, f"{channels} channels are no {blocks} blocks of one size")
    check_dyadic(channels, multiplier, pre_shift, shift)
    require(dtype in ("int8", "int16"), f"dtype must be int8 or int16, not {dtype!r}")
    return a.new_empty(a.shape, dtype=dtype_named(dtype))


def _ranges(a: Operand, b: Operand, multiplier: Tensor, pre_shift: Tensor, shift: int, dtype: str) -> Ranges:
    most = int(pre_shift.max())
    require(most <= MOST_PRE_SHIFT, f"pre-shifts must be in 0..{MOST_PRE_SHIFT}, not {most}")
    quotient = a.union(Range(0, 0)) * Range(-INT16[1], INT16[1])
    product = scaled_range(quotient, pre_shift, multiplier)
    return Ranges(
        product.rounding_shift(shift).clamp(*RANGE[dtype_named(dtype)]),
        {
            "reciprocal": Range(0, (1 << 29) + (1 << 14)),
            "a · r": quotient + Range(0, (1 << (QUOTIENT_BITS + most)) >> 1),
            "product": product.union(product + Range(0, (1 << shift) >> 1)),
        },
    )


def reciprocals(b: Tensor) -> tuple[Tensor, Tensor]:
    """`r` and `n` of int32 divisors within 16 bits: `1 / b ~ r / 2^(14 + n)`; of 0 those of 1."""
    size = b.abs().clamp(min=1)
    bits = bit_length(size)
    normal = (size << (16 - bits)) >> 1
    r = (((1 << 29) + (normal >> 1)) // normal).clamp(max=INT16[1])
    return torch.where(b < 0, -r, r), bits


@operation(check=_check, ranges=_ranges)
def divide(a: Tensor, b: Tensor, multiplier: Tensor, pre_shift: Tensor, shift: int, dtype: str) -> Tensor:
    """int16 `[B, T, C]` by int16 `[B, T, G]`, each of whose columns divides `C / G` channels, as int8 or int16."""
    target, size = dtype_named(dtype), a.shape[-1] // b.shape[-1]
    r, bits = (x.repeat_interleave(size, -1) for x in reciprocals(b.to(torch.int32)))
    quotient = saturate16(rounding_shift(a.to(torch.int32) * r, bits - 1 + pre_shift))
    return rounding_shift(quotient * multiplier, shift).clamp(*RANGE[target]).to(target)
