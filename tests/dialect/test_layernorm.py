"""`layernorm` within one int8 step (four int16 steps) of float, and within the bounds that it states, for any row."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from intvit.dialect.layernorm import (
    FACTORED,
    MAX_EPS,
    centre,
    floating_variance,
    layernorm,
    reciprocal_root,
    unit_row,
)
from intvit.dialect.operation import OPERATIONS
from intvit.passes.lower_layernorm import fixed_point_shift, scaled_eps
from intvit.ranges import Operand

SCALE = 1e-3
FINEST = 1 / 255
"""Calibration makes no finer step than this share of the weight (`intvit.calibrate`)."""
WIDTHS = (1, 2, 3, 16, 64, 192, 197, 384, 768, 1024, 1536, 2048, 4096)
TOP = {"int8": 127, "int16": 2**15 - 1}


def rows(channels: int, deviation: float, seed: int = 0) -> Tensor:
    """64 rows around different means, as int16."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 64, channels, generator=random) * deviation + torch.randn(1, 64, 1, generator=random) * 300
    return x.round().clamp(-(2**15), 2**15 - 1).to(torch.int16)


def float_layernorm(x: Tensor, scale: float, eps: float) -> Tensor:
    """Of int16 rows, without weight; mean and variance from exact integers, which float64 sums of squares are not."""
    channels, rows = x.shape[-1], x.to(torch.int64)
    total = rows.sum(-1, keepdim=True)
    squares = channels * rows.square().sum(-1, keepdim=True) - total.square()
    variance = squares.double() / channels**2 * scale**2
    return (channels * rows - total).double() / channels * scale / (variance + eps).sqrt()


def error(
    x: Tensor, *, eps: float = 1e-6, gain: Tensor | None = None, bias: Tensor | None = None, dtype: str = "int8"
) -> float:
    """Largest distance in steps from float LayerNorm, on the one grid that just holds its result."""
    channels = x.shape[-1]
    gain = torch.ones(channels, dtype=torch.float64) if gain is None else gain
    bias = torch.zeros(channels, dtype=torch.float64) if bias is None else bias
    exact = float_layernorm(x, SCALE, eps) * gain + bias
    step = (exact.abs().max() / TOP[dtype]).clamp(min=FINEST if dtype == "int8" else 2.0**-15)
    return float((normalized(x, gain, bias, step, eps, dtype) - exact / step).abs().max())


def parameters(
    channels: int, gain: Tensor, bias: Tensor, step: Tensor, eps: float, scale: float = SCALE
) -> tuple[Tensor, Tensor, int, int, int]:
    """What lowering makes of a LayerNorm: multiplier, bias, shift, eps, min_shift."""
    m, c = gain * math.sqrt(channels) / (step * 2**15), bias / step
    shift = fixed_point_shift(m, c)
    min_shift, integer_eps = scaled_eps(eps, scale, channels)
    multiplier, integer_bias = (torch.round(f * 2**shift).to(torch.int32) for f in (m, c))
    return multiplier, integer_bias, shift, integer_eps, min_shift


def normalized(x: Tensor, gain: Tensor, bias: Tensor, step: Tensor, eps: float, dtype: str = "int8") -> Tensor:
    return layernorm(x, *parameters(x.shape[-1], gain, bias, step, eps), dtype)


@pytest.mark.parametrize("channels", WIDTHS)
@pytest.mark.parametrize("deviation", [0, 0.3, 1, 3, 30, 100, 1000, 10000])
def test_is_within_one_step(channels: int, deviation: float) -> None:
    assert error(rows(channels, deviation)) <= 1


@pytest.mark.parametrize("channels", WIDTHS)
@pytest.mark.parametrize("deviation", [1, 16, 42, 60, 100])
def test_is_within_one_step_with_an_outlier(channels: int, deviation: float) -> None:
    x = rows(channels, deviation)
    x[..., 0] = 2**15 - 1
    assert error(x) <= 1


@pytest.mark.parametrize("channels", WIDTHS)
def test_is_within_one_step_for_two_values_and_an_outlier(channels: int) -> None:
    """Squares of equal numbers round alike, which is the worst case of the shift before squaring."""
    amplitude = torch.arange(1, 200)[None, :, None]
    x = (amplitude * torch.where(torch.arange(channels) % 2 == 0, 1, -1)).to(torch.int16)
    x[..., 0] = 2**15 - 1
    assert max(error(row.view(1, 1, -1)) for row in x[0, ::7]) <= 1


def alternating(channels: int, amplitude: int, outlier: int, level: int = 0) -> Tensor:
    x = level + amplitude * torch.where(torch.arange(channels) % 2 == 0, 1, -1)
    x[0] = outlier
    return x.clamp(-(2**15), 2**15 - 1).to(torch.int16).view(1, 1, -1)


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("channels", [1536, 4096])
def test_wide_rows_of_two_values_and_an_outlier(channels: int, dtype: str) -> None:
    for amplitude in (0, 1, 63, 167, 512, 2000):
        for x in (alternating(channels, amplitude, 2**15 - 1), alternating(channels, amplitude, -(2**15), 2**15 - 1)):
            assert error(x, dtype=dtype) <= {"int8": 1, "int16": 4}[dtype]


@pytest.mark.parametrize("channels", WIDTHS)
@pytest.mark.parametrize("deviation", [0.3, 3, 100, 10000])
def test_is_within_four_int16_steps(channels: int, deviation: float) -> None:
    assert error(rows(channels, deviation), dtype="int16") <= 4


def any_row(channels: int, kind: str, size: float, level: int, outliers: int, seed: int) -> Tensor:
    """A row around `level`, of noise, two values or few steps, with some values anywhere."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(channels, generator=random)
    x = level + size * {"noise": noise, "two values": noise.sign(), "step": (noise > 1.5).float()}[kind]
    where = torch.randint(channels, (outliers,), generator=random)
    x[where] = torch.randint(-(2**15), 2**15, (outliers,), generator=random).float()
    return x.round().clamp(-(2**15), 2**15 - 1).to(torch.int16).view(1, 1, -1)


ANY_ROW = st.builds(
    any_row,
    st.sampled_from([1, 2, 3, 5, 64, 197, 384, 1000, 1536, 4096]),
    st.sampled_from(["noise", "two values", "step"]),
    st.floats(-2, 16).map(lambda power: 2.0**power),
    st.integers(-(2**15), 2**15 - 1) | st.just(0),
    st.integers(0, 2),
    st.integers(0, 2**31),
)
"""Over the whole input range: constant rows, rows of one unit, rows between the ends of int16, outliers."""


@settings(max_examples=300, deadline=None)
@given(
    ANY_ROW,
    st.floats(-6, 1).map(lambda power: 10.0**power),
    st.sampled_from([0.0, 1e-12, 1e-6, 1e-5, 1.0]),
    st.floats(-8, 6).map(lambda power: 2.0**power),
    st.sampled_from(["int8", "int16"]),
)
def test_error_is_within_the_stated_bound(x: Tensor, scale: float, eps: float, span: float, dtype: str) -> None:
    channels = x.shape[-1]
    random = torch.Generator().manual_seed(channels)
    gain = torch.randn(channels, generator=random, dtype=torch.float64)
    bias = torch.randn(channels, generator=random, dtype=torch.float64) * span / 4
    step = span * gain.abs().max() / TOP[dtype]
    multiplier, integer_bias, shift, integer_eps, min_shift = parameters(channels, gain, bias, step, eps, scale)
    unit = torch.nan_to_num(float_layernorm(x, scale, eps))
    a, w = (gain * unit / step).abs(), gain.abs() * math.sqrt(channels) / step
    units = a * 2**15 / w + (1 if dtype == "int8" else 2)
    bound = 0.5 + a * 2**-14 + w * 2.0 ** (-16 if dtype == "int8" else -29) + units * 2.0 ** -(shift + 1)
    y = layernorm(x, multiplier, integer_bias, shift, integer_eps, min_shift, dtype)
    exact = ((gain * unit + bias) / step).clamp(-TOP[dtype] - 1, TOP[dtype])
    assert ((y - exact).abs() <= bound + 1e-9).all()


@settings(max_examples=200, deadline=None)
@given(ANY_ROW, st.floats(-6, 1).map(lambda power: 10.0**power), st.sampled_from([0.0, 1e-12, 1e-6, 1.0]))
def test_is_within_one_step_of_the_finest_grid(x: Tensor, scale: float, eps: float) -> None:
    """The finest steps of calibration hold half a deviation: a larger result saturates, and no other is moved by it."""
    channels, step = x.shape[-1], torch.tensor(FINEST)
    fields = parameters(channels, torch.ones(channels), torch.zeros(channels), step, eps, scale)
    exact = torch.nan_to_num(float_layernorm(x, scale, eps)) / FINEST
    assert (layernorm(x, *fields, "int8") - exact.clamp(-128, 127)).abs().max() <= 0.8


@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-6, 1e-5, 1e-3, 1.0])
@pytest.mark.parametrize("channels", [1, 3, 192, 768, 4096])
@pytest.mark.parametrize("deviation", [0, 0.5, 2, 20])
def test_eps_counts_where_the_deviation_is_small(eps: float, channels: int, deviation: float) -> None:
    if eps or (deviation > 2 and channels > 3):
        assert error(rows(channels, deviation), eps=eps) <= 1


@pytest.mark.parametrize("channels", [1, 2, 197, 4096])
@pytest.mark.parametrize("level", [-(2**15), 0, 2**15 - 1])
def test_rows_without_variance_give_the_bias(channels: int, level: int) -> None:
    gain, bias = torch.ones(channels, dtype=torch.float64), torch.linspace(-1, 1, channels, dtype=torch.float64)
    x = torch.full((1, 1, channels), level, dtype=torch.int16)
    got = normalized(x, gain, bias, torch.tensor(1 / 64), 1e-6)
    assert torch.equal(got[0, 0].double(), torch.floor(bias * 64 + 0.5))


def test_gain_and_bias_per_channel_of_any_sign() -> None:
    random = torch.Generator().manual_seed(1)
    gain = torch.randn(384, generator=random, dtype=torch.float64)
    gain[::7] = 0
    bias = torch.randn(384, generator=random, dtype=torch.float64) * 3
    assert error(rows(384, 500), gain=gain, bias=bias) <= 1


def test_extreme_rows() -> None:
    for channels in (2, 64, 768):
        x = torch.full((1, 2, channels), -(2**15), dtype=torch.int16)
        x[..., channels // 2 :] = 2**15 - 1
        assert error(x) <= 1


@pytest.mark.parametrize("channels", [1, 2, 3, 768, 4095, 4096, 32767])
def test_ranges_hold_for_extreme_rows(channels: int) -> None:
    one = torch.tensor([1], dtype=torch.int32)
    ranges = OPERATIONS["layernorm"].ranges(
        Operand(-(2**15), 2**15 - 1, (1, 1, channels)), one, one, 0, MAX_EPS, 0, "int8"
    )
    assert not ranges.overflowing()
    for x in extreme_rows(channels):
        m, r, squares = centre(x)
        total = x.to(torch.int64).sum()
        e = x.to(torch.int64) - m
        assert m == (total + channels // 2).div(channels, rounding_mode="floor") and r == e.sum()
        assert (squares[0].to(torch.int64) << 15) + squares[1] == e.square().sum()
        for eps, min_shift in ((0, -15), (0, 0), (0, 16), (MAX_EPS, -15), (MAX_EPS, 3), (MAX_EPS, 16), (1, -15)):
            v, q = floating_variance(squares, r, channels, eps, min_shift)
            g, p = reciprocal_root(v, q)
            factor = g.to(torch.int64) << (1 - p).clamp(0, 16)
            assert 1 <= v <= MAX_EPS + eps and 2**14 <= g < 2**15 and factor < 2**31 and p <= 17
            assert (e * factor).abs().max() <= FACTORED
        n = unit_row(x, 0, -15)
        flat = bool((x == x[..., :1]).all())
        assert abs(n.double().square().sum().sqrt().item() / 2**15 - (not flat)) < 1e-4 + channels**0.5 / 2**16


def extreme_rows(channels: int) -> list[Tensor]:
    """int32 rows at the ends of the range, constant, halved, with one value apart, and with a step of 1."""
    low, high, index = -(2**15), 2**15 - 1, torch.arange(channels)
    rows = [torch.full((channels,), level) for level in (low, -1, 0, high)]
    rows += [torch.where(index % 2 == 0, low, high), torch.where(index % 3 == 0, low, high)]
    rows += [torch.where(index == channels - 1, one, rest) for one, rest in ((high, low), (low, high), (1, 0), (-1, 0))]
    rows += [torch.where(index == channels - 1, 2, index % 2), torch.where(index < channels // 256, low, high)]
    return [row.to(torch.int32).view(1, 1, -1) for row in rows]
