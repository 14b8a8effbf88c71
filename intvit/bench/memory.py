"""Peak resident memory of a fresh process that loads a compiled module and runs it, from Linux's `VmHWM`.

The process imports numpy and TVM's runtime library, and nothing else of size; what it held then is `before`, so that
the module's own part can be told from the interpreter's.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from intvit.errors import IntvitError

_CODE = """
import json, sys
import numpy as np
from pathlib import Path
from intvit.runtime import CompiledModel, load_runtime

def held(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

path, batch, threads, calls = sys.argv[1], *map(int, sys.argv[2:])
load_runtime()
before = held("VmRSS:")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, from what is resident
model = CompiledModel.load(path, threads)
loaded = held("VmRSS:")
channels, height, width = model.metadata.input_grid.shape
pixels = np.zeros((batch, height, width, channels), np.uint8)
for _ in range(calls):
    model.integers(pixels)
print(json.dumps({"before": before, "loaded": loaded, "peak": held("VmHWM:")}))
"""


@dataclass(frozen=True)
class Memory:
    """Bytes that were resident: before the module was loaded, after it, and at most while it ran."""

    before: int
    loaded: int
    peak: int

    @property
    def own(self) -> int:
        """What the module added at most."""
        return self.peak - self.before


def peak_memory(module: Path, batch: int, threads: int, calls: int = 5) -> Memory:
    """Measures in a process of its own; raises `IntvitError` with the last line of what that process said."""
    if not Path("/proc/self/clear_refs").exists():
        raise IntvitError("peak memory is read from /proc, which only Linux has")
    command = [sys.executable, "-c", _CODE, str(module.resolve()), str(batch), str(threads), str(calls)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise IntvitError(f"{module}: the process that measures memory failed ({said})")
    return Memory(**json.loads(done.stdout))
