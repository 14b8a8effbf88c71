"""A few levels on an 8-bit grid where they serve a distribution best: k-means in one dimension (Lloyd's algorithm)."""

import torch
from torch import Tensor

from intvit.grid import LIMITS, Grid
from intvit.levels import ENTRIES, FIRST

ROUNDS = 60


def codebook(grid: Grid, centres: Tensor, counts: Tensor, levels: int) -> Tensor:
    """The table, int8 `[256]`, of at most `levels` values that leaves the values on `grid` the least squared error.

    `centres`, `counts`: of the bins of a histogram, `[bins]`; `grid`: of one scale.
    """
    codes = torch.floor((centres - grid.offset) / grid.scale + 0.5).clamp(*LIMITS["int8"]).to(torch.int64) - FIRST
    weights = torch.zeros(ENTRIES, dtype=torch.float64).index_add_(0, codes, counts.double())
    places = torch.arange(ENTRIES, dtype=torch.float64)
    return (_nearest(_means(weights, places, levels), places) + FIRST).to(torch.int8)


def _means(weights: Tensor, places: Tensor, levels: int) -> Tensor:
    """Sorted levels, whole numbers; the first are as dense as the cube root of the distribution (Panter and Dite)."""
    density = weights.clamp(min=float(weights.sum()) * 1e-9).pow(1 / 3).cumsum(0)
    shares = (torch.arange(levels, dtype=torch.float64) + 0.5) / levels
    found = places[torch.searchsorted(density / density[-1], shares).clamp(max=ENTRIES - 1)]
    for _ in range(ROUNDS):
        owner = torch.searchsorted((found[1:] + found[:-1]) / 2, places)
        mass = torch.zeros(levels, dtype=torch.float64).index_add_(0, owner, weights)
        total = torch.zeros(levels, dtype=torch.float64).index_add_(0, owner, weights * places)
        found = torch.where(mass > 0, total / mass.clamp(min=1e-300), found).sort().values
    levels_found: Tensor = found.round().unique()
    return levels_found


def _nearest(levels: Tensor, places: Tensor) -> Tensor:
    return levels[torch.searchsorted((levels[1:] + levels[:-1]) / 2, places)]
