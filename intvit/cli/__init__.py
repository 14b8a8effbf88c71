"""The command line: `intvit COMMAND`, one file per command. torch and TVM are imported by the commands that need them.

| file          | what                                                                          |
|---------------|-------------------------------------------------------------------------------|
| `output.py`   | what a command prints: arguments first, progress on stderr, one JSON object      |
| `errors.py`   | one line on stderr and the exit code for what a user can mend                    |
| `options.py`  | the options that commands share, and the paths that are checked before any work  |
| `settings.py` | options of `quantize` that stand for objects: preprocessing, class names, passes |
"""

import typer

from intvit._version import __version__
from intvit.cli.bench import bench_command
from intvit.cli.compile import compile_command
from intvit.cli.demo import demo_command
from intvit.cli.errors import Commands
from intvit.cli.eval import eval_command
from intvit.cli.export import export_command
from intvit.cli.finetune import finetune_command
from intvit.cli.inspect import inspect_command
from intvit.cli.pack import pack_command
from intvit.cli.passes import passes_command
from intvit.cli.quantize import quantize_command
from intvit.cli.report import report_command
from intvit.cli.run import run_command
from intvit.cli.serve import serve_command
from intvit.cli.verify import verify_command

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, command in (
    ("quantize", quantize_command),
    ("finetune", finetune_command),
    ("compile", compile_command),
    ("export", export_command),
    ("run", run_command),
    ("eval", eval_command),
    ("pack", pack_command),
    ("verify", verify_command),
    ("inspect", inspect_command),
    ("bench", bench_command),
    ("report", report_command),
    ("serve", serve_command),
    ("passes", passes_command),
    ("demo", demo_command),
):
    app.command(name)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"intvit {__version__}")
        raise typer.Exit


@app.callback()
def intvit(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Integer-only Vision Transformers: quantize once, compile with Apache TVM, prove every bit.

    Exit codes: 0 done, 2 the input is at fault, 3 unsupported operations, 4 a proof failed, 130 interrupted.
    """


def main() -> None:
    """The console script `intvit`."""
    app(prog_name="intvit")
