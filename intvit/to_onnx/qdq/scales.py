"""Scales of the integer graph: a tensor's float value in the ONNX graph is `scale · integers`.

The integers alone do not tell a tensor's scale in the float model, and need not: most scales are free, as what reads
the tensor undoes them. They are chosen so that no factor is left to be multiplied at run time:

    linear, requantize    what their first reader asks for, by its dyadic numbers: it becomes the scale of the weights
    layernorm, attention  likewise; it becomes γ and β, or the scale of the values
    int8 of a product     `PRODUCT`
    rearrange             likewise; channels that meet in one of the result, or come from one, have one scale
    add                   that of the arm that is a sum itself, by its dyadic number; `RESIDUAL` for the first
    gelu                  absolute, as its input is: `x / 2^fraction`
    activation            the function's own, as is its input's; of one that is not recognized, what its reader asks for
    product               what its first reader asks for, one for all channels; the second operand's makes it so
    divide                likewise; the dividend's takes the dyadic number in
    softmax               absolute; its input is in the exponent of e
    multiply              the product of those of its factors; the second's takes the dyadic number of each channel in
    queries, keys         per head, the product of both by the score's dyadic number: softmax needs no factor
    values                per channel, so that the result has one scale
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from intvit.attention_node import AttentionNode
from intvit.dialect.attention import LOG2_FRACTION
from intvit.dialect.divide import QUOTIENT_BITS
from intvit.dialect.gelu import FRACTION
from intvit.dialect.published import GELU_SLOPE, SOFTMAX_BITS
from intvit.dialect.softmax import FRACTION as WEIGHT_FRACTION
from intvit.errors import IntvitError
from intvit.fusion import geometry_of, name_of, node_of
from intvit.grid import Grid
from intvit.movement import Classes
from intvit.nodes import arguments, outputs
from intvit.stages import IntGraph
from intvit.to_onnx.qdq.recognized import Recognized, recognized

Scale = NDArray[np.float64]
"""`[1]` or one per channel `[C]`."""

PRODUCT = 2.0**-5
"""Of int8 operands of products: values within 4, as a LayerNorm's."""
RESIDUAL = 2.0**-11
"""Of the first int16 sum: values within 16."""
FACTOR = 2.0**-12
"""Of factors of a product by elements: values within 8."""
MEAN_BITS = 7
"""`attention` means its values in Q7."""
SIGMOID_BITS = 7
LOG2_UNIT = math.log(2) / 2.0**LOG2_FRACTION
"""Of scores in log2 units, in the exponent of e."""


def is_constant(argument: Any) -> bool:
    return isinstance(argument, fx.Node) and argument.op == "get_attr"


class Scales:
    """The scale of every computed tensor of a graph whose nodes have shapes in `meta["val"]`."""

    def __init__(self, graph: IntGraph) -> None:
        self._graph = graph
        self._found: dict[fx.Node, Scale] = {}
        self._functions: dict[fx.Node, Recognized | None] = {}

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
            "rmsnorm": lambda node, reader: RESIDUAL,
            "groupnorm": lambda node, reader: RESIDUAL,
            "layernorm_published": lambda node, reader: RESIDUAL,
            "requantize": lambda node, reader: self.of(reader) * self.ratio(*arguments(reader)[1:4]),
            "add": self._for_add,
            "concat_tokens": lambda node, reader: self.of(reader),
            "select_tokens": lambda node, reader: self.of(reader),
            "unfold": lambda node, reader: PRODUCT,
            "depthwise": lambda node, reader: PRODUCT,
            "pool": lambda node, reader: self.of(reader) * self.finer(reader),
            "rearrange": lambda node, reader: self.of_source(reader, arguments(reader)[0].index(node)),
            "gelu": lambda node, reader: 2.0 ** -int(arguments(reader)[1]),
            "activation": lambda node, reader: form.operand if (form := self.function(reader)) else 1.0,
            "multiply": lambda node, reader: FACTOR if node is arguments(reader)[0] else self.of_factor(reader),
            "divide": lambda node, reader: self.of_dividend(reader) if node is arguments(reader)[0] else FACTOR,
            "product": lambda node, reader: self.of_operands(reader)[node is not arguments(reader)[0]],
            "softmax": lambda node, reader: self.ratio(*arguments(reader)[1:4]) * LOG2_UNIT,
            "gelu_published": lambda node, reader: gelu_step(int(arguments(reader)[1])),
            "attention": self._for_attention,
            "biased_attention": self._for_attention,
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
        node = AttentionNode.of(attention)
        if name_of(attention) == "attention_published":
            unit, mean = -1 / int(node.softmax), 2.0**SOFTMAX_BITS
        else:
            unit, mean = LOG2_UNIT, 2.0**MEAN_BITS
        width = node.q.meta["val"].shape[-1] // node.heads
        scores = np.broadcast_to(self.ratio(*node.score) * unit, node.heads)
        return np.repeat(np.sqrt(scores), width), self.of(attention) * self.ratio(*node.result) * mean

    def of_source(self, rearrange: fx.Node, i: int) -> Scale:
        """The scale of tensor `i` of a movement, which its result needs."""
        scale = self.of(rearrange)
        if scale.size == 1:
            return scale
        grid = Grid(torch.from_numpy(scale), torch.zeros(1, dtype=torch.float64), "int8")
        return self._classes(rearrange).of_source(i, grid).scale.numpy()

    def _classes(self, rearrange: fx.Node) -> Classes:
        tensors, index, chunk = arguments(rearrange)
        shapes = [self.array(x).shape if is_constant(x) else x.meta["val"].shape[1:] for x in tensors]
        return Classes.of(shapes, self._graph.module.get_buffer(str(index.target)), int(chunk))

    def function(self, activation: fx.Node) -> Recognized | None:
        """What an activation is, None where it stays a table."""
        if activation not in self._functions:
            _, knots, shift, _ = arguments(activation)
            self._functions[activation] = recognized(self.array(knots), int(shift))
        return self._functions[activation]

    def of_factor(self, multiply: fx.Node) -> Scale:
        """The scale of the second factor with which a product by elements has one scale, where the first has."""
        ratio = self.ratio(*arguments(multiply)[2:5])
        return FACTOR * ratio / self._largest(ratio)

    def finer(self, node: fx.Node) -> float:
        """Integers of a result for one of the tensor that is moved: a mean may have a finer grid than its input."""
        if name_of(node) != "pool" or arguments(node)[5] != "mean":
            return 1.0
        *_, multiplier, pre_shift, shift, _ = arguments(node)
        return float(self.ratio(multiplier, pre_shift, shift).flat[0]) * geometry_of(node).counts[0]

    def of_dividend(self, divide: fx.Node) -> Scale:
        """The scale of the dividend with which a quotient has its own, where the divisor's is `FACTOR`."""
        ratio = self.ratio(*arguments(divide)[2:5]) * 2.0**QUOTIENT_BITS
        return self.of(divide) * ratio * FACTOR

    def of_operands(self, product: fx.Node) -> tuple[Scale | float, Scale | float]:
        """The scales of the two operands of a product: that of the sums is theirs multiplied."""
        return PRODUCT, self.of(product) / PRODUCT

    def _largest(self, ratio: Scale) -> float:
        return float(np.abs(ratio).max()) or 1.0

    def _scale(self, node: fx.Node) -> Scale | float:
        name = name_of(node)
        if name == "patchify":
            return 1.0
        if name == "gelu":
            return 2.0**-FRACTION / self.ratio(*arguments(node)[2:5])
        if name == "gelu_published":
            return gelu_step(int(arguments(node)[1])) / (self.ratio(*arguments(node)[2:5]) * 2.0**SIGMOID_BITS)
        if name == "multiply":
            return self.of(arguments(node)[0]) * FACTOR / self._largest(self.ratio(*arguments(node)[2:5]))
        if name == "softmax":
            return 2.0**-WEIGHT_FRACTION
        if name == "activation" and (form := self.function(node)) is not None:
            return form.scale
        if name in ("activation", "product"):
            return float(np.max(self.for_reader(node, next(iter(node.users)))))
        if name == "add":
            return self._of_add(node)
        if is_sum(node):
            return self.of(moved(node)) / self.finer(node)
        wanted = self.for_reader(node, next(iter(node.users)))
        if name == "rearrange" and np.size(wanted) > 1:
            return self._classes(node).largest(torch.from_numpy(np.asarray(wanted))).numpy()
        return wanted

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
    """The tensor whose tokens `concat_tokens` or `select_tokens` moves, or `pool`; of those of `rearrange`, a sum."""
    if name_of(node) == "rearrange":
        return node_of(next(x for x in arguments(node)[0] if is_sum(x)))
    source = arguments(node)[1 if name_of(node) == "concat_tokens" else 0]
    assert isinstance(source, fx.Node)
    return source


def is_sum(node: fx.Node) -> bool:
    """Whether a tensor is a residual sum, also after its tokens were moved: its scale is known from the ones before."""
    if name_of(node) in ("concat_tokens", "select_tokens", "pool"):
        return is_sum(moved(node))
    if name_of(node) == "rearrange":
        return any(is_sum(x) for x in arguments(node)[0])
    return name_of(node) == "add"
