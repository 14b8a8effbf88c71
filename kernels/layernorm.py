"""Integer LayerNorm of int16 rows (`intvit.dialect.layernorm` defines every bit and the bounds that make it fit int32).

    m    = (sum x + C/2) / C,  r = sum x - C m
    V    = sum x^2 - C m^2 - 2 m r - r^2 / C + eps 4^min_shift        ~ v 4^q
    g    = 2^(29 + p) / sqrt(V),  F = g << max(1 - p, 0),  s = max(14 + p, 15)
    t    = (x - m) F - r F / C
    n    = sat16(t >> s)                                              (finer for int16 results)
    y    = clamp((n mul[c] + bias[c]) >> shift)

All shifts of `n` and `y` round. A task is a block of rows, at most one vector of them: each row is read once for its
sum and squares; then the means, roots and divisions of all rows of the block are lane by lane; then each row is read
again and written. The squares need no mean: `sum x^2` is exact, as sums of the upper and lower halves of the products
that the dot product's step adds up (two of them: at most 2^31, so the halves are split without a sign).
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import (
    Buffer,
    Expr,
    bit_length,
    clamp,
    lanes_of,
    let,
    load,
    load32,
    rshift,
    store,
    widen,
)
from intvit.kernels.function import Tensor, function, kept, registers, symbol
from intvit.kernels.isa import Isa
from intvit.kernels.tile import across, even_blocks

LIMITS = {"int8": (-128, 127), "int16": (-32768, 32767)}
FRACTION = {"int8": 15, "int16": 29}
FINE = 14
HALF = 15
INT32 = "int32"


def layernorm(
    channels: int, shift: int, isa: Isa, *, dtype: str = "int8", tokens: int = 197, name: str = "layernorm"
) -> tirx.PrimFunc:
    """Inputs: x int16 [rows, channels], mul int16 [channels], bias int32 [channels], (eps, min_shift) int32 [2].

    Output `dtype`, like x. `eps` and `min_shift` are operands so that all layers of a model share one kernel.
    """
    rows = symbol("rows")
    block = even_blocks(tokens, isa.lanes)
    fraction = FRACTION[dtype]

    def body(x: Buffer, mul: Buffer, bias: Buffer, floor: Buffer, y: Buffer) -> None:
        with T.parallel((rows + (block - 1)) // block) as task:
            eps, min_shift = (let(floor[i]) for i in range(2))

            def line(r: Expr) -> Expr:
                return let(tirx.min(task * block + r, rows - 1))

            sums = registers(3, isa.lanes)
            with T.serial(block) as r:
                for into, value in zip(sums, row_sums(x, line(r), channels, isa), strict=True):
                    store(into, (r,), value)
            unit = registers(4, isa.lanes)
            total, high, low = (load(b, (0,), isa.lanes) for b in sums)
            for into, value in zip(unit, scaling(total, high, low, channels, (eps, min_shift), isa), strict=True):
                store(into, (0,), value)
            with T.serial(block) as r:
                at = line(r)
                m, factor, offset, s = (let(load(b, (r,), 1)) for b in unit)
                right = let((s + (14 - fraction)) & 31)  # TVM must know what a shift may be, else it drops clamps

                def write(column: Expr, lanes: int) -> None:
                    t = (load32(x, (at, column), lanes) - m) * factor - offset
                    n = clamp(((t >> right) + 1) >> 1, -(1 << fraction), (1 << fraction) - 1)
                    value = scaled(n, load32(mul, (column,), lanes), fraction) + load(bias, (column,), lanes)
                    store(y, (at, column), clamp(rshift(value, shift), *LIMITS[dtype]))

                across(channels, isa, write)

    tensors = [
        Tensor("x", (rows, channels), "int16"),
        Tensor("mul", (channels,), "int16"),
        Tensor("bias", (channels,), INT32),
        Tensor("floor", (2,), INT32),
        Tensor("y", (rows, channels), dtype),
    ]
    return function(name, tensors, body)


def scaled(n: Expr, mul: Expr, fraction: int) -> Expr:
    """`n mul` in Q15; a finer `n` as two products of 16 bits."""
    if fraction == 15:
        return n * mul
    n, mul = let(n), let(mul)
    return (n >> FINE) * mul + rshift((n & ((1 << FINE) - 1)) * mul, FINE)


def row_sums(x: Buffer, row: Expr, channels: int, isa: Isa) -> list[Expr]:
    """`sum x`, and `sum x^2` as upper and lower halves, not normalized."""
    isa = isa.wide
    chunk = isa.lanes * isa.group
    wide, single = registers(3, isa.lanes), registers(3, 1)
    zero = tirx.const(0, f"int32x{isa.lanes}")
    for vector, scalar in zip(wide, single, strict=True):
        store(vector, (0,), zero)
        store(scalar, (0,), tirx.const(0, INT32))
    if channels >= chunk:
        with T.serial(channels // chunk) as i:
            a = let(load(x, (row, i * chunk), chunk))
            add_square(wide, isa.dot(zero, a, a), isa.dot(load(wide[0], (0,), isa.lanes), a, tirx.const(1, a.ty.dtype)))
    if channels % chunk:
        with T.serial(channels % chunk) as i:
            b = let(load32(x, (row, channels // chunk * chunk + i), 1))
            add_square(single, b * b, load(single[0], (0,), 1) + b)
    return [
        let(tirx.call_llvm_pure_intrin(INT32, "llvm.vector.reduce.add", load(v, (0,), isa.lanes)) + load(s, (0,), 1))
        for v, s in zip(wide, single, strict=True)
    ]


def add_square(sums: list[Buffer], square: Expr, total: Expr) -> None:
    """The new sum, and the halves of a square (or of two, as a number without sign) onto theirs."""
    lanes = lanes_of(square)
    bits = let(tirx.reinterpret("uint32" if lanes == 1 else f"uint32x{lanes}", square))
    store(sums[0], (0,), total)
    store(sums[1], (0,), load(sums[1], (0,), lanes) + widen(bits >> HALF, INT32))
    store(sums[2], (0,), load(sums[2], (0,), lanes) + widen(bits & ((1 << HALF) - 1), INT32))


def scaling(
    total: Expr, high: Expr, low: Expr, channels: int, least: tuple[Expr, Expr], isa: Isa
) -> tuple[Expr, Expr, Expr, Expr]:
    """`m`, `F`, `r F / C` and `s` of each lane's row."""
    total = let(total)
    m = let(tirx.truncdiv(total + ((channels << 15) + channels // 2), channels) - (1 << 15))
    r = let(total - m * channels)
    square, cross = let(m * m), let(2 * m * r)
    lower = (1 << HALF) - 1
    low = let(low - (square & lower) * channels - (cross & lower))
    high = let(high - (square >> HALF) * channels - (cross >> HALF) + (low >> HALF))
    v, q = floating_variance(kept(high), kept(low & lower), kept(r), channels, least, isa)
    g, p = (kept(value) for value in reciprocal_root(kept(v), kept(q), isa))
    up = let(clamp(1 - p, 0, 16))
    share = let(r * g)
    whole = let(tirx.truncdiv(share + (channels << 15), channels) - (1 << 15))
    part = tirx.truncdiv(isa.lshift(share - whole * channels, up), channels)
    return m, let(isa.lshift(g, up)), let(isa.lshift(whole, up) + part), let(tirx.max(14 + p, 15))


def floating_variance(
    high: Expr, low: Expr, r: Expr | None, channels: int, least: tuple[Expr, Expr], isa: Isa
) -> tuple[Expr, Expr]:
    """`v` of at most 31 bits and `q` with `V ~ v 4^q`; without `r` of squares about 0."""
    eps, min_shift = least
    bits = tirx.Select(high > 0, HALF + bit_length(high), bit_length(low))
    q = let(tirx.max((bits - 29) >> 1, min_shift))
    double = let(2 * q)
    floor = T.broadcast(eps, lanes_of(q)) >> tirx.min(double - 2 * min_shift, 31)
    v = power(high, HALF - double, isa) + power(low, -double, isa)
    if r is not None:
        square = let(r * r)
        whole = let(tirx.truncdiv(square, channels))
        mean_square = (whole << 16) + tirx.truncdiv((square - whole * channels) << 16, channels)
        v -= power(mean_square, -16 - double, isa)
    return tirx.max(v + floor, 1), q


def power(x: Expr, exponent: Expr, isa: Isa) -> Expr:
    """`floor(x 2^exponent)` of non-negative lanes; `x = 0` where the exponent is over 30."""
    exponent = let(exponent)
    return isa.lshift(x, clamp(exponent, 0, 30)) >> clamp(-exponent, 0, 31)


def reciprocal_root(v: Expr, q: Expr, isa: Isa) -> tuple[Expr, Expr]:
    """`g` and `p` of positive lanes, the root digit by digit (*Hacker's Delight* 11-1), then to the nearest half."""
    j = let((30 - bit_length(v)) >> 1)
    left = let(clamp(j, 0, 15))
    normal = let(isa.lshift(isa.lshift(v, left), left) >> (2 * tirx.max(-j, 0)))
    lanes = lanes_of(v)
    one = tirx.const(1, v.ty.dtype)
    digits = registers(1, lanes)[0]
    store(digits, (0,), one << 14)
    with T.serial(14) as i:
        more = let(load(digits, (0,), lanes) + (tirx.const(1 << 13, INT32) >> widen(i, INT32)))
        store(digits, (0,), tirx.Select(more * more <= normal, more, load(digits, (0,), lanes)))
    root = let(load(digits, (0,), lanes))
    rest = let(2 * (normal - root * root))
    twice = let(2 * root + tirx.Select(rest >= root, one, one - 1) + tirx.Select(rest >= 3 * root, one, one - 1))
    return tirx.min(tirx.truncdiv((one << 30) + (twice >> 1), twice), 32767), q - j
