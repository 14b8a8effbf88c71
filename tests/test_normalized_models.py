"""Models with RMSNorm and GroupNorm: near float, without overflow, and the same integers from every back end."""

from typing import Any

import normalized
import numpy as np
import pytest
import tiny
import torch

import intvit
from intvit.fusion import name_of
from intvit.targets import runs_here
from intvit.verify.bit_exact import prove_bit_exact
from intvit.verify.overflow import prove_no_overflow


def test_every_kind_of_result_is_there() -> None:
    graph = normalized.integer_model().graph
    found = {(name_of(node), node.args[-1]) for node in graph.module.graph.nodes if "norm" in name_of(node)}
    assert found >= {(name, dtype) for name in ("rmsnorm", "groupnorm") for dtype in ("int8", "int16")}
    assert prove_no_overflow(graph)


def test_is_near_the_float_model() -> None:
    model, images = normalized.integer_model(), tiny.pixels(4)
    exact = normalized.calibrated().source(torch.from_numpy(tiny.GRID.normalized(images)))
    found = model.graph(torch.from_numpy(images))
    for want, got, scale in zip(exact, found, model.graph.output_scales, strict=True):
        assert want.norm() / (want - got * scale).norm() > 10


@pytest.mark.parametrize("target", ["auto", "x86-64-v3", "x86-64-v1"])
def test_a_compiled_module_has_the_same_integers(target: str) -> None:
    if target != "auto" and not runs_here(target):
        pytest.skip(f"this machine does not run {target}")
    prove_bit_exact(intvit.compile(normalized.integer_model(), target, threads=2), normalized.integer_model())


@pytest.mark.parametrize("choices", [{}, {"keep_functions": True}, {"portable": True, "batch": 2}], ids=str)
def test_onnx_runtime_has_the_same_integers(choices: dict[str, Any]) -> None:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, images = normalized.integer_model(), tiny.pixels(2)
    content = intvit.export(model, **choices).proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for got, want in zip(session.run(None, {"image": images}), model.integers(images), strict=True):
        assert np.array_equal(got, want)
