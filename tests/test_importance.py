"""Importance is the energy that an error of one channel has behind the products: found here by making that error."""

import pytest
import torch
from torch import Tensor, fx, nn

from intvit import floatops
from intvit.frontend import capture
from intvit.importance import importance, shared


class TwoReaders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.a, self.b, self.c = nn.Linear(8, 5), nn.Linear(8, 7), nn.Linear(8, 8)

    def forward(self, image: Tensor) -> Tensor:
        x = nn.functional.gelu(self.embed(image).flatten(2).transpose(1, 2))
        return torch.cat([self.a(x), self.b(x)], 2).mean(1)


class Windows(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.conv = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 3, padding=1, groups=groups)

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(nn.functional.silu(self.embed(image))).flatten(1)


def behind_activation(module: nn.Module) -> tuple[fx.GraphModule, fx.Node]:
    graph = capture(module, (3, 16, 16)).module
    return graph, next(n for n in graph.graph.nodes if n.target in (floatops.gelu, floatops.pointwise))


def test_readers_add_up() -> None:
    model = TwoReaders()
    module, node = behind_activation(model)
    expected = model.a.weight.square().sum(0) + model.b.weight.square().sum(0)
    assert torch.allclose(shared(module, node), expected, rtol=1e-5)


@pytest.mark.parametrize("groups", [1, 8])
def test_windows_add_up(groups: int) -> None:
    model = Windows(groups)
    module, node = behind_activation(model)
    weight = model.conv.weight.square()
    expected = weight.sum((0, 2, 3)) if groups == 1 else weight.sum((1, 2, 3))
    assert torch.allclose(shared(module, node), expected, rtol=1e-5)


def test_it_is_the_energy_of_an_error() -> None:
    model = TwoReaders()
    module, node = behind_activation(model)
    energies = shared(module, node)
    for channel in range(8):
        error = torch.zeros(8)
        error[channel] = 0.5
        with torch.no_grad():
            moved = sum(float((reader.weight @ error).square().sum()) for reader in (model.a, model.b))
        assert moved == pytest.approx(0.25 * float(energies[channel]), rel=1e-5)


def test_other_tensors_have_scales_of_their_own() -> None:
    module, node = behind_activation(TwoReaders())
    (embedded,) = node.all_input_nodes
    assert shared(module, embedded) is None
    assert importance(module, embedded) is None
