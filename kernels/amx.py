"""AMX: its instructions on tiles, and the matrix product with constant weights, as `product` in every bit.

    y[r, n] = epilogue(sum_k x[r, k] * w[n, k])

A task is a block of 32 rows and some panels of 32 columns: four tiles of 16 x 16 sums, which begin with the bias (a row
that is loaded sixteen times, stride 0), and over K two tiles of rows and two of weights, 64 deep, for four products.
The loads of a step take half the time of its products (Intel 64 and IA-32 Architectures Optimization Reference Manual,
20.5.5), those ahead of the weights another quarter. The weights lie as for `vpdpbusd`: four neighbours in K of each of
32 columns in a row of 128 bytes, which is two tiles side by side. Both operands are signed (`tdpbssd`), so nothing is
made up for in the bias.

The sums of a panel go to memory and from there through the epilogue, some rows at a time, between which lie the
products of the next panel: tiles and vectors have units of their own, and for K = 384 the epilogue of a block takes as
long as its products (24 instructions of 16 cycles). Not timed: there was no such machine.

The rows are copied once per task, K up to a multiple of 64: a tile has 16 whole rows, and nothing is read outside the
tensors. A block with at most 16 rows left computes one row of tiles. Tiles are loaded from memory alone, so a panel of
weights of 4 bits is unpacked there first, once for the rows of the task.
"""

from __future__ import annotations

from itertools import product as pairs_of

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import LINE, Buffer, Expr, let, load, prefetch, store
from intvit.kernels.finish import Finish
from intvit.kernels.function import registers, scratch
from intvit.kernels.isa import TILE_DEPTH, TILE_ROWS, Isa
from intvit.kernels.pack import round_up
from intvit.kernels.tile import add_start, columns_of, runs

BLOCK = 2 * TILE_ROWS
"""Rows of a task, and columns of a panel."""
FINISHED = 8
"""Rows that go through the epilogue together."""
AHEAD = 1 << 13
"""Bytes of packed weights between what is multiplied and what the caches are asked for: 32 are multiplied a cycle."""


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


def store_tile(tile: int, buffer: Buffer, index: tuple[Expr, ...], stride: int) -> None:
    """16 rows of 64 bytes, `stride` bytes apart."""
    instruction("tilestored64", tile, T.address_of(buffer[index]), tirx.IntImm("int64", stride))


def release() -> None:
    """This thread is done with its tiles, which the system need not keep for it."""
    instruction("tilerelease")


def copy_row(x: Buffer, row: Expr, column: Expr, left: Buffer, start: Expr, k: int) -> None:
    """`k` int8 of a row from `column` on, and zeros up to a whole tile, from `start` on."""
    whole = k // LINE * LINE
    if whole:
        with T.serial(whole // LINE) as i:
            store(left, (start + i * LINE,), load(x, (row, column + i * LINE), LINE))
    for offset, lanes in runs(k - whole, LINE):
        store(left, (start + (whole + offset),), load(x, (row, column + (whole + offset)), lanes))
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
    stride = round_up(k, TILE_DEPTH) + LINE  # rows do not share cache sets
    left = scratch((BLOCK * stride,), "int8")  # flat: TVM would drop the columns that only tiles read
    with T.serial(BLOCK) as r:
        copy_row(x, let(tirx.min(first + r, rows - 1)), 0, left, r * stride, k)
    configure()
    Tiles(w, left, stride, first, rows, finish, bits).multiply(panels)
    release()


class Tiles:
    """Sums of a block of rows with panels, in tiles 0 to 3: two for the first 16 rows, two for the others."""

    def __init__(
        self, w: Buffer, left: Buffer, stride: int, first: Expr, rows: Expr, finish: Finish, bits: int
    ) -> None:
        self.w, self.left, self.stride, self.finish, self.spare = w, left, stride, finish, 8 - bits
        self.first, self.rows, self.whole = first, rows, first + TILE_ROWS < rows
        self.steps = (stride - LINE) // TILE_DEPTH
        self.start, self.sums = scratch((2 * TILE_ROWS,), "int32"), scratch((BLOCK * BLOCK,), "int32")
        self.right = scratch((self.steps * TILE_DEPTH * BLOCK,), "int8") if bits == 4 else None

    def multiply(self, panels: tuple[Expr, Expr]) -> None:
        """All panels: while the sums of one go through the epilogue, those of the next grow."""
        begin, end = panels
        parts = let((tirx.min(self.rows - self.first, BLOCK) + (FINISHED - 1)) // FINISHED)
        share = -(-self.steps * FINISHED // BLOCK)  # steps beside a part of the epilogue
        self.begin(begin)
        self.add_steps(begin, 0, self.steps)
        with T.serial(end - begin) as j:
            panel = let(begin + j)
            following = let(tirx.min(panel + 1, end - 1))
            steps = let(tirx.Select(following > panel, tirx.const(self.steps, "int64"), tirx.const(0, "int64")))
            self.keep()
            with T.If(following > panel), T.Then():
                self.begin(following)
            with T.serial(parts) as part:
                done, due = (let(tirx.min((part + i) * share, steps)) for i in (0, 1))
                self.add_steps(following, done, due - done)
                self.finish_rows(part, panel)
            done = let(tirx.min(parts * share, steps))
            self.add_steps(following, done, steps - done)

    def begin(self, panel: Expr) -> None:
        """Tiles of what the sums of a panel begin with, and its weights where they are products' operands."""
        for v, column in enumerate(self.columns(panel)):
            nothing = tirx.const(0, f"int32x{TILE_ROWS}")
            store(self.start, (v * TILE_ROWS,), nothing if self.spare or column is None else column)
            for half in range(2):
                load_tile(2 * half + v, self.start, (v * TILE_ROWS,), 0)
        if self.right is not None:
            unpack(self.w, panel, self.right, self.steps * TILE_DEPTH, self.finish.isa)

    def columns(self, panel: Expr) -> list[Expr | None]:
        """What sums begin with, as two vectors."""
        return [self.finish.start(panel * BLOCK + v * TILE_ROWS) for v in range(2)]

    def add_steps(self, panel: Expr, first: Expr, count: Expr) -> None:
        """Products of some steps of K, 64 deep each, onto the sums."""
        with T.serial(count) as i:
            s = let(first + i)
            for v in range(2):
                if self.right is None:
                    load_tile(6 + v, self.w, (panel, s * TILE_ROWS, v * LINE), 2 * LINE)
                else:
                    load_tile(6 + v, self.right, (s * (TILE_DEPTH * BLOCK) + v * LINE,), 2 * LINE)
            self.add(0, s)
            with T.If(self.whole), T.Then():
                self.add(1, s)
                if self.right is None:  # fewer rows take no longer than loads as they are
                    for row, v in pairs_of(range(TILE_ROWS), range(2)):
                        prefetch(self.w, (panel, s * TILE_ROWS + (AHEAD // (2 * LINE) + row), v * LINE))

    def add(self, half: int, s: Expr) -> None:
        """A step of 16 rows and both tiles of weights."""
        load_tile(4 + half, self.left, (half * TILE_ROWS * self.stride + s * TILE_DEPTH,), self.stride)
        for v in range(2):
            instruction("tdpbssd", 2 * half + v, 4 + half, 6 + v)

    def keep(self) -> None:
        """The sums in memory, where the epilogue takes them from."""
        for half, v in pairs_of(range(2), range(2)):
            store_tile(2 * half + v, self.sums, (half * TILE_ROWS * BLOCK + v * TILE_ROWS,), 2 * LINE)

    def finish_rows(self, part: Expr, panel: Expr) -> None:
        """Some rows of kept sums through the epilogue."""
        held = [registers(2, TILE_ROWS) for _ in range(FINISHED)]
        lines = []
        for r, row in enumerate(held):
            lines.append(let(tirx.min(self.first + part * FINISHED + r, self.rows - 1)))
            at = let(lines[-1] - self.first)
            for v, register in enumerate(row):
                store(register, (0,), load(self.sums, (at * BLOCK + v * TILE_ROWS,), TILE_ROWS))
        if self.spare:
            add_start(held, self.columns(panel), self.spare, self.finish.isa)
        self.finish.tile(held, lines, panel)
