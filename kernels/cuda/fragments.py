"""Which elements a lane of a warp holds, and where it finds them: pure functions of the lane, on numbers or TIR.

A product of fragments is 16 rows by 8 columns by 32 int8 (`mma.m16n8k32`, PTX ISA 9.7.16.5.10). Of lane `4 g + t`:

    A, 4 registers   rows g, g + 8; bytes 4 t .. 4 t + 3, then the same 16 bytes further
    B, 2 registers   column g; bytes 4 t .. 4 t + 3, then 16 further
    C, 4 registers   rows g, g, g + 8, g + 8; columns 2 t, 2 t + 1 twice

`ldmatrix` fills registers with 8 rows of 16 bytes each, whose addresses lanes 0 to 7, 8 to 15, ... give. Weights are
packed so that what a lane holds of four products side by side, 8 columns of a row, are neighbours in the result.
"""

from __future__ import annotations

from intvit.kernels.arith import Expr

ROWS, COLUMNS, DEPTH = 16, 8, 32
CHUNK = 16
"""Bytes of a row of `ldmatrix`."""
GROUP = 32
"""Columns of four products side by side."""
NEIGHBOURS = 8
"""Columns of a group that one lane holds."""


def left_address(lane: Expr) -> tuple[Expr, Expr]:
    """Row and chunk of a 16 x 32 left fragment that a lane gives the address of."""
    return lane & 15, lane >> 4


def right_address(lane: Expr) -> tuple[Expr, Expr]:
    """The same of two right fragments, 16 columns x 32."""
    return (lane & 7) | ((lane >> 4) << 3), (lane >> 3) & 1


def result_row(lane: Expr) -> Expr:
    """Row of a lane's first two sums; of the other two 8 more."""
    return lane >> 2


def result_columns(lane: Expr) -> Expr:
    """The first of the neighbouring columns of a group that a lane holds."""
    return (lane & 3) << 3


def place(column: int) -> int:
    """Where the weights of a column are packed: column `8 t + 2 j + e` of a group as `2 t + e` of product `j`."""
    lane, rest = divmod(column % GROUP, NEIGHBOURS)
    product, element = divmod(rest, 2)
    return column // GROUP * GROUP + product * COLUMNS + 2 * lane + element


def swizzled(row: Expr, chunk: Expr, chunks: int) -> Expr:
    """Where a chunk of a row of 2, 4 or 8 lies, so that the same chunk of 8 rows is in different banks."""
    if chunks == 2:
        return chunk ^ ((row >> 2) & 1)
    return chunk ^ ((row >> 1) & 3) if chunks == 4 else chunk ^ (row & 7)


def padded(size: int, multiple: int) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple
