"""`activation` against exact arithmetic for every 16-bit integer, its bounds, and how near lines are to a function."""

import numpy as np
import pytest
import torch
from torch import Tensor

from intvit.dialect.activation import KNOTS, activation
from intvit.dialect.operation import OPERATIONS
from intvit.ranges import Operand

EVERY = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(1, 256, 256)
LIMITS = {"int8": (-128, 127), "int16": (-(2**15), 2**15 - 1)}


def tables() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    jumps = torch.where(torch.arange(KNOTS) % 2 == 0, -(2**15), 2**15 - 1)
    return {
        "random": torch.randint(-(2**15), 2**15, (KNOTS,), generator=random).to(torch.int16),
        "jumps": jumps.to(torch.int16),
        "lowest": torch.full((KNOTS,), -(2**15), dtype=torch.int16),
        "line": ((torch.arange(KNOTS) - 128) * 127).to(torch.int16),
    }


def exact(x: Tensor, table: Tensor, shift: int, dtype: str) -> np.ndarray:
    """By 64-bit integers."""
    knots, q = table.numpy().astype(np.int64), x.numpy().astype(np.int64) + 2**15
    i, f = np.divmod(q, 256)
    y = (knots[i] * (256 - f) + knots[i + 1] * f + ((1 << shift) >> 1)) >> shift
    return y.clip(*LIMITS[dtype])


@pytest.mark.parametrize("name", tables())
@pytest.mark.parametrize(("shift", "dtype"), [(8, "int16"), (15, "int8"), (0, "int16"), (0, "int8"), (30, "int16")])
def test_is_exact_for_every_integer(name: str, shift: int, dtype: str) -> None:
    table = tables()[name]
    got = activation(EVERY, table, shift, dtype)
    assert got.dtype == {"int8": torch.int8, "int16": torch.int16}[dtype]
    np.testing.assert_array_equal(got.numpy(), exact(EVERY, table, shift, dtype))


@pytest.mark.parametrize("name", tables())
@pytest.mark.parametrize(("low", "high"), [(-(2**15), 2**15 - 1), (-300, 255), (0, 0), (2**15 - 1, 2**15 - 1)])
def test_ranges_hold_every_value(name: str, low: int, high: int) -> None:
    table = tables()[name]
    ranges = OPERATIONS["activation"].ranges(Operand(low, high, (1, 1, 1)), table, 8, "int16")
    assert not ranges.overflowing()
    got = activation(torch.arange(low, high + 1, dtype=torch.int32).to(torch.int16).view(1, 1, -1), table, 8, "int16")
    assert ranges.result.low <= int(got.min()) and int(got.max()) <= ranges.result.high


def test_a_bend_at_0_is_exact() -> None:
    """ReLU of every integer: 0 is a knot."""
    table = (((torch.arange(KNOTS) - 128) * 256).clamp(0, 2**15 - 1)).to(torch.int16)
    got = activation(EVERY, table, 8, "int16").flatten()
    want = EVERY.flatten().clamp(min=0)
    below = 2**15 - 256  # the last knot, 2^15, is not a 16-bit number
    assert torch.equal(got[want < below], want[want < below])
    assert int((got.int() - want.int()).abs().max()) <= 1


@pytest.mark.parametrize("bound", [4.0, 8.0, 16.0])
@pytest.mark.parametrize("function", [torch.nn.functional.silu, torch.sigmoid, torch.tanh])
def test_lines_are_near_a_function(function: torch.nn.Module, bound: float) -> None:
    """Within what its docstring says, in steps of int8: the second derivatives are at most 0.77."""
    x = EVERY.double() * (bound / 2**15)
    scale = float(function(x).abs().max()) / 127
    knots = function((torch.arange(KNOTS, dtype=torch.float64) - 128) * (bound / 128))
    table = torch.round(knots / scale * 128).to(torch.int16)
    error = (activation(EVERY, table, 15, "int8").double() - function(x) / scale).abs().max().item()
    line = (bound / 128) ** 2 * 0.77 / 8 / scale
    assert error <= 0.5 + 0.5 / 128 + line + 1e-9
    assert bound > 8 or line < 0.25


@pytest.mark.parametrize(
    ("x", "table", "shift", "dtype"),
    [
        (EVERY.int(), tables()["line"], 8, "int16"),
        (EVERY, tables()["line"].int(), 8, "int16"),
        (EVERY, tables()["line"][:256], 8, "int16"),
        (EVERY, tables()["line"], 31, "int16"),
        (EVERY, tables()["line"], 8, "int32"),
    ],
)
def test_refuses_what_breaks_its_rules(x: Tensor, table: Tensor, shift: int, dtype: str) -> None:
    with pytest.raises(TypeError):
        OPERATIONS["activation"].check(x, table, shift, dtype)
