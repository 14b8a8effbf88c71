"""ONNX Runtime on this machine's CPU: sessions, the time of each operator, and whether its 8-bit products are exact.

On x86 CPUs with AVX2 and without VNNI (Intel before Ice Lake and Alder Lake, AMD before Zen 4) ONNX Runtime computes
`MatMulInteger` of uint8 with int8 by `vpmaddubsw`, which adds two products in 16 bits and saturates: 2 · 255 · 127
becomes 2^15 - 1. A session option mends products with constant weights, by another kernel that takes 2.5 times as long;
products of two computed operands stay wrong. So this asks the machine, once per process, and sets that option where it
is needed only.
"""

import base64
import json
import re
import tempfile
from collections.abc import Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from intvit.errors import IntvitError
from intvit.model import Array, Step

ERRORS_ONLY = 3
PRECISE = "session.x64quantprecision"
EXTERNAL = re.compile("external (data|initializer)", re.IGNORECASE)
"""In what the runtime says of weights in another file."""
COMPUTED = (
    "CAgSADpcChgKAWEKAWISAXkiDU1hdE11bEludGVnZXISAXBaEwoBYRIOCgwIAhIICgIIAQoCCARaEwoBYhIOCgwIAxIICgIIBAoCCARiEwoBeRIO"
    "CgwIBhIICgIIAQoCCARCBAoAEA0="
)
"""An ONNX model: y = MatMulInteger(a, b), a uint8 [1, 4], b int8 [4, 4]."""
CONSTANT = (
    "CAgSADpkChgKAWEKAWISAXkiDU1hdE11bEludGVnZXISAXAqGwgECAQQA0IBYkoQf39/f39/f39/f39/f39/f1oTCgFhEg4KDAgCEggKAggBCgII"
    "BGITCgF5Eg4KDAgGEggKAggBCgIIBEIECgAQDQ=="
)
"""The same with b a constant, 127 everywhere."""


class Products(Enum):
    """What the machine's products of uint8 with int8 are."""

    EXACT = "exact"
    MENDED = "exact with constant weights, by the option"
    WRONG = "not exact"


def import_runtime() -> Any:
    """The module `onnxruntime`; raises `IntvitError` where it is missing."""
    try:
        import onnxruntime
    except ImportError as error:
        raise IntvitError("running an ONNX model needs the package onnxruntime: pip install 'intvit[onnx]'") from error
    return onnxruntime


@cache
def products() -> Products:
    """Found by multiplying extremes."""
    runtime = import_runtime()
    image = {"a": np.full((1, 4), 255, np.uint8)}
    right = 4 * 255 * 127

    def gives(model: str, feeds: Mapping[str, Array], precise: bool) -> bool:
        options = _options(runtime, 1, precise)
        session = runtime.InferenceSession(base64.b64decode(model), options, providers=["CPUExecutionProvider"])
        return bool((session.run(None, dict(feeds))[0] == right).all())

    if gives(COMPUTED, {**image, "b": np.full((4, 4), 127, np.int8)}, False) and gives(CONSTANT, image, False):
        return Products.EXACT
    return Products.MENDED if gives(CONSTANT, image, True) else Products.WRONG


def open_session(path: Path, threads: int, profile: str | None = None) -> Any:
    """An `InferenceSession` on so many cores; with `profile`, one that writes times to a file that begins so.

    Raises `IntvitError` for a file that is missing, damaged or no ONNX model, and for external data that are.
    """
    runtime = import_runtime()
    if not path.is_file():
        raise IntvitError(f"{path}: no such file")
    options = _options(runtime, threads, products() is not Products.EXACT)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    try:
        return runtime.InferenceSession(str(path.resolve()), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exceptions have no common base
        if EXTERNAL.search(str(error).replace(str(path.resolve()), "")):
            raise IntvitError(
                f"{path}: the file of its weights beside it is missing or damaged: keep the two together"
            ) from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rpartition(" failed:")[2]
        raise IntvitError(f"{path}: damaged, or no model for ONNX Runtime ({reason})") from error


def _options(runtime: Any, threads: int, precise: bool) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = ERRORS_ONLY
    if precise:
        options.add_session_config_entry(PRECISE, "1")
    return options


def operator_events(path: Path, threads: int, feeds: Mapping[str, Array], repeats: int) -> list[list[dict[str, Any]]]:
    """What ONNX Runtime's profiler says of each operator, in order, for each of `repeats` runs after one that warms up.

    The keys are those of its trace: `name`, `dur` (microseconds), `args` with `op_name` and `input_type_shape`.
    """
    with tempfile.TemporaryDirectory(prefix="intvit-") as folder:
        session = open_session(path, threads, str(Path(folder) / "profile"))
        for _ in range(repeats + 1):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text())
    runs: list[list[dict[str, Any]]] = [[]]
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            runs[-1].append(event)
        elif event["name"] == "model_run":
            runs.append([])
    return runs[1 : repeats + 1]


def operator_steps(path: Path, threads: int, feeds: Mapping[str, Array], repeats: int) -> list[Step]:
    """The median time of each operator in `repeats` runs; its path is the layer of a node named `layer/label`."""
    runs = operator_events(path, threads, feeds, repeats)
    times = np.median([[event["dur"] for event in events] for events in runs], axis=0)
    return [
        Step(event["args"]["op_name"], _layer(event["name"]), 0, float(time) * 1e-6)
        for event, time in zip(runs[0], times, strict=True)
    ]


def _layer(event: str) -> str:
    return event.removesuffix("_kernel_time").rpartition("/")[0]


def multiplies_computed(path: Path, threads: int, feeds: Mapping[str, Array]) -> bool:
    """Whether a model has products of a uint8 with an int8 tensor that are both computed: the kind that stays wrong."""
    (events,) = operator_events(path, threads, feeds, 1)
    operands = [e["args"]["input_type_shape"] for e in events if e["args"]["op_name"] == "MatMulInteger"]
    return any("uint8" in a and len(rest) > 0 and len(rest[0].get("int8", ())) > 1 for a, *rest in operands)
