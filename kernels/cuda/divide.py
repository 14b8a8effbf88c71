"""Quotients by elements, eight neighbours a thread (`intvit.dialect.divide` defines every bit).

    n  = bits(max(|b|, 1)),  b15 = |b| 2^(15 - n),  r = min((2^29 + b15 / 2) / b15, 2^15 - 1) sign(b)
    y  = epilogue(sat16(rshift(a * r, n - 1 + pre[c])))                     the rest of a requantization

Neighbours have one reciprocal, where no two blocks of channels meet in them; else each its own.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr
from intvit.kernels.cuda.arith import INT32, bit_length, divided, let, quotient, rshift, sat16, wide
from intvit.kernels.cuda.fragments import NEIGHBOURS
from intvit.kernels.cuda.launch import Block, DeviceKernel, device_kernel, local, move
from intvit.kernels.cuda.rows import THREADS, Rows
from intvit.kernels.cuda.store import Finish, epilogue_pointers
from intvit.kernels.epilogue import Epilogue

FRACTION = 15


def divide(
    n: int,
    blocks: int,
    widths: tuple[int, int],
    stride: int,
    pre: int | None,
    epilogue: Epilogue,
    *,
    name: str = "divide",
) -> DeviceKernel:
    """Inputs: a and b int16 `[rows, width]` (multiples of 16, `n` and `blocks` columns), pre int8 `[n, padded]`.

    `pre` is an input where it is no constant; then the epilogue's operands; output `[rows, stride]` of its type.
    """
    rows = Rows(n)
    size = n // blocks
    together = blocks == 1 or size % NEIGHBOURS == 0

    def body(block: Block, a: Buffer, b: Buffer, *rest: Buffer) -> None:
        shifts, *operands = rest[:-1] if pre is None else (None, *rest[:-1])
        whole = stride % NEIGHBOURS == 0
        finish = Finish(epilogue, operands, rest[-1], stride, widths[0], NEIGHBOURS, whole=whole)

        def item(row: Expr, column: Expr) -> None:
            values, own = local(NEIGHBOURS, "int16"), local(NEIGHBOURS, "int8")
            move(values, 0, a, row * widths[0] + column, NEIGHBOURS)
            if shifts is not None:
                move(own, 0, shifts, column, NEIGHBOURS)

            def inverse(at: Expr) -> tuple[Expr, Expr]:
                return reciprocal(let(wide(b[row * widths[1] + quotient(at, size)])))

            shared = inverse(column) if together else None

            def share(e: Expr) -> Expr:
                last = tirx.const(n - 1, INT32)
                factor, bits = shared or inverse(let(tirx.min(column + e, last)))
                first = wide(own[e]) if pre is None else pre
                by = let((bits - 1 + first) & 31)  # TVM must know what a shift may be
                return sat16(let(rshift(let(wide(values[e]) * factor), by)))

            finish.put(share, row, column, n, finish.columns(column))

        rows.visit(block, item)

    first = [("a", "int16"), ("b", "int16"), *([("pre", "int8")] if pre is None else [])]
    pointers = [*first, *epilogue_pointers(epilogue), ("y", epilogue.dtype)]
    return device_kernel(name, pointers, body, threads=THREADS, per=rows.per, times=rows.times)


def reciprocal(b: Expr) -> tuple[Expr, Expr]:
    """`r` and `n` of a divisor within 16 bits."""
    magnitude = local(1, INT32)
    T.buffer_store(magnitude, tirx.max(tirx.max(b, 0 - b), tirx.const(1, INT32)), [0])
    bits = bit_length(magnitude[0])
    normal = let((magnitude[0] << ((16 - bits) & 31)) >> 1)
    r = divided(let((1 << 29) + (normal >> 1)), normal, FRACTION)
    return let(tirx.Select(b < 0, 0 - r, r)), bits
