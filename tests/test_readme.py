"""README keeps up: a line for every file, none for a file that is gone, and commands that exist."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FILES = README.partition("## One line per file")[2].partition("\n## ")[0]
LISTED = re.findall(r"`([\w./-]+\.py)` \|", FILES)


def test_every_file_has_its_line() -> None:
    found = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if found.returncode != 0:
        pytest.skip("not a git checkout")
    assert sorted(LISTED) == sorted(found.stdout.split())


def test_every_line_has_its_file() -> None:
    assert [name for name in LISTED if not (ROOT / name).is_file()] == []


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.search(r"\bFIGURE\b|\bFILES\b", README)


def test_python_in_it_compiles() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")


def test_the_test_command_is_marked_for_ci() -> None:
    command = re.search(r"^<!-- test command -->\n```sh\n(.+?)```", README, flags=re.DOTALL | re.MULTILINE)
    assert command is not None
    assert "pytest" in command[1]


def test_it_gives_the_exit_codes() -> None:
    from intvit.errors import IntvitError, UnsupportedOp, VerifyError

    for error in (IntvitError, UnsupportedOp, VerifyError):
        assert f"\n| {error.exit_code} | " in README
