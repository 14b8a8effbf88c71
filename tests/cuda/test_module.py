"""A module with kernels in CUDA C, on an emulated device that does everything as late as CUDA allows."""

import ctypes
import threading
from typing import Any

import numpy as np
import pytest
from emulation.simt import emulated
from emulation.simt.driver import NAME, configure, install
from hand_made import Stub, expected, pixels

from intvit.cuda.runtime import CudaModel
from intvit.errors import IntvitError

KERNEL = 'extern "C" __global__ void __launch_bounds__({threads}) {name}({parameters}, int rows)'
BODY = " {{\n  int i = (int)blockIdx.x * {threads} + (int)threadIdx.x;\n  if (i < rows) {{\n    {body}\n  }}\n}}\n"
BYTES = "unsigned char* __restrict__ {}"
NUMBERS = "int* __restrict__ {}"
KERNELS = [
    ("bias", 16, [BYTES, BYTES, BYTES], "c[i] = (unsigned char)(a[i] + b[i % 48]);"),
    ("triple_wide", 48, [BYTES, BYTES], "b[i] = (unsigned char)(3 * a[i]);"),
    ("triple_small", 8, [BYTES, BYTES], "b[i] = (unsigned char)(3 * a[i]);"),
    ("sum", 32, [BYTES, BYTES, NUMBERS], "c[i] = (int)a[i] - (int)b[i];"),
    ("total", 1, [NUMBERS, NUMBERS], "int s = 0; for (int j = 0; j < 48; ++j) { s = s + a[i * 48 + j]; } b[i] = s;"),
]


def source() -> str:
    """The kernels of the hand-made model as TVM writes them."""
    text = "#include <cuda.h>\n"
    for name, threads, kinds, body in KERNELS:
        parameters = ", ".join(kind.format(letter) for kind, letter in zip(kinds, "abc", strict=False))
        header = KERNEL.format(name=name, threads=threads, parameters=parameters)
        text += f"{header};\n{header}{BODY.format(threads=threads, body=body)}"
    return text


@pytest.fixture(scope="session")
def code() -> bytes:
    return emulated(source(), arch=90)


@pytest.fixture(params=[0, 1, 2])
def model(request: pytest.FixtureRequest, stub: Stub, code: bytes) -> CudaModel:
    """On a device whose order of work is drawn from a seed."""
    configure(seed=request.param)
    return CudaModel.load(stub.module(driver=NAME, code=code))


def right(model: CudaModel, batch: int, seed: int) -> bool:
    images = pixels(batch, seed)
    found = model.integers(images)
    return all(map(np.array_equal, found, expected(images)))


def test_batches(model: CudaModel) -> None:
    """More sizes than plans are kept, and each twice."""
    assert all(right(model, batch, seed) for seed in (0, 1) for batch in (1, 3, 50, *range(4, 22)))


def test_threads(model: CudaModel) -> None:
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda i=i: results.extend(right(model, 1 + i % 3, i + n) for n in range(5)))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 40


class Gpu:
    """The driver as another library of the process uses it: memory and streams of the same context."""

    def __init__(self) -> None:
        self.driver = install()
        context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self.call("cuCtxPushCurrent_v2", context)

    def call(self, name: str, *arguments: Any) -> None:
        assert getattr(self.driver, name)(*arguments) == 0, name

    def array(self, values: "np.ndarray[Any, Any]") -> int:
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(values.nbytes))
        self.call("cuMemcpyHtoD_v2", address, values.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(values.nbytes))
        return address.value

    def read(self, address: int, shape: tuple[int, ...]) -> "np.ndarray[Any, Any]":
        values = np.empty(shape, np.int32)
        to, size = values.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(values.nbytes)
        self.call("cuMemcpyDtoH_v2", to, ctypes.c_uint64(address), size)
        return values

    def stream(self) -> ctypes.c_void_p:
        found = ctypes.c_void_p()
        self.call("cuStreamCreate", ctypes.byref(found), 1)
        return found

    def close(self) -> None:
        self.call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))


@pytest.mark.parametrize("batches", [[2] * 12, list(range(1, 25)), [5, 1] * 6])
def test_runs_on_many_streams(model: CudaModel, batches: list[int]) -> None:
    """All are launched before any is waited for: one plan on several streams, and plans that go while they run."""
    gpu = Gpu()
    streams = [gpu.stream() for _ in range(3)] + [None]
    calls = []
    for i, batch in enumerate(batches):
        images = pixels(batch, i)
        outputs = [gpu.array(np.zeros((batch, 48), np.int32)), gpu.array(np.zeros((batch, 1), np.int32))]
        calls.append((images, gpu.array(images), outputs))
    for i, (images, address, outputs) in enumerate(calls):
        pointers = (ctypes.c_void_p * 2)(*outputs)
        assert model._library.intvit_cuda_run(0, address, len(images), pointers, streams[i % 4]) == 0
    gpu.call("cuCtxSynchronize")
    for images, _, (first, second) in calls:
        wanted = expected(images)
        np.testing.assert_array_equal(gpu.read(first, wanted[0].shape), wanted[0])
        np.testing.assert_array_equal(gpu.read(second, wanted[1].shape), wanted[1])
    gpu.close()


def test_profile_leaves_runs_alone(model: CudaModel) -> None:
    """It waits for a run of the same plan on another stream."""
    gpu, images = Gpu(), pixels(4)
    outputs = [gpu.array(np.zeros((4, 48), np.int32)), gpu.array(np.zeros((4, 1), np.int32))]
    run = model._library.intvit_cuda_run
    assert run(0, gpu.array(images), 4, (ctypes.c_void_p * 2)(*outputs), gpu.stream()) == 0
    assert all(step.seconds >= 0 for step in model.profile(images, repeats=2))
    gpu.call("cuCtxSynchronize")
    np.testing.assert_array_equal(gpu.read(outputs[0], (4, 16, 3)), expected(images)[0])
    gpu.close()


def test_memory(stub: Stub, code: bytes) -> None:
    """A device with little of it keeps few plans; closing gives all back."""
    before = install().simt_allocated()
    model = CudaModel.load(stub.module(driver=NAME, code=code))
    configure(memory=before + 100_000)
    assert all(right(model, batch, batch) for batch in (100, 150, 200, 100))
    with pytest.raises(IntvitError, match=r"is out of memory: the batch needs 0\.2 MB more"):
        model.integers(pixels(1000))
    assert right(model, 100, 0)
    model.close()
    assert install().simt_allocated() == before
    configure()


def test_another_architecture(stub: Stub, code: bytes) -> None:
    """Code that the device refuses, though its table says that it fits."""
    configure(arch=80)
    with pytest.raises(IntvitError, match=r"compiled for sm_90, this GPU is sm_80 \(emulated sm_80\): compile there"):
        CudaModel.load(stub.module(driver=NAME, code=code))
    with pytest.raises(IntvitError, match=r"too old for this module's code \(sm_80, CUDA_ERROR_NO_BINARY_FOR_GPU\)"):
        CudaModel.load(stub.module(("sm_80", 80, 0), driver=NAME, code=code))
    configure()
