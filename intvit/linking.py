"""Links the parts of a module into one file with a C compiler, and says what to do where that fails."""

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tvm.support import cc

from intvit.errors import IntvitError

SOURCES = Path(__file__).with_name("embed")
"""The C source of every module, `module.c`, and its interface, `intvit.h`."""
INTERFACE = re.compile(r"\b(intvit_\w+)\(")
"""The functions that `intvit.h` declares."""
CODE_SIZE = 8 << 20
"""Bytes that are more than enough for a module's code; the rest are its constants, in an object file and linked."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_KINDS = {
    ".so": ("-shared", "-fPIC", "-Wl,-Bsymbolic", "-Wl,-z,noexecstack", "-Wl,--strip-debug"),
    ".o": ("-r", "-nostdlib"),
}
"""The compiler's options by the suffix of the result: a shared library, or one object for static linking."""
KINDS = tuple(_KINDS)


def require_compiler(triple: str) -> str:
    """A C compiler for a system such as `aarch64-linux-gnu`; raises `IntvitError` where there is none.

    This machine's own is `$CXX`, `$CC`, or one of the usual names on the path; another's is `aarch64-linux-gnu-gcc`.
    """
    if triple.partition("-")[0] != os.uname().machine:
        return _cross_compiler(triple)
    found = cc.get_cc()
    if found is None:
        raise IntvitError("no C compiler found, which links the module: install gcc or clang, or set CC to its path")
    if shutil.which(found) is None:
        raise IntvitError(f"the C compiler {found!r} of CXX or CC cannot be run: set CC to the path of gcc or clang")
    return str(found)


def _cross_compiler(triple: str) -> str:
    name = f"{triple}-gcc"
    if shutil.which(name) is None:
        raise IntvitError(f"no C compiler for {triple} found, which links the module: install {name} (gcc-{triple})")
    return name


def require_space(folder: Path, constants: int) -> None:
    """Raises `IntvitError` where a folder cannot hold the parts of a module with so many bytes of constants.

    Checked beforehand, because LLVM ends the whole process where it cannot write an object file.
    """
    needed = 4 * constants + CODE_SIZE
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise _full(folder, f"{free / 1e6:.0f} MB are free, linking needs {needed / 1e6:.0f} MB")


def link(compiler: str, objects: Sequence[Path], folder: Path, path: Path) -> None:
    """Links objects and `module.c`, compiled with the `model.h` and data files of `folder`, into `path` (.so or .o).

    An object shows the functions of `intvit.h` and no others, so that a program's own names cannot meet its kernels'.
    Raises `IntvitError` where there is no space, or with what the compiler said.
    """
    folder, path = folder.resolve(), path.resolve()
    source = [f"-I{folder}", f"-I{SOURCES.resolve()}", str(SOURCES.resolve() / "module.c")]
    _run(folder, [compiler, "-x", "c", "-O2", "-fPIC", "-c", *source, "-o", "module.o"])
    parts = ["module.o", *(str(item.resolve()) for item in objects)]
    _run(folder, [compiler, *_KINDS[path.suffix], "-o", str(path), *parts])
    if path.suffix == ".o":
        shown = [f"--keep-global-symbol={name}" for name in INTERFACE.findall((SOURCES / "intvit.h").read_text())]
        _run(folder, [_run(folder, [compiler, "-print-prog-name=objcopy"]).strip(), *shown, str(path)])


def _run(folder: Path, command: Sequence[str]) -> str:
    """What a program prints that works in a folder, where the assembler finds the constants."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise IntvitError(f"the C compiler {command[0]!r} cannot be run ({error}): set CC to another one") from error
    if done.returncode == 0:
        return done.stdout
    reason = linker_reason(done.stderr + done.stdout)
    if any(os.strerror(code) in done.stderr for code in _FULL):
        raise _full(folder, reason)
    raise IntvitError(
        f"linking failed ({reason}): check that {command[0]} can link a shared library, or set CC to another one"
    )


def linker_reason(text: str) -> str:
    """The first line that tells: the first with an error, or the first."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "no reason given")


def _full(folder: Path, reason: str) -> IntvitError:
    return IntvitError(
        f"{folder}: the disk is full ({reason}); free some space, write to another folder, or set TMPDIR"
    )
