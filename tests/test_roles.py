"""Which integers an operation reads and writes follows from its neighbours in the graph."""

import pytest
import torch
from tiny import SHAPE, calibrated, captured, vit
from windowed import Sketch

from intvit import floatops
from intvit.frontend import capture
from intvit.grid import Role
from intvit.roles import READS, heads_reading, roles_read, stored_role


def test_every_operation_has_a_role_for_what_it_reads() -> None:
    own_rules = {floatops.patchify, floatops.select_tokens, floatops.rearrange}
    assert set(READS) == set(floatops.OPERATIONS) - own_rules


def roles(graph: torch.fx.Graph, target: object) -> list[set[Role]]:
    return [set(roles_read(node)) for node in graph.find_nodes(op="call_function", target=target)]


def test_the_roles_of_a_block() -> None:
    graph = captured().module.graph
    assert roles(graph, floatops.layer_norm)[0] == {Role.PRODUCT}
    assert roles(graph, floatops.gelu)[0] == {Role.PRODUCT}
    q, k, v = graph.find_nodes(op="call_function", target=floatops.attention)[0].args[:3]
    assert [set(roles_read(x)) for x in (q, k, v)] == [{Role.SCORE}, {Role.SCORE}, {Role.VALUE}]
    assert heads_reading(q) == 2
    assert all(stored_role(x) is Role.ACCUMULATOR for x in (q, k, v))


def test_a_selection_hands_on_what_is_read_of_it() -> None:
    graph = capture(vit(), SHAPE).module.graph
    (select,) = graph.find_nodes(op="call_function", target=floatops.select_tokens)
    source = select.args[0]
    assert roles_read(select).keys() <= roles_read(source).keys()
    assert stored_role(select) is stored_role(source)


def test_an_output_is_read_as_one() -> None:
    graph = captured().module.graph
    (output,) = graph.output_node().args[0]
    assert set(roles_read(output)) == {Role.OUTPUT}


def moved(sketch: Sketch, x: torch.fx.Node) -> torch.fx.Node:
    tokens, channels = x.meta["shape"]
    name = f"rows_{len(list(sketch.root.buffers()))}"
    sketch.root.register_buffer(name, torch.arange(tokens).flip(0)[:, None].int())
    return sketch.call(floatops.rearrange, (x,), sketch.graph.get_attr(name), channels, shape=(tokens, channels))


@pytest.fixture
def sketch() -> Sketch:
    return Sketch((3, 4, 4))


def test_a_rearrangement_reads_16_bits_and_writes_what_is_read(sketch: Sketch) -> None:
    source = sketch.norm(sketch.linear(sketch.pixels))
    result = moved(sketch, source)
    sketch.linear(result)
    assert set(roles_read(source)) == {Role.WIDE} and stored_role(source) is Role.WIDE
    assert set(roles_read(result)) == {Role.PRODUCT} and stored_role(result) is Role.PRODUCT


def test_what_is_read_in_two_ways_is_stored_in_16_bits(sketch: Sketch) -> None:
    x = sketch.norm(sketch.linear(sketch.pixels))
    sketch.linear(x)
    assert stored_role(x) is Role.PRODUCT
    sketch.add(x, x)
    assert set(roles_read(x)) == {Role.PRODUCT, Role.WIDE} and stored_role(x) is Role.WIDE


def test_products_of_two_computed_tensors(sketch: Sketch) -> None:
    x = sketch.norm(sketch.linear(sketch.pixels))
    result = sketch.call(floatops.product, x, x, 1, shape=(16, 16))
    assert set(roles_read(x)) == {Role.MATRIX} and stored_role(result) is Role.ACCUMULATOR
    assert stored_role(x) is Role.WIDE  # a LayerNorm writes no grid of one scale
    normed = sketch.call(floatops.rms_norm, x, sketch.constant(16), 1, 1e-6, shape=(16, 16))
    sketch.call(floatops.product, normed, normed, 1, shape=(16, 16))
    assert stored_role(normed) is Role.MATRIX


def test_every_grid_of_a_role_is_in_the_calibrated_graph() -> None:
    graph = calibrated()
    for node in graph.source.module.graph.find_nodes(op="call_function", target=floatops.linear):
        assert graph.grid(node, stored_role(node)).dtype == "int32"
