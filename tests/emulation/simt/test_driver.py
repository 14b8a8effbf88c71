"""The emulated driver: what the CUDA driver API promises, as late as it may, and nothing else."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_void_p

import numpy as np
import pytest

from emulation.simt import emulated
from emulation.simt.driver import configure, install

SOURCE = """
extern "C" __global__ void __launch_bounds__(64) twice(int* __restrict__ x, int n) {
  int t = ((int)blockIdx.x * 64) + (int)threadIdx.x;
  if (t < n) { x[t] = x[t] * 2; }
}
extern "C" __global__ void __launch_bounds__(64) add(int* __restrict__ x, int n) {
  extern __shared__ __align__(64) uchar m[];
  int t = ((int)blockIdx.x * 64) + (int)threadIdx.x;
  if (t < n) { x[t] = x[t] + 3; }
}
extern "C" __global__ void __launch_bounds__(64) broken(int* __restrict__ x, int n) {
  x[n] = 1;
}
"""
N, BYTES = 100, 400
INVALID_VALUE, OUT_OF_MEMORY, NO_BINARY, NOT_FOUND, NOT_READY, LAUNCH_FAILED = 1, 2, 209, 500, 600, 719
MAX_DYNAMIC_SHARED = 8


class NodeParameters(ctypes.Structure):
    _fields_ = (
        ("function", c_void_p),
        *((f"{of}{axis}", c_uint) for of in ("grid", "block") for axis in "xyz"),
        ("shared", c_uint),
        ("parameters", ctypes.POINTER(c_void_p)),
        ("extra", c_void_p),
    )


class Session:
    """A context with a module, 100 integers on the device and a stream that does not block."""

    def __init__(self) -> None:
        configure()
        self.cu = install()
        self.kept: list[tuple[c_void_p, c_int]] = []
        context, self.module, self.x, self.stream = c_void_p(), c_void_p(), c_void_p(), c_void_p()
        steps: tuple[Callable[[], int], ...] = (
            lambda: self.cu.cuInit(0),
            lambda: self.cu.cuDevicePrimaryCtxRetain(byref(context), 0),
            lambda: self.cu.cuCtxPushCurrent_v2(context),
            lambda: self.cu.cuModuleLoadData(byref(self.module), emulated(SOURCE, 90)),
            lambda: self.cu.cuMemAlloc_v2(byref(self.x), c_size_t(BYTES)),
            lambda: self.cu.cuStreamCreate(byref(self.stream), 1),
        )
        for step in steps:
            assert step() == 0
        self.write(np.arange(N, dtype=np.int32))

    def close(self) -> None:
        self.cu.simt_recover()
        assert self.cu.cuStreamDestroy_v2(self.stream) == 0
        assert self.cu.cuMemFree_v2(self.x) == 0
        assert self.cu.cuModuleUnload(self.module) == 0
        assert self.cu.cuCtxPopCurrent_v2(byref(c_void_p())) == 0

    def function(self, name: str) -> c_void_p:
        found = c_void_p()
        assert self.cu.cuModuleGetFunction(byref(found), self.module, c_char_p(name.encode())) == 0
        return found

    def parameters(self, count: int = N) -> ctypes.Array[c_void_p]:
        values = (c_void_p(self.x.value), c_int(count))
        self.kept.append(values)
        return (c_void_p * 2)(*map(ctypes.addressof, values))

    def launch(self, function: c_void_p, shared: int = 0, threads: int = 64) -> int:
        return int(
            self.cu.cuLaunchKernel(function, 2, 1, 1, threads, 1, 1, shared, self.stream, self.parameters(), None)
        )

    def node(self, function: c_void_p, count: int = N) -> NodeParameters:
        return NodeParameters(function, 2, 1, 1, 64, 1, 1, 0, self.parameters(count), None)

    def write(self, values: np.ndarray) -> None:
        assert self.cu.cuMemcpyHtoD_v2(self.x, c_void_p(values.ctypes.data), c_size_t(values.nbytes)) == 0

    def read(self) -> np.ndarray:
        values = np.zeros(N, np.int32)
        assert self.cu.cuMemcpyDtoH_v2(c_void_p(values.ctypes.data), self.x, c_size_t(BYTES)) == 0
        return values


@pytest.fixture
def session() -> Iterator[Session]:
    session = Session()
    yield session
    session.close()


def test_launches_wait_for_the_host(session: Session) -> None:
    start = np.arange(N)
    assert session.launch(session.function("twice")) == session.launch(session.function("add")) == 0
    np.testing.assert_array_equal(session.read(), start)  # the default stream does not wait for this one
    assert session.cu.cuStreamSynchronize(session.stream) == 0
    np.testing.assert_array_equal(session.read(), start * 2 + 3)


def test_events_order_streams_and_measure(session: Session) -> None:
    first, last, other = c_void_p(), c_void_p(), c_void_p()
    assert session.cu.cuEventCreate(byref(first), 0) == session.cu.cuEventCreate(byref(last), 0) == 0
    assert session.cu.cuStreamCreate(byref(other), 1) == 0
    session.cu.cuEventRecord(first, session.stream)
    session.launch(session.function("add"))
    session.cu.cuEventRecord(last, session.stream)
    elapsed = ctypes.c_float(-1)
    assert session.cu.cuEventElapsedTime(byref(elapsed), first, last) == NOT_READY
    assert session.cu.cuStreamWaitEvent(other, last, 0) == session.cu.cuStreamSynchronize(other) == 0
    np.testing.assert_array_equal(session.read(), np.arange(N) + 3)
    assert session.cu.cuEventElapsedTime(byref(elapsed), first, last) == 0 < elapsed.value
    for event in (first, last):
        assert session.cu.cuEventDestroy_v2(event) == 0
    assert session.cu.cuStreamDestroy_v2(other) == 0


def graph_results(session: Session, dependent: bool) -> set[int]:
    """The last integer after a graph of `twice` and `add`, for several seeds."""
    graph, exec_, one, two = c_void_p(), c_void_p(), c_void_p(), c_void_p()
    assert session.cu.cuGraphCreate(byref(graph), 0) == 0
    twice, add = session.node(session.function("twice")), session.node(session.function("add"))
    assert session.cu.cuGraphAddKernelNode(byref(one), graph, None, c_size_t(0), byref(twice)) == 0
    after = (byref(one), c_size_t(1)) if dependent else (None, c_size_t(0))
    assert session.cu.cuGraphAddKernelNode(byref(two), graph, *after, byref(add)) == 0
    assert session.cu.cuGraphInstantiateWithFlags(byref(exec_), graph, ctypes.c_ulonglong(0)) == 0
    results = set()
    for seed in range(8):
        configure(seed=seed)
        session.write(np.arange(N, dtype=np.int32))
        assert session.cu.cuGraphLaunch(exec_, session.stream) == session.cu.cuStreamSynchronize(session.stream) == 0
        results.add(int(session.read()[-1]))
    changed = session.node(session.function("add"), count=1)
    assert session.cu.cuGraphExecKernelNodeSetParams(exec_, two, byref(changed)) == 0
    session.write(np.arange(N, dtype=np.int32))
    assert session.cu.cuGraphLaunch(exec_, session.stream) == session.cu.cuStreamSynchronize(session.stream) == 0
    assert session.read()[-1] == (N - 1) * 2
    assert session.cu.cuGraphExecDestroy(exec_) == session.cu.cuGraphDestroy(graph) == 0
    return results


def test_graph_shows_a_missing_dependency(session: Session) -> None:
    assert graph_results(session, dependent=True) == {201}
    assert graph_results(session, dependent=False) == {201, 204}


def test_memories_are_apart(session: Session) -> None:
    host = np.zeros(N, np.int32)
    pointer, size = c_void_p(host.ctypes.data), c_size_t(BYTES)
    assert session.cu.cuMemcpyHtoD_v2(pointer, pointer, size) == INVALID_VALUE
    assert session.cu.cuMemcpyHtoD_v2(session.x, session.x, size) == INVALID_VALUE
    assert session.cu.cuMemcpyDtoH_v2(session.x, session.x, size) == INVALID_VALUE
    assert session.cu.cuMemcpyDtoH_v2(pointer, session.x, c_size_t(BYTES + 1)) == INVALID_VALUE
    assert session.cu.cuMemAlloc_v2(byref(c_void_p()), c_size_t(1 << 40)) == OUT_OF_MEMORY


def test_what_a_launch_may_have(session: Session) -> None:
    add = session.function("add")
    assert session.launch(add, threads=65) == session.launch(add, shared=50 << 10) == INVALID_VALUE
    assert session.cu.cuFuncSetAttribute(add, MAX_DYNAMIC_SHARED, 228 << 10) == INVALID_VALUE
    assert session.cu.cuFuncSetAttribute(add, MAX_DYNAMIC_SHARED, 50 << 10) == session.launch(add, shared=50 << 10) == 0
    assert session.cu.cuModuleGetFunction(byref(c_void_p()), session.module, b"none") == NOT_FOUND


def test_images_are_for_devices(session: Session) -> None:
    module = c_void_p()
    for arch, device, expected in ((80, 86, 0), (86, 80, NO_BINARY), (80, 90, NO_BINARY), (-75, 90, 0), (-90, 80, 218)):
        configure(arch=device)
        assert session.cu.cuModuleLoadData(byref(module), emulated(SOURCE, arch)) == expected
        assert expected or session.cu.cuModuleUnload(module) == 0
    assert session.cu.cuModuleLoadData(byref(module), b"\x00" * 64) == 200


def test_failure_stays(session: Session, capfd: pytest.CaptureFixture[str]) -> None:
    add = session.function("add")
    assert session.launch(session.function("broken")) == 0
    assert session.cu.cuStreamSynchronize(session.stream) == LAUNCH_FAILED
    assert "kernel broken, block" in capfd.readouterr().err
    assert session.launch(add) == LAUNCH_FAILED
