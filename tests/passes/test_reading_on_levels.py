"""Where `Lowering.read` puts `levels`: behind the boundary, in front of what computes, once for all that read it."""

from dataclasses import replace

import coarse
import gated
import pytest
import tiny
import torch
import windowed
from torch import fx

from intvit import boundary, floatops
from intvit.dialect.windows import depthwise, unfold
from intvit.fusion import name_of
from intvit.grid import Role
from intvit.levels import uniform_levels
from intvit.nodes import arguments
from intvit.passes.lowering import Lowering
from intvit.passes.pipeline import PASSES, lower
from intvit.stages import CalibratedGraph

TABLES = {role: uniform_levels(4) for role in coarse.TABLES}


def found(graph: fx.Graph, name: str) -> list[fx.Node]:
    return [node for node in graph.nodes if name_of(node) == name]


def shared(tables: tuple[int, int]) -> CalibratedGraph:
    """Two layers of one LayerNorm, and one of the sum before it, on uniform levels of these bits."""
    s = gated.Sketch(tiny.GRID, 8, 24)
    norm = s.norm(s.tokens)
    nodes = s.linear(norm), s.linear(norm), s.linear(s.call(floatops.add, s.tokens, s.tokens))
    grids = s.calibrated(*nodes, images=tiny.pixels(8))
    for node, bits in zip((norm, nodes[2].args[0]), tables, strict=True):
        grid = replace(grids.grid(node, Role.PRODUCT), levels=uniform_levels(bits))
        grids = grids.with_grid(node, Role.PRODUCT, grid)
    return grids


def test_one_node_for_all_that_read_a_tensor() -> None:
    """Behind a requantization where the tensor is stored on another grid; with the path of the tensor's layer."""
    graph = lower(shared((4, 3))).module.graph
    one, other = found(graph, "levels")
    assert [name_of(node.args[0]) for node in (one, other)] == ["layernorm", "requantize"]
    assert [len(node.users) for node in (one, other)] == [2, 1]
    assert one.meta["path"] == arguments(one)[0].meta["path"]


def test_a_boundary_lies_before_it_until_the_last_pass() -> None:
    graph = Lowering(shared((4, 3)))
    for step in PASSES[:-1]:
        step.apply(graph)
    nodes = found(graph.graph, "levels")
    assert len(nodes) == 2 and all(arguments(node)[0].target is boundary.quantize for node in nodes)


@pytest.mark.parametrize("name", ["tiny", "mixed", "windowed"])
def test_it_runs_after_every_pass(name: str) -> None:
    """With the integers of the integer graph in the end."""
    graph, pixels = Lowering(coarse.calibrated(name)), torch.from_numpy(tiny.pixels(2))
    for step in PASSES:
        step.apply(graph)
        results = graph.run(pixels)
    for got, want in zip(results, coarse.integer_model(name).graph(pixels), strict=True):
        assert torch.equal(got.reshape(want.shape), want)


@pytest.mark.parametrize("name", ["tiny", "mixed", "windowed"])
def test_the_order_of_passes_does_not_matter(name: str) -> None:
    pixels = torch.from_numpy(tiny.pixels(2))
    graph = lower(coarse.calibrated(name), (*reversed(PASSES[:-1]), PASSES[-1]))
    assert all(map(torch.equal, graph(pixels), coarse.integer_model(name).graph(pixels)))


def test_windows_are_taken_from_levels() -> None:
    """And not brought to them again; what lies outside of the image is on a level, too."""
    module = lower(coarse.on_levels(windowed.calibrated(), TABLES)).module
    windows = [node for node in module.graph.nodes if node.target in (unfold, depthwise)]
    inner = [node for node in windows if name_of(arguments(node)[0]) != "patchify"]
    assert len(inner) > 3
    for node in inner:
        fill = arguments(node)[1 if node.target is unfold else 3]
        assert name_of(arguments(node)[0]) == "levels"
        assert set(module.get_buffer(str(fill.target)).tolist()) <= set(uniform_levels(4).tolist())
    again = [x for node in found(module.graph, "levels") if name_of(x := arguments(node)[0]) == "unfold"]
    assert [name_of(arguments(x)[0]) for x in again] == ["patchify"], "pixels have all integers, their windows levels"


def test_what_only_moves_takes_all_integers() -> None:
    """A selected token is on levels where it is read."""
    s = gated.Sketch(tiny.GRID, 8, 24)
    norm = s.norm(s.tokens)
    grids = coarse.on_levels(s.calibrated(s.first(norm), images=tiny.pixels(8)), TABLES)
    (levels,) = found(lower(grids).module.graph, "levels")
    assert [name_of(x) for x in (arguments(levels)[0], *levels.users)] == ["select_tokens", "linear"]
