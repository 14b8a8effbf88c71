"""Observers: streaming statistics of one tensor, per channel, and the bounds that they propose.

Memory does not depend on the number of images. `MinMax` keeps four vectors; `Histogram` keeps `BINS` counts per
channel over a symmetric range that doubles when it is left (two neighbours merge, so counts stay exact), and serves
both the percentile and the mean-squared-error observer.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from intvit.errors import IntvitError

BINS = 1024
CANDIDATES = 60


class Observer(Protocol):
    """What calibration needs of an observer."""

    @property
    def mean(self) -> Tensor:
        """Of each channel, float64 `[C]`."""

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of each channel, float64 `[C]`."""

    @property
    def count(self) -> int:
        """Values of each channel that were seen."""

    def update(self, x: Tensor) -> None:
        """Takes in a float32 tensor `[..., C]`."""

    def extremes(self, groups: int) -> tuple[Tensor, Tensor]:
        """Lowest and highest value seen, `[groups]` each: consecutive blocks of channels share one."""

    def bounds(self, groups: int) -> tuple[Tensor, Tensor]:
        """Lowest and highest value to represent in 8 bits, `[groups]` each."""


class MinMax:
    """The extremes that were seen."""

    def __init__(self, channels: int) -> None:
        self.low = torch.full((channels,), torch.inf)
        self.high = torch.full((channels,), -torch.inf)
        self.total = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)
        self.count = 0

    def update(self, x: Tensor) -> None:
        rows = x.reshape(-1, x.shape[-1])
        low, high = rows.aminmax(dim=0)
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        self.total += rows.sum(0)
        self.squares += rows.square().sum(0)
        self.count += rows.shape[0]

    @property
    def mean(self) -> Tensor:
        return self.total / max(self.count, 1)

    @property
    def deviation(self) -> Tensor:
        return (self.squares / max(self.count, 1) - self.mean.square()).clamp(min=0).sqrt()

    def extremes(self, groups: int) -> tuple[Tensor, Tensor]:
        return self.low.reshape(groups, -1).amin(1), self.high.reshape(groups, -1).amax(1)

    def bounds(self, groups: int) -> tuple[Tensor, Tensor]:
        return self.extremes(groups)


class Histogram(MinMax):
    """Counts per channel between `-limit` and `limit`."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.limit = torch.zeros(())
        self.counts = torch.zeros(channels, BINS, dtype=torch.float64)

    def update(self, x: Tensor) -> None:
        super().update(x)
        rows = x.reshape(-1, x.shape[-1])
        peak = rows.abs().max()
        if self.limit == 0:
            self.limit = torch.exp2(torch.floor(torch.log2(peak.clamp(min=1e-20))) + 1)
        while peak >= self.limit:
            self.limit = self.limit * 2
            merged = self.counts.reshape(-1, BINS // 2, 2).sum(-1)
            self.counts = torch.nn.functional.pad(merged, (BINS // 4, BINS // 4))
        bins = (rows * (BINS / 2) / self.limit).floor().to(torch.int64) + BINS // 2
        flat = bins + torch.arange(rows.shape[1]) * BINS
        self.counts += torch.bincount(flat.flatten(), minlength=self.counts.numel()).reshape(self.counts.shape)

    def grouped(self, groups: int) -> tuple[Tensor, Tensor]:
        """Counts `[groups, BINS]` and the centre of each bin `[BINS]`."""
        centres = (torch.arange(BINS, dtype=torch.float64) + 0.5) * (2 * self.limit.double() / BINS) - self.limit
        return self.counts.reshape(groups, -1, BINS).sum(1), centres


class Percentile(Histogram):
    """Clips the share `1 - fraction` of the values, half of it on either side, in whole bins."""

    def __init__(self, channels: int, fraction: float = 0.9999) -> None:
        super().__init__(channels)
        self.fraction = fraction

    def bounds(self, groups: int) -> tuple[Tensor, Tensor]:
        counts, centres = self.grouped(groups)
        share = counts.cumsum(1) / counts.sum(1, keepdim=True)
        tail, half = (1 - self.fraction) / 2, self.limit.double() / BINS
        low = centres[(share > tail).to(torch.int8).argmax(1)] - half
        high = centres[(share >= 1 - tail).to(torch.int8).argmax(1)] + half
        least, most = self.extremes(groups)
        return torch.maximum(low.float(), least), torch.minimum(high.float(), most)


class MeanSquaredError(Histogram):
    """The share of the extremes at which 256 levels between the bounds have the smallest squared error."""

    def bounds(self, groups: int) -> tuple[Tensor, Tensor]:
        counts, centres = self.grouped(groups)
        low, high = self.extremes(groups)
        best = torch.full((groups,), torch.inf, dtype=torch.float64)
        chosen = torch.ones(groups, dtype=torch.float64)
        for share in torch.linspace(0.3, 1.0, CANDIDATES, dtype=torch.float64).flip(0):
            first, last = (low * share)[:, None], (high * share)[:, None]
            step = ((last - first) / 255).clamp(min=1e-12)
            level = ((centres.clamp(first, last) - first) / step).round() * step + first
            error = (counts * (level - centres).square()).sum(1)
            chosen = torch.where(error < best, share, chosen)
            best = torch.minimum(best, error)
        return (low * chosen).float(), (high * chosen).float()


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


@dataclass(frozen=True)
class ObserverChoice:
    """An observer by name: `minmax`, `mse`, or `percentile` with its fraction as in `percentile:0.9999`."""

    name: str

    def make(self, channels: int) -> Observer:
        kind, _, parameter = self.name.partition(":")
        if kind == "minmax" and not parameter:
            return MinMax(channels)
        if kind == "mse" and not parameter:
            return MeanSquaredError(channels)
        if kind == "percentile":
            fraction = _number(parameter or "0.9999")
            if 0.5 < fraction <= 1:
                return Percentile(channels, fraction)
        raise IntvitError(f"unknown observer {self.name!r}: choose minmax, mse or percentile[:FRACTION]")
