"""CUDA kernels without a GPU: the text that TVM generates, compiled for the host and run a lane at a time.

What a kernel may rely on is the PTX ISA's and nothing more: matrix fragments by its tables (`instructions.cpp`); copies
that land at the last moment and spoil their destination until then; warps in an order drawn from a seed; memory that is
poisoned at first and faults at its end; lanes that diverge at an instruction of the whole warp, and barriers that not
all threads reach, are errors. Nothing here shares an index map with the kernels under test.

    Kernels(source).launch("name", grid, block, shared, array, 5)    arrays are device memory; written back
    emulated(source)                                                 a host library in a cubin's place

| file               | what                                                                 |
|--------------------|----------------------------------------------------------------------|
| `translate.py`     | CUDA C as C++: lines kept, shared memory placed, a table of kernels  |
| `ptx.py`           | inline assembly as calls                                             |
| `simt.h`           | CUDA C's types and functions, what instructions are called           |
| `instructions.cpp` | what they do                                                         |
| `runtime.cpp`      | threads as fibers (`fiber.h`), barriers, errors, a library's exports |
| `memory.h`         | memory with guards                                                   |
| `driver*.cpp`      | `libcuda.so.1` on top of it (`device.h`, `work.h`, `driver.py`)      |
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from emulation.simt.guarded import Guarded
from emulation.simt.ptx import UnknownInstruction
from emulation.simt.translate import translate

__all__ = ["Kernels", "SimtError", "UnknownInstruction", "build", "compiler", "emulated", "translate"]

_HERE = Path(__file__).parent
_COMMON = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-pthread", "-w"]
_CHECKS = "-fsanitize=alignment,bounds,shift-exponent,integer-divide-by-zero"
_KERNEL_OPTIONS = [
    *_COMMON,
    *("-O1", "-fno-strict-aliasing", "-fwrapv", "-fno-exceptions", "-ftrivial-auto-var-init=pattern"),
    *(_CHECKS, "-fno-sanitize-recover=all"),
]
_one_launch = threading.Lock()


class SimtError(Exception):
    """A launch that was refused or failed; the message names the kernel, the block, the thread and the line."""


class _Description(ctypes.Structure):
    _fields_ = (
        ("arch", ctypes.c_int),
        ("most_threads", ctypes.c_int),
        ("parameter_count", ctypes.c_int),
        ("static_shared", ctypes.c_uint32),
        ("parameters", ctypes.POINTER(ctypes.c_size_t)),
    )


def compiler() -> str:
    """g++; skips the test where there is none."""
    found = shutil.which("g++")
    if found is None:
        pytest.skip("no g++ to compile the emulator of CUDA kernels with")
    return found


def run_compiler(*arguments: str | Path) -> None:
    """Run it.

    Raises:
        RuntimeError: it refuses; with its message.
    """
    done = subprocess.run([compiler(), *arguments], capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise RuntimeError(f"g++ failed:\n{done.stderr[:4000]}")


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Where the emulator's objects lie while this process lives."""
    return tempfile.TemporaryDirectory(prefix="simt-")


@functools.cache
def _objects() -> tuple[Path, ...]:
    """The emulator itself, compiled once per process."""
    objects = []
    for name in ("runtime", "instructions"):
        objects.append(Path(_folder().name) / f"{name}.o")
        run_compiler(*_COMMON, "-O3", "-march=native", "-c", _HERE / f"{name}.cpp", "-o", objects[-1])
    return tuple(objects)


def build(source: str, path: Path, arch: int = 0) -> Path:
    """Write the host library of a CUDA text to `path`; `arch` as in `emulated`.

    Raises:
        UnknownInstruction: the text holds assembly that is not emulated.
        RuntimeError: the text is no C++ with `simt.h`.
    """
    text, kernels = path.with_suffix(".cpp"), path.with_suffix(".o")
    text.write_text(translate(source, arch))
    run_compiler(*_KERNEL_OPTIONS, "-I", _HERE, "-c", text, "-o", kernels)
    run_compiler("-shared", "-pthread", "-Wl,-Bsymbolic", kernels, *_objects(), "-o", path)
    return path


def emulated(source: str, arch: int = 0) -> bytes:
    """What stands in a cubin's place for the fake driver: a host library of all kernels of a CUDA text.

    Args:
        source: CUDA C, as TVM generates it.
        arch: the compute capability (90) that the image is for, `-90` for an image in PTX's place; 0 for any device.
    """
    with tempfile.TemporaryDirectory(prefix="simt-") as folder:
        return build(source, Path(folder) / "image.so", arch).read_bytes()


class Kernels:
    """The kernels of a CUDA text, to be launched one at a time on numpy arrays."""

    def __init__(self, source: str) -> None:
        with tempfile.TemporaryDirectory(prefix="simt-") as folder:
            self._library = ctypes.CDLL(str(build(source, Path(folder) / "kernels.so")), os.RTLD_NOW | os.RTLD_LOCAL)
        self._library.simt_message.restype = ctypes.c_char_p

    def launch(
        self, name: str, grid: int, block: int, shared: int, *parameters: np.ndarray | int, seed: int = 0
    ) -> None:
        """Run a kernel to its end; arrays are its device memory and hold the result after it.

        Args:
            name: of the kernel.
            grid: blocks.
            block: threads of a block.
            shared: bytes of dynamic shared memory.
            parameters: contiguous arrays (a read-only one must stay as it is), integers.
            seed: of the order of warps, lanes and blocks.

        Raises:
            SimtError: no such kernel, wrong parameters, or the kernel did what the ISA does not allow.
        """
        sizes = self._sizes(name)
        if len(sizes) != len(parameters):
            raise SimtError(f"kernel {name} has {len(sizes)} parameters, not {len(parameters)}")
        with Guarded() as memory:
            values = [_parameter(p, size, memory) for p, size in zip(parameters, sizes, strict=True)]
            addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
            with _one_launch:
                status = self._library.simt_launch(
                    name.encode(), grid, block, shared, addresses, ctypes.c_uint64(seed & 0xFFFFFFFFFFFFFFFF)
                )
                message = self._library.simt_message().decode()
            if status:
                raise SimtError(message)
            if broken := memory.take_back():
                raise SimtError(f"kernel {name}: {broken}")

    def _sizes(self, name: str) -> Sequence[int]:
        description = _Description()
        if self._library.simt_describe(name.encode(), ctypes.byref(description)):
            raise SimtError(self._library.simt_message().decode())
        return list(map(int, description.parameters[: description.parameter_count]))


def _parameter(value: np.ndarray | int, size: int, memory: Guarded) -> ctypes.c_uint32 | ctypes.c_uint64:
    """A parameter of `size` bytes: an array's address on the device, or an integer."""
    if isinstance(value, np.ndarray):
        if size != ctypes.sizeof(ctypes.c_void_p):
            raise SimtError(f"an array where the kernel has a parameter of {size} bytes")
        return ctypes.c_uint64(memory.place(value))
    return (ctypes.c_uint64 if size == ctypes.sizeof(ctypes.c_uint64) else ctypes.c_uint32)(int(value))
