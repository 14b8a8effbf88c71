"""The register tile that the matrix kernels share: widened rows, and rows x vectors of sums that stay in registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, lanes_of, let, like, load, store, widen
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
    """`visit(column, lanes)` over all columns: whole vectors, then ever smaller powers of two.

    Not single columns in a loop: LLVM 22 folds its end into a masked store and writes two bytes for one (x86-64-v4).
    """
    whole = count // isa.lanes
    if whole:
        with T.serial(whole) as i:
            visit(let(i * isa.lanes), isa.lanes)
    for offset, lanes in runs(count % isa.lanes, isa.lanes):
        visit(tirx.const(whole * isa.lanes + offset, "int64"), lanes)


def whole_steps(k: int, neighbours: int, together: int = 1) -> int:
    """Steps of `neighbours` in K that a product of depth `k` takes, `together` at a time, at least twice."""
    return max(2, -(-k // (neighbours * together))) * together


def widen_row(x: Buffer, start: tuple[Expr, ...], wide: Buffer, r: Expr, k: int, isa: Isa, together: int = 1) -> None:
    """`k` int8 from `start` on as left operands in row `r` of `wide`, with zeros up to the steps of the dot product.

    The dot product takes `together` steps at a time.
    """
    *outer, column = start
    chunk = isa.lanes * 4 // isa.itemsize
    whole = k // chunk * chunk
    if whole:
        with T.serial(whole // chunk) as i:
            store(wide, (r, i * chunk), isa.left(load(x, (*outer, column + i * chunk), chunk)))
    for offset, lanes in runs(k - whole, chunk):
        store(wide, (r, whole + offset), isa.left(load(x, (*outer, column + (whole + offset)), lanes)))
    for pad in range(k, whole_steps(k, isa.group, together) * isa.group):
        store(wide, (r, pad), tirx.const(isa.zero, isa.element))


def left_row(x: Buffer, row: Expr, wide: Buffer, r: Expr, k: int, isa: Isa, together: int = 1) -> None:
    """A row of int8 as the left operands of a product with packed weights, zeros up to whole steps, `together` each.

    Where weights hold four neighbours and a step of the dot product takes two of 16 bits, the row's even elements lie
    in front of its odd ones: a pair of either meets the even or odd bytes of the weights (`columns_of`).
    """
    if isa.neighbours == isa.group:
        widen_row(x, (row, 0), wide, r, k, isa, together)
        return
    half = plane(k, isa, together)
    chunk = isa.lanes * isa.neighbours
    whole = k // chunk * chunk

    def split(column: Expr, at: Expr, lanes: int) -> None:
        value = let(load(x, (row, column), lanes))
        parts = even_and_odd(value) if lanes > 1 else (widen(value, isa.element), tirx.const(0, isa.element))
        for i, part in enumerate(parts):
            store(wide, (r, at + i * half), part)

    if whole:
        with T.serial(whole // chunk) as i:
            split(i * chunk, i * (chunk // 2), chunk)
    for offset, lanes in runs(k - whole, chunk):
        split(whole + offset, tirx.const((whole + offset) // 2, "int64"), lanes)
    for pad in range((k + 1) // 2, half):
        for i in range(2):
            store(wide, (r, pad + i * half), tirx.const(0, isa.element))


def plane(k: int, isa: Isa, together: int = 1) -> int:
    """Left operands of a row that are even, or odd (`left_row`)."""
    return whole_steps(k, isa.neighbours, together) * isa.group


def even_and_odd(x: Expr) -> tuple[Expr, Expr]:
    """int8 lanes, an even number, as two vectors of half as many int16."""
    pairs = let(tirx.reinterpret(f"int16x{lanes_of(x) // 2}" if lanes_of(x) > 2 else "int16", x))
    return (pairs << 8) >> 8, pairs >> 8


def columns_of(w: Expr, part: int, isa: Isa) -> Expr:
    """Packed weights of a vector of columns as right operands: all of them, or the even (0) or odd (1) ones."""
    return isa.right(w) if isa.neighbours == isa.group else even_and_odd(w)[part]


def columns_of_half(w: Expr, part: int, half: int, isa: Isa) -> Expr:
    """Packed weights of 4 bits as right operands of one of the two steps that share their bytes, times `2^spare_bits`.

    A nibble is a number where it ends at the top of its element. In elements of 8 bits it stays there, because x86 has
    no shifts of bytes (LLVM makes `w << 4` of one of wider elements and a mask). In elements of 16 bits it is shifted
    back down, which extends its sign.
    """
    if isa.group == 4:
        return w & like(w, -16) if half else w << like(w, 4)
    pairs = isa.neighbours != isa.group
    wide = let(tirx.reinterpret(f"{isa.element}x{lanes_of(w) // 2}", w) if pairs else widen(w, isa.element))
    return (wide << like(wide, 12 - 8 * part - 4 * half)) >> like(wide, 12)


def spare_bits(isa: Isa) -> int:
    """Zeros behind weights of 4 bits as operands (`columns_of_half`), and so behind the sums of their products."""
    return 4 if isa.group == 4 else 0


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
    """One step of the dot product: `sums[r][v] += row(r) . columns[v]`, `group` operands of each."""
    bound = [let(column) for column in columns]
    for r, accumulators in enumerate(sums):
        a = let(isa.repeat(row(r)))
        for accumulator, column in zip(accumulators, bound, strict=True):
            store(accumulator, (0,), isa.dot(load(accumulator, (0,), isa.lanes), a, column))


def shift_back(sums: list[list[Buffer]], start: Sequence[Expr | None], spare: int, isa: Isa) -> None:
    """Sums without the `spare` zeros behind them, and what they would have begun with (`columns_of_half`)."""
    first = [None if value is None else let(value) for value in start]
    for row in sums:
        for register, value in zip(row, first, strict=True):
            x = load(register, (0,), isa.lanes) >> spare
            store(register, (0,), x if value is None else x + value)
