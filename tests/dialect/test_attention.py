"""`attention`: exponential and softmax within their bounds, the division of a row, and the whole against float."""

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from intvit.dialect.arithmetic import rounding_shift
from intvit.dialect.attention import (
    CURVATURE,
    MEAN,
    attention,
    exponentials,
    on_levels,
    row_mean,
    shiftmax,
)
from intvit.dialect.operation import OPERATIONS
from intvit.grid import dyadic_for
from intvit.passes.lower_attention import LOG2_SPAN, exponential_bits
from intvit.ranges import Operand, Ranges

TOKENS = 197
STEP = 2.0**-10
"""Scale of the integer scores in the tests of the softmax: fine, so that only Shiftmax itself is measured."""
LOOSE = {8: 0.06, 9: 0.035, 10: 0.02, 13: 0.004}
"""Total variation that fewer bits of the exponentials allow, whatever the spread."""
LEVELS = [(1, 2), (1, 256), (7, 255), (93, 64), (128, 16), (256, 3), (300, 16), (1365, 4), (2047, 256), (2048, 256)]
"""Steps and numbers of levels; 3 steps of 1365 are the last distance that weighs something, 2 steps of 2047 too."""


def int32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def score_fields(scale: float) -> tuple[Tensor, Tensor, int]:
    number = dyadic_for(torch.tensor([scale * math.log2(math.e) * 256], dtype=torch.float64), LOG2_SPAN)
    return number.multiplier, number.pre_shift, number.shift


def probabilities(scores: Tensor, scale: float, bits: int, *levels: int) -> Tensor:
    e, s = shiftmax(scores, *score_fields(scale), bits, *levels)
    return e.double() / s


def total_variation(scores: Tensor, scale: float, bits: int, *levels: int) -> float:
    exact = torch.softmax(scores.double() * scale, -1)
    return float(((probabilities(scores, scale, bits, *levels) - exact).abs().sum(-1) / 2).max())


def normal_rows(sigma: float, rows: int = 500, keys: int = TOKENS) -> Tensor:
    noise = torch.randn(rows, 1, 1, keys, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return (noise * sigma / STEP).round().to(torch.int32)


def test_power_of_two_is_within_its_bound_for_every_fraction() -> None:
    f = torch.arange(256, dtype=torch.int32)
    m = (1 << 14) + (f << 6) - rounding_shift(f * (256 - f) * CURVATURE, 15)
    error = (m / 2**14 / torch.exp2(f.double() / 256) - 1).abs().max().item()
    assert error <= 0.0035
    assert error <= 0.00275


@pytest.mark.parametrize("bits", range(8, 16))
def test_exponentials_over_their_whole_range(bits: int) -> None:
    t = torch.arange(-(1 << 14), 1, dtype=torch.int32)
    exact = 2.0**bits * torch.exp2((t.double() - 2) / 256)
    got = exponentials(t, bits)
    assert ((got - exact).abs() <= 0.0035 * exact + 0.51).all()
    assert got.min() == 0 and 1 << (bits - 1) <= got.max() < 1 << bits
    assert (got.diff() >= 0).all()


@pytest.mark.parametrize(("step", "levels"), LEVELS)
def test_levels_over_their_whole_range(step: int, levels: int) -> None:
    """Against the definition in 64 bits; few weights, none from the last level on, the others near their own."""
    t = torch.arange(-(1 << 15), 1, dtype=torch.int32)
    inverse = math.floor(Fraction(1 << 15, step) + Fraction(1, 2))
    codes = (-t.long().clamp(min=1 - (1 << 15)) * inverse + (1 << 14)) >> 15
    got, kept = on_levels(t, step, levels), codes < levels - 1
    assert got.dtype == torch.int32
    assert torch.equal(got[kept].long(), -step * codes[kept])
    assert ((got - t).abs() <= step * 9 / 16)[kept & (t >= -4096)].all()
    for bits in range(8, 16):
        e = exponentials(got, bits)
        assert e[kept].equal(exponentials(-step * codes[kept].int(), bits)) and not e[~kept].any()
        assert len(e.unique()) <= levels and (e.diff() >= 0).all() and e[-1] >= 1 << (bits - 1)


def test_beyond_16_bits_levels_weigh_nothing() -> None:
    t = -torch.tensor([1 << 15, (1 << 15) + 1, 1 << 24, (1 << 31) - 1], dtype=torch.int32)
    for step, levels in LEVELS:
        assert not exponentials(on_levels(t, step, levels), 15).any()


def test_without_levels_exponents_stay() -> None:
    t = torch.arange(-(1 << 15) - 9, 1, dtype=torch.int32)
    assert on_levels(t, 1, 0).equal(t)


@pytest.mark.parametrize(("step", "levels"), [(2, 0), (0, 0), (1, 1), (1, 257), (0, 16), (2049, 16), (1, -1)])
def test_levels_that_there_are_not_are_refused(step: int, levels: int) -> None:
    x, one = torch.zeros(1, 2, 4, dtype=torch.int8), int32(1)
    arguments = x, x, x, 1, one, one, 1, 15, one, one, 1, 1
    with pytest.raises(TypeError, match=r"(levels|step) must be"):
        OPERATIONS["attention"].check(*arguments, step, levels)


@pytest.mark.parametrize("sigma", [1, 2, 4, 6])
@pytest.mark.parametrize(("step", "levels", "bound"), [(48, 64, 0.02), (93, 64, 0.04), (256, 16, 0.1)])
def test_total_variation_on_levels(step: int, levels: int, bound: float, sigma: float) -> None:
    """Rounding the exponent moves a weight by `2^(±step / 512)`; measured 0.0193, 0.0355, 0.0977."""
    rows = normal_rows(sigma)
    assert total_variation(rows, STEP, 15, step, levels) <= bound
    e, _ = shiftmax(rows, *score_fields(STEP), 15, step, levels)
    assert max(len(row.unique()) for row in e) <= levels


@pytest.mark.parametrize("sigma", [1, 2, 4, 6])
def test_total_variation_of_normal_rows(sigma: float) -> None:
    """The bound is 0.02; measured at the default bits: 0.0013."""
    variation = total_variation(normal_rows(sigma), STEP, exponential_bits(TOKENS))
    assert variation <= 0.02
    assert variation <= 0.002


@pytest.mark.parametrize("sigma", [1, 2, 4, 6])
@pytest.mark.parametrize("bits", LOOSE)
def test_total_variation_with_fewer_bits(bits: int, sigma: float) -> None:
    assert total_variation(normal_rows(sigma), STEP, bits) <= LOOSE[bits]


@pytest.mark.parametrize(("keys", "bits"), [(17, 15), (197, 15), (512, 15), (577, 14), (1370, 13), (4096, 12)])
def test_long_rows_use_the_bits_that_fit(keys: int, bits: int) -> None:
    assert exponential_bits(keys) == bits
    assert max(total_variation(normal_rows(s, 50, keys), STEP, bits) for s in (1, 2, 4, 6)) <= 0.02
    assert not ranges_of(keys, bits).overflowing()


def test_uniform_rows_stay_uniform() -> None:
    p = probabilities(torch.full((1, 1, 1, TOKENS), -12345, dtype=torch.int32), STEP, 15)
    assert torch.allclose(p, torch.full_like(p, 1 / TOKENS))


def test_no_temperature_error() -> None:
    """The slope of log p over the scores is 1; I-ViT's floor in `x0` makes it 0.83 to 0.95."""
    for scale in (0.12, 0.2, 0.30):
        scores = -torch.arange(int(6 / scale), dtype=torch.int32).view(1, 1, 1, -1)
        log = probabilities(scores, scale, 15).log().flatten()
        slope = (log[0] - log[-1]) / (scale * (len(log) - 1))
        assert abs(slope - 1) < 0.004


@pytest.mark.parametrize("v", [-128, -1, 0, 1, 127])
@pytest.mark.parametrize("base", [128, 1 << 10, 1 << 15, 1 << 20, (1 << 24) - (1 << 16)])
def test_row_mean_of_equal_values(v: int, base: int) -> None:
    """`o = v s` for 65536 neighbouring `s`: within one step of Q7, and in the range that the proof uses."""
    s = torch.arange(base, base + (1 << 16), dtype=torch.int32)
    mean = row_mean(v * s, s)
    assert (mean - 128 * v).abs().max() <= 1
    assert mean.min() >= MEAN.low and mean.max() <= MEAN.high


def test_row_mean_of_random_sums() -> None:
    random = torch.Generator().manual_seed(0)
    s = torch.randint(128, 1 << 24, (200_000,), dtype=torch.int32, generator=random)
    o = ((torch.rand(s.shape, generator=random, dtype=torch.float64) * 2 - 1) * 128 * s).to(torch.int32)
    assert (row_mean(o, s) - o.double() / s * 128).abs().max() <= 2


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float, bits: int = 13) -> tuple[Tensor, Tensor]:
    """int8 attention at the scale of `v` itself, and the same in float."""
    multiplier, pre_shift, shift = score_fields(scale)
    mean = dyadic_for(torch.tensor([2.0**-7], dtype=torch.float64), 128)
    fields = (mean.multiplier, mean.pre_shift, mean.shift)
    got = attention(q, k, v, heads, multiplier, pre_shift, shift, bits, *fields)
    parts = (x.double().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return got, F.scaled_dot_product_attention(*parts, scale=scale).transpose(1, 2).flatten(2)


def random_int8(*shape: int, seed: int) -> Tensor:
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("queries", "keys", "heads", "size", "value"), [
    (5, 5, 2, 8, 8), (1, 197, 3, 64, 64), (17, 1, 1, 4, 4), (3, 7, 4, 16, 5), (50, 1370, 1, 8, 8),
])  # fmt: skip
@pytest.mark.parametrize("scale", [1e-4, 1e-3, 1e-2, 1.0])
def test_is_within_one_step_of_float(queries: int, keys: int, heads: int, size: int, value: int, scale: float) -> None:
    q, k = random_int8(2, queries, heads * size, seed=1), random_int8(2, keys, heads * size, seed=2)
    v = random_int8(2, keys, heads * value, seed=3)
    got, exact = attend(q, k, v, heads, scale, exponential_bits(keys))
    assert (got - exact).abs().max() <= 1


@pytest.mark.parametrize("q", [-128, 127])
@pytest.mark.parametrize("k", [-128, 127])
@pytest.mark.parametrize("v", [-128, 127])
def test_extremes(q: int, k: int, v: int) -> None:
    full = [torch.full((1, 50, 64), value, dtype=torch.int8) for value in (q, k, v)]
    got, _ = attend(full[0], full[1], full[2], 1, 1e-3)
    assert (got == v).all()


def test_one_outlier_key_takes_the_row() -> None:
    q, k, v = (torch.zeros(1, TOKENS, 64, dtype=torch.int8) for _ in range(3))
    q[:], k[:, 7], v[:, 7] = 127, 127, -128
    got, exact = attend(q, k, v, 2, 1.0)
    assert (got == -128).all() and torch.allclose(exact, torch.full_like(exact, -128))


def ranges_of(keys: int, bits: int, v: Operand | None = None) -> Ranges:
    full = Operand(-128, 127, (1, keys, 64))
    one = int32(1 << 14)
    return OPERATIONS["attention"].ranges(full, full, v or full, 1, one, int32(0), 16, bits, one, int32(0), 22)


def test_ranges_refuse_more_bits_than_the_keys_allow() -> None:
    assert ranges_of(1370, 15).overflowing().keys() == {"P·V"}
    assert not ranges_of(1370, 13).overflowing()


def test_ranges_hold_what_rounds_to_levels() -> None:
    full, one = Operand(-128, 127, (1, 9, 64)), int32(1 << 14)
    arguments = full, full, full, 1, one, int32(0), 16, 15, one, int32(0), 22, 1
    rule = OPERATIONS["attention"].ranges
    assert "level" not in rule(*arguments).intermediates
    for step, inverse in ((1, 1 << 15), (3, 10923), (2048, 16)):
        ranges = rule(*arguments, step, 256)
        assert ranges.intermediates["level"].high == ((1 << 15) - 1) * inverse + (1 << 14)
        assert not ranges.overflowing()


def test_ranges_hold_the_row_sum_and_the_sums_of_values() -> None:
    ranges = ranges_of(3, 15, Operand(5, 10, (1, 3, 64)))
    e, s = shiftmax(torch.tensor([[[[0, -(10**6), -(10**6)]]]], dtype=torch.int32), int32(1 << 14), int32(0), 16, 15)
    assert ranges.intermediates["row sum"].low <= s.item()
    assert ranges.intermediates["P·V"].low <= (e.sum() * 5).item()
