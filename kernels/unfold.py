"""What a convolution reads for each of its outputs, as rows of a product (`intvit.dialect.windows`).

    y[t, (i, j, c)] = x[pixel (i, j) of window t, c], `fill` where there is none

A task is a line of windows. The pixels of a line of a window are neighbours in both tensors, and move as one run of
memory, unless the window reaches outside of the image or its pixels are apart.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.geometry import Geometry
from intvit.kernels.arith import Buffer, Expr, let
from intvit.kernels.function import Tensor, function, symbol
from intvit.kernels.isa import Isa
from intvit.kernels.movement import copy


def unfold(n: int, geometry: Geometry, isa: Isa, *, image: bool = False, name: str = "unfold") -> tirx.PrimFunc:
    """Inputs: x int8 [batch * pixels, n], fill int8 [kernel width * n]; output int8 [rows, taps * n].

    With `image` x is uint8 [batch, height, width, n], and 128 less of it is taken.
    """
    pixels, batch, rows = symbol("pixels"), symbol("batch"), symbol("rows")
    vertical, horizontal = geometry.rows, geometry.columns
    run = horizontal.kernel * n
    whole = horizontal.interior if horizontal.dilation == 1 else range(0)

    def body(x: Buffer, fill: Buffer, y: Buffer) -> None:
        with T.parallel(rows // horizontal.count) as line:
            number, top = let(line // vertical.count), let(line % vertical.count * vertical.stride - vertical.before)

            with T.serial(vertical.kernel) as tap:
                at = let(top + tap * vertical.dilation)
                start = let((number * vertical.size + at) * horizontal.size)
                to = let(tap * run)

                def pixel(column: Expr) -> tuple[Expr, ...]:
                    return (number, at, column, 0) if image else (start + column, 0)

                def pieces(window: Expr) -> None:
                    with T.serial(horizontal.kernel) as j:
                        column = let(window * horizontal.stride - horizontal.before + j * horizontal.dilation)
                        place = (line * horizontal.count + window, to + j * n)
                        with T.If(inside(column, horizontal.size)):
                            with T.Then():
                                copy(x, pixel(column), y, place, n, isa)
                            with T.Else():
                                copy(fill, (0,), y, place, n, isa)

                def one_run(window: Expr) -> None:
                    source = pixel(window * horizontal.stride - horizontal.before)
                    copy(x, source, y, (line * horizontal.count + window, to), run, isa)

                def outside(window: Expr) -> None:
                    copy(fill, (0,), y, (line * horizontal.count + window, to), run, isa)

                with T.If(inside(at, vertical.size)):
                    with T.Then():
                        each(range(whole.start), pieces)
                        each(whole, one_run)
                        each(range(whole.stop, horizontal.count), pieces)
                    with T.Else():
                        each(range(horizontal.count), outside)

    tensors = [
        Tensor("image", (batch, *geometry.size, n), "uint8") if image else Tensor("x", (pixels, n), "int8"),
        Tensor("fill", (run,), "int8"),
        Tensor("y", (rows, vertical.kernel * run), "int8"),
    ]
    return function(name, tensors, body)


def each(windows: range, visit: Callable[[Expr], None]) -> None:
    """`visit(window)` for all of them."""
    if windows:
        with T.serial(len(windows)) as i:
            visit(let(i + windows.start))


def inside(at: Expr, size: int) -> Expr:
    """Whether a pixel is one of `size`."""
    return tirx.all(at >= 0, at < size)
