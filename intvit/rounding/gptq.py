"""GPTQ (arXiv:2210.17323): weights rounded column by column, each column's error made up for by those that follow.

    error of a row   e = ŵ - w,   E|e·x|² = e H eᵀ,   H = E[x xᵀ] of the layer's centred input

With U the upper Cholesky factor of H⁻¹, rounding column i leaves `δ = (w_i - ŵ_i) / U_ii`, and the columns behind it
take up `-δ U_ij`: the exact minimum over what is not rounded yet. Columns of the largest energy go first, while the
most others are left. A row's step is one of several shares of what holds its largest weight, that of the least error.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

DAMPING = 0.01
"""Of the mean diagonal, added to the diagonal (section 3.3)."""
BLOCK = 64
"""Columns whose updates are applied to the rest in one product."""
SMALLEST = 1e-30


def rounded(weight: Tensor, moments: Tensor, largest: int, shares: Sequence[float] = (1.0,)) -> tuple[Tensor, Tensor]:
    """Integers `[N, K]` within `±largest` (float32) and the steps of their rows `[N]` (float64).

    `weight`: `[N, K]`; `moments`: `[K, K]`, of the input in the units in which the integers multiply it; `shares`: of
    the step that holds a row's largest weight.
    """
    whole = (weight.abs().amax(1).double() / largest).clamp(min=SMALLEST)
    energy = moments.double() / moments.diagonal().mean().double().clamp(min=SMALLEST)
    order = energy.diagonal().argsort(descending=True)
    factor = inverse_factor(energy[order][:, order])
    best = torch.full((weight.shape[0],), torch.inf, dtype=torch.float64)
    integers, steps = torch.zeros_like(weight), whole.clone()
    for share in shares:
        step = (whole * share).clamp(min=SMALLEST)
        found = torch.empty_like(weight)
        found[:, order] = _columns(weight[:, order], step.to(weight.dtype), factor.to(weight.dtype), largest)
        difference = found.double() * step[:, None] - weight.double()
        error = ((difference @ energy) * difference).sum(1)
        better = error < best
        best = torch.where(better, error, best)
        integers, steps = torch.where(better[:, None], found, integers), torch.where(better, step, steps)
    return integers, steps


def inverse_factor(energy: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of a damped `[K, K]` matrix, float64."""
    damped = energy + DAMPING * energy.diagonal().mean().clamp(min=SMALLEST) * torch.eye(len(energy)).double()
    factor: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    return factor


def _columns(weight: Tensor, step: Tensor, factor: Tensor, largest: int) -> Tensor:
    """The integers of `[N, K]` with rows of the given steps, columns from left to right."""
    left = weight.T.contiguous().clone()
    found = torch.empty_like(left)
    columns = len(left)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        errors = torch.empty(stop - start, left.shape[1], dtype=left.dtype)
        for i in range(start, stop):
            found[i] = (left[i] / step).round_().clamp_(-largest, largest)
            errors[i - start] = (left[i] - found[i] * step) / factor[i, i]
            left[i + 1 : stop] -= factor[i, i + 1 : stop, None] * errors[i - start]
        left[stop:] -= factor[start:stop, stop:].T @ errors
    return found.T.contiguous()
