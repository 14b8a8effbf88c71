"""The library in the driver's place, which `hand_made` describes."""

import ctypes
import importlib.util
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from intvit.linking import SOURCES, Compiler, _run, require_compiler

if TYPE_CHECKING:
    from hand_made import Stub


def _register(name: str) -> None:
    """Makes a file importable: this folder is not on the path."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


_register("hand_made")
_register("vits")


@pytest.fixture(scope="session")
def stub_library(tmp_path_factory: pytest.TempPathFactory) -> tuple[Compiler, Path]:
    """The driver's stand-in, compiled once."""
    compiler = require_compiler(f"{platform.machine()}-linux-gnu")
    folder = tmp_path_factory.mktemp("stub")
    path = folder / "libcuda.so.1"
    source = str(Path(__file__).with_name("stub_driver.c"))
    strict = ("-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}")
    _run(folder, [*compiler.command, *strict, "-shared", "-fPIC", "-pthread", source, "-o", str(path)])
    return compiler, path


@pytest.fixture
def stub(stub_library: tuple[Compiler, Path], tmp_path: Path) -> "Iterator[Stub]":
    """The stand-in with settings of its own; afterwards no call was wrong, and no context is left behind."""
    from hand_made import Settings, Stub

    compiler, path = stub_library
    library = ctypes.CDLL(str(path))
    settings = Settings.in_dll(library, "stub")
    before = bytes(settings)
    stub = Stub(tmp_path, path, library, settings, compiler)
    stub.log()
    yield stub
    assert library.stub_depth() == 0
    ctypes.memmove(ctypes.addressof(settings), before, len(before))
