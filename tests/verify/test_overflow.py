"""The overflow proof: holds for what runs, and refuses what could overflow with the layer and the bound."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tiny import integer_model, pixels
from torch import fx

from intvit.errors import VerifyError
from intvit.stages import IntGraph, copy_of
from intvit.verify.overflow import analyse, fake_values, prove_no_overflow


def copied(preset: str = "default") -> IntGraph:
    graph = integer_model(preset).graph
    module = copy_of(graph.module)
    for name, buffer in graph.module.named_buffers():
        module.register_buffer(name, buffer.clone())
    return IntGraph(module, graph.input_grid, graph.output_scales, graph.output_shapes)


def node_of(graph: IntGraph, path: str, operation: str) -> fx.Node:
    return next(n for n in graph.module.graph.nodes if n.meta.get("path") == path and operation in str(n.target))


def values(graph: IntGraph, images: np.ndarray) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            found[n.name] = super().run_node(n)
            return found[n.name]

    with torch.inference_mode():
        Recorder(graph.module).run(torch.from_numpy(images))
    return found


IMAGES = {
    "random": pixels(3, seed=5),
    "black": np.zeros((1, 32, 32, 3), np.uint8),
    "white": np.full((1, 32, 32, 3), 255, np.uint8),
    "outlier": np.where(np.arange(32 * 32 * 3).reshape(1, 32, 32, 3) == 777, 255, 0).astype(np.uint8),
}


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("kind", IMAGES)
def test_every_value_lies_in_its_proved_range(preset: str, kind: str) -> None:
    graph = integer_model(preset).graph
    found = values(graph, IMAGES[kind])
    for entry in prove_no_overflow(graph):
        value = found[entry.node]
        assert entry.ranges.result.low <= value.min() and value.max() <= entry.ranges.result.high, entry


def test_every_operation_is_proved() -> None:
    graph = integer_model().graph
    proved = prove_no_overflow(graph)
    calls = [n for n in graph.module.graph.nodes if n.op == "call_function"]
    assert [entry.node for entry in proved] == [n.name for n in calls]
    assert all(0 < entry.largest < 2**31 for entry in proved)


@pytest.mark.parametrize("bias", [2**31 - 1, -(2**31)])
def test_a_bias_at_the_end_of_32_bits_is_refused(bias: int) -> None:
    graph = copied()
    graph.module.get_buffer(node_of(graph, "blocks.1.fc1", "linear").args[2].target)[3] = bias
    with pytest.raises(VerifyError, match=r"blocks\.1\.fc1: linear: accumulator can reach \[.*beyond 32-bit"):
        prove_no_overflow(graph)


def test_a_sum_over_too_many_weights_is_refused() -> None:
    graph = copied()
    node = node_of(graph, "head", "linear")
    wide = 1 << 18
    module = torch.nn.Module()
    module.register_buffer("w", torch.full((1, wide), 127, dtype=torch.int8))
    module.register_buffer("b", torch.zeros(1, dtype=torch.int32))
    made = fx.Graph()
    image = made.placeholder("image")
    operations = {n.target for n in graph.module.graph.nodes if n.op == "call_function"}
    patchify = next(o for o in operations if "patchify" in str(o))
    rows = made.call_function(patchify, (image, 512, 512))
    made.output((made.call_function(node.target, (rows, made.get_attr("w"), made.get_attr("b"))),))
    from intvit.input_grid import InputGrid

    grid = InputGrid((1.0,), (0.0,), (1, 512, 512))
    with pytest.raises(VerifyError, match=r"linear: accumulator can reach \[-4261412864, "):
        prove_no_overflow(IntGraph(fx.GraphModule(module, made), grid, (1.0,), ((1, 1),)))


@pytest.mark.parametrize(
    ("index", "value", "message"), [(1, 1 << 15, "multipliers"), (2, 31, "pre-shifts"), (2, -1, "pre-shifts")]
)
def test_parameters_that_kernels_cannot_hold_are_refused(index: int, value: int, message: str) -> None:
    graph = copied()
    node = next(n for n in graph.module.graph.nodes if "requantize" in str(n.target))
    graph.module.get_buffer(node.args[index].target)[0] = value
    with pytest.raises(VerifyError, match=message):
        prove_no_overflow(graph)


def test_every_fault_is_listed() -> None:
    graph = copied()
    for path in ("blocks.0.fc1", "blocks.1.fc2"):
        graph.module.get_buffer(node_of(graph, path, "linear").args[2].target)[0] = 2**31 - 1
    with pytest.raises(VerifyError, match="intermediates can overflow") as caught:
        prove_no_overflow(graph)
    assert "blocks.0.fc1" in str(caught.value) and "blocks.1.fc2" in str(caught.value)


def test_a_float_constant_breaks_a_rule() -> None:
    graph = copied()
    name = node_of(graph, "blocks.0.fc1", "linear").args[1].target
    graph.module.register_buffer(name, graph.module.get_buffer(name).float())
    with pytest.raises(VerifyError, match=r"weight must be torch\.int8"):
        prove_no_overflow(graph)


@pytest.mark.parametrize("kind", [float, str, lambda value: None])
def test_an_argument_of_another_kind_breaks_a_rule(kind: Callable[[int], Any]) -> None:
    graph = copied()
    node = next(n for n in graph.module.graph.nodes if "requantize" in str(n.target))
    node.args = (*node.args[:3], kind(node.args[3]), *node.args[4:])
    with pytest.raises(VerifyError, match="shift must be int, not"):
        prove_no_overflow(graph)


def test_a_number_in_the_place_of_a_tensor_breaks_a_rule() -> None:
    graph = copied()
    node = node_of(graph, "blocks.0.fc1", "linear")
    node.args = (node.args[0], 3, node.args[2])
    with pytest.raises(VerifyError, match=r"blocks\.0\.fc1: .*weight must be Tensor, not int"):
        prove_no_overflow(graph)


def test_shapes_and_types_are_those_of_a_run() -> None:
    graph = integer_model().graph
    found = values(graph, pixels(2))
    for name, fake in fake_values(graph, batch=2).items():
        if name in found:
            assert (fake.shape, fake.dtype) == (found[name].shape, found[name].dtype)
    assert len(analyse(graph)) > 20
