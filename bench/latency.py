"""Time of one call: the compiled integer model against the float model in torch eager, in one process.

    python bench/latency.py timm:deit_tiny_patch16_224 --weights deit_tiny.safetensors --threads 2

Both run the same images, in two orders. In `rounds` each peer makes ten calls, then the other; in `calls` they take
turns call by call. torch's idle threads spin for some milliseconds after a call (libgomp's default) and take a core
from whoever runs next, so turns by call show the integer model in a process that runs torch all the time, rounds the
model on its own. Random images calibrate: time does not depend on what the integers are.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import intvit
from intvit.models import resolve

WARM_UP = 20
CALLS = 10
CALIBRATION_IMAGES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="timm:NAME, torchvision:NAME, hf:FOLDER or package.module:function")
    parser.add_argument("--weights", default="random", help="a file; random by default, which takes the same time")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--target", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write every figure")
    options = parser.parse_args()
    report = measure(options)
    print(f"{report['cpu']}, {options.threads} threads, batch {options.batch}, {report['target']}")
    for order in ("rounds", "calls"):
        found = report[order]
        for peer in ("torch float32", "intvit"):
            median, low, high = (found[peer][key] for key in ("median", "p10", "p90"))
            print(f"{order:7}{peer:15}{median:8.2f} ms   10 % {low:7.2f}   90 % {high:7.2f}")
        print(f"{order:7}float32 / intvit {found['ratio']:6.2f}")
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
        print(options.json)


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Every figure of the report, times in milliseconds."""
    resolved = resolve(options.model, options.weights)
    preprocessing = resolved.preprocessing
    if preprocessing is None:
        sys.exit(f"{options.model} has no preprocessing of its own: this script needs its image size")
    shape = (*preprocessing.size, preprocessing.channels)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (max(CALIBRATION_IMAGES, options.batch), *shape), dtype=np.uint8)
    normalized = torch.from_numpy(preprocessing.normalize(images))
    model = intvit.quantize(resolved.module, normalized[:CALIBRATION_IMAGES], preprocessing=preprocessing)
    compiled = intvit.compile(model, options.target, threads=options.threads)
    torch.set_num_threads(options.threads)
    pixels, floats = images[: options.batch], normalized[: options.batch]
    with torch.inference_mode():
        peers = {"torch float32": lambda: resolved.module(floats), "intvit": lambda: compiled(pixels)}
        for call in peers.values():
            times(call, WARM_UP)
        rounds, calls = taken(peers, options.rounds, CALLS), taken(peers, options.rounds * CALLS, 1)
    return {
        "model": options.model,
        "batch": options.batch,
        "threads": options.threads,
        "target": compiled.target,
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "rounds": summary(rounds),
        "calls": summary(calls),
    }


def taken(peers: dict[str, Callable[[], object]], turns: int, calls: int) -> dict[str, list[float]]:
    """Milliseconds of every call, the peers in turns of `calls`."""
    found: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(turns):
        for name, call in peers.items():
            found[name] += times(call, calls)
    return found


def times(call: Callable[[], object], count: int) -> list[float]:
    found = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        found.append(1000 * (time.perf_counter() - start))
    return found


def summary(found: dict[str, list[float]]) -> dict[str, object]:
    """Median and percentiles of each peer, and the ratio of the medians."""
    entries: dict[str, object] = {}
    for name, values in found.items():
        low, high = np.percentile(values, [10, 90])
        entries[name] = {"median": statistics.median(values), "p10": float(low), "p90": float(high)}
    entries["ratio"] = statistics.median(found["torch float32"]) / statistics.median(found["intvit"])
    return entries


def cpu_name() -> str:
    """What the system calls its CPU, and how many cores this process sees."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()} ({len(names)} cores)"


if __name__ == "__main__":
    main()
