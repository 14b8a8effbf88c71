"""Where the error is: the signal-to-noise ratio of every layer's integers against float, on the same images."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from intvit.grid import Grid
from intvit.input_grid import InputGrid
from intvit.metadata import Layer
from intvit.stages import FloatGraph, IntGraph


@dataclass(frozen=True)
class Written:
    """A float node's result as an integer node writes it."""

    origin: fx.Node
    grid: Grid


def layers(
    source: FloatGraph, graph: IntGraph, written: Mapping[str, Written], input_grid: InputGrid, pixels: NDArray[np.uint8]
) -> tuple[Layer, ...]:
    """One row per float operation, in order; both graphs run on `pixels`, each on its own inputs all along."""
    exact = _results(source.module, torch.from_numpy(input_grid.normalized(pixels)))
    integers = _results(graph.module, torch.from_numpy(pixels))
    rows = []
    for name, entry in written.items():
        if name in integers:
            got = entry.grid.dequantize(integers[name])
            rows.append(
                Layer(
                    path=entry.origin.meta.get("path", ""),
                    operation=entry.origin.target.__name__,  # type: ignore[union-attr]
                    node=name,
                    dtype=entry.grid.dtype,
                    scale=(float(entry.grid.scale.min()), float(entry.grid.scale.max())),
                    channels=entry.grid.scale.numel(),
                    snr=signal_to_noise(exact[entry.origin.name], got),
                )
            )
    return tuple(rows)


def signal_to_noise(exact: Tensor, got: Tensor) -> float:
    """In dB; 200 where nothing differs."""
    signal, noise = exact.double().square().sum(), (exact.double() - got.double()).square().sum()
    return 200.0 if noise == 0 else round(10 * math.log10(max(float(signal / noise), 1e-20)), 2)


def _results(module: fx.GraphModule, image: Tensor) -> dict[str, Tensor]:
    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            results[n.name] = super().run_node(n)
            return results[n.name]

    results: dict[str, Any] = {}
    with torch.inference_mode():
        Recorder(module).run(image)
    return results
