"""Softmax of rows by itself, a warp for each: weights in Q15 (`intvit.dialect.softmax` defines every bit).

    e = exponentials(t),  s = sum e                    `shiftmax` has both
    y = epilogue(min(rshift(e * r, bit_length(s) - 1), 2^15 - 1)),  r = min(2^29 / s15, 2^15 - 1)

A row is read three times, for its maximum, its sum and its weights, the second and third time from a cache: so it may
be of any length. Exponentials are worked out twice.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr
from intvit.kernels.cuda import ptx
from intvit.kernels.cuda.arith import INT32, bit_length, divided, let, rshift, wide
from intvit.kernels.cuda.fragments import CHUNK, NEIGHBOURS, padded
from intvit.kernels.cuda.launch import ROLLED, WARP, Block, DeviceKernel, device_kernel, local, move
from intvit.kernels.cuda.shiftmax import exponential
from intvit.kernels.cuda.store import Finish, epilogue_pointers
from intvit.kernels.epilogue import Epilogue

WARPS = 4
LEAST = -(1 << 31) + 1
MOST = (1 << 15) - 1
FRACTION = 15


def softmax(
    channels: int,
    shift: int,
    bits: int,
    width: int,
    stride: int,
    epilogue: Epilogue,
    dtype: str,
    *,
    name: str = "softmax",
) -> DeviceKernel:
    """Inputs: x `dtype` (int16, int32) `[rows, width]`, pre int8 `[1]`, mul int16 `[1]`, the epilogue's operands.

    Output `[rows, stride]` of the epilogue's type, of which `channels` columns are written.
    """

    def body(block: Block, x: Buffer, pre: Buffer, mul: Buffer, *rest: Buffer) -> None:
        *operands, y = rest
        whole = stride % NEIGHBOURS == 0
        finish = Finish(epilogue, operands, y, stride, padded(channels, CHUNK), NEIGHBOURS, whole=whole)
        row = let(block.index * WARPS + block.warp)
        with T.If(row < block.rows), T.Then():
            _Row(block, x, row, channels, width, dtype).weigh(finish, let(wide(pre[0])), let(wide(mul[0])), shift, bits)

    inputs = [("x", dtype), ("pre", "int8"), ("mul", "int16"), *epilogue_pointers(epilogue)]
    pointers = [*inputs, ("y", epilogue.dtype)]
    return device_kernel(name, pointers, body, threads=WARPS * WARP, per=WARPS)


class _Row:
    """A row of a warp."""

    def __init__(self, block: Block, x: Buffer, row: Expr, channels: int, width: int, dtype: str) -> None:
        self.block, self.x, self.row = block, x, row
        self.channels, self.width = channels, width
        self.values = local(NEIGHBOURS, dtype)

    def each(self, visit: Callable[[Expr], None]) -> None:
        """`visit(first column)` of the neighbours that this lane has, which are read."""
        with T.serial(-(-self.channels // (WARP * NEIGHBOURS)), annotations=ROLLED) as turn:
            column = let((turn * WARP + self.block.lane) * NEIGHBOURS)
            with T.If(column < self.channels), T.Then():
                self._read(column)
                visit(column)

    def _read(self, column: Expr) -> None:
        start = let(self.row * self.width + column)
        if self.width % NEIGHBOURS == 0:
            move(self.values, 0, self.x, start, NEIGHBOURS)
            return
        with T.unroll(NEIGHBOURS) as e, T.If(column + e < self.channels), T.Then():
            T.buffer_store(self.values, self.x[start + e], [e])

    def reduced(
        self, start: int, visit: Callable[[Expr, Expr, Expr], Expr], join: Callable[[Expr, Expr], Expr]
    ) -> Expr:
        """`visit(so far, value, whether it counts)` for all of the row, joined over the lanes."""
        state = local(1, INT32)
        T.buffer_store(state, tirx.const(start, INT32), [0])

        def item(column: Expr) -> None:
            with T.unroll(NEIGHBOURS) as e:
                counts = let(column + e < self.channels)
                T.buffer_store(state, visit(state[0], let(wide(self.values[e])), counts), [0])

        self.each(item)
        for distance in (1, 2, 4, 8, 16):
            T.buffer_store(state, join(state[0], ptx.exchanged(state[0], distance)), [0])
        return let(state[0])

    def weigh(self, finish: Finish, pre: Expr, mul: Expr, shift: int, bits: int) -> None:
        """All of the row, through the epilogue."""
        top = self.reduced(
            LEAST,
            lambda most, value, counts: tirx.Select(counts, tirx.max(most, value), most),
            lambda a, b: tirx.max(a, b),
        )

        def weight(value: Expr, counts: Expr) -> Expr:
            return exponential(value, top, counts, pre, mul, shift, bits)

        total = self.reduced(0, lambda so_far, value, counts: so_far + weight(value, counts), lambda a, b: a + b)
        n = let(bit_length(total) - 1)
        scaled = let((total << _positive(FRACTION - 1 - n)) >> _positive(n - (FRACTION - 1)))
        inverse = divided(tirx.const(1 << 29, INT32), scaled, FRACTION)

        def write(column: Expr) -> None:
            def share(e: Expr) -> Expr:
                weighed = weight(let(wide(self.values[e])), let(column + e < self.channels))
                return tirx.min(rshift(weighed * inverse, n), tirx.const(MOST, INT32))

            finish.put(share, self.row, column, self.channels, finish.columns(column))

        self.each(write)


def _positive(x: Expr) -> Expr:
    return tirx.max(x, tirx.const(0, INT32))
