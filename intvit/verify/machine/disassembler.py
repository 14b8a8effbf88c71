"""NVIDIA's disassembler, `nvdisasm`, which shows the instructions of an image.

It is in the CUDA toolkit, in the package `nvidia-cuda-nvdisasm` and in Triton's wheel.
"""

import subprocess
import tempfile
from pathlib import Path

from intvit.errors import IntvitError
from intvit.nvidia import programs

NAME = "nvdisasm"
PACKAGE = "nvidia-cuda-nvdisasm"


def find_disassemblers() -> list[Path]:
    """Every disassembler that is found, in the order in which to try them; one reads images of its release or older."""
    return programs(NAME)


def disassemble(cubin: bytes) -> str:
    """The instructions of an image, as text; raises `IntvitError` where no disassembler is found or can read it."""
    found = find_disassemblers()
    if not found:
        raise IntvitError(f"{NAME} is not found, which reads machine code: pip install {PACKAGE}")
    reasons = []
    with tempfile.TemporaryDirectory(prefix="intvit-cuda-") as folder:
        path = Path(folder) / "kernels.cubin"
        path.write_bytes(cubin)
        for program in found:
            command = [str(program), "--print-code", str(path)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
            except OSError as error:
                reasons.append(f"{program}: {error}")
                continue
            if not done.returncode:
                return done.stdout
            reasons.append(f"{program}: {' '.join(done.stderr.split())}")
    raise IntvitError(f"the image cannot be disassembled ({reasons[0]}): pip install --upgrade {PACKAGE}")
