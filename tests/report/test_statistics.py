"""Intervals and tests against published values, their definitions, and what holds for any data."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intvit.report.statistics import bootstrap, mcnemar, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_of_the_literature(successes: int, trials: int, low: float, high: float) -> None:
    found = wilson(successes, trials)
    assert found.value == successes / trials
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_stays_within_0_and_1(counts: tuple[int, int]) -> None:
    successes, trials = counts
    found, mirrored = wilson(successes, trials), wilson(trials - successes, trials)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((found.low, found.high))


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="successes of"):
        wilson(successes, trials)


@pytest.mark.parametrize(
    ("wins", "losses", "expected"),
    [
        (0, 0, 1.0),
        (2, 1, 1.0),
        (0, 5, 2 / 32),
        (1, 7, 2 * 9 / 256),
        (6, 16, 0.052479),  # scipy.stats.binomtest(6, 22).pvalue
        (121, 59, 4.434e-6),  # scipy.stats.binomtest(59, 180).pvalue
    ],
)
def test_mcnemar(wins: int, losses: int, expected: float) -> None:
    assert mcnemar(wins, losses) == pytest.approx(expected, rel=1e-3)
    assert mcnemar(losses, wins) == mcnemar(wins, losses)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_sum_of_the_binomial_tails(wins: int, losses: int) -> None:
    n = wins + losses
    tails = sum(math.comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= abs(wins - losses)) / 2**n
    assert mcnemar(wins, losses) == pytest.approx(tails)


def test_mcnemar_of_many_images() -> None:
    """As many as no float can hold 2^n of."""
    assert mcnemar(20_000, 20_000) == 1.0
    assert 0.01 < mcnemar(20_300, 19_800) < 0.02


def test_mcnemar_refuses() -> None:
    with pytest.raises(ValueError, match="-1 wins"):
        mcnemar(-1, 2)


@pytest.mark.parametrize("kind", ["few distinct values", "many distinct values"])
def test_bootstrap_of_a_mean_is_near_the_normal_one(kind: str) -> None:
    random = np.random.default_rng(3)
    values = random.choice([-1, 0, 1], 800, p=[0.1, 0.8, 0.1]) if kind.startswith("few") else random.normal(size=800)
    found = bootstrap(values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.06 * half)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=100), st.integers(0, 5))
def test_bootstrap_lies_within_the_values_and_repeats(values: list[float], seed: int) -> None:
    array = np.array(values)
    found = bootstrap(array, seed, resamples=50)
    slack = 1e-9 * (1 + np.abs(array).max())
    assert array.min() - slack <= found.low <= found.high <= array.max() + slack
    assert bootstrap(array, seed, resamples=50) == found


def test_bootstrap_refuses() -> None:
    for values in (np.array([]), np.zeros((2, 2))):
        with pytest.raises(ValueError, match="one per image"):
            bootstrap(values)
