"""Float values at the integers of a grid, and the gradient that passes the rounding."""

import torch
from torch import Tensor

from intvit.grid import LIMITS, Grid
from intvit.levels import FIRST, step_of


def nearest(u: Tensor, grid: Grid) -> Tensor:
    """The float integers of a grid nearest to float `u`, which counts its steps."""
    integers = torch.floor(u + 0.5).clamp_(*LIMITS[grid.dtype])
    if grid.levels is None:
        return integers
    step = step_of(grid.levels)
    if step is None:
        return grid.levels.float()[(integers - FIRST).to(torch.int32)]
    return integers.add_(step // 2).div_(step).floor_().mul_(step).clamp_(FIRST, -FIRST - step)


def on_grid(x: Tensor, grid: Grid) -> Tensor:
    """float32 `x` at the nearest values of `grid`."""
    scale, offset = grid.scale.float(), grid.offset.float()
    return nearest((x - offset) / scale, grid).mul_(scale).add_(offset)


def straight_through(x: Tensor, grid: Grid, scale: Tensor | None = None, offset: Tensor | None = None) -> Tensor:
    """`on_grid` whose rounding has the gradient of the identity (Bengio et al., arXiv:1308.3432), its clamp its own.

    `scale` and `offset` take the place of the grid's where they are trained: their gradient is LSQ's
    (arXiv:1902.08153, equation 3).
    """
    scale = grid.scale.float() if scale is None else scale
    offset = grid.offset.float() if offset is None else offset
    inside = ((x - offset) / scale).clamp(*grid.ends)
    return (inside + (nearest(inside.detach(), grid) - inside.detach())) * scale + offset


def finite_gradient(x: Tensor) -> Tensor:
    """`x`; what is infinite or no number in its gradient, as that of a root at 0, is 0."""
    if not x.requires_grad:
        return x
    same = x.view_as(x)
    same.register_hook(lambda gradient: gradient.nan_to_num(0.0, 0.0, 0.0))
    return same
