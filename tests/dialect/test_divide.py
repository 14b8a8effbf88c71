"""`divide` against exact arithmetic: its definition, its error, its bounds, and what it refuses."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from intvit.dialect.divide import divide, reciprocals
from intvit.dialect.operation import OPERATIONS
from intvit.grid import dyadic_for
from intvit.ranges import Operand

LIMITS = {"int8": (-128, 127), "int16": (-(2**15), 2**15 - 1)}
INT16 = Operand(-(2**15), 2**15 - 1, (1, 1, 1))
NUMBERS = st.one_of(st.integers(-(2**15), 2**15 - 1), st.sampled_from((-(2**15), 2**15 - 1, 0, -1, 1, 2, 255)))


def row(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def exact(a: int, b: int, multiplier: int, pre: int, shift: int, dtype: str) -> int:
    def rounded(value: int, by: int) -> int:
        return (value + ((1 << by) >> 1)) >> by

    b = b or 1
    n = abs(b).bit_length()
    normal = (abs(b) << 16 >> n) >> 1
    r = min(((1 << 29) + normal // 2) // normal, 2**15 - 1) * (1 if b > 0 else -1)
    shifted = min(max(rounded(a * r, n - 1 + pre), -(2**15)), 2**15 - 1)
    return min(max(rounded(shifted * multiplier, shift), LIMITS[dtype][0]), LIMITS[dtype][1])


@settings(max_examples=200, deadline=None)
@given(
    NUMBERS,
    NUMBERS,
    st.integers(-(2**15), 2**15 - 1),
    st.integers(0, 15),
    st.integers(0, 30),
    st.sampled_from(list(LIMITS)),
)
def test_is_what_it_says(a: int, b: int, multiplier: int, pre: int, shift: int, dtype: str) -> None:
    operands = [torch.tensor([[[value]]], dtype=torch.int16) for value in (a, b)]
    got = divide(*operands, row(multiplier), row(pre), shift, dtype).item()
    assert got == exact(a, b, multiplier, pre, shift, dtype)
    ranges = OPERATIONS["divide"].ranges(INT16, INT16, row(multiplier), row(pre), shift, dtype)
    assert not ranges.overflowing()
    assert ranges.result.low <= got <= ranges.result.high


def test_every_reciprocal_is_exact_to_15_bits() -> None:
    b = torch.arange(-(2**15), 2**15, dtype=torch.int32)
    r, bits = reciprocals(b)
    exact = 2.0 ** (14 + bits.double()) / torch.where(b == 0, 1, b).double()
    assert float((r / exact - 1).abs().max()) <= 2.0**-15


@pytest.mark.parametrize(("dtype", "span"), [("int8", 1 << 8), ("int16", 1 << 15)])
@pytest.mark.parametrize("largest", [1, 3, 100, 2**15 - 1])
def test_error_over_the_whole_range(dtype: str, span: int, largest: int) -> None:
    """Divisors of all magnitudes; the grid of the result is that of the largest quotient."""
    random = torch.Generator().manual_seed(largest)
    b = torch.exp2(15 * torch.rand(1, 2000, 1, generator=random)).to(torch.int16).clamp(max=2**15 - 1)
    b[:, ::2] *= -1
    limit = (b.abs().double() * largest).clamp(max=2**15 - 1)
    a = ((torch.rand(1, 2000, 8, generator=random) * 2 - 1) * limit).to(torch.int16)
    real = a.double() / b.double()
    ratio = LIMITS[dtype][1] / real.abs().max().reshape(1)
    number = dyadic_for(ratio / 2**15, span, 15)
    got = divide(a, b, number.multiplier, number.pre_shift, number.shift, dtype)
    error = (got.double() - real * ratio).abs()
    bound = real.abs() * ratio * 2.0**-14 + 0.5 + number.multiplier / 2.0 ** (number.shift + 1)
    assert bool((error <= bound).all())
    assert float(error.max()) <= (0.52 if dtype == "int8" else 4)


def test_a_divisor_of_zero_counts_as_one() -> None:
    a = torch.tensor([[[5, -7]]], dtype=torch.int16)
    zero, one = (torch.full((1, 1, 1), value, dtype=torch.int16) for value in (0, 1))
    arguments = row(16384), row(15), 14, "int16"
    assert torch.equal(divide(a, zero, *arguments), divide(a, one, *arguments))
    assert divide(a, one, *arguments).flatten().tolist() == [5, -7]


def test_a_column_divides_a_block_of_channels() -> None:
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-999, 999, (2, 5, n), generator=random).to(torch.int16) for n in (12, 3))
    numbers = row(*range(1000, 31000, 2500)), row(*range(12))
    whole = divide(a, b.repeat_interleave(4, -1), *numbers, 12, "int16")
    assert torch.equal(divide(a, b, *numbers, 12, "int16"), whole)
    quotients = [Fraction(int(x), int(y)) for x, y in zip(a[0, 0, :4], b[0, 0, :1].expand(4), strict=True)]
    plain = divide(a[:1, :1], b[:1, :1], row(16384), row(0), 14, "int16").flatten()[:4]
    clamped = [min(max(q * 2**15, -(2**15)), 2**15 - 1) for q in quotients]
    assert all(abs(int(y) - q) <= 3 for y, q in zip(plain, clamped, strict=True))


@pytest.mark.parametrize("shape", [(2, 5, 1), (3, 1, 1), (3, 5, 3), (3, 5, 8), (5, 4)])
def test_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    a, b = torch.zeros(3, 5, 4, dtype=torch.int16), torch.zeros(shape, dtype=torch.int16)
    with pytest.raises(TypeError):
        OPERATIONS["divide"].check(a, b, row(1), row(0), 0, "int8")


def test_refuses_other_types_and_shifts() -> None:
    a = torch.zeros(1, 1, 1, dtype=torch.int16)
    for arguments in ((a, a.int(), row(1), row(0), 0, "int8"), (a, a, row(1), row(0), 0, "int32")):
        with pytest.raises(TypeError):
            OPERATIONS["divide"].check(*arguments)
    with pytest.raises(TypeError, match=r"0\.\.15"):
        OPERATIONS["divide"].ranges(INT16, INT16, row(1), row(16), 0, "int8")
