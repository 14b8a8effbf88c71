"""`intvit pack`: a folder that runs a compiled module on a machine without a compiler, a network, torch or TVM.

| in the folder | what |
|---|---|
| `model.so` | the module |
| `run.py` | classifies images with it |
| `intvit/` | the part of this package that running needs |
| `tvm/`, `tvm_ffi/`, `typing_extensions.py` | for CPUs: TVM's runtime library and its interface to Python |
| `licenses/` | for CPUs: theirs |
| `intvit_cuda.h` | for GPUs: the module's interface for C and C++ |
| `README.md`, `pack.json` | what it is, and what it needs |

A module for GPUs needs NVIDIA's driver, Python and numpy beside the folder, one for CPUs Python of the release that
packed it, and numpy. The folder may be moved and renamed.
"""

import ctypes
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intvit._version import __version__
from intvit.cuda.runtime import is_cuda_module
from intvit.errors import IntvitError
from intvit.library import own_name, require_library

MODEL, CUDA_HEADER = "model.so", "intvit_cuda.h"
PACKAGE = Path(__file__).parent
RUNTIME = (
    *("__init__.py", "_version.py", "errors.py", "files.py", "input_grid.py", "library.py", "loading.py"),
    *("metadata.py", "model.py", "preprocess.py", "seal.py"),
    *("verify/__init__.py", "verify/machine/__init__.py", "verify/machine/elf.py"),
    *("cuda/__init__.py", "cuda/runtime.py", "cuda/tensors.py"),
)
"""Files of this package that running any module imports; a test compares them with what is imported."""
CPU_RUNTIME = ("cores.py", "ffi.py", "runtime.py")
"""Those that a module for CPUs takes beside them."""
FFI_UNUSED = shutil.ignore_patterns(
    *("__pycache__", "3rdparty", "include", "src", "cython", "share", "stub", "testing", "*.pyi", "*.txt", ".gitignore")
)
"""What of the package `tvm_ffi` is for those who build against it."""
DISTRIBUTIONS = ("apache-tvm", "apache-tvm-ffi", "typing_extensions")
"""Whose licences go with a module for CPUs."""
ANYTIME = "Python 3.10 or newer, numpy, pillow for image files"


@dataclass(frozen=True)
class Pack:
    """A folder that was written: its model, what the machine must have, and its size."""

    name: str
    target: str
    digest: str
    needs: str
    files: int
    bytes: int


def pack(module: Path, folder: Path) -> Pack:
    """Writes `folder`, whole or not at all, for a compiled module (`.so`).

    Raises `IntvitError` where the folder holds something, where the module is damaged or for another processor, and for
    a CPU's module where TVM's runtime is not installed.
    """
    check_new_folder(folder)
    described = _described(module)
    name = json.loads(described["metadata"])["name"]
    for_gpu = is_cuda_module(module)
    with _new_folder(folder) as temporary:
        shutil.copyfile(module, temporary / MODEL)
        shutil.copyfile(PACKAGE / "embed" / "run.py", temporary / "run.py")
        if for_gpu:
            shutil.copyfile(PACKAGE / "embed" / CUDA_HEADER, temporary / CUDA_HEADER)
        for file in RUNTIME if for_gpu else (*RUNTIME, *CPU_RUNTIME):
            (temporary / "intvit" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(PACKAGE / file, temporary / "intvit" / file)
        needs = f"an NVIDIA GPU with its driver, {ANYTIME}" if for_gpu else _add_tvm(temporary)
        facts = {"name": name, "target": described["target"], "digest": described["digest"], "needs": needs}
        (temporary / "pack.json").write_text(json.dumps({**facts, "intvit": __version__}, indent=1) + "\n")
        (temporary / "README.md").write_text(
            f"{name}, compiled by intvit {__version__} for {described['target']}. It needs {needs}.\n"
            "`python run.py IMAGE...` prints the five likeliest classes of image files, or of images in .npy files.\n"
            f'From Python, with this folder on `sys.path`: `intvit.load("{MODEL}")(images)`.'
            + (f" From C or C++: `{CUDA_HEADER}`.\n" if for_gpu else "\n")
        )
        sizes = [file.stat().st_size for file in temporary.rglob("*") if file.is_file()]
    return Pack(**facts, files=len(sizes), bytes=sum(sizes))


def check_new_folder(folder: Path) -> None:
    """Raises `IntvitError` unless `folder` can be made, or is there and empty."""
    if folder.is_dir():
        if any(folder.iterdir()):
            raise IntvitError(f"{folder}: the folder holds files; give a new or an empty one")
    elif os.path.lexists(folder):
        raise IntvitError(f"{folder}: is a file; give a new or an empty folder")
    parent = folder.absolute().parent
    if not parent.is_dir():
        raise IntvitError(f"{folder}: the folder {parent} does not exist; create it or choose another path")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise IntvitError(f"{folder}: no permission to write in {parent}; choose another path")


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder`, which takes its name when the block ends and is removed when it fails."""
    target = Path(os.path.realpath(folder))
    around = Path(tempfile.mkdtemp(prefix=".intvit-", dir=target.parent))
    try:
        temporary = around / "pack"
        temporary.mkdir()
        yield temporary
        temporary.replace(target)
    finally:
        shutil.rmtree(around, ignore_errors=True)


def _described(module: Path) -> dict[str, Any]:
    """What a module says of itself. Needs neither its GPU nor its instructions."""
    require_library(module, "compiled", "pack it on such a machine")
    if not is_cuda_module(module):
        from intvit.runtime import load_runtime

        load_runtime()
    try:
        with own_name(module) as name:
            function = ctypes.CDLL(str(name)).intvit_metadata
    except (OSError, AttributeError) as error:
        raise IntvitError(f"{module}: damaged or not a compiled model ({str(error).splitlines()[0]})") from error
    function.restype = ctypes.c_char_p
    found: dict[str, Any] = json.loads(function())
    return found


def _add_tvm(folder: Path) -> str:
    """Copies what a module for CPUs takes of TVM into a pack; what the pack needs of the machine then."""
    import typing_extensions

    from intvit.ffi import tvm_ffi
    from intvit.runtime import runtime_library

    (folder / "tvm" / "lib").mkdir(parents=True)
    (folder / "tvm" / "__init__.py").write_text('"""TVM\'s runtime library, and nothing else of TVM."""\n')
    shutil.copyfile(runtime_library(), folder / "tvm" / "lib" / runtime_library().name)
    shutil.copytree(Path(tvm_ffi.__file__).parent, folder / "tvm_ffi", ignore=FFI_UNUSED)
    shutil.copyfile(typing_extensions.__file__, folder / "typing_extensions.py")
    for name in DISTRIBUTIONS:
        _add_licences(name, folder / "licenses" / name)
    extension = next((folder / "tvm_ffi").glob("core.*.so")).name
    release = f"{sys.version_info.major}.{sys.version_info.minor}"
    python = f"Python {release} or newer" if ".abi3." in extension else f"Python {release} and no other"
    return f"{platform.system()} on {platform.machine()}, {python}, numpy, pillow for image files"


def _add_licences(distribution: str, folder: Path) -> None:
    """Copies the licences that a distribution names, where it is installed as one."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name.startswith(("LICENSE", "NOTICE")):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(str(file.locate())), folder / "-".join(file.parts[1:]))
