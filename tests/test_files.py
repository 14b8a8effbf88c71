"""Atomic writing: the whole file or nothing, whatever interrupts it."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from intvit.errors import IntvitError
from intvit.files import write_atomically


def write(path: Path, text: str = "new", failure: BaseException | None = None) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text(text)
        (temporary.parent / "side.o").write_text("left by a linker")
        if failure:
            raise failure


@pytest.mark.parametrize("before", [None, "old"])
def test_success(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "model.so"
    if before:
        path.write_text(before)
    with write_atomically(path) as temporary:
        assert temporary.name == path.name
        assert temporary.parent.parent == tmp_path
        temporary.write_text("new")
        assert (path.read_text() if path.exists() else None) == before
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["model.so"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


@pytest.mark.parametrize(
    "failure", [KeyboardInterrupt(), SystemExit(1), ValueError("other"), FileNotFoundError(2, "x", "y")]
)
@pytest.mark.parametrize("before", [None, "old"])
def test_failure_leaves_nothing_and_is_passed_on(tmp_path: Path, failure: BaseException, before: str | None) -> None:
    path = tmp_path / "model.so"
    if before:
        path.write_text(before)
    with pytest.raises(type(failure)):
        write(path, failure=failure)
    assert os.listdir(tmp_path) == (["model.so"] if before else [])
    assert before is None or path.read_text() == before


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (OSError(errno.ENOSPC, "x"), "the disk is full"),
        (OSError(errno.EDQUOT, "x"), "the disk is full"),
        (OSError(errno.EROFS, "x"), "no permission to write"),
        (OSError(errno.EIO, "Input/output error"), r"cannot be written \(Input/output error\)"),
        (RuntimeError("ld: final link failed: No space left on device"), "the disk is full"),
    ],
)
def test_what_the_disk_says_is_one_line(tmp_path: Path, failure: Exception, message: str) -> None:
    with pytest.raises(IntvitError, match=message) as caught:
        write(tmp_path / "model.so", failure=failure)
    assert "model.so" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_wrong_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IntvitError, match=r"the folder .*gone does not exist; create it"):
        write(tmp_path / "gone" / "model.so")
    with pytest.raises(IntvitError, match="is a folder; give the path of a file"):
        write(tmp_path)
    with pytest.raises(IntvitError, match="is a device or pipe"):
        write(Path("/dev/null"))

    def refuse(**_: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(IntvitError, match=r"no permission to write in .*; choose another path"):
        write(tmp_path / "model.so")


def test_nothing_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IntvitError, match=r"cannot be written \(No such file"), write_atomically(tmp_path / "model.so"):
        pass
    assert os.listdir(tmp_path) == []


def test_works_in_a_thread_and_restores_the_signal(tmp_path: Path) -> None:
    worker = threading.Thread(target=write, args=(tmp_path / "model.so",))
    worker.start()
    worker.join()
    write(tmp_path / "model.so", "again")
    assert (tmp_path / "model.so").read_text() == "again"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


SCRIPT = """
import resource, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background
from intvit.files import write_atomically
from intvit.errors import IntvitError
kind, path = sys.argv[1:]
if kind == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with write_atomically(path) as temporary, open(temporary, "wb") as file:
        for _ in range(100):
            file.write(bytes(10_000))
            file.flush()
        print("written", flush=True)
        time.sleep(30)
except IntvitError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and limits")
@pytest.mark.parametrize(("kind", "code"), [("full", 2), ("SIGTERM", 143), ("SIGINT", -signal.SIGINT)])
def test_real_interruptions(tmp_path: Path, kind: str, code: int) -> None:
    command = [sys.executable, "-c", SCRIPT, kind, str(tmp_path / "model.so")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    if kind == "full":
        assert "model.so: cannot be written (File too large)" in first
    else:
        process.send_signal(getattr(signal, kind))
    process.stdout.close()
    assert process.wait(20) == code
    assert os.listdir(tmp_path) == []
