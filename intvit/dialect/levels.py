"""`levels`: 8-bit integers on fewer levels, from a table.

    y = T[x + 128]

This is how activations of fewer than 8 bits are represented. An int8 tensor takes at most as many values as the table
has, `2^bits` of them, and stays int8, so that every product behind it is the int8 product that it was: one kernel
serves all widths, and the levels need not be equally far apart. (AdaLog, arXiv:2407.12951, brings its logarithmic codes
back by tables too.) Equal steps are `intvit.levels.uniform_levels`.
"""

import torch
from torch import Tensor

from intvit.dialect.operation import operation, require, require_dtype
from intvit.levels import ENTRIES, FIRST, looked_up
from intvit.ranges import Operand, Range, Ranges


def _check(x: Tensor, table: Tensor) -> Tensor:
    require_dtype("x", x, torch.int8)
    require_dtype("table", table, torch.int8)
    require(list(table.shape) == [ENTRIES], f"table must have {ENTRIES} entries, not {list(table.shape)}")
    return x.new_empty(x.shape)


def _ranges(x: Operand, table: Tensor) -> Ranges:
    reached = table[x.low - FIRST : x.high - FIRST + 1]
    return Ranges(Range(int(reached.min()), int(reached.max())))


@operation(check=_check, ranges=_ranges)
def levels(x: Tensor, table: Tensor) -> Tensor:
    """The level of each integer of int8 `[B, T, C]`, int8; `table` int8 `[256]`."""
    return looked_up(x, table)
