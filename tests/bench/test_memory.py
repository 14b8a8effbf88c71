"""Peak memory of a fresh process, on the tiny model."""

import shutil
import sys
from pathlib import Path

import pytest
import tiny

from intvit.bench.memory import peak_memory
from intvit.compilation import compile_model
from intvit.errors import IntvitError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_what_a_module_adds(tmp_path: Path) -> None:
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("no C compiler")
    path = tmp_path / "tiny.so"
    compile_model(tiny.integer_model()).save(path)
    one, many = (peak_memory(path, batch, 1) for batch in (1, 512))
    for found in (one, many):
        assert 0 < found.before <= found.peak
        assert found.loaded <= found.peak
        assert found.own == found.peak - found.before
    assert many.own > one.own + 512 * 32 * 32 * 3


def test_what_is_no_module(tmp_path: Path) -> None:
    with pytest.raises(IntvitError, match=r"missing\.so: the process that measures memory failed \(.*no such file"):
        peak_memory(tmp_path / "missing.so", 1, 1)
