"""Scales of the integer graph: a tensor's float value in the ONNX graph is `scale · integers`.

The integers alone do not tell a tensor's scale in the float model, and need not: most scales are free, as what reads
the tensor undoes them. They are chosen so that no factor is left to be multiplied at run time:

    linear, requantize    what their first reader asks for, by its dyadic numbers: it becomes the scale of the weights
    layernorm, attention  likewise; it becomes γ and β, or the scale of the values
    int8 of a product     `PRODUCT`
    add                   that of the arm that is a sum itself, by its dyadic number; `RESIDUAL` for the first
    gelu                  absolute, as its input is: `x / 2^fraction`
    queries, keys         per head, the product of both by the score's dyadic number: softmax needs no factor
    values                per channel, so that the result has one scale
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx

from intvit.dialect.attention import LOG2_FRACTION
from intvit.dialect.gelu import FRACTION
from intvit.dialect.published import GELU_SLOPE, SOFTMAX_BITS
from intvit.errors import IntvitError
from intvit.fusion import name_of
from intvit.nodes import arguments, outputs
from intvit.stages import IntGraph

Scale = NDArray[np.float64]
"""`[1]` or one per channel `[C]`."""

PRODUCT = 2.0**-5
"""Of int8 operands of products: values within 4, as a LayerNorm's."""
RESIDUAL = 2.0**-11
"""Of the first int16 sum: values within 16."""
MEAN_BITS = 7
"""`attention` means its values in Q7."""
SIGMOID_BITS = 7


def is_constant(argument: Any) -> bool:
    return isinstance(argument, fx.Node) and argument.op == "get_attr"


class Scales:
    """The scale of every computed tensor of a graph whose nodes have shapes in `meta["val"]`."""

    def __init__(self, graph: IntGraph) -> None:
        self._graph = graph
        self._found: dict[fx.Node, Scale] = {}

    def array(self, node: Any) -> NDArray[Any]:
        """The constant of a node."""
        return self._graph.module.get_buffer(str(node.target)).numpy()

    def of(self, node: fx.Node) -> Scale:
        """What one of the tensor's integers stands for in the ONNX graph."""
        if node not in self._found:
            self._found[node] = np.atleast_1d(np.asarray(self._scale(node), np.float64))
        return self._found[node]

    def ratio(self, multiplier: Any, pre_shift: Any, shift: Any) -> Scale:
        """The real number that a dyadic one is, `[1]` or `[C]`."""
        return np.asarray(self.array(multiplier) / np.exp2(self.array(pre_shift) + float(shift)), np.float64)

    def for_reader(self, node: fx.Node, reader: fx.Node) -> Scale | float:
        """The scale of `node` at which `reader` needs no factor."""
        if reader.op == "output":
            return self._graph.output_scales[outputs(self._graph.module.graph).index(node)]
        rules: dict[str, Callable[[fx.Node, fx.Node], Scale | float]] = {
            "linear": lambda node, reader: PRODUCT,
            "layernorm": lambda node, reader: RESIDUAL,
            "layernorm_published": lambda node, reader: RESIDUAL,
            "requantize": lambda node, reader: self.of(reader) * self.ratio(*arguments(reader)[1:4]),
            "add": self._for_add,
            "concat_tokens": lambda node, reader: self.of(reader),
            "select_tokens": lambda node, reader: self.of(reader),
            "gelu": lambda node, reader: 2.0 ** -int(arguments(reader)[1]),
            "gelu_published": lambda node, reader: gelu_step(int(arguments(reader)[1])),
            "attention": self._for_attention,
            "attention_published": self._for_attention,
        }
        if name_of(reader) not in rules:
            raise IntvitError(f"profile qdq has no float form of {name_of(reader) or reader.name}")
        return rules[name_of(reader)](node, reader)

    def dyadics(self, add: fx.Node) -> list[tuple[fx.Node, Scale]]:
        """The arms of a sum, each with the integers of the sum for one of its own."""
        a, a_multiplier, a_pre, b, b_multiplier, b_pre, shift = arguments(add)
        return [(a, self.ratio(a_multiplier, a_pre, shift)), (b, self.ratio(b_multiplier, b_pre, shift))]

    def of_heads(self, attention: fx.Node) -> tuple[Scale, Scale]:
        """The scale of queries and keys, per channel, and that of values."""
        q, _, _, heads, *score, constant, multiplier, pre_shift, shift = arguments(attention)
        if name_of(attention) == "attention":
            unit, mean = math.log(2) / 2.0**LOG2_FRACTION, 2.0**MEAN_BITS
        else:
            unit, mean = -1 / int(constant), 2.0**SOFTMAX_BITS
        width = q.meta["val"].shape[-1] // int(heads)
        scores = np.broadcast_to(self.ratio(*score) * unit, int(heads))
        return np.repeat(np.sqrt(scores), width), self.of(attention) * self.ratio(multiplier, pre_shift, shift) * mean

    def _scale(self, node: fx.Node) -> Scale | float:
        name = name_of(node)
        if name == "patchify":
            return 1.0
        if name == "gelu":
            return 2.0**-FRACTION / self.ratio(*arguments(node)[2:5])
        if name == "gelu_published":
            return gelu_step(int(arguments(node)[1])) / (self.ratio(*arguments(node)[2:5]) * 2.0**SIGMOID_BITS)
        if name == "add":
            return self._of_add(node)
        if is_sum(node):
            return self.of(moved(node))
        return self.for_reader(node, next(iter(node.users)))

    def _of_add(self, add: fx.Node) -> Scale | float:
        for arm, ratio in self.dyadics(add):
            if is_sum(arm) and (scale := self.of(arm) / ratio).size == 1:
                return scale
        return RESIDUAL

    def _for_add(self, node: fx.Node, add: fx.Node) -> Scale:
        ratios = [ratio for arm, ratio in self.dyadics(add) if arm is node]
        return self.of(add) * ratios[0]

    def _for_attention(self, node: fx.Node, attention: fx.Node) -> Scale:
        scores, values = self.of_heads(attention)
        return scores if node in arguments(attention)[:2] else values


def gelu_step(x0: int) -> float:
    """The input scale of `gelu_published`, from `x0 = floor(-1 / (1.702 scale))`."""
    return -1 / (GELU_SLOPE * x0)


def moved(node: fx.Node) -> fx.Node:
    """The tensor whose tokens `concat_tokens` or `select_tokens` moves."""
    source = arguments(node)[1 if name_of(node) == "concat_tokens" else 0]
    assert isinstance(source, fx.Node)
    return source


def is_sum(node: fx.Node) -> bool:
    """Whether a tensor is a residual sum, also after its tokens were moved: its scale is known from the ones before."""
    if name_of(node) in ("concat_tokens", "select_tokens"):
        return is_sum(moved(node))
    return name_of(node) == "add"
