"""The Markdown of `onnx_suite.py`: latency, accuracy, time by operator and sizes of ONNX models.

python bench/onnx_table.py bench/results/onnx.json
"""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnx_sides import SIDES
from table import machine_line, megabytes, number, ratio_cell, table, time_cell

Measurement = dict[str, Any]


def markdown(found: list[Measurement]) -> str:
    """All tables of all models."""
    lines = ["# ONNX", ""]
    for entry in found:
        lines += [f"## {entry['model']}", "", machine_line(entry["machine"]), "", calibration_line(entry), ""]
        for part in entry["latency"]:
            lines += [f"### Latency, batch {part['batch']}, {part['threads']} threads", ""]
            lines += [*latency_table(part), "", *ratio_table(part), ""]
        if entry["scores"] is not None:
            lines += ["### Accuracy", "", *score_table(entry["scores"]), ""]
        first = entry["latency"][0]
        lines += [f"### Time by operator, batch {first['batch']}, {first['threads']} threads", ""]
        lines += ["Number of nodes after ONNX Runtime's optimizations: microseconds of all (share).", ""]
        lines += [*operator_table(entry["operators"]), ""]
        lines += ["### Sizes and times", "", *size_table(entry), ""]
        reasons = dict.fromkeys(
            f"- {SIDES[name]}: {reason}" for part in entry["latency"] for name, reason in part["skipped"].items()
        )
        lines += ["### Skipped", "", *reasons, ""] if reasons else []
    return "\n".join(lines).rstrip() + "\n"


def calibration_line(entry: Measurement) -> str:
    return f"Weights: {entry['weights']}; calibrated on {entry['calibration']}."


def latency_table(part: dict[str, Any]) -> Iterator[str]:
    """A row per side."""
    rows = ([SIDES[row["name"]], time_cell(row)] for row in part["rows"])
    return table(["side", "ms of a call (10th to 90th percentile)"], rows)


def ratio_table(part: dict[str, Any]) -> Iterator[str]:
    """Above 1 where ours is the faster one."""
    rows = ([SIDES[r["ours"]], SIDES[r["peer"]], ratio_cell({"ratio": r})] for r in part["ratios"])
    return table(["ours", "against", "its time / ours (nine of ten resamples of the rounds)"], rows)


def score_table(scores: dict[str, Any]) -> Iterator[str]:
    """A row per side."""
    rows = []
    for row in scores["rows"]:
        differing = "" if row["differing"] is None else f"{row['differing']} of {scores['logits']}"
        percents = [f"{row[name]:.2f}" for name in ("top1", "agreement")]
        rows.append([SIDES[row["name"]], str(row["images"]), *percents, f"{row['cosine']:.5f}", differing])
    headings = ["side", "images", "top-1", "agreement with float32", "cosine", "logits that differ from the reference"]
    return table(headings, rows)


def operator_table(profiles: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """A row per operator type, a column per side; those first that take some side the longest."""
    cells = {name: {row["operator"]: row for row in rows} for name, rows in profiles.items()}
    longest: dict[str, float] = {}
    for row in itertools.chain.from_iterable(profiles.values()):
        longest[row["operator"]] = max(row["seconds"], longest.get(row["operator"], 0.0))
    ordered = sorted(longest, key=lambda operator: -longest[operator])
    yield from table(
        ["operator", *(SIDES[name] for name in cells)],
        ([operator, *(operator_cell(rows.get(operator)) for rows in cells.values())] for operator in ordered),
    )
    total = [
        f"{sum(r['count'] for r in rows)}: {1e6 * sum(r['seconds'] for r in rows):.0f}" for rows in profiles.values()
    ]
    yield f"| all | {' | '.join(total)} |"


def operator_cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{row['count']}: {1e6 * row['seconds']:.0f} ({100 * row['share']:.1f} %)"


def size_table(entry: Measurement) -> Iterator[str]:
    """A row per ONNX file for any batch."""
    rows = []
    for row in entry["sizes"]:
        size = f"{megabytes(row['bytes'])} ({row['of_weights']:.2f})"
        export = "" if row["export_seconds"] is None else f"{row['export_seconds']:.1f} s"
        rows.append(
            [SIDES[row["name"]], size, str(row["operators"]), export, f"{number(1000 * row['load_seconds'])} ms"]
        )
    yield f"int8 weights: {megabytes(entry['weight_bytes'])}. The least of three loads."
    yield ""
    yield from table(["model", "file (of the int8 weights)", "operators", "export", "load"], rows)


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())), end="")
