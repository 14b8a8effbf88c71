"""The forms of I-ViT as published (arXiv:2207.01405 and its code), to reproduce the paper; each has known defects.

`attention_published`, `gelu_published` and `layernorm_published` follow the released code with the constants of
its integer kernels. What is defective in them is shown by tests/dialect/test_published.py; `--preset paper` is the only
user. Where the code divides floats and floors, the same floor is taken of integers.

The exponential of a score `d <= 0` with `x0 = floor(-1/S)` and `n` bits (paper, eq. 5 to 9):

    p = max(d + (d >> 1) - (d >> 4), n x0)     log2 e as 1.4375
    q = p // x0,  r = p - q x0
    exp = ((r - 2 x0) << (n - q)) >> 1         2^r as 1 + r/2

64-bit integers: only in `layernorm_published`, whose sum of squares leaves 32 bits for ordinary rows (in the released
simulation it is a float). This is the one place of the dialect that needs them.
"""

import torch
from torch import Tensor

from intvit.dialect.arithmetic import INT8, INT32, integer_matmul, requantized
from intvit.dialect.attention import check_attention, split_heads
from intvit.dialect.operation import operation, require, require_channels, require_dtype
from intvit.dialect.requantize import check_dyadic, requantized_ranges
from intvit.ranges import Operand, Range, Ranges

SOFTMAX_BITS = 15
GELU_BITS = 23
GELU_SLOPE = 1.702
SQRT_START = 1 << 16
SQRT_STEPS = 10
LARGEST = (1 << 31) - 1
UNIT = 1 << 30
"""Bound of `layernorm_published` without its bias: Newton's steps stay at or above the integer root of the sum of
squares, which is at least `|x - mean|`, so that the product of that and `LARGEST // root` is within `LARGEST`."""


def shift_exponential(d: Tensor, x0: int, bits: int) -> Tensor:
    """I-ViT's ShiftExp of int32 `d <= 0`: `2^bits · |x0| · exp(d S)`, up to 6.1 % off."""
    p = (d + (d >> 1) - (d >> 4)).clamp(min=bits * x0)
    q = torch.div(p, x0, rounding_mode="floor")
    return ((p - q * x0 - 2 * x0) << (bits - q)) >> 1


def _exponential_range(x0: int, bits: int) -> Range:
    """Of the exponential; before its last shift it is twice as large."""
    return Range(0, -x0 << bits)


def finest_scale(bits: int, terms: int) -> float:
    """The finest scale of scores whose `terms` exponentials of `bits` bits sum to 31 bits."""
    return 1 / max(LARGEST // (terms << bits) - 1, 1)


def _shiftmax_check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    score_multiplier: Tensor,
    score_pre_shift: Tensor,
    score_shift: int,
    x0: int,
    multiplier: Tensor,
    pre_shift: Tensor,
    shift: int,
) -> Tensor:
    check_attention(q, k, v, heads)
    check_dyadic(heads, score_multiplier, score_pre_shift, score_shift, "score_")
    check_dyadic(v.shape[-1], multiplier, pre_shift, shift)
    require(x0 < 0, f"x0 = floor(-1/S) must be negative, not {x0}")
    return q.new_empty(q.shape[0], q.shape[1], v.shape[-1])


def _shiftmax_ranges(
    q: Operand,
    k: Operand,
    v: Operand,
    heads: int,
    score_multiplier: Tensor,
    score_pre_shift: Tensor,
    score_shift: int,
    x0: int,
    multiplier: Tensor,
    pre_shift: Tensor,
    shift: int,
) -> Ranges:
    scores = q * k * (q.shape[-1] // heads)
    inner = requantized_ranges(scores, score_pre_shift, score_multiplier, score_shift)
    exponential = _exponential_range(x0, SOFTMAX_BITS)
    product = v.union(Range(0, 0)) * (1 << SOFTMAX_BITS)
    out = requantized_ranges(product, pre_shift, multiplier, shift)
    return Ranges(
        out.result.clamp(*INT8),
        {
            "scores": scores,
            **{f"score {name}": found for name, found in inner.intermediates.items()},
            "exponential": exponential * 2,
            "row sum": exponential * k.shape[1],
            "P·V": product,
            **out.intermediates,
        },
    )


@operation(check=_shiftmax_check, ranges=_shiftmax_ranges)
def attention_published(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    score_multiplier: Tensor,
    score_pre_shift: Tensor,
    score_shift: int,
    x0: int,
    multiplier: Tensor,
    pre_shift: Tensor,
    shift: int,
) -> Tensor:
    """Attention with int8 scores, the published Shiftmax and 16-bit probabilities; shapes as `attention`."""
    queries, keys, values = (split_heads(x, heads) for x in (q, k, v))
    scores = requantized(
        integer_matmul(queries, keys.mT), score_pre_shift.view(-1, 1, 1), score_multiplier.view(-1, 1, 1), score_shift
    ).clamp(*INT8)
    out = integer_matmul(shiftmax_published(scores, x0), values).transpose(1, 2).flatten(2)
    return requantized(out, pre_shift, multiplier, shift).clamp(*INT8).to(torch.int8)


def shiftmax_published(scores: Tensor, x0: int) -> Tensor:
    """Softmax of int32 `scores` with scale `S`, `x0 = floor(-1/S)`, as 16-bit probabilities at 2^-15."""
    e = shift_exponential(scores - scores.amax(-1, keepdim=True), x0, SOFTMAX_BITS)
    factor = LARGEST // e.sum(-1, keepdim=True, dtype=torch.int32)
    return (e * factor) >> 16


def _shiftgelu_check(x: Tensor, x0: int, multiplier: Tensor, pre_shift: Tensor, shift: int) -> Tensor:
    require_dtype("x", x, torch.int8)
    check_dyadic(x.shape[-1], multiplier, pre_shift, shift)
    require(x0 < 0, f"x0 = floor(-1/(1.702 S)) must be negative, not {x0}")
    return x.new_empty(x.shape)


def _shiftgelu_ranges(x: Operand, x0: int, multiplier: Tensor, pre_shift: Tensor, shift: int) -> Ranges:
    exponential = _exponential_range(x0, GELU_BITS)
    product = x * Range(0, 128)
    out = requantized_ranges(product, pre_shift, multiplier, shift)
    return Ranges(out.result.clamp(*INT8), {"exponential": exponential * 2, "product": product, **out.intermediates})


@operation(check=_shiftgelu_check, ranges=_shiftgelu_ranges)
def gelu_published(x: Tensor, x0: int, multiplier: Tensor, pre_shift: Tensor, shift: int) -> Tensor:
    """`x σ(1.702 x)` of int8 rows with the published exponentials; a row's maximum below 0 counts as 0."""
    wide = x.to(torch.int32)
    return requantized(wide * sigmoid_published(wide, x0), pre_shift, multiplier, shift).clamp(*INT8).to(torch.int8)


def sigmoid_published(x: Tensor, x0: int) -> Tensor:
    """8-bit sigmoid at 2^-7 of int32 rows: `e^(x - max) / (e^(x - max) + e^(-max))`."""
    peak = x.amax(-1, keepdim=True).clamp(min=0)
    e = shift_exponential(x - peak, x0, GELU_BITS)
    total = e + shift_exponential(-peak, x0, GELU_BITS)
    return (e * (LARGEST // total)) >> 24


def sigmoid_table(x0: int) -> Tensor:
    """`sigmoid_published`, int8 `[128, 256]`: a column per int8 value, in rows whose maximum is 0 (or less), 1, ..."""
    values, peaks = torch.arange(-128, 128, dtype=torch.int32), torch.arange(128, dtype=torch.int32)
    return sigmoid_published(torch.minimum(values, peaks[:, None]), x0).to(torch.int8)


def _ilayernorm_check(x: Tensor, bias: Tensor) -> Tensor:
    require_dtype("x", x, torch.int16)
    require_channels(x.shape[-1], bias=bias)
    return x.new_empty(x.shape, dtype=torch.int32)


def _ilayernorm_ranges(x: Operand, bias: Tensor) -> Ranges:
    channels = x.shape[-1]
    centred = x - x
    squares = Range(0, centred.magnitude**2 * channels)
    product = Range(-LARGEST, LARGEST)
    unit = Range(-UNIT, UNIT)
    total = unit + Range(int(bias.min()), int(bias.max()))
    return Ranges(
        total.clamp(*INT32),
        {"sum": x * channels * 2, "squares": squares, "product": product, "result before saturation": total},
        bits=64,
    )


@operation(check=_ilayernorm_check, ranges=_ilayernorm_ranges)
def layernorm_published(x: Tensor, bias: Tensor) -> Tensor:
    """LayerNorm of int16 rows by ten Newton steps from 2^16: int32 at scale `sqrt(C)/2^30 · γ`, `bias` is `β/γ`."""
    wide, channels = x.to(torch.int64), x.shape[-1]
    mean = torch.div(2 * wide.sum(-1, keepdim=True) + channels, 2 * channels, rounding_mode="floor")
    centred = wide - mean
    variance = centred.square().sum(-1, keepdim=True)
    root = torch.full_like(variance, SQRT_START)
    for _ in range(SQRT_STEPS):
        root = (root + variance // root) >> 1
    return (((centred * (LARGEST // root)) >> 1) + bias).clamp(*INT32).to(torch.int32)
