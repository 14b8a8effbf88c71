"""The matrix product with constant weights on AMX tiles, as `product` in every bit.

    y[r, n] = epilogue(sum_k x[r, k] * w[n, k])

A task is some tiles of 16 rows and some panels of 32 columns. Two tiles of rows and a panel have four tiles of 16 x 16
sums, which begin with the bias (a row that is loaded sixteen times, stride 0); over K two tiles of rows and two of
weights, 64 deep, are loaded for four products, in half their time (Intel 64 and IA-32 Architectures Optimization
Reference Manual, 20.5.5). The weights lie as for `vpdpbusd`: four neighbours in K of each of 32 columns in a row of 128
bytes, which is two tiles side by side. Both operands are signed (`tdpbssd`), so nothing is made up for in the bias.

All rows of the task meet a panel before the next one: a core reads weights from L3 at 9 bytes a cycle (Emerald Rapids,
one stream) where two tiles of rows use 32, so each pair of tiles asks for its share of the next panel, into L2 (of
weights of 8 bits). Tiles of rows are loaded from the tensor itself, the last one higher up, where it ends with the
tensor (a row that it shares with the tile before it is computed twice and stored once). What a tile reads behind its
rows is of other rows, and meets the zeros that pad the weights. Only where the tensor ends too early for that are its
last rows copied.

The sums of a panel go to memory and from there through the epilogue, some rows at a time, between which lie the next
products: tiles and vectors have units of their own. Tiles are loaded from memory alone, so a panel of weights of 4 bits
is unpacked there first.

Not timed, for want of a machine: the order was chosen by a model of its memory traffic (`bench/tile_model.c`).
"""

from __future__ import annotations

from itertools import product as pairs_of

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.amx import configure, copy_row, instruction, load_tile, release, store_tile
from intvit.kernels.arith import LINE, Buffer, Expr, let, load, prefetch, store
from intvit.kernels.finish import Finish
from intvit.kernels.function import kept, registers, scratch
from intvit.kernels.isa import TILE_DEPTH, TILE_ROWS, Isa
from intvit.kernels.pack import round_up
from intvit.kernels.tile import add_start, columns_of, even_blocks

PANEL = 2 * TILE_ROWS
"""Columns of a panel, and rows whose sums are in tiles at once."""
MOST_TILES = 12
"""Tiles of rows of a task: its rows and a panel stay in L2."""
FINISHED = 8
"""Rows that go through the epilogue together."""


def rows_of_task(tokens: int) -> int:
    """Rows of a task: whole tiles, a pair at least, and so many that two threads share all rows."""
    tiles = -(-tokens // TILE_ROWS)
    return TILE_ROWS * max(2, even_blocks(tiles, min(MOST_TILES, -(-tiles // 2))))


def multiply(
    x: Buffer, w: Buffer, first: Expr, most: int, panels: tuple[Expr, Expr], k: int, finish: Finish, bits: int
) -> None:
    """Rows `first` to `first + most - 1`, those that exist, and a range of panels of weights of so many bits."""
    rows = TileRows(x, first, most, k)
    configure()
    Products(rows, w, finish, bits).multiply(panels)
    release()


class TileRows:
    """The rows of a task as tiles: at most `most` from row `first` of the tensor on."""

    def __init__(self, x: Buffer, first: Expr, most: int, k: int) -> None:
        self.x, self.first, self.all, self.k = x, first, x.shape[0], k
        self.steps = -(-k // TILE_DEPTH)
        self.tiles = kept((tirx.min(self.all - first, most) + (TILE_ROWS - 1)) // TILE_ROWS)
        self.pairs = let((self.tiles + 1) // 2)
        beyond = self.steps * TILE_DEPTH - k
        self.needed = TILE_ROWS + -(-beyond // k)  # rows that a tile reads, the last ones in part
        self.stride = self.steps * TILE_DEPTH + LINE  # rows do not share cache sets
        copies = round_up(self.needed, TILE_ROWS)
        self.last = scratch((copies * self.stride,), "int8")  # flat: TVM would drop the columns that only tiles read
        self.first_of_last = let(tirx.max(self.all - copies, 0))
        with T.If(self.is_copied(self.top(self.tiles - 1))), T.Then(), T.serial(copies) as r:
            copy_row(x, let(tirx.min(self.first_of_last + r, self.all - 1)), 0, self.last, r * self.stride, k)

    def top(self, tile: Expr) -> Expr:
        """The row of the tensor that is first in a tile."""
        return kept(tirx.max(tirx.min(self.first + tile * TILE_ROWS, self.all - TILE_ROWS), 0))

    def is_copied(self, top: Expr) -> Expr:
        """Whether the tensor ends before what a tile reads."""
        return top + self.needed > self.all

    def load(self, number: int, top: Expr, s: Expr) -> None:
        """Step `s` of the 16 rows from `top` on into a tile."""
        with T.If(self.is_copied(top)):
            with T.Then():
                row = top - self.first_of_last
                load_tile(number, self.last, (row * self.stride + s * TILE_DEPTH,), self.stride)
            with T.Else():
                load_tile(number, self.x, (top, s * TILE_DEPTH), self.k)


class Products:
    """Sums of a pair of tiles of rows with a panel, in tiles 0 to 3: two for the first 16 rows, two for the others."""

    def __init__(self, rows: TileRows, w: Buffer, finish: Finish, bits: int) -> None:
        self.rows, self.w, self.finish, self.spare, self.steps = rows, w, finish, 8 - bits, rows.steps
        self.start, self.sums = scratch((PANEL,), "int32"), scratch((PANEL * PANEL,), "int32")
        self.right = scratch((self.steps * TILE_DEPTH * PANEL,), "int8") if bits == 4 else None

    def multiply(self, panels: tuple[Expr, Expr]) -> None:
        """All panels: while the sums of a pair go through the epilogue, those of the next one grow."""
        begin, end = panels
        none = tirx.const(0, "int64")
        share = -(-self.steps * FINISHED // PANEL)  # steps beside a part of the epilogue
        self.begin(begin, none)
        self.add_steps(begin, none, 0, self.steps)
        with T.serial(end - begin) as j, T.serial(self.rows.pairs) as pair:
            panel, after = let(begin + j), let(pair + 1)
            turns = after == self.rows.pairs
            following, other = kept(tirx.Select(turns, panel + 1, panel)), kept(tirx.Select(turns, none, after))
            steps = kept(tirx.Select(following < end, tirx.const(self.steps, "int64"), none))
            self.keep()
            with T.If(following < end), T.Then():
                self.begin(following, other)
            parts = let(tirx.min(self.rows.tiles - 2 * pair, 2) * (TILE_ROWS // FINISHED))
            with T.serial(parts) as part:
                done, due = (let(tirx.min((part + i) * share, steps)) for i in (0, 1))
                self.add_steps(following, other, done, due - done)
                self.finish_rows(pair, part, panel)
            done = let(tirx.min(parts * share, steps))
            self.add_steps(following, other, done, steps - done)

    def begin(self, panel: Expr, pair: Expr) -> None:
        """Tiles of what the sums of a panel begin with, and its weights where they are products' operands."""
        for v, column in enumerate(self.columns(panel)):
            nothing = tirx.const(0, f"int32x{TILE_ROWS}")
            store(self.start, (v * TILE_ROWS,), nothing if self.spare or column is None else column)
            for half in range(2):
                load_tile(2 * half + v, self.start, (v * TILE_ROWS,), 0)
        if self.right is not None:
            with T.If(pair == 0), T.Then():
                unpack(self.w, panel, self.right, self.steps * TILE_DEPTH, self.finish.isa)

    def columns(self, panel: Expr) -> list[Expr | None]:
        """What sums begin with, as two vectors."""
        return [self.finish.start(panel * PANEL + v * TILE_ROWS) for v in range(2)]

    def add_steps(self, panel: Expr, pair: Expr, first: Expr, count: Expr) -> None:
        """Products of some steps of K, 64 deep each, onto the sums."""
        whole = let(2 * pair + 1 < self.rows.tiles)
        tops = [self.rows.top(2 * pair + half) for half in range(2)]
        asked = [let((pair + i) * TILE_ROWS // self.rows.pairs) for i in range(2)]
        with T.serial(count) as i:
            s = let(first + i)
            for v in range(2):
                if self.right is None:
                    load_tile(6 + v, self.w, (panel, s * TILE_ROWS, v * LINE), 2 * LINE)
                else:
                    load_tile(6 + v, self.right, (s * (TILE_DEPTH * PANEL) + v * LINE,), 2 * LINE)
            self.add(0, tops[0], s)
            with T.If(whole), T.Then():
                self.add(1, tops[1], s)
            if self.right is None:
                with T.serial(asked[1] - asked[0]) as row:
                    for v in range(2):
                        prefetch(self.w, (panel + 1, s * TILE_ROWS + (asked[0] + row), v * LINE), nearest=2)

    def add(self, half: int, top: Expr, s: Expr) -> None:
        """A step of 16 rows and both tiles of weights."""
        self.rows.load(4 + half, top, s)
        for v in range(2):
            instruction("tdpbssd", 2 * half + v, 4 + half, 6 + v)

    def keep(self) -> None:
        """The sums in memory, where the epilogue takes them from."""
        for half, v in pairs_of(range(2), range(2)):
            store_tile(2 * half + v, self.sums, (half * TILE_ROWS * PANEL + v * TILE_ROWS,), 2 * LINE)

    def finish_rows(self, pair: Expr, part: Expr, panel: Expr) -> None:
        """Some rows of kept sums through the epilogue, where they are not all another tile's or past the end."""
        half = let(part // (TILE_ROWS // FINISHED))
        tile = let(2 * pair + half)
        top, least = self.rows.top(tile), let(self.rows.first + tile * TILE_ROWS)
        first = let(top + part % (TILE_ROWS // FINISHED) * FINISHED)
        with T.If(tirx.all(first + FINISHED > least, first < self.rows.all)), T.Then():
            held = [registers(2, TILE_ROWS) for _ in range(FINISHED)]
            lines = [let(tirx.max(tirx.min(first + r, self.rows.all - 1), least)) for r in range(FINISHED)]
            for line, row in zip(lines, held, strict=True):
                at = let(half * TILE_ROWS + line - top)
                for v, register in enumerate(row):
                    store(register, (0,), load(self.sums, (at * PANEL + v * TILE_ROWS,), TILE_ROWS))
            if self.spare:
                add_start(held, self.columns(panel), self.spare, self.finish.isa)
            self.finish.tile(held, lines, panel)


def unpack(w: Buffer, panel: Expr, right: Buffer, depth: int, isa: Isa) -> None:
    """A panel of weights of 4 bits as the operands of tiles: as weights of 8 bits lie, 16 times as large."""
    with T.serial(depth // (2 * isa.neighbours)) as s:
        for v in range(2):
            both = let(load(w, (panel, s, v * LINE), LINE))
            for half in range(2):
                store(right, ((s * 2 + half) * (2 * LINE) + v * LINE,), columns_of(both, 4, half, isa))
