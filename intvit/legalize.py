"""Which CPU kernel each group of operations becomes, and its constant operands in the kernel's layout."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import fx
from tvm import tirx

from intvit.attention_node import AttentionNode
from intvit.dialect.published import sigmoid_table
from intvit.fusion import Constant, Fusion, Group, geometry_of, kernel, name_of, node_of
from intvit.kernels import attention as attention_kernel
from intvit.kernels import (
    attention_published,
    biased_attention,
    elementwise,
    gelu_published,
    layernorm_published,
    movement,
    pack,
    product,
    transpose,
)
from intvit.kernels import depthwise as depthwise_kernel
from intvit.kernels import divide as divide_kernel
from intvit.kernels import groupnorm as groupnorm_kernel
from intvit.kernels import layernorm as layernorm_kernel
from intvit.kernels import pool as pool_kernel
from intvit.kernels import rearrange as rearrange_kernel
from intvit.kernels import rmsnorm as rmsnorm_kernel
from intvit.kernels import row_products as row_products_kernel
from intvit.kernels import softmax_rows as softmax_kernel
from intvit.kernels import unfold as unfold_kernel
from intvit.kernels.cut import RULE, Cut
from intvit.kernels.epilogue import Epilogue, Requantize
from intvit.kernels.heads import Heads
from intvit.kernels.isa import Isa
from intvit.kernels.score_bias import ScoreBias, packed_bias
from intvit.nodes import arguments

Cuts = Mapping[str, Cut]
"""By the name of a `Tunable`: how it is cut, where not as its rule says."""


@dataclass(frozen=True)
class Tunable:
    """A kernel with a choice: what it is, in words that any machine has for it, and its cuts, the rule's first."""

    name: str
    cuts: tuple[Cut, ...]
    build: Callable[[Cut], tirx.PrimFunc]

    def chosen(self, cuts: Cuts) -> tirx.PrimFunc:
        """The kernel as `cuts` say, where they name one of its own."""
        cut = cuts.get(self.name, RULE)
        return self.build(cut if cut in self.cuts else RULE)


@dataclass(frozen=True)
class KernelCall:
    """A kernel, its arguments (nodes of the graph, constants), the result's columns and type, the work of an image."""

    function: tirx.PrimFunc
    arguments: tuple[fx.Node | Constant, ...]
    columns: int
    dtype: str
    multiply_adds: int = 0
    tunable: Tunable | None = None


class Legalizer(Fusion):
    """Kernels for the nodes of one graph, `shapes` at batch 1, on one instruction set."""

    def __init__(
        self,
        module: fx.GraphModule,
        shapes: dict[str, tuple[int, ...]],
        isa: Isa,
        cuts: Cuts = MappingProxyType({}),
    ) -> None:
        super().__init__(module, shapes)
        self.isa, self.vector, self.cuts = isa, isa.vector, cuts

    def channels(self, values: ArrayLike, n: int, dtype: str) -> Constant:
        return pack.channels(values, n, dtype, self.vector)

    def call(self, group: Group) -> KernelCall:
        """The kernel of a group."""
        rule: Callable[[Group], KernelCall] | None = getattr(self, f"_{name_of(group.nodes[0])}", None)
        assert rule is not None, f"no kernel for {name_of(group.nodes[0])}"
        return rule(group)

    def _linear(self, group: Group) -> KernelCall:
        head = group.nodes[0]
        x, weight, bias = arguments(head)
        w = self.array(weight)
        n, k = w.shape
        stages, operands, dtype = self.stages(group, n)
        tokens = self.shapes[head.name][1]
        epilogue = Epilogue(tuple(stages), dtype)
        bits = pack.weight_bits(w)
        fixed: dict[str, Any] = dict(k=k, n=n, epilogue=epilogue, isa=self.isa, tokens=tokens, bits=bits)
        does = "+".join(type(stage).__name__.lower() for stage in stages)
        name = f"product {tokens}x{k}x{n} {does} {dtype}" + (" 4-bit" if bits == 4 else "")
        tunable = Tunable(
            name, product.cuts(tokens, k, n, self.isa), lambda cut: kernel(product.product, cut=cut, **fixed)
        )
        inputs = (node_of(x), pack.weights(w, self.isa, bits), pack.bias(self.array(bias), w, self.isa), *operands)
        return KernelCall(tunable.chosen(self.cuts), inputs, n, dtype, tokens * k * n, tunable)

    def _elementwise(self, group: Group) -> KernelCall:
        node = group.nodes[0]
        x = node_of(node.args[0])
        _, tokens, n = self.shapes[node.name]
        stage, operands, dtype = self.stage(node, x, n)
        epilogue = Epilogue((stage,), dtype)
        function = kernel(elementwise.elementwise, n, epilogue, self.vector, dtype=self.dtype(x), tokens=tokens)
        return KernelCall(function, (x, *operands), n, dtype)

    _requantize = _add = _gelu = _activation = _multiply = _levels = _elementwise

    def _divide(self, group: Group) -> KernelCall:
        node = group.nodes[0]
        a, b = (node_of(x) for x in node.args[:2])
        _, tokens, n = self.shapes[node.name]
        pre, stage, operands, dtype = self.quotient(node, n)
        sizes = (n, self.shapes[b.name][2], pre, Epilogue((stage,), dtype), self.vector)
        return KernelCall(kernel(divide_kernel.divide, *sizes, tokens=tokens), (a, b, *operands), n, dtype)

    def _attention(self, group: Group) -> KernelCall:
        return self._attention_by(attention_kernel.attention, group)

    def _biased_attention(self, group: Group) -> KernelCall:
        return self._attention_by(biased_attention.biased_attention, group)

    def _attention_published(self, group: Group) -> KernelCall:
        return self._attention_by(attention_published.attention_published, group)

    def _attention_by(self, build: Callable[..., tirx.PrimFunc], group: Group) -> KernelCall:
        """`build` takes sizes, the shift of the scores, the one parameter of its softmax, the epilogue, and a bias."""
        node = AttentionNode.of(group.nodes[0])
        sizes, columns = self._heads(node)
        score_mul, score_pre, score_shift = node.score
        multiplier, pre_shift, shift = node.result
        (pre, mul), operands = self.dyadic(pre_shift, multiplier, columns)
        epilogue = Epilogue((Requantize(shift, pre=pre, mul=mul),), "int8")
        windows = f"{sizes.windows}x" if sizes.windows > 1 else ""
        name = f"{name_of(group.nodes[0])} {windows}{sizes.heads}x{sizes.queries}x{sizes.keys}"
        name += f"x{sizes.head_size}x{sizes.value_size}" + (" on levels" if node.levels else "")
        bias, tables = self._bias(node)
        fixed = (score_shift, node.softmax, epilogue, *bias)
        more = dict(levels=node.levels) if node.levels else {}
        tunable = Tunable(name, sizes.cuts, lambda cut: kernel(build, replace(sizes, cut=cut), *fixed, **more))
        scores = (self.per_head(score_pre, sizes.heads, "int8"), self.per_head(score_mul, sizes.heads, "int16"))
        inputs = (node.q, node.k, node.v, *scores, *tables, *operands)
        return KernelCall(tunable.chosen(self.cuts), inputs, columns, "int8", sizes.multiply_adds, tunable)

    def _heads(self, node: AttentionNode) -> tuple[Heads, int]:
        (_, queries, width), (_, keys, _), (_, _, columns) = (self.shapes[x.name] for x in (node.q, node.k, node.v))
        w, h = node.windows, node.heads
        tokens, channels = (queries // w, keys // w), (width // h, columns // h)
        return Heads(h, *tokens, *channels, self.isa, windows=w), columns

    def _bias(self, node: AttentionNode) -> tuple[tuple[ScoreBias, ...], list[Constant]]:
        """What a kernel is told of the bias, and its operands; nothing where there is none."""
        if node.bias is None:
            return (), []
        table = self.array(node.bias)
        return (ScoreBias.of(table, node.windows),), [packed_bias(table), self.array(node.kinds)]

    def _layernorm(self, group: Group) -> KernelCall:
        node = group.nodes[0]
        x, multiplier, bias, shift, eps, min_shift, dtype = arguments(node)
        _, tokens, n = self.shapes[node.name]
        function = kernel(layernorm_kernel.layernorm, n, shift, self.vector, dtype=dtype, tokens=tokens)
        mul, add = (np.broadcast_to(self.array(a), (n,)) for a in (multiplier, bias))
        floor = np.array([eps, min_shift], np.int32)
        return KernelCall(function, (node_of(x), mul.astype(np.int16), add.astype(np.int32), floor), n, str(dtype))

    def _rmsnorm(self, group: Group) -> KernelCall:
        node = group.nodes[0]
        x, multiplier, shift, eps, min_shift, groups, dtype = arguments(node)
        _, tokens, n = self.shapes[node.name]
        function = kernel(rmsnorm_kernel.rmsnorm, n, groups, shift, self.vector, dtype=dtype, tokens=tokens)
        mul = np.broadcast_to(self.array(multiplier), (n,)).astype(np.int16)
        floor = np.array([eps, min_shift], np.int32)
        return KernelCall(function, (node_of(x), mul, floor), n, str(dtype))

    def _groupnorm(self, group: Group) -> KernelCall:
        node = group.nodes[0]
        x, multiplier, bias, shift, groups, eps, min_shift, dtype = arguments(node)
        _, tokens, n = self.shapes[node.name]
        sizes = groupnorm_kernel.Groups(n, groups, tokens, self.vector)
        function = kernel(groupnorm_kernel.groupnorm, sizes, shift, dtype=dtype)
        mul, add = (np.broadcast_to(self.array(a), (n,)) for a in (multiplier, bias))
        floor = np.array([eps, min_shift], np.int32)
        return KernelCall(function, (node_of(x), mul.astype(np.int16), add.astype(np.int32), floor), n, str(dtype))

    def _layernorm_published(self, group: Group) -> KernelCall:
        x, bias = arguments(group.nodes[0])
        n = self.shapes[group.result.name][2]
        add = np.broadcast_to(self.array(bias), (n,)).astype(np.int32)
        return KernelCall(
            kernel(layernorm_published.layernorm_published, n, self.vector), (node_of(x), add), n, "int32"
        )

    def _gelu_published(self, group: Group) -> KernelCall:
        x, x0, multiplier, pre_shift, shift = arguments(group.nodes[0])
        n = self.shapes[group.result.name][2]
        (pre, mul), operands = self.dyadic(pre_shift, multiplier, n)
        epilogue = Epilogue((Requantize(int(shift), pre=pre, mul=mul),), "int8")
        sigmoid = sigmoid_table(int(x0)).numpy()
        function = kernel(gelu_published.gelu_published, n, epilogue, self.vector)
        return KernelCall(function, (node_of(x), sigmoid, *operands), n, "int8")

    def _patchify(self, group: Group) -> KernelCall:
        node = group.nodes[0]
        if group.result is not node:
            return self._unfold(group)
        image, height, width = arguments(node)
        function = kernel(movement.patchify, self.shapes[node_of(image).name][1:], (height, width), self.vector)
        return KernelCall(function, (node_of(image),), self.shapes[node.name][2], "int8")

    def _concat_tokens(self, group: Group) -> KernelCall:
        constant, x = (node_of(a) for a in arguments(group.nodes[0]))
        first = self.array(constant)
        _, tokens, n = self.shapes[x.name]
        function = kernel(movement.concat_tokens, first.shape[0], tokens, n, self.vector)
        return KernelCall(function, (first, x), n, "int16")

    def _depthwise(self, group: Group) -> KernelCall:
        head = group.nodes[0]
        x, weight, bias, fill, *_ = arguments(head)
        w, geometry, isa = self.array(weight), geometry_of(head), self.vector
        n = w.shape[1]
        stages, operands, dtype = self.stages(group, n)
        function = kernel(depthwise_kernel.depthwise, n, geometry, Epilogue(tuple(stages), dtype), isa)
        outside = self.channels(self.fill(fill), n, "int8")
        start = pack.bias(self.array(bias), w.T, isa)
        inputs = (node_of(x), depthwise_kernel.taps(w, geometry, isa), outside, start, *operands)
        return KernelCall(function, inputs, n, dtype, geometry.tokens * w.size)

    def _unfold(self, group: Group) -> KernelCall:
        """Windows of a tensor, or of the image where the group begins with its pixels."""
        node, first = group.result, group.nodes[0]
        x, fill, *_ = arguments(node)
        geometry = geometry_of(node)
        channels = self.shapes[node_of(x).name][2]
        function = kernel(unfold_kernel.unfold, channels, geometry, self.vector, image=first is not node)
        inputs = (node_of(first.args[0]), self.fill(fill, geometry.columns.kernel))
        return KernelCall(function, inputs, geometry.taps * channels, "int8")

    def _pool(self, group: Group) -> KernelCall:
        node = group.nodes[0]
        x, *_ = arguments(node)
        n, dtype = self.shapes[node.name][2], self.dtype(node)
        kind, shift, operands = self.averaging(node)
        function = kernel(pool_kernel.pool, n, geometry_of(node), kind, shift, self.vector, dtype=dtype)
        return KernelCall(function, (node_of(x), *operands), n, dtype)

    def _select_tokens(self, group: Group) -> KernelCall:
        x, start, stop = arguments(group.nodes[0])
        _, tokens, n = self.shapes[node_of(x).name]
        dtype = self.dtype(node_of(x))
        function = kernel(movement.select_tokens, start, stop, tokens, n, self.vector, dtype=dtype)
        return KernelCall(function, (node_of(x),), n, dtype)

    def _rearrange(self, group: Group) -> KernelCall:
        node = group.nodes[0]
        tensors = [node_of(x) for x in arguments(node)[0]]
        blocks, dtype = self.blocks(node), self.dtype(node)
        offsets = blocks.offsets([columns for _, columns in blocks.shapes])
        sources = tuple(
            rearrange_kernel.Source(*shape, x.op == "get_attr") for shape, x in zip(blocks.shapes, tensors, strict=True)
        )
        run = offsets.run if blocks.chunk == len(sources) == 1 and offsets.is_sum else 1
        tokens, count = blocks.index.shape
        if transpose.side_of_squares(count, run, dtype):
            function = kernel(transpose.transpose, sources[0], tokens, count, run, dtype=dtype)
        else:
            sizes = (sources, tokens, count, blocks.chunk, self.vector)
            function = kernel(rearrange_kernel.rearrange, *sizes, dtype=dtype, is_sum=offsets.is_sum)
        inputs = [self.array(x) if x.op == "get_attr" else x for x in tensors]
        operands = (*inputs, offsets.rows, offsets.columns)
        return KernelCall(function, operands, self.shapes[node.name][2], dtype)

    def _product(self, group: Group) -> KernelCall:
        a, b, groups = arguments(group.nodes[0])
        (_, left, depth), (_, right, _) = (self.shapes[node_of(x).name] for x in (a, b))
        n = right // groups
        stages, operands, dtype = self.stages(group, n)
        sizes = row_products_kernel.Groups(groups, left // groups, n, depth, self.isa)
        function = kernel(row_products_kernel.row_products, sizes, Epilogue(tuple(stages), dtype))
        return KernelCall(function, (node_of(a), node_of(b), *operands), n, dtype, sizes.multiply_adds)

    def _softmax(self, group: Group) -> KernelCall:
        x, multiplier, pre_shift, shift, bits = arguments(group.nodes[0])
        n = self.shapes[group.result.name][2]
        stages, operands, dtype = self.stages(group, n)
        epilogue = Epilogue(tuple(stages), dtype)
        function = kernel(
            softmax_kernel.softmax, n, int(shift), int(bits), epilogue, self.vector, dtype=self.dtype(node_of(x))
        )
        pre, mul = self.array(pre_shift).astype(np.int8), self.array(multiplier).astype(np.int16)
        return KernelCall(function, (node_of(x), pre, mul, *operands), n, dtype)
