"""Shiftmax's exponentials in 16-bit lanes, to the bit those of `intvit.dialect.attention.exponentials`.

    t = rshift(below * mul, shift)                        below, mul int16, below <= 0 <= mul
    u = max(t + 256 bits - 2, -257),  i = u >> 8,  f = u & 255
    m = 2^14 + 64 f - rshift(f (256 - f) CURVATURE, 15),  e = rshift(m, 14 - i), 0 where u < -256

Everything is 16 bits wide once `t` is, for these forms (all shifts floor):

    below * mul >> 16 + k  =  (below * mul >> 16) >> k    so `t` needs the high half of the product, rounded for `shift`
                                                          15 and with the top bit of the low half for 16
    v = 3839 - u           =  min(3841 - 256 bits - t, 4096), unsigned: v >> 8 = 14 - i, v & 255 = 255 - f
    f (256 - f)            =  2^14 - h^2                  h = f - 128 = 127 - (v & 255), a byte
    rshift(f (256 - f) CURVATURE, 15)  =  CURVATURE / 2 + rshift(-CURVATURE h^2, 15)
    rshift(m, n)           =  ((2 m >> n) + 1) >> 1       m < 2^15, and 2 m >> 16 = 0

With `bits` at most 14, `n` is at least 1 and `2 m >> n` is `m >> n - 1`.

On logarithmic levels (`intvit.softmax_levels`) `t` becomes a multiple of the step first, which 16 bits hold for every
code below `2^15 / step`; what lies further down weighs nothing anyway.
"""

from __future__ import annotations

from tvm import tirx

from intvit.kernels.arith import Expr, lanes_of, like, rshift, widen
from intvit.kernels.function import kept
from intvit.kernels.int16 import INT16, INT32, LEAST, multiply_high, rounding_multiply
from intvit.kernels.isa import Isa
from intvit.softmax_levels import LEAST_LOG2, SoftmaxLevels

CURVATURE = 2784
UINT16 = "uint16"
NOTHING = 14 + 2  # `14 - i` of the exponents that weigh nothing


def log2_units(below: Expr, mul: Expr, shift: int, isa: Isa) -> Expr:
    """`rshift(below * mul, shift)` of int16 lanes `below <= 0` and a scalar `mul >= 0`, saturated: int16 lanes."""
    factor = widen(mul, INT16) if lanes_of(below) == 1 else tirx.Broadcast(widen(mul, INT16), lanes_of(below))
    if shift == 15:
        return rounding_multiply(below, factor, isa)
    if shift < 15:
        exact = rshift(widen(below, INT32) * widen(factor, INT32), shift)
        return widen(tirx.max(exact, LEAST), INT16)
    high = multiply_high(below, factor)
    if shift == 16:
        low = below * factor
        return high - (low >> like(low, 15))
    return rshift(high, shift - 16)


def on_levels(t: Expr, levels: SoftmaxLevels, isa: Isa) -> Expr:
    """int16 lanes `t <= 0` as multiples of the step, `LEAST_LOG2` from the last level on."""
    last = min(levels.levels - 1, (1 << 15) // levels.step)
    code = kept(rounding_multiply(tirx.max(t, like(t, LEAST_LOG2)), -levels.inverse, isa))
    return kept(tirx.Select(code < like(t, last), code * like(t, -levels.step), like(t, LEAST_LOG2)))


def exponentials(t: Expr, bits: int, isa: Isa) -> Expr:
    """`2^(bits - 2/256) * 2^(t / 256)`, rounded, of int16 lanes `t <= 0`; 0 below 1/2. int16 lanes."""
    least = 1 if bits < 15 else 0  # of `14 - i`
    v = widen(like(t, 3841 - (bits << 8) - (least << 8)) - t, UINT16)
    v = kept(tirx.min(v, like(v, (NOTHING - least) << 8)))
    h = kept(widen((v << like(v, 8)) ^ like(v, 0x7F00), INT16))  # times 256
    curve = rounding_multiply(multiply_high(h, h), -CURVATURE, isa)
    m = kept(widen((h >> like(h, 2)) - curve + like(h, (1 << 14) + (1 << 13) - CURVATURE // 2), UINT16))
    n = kept(v >> like(v, 8))
    twice = isa.rshift16(m if least else m + m, n)
    twice = twice if least else tirx.Select(n < like(n, 16), twice, like(m, 0))
    return kept(widen((widen(twice, INT32) + 1) >> 1, INT16))
