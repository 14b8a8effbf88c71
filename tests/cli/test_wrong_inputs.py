"""Every wrong input ends in one line that says what to do, the right exit code, and no file."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from intvit import artifact

Command = Callable[..., Any]
MODEL = ("tiny:vit", "--size", "32", "--mean", "0.5", "--std", "0.25")

UNSUPPORTED = """
import tiny, torch

class Odd(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.vit = tiny.small()
        self.first, self.second = Cumulative(), Sine()

    def forward(self, image):
        logits = self.vit(image)
        return JOINED

class Cumulative(torch.nn.Module):
    def forward(self, x):
        return x.cumsum(1)

class Sine(torch.nn.Module):
    def forward(self, x):
        return x.sin()

def odd():
    return Odd()
"""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", "missing", "-o", "m.intvit"), ["missing", "no such folder"]),
        (("--data", "missing.npy", "-o", "m.intvit"), ["missing.npy", "no such file"]),
        (("--data", "empty", "-o", "m.intvit"), ["empty", "give one with"]),
        (("--data", "texts", "-o", "m.intvit"), ["texts", "1 files but no images"]),
        (("--data", "IMAGES", "-o", "m.so"), ["m.so", "must end in .intvit", "-o m.intvit"]),
        (("--data", "IMAGES", "-o", "nowhere/m.intvit"), ["nowhere", "does not exist"]),
        (("--data", "IMAGES", "-o", "folder.intvit"), ["is a folder"]),
        (("--data", "IMAGES", "-o", "m.intvit", "--labels", "no.csv"), ["no.csv", "no such file"]),
        (("--data", "IMAGES", "-o", "m.intvit", "--labels", "few.csv"), ["few.csv", "no label for 11 of 12"]),
        (("--data", "IMAGES", "-o", "m.intvit", "--class-names", "no.txt"), ["no.txt", "no such file"]),
        (("--data", "IMAGES", "-o", "m.intvit", "--class-names", "empty.txt"), ["empty.txt", "is empty"]),
        (("--data", "IMAGES", "-o", "m.intvit", "--dump-ir", "few.csv"), ["few.csv", "give a folder"]),
        (("--data", "IMAGES", "-o", "m.intvit", "--resize", "big"), ["--resize big", "HEIGHTxWIDTH"]),
        (("--data", "IMAGES", "-o", "m.intvit", "--std", "a,b"), ["--std a,b", "0.485,0.456,0.406"]),
    ],
)
def test_refused_before_the_model_is_loaded(
    arguments: tuple[str, ...],
    words: list[str],
    intvit: Command,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "texts", "folder.intvit"):
        Path(folder).mkdir()
    Path("texts", "a.txt").touch()
    Path("empty.txt").touch()
    Path("few.csv").write_text("00.png,1\n")
    before = sorted(tmp_path.rglob("*"))
    done = intvit("quantize", "no.such.module:model", *(str(images) if a == "IMAGES" else a for a in arguments))
    done.refused(*words)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("model", "more", "words"),
    [
        ("deit", (), ["not a model's name", "timm:MODEL"]),
        ("tiny:vot", (), ["no function vot", "tiny:vit"]),
        ("tiny:vit", ("--weights", "no.safetensors"), ["no.safetensors", "no such file"]),
        ("tiny:vit", (), ["preprocessing is not known", "--size"]),
        ("tiny:vit", ("--size", "32", "--crop", "left"), ["crop='left'", "center"]),
        ("tiny:vit", ("--size", "32", "--mean", "0.5,0.5"), ["2 means and 3 stds"]),
        ("tiny:vit", ("--size", "32", "--preset", "best"), ["'best'", "default, accurate or paper"]),
        ("tiny:vit", ("--size", "32", "--bits", "W1A1"), ["'W1A1'", "W4A8"]),
        ("tiny:vit", ("--size", "32", "--bits", "W4A8", "--preset", "paper"), ["as published"]),
        ("tiny:vit", ("--size", "32", "--observer", "median"), ["'median'", "minmax"]),
        ("tiny:vit", ("--size", "32", "--codebook", "log"), ["'log'", "kmeans or tangent"]),
        ("tiny:vit", ("--size", "32", "--passes", "lower-liner"), ["'lower-liner'", "did you mean lower-linear?"]),
        ("tiny:vit", ("--size", "32", "--class-names", "two.txt"), ["2 class names", "10 classes"]),
    ],
)
def test_wrong_models_and_options(
    model: str, more: tuple[str, ...], words: list[str], intvit: Command, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "two.txt").write_text("a\nb\n")
    paths = [str(tmp_path / word) if word.endswith((".txt", ".safetensors")) else word for word in more]
    path = tmp_path / "m.intvit"
    intvit("quantize", model, "--data", images, "--calib", 2, *paths, "-o", path).refused(*words)
    assert [file.name for file in tmp_path.iterdir()] == ["two.txt"]


def test_a_checkpoint_that_does_not_fit(intvit: Command, images: Path, tmp_path: Path) -> None:
    save_file({"head.weight": torch.zeros(3, 32), "extra": torch.zeros(1)}, tmp_path / "w.safetensors")
    options = ("--data", images, "--weights", tmp_path / "w.safetensors", "-o", tmp_path / "m.intvit")
    intvit("quantize", *MODEL, *options).refused("head.weight", "extra", "blocks.0.qkv.weight")


def test_a_corrupt_picture_is_named(intvit: Command, images: Path, integer_file: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    path = tmp_path / "m.intvit"
    intvit("quantize", *MODEL, "--data", tmp_path, "-o", path).refused("cut.jpg", "remove or replace it")
    intvit("run", integer_file, tmp_path / "cut.jpg").refused("cut.jpg", "remove or replace it")
    intvit("eval", integer_file, "--data", tmp_path, "--against", "tiny:vit").refused("cut.jpg")
    assert not path.exists()


@pytest.mark.parametrize(
    "joined",
    ["self.first(logits) + self.second(logits)", "self.second(self.first(logits))"],
)
def test_every_unsupported_operation_is_listed(
    joined: str, intvit: Command, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "odd_model", raising=False)
    (tmp_path / "odd_model.py").write_text(UNSUPPORTED.replace("JOINED", joined))
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "m.intvit"
    done = intvit("quantize", "odd_model:odd", *MODEL[1:], "--data", images, "--calib", 2, "-o", path)
    done.refused("first", "cumsum", "second", "sin", code=3)
    assert not path.exists()


@pytest.mark.parametrize("command", ["compile", "export", "run", "eval", "verify", "inspect"])
@pytest.mark.parametrize(
    "name",
    [
        *("missing.intvit", "damaged.intvit", "weights.safetensors"),
        *("missing.so", "damaged.so", "missing.onnx", "damaged.onnx"),
    ],
)
def test_wrong_artifacts(
    command: str, name: str, intvit: Command, integer_file: Path, images: Path, tmp_path: Path
) -> None:
    content = bytearray(integer_file.read_bytes())
    content[-10] ^= 1
    (tmp_path / "damaged.intvit").write_bytes(content)
    (tmp_path / "damaged.so").write_bytes(b"\x7fELF no library")
    (tmp_path / "damaged.onnx").write_bytes(b"no ONNX model" * 9)
    save_file({"weight": torch.zeros(2)}, tmp_path / "weights.safetensors")
    if name == "damaged.onnx" or command == "export":
        for package in ("onnx", "onnxruntime"):
            pytest.importorskip(package, reason=f"{package} is not installed: pip install 'intvit[onnx]'")
    more = {
        "compile": ("-o", tmp_path / "out.so"),
        "export": ("-o", tmp_path / "out.onnx"),
        "run": (images / "00.png",),
        "eval": ("--data", images, "--labels", images.parent / "labels.csv"),
    }
    done = intvit(command, tmp_path / name, *more.get(command, ()))
    if command in ("compile", "export") and name.endswith((".so", ".onnx")):
        done.refused(name, "ends in .intvit")
    else:
        hint = {"mis": "no such file", "dam": "damaged", "wei": "ends in"}[name[:3]]
        done.refused(name, hint)
    assert not list(tmp_path.glob("out.*"))


def test_compile_refuses_targets_and_suffixes(intvit: Command, integer_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.so"
    intvit("compile", integer_file, "--target", "x86-64-v5", "-o", path).refused("'x86-64-v5'", "x86-64-v4")
    intvit("compile", integer_file, "-o", path.with_suffix(".onnx")).refused("must end in .so", "-o m.so")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["--labels CSV", "--against MODEL"]),
        (("--labels", "LABELS", "--weights", "w.pth"), ["--against"]),
        (("--labels", "LABELS", "--skip", "12"), ["lower --skip"]),
        (("--labels", "WRONG"), ["class 10", "0 to 9"]),
        (("--labels", "LABELS", "--threads", "9999"), ["threads must be 1 to"]),
        (("--against", "intvit.demo.model:digits"), ["the float model does not take images [10, 3, 32, 32]"]),
    ],
)
def test_eval_refuses(
    arguments: tuple[str, ...], words: list[str], intvit: Command, images: Path, module_file: Path, tmp_path: Path
) -> None:
    names = {"LABELS": str(images.parent / "labels.csv"), "WRONG": str(tmp_path / "wrong.csv")}
    (tmp_path / "wrong.csv").write_text("".join(f"{i:02d}.png,10\n" for i in range(12)))
    intvit("eval", module_file, "--data", images, *(names.get(a, a) for a in arguments)).refused(*words)


def planted(file: Path, path: Path, change: Callable[[dict[str, str], dict[str, torch.Tensor]], None]) -> None:
    """A copy of an integer model with a change, and with the digest that fits."""
    header, tensors = artifact._read(file)
    change(header, tensors)
    save_file(tensors, path, metadata={**header, "digest": artifact.digest(header, tensors)})


def test_verify_refuses_a_model_that_overflows(intvit: Command, integer_file: Path, tmp_path: Path) -> None:
    def overflow(header: dict[str, str], tensors: dict[str, torch.Tensor]) -> None:
        head = next(node for node in json.loads(header["graph"]) if node["path"] == "head")
        bias = head["args"][2]["tensor"]
        tensors[bias] = torch.full_like(tensors[bias], 2**31 - 1)

    path = tmp_path / "m.intvit"
    planted(integer_file, path, overflow)
    done = intvit("verify", path, "--json")
    done.refused("overflow_free", "head: linear: accumulator can reach", code=4)
    assert done.json["overflow_free"] is False and done.json["integer_only"] is True
    assert done.json["reasons"]
    intvit("compile", path, "-o", tmp_path / "m.so").refused("head", code=4)


def test_verify_refuses_a_model_with_float_in_it(intvit: Command, integer_file: Path, tmp_path: Path) -> None:
    def float_weights(header: dict[str, str], tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name, tensor in tensors.items() if tensor.dtype == torch.int8)
        tensors[name] = tensors[name].float()

    path = tmp_path / "m.intvit"
    planted(integer_file, path, float_weights)
    done = intvit("verify", path, "--json")
    done.refused("integer_only", code=4)
    assert done.json["integer_only"] is False
    assert intvit("inspect", path).code == 0


def test_verify_refuses_useless_options(intvit: Command, integer_file: Path, images: Path) -> None:
    intvit("verify", integer_file, "--data", images).refused("--against m.intvit")
    intvit("verify", integer_file, "--against", images).refused("ends in .intvit")


def test_arrays_of_the_wrong_kind(intvit: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 32, 32, 3), np.uint8))
    path = tmp_path / "m.intvit"
    intvit("quantize", "tiny:vit", "--data", tmp_path / "x.npy", "-o", path).refused("x.npy", "float32")
    np.save(tmp_path / "x.npy", np.full((2, 3, 32, 32), np.nan, np.float32))
    intvit("quantize", "tiny:vit", "--data", tmp_path / "x.npy", "-o", path).refused("x.npy", "NaN")
