"""`softmax` against exact softmax of the same integers: total variation, extremes, and its ranges."""

import math

import pytest
import torch
from torch import Tensor

from intvit.dialect.attention import exponentials
from intvit.dialect.operation import OPERATIONS
from intvit.dialect.softmax import reciprocal, softmax, softmax_bits
from intvit.grid import dyadic_for
from intvit.passes.lower_softmax import LOG2_SPAN
from intvit.ranges import Operand

STEP = 2.0**-10


def fields(scale: float) -> tuple[Tensor, Tensor, int]:
    number = dyadic_for(torch.tensor([scale * math.log2(math.e) * 256], dtype=torch.float64), LOG2_SPAN)
    return number.multiplier, number.pre_shift, number.shift


def normal(rows: int, channels: int, sigma: float) -> Tensor:
    return torch.randn(1, rows, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * sigma


def total_variation(x: Tensor, scale: float) -> float:
    got = softmax(x, *fields(scale), softmax_bits(x.shape[-1])).double() / 2**15
    return float(((got - torch.softmax(x.double() * scale, -1)).abs().sum(-1) / 2).max())


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32])
@pytest.mark.parametrize("sigma", [1, 2, 4, 6])
def test_total_variation_of_normal_rows(sigma: float, dtype: torch.dtype) -> None:
    """The bound is 0.02; measured: 0.0023, most of it the rounding of 197 weights to Q15."""
    limits = torch.iinfo(dtype)
    x = (normal(500, 197, sigma) / STEP).round().clamp(limits.min, limits.max).to(dtype)
    assert total_variation(x, STEP) <= 0.003


def test_long_rows_lose_no_more_than_the_steps_of_their_result() -> None:
    """Of 3136 weights of about 10 steps of 2^-15 each, rounded by a quarter of a step on average."""
    x = (normal(20, 3136, 1) / STEP).round().to(torch.int32)
    assert total_variation(x, STEP) <= 3136 / 2**15 / 4 / 2 + 0.003


@pytest.mark.parametrize("bits", range(8, 16))
@pytest.mark.parametrize("channels", [1, 2, 3, 197])
def test_equal_scores_have_equal_weights(channels: int, bits: int) -> None:
    x = torch.full((1, 1, channels), -5, dtype=torch.int16)
    y = softmax(x, *fields(STEP), bits)
    assert (y == y[0, 0, 0]).all()
    assert abs(int(y[0, 0, 0]) - min((1 << 15) / channels, (1 << 15) - 1)) <= 2


@pytest.mark.parametrize("low", [-(2**15), -(2**30)])
def test_an_outlier_takes_all(low: int) -> None:
    dtype = torch.int16 if low >= -(2**15) else torch.int32
    x = torch.full((1, 2, 9), low, dtype=dtype)
    x[0, 1, 4] = -low - 1
    y = softmax(x, *fields(2.0**-9), 15)
    assert y[0, 1, 4] >= (1 << 15) - 2 and int(y[0, 1].sum()) == y[0, 1, 4]
    assert (y[0, 0] == y[0, 0, 0]).all()


def test_its_reciprocal_is_the_exact_quotient_of_15_bits() -> None:
    s = torch.cat([torch.arange(128, 70_000), (1 << torch.arange(8, 31)) - 1, 1 << torch.arange(7, 30)]).int()
    bits = torch.tensor([int(value).bit_length() for value in s])
    exact = torch.floor(2.0**29 / torch.floor(s.double() * 2.0 ** (15.0 - bits))).clamp(max=2**15 - 1)
    assert torch.equal(reciprocal(s).double(), exact)


@pytest.mark.parametrize("channels", [1, 2, 197, 32_768, 32_769, 65_536, 1 << 20])
def test_ranges_hold_the_longest_rows(channels: int) -> None:
    x = Operand(-(2**15), 2**15 - 1, (1, 1, channels))
    found = OPERATIONS["softmax"].ranges(x, *fields(STEP), softmax_bits(channels))
    assert not found.overflowing()
    e = int(exponentials(torch.zeros(1, dtype=torch.int32), softmax_bits(channels)))
    assert e * channels <= found.intermediates["row sum"].high < 1 << 30


def test_what_has_no_room_is_refused() -> None:
    wide = Operand(-(2**31), 2**31 - 1, (1, 1, 4))
    assert "distance" in OPERATIONS["softmax"].ranges(wide, *fields(STEP), 15).overflowing()
    many = Operand(0, 1, (1, 1, 1 << 17))
    assert "row sum" in OPERATIONS["softmax"].ranges(many, *fields(STEP), 15).overflowing()
    multiplier = torch.tensor([-5], dtype=torch.int32)
    with pytest.raises(TypeError, match="must not be negative"):
        OPERATIONS["softmax"].ranges(Operand(0, 1, (1, 1, 4)), multiplier, multiplier, 3, 15)


@pytest.mark.parametrize(("dtype", "bits", "rule"), [(torch.int8, 15, "x must be"), (torch.int16, 16, "bits must be")])
def test_operands_must_fit(dtype: torch.dtype, bits: int, rule: str) -> None:
    with pytest.raises(TypeError, match=rule):
        OPERATIONS["softmax"].check(torch.zeros(1, 2, 3, dtype=dtype), *fields(STEP), bits)
