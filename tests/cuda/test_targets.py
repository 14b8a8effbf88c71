"""Names of GPU targets, and which architecture this machine's GPU runs. The driver is made up."""

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest

from intvit.cuda import targets
from intvit.cuda.targets import is_cuda, resolve_gpu
from intvit.errors import IntvitError
from intvit.kernels.cuda.arch import ARCHS, Arch


def driver(major: int, minor: int, init: int = 0, get: int = 0) -> SimpleNamespace:
    """A driver with one GPU; `init` and `get` are what `cuInit` and `cuDeviceGet` return."""

    def attribute(number: Any, which: int, device: Any) -> int:
        number._obj.value = {targets.MAJOR: major, targets.MINOR: minor}[which]
        return 0

    return SimpleNamespace(
        cuInit=lambda flags: init, cuDeviceGet=lambda device, index: get, cuDeviceGetAttribute=attribute
    )


@pytest.mark.parametrize(
    ("target", "expected"),
    [("cuda", True), ("cuda:sm_90", True), ("cuda:", True), ("cuda90", False), ("auto", False), ("", False)],
)
def test_which_targets_are_gpus(target: str, expected: bool) -> None:
    assert is_cuda(target) is expected


@pytest.mark.parametrize("name", ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90"])
def test_every_architecture_by_its_name(name: str) -> None:
    arch = resolve_gpu(f"cuda:{name}")
    assert arch.name == name and arch is ARCHS[name]


def test_what_architectures_have() -> None:
    assert [arch.asynchronous for arch in ARCHS.values()] == [False, True, True, True, True]
    assert [arch.tall for arch in ARCHS.values()] == [False, True, True, True, True]
    assert all(48 << 10 <= arch.shared <= 227 << 10 for arch in ARCHS.values())


@pytest.mark.parametrize("target", ["cuda:sm_70", "cuda:", "cuda:90", "cuda:sm_90a", "cuda:sm_90,sm_80"])
def test_an_unknown_architecture(target: str) -> None:
    with pytest.raises(IntvitError, match=r"unknown target .*: choose cuda, cuda:sm_75, .*cuda:sm_90"):
        resolve_gpu(target)


def test_a_name_that_is_nearly_right() -> None:
    with pytest.raises(IntvitError, match=r"did you mean cuda:sm_8[069]\?"):
        resolve_gpu("cuda:sm_8")


@pytest.mark.parametrize(
    ("major", "minor", "number"),
    [(7, 5, 75), (8, 0, 80), (8, 6, 86), (8, 7, 86), (8, 9, 89), (9, 0, 90), (10, 0, 90), (12, 1, 90)],
)
def test_the_gpu_of_this_machine(monkeypatch: pytest.MonkeyPatch, major: int, minor: int, number: int) -> None:
    """Code of its own architecture or of an earlier minor version, else PTX of an earlier one."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver(major, minor))
    assert resolve_gpu("cuda") == Arch(number)


@pytest.mark.parametrize(("major", "minor"), [(7, 0), (6, 1)])
def test_a_gpu_that_is_too_old(monkeypatch: pytest.MonkeyPatch, major: int, minor: int) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver(major, minor))
    with pytest.raises(IntvitError, match=rf"compute capability {major}\.{minor}: 7\.5 is the least that works"):
        resolve_gpu("cuda")


@pytest.mark.parametrize("failing", ["init", "get"])
def test_a_driver_without_a_gpu(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver(9, 0, **{failing: 100}))
    with pytest.raises(IntvitError, match="the NVIDIA driver finds no GPU here: name the one to compile for"):
        resolve_gpu("cuda")


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(IntvitError, match=r"no NVIDIA driver \(libcuda.so.1\): name the GPU to compile for"):
        resolve_gpu("cuda")
