"""A small model with normalizations of every kind and width, built from canonical float operations."""

from functools import cache

import tiny
from gated import Sketch
from torch import fx

from intvit import floatops
from intvit.integer_model import IntegerModel
from intvit.metadata import Metadata
from intvit.passes.pipeline import lower
from intvit.stages import CalibratedGraph


def rms(s: Sketch, x: fx.Node, groups: int = 1) -> fx.Node:
    return s.call(floatops.rms_norm, x, s.constant(s.channels), groups, 1e-6)


def group(s: Sketch, x: fx.Node, groups: int = 1) -> fx.Node:
    return s.call(floatops.group_norm, x, s.constant(s.channels), s.constant(s.channels), groups, 1e-5)


def network(s: Sketch) -> tuple[fx.Node, fx.Node, fx.Node]:
    """Normalized queries and keys, normalization before products and after them, and of what is handed out."""
    x = rms(s, s.tokens)
    q, k = (rms(s, s.linear(x), 2) for _ in range(2))
    attended = s.call(floatops.attention, q, k, s.linear(x), 2, 1.5)
    x = s.call(floatops.add, s.tokens, rms(s, s.linear(attended)))
    x = s.call(floatops.add, x, s.linear(group(s, x)))
    x = s.call(floatops.add, x, group(s, s.linear(s.norm(x)), 3))
    return s.linear(group(s, x, 4), n=10), group(s, x), rms(s, x, 6)


@cache
def calibrated() -> CalibratedGraph:
    """The model with its grids."""
    s = Sketch(tiny.GRID, 8, 24)
    return s.calibrated(*network(s), images=tiny.pixels(32))


@cache
def integer_model() -> IntegerModel:
    """The same in integers."""
    graph = lower(calibrated())
    metadata = Metadata("normalized", "default", "0", tiny.GRID, graph.output_scales, graph.output_shapes)
    return IntegerModel(graph, metadata)
