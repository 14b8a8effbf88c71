"""Models compiled for GPUs give the reference's integers on an emulated one; what the file holds; what is refused."""

import gc
import pickle
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
import tiny
from emulation.simt import emulated
from emulation.simt.driver import NAME, configure, install

import intvit
from intvit.cuda import compilation
from intvit.cuda.compilation import write_cuda_module
from intvit.cuda.proof import prove_no_float_images
from intvit.cuda.runtime import CudaModel
from intvit.cuda.tables import Binary, model_header
from intvit.cuda.targets import resolve_gpu
from intvit.cuda.toolkit import find_compiler
from intvit.errors import IntvitError, UnsupportedOp, VerifyError
from intvit.kernels.cuda.arch import Arch
from intvit.verify.bit_exact import prove_bit_exact

EMULATED = f'#define INTVIT_DRIVER "{NAME}"\n'
FEW, MANY = 1, 10**6
"""Multiprocessors of a GPU whose steps take their largest tiles, and their smallest."""


def emulated_images(source: str, arch: Arch, kernels: Collection[str]) -> list[Binary]:
    return [Binary(arch.name, arch.number, False, emulated(source, arch=arch.number))]


@pytest.fixture(scope="module", params=["sm_75", "sm_90"])
def module(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model for an emulated GPU: with the instructions of the first architecture, and with later ones."""
    path = tmp_path_factory.mktemp("cuda") / f"{request.param}.so"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilation, "compiled", emulated_images)
        patch.setattr(compilation, "model_header", lambda *arguments: EMULATED + model_header(*arguments))
        write_cuda_module(tiny.integer_model(), path, f"cuda:{request.param}")
    return path


@pytest.mark.parametrize(("processors", "seed"), [(FEW, 0), (132, 1), (MANY, 2)])
def test_the_integers_of_the_reference(module: Path, processors: int, seed: int) -> None:
    install()
    configure(arch=int(module.stem[-2:]), processors=processors, seed=seed)
    model = intvit.load(module)
    assert isinstance(model, CudaModel)
    assert model.target == f"cuda:{module.stem}" and model.digest == tiny.integer_model().digest
    assert prove_bit_exact(model, tiny.integer_model()) > 0
    model.close()


def test_a_file_that_was_replaced_is_read_anew(module: Path, real: Path, tmp_path: Path) -> None:
    """Not taken for the library that was loaded from there before, and is still."""
    path, kept = tmp_path / "m.so", []
    for source, target in ((module, f"cuda:{module.stem}"), (real, "cuda:sm_80")):
        other = tmp_path / "other.so"
        other.write_bytes(source.read_bytes())
        other.replace(path)
        kept.append(CudaModel(path, device=None))
        assert kept[-1].target == target


def test_the_last_object_takes_the_model_off_the_device(module: Path) -> None:
    driver = install()
    configure(arch=int(module.stem[-2:]))
    before = driver.simt_allocated()
    models = [CudaModel.load(module), CudaModel.load(module)]
    models[0].integers(tiny.pixels(2))
    assert driver.simt_allocated() > before
    del models[0]
    models[0].integers(tiny.pixels(1))
    models.clear()
    gc.collect()
    assert driver.simt_allocated() == before


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with machine code for an architecture."""
    try:
        find_compiler()
    except IntvitError as error:
        pytest.skip(str(error))
    path = tmp_path_factory.mktemp("real") / "m.so"
    write_cuda_module(tiny.integer_model(), path, "cuda:sm_80")
    return path


def test_what_the_file_holds(real: Path) -> None:
    """Read without a GPU: machine code, PTX, and the model's description."""
    model = CudaModel(real, device=None)
    assert set(model.images) == {"sm_80", "PTX"}
    assert model.images["sm_80"].startswith(b"\x7fELF") and b".target sm_80" in model.images["PTX"]
    assert model.metadata == tiny.integer_model().metadata
    assert len(model.kernels) == len(set(model.kernels)) > 10


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line in a process without the emulated driver."""
    return subprocess.run(
        [sys.executable, "-m", "intvit", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_proofs_need_no_gpu(real: Path) -> None:
    done = command("verify", real, "--json")
    assert done.returncode == 0 and '"integer_only": true' in done.stdout, done.stderr
    assert command("inspect", real).returncode == 0


def test_running_without_a_driver_is_refused(real: Path) -> None:
    if has_driver():
        pytest.skip("this machine has an NVIDIA driver")
    done = command("bench", real)
    assert done.returncode == 2 and "NVIDIA driver" in done.stderr and done.stderr.count("\n") == 1


def has_driver() -> bool:
    code = "import ctypes; ctypes.CDLL('libcuda.so.1')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_a_planted_float_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The proof reads what the compiler made, and nothing is written where it fails."""
    plain = compilation.cuda_source
    planted = '\nextern "C" __global__ void product_planted(float* x) { x[threadIdx.x] *= 1.5f; }\n'
    monkeypatch.setattr(compilation, "cuda_source", lambda *arguments: plain(*arguments) + planted)
    try:
        find_compiler()
    except IntvitError as error:
        pytest.skip(str(error))
    with pytest.raises(VerifyError, match="product_planted"):
        write_cuda_module(tiny.integer_model(), tmp_path / "m.so", "cuda:sm_90")
    assert not list(tmp_path.iterdir())


def test_published_forms_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOp, match="attention_published, gelu_published, layernorm_published"):
        write_cuda_module(tiny.integer_model("paper"), tmp_path / "m.so", "cuda:sm_90")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("cuda:sm_91", "did you mean cuda:sm_90"),
        ("cuda:sm_87", "did you mean cuda:sm_86"),
        ("cuda:", "unknown target"),
        ("cuda:70", "unknown target"),
    ],
)
def test_unknown_architectures(target: str, message: str) -> None:
    with pytest.raises(IntvitError, match=message):
        resolve_gpu(target)


def test_a_named_architecture_need_not_be_here(real: Path, tmp_path: Path) -> None:
    model = intvit.compile(tiny.integer_model(), "cuda:sm_80")
    model.save(tmp_path / "m.so")
    assert (tmp_path / "m.so").read_bytes()[:4] == b"\x7fELF" and model.target == "cuda:sm_80"


def test_machine_code_that_nobody_reads_is_not_proved(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intvit.verify.machine.disassembler.programs", lambda name: [])
    model = CudaModel(real, device=None)
    with pytest.raises(IntvitError, match="nvidia-cuda-nvdisasm"):
        prove_no_float_images(model.images, model.kernels)


def test_what_a_model_on_a_gpu_is_not(module: Path) -> None:
    with pytest.raises(IntvitError, match="number"):
        CudaModel(module, device="cuda:0")  # type: ignore[arg-type]
    with pytest.raises(IntvitError, match="pickled"):
        pickle.dumps(CudaModel(module, device=None))


def test_heads_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Of 512 channels, on GPUs with little shared memory; nothing is written."""
    images = np.random.default_rng(0).normal(size=(4, *tiny.SHAPE)).astype(np.float32)
    model = intvit.quantize(tiny.TinyViT(512, depth=1, heads=1).eval(), list(images))
    with pytest.raises(UnsupportedOp, match="512 channels are too large for sm_89"):
        write_cuda_module(model, tmp_path / "m.so", "cuda:sm_89")
    assert not list(tmp_path.iterdir())


def test_other_refusals(tmp_path: Path) -> None:
    model = tiny.integer_model()
    with pytest.raises(IntvitError, match="shared library"):
        write_cuda_module(model, tmp_path / "m.o", "cuda:sm_90")
    with pytest.raises(IntvitError, match="threads"):
        intvit.compile(model, "cuda:sm_90", threads=1)
    from intvit.compilation import write_module

    with pytest.raises(IntvitError, match="not tuned"):
        write_module(model, tmp_path / "m.so", "cuda:sm_90", tune=1)
