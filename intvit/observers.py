"""Observers: streaming statistics of one tensor, per channel, and the bounds that they propose.

Memory does not depend on the number of images. `MinMax` keeps four vectors; `Histogram` keeps `BINS` counts per
channel over a symmetric range that doubles when it is left (two neighbours merge, so counts stay exact), and serves
both the percentile and the mean-squared-error observer. `ProductError` keeps one histogram of all channels, finer.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from intvit.errors import IntvitError

BINS = 1024
FINE_BINS = 1 << 14
"""Of one histogram for all channels: GELU's outliers are 70 times its deviation, and 256 levels lie within less."""
MANY = 10_000
"""Values from which on the extremes that were seen are enough; of fewer, the next image has larger."""
CANDIDATES = 60
LEAST_SHARE = 0.3
"""Of the extremes, that a range may be narrowed to."""


FEW_BITS = 5
"""Up to here, tails are clipped for finer steps between the others; of 6 bits and more the extremes are better."""


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
    """Counts between `-limit` and `limit`, `[rows, bins]`: a row for each channel."""

    def __init__(self, channels: int, rows: int | None = None, bins: int = BINS) -> None:
        super().__init__(channels)
        self.limit = torch.zeros(())
        self.counts = torch.zeros(channels if rows is None else rows, bins, dtype=torch.float64)

    def update(self, x: Tensor) -> None:
        super().update(x)
        rows, bins = x.reshape(-1, x.shape[-1]), self.counts.shape[1]
        peak = rows.abs().max()
        if self.limit == 0:
            self.limit = torch.exp2(torch.floor(torch.log2(peak.clamp(min=1e-20))) + 1)
        while peak >= self.limit:
            self.limit = self.limit * 2
            merged = self.counts.reshape(-1, bins // 2, 2).sum(-1)
            self.counts = torch.nn.functional.pad(merged, (bins // 4, bins // 4))
        found = (rows * (bins / 2) / self.limit).floor().to(torch.int64) + bins // 2
        self.counts += self._counted(found).reshape(self.counts.shape)

    def _counted(self, bins: Tensor) -> Tensor:
        """Counts of bins `[N, C]`, row after row."""
        flat = bins + torch.arange(bins.shape[1]) * self.counts.shape[1]
        return torch.bincount(flat.flatten(), minlength=self.counts.numel())

    @property
    def centres(self) -> Tensor:
        """Of the bins, float64."""
        bins = self.counts.shape[1]
        return (torch.arange(bins, dtype=torch.float64) + 0.5) * (2 * self.limit.double() / bins) - self.limit

    def grouped(self, groups: int) -> tuple[Tensor, Tensor]:
        """Counts `[groups, BINS]` and the centre of each bin `[BINS]`."""
        return self.counts.reshape(groups, -1, self.counts.shape[1]).sum(1), self.centres


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
    """The share of the extremes, about the median, at which the levels between them have the smallest squared error."""

    def __init__(self, channels: int, levels: int = 256) -> None:
        super().__init__(channels)
        self.levels = levels

    def bounds(self, groups: int) -> tuple[Tensor, Tensor]:
        counts, centres = self.grouped(groups)
        low, high = (end.double() for end in self.extremes(groups))
        share = counts.cumsum(1) / counts.sum(1, keepdim=True).clamp(min=1)
        middle = centres[(share >= 0.5).to(torch.int8).argmax(1)].clamp(low, high)
        low, high = low - middle, high - middle
        best = torch.full((groups,), torch.inf, dtype=torch.float64)
        chosen = torch.ones(groups, dtype=torch.float64)
        for share in torch.linspace(LEAST_SHARE, 1.0, CANDIDATES, dtype=torch.float64).flip(0):
            first, last = (middle + low * share)[:, None], (middle + high * share)[:, None]
            step = ((last - first) / (self.levels - 1)).clamp(min=1e-12)
            level = ((centres.clamp(first, last) - first) / step).round() * step + first
            error = (counts * (level - centres).square()).sum(1)
            chosen = torch.where(error < best, share, chosen)
            best = torch.minimum(best, error)
        return (middle + low * chosen).float(), (middle + high * chosen).float()


class ProductError(Histogram):
    """One range for all channels, at which 256 levels leave the output of the products after it the smallest error.

    An error of channel k reaches the outputs with the energy `importance[k]`, the sum of its squared weights, and one
    of token t weighs what the squared gradient of the answer says (`intvit.rounding.tokens`): errors are taken as
    independent, the diagonal of the Hessian in PTQ4ViT's metric (arXiv:2111.12293, section 3.3). Either end is searched
    by itself, the wider first.
    """

    def __init__(self, importance: Tensor, tokens: Tensor | None = None) -> None:
        """`importance`: of each channel, `[C]`; `tokens`: of each token `[T]`, all alike without."""
        super().__init__(importance.numel(), rows=1, bins=FINE_BINS)
        self._importance = importance.double()
        self._tokens = torch.ones(1) if tokens is None else tokens.double()

    def _counted(self, bins: Tensor) -> Tensor:
        of_rows = self._tokens.repeat(len(bins) // len(self._tokens))
        weights = of_rows[:, None] * self._importance
        return torch.bincount(bins.flatten(), weights.flatten(), minlength=self.counts.numel())

    def bounds(self, groups: int) -> tuple[Tensor, Tensor]:
        """For all channels; the extremes where channels are apart, and of too few values to narrow them."""
        if groups > 1 or self.count * self._importance.numel() < MANY:
            return self.extremes(groups)
        ends = [float(end) for end in self.extremes(groups)]
        for side in sorted((0, 1), key=lambda side: -abs(ends[side])):
            shares = torch.linspace(1.0, LEAST_SHARE, CANDIDATES, dtype=torch.float64).tolist()
            tried = [[*ends[:side], ends[side] * share, *ends[side + 1 :]] for share in shares]
            ends = min(tried, key=lambda found: self._error(*found))
        return torch.tensor(ends[:1]), torch.tensor(ends[1:])

    def _error(self, low: float, high: float) -> float:
        """Weighted squared error of the levels between two bounds."""
        step = max((high - low) / 255, 1e-12)
        centres = self.centres
        level = ((centres.clamp(low, high) - low) / step).round() * step + low
        return float((self.counts[0] * (level - centres).square()).sum())


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


@dataclass(frozen=True)
class ObserverChoice:
    """An observer by name: `auto`, `minmax`, `mse`, or `percentile` with its fraction as in `percentile:0.9999`.

    `auto` is `minmax`, but `ProductError` where all channels in front of a product share one scale, and `mse` for
    `FEW_BITS` and fewer.
    """

    name: str

    def make(
        self, channels: int, importance: Tensor | None = None, bits: int = 8, tokens: Tensor | None = None
    ) -> Observer:
        """`importance`: of each channel, where one scale serves them all in front of products; `bits` to represent.

        `tokens`: what each token weighs there.
        """
        kind, _, parameter = self.name.partition(":")
        if kind == "auto" and not parameter:
            if importance is not None:
                return ProductError(importance, tokens)
            return MeanSquaredError(channels, 1 << bits) if bits <= FEW_BITS else MinMax(channels)
        if kind == "minmax" and not parameter:
            return MinMax(channels)
        if kind == "mse" and not parameter:
            return MeanSquaredError(channels, 1 << bits)
        if kind == "percentile":
            fraction = _number(parameter or "0.9999")
            if 0.5 < fraction <= 1:
                return Percentile(channels, fraction)
        raise IntvitError(f"unknown observer {self.name!r}: choose auto, minmax, mse or percentile[:FRACTION]")
