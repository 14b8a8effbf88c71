"""How near each kernel of a model is to the machine's peak integer rate: multiply-adds per second against `peak.py`'s.

    python bench/roofline.py deit_tiny_patch16_224 deit_small_patch16_224 --threads 1 2 --out bench/results
    python bench/roofline.py m.so --threads 2

Kernels are timed alone, again and again (`CompiledModel.profile`): what a kernel finds in the cache from the one before
it is not lost, because it runs on the same tensors, but phases that run at once are not seen as one. The peak is that
of the instruction of the target's products on as many threads.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from peak import INSTRUCTIONS, peaks
from table import short, table

import intvit
from intvit.bench.kernels import Kernel, by_kernel
from intvit.bench.machine import cores, describe
from intvit.models import resolve
from intvit.runtime import CompiledModel

CALIBRATION_IMAGES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="timm's names, names with their library, or compiled modules (*.so)")
    parser.add_argument("--weights", default="random", help="a file; random by default, which takes the same time")
    parser.add_argument("--target", default="auto")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, cores()])
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write roofline.json and roofline.md")
    options = parser.parse_args()
    reports = list(measured(options))
    text = markdown(reports)
    print(text, end="")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "roofline.json").write_text(json.dumps(reports, indent=1) + "\n")
        (options.out / "roofline.md").write_text(text)


def measured(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A report for each model and number of threads."""
    most = {threads: peaks(threads) for threads in dict.fromkeys(options.threads)}
    for name in options.models:
        compiled = module_of(name, options)
        channels, height, width = compiled.metadata.input_grid.shape
        shape = (options.batch, height, width, channels)
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        for threads in most:
            compiled.threads = threads
            kernels = by_kernel(compiled.profile(pixels, repeats=options.repeats))
            yield {
                "model": compiled.metadata.name,
                "target": compiled.variant,
                "batch": options.batch,
                "threads": threads,
                "machine": describe(),
                "peaks": most[threads],
                "kernels": [{**asdict(kernel), "rate": kernel.rate} for kernel in kernels],
                **shares(kernels),
            }


def module_of(name: str, options: argparse.Namespace) -> CompiledModel:
    """A compiled module: from a file, or made of a float model."""
    if name.endswith(".so"):
        return CompiledModel.load(name)
    name = name if ":" in name else f"timm:{name}"
    resolved = resolve(name, options.weights)
    if resolved.preprocessing is None:
        sys.exit(f"{name} has no preprocessing of its own: this script needs its image size")
    shape = (CALIBRATION_IMAGES, *resolved.preprocessing.size, resolved.preprocessing.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    model = intvit.quantize(resolved.module, images, calib=len(images), preprocessing=resolved.preprocessing, name=name)
    return intvit.compile(model, options.target)


def shares(kernels: list[Kernel]) -> dict[str, float]:
    """Seconds of all kernels; of products their rate and share, and what is left outside them."""
    products = [kernel for kernel in kernels if kernel.name.startswith("product")]
    seconds, inside = sum(kernel.seconds for kernel in kernels), sum(kernel.seconds for kernel in products)
    rate = sum(kernel.multiply_adds for kernel in products) / inside if inside else 0.0
    return {"seconds": seconds, "product_rate": rate, "outside_products": 1 - inside / seconds if seconds else 0.0}


def markdown(reports: list[dict[str, Any]]) -> str:
    """The peaks, and a table for each report."""
    lines = ["## Peak rates", "", "10^9 multiply-adds per second.", ""]
    by_threads = {report["threads"]: report["peaks"] for report in reports}
    names = list(dict.fromkeys(name for found in by_threads.values() for name in found))
    rows = ([name, *(f"{found[name] / 1e9:.0f}" for found in by_threads.values())] for name in names)
    lines += [*table(["instruction", *(f"{threads} threads" for threads in by_threads)], rows), ""]
    for report in reports:
        lines += [*report_lines(report), ""]
    return "\n".join(lines).rstrip() + "\n"


def report_lines(report: dict[str, Any]) -> Iterator[str]:
    """One model on one number of threads."""
    instruction = next((i.name for i in INSTRUCTIONS if i.target == report["target"]), None)
    peak = report["peaks"].get(instruction)
    yield f"## {short(report['model'])}, {report['target']}, {report['threads']} threads, batch {report['batch']}"
    yield ""
    of_peak = f", {report['product_rate'] / peak:.0%} of the peak of {instruction}" if peak else ""
    yield (
        f"{1000 * report['seconds']:.2f} ms in kernels, {report['outside_products']:.0%} of it outside products; "
        f"products at {report['product_rate'] / 1e9:.0f} 10^9 multiply-adds/s{of_peak}."
    )
    yield ""
    yield from table(
        ["kernel", "layer", "calls", "ms", "share", "10^6 multiply-adds", "10^9 per second", "of peak"],
        (row_of(kernel, peak) for kernel in report["kernels"]),
    )


def row_of(kernel: dict[str, Any], peak: float | None) -> list[str]:
    """A kernel's cells; those that do not multiply leave the last three empty."""
    cells = [kernel["name"], kernel["layer"] or "(model)", str(kernel["calls"])]
    cells += [f"{1000 * kernel['seconds']:.3f}", f"{kernel['share']:.1%}"]
    if not kernel["multiply_adds"]:
        return [*cells, "", "", ""]
    rate = f"{kernel['rate'] / 1e9:.0f}"
    return [*cells, f"{kernel['multiply_adds'] / 1e6:.1f}", rate, f"{kernel['rate'] / peak:.0%}" if peak else ""]


if __name__ == "__main__":
    main()
