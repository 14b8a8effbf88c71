"""I-ViT's I-LayerNorm of int16 rows (`intvit.dialect.published`, arXiv:2207.01405): ten Newton steps from 2^16.

    m = floor((2 sum x + C) / 2 C),  d = x - m                            |d| < 2^16
    V = sum d^2                                                           int64
    root = 2^16, then ten times root = (root + V / root) >> 1             int64, one division each
    y[c] = clamp(((d * ((2^31 - 1) / root)) >> 1) + bias[c])              int32

64 bits are needed for the sum of squares and the root. `d * factor` fits int32: Newton's steps stay at or above the
integer root of `V`, which is at least `|d|`. A square is a product of unsigned 32-bit lanes, where it is exact. Only
the mean is a division of numbers with two signs, floored explicitly. A task is a row.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, let, load, load32, store, widen
from intvit.kernels.function import Tensor, function, registers, symbol
from intvit.kernels.isa import Isa
from intvit.kernels.tile import across

START = 1 << 16
STEPS = 10
LARGEST = (1 << 31) - 1
INT64 = "int64"


def layernorm_published(channels: int, isa: Isa, *, name: str = "layernorm_published") -> tirx.PrimFunc:
    """Inputs: x int16 [rows, channels], bias int32 [channels]; output int32 [rows, channels]."""
    rows = symbol("rows")

    def body(x: Buffer, bias: Buffer, y: Buffer) -> None:
        with T.parallel(rows) as row:
            total = row_sum(channels, isa, lambda column, lanes: load32(x, (row, column), lanes))
            mean = let(tirx.floordiv(2 * total + channels, tirx.const(2 * channels, INT64)).astype("int32"))

            def centred(column: Expr, lanes: int) -> Expr:
                return let(load32(x, (row, column), lanes) - mean)

            def square(column: Expr, lanes: int) -> Expr:
                d = let(widen(centred(column, lanes), "uint32"))
                return d * d

            factor = let(tirx.truncdiv(tirx.const(LARGEST, INT64), newton_root(row_sum(channels, isa, square))))
            narrow = let(factor.astype("int32"))

            def write(column: Expr, lanes: int) -> None:
                unit = (centred(column, lanes) * narrow) >> 1
                store(y, (row, column), saturating_sum(unit, load(bias, (column,), lanes)))

            across(channels, isa, write)

    tensors = [
        Tensor("x", (rows, channels), "int16"),
        Tensor("bias", (channels,), "int32"),
        Tensor("y", (rows, channels), "int32"),
    ]
    return function(name, tensors, body)


def row_sum(count: int, isa: Isa, value: Callable[[Expr, int], Expr]) -> Expr:
    """The sum of the 32-bit `value(column, lanes)` over all columns, as int64."""
    wide, single = registers(1, isa.lanes, INT64)[0], registers(1, 1, INT64)[0]
    store(wide, (0,), tirx.const(0, f"{INT64}x{isa.lanes}"))
    store(single, (0,), tirx.const(0, INT64))

    def visit(column: Expr, lanes: int) -> None:
        into = single if lanes == 1 else wide
        store(into, (0,), load(into, (0,), lanes) + widen(let(value(column, lanes)), INT64))

    across(count, isa, visit)
    folded = tirx.call_llvm_pure_intrin(INT64, "llvm.vector.reduce.add", load(wide, (0,), isa.lanes))
    return let(folded + load(single, (0,), 1))


def newton_root(v: Expr) -> Expr:
    """Ten steps towards the root of an int64 `v >= 0`, from above where it is below 2^16: 64 for 0, never less."""
    root = registers(1, 1, INT64)[0]
    store(root, (0,), tirx.const(START, INT64))
    with T.serial(STEPS):
        now = let(load(root, (0,), 1))
        store(root, (0,), (now + tirx.truncdiv(v, now)) >> 1)
    return let(load(root, (0,), 1))


def saturating_sum(x: Expr, y: Expr) -> Expr:
    """`x + y` limited to int32: `x` is limited first, to what `y` leaves."""
    y = let(y)
    most, least = LARGEST - tirx.max(y, 0), -LARGEST - 1 - tirx.min(y, 0)
    return tirx.max(tirx.min(x, most), least) + y
