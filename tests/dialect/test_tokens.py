"""`concat_tokens` and `select_tokens` move tokens and change none."""

import pytest
import torch

from intvit.dialect.operation import OPERATIONS
from intvit.dialect.tokens import concat_tokens, select_tokens
from intvit.ranges import Operand

X = torch.arange(2 * 5 * 3, dtype=torch.int16).reshape(2, 5, 3)
CONSTANT = torch.tensor([[-7, 8, -9], [1, 2, 3]], dtype=torch.int16)


def test_constant_tokens_come_first_in_every_image() -> None:
    y = concat_tokens(CONSTANT, X)
    assert torch.equal(y[0, :2], CONSTANT) and torch.equal(y[1, :2], CONSTANT) and torch.equal(y[:, 2:], X)


def test_selected_tokens_are_a_copy() -> None:
    y = select_tokens(X, 1, 3)
    assert torch.equal(y, X[:, 1:3])
    assert y.is_contiguous() and y.data_ptr() != X[:, 1:3].data_ptr()


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (2, 2), (3, 6), (3, 2)])
def test_only_tokens_that_exist(start: int, stop: int) -> None:
    with pytest.raises(TypeError, match="no tokens"):
        OPERATIONS["select_tokens"].check(X, start, stop)


@pytest.mark.parametrize("constant", [CONSTANT[:, :2], CONSTANT[None], CONSTANT.to(torch.int32)])
def test_constant_must_fit(constant: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="constant must be"):
        OPERATIONS["concat_tokens"].check(constant, X)


def test_ranges_are_those_of_both() -> None:
    result = OPERATIONS["concat_tokens"].ranges(CONSTANT, Operand(-1, 20, (1, 5, 3))).result
    assert (result.low, result.high) == (-9, 20)
    result = OPERATIONS["select_tokens"].ranges(Operand(-1, 20, (1, 5, 3)), 0, 1).result
    assert (result.low, result.high) == (-1, 20)
