"""`intvit pack`: m.so to a folder that runs it on a machine without a compiler, a network, torch or TVM."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from intvit.cli.options import Json, check_input
from intvit.cli.output import Report, stages


def pack_command(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="m.so, made by `intvit compile`.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="The folder to write: new, or empty.")],
    as_json: Json = False,
) -> None:
    """Collect what runs a module elsewhere: the module, its loader and runtime, a script that classifies images."""
    report = Report(ctx)
    check_input(model, ".so")
    with stages() as progress:
        progress("pack")
        from intvit.packing import check_new_folder, pack

        check_new_folder(output)
        packed = pack(model, output)
    report.say(f"{packed.name} for {packed.target}: {packed.files} files, {packed.bytes / 1e6:.1f} MB")
    report.say(f"needs {packed.needs}")
    report.finish_file(output, **asdict(packed))
