"""Products of rows with rows, both computed: int8 a x int8 b -> epilogue, in groups (`intvit.dialect.product`).

    y[g, m, n] = epilogue(sum_k a[g, m, k] * b[g, n, k])

A task is a part of a group, or some small groups. It turns its rows of `b` once, so that a vector has a column of the
result in each lane (`turned`), and then goes on like `product`: rows of `a` as left operands, a tile of sums in
registers over the whole of K, the tile through the epilogue. Rows and columns past the end repeat the last one and are
not stored. Sums of an unsigned left operand begin with what its 128 adds to them, worked out when `b` is turned.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, let, load, store
from intvit.kernels.epilogue import Epilogue
from intvit.kernels.finish import Finish, operand_tensors
from intvit.kernels.function import Tensor, function, registers, scratch, symbol
from intvit.kernels.isa import Isa
from intvit.kernels.pack import round_up
from intvit.kernels.product import LEAST_TASK, TASKS, most_tile_rows
from intvit.kernels.tile import add_products, even_blocks, registers_from, row_stride, widen_row
from intvit.kernels.turned import add_zeros, right_operand, step_dtype, turn

MOST_TURNED = 1 << 18  # bytes of turned rows of a task
VECTORS = (2, 3, 1)  # of a panel, the first of the best


@dataclass(frozen=True)
class Groups:
    """Sizes of a product: of each group `rows` times `columns` sums over `depth`; what it is cut into."""

    groups: int
    rows: int
    columns: int
    depth: int
    cpu: Isa

    @property
    def multiply_adds(self) -> int:
        """Of one batch element."""
        return self.groups * self.work

    @property
    def work(self) -> int:
        return self.rows * self.columns * self.depth

    @cached_property
    def isa(self) -> Isa:
        """The CPU with panels of as many vectors as waste least: a step loads them, and repeats an element a row."""
        vector = replace(self.cpu.vector, packed=None)

        def cost(vectors: int) -> int:
            return -(-self.columns // (vectors * vector.lanes)) * (4 * vectors + 1)

        return replace(vector, vectors=min(VECTORS, key=cost))

    @property
    def panels(self) -> int:
        return -(-self.columns // self.isa.panel)

    @cached_property
    def tile(self) -> int:
        """Rows of a register tile."""
        return even_blocks(self.rows, most_tile_rows(self.depth, self.isa), ways=1)

    @property
    def tiles(self) -> int:
        return -(-self.rows // self.tile)

    @property
    def steps(self) -> int:
        """Of the dot product."""
        return max(2, -(-self.depth // self.isa.group))

    @property
    def turned_steps(self) -> int:
        """Steps of whole square blocks."""
        return round_up(self.steps, self.isa.lanes)

    @cached_property
    def splits(self) -> tuple[int, int]:
        """In how many parts the panels and the tiles of a group are tasks of their own."""
        panel_bytes = self.turned_steps * self.isa.panel * 4
        least = -(-self.panels // max(1, MOST_TURNED // panel_bytes))
        choices = [(p, t) for p in range(least, self.panels + 1) for t in range(1, self.tiles + 1)]
        worth = [(p, t) for p, t in choices if p * t <= max(1, self.work // LEAST_TASK, least)] or choices[:1]
        enough = [(p, t) for p, t in worth if self.groups * p * t >= TASKS]

        def slowest(choice: tuple[int, int]) -> tuple[int, int]:
            """Work of the busier one of two threads: turning a panel takes as long as half a tile of it."""
            p, t = choice
            panels, tiles = -(-self.panels // p), -(-self.tiles // t)
            return -(-self.groups * p * t // 2) * panels * (2 * tiles + 1), p * t

        return min(enough or [max(worth, key=lambda choice: choice[0] * choice[1])], key=slowest)

    @property
    def together(self) -> int:
        """Groups of a task."""
        return max(1, min(LEAST_TASK // self.work, self.groups // TASKS))


def row_products(sizes: Groups, epilogue: Epilogue, *, name: str = "row_products") -> tirx.PrimFunc:
    """Inputs: a int8 [batch * groups * rows, depth], b int8 [batch * groups * columns, depth], the epilogue's operands.

    Output [batch * groups * rows, columns] of the epilogue's type.
    """
    isa, across, down = sizes.isa, *sizes.splits
    rows, other_rows = symbol("rows"), symbol("other_rows")

    def body(a: Buffer, b: Buffer, *rest: Buffer) -> None:
        finish = Finish(epilogue, rest[:-1], rest[-1], sizes.columns, isa)
        groups = rows // sizes.rows
        with T.parallel((groups + (sizes.together - 1)) // sizes.together * (across * down)) as task:
            first = let(task // (across * down) * sizes.together)
            panels = _part(task % across, across, sizes.panels)
            tiles = _part(task // across % down, down, sizes.tiles)
            turned = Turned(sizes, -(-sizes.panels // across))
            with T.serial(tirx.min(groups - first, sizes.together)) as i:
                group = let(first + i)
                turned.fill(b, group, panels)
                with T.serial(tiles[1] - tiles[0]) as j:
                    _tile(a, group, let((tiles[0] + j) * sizes.tile), turned, panels, finish, sizes)

    tensors = [
        Tensor("a", (rows, sizes.depth), "int8"),
        Tensor("b", (other_rows, sizes.depth), "int8"),
        *operand_tensors(epilogue, rows, sizes.columns, sizes.cpu.vector),
        Tensor("y", (rows, sizes.columns), epilogue.dtype),
    ]
    return function(name, tensors, body)


def _part(index: Expr, parts: int, count: int) -> tuple[Expr, Expr]:
    """The beginning and the end of one of the even parts of `count`."""
    return let(index * count // parts), let((index + 1) * count // parts)


def _tile(
    a: Buffer, group: Expr, first: Expr, turned: Turned, panels: tuple[Expr, Expr], finish: Finish, sizes: Groups
) -> None:
    """All panels of a tile of rows."""
    isa = sizes.isa
    wide = scratch((sizes.tile, row_stride(sizes.depth, isa)), isa.element)

    def line(r: Expr) -> Expr:
        return let(group * sizes.rows + tirx.min(first + r, sizes.rows - 1))

    with T.serial(sizes.tile) as r:
        widen_row(a, (line(r), 0), wide, r, sizes.depth, isa)
    lines = [line(r) for r in range(sizes.tile)]
    with T.serial(panels[1] - panels[0]) as j:
        sums = registers_from(turned.start(j), sizes.tile, isa)
        with T.serial(sizes.steps) as s:
            add_products(sums, lambda r: load(wide, (r, s * isa.group), isa.group), turned.columns(j, s), isa)
        finish.tile(sums, lines, let(panels[0] + j))


class Turned:
    """Rows of `b` in memory of a task, turned: `[panels, steps, vectors * lanes]` of `group` neighbours in K each."""

    def __init__(self, sizes: Groups, panels: int) -> None:
        self.sizes, self.isa = sizes, sizes.isa
        isa = self.isa
        self.memory = scratch((panels, sizes.turned_steps, isa.panel), step_dtype(isa))
        self.starts = scratch((panels, isa.panel), "int32") if isa.zero else None
        self.row = scratch((isa.lanes, sizes.turned_steps * isa.group), isa.signed.element)

    def fill(self, b: Buffer, group: Expr, panels: tuple[Expr, Expr]) -> None:
        """With the rows of a group that some panels have as columns."""
        isa, columns = self.isa, self.sizes.columns
        with T.serial((panels[1] - panels[0]) * isa.vectors) as block:
            panel, lane = let(block // isa.vectors), let(block % isa.vectors * isa.lanes)
            with T.serial(isa.lanes) as t:
                column = tirx.min(panels[0] * isa.panel + block * isa.lanes + t, columns - 1)
                widen_row(b, (let(group * columns + column), 0), self.row, t, self.sizes.depth, isa.signed)
            turn(self.row, self.sizes.turned_steps, self.memory, lambda s: (panel, s, lane), isa)
            if self.starts is not None:
                store(self.starts, (panel, lane), self._correction(panel, lane))

    def _correction(self, panel: Expr, lane: Expr) -> Expr:
        """What sums of a vector of columns begin with, to undo the zero of the left operand."""
        isa = self.isa
        total = registers(1, isa.lanes)[0]
        store(total, (0,), tirx.const(0, f"int32x{isa.lanes}"))
        add_zeros(total, lambda s: self._column(panel, s, lane), self.sizes.steps, isa)
        return 0 - load(total, (0,), isa.lanes)

    def _column(self, panel: Expr, s: Expr, lane: Expr) -> Expr:
        return right_operand(self.memory, (panel, s, lane), self.isa)

    def columns(self, panel: Expr, s: Expr) -> list[Expr]:
        """Right operands of a step."""
        return [self._column(panel, s, v * self.isa.lanes) for v in range(self.isa.vectors)]

    def start(self, panel: Expr) -> list[Expr | None]:
        """What the sums of a panel begin with."""
        places = [v * self.isa.lanes for v in range(self.isa.vectors)]
        return [None if self.starts is None else load(self.starts, (panel, at), self.isa.lanes) for at in places]
