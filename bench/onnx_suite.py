"""Our models as ONNX against what ONNX Runtime and OpenVINO make of the same float models: JSON and Markdown tables.

    python bench/onnx_suite.py deit_tiny_patch16_224 deit_small_patch16_224 --out bench/results
    python bench/onnx_suite.py deit_tiny_patch16_224 --weights W --data DIR --labels labels.csv --resize 256 --out DIR

Latency, time by operator and sizes for each of timm's models; with --data and --labels also accuracy. DIR/onnx.json
keeps what was measured before: a measurement replaces that of the same model. The script is not `onnx.py`, because in
this folder that would be what `import onnx` finds.
"""

import argparse
import gc
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx_figures as figures
import onnx_table
from numpy.typing import NDArray
from one_model import random_pixels, weight_bytes
from onnx_sides import Sides

import intvit
from intvit.bench.machine import cores, describe
from intvit.bench.timing import Turns
from intvit.data import Source
from intvit.images import read_labels
from intvit.models import resolve
from intvit.preprocess import Preprocessing

RANDOM_IMAGES, DATA_IMAGES = 16, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "models",
        nargs="*",
        default=["deit_tiny_patch16_224"],
        metavar="MODEL",
        help="timm's names, or names with their library",
    )
    parser.add_argument("--weights", default="random", help="a file; random by default")
    parser.add_argument("--data", type=Path, metavar="DIR", help="images that calibrate; random ones by default")
    parser.add_argument("--labels", type=Path, metavar="CSV", help="file,class of the images after these")
    parser.add_argument(
        "--calib", type=int, help=f"images that calibrate: {DATA_IMAGES}, or {RANDOM_IMAGES} random ones"
    )
    parser.add_argument("--resize", type=int, help="the shorter side, where it is not the model's own")
    parser.add_argument("--limit", type=int, help="score at most so many images")
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--rounds", type=int, default=Turns.rounds)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    if options.labels is not None and options.data is None:
        parser.error("--labels are those of --data")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "onnx.json"
    found: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    for model in options.models:
        measured = measure(model, options)
        found = [*(old for old in found if old["model"] != model), measured]
        path.write_text(json.dumps(found, indent=1) + "\n")
    (options.out / "onnx.md").write_text(onnx_table.markdown(found))
    print(path, options.out / "onnx.md", sep="\n")


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Every figure of one model."""
    resolved = resolve(name if ":" in name else f"timm:{name}", options.weights)
    if resolved.preprocessing is None:
        sys.exit(f"{name} has no preprocessing of its own: this script needs its image size")
    preprocessing = resolved.preprocessing.override(resize=options.resize)
    pixels = calibration(options, preprocessing)
    say(f"{name}: quantizing")
    model = intvit.quantize(
        resolved.module, pixels, calib=len(pixels), preprocessing=preprocessing, name=name, labels=resolved.labels
    )
    weights = weight_bytes(model)
    with tempfile.TemporaryDirectory(prefix="intvit-") as temporary:
        folder = Path(temporary)
        sides = Sides(resolved.module, preprocessing, pixels, model, folder, options.threads)
        parts = []
        for batch in options.batches:
            gc.collect()  # what was made for another size
            say(f"{name}: latency, batch {batch}")
            parts.append(figures.latency(sides, batch, Turns(rounds=options.rounds)))
        say(f"{name}: time by operator, sizes")
        ran = [row["name"] for row in parts[0]["rows"]]
        profile = figures.operators(sides, ran, options.batches[0], folder)
        sizes = figures.sizes(sides, ran, weights)
        scores = None
        if options.labels is not None:
            say(f"{name}: accuracy")
            scores = figures.scores(
                sides,
                resolved.module,
                intvit.compile(model, threads=options.threads),
                Source(options.data, preprocessing),
                read_labels(options.labels),
                options.labels,
                skip=len(pixels),
                limit=options.limit,
            )
    images = "random images" if options.data is None else "images, the first of the data"
    return {
        "model": name,
        "machine": describe(),
        "weights": Path(options.weights).name,
        "calibration": f"{len(pixels)} {images}",
        "weight_bytes": weights,
        "latency": parts,
        "operators": profile,
        "sizes": sizes,
        "scores": scores,
    }


def calibration(options: argparse.Namespace, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Images `[N, H, W, C]` for our quantizer and the others'."""
    if options.data is None:
        return random_pixels(preprocessing, options.calib or RANDOM_IMAGES)
    batches = Source(options.data, preprocessing).batches(10, options.calib or DATA_IMAGES)
    return np.concatenate([batch.values for batch in batches])


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
