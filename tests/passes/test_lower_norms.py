"""`LowerRMSNorm` and `LowerGroupNorm` on small graphs: before, after, skips, and how near they are to float."""

from typing import Any

import gated
import pytest
import torch
from normalized import group, rms
from torch import Tensor, fx

from intvit import floatops
from intvit.input_grid import InputGrid
from intvit.passes.base import LoweringPass
from intvit.passes.lower_groupnorm import LowerGroupNorm
from intvit.passes.lower_rmsnorm import LowerRMSNorm
from intvit.passes.lowering import Lowering
from intvit.passes.pipeline import lower
from intvit.stages import CalibratedGraph
from intvit.verify.overflow import prove_no_overflow

TOKENS, CHANNELS = 4, 8
GRID = InputGrid((1 / 64,) * 3, (-2.0,) * 3, (3, 4, 4))
IMAGES = torch.randint(0, 256, (16, 4, 4, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def calibrated(graph: gated.Sketch, *outputs: fx.Node) -> CalibratedGraph:
    return graph.calibrated(*outputs, images=IMAGES.numpy())


def sketch() -> gated.Sketch:
    """An image in 4 patches, embedded to 8 channels."""
    return gated.Sketch(GRID, 2, CHANNELS)


def attended(s: gated.Sketch) -> fx.Node:
    return s.call(floatops.attention, rms(s, s.tokens, 2), s.linear(s.tokens), s.linear(s.tokens), 2, 1.0)


SITES: dict[str, tuple[LoweringPass, Any, str]] = {
    "rms norm, 8 bits": (LowerRMSNorm(), lambda s: s.linear(rms(s, s.tokens)), "int8"),
    "rms norm of queries": (LowerRMSNorm(), attended, "int8"),
    "rms norm, 16 bits": (LowerRMSNorm(), lambda s: rms(s, s.tokens), "int16"),
    "rms norm of blocks": (LowerRMSNorm(), lambda s: rms(s, s.tokens, 4), "int16"),
    "group norm, 8 bits": (LowerGroupNorm(), lambda s: s.linear(group(s, s.tokens)), "int8"),
    "group norm, 16 bits": (LowerGroupNorm(), lambda s: group(s, s.tokens), "int16"),
    "group norm of blocks": (LowerGroupNorm(), lambda s: group(s, s.tokens, 4), "int16"),
}


def signal_to_noise(exact: Tensor, got: Tensor) -> float:
    return float(exact.norm() / (exact - got).norm())


@pytest.mark.parametrize("name", SITES)
def test_before_and_after(name: str) -> None:
    step, build, dtype = SITES[name]
    s = sketch()
    source = calibrated(s, build(s))
    graph = Lowering(source)
    sites = graph.find(type(step).target)
    paths = [node.meta["path"] for node in sites]
    result = step.apply(graph)
    assert result.rewritten == len(sites) == 1 and not result.skips
    (node,) = (n for n in graph.graph.nodes if "intvit." in str(n.target))
    assert node.args[-1] == dtype and [node.meta["path"]] == paths
    image = torch.from_numpy(GRID.normalized(IMAGES.numpy()))
    exact, got = source.source.module(image)[0], graph.run(image)[0]
    assert signal_to_noise(exact, got) > (60 if dtype == "int8" else 2000)
    after = str(graph.graph)
    assert not step.apply(graph).changed and str(graph.graph) == after


@pytest.mark.parametrize("name", SITES)
def test_the_whole_graph_is_integers(name: str) -> None:
    _, build, _ = SITES[name]
    s = sketch()
    source = calibrated(s, build(s))
    graph = lower(source)
    prove_no_overflow(graph)
    exact = source.source(torch.from_numpy(GRID.normalized(IMAGES.numpy())))[0]
    assert signal_to_noise(exact, graph(IMAGES)[0] * graph.output_scales[0]) > 30


@pytest.mark.parametrize(
    ("step", "build", "argument", "reason"),
    [
        (LowerRMSNorm(), rms, 1, "its weight is not constant"),
        (LowerGroupNorm(), group, 2, "its weight or bias is not constant"),
    ],
)
def test_a_weight_that_is_computed_is_skipped(step: LoweringPass, build: Any, argument: int, reason: str) -> None:
    s = sketch()
    graph = Lowering(calibrated(s, build(s, s.tokens)))
    (node,) = graph.find(type(step).target)
    node.update_arg(argument, node.args[0])
    assert [(skip.node, skip.reason) for skip in step.apply(graph).skips] == [(node.name, reason)]


@pytest.mark.parametrize(("step", "build"), [(LowerRMSNorm(), rms), (LowerGroupNorm(), group)])
def test_sites_that_are_no_blocks_of_one_size_are_skipped(step: LoweringPass, build: Any) -> None:
    s = sketch()
    graph = Lowering(calibrated(s, build(s, s.tokens)))
    (node,) = graph.find(type(step).target)
    node.update_arg(len(node.args) - 2, 3)
    assert [skip.reason for skip in step.apply(graph).skips] == ["8 channels are no 3 blocks of one size"]


@pytest.mark.parametrize(("step", "build"), [(LowerRMSNorm(), rms), (LowerGroupNorm(), group)])
def test_a_constant_operand_is_skipped(step: LoweringPass, build: Any) -> None:
    s = sketch()
    graph = Lowering(calibrated(s, build(s, s.tokens)))
    (node,) = graph.find(type(step).target)
    node.update_arg(0, node.args[1])
    assert [skip.reason for skip in step.apply(graph).skips] == ["its operand is constant"]


def test_a_group_that_is_too_large_is_skipped() -> None:
    s = sketch()
    graph = Lowering(calibrated(s, group(s, s.tokens)))
    (node,) = graph.find(floatops.group_norm)
    node.meta["shape"] = (1 << 18, CHANNELS)
    (skip,) = LowerGroupNorm().apply(graph).skips
    assert "more than 1048576 numbers" in skip.reason


def test_a_result_that_hardly_moves_is_written_on_a_coarser_grid() -> None:
    s = sketch()
    weight, bias = s.constant(CHANNELS), s.constant(CHANNELS)
    s.root.get_buffer(bias.target).zero_()
    source = calibrated(s, s.call(floatops.group_norm, s.tokens, weight, bias, 1, 1e8))
    graph = lower(source)
    prove_no_overflow(graph)
    exact = source.source(torch.from_numpy(GRID.normalized(IMAGES.numpy())))[0]
    assert signal_to_noise(exact, graph(IMAGES)[0] * graph.output_scales[0]) > 10
