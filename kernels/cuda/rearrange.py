"""`rearrange`: blocks of neighbouring channels of some tensors, copied to where a table says.

Rows are tokens, batch by batch; the elements between rows of a source are its width, a multiple of 16. The sources of
an image count as laid end to end; block `j` of token `t` begins at element `rows[t] + columns[t or 0, j]` of them
(`intvit.blocks`), which says of which source it is. A thread makes eight neighbours: parts of one block where blocks
are whole eights, else each for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr
from intvit.kernels.cuda.arith import let, quotient, remainder
from intvit.kernels.cuda.fragments import NEIGHBOURS
from intvit.kernels.cuda.launch import Block, DeviceKernel, device_kernel, local, move
from intvit.kernels.cuda.rows import THREADS, Rows


@dataclass(frozen=True)
class Source:
    """A tensor `[batch * tokens, width]`, or a constant `[tokens, width]`."""

    tokens: int
    width: int
    constant: bool = False

    @property
    def size(self) -> int:
        """Elements of an image."""
        return self.tokens * self.width


def rearrange(
    sources: Sequence[Source],
    tokens: int,
    blocks: int,
    chunk: int,
    stride: int,
    *,
    dtype: str = "int8",
    is_sum: bool = True,
    name: str = "rearrange",
) -> DeviceKernel:
    """Inputs: the sources, rows int32 `[tokens]`, columns int32 `[1 or tokens, blocks]`, 1 where `is_sum`.

    y `[batch * tokens, stride]` of `dtype`, like the sources: `blocks * chunk` columns count.
    """
    n = blocks * chunk
    rows = Rows(n)

    def body(block: Block, *buffers: Buffer) -> None:
        *inputs, begins, columns, y = buffers

        def item(row: Expr, column: Expr) -> None:
            image, token = let(quotient(row, tokens)), let(remainder(row, tokens))
            begin, line = let(begins[token]), 0 if is_sum else let(token * blocks)
            values = local(NEIGHBOURS, dtype)

            def take(first: Expr, to: Expr, count: int) -> None:
                """`count` neighbours of a block, from column `first` of the row on."""

                def put(i: int, at: Expr) -> None:
                    at = at + _line(sources[i], image)
                    if count == 1:
                        T.buffer_store(values, inputs[i][at], [to])
                    else:
                        move(values, to, inputs[i], at, count)

                start = let(begin + columns[line + quotient(first, chunk)] + remainder(first, chunk))
                _from_source(sources, start, put)

            if chunk % NEIGHBOURS == 0:
                take(column, 0, NEIGHBOURS)
            else:
                with T.unroll(NEIGHBOURS) as e, T.If(column + e < n), T.Then():
                    take(let(column + e), e, 1)
            to = let(row * stride + column)
            if stride % NEIGHBOURS == 0:
                move(y, to, values, 0, NEIGHBOURS)
            else:
                with T.unroll(NEIGHBOURS) as e, T.If(column + e < n), T.Then():
                    T.buffer_store(y, values[e], [to + e])

        rows.visit(block, item)

    pointers = [
        *((f"x{i}", dtype) for i in range(len(sources))),
        ("begins", "int32"),
        ("columns", "int32"),
        ("y", dtype),
    ]
    return device_kernel(name, pointers, body, threads=THREADS, per=rows.per, times=rows.times)


def _line(source: Source, image: Expr) -> Expr:
    """Where an image begins."""
    return 0 if source.constant else image * source.size


def _from_source(sources: Sequence[Source], start: Expr, visit: Callable[[int, Expr], None], first: int = 0) -> None:
    """`visit(source, element)` of the source, from number `first` on, in which the element `start` of all lies."""
    ends = list(accumulate(source.size for source in sources))
    at = start - (ends[first - 1] if first else 0)
    if first == len(sources) - 1:
        visit(first, at)
        return
    with T.If(start < ends[first]):
        with T.Then():
            visit(first, at)
        with T.Else():
            _from_source(sources, start, visit, first + 1)
