"""`multiply` against exact arithmetic, its bounds, and every shape of its second factor."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from intvit.dialect.multiply import multiply
from intvit.dialect.operation import OPERATIONS
from intvit.grid import dyadic_for
from intvit.ranges import Operand

LIMITS = {"int8": (-128, 127), "int16": (-(2**15), 2**15 - 1)}
INT16 = Operand(-(2**15), 2**15 - 1, (1, 1, 1))


def exact(a: int, b: int, multiplier: int, pre: int, shift: int, dtype: str) -> int:
    def rounded(value: int, by: int) -> int:
        return (value + ((1 << by) >> 1)) >> by

    shifted = min(max(rounded(a * b, pre), -(2**15)), 2**15 - 1)
    return min(max(rounded(shifted * multiplier, shift), LIMITS[dtype][0]), LIMITS[dtype][1])


def row(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


NUMBERS = st.one_of(st.integers(-(2**15), 2**15 - 1), st.sampled_from((-(2**15), 2**15 - 1, 0, -1, 1)))


@settings(max_examples=200, deadline=None)
@given(
    NUMBERS,
    NUMBERS,
    st.integers(-(2**15), 2**15 - 1),
    st.integers(0, 30),
    st.integers(0, 30),
    st.sampled_from(list(LIMITS)),
)
def test_is_exact(a: int, b: int, multiplier: int, pre: int, shift: int, dtype: str) -> None:
    factors = [torch.tensor([[[value]]], dtype=torch.int16) for value in (a, b)]
    got = multiply(*factors, row(multiplier), row(pre), shift, dtype)
    assert got.item() == exact(a, b, multiplier, pre, shift, dtype)
    ranges = OPERATIONS["multiply"].ranges(INT16, INT16, row(multiplier), row(pre), shift, dtype)
    assert not ranges.overflowing()
    assert ranges.result.low <= got.item() <= ranges.result.high


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 1, 4), (5, 4), (1, 4)])
def test_second_factor_of_every_shape(shape: tuple[int, ...]) -> None:
    random = torch.Generator().manual_seed(0)
    a = torch.randint(-(2**15), 2**15, (3, 5, 4), generator=random).to(torch.int16)
    b = torch.randint(-(2**15), 2**15, shape, generator=random).to(torch.int16)
    dyadic = row(9000, -32768, 1, 32767), row(15, 14, 3, 0)
    whole = multiply(a, b.expand(3, 5, 4).contiguous(), *dyadic, 15, "int16")
    assert torch.equal(multiply(a, b, *dyadic, 15, "int16"), whole)


@pytest.mark.parametrize(("dtype", "span"), [("int8", 1 << 8), ("int16", 1 << 15)])
def test_is_within_a_step_of_the_exact_product(dtype: str, span: int) -> None:
    """With the dyadic number of a result whose largest value is that of the product."""
    random = torch.Generator().manual_seed(1)
    a, b = (torch.randint(-(2**15), 2**15, (1, 50, 40), generator=random).to(torch.int16) for _ in range(2))
    ratio = LIMITS[dtype][1] / 2.0**30
    number = dyadic_for(torch.tensor([ratio], dtype=torch.float64), span)
    got = multiply(a, b, number.multiplier, number.pre_shift, number.shift, dtype)
    error = (got.double() - a.double() * b.double() * ratio).abs().max().item()
    assert error <= (0.52 if dtype == "int8" else 2)


@pytest.mark.parametrize("shape", [(2, 5, 4), (3, 4, 4), (4, 4), (3, 5, 1), (2, 1, 4)])
def test_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    a, b = torch.zeros(3, 5, 4, dtype=torch.int16), torch.zeros(shape, dtype=torch.int16)
    with pytest.raises(TypeError):
        OPERATIONS["multiply"].check(a, b, row(1), row(0), 0, "int8")


def test_refuses_other_types() -> None:
    a = torch.zeros(1, 1, 1, dtype=torch.int16)
    for arguments in ((a.int(), a, row(1), row(0), 0, "int8"), (a, a, row(1), row(0), 0, "int32")):
        with pytest.raises(TypeError):
            OPERATIONS["multiply"].check(*arguments)
