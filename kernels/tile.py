"""The register tile that the matrix kernels share: widened rows, and rows x vectors of sums that stay in registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, let, load, store
from intvit.kernels.function import registers
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
    """`visit(column, lanes)` over all columns: whole vectors, then one column at a time."""
    whole = count // isa.lanes
    if whole:
        with T.serial(whole) as i:
            visit(let(i * isa.lanes), isa.lanes)
    if count % isa.lanes:
        with T.serial(count % isa.lanes) as i:
            visit(let(whole * isa.lanes + i), 1)


def widen_row(x: Buffer, start: tuple[Expr, ...], wide: Buffer, r: Expr, k: int, isa: Isa) -> None:
    """`k` int8 from `start` on as left operands in row `r` of `wide`, with zeros up to the steps of the dot product."""
    *outer, column = start
    chunk = isa.lanes * 4 // isa.itemsize
    whole = k // chunk * chunk
    if whole:
        with T.serial(whole // chunk) as i:
            store(wide, (r, i * chunk), isa.left(load(x, (*outer, column + i * chunk), chunk)))
    for offset, lanes in runs(k - whole, chunk):
        store(wide, (r, whole + offset), isa.left(load(x, (*outer, column + (whole + offset)), lanes)))
    for pad in range(k, max(2, -(-k // isa.group)) * isa.group):
        store(wide, (r, pad), tirx.const(isa.zero, isa.element))


def registers_from(start: Sequence[Expr | None], rows: int, isa: Isa) -> list[list[Buffer]]:
    """Sums of `rows` rows and `len(start)` vectors of columns, each row beginning with `start` (`None`: zero)."""
    sums = [registers(len(start), isa.lanes) for _ in range(rows)]
    for v, value in enumerate(start):
        first = tirx.const(0, f"int32x{isa.lanes}") if value is None else let(value)
        for row in sums:
            store(row[v], (0,), first)
    return sums


def add_products(sums: list[list[Buffer]], row: Callable[[int], Expr], columns: Sequence[Expr], isa: Isa) -> None:
    """One step of the dot product: `sums[r][v] += row(r) . columns[v]`, `group` operands of each."""
    bound = [let(column) for column in columns]
    for r, accumulators in enumerate(sums):
        a = let(isa.repeat(row(r)))
        for accumulator, column in zip(accumulators, bound, strict=True):
            store(accumulator, (0,), isa.dot(load(accumulator, (0,), isa.lanes), a, column))
