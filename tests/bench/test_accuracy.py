"""`bench/accuracy.py` on the tiny model: rows, what they cost, what is kept and continued, and faults of the input."""

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

Script = Callable[[str], ModuleType]
CALIBRATED, SCORED = 4, 12
SUBJECT = f"""
import importlib.util, sys
if "tiny" not in sys.modules:
    spec = importlib.util.spec_from_file_location("tiny", {str(Path(tiny.__file__))!r})
    sys.modules["tiny"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["tiny"])
import tiny
from intvit.preprocess import Preprocessing

def model():
    module = tiny.vit()
    module.preprocessing = Preprocessing(size=(32, 32), resize=36, mean=(0.5,) * 3, std=(0.25,) * 3)
    return module
"""
CHILD = """
import json, os, sys
form, setting, _, out = sys.argv[1:]
with open("calls", "a") as calls:
    calls.write(form + "\\n")
if form == "ort":
    print("a warning", "no such operator", sep="\\n", file=sys.stderr)
    sys.exit(1)
if form == "openvino":
    os.abort()
if form == "paper":
    print("labels.csv: class 10, but the model has the classes 0 to 9", file=sys.stderr)
    sys.exit(2)
share = {"value": 0.5, "low": 0.25, "high": 0.75}
paired = {"difference": {"value": -0.0125, "low": -0.025, "high": 0.005}, "p_value": 0.0001}
accuracy = {"top1": share, "paired_top1": paired, "agreement": share, "cosine": share}
made = None if form == "float32" else {"seconds": 100.5, "before": 0, "peak": 1 << 30}
json.dump({"bytes": 5_000_000, "calibration": made, "accuracy": accuracy}, open(out, "w"))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with images, labels of those that are scored, and a model as `subject:model`."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(CALIBRATED + SCORED):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 7, 3), np.uint8)
        Image.fromarray(coarse).resize((50, 40)).save(images / f"{number:02}.png")
    rows = [f"{number:02}.png,{number % 5}" for number in range(CALIBRATED, CALIBRATED + SCORED)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,class", *rows]) + "\n")
    (tmp_path / "subject.py").write_text(SUBJECT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(script: Script, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """The script on a command line, after the model and its images."""

    def call(arguments: str, given: str = f"subject:model --data images --calib {CALIBRATED}") -> None:
        command = f"{given} --labels labels.csv --threads 1 --out out {arguments}"
        monkeypatch.setattr(sys, "argv", ["accuracy.py", *command.split()])
        script("accuracy").main()

    return call


@pytest.fixture
def quick(script: Script, here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Processes that measure nothing; `calls` has their forms."""
    child = here / "child.py"
    child.write_text(CHILD)
    monkeypatch.setattr(script("accuracy"), "CHILD", child)
    return here / "calls"


def rows(here: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((here / "out" / "accuracy.json").read_text())
    return found


def subject_of(script: Script) -> Any:
    setting = script("accuracy_forms").Setting(
        "subject:model", None, "images", "labels.csv", CALIBRATED, CALIBRATED, SCORED - 1, 34, 1
    )
    return script("accuracy_row").Subject.of(setting)


def test_a_row_by_a_process_of_its_own(run: Callable[[str], None], here: Path) -> None:
    run("--forms float32 --images 11 --resize 34")
    (row,) = rows(here)
    found = row["accuracy"]
    assert found["images"] == 11 and found["agreement"]["value"] == 1 and found["top1"] == found["float_top1"]
    assert row["bytes"] == sum(parameter.nbytes for parameter in tiny.vit().parameters())
    assert row["protocol"]["skip"] == CALIBRATED and row["protocol"]["resize"] == 34
    text = (here / "out" / "accuracy.md").read_text()
    assert "images 0 to 3 of images calibrate, 4 to 14 are scored" in text
    assert "--calib 4 --skip 4 --images 11 --resize 34" in text


def test_ours_and_what_it_costs(script: Script, here: Path) -> None:
    from intvit import quantize

    subject = subject_of(script)
    row = script("accuracy_row").row(subject, script("accuracy_forms").FORMS["paper"])
    assert "reason" not in row
    assert row["calibration"]["seconds"] > 0 and row["calibration"]["peak"] >= row["calibration"]["before"] > 1 << 20
    model = quantize(subject.module, "images", calib=CALIBRATED, preprocessing=subject.preprocessing, preset="paper")
    hits, alike = [], []
    for batch, labels in subject.scored():
        outputs, exact = model(batch.values), subject.exact(batch)
        hits += list(outputs.argmax(1) == labels)
        alike += list(outputs.argmax(1) == exact.argmax(1))
    assert row["accuracy"]["top1"]["value"] == pytest.approx(np.mean(hits))
    assert row["accuracy"]["agreement"]["value"] == pytest.approx(np.mean(alike))
    assert row["accuracy"]["cosine"]["value"] > 0.9


@pytest.mark.parametrize(("form", "packages"), [("ort", ("onnxruntime",)), ("openvino", ("openvino", "nncf"))])
def test_another_runtime(form: str, packages: tuple[str, ...], script: Script, here: Path) -> None:
    missing = [package for package in ("onnx", *packages) if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install 'intvit[bench]'")
    row = script("accuracy_row").row(subject_of(script), script("accuracy_forms").FORMS[form])
    assert row["accuracy"]["images"] == SCORED - 1 and row["accuracy"]["cosine"]["value"] > 0.95
    assert row["bytes"] > 10_000 and row["calibration"]["seconds"] > 0


def test_a_missing_runtime_is_the_reason(script: Script, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of(script)
    monkeypatch.setitem(sys.modules, "onnx", None)
    row = script("accuracy_row").row(subject, script("accuracy_forms").FORMS["ort"])
    assert row == {"reason": "onnx-int8 needs the package onnx: pip install 'intvit[bench]'"}


def test_failures_leave_the_others(run: Callable[[str], None], quick: Path, here: Path) -> None:
    with pytest.raises(SystemExit, match="no figures for ort, openvino: see the reasons"):
        run("--forms ort openvino W4A4 float32 W4A4")
    assert quick.read_text().split() == ["ort", "openvino", "W4A4", "float32"]
    reasons = {row["form"]: row.get("reason") for row in rows(here)}
    assert reasons == {
        "ort": "exit code 1: no such operator",
        "openvino": "ended by SIGABRT",
        "W4A4": None,
        "float32": None,
    }
    lines = (here / "out" / "accuracy.md").read_text().splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.startswith("| form |")]
    assert lines[at + 2 : at + 5] == [
        "| float32 | 50.00 |  |  | 50.00 | 0.5000 | 5.0 MB |  |  |",
        "| W4A4 | 50.00 | -1.25 (-2.50 to +0.50) | < 0.001 | 50.00 | 0.5000 | 5.0 MB | 100 s | 1.00 GiB |",
        "",
    ]
    assert "- ONNX Runtime int8 (QDQ): exit code 1: no such operator" in lines


def test_continue_leaves_out_what_has_figures(run: Callable[[str], None], quick: Path, here: Path) -> None:
    run("--forms W8A8 W4A8")
    with pytest.raises(SystemExit, match="ort"):
        run("--forms ort")
    quick.unlink()
    with pytest.raises(SystemExit, match="ort"):
        run("--forms W8A8 W4A8 W6A6 ort --continue")
    assert quick.read_text().split() == ["W6A6", "ort"]
    run("--forms W8A8 --images 5 --continue")
    assert quick.read_text().split() == ["W6A6", "ort", "W8A8"]
    assert [(row["form"], row["protocol"]["images"]) for row in rows(here)] == [
        *(("W8A8", SCORED), ("W4A8", SCORED), ("W6A6", SCORED), ("ort", SCORED)),
        ("W8A8", 5),
    ]
    assert (here / "out" / "accuracy.md").read_text().count("## model") == 2


def test_the_time_of_a_form_is_limited(run: Callable[[str], None], quick: Path, here: Path) -> None:
    (here / "child.py").write_text("import time; time.sleep(60)")
    with pytest.raises(SystemExit, match="no figures for W8A8"):
        run("--forms W8A8 --timeout 0.2")
    assert rows(here)[0]["reason"] == "not done after 0.2 s"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--forms W9A9", "argument --forms: invalid choice: 'W9A9'"),
        ("--calib 0", "argument --calib: '0' is not a number from 1"),
        ("--skip 3", "--skip 3: the 4 images of --calib would be scored too"),
        ("--skip 16", "images: nothing is left after skipping 16 images; lower --skip"),
        ("--skip 17", "images: nothing is left after skipping 17 images; lower --skip"),
        ("--data nowhere", "nowhere: no such folder"),
        ("--data labels.csv", "labels.csv: not an image"),
        ("--data images/05.png", "images/05.png: "),
        ("--labels images", "images: cannot be read as CSV"),
        ("--labels few.csv", "few.csv: no label for 11 of 12 images"),
        ("--out labels.csv", "labels.csv: labels.csv is a file; give a folder"),
        ("--forms paper", "labels.csv: class 10, but the model has the classes 0 to 9"),
    ],
)
def test_input_at_fault_is_one_line(
    arguments: str, said: str, run: Callable[[str], None], quick: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "few.csv").write_text("05.png,1\n")
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.endswith(" ...")]
    assert ended.value.code == 2 and len(lines) == 1 and lines[0].startswith(f"error: {said}")
    assert not (here / "out" / "accuracy.json").exists()


def test_a_file_of_something_else_is_kept(
    run: Callable[[str], None], quick: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "out").mkdir()
    for text in ('{"a": 1}', "[1]", "no JSON"):
        (here / "out" / "accuracy.json").write_text(text)
        with pytest.raises(SystemExit) as ended:
            run("--forms W8A8")
        assert ended.value.code == 2 and "this script did not write it" in capsys.readouterr().err
        assert (here / "out" / "accuracy.json").read_text() == text


def test_what_no_form_can_be_measured_with(
    script: Script, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = (here / "labels.csv").read_text()
    (here / "labels.csv").write_text(known.replace("05.png,0", "05.png,10"))
    setting = {"model": "subject:model", "weights": None, "data": "images", "labels": "labels.csv", "resize": None}
    setting |= {"calib": CALIBRATED, "skip": CALIBRATED, "images": 12, "threads": 1}
    for changes, said in (
        ({}, "labels.csv: class 10, but the model has the classes 0 to 9"),
        ({"model": "subject:nothing"}, "subject:nothing: subject has no function nothing"),
        ({"weights": "none.safetensors"}, "none.safetensors"),
    ):
        monkeypatch.setattr(sys, "argv", ["row", "float32", json.dumps({**setting, **changes}), "--out", "row.json"])
        with pytest.raises(SystemExit) as ended:
            script("accuracy_row").main()
        assert ended.value.code == 2 and capsys.readouterr().err.strip().splitlines()[-1].startswith(said)
        assert not (here / "row.json").exists()


def test_every_form_is_what_intvit_takes(script: Script) -> None:
    from intvit.bench.names import PEERS
    from intvit.bits import Bits
    from intvit.grids import PRESETS

    forms = script("accuracy_forms").FORMS
    assert len({form.title for form in forms.values()}) == len(forms)
    for form in forms.values():
        assert form.exact or form.peer in PEERS or {*form.ours} <= {"preset", "bits"}
        if form.ours is not None:
            assert form.ours.get("preset", "default") in PRESETS and Bits.of(form.ours.get("bits", "W8A8"))
