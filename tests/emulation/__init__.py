"""AMX on a CPU that has none: a library that does the work of each AMX instruction when it traps (`amx.c`).

In the tests' own process call `install`; whole commands run in a subprocess with `environment`. There a process must
ask Linux for permission before its first tile, as on a CPU with AMX, and the library answers `syscall`. `install` asks
at once: a library loaded late cannot stand in front of libc's `syscall`, so code that asks by itself needs
`environment`.

Where the CPU has AMX (`native`) nothing traps: the code runs on the tiles and `amx_emulated()` stays 0. Elsewhere that
count (of this process: `ctypes.CDLL(None).amx_emulated()` in a subprocess) shows that AMX code really ran.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA = 158, 0x1023, 18


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Where the library lies while this process lives."""
    return tempfile.TemporaryDirectory(prefix="amx-")


@functools.cache
def library() -> Path:
    """The shared library, compiled once per process; skips the test where that cannot be."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("AMX is emulated on x86-64 Linux only")
    compiler = next(filter(None, map(shutil.which, ("gcc", "cc", "clang"))), None)
    if compiler is None:
        pytest.skip("no C compiler")
    path = Path(_folder().name) / "amx.so"
    options = ["-std=c11", "-O3", "-march=native", "-fPIC", "-shared"]
    subprocess.run([compiler, *options, "-o", path, Path(__file__).with_name("amx.c"), "-ldl"], check=True, timeout=120)
    return path


def environment(refused: bool = False) -> dict[str, str]:
    """This process's environment with the library in front of libc; `refused`: Linux denies the permission."""
    kept = {name: value for name, value in os.environ.items() if name != "INTVIT_AMX_REFUSED"}
    preload = " ".join(filter(None, (str(library()), kept.get("LD_PRELOAD"))))
    return {**kept, "LD_PRELOAD": preload, **({"INTVIT_AMX_REFUSED": "1"} if refused else {})}


@functools.cache
def install() -> ctypes.CDLL:
    """The library, loaded into this process, which has permission to use tiles from here on."""
    emulator = ctypes.CDLL(str(library()), ctypes.RTLD_GLOBAL)
    emulator.amx_emulated.restype = ctypes.c_ulong
    emulator.syscall.restype = ctypes.c_long
    if emulator.syscall(SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA):
        pytest.skip("INTVIT_AMX_REFUSED is set")
    return emulator


@functools.cache
def native() -> bool:
    """Whether the CPU has AMX itself, so that nothing is emulated."""
    return any("amx_int8" in line.split() for line in Path("/proc/cpuinfo").read_text().splitlines())
