"""I-ViT's ShiftGELU of int8 rows (`intvit.dialect.published`, arXiv:2207.01405): a lookup, a product, an epilogue.

    y[r, c] = epilogue(x[r, c] * sigmoid[max(0, max_c x[r, c]), x[r, c] + 128])

The sigmoid divides by the sum of two exponentials of the value and of the row's maximum. Both are 8-bit, so all its
values (at 2^-7, int8) are a table of 32 KiB, of which a row reads 256 bytes; a division per value would cost more than
all the rest. A task is a row.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, let, load, load32, store, widen
from intvit.kernels.epilogue import Epilogue
from intvit.kernels.finish import Finish, operand_tensors
from intvit.kernels.function import Tensor, function, registers, symbol
from intvit.kernels.isa import Isa
from intvit.kernels.tile import across

PEAKS, VALUES = 128, 256


def gelu_published(n: int, epilogue: Epilogue, isa: Isa, *, name: str = "gelu_published") -> tirx.PrimFunc:
    """Inputs: x int8 [rows, n], sigmoid int8 [128, 256], the epilogue's operands; output [rows, n] of its type."""
    rows = symbol("rows")

    def body(x: Buffer, sigmoid: Buffer, *rest: Buffer) -> None:
        finish = Finish(epilogue, rest[:-1], rest[-1], n, isa)
        with T.parallel(rows) as row:
            peak = row_peak(x, row, n, isa)

            def visit(column: Expr, lanes: int) -> None:
                value = let(load32(x, (row, column), lanes))
                factor = widen(sigmoid[peak, value + VALUES // 2], "int32")
                finish.put(value * factor, row, column, finish.columns(column, lanes))

            across(n, isa, visit)

    tensors = [
        Tensor("x", (rows, n), "int8"),
        Tensor("sigmoid", (PEAKS, VALUES), "int8"),
        *operand_tensors(epilogue, rows, n, isa),
        Tensor("y", (rows, n), epilogue.dtype),
    ]
    return function(name, tensors, body)


def row_peak(x: Buffer, row: Expr, n: int, isa: Isa) -> Expr:
    """The largest of a row and 0."""
    wide, single = registers(1, isa.lanes)[0], registers(1, 1)[0]
    store(wide, (0,), tirx.const(0, f"int32x{isa.lanes}"))
    store(single, (0,), tirx.const(0, "int32"))

    def visit(column: Expr, lanes: int) -> None:
        into = single if lanes == 1 else wide
        store(into, (0,), tirx.max(load(into, (0,), lanes), load32(x, (row, column), lanes)))

    across(n, isa, visit)
    folded = tirx.call_llvm_pure_intrin("int32", "llvm.vector.reduce.smax", load(wide, (0,), isa.lanes))
    return let(tirx.max(folded, load(single, (0,), 1)))
