"""Grids and dyadic numbers: what they hold, how exact they are, and that they saturate no earlier than asked."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from intvit.dialect.arithmetic import requantized
from intvit.grid import LIMITS, SMALLEST_SCALE, Grid, dyadic, dyadic_for, shift_for

RATIOS = st.floats(1e-6, 100)


def real(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("dtype", LIMITS)
def test_quantizing_is_half_up_and_saturates(dtype: str) -> None:
    low, high = LIMITS[dtype]
    grid = Grid(real(0.5), real(10.0), dtype)
    assert grid.quantize(torch.tensor([10.0, 10.25, 10.75, 9.75])).tolist() == [0, 1, 2, 0]
    assert grid.quantize(torch.tensor([-1e30, 1e30])).tolist() == [low, high]


@settings(max_examples=60, deadline=None)
@given(st.floats(-100, 100, width=32), st.floats(0.001, 100), st.sampled_from(["int8", "uint8", "int16"]))
def test_affine_grid_spans_its_bounds(low: float, width: float, dtype: str) -> None:
    grid = Grid.affine(real(low), real(low + width), dtype)
    assert grid.quantize(real(low, low + width)).tolist() == list(LIMITS[dtype])
    x = torch.linspace(low, low + width, 50, dtype=torch.float64)
    error = (grid.dequantize(grid.quantize(x)).double() - x).abs().max()
    assert error <= grid.scale.item() / 2 + 2e-5


def test_symmetric_grid_holds_both_ends() -> None:
    grid = Grid.symmetric(real(2.54), "int8")
    assert grid.quantize(real(2.54, -2.54, 0)).tolist() == [127, -127, 0]
    assert grid.dequantize(torch.tensor([127], dtype=torch.int8)).item() == pytest.approx(2.54)


def test_grids_of_nothing_have_a_scale() -> None:
    zero = real(0)
    for grid in (Grid.symmetric(zero, "int8"), Grid.affine(zero, zero, "int8")):
        assert grid.scale.item() == SMALLEST_SCALE
        assert grid.dequantize(grid.quantize(torch.zeros(1))).abs().item() < 1e-9


@settings(max_examples=200, deadline=None)
@given(st.lists(RATIOS, min_size=1, max_size=5), st.integers(6, 20))
def test_dyadic_is_within_half_a_unit_of_15_bits(ratios: list[float], span_bits: int) -> None:
    ratio = real(*ratios)
    number = dyadic_for(ratio, 1 << span_bits)
    exact = number.multiplier.double() / torch.exp2(number.pre_shift.double() + number.shift)
    assert number.shift >= 0 and (number.pre_shift >= 0).all() and (number.pre_shift <= 30).all()
    assert (number.multiplier >= 1 << 14).all() and (number.multiplier < 1 << 15).all()
    assert ((exact / ratio - 1).abs() <= 2.0**-15 + 2.0**-30).all()


@settings(max_examples=100, deadline=None)
@given(RATIOS, st.integers(6, 16))
def test_saturates_no_earlier_than_the_span(ratio: float, span_bits: int) -> None:
    span = 1 << span_bits
    number = dyadic_for(real(ratio), span)
    x = torch.tensor([min(math.ceil(span / ratio * 1.01), 2**30)], dtype=torch.int32)
    got = requantized(x, number.pre_shift, number.multiplier, number.shift).item()
    assert got >= min(span, x.item() * ratio) * (1 - 1e-4) - 1


@settings(max_examples=100, deadline=None)
@given(RATIOS, st.integers(6, 14), st.floats(-1, 1))
def test_requantization_is_within_one_step(ratio: float, span_bits: int, where: float) -> None:
    number = dyadic_for(real(ratio), 1 << span_bits)
    x = torch.tensor([int(where * min((1 << span_bits) / ratio, 2**30))], dtype=torch.int32)
    got = requantized(x, number.pre_shift, number.multiplier, number.shift).item()
    assert abs(got - x.item() * ratio) <= 1.5


def test_one_shift_serves_all_channels() -> None:
    ratio = real(1.0, 1e-3, 1e-6)
    number = dyadic(ratio, shift_for(ratio, 128))
    assert number.pre_shift.tolist() == sorted(number.pre_shift.tolist())
    assert number.pre_shift[2] - number.pre_shift[1] in (9, 10)


def test_a_pre_shift_can_be_forbidden() -> None:
    number = dyadic(real(1.0, 0.01), 13, bits=14, max_pre_shift=0)
    assert number.pre_shift.tolist() == [0, 0] and number.multiplier.tolist() == [8192, 82]


def test_a_ratio_of_zero_gives_zero() -> None:
    assert dyadic(real(1.0, 0.0), 14).multiplier.tolist() == [16384, 0]


def test_a_ratio_that_needs_a_left_shift_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        dyadic_for(real(1e6), 128)
