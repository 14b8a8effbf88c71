"""Equalized queries and keys: the same model, with channels of one size."""

import tiny
import torch

from intvit import floatops
from intvit.calibrate import observe
from intvit.frontend import capture
from intvit.grids import Policy
from intvit.nodes import arguments
from intvit.passes.hoist_selection import hoist_selection
from intvit.rounding.equalize import equalized

PIXELS = [tiny.pixels(16)]
IMAGES = torch.from_numpy(tiny.GRID.normalized(PIXELS[0]))


def uneven() -> torch.nn.Module:
    """Keys with offsets, and channels of very different sizes."""
    model = tiny.vit()
    with torch.no_grad():
        for block in model.blocks:
            block.qkv.weight[32:64] *= torch.logspace(-1, 1, 32)[:, None]
            block.qkv.bias[32:64] += 3
    return model


def test_the_model_stays_and_channels_get_one_size() -> None:
    graph = capture(uneven(), tiny.SHAPE)
    seen, _ = observe(hoist_selection(graph), PIXELS, tiny.GRID, Policy("minmax"))
    after = equalized(graph, seen)
    for found, expected in zip(after(IMAGES), graph(IMAGES), strict=True):
        assert torch.allclose(found, expected, atol=1e-4)
    seen, _ = observe(hoist_selection(after), PIXELS, tiny.GRID, Policy("minmax"))
    attentions = hoist_selection(after).module.graph.find_nodes(op="call_function", target=floatops.attention)
    for node in attentions:
        queries, keys = (seen[name] for name in _names(node))
        assert float(keys.mean.abs().max()) < 1e-3
        rms = (queries.deviation.square() + queries.mean.square()).sqrt()
        assert torch.allclose(rms, keys.deviation, rtol=0.02)


def _names(node: torch.fx.Node) -> list[str]:
    found = []
    for operand in arguments(node)[:2]:
        while operand.target is floatops.select_tokens:
            operand = arguments(operand)[0]
        found.append(operand.name)
    return found


def test_the_graph_that_is_given_is_left_alone() -> None:
    graph = capture(uneven(), tiny.SHAPE)
    before = {name: buffer.clone() for name, buffer in graph.module.named_buffers()}
    seen, _ = observe(hoist_selection(graph), PIXELS, tiny.GRID, Policy("minmax"))
    equalized(graph, seen)
    assert all(torch.equal(buffer, before[name]) for name, buffer in graph.module.named_buffers())


def test_keys_that_are_the_values_too_are_left_alone() -> None:
    class Shared(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.q, self.kv = torch.nn.Conv2d(3, 16, 8, 8), torch.nn.Linear(16, 16), torch.nn.Linear(16, 16)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = self.patch(image).flatten(2).mT
            kv = self.kv(x)
            return torch.nn.functional.scaled_dot_product_attention(self.q(x)[:, None], kv[:, None], kv[:, None])[:, 0]

    graph = capture(Shared().eval(), tiny.SHAPE)
    seen, _ = observe(hoist_selection(graph), PIXELS, tiny.GRID, Policy("minmax"))
    for found, expected in zip(equalized(graph, seen)(IMAGES), graph(IMAGES), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)
