"""The loader inside a module for GPUs: plans, memory, streams, and what it says where it cannot run.

A library in the driver's place runs kernels that are C functions; its steps run as late as the graph's edges allow.
"""

import ctypes
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hand_made import Stub, expected, pixels

from intvit.cuda.runtime import CudaModel
from intvit.errors import IntvitError
from intvit.linking import SOURCES
from intvit.model import Array


def aligned(size: int, offset: int = 0) -> Array:
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    return memory[start : start + size]


class Call:
    """Images and outputs in "device" memory, which is the host's here."""

    def __init__(self, images: Array, offset: int = 0, images_offset: int = 0) -> None:
        self.images = aligned(images.size, images_offset)
        self.images[:] = images.ravel()
        self.outputs = [aligned(size * len(images), offset) for size in (192, 4)]
        self.batch = len(images)

    def run(self, model: CudaModel, stream: int | None = None, device: int = 0) -> int:
        pointers = (ctypes.c_void_p * 2)(*(y.ctypes.data for y in self.outputs))
        run = model._library.intvit_cuda_run
        status: int = run(device, self.images.ctypes.data, self.batch, pointers, stream)
        return status

    def results(self) -> tuple[Array, Array]:
        first, second = (y.view(np.int32) for y in self.outputs)
        return first.reshape(-1, 16, 3), second.reshape(-1, 1)


def same(found: tuple[Array, ...], wanted: tuple[Array, ...]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("batch", [1, 3, 50, 1000])
def test_a_batch_from_the_host(stub: Stub, batch: int) -> None:
    model, images = stub.model(), pixels(batch)
    for _ in range(2):
        assert same(model.integers(images), expected(images))
    assert stub.log().count("instantiate") == 1


def test_steps_of_a_phase_may_change_places_and_phases_may_not(stub: Stub) -> None:
    """The stand-in takes the step that was added last of those that may run."""
    model = stub.model()
    stub.log()
    model.integers(pixels(1))
    ran = [line.split()[0] for line in stub.log() if re.search(r"\dx\d", line)]
    assert ran == ["triple_small", "bias", "sum", "total"]


@pytest.mark.parametrize(
    ("batch", "processors", "launched"),
    [
        (7, 8, "triple_small 42x8"),
        (8, 8, "triple_wide 8x48"),
        (8, 9, "triple_small 48x8"),
        (1, 500, "triple_small 6x8"),
    ],
)
def test_the_largest_tiles_that_keep_the_device_busy(stub: Stub, batch: int, processors: int, launched: str) -> None:
    """Else the last."""
    stub.settings.processors = processors
    model, images = stub.model(), pixels(batch)
    assert same(model.integers(images), expected(images))
    assert [line for line in stub.log() if line.startswith("triple")] == [launched]


def test_a_plan_follows_images_and_outputs(stub: Stub) -> None:
    model = stub.model()
    calls = [Call(pixels(3, seed)) for seed in range(3)]
    stub.log()
    for call in (*calls, calls[2]):
        assert call.run(model) == 0
        assert same(call.results(), expected(call.images.reshape(3, 4, 4, 3)))
    log = stub.log()
    assert log.count("instantiate") == 1
    assert log.count("redirect bias") == log.count("redirect total") == 2, "the last call has the pointers of the third"


@pytest.mark.parametrize("offset", [1, 8])
def test_images_need_no_alignment(stub: Stub, offset: int) -> None:
    model, images = stub.model(), pixels(3)
    call = Call(images, images_offset=offset)
    assert call.images.ctypes.data % 16 == offset
    assert call.run(model) == 0
    assert same(call.results(), expected(images))


def test_a_run_waits_for_the_last_where_the_stream_is_another(stub: Stub) -> None:
    model, call = stub.model(), Call(pixels(2))
    stub.log()
    for stream in (None, None, 4096, 4096, None):
        assert call.run(model, stream) == 0
    assert [line for line in stub.log() if line in ("wait", "record")] == [
        *("record", "record"),
        *("wait", "record", "record"),
        *("wait", "record"),
    ]


def test_sixteen_plans_are_kept(stub: Stub) -> None:
    """Twenty batch sizes: the last sixteen stay; what goes is waited for first."""
    model = stub.model()
    calls = {batch: Call(pixels(batch, batch)) for batch in range(1, 21)}
    for batch, call in calls.items():
        assert call.run(model) == 0
        assert calls[1].run(model) == 0, "used again and again, so that it stays"
        assert same(call.results(), expected(call.images.reshape(batch, 4, 4, 3)))
    assert stub.settings.used == 48 + 96 * (1 + sum(range(6, 21)))
    log = stub.log()
    assert log.count("instantiate") == 20
    for i, line in enumerate(log):
        assert not line.startswith("free") or log[i - 1] == "await"
    assert calls[20].run(model) == calls[5].run(model) == 0
    assert stub.log().count("instantiate") == 1


def test_plans_make_room(stub: Stub) -> None:
    stub.settings.memory = 48 + 96 * 100
    model = stub.model()
    for batch in (30, 60, 90, 10, 1):
        call = Call(pixels(batch))
        assert call.run(model) == 0
        assert same(call.results(), expected(call.images.reshape(batch, 4, 4, 3)))
    assert stub.settings.used == 48 + 96 * 11, "10 still fitted beside 90, which was used longer ago than it"


def test_a_batch_that_does_not_fit(stub: Stub) -> None:
    """Smaller ones do, before and after."""
    model = stub.model()
    stub.settings.memory = 100_000
    for batch in (50, 1000, 50):
        images = pixels(batch)
        if batch < 1000:
            assert same(model.integers(images), expected(images))
            continue
        with pytest.raises(
            IntvitError,
            match=r"GPU 0 \(NVIDIA Stub 0\) is out of memory: the batch needs 0.2 MB more; torch .*empty_cache\(\)",
        ):
            model.integers(images)


def test_a_model_that_does_not_fit(stub: Stub) -> None:
    stub.settings.memory = 40
    with pytest.raises(
        IntvitError, match=r"model.so: GPU 0 .* is out of memory: the model needs 0.0 MB more; torch keeps"
    ):
        stub.model()
    assert stub.settings.used == stub.settings.contexts == 0


def test_closing_gives_everything_back(stub: Stub) -> None:
    model, images = stub.model(), pixels(3)
    assert Call(images).run(model, device=1) == 0
    model.integers(images)
    assert stub.settings.contexts == 2
    model.close()
    assert stub.settings.used == stub.settings.contexts == 0
    model.close()
    assert same(model.integers(images), expected(images))
    assert stub.settings.contexts == 1


@pytest.mark.parametrize(
    ("major", "minor", "loaded"),
    [
        (7, 5, "sm_75"),
        (8, 0, "sm_80"),
        (8, 6, "sm_86"),
        (8, 7, "sm_86"),
        (8, 9, "sm_86"),
        (9, 0, "sm_90a"),
        (9, 3, "PTX"),
        (10, 0, "PTX"),
        (12, 0, "PTX"),
    ],
)
def test_the_image_that_fits(stub: Stub, major: int, minor: int, loaded: str) -> None:
    """Machine code of the same major version and the closest minor one; `a` for one version only; else PTX."""
    cubins = [(f"sm_{n}", n, 0) for n in (75, 86, 80)]
    path = stub.module(("PTX", 75, 1), *cubins, ("sm_90a", 90, 0), ("PTX90", 80, 1))
    stub.settings.major, stub.settings.minor = major, minor
    stub.log()
    CudaModel.load(path)
    wanted = "PTX90" if loaded == "PTX" else loaded
    assert stub.log()[0] == f"load {wanted}.kernels"


@pytest.mark.parametrize(
    ("minor", "remedy"),
    [(5, "compile there with --target cuda$"), (0, "compute capability 7.5 is the least that works$")],
)
def test_no_image_fits(stub: Stub, minor: int, remedy: str) -> None:
    path = stub.module(("sm_80", 80, 0), ("sm_86", 86, 0), ("PTX", 86, 1))
    stub.settings.major, stub.settings.minor = 7, minor
    reason = rf"compiled for sm_80, sm_86, this GPU is sm_7{minor} \(NVIDIA Stub 0\): {remedy}"
    with pytest.raises(IntvitError, match=reason):
        CudaModel.load(path)
    assert stub.settings.contexts == 0


def test_too_little_shared_memory(stub: Stub) -> None:
    """More than 48 KiB is asked for, and given where the device has it."""
    path, images = stub.module(shared=100_000), pixels(9)
    stub.settings.shared = 99_999
    reason = "triple_wide needs 100000 bytes of shared memory, this GPU .* has 99999: compile there with --target cuda$"
    with pytest.raises(IntvitError, match=reason):
        CudaModel.load(path)
    stub.settings.shared = 100_000
    assert same(CudaModel.load(path).integers(images), expected(images))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"init_result": 100}, "the NVIDIA driver shows no GPU: check CUDA_VISIBLE_DEVICES and nvidia-smi$"),
        ({"init_result": 3}, "forked from one that used the GPU, where CUDA does not work"),
        ({"init_result": 803}, r"cuInit: CUDA_ERROR_OF_STUB \(told by the stub\)$"),
        (
            {"load_result": 222, "version": 12040},
            r"driver \(for CUDA 12.4\) is too old .*sm_90, .*_PTX_VERSION\): update the driver, or "
            "compile with CUDA 12: pip install nvidia-cuda-nvrtc-cu12 in the place of nvidia-cuda-nvrtc$",
        ),
        ({"load_result": 209}, r"the NVIDIA driver \(for CUDA 13.0\) is too old for this module's code"),
        ({"load_result": 719}, "cuModuleLoadData: CUDA_ERROR_OF_STUB"),
        ({"devices": 0}, "there is no GPU 0: the driver shows 0, numbered from 0$"),
    ],
)
def test_what_is_wrong_with_the_driver(stub: Stub, changed: dict[str, int], reason: str) -> None:
    """The reason is told; nothing is left behind, and it works as soon as it can."""
    path = stub.module()
    before = {name: getattr(stub.settings, name) for name in changed}
    for name, value in changed.items():
        setattr(stub.settings, name, value)
    for _ in range(2):
        with pytest.raises(IntvitError, match=reason):
            CudaModel.load(path)
    assert stub.settings.contexts == stub.settings.used == 0
    for name, value in before.items():
        setattr(stub.settings, name, value)
    CudaModel.load(path)


def test_no_driver(stub: Stub, tmp_path: Path) -> None:
    """A library that is not there, and one that is and cannot be loaded: with the system's reason."""
    for name, reason in (("libcuda-none.so.1", "No such file or directory"), ("libcuda-text.so.1", "file too short")):
        (tmp_path / "libcuda-text.so.1").write_text("text")
        path = name if "none" in name else tmp_path / name
        wanted = rf"model.so: no NVIDIA driver: {path} cannot be loaded \({path}: .*{reason}\)$"
        with pytest.raises(IntvitError, match=wanted):
            CudaModel.load(stub.module(driver=str(path)))


def test_a_driver_without_a_function(stub: Stub) -> None:
    with pytest.raises(IntvitError, match=r"the NVIDIA driver is too old, it has no cuInit: install 470 or newer$"):
        CudaModel.load(stub.module(driver="libm.so.6"))


@pytest.mark.parametrize(("device", "reason"), [(2, "the driver shows 2"), (16, "numbered from 0"), (-1, "no GPU -1")])
def test_no_such_device(stub: Stub, device: int, reason: str) -> None:
    with pytest.raises(IntvitError, match=reason):
        stub.model(device)


@pytest.mark.parametrize(
    ("batch", "offset", "capturing", "status", "reason"),
    [
        (0, 0, 0, -6, "a batch must have 1 to 1000 images, not 0"),
        (1001, 0, 0, -6, "a batch must have 1 to 1000 images, not 1001"),
        (1, 8, 0, -7, "outputs must be aligned to 16 bytes"),
        (1, 0, 1, -8, "the stream is being captured, but the model is a CUDA graph already: run it outside of that"),
        (1, 0, 906, -8, "another stream is being captured, but the model is a CUDA graph already: run it outside"),
        (1, 0, 700, -10, "cuStreamIsCapturing: CUDA_ERROR_OF_STUB (told by the stub)"),
    ],
)
def test_refused_runs(stub: Stub, batch: int, offset: int, capturing: int, status: int, reason: str) -> None:
    model, call = stub.model(), Call(pixels(batch), offset)
    stub.settings.capturing = capturing
    stub.log()
    assert call.run(model) == status
    assert model._library.intvit_cuda_error().decode().startswith(reason)
    assert stub.log() == []


def test_a_forked_process_is_told(stub: Stub) -> None:
    """It must not wait for a lock or a device that it does not have."""
    model = stub.model()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            model.integers(pixels(1))
        except IntvitError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as told:
        assert told.read().startswith("this process was forked from one that used the GPU")
    model.integers(pixels(1))


def test_sizes(stub: Stub) -> None:
    library = stub.model()._library
    for name in ("intvit_image_bytes", "intvit_output_bytes", "intvit_workspace_bytes"):
        getattr(library, name).restype = ctypes.c_int64
    assert library.intvit_image_bytes() == 48
    assert [library.intvit_output_bytes(i) for i in (-1, 0, 1, 2)] == [0, 192, 4, 0]
    assert library.intvit_workspace_bytes(ctypes.c_int64(1 << 33)) == 96 << 33


def test_the_source_is_clean_and_shows_its_interface_only(stub: Stub, run_tool: Callable[..., str]) -> None:
    """Standard C without warnings; functions of `intvit_cuda.h`; no newer glibc than torch asks for."""
    path = stub.module()
    strict = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fPIC", "-fsyntax-only")
    run_tool(*stub.compiler.command, *strict, f"-I{path.parent}", f"-I{SOURCES}", SOURCES / "cuda.c", cwd=path.parent)
    defined = run_tool("nm", "-D", "--defined-only", path)
    declared = re.findall(r"\b(intvit_\w+)\(", (SOURCES / "intvit_cuda.h").read_text().split("#include", 1)[1])
    assert sorted(line.split()[-1] for line in defined.splitlines()) == sorted(set(declared))
    versions = re.findall(r"GLIBC_(\d+)\.(\d+)", run_tool("objdump", "-T", path))
    assert versions and max(tuple(map(int, v)) for v in versions) <= (2, 28)


@pytest.fixture
def run_tool() -> Callable[..., str]:
    def run(*command: str | Path, cwd: Path | None = None) -> str:
        done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
