"""A seal on compiled modules: the last bytes of the file are the SHA-256 of all before them.

The loader of the system maps a shared library without reading it: one that is cut short ends the process with SIGBUS,
and one with other constants gives other integers. ELF files may have bytes behind their last section.
"""

import hashlib
from pathlib import Path

from intvit.errors import IntvitError

MARK = b"\nintvit-sha256:"
SIZE = len(MARK) + 2 * hashlib.sha256().digest_size


def seal(path: Path) -> None:
    """Seals the library at `path`, again where it had a seal."""
    content = path.read_bytes()
    if content[-SIZE:].startswith(MARK):
        content = content[:-SIZE]
    path.write_bytes(content + _seal_of(content))


def check_seal(path: Path) -> None:
    """Raises `IntvitError` where the file is not as it was sealed."""
    content = path.read_bytes()
    if not content[-SIZE:].startswith(MARK):
        raise IntvitError(f"{path}: damaged or not a compiled model (no seal at its end): compile it again")
    if content[-SIZE:] != _seal_of(content[:-SIZE]):
        raise IntvitError(f"{path}: damaged, its digest does not fit its content: copy or make it again")


def _seal_of(content: bytes) -> bytes:
    return MARK + hashlib.sha256(content).hexdigest().encode()
