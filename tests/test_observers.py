"""Observers stream: batches in any order give the counts of all at once, in memory that does not grow."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from intvit.errors import IntvitError
from intvit.grid import Grid
from intvit.observers import BINS, Histogram, MeanSquaredError, MinMax, ObserverChoice, Percentile, ProductError

NAMES = ["auto", "minmax", "mse", "percentile:0.999"]


def values(rows: int, channels: int = 4, seed: int = 0) -> Tensor:
    spread = torch.logspace(-2, 2, channels)
    return torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_streaming_is_the_same_as_all_at_once(name: str, groups: int) -> None:
    x = values(1000)
    streaming, at_once = ObserverChoice(name).make(4), ObserverChoice(name).make(4)
    for chunk in x.sort(0).values.split(7):  # growing: the range of the histogram doubles many times
        streaming.update(chunk)
    at_once.update(x)
    for found, expected in zip(streaming.bounds(groups), at_once.bounds(groups), strict=True):
        assert torch.equal(found, expected)
    assert torch.allclose(streaming.mean, at_once.mean, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30), st.integers(1, 5))
def test_doubling_keeps_counts_exact(numbers: list[float], chunk: int) -> None:
    x = torch.tensor(numbers)[:, None]
    streaming, at_once = Histogram(1), Histogram(1)
    for part in x.split(chunk):
        streaming.update(part)
    at_once.update(x)
    assert streaming.counts.sum() == len(numbers)
    while at_once.limit < streaming.limit:  # a first chunk of zeros may have set it low, never high
        raise AssertionError("streaming made a wider range")
    assert torch.equal(streaming.limit, at_once.limit)
    assert torch.equal(streaming.counts, at_once.counts)


def test_every_value_is_counted_in_its_bin() -> None:
    x = values(500, 1)
    histogram = Histogram(1)
    histogram.update(x)
    counts, centres = histogram.grouped(1)
    width = 2 * histogram.limit.double() / BINS
    for bin in counts[0].nonzero().flatten().tolist():
        inside = (x.double() >= centres[bin] - width / 2) & (x.double() < centres[bin] + width / 2)
        assert inside.sum() == counts[0, bin]


def test_memory_does_not_grow() -> None:
    histogram = Histogram(4)
    for seed in range(20):
        histogram.update(values(100, seed=seed) * 2.0**seed)
    assert histogram.counts.shape == (4, BINS) and histogram.counts.sum() == 20 * 100 * 4


def test_tokens_and_images_are_rows() -> None:
    x = values(24)
    flat, shaped = MinMax(4), MinMax(4)
    flat.update(x)
    shaped.update(x.reshape(2, 12, 4))
    assert torch.equal(flat.low, shaped.low) and flat.count == shaped.count == 24


def test_minmax_bounds_of_groups() -> None:
    observer = MinMax(4)
    observer.update(torch.tensor([[1.0, -2, 3, -4], [0, 5, -6, 7]]))
    assert [b.tolist() for b in observer.bounds(2)] == [[-2, -6], [5, 7]]
    assert [b.tolist() for b in observer.bounds(1)] == [[-6], [7]]
    assert observer.mean.tolist() == [0.5, 1.5, -1.5, 1.5]


def test_percentile_clips_its_share() -> None:
    x = torch.linspace(-1, 1, 100_001)[:, None]
    observer = Percentile(1, 0.9)
    observer.update(x)
    low, high = (b.item() for b in observer.bounds(1))
    assert low == pytest.approx(-0.9, abs=4 / BINS) and high == pytest.approx(0.9, abs=4 / BINS)


def test_percentile_ignores_one_outlier() -> None:
    x = torch.cat([torch.randn(100_000, 1, generator=torch.Generator().manual_seed(0)), torch.tensor([[50.0]])])
    observer = Percentile(1, 0.9999)
    observer.update(x)
    assert 3 < observer.bounds(1)[1].item() < 6


@pytest.mark.parametrize("name", NAMES)
def test_bounds_lie_within_what_was_seen(name: str) -> None:
    observer = ObserverChoice(name).make(4)
    observer.update(values(1000))
    low, high = observer.bounds(4)
    seen_low, seen_high = values(1000).aminmax(dim=0)
    assert (low >= seen_low).all() and (high <= seen_high).all() and (low < high).all()


def error_of(x: Tensor, low: float, high: float) -> float:
    step = (high - low) / 255
    return float(((((x.clamp(low, high) - low) / step).round() * step + low) - x).square().mean())


def test_mean_squared_error_is_no_worse_than_the_extremes() -> None:
    x = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0)) ** 3
    best, extremes = MeanSquaredError(1), MinMax(1)
    best.update(x)
    extremes.update(x)
    (low, high), (least, most) = ((b.item() for b in o.bounds(1)) for o in (best, extremes))
    assert error_of(x, low, high) < error_of(x, least, most)


def test_percentile_keeps_a_channel_that_is_narrower_than_a_bin() -> None:
    x = torch.tensor([[-0.3001, 100.0], [-0.3, -100.0]])
    observer = Percentile(2, 0.999)
    observer.update(x)
    low, high = observer.bounds(2)
    assert (low[0], high[0]) == (x[0, 0], x[1, 0])


def test_percentile_of_everything_is_the_extremes() -> None:
    everything, extremes = Percentile(4, 1.0), MinMax(4)
    for observer in (everything, extremes):
        observer.update(values(500))
    for found, expected in zip(everything.bounds(4), extremes.bounds(4), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_of_zeros(name: str) -> None:
    observer = ObserverChoice(name).make(2)
    observer.update(torch.zeros(5, 2))
    assert [b.abs().max().item() for b in observer.bounds(2)] == [0, 0]
    observer.update(torch.ones(5, 2))
    assert observer.bounds(1)[1].item() == pytest.approx(1, abs=3 / BINS)


@pytest.mark.parametrize("name", ["max", "minmax:1", "mse:2", "percentile:0.2", "percentile:1.5", "percentile:x", ""])
def test_unknown_observers_are_refused(name: str) -> None:
    with pytest.raises(IntvitError, match="unknown observer"):
        ObserverChoice(name).make(1)


def product_error(x: Tensor, weight: Tensor, bounds: tuple[Tensor, Tensor]) -> float:
    """Of `x @ weight.T` where x is rounded to 256 levels between the bounds."""
    grid = Grid.affine(*bounds, "int8")
    return float(((grid.dequantize(grid.quantize(x)) - x) @ weight.T).square().mean())


def test_one_range_is_that_of_the_least_error_of_the_product() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.gelu(torch.randn(4000, 16, generator=generator))
    x[:, 3] *= 3  # in a channel that hardly matters to the product
    weight = torch.eye(16)
    weight[3, 3] = 0.01
    observer = ProductError(weight.square().sum(0))
    for chunk in x.split(1000):
        observer.update(chunk)
    bounds = observer.bounds(1)
    assert product_error(x, weight, bounds) < product_error(x, weight, observer.extremes(1)) / 2
    others = [tuple(end * share for end in bounds) for share in (0.8, 1.25)]
    assert all(product_error(x, weight, bounds) < product_error(x, weight, other) for other in others)


def test_one_range_serves_the_tokens_that_weigh_most() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 5, 16, generator=generator)
    x[:, 0] *= 0.2
    by_first = torch.tensor([4.9996, 0.0001, 0.0001, 0.0001, 0.0001])
    alike, unequal = ProductError(torch.ones(16)), ProductError(torch.ones(16), by_first)
    for chunk in x.split(100):
        alike.update(chunk)
        unequal.update(chunk)
    first, weight = x[:, 0], torch.eye(16)
    assert product_error(first, weight, unequal.bounds(1)) < product_error(first, weight, alike.bounds(1)) / 2
    assert product_error(x, weight, alike.bounds(1)) < product_error(x, weight, unequal.bounds(1))


def test_channels_apart_have_their_extremes() -> None:
    observer = ProductError(torch.ones(4))
    observer.update(values(100))
    for found, expected in zip(observer.bounds(4), observer.extremes(4), strict=True):
        assert torch.equal(found, expected)


def test_auto_is_minmax_where_scales_are_not_shared() -> None:
    auto = ObserverChoice("auto")
    assert type(auto.make(3)) is MinMax
    assert type(auto.make(3, torch.ones(3))) is ProductError
