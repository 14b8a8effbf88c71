"""Float values on a grid: those of `Grid`, and the gradients that pass."""

import pytest
import torch

from intvit.grid import Grid
from intvit.levels import uniform_levels
from intvit.rounding.layer import TrainedGrid
from intvit.rounding.on_grid import on_grid, straight_through

X = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * 3


def grid(bits: int) -> Grid:
    scale = torch.linspace(0.01, 0.06, 6, dtype=torch.float64)
    return Grid(scale, scale * 3.25, "int8", None if bits == 8 else uniform_levels(bits))


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_values_are_those_of_the_grid(bits: int) -> None:
    expected = grid(bits).dequantize(grid(bits).quantize(X))
    assert torch.allclose(on_grid(X, grid(bits)), expected, atol=1e-5)
    assert torch.allclose(straight_through(X, grid(bits)), expected, atol=1e-5)
    assert torch.allclose(TrainedGrid(grid(bits), 6, torch.zeros(1))(X), expected, atol=1e-4)


@pytest.mark.parametrize("bits", [8, 4])
def test_gradients_pass_inside_and_end_outside(bits: int) -> None:
    x = X.clone().requires_grad_()
    straight_through(x, grid(bits)).sum().backward()
    steps = (X.double() - grid(bits).offset) / grid(bits).scale
    inside = (steps > -128) & (steps < (127 if bits == 8 else 112))
    assert inside.any() and not inside.all() and x.grad is not None
    assert torch.allclose(x.grad, inside.float(), atol=1e-6)


def test_a_scale_learns_to_hold_what_it_clips() -> None:
    narrow = TrainedGrid(grid(4), 1, torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.Adam([narrow.log_scale], lr=0.02)
    errors = []
    for _ in range(100):
        loss = (narrow(X) - X).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    assert errors[-1] < errors[0] / 2
    found = narrow.result()
    assert torch.allclose(on_grid(X, found), narrow(X).detach(), atol=1e-4)


def test_the_anchor_stays_where_it_is() -> None:
    anchor = torch.tensor([-17.0], dtype=torch.float64)
    trained = TrainedGrid(grid(8), 6, anchor)
    with torch.no_grad():
        trained.log_scale += 0.3
    before, after = grid(8), trained.result()
    assert torch.allclose(before.scale * anchor + before.offset, after.scale * anchor + after.offset)
    assert torch.allclose(after.scale, before.scale * torch.exp(torch.tensor(0.3)).double(), rtol=1e-5)
