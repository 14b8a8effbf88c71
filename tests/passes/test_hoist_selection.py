"""Selections of tokens move before what acts on each token alone; the function stays the same."""

from copy import deepcopy
from typing import Any

import torch
from tiny import SHAPE, vit
from torch import Tensor, fx, nn

from intvit import floatops
from intvit.frontend import capture
from intvit.passes.hoist_selection import hoist_selection
from intvit.stages import FloatGraph


def described(graph: FloatGraph) -> list[str]:
    return [f"{n.target.__name__} {n.meta['shape'][0]}" for n in graph.module.graph.nodes if n.op == "call_function"]


def same(before: FloatGraph, after: FloatGraph) -> None:
    """In float64: products of other shapes add in another order."""
    ours, theirs = (deepcopy(graph.module).double() for graph in (before, after))
    for batch in (1, 3):
        image = torch.randn(batch, *SHAPE, dtype=torch.float64)
        for x, y in zip(ours(image), theirs(image), strict=True):
            assert x.shape == y.shape and torch.allclose(x, y, rtol=1e-9, atol=1e-9)


def test_the_last_block_computes_one_token() -> None:
    before = capture(vit(), SHAPE)
    text = str(before.module.graph)
    after = hoist_selection(before)
    same(before, after)
    assert str(before.module.graph) == text
    assert described(after)[-16:] == [
        "layer_norm 17", "select_tokens 1", "linear 1", "linear 17", "linear 17", "attention 1", "linear 1",
        "select_tokens 1", "add 1", "layer_norm 1", "linear 1", "gelu 1", "linear 1", "add 1",
        "layer_norm 1", "linear 1",
    ]  # fmt: skip
    assert str(hoist_selection(after).module.graph) == str(after.module.graph)


class Hidden(nn.Module):
    """Gives all tokens and the first: nothing may be left out."""

    def __init__(self, after_norm: bool) -> None:
        super().__init__()
        self.vit, self.after_norm = vit(), after_norm

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.vit.patch(image).flatten(2).transpose(1, 2)
        y = self.vit.norm(x)
        return (y if self.after_norm else x), y[:, 0]


def test_what_something_else_reads_is_left_alone() -> None:
    before = capture(Hidden(after_norm=True), SHAPE)
    after = hoist_selection(before)
    same(before, after)
    assert described(after) == described(before)


def test_it_stops_where_something_else_reads() -> None:
    before = capture(Hidden(after_norm=False), SHAPE)
    after = hoist_selection(before)
    same(before, after)
    assert described(after) == ["patchify 16", "linear 16", "select_tokens 1", "layer_norm 1"]


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.position = nn.Conv2d(3, 8, 8, 8), nn.Parameter(torch.randn(1, 16, 8))

    def forward(self, image: Tensor) -> Tensor:
        return (self.patch(image).flatten(2).transpose(1, 2) + self.position)[:, 3:5]


def test_a_constant_arm_is_cut_with_the_other() -> None:
    before = capture(Positions(), SHAPE)
    after = hoist_selection(before)
    same(before, after)
    assert described(after) == ["patchify 16", "select_tokens 2", "linear 2", "add 2"]
    (add,) = after.module.graph.find_nodes(op="call_function", target=floatops.add)
    assert after.module.get_buffer(str(add.args[1].target)).shape == (2, 8)


def attention_graph(windows: int, selected: tuple[int, int]) -> FloatGraph:
    """Some tokens of an attention with a bias, of an image of 4 x 4 patches."""
    root, graph = nn.Module(), fx.Graph()
    generator = torch.Generator().manual_seed(0)

    def constant(*shape: int) -> fx.Node:
        name = f"c{len(list(root.buffers()))}"
        root.register_buffer(name, torch.randn(*shape, generator=generator))
        return graph.get_attr(name)

    def call(target: Any, *args: Any, shape: tuple[int, int]) -> fx.Node:
        node = graph.call_function(target, args)
        node.meta.update(path=node.name, shape=shape)
        return node

    patches = call(floatops.patchify, graph.placeholder("image"), 8, 8, shape=(16, 192))
    qkv = [call(floatops.linear, patches, constant(8, 192), constant(8), shape=(16, 8)) for _ in range(3)]
    tokens = 16 // windows
    bias = constant(2, 1, tokens, tokens)
    kinds = tuple(i % 2 for i in range(windows))
    attention = call(floatops.attention, *qkv, 2, 0.5, windows, bias, kinds, shape=(16, 8))
    select = call(floatops.select_tokens, attention, *selected, shape=(selected[1] - selected[0], 8))
    graph.output((select,))
    return FloatGraph.of(root, graph, SHAPE, ((selected[1] - selected[0], 8),))


def test_a_bias_keeps_the_rows_of_the_queries_that_are_left() -> None:
    before = attention_graph(1, (3, 5))
    after = hoist_selection(before)
    same(before, after)
    assert described(after)[-1] == "attention 2"


def test_tokens_of_several_windows_are_selected_behind_their_attention() -> None:
    before = attention_graph(4, (3, 5))
    after = hoist_selection(before)
    same(before, after)
    assert described(after)[-2:] == ["attention 16", "select_tokens 2"]
