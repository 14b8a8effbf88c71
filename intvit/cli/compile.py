"""`intvit compile`: m.intvit to m.so."""

from pathlib import Path
from typing import Annotated

import typer

from intvit.cli.options import Json, check_input, check_output
from intvit.cli.report import Report, stages


def compile_command(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="m.intvit, made by `intvit quantize`.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The module to write: m.so.")],
    target: Annotated[
        str, typer.Option("--target", help="auto (this machine), or a name such as x86-64-v3; a wrong one lists all.")
    ] = "auto",
    as_json: Json = False,
) -> None:
    """Compile an integer model to a shared library."""
    report = Report(ctx)
    check_output(output, ".so")
    check_input(model, ".intvit")
    with stages() as progress:
        progress("load")
        from intvit.compilation import compile_model
        from intvit.integer_model import IntegerModel

        loaded = IntegerModel.load(model)
        progress("compile")
        compiled = compile_model(loaded, target)
        progress("write")
        compiled.save(output)
    size = output.stat().st_size
    report.say(f"compiled for {compiled.target}: {size / 1e6:.1f} MB, digest {compiled.digest[:16]}")
    report.finish_file(output, target=compiled.target, digest=compiled.digest, bytes=size)
