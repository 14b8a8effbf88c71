"""`unfold`, `depthwise` and `pool`: eight neighbouring channels of a window for each thread (`intvit.dialect.windows`).

Rows are tokens, batch by batch; the elements between rows of an operand are its stride, a multiple of 16 but for y.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.geometry import Axis, Geometry
from intvit.kernels.arith import Buffer, Expr
from intvit.kernels.cuda.arith import INT32, clamp, let, quotient, remainder, rshift, sat16, wide
from intvit.kernels.cuda.fragments import CHUNK, NEIGHBOURS, padded
from intvit.kernels.cuda.launch import ROLLED, Block, DeviceKernel, device_kernel, local, move
from intvit.kernels.cuda.rows import THREADS, Rows
from intvit.kernels.cuda.store import Finish, epilogue_pointers
from intvit.kernels.epilogue import Epilogue

CENTRE = 128
LIMITS = {"int8": (-128, 127), "int16": (-32768, 32767)}


@dataclass(frozen=True)
class Window:
    """The window of a row of the result: its image, and where it begins."""

    image: Expr
    top: Expr
    left: Expr
    token: Expr

    @classmethod
    def of(cls, row: Expr, geometry: Geometry) -> Window:
        token = let(remainder(row, geometry.tokens))
        vertical, horizontal = geometry.rows, geometry.columns
        y, x = quotient(token, horizontal.count), remainder(token, horizontal.count)
        return cls(
            let(quotient(row, geometry.tokens)),
            let(y * vertical.stride - vertical.before),
            let(x * horizontal.stride - horizontal.before),
            token,
        )

    def pixel(self, y: Expr, x: Expr, geometry: Geometry) -> Expr:
        """The row of x that a pixel of the image is."""
        height, width = geometry.size
        return (self.image * height + y) * width + x


def unfold(
    n: int, geometry: Geometry, width: int, stride: int, dtype: str = "int8", *, name: str = "unfold"
) -> DeviceKernel:
    """Inputs: x `dtype` `[batch * pixels, width]`, `n` channels of it, fill int8 `[padded n]`; y int8 `[rows, stride]`.

    Of pixels, which are uint8, 128 less is taken.
    """
    columns = geometry.taps * n
    rows = Rows(columns)

    def body(block: Block, x: Buffer, fill: Buffer, y: Buffer) -> None:
        def item(row: Expr, column: Expr) -> None:
            window = Window.of(row, geometry)
            values = local(NEIGHBOURS, "int8")

            def take(first: Expr, to: Expr, count: int) -> None:
                tap, channel = let(quotient(first, n)), let(remainder(first, n))
                down = let(window.top + quotient(tap, geometry.columns.kernel) * geometry.rows.dilation)
                right = let(window.left + remainder(tap, geometry.columns.kernel) * geometry.columns.dilation)
                with T.If(inside(down, geometry.rows, right, geometry.columns)):
                    with T.Then():
                        start = let(window.pixel(down, right, geometry) * width + channel)
                        _take(values, to, x, start, count)
                    with T.Else():
                        _take(values, to, fill, channel, count)

            if n % NEIGHBOURS == 0 and dtype == "int8":
                take(column, 0, NEIGHBOURS)
            else:
                with T.unroll(NEIGHBOURS) as e, T.If(column + e < columns), T.Then():
                    take(let(column + e), e, 1)
            _put(y, row * stride + column, values, column, columns, stride)

        rows.visit(block, item)

    pointers = [("x", dtype), ("fill", "int8"), ("y", "int8")]
    return device_kernel(name, pointers, body, threads=THREADS, per=rows.per, times=rows.times)


def depthwise(
    n: int, geometry: Geometry, width: int, stride: int, epilogue: Epilogue, *, name: str = "depthwise"
) -> DeviceKernel:
    """Inputs: x int8 `[batch * pixels, width]`, weights int8 `[taps, padded n]`, fill int8 `[padded n]`, and more.

    These are the epilogue's operands. y `[rows, stride]` of its type.
    """
    rows = Rows(n)
    pitch = padded(n, CHUNK)

    def body(block: Block, x: Buffer, weights: Buffer, fill: Buffer, *rest: Buffer) -> None:
        *operands, y = rest
        whole = stride % NEIGHBOURS == 0
        finish = Finish(epilogue, operands, y, stride, pitch, NEIGHBOURS, whole=whole)

        def item(row: Expr, column: Expr) -> None:
            window = Window.of(row, geometry)
            sums, outside = local(NEIGHBOURS, INT32), local(NEIGHBOURS, "int8")
            move(outside, 0, fill, column, NEIGHBOURS)
            with T.unroll(NEIGHBOURS) as e:
                T.buffer_store(sums, tirx.const(0, INT32), [e])
            with (
                T.serial(geometry.rows.kernel, annotations=ROLLED) as i,
                T.serial(geometry.columns.kernel, annotations=ROLLED) as j,
            ):
                down = let(window.top + i * geometry.rows.dilation)
                right = let(window.left + j * geometry.columns.dilation)
                pixels, factors = local(NEIGHBOURS, "int8"), local(NEIGHBOURS, "int8")
                move(factors, 0, weights, let((i * geometry.columns.kernel + j) * pitch + column), NEIGHBOURS)
                with T.If(inside(down, geometry.rows, right, geometry.columns)):
                    with T.Then():
                        move(pixels, 0, x, let(window.pixel(down, right, geometry) * width + column), NEIGHBOURS)
                    with T.Else():
                        move(pixels, 0, outside, 0, NEIGHBOURS)
                with T.unroll(NEIGHBOURS) as e:
                    T.buffer_store(sums, sums[e] + wide(pixels[e]) * wide(factors[e]), [e])
            finish.put(lambda e: sums[e], row, column, n, finish.columns(column))

        rows.visit(block, item)

    inputs = [("x", "int8"), ("weights", "int8"), ("fill", "int8"), *epilogue_pointers(epilogue)]
    return device_kernel(name, [*inputs, ("y", epilogue.dtype)], body, threads=THREADS, per=rows.per, times=rows.times)


def pool(
    n: int, geometry: Geometry, kind: str, shift: int, width: int, stride: int, dtype: str, *, name: str = "pool"
) -> DeviceKernel:
    """Inputs: x `dtype` `[batch * pixels, width]`, mul int16 `[tokens]`, pre int8 `[tokens]`; y `[rows, stride]`.

    A kernel of the largest, `kind` "max", has no `mul` and `pre`.
    """
    rows = Rows(n)
    mean = kind == "mean"

    def body(block: Block, x: Buffer, *rest: Buffer) -> None:
        *dyadic, y = rest

        def item(row: Expr, column: Expr) -> None:
            window = Window.of(row, geometry)
            found = local(NEIGHBOURS, INT32)
            with T.unroll(NEIGHBOURS) as e:
                T.buffer_store(found, tirx.const(0 if mean else LIMITS[dtype][0], INT32), [e])
            first, last = pixels_of(window.top, geometry.rows)
            begin, end = pixels_of(window.left, geometry.columns)
            with (
                T.serial(last - first, annotations=ROLLED) as i,
                T.serial(end - begin, annotations=ROLLED) as j,
            ):
                values = local(NEIGHBOURS, dtype)
                start = let(window.pixel(first + i, begin + j, geometry) * width + column)
                move(values, 0, x, start, NEIGHBOURS)
                with T.unroll(NEIGHBOURS) as e:
                    value = wide(values[e])
                    T.buffer_store(found, found[e] + value if mean else tirx.max(found[e], value), [e])
            results = local(NEIGHBOURS, dtype)
            mul, pre = (let(wide(buffer[window.token])) for buffer in dyadic) if mean else (None, None)
            with T.unroll(NEIGHBOURS) as e:
                result = found[e]
                if mean:
                    result = clamp(rshift(sat16(let(rshift(result, pre))) * mul, shift), *LIMITS[dtype])
                T.buffer_store(results, result.astype(dtype), [e])
            _put(y, row * stride + column, results, column, n, stride)

        rows.visit(block, item)

    operands = [("mul", "int16"), ("pre", "int8")] if mean else []
    pointers = [("x", dtype), *operands, ("y", dtype)]
    return device_kernel(name, pointers, body, threads=THREADS, per=rows.per, times=rows.times)


def inside(y: Expr, rows: Axis, x: Expr, columns: Axis) -> Expr:
    """Whether a pixel is one of the image."""
    return tirx.all(y >= 0, y < rows.size, x >= 0, x < columns.size)


def pixels_of(first: Expr, axis: Axis) -> tuple[Expr, Expr]:
    """The first pixel that exists of the window that begins at `first`, and the one behind the last."""
    zero, size = tirx.const(0, INT32), tirx.const(axis.size, INT32)
    return let(tirx.max(first, zero)), let(tirx.min(first + axis.kernel, size))


def _take(values: Buffer, to: Expr, source: Buffer, start: Expr, count: int) -> None:
    if str(source.ty.dtype) == "uint8":
        T.buffer_store(values, (wide(source[start]) - CENTRE).astype("int8"), [to])
    elif count == 1:
        T.buffer_store(values, source[start], [to])
    else:
        move(values, to, source, start, count)


def _put(y: Buffer, to: Expr, values: Buffer, column: Expr, end: int, stride: int) -> None:
    """Neighbours of a row; those before `end` alone where the rows of y are not padded."""
    if stride % NEIGHBOURS == 0:
        move(y, to, values, 0, NEIGHBOURS)
        return
    with T.unroll(NEIGHBOURS) as e, T.If(column + e < end), T.Then():
        T.buffer_store(y, values[e], [to + e])
