"""Models with tensors on fewer levels than 256: what products read, what is fused, and the same from every back end."""

from pathlib import Path
from typing import Any

import coarse
import numpy as np
import pytest
import tiny
import torch
from torch import fx

import intvit
from intvit.errors import IntvitError
from intvit.fusion import name_of
from intvit.grid import Role
from intvit.integer_model import IntegerModel
from intvit.kernels.isa import AVX2
from intvit.legalize import Legalizer
from intvit.levels import uniform_levels
from intvit.passes.pipeline import lower
from intvit.verify.bit_exact import prove_bit_exact
from intvit.verify.no_float import prove_no_float
from intvit.verify.overflow import prove_no_overflow, shapes_of

each_model = pytest.mark.parametrize("name", ["tiny", "mixed", "windowed"])
PRODUCTS = ("linear", "depthwise", "attention", "product")


def operands_of_products(module: fx.GraphModule) -> list[fx.Node]:
    """The computed operands of all products."""
    products = [node for node in module.graph.nodes if name_of(node) in PRODUCTS]
    return [x for node in products for x in node.all_input_nodes if x.op == "call_function"]


@each_model
def test_products_read_levels_alone(name: str) -> None:
    """But for patches of the image; or windows of levels."""
    operands = operands_of_products(coarse.integer_model(name).graph.module)
    read = [name_of(x.args[0] if name_of(x) == "unfold" else x) for x in operands]
    assert set(read) - {"patchify"} == {"levels"} and read.count("patchify") <= 1 and read.count("levels") > 4


@each_model
def test_no_more_values_than_the_table_has(name: str) -> None:
    module, pixels = coarse.integer_model(name).graph.module, torch.from_numpy(tiny.pixels(4))
    values: dict[fx.Node, Any] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            values[n] = super().run_node(n)
            return values[n]

    Recorder(module).run(pixels)
    nodes = [node for node in module.graph.nodes if name_of(node) == "levels"]
    assert nodes
    for node in nodes:
        table = module.get_buffer(str(node.args[1].target))
        assert set(values[node].unique().tolist()) <= set(table.tolist())
        assert len(table.unique()) in (16, 32, 64)


@each_model
def test_proofs_hold(name: str) -> None:
    graph = coarse.integer_model(name).graph
    prove_no_overflow(graph)
    prove_no_float(graph)


def test_256_levels_change_nothing() -> None:
    all_of_them = dict.fromkeys(coarse.TABLES, uniform_levels(8))
    graph, pixels = lower(coarse.on_levels(tiny.calibrated(), all_of_them)), torch.from_numpy(tiny.pixels(4))
    assert torch.equal(graph(pixels)[0], tiny.integer_model().graph(pixels)[0])


def test_fewer_levels_are_further_from_float() -> None:
    pixels = tiny.pixels(8, seed=9)
    with torch.no_grad():
        exact = tiny.captured()(torch.from_numpy(tiny.GRID.normalized(pixels)))[0]
    errors = []
    for bits in (8, 6, 4, 2):
        graph = lower(coarse.on_levels(tiny.calibrated(), {Role.PRODUCT: uniform_levels(bits)}))
        got = graph(torch.from_numpy(pixels))[0] * graph.output_scales[0]
        errors.append(float((got - exact).norm() / exact.norm()))
    assert errors == sorted(errors) and errors[0] < 0.02 < errors[-1]


def test_levels_are_fused_behind_products() -> None:
    graph = coarse.integer_model().graph
    rules = Legalizer(graph.module, shapes_of(graph), AVX2)
    found = ["+".join(map(name_of, group.nodes)) for group in rules.groups()]
    assert found.count("linear+requantize+levels") == 6, "queries, keys and values of both blocks"
    assert found.count("linear+requantize+gelu+levels") == 2
    assert (found.count("layernorm"), found.count("attention")) == (5, 2), "those have no epilogue for it"
    assert found.count("levels") == 5 + 2 + 1, "the last block's queries read one token of its LayerNorm"


@each_model
@pytest.mark.parametrize("target", ["auto", "x86-64-v3", "x86-64-v1"])
def test_a_compiled_module_has_the_same_integers(name: str, target: str) -> None:
    if target != "auto" and not intvit.targets.runs_here(target):
        pytest.skip(f"this machine does not run {target}")
    if target != "auto" and name != "tiny":
        pytest.skip("the kernels are the same")
    prove_bit_exact(intvit.compile(coarse.integer_model(name), target, threads=2), coarse.integer_model(name))


@each_model
@pytest.mark.parametrize("choices", [{}, {"keep_functions": True}, {"portable": True, "batch": 2}], ids=str)
def test_onnx_runtime_has_the_same_integers(name: str, choices: dict[str, Any]) -> None:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    from intvit.verify.no_float_onnx import prove_no_float_onnx

    model, images = coarse.integer_model(name), tiny.pixels(2)
    proto = intvit.export(model, **choices).proto
    prove_no_float_onnx(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for got, want in zip(session.run(None, {"image": images}), model.integers(images), strict=True):
        assert np.array_equal(got, want)


def test_the_profile_with_float_operators_refuses_it() -> None:
    pytest.importorskip("onnx")
    with pytest.raises(
        IntvitError, match=r"^levels: the profile qdq has 8-bit activations only; export the profile integer$"
    ):
        intvit.export(coarse.integer_model(), profile="qdq")


def test_a_file_holds_it(tmp_path: Path) -> None:
    """And each table once."""
    model, path = coarse.integer_model(), tmp_path / "coarse.intvit"
    model.save(path)
    loaded = IntegerModel.load(path)
    assert loaded.digest == model.digest
    assert np.array_equal(loaded.integers(tiny.pixels(2))[0], model.integers(tiny.pixels(2))[0])
    tables = [buffer for _, buffer in loaded.graph.module.named_buffers() if list(buffer.shape) == [256]]
    assert len([table for table in tables if table.dtype == torch.int8]) == 3
