"""nvcc, the CUDA toolkit's compiler driver, which needs a host C++ compiler (gcc) beside it."""

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from intvit.cuda.image import Image, first_error, make_image
from intvit.errors import IntvitError
from intvit.nvidia import programs

RELEASE = re.compile(r"release (\d+\.\d+)")


class Nvcc:
    """One nvcc."""

    def __init__(self, path: str | Path) -> None:
        """Asks nvcc for its release; raises `IntvitError` where it cannot be run."""
        self._path = str(path)
        release = RELEASE.search(self._run(Path.cwd(), "its release", "--version"))
        self.name = f"nvcc {release[1]}" if release else "nvcc"

    def compile(self, source: str, architecture: str) -> Image:
        """The image of CUDA C code for an architecture such as `sm_90`; raises `IntvitError` with the first error.

        The code is compiled to PTX, and then that PTX to machine code.
        """
        with tempfile.TemporaryDirectory(prefix="intvit-cuda-") as name:
            folder = Path(name)
            (folder / "kernels.cu").write_text(source)
            what = f"the kernels for {architecture}"
            target = f"-arch={architecture}"
            self._run(folder, what, "--ptx", target, "-std=c++17", "kernels.cu", "-o", "kernels.ptx")
            log = self._run(folder, what, "--cubin", target, "-Xptxas=-v", "kernels.ptx", "-o", "kernels.cubin")
            cubin, ptx = (folder / "kernels.cubin").read_bytes(), (folder / "kernels.ptx").read_text()
        return make_image(architecture, cubin, ptx, log, self.name)

    def _run(self, folder: Path, what: str, *options: str) -> str:
        """What nvcc prints that works in a folder on `what`."""
        command: Sequence[str] = (self._path, *options)
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise IntvitError(f"{self._path} cannot be run ({error}): set CUDA_HOME to a CUDA toolkit") from error
        text = done.stdout + done.stderr
        if not done.returncode:
            return text
        name = getattr(self, "name", self._path)
        reason = first_error(text)
        if "Unsupported gpu architecture" in text:
            reason += "; install another release of CUDA"
        if "host compiler" in text or "Cannot find compiler" in text:
            reason += "; install g++, or the package nvidia-cuda-nvrtc, which needs none"
        raise IntvitError(f"{name} cannot compile {what}: {reason}")


def find_nvcc() -> Nvcc | None:
    """The first nvcc: of `CUDA_HOME`, on the path, of the toolkit, of a package."""
    found = programs("nvcc")
    return Nvcc(found[0]) if found else None
