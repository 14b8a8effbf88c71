"""Runs a compiled module with TVM's runtime library alone: no torch, no compiler, not even the Python package `tvm`.

The shared library holds the kernels, the weights and the metadata. TVM's virtual machine is not thread-safe, so every
thread that calls a model gets a machine of its own; all share the code and the weights.
"""

import ctypes
import importlib.util
import json
import os
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intvit.errors import IntvitError
from intvit.ffi import tvm_ffi
from intvit.files import write_atomically
from intvit.metadata import Metadata
from intvit.model import Array, Model
from intvit.seal import check_seal

CPU = 1
POOLED_ALLOCATOR = 2
SHARE_ALL_CORES = -3
ALIGNMENT = 64


class CompiledModel(Model):
    """A compiled module, callable from any thread; `load` reads one from a file.

    `threads` is the number of cores that one call uses.
    """

    def __init__(
        self, library: Path, threads: int | None = None, folder: tempfile.TemporaryDirectory[str] | None = None
    ) -> None:
        """Runs `library`; `folder`, where it lies, is removed with this object."""
        cores = _cores()
        self.threads = len(cores) if threads is None else threads
        if not 1 <= self.threads <= len(cores):
            raise IntvitError(f"threads must be 1 to {len(cores)} (the cores of this process), not {threads}")
        _load_runtime()
        self.path = library
        self._folder = folder
        self._module = _opened(library)
        self._machines = threading.local()
        described = json.loads(str(self._machine()["metadata"]()))
        self.metadata = Metadata.from_json(described["metadata"])
        self.digest: str = described["digest"]
        self.target: str = described["target"]

    @classmethod
    def load(cls, path: str | Path, threads: int | None = None) -> "CompiledModel":
        """Reads a `*.so`; raises `IntvitError` for a missing, damaged or foreign file."""
        return cls(Path(path), threads)

    def save(self, path: str | Path) -> None:
        """Writes `*.so`, whole or not at all."""
        with write_atomically(path) as temporary:
            temporary.write_bytes(self.path.read_bytes())

    def integers(self, pixels: NDArray[np.uint8]) -> tuple[Array, ...]:
        machine = self._machine()
        _use_threads(self.threads)
        results = machine["main"](tvm_ffi.from_dlpack(_aligned(pixels)))
        shapes = self.metadata.output_shapes
        return tuple(np.from_dlpack(r).reshape(len(pixels), *s) for r, s in zip(results, shapes, strict=True))

    def _machine(self) -> Any:
        """This thread's virtual machine."""
        if not hasattr(self._machines, "machine"):
            machine = self._module["vm_load_executable"]()
            machine["vm_initialization"](CPU, 0, POOLED_ALLOCATOR)
            self._machines.machine = machine
        return self._machines.machine


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise IntvitError(f"{path}: no such file")
    check_seal(path)
    try:
        module = tvm_ffi.load_module(str(path.resolve()))
        if module.implements_function("vm_load_executable"):
            return module
    except (RuntimeError, OSError, ValueError, AttributeError) as error:
        raise IntvitError(f"{path}: damaged or not a compiled model ({str(error).splitlines()[0]})") from error
    raise IntvitError(f"{path}: a shared library, but not a compiled model: make one with `intvit compile`")


@cache
def _load_runtime() -> None:
    """Loads TVM's runtime library beside whatever is loaded already (twice is once)."""
    spec = importlib.util.find_spec("tvm")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    for folder in folders:
        library = Path(folder) / "lib" / "libtvm_runtime.so"
        if library.is_file():
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
            return
    raise IntvitError("TVM's runtime library is missing: install apache-tvm==0.27.0.post1")


def _cores() -> list[int]:
    """The cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return sorted(affinity(0)) if affinity is not None else list(range(os.cpu_count() or 1))


_configured = threading.local()


def _use_threads(count: int) -> None:
    """Sets the size of this thread's pool: TVM's own choice is half the cores, for hyper-threads."""
    if getattr(_configured, "count", None) != count:
        configure = tvm_ffi.get_global_func("runtime.config_threadpool")
        cores = [str(core) for core in _cores()]
        if not hasattr(_configured, "count"):
            configure(SHARE_ALL_CORES, len(cores), cores)
        configure(SHARE_ALL_CORES, count, cores)
        _configured.count = count


def _aligned(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same pixels, in memory that the kernels may load vectors from."""
    if pixels.ctypes.data % ALIGNMENT == 0 and pixels.flags.writeable and pixels.flags.c_contiguous:
        return pixels
    memory = np.empty(pixels.nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    aligned = memory[start : start + pixels.nbytes].reshape(pixels.shape)
    aligned[...] = pixels
    return aligned
