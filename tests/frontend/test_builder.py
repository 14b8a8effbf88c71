"""Cutting views to nodes: rows of weights, selections, one movement for a chain of them, and factors folded away."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from intvit import floatops
from intvit.frontend.builder import Builder, block_size, placed, zero_padded
from intvit.frontend.values import PROBE, ZERO, NotCanonical, View, whole
from intvit.nodes import arguments

TOKENS, CHANNELS = 6, 4


class Sketch:
    """A builder with a linear of an image, and what its nodes are worth."""

    def __init__(self) -> None:
        self.b = Builder()
        self.image = self.b.graph.placeholder("image")
        rows = self.b.emit(floatops.patchify, (self.image, 2, 2), TOKENS, 12)
        self.x = self.b.linear(rows, torch.randn(CHANNELS, 12), torch.randn(CHANNELS))

    def values(self, view: View) -> Tensor:
        """The tensor of a view at batch `PROBE`, with its factor."""
        self.b.graph.output(view.base)
        module = torch.fx.GraphModule(self.b.root, self.b.graph)
        result: Tensor = module(torch.randn(PROBE, 3, 4, 6, generator=torch.Generator().manual_seed(0)))
        self.b.graph.erase_node(self.b.graph.output_node())
        flat = torch.cat([result.flatten(), torch.zeros(1)])
        return flat[view.index] * view.factor

    def made(self) -> list[str]:
        return [n.target.__name__ for n in self.b.graph.nodes if n.op == "call_function"]


@pytest.fixture
def sketch() -> Sketch:
    torch.manual_seed(0)
    return Sketch()


def test_channels_are_rows_of_the_weight(sketch: Sketch) -> None:
    picked = sketch.b.cut(sketch.x.move(lambda t: t[..., [2, 0]]))
    assert sketch.made() == ["patchify", "linear", "linear"]
    assert picked.shape == (TOKENS, 2)
    assert torch.allclose(sketch.values(picked), sketch.values(sketch.x)[..., [2, 0]])


def test_consecutive_tokens_are_selected(sketch: Sketch) -> None:
    picked = sketch.b.cut(sketch.x.move(lambda t: t[:, 2:5]))
    assert sketch.made()[-1] == "select_tokens" and arguments(picked.base)[1:] == (2, 5)


def test_the_whole_is_itself(sketch: Sketch) -> None:
    assert sketch.b.cut(sketch.x.move(lambda t: t.unflatten(1, (2, 3)))).base is sketch.x.base


def test_a_movement_of_a_movement_is_one(sketch: Sketch) -> None:
    first = sketch.b.cut(sketch.x.move(lambda t: t.flip(1)))
    second = sketch.b.cut(first.move(lambda t: t[:, [0, 0, 2, 5]]))
    assert arguments(second.base)[0] == (sketch.x.base,)
    assert torch.equal(sketch.values(second), sketch.values(sketch.x).flip(1)[:, [0, 0, 2, 5]])


def test_equal_movements_are_made_once_and_their_tables_kept_once(sketch: Sketch) -> None:
    for _ in range(2):
        sketch.b.cut(sketch.x.move(lambda t: t.flip(1)))
    other = sketch.b.linear(sketch.x, torch.randn(CHANNELS, CHANNELS), None)
    sketch.b.cut(other.move(lambda t: t.flip(1)))
    assert sketch.made().count("rearrange") == 2
    assert sum(name.startswith("index") for name, _ in sketch.b.root.named_buffers()) == 1


def test_zeros_are_a_constant_among_the_sources(sketch: Sketch) -> None:
    padded = sketch.b.cut(zero_padded(sketch.x, (0, 0, 1, 0)))
    sources, _, chunk = arguments(padded.base)
    assert len(sources) == 2 and chunk == CHANNELS
    assert torch.equal(sketch.values(padded)[:, 0], torch.zeros(PROBE, CHANNELS))


def test_one_factor_is_folded_once(sketch: Sketch) -> None:
    scaled = View(sketch.x.base, sketch.x.shape, sketch.x.index, 0.5)
    one, two = sketch.b.unscaled(scaled), sketch.b.unscaled(scaled)
    assert one.base is two.base and one.factor == 1.0
    assert torch.allclose(sketch.values(one), sketch.values(sketch.x) * 0.5)


def test_factors_of_a_sum_go_into_both_arms(sketch: Sketch) -> None:
    arms = [sketch.b.linear(sketch.x, torch.randn(CHANNELS, CHANNELS), None) for _ in range(2)]
    total = sketch.b.emit(floatops.add, tuple(arm.base for arm in arms), TOKENS, CHANNELS)
    factor, offset = torch.randn(CHANNELS), torch.randn(CHANNELS)
    scaled = sketch.b.scaled(total, factor, offset)
    assert "multiply" not in sketch.made()
    assert torch.allclose(sketch.values(scaled), sketch.values(total) * factor + offset, atol=1e-6)


def test_factors_of_what_has_no_weights_are_operations(sketch: Sketch) -> None:
    gelu = sketch.b.emit(floatops.gelu, (sketch.x.base,), TOKENS, CHANNELS)
    factor, offset = torch.randn(CHANNELS), torch.randn(CHANNELS)
    scaled = sketch.b.scaled(gelu, factor, offset)
    assert sketch.made()[-2:] == ["multiply", "add"]
    assert torch.allclose(sketch.values(scaled), sketch.values(gelu) * factor + offset, atol=1e-6)


def test_factors_of_elements_are_one_product(sketch: Sketch) -> None:
    factor = torch.randn(TOKENS, CHANNELS).expand(PROBE, -1, -1)
    cut = sketch.b.cut(View(sketch.x.base, sketch.x.shape, sketch.x.index, factor))
    assert sketch.made()[-1] == "multiply"
    assert torch.allclose(sketch.values(cut), sketch.values(sketch.x) * factor)


def test_factors_that_differ_between_images_are_refused(sketch: Sketch) -> None:
    factor = torch.randn(PROBE, TOKENS, CHANNELS)
    with pytest.raises(NotCanonical, match="differs between the images"):
        sketch.b.cut(View(sketch.x.base, sketch.x.shape, sketch.x.index, factor))


def test_rows_that_lie_in_place_are_not_moved(sketch: Sketch) -> None:
    shuffled = sketch.x.move(lambda t: t.flip(1).transpose(0, 1))
    base, place = sketch.b.rows(shuffled)
    assert base.base is sketch.x.base
    assert torch.equal(placed(base, place).index, shuffled.index)


def test_the_pixels_of_the_image(sketch: Sketch) -> None:
    image = whole(sketch.image, 3, 24)
    pixels = sketch.b.of_pixels(image.moved(image.index.reshape(PROBE, 3, 4, 6)))
    assert pixels.shape == (24, 3) and sketch.b.of_pixels(sketch.x) is sketch.x
    given = torch.randn(PROBE, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sketch.values(pixels), given)


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ([[0, 1, 2, 3], [8, 9, 10, 11]], 4),
        ([[2, 3, 0, 1], [4, 5, 6, 7]], 2),
        ([[1, 2, 3, 4], [0, 1, 2, 3]], 1),
        ([[ZERO] * 4, [4, 5, 6, 7]], 4),
        ([[0, 1, ZERO, ZERO], [4, 5, 6, 7]], 2),
        ([[ZERO, 1, 2, 3], [4, 5, 6, 7]], 1),
    ],
)
def test_the_size_of_blocks(index: Any, expected: int) -> None:
    assert block_size(torch.tensor(index), 4) == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(ZERO, TOKENS * CHANNELS - 1), min_size=CHANNELS, max_size=CHANNELS * 6))
def test_any_elements(numbers: list[int]) -> None:
    """Whatever elements are cut, in whatever order: they are those of the view."""
    torch.manual_seed(0)
    sketch = Sketch()
    local = torch.tensor(numbers[: len(numbers) // CHANNELS * CHANNELS]).reshape(1, -1, CHANNELS)
    first = torch.arange(PROBE)[:, None, None] * TOKENS * CHANNELS
    view = sketch.x.moved(torch.where(local < 0, ZERO, local + first))
    assert torch.allclose(sketch.values(sketch.b.cut(view)), sketch.values(view))
