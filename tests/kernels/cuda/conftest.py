"""CUDA kernels in the emulator (`emulation.simt`), on an architecture of each class: with small and tall products."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")
from emulation.simt import Kernels

from intvit.cuda.source import cuda_source, named
from intvit.kernels.cuda.arch import ARCHS, Arch
from intvit.kernels.cuda.launch import DeviceKernel


def _register() -> None:
    """Makes `operands.py` importable: this folder is not on the path."""
    spec = importlib.util.spec_from_file_location("operands", Path(__file__).with_name("operands.py"))
    assert spec is not None and spec.loader is not None
    sys.modules["operands"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["operands"])


_register()

POISON = 77


class Device:
    """Runs kernels of one architecture; each is compiled once."""

    def __init__(self, arch: Arch) -> None:
        self.arch = arch
        self._compiled: dict[DeviceKernel, tuple[Kernels, str]] = {}

    def compile(self, kernels: Sequence[DeviceKernel]) -> None:
        """All in one go, which is faster."""
        names = named(kernels)
        library = Kernels(cuda_source(names, self.arch))
        self._compiled.update({kernel: (library, name) for kernel, name in names.items()})

    def run(
        self,
        kernel: DeviceKernel,
        inputs: Sequence[np.ndarray],
        shape: tuple[int, ...],
        dtype: str,
        rows: int,
        seed: int = 0,
    ) -> np.ndarray:
        """What the kernel writes into its last parameter; the emulator refuses writes to others or beside it."""
        if kernel not in self._compiled:
            self.compile([kernel])
        library, name = self._compiled[kernel]
        constants = [np.ascontiguousarray(x).view() for x in inputs]
        for x in constants:
            x.flags.writeable = False
        y = np.full(shape, POISON, dtype)
        blocks = -(-rows // kernel.per) * kernel.times
        library.launch(name, blocks, kernel.threads, kernel.shared, *constants, y, rows, seed=seed)
        return y


@pytest.fixture(scope="session", params=["sm_75", "sm_90"])
def device(request: pytest.FixtureRequest) -> Device:
    """A GPU."""
    return Device(ARCHS[str(request.param)])
