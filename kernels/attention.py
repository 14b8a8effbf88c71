"""Attention without its matrices in memory: scores, a softmax, `P.V` and the epilogue (`intvit.dialect.attention`).

    scores[s, t] = sum_c k[s, c] * q[t, c]                 int32, |.| <= D * 2^14
    e[s, t]      = weights of a softmax                    0..2^15 - 1, see `shiftmax`, `attention_published`
    o[t, c]      = sum_s e[s, t] * v[s, c]                 int32
    y[t, h*E + c] = epilogue(o scaled as the softmax says)

A task is some blocks of queries of one head. It makes the keys left operands and interleaves the values in groups of
tokens once, then for each block of one vector of queries: scores with a query in each lane (keys are broadcast, so the
maximum and the sum over keys are lane by lane and need no shuffle), weights as the broadcast operand of the second
product, which has a channel in each lane, as the output wants it. Tokens past the end repeat the last one and weigh
nothing; rows of `P.V` of which no query exists are left out, eight at a time.

The first product is of bytes where the CPU has it: on keys + 128, with sums that begin with `-128 sum_c q[t, c]`. The
second is of 16 bits: two products of bytes would take as long. With heads of 64 that is three 512-bit instructions a
score: on a Zen 4, which does one in 0.27 ns, 0.81 ns of the 1.12 that a score takes one thread (197 tokens).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, let, load, load32, store, widen
from intvit.kernels.cut import RULE, Cut
from intvit.kernels.epilogue import Epilogue
from intvit.kernels.finish import Finish, operand_tensors
from intvit.kernels.function import Tensor, function, registers, scratch, symbol
from intvit.kernels.int16 import INT32, concat
from intvit.kernels.interleave import join, shuffled
from intvit.kernels.isa import Isa
from intvit.kernels.pack import round_up
from intvit.kernels.score_bias import ScoreBias
from intvit.kernels.shiftmax import Shiftmax
from intvit.kernels.softmax import Scaling, Softmax
from intvit.kernels.tile import add_products, even_blocks, registers_from, runs, widen_row
from intvit.kernels.turned import add_zeros, right_operand, step_dtype, turn
from intvit.softmax_levels import SoftmaxLevels

Line = Callable[[Expr], Expr]  # the row of the tensors that holds query `t` of a block
Stored = Callable[[Expr, Expr], Expr]  # what is kept of the sums of a block with key `s`

TASKS = 6  # least tasks of one batch element; each packs its keys and values again
MORE_SPLITS = 4  # than the least of a head, that are tried


@dataclass(frozen=True)
class Heads:
    """Sizes of an attention, and how it is cut up."""

    heads: int
    queries: int
    keys: int
    head_size: int
    value_size: int
    isa: Isa
    cut: Cut = RULE
    windows: int = 1  # of a batch element; queries and keys are those of one

    @property
    def multiply_adds(self) -> int:
        """Of one batch element, in both products."""
        return self.windows * self.heads * self.queries * self.keys * (self.head_size + self.value_size)

    @property
    def blocks(self) -> int:
        """Blocks of queries of a head."""
        return -(-self.queries // self.isa.lanes)

    @property
    def splits(self) -> int:
        """Tasks of a head: as cut, else enough in all, and least work for the busier of two threads."""
        return self.cut.splits or min(self._choices, key=self._slowest)

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """Cuts that are worth measuring, the rule first."""
        rule = replace(self, cut=RULE).splits
        return (RULE, *(Cut(None, splits) for splits in range(1, self._choices.stop) if splits != rule))

    @property
    def _choices(self) -> range:
        least = min(self.blocks, -(-TASKS // (self.heads * self.windows)))
        return range(least, min(self.blocks, least + MORE_SPLITS) + 1)

    def _slowest(self, splits: int) -> int:
        """Work of the busier of two threads in fifths of a block: packing costs a task about one."""
        tasks = [(i + 1) * self.blocks // splits - i * self.blocks // splits for i in range(splits)]
        tasks *= self.heads * self.windows
        half = -(-len(tasks) // 2)
        return max(5 * sum(part) + len(part) for part in (tasks[:half], tasks[half:]))

    @property
    def tile(self) -> int:
        """Keys whose scores are computed together."""
        return even_blocks(self.keys, self.isa.registers - 6, ways=1)

    @property
    def padded_keys(self) -> int:
        """Keys with repetitions of the last: whole tiles and whole groups, at least two of each."""
        return max(round_up(self.keys, self.tile), self.groups * self.isa.wide.group)

    @property
    def groups(self) -> int:
        """Steps of the second product."""
        return max(2, -(-self.keys // self.isa.wide.group))

    @property
    def steps(self) -> int:
        """Steps of the first product."""
        return max(2, -(-self.head_size // self.isa.group))

    @property
    def value_stride(self) -> int:
        """int16 elements of a group of values."""
        return round_up(self.value_size, self.isa.lanes) * self.isa.wide.group


def attention(
    sizes: Heads,
    score_shift: int,
    bits: int,
    epilogue: Epilogue,
    *,
    levels: SoftmaxLevels | None = None,
    name: str = "attention",
) -> tirx.PrimFunc:
    """Attention with `bits`-bit exponentials: `attention_with` of `Shiftmax`."""
    return attention_with(Shiftmax(score_shift, bits, levels=levels), sizes, epilogue, name=name)


def attention_with(
    softmax: Softmax, sizes: Heads, epilogue: Epilogue, bias: ScoreBias | None = None, *, name: str
) -> tirx.PrimFunc:
    """Attention with one form of the softmax; a row is a token, batch by batch and window by window.

    Inputs: q int8 [batch * windows * queries, heads * head_size], k int8 [batch * windows * keys, heads * head_size],
    v int8 [batch * windows * keys, heads * value_size], score_pre int8 [heads], score_mul int16 [heads], those of the
    bias, the epilogue's operands; output [batch * windows * queries, heads * value_size] of the epilogue's type.
    """
    sizes = replace(sizes, isa=sizes.isa.vector)
    if not 1 <= sizes.splits <= sizes.blocks:
        raise ValueError(f"{sizes.blocks} blocks of queries cannot be cut into {sizes.splits} tasks")
    heads, isa, pairs = sizes.heads, sizes.isa, sizes.isa.wide
    rows, key_rows = symbol("rows"), symbol("key_rows")

    def body(q: Buffer, k: Buffer, v: Buffer, pre: Buffer, mul: Buffer, *rest: Buffer) -> None:
        finish = Finish(epilogue, rest[2 if bias else 0 : -1], rest[-1], heads * sizes.value_size, isa)
        with T.parallel(rows // sizes.queries * (heads * sizes.splits)) as task:
            b, head = let(task // (heads * sizes.splits)), let(task // sizes.splits % heads)
            wide = scratch((sizes.padded_keys, sizes.steps * isa.group), isa.element)
            with T.serial(sizes.padded_keys) as s:
                row = let(b * sizes.keys + tirx.min(s, sizes.keys - 1))
                widen_row(k, (row, head * sizes.head_size), wide, s, sizes.head_size, isa)
            values = scratch((sizes.groups, sizes.value_stride), "int16")
            interleave_values(v, b, head, values, sizes)
            scores = scratch((sizes.padded_keys, isa.lanes), "int32")
            weights = scratch((sizes.groups, isa.lanes * pairs.group), "int16")
            split = let(task % sizes.splits)
            begin, end = (let((split + i) * sizes.blocks // sizes.splits) for i in (0, 1))
            with T.serial(end - begin) as j:
                first = let((begin + j) * isa.lanes)

                def line(t: Expr) -> Expr:
                    return b * sizes.queries + tirx.min(first + t, sizes.queries - 1)

                dyadic = let(load32(pre, (head,), 1)), let(load32(mul, (head,), 1))
                added = bias.of_block(rest[0], rest[1], b, head, first, isa) if bias else unbiased

                def stored(s: Expr, sums: Expr) -> Expr:
                    return added(s, softmax.stored(sums, *dyadic))

                top = block_scores(q, line, head, wide, scores, sizes, stored)
                scaling = softmax.weigh(scores, top, *dyadic, weights, sizes.keys, pairs)
                block_values(weights, values, scaling, line, first, head, finish, sizes)

    columns = heads * sizes.head_size
    tensors = [
        Tensor("q", (rows, columns), "int8"),
        Tensor("k", (key_rows, columns), "int8"),
        Tensor("v", (key_rows, heads * sizes.value_size), "int8"),
        Tensor("score_pre", (heads,), "int8"),
        Tensor("score_mul", (heads,), "int16"),
        *(bias.tensors if bias else ()),
        *operand_tensors(epilogue, rows, heads * sizes.value_size, isa),
        Tensor("y", (rows, heads * sizes.value_size), epilogue.dtype),
    ]
    return function(name, tensors, body)


def unbiased(s: Expr, scores: Expr) -> Expr:
    """Scores as they are."""
    return scores


def interleave_values(v: Buffer, b: Expr, head: Expr, values: Buffer, sizes: Heads) -> None:
    """Values of a head as the second product reads them: a step is a group of tokens, `group` int16 of each channel."""
    group = sizes.isa.wide.group
    with T.serial(sizes.groups) as g:
        rows = [let(b * sizes.keys + tirx.min(g * group + i, sizes.keys - 1)) for i in range(group)]
        for offset, lanes in runs(sizes.value_size, sizes.isa.lanes):
            parts = [load32(v, (row, head * sizes.value_size + offset), lanes) for row in rows]
            store(values, (g, offset * group), join(parts))


def block_scores(
    q: Buffer, line: Line, head: Expr, wide: Buffer, scores: Buffer, sizes: Heads, stored: Stored
) -> Buffer:
    """Scores of a block of queries with all keys, as `stored`, a query in each lane; returns their maximum."""
    isa, group = sizes.isa, sizes.isa.group
    turned = turned_queries(q, line, head, sizes)

    def column(s: Expr) -> Expr:
        return right_operand(turned, (s, 0), isa)

    start = registers(1, isa.lanes)[0]
    store(start, (0,), tirx.const(0, f"int32x{isa.lanes}"))
    if isa.zero:
        add_zeros(start, column, sizes.steps, isa)
        store(start, (0,), 0 - load(start, (0,), isa.lanes))
    top = registers(1, isa.lanes)[0]
    store(top, (0,), tirx.const(-(2**31), f"int32x{isa.lanes}"))
    with T.serial(-(-sizes.keys // sizes.tile)) as block:
        sums = registers_from([load(start, (0,), isa.lanes)], sizes.tile, isa)
        with T.serial(sizes.steps) as s:
            add_products(sums, lambda r: load(wide, (block * sizes.tile + r, s * group), group), [column(s)], isa)
        for r, (accumulator,) in enumerate(sums):
            x = let(stored(block * sizes.tile + r, load(accumulator, (0,), isa.lanes)))
            store(scores, (block * sizes.tile + r, 0), x)
            store(top, (0,), tirx.max(load(top, (0,), isa.lanes), x))
    return top


def turned_queries(q: Buffer, line: Line, head: Expr, sizes: Heads) -> Buffer:
    """A block of queries with a query in each lane, by steps of the first product."""
    isa, steps = sizes.isa, round_up(sizes.steps, sizes.isa.lanes)
    row = scratch((isa.lanes, steps * isa.group), isa.signed.element)
    with T.serial(isa.lanes) as t:
        widen_row(q, (let(line(t)), head * sizes.head_size), row, t, sizes.head_size, isa.signed)
    turned = scratch((steps, isa.lanes), step_dtype(isa))
    turn(row, steps, turned, lambda s: (s, 0), isa)
    return turned


def block_values(
    weights: Buffer,
    values: Buffer,
    scaling: Scaling | None,
    line: Line,
    first_query: Expr,
    head: Expr,
    finish: Finish,
    sizes: Heads,
) -> None:
    """`P.V` of a block of queries, scaled query by query, through the epilogue."""
    isa, group, lanes = sizes.isa.wide, sizes.isa.wide.group, sizes.isa.lanes
    rows = min(lanes // 2, 8)
    vectors = -(-sizes.value_size // lanes)
    parts = lanes // rows
    if sizes.blocks > 1:  # else they may be one, and their number a constant: see `scratch`
        parts = tirx.min((sizes.queries - first_query + (rows - 1)) // rows, parts)
    with T.serial(parts) as part:
        lines = [let(line(part * rows + r)) for r in range(rows)]
        for v in range(0, vectors, isa.vectors):
            width = min(isa.vectors, vectors - v)
            sums = registers_from([None] * width, rows, isa)
            with T.serial(sizes.groups) as g:
                columns = [load(values, (g, (v + i) * lanes * group), lanes * group) for i in range(width)]
                add_products(sums, lambda r: load(weights, (g, (part * rows + r) * group), group), columns, isa)
            if scaling is not None:
                for r, accumulators in enumerate(sums):
                    scaled = scaling(part * rows + r)
                    for pair in (accumulators[i : i + 2] for i in range(0, width, 2)):
                        means = let(widen(scaled(concat([load(x, (0,), lanes) for x in pair])), INT32))
                        for i, accumulator in enumerate(pair):
                            store(accumulator, (0,), shuffled([means], [i * lanes + j for j in range(lanes)]))
            first = let(head * sizes.value_size + v * lanes)
            finish.part(sums, lines, first, min(width * lanes, sizes.value_size - v * lanes))
