"""Functions of one number become one `pointwise` or `gelu`, whatever they are made of; factors are folded."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from spelled import SHAPE, TOKENS, Embedded, arguments_of, checked, constant, drawn, made, of_tokens
from torch import Tensor, nn

from intvit import floatops
from intvit.errors import UnsupportedOp
from intvit.frontend import capture
from intvit.pointwise import evaluate

FACTORS = constant(16)
TANH = math.sqrt(2 / math.pi)


def inner(x: Tensor, seed: int = 0) -> Tensor:
    return F.linear(x, constant(16, 16, seed=seed) * 0.3)


GELU: dict[str, Callable[[Tensor], Tensor]] = {
    "exact": F.gelu,
    "erf": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "erf, factor last": lambda x: x * (1 + torch.erf(x * 0.70710678)) / 2,
    "tanh": lambda x: F.gelu(x, approximate="tanh"),
    "tanh by pow": lambda x: 0.5 * x * (1 + torch.tanh(TANH * (x + 0.044715 * torch.pow(x, 3)))),
    "tanh by products": lambda x: 0.5 * x * (1 + torch.tanh(TANH * x * (1 + 0.044715 * x * x))),
}


@pytest.mark.parametrize("name", GELU)
def test_any_form_of_gelu(name: str) -> None:
    graph = checked(Embedded(GELU[name], tokens=True), SHAPE, tolerance=2e-3)
    assert made(graph) == "linear, gelu"


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "QuickGELU": lambda x: x * torch.sigmoid(1.702 * x),
    "SiLU": F.silu,
    "SiLU by hand": lambda x: x * x.sigmoid(),
    "SiLU by exp": lambda x: x / (1 + torch.exp(-x)),
    "hard-swish": F.hardswish,
    "hard-swish by relu6": lambda x: x * F.relu6(x + 3) / 6,
    "hard-swish by clamp": lambda x: x * torch.clamp(x + 3, 0, 6) / 6,
    "hard-swish by hardsigmoid": lambda x: x * F.hardsigmoid(x),
    "Mish": F.mish,
    "Mish by hand": lambda x: x * torch.tanh(F.softplus(x)),
    "squared ReLU": lambda x: F.relu(x) ** 2,
    "squared ReLU by square": lambda x: F.relu(x).square(),
    "StarReLU": lambda x: 0.89 * F.relu(x) ** 2 - 0.44,
    "square": lambda x: x * x,
    "ReLU": F.relu,
    "ReLU in place": nn.ReLU(inplace=True),
    "leaky": lambda x: F.leaky_relu(x, 0.2),
    "ELU": lambda x: F.elu(x, 0.5),
    "SELU": F.selu,
    "CELU": lambda x: F.celu(x, 2.0),
    "softplus": lambda x: F.softplus(x, 2.0),
    "softsign": F.softsign,
    "logsigmoid": F.logsigmoid,
    "tanhshrink": F.tanhshrink,
    "hardtanh": lambda x: F.hardtanh(x, -2, 2),
    "clamp": lambda x: x.clamp(-0.1, 0.1),
    "clamp from below": lambda x: x.clamp(min=0.1),
    "clamp_min": lambda x: x.clamp_min(0.1),
    "clamp from above": lambda x: x.clamp(max=0.1),
    "clamp_max": lambda x: x.clamp_max(0.1),
    "abs": torch.abs,
    "sqrt": lambda x: torch.sqrt(x.abs() + 1),
    "rsqrt": lambda x: torch.rsqrt(x * x + 1),
    "reciprocal": lambda x: 1 / (1 + torch.exp(-x)),
    "log": lambda x: torch.log(x.abs() + 1),
    "root": lambda x: x.abs() ** 0.5,
    "two functions of one tensor": lambda x: F.gelu(x) + F.silu(x),
    "a function of a function": lambda x: torch.tanh(F.gelu(x)),
    "a difference": lambda x: torch.tanh(x) - 0.5 * torch.sigmoid(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_one_number(name: str) -> None:
    assert made(of_tokens(FUNCTIONS[name])) == "linear, pointwise"


def test_the_function_is_kept_as_it_was_written() -> None:
    _, function = arguments_of(of_tokens(FUNCTIONS["QuickGELU"]), floatops.pointwise)
    assert [step[0] for step in function] == ["mul", "sigmoid", "mul"]
    x = torch.linspace(-4, 4, 9)
    assert torch.allclose(evaluate(function, x), x * torch.sigmoid(1.702 * x))


FOLDED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "negative": (lambda x: -x, "linear"),
    "straight line": (lambda x: 2 - 3 * x / 4, "linear"),
    "rsub": (lambda x: torch.rsub(x, 2, alpha=3), "linear"),
    "offset per channel": (lambda x: x + FACTORS, "linear"),
    "LayerScale": (lambda x: x + inner(F.silu(x)) * FACTORS, "linear x 2, pointwise, add"),
    "LayerScale in place": (lambda x: x + inner(F.silu(x)).mul_(FACTORS), "linear x 2, pointwise, add"),
    "quotient per channel": (lambda x: inner(x) / FACTORS.abs(), "linear x 2"),
    "factor of a sum": (lambda x: (inner(x) + inner(F.silu(x), 1)) * FACTORS, "linear x 3, pointwise, add"),
    "one factor before a linear": (lambda x: inner(F.silu(x) * 3), "linear x 2, pointwise"),
    "factor of an arm": (lambda x: x + 0.5 * inner(F.silu(x)), "linear x 2, pointwise, add"),
    "alpha": (lambda x: torch.add(x, inner(F.silu(x)), alpha=2), "linear x 2, pointwise, add"),
    "alpha of a difference": (lambda x: torch.sub(x, inner(F.silu(x)), alpha=2), "linear x 2, pointwise, add"),
    "factor behind a function": (lambda x: F.silu(x) * FACTORS, "linear, pointwise, multiply"),
    "factor per token": (lambda x: x * constant(TOKENS, 1), "linear, multiply"),
    "factor per element": (lambda x: x * constant(TOKENS, 16), "linear, multiply"),
    "positions": (lambda x: x + constant(1, TOKENS, 16), "linear, add"),
    "offset per token": (lambda x: x + constant(TOKENS, 1), "linear, add"),
    "offset behind a function": (lambda x: F.silu(x) + FACTORS, "linear, pointwise, add"),
}


@pytest.mark.parametrize("name", FOLDED)
def test_constant_factors_and_offsets(name: str) -> None:
    function, expected = FOLDED[name]
    assert made(of_tokens(function)) == expected


def gated(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def gate(x: Tensor) -> Tensor:
        first, second = F.linear(x, constant(32, 16) * 0.3).chunk(2, -1)
        return function(first) * second

    return gate


TWO: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "sum with itself": (lambda x: x + x, "linear, add"),
    "sum of three": (lambda x: sum([x, inner(x), inner(x, 1)]), "linear x 3, add x 2"),
    "product": (lambda x: x * inner(x), "linear x 2, multiply"),
    "gate": (lambda x: x * inner(x).sigmoid(), "linear x 2, pointwise, multiply"),
    "gate of one token": (
        lambda x: x * inner(x[:, :1]).sigmoid(), "linear x 2, select_tokens, pointwise, multiply"
    ),
    "SwiGLU": (lambda x: F.silu(inner(x)) * inner(x, 1), "linear x 3, pointwise, multiply"),
    "SwiGLU of one linear": (gated(F.silu), "linear x 3, pointwise, multiply"),
    "GEGLU of one linear": (gated(F.gelu), "linear x 3, gelu, multiply"),
    "quotient": (lambda x: x / (inner(x).exp() + 1), "linear x 2, pointwise, multiply"),
    "quotient of two tensors": (lambda x: x / (inner(x) + 9), "linear x 2, divide"),
    "quotient by one channel": (lambda x: x / (inner(x)[..., 3:4] + 9), "linear x 2, divide"),
    "quotient by a root": (lambda x: x / (inner(x).square() + 1).sqrt(), "linear x 2, pointwise, divide"),
    "quotient of factors": (lambda x: inner(2 * x / (inner(x).square() + 1)), "linear x 3, pointwise, divide"),
    "sum with one token": (lambda x: x[:, :1] + x, "linear, rearrange, add"),
    "sum with one channel": (lambda x: x + x[..., :1], "linear x 2, add"),
    "sum in another order": (lambda x: x + x.flip(1), "linear, rearrange, add"),
    "halves": (lambda x: F.silu(x[..., :8]) + F.silu(x[..., 8:]), "linear x 2, pointwise x 2, add"),
}  # fmt: skip


@pytest.mark.parametrize("name", TWO)
def test_two_tensors(name: str) -> None:
    function, expected = TWO[name]
    assert made(of_tokens(function)) == expected


DIVISORS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "one for each token": (lambda x: x.sigmoid()[..., 2:3] + 1, 1),
    "one for each head": (lambda x: (x.sigmoid()[..., :4] + 1).repeat_interleave(4, -1), 4),
    "one for each element": (lambda x: x.sigmoid().flip(1) + 1, 16),
    "one for each token, before it": (lambda x: x.sigmoid()[:, :1] + 1, 16),
    "one in all": (lambda x: x.sigmoid()[:, :1, :1] + 1, 1),
}


@pytest.mark.parametrize("name", DIVISORS)
def test_a_divisor_has_a_channel_for_each_block(name: str) -> None:
    function, blocks = DIVISORS[name]
    graph = of_tokens(lambda x: x / function(inner(x)))
    dividend, divisor = arguments_of(graph, floatops.divide)
    assert dividend.meta["shape"] == (TOKENS, 16)
    assert divisor.meta["shape"] == (TOKENS, blocks)


def test_a_quotient_of_heads_lies_as_its_dividend_does() -> None:
    graph = of_tokens(lambda x: x.unflatten(-1, (4, 4)).transpose(1, 2) / (inner(x).abs()[:, None, :, :1] + 1))
    _, divisor = arguments_of(graph, floatops.divide)
    assert divisor.meta["shape"] == (TOKENS, 1)


def test_equal_functions_of_a_tensor_are_computed_once() -> None:
    graph = of_tokens(lambda x: (F.silu(x), F.silu(x) * FACTORS, F.silu(x.mT).mT + inner(x)))
    assert made(graph) == "linear x 2, pointwise, multiply, add"


def test_a_function_of_a_part_is_not_computed_for_the_rest() -> None:
    graph = of_tokens(lambda x: F.silu(x[:, 1:3]))
    (node,) = graph.module.graph.find_nodes(op="call_function", target=floatops.pointwise)
    assert node.meta["shape"] == (2, 16)


def test_casts_to_other_floats_are_nothing() -> None:
    graph = checked(Embedded(lambda x: x.double().float() + x.half().type_as(x), tokens=True), SHAPE, tolerance=1e-2)
    assert made(graph) == "linear, add"


def test_batch_normalized_gates_of_maps() -> None:
    excite = drawn(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.SiLU(), nn.Conv2d(4, 16, 1)))
    graph = checked(Embedded(lambda x: (x * excite(x).sigmoid()).flatten(2).mT, tokens=False), SHAPE)
    assert made(graph) == "linear x 3, pool, pointwise x 2, multiply"


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "a comparison": (lambda x: torch.where(x > 0, x, 0.1 * x), "gt: no rule"),
    "rounding division": (lambda x: torch.div(x, 2, rounding_mode="floor"), "div: a division that rounds"),
    "bounds per channel": (lambda x: torch.clamp(x, FACTORS, FACTORS + 1), "a parameter for each channel"),
    "maximum of two": (lambda x: torch.maximum(x, x.flip(1)), "maximum: no rule"),
    "integers": (lambda x: x.long(), "a cast to torch.int64"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    function, reason = REFUSED[name]
    with pytest.raises(UnsupportedOp, match=f"change: .*{reason}"):
        capture(Embedded(function, tokens=True), SHAPE)
