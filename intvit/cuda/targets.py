"""GPU targets: `cuda:sm_90` by its architecture, `cuda` for the first GPU of this machine."""

import ctypes
import difflib
import re

from intvit.errors import IntvitError
from intvit.kernels.cuda.arch import ARCHS, Arch

PREFIX = "cuda"
LISTED = ", ".join(f"{PREFIX}:{name}" for name in ARCHS)
LEAST = min(arch.number for arch in ARCHS.values())
MAJOR, MINOR = 75, 76
"""`CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `_MINOR` of the driver's interface."""


def is_cuda(target: str) -> bool:
    """Whether a target's name is that of a GPU."""
    return target.partition(":")[0] == PREFIX


def resolve_gpu(target: str) -> Arch:
    """The architecture of `cuda` (this machine's first GPU) or `cuda:sm_90`; else `IntvitError`."""
    _, colon, name = target.partition(":")
    if not colon:
        return _fitting(*_local())
    if name not in ARCHS:
        raise IntvitError(f"unknown target {target!r}: choose {PREFIX}, {LISTED}{_hint(name)}")
    return ARCHS[name]


def _hint(name: str) -> str:
    """What fits a GPU whose architecture is none of ours, or what a name may have meant."""
    number = re.fullmatch(r"(?:sm_)?(\d+)", name)
    close = difflib.get_close_matches(name, ARCHS, 1)
    if number and int(number[1]) >= LEAST:
        close = [_fitting(*divmod(int(number[1]), 10)).name]
    return f"; did you mean {PREFIX}:{close[0]}?" if close else ""


def _fitting(major: int, minor: int) -> Arch:
    """The best architecture whose code, or PTX where it is of another generation, a GPU runs."""
    fitting = [arch for arch in ARCHS.values() if arch.number <= 10 * major + minor]
    if not fitting:
        raise IntvitError(f"this machine's GPU is of compute capability {major}.{minor}: 7.5 is the least that works")
    return fitting[-1]


def _local() -> tuple[int, int]:
    """The compute capability of the first GPU, by the driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise IntvitError(
            f"this machine has no NVIDIA driver (libcuda.so.1): name the GPU to compile for, one of {LISTED}"
        ) from error
    found = ctypes.c_int()
    numbers = []
    if driver.cuInit(0) != 0 or driver.cuDeviceGet(ctypes.byref(found), 0) != 0:
        raise IntvitError(f"the NVIDIA driver finds no GPU here: name the one to compile for, one of {LISTED}")
    for attribute in (MAJOR, MINOR):
        number = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, found)
        numbers.append(number.value)
    return numbers[0], numbers[1]
