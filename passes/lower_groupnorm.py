"""GroupNorm in integers: deviations from the group's mean in Q19, then one multiplier and bias per channel.

    before   y: f32 = group_norm(x, γ, β, groups, eps)
    after    q = intvit::groupnorm(x: i16, m, c, shift, groups, eps', min_shift)

With input scale S, output `s_c q + o_c`:

    m_c  = γ_c / (32 s_c) · 2^shift                  c_c = (β_c - o_c) / s_c · 2^shift
    eps' = eps / S² / 4^min_shift, the smallest min_shift for which it is below 2^30

Where `eps` is so large that the result moves by less than 2^-5 of `γ`, its grid would be finer than the integers of a
deviation: it is written on a coarser one, and requantized.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import fx

from intvit import floatops
from intvit.dialect.groupnorm import MOST, MULTIPLIED, groupnorm
from intvit.grid import Role
from intvit.nodes import arguments
from intvit.passes.base import LoweringPass, Skip
from intvit.passes.lower_layernorm import MAX_MULTIPLIER, fixed_point_shift, scaled_eps
from intvit.passes.lowering import Lowering


@dataclass(frozen=True)
class LowerGroupNorm(LoweringPass):
    """Normalization over the tokens and blocks of channels."""

    name: ClassVar[str] = "lower-groupnorm"
    target: ClassVar[Any] = floatops.group_norm

    def match(self, node: fx.Node, graph: Lowering) -> fx.Node | Skip:
        x, weight, bias, groups, _ = arguments(node)
        if not (graph.is_constant(weight) and graph.is_constant(bias)):
            return Skip(node.name, "its weight or bias is not constant")
        if graph.is_constant(x):
            return Skip(node.name, "its operand is constant")
        tokens, channels = graph.origin(node).meta["shape"]
        if channels % groups:
            return Skip(node.name, f"{channels} channels are no {groups} blocks of one size")
        if tokens * channels // groups > MOST:
            return Skip(node.name, f"its groups have more than {MOST} numbers, too many for sums in 32 bits")
        return node

    def rewrite(self, site: fx.Node, graph: Lowering) -> fx.Node:
        x, weight, bias, groups, eps = arguments(site)
        grid, out = graph.grid(x, Role.WIDE), graph.stored_grid(site)
        gain = graph.value(weight).double()
        finest = gain.abs().max() / (MAX_MULTIPLIER * 2.0**MULTIPLIED)
        if bool((out.scale < finest).any()):
            out = replace(out, scale=out.scale.clamp(min=float(finest)))
        m = gain / (out.scale * 2.0**MULTIPLIED)
        c = (graph.value(bias).double() - out.offset) / out.scale
        shift = fixed_point_shift(m, c)
        min_shift, integer_eps = scaled_eps(eps, float(grid.scale), 1)
        multiplier = torch.round(m * 2**shift).clamp(-MAX_MULTIPLIER, MAX_MULTIPLIER).to(torch.int32)
        addend = torch.round(c * 2**shift).to(torch.int32)
        q = graph.read(x, grid)
        norm = graph.emit(groupnorm, q, multiplier, addend, shift, groups, integer_eps, min_shift, out.dtype)
        return graph.write(norm, out)
