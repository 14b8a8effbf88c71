"""`levels` for all 256 integers, its range over any of them, and what it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from intvit.dialect.levels import levels
from intvit.dialect.operation import OPERATIONS
from intvit.levels import uniform_levels
from intvit.ranges import Operand

EVERY = torch.arange(-128, 128).to(torch.int8).view(2, 4, 32)
RANDOM = torch.randint(-128, 128, (256,), generator=torch.Generator().manual_seed(0)).to(torch.int8)
TABLES = {"random": RANDOM, "itself": EVERY.flatten(), "turned": EVERY.flatten().flip(0), "4 bits": uniform_levels(4)}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_is_the_table_for_every_integer(table: Tensor) -> None:
    got = levels(EVERY, table)
    assert got.dtype == torch.int8 and got.shape == EVERY.shape
    assert got.flatten().tolist() == [int(table[x + 128]) for x in range(-128, 128)]


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(list(TABLES)), st.integers(-128, 127), st.integers(-128, 127))
def test_ranges_are_those_of_what_is_reached(name: str, one: int, other: int) -> None:
    low, high = sorted((one, other))
    ranges = OPERATIONS["levels"].ranges(Operand(low, high, (1, 1, 1)), TABLES[name])
    got = levels(torch.arange(low, high + 1).to(torch.int8).view(1, 1, -1), TABLES[name])
    assert (ranges.result.low, ranges.result.high) == (int(got.min()), int(got.max()))
    assert not ranges.overflowing()


@pytest.mark.parametrize(
    ("x", "table"),
    [(EVERY.short(), RANDOM), (EVERY, RANDOM.short()), (EVERY, RANDOM[:255]), (EVERY, RANDOM.view(2, 128))],
)
def test_refuses_what_breaks_its_rules(x: Tensor, table: Tensor) -> None:
    with pytest.raises(TypeError):
        OPERATIONS["levels"].check(x, table)
