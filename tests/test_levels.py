"""Uniform levels: how many there are, which is the nearest, and that a grid reads its tensors on them."""

import math
from dataclasses import replace

import pytest
import torch

from intvit.grid import Grid
from intvit.levels import looked_up, step_of, uniform_levels

EVERY = torch.arange(-128, 128).to(torch.int8)
GRID = Grid(torch.tensor([0.5]).double(), torch.tensor([3.0]).double(), "int8")


@pytest.mark.parametrize("bits", range(1, 9))
def test_levels_are_equally_far_apart_with_0_among_them(bits: int) -> None:
    found = uniform_levels(bits).unique().tolist()
    step = 2 ** (8 - bits)
    assert found == list(range(-128, 128, step)) and 0 in found and len(found) == 2**bits


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_nearest_level_half_up(bits: int) -> None:
    step = 2 ** (8 - bits)
    for q, level in zip(EVERY.tolist(), uniform_levels(bits).tolist(), strict=True):
        assert level == min(step * math.floor(q / step + 0.5), 128 - step)


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_level_is_its_own(bits: int) -> None:
    table = uniform_levels(bits)
    assert torch.equal(looked_up(table, table), table)


@pytest.mark.parametrize("bits", [0, 9])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"levels of {bits} bits"):
        uniform_levels(bits)


def test_a_grid_reads_on_its_levels() -> None:
    x = GRID.dequantize(EVERY)
    grid = replace(GRID, levels=uniform_levels(3))
    assert torch.equal(grid.quantize(x), uniform_levels(3))
    assert torch.equal(grid.without_levels.quantize(x), EVERY)
    assert grid.without_levels.levels is None and GRID.without_levels is GRID


def test_grids_made_from_one_keep_its_levels() -> None:
    grid = replace(GRID, levels=uniform_levels(5))
    coarser = grid.no_finer_than(torch.tensor([2.0]).double())
    assert coarser.scale.tolist() == [2] and coarser.levels is grid.levels
    wide = replace(grid, scale=torch.tensor([1.0, 2.0]).double()).repeated(2)
    assert wide.scale.tolist() == [1, 2, 1, 2] and wide.levels is grid.levels


@pytest.mark.parametrize(
    ("dtype", "table"),
    [("int16", uniform_levels(4)), ("int8", uniform_levels(4).short()), ("int8", uniform_levels(4)[:16])],
)
def test_levels_are_those_of_8_bits(dtype: str, table: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="levels are int8"):
        replace(GRID, dtype=dtype, levels=table)


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_step_of_even_levels_is_known(bits: int) -> None:
    assert step_of(uniform_levels(bits)) == 1 << (8 - bits)


def test_other_levels_have_no_step() -> None:
    table = uniform_levels(4).clone()
    table[100] = 1
    assert step_of(table) is None
    assert step_of(torch.zeros(256, dtype=torch.int8)) is None
