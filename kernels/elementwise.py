"""An epilogue on its own: `y[r, c] = epilogue(x[r, c])` for a tensor that no matrix kernel makes.

`x` is int8, int16 or int32 [rows, n]. A task is a row.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, let, load
from intvit.kernels.epilogue import Epilogue
from intvit.kernels.finish import Finish, operand_tensors
from intvit.kernels.function import Tensor, function, symbol
from intvit.kernels.isa import Isa
from intvit.kernels.tile import across


def elementwise(
    n: int, epilogue: Epilogue, isa: Isa, *, dtype: str = "int16", name: str = "elementwise"
) -> tirx.PrimFunc:
    """Inputs: x `dtype` [rows, n], the epilogue's operands; output [rows, n] of the epilogue's type."""
    rows = symbol("rows")

    def body(x: Buffer, *rest: Buffer) -> None:
        finish = Finish(epilogue, rest[:-1], rest[-1], n, isa)
        with T.parallel(rows) as row:

            def visit(column: Expr, lanes: int) -> None:
                finish.put(load(x, (row, column), lanes), row, column, finish.columns(column, lanes))

            pairs = n // (2 * isa.lanes)
            if pairs:
                with T.serial(pairs) as i:
                    visit(let(i * (2 * isa.lanes)), 2 * isa.lanes)
            done = pairs * 2 * isa.lanes
            across(n - done, isa, lambda column, lanes: visit(column + done, lanes))

    tensors = [
        Tensor("x", (rows, n), dtype),
        *operand_tensors(epilogue, rows, n, isa),
        Tensor("y", (rows, n), epilogue.dtype),
    ]
    return function(name, tensors, body)
