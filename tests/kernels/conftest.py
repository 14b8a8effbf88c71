"""Kernels are compiled for every named target of the machine's architecture, and with plain instructions."""

import ctypes
import mmap
import os
import platform
from collections.abc import Callable
from typing import Any

import emulation
import numpy as np
import pytest

os.environ.setdefault("TVM_NUM_THREADS", "2")  # TVM reads it once, when a thread first runs a kernel

tvm = pytest.importorskip("tvm")
from tvm.target import Target, codegen  # noqa: E402

from intvit.building import build  # noqa: E402
from intvit.kernels.isa import NARROW, WIDE, Isa  # noqa: E402
from intvit.targets import TARGETS, Cpu, runs_here  # noqa: E402


def _case(cpu: Cpu) -> Any:
    """AMX runs under an emulator where the machine has none."""
    missing = not (cpu.isa.tiles or runs_here(cpu.name))
    skip = pytest.mark.skipif(missing, reason=f"this machine does not run {cpu.name}")
    return pytest.param((cpu.target, cpu.isa), id=cpu.isa.name, marks=skip)


def _cases() -> list[Any]:
    own = [cpu for cpu in TARGETS.values() if cpu.triple.partition("-")[0] == platform.machine() and not cpu.variants]
    host = Target({"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu()})
    return [
        *(_case(cpu) for cpu in own if cpu.name != "generic"),
        *(pytest.param((host, isa), id=isa.name) for isa in (WIDE, NARROW)),
    ]


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
