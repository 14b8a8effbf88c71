"""Histograms that widen: exact counts, whatever comes in whatever order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intvit.report.histogram import BINS, Histogram

integers = st.lists(st.integers(-(2**31), 2**31 - 1) | st.integers(-300, 300), min_size=1, max_size=50)


def counted(histogram: Histogram, values: list[int]) -> None:
    """Every bin holds what lies in it."""
    bins = [value >> histogram.shift for value in values]
    assert histogram.counts.tolist() == [bins.count(histogram.first + i) for i in range(len(histogram.counts))]
    assert (histogram.low, histogram.high, histogram.total) == (min(values), max(values), len(values))
    assert len(histogram.counts) <= BINS


@given(integers)
def test_counts(values: list[int]) -> None:
    counted(Histogram.of(np.array(values)), values)


@given(integers, integers)
def test_a_sum_counts_both(some: list[int], others: list[int]) -> None:
    first, second = Histogram.of(np.array(some)), Histogram.of(np.array(others))
    counted(first + second, some + others)
    counted(second + first, some + others)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_each_8_bit_integer_has_its_bin(dtype: type) -> None:
    info = np.iinfo(dtype)
    found = Histogram.of(np.arange(info.min, info.max + 1).astype(dtype))
    assert (found.shift, found.first, found.counts.tolist()) == (0, info.min, [1] * 256)
    assert found.entropy == pytest.approx(8)


def test_entropy_of_one_value_is_zero() -> None:
    assert Histogram.of(np.full((2, 3), -7)).entropy == 0
