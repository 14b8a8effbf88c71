"""Functions of one number, as data: what a graph holds of an activation, however a model spells it.

A `Function` is a list of steps `(name, operand, ...)`; an operand is a number, `"x"`, or `"3"`, the result of step 3.
The last step is the result. `x · sigmoid(1.702 x)` is

    (("mul", "x", 1.702), ("sigmoid", "0"), ("mul", "x", "1"))

Compositions are evaluated in float64 when a table is made of them, and in the dtype of `x` in a float graph.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Operand = str | float
Step = tuple[str | float, ...]
Function = tuple[Step, ...]

PRIMITIVES: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "pow": torch.pow,
    "clamp": torch.clamp,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "neg": torch.neg,
    "abs": torch.abs,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "square": torch.square,
    "erf": torch.erf,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "celu": F.celu,
    "selu": F.selu,
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "log_sigmoid": F.logsigmoid,
    "hardtanh": F.hardtanh,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "gelu": lambda x, approximate="none": F.gelu(x, approximate=approximate),
}


def evaluate(function: Function, x: Tensor) -> Tensor:
    """The value of `function` at every element of `x`, in its dtype."""
    results: list[Tensor] = []

    def operand(value: Operand) -> Tensor | Operand:
        if not isinstance(value, str):
            return value
        return x if value == "x" else results[int(value)] if value.isdigit() else value

    for name, *operands in function:
        found = [operand(value) for value in operands]
        if name in ("sub", "div", "maximum", "minimum", "pow"):
            found = [torch.as_tensor(value, dtype=x.dtype) for value in found]
        results.append(PRIMITIVES[str(name)](*found))
    return results[-1]
