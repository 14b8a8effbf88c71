"""`intvit bench`: latency of a module, its peers and its kernels; what it refuses."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from intvit.cli.bench import float_model_of
from intvit.metadata import Metadata

Command = Callable[..., Any]
ROW = {"name", "median", "p10", "p90", "calls", "images_per_second", "ratio"}
KERNEL = {"name", "layer", "calls", "multiply_adds", "seconds", "share", "rate"}


def test_the_module_alone(intvit: Command, module_file: Path) -> None:
    done = intvit("bench", module_file, "--batch", 3, "--threads", 1, "--rounds", 2, "--json")
    assert done.code == 0, done
    found = done.json
    assert found.keys() == {
        *("arguments", "digest", "target", "threads", "machine", "float_model", "latency", "kernels")
    }
    assert (found["arguments"]["batch"], found["threads"]) == (3, 1)
    assert found["machine"]["cores"] >= 1
    assert found["float_model"] is None and found["kernels"] is None
    (row,) = found["latency"]
    assert row.keys() == ROW
    assert (row["name"], row["calls"], row["ratio"]) == ("intvit", 20, None)
    assert 0 < row["p10"] <= row["median"] <= row["p90"]
    assert row["images_per_second"] == pytest.approx(3000 / row["median"])


def test_against_torch_with_a_profile(intvit: Command, module_file: Path) -> None:
    options = ("--against", "torch", "--model", "tiny:vit", "--threads", 1, "--rounds", 2, "--profile")
    done = intvit("bench", module_file, *options, "--json")
    assert done.code == 0, done
    assert [row["name"] for row in done.json["latency"]] == ["intvit", "torch-f32", "torch-bf16"]
    for row in done.json["latency"][1:]:
        assert 0 < row["ratio"]["low"] <= row["ratio"]["high"]
    assert done.json["float_model"] == {"name": "tiny:vit", "weights": None}
    kernels = done.json["kernels"]
    assert all(kernel.keys() == KERNEL for kernel in kernels)
    assert sum(kernel["share"] for kernel in kernels) == pytest.approx(1)
    assert {kernel["name"] for kernel in kernels if kernel["multiply_adds"]} == {"product", "attention"}
    text = intvit("bench", module_file, *options).out
    assert "peers run tiny:vit" in text
    assert "torch-bf16" in text and "blocks.*" in text and "layernorm" in text


@pytest.mark.parametrize("peer", ["onnx-int8", "openvino-f32"])
def test_json_is_all_that_is_printed(peer: str, intvit: Command, module_file: Path) -> None:
    for package in ("onnx", peer.partition("-")[0].replace("onnx", "onnxruntime")):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} not installed: pip install 'intvit[bench]'")
    options = ("--against", peer, "--model", "tiny:vit", "--threads", 1, "--rounds", 1)
    done = intvit("bench", module_file, *options, "--json")
    assert done.code == 0, done
    assert [row["name"] for row in done.json["latency"]] == ["intvit", peer]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--against", "openvin"), ["unknown peer 'openvin'", "did you mean openvino?"]),
        (("--model", "tiny:vit"), ["--model and --weights are for peers", "--against"]),
        (("--weights", "random"), ["--model and --weights are for peers", "--against"]),
        (("--against", "torch"), ["made from 'tiny:vit'", "--model"]),
        (("--against", "torch", "--model", "tiny"), ["tiny: not a model's name"]),
        (("--against", "torch", "--model", "tiny:vit", "--weights", "no.pt"), ["no.pt: no such file"]),
        (("--against", "torch-f32", "--model", "intvit.demo.model:digits"), ["torch-f32 cannot run here"]),
        (("--threads", "1000"), ["threads must be 1 to"]),
    ],
)
def test_refused(arguments: tuple[str, ...], words: list[str], intvit: Command, module_file: Path) -> None:
    intvit("bench", module_file, "--rounds", 1, *arguments).refused(*words)


def test_a_missing_package(intvit: Command, module_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = intvit("bench", module_file, "--against", "onnx", "--model", "tiny:vit", "--rounds", 1)
    done.refused("onnx-f32 needs the package onnxruntime: pip install 'intvit[bench]'")


def test_only_modules_are_timed(intvit: Command, integer_file: Path, tmp_path: Path) -> None:
    intvit("bench", integer_file).refused("this command takes a file that ends in .so")
    intvit("bench", tmp_path / "missing.so").refused("missing.so: no such file")


@pytest.mark.parametrize("wrong", [("--batch", "0"), ("--rounds", "0"), ("--threads", "none")])
def test_wrong_numbers(wrong: tuple[str, str], intvit: Command, module_file: Path) -> None:
    done = intvit("bench", module_file, *wrong)
    assert done.code == 2
    assert wrong[0] in done.err


def test_weights_of_a_library_are_random_where_none_are_given() -> None:
    deit = "timm:deit_tiny_patch16_224"
    metadata = Metadata(deit, "default", "0", tiny.GRID, (1.0,), ((10,),))
    assert float_model_of(metadata, None, None) == (deit, "random")
    assert float_model_of(metadata, None, "w.pt") == (deit, "w.pt")
    assert float_model_of(metadata, "hf:folder", None) == ("hf:folder", None)
    assert float_model_of(metadata, "tiny:vit", None) == ("tiny:vit", None)
