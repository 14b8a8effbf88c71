"""`product` against exact arithmetic, its rule, and its ranges at the extremes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect.operation import OPERATIONS
from intvit.dialect.product import product
from intvit.ranges import Operand


def int8(seed: int, *shape: int) -> torch.Tensor:
    return torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(seed)).to(torch.int8)


@settings(max_examples=20, deadline=None)
@given(*[st.integers(1, 6)] * 5, st.integers(0, 2**31))
def test_is_the_product_of_each_group(batch: int, groups: int, m: int, n: int, k: int, seed: int) -> None:
    a, b = int8(seed, batch, groups * m, k), int8(seed + 1, batch, groups * n, k)
    y = product(a, b, groups)
    assert y.dtype == torch.int32 and y.shape == (batch, groups * m, n)
    for g in range(groups):
        own = a[:, g * m : (g + 1) * m].double() @ b[:, g * n : (g + 1) * n].double().mT
        assert torch.equal(y[:, g * m : (g + 1) * m].double(), own)
    assert OPERATIONS["product"].check(a, b, groups).shape == y.shape


@pytest.mark.parametrize(("low", "high"), [(-128, -128), (127, 127), (-128, 127)])
def test_its_range_is_reached(low: int, high: int) -> None:
    a, b = (torch.full((1, 3, 50), value, dtype=torch.int8) for value in (low, high))
    found = OPERATIONS["product"].ranges(Operand(low, low, (1, 3, 50)), Operand(high, high, (1, 3, 50)), 1)
    assert int(product(a, b, 1).max()) == found.result.low == found.result.high
    assert not found.overflowing()


def test_sums_that_leave_32_bits_are_found() -> None:
    operand = Operand(-128, 127, (1, 1, 1 << 17))
    assert OPERATIONS["product"].ranges(operand, operand, 1).overflowing()


@pytest.mark.parametrize(
    ("a", "b", "groups", "rule"),
    [
        (int8(0, 1, 4, 3), int8(0, 1, 4, 3), 3, "a has 4 tokens for 3 groups"),
        (int8(0, 1, 4, 3), int8(0, 1, 3, 3), 2, "b has 3 tokens for 2 groups"),
        (int8(0, 1, 4, 3), int8(0, 1, 4, 2), 2, "a has 3 channels and b 2"),
        (int8(0, 1, 4, 3).short(), int8(0, 1, 4, 3), 1, "a must be torch.int8"),
        (int8(0, 4, 3), int8(0, 1, 4, 3), 1, "a must be"),
    ],
)
def test_operands_must_fit(a: torch.Tensor, b: torch.Tensor, groups: int, rule: str) -> None:
    with pytest.raises(TypeError, match=rule):
        OPERATIONS["product"].check(a, b, groups)
