"""Compiling CUDA code with NVRTC and nvcc; most tests need one of them and no GPU."""

import os
from pathlib import Path

import pytest

from intvit.cuda import toolkit
from intvit.cuda.image import Resources, first_error, make_image, resources_in
from intvit.cuda.nvcc import find_nvcc
from intvit.cuda.nvrtc import find_nvrtc
from intvit.cuda.toolkit import compile_image, find_compiler
from intvit.errors import IntvitError
from intvit.kernels.cuda.arch import ARCHS
from intvit.nvidia import HOMES, libraries, programs

ELF_MACHINE = 190
ARCHITECTURES = (*ARCHS, "sm_90a")
PARAMETERS = "const int* __restrict__ x, int* __restrict__ y, int n"
ADD = f'extern "C" __global__ void add({PARAMETERS}) {{ y[threadIdx.x] = x[threadIdx.x] + n; }}\n'
SHARED = f"""extern "C" __global__ void reverse({PARAMETERS}) {{
  __shared__ int values[512];
  values[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = values[511 - threadIdx.x] + n;
}}
"""
SPILLS = f"""extern "C" __global__ void __launch_bounds__(1024, 1) spills({PARAMETERS}) {{
  const volatile int* from = x;
  volatile int* to = y;
  int values[128];
  #pragma unroll
  for (int j = 0; j < 128; ++j) values[j] = from[j];
  #pragma unroll
  for (int j = 0; j < 128; ++j) to[j] = values[j];
}}
"""
"""128 values that are needed at once, in a kernel whose blocks leave 64 registers for a thread."""
LOG = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'first' for 'sm_90'
ptxas info    : Function properties for first
ptxas         .     120 bytes stack frame, 144 bytes spill stores, 156 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 120 bytes cumulative stack size, 2048 bytes smem
ptxas info    : Function properties for helper
ptxas         .     8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Compiling entry function 'second' for 'sm_90'
ptxas info    : Function properties for second
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 24 registers, 372 bytes cmem[0]
"""


@pytest.fixture(params=["nvrtc", "nvcc"])
def compiler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each compiler that this machine has, chosen."""
    name = str(request.param)
    if {"nvrtc": find_nvrtc, "nvcc": find_nvcc}[name]() is None:
        pytest.skip(f"{name} is not found: pip install nvidia-cuda-{name}")
    monkeypatch.setenv(toolkit.CHOICE, name)
    return name


def test_every_architecture_gets_machine_code_and_ptx(compiler: str) -> None:
    images = {architecture: compile_image(ADD + SHARED, architecture) for architecture in ARCHITECTURES}
    for architecture, image in images.items():
        assert image.cubin[:4] == b"\x7fELF" and int.from_bytes(image.cubin[18:20], "little") == ELF_MACHINE
        assert f".target {architecture}\n" in image.ptx and "\0" not in image.ptx
        assert set(image.kernels) == {"add", "reverse"}
        assert 0 < image.kernels["add"].registers < 32 and image.kernels["add"].shared == 0
        assert image.kernels["reverse"].shared >= 2048
        assert image.compiler.lower().startswith(compiler)
    assert len({image.cubin for image in images.values()}) == len(ARCHITECTURES)


def test_compiling_again_gives_the_same_image(compiler: str) -> None:
    assert compile_image(ADD, "sm_90") == compile_image(ADD, "sm_90")


def test_spills_are_told(compiler: str) -> None:
    kernels = compile_image(ADD + SPILLS, "sm_80").kernels
    assert kernels["spills"].spills > 0 and kernels["spills"].stack > 0
    assert kernels["spills"].registers <= 64
    assert kernels["add"].spills == kernels["add"].stack == 0


def test_the_first_error_is_told(compiler: str) -> None:
    with pytest.raises(IntvitError, match=r"cannot compile the kernels for sm_90: .*error.*nothing") as raised:
        compile_image("__global__ void k(int* y) { y[0] = nothing; y[1] = neither; }", "sm_90")
    assert "\n" not in str(raised.value) and "neither" not in str(raised.value)


def test_an_instruction_that_the_architecture_lacks_is_an_error(compiler: str) -> None:
    source = 'extern "C" __global__ void k() { asm volatile("cp.async.commit_group;"); }'
    assert compile_image(source, "sm_80").kernels
    with pytest.raises(IntvitError, match=r"sm_75: .*cp\.async\.commit_group"):
        compile_image(source, "sm_75")


def test_an_architecture_that_the_compiler_does_not_know(compiler: str) -> None:
    with pytest.raises(IntvitError, match=r"sm_20\b.*another release"):
        compile_image(ADD, "sm_20")


@pytest.mark.parametrize("name", ["", "90", "compute_90", "sm_90 -lineinfo"])
def test_a_name_that_is_no_architecture(name: str) -> None:
    with pytest.raises(IntvitError, match="is no CUDA architecture: name one such as sm_75"):
        compile_image(ADD, name)


def test_nvrtc_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    nvrtc, nvcc = find_nvrtc(), find_nvcc()
    if nvrtc is None or nvcc is None:
        pytest.skip("one of NVRTC and nvcc is not found")
    monkeypatch.delenv(toolkit.CHOICE, raising=False)
    assert find_compiler() is nvrtc


def test_without_a_compiler_both_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(toolkit.CHOICE, raising=False)
    monkeypatch.setattr(toolkit, "FINDERS", {"nvrtc": lambda: None, "nvcc": lambda: None})
    with pytest.raises(IntvitError, match=r"nvidia-cuda-nvrtc \(or nvidia-cuda-nvcc"):
        find_compiler()
    monkeypatch.setenv(toolkit.CHOICE, "nvcc")
    with pytest.raises(IntvitError, match="nvcc is not found: pip install nvidia-cuda-nvcc"):
        find_compiler()


def test_a_choice_that_is_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(toolkit.CHOICE, "clang")
    with pytest.raises(IntvitError, match="INTVIT_CUDA_COMPILER=clang is neither nvrtc nor nvcc"):
        find_compiler()


def test_resources_are_read_from_the_log() -> None:
    assert resources_in(LOG) == {
        "first": Resources(registers=32, stack=128, spills=300, shared=2048),
        "second": Resources(registers=24, stack=0, spills=0, shared=0),
    }


def test_a_kernel_without_resources_is_an_error() -> None:
    ptx = ".visible .entry first(\n)\n{\n}\n.entry third(\n)\n{\n}\n"
    with pytest.raises(IntvitError, match=r"NVRTC 99\.0 did not say which resources third needs"):
        make_image("sm_90", b"", ptx, LOG, "NVRTC 99.0")


def test_the_first_line_that_tells() -> None:
    assert first_error("warning: x\n\n k.cu(3):   error: y\n z error\n") == "k.cu(3): error: y"
    assert first_error("something\nelse") == "something"
    assert first_error("") == "no reason given"


def test_a_toolkit_of_the_environment_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HOMES:
        monkeypatch.delenv(name, raising=False)
    _file(tmp_path / "one/bin/nvcc", 0o755)
    _file(tmp_path / "two/bin/nvcc", 0o644)
    for name in ("libnvrtc.so", "libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so.9.1", "libnvrtc-builtins.so.13.0"):
        _file(tmp_path / "two/lib64" / name, 0o644)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "one"))
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "two"))
    assert programs("nvcc")[0] == tmp_path / "one/bin/nvcc"
    assert tmp_path / "two/bin/nvcc" not in programs("nvcc"), "it cannot be run"
    names = [path.name for path in libraries("libnvrtc") if path.is_relative_to(tmp_path.resolve())]
    assert names == ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.9.1"]


def test_a_library_that_does_not_load_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _file(tmp_path / "lib64/libnvrtc.so.99", 0o644)
    without = find_nvrtc()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert libraries("libnvrtc")[0].name == "libnvrtc.so.99"
    assert find_nvrtc() is without


def _file(path: Path, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("not a program\n")
    os.chmod(path, mode)
