"""Predicted losses: the formula term by term, and the divergence that is measured when a layer is rounded alone."""

from functools import cache

import numpy as np
import tiny
import torch
from torch import Tensor, nn

from intvit import floatops
from intvit.bits import keeps_whole
from intvit.calibrate import calibrate
from intvit.frontend import capture
from intvit.grid import Role
from intvit.grids import PRESETS
from intvit.nodes import arguments
from intvit.noise import results
from intvit.passes.hoist_selection import hoist_selection
from intvit.rounding.sensitivity import loss, sensitivities
from intvit.rounding.sequence import round_layer, rows
from intvit.rounding.statistics import moments
from intvit.rounding.target import RIDGE
from intvit.rounding.tokens import energies
from intvit.stages import CalibratedGraph, FloatGraph

PIXELS = tiny.pixels(48)
IMAGES = torch.from_numpy(tiny.GRID.normalized(PIXELS))


def linear(graph: FloatGraph) -> list[torch.fx.Node]:
    nodes = graph.module.graph.find_nodes(op="call_function", target=floatops.linear)
    return [node for node in nodes if not keeps_whole(node)]


def calibrated(graph: FloatGraph) -> CalibratedGraph:
    return calibrate(hoist_selection(graph), [PIXELS], tiny.GRID, PRESETS["default"])


@cache
def tiny_losses() -> tuple[FloatGraph, dict[str, dict[int, float]]]:
    graph = capture(tiny.vit(), tiny.SHAPE)
    names = [node.name for node in linear(graph)]
    return graph, sensitivities(graph, calibrated(graph), IMAGES, names, (3, 4, 8), energies(graph, IMAGES))


def test_the_loss_is_half_the_weighted_energy_of_the_output_error() -> None:
    generator = torch.Generator().manual_seed(0)
    x, error = torch.randn(200, 6, generator=generator), torch.randn(4, 6, generator=generator)
    gradients = torch.tensor([1.0, 0.0, 5.0, 0.25])
    output = (x - x.mean(0)) @ error.T
    expected = (output.square().mean(0) * gradients).sum() / 2
    assert np.isclose(loss(error, moments(x, x).xx, gradients), float(expected), rtol=1e-4)


def test_energies_are_squared_gradients_by_token_and_by_channel() -> None:
    """Behind the layer each token and each channel has a factor of its own."""
    graph = capture(Tower().eval(), tiny.SHAPE)
    (found,) = energies(graph, IMAGES[:20]).values()
    tokens, channels = Tower().rows.flatten().square(), Tower().gain.square()
    assert found.images == 20
    assert torch.allclose(found.tokens / found.tokens.sum(), tokens / tokens.sum(), rtol=1e-4)
    assert torch.allclose(found.channels / found.channels.sum(), channels / channels.sum(), rtol=1e-4)
    assert torch.allclose(found.tokens.sum(), found.channels.sum(), rtol=1e-4)
    assert torch.allclose(found.per_image * 20, found.channels)


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.patch = nn.Conv2d(3, 5, 8, 8)
        self.rows = nn.Parameter(torch.tensor([1.0, 2, 3, 4] * 4)[:, None], requires_grad=False)
        self.gain = nn.Parameter(torch.tensor([1.0, 3, 0.5, 2, 1]), requires_grad=False)

    def forward(self, image: Tensor) -> Tensor:
        return self.patch(image).flatten(2).mT * self.rows * self.gain


def test_predictions_are_near_what_is_measured() -> None:
    """Each layer rounded to 3 bits alone: the divergence of the answers to other images, in order and in size."""
    graph, losses = tiny_losses()
    measured = divergences(graph, torch.from_numpy(tiny.GRID.normalized(tiny.pixels(256, seed=5))), 3)
    found, expected = np.log([(losses[name][3], measured[name]) for name in losses]).T
    assert np.abs(found - expected).max() < np.log(6)
    assert np.corrcoef(found, expected)[0, 1] > 0.8


@torch.no_grad()
def divergences(graph: FloatGraph, images: Tensor, bits: int) -> dict[str, float]:
    """From the answers of `graph`, when one layer of it is rounded and all others stay."""
    module, grids = graph.module, calibrated(graph)
    values = results(module, IMAGES)
    exact = graph(images)[0].log_softmax(-1)
    found = {}
    for node in linear(graph):
        source = arguments(node)[0]
        buffers = [module.get_buffer(str(x.target)) for x in arguments(node)[1:]]
        before = [buffer.clone() for buffer in buffers]
        moments_of = rows(values[source.name], values[node.name], None)
        layer = round_layer(buffers[0], grids.grid(source, Role.PRODUCT), moments_of, bits, RIDGE)
        for buffer, value in zip(buffers, (layer.weight, layer.bias), strict=True):
            buffer.copy_(value)
        changed = graph(images)[0].log_softmax(-1)
        found[node.name] = float((exact.exp() * (exact - changed)).sum(-1).mean())
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
    return found


def test_fewer_bits_cost_more() -> None:
    for by_bits in tiny_losses()[1].values():
        assert by_bits[3] > 2 * by_bits[4] and by_bits[4] > 50 * by_bits[8] > 0


def test_a_layer_that_matters_more_costs_more() -> None:
    """The same error before a factor of 10: the loss of an answer that is not classes is that of its own energy."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.patch = nn.Conv2d(3, 16, 8, 8)
                self.loud, self.quiet, self.last = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 8)
            self.quiet.load_state_dict(self.loud.state_dict())

        def forward(self, image: Tensor) -> Tensor:
            x = self.patch(image).flatten(2).mT
            return self.last(10 * self.loud(x) + self.quiet(x))

    graph = capture(Two().eval(), tiny.SHAPE)
    found = sensitivities(
        graph, calibrated(graph), IMAGES, [node.name for node in linear(graph)], (4,), energies(graph, IMAGES)
    )
    quiet, loud = sorted(by_bits[4] for by_bits in found.values())
    assert np.isclose(loud, 100 * quiet, rtol=1e-3)


def test_the_same_every_time() -> None:
    graph, before = tiny_losses()
    again = sensitivities(graph, calibrated(graph), IMAGES, list(before), (3, 4, 8), energies(graph, IMAGES))
    assert again == before
