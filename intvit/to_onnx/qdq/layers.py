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

from intvit.attention_node import AttentionNode
from intvit.blocks import Blocks
from intvit.dialect.biased_attention import MASK
from intvit.dialect.groupnorm import MULTIPLIED
from intvit.errors import IntvitError
from intvit.fusion import geometry_of, name_of
from intvit.nodes import arguments, outputs
from intvit.stages import IntGraph
from intvit.to_onnx.qdq.elementwise import divided, interpolated
from intvit.to_onnx.qdq.heads import MASKED, Heads
from intvit.to_onnx.qdq.matrices import matrices
from intvit.to_onnx.qdq.norms import group_normalized, rms_normalized
from intvit.to_onnx.qdq.pixels import in_order, patches
from intvit.to_onnx.qdq.scales import FACTOR, LOG2_UNIT, Scales, is_constant
from intvit.to_onnx.qdq.values import Value, reshaped, table, weights
from intvit.to_onnx.qdq.windows import convolution, pooled
from intvit.to_onnx.rearrange import Plan
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
REFUSED = {"levels": "the profile qdq has 8-bit activations only; export the profile integer"}
"""Operations without a float form, and why."""


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
            "rearrange": self._rearrange,
            "unfold": self._unfold,
            "depthwise": self._depthwise,
            "pool": self._pool,
            "layernorm": self._layernorm,
            "rmsnorm": self._rmsnorm,
            "groupnorm": self._groupnorm,
            "layernorm_published": self._layernorm_published,
            "gelu": self._gelu,
            "activation": self._activation,
            "multiply": self._multiply,
            "divide": self._divide,
            "product": self._product,
            "softmax": self._softmax,
            "gelu_published": self._gelu_published,
            "attention": self._attention,
            "biased_attention": self._attention,
            "attention_published": self._attention,
        }

    def write(self) -> None:
        """Writes every node; raises `IntvitError` for what is `REFUSED`, and for windows that no product reads."""
        for name in map(name_of, self._graph.module.graph.nodes):
            if name in REFUSED:
                raise IntvitError(f"{name}: {REFUSED[name]}")
        for node in self._graph.module.graph.nodes:
            if node.op == "call_function" and node not in self._values:
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
        """A product takes pixels as they are; what reads windows of them quantizes these itself."""
        _, h, w = arguments(node)
        rounded = any(name_of(user) not in ("unfold", "depthwise") for user in node.users)
        self._values[node] = patches(self._scope, self._image, self._graph.input_grid, h, w, rounded)

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

    def _unfold(self, node: fx.Node) -> None:
        """With all linears that read it, a convolution."""
        readers = list(node.users)
        if any(name_of(reader) != "linear" for reader in readers):
            raise IntvitError(f"{self._scope.path}: profile qdq has no form of windows that no product reads")
        rows = [self._scales.array(reader.args[1]) for reader in readers]
        sizes, weight = [len(part) for part in rows], np.concatenate(rows)
        kernel = geometry_of(node).kernel
        weight = weight.reshape(len(weight), *kernel, -1).transpose(0, 3, 1, 2)
        y = self._convolution(node, readers, weight, arguments(node)[1])
        if len(readers) == 1:
            self._set(readers[0], y)
            return
        parts = self._scope.ops("Split", y, self._scope.int64(*sizes), labels=["part"] * len(readers), axis=2)
        for reader, part in zip(readers, parts, strict=True):
            self._set(reader, part)

    def _depthwise(self, node: fx.Node) -> None:
        _, weight, _, fill, *_ = arguments(node)
        factors = self._scales.array(weight).T.reshape(-1, 1, *geometry_of(node).kernel)
        self._set(node, self._convolution(node, [node], factors, fill))

    def _convolution(self, windows: fx.Node, sums: list[fx.Node], weight: NDArray[np.int8], fill: fx.Node) -> str:
        """What `windows` of a tensor give with the weights of all `sums`."""
        bias = [self._scales.array(node.args[2]) for node in sums]
        scale = [np.broadcast_to(self._scales.of(node), len(part)) for node, part in zip(sums, bias, strict=True)]
        operands = (self._values[arguments(windows)[0]], self._scales.array(fill), geometry_of(windows))
        return convolution(self._scope, *operands, weight, np.concatenate(bias), np.concatenate(scale))

    def _pool(self, node: fx.Node) -> None:
        x, *_, kind, _, _, _, _ = arguments(node)
        channels = node.meta["val"].shape[2]
        self._set(node, pooled(self._scope, self._for(x, node), geometry_of(node), str(kind), channels))

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

    def _rearrange(self, node: fx.Node) -> None:
        tensors, index, chunk = arguments(node)
        scales = [self._scales.of_source(node, i) for i in range(len(tensors))]
        fixed = [
            self._scales.array(x) * scale if is_constant(x) else None for x, scale in zip(tensors, scales, strict=True)
        ]
        shapes = [
            x.meta["val"].shape[1:] if real is None else real.shape for x, real in zip(tensors, fixed, strict=True)
        ]
        plan = Plan.of(Blocks.of(shapes, self._scales.array(index), chunk), fixed)
        computed = [self._values[tensors[i]].at(self._scope, scales[i]) for i in plan.computed]
        constants = [table(self._scope, real, "constant_tokens") for real in plan.constants]
        self._set(node, plan.write(self._scope, computed, constants))

    def _layernorm(self, node: fx.Node) -> None:
        _, multiplier, bias, shift, eps, min_shift, _ = arguments(node)
        weight = self._scales.array(multiplier) * 2.0 ** (UNIT_BITS - shift)
        beta = self._scales.array(bias) * 2.0**-shift
        self._normalized(node, weight, beta, eps * 4.0**min_shift)

    def _rmsnorm(self, node: fx.Node) -> None:
        _, multiplier, shift, eps, min_shift, groups, _ = arguments(node)
        x, scale = self._normalized_from(node)
        tokens, channels = node.meta["val"].shape[1:]
        size = channels // groups
        weight = self._scales.array(multiplier) * 2.0 ** (UNIT_BITS - shift) / math.sqrt(size) * self._scales.of(node)
        epsilon = eps * 4.0**min_shift * scale**2 / size
        self._set(node, rms_normalized(self._scope, x, weight, int(groups), epsilon, (tokens, channels)))

    def _groupnorm(self, node: fx.Node) -> None:
        _, multiplier, bias, shift, groups, eps, min_shift, _ = arguments(node)
        x, scale = self._normalized_from(node)
        weight, beta = (self._scales.array(a) * 2.0**-shift * self._scales.of(node) for a in (multiplier, bias))
        shape = node.meta["val"].shape[1:]
        fixed = (int(groups), eps * 4.0**min_shift * scale**2, (shape[0], shape[1]))
        self._set(node, group_normalized(self._scope, x, weight * 2.0**MULTIPLIED, beta, *fixed))

    def _normalized_from(self, node: fx.Node) -> tuple[str, float]:
        """What a normalization reads, on one scale, and that scale."""
        source = arguments(node)[0]
        x = self._values[source]
        wanted = x.scale if x.scale.size == 1 else self._scales.for_reader(source, node)
        return x.at(self._scope, wanted), float(np.asarray(wanted).item())

    def _layernorm_published(self, node: fx.Node) -> None:
        beta = self._scales.array(arguments(node)[1])
        self._normalized(node, np.asarray(2.0**PUBLISHED_BITS), beta, None)

    def _normalized(
        self, node: fx.Node, weight: NDArray[np.float64], beta: NDArray[np.float64], eps: float | None
    ) -> None:
        """`weight · (x - mean) / sqrt(Σ(x - mean)² + eps) + beta` in integers, as LayerNormalization."""
        scope, scale = self._scope, self._scales.of(node)
        channels = node.meta["val"].shape[-1]
        x, step = self._normalized_from(node)
        gamma = np.broadcast_to(weight / math.sqrt(channels) * scale, channels)
        shift = np.broadcast_to(beta * scale, channels)
        shared = scope.constant(gamma, "float32", "weight"), scope.constant(shift, "float32", "bias")
        epsilon = SMALLEST_VARIANCE if eps is None else eps * step**2 / channels
        y = scope.op("LayerNormalization", x, *shared, axis=-1, epsilon=epsilon, label="normalized")
        self._set(node, y)

    def _gelu(self, node: fx.Node) -> None:
        x, *_, zero_point = arguments(node)
        self._set(node, self._moved(self._float_gelu(self._for(x, node)), node, zero_point))

    def _activation(self, node: fx.Node) -> None:
        x, knots, shift, dtype = arguments(node)
        function = self._scales.function(node)
        if function is not None:
            self._set(node, function.write(self._scope, self._for(x, node)))
            return
        scale, shape = float(self._scales.of(node).item()), tuple(node.meta["val"].shape[1:])
        table = self._scales.array(knots)
        self._set(node, interpolated(self._scope, self._for(x, node), table, int(shift), str(dtype), scale, shape))

    def _multiply(self, node: fx.Node) -> None:
        a, b = arguments(node)[:2]
        scale = self._scales.of_factor(node)
        if is_constant(b):
            factor = table(self._scope, self._scales.array(b) * scale, "factor")
        else:
            factor = self._values[b].at(self._scope, scale)
        self._set(node, self._scope.op("Mul", self._values[a].name, factor, label="product"))

    def _divide(self, node: fx.Node) -> None:
        a, b = arguments(node)[:2]
        tokens, channels = node.meta["val"].shape[1:]
        dividend = self._values[a].at(self._scope, self._scales.of_dividend(node))
        divisor = self._values[b].at(self._scope, FACTOR)
        sizes = (tokens, channels, b.meta["val"].shape[2])
        self._set(node, divided(self._scope, dividend, divisor, FACTOR, sizes))

    def _product(self, node: fx.Node) -> None:
        """In float, as the products of attention."""
        a, b, groups = arguments(node)
        scope, scales = self._scope, self._scales.of_operands(node)
        left, right = (
            matrices(scope, self._values[x].at(scope, scale), groups, x.meta["val"].shape[1:], turned=turned)
            for x, scale, turned in zip((a, b), scales, (False, True), strict=True)
        )
        y = scope.op("MatMul", left, right, label="sums")
        self._set(node, reshaped(self._scope, y, *node.meta["val"].shape[1:], label="products"))

    def _softmax(self, node: fx.Node) -> None:
        weights_of = self._scope.op("Softmax", self._for(arguments(node)[0], node), axis=-1, label="probabilities")
        self._set(node, weights_of)

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
        found = AttentionNode.of(node)
        if found.levels:
            raise IntvitError("the profile qdq has no logarithmic softmax weights; export the profile integer")
        scores, values = self._scales.of_heads(node)
        heads = Heads(self._scope, found.heads, found.windows)
        q, k, v = (
            self._values[x].at(self._scope, scale)
            for x, scale in ((found.q, scores), (found.k, scores), (found.v, values))
        )
        shapes = [x.meta["val"].shape[1:] for x in (found.q, found.k, found.v)]
        bias = [] if found.bias is None else [self._bias(found), self._scales.array(found.kinds).tolist()]
        self._set(node, heads.attend((q, k, v), shapes, *bias))

    def _bias(self, node: AttentionNode) -> NDArray[np.float32]:
        """The kinds of bias; of masked keys `MASKED`."""
        table = self._scales.array(node.bias)
        return np.where(table == MASK, MASKED, table * LOG2_UNIT).astype(np.float32)
