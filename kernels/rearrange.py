"""`rearrange`: blocks of neighbouring channels of some tensors, copied to where a table says.

Rows are tokens, batch by batch. The sources of an image count as laid end to end; block `j` of token `t` begins at
element `rows[t] + columns[t or 0, j]` of them (`intvit.blocks`), which says of which source it is. A task is a piece of
an image's tokens, so that what threads take at once is worth taking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, let
from intvit.kernels.function import Tensor, function, symbol
from intvit.kernels.isa import Isa
from intvit.kernels.movement import copy
from intvit.kernels.tile import even_blocks

TASK = 1 << 14
"""Bytes of the result that a task writes, about."""


@dataclass(frozen=True)
class Source:
    """A tensor `[batch * tokens, columns]`, or a constant `[tokens, columns]`."""

    tokens: int
    columns: int
    constant: bool = False

    @property
    def size(self) -> int:
        """Elements of an image."""
        return self.tokens * self.columns


def rearrange(
    sources: Sequence[Source],
    tokens: int,
    blocks: int,
    chunk: int,
    isa: Isa,
    *,
    dtype: str = "int8",
    is_sum: bool = True,
    name: str = "rearrange",
) -> tirx.PrimFunc:
    """Inputs: the sources, rows int32 [tokens], columns int32 [1 or tokens, blocks], 1 where `is_sum`.

    Output [batch * tokens, blocks * chunk] of `dtype`, like the sources.
    """
    results, n = symbol("results"), blocks * chunk
    piece = even_blocks(tokens, max(1, TASK // (n * np.dtype(dtype).itemsize)))
    pieces = -(-tokens // piece)

    def body(*buffers: Buffer) -> None:
        *inputs, rows, columns, y = buffers
        with T.parallel(results // tokens * pieces) as task:
            image, first = let(task // pieces), let(task % pieces * piece)
            with T.serial(piece if tokens % piece == 0 else let(tirx.min(tokens - first, piece))) as r:
                token = let(first + r)
                row, begin = let(image * tokens + token), let(rows[token])

                def move(block: Expr) -> None:
                    start = let((begin + columns[0 if is_sum else token, block]).astype("int64"))
                    _from_source(
                        sources,
                        start,
                        lambda i, at: copy(
                            inputs[i], (_line(sources[i], image), at), y, (row, block * chunk), chunk, isa
                        ),
                    )

                if blocks == 1:
                    move(0)
                else:
                    with T.serial(blocks) as block:
                        move(block)

    tensors = [
        *(
            Tensor(f"x{i}", (x.tokens if x.constant else symbol(f"rows{i}"), x.columns), dtype)
            for i, x in enumerate(sources)
        ),
        Tensor("rows", (tokens,), "int32"),
        Tensor("columns", (1 if is_sum else tokens, blocks), "int32"),
        Tensor("y", (results, n), dtype),
    ]
    return function(name, tensors, body)


def _line(source: Source, image: Expr) -> Expr:
    """The first row of an image."""
    return 0 if source.constant else image * source.tokens


def _from_source(sources: Sequence[Source], start: Expr, move: Callable[[int, Expr], None], first: int = 0) -> None:
    """`move(source, element)` of the source, from number `first` on, in which the element `start` of all lies."""
    ends = list(accumulate(source.size for source in sources))
    at = start - (ends[first - 1] if first else 0)
    if first == len(sources) - 1:
        move(first, at)
        return
    with T.If(start < ends[first]):
        with T.Then():
            move(first, at)
        with T.Else():
            _from_source(sources, start, move, first + 1)
