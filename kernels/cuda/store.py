"""The end of a matrix kernel: neighbouring sums of a row through the epilogue into the output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr
from intvit.kernels.cuda.arith import quotient, remainder, wide
from intvit.kernels.cuda.launch import local, move
from intvit.kernels.cuda.stages import finished
from intvit.kernels.epilogue import Epilogue, Operand


def epilogue_pointers(epilogue: Epilogue) -> list[tuple[str, str]]:
    """The epilogue's inputs as parameters of a kernel."""
    return [(operand.name, operand.dtype) for operand in epilogue.operands]


@dataclass(frozen=True)
class Finish:
    """`y[row, column] = epilogue(x)` for `count` neighbours; operands per row, token or image: `[rows, arm_stride]`.

    `aligned`: first columns are multiples of `count`. `whole`: all that are asked for may be written, else those before
    an `end`. Where they are aligned, operands per column are padded so that they can be read for all; `arm_stride` is a
    multiple of `count`.
    """

    epilogue: Epilogue
    buffers: Sequence[Buffer]
    y: Buffer
    stride: int
    arm_stride: int
    count: int
    aligned: bool = True
    whole: bool = True

    @property
    def _operands(self) -> list[tuple[Operand, Buffer]]:
        return list(zip(self.epilogue.operands, self.buffers, strict=True))

    def columns(self, column: Expr, end: Expr | None = None) -> dict[str, Buffer]:
        """The operands per column of neighbouring columns, those before `end`, in registers, for all rows."""
        return {o.name: self._loaded(b, column, end) for o, b in self._operands if o.per == "column"}

    def _loaded(self, buffer: Buffer, start: Expr, end: Expr | None = None) -> Buffer:
        registers = local(self.count, str(buffer.ty.dtype))
        if self.aligned:
            move(registers, 0, buffer, start, self.count)
        else:
            with T.unroll(self.count) as e:
                at = start + e if end is None else tirx.min(start + e, end - 1)
                T.buffer_store(registers, buffer[at], [e])
        return registers

    def put(self, value: Callable[[Expr], Expr], row: Expr, column: Expr, end: Expr, known: dict[str, Buffer]) -> None:
        """Neighbours of a row; `value(e)` is what the epilogue takes for the `e`-th, int32."""
        registers = dict(known)
        tables = {operand.name: buffer for operand, buffer in self._operands if operand.per == "table"}
        for operand, buffer in self._operands:
            if operand.name not in registers and operand.name not in tables:
                registers[operand.name] = self._loaded(buffer, _row_of(operand, row) * self.arm_stride + column)
        results = local(self.count, self.epilogue.dtype)
        with T.unroll(self.count) as e:
            fetch = lambda name: tables[name] if name in tables else wide(registers[name][e])  # noqa: E731
            y = finished(self.epilogue, value(e), fetch)
            T.buffer_store(results, y.astype(self.epilogue.dtype), [e])
        to = row * self.stride + column
        if self.aligned and self.whole:
            move(self.y, to, results, 0, self.count)
            return
        with T.unroll(self.count) as e, T.If(column + e < end), T.Then():
            T.buffer_store(self.y, results[e], [to + e])


def _row_of(operand: Operand, row: Expr) -> Expr:
    if operand.per == "image":
        return quotient(row, operand.tokens)
    return remainder(row, operand.tokens) if operand.per == "token" else row
