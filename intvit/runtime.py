"""Runs a compiled module with TVM's runtime library alone: no torch, no compiler, not even the Python package `tvm`.

The shared library holds the kernels, the weights and the metadata. All threads share them; every call has memory of its
own for what lies between input and output, which TVM's runtime keeps for the thread's next call.
"""

import ctypes
import importlib.util
import json
import os
import tempfile
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intvit.cores import cores, threads_of
from intvit.errors import IntvitError
from intvit.ffi import tvm_ffi
from intvit.files import write_atomically
from intvit.library import own_name, require_library
from intvit.metadata import Metadata
from intvit.model import Array, Model, Step, require_images

CPU_LACKS_INSTRUCTIONS, AMX_REFUSED = 1, 2
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
        self.threads = threads_of(threads)
        load_runtime()
        self.path = library
        self._folder = folder
        self._module, self._library = _opened(library)
        _require_ready(self._library, library)
        self._main = self._module["main"]
        described = json.loads(_text(self._library.intvit_metadata))
        self.metadata = Metadata.from_json(described["metadata"])
        self.digest: str = described["digest"]
        self.target: str = described["target"]
        self.variant: str = _text(self._library.intvit_target)
        self._dtypes: list[str] = described["outputs"]
        self._steps: list[tuple[str, str, int]] = described["steps"]

    @classmethod
    def load(cls, path: str | Path, threads: int | None = None) -> "CompiledModel":
        """Reads a `*.so`; raises `IntvitError` for a missing, damaged or foreign file."""
        return cls(Path(path), threads)

    def save(self, path: str | Path) -> None:
        """Writes `*.so`, whole or not at all."""
        with write_atomically(path) as temporary:
            temporary.write_bytes(self.path.read_bytes())

    def _integers(self, pixels: NDArray[np.uint8]) -> tuple[Array, ...]:
        use_threads(self.threads)
        outputs = self._outputs(len(pixels))
        self._main(*map(tvm_ffi.from_dlpack, (_aligned(pixels), *outputs)))
        shapes = self.metadata.output_shapes
        return tuple(y.reshape(len(pixels), *shape) for y, shape in zip(outputs, shapes, strict=True))

    def profile(self, pixels: NDArray[np.uint8], repeats: int = 20) -> list[Step]:
        """The median time of each kernel, run on its own again and again, less that of running none."""
        require_images(pixels)
        use_threads(self.threads)
        self._library.intvit_workspace_bytes.restype = ctypes.c_int64
        size = self._library.intvit_workspace_bytes(ctypes.c_int64(len(pixels)))
        tensors = [
            tvm_ffi.from_dlpack(a)
            for a in (_aligned(pixels), aligned_empty((size,), "uint8"), *self._outputs(len(pixels)))
        ]
        call, count = self._module["steps"], len(self._steps)

        def seconds(first: int, last: int) -> float:
            start = time.perf_counter()
            call(*tensors[:2], first, last, *tensors[2:])
            return time.perf_counter() - start

        seconds(0, count)
        rounds = [[seconds(i, i + 1) for i in range(count + 1)] for _ in range(repeats)]
        *times, nothing = np.median(rounds, axis=0)
        return [
            Step(name, path, multiply_adds * len(pixels), max(float(t - nothing), 0.0))
            for (name, path, multiply_adds), t in zip(self._steps, times, strict=True)
        ]

    def _outputs(self, batch: int) -> list[Array]:
        """Memory for the outputs, `[batch * tokens, channels]`."""
        shapes = self.metadata.output_shapes
        return [
            aligned_empty((batch * int(np.prod(shape[:-1])), shape[-1]), dtype)
            for shape, dtype in zip(shapes, self._dtypes, strict=True)
        ]


def _text(function: Any) -> str:
    """What a C function without arguments says."""
    function.restype = ctypes.c_char_p
    found: bytes = function()
    return found.decode()


def _require_ready(library: ctypes.CDLL, path: Path) -> None:
    status = library.intvit_ready()
    if status == CPU_LACKS_INSTRUCTIONS:
        raise IntvitError(
            f"{path}: compiled for {_text(library.intvit_target)}, which this CPU is not: compile with --target x86-64"
        )
    if status == AMX_REFUSED:
        raise IntvitError(
            f"{path}: the system refuses AMX's tile registers (Linux 5.16 or newer hands them out): "
            "compile with --target x86-64-v4-vnni"
        )


def _opened(path: Path) -> tuple[Any, ctypes.CDLL]:
    require_library(path, "compiled", "compile with --target auto")
    try:
        with own_name(path) as name:
            module = tvm_ffi.load_module(str(name))
            if module.implements_function("steps"):
                return module, ctypes.CDLL(str(name))
    except (RuntimeError, OSError, ValueError, AttributeError) as error:
        raise IntvitError(f"{path}: damaged or not a compiled model ({str(error).splitlines()[0]})") from error
    raise IntvitError(f"{path}: a shared library, but not a compiled model: make one with `intvit compile`")


def runtime_library() -> Path:
    """TVM's runtime library, in the folder of the package `tvm`; raises `IntvitError` where it is missing."""
    spec = importlib.util.find_spec("tvm")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    for folder in folders:
        library = Path(folder) / "lib" / "libtvm_runtime.so"
        if library.is_file():
            return library
    raise IntvitError("TVM's runtime library is missing: install apache-tvm==0.27.0.post1")


@cache
def load_runtime() -> None:
    """Loads TVM's runtime library beside whatever is loaded already (twice is once)."""
    ctypes.CDLL(str(runtime_library()), ctypes.RTLD_GLOBAL)


_configured = threading.local()
_pool = {"started": False, "lost": False}


def _after_fork() -> None:
    """TVM's threads are not in a child process; a module that ran before the fork runs on one thread there."""
    _pool["lost"] = _pool["started"]


os.register_at_fork(after_in_child=_after_fork)


def use_threads(count: int | None = None) -> None:
    """Sets the size of this thread's pool, by default all cores: TVM's own choice is half, for hyper-threads."""
    count = len(cores()) if count is None else count
    if getattr(_configured, "count", None) != count and not _pool["lost"]:
        _pool["started"] = True
        configure = tvm_ffi.get_global_func("runtime.config_threadpool")
        numbers = [str(core) for core in cores()]
        if not hasattr(_configured, "count"):
            configure(SHARE_ALL_CORES, len(numbers), numbers)
        configure(SHARE_ALL_CORES, count, numbers)
        _configured.count = count


def _aligned(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same pixels, in memory that the kernels may load vectors from."""
    if pixels.ctypes.data % ALIGNMENT == 0 and pixels.flags.writeable and pixels.flags.c_contiguous:
        return pixels
    aligned = aligned_empty(pixels.shape, "uint8")
    aligned[...] = pixels
    return aligned


def aligned_empty(shape: tuple[int, ...], dtype: str) -> Array:
    """Aligned memory."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(kind).reshape(shape)
