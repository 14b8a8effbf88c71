"""Figures of the sides of `onnx_sides.py`: latency in turns, accuracy, time by operator, sizes."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from one_model import random_pixels
from onnx_sides import BIT_EXACT, EXPORTS, FLOAT, INT8, PAIRS, Images, Sides
from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed
from torch import nn

from intvit.bench.kernels import by_kernel
from intvit.bench.onnx_peers import BATCH, INPUT
from intvit.bench.timing import Turns, ratio, seconds_of, summary, take_turns
from intvit.data import Source
from intvit.evaluation import Tally, check_labels
from intvit.images import labels_for
from intvit.model import Model
from intvit.onnx_runtime import open_session, operator_steps

PEER_FILES = {FLOAT: "f32", INT8: "int8"}
SCORED_AT_ONCE = 10
LOADS = 3
PROFILED_RUNS = 20


def latency(sides: Sides, batch: int, turns: Turns) -> dict[str, Any]:
    """Milliseconds of a call of every side, which take turns in this process, and the ratios of `PAIRS`."""
    calls, skipped = sides.calls(_random(sides, batch))
    times = take_turns(calls, turns)
    return {
        "batch": batch,
        "threads": sides.threads,
        "rows": [{"name": name, **asdict(summary(taken))} for name, taken in times.items()],
        "ratios": [
            {"ours": ours, "peer": peer, **asdict(ratio(times[peer], times[ours]))}
            for ours, peer in PAIRS
            if ours in times and peer in times
        ],
        "skipped": skipped,
    }


def scores(
    sides: Sides,
    module: nn.Module,
    reference: Model,
    source: Source,
    labels: Mapping[str, int],
    labels_file: Path,
    *,
    skip: int,
    limit: int | None,
) -> dict[str, Any]:
    """Accuracy of every side on the images after the first `skip`, as `intvit eval` counts.

    Of `BIT_EXACT` also how many logits differ from those of `reference`, our module of the same model. Raises
    `IntvitError` for images without a label.
    """
    images = _random(sides, SCORED_AT_ONCE)
    calls, skipped = sides.calls(images)
    tallies = {name: Tally() for name in calls}
    differing = {name: 0 for name in BIT_EXACT if name in calls}
    compared = 0
    for batch in source.batches(SCORED_AT_ONCE, limit, skip):
        normalized = batch.normalized()
        images.fill(batch.values, normalized)
        with torch.inference_mode():
            exact = module(torch.from_numpy(normalized)).numpy()
        truth = np.asarray(labels_for(batch.names, labels, str(labels_file)))
        check_labels(truth, exact, labels_file)
        (integers, *_) = reference.integers(batch.values)
        compared += integers.size
        for name, call in calls.items():
            outputs = np.array(call()[0])[: len(exact)]
            tallies[name].add(outputs, truth, exact)
            if name in differing:
                differing[name] += int((outputs != integers).sum())
    rows = [
        {"name": name, **asdict(tally.result()), "differing": differing.get(name)} for name, tally in tallies.items()
    ]
    return {"rows": rows, "logits": compared, "skipped": skipped}


def operators(sides: Sides, names: Collection[str], batch: int, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Operator types of the models in ONNX Runtime that are named, as it optimizes them: count, seconds, share."""
    images = _random(sides, batch)
    steps = {}
    for name, kind in PEER_FILES.items():
        if name in names:
            path = fixed(sides.onnx.file(kind), batch, folder)
            steps[name] = operator_steps(path, sides.threads, {INPUT: images.normalized}, PROFILED_RUNS)
    for name in EXPORTS:
        if name in names:
            steps[name] = sides.load(name, batch).steps(images.pixels, PROFILED_RUNS)
    return {
        name: [
            {"operator": kernel.name, "count": kernel.calls, "seconds": kernel.seconds, "share": kernel.share}
            for kernel in by_kernel(replace(step, path="") for step in taken)
        ]
        for name, taken in steps.items()
    }


def _random(sides: Sides, batch: int) -> Images:
    return Images.of(random_pixels(sides.preprocessing, batch), sides.preprocessing)


def fixed(path: Path, batch: int, folder: Path) -> Path:
    """A copy of a model with a free batch, for so many images: ONNX Runtime's profiler is given no dimensions."""
    model = onnx.load(path)
    make_dim_param_fixed(model.graph, BATCH, batch)
    copy = folder / f"{path.stem}-{batch}.onnx"
    onnx.save(model, copy)
    return copy


def sizes(sides: Sides, names: Collection[str], weight_bytes: int) -> list[dict[str, Any]]:
    """Of the models in ONNX Runtime that are named: bytes, also as a ratio to the int8 weights, operators, seconds."""
    return [_size(sides, name, weight_bytes) for name in (*PEER_FILES, *EXPORTS) if name in names]


def _size(sides: Sides, name: str, weight_bytes: int) -> dict[str, Any]:
    if name in EXPORTS:
        made = sides.export(name)
        path, count, seconds = made.path, made.operators, made.seconds
    else:
        path, seconds = sides.onnx.file(PEER_FILES[name]), None
        nodes = onnx.load(path, load_external_data=False).graph.node
        count = sum(node.op_type != "Constant" for node in nodes)
    size = path.stat().st_size
    loads = [seconds_of(lambda: open_session(path, sides.threads)) for _ in range(LOADS)]
    return {
        "name": name,
        "bytes": size,
        "of_weights": size / weight_bytes,
        "operators": count,
        "export_seconds": seconds,
        "load_seconds": min(loads),
    }
