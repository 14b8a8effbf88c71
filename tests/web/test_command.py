"""`intvit serve` as a command: what it prints, how it ends, and what it refuses before it listens."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tiny

from intvit.input_grid import InputGrid
from intvit.integer_model import IntegerModel

if TYPE_CHECKING:
    from conftest import Pair

Export = Callable[..., "Pair"]


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "intvit", "serve", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "INTVIT_ORT_WEB"}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=heed_interrupts,
    )


def heed_interrupts() -> None:
    """As in a terminal: a shell lets what it runs in the background ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def refused(*arguments: object) -> str:
    """The one line on stderr of a command that ended with exit code 2."""
    process = start(*arguments)
    try:
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 2, err
    (line,) = [line for line in err.splitlines() if not line.endswith(" s")]
    return line


@pytest.fixture(scope="module")
def exported(export: Export) -> "Pair":
    return export()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_interrupted(exported: "Pair", runtime: Path, tmp_path: Path, number: int) -> None:
    against = tmp_path / "m.intvit"
    exported.reference.save(against)
    process = start(exported.model.path, "--runtime", runtime, "--port", 0, "--against", against)
    try:
        assert process.stdout is not None and process.stderr is not None
        lines = []
        while not (lines and lines[-1].startswith("http://127.0.0.1:")):
            lines.append(process.stdout.readline().rstrip())
            assert lines[-1] or process.poll() is None, process.stderr.read()
        assert "compared with m.intvit; Ctrl-C ends" in lines
        pixels = tiny.pixels(2)
        with urllib.request.urlopen(f"{lines[-1]}logits", pixels.tobytes(), timeout=60) as answer:
            (output,) = json.load(answer)["outputs"]
        assert output["values"] == exported.reference.integers(pixels)[0].reshape(-1).tolist()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err


def test_a_port_in_use(exported: "Pair", runtime: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(exported.model.path, "--runtime", runtime, "--port", port)
    assert line == f"error: 127.0.0.1, port {port}: address already in use; choose another --host or --port"


def test_wrong_arguments(exported: "Pair", runtime: Path, tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "missing.onnx", "--runtime", runtime)
    assert ".onnx" in refused(tmp_path / "m.so", "--runtime", runtime)
    assert "npm install onnxruntime-web" in refused(exported.model.path, "--runtime", tmp_path / "empty")
    assert "no such file" in refused(exported.model.path, "--runtime", runtime, "--against", tmp_path / "m.intvit")
    other = tmp_path / "other.intvit"
    tiny.integer_model("paper").save(other)
    assert "not the model" in refused(exported.model.path, "--runtime", runtime, "--against", other)


def test_a_model_of_float_arrays(export: Export, runtime: Path) -> None:
    """It has no pixels that the page could give it."""
    model = tiny.integer_model()
    grid = InputGrid.of_range(-2.0, 2.0, tiny.SHAPE)
    exported = export(IntegerModel(model.graph, replace(model.metadata, input_grid=grid)))
    line = refused(exported.model.path, "--runtime", runtime)
    assert line.startswith(f"error: {exported.model.path}: calibrated on float arrays, not on 8-bit images")
