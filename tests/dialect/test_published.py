"""The forms as published have the defects that are known of them, and ours do not: each test shows both."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from intvit.dialect.arithmetic import rounding_shift
from intvit.dialect.attention import CURVATURE, shiftmax
from intvit.dialect.gelu import gelu_fixed_point
from intvit.dialect.layernorm import unit_row
from intvit.dialect.operation import OPERATIONS
from intvit.dialect.published import (
    GELU_BITS,
    GELU_SLOPE,
    SOFTMAX_BITS,
    attention_published,
    finest_scale,
    gelu_published,
    layernorm_published,
    shift_exponential,
    shiftmax_published,
    sigmoid_published,
)
from intvit.grid import dyadic_for
from intvit.ranges import Operand


def int32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def x0_of(scale: float) -> int:
    return math.floor(-1 / scale)


def ours(scores: Tensor, scale: float) -> Tensor:
    number = dyadic_for(torch.tensor([scale * math.log2(math.e) * 256], dtype=torch.float64), 1 << 13)
    e, s = shiftmax(scores[None, None], number.multiplier, number.pre_shift, number.shift, 15)
    return (e.double() / s)[0, 0]


def published(scores: Tensor, scale: float) -> Tensor:
    return shiftmax_published(scores, x0_of(scale)).double() / 2**15


@pytest.mark.parametrize("scale", [0.02, 0.05, 0.11, 0.31])
def test_shift_exponential_is_the_formula(scale: float) -> None:
    """In Python's integers, floor by floor; `x0` is negative, and so is the dividend."""
    x0, n = x0_of(scale), SOFTMAX_BITS
    for d in range(0, -900, -7):
        p = max(d + (d >> 1) - (d >> 4), n * x0)
        q = p // x0
        assert 0 <= q <= n and x0 < p - q * x0 <= 0
        assert shift_exponential(int32(d), x0, n).item() == math.floor(((p - q * x0) / 2 - x0) * 2 ** (n - q))


def test_exponent_is_6_percent_off_and_ours_is_not() -> None:
    r = torch.linspace(-1, 0, 10001, dtype=torch.float64)
    assert ((1 + r / 2) / torch.exp2(r) - 1).abs().max() == pytest.approx(0.061, abs=0.001)
    f = torch.arange(256, dtype=torch.int32)
    m = (1 << 14) + (f << 6) - rounding_shift(f * (256 - f) * CURVATURE, 15)
    assert (m / 2**14 / torch.exp2(f.double() / 256) - 1).abs().max() < 0.0035


def slope(p: Tensor, scale: float) -> float:
    log = p[p > 0].log()
    return float((log[0] - log[-1]) / (scale * (len(log) - 1)))


def test_temperature_is_off_and_ours_is_not() -> None:
    """`x0 = floor(-1/S)` makes the softmax flatter: slope 0.83 to 0.95 for S between 0.12 and 0.30."""
    slopes = {}
    for scale in (0.12, 0.15, 0.21, 0.26, 0.30):
        scores = -torch.arange(int(8 / scale), dtype=torch.int32)[None]
        slopes[scale] = slope(published(scores, scale), scale)
        assert slope(ours(scores, scale), scale) == pytest.approx(1, abs=0.005)
    assert min(slopes.values()) < 0.87
    assert all(found < 0.985 for found in slopes.values())


def test_int8_probabilities_lose_the_tail_and_ours_do_not() -> None:
    scale = 0.05
    noise = torch.randn(200, 197, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lost = {}
    for sigma in (1, 2, 4):
        scores = (noise * sigma / scale).round().to(torch.int32)
        exact = torch.softmax(scores.double() * scale, -1)
        eight_bits = (shiftmax_published(scores, x0_of(scale)) >> 8).double() / 2**7
        assert (eight_bits[exact < 1 / 140] == 0).all()
        lost[sigma] = float(((eight_bits - exact).abs().sum(-1) / 2).mean())
        assert ((ours(scores, scale) - exact).abs().sum(-1) / 2).max() < 0.02
    assert max(lost.values()) > 0.25 and min(lost.values()) > 0.045


def gelu_of_three(peak: float) -> float:
    scale = peak / 127
    row = torch.tensor([[3.0, peak]]).div(scale).round().to(torch.int32)
    sigmoid = sigmoid_published(row, x0_of(GELU_SLOPE * scale)).double() / 2**7
    return float(row[0, 0] * scale * sigmoid[0, 0])


def test_gelu_collapses_for_large_rows_and_ours_does_not() -> None:
    assert gelu_of_three(16) == pytest.approx(1.49, abs=0.06)
    assert gelu_of_three(4) > 2.8
    row = torch.tensor([3.0, 16.0]).mul(2**10).round().to(torch.int32)
    assert gelu_fixed_point(row, 10)[0].item() / 2**13 == pytest.approx(2.996, abs=0.001)


def row_of_root(root: int) -> Tensor:
    """Four values whose squared distances from their mean sum to `root²`."""
    return torch.tensor([[[1, 1, -1, -1]]], dtype=torch.int16) * (root // 2)


@pytest.mark.parametrize(("root", "excess"), [(1000, 0.0), (150, 0.015), (100, 0.08), (30, 1.23)])
def test_square_root_does_not_converge_and_ours_does(root: int, excess: float) -> None:
    x = row_of_root(root)
    got = layernorm_published(x, int32(0))[0, 0, 0].item() / 2**30
    assert 0.5 / got - 1 == pytest.approx(excess, abs=0.012)
    assert unit_row(x.to(torch.int32), 0, -15)[0, 0, 0].item() / 2**15 == pytest.approx(0.5, abs=2e-4)


def test_sum_of_squares_leaves_32_bits_for_ordinary_rows_and_ours_does_not() -> None:
    deviation, channels = 4096, 384
    assert deviation**2 * channels > 2**31
    x = Operand(-(2**15), 2**15 - 1, (1, 1, channels))
    theirs = OPERATIONS["layernorm_published"].ranges(x, int32(0))
    assert theirs.bits == 64 and not theirs.intermediates["squares"].fits(32)
    mine = OPERATIONS["layernorm"].ranges(x, int32(1), int32(0), 0, 0, 0, "int8")
    assert mine.bits == 32 and not mine.overflowing()


def test_newton_never_divides_by_zero_nor_exceeds_its_range() -> None:
    """The tenth step from 2^16 is at least 64, and never below the root: the row is within 2^30."""
    rows = [
        torch.zeros(1, 1, 4),
        torch.tensor([[[0, 0, 0, 1]]]),
        row_of_root(2**15),
        torch.tensor([[[-(2**15), 2**15 - 1]]]),
    ]
    for x in rows:
        got = layernorm_published(x.to(torch.int16), int32(0))
        assert got.abs().max() <= 2**30
    random = torch.Generator().manual_seed(0)
    for deviation in (1, 10, 100, 1000, 30000):
        x = (torch.randn(1, 50, 64, generator=random) * deviation).clamp(-(2**15), 2**15 - 1).to(torch.int16)
        assert layernorm_published(x, int32(0)).abs().max() <= 2**30


def test_bias_over_gain_saturates_and_ours_does_not() -> None:
    """`β / γ` at `sqrt(C) / 2^30` leaves 32 bits for a small `γ`; ours adds `β` after the weight."""
    channels, gain, bias = 192, 0.01, 1.0
    unit = math.sqrt(channels) / 2**30
    assert bias / gain / unit > 2**31
    x = torch.zeros(1, 1, channels, dtype=torch.int16)
    got = layernorm_published(x, int32(*[2**31 - 1] * channels)).double() * unit * gain
    assert (got - bias).abs().min() > 0.7


def test_attention_as_published_is_near_float() -> None:
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randint(-128, 128, (2, 20, 16), dtype=torch.int8, generator=random) for _ in range(3))
    to_scores = dyadic_for(torch.tensor([1 / 256], dtype=torch.float64), 128)
    to_out = dyadic_for(torch.tensor([2.0**-15], dtype=torch.float64), 128)
    scale = 0.05
    got = attention_published(
        q, k, v, 2, to_scores.multiplier, to_scores.pre_shift, to_scores.shift, x0_of(scale),
        to_out.multiplier, to_out.pre_shift, to_out.shift,
    )  # fmt: skip
    parts = (x.double().unflatten(-1, (2, -1)).transpose(1, 2) for x in (q, k, v))
    exact = F.scaled_dot_product_attention(*parts, scale=scale / 256).transpose(1, 2).flatten(2)
    assert (got - exact).norm() < 0.15 * exact.norm()


def test_gelu_as_published_loses_percents_and_ours_does_not() -> None:
    """Its reciprocal has 3 to 5 bits: neighbouring results are out of order."""
    scale = 3 / 127
    x = torch.arange(-127, 128, dtype=torch.int8)[None, None]
    to_out = dyadic_for(torch.tensor([2.0**-7], dtype=torch.float64), 128)
    got = gelu_published(x, x0_of(GELU_SLOPE * scale), to_out.multiplier, to_out.pre_shift, to_out.shift)
    exact = F.gelu(x.double() * scale)
    loss = float((got.double() * scale - exact).norm() / exact.norm())
    assert 0.02 < loss < 0.08
    assert (got.diff() < -3).any()
    mine = gelu_fixed_point((x.double() * scale * 2**13).round().to(torch.int32), 13).double() / 2**13
    assert (mine - exact).norm() < 5e-4 * exact.norm()


@pytest.mark.parametrize("keys", [17, 197, 1370])
def test_scales_no_finer_than_finest_fit_32_bits(keys: int) -> None:
    one, full = int32(1), Operand(-128, 127, (1, keys, 64))
    for scale, fits in ((finest_scale(SOFTMAX_BITS, keys), True), (finest_scale(SOFTMAX_BITS, keys) / 1.2, False)):
        ranges = OPERATIONS["attention_published"].ranges(
            full, full, full, 1, one, int32(0), 20, x0_of(scale), one, int32(0), 20
        )
        assert (not ranges.overflowing()) is fits
    for scale, fits in ((finest_scale(GELU_BITS, 2), True), (finest_scale(GELU_BITS, 2) / 1.2, False)):
        ranges = OPERATIONS["gelu_published"].ranges(Operand(-128, 127, (1, 1, 8)), x0_of(scale), one, int32(0), 20)
        assert (not ranges.overflowing()) is fits


def test_exponentials_stay_in_their_ranges() -> None:
    x0 = x0_of(0.05)
    d = torch.arange(-2000, 1, dtype=torch.int32)
    assert shift_exponential(d, x0, SOFTMAX_BITS).max() == -x0 << SOFTMAX_BITS
    assert shift_exponential(d, x0, SOFTMAX_BITS).min() >= -x0
