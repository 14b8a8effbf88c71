"""Models with attention in windows, biases and masks: near float, and the same integers from every back end."""

from typing import Any

import biased
import numpy as np
import pytest
import tiny
import torch

import intvit
from intvit.targets import runs_here
from intvit.verify.bit_exact import prove_bit_exact
from intvit.verify.overflow import prove_no_overflow


def test_is_near_float() -> None:
    images, model = tiny.pixels(4, seed=3), biased.integer_model()
    with torch.no_grad():
        exact = biased.calibrated().source(torch.from_numpy(tiny.GRID.normalized(images)))
    for got, want in zip(model(images), exact, strict=True):
        assert np.linalg.norm(got - want.numpy()) <= 0.05 * np.linalg.norm(want.numpy())


def test_nothing_overflows() -> None:
    assert prove_no_overflow(biased.integer_model().graph)


@pytest.mark.parametrize("target", ["auto", "x86-64-v1"])
def test_a_compiled_module_has_the_same_integers(target: str) -> None:
    if target != "auto" and not runs_here(target):
        pytest.skip(f"this machine does not run {target}")
    prove_bit_exact(intvit.compile(biased.integer_model(), target, threads=2), biased.integer_model())


@pytest.mark.parametrize("choices", [{}, {"keep_functions": True}, {"portable": True, "batch": 2}], ids=str)
def test_onnx_runtime_has_the_same_integers(choices: dict[str, Any]) -> None:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, images = biased.integer_model(), tiny.pixels(2)
    content = intvit.export(model, **choices).proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for got, want in zip(session.run(None, {"image": images}), model.integers(images), strict=True):
        assert np.array_equal(got, want)
