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
    source: FloatGraph,
    graph: IntGraph,
    written: Mapping[str, Written],
    input_grid: InputGrid,
    pixels: NDArray[np.uint8],
) -> tuple[Layer, ...]:
    """One row per float operation, in the order of the integer graph.

    Both graphs run on `pixels`, each on its own inputs all along, and one image at a time: what is kept of an image are
    two sums per layer.
    """
    names = [node.name for node in graph.module.graph.nodes if node.name in written]
    signal, noise = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for image in pixels:
        exact = results(source.module, torch.from_numpy(input_grid.normalized(image[None])))
        integers = results(graph.module, torch.from_numpy(image[None]))
        for name in names:
            wanted, got = exact[written[name].origin.name], written[name].grid.dequantize(integers[name])
            signal[name] += float(wanted.square().sum(dtype=torch.float64))
            noise[name] += float((wanted - got).square().sum(dtype=torch.float64))
    return tuple(_layer(name, written[name], decibel(signal[name], noise[name])) for name in names)


def _layer(name: str, entry: Written, snr: float) -> Layer:
    return Layer(
        path=entry.origin.meta.get("path", ""),
        operation=entry.origin.target.__name__,  # type: ignore[union-attr]
        node=name,
        dtype=entry.grid.dtype,
        scale=(float(entry.grid.scale.min()), float(entry.grid.scale.max())),
        channels=entry.grid.scale.numel(),
        snr=snr,
    )


def decibel(signal: float, noise: float) -> float:
    """The ratio of two energies in dB; 200 where there is no noise."""
    return 200.0 if noise == 0 else round(10 * math.log10(max(signal / noise, 1e-20)), 2)


def results(module: fx.GraphModule, image: Tensor) -> dict[str, Tensor]:
    """The value of every node on `image`, which is what the module takes."""

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            found[n.name] = super().run_node(n)
            return found[n.name]

    found: dict[str, Any] = {}
    recorder = Recorder(module)
    recorder.extra_traceback = False
    with torch.inference_mode():
        recorder.run(image)
    return found
