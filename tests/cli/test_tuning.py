"""`intvit compile --tune`: what it prints, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


def test_the_second_compile_reads_what_the_first_found(
    intvit: Command, integer_file: Path, module_file: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "t.json"
    first = intvit("compile", integer_file, "-o", tmp_path / "a.so", "--tune", 60, "--tune-cache", cache)
    assert first.code == 0, first
    assert "--tune           60" in first.out and f"--tune-cache     {cache}" in first.out
    assert "tuned: 0 of " in first.out
    found = len(next(iter(json.loads(cache.read_text())["targets"].values())))
    second = intvit("compile", integer_file, "-o", tmp_path / "b.so", "--tune-cache", cache, "--json").json
    assert second["tuned"]["known"] == second["tuned"]["kernels"] == found > 0
    assert second["tuned"]["measured"] == 0
    assert intvit("verify", tmp_path / "b.so", "--against", integer_file).code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tune-cache", "t.json"), ["t.json", "no such file"]),
        (("--tune", "1", "--tune-cache", "t.txt"), ["t.txt", "must end in .json"]),
        (("--tune", "1", "--tune-cache", "nowhere/t.json"), ["nowhere", "does not exist"]),
        (("--tune", "1", "--tune-cache", "odd.json"), ["odd.json", "not a file of tuning results"]),
        (("--tune", "1", "--target", "riscv64"), ["does not run riscv64", "--tune-cache"]),
    ],
)
def test_refused(
    intvit: Command,
    integer_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd.json").write_text("{}")
    intvit("compile", integer_file, "-o", "m.so", *options).refused(*words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd.json"]
