"""Attention: scores, Shiftmax and the product with the values as one integer operation.

    before   y: f32 = attention(q, k, v, heads, scale, windows, bias, kinds)
    after    intvit::attention            (default)     score dyadic: s_q s_k scale log2(e) · 2^8, per head
             intvit::biased_attention     (default)     the same, and bias · log2(e) · 2^8
             intvit::attention_published  (--preset paper)

The scale of the scores, `head_size^-0.5` and log2(e) are one dyadic number, so that the exponent comes out in log2
units with eight fraction bits and no division is needed. The mean of the values comes in Q7 of the scale of the
values, which is per channel, and goes to the per-channel grid of the next product. Both grids have the same offset: the
weights of the values add up to 1. They lie on logarithmic levels where the calibrated graph has some for the attention.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from intvit import floatops
from intvit.dialect.attention import LOG2_FRACTION, attention
from intvit.dialect.biased_attention import MASK, biased_attention
from intvit.dialect.published import attention_published
from intvit.errors import VerifyError
from intvit.grid import Dyadic, Role, dyadic_for
from intvit.nodes import arguments
from intvit.passes.base import LoweringPass, Skip
from intvit.passes.lowering import Lowering

LOG2_SPAN = 1 << 13
"""Scores this far below the maximum, in log2 units with 8 fraction bits, weigh nothing."""
BIASED_SPAN = 1 << 15
"""Scores that are biased before their maximum is known are exact up to here, 88 in the exponent of e."""
INT8_SPAN = 1 << 7
MEAN_FRACTION = 7
PROBABILITY_FRACTION = 15
TO_LOG2 = math.log2(math.e) * 2**LOG2_FRACTION
NEVER = -1e4
"""A bias that is a mask, whatever the others are."""
HARDLY = 50.0
"""So far below 0 and below its row's largest, a bias is a mask: Swin's -100."""


@dataclass(frozen=True)
class Site:
    """The arguments of an attention; `bias` is None where it has none."""

    node: fx.Node
    operands: tuple[fx.Node, fx.Node, fx.Node]
    heads: int
    scale: Tensor
    windows: int
    bias: Tensor | None
    kinds: tuple[int, ...]

    @classmethod
    def of(cls, node: fx.Node, graph: Lowering) -> "Site":
        """The site of a node."""
        q, k, v, heads, scale, *rest = arguments(node)
        defaults: tuple[Any, ...] = (1, None, ())
        windows, bias, kinds = (*rest, *defaults[len(rest) :])
        scales = torch.tensor(scale, dtype=torch.float64).reshape(-1)
        return cls(node, (q, k, v), heads, scales, windows, None if bias is None else graph.value(bias), tuple(kinds))


@dataclass(frozen=True)
class LowerAttention(LoweringPass):
    """Softmax attention. `bits`: width of the exponentials, at most what the number of keys allows."""

    name: ClassVar[str] = "lower-attention"
    target: ClassVar[Any] = floatops.attention
    bits: int = 15

    def match(self, node: fx.Node, graph: Lowering) -> Site | Skip:
        site = Site.of(node, graph)
        if graph.calibrated.published and (site.bias is not None or site.windows > 1):
            return Skip(node.name, "I-ViT has no form with a bias, a mask or windows: use the default preset")
        if graph.calibrated.published and _levels(graph, site):
            return Skip(node.name, "I-ViT has no form with logarithmic weights: use the default preset")
        return site

    def rewrite(self, site: Site, graph: Lowering) -> fx.Node:
        roles = (Role.SCORE, Role.SCORE, Role.VALUE)
        grids = [graph.grid(x, role) for x, role in zip(site.operands, roles, strict=True)]
        operands = [graph.read(x, grid) for x, grid in zip(site.operands, grids, strict=True)]
        score = _per_head(grids[0].scale, site.heads) * _per_head(grids[1].scale, site.heads) * site.scale
        out = graph.grid(site.node, Role.PRODUCT)
        if bool((grids[2].offset != out.offset).any()):
            raise VerifyError(f"{site.node.name}: the values of an attention and its result need the same offset")
        build = self._published if graph.calibrated.published else self._default
        return graph.write(build(graph, site, score, grids[2].scale / out.scale, operands), out)

    def _default(self, graph: Lowering, site: Site, score: Tensor, ratio: Tensor, operands: list[fx.Node]) -> fx.Node:
        to_log2 = dyadic_for(score * TO_LOG2, LOG2_SPAN if site.bias is None else BIASED_SPAN)
        to_out = _fields(dyadic_for(ratio / 2**MEAN_FRACTION, INT8_SPAN))
        keys = graph.origin(site.operands[1]).meta["shape"][0] // site.windows
        bits = min(self.bits, exponential_bits(keys))
        levels = _levels(graph, site)
        if site.bias is None:
            numbers = *_fields(to_log2), bits, *to_out
            return graph.emit(attention, *operands, site.heads, *numbers, site.windows, *levels)
        tables = integer_bias(site.bias), torch.tensor(site.kinds, dtype=torch.int32)
        sizes = site.heads, site.windows
        return graph.emit(biased_attention, *operands, *sizes, *_fields(to_log2), *tables, bits, *to_out, *levels)

    def _published(self, graph: Lowering, site: Site, score: Tensor, ratio: Tensor, operands: list[fx.Node]) -> fx.Node:
        """int8 scores on a grid of their own, probabilities at 2^-15."""
        scores = graph.grid(site.node, Role.LOGIT).scale
        to_scores = dyadic_for(score / scores, INT8_SPAN)
        to_out = dyadic_for(ratio / 2**PROBABILITY_FRACTION, INT8_SPAN)
        x0 = math.floor(-1 / float(scores))
        return graph.emit(attention_published, *operands, site.heads, *_fields(to_scores), x0, *_fields(to_out))


def _levels(graph: Lowering, site: Site) -> tuple[int, ...]:
    """`step` and `levels` of an attention whose weights lie on logarithmic levels, else nothing."""
    found = graph.calibrated.softmax_levels.get(graph.origin(site.node).name)
    return (found.step, found.levels) if found else ()


def integer_bias(bias: Tensor) -> Tensor:
    """Float `[K, H or 1, T, S]` as int16 in log2 units, -2^15 where a key is masked."""
    real = bias.double()
    largest = real.amax(-1, keepdim=True)
    masked = (real <= NEVER) | ((real <= -HARDLY) & (real <= largest - HARDLY))
    rounded = torch.floor(real.clamp(min=NEVER) * TO_LOG2 + 0.5).clamp(MASK + 1, -MASK - 1)
    return torch.where(masked, MASK, rounded).to(torch.int16)


def _per_head(scale: Tensor, heads: Any) -> Tensor:
    """One scale per head from per-channel scales that are equal within a head."""
    return scale.expand(heads) if scale.numel() == 1 else scale.reshape(heads, -1)[:, 0]


def _fields(number: Dyadic) -> tuple[Tensor, Tensor, int]:
    return number.multiplier, number.pre_shift, number.shift


def exponential_bits(keys: int) -> int:
    """The widest exponentials whose product with int8 values cannot overflow 32 bits, at most 15."""
    return min(15, 24 - (keys - 1).bit_length())
