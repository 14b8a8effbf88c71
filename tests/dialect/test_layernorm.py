"""`layernorm` within one output step of float, for rows of every deviation, with outliers and without variance."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from intvit.dialect.layernorm import layernorm, square_shift, unit_row
from intvit.dialect.operation import OPERATIONS
from intvit.passes.lower_layernorm import fixed_point_shift, scaled_eps
from intvit.ranges import Operand

SCALE = 1e-3
FINEST = 1 / 255
"""Calibration makes no finer step than this share of the weight (`intvit.calibrate`)."""
WIDTHS = (1, 2, 3, 16, 64, 192, 197, 384, 768, 1024)
WIDE = (1536, 2048, 4096)


def rows(channels: int, deviation: float, seed: int = 0) -> Tensor:
    """64 rows around different means, as int16."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 64, channels, generator=random) * deviation + torch.randn(1, 64, 1, generator=random) * 300
    return x.round().clamp(-(2**15), 2**15 - 1).to(torch.int16)


def error(x: Tensor, *, eps: float = 1e-6, gain: Tensor | None = None, bias: Tensor | None = None) -> float:
    """Largest distance in steps from float LayerNorm, on the one int8 grid that just holds its result."""
    channels = x.shape[-1]
    gain = torch.ones(channels, dtype=torch.float64) if gain is None else gain
    bias = torch.zeros(channels, dtype=torch.float64) if bias is None else bias
    exact = F.layer_norm(x.double() * SCALE, (channels,), gain, bias, eps)
    step = (exact.abs().max() / 127).clamp(min=FINEST)
    return float((normalized(x, gain, bias, step, eps) - exact / step).abs().max())


def normalized(x: Tensor, gain: Tensor, bias: Tensor, step: Tensor, eps: float, dtype: str = "int8") -> Tensor:
    m, c = gain * math.sqrt(x.shape[-1]) / (step * 2**15), bias / step
    shift = fixed_point_shift(m, c)
    min_shift, integer_eps = scaled_eps(eps, SCALE, x.shape[-1])
    fields = [torch.round(f * 2**shift).to(torch.int32) for f in (m, c)]
    return layernorm(x, *fields, shift, integer_eps, min_shift, dtype)


@pytest.mark.parametrize("channels", WIDTHS + WIDE)
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


@pytest.mark.xfail(strict=True, reason="the shift before squaring loses up to 1 % of the variance in rows this wide")
def test_is_within_one_step_for_wide_rows_of_two_values_and_an_outlier() -> None:
    x = (167 * torch.where(torch.arange(4096) % 2 == 0, 1, -1)).to(torch.int16).view(1, 1, -1).clone()
    x[..., 0] = 2**15 - 1
    assert error(x) <= 1


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
def test_intermediates_stay_in_their_ranges(channels: int) -> None:
    one = torch.tensor([1], dtype=torch.int32)
    ranges = OPERATIONS["layernorm"].ranges(
        Operand(-(2**15), 2**15 - 1, (1, 1, channels)), one, one, 0, (1 << 30) - 1, 0, "int8"
    )
    assert not ranges.overflowing()
    assert channels * (1 << 2 * (14 - square_shift(channels))) <= 1 << 30
    x = torch.where(torch.arange(channels) % 2 == 0, -(2**15), 2**15 - 1).view(1, 1, -1)
    d = x.to(torch.int64) * channels - x.to(torch.int64).sum(-1, keepdim=True)
    found = ranges.intermediates["centred"]
    assert found.low <= d.min() and d.max() <= found.high
    n = unit_row(x.to(torch.int32), 0, -15)
    assert abs(n.double().square().sum().sqrt().item() / 2**15 - (channels > 1)) < 2e-3 + channels**0.5 / 2**16
