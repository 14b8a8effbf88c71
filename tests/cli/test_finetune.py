"""`intvit finetune`: what it prints and writes, alone and as one process of several; wrong input before any work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from intvit.integer_model import IntegerModel

Command = Callable[..., Any]
MODEL = ("tiny:small", "--size", "32", "--mean", "0.5", "--std", "0.25")
SHORT = ("--epochs", 2, "--batch", 6, "--calib", 4, "--learning-rate", "1e-3")


def test_a_model_and_its_losses(intvit: Command, images: Path, tmp_path: Path) -> None:
    path, labels, names = tmp_path / "m.intvit", images.parent / "labels.csv", images.parent / "names.txt"
    files = ("--labels", labels, "--class-names", names)
    done = intvit("finetune", *MODEL, "--data", images, *files, *SHORT, "--flip", "-o", path, "--json")
    assert done.code == 0, done
    result = done.json
    model = IntegerModel.load(path)
    assert result["written"] == str(path)
    assert result["digest"] == model.digest
    assert len(result["losses"]) == 2
    assert result["losses"][1] < result["losses"][0]
    assert model.metadata.labels == tuple(f"kind {i}, other" for i in range(10))
    assert model.metadata.name == "tiny:small"
    assert [file.name for file in tmp_path.iterdir()] == ["m.intvit"]


def test_without_labels_the_float_model_is_the_teacher(intvit: Command, images: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.intvit"
    done = intvit("finetune", *MODEL, "--data", images, "--epochs", 1, "--calib", 4, "-o", path)
    assert done.code == 0, done
    lines = done.out.splitlines()
    assert lines[0] == "intvit finetune"
    assert lines[-2].startswith("epoch 1: loss ")
    assert lines[-1] == str(path)
    assert path.is_file()


def test_a_process_that_is_not_the_first_says_and_writes_nothing(
    intvit: Command, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    done = intvit("finetune", *MODEL, "--data", images, *SHORT, "-o", tmp_path / "m.intvit")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", "missing"), ["missing", "no such folder"]),
        (("--data", "IMAGES", "-o", "m.so"), ["m.so", "must end in .intvit"]),
        (("--data", "IMAGES", "--labels", "no.csv"), ["no.csv", "no such file"]),
        (("--data", "IMAGES", "--labels", "few.csv"), ["few.csv", "no label for 11 of 12"]),
        (("--data", "IMAGES", "--learning-rate", "0"), ["learning rate 0", "above 0"]),
        (("--data", "IMAGES", "--distill", "2"), ["distill 2", "from 0 to 1"]),
        (("--data", "IMAGES", "--distill", "0.5"), ["distill 0.5", "needs labels"]),
        (("--data", "IMAGES", "--preset", "best"), ["best", "default"]),
        (("--data", "IMAGES", "--bits", "W40"), ["W40", "W4A8"]),
        (("--data", "IMAGES", "--codebook", "log"), ["'log'", "kmeans or tangent"]),
        (("--data", "IMAGES", "--bits", "mixed", "--budget", "0.2"), ["budget of 0.2 is too small", "or more"]),
        (("--data", "IMAGES", "--size", "big"), ["--size big", "HEIGHTxWIDTH"]),
    ],
)
def test_wrong_input_is_one_line(
    arguments: tuple[str, ...],
    words: list[str],
    intvit: Command,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.csv").write_text("file,class\n00.png,1\n")
    given = [str(images) if argument == "IMAGES" else argument for argument in arguments]
    output = () if "-o" in given else ("-o", "m.intvit")
    before = sorted(tmp_path.iterdir())
    intvit("finetune", *MODEL[:1], *(MODEL[1:] if "--size" not in given else ()), *given, *output).refused(*words)
    assert sorted(tmp_path.iterdir()) == before


def test_classes_that_the_model_does_not_have(intvit: Command, images: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("file,class\n" + "".join(f"{i:02d}.png,{i}\n" for i in range(12)))
    done = intvit("finetune", *MODEL, "--data", images, "--labels", labels, *SHORT, "-o", tmp_path / "m.intvit")
    done.refused("class 11", "0 to 9")
    assert [file.name for file in tmp_path.iterdir()] == ["labels.csv"]
