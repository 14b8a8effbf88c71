"""The constants of a module: one file of aligned arrays, each content once, that all its variants share."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from intvit.memory import aligned


class ConstantPool:
    """Arrays by their bytes; `add` says where one lies."""

    def __init__(self) -> None:
        self.size = 0
        self._offsets: dict[bytes, int] = {}
        self._arrays: list[NDArray[np.generic]] = []

    def add(self, array: NDArray[np.generic]) -> int:
        """The offset of an array in bytes; equal bytes have one place."""
        content = np.ascontiguousarray(array)
        key = hashlib.sha256(content.view(np.uint8).data if content.size else b"").digest()
        if key not in self._offsets:
            self._offsets[key] = self.size
            self._arrays.append(content)
            self.size += aligned(content.nbytes)
        return self._offsets[key]

    def write(self, path: Path) -> None:
        """All arrays at their offsets."""
        with path.open("wb") as file:
            for array in self._arrays:
                content = array.tobytes()
                file.write(content + bytes(aligned(len(content)) - len(content)))
