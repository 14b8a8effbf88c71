"""`layernorm`: integer LayerNorm as ONNX nodes (`intvit.dialect.layernorm` has the formula).

What depends on a row alone is computed on rows `[R]`, one number for each of all tokens, where an operator takes half a
microsecond; there 64-bit integers cost nothing (0.4 us as in 32 bits, ONNX Runtime 1.31, 197 rows) and save the halves
of squares, carries and shifts that the 32-bit form needs. No other tensor that depends on the image has them, but the
squares of `x` on their way to a sum, and the published LayerNorm. What depends on a channel too is 32-bit: the sum of a
row, and one unsigned multiply-add and shift,

    n + 2^(30-a) = (x F + (2^31 + 2^a - m F - offset)) >> (a + 1)          all modulo 2^32, the sum below 2^32

(see `rounds_late` for the sum, which is `2^31 + 2^a` more than the `t` of the dialect, at most 65535 · 32767 + 2^14)
with `F = g 2^up` of `Factor`. Shifts by an amount that a row decides are products and quotients with powers of two from
a table. Rows of x are raised by 2^15, which moves `m` and nothing else.
"""

import numpy as np

from intvit.to_onnx.integer.dyadic import Array, Levels, levelled
from intvit.to_onnx.integer.requantize import Far
from intvit.to_onnx.scope import Scope

HALF = 15
FINE = 14
ROOT_STEP = 22
"""Bits of a normalized variance below those that choose the first guess of its root."""
LOWEST_P, HIGHEST_P = -29, 17
"""Of the exponent `p` of a row's factor."""
MOST_STEPS = 14
"""Of `j`, by which a variance is normalized."""
SAFE_CHANNELS = 4096
"""Up to here `saturates` tells when no row is."""
SAFE_EPS, SAFE_MIN_SHIFT = 1 << 17, -9
"""Where the one is reached or the other is not exceeded, variances other than 0 have 16 bits or more."""
LATE_EPS = 1 << 37


def layernorm(
    s: Scope,
    x: str,
    floor: str,
    multiplier: str,
    addend: str,
    unit: str,
    lowest: str,
    top: str,
    *,
    channels: int,
    tokens: int,
    min_shift: int,
    unsigned: bool,
    late: bool,
    clipped: bool,
    far: Far,
) -> str:
    """LayerNorm of raised 16-bit `[B, T, C]` as raised 8-bit integers.

    With `unsigned` (see `takes_unsigned`) the numbers are uint32, `addend` is raised by 2^31, `unit` is the shift, and
    levels go from `lowest` to `top`; else they are int32, `unit` is `2^shift`, and levels go from 0 on.
    """
    n = unit_rows(s, x, floor, channels, min_shift, HALF, late=late, clipped=clipped)
    if unsigned:
        total = s.op("Add", s.op("Mul", n, multiplier), addend)
        y = s.op("Clip", s.op("BitShift", total, unit, direction="RIGHT"), lowest, top)
    else:
        total = s.op("Add", s.op("Mul", s.cast(n, "int32"), multiplier), addend)
        y = levelled(s, total, unit, top, far)
    return s.op("Reshape", s.cast(y, "uint8"), s.int64(-1, tokens, channels))


def takes_unsigned(levels: Levels) -> bool:
    """Whether an unsigned shift, faster than a division, gives the levels in its lowest byte."""
    return levels.near and levels.shift <= 23


def layernorm_fine(
    s: Scope,
    x: str,
    floor: str,
    multiplier: str,
    addend: str,
    unit: str,
    top: str,
    *,
    channels: int,
    tokens: int,
    min_shift: int,
    clipped: bool,
    far: Far,
) -> str:
    """The same as raised 16-bit integers, from 14 more bits of the unit row."""
    n = s.cast(unit_rows(s, x, floor, channels, min_shift, HALF + FINE, clipped=clipped), "int32")
    total = fine_total(s, n, multiplier, addend)
    return s.op("Reshape", levelled(s, total, unit, top, far), s.int64(-1, tokens, channels))


def fine_total(s: Scope, n: str, multiplier: str, addend: str) -> str:
    """`((n · multiplier) >> 14) + addend` of int32 `n` within 30 bits, as two products of 16 bits."""
    raised = s.op("Add", n, s.int32(1 << 30))
    upper = s.op("Div", raised, s.int32(1 << FINE))
    lower = s.op("Sub", raised, s.op("Mul", upper, s.int32(1 << FINE)))
    upper = s.op("Sub", upper, s.int32(1 << (30 - FINE)))
    fine = s.op("Add", s.op("Mul", lower, multiplier), s.int32((1 << 30) + (1 << (FINE - 1))))
    fine = s.op("Sub", s.op("Div", fine, s.int32(1 << FINE)), s.int32(1 << (30 - FINE)))
    return s.op("Add", s.op("Add", s.op("Mul", upper, multiplier), fine), addend)


def saturates(channels: int, eps: int, min_shift: int) -> bool:
    """Whether a row may be saturated.

    `|x - mean| / sqrt(V) <= sqrt(1 - 1/C)`, and a factor is at most `2^-14` too large where a variance has 16 bits.
    """
    return channels > SAFE_CHANNELS or (eps < SAFE_EPS and min_shift > SAFE_MIN_SHIFT)


def rounds_late(eps: int, min_shift: int) -> bool:
    """Whether `2^a` must not be added before the shift, since that may leave 32 bits: from `a = 18` on.

    There `V > 2^37`. Without as much of `eps` in it, the mean of a row is so far from the row's ends that
    `t < 2^31 - 2^a`.
    """
    return eps * 4.0**min_shift >= LATE_EPS


def unit_rows(
    s: Scope,
    x: str,
    floor: str,
    channels: int,
    min_shift: int,
    fraction: int,
    *,
    late: bool = False,
    clipped: bool = False,
) -> str:
    """`(x - mean) / sqrt(V)` with `fraction` fraction bits, modulo 2^32, uint32 `[R, C]`.

    `late`: the half is added after a shift by `a`, before one by 1.
    """
    rows = s.cast(s.op("Reshape", x, s.int64(-1, channels)), "uint32")
    mean, r, squares = centre(s, rows, channels)
    scale, v = floating_variance(s, squares, r, floor, channels, min_shift)
    return scaled_rows(s, rows, mean, r, scale, v, channels, min_shift, fraction, late=late, clipped=clipped)


def scaled_rows(
    s: Scope,
    rows: str,
    mean: str,
    r: str | None,
    scale: str,
    v: str,
    channels: int,
    min_shift: int,
    fraction: int,
    *,
    late: bool = False,
    clipped: bool = False,
) -> str:
    """`(x - mean - r / C) / sqrt(V)` of uint32 rows for the `scale` and `v` of their variance, as `unit_rows`."""
    g, steps = reciprocal_root(s, v)
    place = s.op("Add", s.op("Add", scale, steps), s.int64(min_shift - MOST_STEPS - LOWEST_P), label="place")
    p = np.arange(LOWEST_P, HIGHEST_P + 1)
    up = np.clip(1 - p, 0, 16)
    a = np.clip(14 + p, 15, None) + 14 - fraction
    factor = s.op("Mul", g, looked_up(s, place, 1 << up, "int64", "up"), label="factor")
    rise = (1 << 32) + (0 if late else 1 << a)
    if r is None:
        offset, rise = s.op("Mul", mean, factor), rise - (1 << 31)
    else:
        offset = s.op("Add", s.op("Mul", r, factor), s.int64(channels << 31))
        offset = s.op("Add", s.op("Div", offset, s.int64(channels)), s.op("Mul", mean, factor))
    addend = s.op("Sub", looked_up(s, place, np.broadcast_to(rise, a.shape), "int64", f"rise_{fraction}"), offset)
    scaled = s.op("Mul", rows, column(s, s.cast(factor, "uint32")))
    total = s.op("Add", scaled, column(s, s.cast(addend, "uint32")))
    shift = column(s, looked_up(s, place, a if late else a + 1, "uint32", f"shift_{fraction}"))
    n = s.op("BitShift", total, shift, direction="RIGHT")
    if late:
        one = s.constant(1, "uint32")
        n = s.op("BitShift", s.op("Add", n, one), one, direction="RIGHT")
    n = s.op("Sub", n, column(s, looked_up(s, place, 1 << (30 - a), "uint32", f"zero_{fraction}")))
    if not clipped:
        return n
    n = s.op("Clip", s.cast(n, "int32"), s.int32(-(1 << fraction)), s.int32((1 << fraction) - 1))
    return s.cast(n, "uint32")


def centre(s: Scope, rows: str, channels: int) -> tuple[str, str, str]:
    """`m`, `r` and `Σ(x - m)²` of uint32 rows `[R, C]`, each int64 `[R]`."""
    total = s.cast(row_sums(s, rows, channels, "uint32"), "int64")
    squares = row_sums(s, s.cast(s.op("Mul", rows, rows), "int64"), channels, "int64")
    mean = s.op("Div", s.op("Add", total, s.int64(channels // 2)), s.int64(channels), label="mean")
    r = s.op("Sub", total, s.op("Mul", mean, s.int64(channels)))
    return mean, r, s.op("Sub", squares, s.op("Mul", mean, s.op("Add", total, r)), label="squares")


def row_sums(s: Scope, x: str, channels: int, dtype: str) -> str:
    """Sums of rows `[R, C]` as `[R]`; a product with ones is faster than `ReduceSum`, and there for uint32."""
    ones = s.constant(np.ones((channels, 1)), dtype, label=f"ones_{channels}_{dtype}")
    return s.op("Reshape", s.op("MatMul", x, ones), s.int64(-1))


def exponents(min_shift: int) -> Array:
    """All `q` that a variance can have, from `min_shift` on."""
    return np.arange(min_shift, max(10, min_shift + 2))


def floors(eps: int, min_shift: int) -> Array:
    """What `eps` adds to a variance, by `q - min_shift`."""
    return np.int64(eps) >> (2 * (exponents(min_shift) - min_shift)).clip(max=31)


def floating_variance(
    s: Scope, squares: str, r: str | None, floor: str, channels: int, min_shift: int
) -> tuple[str, str]:
    """`q - min_shift` and `v`, int64 `[R]`, with `V ~ v 4^q`; without `r` of squares about 0."""
    q = exponents(min_shift)
    scale = count_reached(s, squares, 1 << (28 + 2 * q[1:]).clip(min=0))
    up, down = 1 << (-2 * q).clip(min=0), 1 << (2 * q).clip(min=0)
    down_at = looked_up(s, scale, down, "int64", f"down_{min_shift}")
    mean_square = None if r is None else s.op("Mul", r, r)
    if mean_square is not None and min_shift < -8:
        near, far = (-2 * q).clip(0, 16), (-2 * q - 16).clip(min=0)
        mean_square = s.op("Mul", mean_square, looked_up(s, scale, 1 << near, "int64", f"near_{min_shift}"))
        mean_square = s.op("Div", mean_square, s.int64(channels))
        mean_square = s.op("Mul", mean_square, looked_up(s, scale, 1 << far, "int64", f"far_{min_shift}"))
        up_at = looked_up(s, scale, up, "int64", f"up_{min_shift}")
    else:
        up_at = looked_up(s, scale, up, "int64", f"up_{min_shift}")
        if mean_square is not None:
            mean_square = s.op("Div", s.op("Mul", mean_square, up_at), s.int64(channels))
    v = s.op("Div", s.op("Mul", squares, up_at), down_at)
    if mean_square is not None:
        v = s.op("Sub", v, s.op("Div", mean_square, down_at))
    least = s.op("GatherElements", floor, scale)
    return scale, s.op("Max", s.op("Add", v, least), s.int64(1), label="variance")


def reciprocal_root(s: Scope, v: str) -> tuple[str, str]:
    """`g` and `14 - j`, int64 `[R]`, of int64 `v` of 1 to 31 bits.

    One Newton step from a guess gives the root `ρ`, or `ρ + 1` where the real root is less than 1/4 below that (a guess
    is off by `2^-8` of a root of at least `2^14`): the nearest half is `ρ + 1` then, and so it comes out of both.
    """
    steps = count_reached(s, v, 1 << 2 * np.arange(1, 16))
    normal = s.op("Mul", v, looked_up(s, steps, 1 << 2 * np.arange(15, -1, -1), "int64", "normal"))
    normal = s.cast(s.op("Div", normal, s.int64(4)), "int32")
    guesses = np.sqrt((np.arange(1 << (30 - ROOT_STEP)) + 0.5) * (1 << ROOT_STEP))
    guess = looked_up(s, s.op("Div", normal, s.int32(1 << ROOT_STEP)), guesses, "int32", "roots")
    root = s.op("Div", s.op("Add", guess, s.op("Div", normal, guess)), s.int32(2), label="root")
    rest = s.op("Sub", normal, s.op("Mul", root, root))
    double = s.op("Add", root, root)
    nearest = s.op("Add", double, s.op("Div", s.op("Add", s.op("Add", rest, rest), root), double))
    g = s.op("Div", s.op("Add", s.op("Div", nearest, s.int32(2)), s.int32(1 << 30)), nearest)
    return s.cast(s.op("Min", g, s.int32((1 << 15) - 1)), "int64"), steps


def count_reached(s: Scope, x: str, thresholds: Array) -> str:
    """How many of the thresholds each number of int64 `[R]` reaches, int64 `[R]`."""
    reached = s.op("GreaterOrEqual", column(s, x), s.constant(thresholds, "int64"))
    return s.op("ReduceSum", s.cast(reached, "int64"), s.int64(-1), keepdims=0)


def looked_up(s: Scope, index: str, table: Array, dtype: str, label: str) -> str:
    """`table[index]` of an index `[R]`."""
    return s.op("GatherElements", s.constant(table, dtype, label), index)


def column(s: Scope, rows: str) -> str:
    """`[R]` to `[R, 1]`."""
    return s.op("Unsqueeze", rows, s.int64(-1))
