"""Integer LayerNorm of int16 rows, a warp for each (`intvit.dialect.layernorm` defines every bit).

    m = (sum x + C/2) / C,  r = sum x - C m,  V = sum x^2 - C m^2 - 2 m r - r^2 / C + eps 4^min_shift ~ v 4^q
    g = 2^(29 + p) / sqrt(V),  F = g << max(1 - p, 0),  s = max(14 + p, 15),  t = (x - m) F - r F / C
    n = sat16(t >> s), finer for int16 results,  y = clamp((n mul[c] + bias[c]) >> shift)

A lane keeps its part of the row in registers between the sums and the result; the sums go round the warp, and all lanes
work out the row's factor, alike. Squares are summed as upper and lower halves (base 2^15): no 64-bit integers.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr
from intvit.kernels.cuda import ptx
from intvit.kernels.cuda.arith import INT32, bit_length, clamp, divided, let, quotient, rshift, wide
from intvit.kernels.cuda.fragments import NEIGHBOURS
from intvit.kernels.cuda.launch import WARP, Block, DeviceKernel, device_kernel, local, move
from intvit.kernels.layernorm import FINE, FRACTION, HALF, LIMITS

WARPS = 4
LOWER = (1 << HALF) - 1


def layernorm(
    channels: int, shift: int, width: int, stride: int, *, dtype: str = "int8", name: str = "layernorm"
) -> DeviceKernel:
    """Inputs: x int16 `[rows, width]`, mul int16 and bias int32 `[channels]`, (eps, min_shift) int32 `[2]`.

    `width` is a multiple of 16, mul and bias are padded to a multiple of 8. Output `[rows, stride]` of a type.
    """
    items = -(-channels // NEIGHBOURS)
    turns = -(-items // WARP)
    fraction = FRACTION[dtype]

    def body(block: Block, x: Buffer, mul: Buffer, bias: Buffer, floor: Buffer, y: Buffer) -> None:
        row = let(block.index * WARPS + block.warp)
        values = local(turns * NEIGHBOURS, "int16")

        def each(visit: Callable[[Expr, Expr], None]) -> None:
            """`visit(first register, first column)` of the neighbours that this lane has."""
            with T.unroll(turns) as turn:
                column = let((turn * WARP + block.lane) * NEIGHBOURS)
                with T.If(column < channels), T.Then():
                    visit(turn * NEIGHBOURS, column)

        def whole_row() -> None:
            sums = row_sums(x, row * width, values, channels, each)
            m, factor, offset, s = scaling(sums, channels, let(floor[0]), let(floor[1]))
            right = let((s + (14 - fraction)) & 31)  # TVM must know what a shift may be, else it drops clamps

            def write(register: Expr, column: Expr) -> None:
                factors, terms = local(NEIGHBOURS, "int16"), local(NEIGHBOURS, INT32)
                move(factors, 0, mul, column, NEIGHBOURS)
                move(terms, 0, bias, column, NEIGHBOURS)
                results = local(NEIGHBOURS, dtype)
                with T.unroll(NEIGHBOURS) as e:
                    t = (wide(values[register + e]) - m) * factor - offset
                    n = let(clamp(((t >> right) + 1) >> 1, -(1 << fraction), (1 << fraction) - 1))
                    value = scaled(n, let(wide(factors[e])), fraction) + terms[e]
                    T.buffer_store(results, clamp(rshift(value, shift), *LIMITS[dtype]).astype(dtype), [e])
                to = row * stride + column
                if stride % NEIGHBOURS == 0:
                    move(y, to, results, 0, NEIGHBOURS)
                else:
                    with T.unroll(NEIGHBOURS) as e, T.If(column + e < channels), T.Then():
                        T.buffer_store(y, results[e], [to + e])

            each(write)

        with T.If(row < block.rows), T.Then():
            whole_row()

    pointers = [("x", "int16"), ("mul", "int16"), ("bias", INT32), ("floor", INT32), ("y", dtype)]
    return device_kernel(name, pointers, body, threads=WARPS * WARP, per=WARPS)


def scaled(n: Expr, mul: Expr, fraction: int) -> Expr:
    """`n mul` in Q15; a finer `n` as two products of 16 bits."""
    if fraction == 15:
        return n * mul
    return (n >> FINE) * mul + rshift((n & ((1 << FINE) - 1)) * mul, FINE)


def row_sums(
    x: Buffer, origin: Expr, values: Buffer, channels: int, each: Callable[[Callable[[Expr, Expr], None]], None]
) -> tuple[Expr, Expr, Expr]:
    """`sum x`, and `sum x^2` as upper and lower halves, of a row that is read into registers."""
    sums = local(3, INT32)
    for i in range(3):
        T.buffer_store(sums, tirx.const(0, INT32), [i])

    def read(register: Expr, column: Expr) -> None:
        move(values, register, x, origin + column, NEIGHBOURS)
        with T.unroll(NEIGHBOURS) as e:
            value: Expr = wide(values[register + e])
            if channels % NEIGHBOURS:
                value = tirx.Select(column + e < channels, value, tirx.const(0, INT32))
            value = let(value)
            square = let(value * value)
            for i, term in enumerate((value, square >> HALF, square & LOWER)):
                T.buffer_store(sums, sums[i] + term, [i])

    each(read)
    for distance in (1, 2, 4, 8, 16):
        for i in range(3):
            T.buffer_store(sums, sums[i] + ptx.exchanged(sums[i], distance), [i])
    return let(sums[0]), let(sums[1]), let(sums[2])


def scaling(sums: tuple[Expr, Expr, Expr], channels: int, eps: Expr, min_shift: Expr) -> tuple[Expr, Expr, Expr, Expr]:
    """`m`, `F`, `r F / C` and `s` of a row."""
    total, high, low = sums
    m = let(quotient(total + ((channels << 15) + channels // 2), channels) - (1 << 15))
    r = let(total - m * channels)
    square, cross = let(m * m), let(2 * m * r)
    low = let(low - (square & LOWER) * channels - (cross & LOWER))
    high = let(high - (square >> HALF) * channels - (cross >> HALF) + (low >> HALF))
    v, q = floating_variance(high, let(low & LOWER), r, channels, eps, min_shift)
    g, p = reciprocal_root(v, q)
    up = let(clamp(1 - p, 0, 16))
    share = let(r * g)
    whole = let(quotient(share + (channels << 15), channels) - (1 << 15))
    part = quotient((share - whole * channels) << up, channels)
    return m, let(g << up), let((whole << up) + part), let(tirx.max(14 + p, tirx.const(15, INT32)))


def floating_variance(
    high: Expr, low: Expr, r: Expr | None, channels: int, eps: Expr, min_shift: Expr
) -> tuple[Expr, Expr]:
    """`v` of at most 31 bits and `q` with `V ~ v 4^q`; without `r` of squares about 0."""
    bits = let(tirx.Select(high > 0, bit_length(high) + HALF, bit_length(low)))
    q = let(tirx.max((bits - 29) >> 1, min_shift))
    double = let(2 * q)
    floor = eps >> tirx.min(double - 2 * min_shift, tirx.const(31, INT32))
    v = power(high, HALF - double) + power(low, 0 - double)
    if r is not None:
        square = let(r * r)
        whole = let(quotient(square, channels))
        mean_square = let((whole << 16) + quotient((square - whole * channels) << 16, channels))
        v -= power(mean_square, -16 - double)
    return let(tirx.max(v + floor, tirx.const(1, INT32))), q


def power(x: Expr, exponent: Expr) -> Expr:
    """`floor(x 2^exponent)` of a non-negative number; `x = 0` where the exponent is over 30."""
    exponent = let(exponent)
    return (x << clamp(exponent, 0, 30)) >> clamp(0 - exponent, 0, 31)


def reciprocal_root(v: Expr, q: Expr) -> tuple[Expr, Expr]:
    """`g` and `p` of a positive number, the root digit by digit (*Hacker's Delight* 11-1), then to the nearest half."""
    j = let((30 - bit_length(v)) >> 1)
    normal = let((v << (2 * clamp(j, 0, 15))) >> (2 * tirx.max(0 - j, tirx.const(0, INT32))))
    root = local(1, INT32)
    T.buffer_store(root, tirx.const(1 << 14, INT32), [0])
    with T.unroll(14) as i:
        more = let(root[0] + (tirx.const(1 << 13, INT32) >> i))
        T.buffer_store(root, tirx.Select(more * more <= normal, more, root[0]), [0])
    found = let(root[0])
    rest = let(2 * (normal - found * found))
    one, nothing = tirx.const(1, INT32), tirx.const(0, INT32)
    twice = let(2 * found + tirx.Select(rest >= found, one, nothing) + tirx.Select(rest >= 3 * found, one, nothing))
    return divided(let((1 << 30) + (twice >> 1)), twice, 15), let(q - j)
