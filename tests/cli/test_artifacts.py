"""`compile`, `run`, `eval`, `verify`, `inspect`, `demo`: what they print of an artifact."""

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from intvit.errors import VerifyError
from intvit.evaluation import cosines
from intvit.integer_model import IntegerModel
from intvit.seal import seal
from intvit.targets import TARGETS
from intvit.verify.machine import elf

Command = Callable[..., Any]
X86_64, ADDPS = 62, bytes.fromhex("0f58c1")


def test_compile_writes_a_module_of_the_same_digest(intvit: Command, integer_file: Path, module_file: Path) -> None:
    path = module_file.with_name("named.so")
    done = intvit("compile", integer_file, "--target", "x86-64-v3", "-o", path)
    assert done.code == 0, done
    assert done.out.splitlines()[0] == "intvit compile"
    assert done.out.splitlines()[-1] == str(path)
    found = intvit("inspect", path, "--json").json
    assert found["target"] == "x86-64-v3"
    assert found["digest"] == IntegerModel.load(integer_file).digest


@pytest.mark.parametrize("suffix", [".so", ".o"])
def test_compile_for_another_machine(suffix: str, intvit: Command, integer_file: Path, tmp_path: Path) -> None:
    """It is written and not loaded; what can be proved of its code is proved here."""
    target, processor = ("x86-64-v3", "x86_64") if platform.machine() == "aarch64" else ("aarch64", "aarch64")
    if shutil.which(f"{TARGETS[target].triple}-gcc") is None:
        pytest.skip(f"no C compiler for {target}")
    path = tmp_path / f"m{suffix}"
    done = intvit("compile", integer_file, "--target", target, "-o", path, "--json")
    assert done.code == 0, done
    assert list(tmp_path.iterdir()) == [path]
    assert elf.foreign_processor(path) == processor
    assert (done.json["target"], done.json["bytes"]) == (target, path.stat().st_size)
    assert done.json["digest"] == IntegerModel.load(integer_file).digest
    if suffix == ".so":
        verified = intvit("verify", path, "--json")
        assert verified.code == 0 and verified.json["integer_only"] is True and verified.json["bit_exact"] is None
        intvit("verify", path, "--against", integer_file).refused(f"compiled for {processor}", "compared there only")
        intvit("inspect", path).refused(f"compiled for {processor}, which this machine is not", "--target auto")


def test_compile_needs_a_compiler_and_space(
    intvit: Command, integer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("intvit.linking.shutil.disk_usage", lambda folder: SimpleNamespace(free=10**6))
    intvit("compile", integer_file, "-o", tmp_path / "m.so").refused(str(tmp_path), "the disk is full (1 MB are free")
    monkeypatch.setattr("intvit.linking.shutil.which", lambda name: None)
    target = "x86-64-v3" if platform.machine() == "riscv64" else "riscv64"
    done = intvit("compile", integer_file, "--target", target, "-o", tmp_path / "m.o")
    done.refused(f"no C compiler for {TARGETS[target].triple} found", "install")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["module_file", "integer_file", "onnx_file"])
def test_run_gives_the_likeliest_classes(
    kind: str, intvit: Command, images: Path, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(kind)
    done = intvit("run", path, images / "00.png", images / "03.png", "--json")
    assert done.code == 0, done
    model = IntegerModel.load(request.getfixturevalue("integer_file"))
    assert model.metadata.preprocessing is not None
    for entry, name in zip(done.json["images"], ("00.png", "03.png"), strict=True):
        logits = model(model.metadata.preprocessing.load(images / name)[None])[0]
        assert [row["class"] for row in entry["top"]] == np.argsort(-logits, kind="stable")[:5].tolist()
        assert entry["top"][0]["name"] == f"kind {logits.argmax()}, other"
        assert 0 < entry["top"][4]["probability"] <= entry["top"][0]["probability"] < 1
    text = intvit("run", path, images, "--top", 1).out
    assert text.count("kind ") == 12
    assert "%" in text


def test_a_module_needs_neither_torch_nor_the_compiler(module_file: Path, images: Path) -> None:
    main = "try:\n    main()\nfinally:\n    assert 'tvm' not in sys.modules"
    code = f"import sys\nsys.modules['torch'] = None\nfrom intvit.cli import main\n{main}"
    for arguments in (["run", module_file, images / "00.png"], ["inspect", module_file], ["verify", module_file]):
        command = [sys.executable, "-c", code, *map(str, arguments), "--json"]
        done = subprocess.run(command, cwd=module_file.parent, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["arguments"]["model"] == str(module_file)


@pytest.mark.parametrize("kind", ["module_file", "integer_file", "onnx_file"])
def test_eval_against_float(kind: str, intvit: Command, images: Path, request: pytest.FixtureRequest) -> None:
    path, labels = request.getfixturevalue(kind), images.parent / "labels.csv"
    options = ("--data", images, "--labels", labels, "--skip", 2, "--limit", 7, "--against", "tiny:vit", "--batch", 3)
    done = intvit("eval", path, *options, "--threads", 1, "--json")
    assert done.code == 0, done
    model = IntegerModel.load(request.getfixturevalue("integer_file"))
    assert model.metadata.preprocessing is not None
    pixels = np.stack([model.metadata.preprocessing.load(images / f"{i:02d}.png") for i in range(2, 9)])
    with torch.inference_mode():
        exact = tiny.vit()(torch.from_numpy(model.metadata.preprocessing.normalize(pixels))).numpy()
    logits, truth = model(pixels), np.arange(2, 9)
    assert done.json["images"] == 7
    assert done.json["top1"] == pytest.approx(100 * (logits.argmax(1) == truth).mean())
    assert done.json["float_top1"] == pytest.approx(100 * (exact.argmax(1) == truth).mean())
    assert done.json["agreement"] == pytest.approx(100 * (exact.argmax(1) == logits.argmax(1)).mean())
    assert done.json["cosine"] == pytest.approx(cosines(logits, exact).mean(), abs=1e-6)
    assert done.json["cosine"] > 0.99


def test_eval_prints_what_was_measured(intvit: Command, integer_file: Path, images: Path) -> None:
    done = intvit("eval", integer_file, "--data", images, "--labels", images.parent / "labels.csv")
    assert done.code == 0, done
    assert "top-1" in done.out and "top-5" in done.out and "resize 32 bicubic" in done.out
    assert "cosine" not in done.out


def test_verify_an_integer_model(intvit: Command, integer_file: Path, tmp_path: Path) -> None:
    done = intvit("verify", integer_file, "--json")
    assert done.code == 0, done
    outcomes = {name: done.json[name] for name in ("integer_only", "overflow_free", "bit_exact")}
    assert outcomes == {"integer_only": True, "overflow_free": True, "bit_exact": None}
    assert "not checked" in intvit("verify", integer_file).out


def test_verify_a_module(intvit: Command, integer_file: Path, module_file: Path, images: Path) -> None:
    alone = intvit("verify", module_file, "--json")
    assert alone.code == 0, alone
    assert (alone.json["integer_only"], alone.json["overflow_free"], alone.json["bit_exact"]) == (True, None, None)
    both = intvit("verify", module_file, "--against", integer_file, "--data", images, "--limit", 4, "--json")
    assert both.code == 0, both
    assert both.json["integer_only"] and both.json["overflow_free"] and both.json["bit_exact"]


def test_verify_refuses_the_module_of_another_model(intvit: Command, module_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.intvit"
    tiny.integer_model().save(other)
    done = intvit("verify", module_file, "--against", other, "--json")
    done.refused("was not compiled from", code=4)
    assert done.json["bit_exact"] is False
    assert done.json["overflow_free"] is None


def test_verify_finds_a_bit_that_was_flipped_in_a_module(
    intvit: Command, integer_file: Path, module_file: Path, tmp_path: Path
) -> None:
    graph = IntegerModel.load(integer_file).graph.module
    concat = next(n for n in graph.graph.nodes if "concat_tokens" in str(n.target))
    class_token = graph.get_buffer(str(concat.args[0].target)).numpy().tobytes()  # the kernel takes it as it is
    content = bytearray(module_file.read_bytes())
    assert content.count(class_token) == 1
    content[content.find(class_token) + 2 * 6 + 1] ^= 32
    (tmp_path / "m.so").write_bytes(content)
    seal(tmp_path / "m.so")
    done = intvit("verify", tmp_path / "m.so", "--against", integer_file, "--json")
    done.refused("1 proofs failed", "bit_exact: ", "integers differ at batch 1, the first in random image 0, ", code=4)
    assert (done.json["integer_only"], done.json["overflow_free"], done.json["bit_exact"]) == (True, True, False)


def test_verify_finds_a_bit_that_was_flipped_in_a_model(intvit: Command, integer_file: Path, tmp_path: Path) -> None:
    model = IntegerModel.load(integer_file)
    head = next(n for n in model.graph.module.graph.nodes if n.meta.get("path") == "head" and "linear" in str(n.target))
    model.graph.module.get_buffer(str(head.args[2].target))[6] ^= 1 << 12
    model.save(tmp_path / "twin.intvit")
    done = intvit("verify", tmp_path / "twin.intvit", "--against", integer_file, "--json")
    done.refused("bit_exact: 12 of 120 integers differ", "output 0, [6]", code=4)
    assert done.json["integer_only"] and done.json["overflow_free"] and done.json["bit_exact"] is False


def test_verify_finds_float_in_machine_code(intvit: Command, module_file: Path, tmp_path: Path) -> None:
    library = elf.read(module_file)
    section = max(library.code, key=lambda code: len(code.content))
    if library.machine != X86_64:
        pytest.skip("plants an instruction of x86-64")
    start = next(address for address, name in section.functions if name.startswith("__tvm_ffi_")) - section.address
    content = bytearray(module_file.read_bytes())
    place = content.find(section.content) + start
    content[place : place + len(ADDPS)] = ADDPS
    (tmp_path / "m.so").write_bytes(content)
    seal(tmp_path / "m.so")
    done = intvit("verify", tmp_path / "m.so", "--json")
    done.refused("integer_only", "__tvm_ffi_", "addps xmm0, xmm1 computes in floating point", code=4)
    assert done.json["integer_only"] is False


def test_verify_finds_weights_that_overflow(intvit: Command, integer_file: Path, tmp_path: Path) -> None:
    model = IntegerModel.load(integer_file)
    nodes = [n for n in model.graph.module.graph.nodes if n.meta.get("path") == "blocks.1.fc1"]
    linear = next(n for n in nodes if "linear" in str(n.target))
    bias = model.graph.module.get_buffer(str(linear.args[2].target))
    bias.copy_((bias.long() * 2**31 // bias.abs().max()).clamp(-(2**31), 2**31 - 1))
    model.save(tmp_path / "m.intvit")
    done = intvit("verify", tmp_path / "m.intvit", "--json")
    done.refused("overflow_free", "blocks.1.fc1: linear: accumulator can reach [", "beyond 32-bit", code=4)
    assert (done.json["integer_only"], done.json["overflow_free"]) == (True, False)
    intvit("compile", tmp_path / "m.intvit", "-o", tmp_path / "m.so").refused("blocks.1.fc1", "beyond 32-bit", code=4)
    assert not (tmp_path / "m.so").exists()


def test_verify_tells_which_proof_failed(
    intvit: Command, integer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs(*arguments: Any) -> None:
        raise VerifyError("1 of 80 integers differ:\n  image 0, class 3: 17 and 18")

    monkeypatch.setattr("intvit.verify.bit_exact.prove_bit_exact", differs)
    done = intvit("verify", integer_file, "--against", integer_file, "--json")
    done.refused("1 proofs failed", "bit_exact: 1 of 80", "image 0, class 3", code=4)
    assert done.json["bit_exact"] is False and done.json["overflow_free"] is True
    assert len(done.json["reasons"]) == 1
    assert "bit_exact      NO" in intvit("verify", integer_file, "--against", integer_file).out


@pytest.mark.parametrize("kind", ["module_file", "integer_file"])
def test_inspect_shows_every_layer(kind: str, intvit: Command, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(kind)
    done = intvit("inspect", path, "--json")
    assert done.code == 0, done
    head = next(row for row in done.json["layers"] if row["path"] == "head")
    assert head["operation"] == "linear" and head["dtype"] == "int32" and head["snr"] > 20
    assert (head["bits"] is None) == (kind == "module_file")
    text = intvit("inspect", path).out
    assert "blocks.1.fc2" in text and "SNR dB" in text and "uint8 [batch, 32, 32, 3]" in text
    assert max(map(len, text.splitlines())) <= 160


def test_a_copied_module_runs(intvit: Command, module_file: Path, images: Path, tmp_path: Path) -> None:
    shutil.copy(module_file, tmp_path / "copy.so")
    results = [intvit("run", path, images, "--json").json["images"] for path in (module_file, tmp_path / "copy.so")]
    assert results[0] == results[1]


def test_demo_prints_its_result(intvit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import intvit.demo as demo

    fields: dict[str, Any] = {name: 0 for name in demo.DemoResult.__dataclass_fields__}
    monkeypatch.setattr(demo, "run", lambda say: say("a line") or demo.DemoResult(**{**fields, "bit_exact": True}))
    assert intvit("demo").out == "intvit demo\na line\n"
    assert intvit("demo", "--json").json["bit_exact"] is True


def test_demo_ends_where_a_proof_fails(intvit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import intvit.demo as demo

    def differs(say: Callable[[str], None]) -> None:
        raise VerifyError("1 of 80 integers differ")

    monkeypatch.setattr(demo, "run", differs)
    done = intvit("demo", "--json")
    done.refused("1 of 80 integers differ", code=4)
    assert done.out == ""
