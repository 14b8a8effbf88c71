"""Functions of one number as data: what their steps refer to, and that every primitive is torch's."""

import pytest
import torch
import torch.nn.functional as F

from intvit.pointwise import PRIMITIVES, Function, evaluate

X = torch.linspace(-3, 3, 61)
FORMS: dict[str, tuple[Function, torch.Tensor]] = {
    "QuickGELU": ((("mul", "x", 1.702), ("sigmoid", "0"), ("mul", "x", "1")), X * torch.sigmoid(1.702 * X)),
    "a number first": ((("sub", 1.0, "x"), ("div", 2.0, "0")), 2 / (1 - X)),
    "two results": ((("exp", "x"), ("neg", "x"), ("sub", "0", "1")), X.exp() + X),
    "a power": ((("pow", 2.0, "x"),), 2.0**X),
    "bounds": ((("clamp", "x", -torch.inf, 0.5),), X.clamp(max=0.5)),
    "an option": ((("gelu", "x", "tanh"),), F.gelu(X, approximate="tanh")),
    "the larger": ((("maximum", "x", 0.25),), X.clamp(min=0.25)),
    "nothing": ((("mul", "x", 1.0),), X),
}


@pytest.mark.parametrize("name", FORMS)
def test_evaluated(name: str) -> None:
    function, expected = FORMS[name]
    assert torch.allclose(evaluate(function, X), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_the_dtype_of_the_argument(dtype: torch.dtype) -> None:
    for function, _ in FORMS.values():
        assert evaluate(function, X.to(dtype)).dtype is dtype


TWO = {"add", "sub", "mul", "div", "pow", "maximum", "minimum"}
BOUNDED = {"clamp": (-1.0, 1.0)}
ONE = sorted(set(PRIMITIVES) - TWO - set(BOUNDED))


@pytest.mark.parametrize("name", ONE)
def test_primitives_of_one_number(name: str) -> None:
    torch_name = {"log_sigmoid": "logsigmoid"}.get(name, name)
    expected = getattr(torch, name, None) or getattr(F, torch_name)
    x = X.abs() + 0.5
    assert torch.equal(evaluate(((name, "x"),), x), expected(x))


@pytest.mark.parametrize("name", sorted(TWO))
def test_primitives_of_two_numbers(name: str) -> None:
    x, other = X.abs() + 0.5, torch.tensor(1.5)
    assert torch.allclose(evaluate(((name, "x", 1.5),), x), getattr(torch, name)(x, other))
