"""Where NVIDIA's programs and libraries lie: in a CUDA toolkit, on the path, or in packages from PyPI.

Packages for CUDA 13 share one folder, `nvidia/cu13`; older ones have one each, such as `nvidia/cuda_nvrtc`. Triton's
wheel carries some programs, too.
"""

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

TOOLKIT = Path("/usr/local/cuda")
HOMES = ("CUDA_HOME", "CUDA_PATH")
VERSION = re.compile(r"\.so\.([\d.]+)$")


def programs(name: str) -> list[Path]:
    """Every program of a name, such as `nvcc`, in the order in which to try them."""
    on_path = shutil.which(name)
    found = [folder / "bin" / name for folder in (*_homes(), TOOLKIT, *_packages(), *_triton())]
    if on_path is not None:
        found.insert(len(_homes()), Path(on_path))
    return [path for path in dict.fromkeys(found) if path.is_file() and os.access(path, os.X_OK)]


def libraries(name: str) -> list[Path]:
    """Every shared library of a name, such as `libnvrtc`, in the order to try them in; the newest of a folder first."""
    folders = [home / lib for home in (*_homes(), *_packages(), TOOLKIT) for lib in ("lib64", "lib")]
    found = [path for folder in folders for path in sorted(folder.glob(f"{name}.so.*"), key=_version, reverse=True)]
    return list(dict.fromkeys(path.resolve() for path in found if VERSION.search(path.name)))


def _homes() -> list[Path]:
    return [Path(os.environ[name]) for name in HOMES if os.environ.get(name)]


def _packages() -> list[Path]:
    """Folders of packages from PyPI: CUDA 13's `cu13` before those of CUDA 12, one for each package."""
    folders = (child for folder in _locations("nvidia") if folder.is_dir() for child in folder.iterdir())
    return sorted((child for child in folders if child.is_dir()), key=_release, reverse=True)


def _release(folder: Path) -> int:
    found = re.fullmatch(r"cu(\d+)", folder.name)
    return int(found[1]) if found else 0


def _triton() -> list[Path]:
    return [folder / "backends" / "nvidia" for folder in _locations("triton")]


def _locations(package: str) -> Iterator[Path]:
    """Folders of a package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is not None:
        yield from map(Path, spec.submodule_search_locations or ())


def _version(path: Path) -> tuple[int, ...]:
    found = VERSION.search(path.name)
    return tuple(int(part) for part in found[1].split(".")) if found else ()
