"""`intvit run`: the likeliest classes of images. Needs neither torch nor TVM's compiler where the model is a `.so`."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from intvit.cli.options import ARTIFACTS, Artifact, Batch, Json, Threads, check_input, open_model
from intvit.cli.output import Report, stages
from intvit.data import Source
from intvit.errors import IntvitError
from intvit.evaluation import scores, softmax
from intvit.images import image_files
from intvit.metadata import Metadata


def run_command(
    ctx: typer.Context,
    model: Artifact,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")],
    top: Annotated[int, typer.Option("--top", min=1, help="Classes to print for each image.")] = 5,
    batch: Batch = 8,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Classify images: the five likeliest classes."""
    report = Report(ctx)
    check_input(model, *ARTIFACTS)
    files = [file for path in images for file in (image_files(path) if path.is_dir() else [path])]
    rows: list[dict[str, Any]] = []
    with stages() as progress:
        progress("load")
        loaded = open_model(model, threads)
        if loaded.metadata.preprocessing is None:
            raise IntvitError(f"{model}: stores no preprocessing, so image files cannot be run; call it from Python")
        source = Source(files, loaded.metadata.preprocessing)
        for group in source.batches(batch):
            for name, row in zip(group.names, scores(loaded(group.values)), strict=True):
                rows.append({"file": name, "top": likeliest(row, top, loaded.metadata)})
            progress("run", len(rows), len(files))
    for image in rows:
        report.say()
        report.say(image["file"])
        for entry in image["top"]:
            known = f"{entry['class']:>5}  {entry['name']}" if entry["name"] else f"class {entry['class']}"
            report.say(f"  {entry['probability']:6.1%}  {known}")
    report.finish(images=rows)


def likeliest(row: Any, top: int, metadata: Metadata) -> list[dict[str, Any]]:
    """The `top` classes of one image's logits, likeliest first."""
    probabilities = softmax(row)
    names = metadata.labels or ()
    return [
        {
            "class": int(index),
            "name": names[index] if index < len(names) else None,
            "logit": round(float(row[index]), 4),
            "probability": round(float(probabilities[index]), 6),
        }
        for index in np.argsort(-row, kind="stable")[:top]
    ]
