"""Shiftmax of one score in a 32-bit register, to the bit that of `intvit.dialect.attention`.

    below = max(rshift(score - top, pre), -2^15),  t = rshift(below * mul, shift)
    t = -step * i where i = rshift(min(-t, 2^15 - 1) * round(2^15 / step), 15), on levels: see `intvit.softmax_levels`
    u = max(t + 256 bits - 2, -257), -257 for a score that does not count,  i = u >> 8,  f = u & 255
    m = 2^14 + 64 f - rshift(f (256 - f) CURVATURE, 15),  e = rshift(m, 14 - i)

The least `u` gives `14 - i = 16` and `m < 2^15`, so that `e` is 0 there without being asked for.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from intvit.kernels.arith import Expr
from intvit.kernels.cuda.arith import INT32, bit_length, clamp, divided, let, rshift, sat16
from intvit.kernels.exponential import CURVATURE
from intvit.softmax_levels import LEAST_LOG2, SoftmaxLevels

LEAST16 = -(1 << 15)


def exponential(
    score: Expr,
    top: Expr,
    counts: Expr,
    pre: Expr,
    mul: Expr,
    shift: int,
    bits: int,
    levels: SoftmaxLevels | None = None,
) -> Expr:
    """`e` of int32 scores of which `top` is the largest that counts; 0 for the others, which may be larger."""
    below = let(tirx.max(rshift(score - top, pre), tirx.const(LEAST16, INT32)))
    return power_of_two(rshift(below * mul, shift), counts, bits, levels)


def power_of_two(t: Expr, counts: Expr, bits: int, levels: SoftmaxLevels | None = None) -> Expr:
    """`e` of int32 `t <= 0` in log2 units, 0 for those that do not count, which may be larger."""
    t = on_levels(t, levels) if levels else t
    nothing = tirx.const(-257, INT32)
    u = let(tirx.Select(counts, tirx.max(t + ((bits << 8) - 2), nothing), nothing))
    f = let(u & 255)
    m = (f << 6) + (1 << 14) - rshift(f * (256 - f) * CURVATURE, 15)
    return rshift(m, let(14 - (u >> 8)))


def on_levels(t: Expr, levels: SoftmaxLevels) -> Expr:
    """int32 `t` as multiples of the step, `LEAST_LOG2` from the last level on; what is larger than 0 as 0."""
    code = let(rshift(clamp(0 - t, 0, -LEAST_LOG2) * levels.inverse, 15))
    return tirx.Select(code < levels.levels - 1, code * -levels.step, tirx.const(LEAST_LOG2, INT32))


def row_mean(total: Expr) -> Callable[[Expr], Expr]:
    """`o / total` in Q7 for `total >= 128` and `|o| <= 128 total`; one division for all `o` of a row."""
    bits = bit_length(total)
    scaled = let((total << tirx.max(15 - bits, tirx.const(0, INT32))) >> tirx.max(bits - 15, tirx.const(0, INT32)))
    inverse = divided(tirx.const(1 << 29, INT32), scaled, 15)
    shift = let(bits - 8)
    return lambda o: rshift(sat16(rshift(o, shift)) * inverse, 15)
