"""`attention`: `softmax(Q Kᵀ) V` per head with Shiftmax, unnormalized exponentials and one division per row.

    d = Q Kᵀ - rowmax                                  int32, <= 0
    t = requantized(d)                                 log2 units, 8 fraction bits: the score scale, the softmax
                                                       scale and log2(e) are one dyadic number per head
    u = t + 256 bits - 2, i = u >> 8, f = u & 255      e = 2^bits · 2^t, at most 2^bits - 1
    m = 2^14 + (f << 6) - (f (256 - f) · 2784 >> 15)   2^(f/256) in Q14, error 0.27 %
    e = m >> (14 - i), 0 where u < -256                `bits` bits
    s = Σe, o = e V                                    int32
    h = (o >> (bits(s) - 8)) · (2^29 / s15) >> 15      o / s in Q7, s15 = s scaled to 15 bits
    y = saturate(requantized(h))                       int8, per channel

`bits` (8 to 15) is the width of the exponentials: 8 lets `P·V` run on int8 units but rounds the many small weights of
a long row (total variation up to 0.06 against exact softmax at 197 tokens), 13 and more is exact to 0.004; `P·V` of
`S` keys needs `bits + 7 + log2 S <= 31`. No division and no rounded scale before the exponential, so no temperature
error (I-ViT's `x0 = floor(-1/S)` has slopes of 0.83 to 0.95), and no probability is lost to an int8 result at 1/128.
With `levels`, exponents are first rounded to multiples of `step`, so that a row has at most that many weights, 0 one of
them (`intvit.softmax_levels` has the formula and its sources); `levels` 0 leaves them as they are.
Columns are head-major: channel `h·D + c` is channel `c` of head `h`. With several windows, which are consecutive blocks
of tokens, queries meet the keys of their own window only.
"""

import torch
from torch import Tensor

from intvit.dialect.arithmetic import (
    INT8,
    bit_length,
    integer_matmul,
    requantized,
    rounding_shift,
    saturate16,
    scale_by_power,
)
from intvit.dialect.operation import operation, require, require_dtype
from intvit.dialect.requantize import check_dyadic, requantized_ranges
from intvit.ranges import Operand, Range, Ranges
from intvit.softmax_levels import LEAST_LOG2, MOST_LEVELS, MOST_STEP, SoftmaxLevels

LOG2_FRACTION = 8
MEAN = Range(-(1 << 14) - 1, (1 << 14) + 1)
"""Of `row_mean`: 128 in Q7, and one more because the row's sum is floored to 15 bits."""
CURVATURE = 2784
"""`c · 2^15 / 4` with the `c` that makes `1 + f - c f (1 - f)` closest to `2^f`, relatively."""


def split_heads(x: Tensor, heads: int) -> Tensor:
    """`[B, T, H·D]` to `[B, H, T, D]`."""
    return x.reshape(*x.shape[:-1], heads, -1).transpose(1, 2)


def split_windows(x: Tensor, windows: int) -> Tensor:
    """`[B, W·T, C]` to `[B·W, T, C]`."""
    return x.reshape(x.shape[0] * windows, -1, x.shape[-1])


def each_head(x: Tensor, heads: int, windows: int) -> tuple[Tensor, ...]:
    """`[B, W·T, H·D]` as `[B·W, 1, T, D]` of each head: one at a time, its scores stay in the processor's cache.

    49 tokens in 640 windows: half the time of all heads at once; 1025 tokens, a third.
    """
    return torch.split(split_heads(split_windows(x, windows), heads), 1, 1)


def exponentials(t: Tensor, bits: int) -> Tensor:
    """`2^(bits - 2/256) · 2^(t/256)` for int32 `t <= 0`, rounded: int32 in `0 .. 2^bits - 1`."""
    u = (t + (bits << LOG2_FRACTION) - 2).clamp(min=-257)
    i, f = u >> LOG2_FRACTION, u & 255
    m = (1 << 14) + (f << 6) - rounding_shift(f * (256 - f) * CURVATURE, 15)
    return torch.where(u < -256, 0, rounding_shift(m, 14 - i))


def on_levels(t: Tensor, step: int, levels: int) -> Tensor:
    """int32 `t <= 0` as multiples of `step`, far below all exponentials from the last of `levels` on; 0: unchanged."""
    if not levels:
        return t
    i = rounding_shift(-t.clamp(min=LEAST_LOG2) * SoftmaxLevels(step, levels).inverse, 15)
    return torch.where(i < levels - 1, -step * i, LEAST_LOG2)


def shiftmax(
    scores: Tensor, multiplier: Tensor, pre_shift: Tensor, shift: int, bits: int, step: int = 1, levels: int = 0
) -> tuple[Tensor, Tensor]:
    """int32 scores `[B, H, T, S]` to exponentials of `bits` bits and their row sums `[B, H, T, 1]`, both int32."""
    t = requantized_by_head(scores - scores.amax(-1, keepdim=True), multiplier, pre_shift, shift)
    e = exponentials(on_levels(t, step, levels), bits)
    return e, e.sum(-1, keepdim=True, dtype=torch.int32)


def requantized_by_head(scores: Tensor, multiplier: Tensor, pre_shift: Tensor, shift: int) -> Tensor:
    """int32 `[B, H, T, S]`; dyadics `[H]` or `[1]`."""
    return requantized(scores, pre_shift.view(-1, 1, 1), multiplier.view(-1, 1, 1), shift)


def weighted_mean(e: Tensor, s: Tensor, values: Tensor) -> Tensor:
    """Means of int8 `[B, H, S, E]`, in Q7, with weights `[B, H, T, S]` and their sums: int32 `[B, T, H·E]`."""
    return row_mean(integer_matmul(e, values), s).transpose(1, 2).flatten(2)


def row_mean(o: Tensor, s: Tensor) -> Tensor:
    """`o / s` in Q7 for `|o| <= 128 s`, `s >= 128`: the one division of a row."""
    bits = bit_length(s)
    reciprocal = ((1 << 29) // scale_by_floor(s, bits - 15)).clamp(max=(1 << 15) - 1)
    return rounding_shift(saturate16(scale_by_power(o, bits - 8)) * reciprocal, 15)


def scale_by_floor(x: Tensor, shift: Tensor) -> Tensor:
    return (x << (-shift).clamp(min=0)) >> shift.clamp(min=0)


def check_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, windows: int = 1) -> None:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        require_dtype(name, tensor, torch.int8)
        require(tensor.ndim == 3, f"{name} must be [batch, tokens, channels]")
        require(tensor.shape[-1] % heads == 0, f"{name} has {tensor.shape[-1]} channels for {heads} heads")
        require(
            windows > 0 and tensor.shape[1] % windows == 0, f"{name} has {tensor.shape[1]} tokens for {windows} windows"
        )
    require(q.shape[-1] == k.shape[-1] and k.shape[1] == v.shape[1], "q, k, v do not fit one another")


def check_bits(bits: int) -> None:
    require(8 <= bits <= 15, f"bits must be in 8..15, not {bits}")


def check_levels(step: int, levels: int) -> None:
    require(levels == 0 or 2 <= levels <= MOST_LEVELS, f"levels must be 0 or in 2..{MOST_LEVELS}, not {levels}")
    most = MOST_STEP if levels else 1
    require(1 <= step <= most, f"step must be in 1..{most} for {levels} levels, not {step}")


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    score_multiplier: Tensor,
    score_pre_shift: Tensor,
    score_shift: int,
    bits: int,
    multiplier: Tensor,
    pre_shift: Tensor,
    shift: int,
    windows: int = 1,
    step: int = 1,
    levels: int = 0,
) -> Tensor:
    check_attention(q, k, v, heads, windows)
    check_dyadic(heads, score_multiplier, score_pre_shift, score_shift, "score_")
    check_bits(bits)
    check_levels(step, levels)
    check_dyadic(v.shape[-1], multiplier, pre_shift, shift)
    return q.new_empty(q.shape[0], q.shape[1], v.shape[-1])


def _ranges(
    q: Operand,
    k: Operand,
    v: Operand,
    heads: int,
    score_multiplier: Tensor,
    score_pre_shift: Tensor,
    score_shift: int,
    bits: int,
    multiplier: Tensor,
    pre_shift: Tensor,
    shift: int,
    windows: int = 1,
    step: int = 1,
    levels: int = 0,
) -> Ranges:
    scores = q * k * (q.shape[-1] // heads)
    below = Range(scores.low - scores.high, 0)
    log2 = requantized_ranges(below, score_pre_shift, score_multiplier, score_shift)
    mean = requantized_ranges(MEAN, pre_shift, multiplier, shift)
    return Ranges(
        mean.result.clamp(*INT8),
        {
            "scores": scores.union(below),
            **{f"log2 {name}": found for name, found in log2.intermediates.items()},
            **level_ranges(step, levels),
            **mean_ranges(v, k.shape[1] // windows, bits),
            **mean.intermediates,
        },
    )


def level_ranges(step: int, levels: int) -> dict[str, Range]:
    """Of what rounds exponents to levels, where there are any."""
    furthest = -LEAST_LOG2 * SoftmaxLevels(step, levels).inverse + (1 << 14)
    return {"level": Range(0, furthest)} if levels else {}


def mean_ranges(v: Range, keys: int, bits: int) -> dict[str, Range]:
    """Of the exponentials of `keys` keys, their sum, and the mean of values `v` that they weigh."""
    row_sum = Range(1 << (bits - 1), ((1 << bits) - 1) * keys)
    sums = v.union(Range(0, 0)) * row_sum.high
    return {
        "curvature": Range(0, 128 * 128 * CURVATURE + (1 << 14)),
        "row sum": row_sum,
        "P·V": sums + Range(0, 1 << max(row_sum.high.bit_length() - 9, 0)),
        "row mean": Range(-(1 << 15), 1 << 15) * (1 << 15),
    }


@operation(check=_check, ranges=_ranges)
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    score_multiplier: Tensor,
    score_pre_shift: Tensor,
    score_shift: int,
    bits: int,
    multiplier: Tensor,
    pre_shift: Tensor,
    shift: int,
    windows: int = 1,
    step: int = 1,
    levels: int = 0,
) -> Tensor:
    """int8 q `[B, T, H·D]`, k `[B, S, H·D]`, v `[B, S, H·E]` to int8 `[B, T, H·E]`; dyadics per head and channel.

    `levels` (0, or 2 to 256): how many weights a row may have, powers of `2^(step / 256)`, `step` 1 to 2^11.
    """
    operands = (each_head(x, heads, windows) for x in (q, k, v))
    numbers = (number.expand(heads).split(1) for number in (score_multiplier, score_pre_shift))
    means = []
    for queries, keys, values, factor, pre in zip(*operands, *numbers, strict=True):
        e, s = shiftmax(integer_matmul(queries, keys.mT), factor, pre, score_shift, bits, step, levels)
        means.append(weighted_mean(e, s, values))
    mean = torch.cat(means, -1).reshape(*q.shape[:2], -1)
    return requantized(mean, pre_shift, multiplier, shift).clamp(*INT8).to(torch.int8)
