"""A model with products of computed tensors and softmaxes by themselves, through every back end and into files."""

from pathlib import Path

import mixed
import numpy as np
import pytest
import tiny

import intvit
from intvit.cuda.legalize import DeviceLegalizer
from intvit.fusion import Fusion, name_of
from intvit.integer_model import IntegerModel
from intvit.kernels.cuda.arch import ARCHS
from intvit.kernels.isa import AVX2
from intvit.legalize import Legalizer
from intvit.targets import runs_here
from intvit.verify.bit_exact import prove_bit_exact
from intvit.verify.no_float import prove_no_float
from intvit.verify.overflow import shapes_of


def groups(rules: Fusion) -> list[str]:
    return ["+".join(map(name_of, group.nodes)) for group in rules.groups()]


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("target", ["auto", "x86-64-v3"])
def test_a_compiled_module_has_the_same_integers(target: str, preset: str) -> None:
    if target != "auto" and not runs_here(target):
        pytest.skip(f"this machine does not run {target}")
    model = mixed.integer_model(preset)
    prove_bit_exact(intvit.compile(model, target, threads=2), model)


@pytest.mark.parametrize("back_end", ["cpu", "cuda"])
def test_what_reads_sums_and_weights_is_in_their_kernels(back_end: str) -> None:
    graph = mixed.integer_model().graph
    shapes = shapes_of(graph)
    rules: Fusion = Legalizer(graph.module, shapes, AVX2)
    if back_end == "cuda":
        rules = DeviceLegalizer(graph.module, shapes, ARCHS["sm_90"])
    found = groups(rules)
    assert {"product", "product+requantize", "product+add", "softmax+requantize"} <= set(found)
    assert "softmax" not in found and found.count("product") == 1


def test_a_file_holds_it(tmp_path: Path) -> None:
    model, path = mixed.integer_model(), tmp_path / "mixed.intvit"
    model.save(path)
    loaded = IntegerModel.load(path)
    assert loaded.digest == model.digest
    assert np.array_equal(loaded.integers(tiny.pixels(2))[0], model.integers(tiny.pixels(2))[0])


def test_nothing_in_it_is_float() -> None:
    assert prove_no_float(mixed.integer_model().graph)


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_exported_it_has_the_same_integers(preset: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model, path = mixed.integer_model(preset), tmp_path / "mixed.onnx"
    intvit.export(model).save(path)
    prove_bit_exact(intvit.load(path), model)
