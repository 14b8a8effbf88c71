"""Kernels are compiled for the machine's own CPU and for the lesser instruction sets that it also runs."""

import ctypes
import mmap
import os
from collections.abc import Callable
from typing import Any

import emulation
import numpy as np
import pytest

os.environ.setdefault("TVM_NUM_THREADS", "2")  # TVM reads it once, when a thread first runs a kernel

tvm = pytest.importorskip("tvm")
from tvm.target import Target, codegen  # noqa: E402

from intvit.building import build  # noqa: E402
from intvit.kernels.isa import NARROW, WIDE, Isa, detect  # noqa: E402

CPUS = {"avx512": "x86-64-v4", "avx2": "x86-64-v3", "sse2": "x86-64"}
FEATURE = {"avx512": "avx512bw", "avx2": "avx2", "sse2": "sse2"}


AMX_TARGET = Target({"kind": "llvm", "mcpu": "x86-64-v4", "mattr": ["+avx512vnni", "+amx-tile", "+amx-int8"]})
"""Runs under an emulator where the machine has no AMX."""


def host() -> Target:
    return Target({"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu()})


def _cases() -> list[Any]:
    native = host()
    on_x86 = codegen.llvm_get_system_triple().startswith("x86_64")
    cases = [pytest.param((native, detect(native)), id=f"host-{detect(native).name}")]
    for name, cpu in CPUS.items() if on_x86 else ():
        target = Target({"kind": "llvm", "mcpu": cpu})
        missing = not codegen.target_has_features(FEATURE[name], native)
        cases.append(
            pytest.param((target, detect(target)), id=name, marks=pytest.mark.skipif(missing, reason=f"no {name}"))
        )
    if on_x86:
        cases.append(pytest.param((AMX_TARGET, detect(AMX_TARGET)), id="amx"))
    return [*cases, *(pytest.param((native, isa), id=isa.name) for isa in (WIDE, NARROW))]


@pytest.fixture(params=_cases(), scope="session")
def machine(request: pytest.FixtureRequest) -> tuple[Target, Isa]:
    """A target that this machine runs, and an instruction set of the kernels for it."""
    case: tuple[Target, Isa] = request.param
    if case[1].tiles:
        emulation.install()
    return case


GUARD = 256  # bytes before and after an output that must stay as they are


def before_a_wall(x: np.ndarray) -> np.ndarray:
    """A copy, aligned to 64 bytes, behind whose last line nobody may read."""
    pages = -(-x.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, pages + mmap.PAGESIZE)
    start = pages - -(-x.nbytes // 64) * 64
    whole = np.frombuffer(memory, np.uint8)
    wall = ctypes.c_void_p(whole.ctypes.data + pages)
    assert ctypes.CDLL(None).mprotect(wall, mmap.PAGESIZE, 0) == 0
    copy = whole[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    copy[...] = x
    return copy


Run = Callable[..., np.ndarray]


@pytest.fixture(scope="session")
def run(machine: tuple[Target, Isa]) -> Run:
    """`run(function, inputs, shape, dtype)`: compile, call, check that nothing was written beside the output.

    What a kernel reads behind a line that an input ends in kills the process.
    """
    compiled: dict[Any, Any] = {}  # functions are keys by identity

    def call(function: Any, inputs: list[np.ndarray], shape: tuple[int, ...], dtype: str) -> np.ndarray:
        if function not in compiled:
            name = function.attrs["global_symbol"]
            compiled[function] = build(tvm.IRModule({name: function}), machine[0])[name]
        kernel = compiled[function]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = np.full(size + 2 * GUARD + 64, 101, np.uint8)
        start = GUARD + -(memory.ctypes.data + GUARD) % 64  # TVM wants 64-byte alignment
        y = memory[start : start + size].view(dtype).reshape(shape)
        kernel(*[tvm.runtime.from_dlpack(before_a_wall(x)) for x in inputs], tvm.runtime.from_dlpack(y))
        assert (memory[:start] == 101).all() and (memory[start + size :] == 101).all(), "wrote outside the output"
        return y

    return call
