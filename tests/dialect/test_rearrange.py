"""`rearrange` moves blocks of channels and changes none; what it refuses."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from intvit import floatops
from intvit.dialect.operation import OPERATIONS
from intvit.dialect.rearrange import rearrange
from intvit.ranges import Operand

X = torch.arange(2 * 4 * 6, dtype=torch.int16).reshape(2, 4, 6)
CONSTANT = torch.tensor([[-7, 8], [1, 2], [3, 4]], dtype=torch.int16)


def table(*rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int32)


def test_rows_are_picked() -> None:
    y = rearrange([X], table([3], [0], [3]), 6)
    assert torch.equal(y, X[:, [3, 0, 3]])
    assert y.is_contiguous()


def test_a_transpose() -> None:
    index = torch.arange(24, dtype=torch.int32).reshape(4, 6).T.contiguous()
    assert torch.equal(rearrange([X], index, 1), X.mT)


def test_constants_and_tensors_are_numbered_through() -> None:
    y = rearrange([CONSTANT, X], table([1, 3, 5], [14, 0, 2]), 2)
    assert torch.equal(y[:, 0], torch.cat([CONSTANT[1].expand(2, 2), X[:, 0, :2], X[:, 0, 4:]], 1))
    assert torch.equal(y[:, 1], torch.cat([X[:, 3, 4:], CONSTANT[0].expand(2, 2), CONSTANT[2].expand(2, 2)], 1))


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(1, 3), st.sampled_from([torch.int8, torch.int16, torch.int32]))
def test_is_that_of_the_float_graph(data: st.DataObject, chunk: int, dtype: torch.dtype) -> None:
    shapes = data.draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.booleans()), min_size=1, max_size=3))
    sources = [
        torch.randint(-99, 99, (t, k * chunk) if i and constant else (2, t, k * chunk), dtype=dtype)
        for i, (t, k, constant) in enumerate(shapes)
    ]
    index = torch.randint(0, sum(t * k for t, k, _ in shapes), (data.draw(st.integers(1, 5)), 3), dtype=torch.int32)
    y = rearrange(sources, index, chunk)
    assert y.dtype == dtype
    assert y.shape == OPERATIONS["rearrange"].check(sources, index, chunk).shape
    assert torch.equal(y.float(), floatops.rearrange([x.float() for x in sources], index, chunk))


@pytest.mark.parametrize(
    ("sources", "index", "chunk", "rule"),
    [
        ([CONSTANT], table([0]), 2, "at least one"),
        ([X[0, 0]], table([0]), 2, "at least one"),
        ([X, CONSTANT.int()], table([0]), 2, "one type"),
        ([X.float()], table([0]), 2, "each of tensors"),
        ([X, CONSTANT[0]], table([0]), 2, "not 1-D"),
        ([X], table([0]), 4, "not blocks of 4"),
        ([X], table([0]), 0, "not blocks of 0"),
        ([X, CONSTANT], table([0]), 3, "2 channels are not blocks of 3"),
        ([X], table([0]).long(), 6, "index must be"),
        ([X], table([0])[0], 6, "index must be"),
        ([X], table([0])[:0], 6, "index must be"),
    ],
)
def test_only_blocks_of_tensors_of_one_type(sources: list[Tensor], index: Tensor, chunk: int, rule: str) -> None:
    with pytest.raises(TypeError, match=rule):
        OPERATIONS["rearrange"].check(sources, index, chunk)


def test_the_range_is_that_of_all_tensors() -> None:
    found: Any = OPERATIONS["rearrange"].ranges([Operand(-1, 20, (1, 4, 6)), CONSTANT], table([0]), 2)
    assert (found.result.low, found.result.high) == (-7, 20)
    assert not found.intermediates


@pytest.mark.parametrize("index", [table([0, -1]), table([15, 0])])
def test_only_blocks_that_there_are(index: Tensor) -> None:
    with pytest.raises(TypeError, match="there are 15 blocks"):
        OPERATIONS["rearrange"].ranges([Operand(-1, 20, (1, 4, 6)), CONSTANT], index, 2)
