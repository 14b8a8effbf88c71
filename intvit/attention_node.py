"""The arguments of a node of `attention`, `biased_attention` or `attention_published`, by name."""

from dataclasses import dataclass
from typing import Any

from torch import fx

from intvit.fusion import name_of
from intvit.nodes import arguments
from intvit.softmax_levels import SoftmaxLevels

Number = tuple[Any, Any, int]
"""A dyadic number's multiplier, pre-shift (nodes of constants) and shift."""


@dataclass(frozen=True)
class AttentionNode:
    """`softmax` is the one parameter of the softmax: the bits of its exponentials, or I-ViT's `x0`.

    `bias` and `kinds` are nodes of constants, None where there is no bias; `levels` is None where weights have none.
    """

    q: fx.Node
    k: fx.Node
    v: fx.Node
    heads: int
    windows: int
    score: Number
    softmax: int
    result: Number
    bias: fx.Node | None = None
    kinds: fx.Node | None = None
    levels: SoftmaxLevels | None = None

    @classmethod
    def of(cls, node: fx.Node) -> "AttentionNode":
        """The fields of a node."""
        if name_of(node) == "biased_attention":
            q, k, v, heads, windows, mul, pre, shift, bias, kinds, bits, *rest = arguments(node)
            result, levels = _number(rest[:3]), _levels(rest[3:])
            return cls(q, k, v, heads, windows, (mul, pre, shift), bits, result, bias, kinds, levels)
        q, k, v, heads, mul, pre, shift, softmax, *rest = arguments(node)
        windows = rest[3] if len(rest) > 3 else 1
        return cls(q, k, v, heads, windows, (mul, pre, shift), softmax, _number(rest[:3]), levels=_levels(rest[4:]))


def _number(fields: list[Any]) -> Number:
    multiplier, pre_shift, shift = fields
    return multiplier, pre_shift, int(shift)


def _levels(fields: list[Any]) -> SoftmaxLevels | None:
    """Of `step` and `levels`, where they are given."""
    return SoftmaxLevels(*fields) if len(fields) > 1 and fields[1] else None
