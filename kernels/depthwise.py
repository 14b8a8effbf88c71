"""A convolution of every channel by itself, and the epilogue (`intvit.dialect.windows`).

    y[t, c] = epilogue(sum_i x[pixel i of window t, c] * w[i, c])

Neighbours of a step of the dot product are pixels above one another: of every column of the image they are put
together once, channel by channel, and serve all windows that the column is in. Where the height of the kernel is no
multiple of the step, its last weights are 0.

A task is a line of windows and some panels of channels. For a panel it copies what the line reads into scratch, with
`fill` around, so that every load is of a whole panel; puts columns together; and keeps a tile of windows x panel sums
in registers over all taps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.geometry import Axis, Geometry
from intvit.kernels.arith import Buffer, Expr, let, load, store
from intvit.kernels.epilogue import Epilogue
from intvit.kernels.finish import Finish, operand_tensors
from intvit.kernels.function import Tensor, function, scratch, symbol
from intvit.kernels.interleave import shuffled
from intvit.kernels.isa import Isa
from intvit.kernels.pack import round_up
from intvit.kernels.tile import even_blocks, registers_from, runs
from intvit.kernels.unfold import inside

MOST_WINDOWS = 8  # of a tile
TASKS = 16  # of an image


def taps_shape(n: int, geometry: Geometry, isa: Isa) -> tuple[int, int, int, int]:
    """Shape of the packed weights of `n` channels."""
    return (-(-n // isa.panel), -(-geometry.kernel[0] // isa.group), geometry.kernel[1], isa.panel * isa.group)


def taps(weight: NDArray[np.int8], geometry: Geometry, isa: Isa) -> NDArray[np.int8]:
    """Weights int8 [taps, n] as the kernel reads them: by panel, step, column; of each channel the taps of a step."""
    (height, width), n = geometry.kernel, weight.shape[1]
    panels, groups, _, _ = taps_shape(n, geometry, isa)
    padded = np.zeros((groups * isa.group, width, panels * isa.panel), np.int8)
    padded[:height, :, :n] = weight.reshape(height, width, n)
    blocks = padded.reshape(groups, isa.group, width, panels, isa.panel).transpose(3, 0, 2, 4, 1)
    return np.ascontiguousarray(blocks.reshape(taps_shape(n, geometry, isa)))


def depthwise(n: int, geometry: Geometry, epilogue: Epilogue, isa: Isa, *, name: str = "depthwise") -> tirx.PrimFunc:
    """Inputs: x int8 [batch * pixels, n], packed weights, fill int8 [whole panels], the epilogue's operands.

    Output [rows, n] of the epilogue's type. The epilogue begins with a bias (`pack.bias`).
    """
    pixels, rows = symbol("pixels"), symbol("rows")
    vertical, horizontal = geometry.rows, geometry.columns
    panels, groups, _, step = taps_shape(n, geometry, isa)
    splits = min(panels, -(-TASKS // vertical.count))
    tile = even_blocks(horizontal.count, min(MOST_WINDOWS, isa.most_rows), 1)

    def body(x: Buffer, w: Buffer, fill: Buffer, *rest: Buffer) -> None:
        finish = Finish(epilogue, rest[:-1], rest[-1], n, isa, biased=True)
        with T.parallel(rows // horizontal.count * splits) as task:
            line, part = let(task // splits), let(task % splits)
            begin, end = (let((part + i) * panels // splits) for i in (0, 1))
            with T.serial(end - begin) as p:
                panel = let(begin + p)
                columns = columns_of_line(x, fill, line, panel, n, geometry, isa)
                with T.serial(-(-horizontal.count // tile)) as t:
                    windows = [let(tirx.min(t * tile + r, horizontal.count - 1)) for r in range(tile)]
                    start = [finish.start(panel * isa.panel + v * isa.lanes) for v in range(isa.vectors)]
                    sums = registers_from(start, tile, isa)
                    with T.serial(groups) as g, T.serial(horizontal.kernel) as j:
                        for v in range(isa.vectors):
                            width = isa.lanes * isa.group
                            factors = let(isa.right(load(w, (panel, g, j, v * width), width)))
                            for window, row in zip(windows, sums, strict=True):
                                at = window * horizontal.stride + j * horizontal.dilation
                                a = load(columns, (g, at, v * width), width)
                                store(row[v], (0,), isa.dot(load(row[v], (0,), isa.lanes), a, factors))
                    finish.tile(sums, [let(line * horizontal.count + window) for window in windows], panel)

    tensors = [
        Tensor("x", (pixels, n), "int8"),
        Tensor("weights", (panels, groups, horizontal.kernel, step), "int8"),
        Tensor("fill", (round_up(n, isa.columns),), "int8"),
        *operand_tensors(epilogue, rows, n, isa),
        Tensor("y", (rows, n), epilogue.dtype),
    ]
    return function(name, tensors, body)


def columns_of_line(x: Buffer, fill: Buffer, line: Expr, panel: Expr, n: int, geometry: Geometry, isa: Isa) -> Buffer:
    """Left operands [steps, columns, panel * group] of a line of windows: pixels above one another, put together."""
    held = rows_of_line(x, fill, line, panel, n, geometry, isa)
    kernel, width, size = geometry.kernel[0], columns_held(geometry.columns), isa.lanes * isa.group
    groups = -(-kernel // isa.group)
    columns = scratch((groups, width, isa.vectors * size), isa.element)
    with T.serial(groups) as g:
        lines = [let(tirx.min(g * isa.group + j, kernel - 1)) for j in range(isa.group)]
        with T.serial(width) as column:
            for v in range(isa.vectors):
                pixels = [load(held, (row, column, v * isa.lanes), isa.lanes) for row in lines]
                order = [i // isa.group + i % isa.group * isa.lanes for i in range(size)]
                store(columns, (g, column, v * size), isa.left(shuffled(pixels, order)))
    return columns


def columns_held(axis: Axis) -> int:
    """Columns that a line reads, with its padding: at least two pixels of the image, `function.scratch` says why."""
    return max(axis.covered, axis.before + max(pixels_read(axis), 2))


def pixels_read(axis: Axis) -> int:
    """Pixels of a line of the image that its windows, and what is between them, take in."""
    return max(min(axis.size, axis.covered - axis.before), 1)


def rows_of_line(x: Buffer, fill: Buffer, line: Expr, panel: Expr, n: int, geometry: Geometry, isa: Isa) -> Buffer:
    """int8 [kernel height, columns, panel]: what a line of windows reads of a panel."""
    vertical, horizontal = geometry.rows, geometry.columns
    held = scratch((vertical.kernel, columns_held(horizontal), isa.panel), "int8")
    count = pixels_read(horizontal)
    image, top = let(line // vertical.count), let(line % vertical.count * vertical.stride - vertical.before)
    first = let(panel * isa.panel)
    outside = let(load(fill, (first,), isa.panel))

    def padding(tap: Expr, begin: int, end: int) -> None:
        if end > begin:
            with T.serial(end - begin) as i:
                store(held, (tap, i + begin, 0), outside)

    def pixels(tap: Expr, start: Expr, parts: list[tuple[int, int]]) -> None:
        with T.serial(max(count, 2)) as i:
            source = let(start + (i if count > 1 else 0))
            for offset, lanes in parts:
                value = load(x, (source, first + offset), lanes)
                store(held, (tap, i + horizontal.before, offset), value)

    with T.serial(vertical.kernel) as tap:
        at = let(top + tap * vertical.dilation)
        start = let((image * vertical.size + at) * horizontal.size)
        with T.If(inside(at, vertical.size)):
            with T.Then():
                whole = n // isa.panel
                if n % isa.panel == 0:
                    pixels(tap, start, [(0, isa.panel)])
                else:
                    with T.If(panel < whole):
                        with T.Then():
                            pixels(tap, start, [(0, isa.panel)])
                        with T.Else():
                            pixels(tap, start, runs(n % isa.panel, isa.panel // 2))
                padding(tap, 0, horizontal.before)
                padding(tap, horizontal.before + count, columns_held(horizontal))
            with T.Else():
                padding(tap, 0, columns_held(horizontal))
    return held
