"""`intvit report`: a page that shows where an integer model's error is, on the user's images."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from intvit.cli.eval import float_model
from intvit.cli.options import (
    Batch,
    Json,
    Threads,
    Weights,
    check_images,
    check_input,
    check_output,
    open_model,
)
from intvit.cli.output import Report, stages
from intvit.cli.settings import described
from intvit.data import Source
from intvit.errors import IntvitError
from intvit.files import write_atomically
from intvit.loading import load
from intvit.onnx_model import OnnxModel

if TYPE_CHECKING:
    from intvit.cuda.runtime import CudaModel
    from intvit.integer_model import IntegerModel
    from intvit.report.latency import Latency
    from intvit.runtime import CompiledModel


def report_command(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="m.intvit", help="The integer model.")],
    data: Annotated[Path, typer.Option("--data", help="A folder of images, or a .npy or .npz file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write: report.html.")],
    labels: Annotated[Path | None, typer.Option("--labels", help="A CSV file of file,class.")] = None,
    skip: Annotated[int, typer.Option("--skip", min=0, help="Leave out the first images.")] = 0,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Look at no more than so many images.")] = None,
    against: Annotated[str | None, typer.Option("--against", metavar="NAME", help="A float model to compare.")] = None,
    weights: Weights = None,
    module: Annotated[
        Path | None,
        typer.Option("--module", metavar="m.so", help="The same model compiled: runs it faster, and shows latency."),
    ] = None,
    tensor_images: Annotated[
        int, typer.Option("--tensor-images", min=1, help="Images whose integers are counted, tensor by tensor.")
    ] = 8,
    sensitivity: Annotated[
        int, typer.Option("--sensitivity", min=0, help="Images on which fewer bits are tried, tensor by tensor.")
    ] = 1,
    worst: Annotated[int, typer.Option("--worst", min=0, help="Pictures of the worst images on the page.")] = 24,
    batch: Batch = 10,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Make a page that shows where the error is.

    Accuracy and agreement with confidence intervals, signal to noise along the depth, every tensor's integers, the
    worst images, what each layer's error costs, and latency by layer; one HTML file, which needs no network. It holds
    small pictures of the worst images: --worst 0 leaves them out.
    """
    report = Report(ctx)
    check_input(model, ".intvit")
    check_output(output, ".html")
    if module is not None:
        check_input(module, ".so")
    if weights is not None and against is None:
        raise IntvitError("--weights are those of the float model: name it with --against MODEL")
    files, known = check_images(data, skip, limit, labels)
    total = limit if files is None else len(files)
    with stages() as progress:
        progress("load")
        from intvit.report.figures import Amounts, gather, require_same
        from intvit.report.page import page

        loaded = integer_model(model, threads)
        runner = None if module is None else compiled_module(module, threads)
        if runner is not None:
            require_same(loaded, runner)
        reference = None if against is None else float_model(against, weights, threads)
        metadata = loaded.metadata
        report.say(f"preprocessing: {described(metadata.preprocessing)}")
        source = Source(data, metadata.preprocessing, shape=metadata.input_grid.shape)
        figures = gather(
            loaded,
            source.batches(batch, total, skip),
            runner=runner,
            reference=reference,
            labels=known,
            labels_file=str(labels),
            amounts=Amounts(tensor_images, sensitivity, worst),
            latency=None if runner is None else profiled(runner),
            settings={
                name.replace("_", "-"): str(value) for name, value in report.arguments.items() if value is not None
            },
            progress=lambda stage, done, whole: progress(
                stage, done, total if stage == "evaluate" else whole, "runs" if stage == "sensitivity" else "images"
            ),
        )
        progress("write")
        text = page(figures)
        with write_atomically(output) as temporary:
            temporary.write_text(text, encoding="utf-8")
    found = figures.accuracy
    report.say()
    report.say(f"{'images':<12} {found.images}")
    for name, estimate in (("top-1", found.top1), ("float top-1", found.float_top1), ("agreement", found.agreement)):
        if estimate is not None:
            value, low, high = (100 * share for share in (estimate.value, estimate.low, estimate.high))
            report.say(f"{name:<12} {value:.2f} % ({low:.2f} to {high:.2f})")
    if found.cosine is not None:
        report.say(f"{'cosine':<12} {found.cosine.value:.5f}")
    report.say(f"{'page':<12} {len(text.encode()) / 1e6:.2f} MB")
    report.finish_file(output, digest=figures.digest, bytes=len(text.encode()), **asdict(found))


def integer_model(path: Path, threads: int | None) -> "IntegerModel":
    """The model whose graph is looked into."""
    from intvit.integer_model import IntegerModel

    loaded = open_model(path, threads)
    assert isinstance(loaded, IntegerModel)
    return loaded


def compiled_module(path: Path, threads: int | None) -> "CompiledModel | CudaModel":
    """The module, on a GPU or so many cores."""
    from intvit.integer_model import IntegerModel

    loaded = load(path, threads)
    assert not isinstance(loaded, OnnxModel | IntegerModel)
    return loaded


def profiled(module: "CompiledModel | CudaModel") -> "Latency":
    """The time of each kernel for one image; it does not depend on what the image shows."""
    from intvit.cli.bench import PROFILE_REPEATS, random_pixels
    from intvit.report.latency import latency

    steps = module.profile(random_pixels(module.metadata, 1), PROFILE_REPEATS)
    return latency(steps, module.target, getattr(module, "threads", None))
