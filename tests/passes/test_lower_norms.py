"""`LowerRMSNorm` and `LowerGroupNorm` on small graphs: before, after, skips, and how near they are to float."""

from typing import Any

import gated
import pytest
import sites
from normalized import group, rms
from torch import fx

from intvit import floatops
from intvit.passes.base import LoweringPass
from intvit.passes.lower_groupnorm import LowerGroupNorm
from intvit.passes.lower_rmsnorm import LowerRMSNorm
from intvit.passes.lowering import Lowering
from intvit.passes.pipeline import lower
from intvit.verify.overflow import prove_no_overflow


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


@pytest.mark.parametrize("name", SITES)
def test_before_and_after(name: str) -> None:
    step, build, dtype = SITES[name]
    source = sites.calibrated(build)
    graph, node = sites.lowered(step, source)
    assert node.args[-1] == dtype
    assert sites.noise(source, graph, sites.IMAGES) < (1 / 60 if dtype == "int8" else 1 / 2000)


@pytest.mark.parametrize("name", SITES)
def test_the_whole_graph_is_integers(name: str) -> None:
    _, build, _ = SITES[name]
    source = sites.calibrated(build)
    graph = lower(source)
    prove_no_overflow(graph)
    assert sites.noise(source, graph, sites.IMAGES) < 1 / 30


@pytest.mark.parametrize(
    ("step", "build", "argument", "reason"),
    [
        (LowerRMSNorm(), rms, 1, "its weight is not constant"),
        (LowerGroupNorm(), group, 2, "its weight or bias is not constant"),
    ],
)
def test_a_weight_that_is_computed_is_skipped(step: LoweringPass, build: Any, argument: int, reason: str) -> None:
    graph = Lowering(sites.calibrated(lambda s: build(s, s.tokens)))
    (node,) = graph.find(type(step).target)
    node.update_arg(argument, node.args[0])
    assert [(skip.node, skip.reason) for skip in step.apply(graph).skips] == [(node.name, reason)]


@pytest.mark.parametrize(("step", "build"), [(LowerRMSNorm(), rms), (LowerGroupNorm(), group)])
def test_sites_that_are_no_blocks_of_one_size_are_skipped(step: LoweringPass, build: Any) -> None:
    graph = Lowering(sites.calibrated(lambda s: build(s, s.tokens)))
    (node,) = graph.find(type(step).target)
    node.update_arg(len(node.args) - 2, 3)
    assert [skip.reason for skip in step.apply(graph).skips] == ["8 channels are no 3 blocks of one size"]


@pytest.mark.parametrize(("step", "build"), [(LowerRMSNorm(), rms), (LowerGroupNorm(), group)])
def test_a_constant_operand_is_skipped(step: LoweringPass, build: Any) -> None:
    graph = Lowering(sites.calibrated(lambda s: build(s, s.tokens)))
    (node,) = graph.find(type(step).target)
    node.update_arg(0, node.args[1])
    assert [skip.reason for skip in step.apply(graph).skips] == ["its operand is constant"]


def test_a_group_that_is_too_large_is_skipped() -> None:
    graph = Lowering(sites.calibrated(lambda s: group(s, s.tokens)))
    (node,) = graph.find(floatops.group_norm)
    node.meta["shape"] = (1 << 18, 8)
    (skip,) = LowerGroupNorm().apply(graph).skips
    assert "more than 1048576 numbers" in skip.reason


def hardly_moving(s: gated.Sketch) -> fx.Node:
    """A group norm whose epsilon is far beyond every variance."""
    weight, bias = s.constant(s.channels), s.constant(s.channels)
    s.root.get_buffer(str(bias.target)).zero_()
    return s.call(floatops.group_norm, s.tokens, weight, bias, 1, 1e8)


def test_a_result_that_hardly_moves_is_written_on_a_coarser_grid() -> None:
    source = sites.calibrated(hardly_moving)
    graph = lower(source)
    prove_no_overflow(graph)
    assert sites.noise(source, graph, sites.IMAGES) < 1 / 10
