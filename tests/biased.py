"""A small model with attention in windows, with biases and masks, and with one query, of canonical float operations."""

from functools import cache

import gated
import tiny
import torch
from torch import fx

from intvit import floatops
from intvit.integer_model import IntegerModel
from intvit.metadata import Metadata
from intvit.passes.pipeline import lower
from intvit.stages import CalibratedGraph

HEADS = 3


class Sketch(gated.Sketch):
    """Blocks with attention."""

    def attend(
        self,
        x: fx.Node,
        windows: int = 1,
        kinds: tuple[int, ...] = (),
        *,
        queries: int | None = None,
        scale: float | tuple[float, ...] = 0.4,
        masks: bool = False,
        heads: int = HEADS,
    ) -> fx.Node:
        """Attention between linears; a bias with as many kinds as `kinds` names. `queries`: of those tokens only."""
        y = self.norm(x)
        asking = y if queries is None else self.call(floatops.select_tokens, y, 0, queries, tokens=queries)
        tokens = queries or self.count
        q, k, v = self.linear(asking, tokens=tokens), self.linear(y), self.linear(y)
        bias = []
        if kinds:
            shape = (max(kinds) + 1, heads, tokens // windows, self.count // windows)
            table = 2 * torch.randn(*shape, generator=self.random)
            if masks:
                table[-1, :, : shape[2] // 2, shape[3] // 2 :] -= 100
            name = f"bias_{len(list(self.root.buffers()))}"
            self.root.register_buffer(name, table)
            bias = [self.graph.get_attr(name), kinds]
        attended = self.call(floatops.attention, q, k, v, HEADS, scale, windows, *bias, tokens=tokens)
        return self.linear(attended, tokens=tokens)


@cache
def calibrated() -> CalibratedGraph:
    """Plain windows, two kinds of bias of which one masks, a shared bias of one window, and one query."""
    s = Sketch(tiny.GRID, 8, 24)
    x = s.call(floatops.add, s.tokens, s.attend(s.tokens, 4, scale=(0.2, 0.4, 0.6)))
    x = s.call(floatops.add, x, s.attend(x, 4, (0, 1, 0, 1), masks=True))
    x = s.call(floatops.add, x, s.attend(x, 1, (0,), heads=1))
    return s.calibrated(s.norm(x), s.attend(x, 1, (0,), queries=1), images=tiny.pixels(32))


@cache
def integer_model() -> IntegerModel:
    """The same in integers."""
    graph = lower(calibrated())
    return IntegerModel(graph, Metadata("biased", "default", "0", tiny.GRID, graph.output_scales, graph.output_shapes))
