"""How commands end: usage errors, a full disk, Ctrl-C, and bugs, which keep their traceback."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from intvit import artifact
from intvit._version import __version__

Command = Callable[..., Any]
MODEL = ("tiny:vit", "--size", "32", "--mean", "0.5", "--std", "0.25")


def test_help_and_version(intvit: Command) -> None:
    assert intvit("--version").out.strip() == f"intvit {__version__}"
    text = intvit("--help")
    assert text.code == 0
    for command in (
        "quantize",
        "compile",
        "export",
        "run",
        "eval",
        "verify",
        "inspect",
        "bench",
        "report",
        "passes",
        "demo",
    ):
        assert f"\n  {command} " in text.out
        assert intvit(command, "--help").out.startswith(f"Usage: intvit {command}")


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'tvm', 'tvm_ffi', 'safetensors', 'timm'}"
    code = f"import sys, intvit.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--frobnicate",), "--frobnicate"),
        (("quantise",), "quantise"),
        (("run", "--fast", "m.so", "a.png"), "--fast"),
        (("quantize", "tiny:vit"), "--data"),
        (("eval", "m.so", "--data", ".", "--skip", "-1"), "--skip"),
        (("compile", "m.intvit"), "--output"),
    ],
)
def test_bad_usage(arguments: tuple[str, ...], word: str, intvit: Command) -> None:
    done = intvit(*arguments)
    assert done.code == 2
    assert word in done.err
    assert done.out == ""


def halfway(error: BaseException) -> Callable[..., NoReturn]:
    """A writer that fails after the first bytes."""

    def write(tensors: Any, path: Path, **options: Any) -> NoReturn:
        Path(path).write_bytes(b"the beginning")
        raise error

    return write


@pytest.mark.parametrize("existing", [None, b"the model of yesterday"])
@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 2, "the disk is full; free some space"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_nothing_half_written(
    error: BaseException,
    code: int,
    message: str,
    existing: bytes | None,
    intvit: Command,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "m.intvit"
    if existing is not None:
        path.write_bytes(existing)
    monkeypatch.setattr(artifact, "save_file", halfway(error))
    done = intvit("quantize", *MODEL, "--data", images, "--calib", 2, "-o", path)
    assert done.code == code
    assert message in done.err and "Traceback" not in done.err
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([] if existing is None else [existing])


def test_a_module_that_does_not_fit_on_the_disk(integer_file: Path, module_file: Path, tmp_path: Path) -> None:
    size = module_file.stat().st_size // 2
    code = "import pathlib, resource as r, sys\nfrom intvit.cli import main\nfrom intvit import compilation\n"
    code += "content = pathlib.Path(sys.argv.pop(1)).read_bytes()\n"
    code += "compilation.write_module = lambda model, path, *rest, **more: path.write_bytes(content)\n"
    code += f"r.setrlimit(r.RLIMIT_FSIZE, ({size}, {size}))\nmain()"
    command = [sys.executable, "-c", code, module_file, "compile", integer_file, "-o", tmp_path / "m.so"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "m.so: cannot be written" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_anywhere_else(
    intvit: Command, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/scratch/model.so")

    monkeypatch.setattr("intvit.quantization.quantize", full)
    done = intvit("quantize", *MODEL, "--data", images, "-o", tmp_path / "m.intvit")
    done.refused("/scratch/model.so: no space left on device; free some space")


def test_a_bug_keeps_its_traceback(
    intvit: Command, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*arguments: Any, **options: Any) -> NoReturn:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("intvit.quantization.quantize", bug)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        intvit("quantize", *MODEL, "--data", images, "-o", tmp_path / "m.intvit")


def test_ctrl_c(images: Path, tmp_path: Path) -> None:
    """As in a terminal: a shell lets what it runs in the background ignore SIGINT."""
    code = "import signal, sys, time, types\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "slow = types.ModuleType('slow')\n"
    code += "slow.model = lambda: (print('waiting', flush=True), time.sleep(60))\nsys.modules['slow'] = slow\n"
    code += "from intvit.cli import main\nmain()"
    command = [sys.executable, "-c", code, "quantize", "slow:model", "--data", images, "-o", tmp_path / "m.intvit"]
    running = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    for line in running.stdout:
        if line.strip() == "waiting":
            break
    time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert errors.splitlines()[-1] == "interrupted" and "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_python_m_intvit() -> None:
    command = [sys.executable, "-m", "intvit", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"intvit {__version__}"
