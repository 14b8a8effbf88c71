"""RMSNorm in integers: blocks of channels as unit vectors in Q15, then one multiplier per channel.

    before   y: f32 = rms_norm(x, γ, groups, eps)
    after    q = intvit::rmsnorm(x: i16, m, shift, eps', min_shift, groups)

With input scale S, C channels in a block, output `s_c q`:

    m_c  = γ_c sqrt(C) / (s_c 2^15) · 2^shift
    eps' = eps C / S² / 4^min_shift, the smallest min_shift for which it is below 2^30
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from intvit import floatops
from intvit.dialect.rmsnorm import rmsnorm
from intvit.grid import Role
from intvit.nodes import arguments
from intvit.passes.base import LoweringPass, Skip
from intvit.passes.lower_layernorm import MAX_MULTIPLIER, UNIT, fixed_point_shift, scaled_eps
from intvit.passes.lowering import Lowering


@dataclass(frozen=True)
class LowerRMSNorm(LoweringPass):
    """Blocks of channels by their root mean square."""

    name: ClassVar[str] = "lower-rmsnorm"
    target: ClassVar[Any] = floatops.rms_norm

    def match(self, node: fx.Node, graph: Lowering) -> fx.Node | Skip:
        x, weight, groups, _ = arguments(node)
        if not graph.is_constant(weight):
            return Skip(node.name, "its weight is not constant")
        channels = graph.value(weight).numel()
        if channels % groups:
            return Skip(node.name, f"{channels} channels are no {groups} blocks of one size")
        return Skip(node.name, "its operand is constant") if graph.is_constant(x) else node

    def rewrite(self, site: fx.Node, graph: Lowering) -> fx.Node:
        x, weight, groups, eps = arguments(site)
        gain = graph.value(weight).double()
        grid, out = graph.grid(x, Role.WIDE), graph.stored_grid(site)
        channels = gain.numel() // groups
        m = gain * math.sqrt(channels) / (out.scale * UNIT)
        shift = fixed_point_shift(m, torch.zeros(1))
        min_shift, integer_eps = scaled_eps(eps, float(grid.scale), channels)
        multiplier = torch.round(m * 2**shift).clamp(-MAX_MULTIPLIER, MAX_MULTIPLIER).to(torch.int32)
        q = graph.read(x, grid)
        return graph.write(graph.emit(rmsnorm, q, multiplier, shift, integer_eps, min_shift, groups, out.dtype), out)
