"""A model with convolutions and pools of every kind, through every back end and into files."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import windowed

import intvit
from intvit.errors import IntvitError
from intvit.fusion import Fusion, name_of, pixels_of
from intvit.integer_model import IntegerModel
from intvit.kernels.isa import AVX2
from intvit.legalize import Legalizer
from intvit.metadata import Metadata
from intvit.passes.pipeline import lower
from intvit.verify.bit_exact import prove_bit_exact
from intvit.verify.no_float import prove_no_float
from intvit.verify.overflow import shapes_of


def groups(rules: Fusion) -> list[str]:
    return ["+".join(map(name_of, group.nodes)) for group in rules.groups()]


@pytest.mark.parametrize("target", ["auto", "x86-64-v3"])
def test_a_compiled_module_has_the_same_integers(target: str) -> None:
    if target != "auto" and not intvit.targets.runs_here(target):
        pytest.skip(f"this machine does not run {target}")
    prove_bit_exact(intvit.compile(windowed.integer_model(), target, threads=2), windowed.integer_model())


def test_what_reads_a_depthwise_convolution_is_in_its_kernel() -> None:
    graph = windowed.integer_model().graph
    found = groups(Legalizer(graph.module, shapes_of(graph), AVX2))
    assert "depthwise+requantize+gelu" in found and "depthwise+add" in found
    assert "depthwise" not in found


def test_windows_of_the_image_are_taken_from_it() -> None:
    """Unless something else reads its pixels too."""
    graph = windowed.integer_model().graph
    rules = Legalizer(graph.module, shapes_of(graph), AVX2)
    assert groups(rules)[0] == "patchify+unfold" and "patchify" not in groups(rules)
    pixels = next(node for node in graph.module.graph.nodes if name_of(node) == "patchify")
    windows = next(iter(pixels.users))
    assert pixels_of(windows) is pixels
    other = next(node for node in graph.module.graph.nodes if name_of(node) == "unfold" and node is not windows)
    assert pixels_of(other) is None


def test_a_file_holds_it(tmp_path: Path) -> None:
    model, path = windowed.integer_model(), tmp_path / "windowed.intvit"
    model.save(path)
    loaded = IntegerModel.load(path)
    assert loaded.digest == model.digest
    assert np.array_equal(loaded.integers(tiny.pixels(2))[0], model.integers(tiny.pixels(2))[0])


def test_nothing_in_it_is_float() -> None:
    assert prove_no_float(windowed.integer_model().graph)


def test_windows_that_no_product_reads_have_no_float_form() -> None:
    pytest.importorskip("onnx")
    sketch = windowed.Sketch()
    calibrated = sketch.calibrated(sketch.unfold(sketch.linear(sketch.pixels), 32))
    graph = lower(calibrated)
    metadata = Metadata("unfolded", "default", "0", tiny.GRID, graph.output_scales, graph.output_shapes)
    with pytest.raises(IntvitError, match="windows that no product reads"):
        intvit.export(IntegerModel(graph, metadata), profile="qdq")


def test_exported_it_has_the_same_integers(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model, path = windowed.integer_model(), tmp_path / "windowed.onnx"
    intvit.export(model).save(path)
    prove_bit_exact(intvit.load(path), model)
