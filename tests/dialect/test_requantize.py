"""`requantize` and `add` against Python integers, and their interval rules against every value on the way."""

from fractions import Fraction
from math import floor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect.arithmetic import RANGE
from intvit.dialect.operation import OPERATIONS, dtype_named
from intvit.dialect.requantize import ADD_MULTIPLIER, add, requantize
from intvit.ranges import Operand, Range

EXAMPLES = settings(max_examples=150, deadline=None)
CHANNELS = 3
WIDTHS = {"int8": torch.int8, "int16": torch.int16, "int32": torch.int32}


def ints(low: int, high: int, count: int = CHANNELS) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(low, high), min_size=count, max_size=count)


def shifted(x: int, shift: int) -> int:
    return floor(Fraction(x, 2**shift) + Fraction(1, 2))


def clamped(x: int, low: int, high: int) -> int:
    return min(max(x, low), high)


def int32(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def inside(value: int, range: Range) -> bool:
    return range.low <= value <= range.high


@EXAMPLES
@given(st.data(), st.sampled_from(sorted(WIDTHS)), st.sampled_from(sorted(WIDTHS)))
def test_requantize_is_exact_and_its_ranges_hold_every_value(data: st.DataObject, source: str, target: str) -> None:
    limits = (-(2**30), 2**30) if source == "int32" else RANGE[WIDTHS[source]]
    low, high = sorted((data.draw(st.integers(*limits)), data.draw(st.integers(*limits))))
    x = data.draw(ints(low, high))
    multiplier, pre_shift = data.draw(ints(-(2**15) + 1, 2**15 - 1)), data.draw(ints(0, 30))
    shift, zero_point = data.draw(st.integers(0, 29)), data.draw(st.integers(-(2**15), 2**15))
    arguments = (int32(multiplier), int32(pre_shift), shift, zero_point, target)
    got = requantize(torch.tensor([[x]], dtype=WIDTHS[source]), *arguments)
    ranges = OPERATIONS["requantize"].ranges(Operand(low, high, (1, 1, CHANNELS)), *arguments)
    for value, m, pre, result in zip(x, multiplier, pre_shift, got[0, 0].tolist(), strict=True):
        product = clamped(shifted(value, pre), -(2**15), 2**15 - 1) * m
        unclamped = shifted(product, shift) + zero_point
        assert result == clamped(unclamped, *RANGE[dtype_named(target)])
        assert inside(value + (1 << pre >> 1), ranges.intermediates["pre-shift"])
        assert inside(product, ranges.intermediates["product"])
        assert inside(product + (1 << shift >> 1), ranges.intermediates["product"])
        assert inside(unclamped, ranges.intermediates["result before saturation"])
        assert inside(result, ranges.result)


def test_ranges_hold_for_a_channel_whose_pre_shift_is_larger() -> None:
    arguments = (int32([1, 1, 1]), int32([0, 3, 6]), 0, 0, "int16")
    ranges = OPERATIONS["requantize"].ranges(Operand(64, 100, (1, 1, 3)), *arguments)
    assert requantize(torch.full((1, 1, 3), 64, dtype=torch.int16), *arguments).tolist() == [[[64, 8, 1]]]
    assert (ranges.result.low, ranges.result.high) == (1, 100)


@pytest.mark.parametrize(("multiplier", "pre_shift"), [(1 << 15, 0), (1, 31), (1, -1)])
def test_ranges_refuse_what_kernels_cannot_hold(multiplier: int, pre_shift: int) -> None:
    with pytest.raises(TypeError, match=r"multipliers|pre-shifts"):
        OPERATIONS["requantize"].ranges(Operand(0, 1, (1, 1, 1)), int32([multiplier]), int32([pre_shift]), 0, 0, "int8")


@EXAMPLES
@given(st.data(), st.sampled_from(["int16", "int32"]), st.sampled_from(["int16", "int32"]), st.booleans())
def test_add_is_exact_and_its_ranges_hold_every_value(
    data: st.DataObject, a_type: str, b_type: str, b_is_constant: bool
) -> None:
    limits = {"int16": RANGE[torch.int16], "int32": (-(2**30), 2**30)}
    a, b = data.draw(ints(*limits[a_type])), data.draw(ints(*limits[b_type]))
    multipliers = [data.draw(ints(-ADD_MULTIPLIER, ADD_MULTIPLIER)) for _ in range(2)]
    pre_shifts = [data.draw(ints(0, 30)) for _ in range(2)]
    shift = data.draw(st.integers(0, 29))
    first = torch.tensor([[a]], dtype=WIDTHS[a_type])
    second = torch.tensor([b] if b_is_constant else [[b]], dtype=WIDTHS[b_type])
    rest = [int32(m) for m in multipliers], [int32(p) for p in pre_shifts]
    got = add(first, rest[0][0], rest[1][0], second, rest[0][1], rest[1][1], shift)
    ranges = OPERATIONS["add"].ranges(
        Operand(min(a), max(a), (1, 1, CHANNELS)), rest[0][0], rest[1][0],
        second if b_is_constant else Operand(min(b), max(b), (1, 1, CHANNELS)), rest[0][1], rest[1][1], shift,
    )  # fmt: skip
    assert got.dtype == torch.int16 and got.shape == first.shape
    for i, result in enumerate(got[0, 0].tolist()):
        total = sum(
            clamped(shifted(arm[i], pre[i]), -(2**15), 2**15 - 1) * m[i]
            for arm, m, pre in ((a, multipliers[0], pre_shifts[0]), (b, multipliers[1], pre_shifts[1]))
        )
        assert inside(total, ranges.intermediates["sum"])
        assert inside(total + (1 << shift >> 1), ranges.intermediates["sum"])
        assert inside(result, ranges.result)
        if not ranges.overflowing():
            assert result == clamped(shifted(total, shift), -(2**15), 2**15 - 1)


def test_add_takes_a_constant_as_either_arm() -> None:
    x = torch.arange(-6, 6, dtype=torch.int16).reshape(2, 2, 3)
    constant = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.int16)
    one, zero = int32([1]), int32([0])
    expected = x + constant
    assert torch.equal(add(x, one, zero, constant, one, zero, 0), expected)
    assert torch.equal(add(constant, one, zero, x, one, zero, 0), expected)


def test_add_of_two_saturated_arms_fits_32_bits() -> None:
    x = torch.full((1, 1, 1), -(2**15), dtype=torch.int16)
    m, zero = int32([ADD_MULTIPLIER]), int32([0])
    ranges = OPERATIONS["add"].ranges(Operand(-(2**15), 2**15 - 1), m, zero, Operand(-(2**15), 2**15 - 1), m, zero, 14)
    assert not ranges.overflowing()
    assert add(x, m, zero, x, m, zero, 14).item() == -(2**15)
