"""From kernels in TIR to one text of CUDA C++, by TVM's code generator.

What TVM puts in front needs headers of a CUDA toolkit; the kernels need nine names of types, so these stand there
instead, and NVRTC alone compiles the text. No pass of TVM is needed: buffers are flat, loops
that must be unrolled are marked, and the CUDA compiler simplifies.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import tvm
from tvm import tirx
from tvm.target import Target

from intvit.kernels.cuda.arch import Arch
from intvit.kernels.cuda.launch import DeviceKernel

PREAMBLE = """\
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef unsigned char uchar;
typedef unsigned int uint;
typedef unsigned short ushort;
"""
FIRST = re.compile(r"^(?:__forceinline__ __device__|extern \"C\" __global__)", re.MULTILINE)
"""Where the kernels and their helpers begin."""
BOUNDS = re.compile(r"__launch_bounds__\((\d+)\) (\w+)")
"""The threads of a kernel, and its name."""
SOURCE_ONLY = "TVM_COMPILE_FORCE_FALLBACK"
"""Tells TVM to leave the text as it is."""


def named(kernels: Sequence[DeviceKernel]) -> dict[DeviceKernel, str]:
    """A name for each kernel, in order."""
    return {kernel: f"{kernel.name}_{index}" for index, kernel in enumerate(dict.fromkeys(kernels))}


def cuda_source(kernels: dict[DeviceKernel, str], arch: Arch) -> str:
    """The CUDA C++ of kernels under their names."""
    target = Target({"kind": "cuda", "arch": arch.name}, host="llvm")
    functions = {name: kernel.function.with_attr("global_symbol", name) for kernel, name in kernels.items()}
    module = tirx.transform.BindTarget(target)(tvm.IRModule(functions))
    with _source_only():
        text = str(tvm.get_global_func("target.build.cuda")(module, target).inspect_source())
    found = FIRST.search(text)
    assert found is not None, "TVM's CUDA code has another form"
    resident = {name: kernel.resident for kernel, name in kernels.items()}
    return PREAMBLE + BOUNDS.sub(
        lambda found: f"__launch_bounds__({found[1]}, {resident[found[2]]}) {found[2]}", text[found.start() :]
    )


@contextmanager
def _source_only() -> Iterator[None]:
    before = os.environ.get(SOURCE_ONLY)
    os.environ[SOURCE_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SOURCE_ONLY]
        else:
            os.environ[SOURCE_ONLY] = before
