"""Everything about one model, in one process: its modules, and the latency of peers and ours in turns.

    python bench/one_model.py timm:deit_tiny_patch16_224 --batches 1 8 --threads 1 2 --out deit_tiny.json

`bench/latency.py` runs this once for each model and instruction set. The image size is the model's own, images are
random, and so are the weights unless they are given: time depends on neither.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from isa import LIMITS, left_out

import intvit
from intvit.bench.machine import cores, describe
from intvit.bench.memory import peak_memory
from intvit.bench.names import PEERS, expand
from intvit.bench.peers import Peers
from intvit.bench.timing import Call, Turns, ratio, summary, take_turns
from intvit.models import resolve
from intvit.preprocess import Preprocessing
from intvit.runtime import CompiledModel

OURS = "intvit"


def options_of(parser: argparse.ArgumentParser) -> None:
    """The options that this script shares with `latency.py`."""
    parser.add_argument("--weights", default="random", help="a file; random by default")
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--threads", type=int, nargs="+", default=[cores()])
    parser.add_argument("--targets", nargs="+", help="ours; by default the one of the instruction set")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), metavar="PEER", help="families or single ones")
    parser.add_argument("--rounds", type=int, default=Turns.rounds)
    parser.add_argument("--limit", type=float, default=Turns.limit, help="seconds for a batch size, after 3 rounds")
    parser.add_argument("--calib", type=int, default=16, help="random images that calibrate our model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="timm:NAME, torchvision:NAME, hf:FOLDER or package.module:function")
    options_of(parser)
    parser.add_argument("--isa", choices=LIMITS, default="native", help="its variables must be set already")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()
    options.out.write_text(json.dumps(measure(options), indent=1) + "\n")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every figure of one model on one instruction set."""
    resolved = resolve(options.model, options.weights)
    if resolved.preprocessing is None:
        sys.exit(f"{options.model} has no preprocessing of its own: this script needs its image size")
    pixels = random_pixels(resolved.preprocessing, max(options.calib, *options.batches))
    say(f"quantizing {options.model}")
    start = time.perf_counter()
    model = intvit.quantize(
        resolved.module,
        pixels[: options.calib],
        calib=options.calib,
        preprocessing=resolved.preprocessing,
        name=options.model,
    )
    quantized = time.perf_counter() - start
    weights = weight_bytes(model)
    names = options.targets or [LIMITS[options.isa].target]
    with tempfile.TemporaryDirectory() as folder:
        modules, compiled = {}, {}
        for number, target in enumerate(names):
            name, path = (OURS if number == 0 else f"{OURS} {target}"), Path(folder) / f"{number}.so"
            compiled[name] = path
            modules[name] = module_figures(model, target, path, options)
        del model
        peers = Peers(resolved.module, resolved.preprocessing.normalize(pixels[: options.calib]))
        latency = [
            turns_of(peers, compiled, pixels[:batch], resolved.preprocessing, threads, options)
            for threads in options.threads
            for batch in options.batches
        ]
    return {
        "model": options.model,
        "isa": options.isa,
        "machine": describe(),
        "weight_bytes": weights,
        "quantize": {"seconds": quantized, "images": options.calib},
        "modules": modules,
        "latency": latency,
    }


def weight_bytes(model: intvit.IntegerModel) -> int:
    """Of its int8 matrices."""
    return sum(b.nbytes for b in model.graph.module.buffers() if b.dtype == torch.int8 and b.ndim == 2)


def random_pixels(preprocessing: Preprocessing, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Images `[count, H, W, C]`."""
    shape = (count, *preprocessing.size, preprocessing.channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def module_figures(model: Any, target: str, path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Compiles for one target to `path`; seconds, bytes, and peak memory at every batch size and number of threads."""
    say(f"compiling for {target}")
    start = time.perf_counter()
    compiled = intvit.compile(model, target)
    seconds = time.perf_counter() - start
    compiled.save(path)
    return {
        "target": compiled.target,
        "compile_seconds": seconds,
        "artifact_bytes": path.stat().st_size,
        "memory": [
            {"threads": threads, "batch": batch, **asdict(peak_memory(path, batch, threads))}
            for threads in options.threads
            for batch in options.batches
        ],
    }


def turns_of(
    peers: Peers,
    modules: dict[str, Path],
    pixels: Any,
    preprocessing: Preprocessing,
    threads: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Latency of ours and of all peers that can run, on one batch size and number of threads."""
    gc.collect()  # what was made for another size
    say(f"batch {len(pixels)}, {threads} threads: preparing")
    calls: dict[str, Call] = {name: call_of(path, pixels, threads) for name, path in modules.items()}
    skipped: dict[str, str] = {}
    for name in expand(options.peers):
        if reason := left_out(options.isa, name):
            skipped[name] = reason
            continue
        try:
            calls[name] = peers.make(name, preprocessing.normalize(pixels), threads)
        except intvit.IntvitError as error:
            skipped[name] = str(error)
            say(f"skipped {error}")
    say(f"batch {len(pixels)}, {threads} threads: measuring")
    times = take_turns(calls, Turns(rounds=options.rounds, limit=options.limit))
    return {
        "batch": len(pixels),
        "threads": threads,
        "rows": list(rows_of(times, len(pixels))),
        "skipped": skipped,
    }


def call_of(path: Path, pixels: Any, threads: int) -> Call:
    """A call of a module of ours on raw images."""
    compiled = CompiledModel.load(path, threads)
    return lambda: compiled(pixels)


def rows_of(times: dict[str, Any], batch: int) -> Iterator[dict[str, Any]]:
    """Milliseconds, images per second, and how many times ours goes into each."""
    for name, taken in times.items():
        speed = batch / float(np.median(taken))
        against = None if name == OURS else asdict(ratio(taken, times[OURS]))
        yield {"name": name, **asdict(summary(taken)), "images_per_second": speed, "ratio": against}


def say(line: str) -> None:
    """Progress, which is not a result."""
    print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
