"""The values of the integer graph with the gradients of the float graph: the straight-through estimator.

    forward     the result of every operation is what the integer graph computes, dequantized
    backward    that of the float operation, at operands and weights on their grids; nothing where one is off its grid

A gradient passes rounding as if that were the identity (Bengio et al., arXiv:1308.3432), and ends where a value
saturates (LSQ, arXiv:1902.08153, section 2.3).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from intvit import floatops
from intvit.grid import Grid, Role
from intvit.nodes import arguments
from intvit.roles import READS, stored_role
from intvit.stages import CalibratedGraph

WEIGHTED = (floatops.linear, floatops.depthwise)
"""Operations whose second operand is int8 weights, on the grids of their input and of their sums."""
READ_SUMS = (floatops.add, floatops.softmax)
"""Operations that read the exact sums of a product, where all others round them first."""


@dataclass(frozen=True)
class Value:
    """What the integer graph computes for a float node, dequantized, and the grid that it lies on."""

    real: Tensor
    grid: Grid


class _Straight(torch.autograd.Function):
    """`value`, with the gradient of `x`: all of it, or what lies between the ends of a range."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, *ends: Tensor) -> Tensor:
        if ends:
            low, high = ends
            ctx.save_for_backward((x >= low) & (x <= high))
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        for inside in ctx.saved_tensors:
            gradient = gradient * inside
        return gradient, *(None for needed in ctx.needs_input_grad[1:])


def straight(x: Tensor, value: Tensor, grid: Grid | None = None) -> Tensor:
    """`value`, bit for bit, with the gradient of `x` `[..., C]` where its nearest integer does not saturate `grid`."""
    apply: Callable[..., Tensor] = _Straight.apply
    if grid is None or grid.dtype == "int32":  # sums never saturate: their overflow is ruled out
        return apply(x, value)
    first, last = grid.ends
    low, high = grid.scale * (first - 0.5) + grid.offset, grid.scale * (last + 0.5) + grid.offset
    return apply(x, value, low.to(x.dtype), high.to(x.dtype))


def rounded(x: Tensor, grid: Grid) -> Tensor:
    """The nearest value of `grid`, straight through."""
    with torch.no_grad():
        value = grid.dequantize(grid.quantize(x))
    return straight(x, value, grid)


class StraightThrough(fx.Interpreter):
    """Runs the float graph of `calibrated` on normalized images, each result replaced by the integer graph's.

    `parameters`: the constants that get a gradient, by name. `values`: by the name of the float node; a node without
    one keeps its own result.
    """

    def __init__(
        self, calibrated: CalibratedGraph, parameters: Mapping[str, Tensor], values: Mapping[str, Value]
    ) -> None:
        super().__init__(calibrated.source.module)
        self.extra_traceback = False
        self.calibrated, self.parameters, self.values = calibrated, parameters, values

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A constant."""
        return self.parameters[target] if target in self.parameters else super().get_attr(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        """The result of a node."""
        if n.op != "call_function":
            return super().run_node(n)
        target: Any = n.target
        result: Tensor = target(*self._operands(n))
        found = self.values.get(n.name)
        return result if found is None else straight(result, found.real, found.grid)

    def _operands(self, node: fx.Node) -> list[Any]:
        """As the integer operation reads them."""
        target: Any = node.target
        found = list(self.fetch_args_kwargs_from_env(node)[0])
        for place, (source, role) in enumerate(zip(arguments(node), READS.get(target, ()), strict=False)):
            if source.op == "call_function" and not _reads_sums(node, source):
                found[place] = self._read(source, found[place], self.calibrated.grid(source, role))
        if target in WEIGHTED:
            found[1] = self._weights(node, found[1])
        return found

    def _read(self, source: fx.Node, x: Tensor, grid: Grid) -> Tensor:
        """What is written on `grid` is on it already."""
        written = self.values.get(source.name)
        return x if written is not None and written.grid is grid else rounded(x, grid)

    def _weights(self, node: fx.Node, weight: Tensor) -> Tensor:
        """The real numbers that the int8 weights of `node` stand for; no weight is off its grid."""
        step = weight_steps(self.calibrated, node)
        with torch.no_grad():
            value = (torch.floor(weight.double() / step + 0.5) * step).to(weight.dtype)
        return straight(weight, value)


def weight_steps(calibrated: CalibratedGraph, node: fx.Node) -> Tensor:
    """The step of each weight of a linear layer `[N, K]` or `[N, 1]`, of a depthwise convolution `[C]`; float64."""
    rows = calibrated.grid(node, Role.ACCUMULATOR).scale
    columns = calibrated.grid(arguments(node)[0], Role.PRODUCT).scale
    return rows / columns if node.target is floatops.depthwise else rows[:, None] / columns


def _reads_sums(node: fx.Node, source: fx.Node) -> bool:
    return node.target in READ_SUMS and stored_role(source) is Role.ACCUMULATOR
