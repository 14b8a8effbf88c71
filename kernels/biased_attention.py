"""Attention with a bias (`intvit.dialect.biased_attention`): scores in log2 units meet it before their maximum.

    t[s, t]  = rshift(sat16(rshift(sum_c k[s, c] * q[t, c], pre)) * mul, shift)
    x[s, t]  = t[s, t] + bias, or masked                                          see `score_bias`
    e[s, t]  = exponentials(sat16(x - max_s x))                                   see `shiftmax`

Distances that 16 bits do not hold weigh nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, half_unit, lanes_of, like, load, rshift, sat16, store
from intvit.kernels.attention import attention_with
from intvit.kernels.epilogue import Epilogue
from intvit.kernels.heads import Heads
from intvit.kernels.interleave import join_saturated
from intvit.kernels.isa import Isa
from intvit.kernels.score_bias import ScoreBias
from intvit.kernels.shiftmax import Shiftmax, row_means
from intvit.kernels.softmax import Scaling
from intvit.softmax_levels import SoftmaxLevels


def biased_attention(
    sizes: Heads,
    score_shift: int,
    bits: int,
    epilogue: Epilogue,
    bias: ScoreBias,
    *,
    levels: SoftmaxLevels | None = None,
    name: str = "biased_attention",
) -> tirx.PrimFunc:
    """Inputs and output as `attention_with`."""
    softmax = BiasedShiftmax(score_shift, bits, sizes.isa.vector, levels=levels)
    return attention_with(softmax, sizes, epilogue, bias, name=name)


@dataclass(frozen=True)
class BiasedShiftmax(Shiftmax):
    """Shiftmax of scores in log2 units."""

    isa: Isa

    def stored(self, sums: Expr, pre: Expr, mul: Expr) -> Expr:
        return self._raised(sat16(rshift(sums, pre)), mul) >> self.score_shift

    def _raised(self, x: Expr, mul: Expr) -> Expr:
        """`x * mul` and what rounds it: a step of the dot product of pairs of 16 bits, the second with 0, where it is.

        LLVM takes a product of 32 bits, which is two instructions on Intel's processors.
        """
        pairs, half = self.isa.wide, half_unit(self.score_shift)
        if pairs.group == 1:
            return x * mul + half
        kind = f"int16x{2 * lanes_of(x)}"
        factor = tirx.reinterpret(kind, tirx.Broadcast(mul & 0xFFFF, lanes_of(x)))
        return pairs.dot(like(x, half), tirx.reinterpret(kind, x), factor)

    def weigh(self, scores: Buffer, top: Buffer, pre: Expr, mul: Expr, weights: Buffer, keys: int, isa: Isa) -> Scaling:
        with T.serial(weights.shape[0]) as g:
            rows = [load(scores, (g * isa.group + i, 0), isa.lanes) for i in range(isa.group)]
            below = join_saturated([row - load(top, (0,), isa.lanes) for row in rows], isa)
            store(weights, (g, 0), below)
        return row_means(self.exponentials(weights, keys, isa), isa)
