"""The end of a matrix kernel: sums through the epilogue into the output, whole vectors and what is left of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, lanes_of, let, load, store
from intvit.kernels.epilogue import Epilogue, Fetch, Operand
from intvit.kernels.function import Tensor, symbol
from intvit.kernels.int16 import concat
from intvit.kernels.interleave import shuffled
from intvit.kernels.isa import Isa
from intvit.kernels.pack import round_up
from intvit.kernels.tile import runs


def operand_tensors(epilogue: Epilogue, rows: Expr, n: int, isa: Isa) -> list[Tensor]:
    """The epilogue's inputs as parameters of a kernel with `rows` rows and `n` columns."""

    def shape(operand: Operand) -> tuple[Expr, ...]:
        if operand.per == "column":
            return (round_up(n, isa.columns),)
        if operand.per == "table":
            return (operand.tokens,)
        return ({"token": operand.tokens, "image": symbol("images"), "row": rows}[operand.per], n)

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
        return self.epilogue.start(self._fetch(None, column, self.isa.lanes, {})) if self.biased else None

    def columns(self, column: Expr, lanes: int) -> dict[str, Expr]:
        """The per-column operands of a vector of columns, loaded once for all rows."""
        return {o.name: let(load(b, (column,), lanes)) for o, b in self._operands() if o.per == "column"}

    def put(self, x: Expr, row: Expr, column: Expr, known: dict[str, Expr]) -> None:
        """Integer lanes of one row, through the epilogue into `y`."""
        fetch = self._fetch(row, column, lanes_of(x), known)
        store(self.y, (row, column), self.epilogue.apply(x, fetch, self.isa, started=self.biased))

    def _operands(self) -> list[tuple[Operand, Buffer]]:
        return list(zip(self.epilogue.operands, self.buffers, strict=True))

    def _fetch(self, row: Expr, column: Expr, lanes: int, known: dict[str, Expr]) -> Fetch:
        def fetch(name: str) -> Expr:
            if name in known:
                return known[name]
            operand, buffer = next((o, b) for o, b in self._operands() if o.name == name)
            if operand.per == "table":
                return buffer
            index = (column,) if operand.per == "column" else (_row_of(operand, row), column)
            return load(buffer, index, lanes)

        return fetch

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
        """All columns of the sums, two vectors at a time: their int16 lanes are one vector."""
        lanes = self.isa.lanes
        for v in range(0, len(sums[0]), 2):
            column = let(first + v * lanes)
            known = self.columns(column, len(sums[0][v : v + 2]) * lanes)
            for row, line in zip(sums, rows, strict=True):
                self.put(concat([load(b, (0,), lanes) for b in row[v : v + 2]]), line, column, known)

    def part(self, sums: list[list[Buffer]], rows: list[Expr], first: Expr, count: int) -> None:
        """The first `count` columns of the sums: whole vectors, then powers of two.

        Not a loop over single columns: LLVM 22 makes masked stores of it, and where one lane is left and the store
        narrows its vector, it stores the wider element (`vpextrw` of a byte, seen for x86-64-v4).
        """
        lanes = self.isa.lanes
        vectors = count // lanes
        if vectors:
            self.whole([row[:vectors] for row in sums], rows, first)
        for offset, width in runs(count % lanes, lanes // 2):
            column = let(first + (vectors * lanes + offset))
            known = self.columns(column, width)
            for row, line in zip(sums, rows, strict=True):
                rest = shuffled([load(row[vectors], (0,), lanes)], list(range(offset, offset + width)))
                self.put(rest, line, column, known)


def _row_of(operand: Operand, row: Expr) -> Expr:
    if operand.per == "image":
        return row // operand.tokens
    return row % operand.tokens if operand.per == "token" else row
