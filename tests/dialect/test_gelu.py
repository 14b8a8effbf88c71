"""`gelu` over every int16 input: within 0.001 of the exact function before its final rounding (measured: 0.0005)."""

import math

import pytest
import torch
from torch import Tensor

from intvit.dialect.gelu import FRACTION, gelu, gelu_fixed_point
from intvit.dialect.operation import OPERATIONS
from intvit.ranges import Operand

INPUTS = torch.arange(-(2**15), 2**15, dtype=torch.int32)
BOUND, MEASURED = 0.001, 0.0005


def exact(x: Tensor) -> Tensor:
    return x * 0.5 * torch.erfc(-x / math.sqrt(2))


@pytest.mark.parametrize("fraction", range(FRACTION + 1))
def test_is_within_bound_for_every_input(fraction: int) -> None:
    got = gelu_fixed_point(INPUTS, fraction).double() / 2**FRACTION
    error = (got - exact(INPUTS.double() / 2**fraction)).abs().max().item()
    assert error <= BOUND
    assert error <= MEASURED


@pytest.mark.parametrize("fraction", [0, 8, 13])
def test_ranges_hold_every_value(fraction: int) -> None:
    fixed = gelu_fixed_point(INPUTS, fraction)
    one, shift = torch.tensor([20000], dtype=torch.int32), torch.tensor([max(13 - fraction, 0)], dtype=torch.int32)
    ranges = OPERATIONS["gelu"].ranges(Operand(-(2**15), 2**15 - 1, (1, 1, 1)), fraction, one, shift, 16, -100)
    assert not ranges.overflowing()
    found = ranges.intermediates["fixed point"]
    assert found.low <= fixed.min() and fixed.max() <= found.high
    result = gelu(INPUTS.to(torch.int16)[None, :, None], fraction, one, shift, 16, -100)
    assert ranges.result.low <= result.min() and result.max() <= ranges.result.high


def test_is_elementwise_whatever_the_row_holds() -> None:
    """I-ViT's form collapses for rows whose largest value is over 9.4."""
    fraction = 11
    row = torch.tensor([[[3.0, 1.0, -0.5, 15.9]]]).mul(2**fraction).round().to(torch.int16)
    one, zero = torch.tensor([1 << 14], dtype=torch.int32), torch.tensor([0], dtype=torch.int32)
    with_outlier = gelu(row, fraction, one, zero, 23, 0)
    without = gelu(row[..., :3].contiguous(), fraction, one, zero, 23, 0)
    assert torch.equal(with_outlier[..., :3], without)
    assert with_outlier[0, 0, 0].item() == round(3 * 0.99865 * 16)


@pytest.mark.parametrize("x", [-(2**15), -1, 0, 1, 2**15 - 1])
def test_saturates_at_both_ends(x: int) -> None:
    big, zero = torch.tensor([2**15 - 1], dtype=torch.int32), torch.tensor([0], dtype=torch.int32)
    got = gelu(torch.full((1, 1, 1), x, dtype=torch.int16), 0, big, zero, 0, 0).item()
    assert got == (0 if x == 0 else -128 if x < 0 else 127)
