"""An epilogue alone, where no product takes it in: requantization, GELU, residual additions."""

from __future__ import annotations

from intvit.kernels.arith import Buffer, Expr
from intvit.kernels.cuda.arith import wide
from intvit.kernels.cuda.fragments import NEIGHBOURS
from intvit.kernels.cuda.launch import Block, DeviceKernel, device_kernel, local, move
from intvit.kernels.cuda.rows import THREADS, Rows
from intvit.kernels.cuda.store import Finish, epilogue_pointers
from intvit.kernels.epilogue import Epilogue


def elementwise(
    n: int, width: int, stride: int, epilogue: Epilogue, dtype: str, *, name: str = "elementwise"
) -> DeviceKernel:
    """`y = epilogue(x)` of x `[rows, width]` (a multiple of 16) of a type; y `[rows, stride]`, `n` columns of both."""
    rows = Rows(n)

    def body(block: Block, x: Buffer, *rest: Buffer) -> None:
        *operands, y = rest
        finish = Finish(epilogue, operands, y, stride, width, NEIGHBOURS, whole=stride % NEIGHBOURS == 0)

        def item(row: Expr, column: Expr) -> None:
            values = local(NEIGHBOURS, dtype)
            move(values, 0, x, row * width + column, NEIGHBOURS)
            finish.put(lambda e: wide(values[e]), row, column, n, finish.columns(column))

        rows.visit(block, item)

    pointers = [("x", dtype), *epilogue_pointers(epilogue), ("y", epilogue.dtype)]
    return device_kernel(name, pointers, body, threads=THREADS, per=rows.per, times=rows.times)
