"""A seal on compiled modules: the last bytes of the file are the SHA-256 of all before them.

The loader of the system maps a shared library without reading it: one that is cut short ends the process with SIGBUS,
and one with other constants gives other integers. ELF files may have bytes behind their last section.
"""

import hashlib
import io
from pathlib import Path
from typing import BinaryIO

from intvit.errors import IntvitError

MARK = b"\nintvit-sha256:"
PIECE = 1 << 20
SIZE = len(MARK) + 2 * hashlib.sha256().digest_size


def seal(path: Path) -> None:
    """Seals the library at `path`, again where it had a seal."""
    with path.open("r+b") as file:
        size = _sealed_size(file)
        file.truncate(size)
        digest = _digest(file, size)
        file.seek(size)
        file.write(MARK + digest)


def check_seal(path: Path) -> None:
    """Raises `IntvitError` where the file is not as it was sealed. Reads it in pieces, never the whole into memory."""
    with path.open("rb") as file:
        size = _sealed_size(file)
        file.seek(size)
        mark = file.read()
        if not mark:
            raise IntvitError(f"{path}: damaged or not a compiled model (no seal at its end): compile it again")
        if mark != MARK + _digest(file, size):
            raise IntvitError(f"{path}: damaged, its digest does not fit its content: copy or make it again")


def _sealed_size(file: BinaryIO) -> int:
    """Bytes before the seal; of the whole file where there is none."""
    end = file.seek(0, io.SEEK_END)
    start = max(0, end - SIZE)
    file.seek(start)
    return start if file.read().startswith(MARK) else end


def _digest(file: BinaryIO, size: int) -> bytes:
    """Of the first `size` bytes, in hexadecimal."""
    digest = hashlib.sha256()
    file.seek(0)
    while size and (piece := file.read(min(size, PIECE))):
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest().encode()
