"""One rule per ATen operation that computes: from values to values, emitting canonical float operations."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from intvit import floatops
from intvit.frontend.builder import Builder, placed
from intvit.frontend.values import (
    PROBE,
    Constant,
    NotCanonical,
    Probabilities,
    Scores,
    Value,
    View,
    constant_along,
    split_index,
    whole,
)

Rule = Callable[..., Value]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers the rule of the ATen operations called `names`."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def as_tensor(value: Any) -> Tensor:
    if isinstance(value, Constant):
        return value.tensor
    if isinstance(value, int | float):
        return torch.tensor(float(value))
    raise NotCanonical("expects a constant here, not a tensor that depends on the image")


def as_tokens(value: Any) -> View:
    if not isinstance(value, View):
        raise NotCanonical("expects a token tensor here")
    return value


@rule("conv2d")
def conv2d(
    b: Builder,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    """A convolution over patches that do not overlap: `patchify`, then `linear`."""
    image, kernel = as_tokens(x), as_tensor(weight)
    out, channels, height, width = kernel.shape
    pair = [tuple(v) * 2 if len(v) == 1 else tuple(v) for v in (_listed(stride), _listed(padding), _listed(dilation))]
    if pair != [(height, width), (0, 0), (1, 1)] or groups != 1:
        raise NotCanonical("a convolution is only supported over patches that do not overlap (stride = kernel size)")
    if image.base.op != "placeholder" or not torch.equal(image.index.flatten(), torch.arange(image.index.numel())):
        raise NotCanonical("a convolution is only supported directly on the image")
    h, w = image.index.shape[-2:]
    if h % height or w % width:
        raise NotCanonical(f"the image, {h}x{w}, is not a whole number of {height}x{width} patches")
    tokens = (h // height) * (w // width)
    rows = b.emit(floatops.patchify, (image.base, height, width), tokens, height * width * channels)
    flat = kernel.permute(0, 2, 3, 1).reshape(out, -1)
    patches = b.linear(rows, flat, None if bias is None else as_tensor(bias))
    index = patches.index.reshape(PROBE, h // height, w // width, out).permute(0, 3, 1, 2)
    return patches.moved(index)


def _listed(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


@rule("linear")
def linear(b: Builder, x: Value, weight: Value, bias: Value | None = None) -> Value:
    base, place = b.rows(as_tokens(x))
    return placed(b.linear(base, as_tensor(weight), None if bias is None else as_tensor(bias)), place)


@rule("layer_norm")
def layer_norm(
    b: Builder,
    x: Value,
    shape: list[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn: bool = False,
) -> Value:
    base, place = b.rows(as_tokens(x))
    if list(shape) != [base.channels]:
        raise NotCanonical("LayerNorm is only supported over the last axis")
    gain = torch.ones(base.channels) if weight is None else as_tensor(weight)
    offset = torch.zeros(base.channels) if bias is None else as_tensor(bias)
    args = (b.unscaled(base).base, b.constant(gain), b.constant(offset), eps)
    return placed(b.emit(floatops.layer_norm, args, base.tokens, base.channels), place)


@rule("gelu")
def gelu(b: Builder, x: Value, approximate: str = "none") -> Value:
    base, place = b.rows(as_tokens(x))
    return placed(b.emit(floatops.gelu, (b.unscaled(base).base,), base.tokens, base.channels), place)


@rule("cat")
def cat(b: Builder, tensors: list[Value], dim: int = 0) -> Value:
    """Constant tokens before those of the image."""
    *first, last = tensors
    tokens = as_tokens(last)
    constants = [as_tensor(t) for t in first]
    if dim != 1 or tokens.index.ndim != 3 or any(t.ndim != 3 or not constant_along(t, 0) for t in constants):
        raise NotCanonical("concatenation is only supported of constant tokens before the image's tokens")
    base = b.cut(tokens)
    constant = torch.cat([t[0] for t in constants])
    return b.emit(
        floatops.concat_tokens,
        (b.constant(constant), base.base),
        constant.shape[0] + base.tokens,
        base.channels,
    )


def _in_base(x: View, constant: Tensor) -> Tensor:
    """A constant that meets `x`, as it lies over the base of `x`: `[tokens, channels]`."""
    if not x.is_whole():
        raise NotCanonical("a constant meets a part of a tensor only")
    if (constant + x.index).shape != x.index.shape:
        raise NotCanonical("a constant with more elements than the tensor that it meets is not supported")
    over = constant.to(torch.float32).expand(x.index.shape)
    spread = torch.empty(x.index.numel())
    spread[x.index.flatten()] = over.flatten()
    spread = spread.reshape(PROBE, *x.shape)
    if not constant_along(spread, 0):
        raise NotCanonical("a constant differs between the images of a batch")
    return spread[0]


@rule("add", "add_")
def add(b: Builder, x: Value, y: Value, alpha: float = 1) -> Value:
    if alpha != 1:
        raise NotCanonical("an addition with alpha is not supported")
    if isinstance(x, Constant | int | float):
        x, y = y, x
    if isinstance(x, Scores):
        return _biased(x, as_tensor(y))
    left = as_tokens(x)
    if not isinstance(y, View):
        return _add_constant(b, left, as_tensor(y))
    if left.index.shape != y.index.shape:
        raise NotCanonical("an addition that broadcasts is not supported")
    if left.shape != y.shape or not torch.equal(left.index, y.index) or not left.is_whole():
        first, place = b.rows(left)
        second, other = b.rows(y)
        if not torch.equal(place, other):
            raise NotCanonical("the two arms of an addition lie in different orders")
        return placed(_sum(b, first, second), place)
    return replace(_sum(b, left, y), index=left.index)


def _sum(b: Builder, x: View, y: View) -> View:
    args = (b.unscaled(x).base, b.unscaled(y).base)
    return b.emit(floatops.add, args, x.tokens, x.channels)


def _add_constant(b: Builder, x: View, constant: Tensor) -> Value:
    x = b.unscaled(x)
    values = _in_base(x, constant)
    if constant_along(values, 0) and x.base.target is floatops.linear:
        return b.scaled(x, torch.ones(x.channels), values[0])
    args = (x.base, b.constant(values))
    return replace(b.emit(floatops.add, args, x.tokens, x.channels), index=x.index)


def _biased(scores: Scores, bias: Tensor) -> Scores:
    if bool((bias != 0).any()):
        raise NotCanonical("a bias or mask on attention scores is not supported yet")
    return scores


@rule("mul", "mul_")
def mul(b: Builder, x: Value, y: Value) -> Value:
    """By a scalar: carried along. By one number per channel: folded into the linear before it (LayerScale)."""
    if not isinstance(x, View | Scores):
        x, y = y, x
    constant = as_tensor(y)
    if isinstance(x, Scores):
        if constant.numel() != 1:
            raise NotCanonical("attention scores can only be multiplied by one number")
        return replace(x, factor=x.factor * constant.item())
    tokens = as_tokens(x)
    if constant.numel() == 1:
        return replace(tokens, factor=tokens.factor * constant.item())
    values = _in_base(tokens, constant)
    if not constant_along(values, 0):
        raise NotCanonical("a multiplication by a constant per token is not supported")
    return b.scaled(tokens, values[0], torch.zeros(tokens.channels))


@rule("div", "div_")
def div(b: Builder, x: Value, y: Value) -> Value:
    return mul(b, x, Constant(1 / as_tensor(y).double()))


@rule("batch_norm")
def batch_norm(
    b: Builder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    training: bool,
    momentum: float,
    eps: float,
    cudnn: bool,
) -> Value:
    """In evaluation mode: one factor and one offset per channel, folded into the convolution before it."""
    gain = (as_tensor(variance).double() + eps).rsqrt()
    gain = gain if weight is None else gain * as_tensor(weight).double()
    offset = -as_tensor(mean).double() * gain
    offset = offset if bias is None else offset + as_tensor(bias).double()
    tokens = as_tokens(x)
    trailing = [1] * (tokens.index.ndim - 2)
    over = [_in_base(tokens, c.reshape(-1, *trailing)) for c in (gain, offset)]
    if not all(constant_along(values, 0) for values in over):
        raise NotCanonical("batch norm is only supported right behind a linear or convolution")
    return b.scaled(tokens, over[0][0], over[1][0])


@rule("scaled_dot_product_attention")
def scaled_dot_product_attention(
    b: Builder,
    q: Value,
    k: Value,
    v: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    queries = as_tokens(q)
    if is_causal or enable_gqa or not _masks_nothing(attn_mask):
        raise NotCanonical("a mask on attention is not supported yet")
    factor = scale if scale is not None else 1 / math.sqrt(queries.index.shape[-1])
    return attention(b, Scores(queries, as_tokens(k), factor), as_tokens(v))


def _masks_nothing(mask: Value | None) -> bool:
    if mask is None:
        return True
    tensor = as_tensor(mask)
    return bool(tensor.all()) if tensor.dtype == torch.bool else not bool((tensor != 0).any())


@rule("matmul", "bmm")
def matmul(b: Builder, x: Value, y: Value) -> Value:
    """`q kᵀ` or `probabilities v` of an attention written out; a product with a constant is a `linear`."""
    if isinstance(x, Probabilities):
        return attention(b, x.scores, as_tokens(y))
    if isinstance(y, Constant) and y.tensor.ndim == 2:
        return linear(b, x, Constant(y.tensor.T))
    queries, keys = as_tokens(x), as_tokens(y)
    return Scores(queries, keys.moved(keys.index.mT), 1.0)


@rule("softmax", "_softmax")
def softmax(b: Builder, x: Value, dim: int, dtype: Any = None) -> Value:
    if not isinstance(x, Scores) or dim not in (-1, x.q.index.ndim - 1):
        raise NotCanonical("softmax is only supported over the keys of attention scores")
    return Probabilities(x)


def attention(b: Builder, scores: Scores, v: View) -> Value:
    """Queries, keys and values cut to token tensors with head-major channels, then one `attention`."""
    shape = v.index.shape
    (q, heads), (k, key_heads), (values, value_heads) = (_heads(b, x) for x in (scores.q, scores.k, v))
    if not heads == key_heads == value_heads:
        raise NotCanonical(f"attention with {heads} query heads, {key_heads} key heads, {value_heads} value heads")
    factor = scores.factor * q.factor * k.factor
    result = b.emit(
        floatops.attention, (q.base, k.base, b.unscaled(values).base, heads, factor), q.tokens, values.channels
    )
    index = result.index.reshape(PROBE, q.tokens, heads, -1).transpose(1, 2)
    return result.moved(index.reshape(*shape[:-2], q.tokens, shape[-1]))


def _heads(b: Builder, x: View) -> tuple[View, int]:
    """A view `[..., T, D]` over batch and heads as a token node with channels `h·D + d`."""
    tokens, size = x.index.shape[-2:]
    grouped = x.moved(x.index.reshape(PROBE, -1, tokens, size))
    row, channel = split_index(grouped)
    expected = torch.arange(PROBE)[:, None] * x.tokens + row[0, 0, :, 0]
    if not torch.equal(row, expected[:, None, :, None].expand_as(row)) or not constant_along(channel, 0, 2):
        raise NotCanonical("attention whose heads are not blocks of channels of one token tensor")
    base = b.select_channels(b.select_tokens(x, row[0, 0, :, 0]), channel[0, :, 0].flatten())
    return base, grouped.index.shape[1]


def image_view(node: fx.Node, channels: int, height: int, width: int) -> View:
    flat = whole(node, channels, height * width)
    return flat.moved(flat.index.reshape(PROBE, channels, height, width))
