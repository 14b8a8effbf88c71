"""`intvit compile`: m.intvit to m.so or m.o."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from intvit.cli.options import Json, check_input, check_output
from intvit.cli.output import Report, stages


def compile_command(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="m.intvit, made by `intvit quantize`.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The module to write: m.so, or m.o to link into a program.")
    ],
    target: Annotated[
        str,
        typer.Option(
            "--target",
            help="auto (this CPU), cuda (this GPU), or a name such as x86-64-v3, aarch64 or cuda:sm_90; a wrong one "
            "lists all.",
        ),
    ] = "auto",
    tune: Annotated[
        float, typer.Option("--tune", min=0, metavar="SECONDS", help="Measure block sizes on this machine for so long.")
    ] = 0,
    tune_cache: Annotated[
        Path | None,
        typer.Option("--tune-cache", metavar="FILE", help="JSON: what tuning found; read, and written after --tune."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compile an integer model to a shared library, or to an object file for programs without Python."""
    report = Report(ctx)
    check_output(output, ".so", ".o")
    if tune_cache is not None:
        check_output(tune_cache, ".json")
    check_input(model, ".intvit")
    with stages() as progress:
        progress("load")
        from intvit.compilation import target_name, write_module
        from intvit.files import write_atomically
        from intvit.integer_model import IntegerModel

        name = target_name(target)
        loaded = IntegerModel.load(model)
        progress("compile")
        with write_atomically(output) as temporary:
            tuned = write_module(loaded, temporary, name, tune, tune_cache)
    size = output.stat().st_size
    report.say(f"compiled for {name}: {size / 1e6:.1f} MB, digest {loaded.digest[:16]}")
    if tune or tune_cache is not None:
        report.say(
            f"tuned: {tuned.known} of {tuned.kernels} kernels were known, {tuned.measured} measured, "
            f"{tuned.improved} are better than by rule"
        )
    report.finish_file(output, target=name, digest=loaded.digest, bytes=size, tuned=asdict(tuned))
