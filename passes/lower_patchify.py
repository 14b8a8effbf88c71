"""Patches are cut from the raw uint8 image; the preprocessing is left to the weights of the patch embedding.

    before   rows: f32 = patchify(image: f32)
    after    rows: f32 = dequantize(intvit::patchify(pixels: u8 NHWC))      scale 1/(255 std), offset -mean/std

`LowerLinear` folds scale and offset, which are per channel of the image, into weights and bias: mean, deviation and the
division by 255 cost nothing. The float image of the graph becomes uint8 pixels; normalized float images
are turned into pixels by `InputGrid.pixels` before the graph.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from intvit import floatops
from intvit.dialect.patchify import patchify
from intvit.grid import Role
from intvit.nodes import arguments
from intvit.passes.base import LoweringPass, Skip
from intvit.passes.lowering import Lowering


@dataclass(frozen=True)
class LowerPatchify(LoweringPass):
    """`patchify` of the image, in pixels."""

    name: ClassVar[str] = "lower-patchify"
    target: ClassVar[Any] = floatops.patchify

    def match(self, node: fx.Node, graph: Lowering) -> fx.Node | Skip:
        image = arguments(node)[0]
        if image.op != "placeholder":
            return Skip(node.name, "its input is not the image")
        return node

    def rewrite(self, site: fx.Node, graph: Lowering) -> fx.Node:
        image, height, width = arguments(site)
        rows = graph.emit(patchify, image, height, width)
        return graph.write(rows, graph.grid(site, Role.PRODUCT))
