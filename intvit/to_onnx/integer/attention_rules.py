"""What `attention` and `biased_attention` become: the functions that are called, and their constants."""

from typing import Any

import numpy as np
from torch import fx

from intvit.attention_node import AttentionNode
from intvit.dialect.biased_attention import MASK
from intvit.errors import IntvitError
from intvit.to_onnx.integer import attention
from intvit.to_onnx.integer.biased_attention import biased_attention
from intvit.to_onnx.integer.dyadic import LEVELS8, RAISE8, RAISE16, Array, Levels, Rounding, fits32
from intvit.to_onnx.integer.requantize import Far
from intvit.to_onnx.integer.writer import Writer

LARGEST_SCORE = 128 * 128
"""Of a pair of 8-bit integers."""


def shiftmax_attention(w: Writer, node: fx.Node) -> str:
    found = AttentionNode.of(node)
    fixed = sizes_of(w, found)
    heads, keys = found.heads, fixed["keys"]
    if found.windows == 1:
        fixed.update(size=0, value_size=0)
    score_m, score_pre, score_shift = found.score
    span = attention.LARGEST_PRODUCT * (w.shapes[found.q.name][2] // heads)
    pre, factors = (np.broadcast_to(w.array(a), heads) for a in (score_pre, score_m))
    distances = attention.Distances.of(pre, factors, score_shift, found.softmax, span, found.levels)
    if not fits32(distances.rises + span) or not attention.sums_fit(keys, found.softmax):
        raise too_large(w, heads, keys)
    columns, rows = (heads, 1, 1), (heads, 1)
    result, far = result_of(w, found)
    inputs = (
        w.scope.constant(distances.rises.reshape(columns), "int32", "rise"),
        w.scope.int32(distances.grain),
        w.scope.constant(distances.ends.reshape(columns), "int32", "last"),
        w.scope.int32(distances.count),
        w.scope.constant(distances.coarser.reshape(rows), "int32", "coarser"),
        w.scope.constant(distances.multiplier.reshape(rows), "int32", "score_multiplier"),
        w.scope.int32(distances.half_down),
        w.scope.int32(1 << score_shift),
        *result,
    )
    return w.scope.call("Attention", attention.attention, *operands_of(w, found), *inputs, **fixed, far=far)


def biased_shiftmax_attention(w: Writer, node: fx.Node) -> str:
    found = AttentionNode.of(node)
    fixed = sizes_of(w, found)
    heads = found.heads
    score_m, score_pre, score_shift = found.score
    pre, factors = (np.broadcast_to(w.array(a), heads).astype(np.int64) for a in (score_pre, score_m))
    rounding, span = Rounding(pre), LARGEST_SCORE * fixed["size"]
    bound = RAISE16 * int(abs(factors).max())
    lowest = -(bound >> score_shift) - 1
    levels = Levels(score_shift, lowest, 1 - 2 * lowest, bound, rounding.raised_by * factors)
    if not rounding.holds(-span, span) or not attention.sums_fit(fixed["keys"], found.softmax):
        raise too_large(w, heads, fixed["keys"])
    bias = w.array(found.bias)
    columns = (heads, 1, 1)
    result, far = result_of(w, found)
    inputs = (
        w.scope.constant(rounding.rise.reshape(columns), "int32", "rise"),
        w.scope.constant(rounding.divisor.reshape(columns), "int32", "score_divisor"),
        w.scope.constant(factors.reshape(columns), "int32", "score_multiplier"),
        w.scope.constant(np.broadcast_to(levels.addend, heads).reshape(columns), "int32", "score_addend"),
        *w.ends(levels),
        w.scope.constant(bias, "int16", "bias"),
        w.scope.constant(w.array(found.kinds), "int32", "kinds"),
        *result,
    )
    fixed.update(masks=bool((bias == MASK).any()), score_far=levels.far, far=far)
    return w.scope.call("BiasedAttention", biased_attention, *operands_of(w, found), *inputs, **fixed)


def too_large(w: Writer, heads: int, keys: int) -> IntvitError:
    return IntvitError(f"{w.scope.path}: {heads} heads of {keys} keys leave 32 bits: it cannot be exported to ONNX")


def sizes_of(w: Writer, node: AttentionNode) -> dict[str, Any]:
    """Of a window and a head."""
    (_, tokens, width), (_, keys, _), (_, _, columns) = (w.shapes[x.name] for x in (node.q, node.k, node.v))
    levels = dict(levels=node.levels) if node.levels else {}
    return dict(
        heads=node.heads,
        tokens=tokens // node.windows,
        keys=keys // node.windows,
        windows=node.windows,
        size=width // node.heads,
        value_size=columns // node.heads,
        bits=node.softmax,
        portable=w.portable,
        **levels,
    )


def operands_of(w: Writer, node: AttentionNode) -> list[str]:
    return [w.written[node.q], *(w.written[x] if w.portable else w.signed(x) for x in (node.k, node.v))]


def result_of(w: Writer, node: AttentionNode) -> tuple[tuple[str, ...], Far]:
    """The constants that bring the means to the grid of the result."""
    m, pre_shift, shift = node.result
    pre: Array = w.array(pre_shift)
    mean = attention.FirstRounding(pre.clip(max=attention.MOST_PRE_SHIFT))
    factors = np.where(pre > attention.MOST_PRE_SHIFT, 0, w.array(m)).astype(np.int64)
    levels = Levels(shift, -RAISE8, LEVELS8, attention.MEAN_END * int(abs(factors).max()), mean.raised_by * factors)
    constants = (
        w.constant(mean.divisor, "divisor"),
        w.constant(mean.addend, "mean_addend"),
        w.multiplier(factors),
        w.constant(levels.addend, "addend"),
        *w.ends(levels),
    )
    return constants, levels.far
