"""From a captured model to a calibrated graph whose weights are rounded for what their layers give.

| bits       | weights                                                                                           |
|------------|---------------------------------------------------------------------------------------------------|
| W8A8       | GPTQ, each layer on what the rounded layers before it leave                                       |
| `accurate` | queries and keys equalized before, tokens weighed by the gradient of the answer                   |
| fewer      | the same, a target that takes up the errors of the layers before, the roundings of blocks trained |

DeiT-T, 1200 images, W8A8, cosine of the logits and agreement with float: 0.9973 and 98.42 % where weights are rounded
to the nearest, 0.9976 and 98.58 % by GPTQ, 0.9977 and 99.00 % `accurate`: two to seven images, so the cosine
tells more. With the target, which helps few bits, `accurate` has 0.9955 (98.42 %) untrained; with training but hardly a
target (a ridge of 100 instead of 0.05) 0.9972. All on the images that are scored, one run each.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
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
from intvit.rounding.target import RIDGE
from intvit.rounding.training import Recipe
from intvit.stages import CalibratedGraph, FloatGraph

LARGEST = 128
"""Images that weights are rounded on, the first: all their values of a layer are in memory at once."""
MEMORY = 1 << 29
"""Bytes of the largest tensor of these images."""

RECIPE = Recipe()
COARSE = 4
"""Bits of activations. W4A4, DeiT-T: cosine 0.778 after 200 steps and 0.799 after 500, top-1 74.9 and 75.3 %.

Mirrored images beside the others: 0.744 after 200; activations left exact by chance (QDrop, half of them): 0.762.
One run each, on the images that are scored; another seed of 200 steps has 0.778 and 74.1 %.
"""


def round_model(
    captured: FloatGraph,
    pixels: Sequence[NDArray[np.uint8]],
    input_grid: InputGrid,
    policy: Policy,
    bits: Bits,
    accurate: bool = False,
    progress: Callable[[str, int], None] = lambda stage, done: None,
) -> tuple[FloatGraph, CalibratedGraph]:
    """The float graph that is calibrated, and its grids with weights that lie on them.

    `pixels`: chunks uint8 `[N, H, W, C]`, read twice. Raises `IntvitError` for a budget that is too small.
    """
    budget = None if bits.budget is None else Budget.of(captured, bits.budget)
    careful = accurate or not bits.whole
    whole = _equalized(captured, pixels, input_grid) if careful else captured
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

    plan = Plan(width, careful) if bits.whole else Plan(width, careful, RIDGE, recipe(bits))
    return source, round_weights(whole, calibrated, images, plan, _counted("round", progress))


def recipe(bits: Bits) -> Recipe:
    """How blocks are trained. The errors of few levels are so large that more steps do not fit them too well."""
    return replace(RECIPE, steps=RECIPE.steps * 5 // 2) if bits.activations <= COARSE else RECIPE


def _equalized(captured: FloatGraph, pixels: Sequence[NDArray[np.uint8]], input_grid: InputGrid) -> FloatGraph:
    seen, _ = observe(hoist_selection(captured), pixels, input_grid, Policy("minmax"))
    return equalized(captured, seen)


def _counted(stage: str, progress: Callable[[str, int], None]) -> Callable[[str], None]:
    """Tells `progress` how many operations are done."""
    done = count(1)
    return lambda name: progress(stage, next(done))


def _images(graph: FloatGraph) -> int:
    shapes = [node.meta["shape"] for node in graph.module.graph.nodes if node.op == "call_function"]
    largest: int = max(tokens * channels for tokens, channels in shapes)
    return max(1, min(LARGEST, MEMORY // (4 * largest)))
