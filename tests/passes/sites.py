"""Graphs with one site of a pass: what the pass makes of it, and how far integers are from float."""

from collections.abc import Callable

import gated
import tiny
import torch
from torch import Tensor, fx

from intvit import boundary
from intvit.fusion import name_of
from intvit.input_grid import InputGrid
from intvit.passes.base import LoweringPass
from intvit.passes.lowering import Lowering
from intvit.stages import CalibratedGraph, IntGraph

GRID = InputGrid((1 / 64,) * 3, (-2.0,) * 3, (3, 4, 4))
IMAGES = torch.randint(0, 256, (16, 4, 4, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
OTHERS = torch.from_numpy(tiny.pixels(16, seed=5))
"""For graphs of `tiny.GRID`, which are calibrated on other images."""


def calibrated(build: Callable[[gated.Sketch], fx.Node]) -> CalibratedGraph:
    """What `build` adds to an image in 4 patches, embedded to 8 channels; its grids are those of `IMAGES`."""
    sketch = gated.Sketch(GRID, 2, 8)
    return sketch.calibrated(build(sketch), images=IMAGES.numpy())


def lowered(step: LoweringPass, source: CalibratedGraph) -> tuple[Lowering, fx.Node]:
    """The graph after a pass that has one site in it, and the integer operation there, between float ones.

    Checks what all passes promise: the operation has its layer's path, and nothing is left for the pass to do.
    """
    graph, target = Lowering(source), type(step).target
    (site,) = graph.find(target)
    path = site.meta["path"]
    result = step.apply(graph)
    assert (result.rewritten, result.skips) == (1, [])
    assert not graph.find(target)
    (new,) = [node for node in graph.graph.nodes if name_of(node)]
    assert new.meta["path"] == path
    assert all(x.target is boundary.quantize for x in new.all_input_nodes if x.op != "get_attr")
    assert all(user.target is boundary.dequantize for user in new.users)
    after = str(graph.graph)
    again = step.apply(graph)
    assert not again.changed and not again.skips and str(graph.graph) == after
    return graph, new


def noise(source: CalibratedGraph, graph: Lowering | IntGraph, pixels: Tensor = OTHERS) -> float:
    """How far integers are from float, relative to it, in the worst of the outputs of uint8 images."""
    image = torch.from_numpy(source.input_grid.normalized(pixels.numpy()))
    with torch.no_grad():
        exact = source.source(image)
        if isinstance(graph, Lowering):
            got = graph.run(image)
        else:
            got = tuple(y * scale for y, scale in zip(graph(pixels), graph.output_scales, strict=True))
    return max(float((a - b).norm() / a.norm()) for a, b in zip(exact, got, strict=True))
