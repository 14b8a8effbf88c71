"""The float form of each operation of the dialect, as ONNX nodes; every value is `scale · integers` (`scales.py`).

    patchify, linear    rows of pixels, and products with int8 weights behind DequantizeLinear
    requantize          nothing: its dyadic number is in the scale of the weights before it
    the others          their float functions, for the published forms too

Values keep the layout of the dialect, `[batch, tokens, channels]`.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import fx

from intvit.errors import IntvitError
from intvit.fusion import name_of
from intvit.nodes import arguments, outputs
from intvit.stages import IntGraph
from intvit.to_onnx.qdq.pixels import in_order, patches
from intvit.to_onnx.qdq.scales import Scales, is_constant
from intvit.to_onnx.qdq.values import Value, reshaped, table, weights
from intvit.to_onnx.scope import Scope
from intvit.verify.overflow import fake_values

GELU_OPSET = 20
"""The first with the operator Gelu; before it, GELU is written with Erf, which runtimes recognize."""
UNIT_BITS = 15
"""`layernorm` multiplies units in Q15."""
PUBLISHED_BITS = 30
"""The result of `layernorm_published` is a unit in Q30."""
SMALLEST_VARIANCE = 1e-12
"""In place of the ε that `layernorm_published` does not have."""


class Layers:
    """Writes one graph into a scope, node by node."""

    def __init__(self, graph: IntGraph, scope: Scope, image: str) -> None:
        """`image`: the type of the graph's input, `uint8` or `float32`."""
        self._graph, self._scope, self._image = graph, scope, image
        fake_values(graph)  # leaves shapes at batch 1 in the nodes
        self._scales = Scales(graph)
        self._values: dict[fx.Node, Value] = {}
        self.rules: dict[str, Callable[[fx.Node], None]] = {
            "patchify": self._patchify,
            "linear": self._linear,
            "requantize": self._requantize,
            "add": self._add,
            "concat_tokens": self._concat_tokens,
            "select_tokens": self._select_tokens,
            "layernorm": self._layernorm,
            "layernorm_published": self._layernorm_published,
            "gelu": self._gelu,
            "gelu_published": self._gelu_published,
            "attention": self._attention,
            "attention_published": self._attention,
        }

    def write(self) -> None:
        """Writes every node; raises `IntvitError` for an operation without a float form."""
        for node in self._graph.module.graph.nodes:
            if node.op == "call_function" and node not in self._values:
                if name_of(node) not in self.rules:
                    raise IntvitError(f"profile qdq has no float form of {name_of(node) or node.name}")
                with self._scope.at(node.meta.get("path") or ""):
                    self.rules[name_of(node)](node)

    def output(self, index: int) -> str:
        """Writes output `index` in its final shape and scale, and returns its name."""
        nodes = outputs(self._graph.module.graph)
        label = "logits" if len(nodes) == 1 else f"output_{index}"
        real = self._values[nodes[index]].at(self._scope, self._graph.output_scales[index])
        return reshaped(self._scope, real, *self._graph.output_shapes[index], label=label)

    def _set(self, node: fx.Node, name: str) -> None:
        self._values[node] = Value(name, self._scales.of(node))

    def _for(self, node: fx.Node, reader: fx.Node) -> str:
        """The value of `node` as its reader wants it."""
        return self._values[node].at(self._scope, self._scales.for_reader(node, reader))

    def _patchify(self, node: fx.Node) -> None:
        _, h, w = arguments(node)
        self._values[node] = patches(self._scope, self._image, self._graph.input_grid, h, w)

    def _linear(self, node: fx.Node) -> None:
        """All linears of one tensor as one product: a pair of QuantizeLinear and DequantizeLinear has one reader."""
        source = arguments(node)[0]
        group = [user for user in source.users if name_of(user) == "linear"]
        x, scope = self._values[source], self._scope
        if name_of(source) != "patchify":
            x = x.quantized(scope)
        integers = [self._weight(linear) for linear in group]
        sizes = [len(part) for part in integers]
        scale = np.concatenate([np.broadcast_to(self._scales.of(n), k) for n, k in zip(group, sizes, strict=True)])
        bias = np.concatenate([self._scales.array(linear.args[2]) for linear in group]) * scale
        y = scope.op("MatMul", x.name, weights(scope, np.concatenate(integers).T, scale / x.scale), label="product")
        y = scope.op("Sub", y, scope.constant(-bias, "float32", "negative_bias"), label="biased")
        if len(group) == 1:
            self._set(node, y)
            return
        parts = scope.ops("Split", y, scope.int64(*sizes), labels=["part"] * len(group), axis=2)
        for linear, part in zip(group, parts, strict=True):
            self._set(linear, part)

    def _weight(self, linear: fx.Node) -> NDArray[np.int8]:
        """int8 `[N, K]`."""
        x, weight, _ = arguments(linear)
        integers: NDArray[np.int8] = self._scales.array(weight)
        return in_order(integers, self._image, *arguments(x)[1:]) if name_of(x) == "patchify" else integers

    def _requantize(self, node: fx.Node) -> None:
        self._set(node, self._moved(self._for(arguments(node)[0], node), node, arguments(node)[4]))

    def _moved(self, x: str, node: fx.Node, zero_point: int) -> str:
        """`x` plus the zero point of the integers that it becomes: their middle is 0."""
        if zero_point == 0:
            return x
        shift = self._scales.of(node) * zero_point
        return self._scope.op("Add", x, self._scope.constant(shift, "float32", "middle"), label="moved")

    def _add(self, node: fx.Node) -> None:
        names = []
        for arm, ratio in self._scales.dyadics(node):
            scale = self._scales.of(node) * ratio
            if is_constant(arm):
                names.append(table(self._scope, self._scales.array(arm) * scale, "table"))
            else:
                names.append(self._values[arm].at(self._scope, scale))
        self._set(node, self._scope.op("Add", *names, label="sum"))

    def _concat_tokens(self, node: fx.Node) -> None:
        constant, x = arguments(node)
        scope, real = self._scope, self._scales.array(constant) * self._scales.of(node)
        computed = self._for(x, node)
        tokens = table(scope, real[None], "constant_tokens")
        if scope.batch is None:
            batch = scope.op("Shape", computed, start=0, end=1, label="batch")
            shape = scope.op("Concat", batch, scope.int64(*real.shape), axis=0, label="constant_shape")
            tokens = scope.op("Expand", tokens, shape, label="expanded_tokens")
        elif scope.batch > 1:
            shape = scope.int64(scope.batch, *real.shape)
            tokens = scope.op("Expand", tokens, shape, label="expanded_tokens")
        self._set(node, scope.op("Concat", tokens, computed, axis=1, label="tokens"))

    def _select_tokens(self, node: fx.Node) -> None:
        x, start, stop = arguments(node)
        ends = (self._scope.int64(value) for value in (start, stop, 1))
        self._set(node, self._scope.op("Slice", self._for(x, node), *ends, label="selected"))

    def _layernorm(self, node: fx.Node) -> None:
        _, multiplier, bias, shift, eps, min_shift, _ = arguments(node)
        weight = self._scales.array(multiplier) * 2.0 ** (UNIT_BITS - shift)
        beta = self._scales.array(bias) * 2.0**-shift
        self._normalized(node, weight, beta, eps * 4.0**min_shift)

    def _layernorm_published(self, node: fx.Node) -> None:
        beta = self._scales.array(arguments(node)[1])
        self._normalized(node, np.asarray(2.0**PUBLISHED_BITS), beta, None)

    def _normalized(
        self, node: fx.Node, weight: NDArray[np.float64], beta: NDArray[np.float64], eps: float | None
    ) -> None:
        """`weight · (x - mean) / sqrt(Σ(x - mean)² + eps) + beta` in integers, as LayerNormalization."""
        source, scope = arguments(node)[0], self._scope
        channels, scale = source.meta["val"].shape[-1], self._scales.of(node)
        x = self._values[source]
        wanted = x.scale if x.scale.size == 1 else self._scales.for_reader(source, node)
        gamma = np.broadcast_to(weight / math.sqrt(channels) * scale, channels)
        shift = np.broadcast_to(beta * scale, channels)
        shared = scope.constant(gamma, "float32", "weight"), scope.constant(shift, "float32", "bias")
        epsilon = SMALLEST_VARIANCE if eps is None else eps * float(np.asarray(wanted).item()) ** 2 / channels
        y = scope.op("LayerNormalization", x.at(scope, wanted), *shared, axis=-1, epsilon=epsilon, label="normalized")
        self._set(node, y)

    def _gelu(self, node: fx.Node) -> None:
        x, *_, zero_point = arguments(node)
        self._set(node, self._moved(self._float_gelu(self._for(x, node)), node, zero_point))

    def _gelu_published(self, node: fx.Node) -> None:
        self._set(node, self._float_gelu(self._for(arguments(node)[0], node)))

    def _float_gelu(self, x: str) -> str:
        scope = self._scope
        if scope.opset >= GELU_OPSET:
            return scope.op("Gelu", x, label="activated")
        root = scope.op("Div", x, scope.constant(math.sqrt(2), "float32"), label="over_root_2")
        step = scope.op("Add", scope.op("Erf", root, label="erf"), scope.constant(1, "float32"), label="erf_plus_1")
        return scope.op(
            "Mul", scope.op("Mul", x, step, label="twice"), scope.constant(0.5, "float32"), label="activated"
        )

    def _attention(self, node: fx.Node) -> None:
        q, k, v, heads, *_ = arguments(node)
        scores, values = self._scales.of_heads(node)
        scope = self._scope
        queries = self._split(q, scores, heads, [0, 2, 1, 3], "queries")
        keys = self._split(k, scores, heads, [0, 2, 3, 1], "keys")
        product = scope.op("MatMul", queries, keys, label="scores")
        weights_of_keys = scope.op("Softmax", product, axis=-1, label="probabilities")
        mean = scope.op("MatMul", weights_of_keys, self._split(v, values, heads, [0, 2, 1, 3], "values"), label="mean")
        rows = scope.op("Transpose", mean, perm=[0, 2, 1, 3], label="mean_by_token")
        self._set(node, reshaped(self._scope, rows, *node.meta["val"].shape[1:], label="attended"))

    def _split(self, node: fx.Node, scale: NDArray[np.float64], heads: int, order: list[int], label: str) -> str:
        """`[B, T, H·D]` as `[B, T, H, D]`, in another order."""
        tokens, channels = node.meta["val"].shape[1:]
        x = self._values[node].at(self._scope, scale)
        x = reshaped(self._scope, x, tokens, heads, channels // heads, label=f"{label}_by_token")
        return self._scope.op("Transpose", x, perm=order, label=label)
