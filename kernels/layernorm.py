"""Integer LayerNorm of int16 rows (`intvit.dialect.layernorm` defines every bit and the bounds that make it fit int32).

    d    = C x - sum x
    k    = max(bits(max |d|) - 14, min_shift)              a left shift where negative
    d14  = d >> k
    V    = max(1, sum (d14 >> down)^2 + (eps >> 2 (k - min_shift)))
    j    = (30 - bits(V)) >> 1,  R = isqrt(V 4^j),  F = min(2^29 / R, 2^15 - 1)
    n    = sat16((d14 F) >> (14 + down - j))
    y    = clamp((n mul[c] + bias[c]) >> shift)

All shifts of data round. A task is a block of rows, at most one vector of them: each row is read twice for its sum,
extremes and squares; then the roots and divisions of all rows of the block are lane by lane; then each row is read
again and written. `max |d|` needs no pass of its own: `d` grows with `x`, so the row's extremes give it.
"""

from __future__ import annotations

from collections.abc import Callable

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
    lshift,
    rshift,
    sat16,
    store,
    widen,
)
from intvit.kernels.function import Tensor, function, registers, symbol
from intvit.kernels.isa import Isa
from intvit.kernels.tile import across, even_blocks

LIMITS = {"int8": (-128, 127), "int16": (-32768, 32767)}
INT32 = "int32"


def layernorm(
    channels: int,
    shift: int,
    eps: int,
    min_shift: int,
    isa: Isa,
    *,
    dtype: str = "int8",
    tokens: int = 197,
    name: str = "layernorm",
) -> tirx.PrimFunc:
    """Inputs: x int16 [rows, channels], mul int16 [channels], bias int32 [channels]; output `dtype`, like x."""
    rows = symbol("rows")
    block = even_blocks(tokens, isa.lanes)
    down = max(0, ((channels - 1).bit_length() - 1) // 2)

    def body(x: Buffer, mul: Buffer, bias: Buffer, y: Buffer) -> None:
        with T.parallel((rows + (block - 1)) // block) as task:

            def line(r: Expr) -> Expr:
                return let(tirx.min(task * block + r, rows - 1))

            sums, rights, variances = registers(3, isa.lanes)
            with T.serial(block) as r:
                at = line(r)
                total, k = row_scale(x, at, channels, min_shift, isa)
                squares = row_squares(x, at, channels, total, k, down, isa)
                floor = tirx.const(eps, INT32) >> tirx.min(2 * (k - min_shift), 31)
                store(sums, (r,), total)
                store(rights, (r,), k)
                store(variances, (r,), tirx.max(squares + floor, 1))
            j, factor = reciprocal_root(load(variances, (0,), isa.lanes))
            factors, shifts = registers(2, isa.lanes)
            store(factors, (0,), factor)
            store(shifts, (0,), 14 + down - j)
            with T.serial(block) as r:
                at = line(r)
                total, k, f, s = (let(load(b, (r,), 1)) for b in (sums, rights, factors, shifts))

                def write(column: Expr, lanes: int) -> None:
                    n = sat16(rshift(centred(x, at, column, channels, total, k, lanes) * f, s))
                    value = n * load32(mul, (column,), lanes) + load(bias, (column,), lanes)
                    store(y, (at, column), clamp(rshift(value, shift), *LIMITS[dtype]))

                across(channels, isa, write)

    tensors = [
        Tensor("x", (rows, channels), "int16"),
        Tensor("mul", (channels,), "int16"),
        Tensor("bias", (channels,), INT32),
        Tensor("y", (rows, channels), dtype),
    ]
    return function(name, tensors, body)


def reduced(count: int, isa: Isa, operations: list[tuple[str, int]], value: Callable[[Expr, int], Expr]) -> list[Expr]:
    """`value(column, lanes)` over all columns, reduced by each of `operations` (`add`, `smin`, `smax`; neutral)."""
    combine = {"add": lambda a, b: a + b, "smin": tirx.min, "smax": tirx.max}
    wide, single = registers(len(operations), isa.lanes), registers(len(operations), 1)
    for (_, neutral), vector, scalar in zip(operations, wide, single, strict=True):
        store(vector, (0,), tirx.const(neutral, f"int32x{isa.lanes}"))
        store(scalar, (0,), tirx.const(neutral, INT32))

    def visit(column: Expr, lanes: int) -> None:
        x = let(value(column, lanes))
        for (operation, _), vector, scalar in zip(operations, wide, single, strict=True):
            into = scalar if lanes == 1 else vector
            store(into, (0,), combine[operation](load(into, (0,), lanes), x))

    across(count, isa, visit)
    results = []
    for (operation, _), vector, scalar in zip(operations, wide, single, strict=True):
        folded = tirx.call_llvm_pure_intrin(INT32, f"llvm.vector.reduce.{operation}", load(vector, (0,), isa.lanes))
        results.append(let(combine[operation](folded, load(scalar, (0,), 1))))
    return results


def centred(x: Buffer, row: Expr, column: Expr, channels: int, total: Expr, k: Expr, lanes: int) -> Expr:
    """`d14`: the distance from the mean, times `channels`, over `2^k`."""
    d = load32(x, (row, column), lanes) * channels - total
    return rshift(d << tirx.max(-k, 0), tirx.max(k, 0))


def row_scale(x: Buffer, row: Expr, channels: int, min_shift: int, isa: Isa) -> tuple[Expr, Expr]:
    """Sum of a row, and the shift `k`."""
    operations = [("add", 0), ("smin", 2**31 - 1), ("smax", -(2**31))]
    total, low, high = reduced(channels, isa, operations, lambda column, lanes: load32(x, (row, column), lanes))
    largest = let(tirx.max(high * channels - total, total - low * channels))
    return total, let(tirx.max(bit_length(largest) - 14, min_shift))


def row_squares(x: Buffer, row: Expr, channels: int, total: Expr, k: Expr, down: int, isa: Isa) -> Expr:
    """Sum of `(d14 >> down)^2`."""

    def square(column: Expr, lanes: int) -> Expr:
        d = let(rshift(centred(x, row, column, channels, total, k, lanes), down))
        return d * d

    return reduced(channels, isa, [("add", 0)], square)[0]


def reciprocal_root(v: Expr) -> tuple[Expr, Expr]:
    """`j` and `F` of positive lanes, the root digit by digit (*Hacker's Delight* 11-1)."""
    v = let(v)
    j = let((30 - bit_length(v)) >> 1)
    normal = let(lshift(v, 2 * tirx.max(j, 0)) >> (2 * tirx.max(-j, 0)))
    lanes = lanes_of(v)
    root = registers(1, lanes)[0]
    store(root, (0,), tirx.const(1 << 14, v.ty.dtype))
    with T.serial(14) as i:
        more = let(load(root, (0,), lanes) + (tirx.const(1 << 13, INT32) >> widen(i, INT32)))
        store(root, (0,), tirx.Select(more * more <= normal, more, load(root, (0,), lanes)))
    quotient = tirx.truncdiv(tirx.const(1 << 29, v.ty.dtype), load(root, (0,), lanes))
    return j, let(tirx.min(quotient, 32767))
