"""Plots of measurements, as PNG and SVG: bars of latency by runtime, a panel for each model.

    python bench/plots.py bench/results/latency.json DIR

One picture for each instruction set and batch size, at the most threads that were measured.
"""

import json
import sys
from pathlib import Path
from typing import Any

from table import OURS, Measurement, number, short

from intvit.bench.names import PEERS
from intvit.bench.packages import import_package

LABELS = {
    OURS: "intvit",
    "torch-f32": "torch f32",
    "torch-bf16": "torch bf16",
    "torch-compile-f32": "torch.compile f32",
    "torch-compile-bf16": "torch.compile bf16",
    "onnx-f32": "ONNX Runtime f32",
    "onnx-int8": "ONNX Runtime int8",
    "openvino-f32": "OpenVINO f32",
    "openvino-bf16": "OpenVINO bf16",
    "openvino-int8": "OpenVINO int8",
}
COLOURS = {"f32": "#9db4c8", "bf16": "#5b87ad", "int8": "#2c5a83", OURS: "#d9622b"}
INK, FAINT = "#222222", "#d8d8d8"
COLUMNS = 3


def draw(found: list[Measurement], folder: Path) -> list[Path]:
    """Writes the pictures and returns their paths; needs matplotlib."""
    matplotlib = import_package("matplotlib", "plots")
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "intvit", "font.size": 9, "text.color": INK, "axes.labelcolor": INK})
    written = []
    for isa in dict.fromkeys(entry["isa"] for entry in found):
        parts = [(entry, part) for entry in found if entry["isa"] == isa for part in entry["latency"]]
        threads = max(part["threads"] for _, part in parts)
        for batch in dict.fromkeys(part["batch"] for _, part in parts):
            panels = [(e, p) for e, p in parts if (p["threads"], p["batch"]) == (threads, batch)]
            if not panels:
                continue
            figure = picture(panels, isa, threads, batch)
            for suffix in ("png", "svg"):
                path = folder / f"latency-{isa}-batch{batch}.{suffix}"
                figure.savefig(path, dpi=150, facecolor="white", metadata={"Date": None} if suffix == "svg" else None)
                written.append(path)
    return written


def picture(panels: list[tuple[Measurement, dict[str, Any]]], isa: str, threads: int, batch: int) -> Any:
    """The figure of one instruction set and batch size."""
    figures = import_package("matplotlib.figure", "plots")
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    bars = max(len(part["rows"]) for _, part in panels)
    figure = figures.Figure(figsize=(4.6 * columns, (0.26 * bars + 0.75) * lines + 0.9), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, (entry, part) in zip(axes, panels, strict=False):
        panel(axis, short(entry["model"]), part["rows"])
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    machine = panels[0][0]["machine"]
    target = panels[0][0]["modules"][OURS]["target"]
    images = "1 image" if batch == 1 else f"{batch} images"
    title = f"Milliseconds for {images}, {threads} thread{'s' * (threads > 1)}, less is better"
    limit = f"instructions of the CPU ({target})" if isa == "native" else f"limited to {isa} (ours: {target})"
    figure.suptitle(f"{title}\n{machine['cpu']}, {limit}", fontsize=11 if columns > 1 else 8)
    return figure


def panel(axis: Any, title: str, rows: list[dict[str, Any]]) -> None:
    """One model: a bar per runtime with its median, and a whisker from the 10th to the 90th percentile."""
    named = {row["name"]: row for row in rows}
    order = [*(name for name in named if name not in PEERS), *(name for name in PEERS if name in named)]
    longest = max(row["median"] for row in rows)
    for place, name in enumerate(order):
        row = named[name]
        high = min(row["p90"], 1.2 * longest)
        colour = COLOURS[OURS] if name not in PEERS else COLOURS[name.rpartition("-")[2]]
        axis.barh(place, row["median"], color=colour, height=0.72)
        axis.plot([row["p10"], high], [place, place], color=INK, linewidth=1)
        axis.text(max(row["median"], high), place, f" {number(row['median'])}", va="center", fontsize=8)
    axis.set_yticks(range(len(order)), [LABELS.get(name, name) for name in order])
    axis.invert_yaxis()
    axis.set_xlim(0, 1.4 * longest)
    axis.set_title(title, fontsize=10, loc="left")
    axis.grid(axis="x", color=FAINT, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(length=0, colors=INK)
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)


if __name__ == "__main__":
    for drawn in draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])):
        print(drawn)
