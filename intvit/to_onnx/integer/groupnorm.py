"""`groupnorm`: normalization over the tokens and a block of channels (`intvit.dialect.groupnorm` has the formula).

What depends on a group alone is computed on `[R]`, one number for each group of each image, in 64-bit integers: they
hold the sums of a group, and its variance in Q30, without digits. To those of the dialect the results are equal: every
floor is of the same number. The squares on their way to a sum have 64 bits too. What depends on a channel is 32-bit,

    n + 2^(30 - down) = ((x F + (2^31 - m F - f F)) >> down + 1) >> 1         all modulo 2^32, the sum below 2^32

and rows of x are raised by 2^15, which moves `m` and nothing else.
"""

from typing import Any

import numpy as np
from torch import fx

from intvit.dialect.groupnorm import HALF, LIMIT
from intvit.nodes import arguments
from intvit.to_onnx.integer.dyadic import INT32_END, LEVELS8, LEVELS16, RAISE8, RAISE16, Array, Levels, levelled
from intvit.to_onnx.integer.layernorm import (
    HIGHEST_P,
    LOWEST_P,
    MOST_STEPS,
    count_reached,
    fine_total,
    looked_up,
    reciprocal_root,
)
from intvit.to_onnx.integer.requantize import Far
from intvit.to_onnx.integer.writer import Writer
from intvit.to_onnx.scope import Scope

SAFE_COUNT = 1 << 18
"""Up to so many numbers in a group none is as many deviations from the mean as saturate."""
HIGHEST_Q = 1
"""Of a variance, which is at most `2^30`."""


def groupnorm(
    s: Scope,
    x: str,
    floor: str,
    multiplier: str,
    addend: str,
    unit: str,
    top: str,
    *,
    channels: int,
    groups: int,
    tokens: int,
    min_shift: int,
    bits: int,
    far: Far,
) -> str:
    """GroupNorm of raised 16-bit `[B, T, C]` as raised integers of 8 or 16 `bits`."""
    size = channels // groups
    count = tokens * size
    mean, rest, variance = moments(s, x, size, count)
    scale, v = floating(s, variance, floor, min_shift)
    g, steps = reciprocal_root(s, v)
    place = s.op("Add", s.op("Add", scale, steps), s.int64(min_shift - MOST_STEPS - LOWEST_P), label="place")
    p = np.arange(LOWEST_P, HIGHEST_P + 1)
    up, down = (-9 - p).clip(0, 16), (9 + p).clip(min=0)
    factor = s.op("Mul", g, looked_up(s, place, 1 << up, "int64", "group_up"), label="factor")
    offset = s.op("Add", s.op("Mul", mean, factor), fraction_part(s, rest, g, place, up))

    def spread(row: str) -> str:
        """`[R]` to `[B, 1, G, 1]`."""
        return s.op("Reshape", row, s.int64(-1, 1, groups, 1))

    start = s.cast(s.op("Sub", s.int64(INT32_END), offset), "uint32")
    rows = s.cast(s.op("Reshape", x, s.int64(-1, tokens, groups, size)), "uint32")
    t = s.op("Add", s.op("Mul", rows, spread(s.cast(factor, "uint32"))), spread(start))
    one = s.constant(1, "uint32")
    t = s.op("BitShift", t, spread(looked_up(s, place, down, "uint32", "group_down")), direction="RIGHT")
    n = s.op("BitShift", s.op("Add", t, one), one, direction="RIGHT")
    n = s.op("Sub", n, spread(looked_up(s, place, 1 << (30 - down), "uint32", "group_zero")))
    n = s.op("Reshape", s.cast(n, "int32"), s.int64(-1, tokens, channels))
    if count > SAFE_COUNT:
        n = s.op("Clip", n, s.int32(-LIMIT), s.int32(LIMIT - 1))
    y = levelled(s, fine_total(s, n, multiplier, addend), unit, top, far)
    return s.cast(y, "uint8") if bits == 8 else y


def moments(s: Scope, x: str, size: int, count: int) -> tuple[str, str, str]:
    """`m`, `f` and the variance in Q30 of raised `[B, T, C]`, each int64 `[R]`."""
    wide, n, one = s.cast(x, "int64"), s.int64(count), s.int64(1 << 30)
    total = group_sums(s, wide, size)
    squares = group_sums(s, s.op("Mul", wide, wide), size)
    mean = s.op("Div", s.op("Add", total, s.int64(count // 2)), n, label="mean")
    r = s.op("Sub", total, s.op("Mul", mean, n))
    rest = s.op("Sub", s.op("Div", s.op("Mul", s.op("Add", r, n), one), n), one, label="rest")
    squares = s.op("Sub", squares, s.op("Mul", mean, s.op("Add", total, r)), label="squares")
    whole = s.op("Div", squares, n)
    part = s.op("Div", s.op("Mul", s.op("Sub", squares, s.op("Mul", whole, n)), one), n)
    upper, lower = halves(s, rest)
    cross = s.op("Add", s.op("Mul", upper, lower), one)
    cross = s.op("Sub", s.op("Div", cross, s.int64(1 << (HALF - 1))), s.int64(1 << (31 - HALF)))
    squared = s.op("Add", s.op("Mul", upper, upper), cross)
    variance = s.op("Sub", s.op("Add", s.op("Mul", whole, one), part), squared, label="variance")
    return mean, rest, variance


def group_sums(s: Scope, x: str, size: int) -> str:
    """Sums of int64 `[B, T, C]` over the tokens and blocks of `size` channels, `[R]`."""
    columns = s.op("ReduceSum", x, s.int64(1), keepdims=0)
    return s.op("ReduceSum", s.op("Reshape", columns, s.int64(-1, size)), s.int64(-1), keepdims=0)


def halves(s: Scope, rest: str) -> tuple[str, str]:
    """`f >> 15` and `f & (2^15 - 1)`."""
    raised = s.op("Add", rest, s.int64(1 << 30))
    upper = s.op("Sub", s.op("Div", raised, s.int64(1 << HALF)), s.int64(1 << HALF))
    return upper, s.op("Sub", rest, s.op("Mul", upper, s.int64(1 << HALF)))


def fraction_part(s: Scope, rest: str, g: str, place: str, up: Array) -> str:
    """`f F`, with the two floors of the dialect."""
    upper, lower = halves(s, rest)
    beyond, short = 1 << (up - HALF).clip(min=0), 1 << (HALF - up).clip(min=0)
    raised = s.op("Mul", s.op("Mul", upper, g), looked_up(s, place, beyond, "int64", "group_beyond"))
    raised = s.op("Add", raised, s.int64(1 << 45))
    raised = s.op("Div", raised, looked_up(s, place, short, "int64", "group_short"))
    first = s.op("Sub", raised, looked_up(s, place, (1 << 45) // short, "int64", "group_rise"))
    second = s.op("Div", s.op("Mul", lower, g), looked_up(s, place, 1 << (2 * HALF - up), "int64", "group_lower"))
    return s.op("Add", first, second)


def exponents(min_shift: int) -> Array:
    """All `q` that a variance can have, from `min_shift` on, and one more."""
    return np.arange(min_shift, max(HIGHEST_Q + 1, min_shift + 2))


def floors(eps: int, min_shift: int) -> Array:
    """What `eps` adds to a variance, by `q - min_shift`."""
    return np.int64(eps) >> (2 * (exponents(min_shift) - min_shift)).clip(max=31)


def floating(s: Scope, variance: str, floor: str, min_shift: int) -> tuple[str, str]:
    """`q - min_shift` and `v`, int64 `[R]`, with `variance + eps 4^min_shift ~ v 4^q`."""
    q = exponents(min_shift)
    scale = count_reached(s, variance, np.int64(1) << (58 + 2 * q[1:]).clip(max=62))
    down = looked_up(s, scale, np.int64(1) << (30 + 2 * q).clip(max=62), "int64", f"group_{min_shift}")
    v = s.op("Add", s.op("Div", variance, down), s.op("GatherElements", floor, scale))
    return scale, s.op("Max", v, s.int64(1))


def group_norm(w: Writer, node: fx.Node) -> str:
    """The rule of `groupnorm`."""
    x, multiplier, bias, shift, groups, eps, min_shift, dtype = arguments(node)
    _, tokens, channels = w.shapes[node.name]
    factors, offset = (w.array(a).astype(np.int64) for a in (multiplier, bias))
    bound = RAISE16 * int(abs(factors).max()) + int(abs(offset).max())
    lowest, count = (-RAISE16, LEVELS16) if dtype == "int16" else (-RAISE8, LEVELS8)
    levels = Levels(shift, lowest, count, bound, -offset)
    floor = w.scope.constant(floors(eps, min_shift), "int64", "floor")
    rows = (w.raised(x, np.array([RAISE16])), floor, w.multiplier(factors), w.constant(levels.addend, "addend"))
    fixed: dict[str, Any] = dict(channels=channels, groups=groups, tokens=tokens, min_shift=min_shift)
    fixed |= dict(bits=16 if dtype == "int16" else 8, far=levels.far)
    return w.scope.call("GroupNorm", groupnorm, *rows, *w.ends(levels), **fixed)
