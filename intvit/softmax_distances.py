"""How far the scores of a softmax are below the largest of their row, and the logarithmic levels that suit them."""

import torch
from torch import Tensor

from intvit.leveled import UNITS, at_levels
from intvit.softmax_levels import MOST_STEP, SoftmaxLevels

BINS = 1 << 12
FARTHEST = 16 * UNITS
"""Weights of 2^-16 and less are counted as that."""
LEAST_STEP, FINENESS = 4, 4


class SoftmaxDistances:
    """A histogram of distances in `UNITS` of log2, each counted with the square of what its row's sum makes of it."""

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.float64)

    def update(self, below: Tensor) -> None:
        """Takes in the distances of rows `[..., S]`, of which one is 0."""
        share = torch.exp2(below / -UNITS).sum(-1, keepdim=True).square().reciprocal().expand_as(below)
        bins = (below * (BINS / FARTHEST)).clamp(max=BINS - 1).to(torch.int64)
        self.counts += torch.bincount(bins.flatten(), share.flatten().double(), minlength=BINS)

    def best(self, levels: int) -> SoftmaxLevels:
        """The step at which the weights have the least squared error (AdaLog, arXiv:2407.12951, searches a base so)."""
        below = (torch.arange(BINS, dtype=torch.float64) + 0.5) * (FARTHEST / BINS)
        exact = torch.exp2(below / -UNITS)
        tried = [SoftmaxLevels(step, levels) for step in range(LEAST_STEP, MOST_STEP + 1, FINENESS)]
        return min(tried, key=lambda each: float((self.counts * (at_levels(below, each) - exact).square()).sum()))
