"""Interval arithmetic holds every value, exactly at its ends."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.ranges import Operand, Range, Ranges

NUMBERS = st.integers(-(2**40), 2**40)
EXAMPLES = settings(max_examples=80, deadline=None)


@st.composite
def range_and_members(draw: st.DrawFn) -> tuple[Range, list[int]]:
    low, high = sorted((draw(NUMBERS), draw(NUMBERS)))
    return Range(low, high), [low, high, draw(st.integers(low, high))]


@EXAMPLES
@given(range_and_members(), range_and_members(), st.integers(0, 40))
def test_operations_hold_every_value_and_no_more(
    a: tuple[Range, list[int]], b: tuple[Range, list[int]], s: int
) -> None:
    (first, xs), (second, ys) = a, b
    half = (1 << s) >> 1
    for found, values in (
        (first + second, [x + y for x in xs for y in ys]),
        (first - second, [x - y for x in xs for y in ys]),
        (first * second, [x * y for x in xs for y in ys]),
        (first.union(second), xs + ys),
        (first.clamp(-128, 127), [min(max(x, -128), 127) for x in xs]),
        (first.rounding_shift(s), [(x + half) >> s for x in xs]),
        (first + 3, [x + 3 for x in xs]),
        (first - 3, [x - 3 for x in xs]),
        (first * -2, [x * -2 for x in xs]),
    ):
        assert (found.low, found.high) == (min(values), max(values))


def test_magnitude() -> None:
    assert [Range(-3, 2).magnitude, Range(-3, 5).magnitude, Range(2, 5).magnitude, Range(-5, -2).magnitude] == [
        3,
        5,
        5,
        5,
    ]


@pytest.mark.parametrize(
    ("low", "high", "fits"),
    [(-(2**31), 2**31 - 1, True), (-(2**31) - 1, 0, False), (0, 2**31, False), (0, 0, True)],
)
def test_fits_32_bits(low: int, high: int, fits: bool) -> None:
    assert Range(low, high).fits(32) is fits
    assert Range(low, high).fits(64)


def test_no_empty_range() -> None:
    with pytest.raises(ValueError, match="empty"):
        Range(1, 0)


def test_overflowing_names_the_intermediates() -> None:
    ranges = Ranges(Range(0, 1), {"sum": Range(0, 2**31), "product": Range(0, 2**31 - 1)})
    assert ranges.overflowing() == {"sum": Range(0, 2**31)}
    assert Ranges(Range(0, 1), ranges.intermediates, bits=64).overflowing() == {}


def test_an_operand_is_a_range_with_a_shape() -> None:
    assert Operand(-1, 2, (1, 2, 3)) * 2 == Range(-2, 4)
