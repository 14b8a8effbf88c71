"""A whole module for AMX under the emulator: its integers are the reference's, and what Linux refuses is told."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

import emulation

pytest.importorskip("tvm")
from intvit.compilation import write_module
from intvit.targets import runs_here

RUN = """
import sys, ctypes, numpy as np, intvit
from intvit.errors import IntvitError
try:
    model = intvit.load(sys.argv[1])
except IntvitError as error:
    sys.exit(str(error))
np.save(sys.argv[3], model(np.load(sys.argv[2]), raw=True))
print(model.target, model.variant, ctypes.CDLL(None).amx_emulated())
"""


@pytest.fixture(scope="module", params=["x86-64-v4-amx", "x86-64"])
def module(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not runs_here("x86-64-v4-vnni"):
        pytest.skip("the other kernels of a module for AMX need AVX-512 VNNI")
    path = tmp_path_factory.mktemp("amx") / "tiny.so"
    write_module(tiny.integer_model(), path, request.param)
    return path


def run(module: Path, tmp_path: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    np.save(tmp_path / "x.npy", tiny.pixels(3))
    arguments = [str(module), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    command = [sys.executable, "-c", RUN, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_the_integers_of_the_reference(module: Path, tmp_path: Path) -> None:
    done = run(module, tmp_path, emulation.environment())
    assert done.returncode == 0, done.stderr
    _, variant, emulated = done.stdout.split()
    assert variant == "x86-64-v4-amx"
    assert int(emulated) > 100 or emulation.native()
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), tiny.integer_model()(tiny.pixels(3), raw=True))


@pytest.mark.parametrize("refused", [False, True])
def test_a_target_is_refused_as_its_module_would_be(refused: bool) -> None:
    if not runs_here("x86-64-v4-vnni") or emulation.native():
        pytest.skip("for a CPU with AVX-512 VNNI and without AMX")
    command = [
        sys.executable,
        "-c",
        "from intvit.targets import TARGETS, require_here as f; f(TARGETS['x86-64-v4-amx'])",
    ]
    done = subprocess.run(command, env=emulation.environment(refused), capture_output=True, text=True, timeout=120)
    assert ("target x86-64-v4-amx needs instructions that this CPU lacks" in done.stderr) == refused
    assert (done.returncode != 0) == refused, done.stderr


def test_tiles_that_linux_refuses(module: Path, tmp_path: Path) -> None:
    """A module for AMX alone says so; one with several variants takes the next."""
    if emulation.native():
        pytest.skip("this machine's Linux hands out the tiles")
    done = run(module, tmp_path, emulation.environment(refused=True))
    if done.returncode:
        assert "compiled for x86-64-v4-amx, which this CPU is not" in done.stderr
        return
    assert done.stdout.split() == ["x86-64", "x86-64-v4-vnni", "0"]
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), tiny.integer_model()(tiny.pixels(3), raw=True))
