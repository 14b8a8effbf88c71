"""`linear` against 64-bit integers; its interval rule is sound, and tight: some input attains both ends."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect.linear import _int_mm_is_exact, linear
from intvit.dialect.operation import OPERATIONS
from intvit.ranges import Operand

EXTREMES = {"lowest": (-128, -128), "highest": (127, 127), "mixed": (-128, 127)}


def random_int8(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 70), st.integers(1, 40), st.integers(0, 2**31 - 1))
def test_is_the_exact_product(batch: int, tokens: int, k: int, n: int, seed: int) -> None:
    x, w = random_int8(batch, tokens, k, seed=seed), random_int8(n, k, seed=seed + 1)
    bias = torch.randint(-(2**20), 2**20, (n,), dtype=torch.int32, generator=torch.Generator().manual_seed(seed))
    expected = x.to(torch.int64) @ w.to(torch.int64).T + bias
    assert torch.equal(linear(x, w, bias).to(torch.int64), expected)


@pytest.mark.parametrize("xs", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("ws", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("tokens", [1, 64])
def test_is_exact_at_extremes(xs: tuple[int, int], ws: tuple[int, int], tokens: int) -> None:
    x = torch.tensor(xs, dtype=torch.int8).repeat(1, tokens, 768)
    w = torch.tensor(ws, dtype=torch.int8).repeat(16, 768)
    bias = torch.zeros(16, dtype=torch.int32)
    assert torch.equal(linear(x, w, bias).to(torch.int64), x.to(torch.int64) @ w.to(torch.int64).T)


def test_the_fast_product_is_judged_by_running_it() -> None:
    assert _int_mm_is_exact() in (True, False)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 6), st.integers(-128, 127), st.integers(-128, 127), st.integers(0, 10**6))
def test_ranges_are_attained(k: int, n: int, first: int, second: int, seed: int) -> None:
    low, high = sorted((first, second))
    w, bias = random_int8(n, k, seed=seed), torch.arange(n, dtype=torch.int32) * 1000 - 2000
    ranges = OPERATIONS["linear"].ranges(Operand(low, high, (1, 1, k)), w, bias)
    largest = torch.where(w > 0, high, low).to(torch.int8).unsqueeze(0)
    smallest = torch.where(w > 0, low, high).to(torch.int8).unsqueeze(0)
    assert linear(largest, w, bias).max().item() == ranges.result.high
    assert linear(smallest, w, bias).min().item() == ranges.result.low


def test_ranges_refuse_a_sum_that_leaves_32_bits() -> None:
    w, bias = torch.full((1, 1 << 18), 127, dtype=torch.int8), torch.zeros(1, dtype=torch.int32)
    ranges = OPERATIONS["linear"].ranges(Operand(-128, 127, (1, 1, 1 << 18)), w, bias)
    assert ranges.overflowing().keys() == {"accumulator"}
    small = OPERATIONS["linear"].ranges(Operand(-128, 127, (1, 1, 1 << 17)), w[:, : 1 << 17], bias)
    assert not small.overflowing()


def test_ranges_count_the_bias() -> None:
    w, bias = torch.ones(1, 2, dtype=torch.int8), torch.tensor([2**31 - 1], dtype=torch.int32)
    assert OPERATIONS["linear"].ranges(Operand(-128, 127, (1, 1, 2)), w, bias).overflowing()
