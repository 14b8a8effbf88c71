"""Blocks of channels by their root mean square, a warp for each (`intvit.dialect.rmsnorm` defines every bit).

    V = sum x^2 + eps 4^min_shift ~ v 4^q,   g = 2^(29 + p) / sqrt(V),  F = g << max(1 - p, 0),  s = max(14 + p, 15)
    n = sat16((x F) >> s), finer for int16 results,  y = clamp((n mul[c]) >> shift)

As `layernorm`, without the mean.
"""

from __future__ import annotations

from collections.abc import Callable
from math import gcd

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr
from intvit.kernels.cuda import ptx
from intvit.kernels.cuda.arith import INT32, clamp, let, quotient, remainder, rshift, wide
from intvit.kernels.cuda.fragments import NEIGHBOURS
from intvit.kernels.cuda.launch import WARP, Block, DeviceKernel, device_kernel, local, move
from intvit.kernels.cuda.layernorm import LOWER, WARPS, floating_variance, reciprocal_root, scaled
from intvit.kernels.layernorm import FRACTION, HALF, LIMITS


def rmsnorm(
    channels: int, groups: int, shift: int, width: int, stride: int, *, dtype: str = "int8", name: str = "rmsnorm"
) -> DeviceKernel:
    """Inputs: x int16 `[rows, width]`, mul int16 `[channels]`, (eps, min_shift) int32 `[2]`.

    `width` is a multiple of 16, mul is padded to a multiple of 8. Output `[rows, stride]` of a type.
    """
    size = channels // groups
    step = NEIGHBOURS if groups == 1 else gcd(size, NEIGHBOURS)
    items = -(-size // step)
    turns = -(-items // WARP)
    fraction = FRACTION[dtype]

    def body(block: Block, x: Buffer, mul: Buffer, floor: Buffer, y: Buffer) -> None:
        row = let(quotient(block.index, groups) * WARPS + block.warp)
        first = let(remainder(block.index, groups) * size)
        values = local(turns * step, "int16")

        def each(visit: Callable[[Expr, Expr], None]) -> None:
            """`visit(first register, first column of the block)` of the neighbours that this lane has."""
            with T.unroll(turns) as turn:
                column = let((turn * WARP + block.lane) * step)
                with T.If(column < size), T.Then():
                    visit(turn * step, column)

        def whole_block() -> None:
            halves = squares(x, row * width + first, values, size, step, each)
            factor, s = scaling(halves, size, let(floor[0]), let(floor[1]))
            right = let((s + (14 - fraction)) & 31)  # TVM must know what a shift may be

            def write(register: Expr, column: Expr) -> None:
                factors, results = local(step, "int16"), local(step, dtype)
                move(factors, 0, mul, first + column, step)
                with T.unroll(step) as e:
                    t = wide(values[register + e]) * factor
                    n = let(clamp(((t >> right) + 1) >> 1, -(1 << fraction), (1 << fraction) - 1))
                    value = scaled(n, let(wide(factors[e])), fraction)
                    T.buffer_store(results, clamp(rshift(value, shift), *LIMITS[dtype]).astype(dtype), [e])
                to = let(row * stride + first + column)
                if stride % step == 0:
                    move(y, to, results, 0, step)
                else:
                    with T.unroll(step) as e, T.If(column + e < size), T.Then():
                        T.buffer_store(y, results[e], [to + e])

            each(write)

        with T.If(row < block.rows), T.Then():
            whole_block()

    pointers = [("x", "int16"), ("mul", "int16"), ("floor", INT32), ("y", dtype)]
    return device_kernel(name, pointers, body, threads=WARPS * WARP, per=WARPS, times=groups)


def squares(
    x: Buffer, origin: Expr, values: Buffer, size: int, step: int, each: Callable[[Callable[[Expr, Expr], None]], None]
) -> tuple[Expr, Expr]:
    """`sum x^2` as upper and lower halves, of a block of channels that is read into registers."""
    sums = local(2, INT32)
    for i in range(2):
        T.buffer_store(sums, tirx.const(0, INT32), [i])

    def read(register: Expr, column: Expr) -> None:
        move(values, register, x, origin + column, step)
        with T.unroll(step) as e:
            value: Expr = wide(values[register + e])
            if size % step:
                value = tirx.Select(column + e < size, value, tirx.const(0, INT32))
            value = let(value)
            square = let(value * value)
            for i, term in enumerate((square >> HALF, square & LOWER)):
                T.buffer_store(sums, sums[i] + term, [i])

    each(read)
    for distance in (1, 2, 4, 8, 16):
        for i in range(2):
            T.buffer_store(sums, sums[i] + ptx.exchanged(sums[i], distance), [i])
    return let(sums[0]), let(sums[1])


def scaling(halves: tuple[Expr, Expr], size: int, eps: Expr, min_shift: Expr) -> tuple[Expr, Expr]:
    """`F` and `s` of a block."""
    high, low = halves
    high = let(high + (low >> HALF))
    g, p = reciprocal_root(*floating_variance(high, let(low & LOWER), None, size, eps, min_shift))
    return let(g << clamp(1 - p, 0, 16)), let(tirx.max(14 + p, tirx.const(15, INT32)))
