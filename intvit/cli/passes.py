"""`intvit passes`: the passes by name, in order."""

import typer

from intvit.cli.options import Json
from intvit.cli.output import Report


def passes_command(ctx: typer.Context, as_json: Json = False) -> None:
    """List the passes, in order, for quantize --passes."""
    report = Report(ctx)
    from intvit.passes.pipeline import PASSES

    summaries = {step.name: (type(step).__doc__ or "").strip().partition("\n")[0] for step in PASSES}
    width = max(map(len, summaries))
    for name, summary in summaries.items():
        report.say(f"{name:<{width}}  {summary}")
    report.finish(passes=[{"name": name, "summary": summary} for name, summary in summaries.items()])
