"""Convolutions of each channel by itself: int8 times int8 weights, exact int32 sums, every constant folded.

    before   y: f32 = depthwise(x, W, b, ...)                 x = s_c q + o_c in channel c
    after    acc: i32 = intvit::depthwise(q, w, c, fill, ...) y_c ~ t_c acc_c

    w_ic = round(W_ic s_c / t_c)        fill_c = round(-o_c / s_c)        the bias as in `lower-linear`

A channel is a row of a product with one input: its scale and offset fold in exactly. What lies outside of the image is
the integer next to 0 on its grid.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, fx

from intvit import floatops
from intvit.dialect.windows import depthwise
from intvit.grid import Role
from intvit.nodes import arguments
from intvit.passes.base import LoweringPass, Skip
from intvit.passes.lower_linear import quantized_weights
from intvit.passes.lower_unfold import zeros
from intvit.passes.lowering import Lowering


@dataclass(frozen=True)
class LowerDepthwise(LoweringPass):
    """Depthwise convolutions with constant weights."""

    name: ClassVar[str] = "lower-depthwise"
    target: ClassVar[Any] = floatops.depthwise

    def match(self, node: fx.Node, graph: Lowering) -> fx.Node | Skip:
        if not all(graph.is_constant(argument) for argument in node.args[1:3]):
            return Skip(node.name, "its weights are not constant")
        return node

    def rewrite(self, site: fx.Node, graph: Lowering) -> fx.Node:
        x, weight, bias, *lists = arguments(site)
        grid, rows = graph.grid(x, Role.PRODUCT), graph.grid(site, Role.ACCUMULATOR)
        mean = graph.calibrated.mean(graph.origin(x))
        taps, constant = graph.value(weight), graph.value(bias)
        of_rows = replace(grid, scale=_of_rows(grid.scale), offset=_of_rows(grid.offset))
        w, c = quantized_weights(taps.T, constant, of_rows, rows.scale, None if mean is None else _of_rows(mean))
        fields = [list(values) for values in lists]
        acc = graph.emit(depthwise, graph.read(x, grid), w.T, c, zeros(grid, len(c)), *fields)
        return graph.write(acc, rows)


def _of_rows(values: Tensor) -> Tensor:
    """Numbers of channels as those of the rows of a matrix."""
    return values[:, None]
