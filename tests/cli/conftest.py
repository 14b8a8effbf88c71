"""Commands run in this process; a tiny model, its images and its artifacts, made once by the commands themselves."""

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from intvit.cli import app

COUNT = 12
MODEL = ("tiny:vit", "--size", "32", "--mean", "0.5", "--std", "0.25")


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    def refused(self, *words: str, code: int = 2) -> str:
        """It ended with one line `error: ...` (more only as a list) that has these words; that line."""
        assert self.code == code, self
        first, *more = [line for line in self.err.splitlines() if not line.endswith(" s")]
        assert first.startswith("error: "), self.err
        assert "Traceback" not in self.err
        assert all(line.startswith("  ") for line in more), self.err
        missing = [word for word in words if word not in self.err]
        assert not missing, (missing, self.err)
        return first


Command = Callable[..., Outcome]


def run_command(*arguments: object) -> Outcome:
    """`intvit` with these arguments; an unexpected exception comes through."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        app([str(argument) for argument in arguments], prog_name="intvit")
    return Outcome(int(ended.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def intvit() -> Command:
    """`intvit("run", "m.so", "cat.png")`."""
    return run_command


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, with `labels.csv` and `names.txt` beside it."""
    folder = tmp_path_factory.mktemp("data") / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(COUNT):
        Image.fromarray(random.integers(0, 256, (40, 36, 3), np.uint8)).save(folder / f"{index:02d}.png")
    with (folder.parent / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "class"), *((f"{i:02d}.png", i % 10) for i in range(COUNT))])
    (folder.parent / "names.txt").write_text("".join(f"n0144076{i} kind {i}, other\n" for i in range(10)))
    return folder


@pytest.fixture(scope="session")
def integer_file(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny:vit`, quantized."""
    path = tmp_path_factory.mktemp("artifacts") / "tiny.intvit"
    names = images.parent / "names.txt"
    done = run_command("quantize", *MODEL, "--data", images, "--class-names", names, "--calib", 8, "-o", path)
    assert done.code == 0, done
    return path


@pytest.fixture(scope="session")
def module_file(integer_file: Path) -> Path:
    """`tiny:vit`, compiled."""
    if not any(map(shutil.which, ("cc", "gcc", "clang", "g++", "clang++"))):
        pytest.skip("no C compiler")
    path = integer_file.with_suffix(".so")
    done = run_command("compile", integer_file, "-o", path)
    assert done.code == 0, done
    return path


@pytest.fixture(scope="session")
def onnx_file(integer_file: Path) -> Path:
    """`tiny:vit`, exported."""
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'intvit[onnx]'")
    path = integer_file.with_suffix(".onnx")
    done = run_command("export", integer_file, "-o", path)
    assert done.code == 0, done
    return path
