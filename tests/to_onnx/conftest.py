"""ONNX models are made and run in these tests: both libraries are needed, with graphs and models of their own."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'intvit[onnx]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'intvit[onnx]'")


def _register(name: str) -> None:
    """Makes a file beside this one importable: the folder is not on the path."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name.removeprefix('onnx_')}.py"))
    assert spec is not None and spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


_register("graphs")
_register("onnx_vits")
