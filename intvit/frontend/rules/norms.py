"""LayerNorm, batch norm, group norm, RMS norm, and vectors divided by their length."""

import math
from dataclasses import replace
from typing import Any

import torch

from intvit import floatops
from intvit.frontend.builder import Builder, placed
from intvit.frontend.materialize import as_tensor, as_view, canonical, in_base
from intvit.frontend.matrices import rms_view
from intvit.frontend.rules.registry import rule
from intvit.frontend.values import PROBE, Norm, NotCanonical, Value, View, constant_along


@rule("layer_norm", "native_layer_norm")
def layer_norm(
    b: Builder,
    x: Value,
    shape: list[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn: bool = False,
) -> Value:
    view = as_view(b, x)
    if list(shape) != [view.index.shape[-1]]:
        raise NotCanonical("LayerNorm is only supported over the last axis")
    base, place = b.rows(view)
    gain = torch.ones(base.channels) if weight is None else as_tensor(weight)
    offset = torch.zeros(base.channels) if bias is None else as_tensor(bias)
    args = (b.unscaled(base).base, b.constant(gain), b.constant(offset), eps)
    return placed(b.emit(floatops.layer_norm, args, base.tokens, base.channels), place)


@rule("batch_norm", "_native_batch_norm_legit_no_training")
def batch_norm(
    b: Builder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn: bool = False,
) -> Value:
    """In evaluation mode: one factor and one offset per channel, folded into the convolution before it."""
    gain = (as_tensor(variance).double() + eps).rsqrt()
    gain = gain if weight is None else gain * as_tensor(weight).double()
    offset = -as_tensor(mean).double() * gain
    offset = offset if bias is None else offset + as_tensor(bias).double()
    view = as_view(b, x)
    if not view.is_whole():
        view = canonical(b, view, 1)
    trailing = [1] * (view.index.ndim - 2)
    over = [in_base(view, c.reshape(-1, *trailing)) for c in (gain, offset)]
    if not all(constant_along(values, 0) for values in over):
        view = canonical(b, view, 1)
        over = [in_base(view, c.reshape(-1, *trailing)) for c in (gain, offset)]
    factor, scaled = view.factor, replace(view, factor=1.0)
    return b.scaled(scaled, over[0][0] * factor, over[1][0])


@rule("group_norm")
def group_norm(
    b: Builder,
    x: Value,
    groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn: bool = False,
) -> Value:
    view = as_view(b, x)
    if view.index.shape[0] != PROBE:
        raise NotCanonical("group norm of parts of an image")
    channels = view.index.shape[1]
    base = b.cut(view.move(lambda t: t.movedim(1, -1)))
    gain = torch.ones(channels) if weight is None else as_tensor(weight)
    offset = torch.zeros(channels) if bias is None else as_tensor(bias)
    args = (base.base, b.constant(gain), b.constant(offset), groups, eps)
    result = b.emit(floatops.group_norm, args, *base.shape)
    return result.moved(result.index.reshape(view.index.movedim(1, -1).shape).movedim(-1, 1))


@rule("rms_norm")
def rms_norm(b: Builder, x: Value, shape: list[int], weight: Value | None = None, eps: float | None = None) -> Value:
    view = as_view(b, x)
    if list(shape) != [view.index.shape[-1]]:
        raise NotCanonical("RMSNorm is only supported over the last axis")
    base, place = b.rows(view)
    gain = torch.ones(base.channels) if weight is None else as_tensor(weight)
    floor = torch.finfo(torch.float32).eps if eps is None else eps
    args = (b.unscaled(base).base, b.constant(gain), 1, floor)
    return placed(b.emit(floatops.rms_norm, args, base.tokens, base.channels), place)


@rule("linalg_vector_norm", "norm")
def vector_norm(
    b: Builder, x: Value, order: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Value:
    view = as_view(b, x)
    axes = [dim] if isinstance(dim, int) else list(dim or [])
    if float(order) != 2 or not keepdim or [axis % view.index.ndim for axis in axes] != [view.index.ndim - 1]:
        raise NotCanonical("a norm is only supported of length 2, over the last axis, and kept")
    return Norm(view)


def normalized(b: Builder, x: View, norm: Norm) -> Value:
    """`x / max(|x|, floor)`."""
    if not x.same_elements(norm.view) or (x.factor is not norm.view.factor and x.factor != norm.view.factor):
        raise NotCanonical("a division by the norm of another tensor")
    size = x.index.shape[-1]
    return rms_view(b, x, 1 / math.sqrt(size), norm.floor**2 / size)
