"""`intvit pack`: what it writes and says, and what it refuses before it has written anything."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


def test_a_pack_classifies_images(intvit: Command, module_file: Path, images: Path, tmp_path: Path) -> None:
    """Its `run.py` prints what `intvit run` prints: the same classes, names and shares."""
    done = intvit("pack", module_file, "-o", tmp_path / "p", "--json")
    assert done.code == 0, done
    found = done.json
    assert found["written"] == str(tmp_path / "p")
    assert found["arguments"] == {"model": str(module_file), "output": str(tmp_path / "p")}
    files = [file for file in (tmp_path / "p").rglob("*") if file.is_file()]
    assert found["files"] == len(files) and found["bytes"] == sum(file.stat().st_size for file in files)
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in found["needs"]

    pictures = sorted(images.iterdir())[:2]
    ran = subprocess.run(
        [sys.executable, str(tmp_path / "p" / "run.py"), *map(str, pictures), "--top", "3"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    expected = intvit("run", module_file, *pictures, "--top", 3, "--json").json["images"]
    wanted = []
    for picture, image in zip(pictures, expected, strict=True):
        rows = [f"  {row['probability']:6.1%}  {row['class']:>5}  {row['name']}" for row in image["top"]]
        wanted += [str(picture), *rows]
    assert ran.stdout.splitlines() == wanted


def test_what_it_says(intvit: Command, module_file: Path, tmp_path: Path) -> None:
    done = intvit("pack", module_file, "-o", tmp_path / "p")
    assert done.code == 0
    *_, files, needs, path = done.out.splitlines()
    assert files.endswith(" MB") and " files, " in files
    assert needs.startswith("needs ") and "numpy" in needs
    assert path == str(tmp_path / "p")


@pytest.mark.parametrize(
    ("model", "output", "words"),
    [
        ("none.so", "p", ["none.so", "no such file"]),
        ("tiny.intvit", "p", ["tiny.intvit", ".so (made by `intvit compile`)"]),
        ("text.so", "p", ["text.so", "no seal at its end"]),
        ("MODULE", "full", ["full", "holds files", "a new or an empty one"]),
        ("MODULE", "text.so", ["text.so", "is a file", "a new or an empty folder"]),
        ("MODULE", "nowhere/p", ["nowhere", "does not exist"]),
    ],
)
def test_refused(intvit: Command, module_file: Path, tmp_path: Path, model: str, output: str, words: list[str]) -> None:
    (tmp_path / "text.so").write_text("text")
    (tmp_path / "tiny.intvit").write_text("text")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("text")
    before = sorted(tmp_path.rglob("*"))
    given = module_file if model == "MODULE" else tmp_path / model
    intvit("pack", given, "-o", tmp_path / output).refused(*words)
    assert sorted(tmp_path.rglob("*")) == before
