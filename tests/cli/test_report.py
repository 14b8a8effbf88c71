"""`intvit report`: a page about a model, what is printed beside it, and what it refuses."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


def data_of(page: Path) -> dict[str, Any]:
    """The data in a page."""
    found = re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    loaded: dict[str, Any] = json.loads(found[1])
    return loaded


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "report.html"


def test_everything(intvit: Command, integer_file: Path, module_file: Path, images: Path, page: Path) -> None:
    labels = images.parent / "labels.csv"
    options = ("--data", images, "--labels", labels, "--skip", 2, "--limit", 7, "--against", "tiny:vit", "--batch", 3)
    done = intvit("report", integer_file, *options, "--module", module_file, "--worst", 3, "-o", page)
    assert done.code == 0, done
    lines = done.out.splitlines()
    assert lines[0] == "intvit report" and lines[-1] == str(page)
    assert any(line.startswith("top-1 ") for line in lines) and any(line.startswith("agreement ") for line in lines)
    data = data_of(page)
    measured = intvit("eval", module_file, *options, "--json").json
    assert data["accuracy"]["images"] == measured["images"] == 7
    for mine, theirs in (("top1", "top1"), ("float_top5", "float_top5"), ("agreement", "agreement")):
        assert 100 * data["accuracy"][mine]["value"] == pytest.approx(measured[theirs])
    assert data["accuracy"]["cosine"]["value"] == pytest.approx(measured["cosine"])
    assert [row["label"]["index"] for row in data["worst"]] == [int(row["name"][:2]) % 10 for row in data["worst"]]
    assert data["worst"][0]["ours"]["name"].startswith("kind ")
    assert (len(data["worst"]), data["tensorImages"], data["effectImages"]) == (3, 7, 1)
    assert data["latency"]["steps"] and data["layers"]
    assert data["settings"]["against"] == "tiny:vit"


def test_the_module_changes_no_figure(
    intvit: Command, integer_file: Path, module_file: Path, images: Path, tmp_path: Path
) -> None:
    pages = [tmp_path / "one.html", tmp_path / "two.html"]
    for page, options in zip(pages, ((), ("--module", module_file)), strict=True):
        arguments = ("--data", images, "--against", "tiny:vit", "--sensitivity", 0, *options)
        assert intvit("report", integer_file, *arguments, "-o", page).code == 0
    one, two = map(data_of, pages)
    for part in ("accuracy", "cosines", "worst", "layers", "tensors", "digest"):
        assert one[part] == two[part]
    assert one["latency"] is None and two["latency"] is not None


def test_json(intvit: Command, integer_file: Path, images: Path, page: Path) -> None:
    done = intvit("report", integer_file, "--data", images, "--limit", 2, "--sensitivity", 0, "-o", page, "--json")
    found = done.json
    assert found["written"] == str(page)
    assert found["bytes"] == page.stat().st_size < 5_000_000
    assert (found["images"], found["top1"], found["agreement"]) == (2, None, None)
    assert found["arguments"]["limit"] == 2
    assert data_of(page)["effects"] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--data", "missing"), ["missing", "no such folder"]),
        (("--data", "IMAGES", "--labels", "no.csv"), ["no.csv", "no such file"]),
        (("--data", "IMAGES", "--labels", "few.csv"), ["few.csv", "no label for 11 of 12"]),
        (("--data", "IMAGES", "--skip", "12"), ["nothing is left after skipping 12"]),
        (("--data", "IMAGES", "--weights", "w.safetensors"), ["--weights", "--against"]),
        (("--data", "IMAGES", "--against", "tiny:nothing"), ["tiny:nothing"]),
        (("--data", "IMAGES", "--module", "m.onnx"), ["m.onnx", ".so"]),
        (("--data", "IMAGES", "--module", "no.so"), ["no.so", "no such file"]),
        (("--data", "IMAGES", "-o", "report.pdf"), ["report.pdf", "must end in .html"]),
        (("--data", "IMAGES", "-o", "nowhere/report.html"), ["nowhere", "does not exist"]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_refusals(
    intvit: Command,
    integer_file: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.csv").write_text("00.png,1\n")
    before = sorted(tmp_path.iterdir())
    arguments = [images if option == "IMAGES" else option for option in options]
    output = () if "-o" in options else ("-o", "report.html")
    intvit("report", integer_file, *arguments, *output).refused(*words)
    assert sorted(tmp_path.iterdir()) == before


def test_a_module_of_another_model(
    intvit: Command, integer_file: Path, module_file: Path, images: Path, page: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.intvit"
    quantized = (
        "tiny:vit",
        "--size",
        "32",
        "--mean",
        "0.4",
        "--std",
        "0.3",
        "--data",
        images,
        "--calib",
        4,
        "-o",
        other,
    )
    assert intvit("quantize", *quantized).code == 0
    refused = intvit("report", other, "--data", images, "--module", module_file, "-o", page)
    refused.refused("compiled from another model")
    assert not page.exists()


def test_other_artifacts_are_refused(intvit: Command, module_file: Path, images: Path, page: Path) -> None:
    intvit("report", module_file, "--data", images, "-o", page).refused(".intvit")
    assert not page.exists()
