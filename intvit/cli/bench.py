"""`intvit bench`: latency of a module or exported model, against other runtimes on its float model, and by kernel."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from intvit.cli.options import Batch, Json, Threads, Weights, check_input
from intvit.cli.output import Report, Stages, stages
from intvit.cuda.runtime import CudaModel
from intvit.errors import IntvitError
from intvit.loading import load
from intvit.onnx_model import OnnxModel

if TYPE_CHECKING:
    from intvit.bench.kernels import Kernel
    from intvit.bench.timing import Call, Times
    from intvit.metadata import Metadata
    from intvit.runtime import CompiledModel

LIBRARIES = ("timm:", "torchvision:", "hf:")
OURS = "intvit"
PROFILE_REPEATS = 20


def bench_command(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="m.so (compiled) or m.onnx (exported).")],
    batch: Batch = 1,
    threads: Threads = None,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", metavar="PEER", help="torch, onnx or openvino; a wrong one lists all. Repeatable."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="The float model, by default the one in the module.")
    ] = None,
    weights: Weights = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds in which the peers take turns.")] = 15,
    profile: Annotated[bool, typer.Option("--profile", help="Show the time of each kernel.")] = False,
    as_json: Json = False,
) -> None:
    """Measure latency, also against other runtimes.

    Peers run the float model that the module was made from, in this process, in turns with the module. Their times do
    not depend on weights, so random ones do.
    """
    report = Report(ctx)
    check_input(model, ".so", ".onnx")
    if against is None and (name is not None or weights is not None):
        raise IntvitError("--model and --weights are for peers: name one with --against torch, onnx or openvino")
    from intvit.bench.kernels import by_kernel
    from intvit.bench.machine import describe
    from intvit.bench.names import expand
    from intvit.bench.timing import Turns, take_turns

    chosen = expand(against or ())
    with stages() as progress:
        progress("load")
        compiled = open_module(model, threads)
        if isinstance(compiled, CudaModel) and against:
            raise IntvitError("the peers of this command run on the CPU: compare on a GPU with bench/gpu.py")
        pixels = random_pixels(compiled.metadata, batch)
        grid = compiled.metadata.input_grid
        images = pixels if grid.takes_pixels else grid.normalized(pixels)
        calls: dict[str, Call] = {OURS: lambda: compiled(images)}
        source = None
        if chosen and not isinstance(compiled, CudaModel):
            source = float_model_of(compiled.metadata, name, weights)
            calls |= peer_calls(chosen, source, compiled, pixels, progress)
        progress("measure", 0, rounds)
        times = take_turns(calls, Turns(rounds=rounds), lambda done: progress("measure", done, rounds))
        steps = compiled.steps if isinstance(compiled, OnnxModel) else compiled.profile
        kernels = by_kernel(steps(pixels, PROFILE_REPEATS)) if profile else None
    rows = latencies(times, batch)
    used = None if isinstance(compiled, CudaModel) else compiled.threads
    where = "copies from and to the host included" if used is None else f"{used} threads"
    report.say(f"{what_runs(compiled)}, {where}, batch {batch}")
    if source is not None:
        said = "random weights: times do not depend on them" if source[1] == "random" else "with its weights"
        report.say(f"peers run {source[0]}, {said}")
    report.say()
    show_latencies(report, rows)
    if kernels is not None:
        report.say()
        show_kernels(report, kernels)
    report.finish(
        digest=compiled.digest,
        target="onnxruntime" if isinstance(compiled, OnnxModel) else compiled.target,
        threads=used,
        machine=describe(),
        float_model=None if source is None else {"name": source[0], "weights": source[1]},
        latency=rows,
        kernels=None if kernels is None else [{**asdict(kernel), "rate": kernel.rate} for kernel in kernels],
    )


def open_module(path: Path, threads: int | None) -> "CompiledModel | CudaModel | OnnxModel":
    """The module, on a GPU or so many cores, or the exported model."""
    from intvit.runtime import CompiledModel

    loaded = load(path, threads)
    assert isinstance(loaded, CompiledModel | CudaModel | OnnxModel)
    return loaded


def what_runs(model: "CompiledModel | CudaModel | OnnxModel") -> str:
    """One phrase for a person."""
    if isinstance(model, OnnxModel):
        return f"profile {model.profile} in ONNX Runtime"
    return f"compiled for {model.target}"


def random_pixels(metadata: "Metadata", count: int) -> NDArray[np.uint8]:
    """Images `[count, H, W, C]` of the module's size; time does not depend on what they show."""
    channels, height, width = metadata.input_grid.shape
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)


def float_model_of(metadata: "Metadata", name: str | None, weights: str | None) -> tuple[str, str | None]:
    """Name and weights of the float model; libraries' models take random weights where none are given.

    What a module says is followed to a library's model only: a name of another kind is code, which the user must name.
    """
    source = name or metadata.name
    library = source.startswith(LIBRARIES)
    if name is None and not library:
        raise IntvitError(f"the module was made from {source!r}, not from a library's model: name it with --model")
    return source, "random" if weights is None and library and not source.startswith("hf:") else weights


def peer_calls(
    names: list[str],
    source: tuple[str, str | None],
    compiled: "CompiledModel | OnnxModel",
    pixels: NDArray[np.uint8],
    progress: Stages,
) -> "dict[str, Call]":
    """The calls of peers on the float model `source`, with the images that the module is given."""
    progress("build the float model")
    from intvit.bench.peers import CALIBRATION_IMAGES, Peers
    from intvit.models import resolve

    grid = compiled.metadata.input_grid
    maker = Peers(resolve(*source).module, grid.normalized(random_pixels(compiled.metadata, CALIBRATION_IMAGES)))
    made = {}
    for peer in names:
        progress(f"prepare {peer}")
        made[peer] = maker.make(peer, grid.normalized(pixels), compiled.threads)
    return made


def latencies(times: "dict[str, Times]", batch: int) -> list[dict[str, Any]]:
    """One row per peer, milliseconds; `ratio` is how many times ours goes into the peer's."""
    from intvit.bench.timing import ratio, summary

    return [
        {
            "name": peer,
            **asdict(summary(taken)),
            "images_per_second": batch / float(np.median(taken)),
            "ratio": None if peer == OURS else asdict(ratio(taken, times[OURS])),
        }
        for peer, taken in times.items()
    ]


def show_latencies(report: Report, rows: list[dict[str, Any]]) -> None:
    """Milliseconds of a call, and how many times ours goes into the peer's."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("", overflow="fold")
    for heading in ("median ms", "10 %", "90 %", "images/s", "peer / intvit", "nine of ten"):
        table.add_column(heading, justify="right")
    for row in rows:
        times = [f"{row[key]:.2f}" for key in ("median", "p10", "p90")]
        found = row["ratio"]
        spread = ["", ""] if found is None else [f"{found['value']:.2f}", f"{found['low']:.2f} to {found['high']:.2f}"]
        table.add_row(row["name"], *times, f"{row['images_per_second']:.1f}", *spread)
    report.show(table)


def show_kernels(report: Report, kernels: "list[Kernel]") -> None:
    """One row per kernel, the slowest first."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("kernel", "layer"):
        table.add_column(heading, overflow="fold")
    for heading in ("calls", "ms", "share", "10^6 multiply-adds", "10^9 per second"):
        table.add_column(heading, justify="right")
    for kernel in kernels:
        work = [f"{kernel.multiply_adds / 1e6:.1f}", f"{kernel.rate / 1e9:.1f}"] if kernel.multiply_adds else ["", ""]
        time = f"{1000 * kernel.seconds:.3f}", f"{kernel.share:.1%}"
        table.add_row(kernel.name, kernel.layer or "(model)", str(kernel.calls), *time, *work)
    report.show(table)
