"""`intvit inspect --coverage`: every operation of a float model, what it becomes, and what would stay float."""

import re
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from intvit.cli.output import Report, stages
from intvit.errors import IntvitError, UnsupportedOp

if TYPE_CHECKING:
    from intvit.coverage import Coverage, Row
    from intvit.models import ResolvedModel

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


def show_coverage(report: Report, model: str, weights: str | None, size: str | None) -> None:
    """The table, a line that sums it up, and exit code 3 with every reason where something would stay float."""
    with stages() as progress:
        progress("load")
        from intvit.coverage import coverage
        from intvit.models import resolve

        resolved = resolve(model, weights or "random")
        shape = input_shape(size, resolved)
        progress("capture")
        found = coverage(resolved.module, shape)
    report.say(f"{'input':<14} float32 [batch, {', '.join(map(str, shape))}]")
    report.say()
    if found.rows:
        show_rows(report, found.rows)
    report.say(summary(found))
    report.finish(
        input_shape=shape,
        operations=found.operations,
        canonical_operations=found.canonical,
        integer_only=not found.unsupported,
        unsupported=found.unsupported,
        rows=[asdict(row) for row in found.rows],
    )
    if not found.rows:
        raise UnsupportedOp(found.unsupported[0])
    if found.unsupported:
        raise UnsupportedOp("\n  ".join((f"{len(found.unsupported)} operations would stay float:", *found.unsupported)))


def input_shape(size: str | None, resolved: "ResolvedModel") -> tuple[int, int, int]:
    """`[channels, height, width]`: `N`, `HxW` or `CxHxW` where given; else what the model's preprocessing makes."""
    from intvit.quantization import DEFAULT_SHAPE

    own = resolved.preprocessing
    channels, height, width = DEFAULT_SHAPE if own is None else (own.channels, *own.size)
    if size is None:
        return channels, height, width
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){0,2}", size):
        raise IntvitError(f"--size {size}: write a number of pixels, HEIGHTxWIDTH or CHANNELSxHEIGHTxWIDTH")
    sides = [int(part) for part in size.split("x")]
    if len(sides) == 3:
        return sides[0], sides[1], sides[2]
    return channels, sides[0], sides[-1]


def show_rows(report: Report, rows: "tuple[Row, ...]") -> None:
    """One line for each operation of a module; of modules that differ in their numbers alone, one for all."""
    from rich.table import Table
    from rich.text import Text

    counts: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        path = row.path if row.reason is not None else _NUMBER.sub("*", row.path)
        passes = f" ({', '.join(row.passes)})" if row.passes else ""
        becomes = f"{row.becomes}{passes}" if row.reason is None else f"UNSUPPORTED: {row.reason}"
        counts[path or "(model)", row.operation, becomes] += row.count
    table = Table(box=None, pad_edge=False)
    table.add_column("module", overflow="fold")
    table.add_column("operation", overflow="fold")
    table.add_column("times", justify="right")
    table.add_column("becomes", overflow="fold")
    for (path, operation, becomes), count in counts.items():
        table.add_row(Text(path), operation, str(count), Text(becomes))
    report.show(table)
    report.say()


def summary(found: "Coverage") -> str:
    """One line."""
    if not found.rows:
        return "not supported: the model cannot be captured"
    made = f"{found.operations} operations become {found.canonical} canonical ones"
    if not found.unsupported:
        return f"{made}, all of which are lowered to integers"
    return f"not supported: {len(found.unsupported)} of {found.operations} operations would stay float"
