"""`softmax`: rows of scores to their weights in Q15, Shiftmax by itself.

    d = x - rowmax(x)                                  int32, <= 0
    t = requantized(d)                                 log2 units, 8 fraction bits: the scale of `x`, that of the
                                                       softmax and log2(e) are one dyadic number
    e = exponentials(t, bits), s = Σe                  `attention` has both
    r = min(2^29 // s15, 2^15 - 1)                     s15 = s scaled to 15 bits, the one division of a row
    y = min(e r >> (bits(s) - 1), 2^15 - 1)            e / s in Q15; the shift rounds

`e r` is below 2^30 for every row, and half a unit of the last shift at most 2^29. A weight of 1 is 2^15 - 1 or one step
less, since `s15` and `r` are floored.
"""

import torch
from torch import Tensor

from intvit.dialect.arithmetic import INT16, bit_length, requantized, rounding_shift
from intvit.dialect.attention import exponentials, scale_by_floor
from intvit.dialect.operation import operation, require, require_dtype
from intvit.dialect.requantize import check_dyadic, requantized_ranges
from intvit.ranges import Operand, Range, Ranges

FRACTION = 15
"""Fraction bits of a weight."""


def softmax_bits(channels: int) -> int:
    """The widest exponentials, at most 15, whose sum over a row stays below 2^30; never less than 8."""
    return max(8, min(15, 30 - (channels - 1).bit_length()))


def reciprocal(s: Tensor) -> Tensor:
    """`2^29` over row sums of at least 128, scaled to 15 bits; at most `2^15 - 1`."""
    return ((1 << 29) // scale_by_floor(s, bit_length(s) - FRACTION)).clamp(max=INT16[1])


def _check(x: Tensor, multiplier: Tensor, pre_shift: Tensor, shift: int, bits: int) -> Tensor:
    require_dtype("x", x, torch.int16, torch.int32)
    require(x.ndim == 3, "x must be [batch, tokens, channels]")
    require(8 <= bits <= 15, f"bits must be in 8..15, not {bits}")
    check_dyadic(1, multiplier, pre_shift, shift)
    return x.new_empty(x.shape, dtype=torch.int16)


def _ranges(x: Operand, multiplier: Tensor, pre_shift: Tensor, shift: int, bits: int) -> Ranges:
    require(int(multiplier.min()) >= 0, f"the multiplier must not be negative, it is {int(multiplier.min())}")
    below = Range(x.low - x.high, 0)
    log2 = requantized_ranges(below, pre_shift, multiplier, shift)
    row_sum = Range(1 << (bits - 1), ((1 << bits) - 1) * x.shape[-1])
    rounded = Range(0, 1 << (row_sum.high.bit_length() - 2))
    return Ranges(
        Range(0, INT16[1]),
        {
            "distance": below,
            **{f"log2 {name}": found for name, found in log2.intermediates.items()},
            "row sum": row_sum,
            "weight": Range(0, ((1 << bits) - 1) * INT16[1]) + rounded,
        },
    )


@operation(check=_check, ranges=_ranges)
def softmax(x: Tensor, multiplier: Tensor, pre_shift: Tensor, shift: int, bits: int) -> Tensor:
    """int16 or int32 `[B, T, C]` to int16 weights of each row, in Q15."""
    wide = x.to(torch.int32)
    below = wide - wide.amax(-1, keepdim=True)
    e = exponentials(requantized(below, pre_shift, multiplier, shift), bits)
    s = e.sum(-1, keepdim=True, dtype=torch.int32)
    return rounding_shift(e * reciprocal(s), bit_length(s) - 1).clamp(max=INT16[1]).to(torch.int16)
