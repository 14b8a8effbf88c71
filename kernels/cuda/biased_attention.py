"""Attention with a bias, and masked keys, between the same two products (`intvit.dialect.biased_attention`).

    x[t, s] = -2^24 where bias[t, s] = -2^15, else rshift(sat16(rshift(scores[t, s], pre)) * mul, shift) + bias[t, s]

Both passes over the keys read the bias, `[kinds * heads, queries, keys]` of int16: two neighbours a lane.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr
from intvit.kernels.cuda.arch import Arch
from intvit.kernels.cuda.arith import INT32, let, remainder, rshift, sat16, wide
from intvit.kernels.cuda.attention import Score, Task, attention_kernel, output
from intvit.kernels.cuda.heads import Heads
from intvit.kernels.cuda.launch import Block, DeviceKernel, local
from intvit.kernels.cuda.shiftmax import power_of_two
from intvit.kernels.epilogue import Epilogue
from intvit.kernels.score_bias import MASK, MASKED, ScoreBias
from intvit.softmax_levels import SoftmaxLevels


def biased_attention(
    sizes: Heads,
    score_shift: int,
    bits: int,
    epilogue: Epilogue,
    arch: Arch,
    bias: ScoreBias,
    *,
    levels: SoftmaxLevels | None = None,
    name: str = "biased_attention",
) -> DeviceKernel:
    """Inputs as `attention`, before those of the epilogue the bias, and int32 `[windows]`, the kind of each window.

    `rows` is the batch times the windows.
    """

    def body(block: Block, q: Buffer, k: Buffer, v: Buffer, pre: Buffer, mul: Buffer, *rest: Buffer) -> None:
        table, kinds, *operands, y = rest
        task = Task(sizes, arch, block, q, k, v)
        shift, factor = let(wide(pre[task.head])), let(wide(mul[task.head]))
        added = _biased(task, bias, table, kinds)
        task.load_queries()

        def stored(score: Expr, half: Expr, key: Expr) -> Expr:
            return added(rshift(sat16(rshift(score, shift)) * factor, score_shift), half, key)

        top = task.maxima(stored)

        def weight(score: Expr, half: Expr, key: Expr) -> Expr:
            return power_of_two(stored(score, half, key) - top[half], let(key < sizes.keys), bits, levels)

        task.finish(*task.weighted(weight, bits), output(sizes, epilogue, operands, y), bits)

    return attention_kernel(name, sizes, epilogue, body, [("bias", "int16"), ("kinds", "int32")])


def _biased(task: Task, bias: ScoreBias, table: Buffer, kinds: Buffer) -> Score:
    """Adds the bias to scores in log2 units; those of queries and keys that do not exist get the last one's."""
    kind = kinds[remainder(task.image, bias.windows)]
    matrix = let(kind * bias.heads + (task.head if bias.heads > 1 else 0))
    rows = local(2, INT32)
    for half in range(2):
        query = tirx.min(task.query(half), tirx.const(bias.queries - 1, INT32))
        T.buffer_store(rows, (matrix * bias.queries + query) * bias.keys, [half])

    def added(score: Expr, half: Expr, key: Expr) -> Expr:
        b = let(wide(table[rows[half] + tirx.min(key, tirx.const(bias.keys - 1, INT32))]))
        x = score + b
        return tirx.Select(b > MASK, x, tirx.const(MASKED, INT32)) if bias.masks else x

    return added
