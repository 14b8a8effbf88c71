"""A few levels on an 8-bit grid where they serve a distribution best, by one of `CODEBOOKS`.

    kmeans     squared error brought down by turns of levels and thresholds (Lloyd's algorithm)
    tangent    y = ½ (1 + tan(a (2x - 1)) / tan a), even steps of y: finer near both ends of the range, `a` by squared
               error (the form that DopQ-ViT's TanQ, arXiv:2408.03291, stands for)

Of DeiT-T's twelve GELUs at 4 bits, `tangent` leaves 2.2 to 2.9 times the squared error of `kmeans` (100 images): their
values are dense at one end only.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from intvit.grid import LIMITS, Grid
from intvit.levels import ENTRIES, FIRST

ROUNDS = 60
ANGLES = torch.linspace(0.05, 1.55, 76, dtype=torch.float64).tolist()
"""Candidates for `a`, between even levels and all of them at the ends."""
Levels = Callable[[Tensor, Tensor, int], Tensor]
"""From what the integers weigh `[256]`, their places and a number: sorted whole places, that many at most."""


def codebook(grid: Grid, centres: Tensor, counts: Tensor, levels: int, kind: str) -> Tensor:
    """The table, int8 `[256]`, of at most `levels` values for the values on `grid`.

    `centres`, `counts`: of the bins of a histogram, `[bins]`; `grid`: of one scale; `kind`: of `CODEBOOKS`.
    """
    codes = torch.floor((centres - grid.offset) / grid.scale + 0.5).clamp(*LIMITS["int8"]).to(torch.int64) - FIRST
    weights = torch.zeros(ENTRIES, dtype=torch.float64).index_add_(0, codes, counts.double())
    places = torch.arange(ENTRIES, dtype=torch.float64)
    return (_nearest(CODEBOOKS[kind](weights, places, levels), places) + FIRST).to(torch.int8)


def _tangent(weights: Tensor, places: Tensor, levels: int) -> Tensor:
    """Between the first and the last place that has a weight."""
    seen = places[weights > 0] if bool(weights.any()) else places
    low, high = float(seen.min()), float(seen.max())
    tried = [_between(low, high, angle, levels) for angle in ANGLES]
    return min(tried, key=lambda found: float((weights * (_nearest(found, places) - places).square()).sum()))


def _between(low: float, high: float, angle: float, levels: int) -> Tensor:
    even = torch.linspace(-1, 1, levels, dtype=torch.float64)
    shares = (1 + torch.atan(even * math.tan(angle)) / angle) / 2
    found: Tensor = (low + (high - low) * shares).round().unique()
    return found


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


CODEBOOKS: Mapping[str, Levels] = {"kmeans": _means, "tangent": _tangent}
