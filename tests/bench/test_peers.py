"""The peers compute what the float model computes; what cannot run says why."""

import importlib.util
import shutil
import sys

import numpy as np
import pytest
import tiny
import torch

from intvit.bench.names import FAMILIES, PEERS, expand
from intvit.bench.packages import import_package, silenced
from intvit.bench.peers import Peers
from intvit.errors import IntvitError

NEEDS = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino", "nncf")}
TOLERANCE = {"f32": 1e-3, "bf16": 0.05, "int8": 0.2}


def images(count: int) -> np.ndarray:
    return tiny.GRID.normalized(tiny.pixels(count))


@pytest.fixture(scope="module")
def peers() -> Peers:
    return Peers(tiny.vit().requires_grad_(False), images(4))


def output_of(found: object) -> np.ndarray:
    """The one output of a call, whatever holds it."""
    if isinstance(found, torch.Tensor):
        return found.float().numpy()
    return np.asarray(found[0], np.float32)  # type: ignore[index]


@pytest.mark.parametrize("name", PEERS)
def test_peers_compute_the_float_model(name: str, peers: Peers) -> None:
    missing = [p for p in NEEDS.get(name.partition("-")[0], ()) if importlib.util.find_spec(p) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install 'intvit[bench]'")
    if "compile" in name and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    for batch, threads in ((1, 1), (3, 2))[: 1 if "compile" in name else 2]:  # compiling takes long
        values = images(batch)
        with torch.inference_mode():
            exact = tiny.vit()(torch.from_numpy(values)).numpy()
        try:
            call = peers.make(name, values, threads)
        except IntvitError as error:
            if name == "openvino-bf16" and "only where the CPU does" in str(error):
                pytest.skip(str(error))
            raise
        found = output_of(call())
        assert found.shape == exact.shape
        error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
        assert error < TOLERANCE[name.rpartition("-")[2]]


def test_families_expand_in_order_and_once() -> None:
    assert expand(["onnx-int8", "onnx", "torch"]) == ["onnx-int8", "onnx-f32", "torch-f32", "torch-bf16"]
    assert expand([]) == []
    assert {peer for family in FAMILIES.values() for peer in family} == set(PEERS)


def test_an_unknown_peer() -> None:
    with pytest.raises(IntvitError, match=r"unknown peer 'openvin'.*did you mean openvino\?"):
        expand(["torch", "openvin"])


@pytest.mark.parametrize(
    ("name", "package"), [("onnx-f32", "onnxruntime"), ("openvino-int8", "openvino"), ("openvino-f32", "openvino")]
)
def test_a_missing_package_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    fresh = Peers(tiny.vit(), images(2))
    with pytest.raises(IntvitError, match=rf"{name} needs the package {package}: pip install 'intvit\[bench\]'"):
        fresh.make(name, images(1), 1)


def test_a_package_that_lacks_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy.nothing", None)
    with pytest.raises(IntvitError, match="the peer needs the package numpy"):
        import_package("numpy.nothing", "the peer")


def test_images_that_the_model_does_not_take(peers: Peers) -> None:
    with pytest.raises(IntvitError, match="torch-f32 cannot run here"):
        peers.make("torch-f32", np.zeros((1, 5, 32, 32), np.float32), 1)


def test_silence_ends(capfd: pytest.CaptureFixture[str]) -> None:
    with silenced():
        print("lost")
    print("kept")
    assert capfd.readouterr().out == "kept\n"
