"""Confidence intervals and tests for accuracies on the same images, with numpy only."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
RESAMPLES = 10_000
_Z = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution: `LEVEL` lies between it and its negative."""
_DISTINCT = 64
"""Up to so many distinct values are resampled by how often each comes up, which has the same distribution."""
_AT_ONCE = 1 << 22
"""Indices that are drawn at a time."""


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


def wilson(successes: int, trials: int) -> Interval:
    """The share of successes with Wilson's score interval.

    E. B. Wilson, *Probable Inference, the Law of Succession, and Statistical Inference*, 1927: with `p` the share and
    `z` the normal quantile, `(p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)`. It stays within 0 and 1 and is of use
    at both ends. Raises `ValueError` without trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes of {trials} trials")
    share, square = successes / trials, _Z * _Z / trials
    middle = (share + square / 2) / (1 + square)
    half = _Z * math.sqrt(share * (1 - share) / trials + square / (4 * trials)) / (1 + square)
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == trials else middle + half
    return Interval(share, low, high)


def mcnemar(wins: int, losses: int) -> float:
    """The exact two-sided p-value that wins and losses of a pair of models are equally likely.

    Q. McNemar, *Note on the sampling error of the difference between correlated proportions*, 1947, with the binomial
    distribution in place of its normal limit: `min(1, 2 · Σ_{k <= min} C(n, k) / 2^n)`, `n = wins + losses`. Images
    that both models get right, or both wrong, say nothing about which is better and do not enter.
    """
    if wins < 0 or losses < 0:
        raise ValueError(f"{wins} wins and {losses} losses")
    trials = wins + losses
    term = tail = 1
    for k in range(min(wins, losses)):
        term = term * (trials - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << trials))


def bootstrap(values: NDArray[Any], seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """The mean of `values` `[images]` with the percentile bootstrap's interval.

    B. Efron and R. Tibshirani, *An Introduction to the Bootstrap*, 1993, 13.3. Given the differences of two models
    image by image it is the paired bootstrap: an image is drawn with both its results. Where all values are the same
    the interval is one point. Raises `ValueError` without values.
    """
    if values.ndim != 1 or not len(values):
        raise ValueError(f"values of shape {list(values.shape)}: one per image is needed")
    means = np.concatenate(list(_means(values.astype(np.float64), np.random.default_rng(seed), resamples)))
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def _means(values: NDArray[np.float64], random: np.random.Generator, resamples: int) -> Iterator[NDArray[np.float64]]:
    """Means of as many values drawn with replacement, some resamples at a time."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= _DISTINCT:
        drawn = random.multinomial(len(values), counts / len(values), resamples)
        yield drawn @ distinct / len(values)
        return
    step = max(1, _AT_ONCE // len(values))
    for first in range(0, resamples, step):
        rows = min(step, resamples - first)
        yield values[random.integers(0, len(values), (rows, len(values)))].mean(1)
