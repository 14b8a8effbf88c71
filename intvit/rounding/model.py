"""From a captured model to a calibrated graph whose weights are rounded with care: `--preset accurate`, few bits."""

from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from intvit.bits import WIDEST, Bits, keeps_whole
from intvit.calibrate import calibrate, observe
from intvit.grids import Policy
from intvit.input_grid import InputGrid
from intvit.passes.hoist_selection import hoist_selection
from intvit.rounding.allocation import CHOICES, allocate
from intvit.rounding.budget import Budget
from intvit.rounding.equalize import equalized
from intvit.rounding.sensitivity import sensitivities
from intvit.rounding.sequence import Plan, round_weights
from intvit.rounding.training import Recipe
from intvit.stages import CalibratedGraph, FloatGraph

LARGEST = 128
"""Images that weights are rounded on, the first: all their values of a layer are in memory at once."""
MEMORY = 1 << 29
"""Bytes of the largest tensor of these images."""

RECIPE = Recipe()


def round_model(
    captured: FloatGraph,
    pixels: Sequence[NDArray[np.uint8]],
    input_grid: InputGrid,
    policy: Policy,
    bits: Bits,
    progress: Callable[[str, int], None] = lambda stage, done: None,
) -> tuple[FloatGraph, CalibratedGraph]:
    """The float graph that is calibrated, and its grids with weights that lie on them.

    `pixels`: chunks uint8 `[N, H, W, C]`, read twice. Raises `IntvitError` for a budget that is too small.
    """
    budget = None if bits.budget is None else Budget.of(captured, bits.budget)
    seen, _ = observe(hoist_selection(captured), pixels, input_grid, Policy("minmax"))
    whole = equalized(captured, seen)
    source = hoist_selection(whole)
    calibrated = calibrate(source, pixels, input_grid, policy, lambda done: progress("calibrate", done))
    chosen = np.concatenate(pixels)[: _images(whole)]
    images = torch.from_numpy(input_grid.normalized(chosen))
    mixed: dict[str, int] = {}
    if budget is not None:
        losses = sensitivities(whole, calibrated, images, budget.weights, CHOICES, _counted("measure", progress))
        mixed = allocate(losses, budget.weights, budget.limit)

    def width(node: fx.Node) -> int:
        return WIDEST if keeps_whole(node) else mixed.get(node.name, bits.weights)

    return source, round_weights(whole, calibrated, images, Plan(width, RECIPE), _counted("round", progress))


def _counted(stage: str, progress: Callable[[str, int], None]) -> Callable[[str], None]:
    """Tells `progress` how many operations are done."""
    done = count(1)
    return lambda name: progress(stage, next(done))


def _images(graph: FloatGraph) -> int:
    shapes = [node.meta["shape"] for node in graph.module.graph.nodes if node.op == "call_function"]
    largest: int = max(tokens * channels for tokens, channels in shapes)
    return max(1, min(LARGEST, MEMORY // (4 * largest)))
