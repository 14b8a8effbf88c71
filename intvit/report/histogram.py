"""Counts of integers in at most 256 bins of a power of two, which widen as larger values come.

    bin of q = q >> shift        it holds the `2^shift` integers from `bin << shift` on

Doubling the width adds neighbours `2i` and `2i + 1` up, so the counts are exact, whatever order the values come in; of
8-bit integers every one has a bin of its own.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 256


@dataclass(frozen=True)
class Histogram:
    """`counts[i]` integers lie in `[(first + i) << shift, (first + i + 1) << shift)`; `low` and `high` came up."""

    shift: int
    first: int
    counts: NDArray[np.int64]
    low: int
    high: int

    @classmethod
    def of(cls, values: NDArray[Any], bins: int = BINS) -> "Histogram":
        """That of at least one integer."""
        flat = values.reshape(-1).astype(np.int64)
        low, high = int(flat.min()), int(flat.max())
        shift = _shift(low, high, 0, bins)
        first = low >> shift
        return cls(shift, first, np.bincount((flat >> shift) - first).astype(np.int64), low, high)

    def __add__(self, other: "Histogram") -> "Histogram":
        """Both together, in at most `BINS` bins."""
        low, high = min(self.low, other.low), max(self.high, other.high)
        shift = _shift(low, high, max(self.shift, other.shift), BINS)
        first = low >> shift
        counts = np.zeros((high >> shift) - first + 1, np.int64)
        for part in (self, other):
            places = ((np.arange(len(part.counts)) + part.first) >> (shift - part.shift)) - first
            np.add.at(counts, places, part.counts)
        return Histogram(shift, first, counts, low, high)

    @property
    def total(self) -> int:
        """How many integers were counted."""
        return int(self.counts.sum())

    @property
    def entropy(self) -> float:
        """Shannon's entropy of the bins, in bits."""
        shares = self.counts[self.counts > 0] / self.counts.sum()
        return max(0.0, float(-(shares * np.log2(shares)).sum()))


def _shift(low: int, high: int, shift: int, bins: int) -> int:
    """The least width, from `2^shift` on, at which `[low, high]` fits."""
    while (high >> shift) - (low >> shift) >= bins:
        shift += 1
    return shift
