"""NVRTC, the CUDA compiler that is a library: it needs no host compiler and no headers, and starts at once.

Source: NVRTC's documentation, sections "User interface" and "Supported compile options".
"""

import ctypes
import ctypes.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from intvit.cuda.image import Image, first_error, make_image
from intvit.errors import IntvitError
from intvit.nvidia import libraries

OPTIONS = ("--std=c++17", "--ptxas-options=-v")
BAD_ARCHITECTURE = "invalid value for --gpu-architecture"


class Nvrtc:
    """One loaded library. Threads may compile with it at once: calls of a `CDLL` do not hold Python's lock."""

    def __init__(self, path: str | Path) -> None:
        """Loads the library; raises `OSError` where that fails, `AttributeError` where it is older than CUDA 11.2."""
        for builtins in sorted(Path(path).parent.glob("libnvrtc-builtins.so.*")):
            # NVRTC opens this by its bare name: release 13.0 from PyPI does not look for it beside itself
            ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
        self._library = ctypes.CDLL(str(path))
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("Version", ctypes.byref(major), ctypes.byref(minor))
        self.name = f"NVRTC {major.value}.{minor.value}"
        self.architectures = self._architectures()

    def compile(self, source: str, architecture: str) -> Image:
        """The image of CUDA C code for an architecture such as `sm_90`; raises `IntvitError` with the first error."""
        options = [f"--gpu-architecture={architecture}".encode(), *(option.encode() for option in OPTIONS)]
        with self._program(source) as program:
            values = (ctypes.c_char_p * len(options))(*options)
            status = self._library.nvrtcCompileProgram(program, len(options), values)
            log = self._text(program, "ProgramLog")
            if BAD_ARCHITECTURE in log:
                known = ", ".join(f"sm_{number}" for number in self.architectures)
                raise IntvitError(
                    f"{self.name} cannot compile for {architecture} (it knows {known}): install another release of the "
                    "package nvidia-cuda-nvrtc, or set INTVIT_CUDA_COMPILER=nvcc"
                )
            if status:
                reason = first_error(log or self._reason(status))
                raise IntvitError(f"{self.name} cannot compile the kernels for {architecture}: {reason}")
            cubin = self._bytes(program, "CUBIN")
            return make_image(architecture, cubin, self._text(program, "PTX"), log, self.name)

    @contextmanager
    def _program(self, source: str) -> Iterator[ctypes.c_void_p]:
        program = ctypes.c_void_p()
        self._call("CreateProgram", ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
        try:
            yield program
        finally:
            self._call("DestroyProgram", ctypes.byref(program))

    def _architectures(self) -> tuple[int, ...]:
        count = ctypes.c_int()
        self._call("GetNumSupportedArchs", ctypes.byref(count))
        numbers = (ctypes.c_int * count.value)()
        self._call("GetSupportedArchs", numbers)
        return tuple(numbers)

    def _text(self, program: ctypes.c_void_p, kind: str) -> str:
        return self._bytes(program, kind).rstrip(b"\0").decode(errors="replace")

    def _bytes(self, program: ctypes.c_void_p, kind: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"Get{kind}Size", program, ctypes.byref(size))
        content = ctypes.create_string_buffer(size.value)
        self._call(f"Get{kind}", program, content)
        return content.raw

    def _call(self, function: str, *arguments: object) -> None:
        call: Callable[..., int] = getattr(self._library, f"nvrtc{function}")
        status = call(*arguments)
        if status:
            raise IntvitError(f"nvrtc{function} failed ({self._reason(status)}): install nvidia-cuda-nvrtc anew")

    def _reason(self, status: int) -> str:
        return bytes(self._library.nvrtcGetErrorString(status)).decode()


def find_nvrtc() -> Nvrtc | None:
    """The first NVRTC that loads: of `CUDA_HOME`, of a package, of the toolkit, on the loader's path."""
    on_path = ctypes.util.find_library("nvrtc")
    for path in [*map(str, libraries("libnvrtc")), *([on_path] if on_path else [])]:
        try:
            return _loaded(path)
        except (OSError, AttributeError):
            continue
    return None


@cache
def _loaded(path: str) -> Nvrtc:
    return Nvrtc(path)
