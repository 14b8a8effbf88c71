"""Kernels that move values and compute nothing: tokens in front, a range of tokens, patches of an image.

Rows are tokens, batch by batch: row `b * tokens + t` is token `t` of batch element `b`.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, let, like, load, store, widen
from intvit.kernels.function import Tensor, function, symbol
from intvit.kernels.isa import Isa
from intvit.kernels.tile import runs

CENTRE = 128
VECTORS = 4  # a copy moves lanes of one byte, four times as many as of int32


def copy(source: Buffer, start: tuple[Expr, ...], target: Buffer, to: tuple[Expr, ...], count: int, isa: Isa) -> None:
    """`count` neighbours, in vectors and what is left; pixels (uint8) minus 128."""
    lanes = isa.lanes * VECTORS
    pixels = str(source.ty.dtype) == "uint8"

    def moved(at: Expr, width: int) -> Expr:
        value = load(source, (*outer, at), width)
        return value ^ like(value, CENTRE) if pixels else value

    (*outer, column), (*rows, place) = start, to
    if count >= lanes:
        with T.serial(count // lanes) as i:
            store(target, (*rows, place + i * lanes), moved(column + i * lanes, lanes))
    done = count // lanes * lanes
    for offset, width in runs(count - done, lanes):
        store(target, (*rows, place + done + offset), moved(column + done + offset, width))


def concat_tokens(
    first: int, tokens: int, n: int, isa: Isa, *, dtype: str = "int16", name: str = "concat_tokens"
) -> tirx.PrimFunc:
    """Inputs: constant [first, n], x [batch * tokens, n]; output [batch * (first + tokens), n], the constant first."""
    rows, results = symbol("rows"), symbol("results")
    both = first + tokens

    def body(constant: Buffer, x: Buffer, y: Buffer) -> None:
        with T.parallel(results) as row:
            token = let(row % both)
            with T.If(token < first):
                with T.Then():
                    copy(constant, (token, 0), y, (row, 0), n, isa)
                with T.Else():
                    copy(x, (row // both * tokens + token - first, 0), y, (row, 0), n, isa)

    tensors = [
        Tensor("constant", (first, n), dtype),
        Tensor("x", (rows, n), dtype),
        Tensor("y", (results, n), dtype),
    ]
    return function(name, tensors, body)


def select_tokens(
    start: int, stop: int, tokens: int, n: int, isa: Isa, *, dtype: str = "int16", name: str = "select_tokens"
) -> tirx.PrimFunc:
    """Input: x [batch * tokens, n]; output [batch * (stop - start), n], tokens `start` to `stop - 1`."""
    rows, results = symbol("rows"), symbol("results")
    count = stop - start

    def body(x: Buffer, y: Buffer) -> None:
        with T.parallel(results) as row:
            copy(x, (row // count * tokens + start + row % count, 0), y, (row, 0), n, isa)

    return function(name, [Tensor("x", (rows, n), dtype), Tensor("y", (results, n), dtype)], body)


def patchify(image: tuple[int, int, int], patch: tuple[int, int], isa: Isa, *, name: str = "patchify") -> tirx.PrimFunc:
    """Patches of an image (its height, width, channels) as rows, pixel - 128 in the order (y, x, channel).

    Input: uint8 [batch, height, width, channels]; output int8 [batch * patches, patch height * width * channels].
    """
    batch, rows = symbol("batch"), symbol("rows")
    height, width, channels = image
    tall, wide = patch
    across, down = width // wide, height // tall
    run = wide * channels  # neighbours in both tensors

    def body(x: Buffer, y: Buffer) -> None:
        with T.parallel(rows) as row:
            b, at = let(row // (across * down)), let(row % (across * down))
            with T.serial(tall) as line:
                source = let(at // across * tall + line)
                first = let(at % across * wide)
                for offset, lanes in runs(run, isa.lanes * VECTORS):  # over pixels and channels: one run of memory
                    pixels = load(x, (b, source, first, offset), lanes)
                    store(y, (row, line * run + offset), widen(pixels, "int32") - 128)

    tensors = [
        Tensor("image", (batch, height, width, channels), "uint8"),
        Tensor("y", (rows, tall * run), "int8"),
    ]
    return function(name, tensors, body)
