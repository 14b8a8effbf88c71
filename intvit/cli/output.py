"""What a command prints: its effective arguments first, progress on stderr, results on stdout.

With `--json` stdout holds one object (`arguments` and the results) and nothing else; a refused command leaves it empty.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

PIPE_WIDTH = 160
"""Columns of a table that no terminal shows."""
WORTH_A_LINE = 1.0
"""Seconds after which a stage is reported where there is no terminal to show its progress on."""


class Report:
    """Prints for one command; made from its context, which knows the effective arguments."""

    def __init__(self, ctx: typer.Context) -> None:
        flags = {parameter.name or "": parameter.opts[0] for parameter in ctx.command.params}
        self.arguments = {name: _plain(ctx.params[name]) for name in flags if name in ctx.params and name != "as_json"}
        self.as_json = bool(ctx.params.get("as_json", False))
        self.say(f"intvit {ctx.info_name}")
        for name, value in self.arguments.items():
            if value is not None:
                shown = " ".join(map(str, value)) if isinstance(value, list) else value
                self.say(f"  {flags[name]:<16} {shown}")
        sys.stdout.flush()

    def say(self, line: str = "") -> None:
        """A line for a person."""
        if not self.as_json:
            typer.echo(line)

    def show(self, table: "Table") -> None:
        """A table for a person."""
        from rich.console import Console

        if not self.as_json:
            console = Console()
            if not console.is_terminal:
                console = Console(width=PIPE_WIDTH)
            console.print(table)

    def finish(self, **results: Any) -> None:
        """The one object of `--json`."""
        if self.as_json:
            typer.echo(json.dumps({"arguments": self.arguments, **results}, allow_nan=False))

    def finish_file(self, path: Path, **results: Any) -> None:
        """What `finish` does, then the path that was written: the last line."""
        self.finish(**results, written=str(path))
        self.say(str(path))


class Stages:
    """Progress by stage: a bar where stderr is a terminal, else a line for every stage that took over a second."""

    def __init__(self, bar: "Progress") -> None:
        self._bar = bar
        self._task: Any = None
        self._name, self._done, self._unit, self._since = "", 0, "images", 0.0

    def __call__(self, name: str, done: int = 0, total: int | None = None, unit: str = "images") -> None:
        """Stage `name` has done so many of `total`; a new name ends the stage before."""
        if name != self._name:
            self.end()
            self._name, self._since = name, time.perf_counter()
            self._task = self._bar.add_task(name, total=total)
        self._done, self._unit = done, unit
        self._bar.update(self._task, completed=done, total=total)

    def end(self) -> None:
        """No stage is running from here on."""
        if self._task is None:
            return
        self._bar.remove_task(self._task)
        seconds = time.perf_counter() - self._since
        if self._bar.disable and seconds >= WORTH_A_LINE:
            amount = f" {self._done} {self._unit}" if self._done else ""
            typer.echo(f"{self._name}{amount}: {seconds:.1f} s", err=True)
        self._task = None
        self._name = ""


@contextmanager
def stages() -> Iterator[Stages]:
    """Shows progress until the block ends."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = Stages(bar)
        yield shown
        shown.end()


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
