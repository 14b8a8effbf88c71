"""Straight lines and GELU are known by their values; constants are laid over the base of a view."""

import pytest
import torch

from intvit.frontend.builder import Builder
from intvit.frontend.materialize import as_tensor, as_view, in_base, is_gelu, straight_line
from intvit.frontend.values import PROBE, Constant, NotCanonical, View, whole
from intvit.pointwise import Function

LINES: dict[str, tuple[Function, tuple[float, float]]] = {
    "nothing": ((("mul", "x", 1.0),), (1.0, 0.0)),
    "negative": ((("neg", "x"),), (-1.0, 0.0)),
    "of many steps": ((("mul", "x", 3.0), ("sub", 2.0, "0"), ("div", "1", 4.0)), (-0.75, 0.5)),
    "a difference of two": ((("mul", "x", 3.0), ("add", "x", 1.0), ("sub", "0", "1")), (2.0, -1.0)),
}


@pytest.mark.parametrize("name", LINES)
def test_straight_lines(name: str) -> None:
    function, expected = LINES[name]
    assert straight_line(function) == pytest.approx(expected)


@pytest.mark.parametrize("function", [
    (("mul", "x", "x"),),
    (("div", 1.0, "x"),),
    (("relu", "x"),),
    (("mul", "x", 2.0), ("abs", "0")),
])  # fmt: skip
def test_curves(function: Function) -> None:
    assert straight_line(function) is None


def test_gelu_is_known_by_its_values() -> None:
    assert is_gelu((("gelu", "x"),)) and is_gelu((("gelu", "x", "tanh"),))
    assert is_gelu((("mul", "x", 2**-0.5), ("erf", "0"), ("add", "1", 1.0), ("mul", "x", "2"), ("mul", "3", 0.5)))
    assert not is_gelu((("mul", "x", 1.702), ("sigmoid", "0"), ("mul", "x", "1")))
    assert not is_gelu((("gelu", "x"), ("mul", "0", 1.01)))


class TestConstants:
    @pytest.fixture
    def view(self) -> View:
        return whole(Builder().graph.placeholder("x"), 6, 4)

    def test_over_the_base(self, view: View) -> None:
        moved = view.move(lambda t: t.mT.flip(2))
        constant = torch.randn(4, 6)
        assert torch.equal(in_base(moved, constant), constant.mT.flip(0))

    def test_broadcast(self, view: View) -> None:
        assert torch.equal(in_base(view, torch.ones(4)), torch.ones(6, 4))

    def test_a_constant_of_each_image_is_refused(self, view: View) -> None:
        with pytest.raises(NotCanonical, match="differs between the images"):
            in_base(view, torch.randn(PROBE, 6, 4))


def test_what_is_no_constant_and_no_tensor_of_the_image() -> None:
    b = Builder()
    view = whole(b.graph.placeholder("x"), 6, 4)
    assert as_tensor(2).item() == 2.0 and as_tensor(Constant(torch.ones(3))).tolist() == [1.0] * 3
    with pytest.raises(NotCanonical, match="expects a constant"):
        as_tensor(view)
    with pytest.raises(NotCanonical, match="expects a token tensor"):
        as_view(b, Constant(torch.ones(3)))
