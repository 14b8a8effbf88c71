"""The file of an exported model: choices, metadata, checks, and weights in a second file, whole or not at all."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import intvit
from intvit.errors import IntvitError, VerifyError
from intvit.integer_model import IntegerModel
from intvit.metadata import Layer, Metadata
from intvit.preprocess import Preprocessing

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'intvit[onnx]'")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'intvit[onnx]'")
helper, numpy_helper = onnx.helper, onnx.numpy_helper

from intvit.to_onnx import file as onnx_file  # noqa: E402
from intvit.to_onnx.external_data import PAGE, SMALL  # noqa: E402
from intvit.to_onnx.file import OnnxFile  # noqa: E402
from intvit.to_onnx.scope import OPSETS  # noqa: E402
from intvit.verify.no_float_onnx import prove_no_float_onnx  # noqa: E402

WIDTH = 40


def product(seed: int = 0) -> OnnxFile:
    """y = x w1 w2 in integers; `w1` and `w2` are large, the two zero points small."""
    random = np.random.default_rng(seed)
    weights = [random.integers(-128, 128, (WIDTH, WIDTH)).astype(np.int8) for _ in range(2)]
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w1", "zero"], ["a"]),
        helper.make_node("Cast", ["a"], ["b"], to=onnx.TensorProto.UINT8),
        helper.make_node("MatMulInteger", ["b", "w2", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, ["batch", WIDTH])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.INT32, ["batch", WIDTH])],
        [
            numpy_helper.from_array(weights[0], "w1"),
            numpy_helper.from_array(np.uint8(128), "zero"),
            numpy_helper.from_array(weights[1], "w2"),
        ],
    )
    return OnnxFile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), 3)


def outputs(path: Path) -> np.ndarray[Any, Any]:
    """What ONNX Runtime gives for the file."""
    x = np.arange(3 * WIDTH, dtype=np.uint8).reshape(3, WIDTH)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def names(folder: Path) -> list[str]:
    """The files of a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


def test_one_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    assert product().save(path) == (path,)
    assert names(tmp_path) == ["m.onnx"]
    onnx.checker.check_model(path, full_check=True)
    assert onnx.load(path) == product().proto


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model is too large for one file."""
    monkeypatch.setattr(onnx_file, "LIMIT", SMALL)


def test_two_files_give_the_same(small_limit: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    written, data = product().save(path)
    assert (written, data.parent) == (path, tmp_path)
    assert names(tmp_path) == ["m.onnx", data.name]
    onnx.checker.check_model(path, full_check=True)
    light = onnx.load(path, load_external_data=False)
    assert path.stat().st_size < WIDTH * WIDTH
    places = [{entry.key: entry.value for entry in tensor.external_data} for tensor in light.graph.initializer]
    assert [bool(place) for place in places] == [True, False, True]
    assert [int(place["offset"]) for place in places if place] == [0, PAGE]
    assert {place["location"] for place in places if place} == {data.name}
    assert onnx.load(path).graph.node == product().proto.graph.node
    monkeypatch.undo()
    product().save(tmp_path / "single.onnx")
    assert np.array_equal(outputs(path), outputs(tmp_path / "single.onnx"))
    assert prove_no_float_onnx(path) == 3


def test_a_new_model_takes_the_place_of_both(small_limit: None, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    (tmp_path / "n.onnx.0123456789abcdef.data").write_bytes(b"of another model")
    _, first = product(0).save(path)
    before = outputs(path)
    assert product(0).save(path) == (path, first)
    _, second = product(1).save(path)
    assert names(tmp_path) == sorted(["m.onnx", second.name, "n.onnx.0123456789abcdef.data"])
    assert not np.array_equal(outputs(path), before)


def test_a_smaller_model_leaves_no_data_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "LIMIT", SMALL)
    product().save(tmp_path / "m.onnx")
    monkeypatch.undo()
    product().save(tmp_path / "m.onnx")
    assert names(tmp_path) == ["m.onnx"]


def test_a_link_stays_a_link(small_limit: None, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.onnx").symlink_to(tmp_path / "real" / "m.onnx")
    written, data = product().save(tmp_path / "link.onnx")
    assert written == tmp_path / "real" / "m.onnx"
    assert names(tmp_path / "real") == ["m.onnx", data.name]
    assert (tmp_path / "link.onnx").is_symlink()


@pytest.mark.parametrize("limit", [SMALL, 1 << 30])
@pytest.mark.parametrize("fails", ["check", "rename"])
def test_what_fails_leaves_the_model_before(
    limit: int, fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "LIMIT", limit)
    path = tmp_path / "m.onnx"
    product(0).save(path)
    before, files = outputs(path), {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    replace_file = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target == path:
            raise OSError(28, "No space left on device", str(self))
        return replace_file(self, target)

    def check(_: Path) -> None:
        raise VerifyError("planted")

    with monkeypatch.context() as planted:
        if fails == "check":
            planted.setattr(onnx_file, "_check_file", check)
        else:
            planted.setattr(Path, "replace", refuse)
        for seed in (0, 1):  # the same model again, whose data are there already, and another one
            with pytest.raises(IntvitError, match="planted" if fails == "check" else "disk is full"):
                product(seed).save(path)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == files
    assert np.array_equal(outputs(path), before)


def test_what_the_checker_refuses_is_not_written(tmp_path: Path) -> None:
    wrong = product()
    wrong.proto.graph.node[0].op_type = "MatMulIntegers"
    with pytest.raises(VerifyError, match="ONNX's check refuses"):
        wrong.save(tmp_path / "m.onnx")
    assert names(tmp_path) == []


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    for path in (tmp_path / "no" / "m.onnx", tmp_path / "folder.onnx"):
        with pytest.raises(IntvitError, match=r"does not exist|is a folder"):
            product().save(path)
    assert names(tmp_path) == ["folder.onnx"]


@pytest.mark.parametrize("name", ["m", "m.bin", "m.onnx.bin", ".onnx"])
def test_names_of_something_else(name: str, tmp_path: Path) -> None:
    with pytest.raises(IntvitError, match=r"must end in \.onnx"):
        product().save(tmp_path / name)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"opset": 5}, f"opset 5 is not supported: choose one from {OPSETS[0]} to {OPSETS[-1]}"),
        ({"opset": 99}, "opset 99 is not supported"),
        ({"profile": "int8"}, "no profile 'int8': choose integer or qdq"),
        ({"image": "int8"}, "no input type 'int8': choose uint8 or float32"),
        ({"output": "int8"}, "no output type 'int8': choose int32 or float32"),
        ({"profile": "qdq", "output": "int32"}, "qdq gives floats"),
        ({"profile": "qdq", "keep_functions": True}, r"keep_functions \(--keep-functions\) is for the profile integer"),
        ({"profile": "qdq", "portable": True}, r"portable \(--portable\)"),
        ({"batch": 0}, "a batch of 0 is none"),
        ({"batch": 2.5}, "a batch of 2.5 is none: give a whole number"),
        ({"batch": True}, "a batch of True is none"),
        ({"opset": 21.0}, "opset 21.0 is not supported"),
    ],
)
def test_choices_that_there_are_not(choices: dict[str, Any], words: str) -> None:
    with pytest.raises(IntvitError, match=words):
        intvit.export(tiny.integer_model(), **choices)


def test_only_integer_models_are_exported() -> None:
    with pytest.raises(IntvitError, match="only an integer model can be exported, not TinyViT"):
        intvit.export(tiny.vit())


def described() -> IntegerModel:
    """The tiny model with all that metadata can hold."""
    model = tiny.integer_model()
    metadata = replace(
        model.metadata,
        labels=tuple(f"kind {i}" for i in range(10)),
        preprocessing=Preprocessing(size=(32, 32)),
        layers=(Layer("head", "linear", "head", "int32", (0.5, 0.5), 1),),
    )
    return IntegerModel(model.graph, metadata)


@pytest.mark.parametrize("profile", ["integer", "qdq"])
def test_metadata_travel(profile: str, tmp_path: Path) -> None:
    model = described()
    exported = intvit.export(model, profile=profile)
    assert exported.bit_exact == (profile == "integer")
    found = {entry.key: entry.value for entry in exported.proto.metadata_props}
    assert found["digest"] == model.digest
    assert (found["name"], found["profile"]) == ("tiny", profile)
    assert found["intvit_version"] == intvit.__version__
    assert json.loads(found["labels"]) == list(model.metadata.labels or ())
    assert Preprocessing.from_dict(json.loads(found["preprocessing"])) == model.metadata.preprocessing
    assert Metadata.from_json(found["metadata"]) == replace(model.metadata, labels=None, layers=())
    exported.save(tmp_path / "m.onnx")
    loaded = intvit.load(tmp_path / "m.onnx")
    assert loaded.metadata == replace(model.metadata, layers=())
    assert loaded.digest == model.digest


@pytest.mark.parametrize("image", ["uint8", "float32"])
@pytest.mark.parametrize("batch", [None, 2])
def test_the_boundary_is_as_chosen(image: str, batch: int | None, tmp_path: Path) -> None:
    model = tiny.integer_model()
    images = tiny.pixels(5)
    (expected,) = model.integers(images)
    for output in ("int32", "float32"):
        exported = intvit.export(model, image=image, output=output, batch=batch)
        exported.save(tmp_path / "m.onnx")
        loaded = intvit.load(tmp_path / "m.onnx")
        assert (loaded.image, loaded.output, loaded.batch) == (image, output, batch)
        if output == "int32":
            assert np.array_equal(loaded.integers(images)[0], expected)
        np.testing.assert_allclose(loaded(images), expected * model.metadata.output_scales[0], rtol=3e-7)


@pytest.mark.parametrize("keep_functions", [False, True])
def test_the_saved_file_is_proved(keep_functions: bool, tmp_path: Path) -> None:
    exported = intvit.export(tiny.integer_model(), keep_functions=keep_functions)
    exported.save(tmp_path / "m.onnx")
    assert prove_no_float_onnx(tmp_path / "m.onnx") == exported.operators
    assert bool(exported.proto.functions) == keep_functions


@pytest.mark.parametrize("opset", [OPSETS[0], OPSETS[-1]])
@pytest.mark.parametrize("profile", ["integer", "qdq"])
def test_every_opset(opset: int, profile: str, tmp_path: Path) -> None:
    exported = intvit.export(tiny.integer_model(), opset=opset, profile=profile)
    assert [entry.version for entry in exported.proto.opset_import if not entry.domain] == [opset]
    exported.save(tmp_path / "m.onnx")
    assert intvit.load(tmp_path / "m.onnx")(tiny.pixels(2)).shape == (2, 10)


@pytest.mark.parametrize("profile", ["integer", "qdq"])
def test_no_size_is_unknown(profile: str) -> None:
    """ONNX Runtime's time to load grows with the square of the number of symbols that inference makes up."""
    exported = intvit.export(tiny.integer_model(), profile=profile)
    inferred = onnx.shape_inference.infer_shapes(exported.proto, strict_mode=True, data_prop=True)
    sides = [side for value in inferred.graph.value_info for side in value.type.tensor_type.shape.dim]
    assert all(side.HasField("dim_value") or side.dim_param.startswith("batch") for side in sides)
    names = {side.dim_param for side in sides if side.dim_param}
    assert "batch" in names
    assert all(name == "batch" or name.removeprefix("batch_x_").isdigit() for name in names)
    assert not intvit.export(tiny.integer_model(), profile=profile, batch=2).proto.graph.value_info


EMULATED = """
import sys
import numpy as np
from intvit.onnx_model import OnnxModel
pixels, expected = (np.load(path) for path in sys.argv[1:3])
print(np.array_equal(OnnxModel.load(sys.argv[3], 1).integers(pixels)[0], expected))
try:
    OnnxModel.load(sys.argv[4], 1)
except Exception as error:
    print(error)
"""


def test_a_portable_model_is_exact_without_vnni(tmp_path: Path) -> None:
    """On an emulated Haswell; the model that is not portable is refused there."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("qemu-x86_64 is not installed")
    model, images = tiny.integer_model(), tiny.pixels(2)
    np.save(tmp_path / "pixels.npy", images)
    np.save(tmp_path / "expected.npy", model.integers(images)[0])
    for name, portable in (("portable.onnx", True), ("fast.onnx", False)):
        intvit.export(model, portable=portable).save(tmp_path / name)
    files = [tmp_path / name for name in ("pixels.npy", "expected.npy", "portable.onnx", "fast.onnx")]
    command = [emulator, "-cpu", "Haswell", sys.executable, "-c", EMULATED, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    exact, refused = [line for line in done.stdout.splitlines() if "warning" not in line]
    assert exact == "True"
    assert "saturate on this CPU" in refused and "--portable" in refused
