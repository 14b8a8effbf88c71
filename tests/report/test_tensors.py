"""Every tensor's row: the integers that the reference computes, counted."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from intvit.grid import LIMITS
from intvit.integer_model import IntegerModel
from intvit.report.tensors import tensor_rows


def values(model: IntegerModel, pixels: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """What every node computes for all images at once."""
    found: dict[str, NDArray[Any]] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.op in ("placeholder", "call_function"):
                found[n.name] = value.numpy()
            return value

    with torch.inference_mode():
        Recorder(model.graph.module).run(torch.from_numpy(pixels))
    return found


def test_rows_count_what_the_reference_computes(model: IntegerModel, pixels: NDArray[np.uint8]) -> None:
    wanted = values(model, pixels[:5])
    seen: list[int] = []
    rows = tensor_rows(model.graph, model.metadata, pixels[:5], seen.append)
    assert [row.node for row in rows] == list(wanted)
    assert seen == [1, 2, 3, 4, 5]
    for row in rows:
        integers = wanted[row.node]
        low, high = LIMITS[row.dtype]
        assert row.dtype == str(integers.dtype)
        assert row.shape == integers.shape[1:]
        assert row.histogram.total == integers.size
        assert (row.histogram.low, row.histogram.high) == (integers.min(), integers.max())
        np.testing.assert_allclose(row.at_low, (integers == low).mean())
        np.testing.assert_allclose(row.at_high, (integers == high).mean())
        assert row.used == (int(integers.max()) - int(integers.min()) + 1) / (high - low + 1)


def test_grids_are_those_of_the_layers_and_of_the_output(model: IntegerModel, pixels: NDArray[np.uint8]) -> None:
    rows = {row.node: row for row in tensor_rows(model.graph, model.metadata, pixels[:1])}
    for layer in model.metadata.layers:
        assert (rows[layer.node].scale, rows[layer.node].channels) == (layer.scale, layer.channels)
    assert rows["image"].scale is None
    bare = tensor_rows(model.graph, replace(model.metadata, layers=()), pixels[:1])
    (scale,) = model.metadata.output_scales
    assert [row.scale for row in bare if row.scale is not None] == [(scale, scale)]
