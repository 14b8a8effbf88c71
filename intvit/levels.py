"""Tables of fewer than 256 values for 8-bit integers: activations of fewer bits in tensors that stay int8."""

from functools import cache

import torch
from torch import Tensor

ENTRIES = 256
FIRST = -128
"""The integer whose level is the first of a table."""


def looked_up(q: Tensor, table: Tensor) -> Tensor:
    """The level of each int8 integer; `table` int8 `[256]`."""
    return table[q.to(torch.int32) - FIRST]


def step_of(table: Tensor) -> int | None:
    """How far apart the levels are that `uniform_levels` made; None for any other table."""
    step = -FIRST - int(table.max())
    even = step > 0 and step & (step - 1) == 0
    return step if even and torch.equal(table, uniform_levels(9 - step.bit_length())) else None


@cache
def uniform_levels(bits: int) -> Tensor:
    """int8 `[256]`: the nearest of `2^bits` levels, `step = 2^(8 - bits)` apart and 0 among them; halves go up.

    All that lies above the last level, `128 - step`, becomes that one. Raises `ValueError` but for 1 to 8 bits.
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"levels of {bits} bits: there are those of 1 to 8")
    step, end = 1 << (8 - bits), 1 << (bits - 1)
    nearest = torch.div(torch.arange(ENTRIES) + FIRST + step // 2, step, rounding_mode="floor")
    return (nearest.clamp(-end, end - 1) * step).to(torch.int8)
