"""Models with activations and products by elements: what is fused, and the same integers from every back end."""

from typing import Any

import gated
import numpy as np
import pytest
import tiny

import intvit
from intvit import floatops, targets
from intvit.fusion import name_of
from intvit.integer_model import IntegerModel
from intvit.kernels.isa import AVX2
from intvit.legalize import Legalizer
from intvit.passes.pipeline import lower
from intvit.verify.bit_exact import prove_bit_exact
from intvit.verify.overflow import shapes_of


def groups(model: IntegerModel) -> list[tuple[str, ...]]:
    legalizer = Legalizer(model.graph.module, shapes_of(model.graph), AVX2)
    return [tuple(map(name_of, group.nodes)) for group in legalizer.groups()]


def test_gates_are_fused_behind_one_of_their_products() -> None:
    """The first factor's kernel takes the multiplication in; one of fewer tokens, or a sum, stays alone."""
    found = groups(gated.integer_model())
    assert found.count(("linear", "requantize", "activation", "multiply")) == 2
    assert ("linear", "requantize", "activation") in found
    assert ("linear", "requantize", "multiply") in found
    assert found.count(("multiply",)) == 3


def test_the_second_factor_takes_it_in_where_the_first_is_no_product() -> None:
    s = gated.Sketch(tiny.GRID, 8, 24)
    x = s.call(floatops.add, s.tokens, s.linear(s.norm(s.tokens)))
    graph = lower(s.calibrated(s.call(floatops.multiply, x, s.linear(s.norm(x))), images=tiny.pixels(8)))
    legalizer = Legalizer(graph.module, shapes_of(graph), AVX2)
    names = [tuple(map(name_of, group.nodes)) for group in legalizer.groups()]
    assert ("linear", "requantize", "multiply") in names and ("multiply",) not in names


@pytest.mark.parametrize("target", ["auto", "x86-64-v3"])
def test_a_compiled_module_has_the_same_integers(target: str) -> None:
    if target != "auto" and not targets.runs_here(target):
        pytest.skip(f"this machine does not run {target}")
    prove_bit_exact(intvit.compile(gated.integer_model(), target, threads=2), gated.integer_model())


@pytest.mark.parametrize("choices", [{}, {"keep_functions": True}, {"portable": True, "batch": 2}], ids=str)
def test_onnx_runtime_has_the_same_integers(choices: dict[str, Any]) -> None:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, images = gated.integer_model(), tiny.pixels(2)
    content = intvit.export(model, **choices).proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for got, want in zip(session.run(None, {"image": images}), model.integers(images), strict=True):
        assert np.array_equal(got, want)
