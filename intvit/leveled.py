"""Attention in float arithmetic, its weights on logarithmic levels (`intvit.softmax_levels`)."""

import math

import torch
from torch import Tensor

from intvit.floatops import heads_of_windows
from intvit.softmax_levels import SoftmaxLevels

UNITS = 256
"""Of a distance in log2: those of a step."""


def leveled_attention(
    levels: SoftmaxLevels,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    scale: float | tuple[float, ...],
    windows: int = 1,
    bias: Tensor | None = None,
    kinds: tuple[int, ...] = (),
) -> Tensor:
    """`floatops.attention`; the gradient is that of exact weights."""
    below = distances(q, k, heads, scale, windows, bias, kinds)
    exact = torch.exp2(below / -UNITS)
    weights = exact + (at_levels(below.detach(), levels) - exact.detach())
    means = weights @ heads_of_windows(v, windows, heads) / weights.sum(-1, keepdim=True)
    return means.transpose(2, 3).flatten(3).flatten(1, 2)


def distances(
    q: Tensor,
    k: Tensor,
    heads: int,
    scale: float | tuple[float, ...],
    windows: int = 1,
    bias: Tensor | None = None,
    kinds: tuple[int, ...] = (),
) -> Tensor:
    """How far scores are below the largest of their row, `[B, windows, heads, T, S]`, in `UNITS` of log2."""
    queries, keys = (heads_of_windows(x, windows, heads) for x in (q, k))
    scores = queries @ keys.mT * torch.as_tensor(scale, dtype=q.dtype).reshape(-1, 1, 1)
    scores = scores if bias is None else scores + bias[list(kinds)]
    return (scores.amax(-1, keepdim=True) - scores) * (UNITS * math.log2(math.e))


def at_levels(below: Tensor, levels: SoftmaxLevels) -> Tensor:
    """Weights over the largest of their row, from their `distances`."""
    code = torch.floor(below / levels.step + 0.5)
    return torch.where(code < levels.levels - 1, torch.exp2(code * (-levels.step / UNITS)), 0.0)
