"""Attention without its matrices in memory: scores, Shiftmax, `P.V` and the epilogue (`intvit.dialect.attention`).

    scores[s, t] = sum_c k[s, c] * q[t, c]                                 int32, |.| <= D * 2^14
    below        = rshift(sat16(rshift(scores - max_s scores, pre[h])) * mul[h], shift)      <= 0, log2 units / 256
    e[s, t]      = 2^(bits - 2/256) * 2^(below / 256), rounded             0..2^bits - 1, see `exponentials`
    o[t, c]      = sum_s e[s, t] * v[s, c],  total[t] = sum_s e[s, t]       int32, |o| <= 128 * total, total >= 128
    mean         = rshift(sat16(rshift(o, length - 8)) * inverse, 15)      length of total in bits
    y[t, h*E + c] = epilogue(mean)

A task is some blocks of queries of one head. It widens the keys to int16 and interleaves the values in groups of
tokens once, then for each block of one vector of queries: scores with a query in each lane (keys are broadcast, so the
maximum and the sum over keys are lane by lane and need no shuffle), exponentials as the broadcast operand of the second
product, which has a channel in each lane, as the output wants it. Tokens past the end repeat the last one and weigh
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, bit_length, let, load, load32, lshift, rshift, sat16, store, widen
from intvit.kernels.epilogue import Epilogue
from intvit.kernels.finish import Finish, operand_tensors
from intvit.kernels.function import Tensor, function, registers, scratch, symbol
from intvit.kernels.isa import Isa
from intvit.kernels.pack import round_up
from intvit.kernels.tile import add_products, even_blocks, registers_from, runs, widen_row

CURVATURE = 2784
Line = Callable[[Expr], Expr]  # the row of the tensors that holds query `t` of a block
Vectors = Callable[[Expr], Expr]  # int32 lanes to int32 lanes
Scaling = Callable[[Expr], Vectors]  # for query `t` of a block

TASKS = 12  # tasks of one batch element, for up to that many threads; each packs its keys and values again


@dataclass(frozen=True)
class Heads:
    """Sizes of an attention, and how it is cut up."""

    heads: int
    queries: int
    keys: int
    head_size: int
    value_size: int
    isa: Isa

    @property
    def multiply_adds(self) -> int:
        """Of one batch element, in both products."""
        return self.heads * self.queries * self.keys * (self.head_size + self.value_size)

    @property
    def blocks(self) -> int:
        """Blocks of queries of a head."""
        return -(-self.queries // self.isa.lanes)

    @property
    def splits(self) -> int:
        """Tasks of a head: even in all for two threads where that costs little."""
        splits = max(1, min(TASKS // self.heads, self.blocks))
        return splits + 1 if splits * self.heads % 2 and splits < self.blocks else splits

    @property
    def tile(self) -> int:
        """Keys whose scores are computed together."""
        return even_blocks(self.keys, self.isa.registers - 6, ways=1)

    @property
    def padded_keys(self) -> int:
        """Keys with repetitions of the last: whole tiles and whole groups, at least two of each."""
        return max(round_up(self.keys, self.tile), round_up(self.keys, self.isa.group), 2 * self.isa.group)

    @property
    def groups(self) -> int:
        """Steps of the second product."""
        return max(2, -(-self.keys // self.isa.group))

    @property
    def steps(self) -> int:
        """Steps of the first product."""
        return max(2, -(-self.head_size // self.isa.group))

    @property
    def value_stride(self) -> int:
        """int16 elements of a group of values."""
        return round_up(self.value_size, self.isa.lanes) * self.isa.group


class Softmax(Protocol):
    """What happens between the two products; `pre` and `mul` are the dyadic number of the head's scores."""

    def stored(self, sums: Expr, pre: Expr, mul: Expr) -> Expr:
        """What is kept of the sums of the first product, int32 lanes."""

    def weigh(self, scores: Buffer, top: Buffer, pre: Expr, mul: Expr, weights: Buffer, sizes: Heads) -> Scaling | None:
        """Fills the 16-bit weights of a block from its scores and their maxima; what is left to do to `P.V`."""


@dataclass(frozen=True)
class Shiftmax:
    """Exponentials of `bits` bits, divided by their sum after the second product."""

    score_shift: int
    bits: int

    def stored(self, sums: Expr, pre: Expr, mul: Expr) -> Expr:
        return sums

    def weigh(self, scores: Buffer, top: Buffer, pre: Expr, mul: Expr, weights: Buffer, sizes: Heads) -> Scaling:
        return row_means(block_weights(scores, top, (pre, mul, self.score_shift, self.bits), weights, sizes), sizes.isa)


def attention(
    sizes: Heads, score_shift: int, bits: int, epilogue: Epilogue, *, name: str = "attention"
) -> tirx.PrimFunc:
    """Attention with `bits`-bit exponentials: `attention_with` of `Shiftmax`."""
    return attention_with(Shiftmax(score_shift, bits), sizes, epilogue, name=name)


def attention_with(softmax: Softmax, sizes: Heads, epilogue: Epilogue, *, name: str) -> tirx.PrimFunc:
    """Attention with one form of the softmax; a row is a token, batch by batch.

    Inputs: q int8 [batch * queries, heads * head_size], k int8 [batch * keys, heads * head_size], v int8 [batch * keys,
    heads * value_size], score_pre int8 [heads], score_mul int16 [heads], the epilogue's operands; output
    [batch * queries, heads * value_size] of the epilogue's type.
    """
    sizes = replace(sizes, isa=sizes.isa.wide)
    heads, isa = sizes.heads, sizes.isa
    rows, key_rows = symbol("rows"), symbol("key_rows")

    def body(q: Buffer, k: Buffer, v: Buffer, pre: Buffer, mul: Buffer, *rest: Buffer) -> None:
        finish = Finish(epilogue, rest[:-1], rest[-1], heads * sizes.value_size, isa)
        with T.parallel(rows // sizes.queries * (heads * sizes.splits)) as task:
            b, head = let(task // (heads * sizes.splits)), let(task // sizes.splits % heads)
            wide = scratch((sizes.padded_keys, sizes.steps * isa.group), "int16")
            with T.serial(sizes.padded_keys) as s:
                row = let(b * sizes.keys + tirx.min(s, sizes.keys - 1))
                widen_row(k, (row, head * sizes.head_size), wide, s, sizes.head_size, isa)
            values = scratch((sizes.groups, sizes.value_stride), "int16")
            interleave_values(v, b, head, values, sizes)
            scores = scratch((sizes.padded_keys, isa.lanes), "int32")
            weights = scratch((sizes.groups, isa.lanes * isa.group), "int16")
            split = let(task % sizes.splits)
            begin, end = (let((split + i) * sizes.blocks // sizes.splits) for i in (0, 1))
            with T.serial(end - begin) as j:
                first = let((begin + j) * isa.lanes)

                def line(t: Expr) -> Expr:
                    return b * sizes.queries + tirx.min(first + t, sizes.queries - 1)

                dyadic = let(load32(pre, (head,), 1)), let(load32(mul, (head,), 1))
                top = block_scores(q, line, head, wide, scores, sizes, lambda sums: softmax.stored(sums, *dyadic))
                scaling = softmax.weigh(scores, top, *dyadic, weights, sizes)
                block_values(weights, values, scaling, line, head, finish, sizes)

    columns = heads * sizes.head_size
    tensors = [
        Tensor("q", (rows, columns), "int8"),
        Tensor("k", (key_rows, columns), "int8"),
        Tensor("v", (key_rows, heads * sizes.value_size), "int8"),
        Tensor("score_pre", (heads,), "int8"),
        Tensor("score_mul", (heads,), "int16"),
        *operand_tensors(epilogue, rows, heads * sizes.value_size, isa),
        Tensor("y", (rows, heads * sizes.value_size), epilogue.dtype),
    ]
    return function(name, tensors, body)


def join(parts: list[Expr]) -> Expr:
    """`group` vectors of int32 lanes within int16 as one of int16, lane by lane (little-endian)."""
    if len(parts) == 1:
        return widen(parts[0], "int16")
    low, high = parts
    pairs = (low & 0xFFFF) | (high << 16)
    lanes = int(pairs.ty.dtype.lanes)
    return tirx.reinterpret(f"int16x{2 * lanes}", pairs)


def interleave_values(v: Buffer, b: Expr, head: Expr, values: Buffer, sizes: Heads) -> None:
    """Values of a head as the second product reads them: a step is a group of tokens, `group` int16 of each channel."""
    group = sizes.isa.group
    with T.serial(sizes.groups) as g:
        rows = [let(b * sizes.keys + tirx.min(g * group + i, sizes.keys - 1)) for i in range(group)]
        for offset, lanes in runs(sizes.value_size, sizes.isa.lanes):
            parts = [load32(v, (row, head * sizes.value_size + offset), lanes) for row in rows]
            store(values, (g, offset * group), join(parts))


def block_scores(
    q: Buffer, line: Line, head: Expr, wide: Buffer, scores: Buffer, sizes: Heads, stored: Vectors
) -> Buffer:
    """Scores of a block of queries with all keys, as `stored`, a query in each lane; returns their maximum."""
    isa, group = sizes.isa, sizes.isa.group
    row = scratch((isa.lanes, sizes.steps * group), "int16")
    for t in range(isa.lanes):
        widen_row(q, (line(t), head * sizes.head_size), row, t, sizes.head_size, isa)
    turned = scratch((sizes.steps, isa.lanes), "int32" if group == 2 else "int16")
    with T.serial(sizes.steps) as s:
        for t in range(isa.lanes):
            x = load(row, (t, s * group), group)
            store(turned, (s, t), tirx.reinterpret("int32", x) if group == 2 else x)
    top = registers(1, isa.lanes)[0]
    store(top, (0,), tirx.const(-(2**31), f"int32x{isa.lanes}"))
    with T.serial(-(-sizes.keys // sizes.tile)) as block:
        sums = registers_from([None], sizes.tile, isa)
        with T.serial(sizes.steps) as s:
            column = tirx.reinterpret(f"int16x{isa.lanes * group}", load(turned, (s, 0), isa.lanes))
            add_products(sums, lambda r: load(wide, (block * sizes.tile + r, s * group), group), [column], isa)
        for r, (accumulator,) in enumerate(sums):
            x = let(stored(load(accumulator, (0,), isa.lanes)))
            store(scores, (block * sizes.tile + r, 0), x)
            store(top, (0,), tirx.max(load(top, (0,), isa.lanes), x))
    return top


def exponentials(t: Expr, bits: int) -> Expr:
    """`2^(bits - 2/256) * 2^(t / 256)`, rounded, for `t <= 0`; 0 where it is below 1/2."""
    u = let(tirx.max(t + ((bits << 8) - 2), -257))
    i, f = let(u >> 8), let(u & 255)
    m = ((f << 6) + (1 << 14)) - rshift(f * (256 - f) * CURVATURE, 15)
    return let(rshift(m, let(14 - i)))  # 14 - i is 0..16, and 16 gives 0: m < 2^15


def block_weights(
    scores: Buffer, top: Buffer, log2: tuple[Expr, Expr, int, int], weights: Buffer, sizes: Heads
) -> Buffer:
    """Exponentials of a block of scores, grouped as the second product reads them; returns their sums."""
    lanes, group = sizes.isa.lanes, sizes.isa.group
    pre, mul, shift, bits = log2
    total = registers(1, lanes)[0]
    store(total, (0,), tirx.const(0, f"int32x{lanes}"))
    with T.serial(sizes.groups) as g:
        parts = []
        for i in range(group):
            below = load(scores, (g * group + i, 0), lanes) - load(top, (0,), lanes)
            e = exponentials(rshift(sat16(rshift(below, pre)) * mul, shift), bits)
            if sizes.groups * group > sizes.keys:
                e = let(tirx.Select(g * group + i < sizes.keys, tirx.const(-1, "int32"), tirx.const(0, "int32")) & e)
            store(total, (0,), load(total, (0,), lanes) + e)
            parts.append(e)
        store(weights, (g, 0), join(parts))
    return total


def reciprocal(total: Expr) -> tuple[Expr, Expr]:
    """Bit length of a row sum of at least 128, and `2^29` over the sum scaled to 15 bits, at most `2^15 - 1`."""
    bits = bit_length(let(total))
    scaled = lshift(total, tirx.max(15 - bits, 0)) >> tirx.max(bits - 15, 0)
    return bits, tirx.min(tirx.truncdiv(tirx.const(1 << 29, total.ty.dtype), scaled), 32767)


def row_means(total: Buffer, isa: Isa) -> Scaling:
    """For query `t` of a block, what divides its `P.V` by its sum."""
    bits, inverse = reciprocal(load(total, (0,), isa.lanes))
    shifts, inverses = registers(2, isa.lanes)
    store(shifts, (0,), bits - 8)
    store(inverses, (0,), inverse)

    def divide(t: Expr) -> Vectors:
        shift, factor = let(load(shifts, (t,), 1)), let(load(inverses, (t,), 1))
        return lambda sums: rshift(sat16(rshift(sums, shift)) * factor, 15)

    return divide


def block_values(
    weights: Buffer,
    values: Buffer,
    scaling: Scaling | None,
    line: Line,
    head: Expr,
    finish: Finish,
    sizes: Heads,
) -> None:
    """`P.V` of a block of queries, scaled query by query, through the epilogue."""
    isa, group, lanes = sizes.isa, sizes.isa.group, sizes.isa.lanes
    rows = min(lanes // 2, 8)
    vectors = -(-sizes.value_size // lanes)
    with T.serial(lanes // rows) as part:
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
                    for accumulator in accumulators:
                        store(accumulator, (0,), scaled(load(accumulator, (0,), lanes)))
            first = let(head * sizes.value_size + v * lanes)
            finish.part(sums, lines, first, min(width * lanes, sizes.value_size - v * lanes))
