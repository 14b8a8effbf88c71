"""Softmax of rows by itself: weights in Q15 (`intvit.dialect.softmax`).

    t = rshift(sat16(rshift(x - max x, pre)) * mul, shift)    int16, <= 0
    e = exponentials(t, bits),  s = sum e                     `exponential` has the form in 16-bit lanes
    r = min(2^29 / s15, 2^15 - 1)                             s15 = s scaled to 15 bits
    y = epilogue(sat16((e * r + 2^(n - 1)) >> n))             n = bit_length(s) - 1

Four passes over a row: its maximum, `t` and `e` in a row of scratch, the result. The scratch is padded to whole vectors
with a `t` that weighs nothing, so that the sum has no rest; in the other passes the last vector overlaps the one before
it. Half a unit of the last shift is up to 2^29, too much for a 16-bit lane, but the product of two numbers that are
not: one multiply-add rounds and multiplies.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, bit_length, half_unit, lanes_of, let, load, load32, store, widen
from intvit.kernels.epilogue import Epilogue
from intvit.kernels.exponential import exponentials, log2_units
from intvit.kernels.finish import Finish, operand_tensors
from intvit.kernels.function import Tensor, function, kept, registers, scratch, symbol
from intvit.kernels.int16 import INT16, INT32, LEAST, MOST, multiply_add, packed
from intvit.kernels.interleave import shuffled
from intvit.kernels.isa import Isa
from intvit.kernels.pack import round_up
from intvit.kernels.tile import runs

FRACTION = 15
LEAST_TASK = 1 << 12  # elements that are worth a task


def softmax(
    channels: int, shift: int, bits: int, epilogue: Epilogue, isa: Isa, *, dtype: str = INT16, name: str = "softmax"
) -> tirx.PrimFunc:
    """Inputs: x `dtype` (int16, int32) [rows, channels], pre int8 [1], mul int16 [1], the epilogue's operands.

    Output [rows, channels] of the epilogue's type. The dyadic number of the scores is an operand, so that layers which
    differ in it share a kernel.
    """
    isa = isa.vector
    rows = symbol("rows")
    block = max(1, LEAST_TASK // channels)
    size = round_up(channels, 2 * isa.lanes)

    def body(x: Buffer, pre: Buffer, mul: Buffer, *rest: Buffer) -> None:
        finish = Finish(epilogue, rest[:-1], rest[-1], channels, isa)
        with T.parallel((rows + (block - 1)) // block) as task:
            dyadic = let(load32(pre, (0,), 1)), let(load32(mul, (0,), 1))
            held = scratch((2, size), INT16)  # rows in turns: each index has a loop's variable in it
            first = let(task * block)
            with T.serial(tirx.min(rows - first, block)) as r:
                row, own = let(first + r), let(r & 1)
                top = row_maximum(x, row, channels, isa)
                if size > channels:
                    store(held, (own, size - 2 * isa.lanes), tirx.const(LEAST, f"{INT16}x{2 * isa.lanes}"))
                log2_row(x, row, top, dyadic, shift, (held, own), channels, isa)
                total = exponential_row((held, own), bits, isa)
                write_row(finish, row, (held, own), total)

    tensors = [
        Tensor("x", (rows, channels), dtype),
        Tensor("pre", (1,), "int8"),
        Tensor("mul", (1,), INT16),
        *operand_tensors(epilogue, rows, channels, isa),
        Tensor("y", (rows, channels), epilogue.dtype),
    ]
    return function(name, tensors, body)


Held = tuple[Buffer, Expr]
"""The scratch and which of its rows."""


def overlapping(channels: int, isa: Isa, visit: Callable[[Expr, int], None]) -> None:
    """`visit(column, lanes)` until all columns were seen, some of them twice: two vectors at a time."""
    lanes = 2 * isa.lanes
    if channels < lanes:
        for offset, width in runs(channels, lanes):
            visit(tirx.const(offset, "int64"), width)
        return
    with T.serial(-(-channels // lanes)) as i:
        visit(let(tirx.min(i * lanes, channels - lanes)), lanes)


def row_maximum(x: Buffer, row: Expr, channels: int, isa: Isa) -> Expr:
    """The largest element of a row, int32."""
    dtype = str(x.ty.dtype)
    lanes = min(1 << (channels.bit_length() - 1), 2 * isa.lanes)
    top = registers(1, lanes, dtype)[0]
    store(top, (0,), load(x, (row, 0), lanes))
    single = registers(1, 1)[0]
    store(single, (0,), tirx.const(-(1 << 31), INT32))

    def visit(column: Expr, width: int) -> None:
        value = load(x, (row, column), width)
        if width == lanes:
            store(top, (0,), tirx.max(load(top, (0,), lanes), value))
        else:
            store(single, (0,), tirx.max(load(single, (0,), 1), largest(value)))

    overlapping(channels, isa, visit)
    return let(tirx.max(load(single, (0,), 1), largest(load(top, (0,), lanes))))


def largest(x: Expr) -> Expr:
    """The largest lane, int32."""
    if lanes_of(x) == 1:
        return widen(x, INT32)
    scalar = str(x.ty.dtype).partition("x")[0]
    return widen(tirx.call_llvm_pure_intrin(scalar, "llvm.vector.reduce.smax", x), INT32)


def log2_row(
    x: Buffer, row: Expr, top: Expr, dyadic: tuple[Expr, Expr], shift: int, held: Held, channels: int, isa: Isa
) -> None:
    """Distances from the maximum in log2 units."""
    pre, mul = dyadic
    half = let(half_unit(pre))

    def visit(column: Expr, lanes: int) -> None:
        below = (load32(x, (row, column), lanes) - top + half) >> pre
        store(held[0], (held[1], column), log2_units(kept(packed(below, isa)), mul, shift, isa))

    overlapping(channels, isa, visit)


def exponential_row(held: Held, bits: int, isa: Isa) -> Expr:
    """Exponentials in place of the exponents; returns their sum."""
    buffer, own = held
    lanes = 2 * isa.lanes
    total = registers(1, isa.lanes)[0]
    store(total, (0,), tirx.const(0, f"{INT32}x{isa.lanes}"))
    with T.serial(int(buffer.shape[1]) // lanes) as i:
        e = exponentials(load(buffer, (own, i * lanes), lanes), bits, isa)
        store(total, (0,), added_pairs(load(total, (0,), isa.lanes), e, isa))
        store(buffer, (own, i * lanes), e)
    return let(tirx.call_llvm_pure_intrin(INT32, "llvm.vector.reduce.add", load(total, (0,), isa.lanes)))


def added_pairs(total: Expr, e: Expr, isa: Isa) -> Expr:
    """`total` and both halves of twice as many int16 lanes, in some order."""
    if isa.wide.group == 2:
        return isa.wide.dot(total, e, tirx.const(1, f"{INT16}x{2 * isa.lanes}"))
    halves = [shuffled([e], list(range(start, start + isa.lanes))) for start in (0, isa.lanes)]
    return total + widen(halves[0], INT32) + widen(halves[1], INT32)


def write_row(finish: Finish, row: Expr, held: Held, total: Expr) -> None:
    """The exponentials over their sum, in Q15, through the epilogue."""
    isa = finish.isa
    n = let(bit_length(total) - 1)
    scaled = (total << tirx.max(FRACTION - 1 - n, 0)) >> tirx.max(n - (FRACTION - 1), 0)
    inverse = let(widen(tirx.min(tirx.truncdiv(tirx.const(1 << 29, INT32), scaled), MOST), INT16))
    most = let(tirx.min(n - 1, 15))
    halves = [let(widen(-(tirx.const(1, INT32) << s), INT16)) for s in (most, n - 1 - most)]

    def visit(column: Expr, lanes: int) -> None:
        factor, one, other = (x if lanes == 1 else tirx.Broadcast(x, lanes) for x in (inverse, *halves))
        e = load(held[0], (held[1], column), lanes)
        weights = packed(multiply_add(e, factor, one, other, isa) >> n, isa)
        finish.put(weights, row, column, finish.columns(column, lanes))

    overlapping(finish.n, isa, visit)
