"""Device memory for one launch: copies of arrays that end where a page without access begins."""

from __future__ import annotations

import ctypes
import mmap
from types import TracebackType

import numpy as np

_PAGE = mmap.PAGESIZE
_ALIGNMENT, _ZONE, _PROT_NONE = 16, 0xC5, 0
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Guarded:
    """Use it as a context: `place` arrays, launch, `take_back` the results."""

    def __init__(self) -> None:
        self._placed: list[tuple[np.ndarray, np.ndarray, slice]] = []
        """An array, the bytes of its pages, where among them it lies."""
        self._maps: list[mmap.mmap] = []

    def __enter__(self) -> Guarded:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None) -> None:
        self._placed.clear()
        for pages in self._maps:
            address = _address(np.frombuffer(pages, np.uint8))
            _libc.mprotect(address, len(pages), mmap.PROT_READ | mmap.PROT_WRITE)
            pages.close()

    def place(self, array: np.ndarray) -> int:
        """The address of a copy of `array`, on a multiple of 16; up to 15 bytes behind it a page without access.

        Raises:
            ValueError: `array` is not contiguous.
        """
        if not array.flags.c_contiguous:
            raise ValueError("an array that is not contiguous")
        rounded = -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        inner = -(-rounded // _PAGE) * _PAGE
        pages = mmap.mmap(-1, inner + 2 * _PAGE)
        self._maps.append(pages)
        memory = np.frombuffer(pages, np.uint8)
        usable = memory[_PAGE : _PAGE + inner]
        usable[:] = _ZONE
        where = slice(inner - rounded, inner - rounded + array.nbytes)
        usable[where] = array.reshape(-1).view(np.uint8)
        for border in (memory[:_PAGE], memory[_PAGE + inner :]):
            if _libc.mprotect(_address(border), _PAGE, _PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")
        self._placed.append((array, usable, where))
        return _address(memory) + _PAGE + where.start

    def take_back(self) -> str:
        """Copy results back to the arrays; what is broken, or an empty text."""
        for index, (array, usable, where) in enumerate(self._placed):
            if (usable[: where.start] != _ZONE).any() or (usable[where.stop :] != _ZONE).any():
                return f"writes next to array {index}, of {array.nbytes} bytes"
            result = usable[where]
            if array.flags.writeable:
                array.reshape(-1).view(np.uint8)[:] = result
            elif not np.array_equal(array.reshape(-1).view(np.uint8), result):
                return f"writes to array {index}, which is read-only"
        return ""


def _address(memory: np.ndarray) -> int:
    return int(memory.__array_interface__["data"][0])
