"""The two products of an attention on AMX tiles, to the bit those of `attention_vectors`.

    scores[s, t] = sum_c k[s, c] * q[t, c]                     keys as rows, turned queries: 16 by 16 a tile
    o[c, t]      = sum_s v[s, c] * (e[s, t] >> 8) << 8
                 + sum_s v[s, c] * (e[s, t] & 255)             turned values as rows; bytes of weights, `tdpbsud`

A tile of scores lies in memory as the softmax wants it, a query in each lane, and so do the bytes of four keys' weights
as the second product wants them. Its sums have a query in each lane, too, and are turned once. A block of 16 queries,
197 tokens and heads of 64 takes 46 instructions of 16 cycles on tiles, where vectors take 4,700 cycles. Not timed:
there was no such machine.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.amx import configure, copy_row, instruction, load_tile, release, store_tile
from intvit.kernels.arith import Buffer, Expr, let, load, store
from intvit.kernels.function import registers, scratch
from intvit.kernels.heads import Heads, Line, Stored
from intvit.kernels.interleave import join_bytes, shuffled, transposed
from intvit.kernels.isa import TILE_DEPTH, TILE_ROWS
from intvit.kernels.pack import round_up
from intvit.kernels.tile import runs
from intvit.kernels.turned import turned_rows

QUAD = 4  # keys whose bytes are one lane
LANES = f"int32x{TILE_ROWS}"


class OnTiles:
    """Memory of a task: keys and turned values, scores, weights and sums of a block."""

    def __init__(self, sizes: Heads) -> None:
        self.sizes = sizes
        self.depth = round_up(sizes.head_size, TILE_DEPTH)
        self.channels = round_up(sizes.value_size, TILE_ROWS)
        self.steps = -(-sizes.keys // TILE_DEPTH)
        self.quads = -(-sizes.keys // QUAD)
        self.rows = round_up(sizes.keys, 2 * TILE_ROWS)
        self.keys = scratch((self.rows * self.depth,), "int8")
        self.values = scratch((self.channels, self.steps * TILE_ROWS), "int32")
        self.scores = scratch((self.rows, TILE_ROWS), "int32")
        self.weights = scratch((2 * self.quads, 2 * TILE_ROWS), "int16")
        self.bytes = [scratch((self.steps * TILE_ROWS, TILE_ROWS), "int32") for _ in range(2)]
        self.sums_of_bytes = [scratch((self.channels, TILE_ROWS), "int32") for _ in range(2)]
        self.turned = scratch((TILE_ROWS, self.channels), "int32")
        configure()

    def take(self, k: Buffer, v: Buffer, b: Expr, head: Expr) -> None:
        """Keys and values of a head."""
        sizes = self.sizes
        with T.serial(self.rows) as s:
            copy_row(k, sizes.key_row(b, s), head * sizes.head_size, self.keys, s * self.depth, sizes.head_size)
        quads = scratch((self.steps * TILE_ROWS, self.channels), "int32")
        with T.serial(self.steps * TILE_ROWS) as g:
            rows = [sizes.key_row(b, g * QUAD + i) for i in range(QUAD)]
            for offset, lanes in runs(sizes.value_size, TILE_ROWS):
                parts = [load(v, (r, head * sizes.value_size + offset), lanes) for r in rows]
                store(quads, (g, offset), join_bytes(parts))
        with T.serial(self.steps) as s, T.serial(self.channels // TILE_ROWS) as c:
            square = [let(load(quads, (s * TILE_ROWS + i, c * TILE_ROWS), TILE_ROWS)) for i in range(TILE_ROWS)]
            for i, channel in enumerate(transposed(square)):
                store(self.values, (c * TILE_ROWS + i, s * TILE_ROWS), channel)
        for g in range(self.quads, self.steps * TILE_ROWS):
            for part in self.bytes:
                store(part, (g, 0), tirx.const(0, LANES))

    def score(self, q: Buffer, line: Line, head: Expr, stored: Stored) -> Buffer:
        """Scores of a block of queries with all keys, as `stored`, a query in each lane; returns their maximum."""
        size = self.sizes.head_size
        queries = turned_rows(q, line, head * size, size, self.sizes.isa)
        with T.serial(self.rows // (2 * TILE_ROWS)) as pair:
            rows = [let((2 * pair + i) * TILE_ROWS) for i in range(2)]
            for i in range(2):
                instruction("tilezero", i)
            for s in range(self.depth // TILE_DEPTH):
                load_tile(6, queries, (s * TILE_ROWS, 0), TILE_DEPTH)
                for i, row in enumerate(rows):
                    load_tile(4 + i, self.keys, (row * self.depth + s * TILE_DEPTH,), self.depth)
                    instruction("tdpbssd", i, 4 + i, 6)
            for i, row in enumerate(rows):
                store_tile(i, self.scores, (row, 0), TILE_DEPTH)
        top = registers(1, TILE_ROWS)[0]
        store(top, (0,), tirx.const(-(2**31), LANES))
        with T.serial(self.sizes.keys) as s:
            x = let(stored(s, load(self.scores, (s, 0), TILE_ROWS)))
            store(self.scores, (s, 0), x)
            store(top, (0,), tirx.max(load(top, (0,), TILE_ROWS), x))
        return top

    def multiply_values(self) -> None:
        """`P.V` of a block."""
        with T.serial(self.quads) as g:
            pairs = [let(load(self.weights, (2 * g + i, 0), 2 * TILE_ROWS)) for i in range(2)]
            values = [let(tirx.reinterpret(f"int8x{4 * TILE_ROWS}", pair)) for pair in pairs]
            for byte, part in enumerate(self.bytes):
                order = [4 * lane + at + byte for lane in range(TILE_ROWS) for at in (0, 2, 64, 66)]
                store(part, (g, 0), tirx.reinterpret(LANES, shuffled(values, order)))
        for first in range(0, self.channels, 2 * TILE_ROWS):
            rows = range(first, min(first + 2 * TILE_ROWS, self.channels), TILE_ROWS)
            self._multiply(list(rows))
        with T.serial(self.channels // TILE_ROWS) as c:
            square = []
            for i in range(TILE_ROWS):
                low, high = (load(part, (c * TILE_ROWS + i, 0), TILE_ROWS) for part in self.sums_of_bytes)
                square.append(let(low + (high << 8)))
            for t, row in enumerate(transposed(square)):
                store(self.turned, (t, c * TILE_ROWS), row)

    def _multiply(self, channels: Sequence[int]) -> None:
        """One or two tiles of channels with both bytes of the weights."""
        for i in range(2 * len(channels)):
            instruction("tilezero", i)
        with T.serial(self.steps) as s:
            for byte, part in enumerate(self.bytes):
                load_tile(6 + byte, part, (s * TILE_ROWS, 0), TILE_DEPTH)
            for i, channel in enumerate(channels):
                load_tile(4 + i, self.values, (channel, s * TILE_ROWS), self.steps * TILE_DEPTH)
                for byte in range(2):
                    instruction("tdpbsud", 2 * i + byte, 4 + i, 6 + byte)
        for i, channel in enumerate(channels):
            for byte, part in enumerate(self.sums_of_bytes):
                store_tile(2 * i + byte, part, (channel, 0), TILE_DEPTH)

    def done(self) -> None:
        """This thread needs its tiles no more."""
        release()

    def sums(self, queries: Sequence[Expr], first: int, width: int) -> list[list[Buffer]]:
        """`P.V` of some queries of the block, `width` vectors of channels."""
        found = [registers(width, TILE_ROWS) for _ in queries]
        for t, row in zip(queries, found, strict=True):
            for i, register in enumerate(row):
                store(register, (0,), load(self.turned, (t, (first + i) * TILE_ROWS), TILE_ROWS))
        return found
