"""GPTQ against rounding each weight by itself: nearer in what it minimizes, the same where nothing is to be gained."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from intvit.rounding.gptq import BLOCK, inverse_factor, rounded


def problem(rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Weights, and the moments of an input with strong correlations."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4 * columns, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    return torch.randn(rows, columns, generator=generator), (x.T @ x / len(x)).double()


def error(weight: Tensor, integers: Tensor, steps: Tensor, moments: Tensor) -> Tensor:
    """Of each row's output."""
    difference = integers.double() * steps[:, None] - weight.double()
    return ((difference @ moments) * difference).sum(1)


def nearest(weight: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    steps = weight.abs().amax(1).double() / largest
    return (weight / steps[:, None]).round().float(), steps


@pytest.mark.parametrize("largest", [3, 7, 31, 127])
@pytest.mark.parametrize("columns", [16, BLOCK, BLOCK + 5, 3 * BLOCK])
def test_outputs_are_nearer_than_with_each_weight_by_itself(largest: int, columns: int) -> None:
    weight, moments = problem(24, columns)
    found, alone = rounded(weight, moments, largest), nearest(weight, largest)
    assert error(weight, *found, moments).sum() < 0.8 * error(weight, *alone, moments).sum()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.sampled_from([3, 7, 31, 127]), st.integers(0, 100))
def test_integers_are_in_range(rows: int, columns: int, largest: int, seed: int) -> None:
    integers, steps = rounded(*problem(rows, columns, seed), largest, (0.5, 1.0))
    assert (
        torch.equal(integers, integers.round()) and float(integers.abs().max()) <= largest and bool((steps > 0).all())
    )


def test_without_correlations_each_weight_is_rounded_by_itself() -> None:
    weight, _ = problem(8, 50)
    integers, steps = rounded(weight, torch.eye(50).double(), 7)
    assert torch.equal(integers, nearest(weight, 7)[0]) and torch.allclose(steps, nearest(weight, 7)[1])


def test_weights_that_are_on_a_grid_stay() -> None:
    whole = torch.randint(-7, 8, (6, 70), generator=torch.Generator().manual_seed(0)).float()
    whole[:, 0] = 7
    integers, steps = rounded(whole * 0.25, problem(6, 70)[1], 7)
    assert torch.equal(integers, whole) and torch.allclose(steps, torch.full((6,), 0.25, dtype=torch.float64))


def test_the_step_of_a_row_is_the_best_that_is_tried() -> None:
    weight, moments = problem(16, 48)
    weight[:, 0] *= 6  # an outlier that is worth clipping, in a channel that is nearly always 0
    moments[0], moments[:, 0] = moments[0] * 1e-3, moments[:, 0] * 1e-3
    apart = [error(weight, *rounded(weight, moments, 7, (share,)), moments) for share in (0.5, 1.0)]
    together = error(weight, *rounded(weight, moments, 7, (0.5, 1.0)), moments)
    assert torch.allclose(together, torch.minimum(*apart)) and bool((apart[0] < apart[1]).any())


def test_dead_channels_and_rows_of_zeros_are_no_trouble() -> None:
    integers, steps = rounded(torch.zeros(3, 10), torch.zeros(10, 10).double(), 7)
    assert not integers.any() and bool(torch.isfinite(steps).all()) and bool((steps > 0).all())


def test_the_factor_is_that_of_the_damped_inverse() -> None:
    _, moments = problem(1, 20)
    factor = inverse_factor(moments)
    damped = moments + 0.01 * moments.diagonal().mean() * torch.eye(20).double()
    assert torch.allclose(factor.T @ factor, damped.inverse()) and torch.equal(factor, factor.triu())
