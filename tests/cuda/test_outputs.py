"""Outputs that become copies, and graphs that stay as they are."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from vits import integer_model

from intvit.cuda.outputs import with_own_outputs
from intvit.nodes import outputs
from intvit.stages import IntGraph, copy_of


def twice(graph: IntGraph) -> IntGraph:
    """The first output again, at the end."""
    module = copy_of(graph.module)
    found = outputs(module.graph)
    module.graph.output_node().args = ((*found, found[0]),)
    module.recompile()
    return replace(graph, module=module, output_shapes=(*graph.output_shapes, graph.output_shapes[0]))


@pytest.mark.parametrize("name", ["class token", "outputs that are read on", "padded rows"])
def test_a_graph_that_needs_no_copies_is_left_alone(name: str) -> None:
    graph = integer_model(name).graph
    assert with_own_outputs(graph) is graph


@pytest.mark.parametrize(
    ("graph", "copies"),
    [
        (integer_model("unpadded outputs that are read on").graph, 1),
        (twice(integer_model("class token").graph), 1),
        (twice(integer_model("unpadded outputs that are read on").graph), 2),
    ],
    ids=["read on", "twice", "both"],
)
def test_copies_give_the_same_integers(graph: IntGraph, copies: int) -> None:
    before = str(graph.module.graph)
    own = with_own_outputs(graph)
    images = torch.from_numpy(tiny.pixels(2))
    assert all(map(np.array_equal, own(images), graph(images)))
    assert len(own.module.graph.nodes) == len(graph.module.graph.nodes) + copies
    assert len(set(outputs(own.module.graph))) == len(own.output_shapes)
    assert str(graph.module.graph) == before
