"""`intvit finetune`: a float model and training images to m.intvit, alone or under `torchrun -m intvit finetune`."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from intvit.cli import settings
from intvit.cli.options import (
    Budget,
    Calib,
    ClassNames,
    Codebook,
    Crop,
    FloatModel,
    IntegerOutput,
    Interpolation,
    Json,
    Mean,
    Observer,
    Preset,
    Resize,
    Size,
    Std,
    Weights,
    Width,
    check_data,
    check_output,
    names_in,
)
from intvit.cli.output import Report, stages
from intvit.images import labels_for, read_labels


def finetune_command(
    ctx: typer.Context,
    model: FloatModel,
    data: Annotated[Path, typer.Option("--data", help="Training images: a folder, or a .npy or .npz file.")],
    output: IntegerOutput,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="A CSV file of file,class; without it the float model's answers are learnt."),
    ] = None,
    weights: Weights = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="How often each image is seen.")] = 30,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images per step, over all processes.")] = 128,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="At the start; a cosine leads to 0.")] = 1e-6,
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="Of the weights of products.")] = 1e-4,
    distill: Annotated[
        float | None,
        typer.Option("--distill", help="The float model's share in the loss; by default 1, or 0.5 beside labels."),
    ] = None,
    smoothing: Annotated[float, typer.Option("--smoothing", help="Of the labels.")] = 0.1,
    mirror: Annotated[bool, typer.Option("--flip", help="Mirror half of the images, by chance.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the order of the images.")] = 0,
    calib: Calib = 100,
    class_names: ClassNames = None,
    preset: Preset = "default",
    bits: Width = "W8A8",
    budget: Budget = None,
    observer: Observer = None,
    codebook: Codebook = "kmeans",
    size: Size = None,
    resize: Resize = None,
    crop: Crop = None,
    interpolation: Interpolation = None,
    mean: Mean = None,
    std: Std = None,
    as_json: Json = False,
) -> None:
    """Make an integer model of a float one, and train its weights for their integers."""
    first = os.environ.get("RANK", "0") == "0"
    with contextlib.nullcontext() if first else _silent():
        report = Report(ctx)
        check_output(output, ".intvit")
        files = check_data(data)
        known = None if labels is None else read_labels(labels)
        if known is not None and files is not None:
            labels_for(names_in(data, files), known, str(labels))
        names = None if class_names is None else settings.class_names(class_names)
        changes = settings.changes(size, resize, crop, interpolation, mean, std)
        with stages() as progress:
            progress("load")
            from intvit.finetune import Epoch, Recipe, finetune, flip
            from intvit.models import resolve

            recipe = Recipe(epochs, batch, learning_rate, weight_decay, distill, smoothing, seed)
            recipe.share(labelled=labels is not None)
            resolved = resolve(model, weights)
            preprocessing = settings.overridden(resolved.preprocessing, model, changes, pictures=files is not None)
            for line in (*resolved.notes, f"preprocessing: {settings.described(preprocessing)}"):
                report.say(line)
            count = 0 if files is None else len(files)
            totals = {"calibrate": min(calib, count), "finetune": epochs * count}
            losses: list[float] = []

            def told(epoch: Epoch) -> None:
                losses.append(epoch.loss)
                report.say(f"epoch {epoch.number}: loss {epoch.loss:.4f}")

            tuned = finetune(
                resolved.module,
                data,
                known,
                recipe=recipe,
                augment=flip if mirror else None,
                preset=preset,
                bits=bits,
                budget=budget,
                observer=observer,
                codebook=codebook,
                calib=calib,
                preprocessing=preprocessing,
                class_names=names or resolved.labels,
                name=resolved.name,
                progress=lambda stage, done: progress(stage, done, totals.get(stage) or None),
                epoch_done=told,
            )
            if not first:
                return
            progress("write")
            tuned.save(output)
        report.finish_file(output, digest=tuned.digest, bytes=output.stat().st_size, losses=losses)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """What the first process says is enough; an error is raised and not printed here."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield
