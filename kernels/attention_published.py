"""Attention with I-ViT's Shiftmax, between the same two products (`intvit.dialect.published`, arXiv:2207.01405).

    s[s, t] = clamp(rshift(sat16(rshift(sum_c k[s, c] * q[t, c], pre[h])) * mul[h], shift), -128, 127)
    d       = s - max_s s                                                 -255..0
    p       = max(d + (d >> 1) - (d >> 4), 15 x0),  q = p / x0            x0 < 0: 0 <= q <= 15
    e       = ((p - q x0 - 2 x0) << 15) >> (q + 1)                        int32, and so is its sum over s
    w       = (e * ((2^31 - 1) / sum_s e)) >> 16                          0..2^15 - 1
    y[t, c] = epilogue(sum_s w[s, t] * v[s, c])

Both divisions are of numbers with one sign, so the floor is what truncation gives. The shift of the exponential is one
of the dialect's two written as one: left by 15 and right by `q + 1` instead of left by `15 - q` and right by 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, clamp, let, load, rshift, sat16, store
from intvit.kernels.attention import attention_with
from intvit.kernels.epilogue import Epilogue
from intvit.kernels.function import registers
from intvit.kernels.heads import Heads
from intvit.kernels.interleave import join
from intvit.kernels.isa import Isa

BITS = 15
LARGEST = (1 << 31) - 1
RECIPROCAL_BITS = 18


def attention_published(
    sizes: Heads, score_shift: int, x0: int, epilogue: Epilogue, *, name: str = "attention_published"
) -> tirx.PrimFunc:
    """Inputs and output as `attention`; `x0` is the `floor(-1/S)` of scores with scale `S`."""
    return attention_with(PublishedShiftmax(score_shift, x0), sizes, epilogue, name=name)


@dataclass(frozen=True)
class PublishedShiftmax:
    """8-bit scores, shift exponentials, and 16-bit probabilities before the second product."""

    score_shift: int
    x0: int

    def stored(self, sums: Expr, pre: Expr, mul: Expr) -> Expr:
        return clamp(rshift(sat16(rshift(sums, pre)) * mul, self.score_shift), -128, 127)

    def weigh(self, scores: Buffer, top: Buffer, pre: Expr, mul: Expr, weights: Buffer, keys: int, isa: Isa) -> None:
        lanes, group, groups = isa.lanes, isa.group, int(weights.shape[0])
        total = registers(1, lanes)[0]
        store(total, (0,), tirx.const(0, f"int32x{lanes}"))
        with T.serial(keys) as s:
            e = shift_exponential(load(scores, (s, 0), lanes) - load(top, (0,), lanes), self.x0)
            store(scores, (s, 0), e)
            store(total, (0,), load(total, (0,), lanes) + e)
        for s in range(keys, groups * group):
            store(scores, (s, 0), tirx.const(0, f"int32x{lanes}"))
        factor = let(tirx.truncdiv(tirx.const(LARGEST, f"int32x{lanes}"), load(total, (0,), lanes)))
        with T.serial(groups) as g:
            parts = [let((load(scores, (g * group + i, 0), lanes) * factor) >> 16) for i in range(group)]
            store(weights, (g, 0), join(parts))


def shift_exponential(d: Expr, x0: int) -> Expr:
    """`2^15 |x0| exp(d S)` of lanes `d` in -255..0.

    The quotient is a product with the reciprocal, rounded up: exact, as `|p| <= 367` (*Hacker's Delight*, chapter 10).
    """
    d = let(d)
    p = let(tirx.max(d + (d >> 1) - (d >> 4), BITS * x0))
    q = let((p * -reciprocal(x0)) >> RECIPROCAL_BITS)
    return let(((p - q * x0 - 2 * x0) << BITS) >> (q + 1))


def reciprocal(x0: int) -> int:
    """`2^18 / |x0|`, rounded up."""
    return -((1 << RECIPROCAL_BITS) // x0)
