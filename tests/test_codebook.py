"""A codebook of few levels: as many as asked for, where the values are, and better than equal steps."""

import pytest
import torch
from torch import Tensor

from intvit.codebook import CODEBOOKS, codebook
from intvit.grid import Grid
from intvit.levels import looked_up, uniform_levels

CENTRES = torch.linspace(-0.2, 6, 5000, dtype=torch.float64)
COUNTS = torch.exp(-CENTRES.abs() * 3)
GRID = Grid(torch.tensor([0.025], dtype=torch.float64), torch.tensor([3.0], dtype=torch.float64), "int8")


def error(table: Tensor) -> float:
    levels = GRID.dequantize(looked_up(GRID.quantize(CENTRES), table)).double()
    return float((COUNTS * (levels - CENTRES).square()).sum())


@pytest.mark.parametrize("kind", CODEBOOKS)
@pytest.mark.parametrize("bits", [3, 4, 5, 6])
def test_few_levels_where_the_values_are(bits: int, kind: str) -> None:
    table = codebook(GRID, CENTRES, COUNTS, 1 << bits, kind)
    assert table.dtype == torch.int8 and len(table) == 256 and len(table.unique()) <= 1 << bits
    assert error(table) < 0.5 * error(uniform_levels(bits))
    assert torch.equal(looked_up(table, table), table)  # a level is its own level
    assert bool((table.int().diff() >= 0).all())


def test_tangent_levels_are_finest_near_both_ends() -> None:
    ends = torch.exp(-CENTRES.abs() * 3) + torch.exp(-(6 - CENTRES) * 3)
    steps = codebook(GRID, CENTRES, ends, 16, "tangent").unique().diff()
    assert int(steps[0]) < int(steps[7]) > int(steps[-1])
    assert int((steps - steps.flip(0)).abs().max()) <= 1


@pytest.mark.parametrize("kind", CODEBOOKS)
def test_a_tensor_that_nothing_weighs(kind: str) -> None:
    table = codebook(GRID, CENTRES, torch.zeros(5000).double(), 16, kind)
    assert len(table) == 256 and torch.equal(looked_up(table, table), table)


def test_kmeans_serves_a_tail_better_than_a_tangent() -> None:
    kmeans, tangent = (error(codebook(GRID, CENTRES, COUNTS, 16, kind)) for kind in ("kmeans", "tangent"))
    assert kmeans < tangent


def test_as_many_levels_as_integers_are_the_integers() -> None:
    every = codebook(GRID, CENTRES, torch.ones(5000).double(), 256, "kmeans")
    reached = GRID.quantize(CENTRES)
    assert torch.equal(looked_up(reached, every), reached)


@pytest.mark.parametrize("kind", CODEBOOKS)
def test_a_tensor_of_one_value(kind: str) -> None:
    counts = torch.zeros(5000).double()
    counts[40] = 7
    table = codebook(GRID, CENTRES, counts, 16, kind)
    value = GRID.quantize(CENTRES[40:41])
    assert torch.equal(looked_up(value, table), value)
