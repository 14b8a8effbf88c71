"""Where a `quantize` meets a `dequantize`: nothing, or one requantization; outputs have one scale."""

import pytest
import torch
from torch import fx, nn

from intvit import boundary
from intvit.dialect.patchify import patchify
from intvit.dialect.requantize import requantize
from intvit.errors import VerifyError
from intvit.grid import Grid
from intvit.input_grid import InputGrid
from intvit.passes.fold_boundaries import FoldBoundaries
from intvit.passes.lowering import Lowering
from intvit.stages import CalibratedGraph, FloatGraph

GRID = InputGrid((1.0,) * 3, (0.0,) * 3, (3, 4, 4))


def grid(scale: list[float], offset: list[float], dtype: str) -> Grid:
    return Grid(torch.tensor(scale, dtype=torch.float64), torch.tensor(offset, dtype=torch.float64), dtype)


def pair(before: Grid, after: Grid) -> Lowering:
    """`quantize(dequantize(patchify(image), before), after)`."""
    empty = fx.Graph()
    empty.placeholder("image")
    empty.output(())
    graph = Lowering(CalibratedGraph(FloatGraph(fx.GraphModule(nn.Module(), empty), (3, 4, 4), ()), GRID, False))
    output = graph.graph.output_node()
    with graph.graph.inserting_before(output):
        image = next(iter(graph.graph.nodes))
        rows = graph.emit(patchify, image, 2, 2)
        # not an output, which would be read on its role's grid
        integers = graph.read(graph.write(rows, before), after)
    output.args = ((integers,),)
    return graph


IMAGE = torch.randint(0, 256, (2, 4, 4, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_one_grid_leaves_nothing() -> None:
    one = grid([0.5], [0.0], "int8")
    graph = pair(one, one)
    assert FoldBoundaries().apply(graph).rewritten == 1
    assert [n.target for n in graph.graph.nodes if n.op == "call_function"] == [patchify]


@pytest.mark.parametrize("after", [
    grid([1.0], [0.0], "int8"),
    grid([0.01], [0.0], "int16"),
    grid([0.7] * 12, [0.0], "int8"),
    grid([0.9], [0.9 * 20], "int8"),
    grid([2.0**-12], [0.0], "int32"),
])  # fmt: skip
@pytest.mark.parametrize(
    "before", [grid([0.5], [0.0], "int8"), grid([0.5 + 0.01 * i for i in range(12)], [0.0], "int8")]
)
def test_two_grids_leave_a_requantization(before: Grid, after: Grid) -> None:
    """Of int8, which is how attention, GELU and patches are stored."""
    graph = pair(before, after)
    (expected,) = graph.run(IMAGE)
    result = FoldBoundaries().apply(graph)
    assert result.rewritten == 1 and not result.skips
    assert [n.target for n in graph.graph.nodes if n.op == "call_function"] == [patchify, requantize]
    (got,) = graph.run(IMAGE)
    assert got.dtype == expected.dtype
    # relative error of a 15-bit multiplier, and one step of rounding
    assert ((got.double() - expected.double()).abs() <= 1 + expected.double().abs() * 2.0**-14).all()
    assert not FoldBoundaries().apply(graph).changed


def test_zero_points_per_channel_are_refused() -> None:
    graph = pair(grid([0.5], [0.0], "int8"), grid([0.5] * 12, [0.5 * i for i in range(12)], "int8"))
    with pytest.raises(VerifyError, match="one zero point"):
        FoldBoundaries().apply(graph)


def test_a_float_neighbour_is_skipped_with_its_name() -> None:
    from tiny import calibrated

    from intvit.passes.lower_linear import LowerLinear

    graph = Lowering(calibrated())
    LowerLinear().apply(graph)
    skips = FoldBoundaries().apply(graph).skips
    assert skips and all(skip.reason.endswith("is still float") for skip in skips)
    assert all(graph.find(boundary.quantize))
