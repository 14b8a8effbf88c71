"""Scales in front of weights of few bits: errors of both, found here by rounding, add up to less than with others."""

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from windowed import SAME, Sketch

from intvit import floatops
from intvit.calibrate import calibrate
from intvit.columns import EXPONENTS, balanced, columns_of, layers_of_few_bits
from intvit.grid import Role
from intvit.grids import Policy


def drawn(seed: int, channels: int, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs `[512, C]` whose channels are this far apart (in octaves), their own scales, and weights `[24, 1, C]`."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(512, channels, generator=generator).double()
    x *= 2 ** (spread * torch.randn(channels, generator=generator).double())
    weight = torch.randn(24, 1, channels, generator=generator).double()
    return x, x.abs().amax(0) / 127, weight


def rounding_error(x: Tensor, weight: Tensor, scale: Tensor, bits: int) -> float:
    """Of the product, both rounded to the nearest."""
    largest = (1 << (bits - 1)) - 1
    folded = weight[:, 0] * scale
    step = folded.abs().amax(1, keepdim=True) / largest
    found = (x / scale).round() @ ((folded / step).round() * step).T
    return float((found - x @ weight[:, 0].T).square().mean())


@given(st.integers(0, 10**6), st.integers(2, 40), st.floats(0, 4), st.integers(3, 8))
def test_no_scale_is_finer_and_the_order_stays(seed: int, channels: int, spread: float, bits: int) -> None:
    x, own, weight = drawn(seed, channels, spread)
    scale = balanced(own, [weight], x.var(0), bits)
    assert bool((scale >= own * (1 - 1e-9)).all()) and float(scale.max()) == pytest.approx(float(own.max()))
    assert torch.equal(scale[own.argsort()].sort().values, scale[own.argsort()])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [1.0, 2.0])
def test_the_error_is_nearly_the_least(seed: int, spread: float) -> None:
    """Of 4 bits far below that of own scales; at any width at most a fifth above the best exponent's."""
    x, own, weight = drawn(seed, 64, spread)
    for bits in (3, 4, 6, 8):
        found = rounding_error(x, weight, balanced(own, [weight], x.var(0), bits), bits)
        every = [rounding_error(x, weight, own.max() * (own / own.max()) ** a, bits) for a in EXPONENTS]
        assert found <= 1.2 * min(every)
        assert bits > 4 or found < 0.7 * every[-1]


def test_all_readers_count() -> None:
    """Rows of a second layer with one large column want that channel's scale small."""
    x, own, weight = drawn(0, 16, 2.0)
    other = weight.clone()
    other[:, :, own.argmax()] *= 100
    alone, both = (balanced(own, weights, x.var(0), 4) for weights in ([weight], [weight, other]))
    assert not torch.equal(alone, both)


def test_channels_without_values_and_weights_without_rows_are_no_trouble() -> None:
    x, own, weight = drawn(0, 8, 1.0)
    x[:, 3], own[3], weight[:, :, 5] = 0, 1e-12, 0
    assert bool(balanced(own, [weight], x.var(0), 4).isfinite().all())


@pytest.fixture
def sketch() -> Sketch:
    return Sketch((3, 32, 32))


def test_layers_behind_windows_count_and_other_readers_do_not(sketch: Sketch) -> None:
    x, y = (sketch.norm(sketch.linear(sketch.pixels)) for _ in range(2))
    inner = sketch.linear(sketch.unfold(x, 32, 3, 2, SAME))
    sketch.calibrated(sketch.linear(sketch.gelu(inner)), sketch.depthwise(y, 32, 3, 2, SAME))
    assert layers_of_few_bits(x) == [inner] and layers_of_few_bits(y) == []
    assert columns_of(sketch.root, inner, 16).shape == (16, 9, 16)


@pytest.mark.parametrize("weights", [4, 8])
def test_only_weights_of_fewer_bits_than_activations_change_grids(weights: int) -> None:
    graph, batch = tiny.captured(), tiny.pixels(24)
    plain, found = (calibrate(graph, [batch], tiny.GRID, Policy(weights=bits)) for bits in (8, weights))
    changed = []
    for node in graph.module.graph.find_nodes(op="call_function", target=floatops.layer_norm):
        before, after = (calibrated.grid(node, Role.PRODUCT).scale for calibrated in (plain, found))
        assert bool((after >= before).all())
        changed.append(not torch.equal(before, after))
    assert any(changed) == (weights == 4) and not changed[-1]  # the head reads the last
