"""Links the parts of a module into one file with a C compiler, and says what to do where that fails."""

import errno
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
COMPILERS = ("gcc", "clang", "cc")
"""The usual names of C compilers."""
BASELINES = {"x86_64": ("-march=x86-64",)}
"""What keeps `module.c` to instructions that every machine has, by architecture: a compiler's default may be more."""


@dataclass(frozen=True)
class Compiler:
    """A C compiler for the system `triple`; `command` is the words that call it, such as `ccache gcc`."""

    triple: str
    command: tuple[str, ...]

    @property
    def baseline(self) -> tuple[str, ...]:
        """The options for code that runs before a variant is chosen."""
        return BASELINES.get(self.triple.partition("-")[0], ())


def require_compiler(triple: str) -> Compiler:
    """A C compiler for a system such as `aarch64-linux-gnu`; raises `IntvitError` where there is none.

    This machine's own is `$CC` (one or more words), or one of the usual names on the path; another's is
    `aarch64-linux-gnu-gcc`.
    """
    if triple.partition("-")[0] != os.uname().machine:
        return Compiler(triple, (_cross_compiler(triple),))
    named = os.environ.get("CC", "").strip()
    if named:
        return Compiler(triple, _words(named))
    found = next(filter(None, map(shutil.which, COMPILERS)), None)
    if found is None:
        raise IntvitError("no C compiler found, which links the module: install gcc or clang, or set CC to its path")
    return Compiler(triple, (found,))


def _words(named: str) -> tuple[str, ...]:
    """The words of `$CC`, the first as an absolute path: the compiler is run in another folder."""
    try:
        first, *options = shlex.split(named)
    except ValueError as error:
        raise IntvitError(f"the C compiler {named!r} of CC cannot be read ({error}): set CC as in a shell") from error
    found = shutil.which(first)
    if found is None:
        raise IntvitError(f"the C compiler {first!r} of CC cannot be run: set CC to the path of gcc or clang")
    return str(Path(found).absolute()), *options


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


def link(compiler: Compiler, objects: Sequence[Path], folder: Path, path: Path, source: str = "module.c") -> None:
    """Links objects and a source, compiled with the `model.h` and data files of `folder`, into `path` (.so or .o).

    The source is `module.c`, or for GPUs `cuda.c`, whose module is a `.so` without objects.
    An object shows the functions of `intvit.h` and no others, so that a program's own names cannot meet its kernels'.
    Raises `IntvitError` where there is no space or no `objcopy`, or with what the compiler said.
    """
    folder, path = folder.resolve(), path.resolve()
    compile_ = [*compiler.command, "-x", "c", "-O2", "-fPIC", *compiler.baseline, "-c"]
    included = [f"-I{folder}", f"-I{SOURCES.resolve()}", str(SOURCES.resolve() / source)]
    _run(folder, [*compile_, *included, "-o", "module.o"])
    parts = ["module.o", *(str(item.resolve()) for item in objects)]
    _run(folder, [*compiler.command, *_KINDS[path.suffix], "-o", str(path), *parts])
    if path.suffix == ".o":
        shown = [f"--keep-global-symbol={name}" for name in INTERFACE.findall((SOURCES / "intvit.h").read_text())]
        _run(folder, [_objcopy(compiler, folder), *shown, str(path)])


def _objcopy(compiler: Compiler, folder: Path) -> str:
    """The `objcopy` that the compiler uses."""
    found = shutil.which(_run(folder, [*compiler.command, "-print-prog-name=objcopy"]).strip())
    if found is None:
        raise IntvitError(
            f"no objcopy for {compiler.triple} found, which finishes a .o: install binutils, or write a .so"
        )
    return found


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
