"""The end of a matrix kernel: sums through the epilogue into the output, whole vectors or one column at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, lanes_of, let, load, load32, store
from intvit.kernels.epilogue import Epilogue, Operand
from intvit.kernels.function import Tensor
from intvit.kernels.isa import Isa
from intvit.kernels.pack import round_up


def operand_tensors(epilogue: Epilogue, rows: Expr, n: int, isa: Isa) -> list[Tensor]:
    """The epilogue's inputs as parameters of a kernel with `rows` rows and `n` columns."""

    def shape(operand: Operand) -> tuple[Expr, ...]:
        if operand.per == "column":
            return (round_up(n, isa.panel),)
        return (operand.tokens if operand.per == "token" else rows, n)

    return [Tensor(operand.name, shape(operand), operand.dtype) for operand in epilogue.operands]


@dataclass(frozen=True)
class Finish:
    """`y[row, column] = epilogue(sums)`; `n` columns exist."""

    epilogue: Epilogue
    buffers: Sequence[Buffer]  # of the epilogue's operands, in order
    y: Buffer
    n: int
    isa: Isa
    biased: bool = False  # the sums began with the epilogue's bias

    def start(self, column: Expr) -> Expr | None:
        """What the sums of a vector of columns begin with, `None` for zero."""
        return load32(self.buffers[0], (column,), self.isa.lanes) if self.biased else None

    def columns(self, column: Expr, lanes: int) -> dict[str, Expr]:
        """The per-column operands of a vector of columns, loaded once for all rows."""
        pairs = zip(self.epilogue.operands, self.buffers, strict=True)
        return {o.name: let(load32(b, (column,), lanes)) for o, b in pairs if o.per == "column"}

    def put(self, x: Expr, row: Expr, column: Expr, known: dict[str, Expr]) -> None:
        """Int32 lanes of one row, through the epilogue into `y`."""

        def fetch(name: str) -> Expr:
            if name in known:
                return known[name]
            operand, buffer = next(
                (o, b) for o, b in zip(self.epilogue.operands, self.buffers, strict=True) if o.name == name
            )
            return load32(buffer, (_row_of(operand, row), column), lanes_of(x))

        store(self.y, (row, column), self.epilogue.apply(x, fetch, biased=self.biased))

    def tile(self, sums: list[list[Buffer]], rows: list[Expr], panel: Expr) -> None:
        """A tile of sums; in the last panel only the columns that exist."""
        whole = self.n // self.isa.panel
        if self.n % self.isa.panel == 0:
            self.whole(sums, rows, panel * self.isa.panel)
            return
        with T.If(panel < whole):
            with T.Then():
                self.whole(sums, rows, panel * self.isa.panel)
            with T.Else():
                self.part(sums, rows, whole * self.isa.panel, self.n - whole * self.isa.panel)

    def whole(self, sums: list[list[Buffer]], rows: list[Expr], first: Expr) -> None:
        """All columns of the sums, a vector at a time."""
        lanes = self.isa.lanes
        for v in range(len(sums[0])):
            column = let(first + v * lanes)
            known = self.columns(column, lanes)
            for row, line in zip(sums, rows, strict=True):
                self.put(load(row[v], (0,), lanes), line, column, known)

    def part(self, sums: list[list[Buffer]], rows: list[Expr], first: Expr, count: int) -> None:
        """The first `count` columns of the sums: whole vectors, then one column at a time."""
        lanes = self.isa.lanes
        vectors = count // lanes
        if vectors:
            self.whole([row[:vectors] for row in sums], rows, first)
        if count % lanes:
            with T.serial(count % lanes) as c:
                column = let(first + vectors * lanes + c)
                known = self.columns(column, 1)
                for row, line in zip(sums, rows, strict=True):
                    self.put(load(row[vectors], (c,), 1), line, column, known)


def _row_of(operand: Operand, row: Expr) -> Expr:
    return row % operand.tokens if operand.per == "token" else row
