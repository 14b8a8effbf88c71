"""`intvit export`, and what the other commands make of an exported model."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import intvit as package
from intvit.integer_model import IntegerModel

Command = Callable[..., Any]

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'intvit[onnx]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'intvit[onnx]'")


@pytest.fixture(scope="module")
def qdq_file(intvit: Command, integer_file: Path) -> Path:
    """`tiny:vit` in the profile qdq."""
    path = integer_file.with_name("qdq.onnx")
    done = intvit("export", integer_file, "--profile", "qdq", "-o", path)
    assert done.code == 0, done
    assert "not bit-exact" in done.out
    return path


def test_it_says_what_it_wrote(intvit: Command, integer_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    done = intvit("export", integer_file, "-o", path)
    assert done.code == 0, done
    assert done.out.splitlines()[0] == "intvit export"
    assert done.out.splitlines()[-1] == str(path)
    assert "profile integer, bit-exact" in done.out and "x its int8 weights" in done.out
    found = intvit("export", integer_file, "-o", path, "--json").json
    model = IntegerModel.load(integer_file)
    weights = sum(b.numel() for b in model.graph.module.buffers() if str(b.dtype) == "torch.int8")
    assert found.keys() == {
        *(
            "arguments",
            "profile",
            "bit_exact",
            "digest",
            "opset",
            "operators",
            "bytes",
            "weight_bytes",
            "files",
            "written",
        )
    }
    assert (found["profile"], found["bit_exact"], found["digest"]) == ("integer", True, model.digest)
    assert (found["bytes"], found["weight_bytes"]) == (path.stat().st_size, weights)
    assert found["written"] == str(path) and found["files"] == [str(path)]
    assert found["operators"] == sum(node.op_type != "Constant" for node in onnx.load(path).graph.node)
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_every_choice(intvit: Command, integer_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    options = ("--keep-functions", "--opset", 22, "--batch", 2, "--input-type", "float32", "--output-type", "float32")
    done = intvit("export", integer_file, *options, "--portable", "-o", path)
    assert done.code == 0, done
    proto = onnx.load(path)
    assert proto.functions and proto.opset_import[0].version == 22
    facts = intvit("inspect", path, "--json").json
    assert facts["graph"] == "float32 image, float32 outputs, 2 images per run"
    assert (facts["profile"], facts["bit_exact"]) == ("integer", "yes")
    assert intvit("export", integer_file, "--dynamic-batch", "-o", path).code == 0
    assert "uint8 image, int32 outputs, any number of images per run" in intvit("inspect", path).out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-o", "m.so"), ["must end in .onnx", "-o m.onnx"]),
        (("-o", "nowhere/m.onnx"), ["nowhere", "does not exist"]),
        (("-o", "folder.onnx"), ["is a folder"]),
        (("-o", "m.intvit/m.onnx"), ["m.intvit is a file, not a folder"]),
        (("-o", "m.intvit/deep/m.onnx"), ["m.intvit is a file, not a folder"]),
        (("-o", "m.onnx", "--opset", 5), ["opset 5 is not supported", "18 to"]),
        (("-o", "m.onnx", "--profile", "int8"), ["'int8'", "integer or qdq"]),
        (("-o", "m.onnx", "--input-type", "int8"), ["'int8'", "uint8 or float32"]),
        (("-o", "m.onnx", "--output-type", "int8"), ["'int8'", "int32 or float32"]),
        (("-o", "m.onnx", "--profile", "qdq", "--output-type", "int32"), ["qdq gives floats"]),
        (("-o", "m.onnx", "--profile", "qdq", "--keep-functions"), ["--keep-functions"]),
        (("-o", "m.onnx", "--batch", 2, "--dynamic-batch"), ["--batch", "one of them"]),
    ],
)
def test_refused_before_the_model_is_loaded(
    arguments: tuple[Any, ...],
    words: list[str],
    intvit: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.onnx").mkdir()
    Path("m.intvit").write_bytes(b"is not read")
    intvit("export", "m.intvit", *arguments).refused(*words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.onnx", "m.intvit"]


def test_a_folder_without_permission(intvit: Command, integer_file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    intvit("export", integer_file, "-o", tmp_path / "m.onnx").refused("no permission to write")


@pytest.mark.parametrize(("missing", "command"), [("onnx", "export"), ("onnxruntime", "inspect")])
def test_a_missing_package(missing: str, command: str, integer_file: Path, onnx_file: Path, tmp_path: Path) -> None:
    arguments = {"export": [integer_file, "-o", tmp_path / "m.onnx"], "inspect": [onnx_file]}[command]
    code = f"import sys; sys.modules[{missing!r}] = None; from intvit.cli import main; main()"
    run = [sys.executable, "-c", code, command, *map(str, arguments)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done
    assert f"needs the package {missing}: pip install 'intvit[onnx]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(
    intvit: Command, integer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    intvit("export", integer_file, "-o", tmp_path / "m.onnx").refused("the disk is full")
    assert list(tmp_path.iterdir()) == []


def test_run_and_eval_need_no_torch(onnx_file: Path, images: Path) -> None:
    main = "try:\n    main()\nfinally:\n    assert not {'tvm', 'onnx'} & sys.modules.keys()"
    code = f"import sys\nsys.modules['torch'] = None\nfrom intvit.cli import main\n{main}"
    labels = images.parent / "labels.csv"
    for arguments in (
        ["run", onnx_file, images / "00.png"],
        ["eval", onnx_file, "--data", images, "--labels", labels],
        ["inspect", onnx_file],
    ):
        run = [sys.executable, "-c", code, *map(str, arguments), "--json"]
        done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["arguments"]["model"] == str(onnx_file)


def test_verify_proves_an_export(intvit: Command, onnx_file: Path, integer_file: Path, images: Path) -> None:
    alone = intvit("verify", onnx_file, "--json")
    assert alone.code == 0, alone
    assert (alone.json["integer_only"], alone.json["overflow_free"], alone.json["bit_exact"]) == (True, None, None)
    both = intvit("verify", onnx_file, "--against", integer_file, "--data", images, "--limit", 4, "--json")
    assert both.code == 0, both
    assert (both.json["integer_only"], both.json["overflow_free"], both.json["bit_exact"]) == (True, True, True)
    assert both.json["digest"] == IntegerModel.load(integer_file).digest


def test_verify_finds_changed_weights(intvit: Command, onnx_file: Path, integer_file: Path, tmp_path: Path) -> None:
    proto = onnx.load(onnx_file)
    head = [node for node in proto.graph.node if node.op_type == "MatMulInteger"][-1]
    (weights,) = (tensor for tensor in proto.graph.initializer if tensor.name == head.input[1])
    weights.raw_data = bytes(byte ^ 64 for byte in weights.raw_data)
    onnx.save(proto, tmp_path / "m.onnx")
    done = intvit("verify", tmp_path / "m.onnx", "--against", integer_file, "--json")
    done.refused("bit_exact", "integers differ", code=4)
    assert (done.json["integer_only"], done.json["bit_exact"]) == (True, False)


def test_verify_finds_a_float(intvit: Command, onnx_file: Path, tmp_path: Path) -> None:
    proto = onnx.load(onnx_file)
    last = proto.graph.node[-1]
    source = last.input[0]
    nodes = [
        onnx.helper.make_node("Cast", [source], ["planted"], to=onnx.TensorProto.FLOAT, name="planted"),
        onnx.helper.make_node("Cast", ["planted"], ["back"], to=onnx.TensorProto.INT32),
    ]
    last.input[0] = "back"
    proto.graph.node.pop()
    proto.graph.node.extend([*nodes, last])
    onnx.save(proto, tmp_path / "m.onnx")
    intvit("verify", tmp_path / "m.onnx").refused("integer_only", "planted (Cast) gives planted: float", code=4)


def test_verify_wants_the_same_model(
    intvit: Command, onnx_file: Path, integer_file: Path, images: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.intvit"
    model = ("tiny:vit", "--size", "32", "--mean", "0.4", "--std", "0.25")
    assert intvit("quantize", *model, "--data", images, "--calib", 4, "-o", other).code == 0
    done = intvit("verify", onnx_file, "--against", other, "--json")
    done.refused("bit_exact", "was not exported from", code=4)
    assert done.json["overflow_free"] is None


def test_verify_says_what_qdq_is_not(intvit: Command, qdq_file: Path, integer_file: Path) -> None:
    done = intvit("verify", qdq_file, "--against", integer_file, "--json")
    done.refused("integer_only", "float", "bit_exact", "qdq", "by design", code=4)
    assert (done.json["integer_only"], done.json["bit_exact"]) == (False, False)


def test_verify_compares_floats(intvit: Command, integer_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    assert intvit("export", integer_file, "--output-type", "float32", "--batch", 2, "-o", path).code == 0
    done = intvit("verify", path, "--against", integer_file, "--json")
    assert done.code == 0, done
    assert (done.json["integer_only"], done.json["overflow_free"], done.json["bit_exact"]) == (True, True, True)
    proto = onnx.load(path)
    multiply = next(node for node in proto.graph.node if node.op_type == "Mul" and "logits_scale" in node.output[0])
    (scale,) = (tensor for tensor in proto.graph.initializer if tensor.name in multiply.input)
    value = onnx.numpy_helper.to_array(scale)
    scale.raw_data = np.nextafter(value, np.float32(1)).tobytes()  # the nearest other number
    onnx.save(proto, path)
    done = intvit("verify", path, "--against", integer_file, "--json")
    done.refused("bit_exact", "floats differ", code=4)
    assert (done.json["integer_only"], done.json["bit_exact"]) == (True, False)


def test_verify_finds_a_change_by_itself(intvit: Command, onnx_file: Path, tmp_path: Path) -> None:
    proto = onnx.load(onnx_file)
    weights = next(tensor for tensor in proto.graph.initializer if len(tensor.raw_data) > 1000)
    content = bytearray(weights.raw_data)
    content[500] ^= 1
    weights.raw_data = bytes(content)
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    done = intvit("verify", path, "--json")
    done.refused("m.onnx was changed after it was exported", code=4)
    assert (done.json["integer_only"], len(done.json["reasons"])) == (True, 1)
    assert intvit("inspect", path).code == 0


def test_verify_takes_a_file_that_was_written_again(intvit: Command, onnx_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save_model(onnx.load(onnx_file), path, save_as_external_data=True, location="m.data", convert_attribute=False)
    assert (tmp_path / "m.data").stat().st_size > 0
    done = intvit("verify", path)
    assert done.code == 0, done


def test_qdq_is_evaluated(intvit: Command, qdq_file: Path, images: Path) -> None:
    options = ("--data", images, "--labels", images.parent / "labels.csv", "--against", "tiny:vit")
    done = intvit("eval", qdq_file, *options, "--json")
    assert done.code == 0, done
    assert done.json["images"] == 12 and done.json["cosine"] > 0.99


def test_a_fixed_batch_is_evaluated(intvit: Command, integer_file: Path, images: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    assert intvit("export", integer_file, "--batch", 5, "-o", path).code == 0
    found, model = package.load(path), IntegerModel.load(integer_file)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), np.uint8)
    assert np.array_equal(found.integers(pixels)[0], model.integers(pixels)[0])
    done = intvit("eval", path, "--data", images, "--labels", images.parent / "labels.csv", "--batch", 3, "--json")
    assert done.json["images"] == 12


def test_bench_fills_a_fixed_batch(intvit: Command, integer_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    assert intvit("export", integer_file, "--batch", 3, "-o", path).code == 0
    done = intvit("bench", path, "--profile", "--batch", 1, "--rounds", 1, "--threads", 1, "--json")
    assert done.code == 0, done
    assert "MatMulInteger" in {kernel["name"] for kernel in done.json["kernels"]}


def test_bench_measures_an_export(intvit: Command, onnx_file: Path) -> None:
    options = ("--threads", 1, "--rounds", 1, "--profile", "--against", "torch-f32", "--model", "tiny:vit")
    done = intvit("bench", onnx_file, *options, "--json")
    assert done.code == 0, done
    assert done.json["target"] == "onnxruntime" and done.json["threads"] == 1
    assert [row["name"] for row in done.json["latency"]] == ["intvit", "torch-f32"]
    assert "MatMulInteger" in {kernel["name"] for kernel in done.json["kernels"]}
    assert sum(kernel["share"] for kernel in done.json["kernels"]) == pytest.approx(1)
    assert "profile integer in ONNX Runtime" in intvit("bench", onnx_file, "--rounds", 1).out


@pytest.mark.parametrize("command", ["compile", "export", "pack"])
def test_commands_that_take_no_export(command: str, intvit: Command, onnx_file: Path, tmp_path: Path) -> None:
    output = tmp_path / {"compile": "m.so", "export": "m.onnx", "pack": "folder"}[command]
    intvit(command, onnx_file, "-o", output).refused("takes a file that ends in")
    assert list(tmp_path.iterdir()) == []
