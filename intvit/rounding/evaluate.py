"""One operation of a float graph on operands that lie on the grids on which they are read."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from intvit import floatops
from intvit.grid import Grid, Role
from intvit.leveled import leveled_attention
from intvit.nodes import arguments
from intvit.passes.lower_activation import finite_knots
from intvit.pointwise import Function
from intvit.roles import READS
from intvit.rounding.on_grid import finite_gradient, on_grid
from intvit.stages import CalibratedGraph

Value = Callable[[fx.Node], Tensor]
Rounding = Callable[[Tensor, Grid], Tensor]


def read(calibrated: CalibratedGraph, node: fx.Node, role: Role, value: Value, rounding: Rounding = on_grid) -> Tensor:
    """`node` on the grid on which it is read as `role`."""
    return rounding(value(node), calibrated.grid(origin(node), role))


def origin(node: fx.Node) -> fx.Node:
    """The node whose grids a selection of tokens is read on."""
    return origin(arguments(node)[0]) if node.target is floatops.select_tokens else node


def evaluate(
    node: fx.Node, value: Value, calibrated: CalibratedGraph | None = None, rounding: Rounding = on_grid
) -> Tensor:
    """The operation on what `value` gives for its operands and constants; on their grids where these are given."""
    target: Any = node.target
    if calibrated is None:
        return target(*(fx.map_arg(argument, value) for argument in node.args))  # type: ignore[no-any-return]
    roles = READS.get(target, ())

    def operand(x: fx.Node, place: int) -> Tensor:
        known = x.op == "get_attr" or place >= len(roles)
        return value(x) if known else read(calibrated, x, roles[place], value, rounding)

    args: list[Any] = [fx.map_arg(argument, partial(operand, place=i)) for i, argument in enumerate(node.args)]
    if target in _LIKE_INTEGERS:
        place, function = _LIKE_INTEGERS[target]
        source = arguments(node)[place]
        return target(*args) if source.op == "get_attr" else function(*args, calibrated.grid(origin(source), Role.WIDE))
    levels = calibrated.softmax_levels.get(node.name)
    return target(*args) if levels is None else leveled_attention(levels, *args)


def _divide(a: Tensor, b: Tensor, grid: Grid) -> Tensor:
    """A divisor that its grid rounds to 0 counts as one step of it (`intvit.dialect.divide`)."""
    return floatops.divide(a, torch.where(b == 0, grid.scale.float(), b))


def _pointwise(x: Tensor, function: Function, grid: Grid) -> Tensor:
    """Where a grid's value is outside the function's domain, that of its table: at the nearest knot inside."""
    x = finite_gradient(x)
    result = floatops.pointwise(x, function)
    outside = ~torch.isfinite(result)
    if not bool(outside.any()):
        return result
    knots = finite_knots(function, grid).float()
    nearest = knots[(x.detach()[outside][:, None] - knots).abs().argmin(1)]
    return floatops.pointwise(x.masked_scatter(outside, nearest), function)


_LIKE_INTEGERS: Mapping[Any, tuple[int, Callable[..., Tensor]]] = {
    floatops.divide: (1, _divide),
    floatops.pointwise: (0, _pointwise),
}
"""Operations that are not finite everywhere, and the operand on whose grid values may be where they are not."""
