"""`intvit quantize`: a float model and calibration images to m.intvit."""

from pathlib import Path
from typing import Annotated

import typer

from intvit.cli import settings
from intvit.cli.options import Batch, Json, Weights, check_data, check_output, names_in
from intvit.cli.report import Report, stages
from intvit.data import Source
from intvit.evaluation import evaluate
from intvit.files import check_folder
from intvit.images import labels_for, read_labels

_OWN = "by default the model's own"


def quantize_command(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="timm:NAME, torchvision:NAME, hf:FOLDER or package.module:function."),
    ],
    data: Annotated[Path, typer.Option("--data", help="Calibration images: a folder, or a .npy or .npz file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The integer model to write: m.intvit.")],
    weights: Weights = None,
    calib: Annotated[int, typer.Option("--calib", min=1, help="Images to calibrate on, the first by file name.")] = 100,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="A CSV file of file,class: prints the calibration images' accuracy."),
    ] = None,
    class_names: Annotated[
        Path | None,
        typer.Option("--class-names", help="A class name per line, kept in the model for `run`."),
    ] = None,
    preset: Annotated[str, typer.Option("--preset", help="default, or paper (as published).")] = "default",
    observer: Annotated[
        str | None,
        typer.Option("--observer", help="auto, minmax, mse or percentile:FRACTION; by default the preset's."),
    ] = None,
    size: Annotated[str | None, typer.Option("--size", metavar="N|HxW", help=f"The model's input; {_OWN}.")] = None,
    resize: Annotated[str | None, typer.Option("--resize", metavar="N|HxW", help="Shorter side, or both.")] = None,
    crop: Annotated[str | None, typer.Option("--crop", help="center, center_floor or none.")] = None,
    interpolation: Annotated[str | None, typer.Option("--interpolation", help="bicubic, bilinear, ...")] = None,
    mean: Annotated[str | None, typer.Option("--mean", metavar="M|R,G,B", help="Of the normalization.")] = None,
    std: Annotated[str | None, typer.Option("--std", metavar="S|R,G,B", help="Of the normalization.")] = None,
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
    changes = {
        "size": settings.size(size),
        "resize": settings.side("--resize", resize),
        "crop": crop,
        "interpolation": interpolation,
        "mean": settings.numbers("--mean", mean),
        "std": settings.numbers("--std", std),
    }
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
            observer=observer,
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
