"""`intvit demo`: the embedded default, without network."""

from dataclasses import asdict

import typer

from intvit.cli.options import Json
from intvit.cli.output import Report, stages


def demo_command(ctx: typer.Context, as_json: Json = False) -> None:
    """Show all of it on a small model that is shipped."""
    report = Report(ctx)
    with stages() as progress:
        progress("load torch and TVM")
        from intvit.demo import run

        progress("demo")
        result = run(report.say)
    report.finish(**asdict(result))
