"""`activation`: any function of one number, as 256 straight lines between 257 knots.

    i = (x >> 8) + 128,  f = x & 255
    y = saturate((T[i] · 256 + (T[i+1] - T[i]) · f + half) >> shift)

`T[i]` is the function at `x = 256 (i - 128)`, so that 0 is a knot: what bends there (ReLU) is exact. With shift 8 a
knot is in steps of the result, with shift 15 in Q7 of them: the result differs from the function of the same integer by
half a step for the rounding of the result, half a unit of the knots, and what a line is off: `h² |f''| / 8` for knots
`h` apart. Every product fits 26 bits, so there is one rounding, and no table of 65536 entries in a kernel's cache.
"""

import torch
from torch import Tensor

from intvit.dialect.arithmetic import RANGE, rounding_shift
from intvit.dialect.operation import dtype_named, operation, require, require_dtype
from intvit.ranges import Operand, Range, Ranges

KNOTS = 257
STEP_BITS = 8
"""Integers between knots: `2^8`."""
FIRST = -128
"""The number of steps at which the first knot lies."""


def interpolated(x: Tensor, table: Tensor) -> Tensor:
    """The lines between the knots at int16 `x`, times 256, int32."""
    wide, knots = x.to(torch.int32), table.to(torch.int32)
    index = (wide >> STEP_BITS) - FIRST
    low, high = knots[index], knots[index + 1]
    return (low << STEP_BITS) + (high - low) * (wide & ((1 << STEP_BITS) - 1))


def _check(x: Tensor, table: Tensor, shift: int, dtype: str) -> Tensor:
    require_dtype("x", x, torch.int16)
    require_dtype("table", table, torch.int16)
    require(list(table.shape) == [KNOTS], f"table must have {KNOTS} entries, not {list(table.shape)}")
    require(0 <= shift <= 30, f"shift must be in 0..30, not {shift}")
    require(dtype in ("int8", "int16"), f"dtype must be int8 or int16, not {dtype!r}")
    return x.new_empty(x.shape, dtype=dtype_named(dtype))


def _ranges(x: Operand, table: Tensor, shift: int, dtype: str) -> Ranges:
    reached = table[(x.low >> STEP_BITS) - FIRST : (x.high >> STEP_BITS) - FIRST + 2].to(torch.int32)
    lines = Range(int(reached.min()), int(reached.max())) * (1 << STEP_BITS)
    slopes = reached.diff()
    climbs = Range(int(slopes.min()), int(slopes.max())) * Range(0, (1 << STEP_BITS) - 1)
    return Ranges(
        lines.rounding_shift(shift).clamp(*RANGE[dtype_named(dtype)]),
        {"climb": climbs, "line": lines.union(lines + Range(0, (1 << shift) >> 1))},
    )


@operation(check=_check, ranges=_ranges)
def activation(x: Tensor, table: Tensor, shift: int, dtype: str) -> Tensor:
    """A function of int16 `[B, T, C]`, as int8 or int16; `table` int16 `[257]`."""
    target = dtype_named(dtype)
    return rounding_shift(interpolated(x, table), shift).clamp(*RANGE[target]).to(target)
