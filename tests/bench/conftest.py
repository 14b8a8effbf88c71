"""What tests of the scripts of `bench/` share."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """`script("table")`: a script of `bench/` as a module."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module
