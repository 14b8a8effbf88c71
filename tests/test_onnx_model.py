"""Exported models in ONNX Runtime: hand-made graphs of every boundary, batch sizes, threads, and what is refused."""

import base64
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import intvit
from intvit import onnx_runtime
from intvit.errors import IntvitError
from intvit.input_grid import InputGrid
from intvit.metadata import Metadata
from intvit.onnx_model import OnnxModel
from intvit.onnx_runtime import Products

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'intvit[onnx]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'intvit[onnx]'")
TensorProto, helper, numpy_helper = onnx.TensorProto, onnx.helper, onnx.numpy_helper

GRID = InputGrid((0.5, 0.25), (-3.0, 1.0), (2, 3, 4))
SIZE = 3 * 4 * 2
CLASSES = 5
SCALE = 0.125
METADATA = Metadata("tiny", "default", "0", GRID, (SCALE,), ((CLASSES,),), labels=tuple("abcde"))
WEIGHTS = np.random.default_rng(0).integers(-128, 128, (SIZE, CLASSES)).astype(np.int8)


def pixels(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Images `[count, 3, 4, 2]`."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 2), np.uint8)


def expected(images: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.int32]]:
    """The integers of the model."""
    return images.reshape(len(images), -1).astype(np.int32) @ WEIGHTS.astype(np.int32)


def properties(**changes: str | None) -> dict[str, str]:
    """What an export leaves in a file; None leaves an entry out."""
    entries = {
        "name": "tiny",
        "profile": "integer",
        "bit_exact": "true",
        "digest": "d" * 64,
        "intvit_version": "0",
        "labels": json.dumps(METADATA.labels),
        "preprocessing": "null",
        "metadata": replace(METADATA, labels=None).to_json(),
    }
    return {name: value for name, value in (entries | changes).items() if value is not None}


def made(
    path: Path,
    image: str = "uint8",
    output: str = "int32",
    batch: int | None = None,
    classes: int = CLASSES,
    **changes: str | None,
) -> Path:
    """A file with one product between the boundaries that were asked for."""
    free = batch or "batch"
    constants = {"w": WEIGHTS[:, :classes], "flat": np.array([-1, SIZE]), "scale": np.float32(SCALE)}
    constants |= {"step": np.array(GRID.scale, np.float32).reshape(1, 2, 1, 1)}
    constants |= {"low": np.array(GRID.offset, np.float32).reshape(1, 2, 1, 1)}
    nodes = []
    if image == "float32":
        nodes += [helper.make_node("Sub", ["image", "low"], ["above"])]
        nodes += [helper.make_node("Div", ["above", "step"], ["exact"]), helper.make_node("Round", ["exact"], ["near"])]
        nodes += [helper.make_node("Transpose", ["near"], ["last"], perm=[0, 2, 3, 1])]
        nodes += [helper.make_node("Cast", ["last"], ["pixels"], to=TensorProto.UINT8)]
    nodes += [helper.make_node("Reshape", ["image" if image == "uint8" else "pixels", "flat"], ["rows"])]
    product = "logits" if output == "int32" else "sums"
    nodes += [helper.make_node("MatMulInteger", ["rows", "w"], [product], name="head/product")]
    if output == "float32":
        nodes += [helper.make_node("Cast", ["sums"], ["real"], to=TensorProto.FLOAT)]
        nodes += [helper.make_node("Mul", ["real", "scale"], ["logits"])]
    kinds = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
    sides = [3, 4, 2] if image == "uint8" else [2, 3, 4]
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", kinds[image], [free, *sides])],
        [helper.make_tensor_value_info("logits", kinds[output], [free, classes])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in read],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    helper.set_model_props(proto, properties(**changes))
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("image", ["uint8", "float32"])
@pytest.mark.parametrize("batch", [None, 1, 3])
def test_integers_of_any_batch(image: str, batch: int | None, tmp_path: Path) -> None:
    model = OnnxModel.load(made(tmp_path / "m.onnx", image, batch=batch))
    assert (model.image, model.output, model.batch) == (image, "int32", batch)
    for count in (1, 2, 3, 7):
        (found,) = model.integers(pixels(count))
        assert found.dtype == np.int32
        assert np.array_equal(found, expected(pixels(count)))
    with pytest.raises(IntvitError, match="batch is empty"):
        model.integers(pixels(0))


def test_called_with_pixels_and_with_floats(tmp_path: Path) -> None:
    model = intvit.load(made(tmp_path / "m.onnx"))
    images = pixels(4)
    assert np.array_equal(model(images, raw=True), expected(images))
    assert np.array_equal(model(GRID.normalized(images)), (expected(images) * SCALE).astype(np.float32))
    with pytest.raises(IntvitError, match="images must be float32"):
        model(images.astype(np.float64))


@pytest.mark.parametrize(("profile", "word"), [("integer", "--output-type int32"), ("qdq", "no integer outputs")])
def test_floats_where_the_model_gives_floats(profile: str, word: str, tmp_path: Path) -> None:
    exact = "true" if profile == "integer" else "false"
    path = made(tmp_path / "m.onnx", output="float32", batch=2, profile=profile, bit_exact=exact)
    model = OnnxModel.load(path)
    images = pixels(5)
    assert np.array_equal(model(images), expected(images).astype(np.float32) * np.float32(SCALE))
    for refused in (lambda: model.integers(images), lambda: model(images, raw=True)):
        with pytest.raises(IntvitError, match=word):
            refused()
    with pytest.raises(IntvitError, match="batch is empty"):
        model(pixels(0))


def test_what_a_file_says_of_itself(tmp_path: Path) -> None:
    path = made(tmp_path / "m.onnx")
    model = OnnxModel.load(path, threads=1)
    assert model.metadata == METADATA
    assert (model.profile, model.bit_exact, model.digest) == ("integer", True, "d" * 64)
    assert (model.threads, model.path) == (1, path)


def test_threads_share_a_model(tmp_path: Path) -> None:
    model = OnnxModel.load(made(tmp_path / "m.onnx", batch=2))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda seed: model.integers(pixels(3, seed))[0], range(64)))
    assert all(np.array_equal(found[seed], expected(pixels(3, seed))) for seed in range(64))


def test_time_by_operator(tmp_path: Path) -> None:
    model = OnnxModel.load(made(tmp_path / "m.onnx"))
    steps = model.steps(pixels(2), repeats=3)
    assert [(step.name, step.path) for step in steps][-1] == ("MatMulInteger", "head")
    assert all(step.seconds >= 0 for step in steps)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_time_by_operator_of_a_fixed_batch(count: int, tmp_path: Path) -> None:
    steps = OnnxModel.load(made(tmp_path / "m.onnx", batch=3)).steps(pixels(count), repeats=1)
    assert [(step.name, step.path) for step in steps][-1] == ("MatMulInteger", "head")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(b""), "damaged, or no model"),
        (lambda path: path.write_bytes(b"no ONNX model" * 20), "damaged, or no model"),
        (lambda path: path.write_bytes(path.read_bytes()[:-50]), "damaged, or no model"),
        (lambda path: made(path, digest=None), r"without the metadata of intvit \(digest\)"),
        (lambda path: made(path, metadata="{}"), "made by another version"),
        (lambda path: made(path, metadata="nonsense"), "made by another version"),
        (lambda path: made(path, labels="nonsense"), "made by another version"),
        (lambda path: made(path, classes=4), "not those of its metadata"),
    ],
)
def test_wrong_files_are_one_line(damage: Any, words: str, tmp_path: Path) -> None:
    path = made(tmp_path / "m.onnx")
    damage(path)
    with pytest.raises(IntvitError, match=words) as caught:
        OnnxModel.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [lambda data: data.unlink(), lambda data: data.write_bytes(b"cut")])
def test_weights_in_another_file(damage: Any, tmp_path: Path) -> None:
    path = made(tmp_path / "m.onnx")
    onnx.save_model(
        onnx.load(path),
        path,
        save_as_external_data=True,
        location="m.data",
        size_threshold=100,
        convert_attribute=False,
    )
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.onnx").symlink_to(path)
    for name in ("m.onnx", "elsewhere/link.onnx"):
        assert np.array_equal(OnnxModel.load(tmp_path / name).integers(pixels(1))[0], expected(pixels(1)))
    damage(tmp_path / "m.data")
    with pytest.raises(IntvitError, match="weights beside it is missing or damaged"):
        OnnxModel.load(path)


def test_a_folder_is_not_taken_for_the_error(tmp_path: Path) -> None:
    (tmp_path / "External data").mkdir()
    path = made(tmp_path / "External data" / "external initializer.onnx")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(IntvitError, match="damaged, or no model"):
        OnnxModel.load(path)


def test_threads_are_bounded(tmp_path: Path) -> None:
    with pytest.raises(IntvitError, match="threads must be 1 to"):
        OnnxModel.load(made(tmp_path / "m.onnx"), threads=10_000)


def test_without_the_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(IntvitError, match=r"needs the package onnxruntime: pip install 'intvit\[onnx\]'"):
        OnnxModel.load(path)


def test_it_needs_neither_torch_nor_onnx(tmp_path: Path) -> None:
    path = made(tmp_path / "m.onnx")
    code = f"""
import sys
for name in ("torch", "tvm", "tvm_ffi", "safetensors", "onnx"):
    sys.modules[name] = None
import intvit, numpy
print(intvit.load({str(path)!r})(numpy.zeros((1, 3, 4, 2), numpy.uint8)).tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[0.0] * CLASSES]


def test_the_models_that_ask_the_machine_are_what_they_say() -> None:
    for name, inputs in (("COMPUTED", 2), ("CONSTANT", 1)):
        proto = onnx.load_from_string(base64.b64decode(getattr(onnx_runtime, name)))
        onnx.checker.check_model(proto, full_check=True)
        assert [node.op_type for node in proto.graph.node] == ["MatMulInteger"]
        assert len(proto.graph.input) == inputs
        assert all((numpy_helper.to_array(constant) == 127).all() for constant in proto.graph.initializer)


def computed(path: Path, second: int) -> Path:
    """A product of two computed operands, the second of them int8 or uint8."""
    kind = "int8" if second == TensorProto.INT8 else "uint8"
    nodes = [
        helper.make_node("Reshape", ["image", "flat"], ["rows"]),
        helper.make_node("Cast", ["rows"], ["narrow"], to=second),
        helper.make_node("Unsqueeze", ["rows", "last"], ["a"]),
        helper.make_node("Unsqueeze", ["narrow", "first"], ["b"]),
        helper.make_node("MatMulInteger", ["a", "b"], ["product"]),
        helper.make_node("ReduceMax", ["product", "first"], ["most"], keepdims=0),
        helper.make_node("Slice", ["most", "zero", "classes", "first"], ["logits"]),
    ]
    constants = {"flat": [-1, SIZE], "last": [2], "first": [1], "zero": [0], "classes": [CLASSES]}
    graph = helper.make_graph(
        nodes,
        f"computed {kind}",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 3, 4, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.INT32, ["batch", CLASSES])],
        [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    helper.set_model_props(proto, properties())
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("products", [Products.MENDED, Products.WRONG])
def test_on_a_machine_whose_products_saturate(
    products: Products, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Constant weights are mended by an option; what it does not mend is refused, unless it is not bit-exact anyway."""
    monkeypatch.setattr("intvit.onnx_model.products", lambda: products)
    monkeypatch.setattr("intvit.onnx_runtime.products", lambda: products)
    constant, int8 = made(tmp_path / "constant.onnx"), computed(tmp_path / "int8.onnx", TensorProto.INT8)
    uint8 = computed(tmp_path / "uint8.onnx", TensorProto.UINT8)
    refused = {int8} if products is Products.MENDED else {constant, int8, uint8}
    for path in (constant, int8, uint8):
        if path in refused:
            with pytest.raises(IntvitError, match="saturate on this CPU"):
                OnnxModel.load(path)
        else:
            assert OnnxModel.load(path).integers(pixels(2))[0].shape == (2, CLASSES)
    OnnxModel.load(made(tmp_path / "qdq.onnx", output="float32", profile="qdq", bit_exact="false"))


EMULATED = """
import sys
for name in ("torch", "tvm", "onnx"):
    sys.modules[name] = None
import numpy as np
from intvit.onnx_model import OnnxModel
from intvit.onnx_runtime import products
print(products().name)
white = np.full((3, 3, 4, 2), 255, np.uint8)
print(OnnxModel.load(sys.argv[1], 1).integers(white)[0].tolist())
try:
    OnnxModel.load(sys.argv[2], 1)
except Exception as error:
    print(error)
"""


def test_a_cpu_without_vnni(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An emulated Haswell, where 255 · 127 + 255 · 127 does not fit the runtime's 16 bits."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("qemu-x86_64 is not installed")
    monkeypatch.setattr(sys.modules[__name__], "WEIGHTS", np.full((SIZE, CLASSES), 127, np.int8))
    files = made(tmp_path / "m.onnx"), computed(tmp_path / "computed.onnx", TensorProto.INT8)
    command = [emulator, "-cpu", "Haswell", sys.executable, "-c", EMULATED, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if "warning" not in line]
    assert said[0] == "MENDED"
    assert json.loads(said[1]) == [[255 * 127 * SIZE] * CLASSES] * 3
    assert "saturate on this CPU" in said[2]
