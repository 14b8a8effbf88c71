"""Linear layers, products of two tensors, softmax and attention."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from intvit.frontend.builder import Builder, placed
from intvit.frontend.materialize import as_tensor, as_view, embedded
from intvit.frontend.matrices import attention, softmax_view
from intvit.frontend.rules.registry import rule
from intvit.frontend.values import Constant, NotCanonical, Probabilities, Scores, Value, View, shape_of

MASKED = -1e4
"""Scores that are lowered by this weigh nothing: a mask."""


@rule("linear")
def linear(b: Builder, x: Value, weight: Value, bias: Value | None = None) -> Value:
    base, place = b.rows(as_view(b, x))
    return placed(b.linear(base, as_tensor(weight), None if bias is None else as_tensor(bias)), place)


@rule("addmm")
def addmm(b: Builder, bias: Value, x: Value, weight: Value) -> Value:
    return linear(b, x, Constant(as_tensor(weight).T), bias)


@rule("matmul", "bmm", "mm")
def matmul(b: Builder, x: Value, y: Value) -> Value:
    """`q kᵀ` or `probabilities v` of an attention written out; a product with a constant is a `linear`."""
    if isinstance(y, Constant) and y.tensor.ndim == 2:
        return linear(b, x, Constant(y.tensor.T))
    if isinstance(y, Constant) and y.tensor.ndim == 1:
        return as_view(b, linear(b, x, Constant(y.tensor[None]))).move(lambda t: t.squeeze(-1))
    if isinstance(x, Constant) and x.tensor.ndim == 2:
        return as_view(b, linear(b, as_view(b, y).move(lambda t: t.mT), x)).move(lambda t: t.mT)
    if isinstance(x, Probabilities) and not x.transposed:
        return attention(b, x, _beside(b, y, x.scores.q))
    if isinstance(y, Probabilities) and y.transposed:
        rows = _beside(b, x, y.scores.q).move(lambda t: t.mT)
        return attention(b, Probabilities(y.scores), rows).move(lambda t: t.mT)
    views = [value for value in (x, y) if not isinstance(value, Constant)]
    beside = as_view(b, views[0])
    left, right = (_beside(b, value, beside) for value in (x, y))
    return _scores(left, right.move(lambda t: t.mT), 1.0)


def _beside(b: Builder, value: Value, beside: View) -> View:
    """A constant as a computed tensor, for each image of a batch."""
    if not isinstance(value, Constant):
        return as_view(b, value)
    lead = torch.broadcast_shapes(value.tensor.shape[:-2], beside.index.shape[:-2])
    return embedded(b, value.tensor.expand(*lead, *value.tensor.shape[-2:]), beside)


def _scores(q: View, k: View, factor: float) -> Scores:
    """`factor · q kᵀ` of `[..., T, D]` and `[..., S, D]`, whose other axes broadcast."""
    lead = torch.broadcast_shapes(q.index.shape[:-2], k.index.shape[:-2])
    order = torch.arange(math.prod(lead)).reshape(lead)
    parts = []
    for x in (q, k):
        if not isinstance(x.factor, Tensor):
            factor, x = factor * x.factor, replace(x, factor=1.0)
        parts.append(x.move(lambda t: t.expand(*lead, *t.shape[-2:]).reshape(-1, *t.shape[-2:])))
    return Scores(parts[0], parts[1], order, factor)


@rule("softmax", "_softmax")
def softmax(b: Builder, x: Value, dim: int, dtype: Any = None, half_to_float: bool = False) -> Value:
    rank = len(shape_of(x))
    if isinstance(x, Scores) and dim in (-1, rank - 1):
        return Probabilities(x)
    moved = as_view(b, x).move(lambda t: t.movedim(dim, -1))
    return softmax_view(b, moved).move(lambda t: t.movedim(-1, dim))


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
    beside = as_view(b, next(x for x in (k, v, q) if not isinstance(x, Constant)))
    queries, keys, values = (_beside(b, x, beside) for x in (q, k, v))
    if enable_gqa:
        repeats = queries.index.shape[-3] // keys.index.shape[-3]
        keys, values = (x.move(lambda t: t.repeat_interleave(repeats, -3)) for x in (keys, values))
    factor = scale if scale is not None else 1 / math.sqrt(queries.index.shape[-1])
    scores = _scores(queries, keys, factor)
    if is_causal:
        scores = biased(scores, causal(*scores.shape[-2:]))
    if attn_mask is not None:
        scores = biased(scores, _additive(as_tensor(attn_mask)))
    return attention(b, Probabilities(scores), values)


def causal(queries: int, keys: int) -> Tensor:
    """The mask of an attention in which no query sees a later key."""
    return torch.full((queries, keys), -torch.inf).triu(1)


def _additive(mask: Tensor) -> Tensor:
    if mask.dtype is not torch.bool:
        return mask.float()
    return torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)


def biased(scores: Scores, bias: Tensor) -> Scores:
    """Scores plus a constant that broadcasts to them; what is lowered by more than `MASKED` is masked."""
    if not bool((bias != 0).any()):
        return scores
    shape = scores.shape
    if torch.broadcast_shapes(shape, bias.shape) != shape:
        raise NotCanonical("attention scores meet a larger constant")
    over = torch.where(bias <= MASKED, -torch.inf, bias.float()).expand(shape)
    added = scores.by_matrix(over)
    return replace(scores, bias=added if scores.bias is None else scores.bias + added)


def scaled(scores: Scores, constant: Tensor) -> Scores | None:
    """Scores times a constant that is one number for each matrix, None for any other constant."""
    factor = constant.float()
    if factor.numel() > 1:
        if torch.broadcast_shapes(scores.shape, factor.shape) != scores.shape or (
            factor.ndim >= 2 and factor.shape[-2:] != (1, 1)
        ):
            return None
        factor = scores.by_matrix(factor.expand(*scores.order.shape, 1, 1)[..., 0, 0])
    else:
        factor = factor.reshape(1).expand(scores.order.numel())
    bias = None if scores.bias is None else scores.bias * factor[:, None, None]
    if constant.numel() == 1 and not isinstance(scores.factor, Tensor):
        return replace(scores, factor=scores.factor * float(constant), bias=bias)
    return replace(scores, factor=scores.factor * factor, bias=bias)


@rule("masked_fill", "masked_fill_")
def masked_fill(b: Builder, x: Value, mask: Value, value: Any) -> Value:
    """Masks scores; any other tensor keeps what a mask of zeros leaves of it."""
    filled, where = float(as_tensor(value)), as_tensor(mask).bool()
    if isinstance(x, Scores) and filled <= MASKED:
        return biased(x, torch.zeros(where.shape).masked_fill(where, -torch.inf))
    if filled != 0:
        raise NotCanonical("only zeros, and a mask on attention scores, can be filled in")
    view = as_view(b, x)
    return view.moved(view.index.masked_fill(where.expand(view.index.shape), -1))


@rule("where")
def where(b: Builder, condition: Value, x: Value, y: Value) -> Value:
    """A constant choice between a tensor and one number."""
    chosen = as_tensor(condition).bool()
    if isinstance(x, Constant | int | float):
        return masked_fill(b, y, Constant(chosen), x)
    return masked_fill(b, x, Constant(~chosen), y)
