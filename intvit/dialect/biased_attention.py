"""`biased_attention`: `softmax(Q Kᵀ + bias) V` per window and head, some keys masked.

    t = requantized(Q Kᵀ)                              log2 units, 8 fraction bits, per head
    x = -2^24 where bias = -2^15, else t + bias        int32
    d = x - rowmax(x), e = exponentials(d)             `bits` bits; 0 for masked keys; on `levels` as in `attention`
    y = saturate(requantized(h))                       h the mean of V in Q7, as in `attention`

`bias` `[K, H or 1, T, S]` holds the kinds of bias that there are, `kinds` says which of them each window has. Scores
meet the bias before the row's maximum is known, so they are rounded in their own units, not their distances from it.
No score reaches `2^22`, so that a masked key weighs nothing beside any other; in a row without any other, all weigh the
same.
"""

import torch
from torch import Tensor

from intvit.dialect.arithmetic import INT8, integer_matmul, requantized
from intvit.dialect.attention import (
    MEAN,
    check_attention,
    check_bits,
    check_levels,
    each_head,
    exponentials,
    level_ranges,
    mean_ranges,
    on_levels,
    requantized_by_head,
    weighted_mean,
)
from intvit.dialect.operation import operation, require, require_dtype
from intvit.dialect.requantize import check_dyadic, requantized_ranges
from intvit.ranges import Operand, Range, Ranges

MASK = -(1 << 15)
"""The bias of a masked key."""
MASKED = -(1 << 24)
"""Its score."""
MOST_LOG2 = 1 << 22
"""Beyond all scores, in either direction."""


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    windows: int,
    score_multiplier: Tensor,
    score_pre_shift: Tensor,
    score_shift: int,
    bias: Tensor,
    kinds: Tensor,
    bits: int,
    multiplier: Tensor,
    pre_shift: Tensor,
    shift: int,
    step: int = 1,
    levels: int = 0,
) -> Tensor:
    check_attention(q, k, v, heads, windows)
    check_dyadic(heads, score_multiplier, score_pre_shift, score_shift, "score_")
    require_dtype("bias", bias, torch.int16)
    require_dtype("kinds", kinds, torch.int32)
    tokens = q.shape[1] // windows, k.shape[1] // windows
    shape = tuple(bias.shape)
    require(
        len(shape) == 4 and shape[1] in (1, heads) and shape[2:] == tokens,
        f"bias must be [kinds, {heads} or 1, {tokens[0]}, {tokens[1]}], not {list(shape)}",
    )
    require(tuple(kinds.shape) == (windows,), f"kinds must have {windows} entries, not {list(kinds.shape)}")
    check_bits(bits)
    check_levels(step, levels)
    check_dyadic(v.shape[-1], multiplier, pre_shift, shift)
    return q.new_empty(q.shape[0], q.shape[1], v.shape[-1])


def _ranges(
    q: Operand,
    k: Operand,
    v: Operand,
    heads: int,
    windows: int,
    score_multiplier: Tensor,
    score_pre_shift: Tensor,
    score_shift: int,
    bias: Tensor,
    kinds: Tensor,
    bits: int,
    multiplier: Tensor,
    pre_shift: Tensor,
    shift: int,
    step: int = 1,
    levels: int = 0,
) -> Ranges:
    count, last = bias.shape[0], (int(kinds.min()), int(kinds.max()))
    require(last[0] >= 0 and last[1] < count, f"kinds must be in 0..{count - 1}, not {last[0]}..{last[1]}")
    scores = q * k * (q.shape[-1] // heads)
    log2 = requantized_ranges(scores, score_pre_shift, score_multiplier, score_shift)
    require(log2.result.magnitude < MOST_LOG2, f"scores must be below 2^22, not {log2.result.magnitude}")
    biased = log2.result + Range(int(bias.min()), int(bias.max()))
    mean = requantized_ranges(MEAN, pre_shift, multiplier, shift)
    return Ranges(
        mean.result.clamp(*INT8),
        {
            "scores": scores,
            **{f"log2 {name}": found for name, found in log2.intermediates.items()},
            "biased": biased,
            "below": Range(MASKED, 0) - biased,
            **level_ranges(step, levels),
            **mean_ranges(v, k.shape[1] // windows, bits),
            **mean.intermediates,
        },
    )


@operation(check=_check, ranges=_ranges)
def biased_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    windows: int,
    score_multiplier: Tensor,
    score_pre_shift: Tensor,
    score_shift: int,
    bias: Tensor,
    kinds: Tensor,
    bits: int,
    multiplier: Tensor,
    pre_shift: Tensor,
    shift: int,
    step: int = 1,
    levels: int = 0,
) -> Tensor:
    """int8 q `[B, W·T, H·D]`, k `[B, W·S, H·D]`, v `[B, W·S, H·E]` to int8 `[B, W·T, H·E]`.

    `bias` int16 `[K, H or 1, T, S]` in log2 units of 8 fraction bits, -2^15 for a mask; `kinds` int32 `[W]`; `step` and
    `levels` as of `attention`.
    """
    operands = (each_head(x, heads, windows) for x in (q, k, v))
    numbers = (number.expand(heads).split(1) for number in (score_multiplier, score_pre_shift))
    biases = bias.to(torch.int32).expand(-1, heads, -1, -1).split(1, 1)
    means = []
    for queries, keys, values, factor, pre, of_head in zip(*operands, *numbers, biases, strict=True):
        t = requantized_by_head(integer_matmul(queries, keys.mT), factor, pre, score_shift)
        of_windows = of_head[kinds.long()].repeat(q.shape[0], 1, 1, 1)
        x = torch.where(of_windows == MASK, MASKED, t + of_windows)
        e = exponentials(on_levels(x - x.amax(-1, keepdim=True), step, levels), bits)
        means.append(weighted_mean(e, e.sum(-1, keepdim=True, dtype=torch.int32), values))
    mean = torch.cat(means, -1).reshape(*q.shape[:2], -1)
    return requantized(mean, pre_shift, multiplier, shift).clamp(*INT8).to(torch.int8)
