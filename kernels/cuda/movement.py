"""Kernels that move values and compute nothing: tokens in front, a range of tokens, patches of an image.

Rows are tokens, batch by batch; the elements between rows of an operand are its stride, a multiple of 16 but for y.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr
from intvit.kernels.cuda.arith import let, quotient, remainder, wide
from intvit.kernels.cuda.fragments import CHUNK, NEIGHBOURS, padded
from intvit.kernels.cuda.launch import Block, DeviceKernel, device_kernel, local, move
from intvit.kernels.cuda.rows import THREADS, Rows

CENTRE = 128


def _kernel(name: str, n: int, inputs: list[tuple[str, str]], dtype: str, item: Callable[..., None]) -> DeviceKernel:
    rows = Rows(n)

    def body(block: Block, *buffers: Buffer) -> None:
        rows.visit(block, lambda row, column: item(row, column, *buffers))

    return device_kernel(name, [*inputs, ("y", dtype)], body, threads=THREADS, per=rows.per, times=rows.times)


def _moved(y: Buffer, to: Expr, x: Buffer, start: Expr, column: Expr, n: int, stride: int) -> None:
    """Neighbours of a row; those before `n` alone where the rows of y are not padded."""
    if stride % NEIGHBOURS == 0:
        move(y, to, x, start, NEIGHBOURS)
        return
    with T.unroll(NEIGHBOURS) as e, T.If(column + e < n), T.Then():
        T.buffer_store(y, x[start + e], [to + e])


def concat_tokens(
    first: int, tokens: int, n: int, width: int, stride: int, *, dtype: str = "int16", name: str = "concat_tokens"
) -> DeviceKernel:
    """Inputs: constant `[first, padded n]`, x `[batch * tokens, width]`; y `[batch * (first + tokens), stride]`."""
    both, pitch = first + tokens, padded(n, CHUNK)

    def item(row: Expr, column: Expr, constant: Buffer, x: Buffer, y: Buffer) -> None:
        token = let(remainder(row, both))
        to = let(row * stride + column)
        with T.If(token < first):
            with T.Then():
                _moved(y, to, constant, let(token * pitch + column), column, n, stride)
            with T.Else():
                line = quotient(row, both) * tokens + token - first
                _moved(y, to, x, let(line * width + column), column, n, stride)

    return _kernel(name, n, [("constant", dtype), ("x", dtype)], dtype, item)


def select_tokens(
    start: int, stop: int, tokens: int, n: int, width: int, stride: int, dtype: str, *, name: str = "select_tokens"
) -> DeviceKernel:
    """Input: x `[batch * tokens, width]`; y `[batch * (stop - start), stride]`, tokens `start` to `stop - 1`."""
    count = stop - start

    def item(row: Expr, column: Expr, x: Buffer, y: Buffer) -> None:
        line = quotient(row, count) * tokens + start + remainder(row, count)
        _moved(y, let(row * stride + column), x, let(line * width + column), column, n, stride)

    return _kernel(name, n, [("x", dtype)], dtype, item)


def patchify(
    image: tuple[int, int, int], patch: tuple[int, int], stride: int, *, name: str = "patchify"
) -> DeviceKernel:
    """Patches of an image (height, width, channels) as rows, pixel - 128 in the order (y, x, channel), zeros behind.

    Input: uint8 `[batch, height, width, channels]`; y int8 `[batch * patches, stride]`.
    """
    height, width, channels = image
    down, across = patch
    grid = width // across
    patches = height // down * grid
    line = across * channels
    n = down * line

    def item(row: Expr, column: Expr, pixels: Buffer, y: Buffer) -> None:
        place = let(remainder(row, patches))
        top = (quotient(row, patches) * height + quotient(place, grid) * down) * (width * channels)
        origin = let(top + remainder(place, grid) * line)
        values = local(NEIGHBOURS, "int8")
        with T.unroll(NEIGHBOURS) as e:
            k = let(column + e)
            at = origin + quotient(k, line) * (width * channels) + remainder(k, line)
            pixel = tirx.if_then_else(k < n, wide(pixels[at]) - CENTRE, tirx.const(0, "int32"))
            T.buffer_store(values, pixel.astype("int8"), [e])
        move(y, row * stride + column, values, 0, NEIGHBOURS)

    return _kernel(name, n, [("image", "uint8")], "int8", item)
