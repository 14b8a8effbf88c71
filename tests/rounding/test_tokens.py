"""What tokens weigh: gradients of the answer, with no token more than its share."""

import pytest
import tiny
import torch
from torch import Tensor, nn

from intvit import floatops
from intvit.frontend import capture
from intvit.nodes import arguments
from intvit.rounding import tokens
from intvit.rounding.tokens import LARGEST_SHARE, energies, shares, shares_of_operands, shares_of_read
from intvit.stages import FloatGraph

IMAGES = torch.from_numpy(tiny.GRID.normalized(tiny.pixels(16)))


def token_weights(graph: FloatGraph, images: Tensor) -> dict[str, Tensor]:
    return {name: shares(energy.tokens) for name, energy in energies(graph, images).items()}


def layers(graph: FloatGraph) -> list[torch.fx.Node]:
    return list(graph.module.graph.find_nodes(op="call_function", target=floatops.linear))


def test_every_layer_has_a_weight_for_each_of_its_tokens() -> None:
    graph = capture(tiny.vit(), tiny.SHAPE)
    found = token_weights(graph, IMAGES)
    for node in layers(graph):
        weight = found[node.name]
        assert len(weight) == node.meta["shape"][0]
        assert float(weight.mean()) == pytest.approx(1, abs=1e-5) and bool((weight >= 0).all())
        assert float(weight.max()) <= LARGEST_SHARE * len(weight) * 1.0001 or len(weight) == 1


def test_the_class_token_is_what_the_last_block_is_for() -> None:
    graph = capture(tiny.vit(), tiny.SHAPE)
    found = token_weights(graph, IMAGES)
    last = layers(graph)[-2]  # the MLP's second product; behind it only the class token is read
    assert int(found[last.name].argmax()) == 0
    assert float(found[last.name][0]) == pytest.approx(LARGEST_SHARE * 17, rel=1e-4)


@pytest.mark.parametrize("memory", [1, 1 << 31])
def test_against_the_gradient_of_torch(monkeypatch: pytest.MonkeyPatch, memory: int) -> None:
    """Behind the layer each token has a factor of its own: its square is what the token weighs, for any memory."""

    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 5, 8, 8)
            self.gain = nn.Parameter(torch.tensor([1.0, 2, 3, 4] * 4)[:, None], requires_grad=False)

        def forward(self, image: Tensor) -> Tensor:
            return self.patch(image).flatten(2).mT * self.gain

    monkeypatch.setattr(tokens, "LARGEST_SHARE", 1.0)
    monkeypatch.setattr(tokens, "MEMORY", memory)
    graph = capture(Tower().eval(), tiny.SHAPE)
    assert tokens._at_once(graph) == (1 if memory == 1 else tokens.AT_ONCE)
    (weight,) = token_weights(graph, IMAGES).values()
    expected = torch.tensor([1.0, 4, 9, 16] * 4)
    assert torch.allclose(weight, expected / expected.mean(), rtol=1e-4)


def test_an_operand_weighs_what_its_readers_do() -> None:
    graph = capture(tiny.vit(), tiny.SHAPE)
    found = energies(graph, IMAGES)
    operands = shares_of_operands(graph, found)
    (query, key, value, *_) = layers(graph)[1:]
    (norm,) = {arguments(layer)[0] for layer in (query, key, value)}
    together = sum((found[layer.name].tokens for layer in (query, key, value)), torch.zeros(17))
    torch.testing.assert_close(operands[norm.name], shares(together))
    gelu = arguments(layers(graph)[-2])[0]
    assert int(operands[gelu.name].argmax()) == 0


def test_images_without_a_finite_answer_are_left_out() -> None:
    graph = capture(tiny.small(), tiny.SHAPE)
    images = IMAGES.clone()
    images[0] = torch.nan
    assert energies(graph, images[:8]) == {}
    assert next(iter(energies(graph, images).values())).images == 8


def test_an_answer_without_linear_layers_has_none() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(32)

        def forward(self, image: Tensor) -> Tensor:
            return self.norm(image.flatten(1, 2))

    graph = capture(Scaled().eval(), tiny.SHAPE)
    assert energies(graph, IMAGES) == {}


def test_a_gradient_that_is_not_finite_tells_nothing() -> None:
    for value in (torch.inf, torch.nan):
        assert shares(torch.tensor([value, 1.0, 2.0])).tolist() == [1, 1, 1]


def test_the_same_every_time() -> None:
    graph = capture(tiny.small(), tiny.SHAPE)
    first, second = token_weights(graph, IMAGES), token_weights(graph, IMAGES)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_tokens_that_nothing_reads_have_no_part_in_a_blocks_loss() -> None:
    """Behind the last block only the class token is read, and grids hold its values alone."""
    graph = capture(tiny.vit(), tiny.SHAPE)
    last = layers(graph)[-2]
    found = energies(graph, IMAGES)
    assert shares_of_read(found[last.name].tokens).tolist() == [17, *[0] * 16]
    keys = next(node for node in layers(graph) if bool((found[node.name].tokens > 0).all()))
    torch.testing.assert_close(shares_of_read(found[keys.name].tokens), shares(found[keys.name].tokens))


@pytest.mark.parametrize("tokens", [1, 5])
def test_without_a_gradient_all_are_alike(tokens: int) -> None:
    assert shares_of_read(torch.zeros(tokens)).tolist() == [1] * tokens
