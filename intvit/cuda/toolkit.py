"""Compiles CUDA C code to images, with NVRTC where it is found, else with nvcc.

Both come with a CUDA toolkit and from PyPI: `nvidia-cuda-nvrtc` (CUDA 13), `nvidia-cuda-nvrtc-cu12` (CUDA 12), and
`nvidia-cuda-nvcc`. The release decides which drivers load the machine code: CUDA 13's needs a driver from 580 on,
CUDA 12's one from 525 on. `INTVIT_CUDA_COMPILER` chooses `nvrtc` or `nvcc`, `CUDA_HOME` a folder to look in first.
"""

import os
import re

from intvit.cuda.image import Image
from intvit.cuda.nvcc import Nvcc, find_nvcc
from intvit.cuda.nvrtc import Nvrtc, find_nvrtc
from intvit.errors import IntvitError

CHOICE = "INTVIT_CUDA_COMPILER"
FINDERS = {"nvrtc": find_nvrtc, "nvcc": find_nvcc}

Compiler = Nvrtc | Nvcc


def compile_image(source: str, architecture: str) -> Image:
    """The image of CUDA C code without `#include` for one architecture, such as `sm_90`.

    Raises `IntvitError` where there is no compiler, where it does not know the architecture, and with the first error
    that it reports.
    """
    if not re.fullmatch(r"sm_\d+[af]?", architecture):
        raise IntvitError(f"{architecture!r} is no CUDA architecture: name one such as sm_75")
    return find_compiler().compile(source, architecture)


def find_compiler() -> Compiler:
    """The compiler of `INTVIT_CUDA_COMPILER`, or NVRTC, or nvcc; raises `IntvitError` where there is none."""
    chosen = os.environ.get(CHOICE, "")
    if chosen and chosen not in FINDERS:
        raise IntvitError(f"{CHOICE}={chosen} is neither nvrtc nor nvcc: set it to one of these, or to nothing")
    for name in [chosen] if chosen else FINDERS:
        compiler = FINDERS[name]()
        if compiler is not None:
            return compiler
    if chosen:
        raise IntvitError(
            f"{chosen} is not found: pip install nvidia-cuda-{chosen}, or set CUDA_HOME to a CUDA toolkit"
        )
    raise IntvitError(
        "no CUDA compiler is found: pip install nvidia-cuda-nvrtc (or nvidia-cuda-nvcc, which needs g++ as well), or "
        "set CUDA_HOME to a CUDA toolkit"
    )
