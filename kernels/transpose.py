"""`rearrange` of single elements where neighbouring tokens of the result are neighbours in its one source: a transpose.

Squares are read as vectors of neighbours, turned in registers and written as parts of rows. At the end of rows and runs
a square overlaps the one before, so that there are no single elements left over.

    y[t, c] = x[rows[t] + columns[c]],  rows[t + 1] = rows[t] + 1 within a run of tokens
"""

from __future__ import annotations

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, let, load, store
from intvit.kernels.function import Tensor, function, symbol
from intvit.kernels.interleave import shuffled
from intvit.kernels.rearrange import TASK, Source

VECTOR = 16
"""Bytes of a side of a square: interleaving two of them is one instruction everywhere."""
SMALLEST = 4
"""Side of a square from which on turning it pays."""


def side_of_squares(blocks: int, run: int, dtype: str) -> int:
    """Side of the squares in rows of `blocks` and runs of `run` tokens; 0 where they would be too small."""
    most = min(VECTOR // np.dtype(dtype).itemsize, blocks, run)
    return 0 if most < SMALLEST else 1 << (most.bit_length() - 1)


def transpose(
    source: Source, tokens: int, blocks: int, run: int, *, dtype: str = "int8", name: str = "rearrange"
) -> tirx.PrimFunc:
    """Inputs: x, rows int32 [tokens], columns int32 [1, blocks]; output [batch * tokens, blocks] of `dtype`."""
    results, side = symbol("results"), side_of_squares(blocks, run, dtype)
    strips = -(-run // side)
    count = tokens // run * strips
    piece = max(1, TASK // (side * blocks * np.dtype(dtype).itemsize))
    pieces = -(-count // piece)

    def body(x: Buffer, rows: Buffer, columns: Buffer, y: Buffer) -> None:
        with T.parallel(results // tokens * pieces) as task:
            image, first = let(task // pieces), let(task % pieces * piece)
            line = 0 if source.constant else image * source.tokens
            with T.serial(piece if count % piece == 0 else let(tirx.min(count - first, piece))) as r:
                strip = let(first + r)
                token = let(strip // strips * run + tirx.min(strip % strips * side, run - side))
                begin, row = let(rows[token]), let(image * tokens + token)

                def turn(column: Expr) -> None:
                    lines = []
                    for i in range(side):
                        at = (begin + columns[0, column + i]).astype("int64")
                        lines.append(let(load(x, (line, at), side)))
                    for i, value in enumerate(turned(lines)):
                        store(y, (row + i, column), value)

                with T.serial(-(-blocks // side)) as square:
                    turn(let(tirx.min(square * side, blocks - side)))

    tensors = [
        Tensor("x", (source.tokens if source.constant else symbol("rows0"), source.columns), dtype),
        Tensor("rows", (tokens,), "int32"),
        Tensor("columns", (1, blocks), "int32"),
        Tensor("y", (results, blocks), dtype),
    ]
    return function(name, tensors, body)


def turned(rows: list[Expr]) -> list[Expr]:
    """The columns of a square of vectors, whose side is a power of two.

    Rows of the upper half are interleaved with those of the lower: so the first bit of an element's row becomes the
    last of its column, and after as many steps as there are bits each has taken the other's place.
    """
    side = half = len(rows)
    half //= 2
    low = [i // 2 + i % 2 * side for i in range(side)]
    high = [place + half for place in low]
    for _ in range(side.bit_length() - 1):
        pairs = zip(rows[:half], rows[half:], strict=True)
        rows = [let(shuffled([a, b], order)) for a, b in pairs for order in (low, high)]
    return rows
