"""The two products of an attention in vectors: keys and weights are repeated, queries and channels lie in the lanes.

The first product is of bytes where the CPU has it: on keys + 128, with sums that begin with `-128 sum_c q[t, c]`. The
second is of 16 bits: two products of bytes would take as long. With heads of 64 that is three 512-bit instructions a
score: on a Zen 4, which does one in 0.27 ns, 0.81 ns of the 1.12 that a score takes one thread (197 tokens).
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, let, load, load32, store
from intvit.kernels.function import registers, scratch
from intvit.kernels.heads import Heads, Line, Stored
from intvit.kernels.interleave import join
from intvit.kernels.pack import round_up
from intvit.kernels.tile import add_products, even_blocks, padded_depth, registers_from, runs, widen_row
from intvit.kernels.turned import add_zeros, right_operand, turned_rows


class InVectors:
    """Memory of a task: keys as left operands, values in groups of tokens, scores and weights of a block."""

    def __init__(self, sizes: Heads) -> None:
        isa, group = sizes.isa, sizes.isa.wide.group
        self.sizes = sizes
        self.depth = padded_depth(sizes.head_size, isa.group)
        self.tile = even_blocks(sizes.keys, isa.registers - 6, ways=1)  # keys whose scores are computed together
        self.groups = padded_depth(sizes.keys, group) // group
        self.rows = max(round_up(sizes.keys, self.tile), self.groups * group)
        self.keys = scratch((self.rows, self.depth), isa.element)
        self.values = scratch((self.groups, round_up(sizes.value_size, isa.lanes) * group), "int16")
        self.scores = scratch((self.rows, isa.lanes), "int32")
        self.weights = scratch((self.groups, isa.lanes * group), "int16")

    def take(self, k: Buffer, v: Buffer, b: Expr, head: Expr) -> None:
        """Keys and values of a head; a step of the second product has `group` int16 of each channel."""
        sizes, group = self.sizes, self.sizes.isa.wide.group
        with T.serial(self.rows) as s:
            widen_row(k, (sizes.key_row(b, s), head * sizes.head_size), self.keys, s, sizes.head_size, sizes.isa)
        with T.serial(self.groups) as g:
            rows = [sizes.key_row(b, g * group + i) for i in range(group)]
            for offset, lanes in runs(sizes.value_size, sizes.isa.lanes):
                parts = [load32(v, (r, head * sizes.value_size + offset), lanes) for r in rows]
                store(self.values, (g, offset * group), join(parts))

    def score(self, q: Buffer, line: Line, head: Expr, stored: Stored) -> Buffer:
        """Scores of a block of queries with all keys, as `stored`, a query in each lane; returns their maximum."""
        sizes, isa, group = self.sizes, self.sizes.isa, self.sizes.isa.group
        turned = turned_rows(q, line, head * sizes.head_size, sizes.head_size, isa)

        def column(s: Expr) -> Expr:
            return right_operand(turned, (s, 0), isa)

        start = registers(1, isa.lanes)[0]
        store(start, (0,), tirx.const(0, f"int32x{isa.lanes}"))
        if isa.zero:
            add_zeros(start, column, self.depth // group, isa)
            store(start, (0,), 0 - load(start, (0,), isa.lanes))
        top = registers(1, isa.lanes)[0]
        store(top, (0,), tirx.const(-(2**31), f"int32x{isa.lanes}"))
        with T.serial(-(-sizes.keys // self.tile)) as block:
            first = block * self.tile
            sums = registers_from([load(start, (0,), isa.lanes)], self.tile, isa)
            with T.serial(self.depth // group) as s:
                add_products(sums, lambda r: load(self.keys, (first + r, s * group), group), [column(s)], isa)
            for r, (accumulator,) in enumerate(sums):
                x = let(stored(first + r, load(accumulator, (0,), isa.lanes)))
                store(self.scores, (first + r, 0), x)
                store(top, (0,), tirx.max(load(top, (0,), isa.lanes), x))
        return top

    def multiply_values(self) -> None:
        """Nothing: `sums` does it for some queries at a time."""

    def done(self) -> None:
        """Nothing: vectors are everybody's."""

    def sums(self, queries: Sequence[Expr], first: int, width: int) -> list[list[Buffer]]:
        """`P.V` of some queries of the block, `width` vectors of channels."""
        isa, lanes = self.sizes.isa.wide, self.sizes.isa.lanes
        found = registers_from([None] * width, len(queries), isa)
        with T.serial(self.groups) as g:
            group = isa.group
            columns = [load(self.values, (g, (first + i) * lanes * group), lanes * group) for i in range(width)]
            add_products(found, lambda r: load(self.weights, (g, queries[r] * group), group), columns, isa)
        return found
