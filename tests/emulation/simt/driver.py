"""A CUDA driver without a GPU: `libcuda.so.1` whose modules are the host libraries of `emulated`.

`install()` puts it into this process; whole commands run in a subprocess with `environment(folder)`. What the device is
comes from the environment when `cuInit` is called (SIMT_ARCH, SIMT_PROCESSORS, SIMT_DEVICES, SIMT_SEED, SIMT_MEMORY) or
from `configure`. A kernel that fails says why on stderr, and every call after it returns CUDA_ERROR_LAUNCH_FAILED.
"""

from __future__ import annotations

import ctypes
import functools
import os
import tempfile
from pathlib import Path

from emulation.simt import run_compiler

MEMORY = 16 << 30
NAME = "libcuda-emulated.so.1"


def fake_driver(folder: Path, name: str = "libcuda.so.1") -> Path:
    """Compile the driver into `folder`, under a name; skips the test where there is no g++."""
    path = folder / name
    options = ["-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-shared", "-pthread", f"-Wl,-soname,{path.name}"]
    sources = [Path(__file__).with_name(name) for name in ("driver.cpp", "driver_work.cpp")]
    run_compiler(*options, *sources, "-o", path, "-ldl")
    return path


def environment(folder: Path, **settings: int) -> dict[str, str]:
    """This process's environment with the driver of `folder` where dlopen looks first; `settings` as `SIMT_` names."""
    paths = filter(None, (str(folder), os.environ.get("LD_LIBRARY_PATH")))
    named = {f"SIMT_{name.upper()}": str(value) for name, value in settings.items()}
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(paths), **named}


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Where the driver lies while this process lives."""
    return tempfile.TemporaryDirectory(prefix="simt-")


@functools.cache
def install() -> ctypes.CDLL:
    """The driver, loaded into this process: from here on dlopen finds it under `NAME`.

    Not as `libcuda.so.1`, which other libraries of the process, NVRTC among them, take for a real one.
    """
    driver = ctypes.CDLL(str(fake_driver(Path(_folder().name), NAME)))
    driver.simt_launches.restype = driver.simt_allocated.restype = ctypes.c_size_t
    return driver


def configure(arch: int = 90, processors: int = 132, seed: int = 0, memory: int = MEMORY) -> None:
    """What the device of this process is from here on."""
    install().simt_device(arch, processors, ctypes.c_uint64(seed), ctypes.c_size_t(memory))
