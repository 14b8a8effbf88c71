"""AMX in processes of their own: what must run, what must die, who has permission, which calls reach Linux."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import emulation

PROGRAM = Path(__file__).with_name("program.c")
CASES = [line for line in PROGRAM.read_text().splitlines() if line.startswith("    IS(")]
FATAL = [line.split('"')[1] for line in CASES if "return" not in line]


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("amx")
    compiler = next(filter(None, map(shutil.which, ("gcc", "cc", "clang"))), None)
    assert compiler is not None, "there was one for the emulator"
    command = [compiler, "-O1", "-mamx-tile", "-mamx-int8", "-o", "program", PROGRAM]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"the C compiler does not know AMX: {done.stderr[:200]}")
    return folder / "program"


def exit_status(program: Path, case: str, environment: dict[str, str]) -> int:
    return subprocess.run([program, case], env=environment, timeout=60).returncode


@pytest.mark.parametrize("case", ["valid", "addressing"])
def test_valid_programs_run(program, case):
    assert exit_status(program, case, emulation.environment()) == 0


@pytest.mark.parametrize("case", FATAL)
def test_invalid_programs_die(program, case):
    """Of SIGILL; a real CPU raises #GP, SIGSEGV in Linux, for a bad configuration."""
    deaths = {-signal.SIGILL, -signal.SIGSEGV} if emulation.native() else {-signal.SIGILL}
    if case == "bfloat16" and emulation.native():
        pytest.skip("this CPU has it")
    assert exit_status(program, case, emulation.environment()) in deaths


def test_refused_permission(program):
    assert exit_status(program, "valid", emulation.environment(refused=True)) == errno.EINVAL


SYSTEM_CALLS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(*words):
    ctypes.set_errno(0)
    return libc.syscall(*map(ctypes.c_long, words)), ctypes.get_errno()
print(call(158, 0x1023, 18), call(158, 0x1023, 63)[0], call(39, 0x1023, 18)[0] == os.getpid(), call(3, -1))
print(call(9, 0, 4096, 3, 0x22, -1, 0)[0] > 0, libc.amx_emulated())
"""


@pytest.mark.parametrize("refused", [False, True])
def test_only_the_request_for_tiles_is_answered(refused):
    """Another feature's request fails; getpid, close(-1) and mmap with its six arguments reach Linux."""
    command = [sys.executable, "-I", "-c", SYSTEM_CALLS]
    answer = subprocess.run(command, env=emulation.environment(refused), capture_output=True, text=True, timeout=60)
    request = (-1, errno.EINVAL) if refused else (0, 0)
    assert answer.stdout.splitlines() == [f"{request} -1 True {(-1, errno.EBADF)}", "True 0"], answer.stderr


def test_the_handler_before_is_called():
    """faulthandler's, which was there first in this process: it reports, then the process dies."""
    script = (
        "import ctypes, faulthandler, os, signal\n"
        "faulthandler.enable()\n"
        f"ctypes.CDLL({str(emulation.library())!r})\n"
        "os.kill(os.getpid(), signal.SIGILL)"
    )
    done = subprocess.run([sys.executable, "-c", script], env=os.environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGILL
    assert "Illegal instruction" in done.stderr
