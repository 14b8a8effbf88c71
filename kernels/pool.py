"""Mean or largest of the pixels of a window that exist (`intvit.dialect.windows`).

    mean   y[t, c] = clamp(rshift(sat16(rshift(sum_i x[pixel i of window t, c], pre[t])) * mul[t], shift))
    max    y[t, c] = max_i x[pixel i of window t, c]

A task is a line of windows, or some of its channels where there are few lines. Sums of a vector of channels stay in
registers over the pixels of a window.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.geometry import Axis, Geometry
from intvit.kernels.arith import Buffer, Expr, clamp, let, load, rshift, sat16, store, widen
from intvit.kernels.function import Tensor, function, registers, symbol
from intvit.kernels.isa import Isa
from intvit.kernels.tile import runs

LIMITS = {"int8": (-128, 127), "int16": (-32768, 32767)}
VECTORS = 2  # of int32 sums
TASKS = 16  # of an image


def pool(
    channels: int, geometry: Geometry, kind: str, shift: int, isa: Isa, *, dtype: str = "int16", name: str = "pool"
) -> tirx.PrimFunc:
    """Inputs: x `dtype` [batch * pixels, channels], mul int16 [tokens], pre int8 [tokens]; output `dtype`.

    A kernel of the largest, `kind` "max", has no `mul` and `pre`.
    """
    pixels, rows = symbol("pixels"), symbol("rows")
    vertical, horizontal = geometry.rows, geometry.columns
    most = VECTORS * isa.lanes
    whole, blocks = channels // most, -(-channels // most)
    splits = min(blocks, -(-TASKS // vertical.count))
    mean = kind == "mean"

    def body(x: Buffer, *rest: Buffer) -> None:
        *dyadic, y = rest
        with T.parallel(rows // horizontal.count * splits) as task:
            line, part = let(task // splits), let(task % splits)
            image, up = let(line // vertical.count), let(line % vertical.count)
            begin, end = (let((part + i) * blocks // splits) for i in (0, 1))
            lines = pixels_of(up, vertical)
            with T.serial(horizontal.count) as window:
                across = pixels_of(window, horizontal)
                token = let(up * horizontal.count + window)

                def visit(column: Expr, lanes: int) -> None:
                    scalar = "int32" if mean else dtype
                    start = tirx.const(0 if mean else LIMITS[dtype][0], scalar)
                    found = registers(1, lanes, scalar)[0]
                    store(found, (0,), start if lanes == 1 else T.broadcast(start, lanes))
                    with T.serial(lines[1] - lines[0]) as i:
                        at = let((image * vertical.size + lines[0] + i) * horizontal.size + across[0])
                        with T.serial(across[1] - across[0]) as j:
                            value = widen(load(x, (at + j, column), lanes), scalar)
                            kept = load(found, (0,), lanes)
                            store(found, (0,), kept + value if mean else tirx.max(kept, value))
                    result = load(found, (0,), lanes)
                    if mean:
                        mul, pre = (widen(buffer[token], "int32") for buffer in dyadic)
                        result = clamp(rshift(sat16(rshift(result, let(pre))) * let(mul), shift), *LIMITS[dtype])
                    store(y, (line * horizontal.count + window, column), result)

                with T.serial(end - begin) as i:
                    block = let(begin + i)
                    with T.If(block < whole), T.Then():
                        visit(block * most, most)
                if channels % most:
                    with T.If(end == blocks), T.Then():
                        for offset, lanes in runs(channels % most, most // 2):
                            visit(tirx.const(whole * most + offset, "int64"), lanes)

    operands = [Tensor("mul", (geometry.tokens,), "int16"), Tensor("pre", (geometry.tokens,), "int8")]
    tensors = [
        Tensor("x", (pixels, channels), dtype),
        *(operands if mean else []),
        Tensor("y", (rows, channels), dtype),
    ]
    return function(name, tensors, body)


def pixels_of(window: Expr, axis: Axis) -> tuple[Expr, Expr]:
    """The first pixel of a window that exists, and the one behind the last."""
    first = let(window * axis.stride - axis.before)
    return let(tirx.max(first, 0)), let(tirx.min(first + axis.kernel, axis.size))
