"""The Markdown of `accuracy.py`: a table for each model and choice of images, and the reasons of what failed.

python bench/accuracy_table.py bench/results/accuracy.json
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accuracy_forms import FORMS
from table import machine_line, megabytes, short, table

Row = dict[str, Any]
OPTIONS = ("weights", "data", "labels", "calib", "skip", "images", "resize", "threads")


def markdown(found: list[Row]) -> str:
    """Everything that was measured."""
    lines = ["# Accuracy", ""]
    for protocol in unique([row["protocol"] for row in found]):
        rows = in_order([row for row in found if row["protocol"] == protocol])
        lines += [f"## {short(protocol['model'])}", "", images_line(protocol), "", f"    {command(protocol)}", ""]
        lines += [*dict.fromkeys(machine_line(row["machine"]) for row in rows), ""]
        lines += [*accuracy_table(rows), ""]
        reasons = [f"- {FORMS[row['form']].title}: {row['reason']}" for row in rows if "reason" in row]
        lines += ["What failed:", "", *reasons, ""] if reasons else []
    return "\n".join(lines).rstrip() + "\n"


def unique(protocols: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each once, in order."""
    return [protocol for i, protocol in enumerate(protocols) if protocol not in protocols[:i]]


def in_order(rows: list[Row]) -> list[Row]:
    """As `FORMS` has them."""
    order = list(FORMS)
    return sorted(rows, key=lambda row: order.index(row["form"]))


def images_line(protocol: dict[str, Any]) -> str:
    """Which images."""
    end = protocol["skip"] + protocol["images"]
    threads = f"{protocol['threads']} thread{'s' * (protocol['threads'] > 1)}"
    return (
        f"By file name, images 0 to {protocol['calib'] - 1} of {protocol['data']} calibrate, {protocol['skip']} to "
        f"{end - 1} are scored. Weights: {protocol['weights'] or 'of the model'}; {threads}."
    )


def command(protocol: dict[str, Any]) -> str:
    """What measures it again, with the names of the files."""
    words = [f"--{name} {protocol[name]}" for name in OPTIONS if protocol[name] is not None]
    return f"python bench/accuracy.py {protocol['model']} {' '.join(words)} --out bench/results"


def accuracy_table(rows: list[Row]) -> Iterator[str]:
    """A row per form that was measured."""
    headings = ["form", "top-1", "difference to float32 (95 %)", "McNemar's p", "agreement", "cosine", "file"]
    cells = ([*_scores(row), *_costs(row)] for row in rows if "accuracy" in row)
    return table([*headings, "calibration", "peak memory"], cells)


def _scores(row: Row) -> list[str]:
    form, found = FORMS[row["form"]], row["accuracy"]
    paired = found["paired_top1"]
    difference = " to ".join(f"{100 * paired['difference'][end]:+.2f}" for end in ("low", "high"))
    difference = f"{100 * paired['difference']['value']:+.2f} ({difference})"
    compared = ["", ""] if form.exact else [difference, probability(paired["p_value"])]
    near = [f"{100 * found['agreement']['value']:.2f}", f"{found['cosine']['value']:.4f}"]
    return [form.title, f"{100 * found['top1']['value']:.2f}", *compared, *near]


def _costs(row: Row) -> list[str]:
    made = row["calibration"]
    costs = ["", ""] if made is None else [f"{made['seconds']:.0f} s", f"{made['peak'] / 2**30:.2f} GiB"]
    return [megabytes(row["bytes"]), *costs]


def probability(p: float) -> str:
    """Of McNemar's test."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())), end="")
