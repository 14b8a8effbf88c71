"""Linear layers: int8 times int8 weights, exact int32 sums, every constant folded.

    before   y: f32 = linear(x, W, b)                         x = s_k q_k + o_k per input channel k
    after    acc: i32 = intvit::linear(q, w, c)               y_n ~ t_n acc_n + o_n,  t_n the weight scale of row n

    w_nk = round(W_nk s_k / t_n)                              the input's scales fold into the columns
    c_n  = round((b_n - o_n + Σ_k W_nk E[x_k]) / t_n - Σ_k w_nk E[q_k])

`o_n` is 0 but for the values of an attention (`intvit.grids`). The offsets `o_k` are inside
`E[x_k] = s_k E[q_k] + o_k`, and so is bias correction: on average over the calibration images, the rounding of the
weights does not shift the output (Nagel et al., arXiv:1906.04721, section 4.2). The result keeps the grid of its
accumulators; what reads it requantizes (`fold-boundaries`) or adds it (`lower-residual`).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from intvit import floatops
from intvit.dialect.linear import linear
from intvit.grid import LIMITS, Grid, Role
from intvit.nodes import arguments
from intvit.passes.base import LoweringPass, Skip
from intvit.passes.lowering import Lowering


@dataclass(frozen=True)
class LowerLinear(LoweringPass):
    """Products with constant weights."""

    name: ClassVar[str] = "lower-linear"
    target: ClassVar[Any] = floatops.linear

    def match(self, node: fx.Node, graph: Lowering) -> fx.Node | Skip:
        if not all(graph.is_constant(argument) for argument in node.args[1:]):
            return Skip(node.name, "its weights are not constant")
        return node

    def rewrite(self, site: fx.Node, graph: Lowering) -> fx.Node:
        x, weight, bias = arguments(site)
        grid = graph.grid(x, Role.PRODUCT)
        rows = graph.grid(site, Role.ACCUMULATOR)
        mean = graph.calibrated.mean(graph.origin(x))
        w, c = quantized_weights(graph.value(weight), graph.value(bias) - rows.offset, grid, rows.scale, mean)
        acc = graph.emit(linear, graph.read(x, grid), w, c)
        return graph.write(acc, rows)


def quantized_weights(
    weight: Tensor, bias: Tensor, grid: Grid, scale: Tensor, mean: Tensor | None
) -> tuple[Tensor, Tensor]:
    """int8 weights `[N, K]` and int32 bias `[N]` for an input on `grid`, whose mean (float, `[K]`) is where known.

    Where all columns of a row read one channel, scale and offset of the grid and the mean are `[N, 1]`.
    A bias beyond 32 bits is clipped there, and the overflow proof refuses it.
    """
    exact = weight.double()
    w = torch.floor(exact * grid.scale / scale[:, None] + 0.5).clamp(-127, 127)
    x_mean = grid.offset if mean is None else mean
    q_mean = (x_mean - grid.offset) / grid.scale
    c = (bias.double() + _weighted(exact, x_mean)) / scale - _weighted(w, q_mean)
    return w.to(torch.int8), torch.floor(c + 0.5).clamp(*LIMITS["int32"]).to(torch.int32)


def _weighted(weight: Tensor, x: Tensor) -> Tensor:
    """`Σ_k weight[n, k] x[n, k]`, with `x` `[1]`, `[K]` or `[N, 1]`."""
    return (weight * x).sum(1) if x.ndim == 2 else weight @ x.expand(weight.shape[1])
