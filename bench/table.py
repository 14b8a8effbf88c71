"""The Markdown of measurements: latency, ratios, scaling, and what a module costs.

python bench/table.py bench/results/latency.json
"""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from intvit.bench.names import PEERS

OURS = "intvit"
Measurement = dict[str, Any]


def markdown(found: list[Measurement]) -> str:
    """All tables of all measurements."""
    if not found:
        return "Nothing was measured.\n"
    lines = [machine_line(found[0]["machine"]), ""]
    for isa in dict.fromkeys(entry["isa"] for entry in found):
        entries = [entry for entry in found if entry["isa"] == isa]
        for threads in dict.fromkeys(part["threads"] for entry in entries for part in entry["latency"]):
            targets = ", ".join(dict.fromkeys(entry["modules"][OURS]["target"] for entry in entries))
            lines += [f"## {isa} (ours: {targets}), {threads} thread{'s' * (threads > 1)}", ""]
            lines += ["Milliseconds of a call: median (10th to 90th percentile).", ""]
            lines += [*latency_table(entries, threads, time_cell), ""]
            lines += ["Peer divided by ours: of the medians (nine of ten resamples of the rounds).", ""]
            lines += [*latency_table(entries, threads, ratio_cell), ""]
    lines += ["## Batches and threads", "", *scaling_table(found), ""]
    lines += ["## Modules", "", *module_table(found), ""]
    reasons = dict.fromkeys(
        f"{name} ({entry['isa']}): {reason.removeprefix(name).strip()}"
        for entry in found
        for part in entry["latency"]
        for name, reason in part["skipped"].items()
    )
    if reasons:
        lines += ["## Skipped", "", *(f"- {reason}" for reason in reasons), ""]
    return "\n".join(lines).rstrip() + "\n"


def machine_line(machine: dict[str, Any]) -> str:
    """One paragraph about the machine."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    kind = "virtual machine, " if machine["virtual"] else ""
    return (
        f"{machine['cpu']} (family/model/stepping {machine['family']}), {kind}{machine['cores']} cores, "
        f"{machine['memory_gib']} GiB; {' '.join(machine['flags'])}. {machine['system']}, Python {machine['python']}, "
        f"{versions}."
    )


def latency_table(entries: list[Measurement], threads: int, cell: Any) -> Iterator[str]:
    """A row per model and batch size, a column per runtime; `cell` makes the text of one."""
    parts = [
        (short(entry["model"]), part["batch"], {row["name"]: row for row in part["rows"]})
        for entry in entries
        for part in entry["latency"]
        if part["threads"] == threads
    ]
    known = [name for _, _, rows in parts for name in rows]
    order = [*dict.fromkeys(name for name in known if name not in PEERS), *(name for name in PEERS if name in known)]
    yield from table(
        ["model", "batch", *order],
        ([model, str(batch), *(cell(rows.get(name)) for name in order)] for model, batch, rows in parts),
    )


def time_cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{number(row['median'])} ({number(row['p10'])} to {number(row['p90'])})"


def ratio_cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    found = row["ratio"]
    return "1" if found is None else f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def scaling_table(found: list[Measurement]) -> Iterator[str]:
    """Ours: milliseconds per image by batch size, and how much faster the most threads are than one."""
    rows = []
    for entry in found:
        times = {
            (part["threads"], part["batch"]): row["median"] / part["batch"]
            for part in entry["latency"]
            for row in part["rows"]
            if row["name"] == OURS
        }
        for threads, batch in times:
            alone, single = times.get((1, batch)), times.get((threads, 1))
            faster = f"{alone / times[threads, batch]:.2f}" if alone and threads > 1 else ""
            share = f"{times[threads, batch] / single:.2f}" if single and batch > 1 else ""
            where = [short(entry["model"]), entry["isa"], str(threads), str(batch)]
            rows.append([*where, number(times[threads, batch]), share, faster])
    return table(["model", "isa", "threads", "batch", "ms per image", "of batch 1", "times one thread"], rows)


def module_table(found: list[Measurement]) -> Iterator[str]:
    """Time to make a module, and its size on disk and in memory, against the bytes of its int8 weights."""
    rows = []
    for entry in found:
        weights = entry["weight_bytes"]
        for module in entry["modules"].values():
            quantize = f"{entry['quantize']['seconds']:.1f} s, {entry['quantize']['images']} images"
            size = module["artifact_bytes"]
            made = [module["target"], quantize, f"{module['compile_seconds']:.1f} s", megabytes(weights)]
            for memory in module["memory"]:
                own = memory["peak"] - memory["before"]
                sizes = [f"{megabytes(size)} ({size / weights:.2f})", str(memory["threads"]), str(memory["batch"])]
                held = [
                    megabytes(memory["peak"]),
                    megabytes(memory["before"]),
                    f"{megabytes(own)} ({own / weights:.2f})",
                ]
                rows.append([short(entry["model"]), *made, *sizes, *held])
    headings = ["model", "target", "quantize", "compile", "int8 weights", "artifact (of weights)", "threads", "batch"]
    return table([*headings, "peak memory", "before loading", "module's own (of weights)"], rows)


def table(headings: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    """The lines of a table."""
    yield f"| {' | '.join(headings)} |"
    yield "|" + "---|" * len(headings)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def short(model: str) -> str:
    """A model's name without its library."""
    return model.partition(":")[2] or model


def number(milliseconds: float) -> str:
    """Three figures, two decimals at most."""
    return f"{milliseconds:.2f}" if milliseconds < 100 else f"{milliseconds:.0f}"


def megabytes(count: float) -> str:
    return f"{count / 1e6:.1f} MB"


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())), end="")
