"""`LowerUnfold`, `LowerDepthwise` and `LowerPool`: before, after, skips, and how near they are to float."""

from collections.abc import Callable

import pytest
import sites
import torch
import windowed
from torch import fx
from windowed import Sketch

from intvit.errors import UnsupportedOp
from intvit.fusion import name_of
from intvit.grid import Grid
from intvit.passes.base import LoweringPass
from intvit.passes.lower_depthwise import LowerDepthwise
from intvit.passes.lower_linear import quantized_weights
from intvit.passes.lower_pool import LowerPool
from intvit.passes.lower_unfold import LowerUnfold, zeros
from intvit.passes.lowering import Lowering
from intvit.passes.pipeline import PASSES, lower
from intvit.verify.overflow import prove_no_overflow

SITES: dict[str, tuple[LoweringPass, Callable[[Sketch], fx.Node], str]] = {
    "pixels unfolded": (LowerUnfold(), lambda s: s.convolution(s.pixels, 32, stride=2), "unfold"),
    "affine, unfolded": (LowerUnfold(), lambda s: s.convolution(s.norm(s.linear(s.pixels)), 32), "unfold"),
    "one zero point": (LowerUnfold(), lambda s: s.convolution(s.gelu(s.linear(s.pixels)), 32), "unfold"),
    "no padding": (LowerUnfold(), lambda s: s.convolution(s.linear(s.pixels), 32, 2, 2, (0, 0, 0, 0)), "unfold"),
    "depthwise": (LowerDepthwise(), lambda s: s.depthwise(s.norm(s.linear(s.pixels)), 32), "depthwise"),
    "depthwise, strided": (LowerDepthwise(), lambda s: s.depthwise(s.gelu(s.linear(s.pixels)), 32, 3, 2), "depthwise"),
    "factors": (LowerDepthwise(), lambda s: s.depthwise(s.linear(s.pixels), 32, 1, 1, (0, 0, 0, 0)), "depthwise"),
    "mean": (LowerPool(), lambda s: s.linear(s.pool(s.linear(s.pixels), "mean", 32, 3, 2, (1, 0, 1, 2))), "pool"),
    "mean of all": (LowerPool(), lambda s: s.linear(s.pool(s.linear(s.pixels), "mean", 32, 32)), "pool"),
    "largest": (LowerPool(), lambda s: s.linear(s.pool(s.linear(s.pixels), "max", 32, 2, 2)), "pool"),
    "pooled output": (LowerPool(), lambda s: s.pool(s.linear(s.pixels), "mean", 32, 4, 4), "pool"),
}
CLOSE = 0.03


@pytest.mark.parametrize("name", SITES)
def test_before_and_after(name: str) -> None:
    step, build, operation = SITES[name]
    sketch = Sketch()
    calibrated = sketch.calibrated(build(sketch))
    graph, new = sites.lowered(step, calibrated)
    assert name_of(new) == operation
    assert sites.noise(calibrated, graph) < CLOSE


def test_depthwise_with_computed_weights_is_skipped() -> None:
    sketch = Sketch()
    node = sketch.depthwise(sketch.linear(sketch.pixels), 32)
    node.args = (node.args[0], node.args[0], *node.args[2:])
    calibrated = Lowering(windowed.calibrated())
    skip = LowerDepthwise().match(node, calibrated)
    assert skip.reason == "its weights are not constant"


def test_zero_is_the_integer_next_to_it() -> None:
    grid = Grid(torch.tensor([0.5, 1.0, 0.1]).double(), torch.tensor([0.2, -3.0, 90.0]).double(), "int8")
    assert zeros(grid, 3).tolist() == [0, 3, -128]
    one = Grid(torch.tensor([0.5]).double(), torch.tensor([1.0]).double(), "int8")
    assert zeros(one, 2).tolist() == [-2, -2]


def test_weights_of_rows_are_those_of_a_row_at_a_time() -> None:
    """`[N, 1]` scales, offsets and means are what each row has for all its columns."""
    random = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(5, 9, generator=random), torch.randn(5, generator=random)
    scale, offset, mean = (torch.rand(5, 1, generator=random).double() + 0.1 for _ in range(3))
    rows = torch.rand(5, generator=random).double() * 0.01 + 0.005
    for given in (mean, None):
        w, c = quantized_weights(weight, bias, Grid(scale, offset, "int8"), rows, given)
        for i in range(5):
            grid = Grid(scale[i], offset[i], "int8")
            one = None if given is None else given[i].expand(9)
            want = quantized_weights(weight[i : i + 1], bias[i : i + 1], grid, rows[i : i + 1], one)
            assert torch.equal(w[i : i + 1], want[0]) and abs(int(c[i]) - int(want[1])) <= 1


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_whole_model(preset: str) -> None:
    """All of it is integers that are proved to fit, near float."""
    graph = windowed.integer_model(preset).graph
    assert prove_no_overflow(graph)
    names = [name_of(node) for node in graph.module.graph.nodes]
    assert (names.count("unfold"), names.count("depthwise"), names.count("pool")) == (2, 3, 3)
    assert sites.noise(windowed.calibrated(preset), graph) < (0.05 if preset == "default" else 0.5)


@pytest.mark.parametrize("step", [LowerUnfold(), LowerDepthwise(), LowerPool()], ids=lambda step: step.name)
def test_a_pass_that_is_left_out_is_missed_by_name_and_path(step: LoweringPass) -> None:
    calibrated = windowed.calibrated()
    left = calibrated.source.module.graph.find_nodes(op="call_function", target=type(step).target)
    assert left and step in PASSES
    with pytest.raises(UnsupportedOp, match="float operations are left") as caught:
        lower(calibrated, [other for other in PASSES if other != step])
    for node in left:
        assert f"{node.meta['path']}: {type(step).target.__name__} {node.name}: no pass for it" in str(caught.value)
