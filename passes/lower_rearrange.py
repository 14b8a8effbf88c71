"""Movement that is no mere choice of tokens: windows, merged patches, transposes, padding, concatenations.

before   y = rearrange((a, b, constant), index, chunk)
after    the same on integers, all sources on the grid of the result, which calibration made common to the channels
that meet in it
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from intvit import floatops
from intvit.dialect.rearrange import rearrange
from intvit.movement import Classes
from intvit.nodes import arguments
from intvit.passes.base import LoweringPass, Skip
from intvit.passes.lowering import Lowering


@dataclass(frozen=True)
class LowerRearrange(LoweringPass):
    """Blocks of channels of any tensors, in any order."""

    name: ClassVar[str] = "lower-rearrange"
    target: ClassVar[Any] = floatops.rearrange

    def match(self, node: fx.Node, graph: Lowering) -> fx.Node | Skip:
        return node

    def rewrite(self, site: fx.Node, graph: Lowering) -> fx.Node:
        sources, table, chunk = arguments(site)
        index, grid = graph.value(table), graph.stored_grid(site)
        shapes = [graph.value(x).shape if graph.is_constant(x) else graph.origin(x).meta["shape"] for x in sources]
        classes = Classes.of(shapes, index, chunk)
        operands: list[Any] = []
        for i, source in enumerate(sources):
            own = classes.of_source(i, grid)
            constant = graph.is_constant(source)
            operands.append(graph.constant(own.quantize(graph.value(source))) if constant else graph.read(source, own))
        return graph.write(graph.emit(rearrange, operands, table, chunk), grid)
