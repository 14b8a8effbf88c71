"""Operations in place: right where nothing else reads the memory, refused where something does."""

from collections.abc import Callable

import pytest
import torch.nn.functional as F
from spelled import SHAPE, Embedded, constant, made, of_tokens
from torch import Tensor

from intvit.errors import UnsupportedOp
from intvit.frontend import capture


def whole(x: Tensor) -> Tensor:
    y = F.linear(x, constant(16, 16))
    y.relu_()
    return y + x


def part(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0].mul_(2)
    return y


def assigned(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = 0
    return y


def under_two_names(x: Tensor) -> Tensor:
    y = x.view(-1, 4, 6, 16)
    x.relu_()
    return y.flatten(1, 2)


def other_part(x: Tensor) -> Tensor:
    y = F.linear(x, constant(32, 16))
    q, k = y[..., :16], y[..., 16:]
    q.mul_(0.5)
    return q + k


def a_view_that_nothing_reads(x: Tensor) -> Tensor:
    y = F.linear(x, constant(16, 16)).unflatten(1, (4, 6)).transpose(1, 2)
    return y.add_(1).flatten(1, 2)


def mask(x: Tensor) -> Tensor:
    """A constant that is filled part by part, as the mask of shifted windows is."""
    numbers = x.new_zeros(4, 6)
    for i, rows in enumerate((slice(0, 2), slice(2, 4))):
        numbers[rows, :3] = i
    return x + numbers.flatten()[:, None]


RIGHT: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "the whole": (whole, "linear x 2, pointwise, add"),
    "a part beside the one that is read": (other_part, "linear x 3, add"),
    "a constant": (mask, "linear, add"),
    "a view that nothing else reads": (a_view_that_nothing_reads, "linear x 2, rearrange"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_in_place_as_if_it_were_not(name: str) -> None:
    function, expected = RIGHT[name]
    assert made(of_tokens(function)) == expected


@pytest.mark.parametrize("function", [part, assigned, under_two_names])
def test_what_is_read_under_another_name_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UnsupportedOp, match=r"change: \w+_: it changes in place what is also read under another name"):
        capture(Embedded(function, tokens=True), SHAPE)
