"""Every tensor of the integer graph on some images: its grid, the histogram of its integers, how many lie at an end.

The reference runs image by image; of a tensor only counts are kept. An integer at an end of its type is at most what
saturated: on a grid that was fitted to the range of its values the ends are reached without being exceeded.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from intvit.dialect import operation_of
from intvit.grid import DTYPES, LIMITS
from intvit.metadata import Metadata
from intvit.report.histogram import Histogram
from intvit.stages import IntGraph

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorRow:
    """One tensor: what writes it, its grid where the model tells it, and the integers that came up.

    `scale` is the range over channels; None for a tensor between two operations of the same layer, whose grid is not
    stored. `at_low` and `at_high` are the shares of integers at the ends of the type.
    """

    node: str
    path: str
    operation: str
    dtype: str
    shape: tuple[int, ...]
    scale: tuple[float, float] | None
    channels: int | None
    at_low: float
    at_high: float
    histogram: Histogram

    @property
    def used(self) -> float:
        """The share of the type's range between the smallest and the largest integer that came up."""
        first, last = LIMITS[self.dtype]
        return (self.histogram.high - self.histogram.low + 1) / (last - first + 1)


def tensor_rows(
    graph: IntGraph,
    metadata: Metadata,
    pixels: NDArray[np.uint8],
    progress: Callable[[int], None] = lambda images: None,
) -> tuple[TensorRow, ...]:
    """A row per tensor in the order of the graph, from at least one image `[N, H, W, C]`."""
    counter = _Counter(graph.module)
    for done, image in enumerate(pixels, 1):
        with torch.inference_mode():
            counter.run(torch.from_numpy(image[None]))
        progress(done)
    grids = {layer.node: (layer.scale, layer.channels) for layer in metadata.layers}
    outputs = next(node for node in graph.module.graph.nodes if node.op == "output").args[0]
    for output, scale in zip(outputs, metadata.output_scales, strict=True):
        grids.setdefault(output.name, ((scale, scale), 1))
    unknown = (None, None)
    return tuple(
        replace(row, scale=grids.get(name, unknown)[0], channels=grids.get(name, unknown)[1])
        for name, row in counter.rows.items()
    )


class _Counter(fx.Interpreter):
    """Runs the graph and adds every computed tensor to its row; values are freed when they are no longer needed."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self.rows: dict[str, TensorRow] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Computes a node and counts its integers."""
        value = super().run_node(n)
        if n.op in ("placeholder", "call_function"):
            row = _row(n, value)
            known = self.rows.get(n.name)
            self.rows[n.name] = row if known is None else _joined(known, row)
        return value


def _row(node: fx.Node, value: torch.Tensor) -> TensorRow:
    operation = operation_of(node.target)
    dtype = _NAMES[value.dtype]
    integers = value.numpy()
    low, high = LIMITS[dtype]
    return TensorRow(
        node=node.name,
        path=node.meta.get("path", "") or "",
        operation="image" if operation is None else operation.name,
        dtype=dtype,
        shape=tuple(value.shape[1:]),
        scale=None,
        channels=None,
        at_low=float((integers == low).mean()),
        at_high=float((integers == high).mean()),
        histogram=Histogram.of(integers),
    )


def _joined(row: TensorRow, other: TensorRow) -> TensorRow:
    """The two rows of one tensor as one."""
    total = row.histogram + other.histogram
    mine, theirs = row.histogram.total / total.total, other.histogram.total / total.total
    return replace(
        row,
        at_low=mine * row.at_low + theirs * other.at_low,
        at_high=mine * row.at_high + theirs * other.at_high,
        histogram=total,
    )
