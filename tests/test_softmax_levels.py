"""Models with logarithmic softmax weights: few of them, proved, and the same integers from every back end."""

from fractions import Fraction
from math import floor
from typing import Any

import biased
import logarithmic
import numpy as np
import pytest
import tiny

import intvit
from intvit.attention_node import AttentionNode
from intvit.errors import IntvitError
from intvit.fusion import name_of
from intvit.softmax_levels import MOST_STEP, SoftmaxLevels
from intvit.targets import runs_here
from intvit.verify.bit_exact import prove_bit_exact
from intvit.verify.overflow import prove_no_overflow

MODELS = pytest.mark.parametrize("name", logarithmic.CALIBRATED)


def test_the_inverse_of_a_step_is_rounded_and_16_bits_wide_when_negated() -> None:
    for step in range(1, MOST_STEP + 1):
        inverse = SoftmaxLevels(step, 16).inverse
        assert inverse == floor(Fraction(1 << 15, step) + Fraction(1, 2))
        assert 16 <= inverse <= 1 << 15


@MODELS
def test_all_attentions_have_their_levels(name: str) -> None:
    nodes = [node for node in logarithmic.integer_model(name).graph.module.graph.nodes if "attention" in name_of(node)]
    found = [AttentionNode.of(node).levels for node in nodes]
    assert found == list(logarithmic.LEVELS[: len(nodes)]) and len(nodes) >= 2


@MODELS
def test_levels_change_the_integers_and_nothing_overflows(name: str) -> None:
    model, images = logarithmic.integer_model(name), tiny.pixels(4, seed=3)
    plain = {"tiny": tiny, "biased": biased}[name].integer_model()
    assert not any(np.array_equal(a, b) for a, b in zip(model.integers(images), plain.integers(images), strict=True))
    assert prove_no_overflow(model.graph)


@MODELS
@pytest.mark.parametrize("target", ["auto", "x86-64-v3", "x86-64-v1"])
def test_a_compiled_module_has_the_same_integers(name: str, target: str) -> None:
    if target != "auto" and not runs_here(target):
        pytest.skip(f"this machine does not run {target}")
    model = logarithmic.integer_model(name)
    prove_bit_exact(intvit.compile(model, target, threads=2), model)


@MODELS
@pytest.mark.parametrize("choices", [{}, {"keep_functions": True}, {"portable": True, "batch": 2}], ids=str)
def test_onnx_runtime_has_the_same_integers(name: str, choices: dict[str, Any]) -> None:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, images = logarithmic.integer_model(name), tiny.pixels(2)
    content = intvit.export(model, **choices).proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for got, want in zip(session.run(None, {"image": images}), model.integers(images), strict=True):
        assert np.array_equal(got, want)


@MODELS
def test_the_profile_qdq_refuses_them(name: str) -> None:
    pytest.importorskip("onnx")
    with pytest.raises(IntvitError, match="the profile qdq has no logarithmic softmax weights"):
        intvit.export(logarithmic.integer_model(name), profile="qdq")
