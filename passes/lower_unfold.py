"""What a convolution reads, as rows of the `linear` that it is.

    before   y: f32 = unfold(x, size, kernel, stride, padding, dilation)     zeros outside of the image
    after    q: i8 = intvit::unfold(q_x, fill, ...)                          fill_c = round(-o_c / s_c)

`fill` is the integer of 0. The result keeps the input's scales and offsets, once for each pixel of a window, and the
levels on which it was read.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from intvit import floatops
from intvit.dialect.windows import unfold
from intvit.grid import Grid, Role
from intvit.nodes import arguments
from intvit.passes.base import LoweringPass, Skip
from intvit.passes.lowering import Lowering


@dataclass(frozen=True)
class LowerUnfold(LoweringPass):
    """The windows of convolutions."""

    name: ClassVar[str] = "lower-unfold"
    target: ClassVar[Any] = floatops.unfold

    def match(self, node: fx.Node, graph: Lowering) -> fx.Node | Skip:
        return node

    def rewrite(self, site: fx.Node, graph: Lowering) -> fx.Node:
        x, *lists = arguments(site)
        grid, out = graph.grid(x, Role.PRODUCT), graph.grid(site, Role.PRODUCT)
        channels = graph.origin(x).meta["shape"][1]
        fields = [list(values) for values in lists]
        return graph.write(graph.emit(unfold, graph.read(x, grid), zeros(grid, channels), *fields), out)


def zeros(grid: Grid, channels: int) -> Tensor:
    """The integers of 0 of each channel, int32."""
    return grid.quantize(torch.zeros(channels)).to(torch.int32)
