"""Which kernel each integer operation becomes, and its constant operands in the kernel's layout.

A `Group` is one kernel: a node of the integer graph with the operations that are fused behind it. A product takes in
the requantization, GELU or residual addition that alone reads its sums, so that int32 sums never leave the registers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, fx
from tvm import tirx

from intvit.dialect import operation_of
from intvit.dialect.published import sigmoid_table
from intvit.grid import LIMITS
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
from intvit.kernels.epilogue import Add, Bias, Epilogue, Requantize, Stage
from intvit.kernels.gelu import Gelu
from intvit.kernels.isa import Isa

Constant = NDArray[np.generic]
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


@dataclass(frozen=True)
class Group:
    """Nodes that become one kernel, in order; the last one's value is the kernel's result."""

    nodes: tuple[fx.Node, ...]

    @property
    def result(self) -> fx.Node:
        return self.nodes[-1]


class Legalizer:
    """Kernels for the nodes of one graph, `shapes` at batch 1, on one instruction set."""

    def __init__(
        self,
        module: fx.GraphModule,
        shapes: dict[str, tuple[int, ...]],
        isa: Isa,
        cuts: Cuts = MappingProxyType({}),
    ) -> None:
        self.module, self.shapes, self.isa, self.vector, self.cuts = module, shapes, isa, isa.vector, cuts

    def groups(self) -> list[Group]:
        """The graph cut into kernels, each at the place of its last node."""
        nodes = [node for node in self.module.graph.nodes if node.op == "call_function"]
        chains = {chain[-1]: chain for node in nodes if _name(node) == "linear" and (chain := fused_behind(node))}
        taken = {node for chain in chains.values() for node in chain}
        return [Group(chains.get(node, (node,))) for node in nodes if node in chains or node not in taken]

    def call(self, group: Group) -> KernelCall:
        """The kernel of a group."""
        rule: Callable[[Group], KernelCall] | None = getattr(self, f"_{_name(group.nodes[0])}", None)
        assert rule is not None, f"no kernel for {_name(group.nodes[0])}"
        return rule(group)

    def _linear(self, group: Group) -> KernelCall:
        head = group.nodes[0]
        x, weight, bias = _arguments(head)
        w = self._array(weight)
        n, k = w.shape
        operands: list[fx.Node | Constant] = [pack.bias(self._array(bias), w, self.isa)]
        stages: list[Stage] = [Bias()]
        dtype = "int32"
        for before, node in zip(group.nodes, group.nodes[1:], strict=False):
            stage, more, dtype = self._stage(node, before, n)
            stages.append(stage)
            operands += more
        tokens = self.shapes[head.name][1]
        epilogue = Epilogue(tuple(stages), dtype)
        build = partial(_product, k, n, epilogue, self.isa, tokens)
        does = "+".join(type(stage).__name__.lower() for stage in stages)
        name = f"product {tokens}x{k}x{n} {does} {dtype}"
        tunable = Tunable(name, product.cuts(tokens, k, n, self.isa), build)
        arguments = (_node(x), pack.weights(w, self.isa), *operands)
        return KernelCall(tunable.chosen(self.cuts), arguments, n, dtype, tokens * k * n, tunable)

    def _elementwise(self, group: Group) -> KernelCall:
        node = group.nodes[0]
        x = _node(node.args[0])
        n = self.shapes[node.name][2]
        stage, operands, dtype = self._stage(node, x, n)
        function = _elementwise(n, Epilogue((stage,), dtype), self.vector, self._dtype(x))
        return KernelCall(function, (x, *operands), n, dtype)

    _requantize = _add = _gelu = _elementwise

    def _stage(self, node: fx.Node, own: fx.Node, n: int) -> tuple[Stage, list[fx.Node | Constant], str]:
        """An elementwise operation on the value `own` as a stage of an epilogue, its operands, and its type."""
        rules = {"requantize": self._requantize_stage, "gelu": self._gelu_stage, "add": self._add_stage}
        return rules[_name(node)](node, own, n)

    def _requantize_stage(self, node: fx.Node, own: fx.Node, n: int) -> tuple[Stage, list[fx.Node | Constant], str]:
        _, multiplier, pre_shift, shift, zero_point, dtype = _arguments(node)
        (pre, mul), operands = self._dyadic(pre_shift, multiplier, n)
        low, high = LIMITS[str(dtype)]
        stage = Requantize(int(shift), low, high, pre, mul, int(zero_point))
        return stage, operands, str(dtype)

    def _gelu_stage(self, node: fx.Node, own: fx.Node, n: int) -> tuple[Stage, list[fx.Node | Constant], str]:
        _, fraction, multiplier, pre_shift, shift, zero_point = _arguments(node)
        (pre, mul), operands = self._dyadic(pre_shift, multiplier, n)
        stage = Gelu(int(fraction), int(shift), int(zero_point), pre, mul)
        if mul is not None:
            operands.append(pack.channels(mul, n, "int16", self.vector))
        return stage.shared, [*operands, pack.channels(zero_point, n, "int16", self.vector)], "int8"

    def _add_stage(self, node: fx.Node, own: fx.Node, n: int) -> tuple[Stage, list[fx.Node | Constant], str]:
        arguments = _arguments(node)
        first, second, shift = arguments[:3], arguments[3:6], arguments[6]
        mine, other = (first, second) if first[0] is own else (second, first)
        (pre, mul), operands = self._dyadic(mine[2], mine[1], n)
        (arm_pre, arm_mul), more = self._dyadic(other[2], other[1], n, shared=True)
        arm = _node(other[0])
        if arm.op != "get_attr":
            stage = Add(int(shift), pre, mul, arm_pre, arm_mul, self._dtype(arm))
            return stage, [*operands, *more, arm], "int16"
        constant = self._array(arm)
        stage = Add(int(shift), pre, mul, arm_pre, arm_mul, "int16", constant.shape[0])
        return stage, [*operands, *more, constant], "int16"

    def _dyadic(
        self, pre_shift: Any, multiplier: Any, n: int, shared: bool = False
    ) -> tuple[tuple[int | None, int | None], list[Any]]:
        """A dyadic number: one for all channels is a constant of the code, else an operand per column.

        With `shared` the multiplier is always an operand, so that layers which differ in it share a kernel.
        """
        fields: list[int | None] = []
        operands: list[Any] = []
        for argument, dtype in ((pre_shift, "int8"), (multiplier, "int16")):
            values = self._array(argument)
            if (values == values.flat[0]).all() and not (shared and dtype == "int16"):
                fields.append(int(values.flat[0]))
            else:
                fields.append(None)
                operands.append(pack.channels(values, n, dtype, self.vector))
        return (fields[0], fields[1]), operands

    def _attention(self, group: Group) -> KernelCall:
        return self._attention_by(_attention, group)

    def _attention_published(self, group: Group) -> KernelCall:
        return self._attention_by(_attention_published, group)

    def _attention_by(self, build: Callable[..., tirx.PrimFunc], group: Group) -> KernelCall:
        """`build` takes the sizes, the shift of the scores, the one parameter of its softmax, and the epilogue."""
        node = group.nodes[0]
        q, k, v, heads, score_mul, score_pre, score_shift, softmax, multiplier, pre_shift, shift = _arguments(node)
        sizes, columns = self._heads(q, k, v, heads)
        (pre, mul), operands = self._dyadic(pre_shift, multiplier, columns)
        epilogue = Epilogue((Requantize(int(shift), pre=pre, mul=mul),), "int8")
        name = f"{_name(node)} {sizes.heads}x{sizes.queries}x{sizes.keys}x{sizes.head_size}x{sizes.value_size}"
        tunable = Tunable(name, sizes.cuts, lambda cut: build(replace(sizes, cut=cut), score_shift, softmax, epilogue))
        scores = (self._per_head(score_pre, sizes.heads, "int8"), self._per_head(score_mul, sizes.heads, "int16"))
        arguments = (_node(q), _node(k), _node(v), *scores, *operands)
        return KernelCall(tunable.chosen(self.cuts), arguments, columns, "int8", sizes.multiply_adds, tunable)

    def _heads(self, q: Any, k: Any, v: Any, heads: Any) -> tuple[attention_kernel.Heads, int]:
        (_, queries, width), (_, keys, _), (_, _, columns) = (self.shapes[_node(x).name] for x in (q, k, v))
        sizes = attention_kernel.Heads(heads, queries, keys, width // heads, columns // heads, self.vector)
        return sizes, columns

    def _per_head(self, argument: Any, heads: int, dtype: str) -> Constant:
        return np.broadcast_to(self._array(argument), (heads,)).astype(dtype)

    def _layernorm(self, group: Group) -> KernelCall:
        node = group.nodes[0]
        x, multiplier, bias, shift, eps, min_shift, dtype = _arguments(node)
        _, tokens, n = self.shapes[node.name]
        function = _layernorm(n, shift, self.vector, dtype, tokens)
        mul, add = (np.broadcast_to(self._array(a), (n,)) for a in (multiplier, bias))
        floor = np.array([eps, min_shift], np.int32)
        return KernelCall(function, (_node(x), mul.astype(np.int16), add.astype(np.int32), floor), n, str(dtype))

    def _layernorm_published(self, group: Group) -> KernelCall:
        x, bias = _arguments(group.nodes[0])
        n = self.shapes[group.result.name][2]
        add = np.broadcast_to(self._array(bias), (n,)).astype(np.int32)
        return KernelCall(_layernorm_published(n, self.vector), (_node(x), add), n, "int32")

    def _gelu_published(self, group: Group) -> KernelCall:
        x, x0, multiplier, pre_shift, shift = _arguments(group.nodes[0])
        n = self.shapes[group.result.name][2]
        (pre, mul), operands = self._dyadic(pre_shift, multiplier, n)
        epilogue = Epilogue((Requantize(int(shift), pre=pre, mul=mul),), "int8")
        sigmoid = sigmoid_table(int(x0)).numpy()
        return KernelCall(_gelu_published(n, epilogue, self.vector), (_node(x), sigmoid, *operands), n, "int8")

    def _patchify(self, group: Group) -> KernelCall:
        node = group.nodes[0]
        image, height, width = _arguments(node)
        function = _patchify(self.shapes[_node(image).name][1:], (height, width), self.vector)
        return KernelCall(function, (_node(image),), self.shapes[node.name][2], "int8")

    def _concat_tokens(self, group: Group) -> KernelCall:
        constant, x = (_node(a) for a in _arguments(group.nodes[0]))
        first = self._array(constant)
        _, tokens, n = self.shapes[x.name]
        function = _concat_tokens(first.shape[0], tokens, n, self.vector)
        return KernelCall(function, (first, x), n, "int16")

    def _select_tokens(self, group: Group) -> KernelCall:
        x, start, stop = _arguments(group.nodes[0])
        _, tokens, n = self.shapes[_node(x).name]
        dtype = self._dtype(_node(x))
        function = _select_tokens(start, stop, tokens, n, self.vector, dtype)
        return KernelCall(function, (_node(x),), n, dtype)

    def _array(self, node: Any) -> Any:
        """The constant of a node, as numpy."""
        return self.module.get_buffer(str(node.target)).numpy()

    def _dtype(self, node: fx.Node) -> str:
        """The integer type of a node's value."""
        value: Tensor = node.meta["val"]
        return str(value.dtype).removeprefix("torch.")


def fused_behind(linear: fx.Node) -> tuple[fx.Node, ...]:
    """A linear and what is fused into it: its only reader, if elementwise, and the GELU that alone reads that."""
    chain = [linear]
    reader = _only_reader(linear)
    if reader is not None and _name(reader) in ("requantize", "add"):
        chain.append(reader)
        last = _only_reader(reader)
        if _name(reader) == "requantize" and reader.args[5] == "int16" and last is not None and _name(last) == "gelu":
            chain.append(last)
    if _name(chain[-1]) == "add" and _is_second_linear(linear, chain[-1]):
        chain.pop()
    return tuple(chain)


def _is_second_linear(linear: fx.Node, add: fx.Node) -> bool:
    """Whether the first arm of an addition is a linear too, which then takes the addition in."""
    return (
        add.args[0] is not linear and _name(_node(add.args[0])) == "linear" and _only_reader(_node(add.args[0])) is add
    )


def _only_reader(node: fx.Node) -> fx.Node | None:
    reader = next(iter(node.users)) if len(node.users) == 1 else None
    return reader if reader is not None and reader.op == "call_function" else None


def _name(node: fx.Node) -> str:
    operation = operation_of(node.target) if node.op == "call_function" else None
    return "" if operation is None else operation.name


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    """What the operation's schema says they are: its check has run."""
    return node.args


def _node(argument: Any) -> fx.Node:
    assert isinstance(argument, fx.Node)
    return argument


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
