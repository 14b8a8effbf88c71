"""Which CPU kernel each group of operations becomes, and its constant operands in the kernel's layout."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import fx
from tvm import tirx

from intvit.dialect.published import sigmoid_table
from intvit.fusion import Constant, Fusion, Group, name_of, node_of
from intvit.kernels import attention as attention_kernel
from intvit.kernels import (
    attention_published,
    elementwise,
    gelu_published,
    layernorm_published,
    movement,
    pack,
    product,
)
from intvit.kernels import layernorm as layernorm_kernel
from intvit.kernels.cut import RULE, Cut
from intvit.kernels.epilogue import Epilogue, Requantize
from intvit.kernels.isa import Isa
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
        build = partial(_product, k, n, epilogue, self.isa, tokens)
        does = "+".join(type(stage).__name__.lower() for stage in stages)
        name = f"product {tokens}x{k}x{n} {does} {dtype}"
        tunable = Tunable(name, product.cuts(tokens, k, n, self.isa), build)
        inputs = (node_of(x), pack.weights(w, self.isa), pack.bias(self.array(bias), w, self.isa), *operands)
        return KernelCall(tunable.chosen(self.cuts), inputs, n, dtype, tokens * k * n, tunable)

    def _elementwise(self, group: Group) -> KernelCall:
        node = group.nodes[0]
        x = node_of(node.args[0])
        n = self.shapes[node.name][2]
        stage, operands, dtype = self.stage(node, x, n)
        function = _elementwise(n, Epilogue((stage,), dtype), self.vector, self.dtype(x))
        return KernelCall(function, (x, *operands), n, dtype)

    _requantize = _add = _gelu = _elementwise

    def _attention(self, group: Group) -> KernelCall:
        return self._attention_by(_attention, group)

    def _attention_published(self, group: Group) -> KernelCall:
        return self._attention_by(_attention_published, group)

    def _attention_by(self, build: Callable[..., tirx.PrimFunc], group: Group) -> KernelCall:
        """`build` takes the sizes, the shift of the scores, the one parameter of its softmax, and the epilogue."""
        node = group.nodes[0]
        q, k, v, heads, score_mul, score_pre, score_shift, softmax, multiplier, pre_shift, shift = arguments(node)
        sizes, columns = self._heads(q, k, v, heads)
        (pre, mul), operands = self.dyadic(pre_shift, multiplier, columns)
        epilogue = Epilogue((Requantize(int(shift), pre=pre, mul=mul),), "int8")
        name = f"{name_of(node)} {sizes.heads}x{sizes.queries}x{sizes.keys}x{sizes.head_size}x{sizes.value_size}"
        tunable = Tunable(name, sizes.cuts, lambda cut: build(replace(sizes, cut=cut), score_shift, softmax, epilogue))
        scores = (self._per_head(score_pre, sizes.heads, "int8"), self._per_head(score_mul, sizes.heads, "int16"))
        inputs = (node_of(q), node_of(k), node_of(v), *scores, *operands)
        return KernelCall(tunable.chosen(self.cuts), inputs, columns, "int8", sizes.multiply_adds, tunable)

    def _heads(self, q: Any, k: Any, v: Any, heads: Any) -> tuple[attention_kernel.Heads, int]:
        (_, queries, width), (_, keys, _), (_, _, columns) = (self.shapes[node_of(x).name] for x in (q, k, v))
        sizes = attention_kernel.Heads(heads, queries, keys, width // heads, columns // heads, self.vector)
        return sizes, columns

    def _per_head(self, argument: Any, heads: int, dtype: str) -> Constant:
        return np.broadcast_to(self.array(argument), (heads,)).astype(dtype)

    def _layernorm(self, group: Group) -> KernelCall:
        node = group.nodes[0]
        x, multiplier, bias, shift, eps, min_shift, dtype = arguments(node)
        _, tokens, n = self.shapes[node.name]
        function = _layernorm(n, shift, self.vector, dtype, tokens)
        mul, add = (np.broadcast_to(self.array(a), (n,)) for a in (multiplier, bias))
        floor = np.array([eps, min_shift], np.int32)
        return KernelCall(function, (node_of(x), mul.astype(np.int16), add.astype(np.int32), floor), n, str(dtype))

    def _layernorm_published(self, group: Group) -> KernelCall:
        x, bias = arguments(group.nodes[0])
        n = self.shapes[group.result.name][2]
        add = np.broadcast_to(self.array(bias), (n,)).astype(np.int32)
        return KernelCall(_layernorm_published(n, self.vector), (node_of(x), add), n, "int32")

    def _gelu_published(self, group: Group) -> KernelCall:
        x, x0, multiplier, pre_shift, shift = arguments(group.nodes[0])
        n = self.shapes[group.result.name][2]
        (pre, mul), operands = self.dyadic(pre_shift, multiplier, n)
        epilogue = Epilogue((Requantize(int(shift), pre=pre, mul=mul),), "int8")
        sigmoid = sigmoid_table(int(x0)).numpy()
        return KernelCall(_gelu_published(n, epilogue, self.vector), (node_of(x), sigmoid, *operands), n, "int8")

    def _patchify(self, group: Group) -> KernelCall:
        node = group.nodes[0]
        image, height, width = arguments(node)
        function = _patchify(self.shapes[node_of(image).name][1:], (height, width), self.vector)
        return KernelCall(function, (node_of(image),), self.shapes[node.name][2], "int8")

    def _concat_tokens(self, group: Group) -> KernelCall:
        constant, x = (node_of(a) for a in arguments(group.nodes[0]))
        first = self.array(constant)
        _, tokens, n = self.shapes[x.name]
        function = _concat_tokens(first.shape[0], tokens, n, self.vector)
        return KernelCall(function, (first, x), n, "int16")

    def _select_tokens(self, group: Group) -> KernelCall:
        x, start, stop = arguments(group.nodes[0])
        _, tokens, n = self.shapes[node_of(x).name]
        dtype = self.dtype(node_of(x))
        function = _select_tokens(start, stop, tokens, n, self.vector, dtype)
        return KernelCall(function, (node_of(x),), n, dtype)


# Equal kernels are one function: blocks share them, and compile once.


@cache
def _product(k: int, n: int, epilogue: Epilogue, isa: Isa, tokens: int, cut: Cut) -> tirx.PrimFunc:
    return product.product(k, n, epilogue, isa, tokens=tokens, cut=cut)


@cache
def _elementwise(n: int, epilogue: Epilogue, isa: Isa, dtype: str) -> tirx.PrimFunc:
    return elementwise.elementwise(n, epilogue, isa, dtype=dtype)


@cache
def _attention(sizes: attention_kernel.Heads, score_shift: int, bits: int, epilogue: Epilogue) -> tirx.PrimFunc:
    return attention_kernel.attention(sizes, score_shift, bits, epilogue)


@cache
def _layernorm(n: int, shift: Any, isa: Isa, dtype: Any, tokens: int) -> tirx.PrimFunc:
    return layernorm_kernel.layernorm(n, shift, isa, dtype=dtype, tokens=tokens)


@cache
def _attention_published(sizes: attention_kernel.Heads, score_shift: int, x0: int, epilogue: Epilogue) -> tirx.PrimFunc:
    return attention_published.attention_published(sizes, score_shift, x0, epilogue)


@cache
def _layernorm_published(n: int, isa: Isa) -> tirx.PrimFunc:
    return layernorm_published.layernorm_published(n, isa)


@cache
def _gelu_published(n: int, epilogue: Epilogue, isa: Isa) -> tirx.PrimFunc:
    return gelu_published.gelu_published(n, epilogue, isa)


@cache
def _patchify(image: Any, patch: Any, isa: Isa) -> tirx.PrimFunc:
    return movement.patchify(image, patch, isa)


@cache
def _concat_tokens(first: int, tokens: int, n: int, isa: Isa) -> tirx.PrimFunc:
    return movement.concat_tokens(first, tokens, n, isa)


@cache
def _select_tokens(start: Any, stop: Any, tokens: int, n: int, isa: Isa, dtype: Any) -> tirx.PrimFunc:
    return movement.select_tokens(start, stop, tokens, n, isa, dtype=dtype)
