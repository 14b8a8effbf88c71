"""An epilogue on its own: `y[r, c] = epilogue(x[r, c])` for a tensor that no matrix kernel makes.

`x` is int8, int16 or int32 [rows, n]. A task is a block of rows: feature maps have thousands, of few channels. Where no
operand differs by column, token or image, a block is one long row, of whole vectors whatever the channels, and the last
one has rows of the one before it. Twelve activations of 4096 rows of 24, Zen 4, one thread: 278 us, row by row 653 us.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, let, load
from intvit.kernels.epilogue import Epilogue
from intvit.kernels.finish import Finish, operand_tensors
from intvit.kernels.function import Tensor, function, symbol
from intvit.kernels.isa import Isa
from intvit.kernels.tile import across, even_blocks

BLOCK = 4096
"""Elements of a task, about."""


def elementwise(
    n: int, epilogue: Epilogue, isa: Isa, *, dtype: str = "int16", tokens: int = 1, name: str = "elementwise"
) -> tirx.PrimFunc:
    """Inputs: x `dtype` [rows, n], the epilogue's operands; output [rows, n] of the epilogue's type.

    `tokens`: rows of an image, of which there is at least one.
    """
    rows = symbol("rows")
    block = even_blocks(tokens, max(BLOCK // n, 1))
    flat = all(operand.per in ("row", "table") for operand in epilogue.operands)

    def body(x: Buffer, *rest: Buffer) -> None:
        finish = Finish(epilogue, rest[:-1], rest[-1], n, isa)

        def sweep(row: Expr, columns: int) -> None:
            def visit(column: Expr, lanes: int) -> None:
                finish.put(load(x, (row, column), lanes), row, column, finish.columns(column, lanes))

            pairs = columns // (2 * isa.lanes)
            if pairs:
                with T.serial(pairs) as i:
                    visit(let(i * (2 * isa.lanes)), 2 * isa.lanes)
            done = pairs * 2 * isa.lanes
            across(columns - done, isa, lambda column, lanes: visit(column + done, lanes))

        with T.parallel((rows + (block - 1)) // block) as task:
            if flat:
                sweep(let(tirx.min(task * block, rows - block)), block * n)
            else:
                with T.serial(block) as r:
                    sweep(let(tirx.min(task * block + r, rows - 1)), n)

    tensors = [
        Tensor("x", (rows, n), dtype),
        *operand_tensors(epilogue, rows, n, isa),
        Tensor("y", (rows, n), epilogue.dtype),
    ]
    return function(name, tensors, body)
