"""Attention without its matrices in memory: scores, a softmax, `P.V` and the epilogue (`intvit.dialect.attention`).

    scores[s, t] = sum_c k[s, c] * q[t, c]                 int32, |.| <= D * 2^14
    e[s, t]      = weights of a softmax                    0..2^15 - 1, see `shiftmax`, `attention_published`
    o[t, c]      = sum_s e[s, t] * v[s, c]                 int32
    y[t, h*E + c] = epilogue(o scaled as the softmax says)

A task is some blocks of queries of one head. It takes the keys and the values as operands of the products once, then
for each block of one vector of queries: scores with a query in each lane (the maximum and the sum over keys are lane by
lane and need no shuffle), weights, and the second product, some queries of which go through the epilogue together.
Tokens past the end repeat the last one and weigh nothing; rows of `P.V` of which no query exists are left out, eight at
a time. The products are in vectors (`attention_vectors`) or on AMX tiles (`attention_tiles`).
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, let, load, load32, store, widen
from intvit.kernels.attention_tiles import OnTiles
from intvit.kernels.attention_vectors import InVectors
from intvit.kernels.epilogue import Epilogue
from intvit.kernels.finish import Finish, operand_tensors
from intvit.kernels.function import Tensor, function, symbol
from intvit.kernels.heads import Heads, Line
from intvit.kernels.int16 import INT32, concat
from intvit.kernels.interleave import shuffled
from intvit.kernels.score_bias import ScoreBias
from intvit.kernels.shiftmax import Shiftmax
from intvit.kernels.softmax import Scaling, Softmax
from intvit.softmax_levels import SoftmaxLevels


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
    if not 1 <= sizes.splits <= sizes.blocks:
        raise ValueError(f"{sizes.blocks} blocks of queries cannot be cut into {sizes.splits} tasks")
    heads, isa, pairs = sizes.heads, sizes.isa, sizes.isa.wide
    rows, key_rows = symbol("rows"), symbol("key_rows")

    def body(q: Buffer, k: Buffer, v: Buffer, pre: Buffer, mul: Buffer, *rest: Buffer) -> None:
        finish = Finish(epilogue, rest[2 if bias else 0 : -1], rest[-1], heads * sizes.value_size, isa)
        with T.parallel(rows // sizes.queries * (heads * sizes.splits)) as task:
            b, head = let(task // (heads * sizes.splits)), let(task // sizes.splits % heads)
            products = OnTiles(sizes) if isa.tiles else InVectors(sizes)
            products.take(k, v, b, head)
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

                top = products.score(q, line, head, stored)
                scaling = softmax.weigh(products.scores, top, *dyadic, products.weights, sizes.keys, pairs)
                products.multiply_values()
                finish_block(products, scaling, line, first, head, finish, sizes)
            products.done()

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


def finish_block(
    products: InVectors | OnTiles,
    scaling: Scaling | None,
    line: Line,
    first_query: Expr,
    head: Expr,
    finish: Finish,
    sizes: Heads,
) -> None:
    """`P.V` of a block of queries, scaled query by query, through the epilogue."""
    lanes = sizes.isa.lanes
    rows = min(lanes // 2, 8)
    vectors = -(-sizes.value_size // lanes)
    parts = lanes // rows
    if sizes.blocks > 1:  # else they may be one, and their number a constant: see `scratch`
        parts = tirx.min((sizes.queries - first_query + (rows - 1)) // rows, parts)
    with T.serial(parts) as part:
        queries = [let(part * rows + r) for r in range(rows)]
        lines = [let(line(t)) for t in queries]
        for v in range(0, vectors, sizes.isa.wide.vectors):
            width = min(sizes.isa.wide.vectors, vectors - v)
            sums = products.sums(queries, v, width)
            if scaling is not None:
                for t, accumulators in zip(queries, sums, strict=True):
                    scaled = scaling(t)
                    for pair in (accumulators[i : i + 2] for i in range(0, width, 2)):
                        means = let(widen(scaled(concat([load(x, (0,), lanes) for x in pair])), INT32))
                        for i, accumulator in enumerate(pair):
                            store(accumulator, (0,), shuffled([means], [i * lanes + j for j in range(lanes)]))
            first = let(head * sizes.value_size + v * lanes)
            finish.part(sums, lines, first, min(width * lanes, sizes.value_size - v * lanes))
