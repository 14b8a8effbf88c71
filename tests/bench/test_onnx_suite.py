"""`bench/onnx_suite.py` on a small model with random weights and generated images: every table, and equal integers."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image

from intvit.preprocess import Preprocessing

Script = Callable[[str], ModuleType]
CALIBRATED, SCORED = 4, 12
CLASSES = 10


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of images with labels for all but those that calibrate."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(CALIBRATED + SCORED):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 7, 3), np.uint8)
        Image.fromarray(coarse).resize((50, 40)).save(folder / f"{number:02}.png")
    rows = [f"{number:02}.png,{number % 5}" for number in range(CALIBRATED, CALIBRATED + SCORED)]
    (folder / "labels.csv").write_text("\n".join(["file,class", *rows]) + "\n")
    return folder


def small_model() -> tiny.TinyViT:
    """With a preprocessing, which the suite needs."""
    model = tiny.vit()
    model.preprocessing = Preprocessing(size=(32, 32), resize=36, mean=(0.5,) * 3, std=(0.25,) * 3)
    return model


def test_a_small_model(script: Script, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} not installed: pip install 'intvit[bench]'")
    suite, sides = script("onnx_suite"), script("onnx_sides")
    out = tmp_path / "out"
    out.mkdir()
    (out / "onnx.json").write_text(json.dumps([]))
    command = f"--data {data} --labels {data / 'labels.csv'} --calib {CALIBRATED} --limit {SCORED - 1} --resize 34"
    command += f" --rounds 1 --threads 1 --batches 1 2 --out {out}"
    monkeypatch.setattr(tiny, "small_model", small_model, raising=False)
    monkeypatch.setattr(sys, "argv", ["onnx_suite.py", "tiny:small_model", *command.split()])
    suite.main()
    (found,) = json.loads((out / "onnx.json").read_text())
    assert [part["batch"] for part in found["latency"]] == [1, 2]
    expected = expected_sides(sides)
    for part in (*found["latency"], found["scores"]):
        assert [row["name"] for row in part["rows"]] == expected
        assert {*expected, *part["skipped"]} == set(sides.SIDES)
    for part in found["latency"]:
        assert {(row["ours"], row["peer"]) for row in part["ratios"]} >= {("integer", "onnx-f32"), ("qdq", "onnx-int8")}
    check_scores({row["name"]: row for row in found["scores"]["rows"]}, found["scores"]["logits"])
    check_models(found)
    text = (out / "onnx.md").read_text()
    assert f"| `integer` in ONNX Runtime | {SCORED - 1} |" in text and f"| 0 of {(SCORED - 1) * CLASSES} |" in text
    assert "| MatMulInteger |" in text and "random; calibrated on 4 images" in text


def expected_sides(sides: ModuleType) -> list[str]:
    """Those whose packages are here, in order."""
    absent = [package for package in ("openvino", "nncf") if importlib.util.find_spec(package) is None]
    left_out = {sides.QDQ_OPENVINO} if "openvino" in absent else set()
    return [name for name in sides.SIDES if name not in left_out and not (absent and name == sides.OPENVINO)]


def check_scores(rows: dict[str, dict[str, Any]], logits: int) -> None:
    """Equal integers; floats that are the float model's; the others near it."""
    assert logits == (SCORED - 1) * CLASSES
    assert {name for name, row in rows.items() if row["differing"] == 0} == {"integer", "integer-portable"}
    assert all(row["images"] == SCORED - 1 for row in rows.values())
    assert rows["onnx-f32"]["agreement"] == 100 and rows["onnx-f32"]["top1"] == rows["onnx-f32"]["float_top1"]
    assert rows["onnx-f32"]["cosine"] > 0.99999
    assert min(row["cosine"] for row in rows.values()) > 0.99
    assert rows["integer"] == {**rows["integer-portable"], "name": "integer"}


def check_models(found: dict[str, Any]) -> None:
    """Operators of each kind, whose shares are a whole; sizes and seconds."""
    kinds = {name: {row["operator"] for row in rows} for name, rows in found["operators"].items()}
    assert list(kinds) == ["onnx-f32", "onnx-int8", "integer", "integer-portable", "qdq"]
    assert "MatMulInteger" in kinds["integer"] and "MatMulInteger" not in kinds["onnx-f32"]
    assert "LayerNormalization" in kinds["onnx-f32"] and "LayerNormalization" not in kinds["integer"]
    for rows in found["operators"].values():
        assert sum(row["share"] for row in rows) == pytest.approx(1)
    for row in found["sizes"]:
        assert row["of_weights"] == pytest.approx(row["bytes"] / found["weight_bytes"]) and row["of_weights"] > 1
        assert row["operators"] > 0 and row["load_seconds"] > 0
        assert (row["export_seconds"] is None) == row["name"].startswith("onnx-")


def test_tables_of_two_models_name_what_was_skipped(script: Script) -> None:
    from intvit.bench.machine import describe

    row = {"name": "onnx-f32", "median": 20.0, "p10": 19.0, "p90": 21.0}
    ratio = {"ours": "integer", "peer": "onnx-f32", "value": 1.5, "low": 1.4, "high": 1.6}
    part = {"batch": 1, "threads": 2, "rows": [row], "ratios": [ratio], "skipped": {"openvino-int8": "no nncf"}}
    found = {
        "model": "small",
        "machine": describe(),
        "weights": "random",
        "calibration": "16 random images",
        "weight_bytes": 1_000_000,
        "latency": [part, {**part, "batch": 8}],
        "operators": {
            "onnx-f32": [{"operator": "Gemm", "count": 4, "seconds": 0.001, "share": 1.0}],
            "integer": [
                {"operator": "MatMulInteger", "count": 4, "seconds": 0.002, "share": 0.8},
                {"operator": "Gemm", "count": 1, "seconds": 0.0005, "share": 0.2},
            ],
        },
        "sizes": [
            {"name": "integer", "bytes": 1_040_000, "of_weights": 1.04, "operators": 9}
            | {"export_seconds": 1.25, "load_seconds": 0.25}
        ],
        "scores": None,
    }
    lines = script("onnx_table").markdown([found, {**found, "model": "other"}]).splitlines()
    assert [line for line in lines if line.startswith("## ")] == ["## small", "## other"]
    assert lines.count("- OpenVINO int8 (NNCF): no nncf") == 2
    assert lines.count("| ONNX Runtime float32 | 20.00 (19.00 to 21.00) |") == 4
    assert "| `integer` in ONNX Runtime | ONNX Runtime float32 | 1.50 (1.40 to 1.60) |" in lines
    at = lines.index("| MatMulInteger |  | 4: 2000 (80.0 %) |")
    assert lines[at + 1 : at + 3] == ["| Gemm | 4: 1000 (100.0 %) | 1: 500 (20.0 %) |", "| all | 4: 1000 | 5: 2500 |"]
    assert "| `integer` in ONNX Runtime | 1.0 MB (1.04) | 9 | 1.2 s | 250 ms |" in lines
    assert "### Accuracy" not in lines
