"""Links a built module into one shared library with the machine's C compiler, and says what to do where that fails."""

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tvm.support import cc

from intvit.errors import IntvitError

CODE_SIZE = 8 << 20
"""Bytes that are more than enough for a module's code; the rest are its constants, in an object file and linked."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def require_compiler() -> None:
    """Raises `IntvitError` where there is no C compiler: `$CXX`, `$CC`, or one of the usual names on the path."""
    found = cc.get_cc()
    if found is None:
        raise IntvitError("no C compiler found, which links the module: install gcc or clang, or set CC to its path")
    if shutil.which(found) is None:
        raise IntvitError(f"the C compiler {found!r} of CXX or CC cannot be run: set CC to the path of gcc or clang")


def require_space(constants: int) -> None:
    """Raises `IntvitError` where the temporary folder cannot hold a module with so many bytes of constants.

    Checked beforehand, because LLVM ends the whole process where it cannot write an object file.
    """
    folder, needed = tempfile.gettempdir(), 3 * constants + CODE_SIZE
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise _full(folder, f"{free / 1e6:.0f} MB are free, linking needs {needed / 1e6:.0f} MB")


def link(executable: Any, path: Path) -> None:
    """Writes what TVM built as the shared library `path`.

    Raises `IntvitError` where there is no compiler or no space, or with what the linker said.
    """
    require_compiler()
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as objects:
            executable.export_library(str(path), workspace_dir=objects)
    except (RuntimeError, OSError) as error:
        reason = linker_reason(str(error))
        said_full = any(os.strerror(code) in str(error) for code in _FULL)
        if said_full or (isinstance(error, OSError) and error.errno in _FULL):
            raise _full(str(path.parent), reason) from error
        raise IntvitError(
            f"linking failed ({reason}): check that {cc.get_cc()} can link a shared library, or set CC to another one"
        ) from error


def linker_reason(text: str) -> str:
    """The first line that tells: a compiler's output lies between a heading and the command line."""
    lines = [line.strip() for line in text.partition("\nCommand line:")[0].splitlines() if line.strip()]
    told = [line for line in lines if line != "Compilation error:"]
    return told[0] if told else "no reason given"


def _full(folder: str, reason: str) -> IntvitError:
    return IntvitError(f"{folder}: the disk is full ({reason}); free some space or set TMPDIR to another folder")
