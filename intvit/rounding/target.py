"""The weights that would undo what rounding did to a layer's input, before they are rounded themselves.

    minimize E|y - W' x̂|² + λ |W' - W|²        x̂ the rounded input, y what the float layer gave, both centred
    W' = W + (E[y x̂ᵀ] - W E[x̂ x̂ᵀ]) (E[x̂ x̂ᵀ] + λ)⁻¹

The ridge regression of ERQ (arXiv:2407.06794, section 4.1), with the float layer's output as the target: it takes up
the errors of all layers before. λ is a share of the mean energy of a channel, so that few images do not fit too well.
"""

import torch
from torch import Tensor

from intvit.rounding.statistics import Moments

RIDGE = 0.05


def target(weight: Tensor, found: Moments, ridge: float) -> Tensor:
    """`W'`, float32 `[N, K]`."""
    energy = found.xx.diagonal().mean().clamp(min=1e-30)
    damped = found.xx + ridge * energy * torch.eye(len(found.xx), dtype=torch.float64)
    missing = found.yx - weight.double() @ found.xx
    change: Tensor = torch.linalg.solve(damped, missing.T).T
    return (weight.double() + change).float()
