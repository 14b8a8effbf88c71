"""Attention: scores, Shiftmax and the product with the values as one integer operation.

    before   y: f32 = attention(q, k, v, heads, scale)
    after    intvit::attention            (default)     score dyadic: s_q s_k scale log2(e) · 2^8, per head
             intvit::attention_published  (--preset paper)

The scale of the scores, `head_size^-0.5` and log2(e) are one dyadic number, so that the exponent comes out in log2
units with eight fraction bits and no division is needed. The mean of the values comes in Q7 of the scale of the
values, which is per channel, and goes to the per-channel grid of the next product.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, fx

from intvit import floatops
from intvit.dialect.attention import LOG2_FRACTION, attention
from intvit.dialect.published import attention_published
from intvit.grid import Dyadic, Role, dyadic_for
from intvit.nodes import arguments
from intvit.passes.base import LoweringPass, Skip
from intvit.passes.lowering import Lowering

LOG2_SPAN = 1 << 13
"""Scores this far below the maximum, in log2 units with 8 fraction bits, weigh nothing."""
INT8_SPAN = 1 << 7
MEAN_FRACTION = 7
PROBABILITY_FRACTION = 15


@dataclass(frozen=True)
class LowerAttention(LoweringPass):
    """Softmax attention. `bits`: width of the exponentials, at most what the number of keys allows."""

    name: ClassVar[str] = "lower-attention"
    target: ClassVar[Any] = floatops.attention
    bits: int = 15

    def match(self, node: fx.Node, graph: Lowering) -> fx.Node | Skip:
        return node

    def rewrite(self, site: fx.Node, graph: Lowering) -> fx.Node:
        *operands, heads, scale = arguments(site)
        roles = (Role.SCORE, Role.SCORE, Role.VALUE)
        grids = [graph.grid(x, role) for x, role in zip(operands, roles, strict=True)]
        q, k, v = (graph.read(x, grid) for x, grid in zip(operands, grids, strict=True))
        score = _per_head(grids[0].scale, heads) * _per_head(grids[1].scale, heads) * scale
        out = graph.grid(site, Role.PRODUCT)
        build = self._published if graph.calibrated.published else self._default
        return graph.write(build(graph, site, score, grids[2].scale / out.scale, [q, k, v]), out)

    def _default(
        self, graph: Lowering, site: fx.Node, score: Tensor, ratio: Tensor, operands: list[fx.Node]
    ) -> fx.Node:
        _, keys, _, heads, _ = arguments(site)
        to_log2 = dyadic_for(score * math.log2(math.e) * 2**LOG2_FRACTION, LOG2_SPAN)
        to_out = dyadic_for(ratio / 2**MEAN_FRACTION, INT8_SPAN)
        bits = min(self.bits, exponential_bits(graph.origin(keys).meta["shape"][0]))
        return graph.emit(attention, *operands, heads, *_fields(to_log2), bits, *_fields(to_out))

    def _published(
        self, graph: Lowering, site: fx.Node, score: Tensor, ratio: Tensor, operands: list[fx.Node]
    ) -> fx.Node:
        """int8 scores on a grid of their own, probabilities at 2^-15."""
        scores = graph.grid(site, Role.LOGIT).scale
        to_scores = dyadic_for(score / scores, INT8_SPAN)
        to_out = dyadic_for(ratio / 2**PROBABILITY_FRACTION, INT8_SPAN)
        x0 = math.floor(-1 / float(scores))
        return graph.emit(attention_published, *operands, arguments(site)[3], *_fields(to_scores), x0, *_fields(to_out))


def _per_head(scale: Tensor, heads: Any) -> Tensor:
    """One scale per head from per-channel scales that are equal within a head."""
    return scale.expand(heads) if scale.numel() == 1 else scale.reshape(heads, -1)[:, 0]


def _fields(number: Dyadic) -> tuple[Tensor, Tensor, int]:
    return number.multiplier, number.pre_shift, number.shift


def exponential_bits(keys: int) -> int:
    """The widest exponentials whose product with int8 values cannot overflow 32 bits, at most 15."""
    return min(15, 24 - (keys - 1).bit_length())
