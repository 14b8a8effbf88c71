"""A pack under NVIDIA's compute-sanitizer: our kernels alone, in a process with Python, numpy and the pack.

    python gpu_sanitize.py packs/deit_tiny --out sanitizer.json

Each tool runs the pack's `run.py` on a batch of 8 and one of 1, which take different tiles. A verdict is clean where
the tool found nothing and the outputs are those of a run without it. racecheck slows a run down a hundredfold.
initcheck also reports padding that is read and never written, where columns are not a multiple of 16 (not in DeiT,
ViT-L).
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
FOUND = 99
"""The exit code of a tool that found something."""
SHAPE = (9, 224, 224, 3)
PROGRAM = "compute-sanitizer"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pack", type=Path, help="a folder that `intvit pack` wrote, of a model of 224 x 224 pixels")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--timeout", type=float, default=240.0, help="seconds of each tool")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    options = parser.parse_args()
    program = shutil.which(PROGRAM) or shutil.which(f"/usr/local/cuda/bin/{PROGRAM}")
    if program is None:
        parser.error(f"{PROGRAM} is not on the path: it comes with a CUDA toolkit")
    found = verdicts(options.pack, program, options.tools, options.timeout)
    if options.out is not None:
        options.out.write_text(json.dumps({"pack": options.pack.name, "verdicts": found}, indent=1) + "\n")
    sys.exit(0 if all(verdict["clean"] for verdict in found.values()) else 1)


def verdicts(pack: Path, program: str, tools: list[str], timeout: float) -> dict[str, dict[str, Any]]:
    """What each tool says, printed as it comes; `clean`, and the tool's own words in `said`."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        images, plain = Path(name) / "x.npy", Path(name) / "plain.npy"
        np.save(images, np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8))
        command = [sys.executable, str(pack / "run.py"), str(images), "--batch", str(SHAPE[0] - 1), "--out"]
        done = subprocess.run([*command, str(plain)], capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            sys.exit(f"{pack} does not run without a tool: {done.stderr.strip()}")
        for tool in tools:
            output = Path(name) / f"{tool}.npy"
            watched = [program, "--tool", tool, "--error-exitcode", str(FOUND), *command, str(output)]
            found[tool] = verdict(watched, plain, output, timeout)
            print(f"{tool}: {'clean' if found[tool]['clean'] else 'NOT CLEAN'}: {found[tool]['said']}", flush=True)
    return found


def verdict(command: list[str], plain: Path, output: Path, timeout: float) -> dict[str, Any]:
    """Of one tool."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"clean": False, "exit_code": None, "said": f"not done after {timeout:.0f} s"}
    lines = [line.strip("= ") for line in done.stdout.splitlines() if line.startswith("=========")]
    said = [line for line in lines if line]
    clean = done.returncode == 0 and np.array_equal(np.load(plain), np.load(output))
    words = said[-1:] if clean else [*said[1:4], *said[-1:]]
    return {"clean": clean, "exit_code": done.returncode, "said": " | ".join(words) or done.stderr.strip()[-300:]}


if __name__ == "__main__":
    main()
