"""Latency of Vision Transformers, ours against the runtimes that users have: JSON, a Markdown table and plots.

    python bench/latency.py --out bench/results
    python bench/latency.py --models deit_small_patch16_224 --batches 1 --threads 2 --isa native avx2 --out small

Each model runs in a process of its own for each instruction set, so that memory is its own and the libraries see their
limits when they are loaded. DIR/latency.json keeps what was measured before: a measurement replaces the one of the same
model and instruction set, and the table and plots are made of all.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import plots
import table
from isa import LIMITS
from one_model import options_of

MODELS = [
    *(f"deit_{size}_patch16_224" for size in ("tiny", "small", "base")),
    *(f"vit_{size}_patch16_224" for size in ("small", "base", "large")),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS, help="timm's names, or names with their library")
    options_of(parser)
    parser.add_argument("--isa", nargs="+", choices=LIMITS, default=["native"])
    parser.add_argument("--out", type=Path, default=Path("bench/results"), metavar="DIR")
    parser.set_defaults(batches=[1, 8, 32], threads=[1, 2])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "latency.json"
    found: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    failed = []
    for model in options.models:
        for isa in options.isa:
            measured = measure(model if ":" in model else f"timm:{model}", isa, options)
            if measured is None:
                failed.append(f"{model} on {isa}")
                continue
            kept = [old for old in found if (old["model"], old["isa"]) != (measured["model"], measured["isa"])]
            found = [*kept, measured]
            path.write_text(json.dumps(found, indent=1) + "\n")
    (options.out / "latency.md").write_text(table.markdown(found))
    for written in (path, options.out / "latency.md", *plots.draw(found, options.out)):
        print(written)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def measure(model: str, isa: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """Runs `one_model.py` in a process of its own; None where it fails, and it has said why."""
    print(f"{model}, {isa}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.json"
        command = [
            sys.executable,
            str(Path(__file__).with_name("one_model.py")),
            model,
            "--isa",
            isa,
            "--out",
            str(out),
        ]
        for name in ("batches", "threads", "targets", "peers"):
            values = getattr(options, name)
            command += [] if values is None else [f"--{name}", *map(str, values)]
        for name in ("weights", "rounds", "limit", "calib"):
            command += [f"--{name}", str(getattr(options, name))]
        done = subprocess.run(command, env={**os.environ, **LIMITS[isa].environment})
        found: dict[str, Any] | None = json.loads(out.read_text()) if done.returncode == 0 else None
    return found


if __name__ == "__main__":
    main()
