"""Scales in front of weights of few bits: errors of both, found here by rounding, add up to less than with others."""

from itertools import pairwise

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from windowed import SAME, Sketch

from intvit import floatops
from intvit.bits import keeps_whole
from intvit.calibrate import observe
from intvit.columns import EXPONENTS, Columns, balanced, layers_reading
from intvit.grid import Role
from intvit.grids import Policy, assign_grids

ROWS = 24


def drawn(seed: int, channels: int, spread: float, windows: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs `[512, windows, C]`, channels this far apart (in octaves), their extremes, weights `[24, windows, C]`."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(512, windows, channels, generator=generator).double()
    x *= 2 ** (spread * torch.randn(channels, generator=generator).double())
    return x, x.abs().amax((0, 1)), torch.randn(ROWS, windows, channels, generator=generator).double()


def chosen(own: Tensor, weights: list[tuple[Tensor, int]], variance: Tensor, activations: int = 8) -> Tensor:
    """Of weights `[N, windows, C]` and their bits."""
    energy = torch.stack([weight.square().sum((0, 1)) for weight, _ in weights]).sum(0)
    readers = [Columns.of(weight.flatten(1), weight.shape[2], bits) for weight, bits in weights]
    return balanced(own, energy, readers, variance, activations)


def rounding_error(x: Tensor, weight: Tensor, scale: Tensor, bits: int, activations: int) -> float:
    """Of the product, both rounded to the nearest."""
    largest, gap = (1 << (bits - 1)) - 1, 1 << (8 - activations)
    folded = (weight * scale).flatten(1)
    step = folded.abs().amax(1, keepdim=True) / largest
    levels = (x / scale / gap).round() * gap
    found = levels.flatten(1) @ ((folded / step).round() * step).T
    return float((found - x.flatten(1) @ weight.flatten(1).T).square().mean())


@given(st.integers(0, 10**6), st.integers(2, 40), st.floats(0, 4), st.integers(3, 8))
def test_no_scale_is_finer_and_the_order_stays(seed: int, channels: int, spread: float, bits: int) -> None:
    x, extremes, weight = drawn(seed, channels, spread)
    own = extremes / 127
    scale = chosen(own, [(weight, bits)], x.var((0, 1)))
    assert bool((scale >= own).all()) and float(scale.max()) == pytest.approx(float(own.max()))
    assert torch.equal(scale[own.argsort()].sort().values, scale[own.argsort()])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("windows", [1, 9])
@pytest.mark.parametrize("activations", [4, 6, 8])
def test_the_error_is_nearly_the_least(seed: int, windows: int, activations: int) -> None:
    """Of few bits far below that of own scales; of any at most a quarter above the best exponent's."""
    x, extremes, weight = drawn(seed, 64, 2.0, windows)
    own = extremes / (128 - (1 << (8 - activations)) // 2)
    for bits in (3, 4, 6, 8):
        scale = chosen(own, [(weight, bits)], x.var((0, 1)), activations)
        found = rounding_error(x, weight, scale, bits, activations)
        every = [rounding_error(x, weight, own.max() * (own / own.max()) ** a, bits, activations) for a in EXPONENTS]
        assert found <= 1.25 * min(every)
        assert bits > activations - 4 or found < 0.7 * every[-1]


def test_layers_of_more_bits_want_finer_scales() -> None:
    x, extremes, weight = drawn(0, 64, 2.0)
    scales = [chosen(extremes / 127, [(weight, bits)], x.var((0, 1))) for bits in (3, 4, 6, 8)]
    both = chosen(extremes / 127, [(weight, 3), (1e4 * weight, 8)], x.var((0, 1)))
    assert all(bool((coarse >= fine).all()) for coarse, fine in pairwise(scales))
    assert bool((scales[0] > 1.01 * scales[-1]).any()) and torch.equal(both, scales[-1])


def test_a_channel_that_never_moves_and_rows_and_columns_of_zeros_change_nothing() -> None:
    x, extremes, weight = drawn(0, 64, 2.0)
    own, variance = extremes / 127, x.var((0, 1))
    expected = chosen(own, [(weight, 4)], variance)
    still = torch.tensor([1e-12]).double()
    weights = torch.cat([weight, weight[:, :, :1]], 2), torch.zeros(1, 1, 65).double()
    found = chosen(torch.cat([own, still]), [(torch.cat(weights), 4)], torch.cat([variance, 0 * still]))
    assert torch.equal(found[:-1], expected)


@pytest.fixture
def sketch() -> Sketch:
    return Sketch((3, 32, 32))


def test_layers_behind_windows_count_and_what_others_read_stays(sketch: Sketch) -> None:
    x, y = (sketch.norm(sketch.linear(sketch.pixels)) for _ in range(2))
    inner = sketch.linear(sketch.unfold(x, 32, 3, 2, SAME), 5)
    graph = sketch.calibrated(inner, sketch.depthwise(y, 32, 3, 2, SAME)).source
    assert layers_reading(x) == [inner] and layers_reading(y) == []
    weight = graph.module.get_buffer(str(inner.args[1].target))
    columns = Columns.of(weight, 16, 4)
    assert (columns.windows, columns.largest.shape) == (9, (5, 16))
    assert columns.largest[2, 3] == weight[2, 3::16].abs().max()


@pytest.mark.parametrize("activations", [4, 6, 8])
@pytest.mark.parametrize("weights", [4, 6, 8])
def test_only_weights_of_fewer_bits_than_activations_change_grids(weights: int, activations: int) -> None:
    graph, policy = tiny.captured(), Policy(activations=activations)
    observers, distances = observe(graph, [tiny.pixels(24)], tiny.GRID, policy)
    plain = assign_grids(graph, observers, tiny.GRID, policy, distances)
    found = assign_grids(
        graph, observers, tiny.GRID, policy, distances, lambda layer: 8 if keeps_whole(layer) else weights
    )
    changed = []
    for node in graph.module.graph.find_nodes(op="call_function", target=floatops.layer_norm):
        before, after = (calibrated.grid(node, Role.PRODUCT).scale for calibrated in (plain, found))
        assert bool((after >= before).all())
        changed.append(bool((after > 1.01 * before).any()))
    assert any(changed) == (weights < activations) and not changed[-1]  # the head reads the last
