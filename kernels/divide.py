"""Quotients by elements (`intvit.dialect.divide` defines every bit).

    n  = bits(max(|b|, 1)),  b15 = |b| 2^(15 - n),  r = min((2^29 + b15 / 2) / b15, 2^15 - 1) sign(b)
    y  = epilogue(sat16(rshift(a * r, n - 1 + pre[c])))                     the rest of a requantization

A task is a block of rows. First the reciprocals of all its divisors, lane by lane, since they are neighbours in memory;
then the rows, each block of channels by its own. The last task has rows of the one before it.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, bit_length, let, load, load32, rshift, store
from intvit.kernels.epilogue import Epilogue
from intvit.kernels.finish import Finish, operand_tensors
from intvit.kernels.function import Tensor, function, kept, scratch, symbol
from intvit.kernels.int16 import INT16, INT32, packed
from intvit.kernels.isa import Isa
from intvit.kernels.pack import round_up
from intvit.kernels.tile import across, even_blocks

BLOCK = 4096
"""Elements of a task, about."""


def divide(
    channels: int,
    blocks: int,
    pre: int | None,
    epilogue: Epilogue,
    isa: Isa,
    *,
    tokens: int = 1,
    name: str = "divide",
) -> tirx.PrimFunc:
    """Inputs: a int16 [rows, channels], b int16 [rows, blocks], pre int8 [channels, padded] where it is no constant.

    Then the epilogue's operands; output [rows, channels] of its type. `tokens`: rows of an image, of which there is one
    at least.
    """
    rows = symbol("rows")
    block = even_blocks(tokens, max(BLOCK // channels, 1))
    size = channels // blocks

    def body(a: Buffer, b: Buffer, *rest: Buffer) -> None:
        shifts, *operands = rest[:-1] if pre is None else (None, *rest[:-1])
        finish = Finish(epilogue, operands, rest[-1], channels, isa)
        with T.parallel((rows + (block - 1)) // block) as task:
            first = let(tirx.min(task * block, rows - block))
            factors, bits = (scratch((block * blocks,), INT32) for _ in range(2))

            def invert(place: Expr, lanes: int) -> None:
                found = reciprocals(load32(b, (first, place), lanes), isa)
                for into, value in zip((factors, bits), found, strict=True):
                    store(into, (place,), value)

            across(block * blocks, isa, invert)
            with T.serial(block) as i:
                row = let(first + i)

                def put(column: Expr, factor: Expr, shift: Expr, lanes: int) -> None:
                    own = pre if shifts is None else load32(shifts, (column,), lanes)
                    by = let((shift - 1 + own) & 31)  # TVM must know what a shift may be
                    x = load32(a, (row, column), lanes) * factor
                    finish.put(packed(rshift(x, by), isa), row, column, finish.columns(column, lanes))

                if size == 1:

                    def one(column: Expr, lanes: int) -> None:
                        place = let(i * blocks + column)
                        put(column, load(factors, (place,), lanes), load(bits, (place,), lanes), lanes)

                    wide_across(channels, isa, one)
                else:
                    with T.serial(blocks) as j:
                        factor, shift = (let(load(x, (i * blocks + j,), 1)) for x in (factors, bits))
                        wide_across(size, isa, lambda c, lanes: put(let(j * size + c), factor, shift, lanes))

    tensors = [
        Tensor("a", (rows, channels), INT16),
        Tensor("b", (rows, blocks), INT16),
        *([Tensor("pre", (round_up(channels, isa.columns),), "int8")] if pre is None else []),
        *operand_tensors(epilogue, rows, channels, isa),
        Tensor("y", (rows, channels), epilogue.dtype),
    ]
    return function(name, tensors, body)


def wide_across(count: int, isa: Isa, visit: Callable[[Expr, int], None]) -> None:
    """`across`, two vectors of int32 lanes at a time where there are as many."""
    lanes = 2 * isa.lanes
    whole = count // lanes
    if whole:
        with T.serial(whole) as i:
            visit(let(i * lanes), lanes)
    if count % lanes:
        across(count % lanes, isa, lambda column, width: visit(column + whole * lanes, width))


def reciprocals(b: Expr, isa: Isa) -> tuple[Expr, Expr]:
    """`r` and `n` of int32 lanes within 16 bits."""
    b = let(b)
    magnitude = kept(tirx.max(tirx.max(b, 0 - b), 1))  # seen through in a shift's amount, TVM would drop the 1
    bits = bit_length(magnitude)
    normal = let(isa.lshift(magnitude, 16 - bits) >> 1)
    one = tirx.const(1, b.ty.dtype)
    r = let(tirx.min(tirx.truncdiv((one << 29) + (normal >> 1), normal), 32767))
    return let(tirx.Select(b < one - 1, 0 - r, r)), bits
