"""Blocks of channels by their root mean square (`intvit.dialect.rmsnorm` defines every bit).

    V    = sum x^2 + eps 4^min_shift        ~ v 4^q
    g    = 2^(29 + p) / sqrt(V),  F = g << max(1 - p, 0),  s = max(14 + p, 15)
    n    = sat16((x F) >> s)                                          (finer for int16 results)
    y    = clamp((n mul[c]) >> shift)

As `layernorm`, without the mean: a task has at most as many blocks of channels, of neighbouring rows, as a vector has
lanes, and their roots and divisions are lane by lane.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, clamp, let, load, load32, rshift, store, widen
from intvit.kernels.function import Tensor, function, kept, registers, symbol
from intvit.kernels.isa import Isa
from intvit.kernels.layernorm import FRACTION, HALF, INT32, LIMITS, floating_variance, reciprocal_root, scaled
from intvit.kernels.tile import across, even_blocks, runs


def rmsnorm(
    channels: int,
    groups: int,
    shift: int,
    isa: Isa,
    *,
    dtype: str = "int8",
    tokens: int = 197,
    name: str = "rmsnorm",
) -> tirx.PrimFunc:
    """Inputs: x int16 [rows, channels], mul int16 [channels], (eps, min_shift) int32 [2]; output `dtype`, like x."""
    rows = symbol("rows")
    size = channels // groups
    block = even_blocks(tokens * groups, isa.lanes)
    fraction = FRACTION[dtype]

    def body(x: Buffer, mul: Buffer, floor: Buffer, y: Buffer) -> None:
        with T.parallel((rows * groups + (block - 1)) // block) as task:
            least = (let(floor[0]), let(floor[1]))

            def place(i: Expr) -> tuple[Expr, Expr]:
                """Row and first column of a block of channels."""
                line = let(tirx.min(task * block + i, rows * groups - 1))
                return (line, 0) if groups == 1 else (let(line // groups), let(line % groups * size))

            halves = registers(2, isa.lanes)
            with T.serial(block) as i:
                for into, value in zip(halves, squares(x, *place(i), size, isa), strict=True):
                    store(into, (i,), value)
            unit = registers(2, isa.lanes)
            high, low = (load(b, (0,), isa.lanes) for b in halves)
            for into, value in zip(unit, scaling(high, low, size, least, isa), strict=True):
                store(into, (0,), value)
            with T.serial(block) as i:
                row, first = place(i)
                factor, s = (let(load(b, (i,), 1)) for b in unit)
                right = let(
                    (s + (14 - fraction)) & 31
                )  # else TVM's bound of a shifted number is wrong, without a clamp

                def write(column: Expr, lanes: int) -> None:
                    at = first + column
                    t = load32(x, (row, at), lanes) * factor
                    n = clamp(((t >> right) + 1) >> 1, -(1 << fraction), (1 << fraction) - 1)
                    value = scaled(n, load32(mul, (at,), lanes), fraction)
                    store(y, (row, at), clamp(rshift(value, shift), *LIMITS[dtype]))

                across(size, isa, write)

    tensors = [
        Tensor("x", (rows, channels), "int16"),
        Tensor("mul", (channels,), "int16"),
        Tensor("floor", (2,), INT32),
        Tensor("y", (rows, channels), dtype),
    ]
    return function(name, tensors, body)


def squares(x: Buffer, row: Expr, first: Expr, size: int, isa: Isa) -> list[Expr]:
    """`sum x^2` of `size` neighbours as upper and lower halves, not carried."""
    isa = isa.wide
    chunk = isa.lanes * isa.group
    single = registers(2, 1)
    for half in single:
        store(half, (0,), tirx.const(0, INT32))
    if size >= chunk:
        wide = registers(2, isa.lanes)
        zero = tirx.const(0, f"int32x{isa.lanes}")
        for half in wide:
            store(half, (0,), zero)
        with T.serial(size // chunk) as i:
            a = let(load(x, (row, first + i * chunk), chunk))
            for half, part in zip(wide, halves_of(isa.dot(zero, a, a)), strict=True):
                store(half, (0,), load(half, (0,), isa.lanes) + part)
        for half, vector in zip(single, wide, strict=True):
            store(half, (0,), total(load(vector, (0,), isa.lanes)))
    for offset, lanes in runs(size % chunk, isa.lanes):
        b = let(load32(x, (row, first + (size // chunk * chunk + offset)), lanes))
        for half, part in zip(single, halves_of(b * b), strict=True):
            store(half, (0,), load(half, (0,), 1) + (part if lanes == 1 else total(part)))
    return [let(load(half, (0,), 1)) for half in single]


def halves_of(square: Expr) -> tuple[Expr, Expr]:
    """Upper and lower half of lanes that are a square, or two, as numbers without sign."""
    kind = str(square.ty.dtype).replace("int32", "uint32")
    bits = let(tirx.reinterpret(kind, square))
    return widen(bits >> HALF, INT32), widen(bits & ((1 << HALF) - 1), INT32)


def total(x: Expr) -> Expr:
    """The sum of all lanes."""
    return tirx.call_llvm_pure_intrin(INT32, "llvm.vector.reduce.add", x)


def scaling(high: Expr, low: Expr, size: int, least: tuple[Expr, Expr], isa: Isa) -> tuple[Expr, Expr]:
    """`F` and `s` of each lane's block."""
    low = let(low)
    high = let(high + (low >> HALF))
    v, q = floating_variance(kept(high), kept(low & ((1 << HALF) - 1)), None, size, least, isa)
    g, p = (kept(value) for value in reciprocal_root(kept(v), kept(q), isa))
    return let(isa.lshift(g, clamp(1 - p, 0, 16))), let(tirx.max(14 + p, 15))
