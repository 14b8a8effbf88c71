"""Layers of zeros, keys that are all alike, functions on the edge of where they are finite: few bits work there too."""

from collections.abc import Callable

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import intvit
from intvit import floatops
from intvit.dialect.divide import divide
from intvit.frontend import capture
from intvit.grid import Grid, Role
from intvit.nodes import arguments
from intvit.preprocess import Preprocessing
from intvit.rounding.evaluate import evaluate
from intvit.rounding.layer import Layer
from intvit.rounding.on_grid import finite_gradient
from intvit.stages import CalibratedGraph
from intvit.verify.no_float import prove_no_float
from intvit.verify.overflow import prove_no_overflow

PREPROCESSING = Preprocessing(size=(32, 32), resize=32, mean=(0.5,) * 3, std=(0.25,) * 3)
IMAGES = PREPROCESSING.normalize(tiny.pixels(8))
WIDTH = 16
Mixing = Callable[[Tensor, Tensor, Tensor], Tensor]


class Block(nn.Module):
    """One residual branch between linear layers, repeated often enough to be trained as a block."""

    def __init__(self, mix: Mixing) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix, self.patch, self.norm = mix, nn.Conv2d(3, WIDTH, 8, 8), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.fc1, self.fc2, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch(image).flatten(2).mT
        y = self.norm(x)
        x = x + self.out(self.mix(self.q(y), self.k(y), self.v(y)))
        return self.head((x + self.fc2(F.gelu(self.fc1(x)))).mean(1))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Sums of weights that are 0 for many queries."""
    q, k = F.relu(q - 0.8), F.relu(k)
    return (q @ (k.mT @ v)) / ((q * k.sum(1, keepdim=True)).sum(-1, keepdim=True) + 1e-6)


FUNCTIONS: dict[str, Mixing] = {
    "divisors that round to 0": linear_attention,
    "a root at 0": lambda q, k, v: q.abs().sqrt() + k + v,
    "a product's root at 0": lambda q, k, v: (F.relu(q) * F.relu(k)).sqrt() + v,
    "a logarithm at 0": lambda q, k, v: q.square().log() + k + v,
}


def blank(*layers: str) -> nn.Module:
    """Attention with layers whose weights and biases are 0."""
    model = Block(attention)
    for name in layers:
        for parameter in model.get_submodule(name).parameters():
            nn.init.zeros_(parameter)
    return model


def with_equal_tokens() -> nn.Module:
    """Tokens that differ by less than 16 bits tell, and with them the keys."""
    model = Block(attention)
    model.norm = nn.Identity()  # type: ignore[assignment]
    nn.init.normal_(model.patch.weight, std=1e-8)
    nn.init.normal_(model.patch.bias)  # type: ignore[arg-type]
    return model


def check(model: nn.Module, bits: str) -> None:
    """It is quantized, proved, and not far from float."""
    model = model.eval().requires_grad_(False)
    found = intvit.quantize(model, IMAGES, calib=8, preprocessing=PREPROCESSING, bits=bits)
    prove_no_float(found.graph)
    prove_no_overflow(found.graph)
    others = tiny.pixels(8, seed=9)
    exact = model(torch.from_numpy(PREPROCESSING.normalize(others))).numpy()
    assert np.square(found(others) - exact).sum() < 0.2 * np.square(exact).sum()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_that_are_not_finite_everywhere(name: str) -> None:
    check(Block(FUNCTIONS[name]), "W4A4")


@pytest.mark.parametrize("layers", [("q",), ("q", "k", "v", "out", "fc1", "fc2")])
def test_layers_of_zeros(layers: tuple[str, ...]) -> None:
    check(blank(*layers), "W4A8")


def test_keys_that_are_all_alike() -> None:
    check(with_equal_tokens(), "W4A4")


def test_a_divisor_of_zero_is_that_of_the_integers() -> None:
    """The float stand-in and the integer operation, on the same grids."""
    graph = capture(Block(linear_attention).eval(), tiny.SHAPE)
    node = graph.module.graph.find_nodes(op="call_function", target=floatops.divide)[0]
    a, b = arguments(node)
    scales = {a: 2.0**-10, b: 2.0**-6}
    calibrated = CalibratedGraph(graph, tiny.GRID, False)
    for operand, scale in scales.items():
        calibrated = calibrated.with_grid(operand, Role.WIDE, grid(scale))
    values = {a: torch.tensor([[[0.5, -0.25]]]), b: torch.tensor([[[0.001]]])}
    found = evaluate(node, values.__getitem__, calibrated)
    integers = [grid(scales[x]).quantize(values[x]) for x in (a, b)]
    assert int(integers[1]) == 0
    multiplier, pre_shift = torch.tensor([1 << 14], dtype=torch.int32), torch.tensor([10], dtype=torch.int32)
    expected = divide(*integers, multiplier, pre_shift, 19, "int16")  # 2^15 · 2^14 / 2^(10 + 19) = 1
    assert torch.equal(found, expected.float() * scales[a] / scales[b])


def grid(scale: float) -> Grid:
    return Grid(torch.tensor([scale], dtype=torch.float64), torch.zeros(1, dtype=torch.float64), "int16")


def test_gradients_are_finite_and_others_stay() -> None:
    x = torch.tensor([0.0, 4.0, -9.0], requires_grad=True)
    (finite_gradient(x).abs().sqrt() + x).sum().backward()
    assert x.grad is not None and torch.allclose(x.grad, torch.tensor([1.0, 1.25, 1 - 1 / 6]))


def test_room_for_a_bias_changes_no_row_that_has_it() -> None:
    real = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)) * 3
    step = torch.tensor([1e-2, 1e-30, 1e-11])
    layer = Layer(real.round(), real, step, torch.tensor([0.1, 0.1, 0.1]), grid(2.0**-5), 127)
    found = layer.with_room_for(layer.bias)
    assert torch.equal(found.integers[0], layer.integers[0]) and found.step[0] == step[0]
    assert bool((found.bias / found.step <= 2**29 * 1.001).all())
    assert torch.allclose(found.weight, layer.weight, atol=float(found.step[1:].max()) * 2**5)
