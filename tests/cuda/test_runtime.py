"""`CudaModel`: what goes in and comes out, what is refused, and what it needs of Python. The driver is a stand-in."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hand_made import GRID, METADATA, Stub, expected, pixels

import intvit
from intvit.cuda import tensors
from intvit.cuda.runtime import CudaModel, is_cuda_module
from intvit.errors import IntvitError
from intvit.input_grid import InputGrid
from intvit.seal import seal


class OnGpu(torch.Tensor):
    """A tensor that says it lies on the second GPU; the stand-in's devices have the host's memory."""

    is_cuda = property(lambda self: True)
    device = property(lambda self: torch.device("cuda", 1))

    @staticmethod
    def of(array: "np.ndarray[Any, Any]") -> "OnGpu":
        """A copy."""
        found: OnGpu = torch.from_numpy(array.copy()).as_subclass(OnGpu)
        return found


@pytest.fixture
def gpu_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made "on the GPU" lies where those tensors do; their stream has the number 4096."""

    def here(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return lambda *sizes, device, **options: make(*sizes, **options)

    monkeypatch.setattr(torch, "empty", here(torch.empty))
    monkeypatch.setattr(torch, "tensor", here(torch.tensor))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=4096))


@pytest.mark.parametrize("convert", [np.asarray, torch.tensor])
def test_arrays_of_the_host(stub: Stub, convert: Callable[[Any], Any]) -> None:
    """Pixels and normalized floats, integers and scaled, as every model has them."""
    model, images = stub.model(), pixels(3)
    first, second = expected(images)
    for given in (images, GRID.normalized(images)):
        raw = model(convert(given), raw=True)
        assert isinstance(raw, tuple) and all(map(np.array_equal, raw, (first, second)))
        real = model(convert(given))
        assert all(map(np.array_equal, real, ((first * 0.5).astype(np.float32), (second * 0.125).astype(np.float32))))
        assert [y.dtype for y in real] == [np.float32] * 2


@pytest.mark.usefixtures("gpu_torch")
@pytest.mark.parametrize("floats", [False, True])
def test_a_tensor_on_a_gpu(stub: Stub, floats: bool) -> None:
    """It runs where it lies, on torch's stream and without a copy, and so do its results."""
    model, images = stub.model(), pixels(5)
    first, second = expected(images)
    given = OnGpu.of(GRID.normalized(images) if floats else images)
    stub.log()
    raw = model(given, raw=True)
    assert all(isinstance(y, torch.Tensor) and y.dtype == torch.int32 for y in raw)
    assert all(map(np.array_equal, map(np.asarray, raw), (first, second)))
    log = stub.log()
    assert "load sm_90.kernels" in log and "synchronize" not in log, "opened there; nothing is waited for"
    assert not [line for line in log if line.startswith("allocate") and line.split()[1] not in ("48", "480")]
    real = model(given)
    assert all(map(np.array_equal, map(np.asarray, real), ((first * 0.5), (second * 0.125))))
    assert stub.settings.contexts == 2
    assert not stub.log().count("wait"), "the stream is that of the run before"


@pytest.mark.usefixtures("gpu_torch")
def test_a_part_of_a_tensor(stub: Stub) -> None:
    """Its images lie at an odd address."""
    whole = torch.from_numpy(np.append(np.uint8(0), pixels(2)))
    given = whole[1:].reshape(2, 4, 4, 3).as_subclass(OnGpu)
    assert given.data_ptr() % 2
    assert all(map(np.array_equal, map(np.asarray, stub.model()(given, raw=True)), expected(pixels(2))))


@pytest.mark.usefixtures("gpu_torch")
def test_floats_on_a_gpu_are_rounded_as_on_the_cpu() -> None:
    """Random values, and those in the middle of two pixels."""
    middle = (np.arange(48, dtype=np.float64) + 0.5).reshape(1, 4, 4, 3)
    grids = (GRID, InputGrid((0.25,) * 3, (0.0,) * 3, (3, 4, 4)), InputGrid.of_range(-2.0, 3.0, (3, 4, 4)))
    for grid in grids:
        noise = np.random.default_rng(0).normal(0, 3, (500, 3, 4, 4)).astype(np.float32)
        images = np.concatenate([noise, (middle * grid.scale + grid.offset).transpose(0, 3, 1, 2).astype(np.float32)])
        found = tensors.pixels_of(OnGpu.of(images), grid)
        assert found.is_contiguous() and np.array_equal(np.asarray(found), grid.pixels(images))


@pytest.mark.usefixtures("gpu_torch")
@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (torch.zeros(1, 4, 4, 3, dtype=torch.int32), r"must be float32 \(normalized\) or uint8 \(raw\), not int32"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), r"uint8 images must be \[batch, 4, 4, 3\], not \[1, 3, 4, 4\]"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r"not \[4, 4, 3\]"),
        (torch.zeros(0, 4, 4, 3, dtype=torch.uint8), "the batch is empty"),
        (torch.zeros(1, 4, 4, 3), r"float32 images must be \[batch, 3, 4, 4\]"),
        (torch.full((1, 3, 4, 4), torch.nan), "images hold NaN or inf"),
        (torch.zeros(2, 4, 4, 4, dtype=torch.uint8)[..., :3], r"must be contiguous: give images.contiguous\(\)"),
        (torch.zeros(1001, 4, 4, 3, dtype=torch.uint8), "a batch must have 1 to 1000 images, not 1001"),
    ],
)
def test_refused_tensors(stub: Stub, images: torch.Tensor, reason: str) -> None:
    with pytest.raises(IntvitError, match=reason):
        stub.model()(images.as_subclass(OnGpu))


def test_gpu_arrays_of_other_libraries_are_refused(stub: Stub) -> None:
    images = SimpleNamespace(__dlpack_device__=lambda: (2, 0))
    with pytest.raises(IntvitError, match=r"must be a torch tensor, not SimpleNamespace: torch.from_dlpack\(images\)"):
        stub.model()(images)


@pytest.mark.parametrize("wrong", [np.zeros((1, 4, 4, 4), np.uint8), np.zeros((1, 4, 4, 3), np.int8), np.zeros(48)])
def test_refused_pixels(stub: Stub, wrong: "np.ndarray[Any, Any]") -> None:
    with pytest.raises(IntvitError, match=r"pixels must be uint8 \[batch, 4, 4, 3\], not "):
        stub.model().integers(wrong)


def test_any_thread_at_any_time(stub: Stub) -> None:
    """Eight threads, each with its own images and batch sizes, on two devices, again and again."""
    path = stub.module()
    models = [CudaModel.load(path, device) for device in (0, 1)]
    images = [pixels(1 + i % 3, seed=i) for i in range(8)]
    wanted = [expected(given) for given in images]
    right: list[bool] = []

    def work(i: int) -> None:
        right.extend(all(map(np.array_equal, models[i % 2].integers(images[i]), wanted[i])) for _ in range(20))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 160


def test_profile(stub: Stub) -> None:
    """Each step as often as asked and once more, after a whole run; the stand-in's clock says 0.5 ms."""
    model = stub.model()
    stub.log()
    steps = model.profile(pixels(4), repeats=10)
    assert [(step.name, step.path, step.multiply_adds) for step in steps] == [
        *(("bias", "a", 192), ("triple", "b", 576), ("sum", "c", 192), ("total", "d", 192)),
    ]
    np.testing.assert_allclose([step.seconds for step in steps], 5e-5, rtol=1e-6)
    log = stub.log()
    assert [sum(line.startswith(name) for line in log) for name in ("bias", "triple", "sum", "total")] == [12] * 4
    for batch, repeats in ((0, 1), (1, 0), (1001, 1)):
        with pytest.raises(IntvitError, match=r"must|empty"):
            model.profile(pixels(batch), repeats)


def test_attributes_and_saving(stub: Stub, tmp_path: Path) -> None:
    model = stub.model()
    assert (model.metadata, model.digest, model.target) == (METADATA, "d" * 64, "cuda:sm_90")
    model.save(tmp_path / "copy.so")
    copy = intvit.load(tmp_path / "copy.so")
    assert isinstance(copy, CudaModel)
    assert all(map(np.array_equal, copy(pixels(2), raw=True), expected(pixels(2))))


def test_threads_are_not_for_gpus(stub: Stub) -> None:
    with pytest.raises(IntvitError, match="compiled for GPUs, where threads are not chosen"):
        intvit.load(stub.module(), threads=2)


@pytest.mark.parametrize("blocked", ["torch", "tvm", "tvm_ffi"])
def test_a_process_without_torch_and_tvm(stub: Stub, tmp_path: Path, blocked: str) -> None:
    """Blocked or not, the three are not imported."""
    np.save(tmp_path / "x.npy", pixels(3))
    code = (
        f"import sys\nsys.modules[{blocked!r}] = None\nimport numpy as np, intvit\n"
        "first, second = intvit.load(sys.argv[1])(np.load(sys.argv[2]), raw=True)\n"
        "assert not {'torch', 'tvm', 'tvm_ffi'} & {name for name, module in sys.modules.items() if module}\n"
        "np.savez(sys.argv[3], first, second)\n"
    )
    files = [str(stub.module()), str(tmp_path / "x.npy"), str(tmp_path / "y.npz")]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "y.npz") as found:
        assert all(map(np.array_equal, found.values(), expected(pixels(3))))


def test_files_that_are_no_modules_for_gpus(stub: Stub, tmp_path: Path) -> None:
    """Each gets one line, and nothing of a damaged file is run."""
    path = stub.module()
    assert is_cuda_module(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "changed.so").write_bytes(content)
    (tmp_path / "short.so").write_bytes(path.read_bytes()[:-1000])
    (tmp_path / "other.so").write_bytes(b"\x7fELF and nothing else")
    seal(tmp_path / "other.so")
    (tmp_path / "empty.so").touch()
    for name, reason in (
        ("changed.so", "damaged, its digest does not fit its content"),
        ("short.so", "no seal at its end"),
        ("other.so", "not a model for GPUs: make one with `intvit compile --target cuda`"),
        ("empty.so", "no seal at its end"),
        ("none.so", "no such file"),
    ):
        with pytest.raises(IntvitError, match=f"{name}: .*{reason}"):
            CudaModel.load(tmp_path / name)
        assert name in ("changed.so", "short.so") or not is_cuda_module(tmp_path / name)
    with pytest.raises(IntvitError, match="damaged, its digest does not fit its content"):
        intvit.load(tmp_path / "changed.so")
