"""`intvit eval`: accuracy of an artifact, and how near it is to its float model on the same pixels."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from intvit.cli.options import (
    ARTIFACTS,
    Artifact,
    Batch,
    Json,
    Threads,
    Weights,
    check_images,
    check_input,
    open_model,
)
from intvit.cli.output import Report, stages
from intvit.cli.settings import described
from intvit.data import Source
from intvit.errors import IntvitError
from intvit.evaluation import Reference, evaluate


def eval_command(
    ctx: typer.Context,
    model: Artifact,
    data: Annotated[Path, typer.Option("--data", help="A folder of images, or a .npy or .npz file.")],
    labels: Annotated[Path | None, typer.Option("--labels", help="A CSV file of file,class.")] = None,
    skip: Annotated[int, typer.Option("--skip", min=0, help="Leave out the first images.")] = 0,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Evaluate at most so many images.")] = None,
    against: Annotated[str | None, typer.Option("--against", metavar="NAME", help="A float model to compare.")] = None,
    weights: Weights = None,
    batch: Batch = 10,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure accuracy, and agreement with a float model.

    top-1 and top-5 need --labels; agreement (share of equal top-1) and mean cosine of the logits need --against.
    Images come in order of their file names. The float model sees the same pixels, preprocessed as the artifact says.
    """
    report = Report(ctx)
    check_input(model, *ARTIFACTS)
    if labels is None and against is None:
        raise IntvitError("there is nothing to compare with: give --labels CSV, or --against MODEL, or both")
    if weights is not None and against is None:
        raise IntvitError("--weights are those of the float model: name it with --against MODEL")
    files, known = check_images(data, skip, limit, labels)
    with stages() as progress:
        progress("load")
        loaded = open_model(model, threads)
        reference = None if against is None else float_model(against, weights, threads)
        metadata = loaded.metadata
        report.say(f"preprocessing: {described(metadata.preprocessing)}")
        source = Source(data, metadata.preprocessing, shape=metadata.input_grid.shape)
        result = evaluate(
            loaded,
            source.batches(batch, limit if files is None else len(files), skip),
            known,
            reference,
            labels_file=str(labels),
            progress=lambda done: progress("evaluate", done, limit if files is None else len(files)),
        )
    report.say()
    for name, value, unit in (
        ("images", result.images, ""),
        ("top-1", result.top1, " %"),
        ("top-5", result.top5, " %"),
        ("float top-1", result.float_top1, " %"),
        ("float top-5", result.float_top5, " %"),
        ("agreement", result.agreement, " %"),
        ("cosine", result.cosine, ""),
    ):
        if value is not None:
            shown = f"{value:.2f}" if unit else f"{value:.5f}" if isinstance(value, float) else value
            report.say(f"{name:<12} {shown}{unit}")
    report.finish(digest=loaded.digest, **asdict(result))


def float_model(name: str, weights: str | None, threads: int | None) -> Reference:
    """The first output of a float model, by name."""
    import torch

    from intvit.models import resolve

    if threads is not None:
        torch.set_num_threads(threads)
    module = resolve(name, weights).module

    def run(images: Any) -> np.ndarray[Any, Any]:
        try:
            with torch.inference_mode():
                leaves = torch.utils._pytree.tree_leaves(module(torch.from_numpy(images)))
        except (RuntimeError, ValueError, TypeError) as error:  # whatever a module raises for images of another size
            reason = str(error).partition("\n")[0]
            raise IntvitError(
                f"{name}: the float model does not take images {list(images.shape)} ({reason}); "
                "compare with the model that was quantized"
            ) from error
        outputs = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if not outputs:
            raise IntvitError(f"{name}: returned no tensor; compare with a model that returns its logits")
        return outputs[0].numpy()

    return run
