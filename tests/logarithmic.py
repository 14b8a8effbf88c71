"""Small models whose attentions have logarithmic weights, each others."""

from functools import cache
from itertools import cycle

import biased
import tiny

from intvit import floatops
from intvit.integer_model import IntegerModel
from intvit.metadata import Metadata
from intvit.passes.pipeline import lower
from intvit.softmax_levels import SoftmaxLevels
from intvit.stages import CalibratedGraph

LEVELS = (SoftmaxLevels(93, 32), SoftmaxLevels(256, 8), SoftmaxLevels(1, 256), SoftmaxLevels(1500, 4))
CALIBRATED = {"tiny": tiny.calibrated, "biased": biased.calibrated}


def on_levels(calibrated: CalibratedGraph) -> CalibratedGraph:
    """All its attentions with levels."""
    levels = cycle(LEVELS)
    for node in calibrated.source.module.graph.find_nodes(op="call_function", target=floatops.attention):
        calibrated = calibrated.with_softmax_levels(node, next(levels))
    return calibrated


@cache
def integer_model(name: str = "biased") -> IntegerModel:
    """A small model in integers: `tiny`, or `biased`, which has windows, biases and masks."""
    graph = lower(on_levels(CALIBRATED[name]()))
    metadata = Metadata(f"{name} on levels", "default", "0", tiny.GRID, graph.output_scales, graph.output_shapes)
    return IntegerModel(graph, metadata)
