"""`intvit quantize`: a float model and calibration images to m.intvit."""

from pathlib import Path
from typing import Annotated

import typer

from intvit.cli import settings
from intvit.cli.options import (
    Batch,
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
from intvit.data import Source
from intvit.evaluation import evaluate
from intvit.files import check_folder
from intvit.images import labels_for, read_labels


def quantize_command(
    ctx: typer.Context,
    model: FloatModel,
    data: Annotated[Path, typer.Option("--data", help="Calibration images: a folder, or a .npy or .npz file.")],
    output: IntegerOutput,
    weights: Weights = None,
    calib: Calib = 100,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="A CSV file of file,class: prints the calibration images' accuracy."),
    ] = None,
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
    batch: Batch = 10,
    passes: Annotated[
        str | None, typer.Option("--passes", metavar="NAME,...", help="Only these, in this order: see `intvit passes`.")
    ] = None,
    dump_ir: Annotated[
        Path | None, typer.Option("--dump-ir", metavar="DIR", help="Write the graph after every pass to this folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make an integer model of a float one, without training."""
    report = Report(ctx)
    check_output(output, ".intvit")
    files = check_data(data)
    known = None if labels is None else read_labels(labels)
    if known is not None and files is not None:
        labels_for(names_in(data, files[:calib]), known, str(labels))
    names = None if class_names is None else settings.class_names(class_names)
    if dump_ir is not None:
        check_folder(dump_ir)
    changes = settings.changes(size, resize, crop, interpolation, mean, std)
    with stages() as progress:
        progress("load")
        from intvit.models import resolve
        from intvit.quantization import quantize

        chosen = settings.chosen_passes(passes)
        resolved = resolve(model, weights)
        preprocessing = settings.overridden(resolved.preprocessing, model, changes, pictures=files is not None)
        for line in (*resolved.notes, f"preprocessing: {settings.described(preprocessing)}"):
            report.say(line)
        total = calib if files is None else min(calib, len(files))
        quantized = quantize(
            resolved.module,
            data,
            preset=preset,
            bits=bits,
            budget=budget,
            observer=observer,
            codebook=codebook,
            calib=calib,
            batch=batch,
            preprocessing=preprocessing,
            labels=names or resolved.labels,
            name=resolved.name,
            passes=chosen,
            dump_ir=dump_ir,
            progress=lambda stage, done: progress(stage, done, total if stage == "calibrate" else None),
        )
        accuracy = None
        if known is not None:
            source = Source(data, preprocessing, shape=quantized.metadata.input_grid.shape)
            accuracy = evaluate(
                quantized,
                source.batches(batch, total),
                known,
                labels_file=str(labels),
                progress=lambda done: progress("evaluate", done, total),
            )
        progress("write")
        quantized.save(output)
    layers = quantized.metadata.layers
    worst = min(layers, key=lambda layer: float("inf") if layer.snr is None else layer.snr, default=None)
    if worst is not None and worst.snr is not None:
        place = " ".join(filter(None, (worst.path, worst.operation)))
        report.say(f"{len(layers)} operations in integers, least signal to noise {worst.snr:.1f} dB ({place})")
    if accuracy is not None:
        report.say(f"top-1 {accuracy.top1:.2f} %, top-5 {accuracy.top5:.2f} % of {accuracy.images} calibration images")
    report.finish_file(
        output,
        digest=quantized.digest,
        bytes=output.stat().st_size,
        layers=len(layers),
        preprocessing=None if preprocessing is None else preprocessing.to_dict(),
        calibration_top1=None if accuracy is None else accuracy.top1,
        calibration_top5=None if accuracy is None else accuracy.top5,
    )
