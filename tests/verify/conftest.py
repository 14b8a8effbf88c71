"""The tiny model, compiled once for all proofs about modules; C and TIR that compute in floating point."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

import intvit
from intvit.runtime import CompiledModel


@pytest.fixture(scope="session")
def compiled() -> CompiledModel:
    """`tiny.integer_model()` for this machine."""
    return intvit.compile(tiny.integer_model())


@pytest.fixture
def build(tmp_path: Path) -> Callable[[str], Path]:
    """`build("int f(int a) {...}")`, a shared library of C code."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        pytest.skip("no C compiler")

    def built(source: str) -> Path:
        (tmp_path / "code.c").write_text(source)
        options = ["-O1", "-fno-builtin", "-fPIC", "-shared", "-o", "code.so", "code.c"]
        subprocess.run([compiler, *options], cwd=tmp_path, check=True, timeout=60)
        return tmp_path / "code.so"

    return built
