"""Runs a module that was compiled for NVIDIA GPUs: numpy, NVIDIA's driver and the file, no torch, no TVM, no compiler.

The shared library holds kernels, weights and its own loader (`intvit_cuda.h`). A torch tensor on a GPU goes in and
comes out without a copy, on torch's current stream; arrays on the CPU are copied there and back.
"""

import ctypes
import itertools
import json
import mmap
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from intvit.cuda.tensors import is_on_gpu, outputs_for, pixels_of, scaled, stream_of
from intvit.errors import IntvitError
from intvit.files import write_atomically
from intvit.library import own_name, require_library
from intvit.metadata import Metadata
from intvit.model import Array, Model, Step, require_images

DEVICES = 16
"""Those that a module may be on, the first of the machine."""
NAMES = 1 << 16
"""Bytes at the start of a library within which linkers put the names of a few functions."""


class CudaModel(Model):
    """A module compiled for NVIDIA GPUs, callable from any thread; `load` reads one from a file.

    It is put on `device` when it is loaded, and on any other GPU when a tensor there comes. Objects of one file share
    what lies on the devices.
    """

    def __init__(
        self, library: Path, device: int | None = 0, folder: tempfile.TemporaryDirectory[str] | None = None
    ) -> None:
        """Puts `library` on a device; `folder`, where it lies, is removed with this object.

        With `None` it is put there when it first runs, on the first one: to read of a module where there is no GPU.
        """
        if not isinstance(device, int | None):
            raise IntvitError(f"a device is CUDA's number of it, such as 0, not {device!r}")
        self.path = library
        self.device = device or 0
        self._folder = folder
        self._library = _opened(library)
        described = json.loads(self._library.intvit_metadata().decode())
        self.metadata = Metadata.from_json(described["metadata"])
        self.digest: str = described["digest"]
        self.target: str = described["target"]
        self._dtypes: list[str] = described["outputs"]
        self._steps: list[tuple[str, str, int]] = described["steps"]
        _users[self._library._handle] += 1
        weakref.finalize(self, _leave, self._library).atexit = False
        if device is not None:
            self._require(self._library.intvit_cuda_open(device), f"{library}: ")

    @classmethod
    def load(cls, path: str | Path, device: int = 0) -> "CudaModel":
        """Reads a `*.so`; raises `IntvitError` for a missing, damaged or foreign file, driver or GPU."""
        return cls(Path(path), device)

    def save(self, path: str | Path) -> None:
        """Writes `*.so`, whole or not at all."""
        with write_atomically(path) as temporary:
            temporary.write_bytes(self.path.read_bytes())

    def __call__(self, images: Any, *, raw: bool = False) -> Any:
        """Runs a batch as `Model.__call__` does; a torch tensor on a GPU gives tensors there.

        Those are ready when torch's current stream of that GPU comes to them, as the results of torch's own functions
        are. uint8 pixels must be contiguous and are not copied; floats are rounded to pixels on the GPU.
        """
        if not is_on_gpu(images):
            return super().__call__(images, raw=raw)
        pixels = pixels_of(images, self.metadata.input_grid)
        require_images(pixels)
        outputs = outputs_for(pixels, self.metadata.output_shapes, self._dtypes)
        addresses = _addresses(y.data_ptr() for y in outputs)
        stream = stream_of(pixels)
        device = int(pixels.device.index)
        self._require(self._library.intvit_cuda_run(device, pixels.data_ptr(), len(pixels), addresses, stream))
        if not raw:
            outputs = [scaled(q, s) for q, s in zip(outputs, self.metadata.output_scales, strict=True)]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _integers(self, pixels: NDArray[np.uint8]) -> tuple[Array, ...]:
        """Through the host's memory, on `device`."""
        channels, height, width = self.metadata.input_grid.shape
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (height, width, channels):
            raise IntvitError(f"pixels must be uint8 [batch, {height}, {width}, {channels}], not {_kind(pixels)}")
        pixels = np.ascontiguousarray(pixels)
        shapes = self.metadata.output_shapes
        outputs = tuple(np.empty((len(pixels), *s), t) for s, t in zip(shapes, self._dtypes, strict=True))
        addresses = _addresses(y.ctypes.data for y in outputs)
        run = self._library.intvit_cuda_run_host
        self._require(run(self.device, pixels.ctypes.data, len(pixels), addresses))
        return outputs

    def profile(self, pixels: NDArray[np.uint8], repeats: int = 20) -> list[Step]:
        """The mean time of each kernel on `device`, run again and again on its own, for as many images as `pixels`."""
        require_images(pixels)
        batch = len(pixels)
        times = (ctypes.c_float * len(self._steps))()
        self._require(self._library.intvit_cuda_profile(self.device, batch, repeats, times))
        return [
            Step(name, path, multiply_adds * batch, time * 1e-6)
            for (name, path, multiply_adds), time in zip(self._steps, times, strict=True)
        ]

    @property
    def images(self) -> dict[str, bytes]:
        """What the file holds for GPUs: machine code by the name of its architecture, and `PTX`."""
        name, size = ctypes.c_char_p(), ctypes.c_int64()
        found: dict[str, bytes] = {}
        while content := self._library.intvit_cuda_image(len(found), ctypes.byref(name), ctypes.byref(size)):
            found[(name.value or b"").decode()] = ctypes.string_at(content, size.value)
        return found

    @property
    def kernels(self) -> list[str]:
        """The names of the kernels."""
        names = map(self._library.intvit_cuda_kernel, itertools.count())
        return [name.decode() for name in itertools.takewhile(bool, names)]

    def __reduce__(self) -> NoReturn:
        raise IntvitError("a model on a GPU cannot be copied or pickled: save it, and load the file in each process")

    def close(self) -> None:
        """Frees the memory that the file's model has on GPUs, when its runs are done. The next run takes it again."""
        for device in range(DEVICES):
            self._require(self._library.intvit_cuda_close(device))

    def _require(self, status: int, prefix: str = "") -> None:
        """Raises `IntvitError` with the library's reason where it failed."""
        if status:
            raise IntvitError(prefix + self._library.intvit_cuda_error().decode(errors="replace"))


_users: Counter[int] = Counter()
"""Objects that run a library, by its handle."""


def _leave(library: ctypes.CDLL) -> None:
    """The last object that ran a library takes it off the devices."""
    _users[library._handle] -= 1
    if not _users[library._handle]:
        for device in range(DEVICES):
            library.intvit_cuda_close(device)


def is_cuda_module(path: Path) -> bool:
    """Whether a library was compiled for GPUs: it has a function that opens one. False where there is no such file."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"\0intvit_cuda_open\0", 0, NAMES) >= 0


def _kind(array: Array) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _addresses(pointers: Iterable[int]) -> "ctypes.Array[ctypes.c_void_p]":
    found = list(pointers)
    return (ctypes.c_void_p * len(found))(*found)


def _opened(path: Path) -> ctypes.CDLL:
    require_library(path, "its loader is", "compile it there")
    if not is_cuda_module(path):
        raise IntvitError(f"{path}: not a model for GPUs: make one with `intvit compile --target cuda`")
    try:
        with own_name(path) as name:
            library = ctypes.CDLL(str(name))
    except OSError as error:
        raise IntvitError(f"{path}: damaged or not a compiled model ({str(error).splitlines()[0]})") from error
    return _declared(library)


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """The library with the types of `intvit_cuda.h`; functions that are not named take and return int32."""
    device, pointer, pointers, size = ctypes.c_int32, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_int64
    for text in (library.intvit_metadata, library.intvit_cuda_error, library.intvit_cuda_kernel):
        text.restype = ctypes.c_char_p
    library.intvit_cuda_image.restype = pointer
    for number in (library.intvit_cuda_open, library.intvit_cuda_close, library.intvit_cuda_kernel):
        number.argtypes = [device]
    library.intvit_cuda_run.argtypes = [device, pointer, size, pointers, pointer]
    library.intvit_cuda_run_host.argtypes = [device, pointer, size, pointers]
    library.intvit_cuda_profile.argtypes = [device, size, ctypes.c_int32, ctypes.POINTER(ctypes.c_float)]
    return library
