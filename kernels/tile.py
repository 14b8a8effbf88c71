"""The register tile that the matrix kernels share: widened rows, and rows x vectors of sums that stay in registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import add

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, let, like, load, store
from intvit.kernels.function import registers, scratch
from intvit.kernels.interleave import shuffled
from intvit.kernels.isa import Isa
from intvit.kernels.pack import round_up


def even_blocks(count: int, most: int, ways: int = 2) -> int:
    """Size of a block, at most `most`: of all that share `count` among `ways` threads, the one that wastes least.

    A block costs its rows and about one row more (loads, loop), so between equals the larger one wins.
    """
    if count <= most:
        return count
    sizes = range(max(1, most // 2), most + 1)
    return min(sizes, key=lambda size: (round_up(-(-count // size), ways) * (size + 1), -size))


def row_stride(k: int, isa: Isa) -> int:
    """Elements between rows of left operands: with a cache line to spare, so that rows do not share cache sets."""
    line = 64 // isa.itemsize
    return round_up(k, line) + line


def runs(count: int, most: int) -> list[tuple[int, int]]:
    """`count` neighbours as (offset, lanes): powers of two from `most` down, none past the end."""
    found, offset, lanes = [], 0, most
    while offset < count:
        while lanes > count - offset:
            lanes //= 2
        found.append((offset, lanes))
        offset += lanes
    return found


def across(count: int, isa: Isa, visit: Callable[[Expr, int], None]) -> None:
    """`visit(column, lanes)` over all columns: whole vectors, then ever smaller powers of two.

    Not single columns in a loop: LLVM 22 folds its end into a masked store and writes two bytes for one (x86-64-v4).
    """
    whole = count // isa.lanes
    if whole:
        with T.serial(whole) as i:
            visit(let(i * isa.lanes), isa.lanes)
    for offset, lanes in runs(count % isa.lanes, isa.lanes):
        visit(tirx.const(whole * isa.lanes + offset, "int64"), lanes)


def padded_depth(k: int, step: int) -> int:
    """Operands of a row of `k` for a dot product that takes `step` at a time, at least twice."""
    return max(2, -(-k // step)) * step


def widen_row(x: Buffer, start: tuple[Expr, ...], wide: Buffer, r: Expr, k: int, isa: Isa, step: int = 0) -> None:
    """`k` int8 from `start` on as left operands in row `r` of `wide`, with zeros up to whole steps.

    The dot product takes `step` operands at a time, its group by default.
    """
    *outer, column = start
    chunk = isa.lanes * 4 // isa.itemsize
    whole = k // chunk * chunk
    if whole:
        with T.serial(whole // chunk) as i:
            store(wide, (r, i * chunk), isa.left(load(x, (*outer, column + i * chunk), chunk)))
    for offset, lanes in runs(k - whole, chunk):
        store(wide, (r, whole + offset), isa.left(load(x, (*outer, column + (whole + offset)), lanes)))
    for pad in range(k, padded_depth(k, step or isa.group)):
        store(wide, (r, pad), tirx.const(isa.zero, isa.element))


def columns_of(w: Expr, bits: int, half: int, isa: Isa) -> Expr:
    """Packed weights as right operands; those of 4 bits, of one of the two steps that share their bytes, times 16.

    A nibble is a number where it ends at the top of its byte, and stays there: x86 has no shifts of bytes (LLVM makes
    `w << 4` of one of wider elements and a mask).
    """
    if bits == 4:
        w = w & like(w, -16) if half else w << like(w, 4)
    return isa.right(w)


def halves_of_pass(isa: Isa) -> tuple[tuple[int, ...], ...]:
    """Which halves of packed weights of 4 bits each pass over K takes.

    One at a time where x86 multiplies pairs and then adds: products take registers too, and sums would be spilled.
    """
    return ((0,), (1,)) if isa.group == 2 else ((0, 1),)


def registers_from(start: Sequence[Expr | None], rows: int, isa: Isa) -> list[list[Buffer]]:
    """Sums of `rows` rows and `len(start)` vectors of columns, each row beginning with `start` (`None`: zero)."""
    sums = [registers(len(start), isa.lanes) for _ in range(rows)]
    for v, value in enumerate(start):
        first = tirx.const(0, f"int32x{isa.lanes}") if value is None else let(value)
        for row in sums:
            store(row[v], (0,), first)
    return sums


def add_products(sums: list[list[Buffer]], row: Callable[[int], Expr], columns: Sequence[Expr], isa: Isa) -> None:
    """One step of the dot product: `sums[r][v] += row(r) . columns[v]`, as many neighbours as `row` gives."""
    bound = [let(column) for column in columns]
    for r, accumulators in enumerate(sums):
        a = let(isa.repeat(row(r)))
        for accumulator, column in zip(accumulators, bound, strict=True):
            store(accumulator, (0,), isa.dot(load(accumulator, (0,), isa.lanes), a, column))


def of_columns(sums: list[list[Buffer]], isa: Isa, *, whole: bool = False) -> list[list[Buffer]]:
    """Sums with a lane for each column: those of `isa.spread` neighbouring lanes added up.

    With `whole` no lane is known to be dropped: of a 512-bit `vpmaddwd` with 1 or 2 columns that are read LLVM 22 makes
    one of wrong operands.
    """
    if isa.spread == 1:
        return sums
    lanes = [list(range(i, isa.spread * isa.lanes, isa.spread)) for i in range(isa.spread)]
    found = [registers(len(row) // isa.spread, isa.lanes) for row in sums]
    for row, columns in zip(sums, found, strict=True):
        vectors = [load(in_memory(register, isa) if whole else register, (0,), isa.lanes) for register in row]
        for v, column in enumerate(columns):
            own = vectors[v * isa.spread : (v + 1) * isa.spread]
            store(column, (0,), reduce(add, (shuffled(own, order) for order in lanes)))
    return found


def in_memory(register: Buffer, isa: Isa) -> Buffer:
    """A vector of sums where LLVM cannot see what becomes of its lanes."""
    hidden = scratch((isa.lanes,), "int32", volatile=True)
    store(hidden, (0,), load(register, (0,), isa.lanes))
    return hidden


def add_start(sums: list[list[Buffer]], start: Sequence[Expr | None], spare: int, isa: Isa) -> None:
    """Sums without the `spare` zeros behind them (`columns_of`), and with what they would have begun with."""
    first = [None if value is None else let(value) for value in start]
    for row in sums:
        for register, value in zip(row, first, strict=True):
            x = load(register, (0,), isa.lanes)
            x = x >> spare if spare else x
            store(register, (0,), x if value is None else x + value)
