"""The ends of an exported graph: pixels of normalized images, and floats of integers."""

import numpy as np
import onnx
import pytest
from graphs import Array, session

from intvit.input_grid import InputGrid
from intvit.to_onnx.boundary import IMAGE, pixels, results
from intvit.to_onnx.scope import BATCH, Scope

FLOAT, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8
IMAGENET = InputGrid((1 / 58.4, 1 / 57.1, 1 / 57.4), (-2.1179, -2.0357, -1.8044), (3, 16, 16))
RANGE = InputGrid.of_range(-3.0, 5.0, (2, 16, 16))


def run(grid: InputGrid, images: Array) -> Array:
    scope = Scope.graph(21)
    name = pixels(scope, "float32", grid)
    channels, height, width = grid.shape
    info = onnx.helper.make_tensor_value_info
    inputs = [info(IMAGE, FLOAT, [BATCH, channels, height, width])]
    model = scope.model(inputs, [info(name, UINT8, [BATCH, height, width, channels])], "pixels")
    found: Array = session(model).run(None, {IMAGE: images})[0]
    return found


@pytest.mark.parametrize("grid", [IMAGENET, RANGE], ids=["pixels", "range"])
def test_every_pixel(grid: InputGrid) -> None:
    """What stands for a pixel becomes that pixel, also when it is a third of a step beside it."""
    channels, height, width = grid.shape
    raw = np.resize(np.arange(256, dtype=np.uint8), (1, height * width, 1))
    raw = np.broadcast_to(raw.reshape(1, height, width, 1), (1, height, width, channels))
    images = grid.normalized(np.ascontiguousarray(raw))
    step = np.reshape(grid.scale, (-1, 1, 1)).astype(np.float32)
    for third in (-0.33, 0.0, 0.33):
        assert np.array_equal(run(grid, images + np.float32(third) * step), raw)


@pytest.mark.parametrize("grid", [IMAGENET, RANGE], ids=["pixels", "range"])
def test_as_the_grid_does(grid: InputGrid) -> None:
    """Float images of any values, far outside of the range too."""
    images = np.random.default_rng(0).normal(0, 3, (40, *grid.shape)).astype(np.float32)
    found, wanted = run(grid, images), grid.pixels(images)
    assert np.array_equal(found, wanted)


def test_uint8_is_read_as_it_is() -> None:
    scope = Scope.graph(21)
    assert pixels(scope, "uint8", IMAGENET) == IMAGE
    assert scope.nodes == []


@pytest.mark.parametrize("kind", ["int32", "float32"])
def test_results(kind: str) -> None:
    scope = Scope.graph(21)
    names = results(scope, ["a", "b"], kind, (0.125, 3e-7), ((2, 3), (6,)))
    assert names == ["output_0", "output_1"]
    info, element = onnx.helper.make_tensor_value_info, onnx.TensorProto.INT32
    of = FLOAT if kind == "float32" else element
    outputs = [info("output_0", of, [BATCH, 2, 3]), info("output_1", of, [BATCH, 6])]
    model = scope.model([info(name, element, [BATCH, 2, 3]) for name in "ab"], outputs, "ends")
    x = np.random.default_rng(0).integers(-(1 << 24), 1 << 24, (4, 2, 3)).astype(np.int32)
    first, second = session(model).run(None, {"a": x, "b": -x})
    if kind == "int32":
        assert np.array_equal(first, x) and np.array_equal(second, -x.reshape(4, 6))
    else:
        assert np.array_equal(first, x.astype(np.float32) * np.float32(0.125))
        assert np.array_equal(second, -x.reshape(4, 6).astype(np.float32) * np.float32(3e-7))


def test_one_result_is_called_logits() -> None:
    assert results(Scope.graph(21), ["x"], "int32", (1.0,), ((5,),)) == ["logits"]
