"""Figures to one HTML file that needs no network: text, looks, scripts and data are all in it.

The data lie in it as JSON, and the scripts only ever set text, so no name of a file or class can become markup. The
page's content security policy forbids it to load anything.
"""

import html
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from intvit.metadata import Metadata
from intvit.report.comparison import Guess
from intvit.report.figures import Figures
from intvit.report.latency import Latency
from intvit.report.layers import LayerRow
from intvit.report.tensors import TensorRow
from intvit.report.worst import Picture, jpeg

FOLDER = Path(__file__).parent / "assets"
SCRIPTS = (
    "format.js",
    "scale.js",
    "chart.js",
    "table.js",
    "accuracy.js",
    "depth.js",
    "tensors.js",
    "pictures.js",
    "latency.js",
    "main.js",
)
STYLES = ("style.css", "figures.css", "chart.css", "parts.css")
LIMIT = 5_000_000
"""Bytes of a page: more is slow to open and to pass on."""
CURVE = 400
"""Points of the curve of all images' cosines."""


def page(figures: Figures) -> str:
    """The HTML of the page, which says how many of the least bad pictures did not fit into `LIMIT`."""
    facts = content(figures)
    text = _filled(facts)
    while len(text.encode()) >= LIMIT and facts["worst"]:
        facts["worst"] = facts["worst"][: len(facts["worst"]) * 3 // 4]
        facts["worstLeftOut"] = len(figures.worst) - len(facts["worst"])
        text = _filled(facts)
    return text


def content(figures: Figures) -> dict[str, Any]:
    """What the scripts read, as plain JSON values."""
    metadata = figures.metadata
    return {
        "name": metadata.name,
        "preset": metadata.preset,
        "bits": metadata.bits,
        "version": metadata.version,
        "digest": figures.digest,
        "settings": dict(figures.settings),
        "accuracy": asdict(figures.accuracy),
        "cosines": _curve(figures.cosines),
        "worst": [_picture(picture, metadata) for picture in figures.worst],
        "worstLeftOut": 0,
        "layers": [_layer(row) for row in figures.layers],
        "tensors": [_tensor(row) for row in figures.tensors],
        "tensorImages": figures.tensor_images,
        "effects": [asdict(effect) for effect in figures.effects],
        "effectImages": figures.effect_images,
        "latency": None if figures.latency is None else _latency(figures.latency),
    }


def _filled(facts: dict[str, Any]) -> str:
    """The page with these data, which go in last: nothing in them is taken for a place to fill."""
    text = (FOLDER / "page.html").read_text(encoding="utf-8")
    scripts, styles = (
        "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in names) for names in (SCRIPTS, STYLES)
    )
    data = json.dumps(facts, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    for place, value in (
        ("<!-- style -->", f"<style>\n{styles}</style>"),
        ("<!-- scripts -->", f'<script>\n"use strict";\n(() => {{\n{scripts}}})();\n</script>'),
        ("<!-- title -->", html.escape(f"{facts['name']}: where the error is")),
        ("<!-- data -->", f'<script type="application/json" id="data">{data}</script>'),
    ):
        text = text.replace(place, value, 1)
    return text


def _curve(cosines: Sequence[float]) -> list[tuple[float, float]]:
    """Share of images and the cosine that so many stay below; all images where they are few."""
    count = len(cosines)
    if count < 2:
        return []
    places = np.unique(np.linspace(0, count - 1, min(count, CURVE)).round().astype(int))
    return [(round(float(i) / (count - 1), 6), round(cosines[i], 6)) for i in places]


def _layer(row: LayerRow) -> dict[str, Any]:
    return {**asdict(row.layer), "snr": row.snr, "before": row.before, "added": row.added}


def _tensor(row: TensorRow) -> dict[str, Any]:
    fields = asdict(row)
    histogram = row.histogram
    fields["histogram"] = {
        "shift": histogram.shift,
        "first": histogram.first,
        "counts": histogram.counts.tolist(),
        "low": histogram.low,
        "high": histogram.high,
        "entropy": round(histogram.entropy, 3),
    }
    return {**fields, "used": row.used}


def _picture(picture: Picture, metadata: Metadata) -> dict[str, Any]:
    result = picture.result
    return {
        "src": jpeg(picture.pixels, metadata.preprocessing),
        "name": result.name,
        "label": None if result.label is None else _class(result.label, metadata),
        "ours": _guess(result.ours, metadata),
        "exact": _guess(result.exact, metadata),
        "cosine": result.cosine,
        "agrees": result.agrees,
    }


def _guess(guess: Guess | None, metadata: Metadata) -> dict[str, Any] | None:
    return None if guess is None else {**_class(guess.first, metadata), "probability": guess.probability}


def _class(index: int, metadata: Metadata) -> dict[str, Any]:
    return {"index": index, "name": None if metadata.labels is None else metadata.labels[index]}


def _latency(latency: Latency) -> dict[str, Any]:
    return {
        "target": latency.target,
        "threads": latency.threads,
        "where": latency.where,
        "seconds": latency.seconds,
        "steps": [{"name": step.name, "path": step.path, "seconds": step.seconds} for step in latency.steps],
        "kernels": [{**asdict(kernel), "rate": kernel.rate} for kernel in latency.kernels],
    }
