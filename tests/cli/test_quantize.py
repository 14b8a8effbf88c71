"""`intvit quantize`: the artifact holds what the options said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tiny

from intvit.integer_model import IntegerModel
from intvit.passes.pipeline import PASSES
from intvit.preprocess import Preprocessing

Command = Callable[..., Any]
MODEL = ("tiny:vit", "--size", "32", "--mean", "0.5", "--std", "0.25")


def test_arguments_first_and_the_path_last(intvit: Command, images: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.intvit"
    done = intvit("quantize", *MODEL, "--data", images, "--calib", 4, "-o", path)
    assert done.code == 0, done
    lines = done.out.splitlines()
    assert lines[0] == "intvit quantize"
    assert lines[1].split() == ["model", "tiny:vit"]
    for argument in (("--data", str(images)), ("--calib", "4"), ("--preset", "default"), ("--batch", "10")):
        assert argument in [tuple(line.split()) for line in lines]
    assert "least signal to noise" in lines[-2]
    assert lines[-1] == str(path)
    assert [file.name for file in tmp_path.iterdir()] == ["m.intvit"]


def test_metadata_is_what_was_asked_for(integer_file: Path) -> None:
    metadata = IntegerModel.load(integer_file).metadata
    assert metadata.name == "tiny:vit"
    assert metadata.preprocessing == Preprocessing(size=(32, 32), resize=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert metadata.labels == tuple(f"kind {i}, other" for i in range(10))


def test_every_preprocessing_option(intvit: Command, images: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.intvit"
    options = ("--resize", "36x34", "--crop", "center_floor", "--interpolation", "bilinear", "--mean", "0.1,0.2,0.3")
    done = intvit("quantize", *MODEL[:3], *options, "--data", images, "--calib", 2, "-o", path)
    assert done.code == 0, done
    expected = Preprocessing((32, 32), (36, 34), crop="center_floor", interpolation="bilinear", mean=(0.1, 0.2, 0.3))
    assert IntegerModel.load(path).metadata.preprocessing == expected


def test_json_is_one_object(intvit: Command, images: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.intvit"
    labels = images.parent / "labels.csv"
    done = intvit("quantize", *MODEL, "--data", images, "--labels", labels, "--calib", 5, "-o", path, "--json")
    assert done.code == 0, done
    result = done.json
    assert result["written"] == str(path)
    assert result["digest"] == IntegerModel.load(path).digest
    assert result["arguments"]["calib"] == 5
    assert 0 <= result["calibration_top1"] <= result["calibration_top5"] <= 100


def test_paper_and_observer(intvit: Command, images: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.intvit"
    common = ("quantize", *MODEL, "--data", images, "--calib", 2, "-o", path)
    assert intvit(*common, "--preset", "paper", "--observer", "percentile:0.999").code == 0
    assert IntegerModel.load(path).metadata.preset == "paper"


def test_mixed_bits_on_a_budget(intvit: Command, images: Path, tmp_path: Path) -> None:
    """What is inspected has 8 bits in the first and the last layer, and 4 or 8 in between."""
    path = tmp_path / "m.intvit"
    done = intvit("quantize", *MODEL, "--data", images, "--calib", 12, "--bits", "mixed", "--budget", 0.75, "-o", path)
    assert done.code == 0, done
    shown = intvit("inspect", path, "--json").json
    found = [layer["weight_bits"] for layer in shown["layers"] if layer["operation"] == "linear"]
    assert shown["bits"] == "mixed 0.75"
    assert found[0] == found[-1] == 8 and set(found) == {4, 8}
    lines = intvit("inspect", path).out.splitlines()
    assert any(line.split()[:4] == ["layer", "operation", "result", "scale"] and "weights" in line for line in lines)


def test_budgets_that_are_refused(intvit: Command, images: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.intvit"
    common = ("quantize", *MODEL, "--data", images, "-o", path)
    intvit(*common, "--bits", "mixed", "--budget", 0.5).refused("budget of 0.5 is too small", "give 0.605 or more")
    intvit(*common, "--bits", "mixed", "--budget", 70).refused("give a share")
    intvit(*common, "--bits", "W4A8", "--budget", 0.7).refused("not of W4A8")
    intvit(*common, "--preset", "paper", "--bits", "mixed").refused("as published")
    assert not path.exists()


def test_the_graph_after_every_pass(intvit: Command, images: Path, tmp_path: Path) -> None:
    path, dump = tmp_path / "m.intvit", tmp_path / "ir"
    done = intvit("quantize", *MODEL, "--data", images, "--calib", 2, "--dump-ir", dump, "-o", path)
    assert done.code == 0, done
    assert sorted(file.name for file in dump.iterdir()) == [f"{i:02d}-{p.name}.txt" for i, p in enumerate(PASSES)]


def test_one_pass_alone_says_what_is_left(intvit: Command, images: Path, tmp_path: Path) -> None:
    path, dump = tmp_path / "m.intvit", tmp_path / "ir"
    options = ("--passes", "lower-linear", "--dump-ir", dump, "-o", path)
    done = intvit("quantize", *MODEL, "--data", images, "--calib", 2, *options)
    done.refused("blocks.0.norm1", "layer_norm", "gelu", code=3)
    assert [file.name for file in dump.iterdir()] == ["00-lower-linear.txt"]
    assert not path.exists()


def test_arrays_need_no_preprocessing(intvit: Command, tmp_path: Path) -> None:
    data, path = tmp_path / "x.npy", tmp_path / "m.intvit"
    np.save(data, np.random.default_rng(0).standard_normal((4, *tiny.SHAPE)).astype(np.float32))
    done = intvit("quantize", "tiny:small", "--data", data, "--calib", 4, "-o", path)
    assert done.code == 0, done
    assert IntegerModel.load(path).metadata.preprocessing is None
    intvit("run", path, data.with_name("a.png")).refused("no preprocessing")
    done = intvit("eval", path, "--data", data, "--against", "tiny:small", "--json")
    assert done.code == 0, done
    assert done.json["images"] == 4 and done.json["cosine"] > 0.99 and done.json["top1"] is None


def test_passes_are_listed_in_order(intvit: Command) -> None:
    done = intvit("passes", "--json")
    assert [entry["name"] for entry in done.json["passes"]] == [step.name for step in PASSES]
    assert all(entry["summary"] for entry in done.json["passes"])
    assert intvit("passes").out.splitlines()[1].startswith(PASSES[0].name)
