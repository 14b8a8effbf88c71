"""Functions of one number, and sums and products of two tensors."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from intvit import floatops
from intvit.frontend.builder import Builder
from intvit.frontend.materialize import (
    PROBES,
    aligned,
    aligned_in_blocks,
    as_tensor,
    as_view,
    canonical,
    evenly_scaled,
    in_base,
    unscaled,
)
from intvit.frontend.rules.norms import normalized
from intvit.frontend.rules.products import biased, scaled
from intvit.frontend.rules.registry import RULES, rule
from intvit.frontend.values import (
    Constant,
    Mapped,
    Norm,
    NotCanonical,
    Probabilities,
    Scores,
    Value,
    View,
    constant_along,
)
from intvit.pointwise import Function, Step, evaluate

UNARY = {"neg", "abs", "exp", "log", "sqrt", "rsqrt", "reciprocal", "square", "erf", "tanh", "sigmoid", "relu", "relu6",
         "leaky_relu", "elu", "celu", "selu", "silu", "mish", "softplus", "log_sigmoid", "hardtanh", "hardswish",
         "hardsigmoid", "gelu", "clamp", "pow"}  # fmt: skip
"""ATen operations of one tensor and numbers, which `intvit.pointwise` knows by the same names."""
STEEP = 1e3
"""What only an exponential reaches within 8 of 0."""


def started(value: View | Mapped) -> Mapped:
    """A function of a view without a factor."""
    if isinstance(value, Mapped):
        return value
    if isinstance(value.factor, Tensor):
        raise NotCanonical("a function of a tensor with many factors")
    steps: Function = () if value.factor == 1.0 else (("mul", "x", value.factor),)
    return Mapped(replace(value, factor=1.0), steps)


def then(value: Mapped, name: str, *operands: Any) -> Mapped:
    """A further step; `None` among the operands stands for the result so far."""
    last = str(len(value.function) - 1) if value.function else "x"
    step: Step = (name, *(last if operand is None else operand for operand in operands))
    return replace(value, function=(*value.function, step))


def _as_started(b: Builder, x: Value) -> Mapped:
    if isinstance(x, View | Mapped) and not isinstance(getattr(x, "factor", 1.0), Tensor):
        return started(x)
    return started(unscaled(b, as_view(b, x)))


def _unary(name: str) -> Callable[..., Value]:
    def function(b: Builder, x: Value, *operands: Any, **named: Any) -> Value:
        given = (*operands, *named.values())
        numbers = [o if isinstance(o, str) else _bound(o, i) for i, o in enumerate(given)]
        return then(_as_started(b, x), name, None, *numbers)

    return function


def _bound(operand: Any, index: int) -> float:
    """A number; a bound that is left out is none."""
    if operand is None:
        return -torch.inf if index == 0 else torch.inf
    tensor = as_tensor(operand)
    if tensor.numel() != 1:
        raise NotCanonical("a parameter for each channel of an activation is not supported")
    return float(tensor)


for _name in UNARY:
    RULES[_name] = RULES[f"{_name}_"] = _unary(_name)


@rule("clamp_min", "clamp_min_")
def clamp_min(b: Builder, x: Value, low: Any) -> Value:
    if isinstance(x, Norm):
        return replace(x, floor=max(x.floor, _bound(low, 0)))
    return then(_as_started(b, x), "clamp", None, _bound(low, 0), torch.inf)


@rule("clamp_max", "clamp_max_")
def clamp_max(b: Builder, x: Value, high: Any) -> Value:
    return then(_as_started(b, x), "clamp", None, -torch.inf, _bound(high, 1))


@rule("add", "add_")
def add(b: Builder, x: Value, y: Value, alpha: float = 1) -> Value:
    y = times(b, y, alpha)
    if isinstance(x, Constant | int | float):
        x, y = y, x
    if not isinstance(y, Constant | int | float):
        return _merged(x, y, "add") or _sum(b, x, y)
    constant = as_tensor(y)
    if isinstance(x, Scores) and constant.dtype.is_floating_point:
        return biased(x, constant)
    if constant.numel() == 1 and not isinstance(x, Scores | Probabilities):
        return then(_as_started(b, x), "add", None, float(constant))
    return _add_constant(b, as_view(b, x), constant)


@rule("sub", "sub_")
def sub(b: Builder, x: Value, y: Value, alpha: float = 1) -> Value:
    merged = _merged(x, y, "sub") if alpha == 1 else None
    return merged or add(b, x, times(b, y, -alpha))


@rule("rsub")
def rsub(b: Builder, x: Value, y: Value, alpha: float = 1) -> Value:
    return sub(b, y, x, alpha)


def times(b: Builder, x: Value, factor: float) -> Value:
    """A value or a number times a number."""
    if factor == 1:
        return x
    if isinstance(x, Constant | int | float):
        return Constant(as_tensor(x) * factor)
    return mul(b, x, Constant(torch.tensor(float(factor))))


def _merged(x: Value, y: Value, name: str) -> Mapped | None:
    """One function of one tensor, where both are functions of the same; a plain sum of two is none."""
    if not (isinstance(x, View | Mapped) and isinstance(y, View | Mapped)):
        return None
    if isinstance(x, View) and isinstance(y, View) and name != "mul":
        return None
    if any(isinstance(v, View) and isinstance(v.factor, Tensor) for v in (x, y)):
        return None
    first, second = started(x), started(y)
    if not first.view.same_elements(second.view):
        return None
    shift = len(first.function)

    def moved(operand: Any) -> Any:
        return str(int(operand) + shift) if isinstance(operand, str) and operand.isdigit() else operand

    behind: Function = tuple((step[0], *map(moved, step[1:])) for step in second.function)
    left = str(shift - 1) if first.function else "x"
    right = str(shift + len(behind) - 1) if behind else "x"
    return Mapped(first.view, (*first.function, *behind, (name, left, right)))


def _sum(b: Builder, x: Value, y: Value) -> Value:
    left, right = evenly_scaled(b, as_view(b, x)), evenly_scaled(b, as_view(b, y))
    if right.index.numel() > left.index.numel():
        left, right = right, left
    left, right = aligned(b, left, right, broadcast=False)
    left = b.unscaled(left)
    return replace(b.emit(floatops.add, (left.base, right.base), *left.shape), index=left.index)


def _add_constant(b: Builder, x: View, constant: Tensor) -> Value:
    x = unscaled(b, x)
    shape = torch.broadcast_shapes(x.index.shape, constant.shape)
    if shape != x.index.shape or not x.is_whole():
        x = canonical(b, x.move(lambda t: t.expand(shape)))
    values = in_base(x, constant)
    if constant_along(values, 0) and x.base.target is floatops.linear:
        return b.scaled(x, torch.ones(x.channels), values[0])
    return replace(b.emit(floatops.add, (x.base, b.constant(values)), *x.shape), index=x.index)


@rule("mul", "mul_")
def mul(b: Builder, x: Value, y: Value) -> Value:
    """By a number: carried along. By one per channel: folded into what made the tensor. Of two tensors: a product."""
    if isinstance(x, Constant | int | float):
        x, y = y, x
    if not isinstance(y, Constant | int | float):
        return _merged(x, y, "mul") or _product(b, as_view(b, x), as_view(b, y))
    constant = as_tensor(y)
    if isinstance(x, Scores):
        return scaled(x, constant) or mul(b, as_view(b, x), y)
    if isinstance(x, Mapped) and constant.numel() == 1:
        return then(x, "mul", None, float(constant))
    view = as_view(b, x)
    if constant.numel() == 1:
        return replace(view, factor=view.factor * float(constant))
    shape = torch.broadcast_shapes(view.index.shape, constant.shape)
    view = view.move(lambda t: t.expand(shape))
    if view.is_whole() and not isinstance(view.factor, Tensor):
        values = in_base(view, constant)
        if constant_along(values, 0):
            return b.scaled(view, values[0], torch.zeros(view.channels))
    return replace(view, factor=view.factor * constant.float().expand(shape))


def _product(b: Builder, x: View, y: View) -> Value:
    if y.index.numel() > x.index.numel():
        x, y = y, x
    x, y = evenly_scaled(b, x), evenly_scaled(b, y)
    factor = float(x.factor) * float(y.factor)
    first, second = aligned(b, replace(x, factor=1.0), replace(y, factor=1.0), broadcast=True)
    result = b.emit(floatops.multiply, (first.base, second.base), *first.shape)
    return replace(result, index=first.index, factor=factor)


@rule("div", "div_", "true_divide")
def div(b: Builder, x: Value, y: Value, rounding_mode: str | None = None) -> Value:
    if rounding_mode is not None:
        raise NotCanonical("a division that rounds")
    if isinstance(y, Norm):
        return normalized(b, as_view(b, x), y)
    if isinstance(y, Constant | int | float):
        return mul(b, x, Constant(1 / as_tensor(y).double()))
    merged = _merged(x, y, "div")
    if merged is not None:
        return merged
    if isinstance(x, Constant | int | float) or (isinstance(y, Mapped) and is_steeper_than_its_reciprocal(y.function)):
        return mul(b, x, then(_as_started(b, y), "reciprocal", None))
    return _quotient(b, as_view(b, x), as_view(b, y))


def is_steeper_than_its_reciprocal(function: Function) -> bool:
    """Whether a table of `1 / function` is the better one, as for `1 + exp(-x)`, which grows beyond what one holds."""
    y = evaluate(function, PROBES).abs()
    return bool(y.max() >= STEEP) and bool(1 / y.min() <= y.max())


def _quotient(b: Builder, x: View, y: View) -> Value:
    x, y = evenly_scaled(b, x), evenly_scaled(b, y)
    factor = float(x.factor) / float(y.factor)
    first, second = aligned_in_blocks(b, replace(x, factor=1.0), replace(y, factor=1.0))
    result = b.emit(floatops.divide, (first.base, second.base), *first.shape)
    return replace(result, index=first.index, factor=factor)
