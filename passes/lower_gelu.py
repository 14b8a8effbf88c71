"""GELU as ShiftGELU on 16-bit fixed point.

    before   y: f32 = gelu(x)
    after    q: i8 = intvit::gelu(x: i16 = round(x 2^fraction), ...)           (default)
             q: i8 = intvit::gelu_published(x: i8, x0 = floor(-1/(1.702 s)))   (--preset paper; I-ViT eq. 10, 11)

The input is fixed point with a power of two as scale, so the polynomial is the same for every layer; the result is
asymmetric: GELU is never below -0.17, so the negative side takes a few of the 256 levels only.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from intvit import floatops
from intvit.dialect.gelu import FRACTION, gelu
from intvit.dialect.published import GELU_SLOPE, gelu_published
from intvit.grid import Role, dyadic_for
from intvit.nodes import arguments
from intvit.passes.base import LoweringPass, Skip
from intvit.passes.lowering import Lowering

INT8_SPAN = 1 << 8
SIGMOID_FRACTION = 7


@dataclass(frozen=True)
class LowerGelu(LoweringPass):
    """GELU, elementwise (the published form: per row)."""

    name: ClassVar[str] = "lower-gelu"
    target: ClassVar[Any] = floatops.gelu

    def match(self, node: fx.Node, graph: Lowering) -> fx.Node | Skip:
        return node

    def rewrite(self, site: fx.Node, graph: Lowering) -> fx.Node:
        x = arguments(site)[0]
        grid, out = graph.grid(x, Role.FIXED), graph.grid(site, Role.PRODUCT)
        q = graph.read(x, grid)
        if graph.calibrated.published:
            x0 = math.floor(-1 / (GELU_SLOPE * float(grid.scale)))
            ratio = dyadic_for(grid.scale / 2**SIGMOID_FRACTION / out.scale, INT8_SPAN)
            node = graph.emit(gelu_published, q, x0, ratio.multiplier, ratio.pre_shift, ratio.shift)
        else:
            fraction = round(-math.log2(float(grid.scale)))
            ratio = dyadic_for(2.0**-FRACTION / out.scale, INT8_SPAN)
            zero_point = int(torch.round(-out.offset / out.scale))
            node = graph.emit(gelu, q, fraction, ratio.multiplier, ratio.pre_shift, ratio.shift, zero_point)
        return graph.write(node, out)
