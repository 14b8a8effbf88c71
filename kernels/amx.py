"""Matrix product with constant weights on AMX tiles, as `product` in every bit.

    y[r, n] = epilogue(sum_k x[r, k] * w[n, k])

A task is a block of 32 rows and some panels of 32 columns: four tiles of 16 x 16 sums, which begin with the bias (a row
that is loaded sixteen times, stride 0), and over K two tiles of rows and two of weights, 64 deep, for four products.
The loads of a step take half the time of its products (Intel 64 and IA-32 Architectures Optimization Reference Manual,
20.5.5). The weights lie as for `vpdpbusd`: four neighbours in K of each of 32 columns in a row of 128 bytes, which is
two tiles side by side. Both operands are signed (`tdpbssd`), so nothing is made up for in the bias.

The rows are copied once per task, K up to a multiple of 64: a tile has 16 whole rows, and nothing is read outside the
tensors. A block with at most 16 rows left computes one row of tiles. Tiles are loaded from memory alone, so a panel of
weights of 4 bits is unpacked there first, once for the rows of the task.
"""

from __future__ import annotations

from itertools import product as pairs_of

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, let, load, prefetch, store
from intvit.kernels.finish import Finish
from intvit.kernels.function import registers, scratch
from intvit.kernels.isa import TILE_DEPTH, TILE_ROWS, Isa
from intvit.kernels.pack import round_up
from intvit.kernels.tile import add_start, columns_of, runs

BLOCK = 2 * TILE_ROWS
"""Rows of a task, and columns of a panel."""
FINISHED = 8
"""Rows that go through the epilogue together."""
LINE = 64
AHEAD = 1 << 13
"""Bytes of packed weights between what is multiplied and what the caches are asked for."""


def configure() -> None:
    """All eight tiles of this thread have 16 rows of 64 bytes (the SDM's `LDTILECFG`, palette 1)."""
    config = scratch((LINE,), "uint8")
    values = {0: 1, **{16 + 2 * t: TILE_DEPTH for t in range(8)}, **{48 + t: TILE_ROWS for t in range(8)}}
    for byte in range(LINE):
        store(config, (byte,), tirx.const(values.get(byte, 0), "uint8"))
    instruction("ldtilecfg", T.address_of(config[0]))


def instruction(name: str, *operands: Expr) -> None:
    """An AMX instruction; a Python int is the number of a tile."""
    values = [tirx.IntImm("int8", x) if isinstance(x, int) else x for x in operands]
    T.evaluate(tirx.call_llvm_intrin("void", f"llvm.x86.{name}", *values))


def load_tile(tile: int, buffer: Buffer, index: tuple[Expr, ...], stride: int) -> None:
    """16 rows of 64 bytes, `stride` bytes apart."""
    instruction("tileloadd64", tile, T.address_of(buffer[index]), tirx.IntImm("int64", stride))


def copy_row(x: Buffer, row: Expr, left: Buffer, start: Expr, k: int) -> None:
    """`k` int8 of a row, and zeros up to a whole tile, from `start` on."""
    whole = k // LINE * LINE
    if whole:
        with T.serial(whole // LINE) as i:
            store(left, (start + i * LINE,), load(x, (row, i * LINE), LINE))
    for offset, lanes in runs(k - whole, LINE):
        store(left, (start + (whole + offset),), load(x, (row, whole + offset), lanes))
    for offset, lanes in runs(round_up(k, TILE_DEPTH) - k, LINE):
        zeros = tirx.const(0, "int8" if lanes == 1 else f"int8x{lanes}")
        store(left, (start + (k + offset),), zeros)


def unpack(w: Buffer, panel: Expr, right: Buffer, depth: int, isa: Isa) -> None:
    """A panel of weights of 4 bits as the operands of tiles: as weights of 8 bits lie, 16 times as large."""
    with T.serial(depth // (2 * isa.neighbours)) as s:
        for v in range(2):
            both = let(load(w, (panel, s, v * LINE), LINE))
            for half in range(2):
                store(right, ((s * 2 + half) * (2 * LINE) + v * LINE,), columns_of(both, 4, half, isa))


def block(x: Buffer, w: Buffer, first: Expr, panels: tuple[Expr, Expr], k: int, finish: Finish, bits: int) -> None:
    """Rows `first` to `first + 31`, those that exist, and a range of panels of weights of so many bits."""
    rows = x.shape[0]
    depth = round_up(k, TILE_DEPTH)
    stride = depth + LINE  # rows do not share cache sets
    left = scratch((BLOCK * stride,), "int8")  # flat: TVM would drop the columns that only tiles read
    with T.serial(BLOCK) as r:
        copy_row(x, let(tirx.min(first + r, rows - 1)), left, r * stride, k)
    start, sums = scratch((2 * TILE_ROWS,), "int32"), scratch((BLOCK * BLOCK,), "int32")
    right = scratch((depth * BLOCK,), "int8") if bits == 4 else None
    spare = 8 - bits
    configure()
    begin, end = panels

    def multiply(halves: int) -> None:
        for v in range(2):
            for half in range(halves):
                load_tile(2 * half + v, start, (v * TILE_ROWS,), 0)
        with T.serial(depth // TILE_DEPTH) as s:
            if right is None:
                for row, v in pairs_of(range(TILE_ROWS), range(2)):
                    prefetch(w, (panel, s * TILE_ROWS + (AHEAD // (2 * LINE) + row), v * LINE))
            for v in range(2):
                if right is None:
                    load_tile(6 + v, w, (panel, s * TILE_ROWS, v * LINE), 2 * LINE)
                else:
                    load_tile(6 + v, right, (s * (TILE_DEPTH * BLOCK) + v * LINE,), 2 * LINE)
            for half in range(halves):
                load_tile(4 + half, left, (half * TILE_ROWS * stride + s * TILE_DEPTH,), stride)
                for v in range(2):
                    instruction("tdpbssd", 2 * half + v, 4 + half, 6 + v)
        for half in range(halves):
            for v in range(2):
                at = T.address_of(sums[half * TILE_ROWS * BLOCK + v * TILE_ROWS])
                instruction("tilestored64", 2 * half + v, at, tirx.IntImm("int64", 2 * LINE))

    with T.serial(end - begin) as j:
        panel = let(begin + j)
        columns = [finish.start(panel * BLOCK + v * TILE_ROWS) for v in range(2)]
        for v, column in enumerate(columns):
            zero = spare > 0 or column is None
            store(start, (v * TILE_ROWS,), tirx.const(0, f"int32x{TILE_ROWS}") if zero else column)
        if right is not None:
            unpack(w, panel, right, depth, finish.isa)
        with T.If(first + TILE_ROWS < rows):
            with T.Then():
                multiply(2)
            with T.Else():
                multiply(1)
        with T.serial((tirx.min(rows - first, BLOCK) + (FINISHED - 1)) // FINISHED) as part:
            held = [registers(2, TILE_ROWS) for _ in range(FINISHED)]
            lines = []
            for r, row in enumerate(held):
                lines.append(let(tirx.min(first + part * FINISHED + r, rows - 1)))
                for v, register in enumerate(row):
                    at = let(lines[-1] - first)
                    store(register, (0,), load(sums, (at * BLOCK + v * TILE_ROWS,), TILE_ROWS))
            if spare:
                add_start(held, columns, spare, finish.isa)
            finish.tile(held, lines, panel)
    instruction("tilerelease")
