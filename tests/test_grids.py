"""The grids of movements, convolutions, pools and products: those of what they read, or of what reads them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sites import noise
from torch import fx
from windowed import SAME, Sketch

from intvit import floatops
from intvit.grid import Grid, Role
from intvit.grids import PROBABILITY_SCALE
from intvit.passes.pipeline import lower
from intvit.stages import CalibratedGraph


@pytest.fixture
def sketch() -> Sketch:
    return Sketch((3, 32, 32))


def patches(sketch: Sketch) -> fx.Node:
    """16 tokens of 16 channels, normalized."""
    image = sketch.pixels.args[0]
    sketch.graph.erase_node(sketch.pixels)
    return sketch.norm(sketch.linear(sketch.call(floatops.patchify, image, 8, 8, shape=(16, 192))))


def moved(sketch: Sketch, sources: tuple[fx.Node, ...], index: torch.Tensor, chunk: int) -> fx.Node:
    sketch.root.register_buffer("places", index.int().contiguous())
    shape = (index.shape[0], index.shape[1] * chunk)
    return sketch.call(floatops.rearrange, sources, sketch.graph.get_attr("places"), chunk, shape=shape)


def grid(graph: CalibratedGraph, node: fx.Node, role: Role) -> Grid:
    """By its name: calibration works on a copy."""
    copy = next(n for n in graph.source.module.graph.nodes if n.name == node.name)
    return graph.grid(copy, role)


def test_moved_rows_have_a_scale_per_channel(sketch: Sketch) -> None:
    result = moved(sketch, (patches(sketch),), torch.arange(16).flip(0)[:, None], 16)
    graph = sketch.calibrated(sketch.linear(result))
    found = grid(graph, result, Role.PRODUCT)
    assert (found.dtype, found.scale.numel(), found.offset.abs().max()) == ("int8", 16, 0)
    assert found.scale.unique().numel() > 8


def test_a_transpose_has_one_scale(sketch: Sketch) -> None:
    result = moved(sketch, (patches(sketch),), torch.arange(256).reshape(16, 16).T, 1)
    graph = sketch.calibrated(sketch.linear(result))
    assert grid(graph, result, Role.PRODUCT).scale.numel() == 1


def test_channels_that_meet_share_the_coarser_scale(sketch: Sketch) -> None:
    index = torch.stack([torch.tensor([2 * i, 2 * i + 1] if i % 2 else [2 * i + 1, 2 * i]) for i in range(16)])
    result = moved(sketch, (patches(sketch),), index, 8)
    graph = sketch.calibrated(sketch.linear(result))
    scale = grid(graph, result, Role.PRODUCT).scale
    assert torch.equal(scale[:8], scale[8:])


def test_windows_of_a_convolution_have_the_grid_of_their_pixels(sketch: Sketch) -> None:
    x = sketch.norm(sketch.linear(sketch.pixels))
    windows = sketch.unfold(x, 32, 3, 2, SAME)
    graph = sketch.calibrated(sketch.linear(windows))
    own, repeated = grid(graph, x, Role.PRODUCT), grid(graph, windows, Role.PRODUCT)
    assert torch.equal(repeated.scale, own.scale.repeat(9)) and torch.equal(repeated.offset, own.offset.repeat(9))


def test_a_maximum_has_the_grid_of_what_it_reads(sketch: Sketch) -> None:
    x = sketch.gelu(sketch.linear(sketch.pixels))
    pooled = sketch.pool(x, "max", 32, 4, 4)
    graph = sketch.calibrated(sketch.linear(pooled))
    assert grid(graph, pooled, Role.WIDE) is grid(graph, x, Role.WIDE)


def test_probabilities_and_products(sketch: Sketch) -> None:
    x = patches(sketch)
    scores = sketch.call(floatops.product, x, x, 1, shape=(16, 16))
    weights = sketch.call(floatops.softmax, scores, 0.1, shape=(16, 16))
    graph = sketch.calibrated(sketch.linear(weights))
    operand = grid(graph, x, Role.MATRIX)
    assert grid(graph, scores, Role.ACCUMULATOR).scale.item() == pytest.approx(float(operand.scale) ** 2)
    assert grid(graph, weights, Role.WIDE).scale.item() == PROBABILITY_SCALE
    lower(graph)


def test_depthwise_weights_fill_eight_bits(sketch: Sketch) -> None:
    x = sketch.norm(sketch.linear(sketch.pixels))
    result = sketch.depthwise(x, 32)
    graph = sketch.calibrated(result)
    own = grid(graph, x, Role.PRODUCT)
    weight = graph.source.module.get_buffer(result.args[1].target).double() * own.scale
    largest = (weight.abs().amax(0) / grid(graph, result, Role.ACCUMULATOR).scale).round()
    assert bool((largest == 127).all())


def attention(sketch: Sketch, more: Callable[[fx.Node], fx.Node]) -> tuple[CalibratedGraph, fx.Node, fx.Node]:
    """An attention whose values lie around 6 with a deviation of 1; `more` reads it. Its values, and it."""
    x = patches(sketch)
    q, k, v = (sketch.linear(x) for _ in range(3))
    sketch.root.get_buffer(str(v.args[2].target)).fill_(6.0)  # type: ignore[union-attr]
    result = sketch.call(floatops.attention, q, k, v, 2, 8**-0.5, shape=x.meta["shape"])
    return sketch.calibrated(more(result)), v, result


def test_values_lie_around_their_middle_and_so_does_their_mean(sketch: Sketch) -> None:
    graph, v, result = attention(sketch, sketch.linear)
    values, means, sums = (
        grid(graph, v, Role.VALUE),
        grid(graph, result, Role.PRODUCT),
        grid(graph, v, Role.ACCUMULATOR),
    )
    assert torch.equal(values.offset, means.offset) and torch.equal(values.offset, sums.offset)
    assert float((values.offset - 6).abs().max()) < 3 and float(values.scale.max()) < 5 / 127
    assert noise(graph, lower(graph)) < 0.02


@pytest.mark.parametrize(
    "reader",
    [
        Sketch.norm,
        Sketch.gelu,
        lambda sketch, x: sketch.depthwise(x, 4),
        lambda sketch, x: sketch.convolution(x, 4),
        lambda sketch, x: sketch.add(x, sketch.linear(x)),
    ],
    ids=["norm", "gelu", "padded depthwise", "padded convolution", "sum"],
)
def test_values_have_no_offset_unless_products_alone_take_it(sketch: Sketch, reader: Any) -> None:
    """A window that leaves the image reads 0, which a grid around 6 does not hold."""
    graph, v, result = attention(sketch, lambda x: reader(sketch, x))
    for node, role in ((v, Role.VALUE), (v, Role.ACCUMULATOR), (result, Role.PRODUCT)):
        assert not bool(grid(graph, node, role).offset.any())
    assert noise(graph, lower(graph)) < 0.05
