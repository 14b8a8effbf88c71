"""Means and second moments of a layer's input and of what its output should be, with a weight for every row."""

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 1 << 14
"""Rows at a time: the sums are float64, products within a chunk float32."""


@dataclass(frozen=True)
class Moments:
    """Of `x` `[M, K]` and `y` `[M, N]`, both centred by their means; float64, divided by the sum of the weights."""

    x_mean: Tensor
    y_mean: Tensor
    xx: Tensor
    """`[K, K]`"""
    yx: Tensor
    """`[N, K]`"""
    rows: int


def moments(x: Tensor, y: Tensor, weight: Tensor | None = None) -> Moments:
    """`weight`: `[M]`, of the rows; all alike without."""
    shares = torch.ones(len(x)) if weight is None else weight.float()
    total = float(shares.sum())
    x_mean, y_mean = ((shares[:, None] * t).sum(0, dtype=torch.float64) / total for t in (x, y))
    xx = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    yx = torch.zeros(y.shape[1], x.shape[1], dtype=torch.float64)
    for start in range(0, len(x), CHUNK):
        part = slice(start, start + CHUNK)
        centred, other = x[part] - x_mean.float(), y[part] - y_mean.float()
        weighed = centred * shares[part, None]
        xx += (weighed.T @ centred).double()
        yx += (other.T @ weighed).double()
    return Moments(x_mean, y_mean, xx / total, yx / total, len(x))
