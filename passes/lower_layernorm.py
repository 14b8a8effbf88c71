"""LayerNorm in integers: the normalized row as a unit vector in Q15, then one multiplier and bias per channel.

    before   y: f32 = layer_norm(x, γ, β, eps)
    after    q = intvit::layernorm(x: i16, m, c, shift, eps', min_shift)            (default)
             q = requantize(intvit::layernorm_published(x: i16, floor(β / γ / s)))  (--preset paper; I-ViT eq. 12 to 14)

With input scale S, C channels, output `s_c q + o_c`:

    m_c  = γ_c sqrt(C) / (s_c 2^15) · 2^shift        c_c = (β_c - o_c) / s_c · 2^shift
    eps' = eps C / S² / 4^min_shift, the smallest min_shift for which it is below 2^30
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from intvit import floatops
from intvit.dialect.layernorm import MAX_EPS, layernorm
from intvit.dialect.published import layernorm_published
from intvit.dialect.requantize import requantize
from intvit.errors import IntvitError
from intvit.grid import Grid, Role, dyadic_for
from intvit.passes.base import LoweringPass, Skip
from intvit.passes.lowering import Lowering

UNIT = 1 << 15
MAX_MULTIPLIER = (1 << 15) - 1
MAX_BIAS = 1 << 29
MAX_SHIFT = 30
PUBLISHED_FRACTION = 30
PUBLISHED_PRE_SHIFT = 24
PUBLISHED_BIAS = (1 << 30) - (1 << PUBLISHED_PRE_SHIFT)
"""Leaves room for the row (within 2^30) and for the half of the rounding shift; the published `β / γ` overflows."""
SPAN = {"int8": 1 << 8, "int16": 1 << 15}


@dataclass(frozen=True)
class LowerLayerNorm(LoweringPass):
    """LayerNorm over the channels."""

    name: ClassVar[str] = "lower-layernorm"
    target: ClassVar[Any] = floatops.layer_norm

    def match(self, node: fx.Node, graph: Lowering) -> fx.Node | Skip:
        if not all(graph.is_constant(argument) for argument in node.args[1:3]):
            return Skip(node.name, "its weight or bias is not constant")
        return node

    def rewrite(self, site: fx.Node, graph: Lowering) -> fx.Node:
        x, weight, bias, eps = site.args
        assert isinstance(x, fx.Node) and isinstance(eps, float)
        gain, offset = graph.value(weight).double(), graph.value(bias).double()
        grid, out = graph.grid(x, Role.WIDE), graph.stored_grid(site)
        build = _published if graph.calibrated.published else _default
        return graph.write(build(graph, graph.read(x, grid), float(grid.scale), gain, offset, eps, out), out)


def _default(graph: Lowering, q: fx.Node, scale: float, gain: Tensor, offset: Tensor, eps: float, out: Grid) -> fx.Node:
    channels = gain.numel()
    m = gain * math.sqrt(channels) / (out.scale * UNIT)
    c = (offset - out.offset) / out.scale
    shift = fixed_point_shift(m, c)
    min_shift, integer_eps = scaled_eps(eps, scale, channels)
    multiplier = torch.round(m * 2**shift).clamp(-MAX_MULTIPLIER, MAX_MULTIPLIER).to(torch.int32)
    bias = torch.round(c * 2**shift).to(torch.int32)
    return graph.emit(layernorm, q, multiplier, bias, shift, integer_eps, min_shift, out.dtype)


def _published(
    graph: Lowering, q: fx.Node, scale: float, gain: Tensor, offset: Tensor, eps: float, out: Grid
) -> fx.Node:
    unit = math.sqrt(gain.numel()) / 2**PUBLISHED_FRACTION
    safe = torch.where(gain == 0, torch.finfo(torch.float32).tiny, gain)
    bias = torch.floor(offset / safe / unit).clamp(-PUBLISHED_BIAS, PUBLISHED_BIAS).to(torch.int32)
    ratio = dyadic_for(unit * safe.abs() / out.scale, SPAN[out.dtype], PUBLISHED_PRE_SHIFT)
    multiplier = ratio.multiplier * safe.sign().to(torch.int32)
    rows = graph.emit(layernorm_published, q, bias)
    return graph.emit(requantize, rows, multiplier, ratio.pre_shift, ratio.shift, 0, out.dtype)


def fixed_point_shift(multiplier: Tensor, bias: Tensor) -> int:
    """The most fraction bits with which multipliers fit 16 and biases 30 bits."""
    room = min(
        math.floor(math.log2(MAX_MULTIPLIER / max(float(multiplier.abs().max()), 1e-9))),
        math.floor(math.log2(MAX_BIAS / max(float(bias.abs().max()), 1e-9))),
    )
    if room < 0:
        raise IntvitError(
            "a LayerNorm's weight or bias is too large for its calibrated range: check the calibration data"
        )
    return min(room, MAX_SHIFT)


def scaled_eps(eps: float, scale: float, channels: int) -> tuple[int, int]:
    """`min_shift` and the integer `eps` of `intvit::layernorm` for float `eps` and input scale."""
    exact = eps * channels / scale**2
    min_shift = max(-15, min(16, math.ceil(math.log(max(exact, 1e-30) / MAX_EPS, 4))))
    return min_shift, min(round(exact / 4**min_shift), MAX_EPS)
