"""The integer arithmetic that all operations share, against exact fractions."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect.arithmetic import (
    INT16,
    bit_length,
    integer_matmul,
    integer_sqrt,
    requantized,
    rounding_shift,
    saturate16,
    scale_by_power,
)

EXAMPLES = settings(max_examples=100, deadline=None)


def half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


@EXAMPLES
@given(st.integers(-(2**30), 2**30), st.integers(0, 30))
def test_rounding_shift_rounds_half_up(x: int, shift: int) -> None:
    expected = half_up(Fraction(x, 2**shift))
    assert rounding_shift(int32(x), shift).item() == expected
    assert rounding_shift(int32(x), int32(shift)).item() == expected


def test_rounding_shift_of_halves() -> None:
    assert rounding_shift(int32(-3, -2, -1, 0, 1, 2, 3), 1).tolist() == [-1, -1, 0, 0, 1, 1, 2]
    assert rounding_shift(int32(-3, 5), 0).tolist() == [-3, 5]


@EXAMPLES
@given(st.integers(-(2**14), 2**14), st.integers(-15, 30))
def test_scale_by_power_is_the_rounded_quotient(x: int, shift: int) -> None:
    assert scale_by_power(int32(x), int32(shift)).item() == half_up(Fraction(x) / Fraction(2) ** shift)


def test_saturate16() -> None:
    assert saturate16(int32(-(2**31), INT16[0], 0, INT16[1], 2**31 - 1)).tolist() == [
        *INT16[:1],
        *INT16[:1],
        0,
        32767,
        32767,
    ]


def test_bit_length_around_every_power_of_two() -> None:
    numbers = sorted({0, 2**31 - 1} | {2**k + d for k in range(31) for d in (-1, 0, 1) if 0 <= 2**k + d < 2**31})
    assert bit_length(int32(*numbers)).tolist() == [n.bit_length() for n in numbers]


def test_integer_sqrt_of_small_numbers_and_around_every_square() -> None:
    small = torch.arange(1 << 16, dtype=torch.int32)
    roots = torch.arange(1, 1 << 15, dtype=torch.int32)
    squares = roots * roots
    assert torch.equal(integer_sqrt(small), small.double().sqrt().floor().to(torch.int32))
    assert torch.equal(integer_sqrt(squares), roots)
    assert torch.equal(integer_sqrt(squares - 1), roots - 1)
    assert integer_sqrt(int32(2**30 - 1)).item() == 2**15 - 1


@EXAMPLES
@given(st.integers(-(2**30), 2**30), st.integers(0, 30), st.integers(-(2**15), 2**15 - 1), st.integers(0, 30))
def test_requantized_is_three_exact_steps(x: int, pre_shift: int, multiplier: int, shift: int) -> None:
    narrow = min(max(half_up(Fraction(x, 2**pre_shift)), INT16[0]), INT16[1])
    product = narrow * multiplier
    if product + (1 << shift >> 1) < 2**31:
        got = requantized(int32(x), int32(pre_shift), int32(multiplier), shift)
        assert got.item() == half_up(Fraction(product, 2**shift))


@pytest.mark.parametrize("value", [-128, 127])
def test_integer_matmul_is_exact_at_the_extremes(value: int) -> None:
    a, b = torch.full((3, 5000), value, dtype=torch.int8), torch.full((5000, 2), -128, dtype=torch.int8)
    assert (integer_matmul(a, b) == 5000 * value * -128).all()
