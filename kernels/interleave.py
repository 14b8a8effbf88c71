"""How lanes are put together: some of several vectors, int32 vectors as one of int16, rows as columns."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Expr, lanes_of, let, widen
from intvit.kernels.int16 import INT16, INT32, concat, packed
from intvit.kernels.isa import Isa


def shuffled(vectors: list[Expr], order: list[int]) -> Expr:
    """Chosen lanes of vectors that are numbered one after the other."""
    return tirx.Shuffle(vectors, [T.int32(lane) for lane in order])


def join(parts: list[Expr]) -> Expr:
    """One or two vectors of int32 lanes within int16 as one of int16, lane by lane (little-endian)."""
    if len(parts) == 1:
        return widen(parts[0], INT16)
    low, high = parts
    return tirx.reinterpret(f"{INT16}x{2 * lanes_of(low)}", (low & 0xFFFF) | (high << 16))


def join_bytes(parts: list[Expr]) -> Expr:
    """Four vectors of int8 lanes as one of int32, lane by lane, the first in the lowest byte (little-endian)."""
    low, *rest = [widen(part, INT32) & 0xFF for part in parts]
    for i, part in enumerate(rest, 1):
        low = low | (part << (8 * i))
    return low


def join_saturated(parts: list[Expr], isa: Isa) -> Expr:
    """`join` of whole vectors of any int32 lanes, saturated."""
    count = len(parts)
    order = [i // count + i % count * isa.lanes for i in range(count * isa.lanes)]
    return shuffled([packed(concat(parts), isa)], order)


def transposed(rows: list[Expr]) -> list[Expr]:
    """A square matrix turned, a vector a row; their number is a power of two.

    At each step pairs of rows whose numbers differ in one bit exchange the elements whose numbers differ in that bit.
    """
    size, step = len(rows), 1
    while step < size:
        low = [size + i - step if i & step else i for i in range(size)]
        high = [size + i if i & step else i + step for i in range(size)]
        pairs = [(rows[r & ~step], rows[r | step], high if r & step else low) for r in range(size)]
        rows = [let(shuffled([first, second], order)) for first, second, order in pairs]
        step *= 2
    return rows
