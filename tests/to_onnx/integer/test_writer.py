"""Whole models: the same integers in ONNX Runtime for every choice, and a graph that reads well."""

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_vits
import pytest
import tiny
from graphs import Array, session
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from intvit.dialect import OPERATIONS
from intvit.grids import PRESETS
from intvit.integer_model import IntegerModel
from intvit.to_onnx.file import export_onnx
from intvit.to_onnx.integer.rules import RULES
from intvit.to_onnx.scope import DOMAIN, OPSETS

PIXELS = np.concatenate(
    [tiny.pixels(3, seed=5), np.zeros((1, 32, 32, 3), np.uint8), np.full((1, 32, 32, 3), 255, np.uint8)]
)


def check(model: IntegerModel, pixels: Array = PIXELS, **choices: Any) -> onnx.ModelProto:
    """ONNX Runtime gives the reference's integers; returns the model."""
    proto = export_onnx(model, **choices).proto
    found = session(proto).run(None, {"image": pixels})
    for y, wanted in zip(found, model.integers(pixels), strict=True):
        assert y.dtype == wanted.dtype
        assert np.array_equal(y, wanted)
    return proto


@pytest.mark.parametrize("name", onnx_vits.MODELS)
@pytest.mark.parametrize("keep_functions", [False, True])
def test_models(name: str, keep_functions: bool) -> None:
    check(onnx_vits.integer_model(name), keep_functions=keep_functions)


@pytest.mark.parametrize("name", onnx_vits.MODELS)
def test_portable(name: str) -> None:
    proto = check(onnx_vits.integer_model(name), portable=True)
    stored = {t.name: t for t in proto.graph.initializer}
    seconds = [stored[node.input[1]] for node in proto.graph.node if products(node) and node.input[1] in stored]
    assert {onnx.TensorProto.UINT8} <= {t.data_type for t in seconds}
    for tensor in seconds:  # a sum of two raised weights in 16 bits saturates, one of two ones does not
        assert tensor.data_type == onnx.TensorProto.UINT8 or (onnx.numpy_helper.to_array(tensor) == 1).all()


def products(node: onnx.NodeProto) -> bool:
    return bool(node.op_type == "MatMulInteger")


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("opset", OPSETS)
def test_opsets(opset: int, preset: str) -> None:
    proto = check(tiny.integer_model(preset), opset=opset)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", opset)]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_fixed_batch(batch: int) -> None:
    proto = check(tiny.integer_model(), PIXELS[:batch], batch=batch)
    for value in (*proto.graph.input, *proto.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_value == batch


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_free_batch(batch: int) -> None:
    check(tiny.integer_model(), tiny.pixels(batch, seed=9))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(preset: str) -> None:
    check(tiny.integer_model(preset), keep_functions=True)


def test_float_image_and_output() -> None:
    model = tiny.integer_model()
    proto = export_onnx(model, image="float32", output="float32").proto
    images = model.graph.input_grid.normalized(PIXELS)
    (found,) = session(proto).run(None, {"image": images})
    (wanted,) = model.integers(PIXELS)
    assert found.dtype == np.float32
    assert np.array_equal(found, wanted.astype(np.float32) * np.float32(model.metadata.output_scales[0]))


class GatherElements(OpRun):
    """As its definition says; onnx's own (1.23) takes no table of more than 64 entries."""

    def _run(self, data: Array, indices: Array, axis: int = 0) -> tuple[Array]:
        rows = np.take_along_axis(data, indices, axis)
        return (rows,)


@pytest.mark.parametrize("keep_functions", [False, True])
def test_reference_evaluator(keep_functions: bool) -> None:
    model = onnx_vits.integer_model("rows of 20")
    proto = onnx.inliner.inline_local_functions(export_onnx(model, keep_functions=keep_functions).proto)
    (found,) = ReferenceEvaluator(proto, new_ops=[GatherElements]).run(None, {"image": PIXELS[:2]})
    assert np.array_equal(found, model.integers(PIXELS[:2])[0])


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_has_a_rule(name: str) -> None:
    assert name in RULES, f"{name} has no form in ONNX"


# the graph


def names(proto: onnx.ModelProto) -> list[str]:
    """Of all values."""
    graph = proto.graph
    computed = [output for node in graph.node for output in node.output]
    return [*(value.name for value in graph.input), *(t.name for t in graph.initializer), *computed]


@pytest.mark.parametrize("name", onnx_vits.MODELS)
@pytest.mark.parametrize("keep_functions", [False, True])
def test_names_are_unique_and_stable(name: str, keep_functions: bool) -> None:
    model = onnx_vits.integer_model(name)
    proto = export_onnx(model, keep_functions=keep_functions).proto
    assert max(Counter(names(proto)).values()) == 1
    named = [node.name for node in proto.graph.node if node.name]
    assert len(named) == len(set(named))
    assert proto == export_onnx(model, keep_functions=keep_functions).proto
    outputs = (
        ["logits"]
        if len(model.metadata.output_scales) == 1
        else [f"output_{i}" for i in range(len(model.metadata.output_scales))]
    )
    assert [value.name for value in proto.graph.output] == outputs


def test_names_begin_with_the_module() -> None:
    model = tiny.integer_model()
    proto = export_onnx(model).proto
    paths = {node.meta.get("path") or node.name for node in model.graph.module.graph.nodes}
    own = ("outputs", "logits", "pixels")
    for node in proto.graph.node:
        for output in node.output:
            assert output.split("/")[0] in {*paths, *own}, output
    for tensor in proto.graph.initializer:
        assert "/" not in tensor.name or tensor.name.split("/")[0] in paths, tensor.name


@pytest.mark.parametrize("name", onnx_vits.MODELS)
@pytest.mark.parametrize("keep_functions", [False, True])
def test_everything_is_used(name: str, keep_functions: bool) -> None:
    proto = export_onnx(onnx_vits.integer_model(name), keep_functions=keep_functions).proto
    graph = proto.graph
    unused(graph.node, [value.name for value in graph.output], [t.name for t in graph.initializer])
    for function in proto.functions:
        unused(function.node, list(function.output), [])
    called = {node.op_type for node in graph.node if node.domain == DOMAIN}
    assert {function.name for function in proto.functions} == called


def unused(nodes: Any, results: list[str], given: list[str]) -> None:
    """Asserts that every node and everything given is read."""
    read = {*results, *(value for node in nodes for value in node.input)}
    assert [name for name in given if name not in read] == []
    assert [node.op_type for node in nodes if not read & set(node.output)] == []


@pytest.mark.parametrize("keep_functions", [False, True])
def test_weights_are_stored_once(keep_functions: bool) -> None:
    model = tiny.integer_model()
    proto = export_onnx(model, keep_functions=keep_functions).proto
    buffers = dict(model.graph.module.named_buffers())
    weights = [value for value in buffers.values() if value.ndim == 2 and str(value.dtype) == "torch.int8"]
    stored = [t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.INT8 and "/weight" in t.name]
    assert sum(np.prod(t.dims) for t in stored) == sum(w.numel() for w in weights) > 0
    small = [t for t in proto.graph.initializer if t not in stored and not shared(t.name)]
    assert max(len(t.raw_data) for t in small) < 1000 * 4
    assert len([t for t in proto.graph.initializer if shared(t.name)]) <= 4


def shared(name: str) -> bool:
    """Whether a constant is a table that all layers of a kind have in common."""
    return any(label in name for label in ("exponentials_", "gelu_bump_"))


def test_functions() -> None:
    """One for each operation and structure; the main graph reads as the dialect does."""
    model = tiny.integer_model()
    proto = export_onnx(model, keep_functions=True).proto
    operations = [node for node in model.graph.module.graph.nodes if node.op == "call_function"]
    calls = Counter(node.op_type for node in proto.graph.node if node.domain == DOMAIN)
    assert 0.5 * len(operations) <= calls.total() <= 1.3 * len(operations)
    kinds = Counter(name.split("_")[0] for name in calls)
    assert set(kinds) == {
        *("Patchify", "Linear", "Requantize", "RequantizeWide", "Arm", "Add", "LayerNorm", "Attention"),
        *("ShiftGELU", "ConcatTokens", "SelectTokens"),
    }
    assert kinds["Linear"] == 1
    assert kinds["Attention"] == kinds["ShiftGELU"] == 2, "all tokens, and in the last block one"
    for function in proto.functions:
        assert function.domain == DOMAIN and function.doc_string
        assert function.name.isidentifier(), function.name
