"""The CUDA C++ of kernels: one text without headers, in which each kernel is once, the same every time."""

import os
import re

import pytest
import tiny

from intvit.cuda import source
from intvit.cuda.compilation import device_program, kernels_of
from intvit.cuda.source import cuda_source, named
from intvit.kernels.cuda.arch import ARCHS
from intvit.kernels.cuda.launch import DeviceKernel
from intvit.kernels.cuda.layernorm import layernorm

KERNEL = re.compile(r'extern "C" __global__ void __launch_bounds__\((\d+), [23]\) (\w+)\(([^)]*)\)')
ARCH = ARCHS["sm_90"]


@pytest.fixture(scope="module")
def kernels() -> dict[DeviceKernel, str]:
    steps = device_program(tiny.integer_model(), ARCH).steps
    return named([kernel for step in steps for kernel in kernels_of(step.kernel)])


@pytest.fixture(scope="module")
def text(kernels: dict[DeviceKernel, str]) -> str:
    return cuda_source(kernels, ARCH)


def test_equal_layers_share_a_kernel(kernels: dict[DeviceKernel, str]) -> None:
    steps = device_program(tiny.integer_model(), ARCH).steps
    assert len(kernels) < sum(len(kernels_of(step.kernel)) for step in steps)
    assert [kernels_of(step.kernel) for step in steps] == [
        kernels_of(step.kernel) for step in device_program(tiny.integer_model(), ARCH).steps
    ]


def test_names_are_unique(kernels: dict[DeviceKernel, str]) -> None:
    assert len(set(kernels.values())) == len(kernels)
    assert all(name.startswith(kernel.name) for kernel, name in kernels.items())


def test_each_kernel_is_there_once_with_its_threads_and_parameters(kernels: dict[DeviceKernel, str], text: str) -> None:
    found = {name: (int(threads), parameters.count(",") + 1) for threads, name, parameters in KERNEL.findall(text)}
    assert found == {name: (kernel.threads, len(kernel.function.params)) for kernel, name in kernels.items()}
    assert sum(line.endswith("{") and "__global__" in line for line in text.splitlines()) == len(kernels)


def test_no_headers_and_no_floats(text: str) -> None:
    assert "#include" not in text
    assert not re.search(r"\b(float|double|half|__nv_bfloat16)\d*\b", text)


def test_the_text_is_the_same_every_time(kernels: dict[DeviceKernel, str], text: str) -> None:
    """Also of kernels that are made anew."""
    assert cuda_source(kernels, ARCH) == text
    one, two = (cuda_source(named([layernorm(192, 14, 192, 192)]), ARCH) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("before", [None, "", "1"])
def test_the_environment_stays_as_it_was(monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    if before is None:
        monkeypatch.delenv(source.SOURCE_ONLY, raising=False)
    else:
        monkeypatch.setenv(source.SOURCE_ONLY, before)
    cuda_source(named([layernorm(20, 14, 32, 20)]), ARCH)
    assert os.environ.get(source.SOURCE_ONLY) == before
