"""The machines that a model is embedded on, this one and three that qemu emulates, and what runs on them."""

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from intvit.compilation import write_module
from intvit.errors import IntvitError
from intvit.integer_model import IntegerModel
from intvit.linking import SOURCES, require_compiler
from intvit.targets import resolve

CPUS = {"aarch64": "cortex-a53", "aarch64-dotprod": "max"}
"""The processor that is emulated: the first has no dot products."""
FLAGS = ("-O2", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-pthread", f"-I{SOURCES}")
LINKS = {".so": ("-rdynamic",), ".o": ("-static", "-DINTVIT_STATIC")}


@dataclass(frozen=True)
class Machine:
    """Builds C programs for a target and runs them."""

    target: str
    folder: Path

    @property
    def triple(self) -> str:
        return resolve(self.target).triple

    @property
    def is_here(self) -> bool:
        """Whether this machine has the target's processor."""
        return self.triple.startswith(f"{platform.machine()}-")

    def module(self, model: IntegerModel, suffix: str) -> Path:
        """The model, compiled once."""
        path = self.folder / f"{self.target}-{model.digest[:8]}{suffix}"
        if not path.is_file():
            self.compiler()
            write_module(model, path, self.target)
        return path

    def compiler(self) -> Sequence[str]:
        """A compiler of C for the machine; skips where there is none."""
        try:
            found = require_compiler(self.triple).command
        except IntvitError as error:
            pytest.skip(str(error))
        if not self.is_here:
            return found
        usual = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
        return [usual] if usual is not None else found

    def program(self, name: str, *parts: str | Path) -> Path:
        """A program of C sources, objects and options; warnings are errors."""
        path = self.folder / f"{self.target}-{name}"
        if not path.is_file():
            command = [*self.compiler(), *FLAGS, *map(str, parts), str(SOURCES / "runtime.c"), "-o", str(path), "-ldl"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
        return path

    def run(self, program: Path, *arguments: str | Path, cpu: str = "", threads: int = 2) -> tuple[int, str]:
        """The exit status and all that was printed; on the emulated processor `cpu`, where there is one."""
        command = [*self.emulator(cpu), str(program), *map(str, arguments)]
        environment = {**os.environ, "INTVIT_NUM_THREADS": str(threads)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout + done.stderr

    def emulator(self, cpu: str) -> list[str]:
        """What stands before a command: nothing for this machine's own processor."""
        cpu = cpu or CPUS.get(self.target, "")
        if self.is_here and not cpu:
            return []
        name = f"qemu-{self.triple.partition('-')[0]}"
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed (qemu-user)")
        root = [] if self.is_here else ["-L", f"/usr/{self.triple}"]
        return [name, *root, *(["-cpu", cpu] if cpu else [])]

    def outputs(
        self, model: IntegerModel, pixels: NDArray[np.uint8], suffix: str, cpu: str = ""
    ) -> tuple[int, str, Path]:
        """What `example.c` says and writes of a model that is linked (`.o`) or loaded (`.so`)."""
        module, example = self.module(model, suffix), SOURCES / "example.c"
        linked = [module] if suffix == ".o" else []
        name = f"example{suffix}{model.digest[:8]}"
        program = self.program(name, *LINKS[suffix], example, *linked)
        images, written = self.folder / "images.raw", self.folder / "outputs.raw"
        pixels.tofile(images)
        written.unlink(missing_ok=True)
        return *self.run(program, images, written, *([] if linked else [module]), cpu=cpu), written


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Machine]:
    """`machine("riscv64")`; what it builds is built once."""
    folder = tmp_path_factory.mktemp("embedded")
    return cache(lambda target: Machine(resolve(target).name, folder))
