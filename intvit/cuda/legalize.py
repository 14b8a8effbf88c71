"""Which CUDA kernel each group of operations becomes, and its constant operands in the kernel's layout.

Rows of values inside a program are padded to 16 elements, so that every row begins where a vector load may; rows of
what is handed out are not. What the padding holds is never used: weights are zero there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from torch import fx

from intvit.errors import UnsupportedOp
from intvit.fusion import Constant, Fusion, Group, name_of, node_of
from intvit.kernels.cuda import attention as attention_kernel
from intvit.kernels.cuda import elementwise, movement, product
from intvit.kernels.cuda import layernorm as layernorm_kernel
from intvit.kernels.cuda.arch import Arch
from intvit.kernels.cuda.fragments import CHUNK, padded
from intvit.kernels.cuda.heads import Heads
from intvit.kernels.cuda.launch import DeviceKernel
from intvit.kernels.epilogue import Epilogue, Requantize
from intvit.nodes import arguments, outputs

if TYPE_CHECKING:
    from tvm import tirx

COLUMNS = 128
"""Operands per column are padded to whole tiles."""


@dataclass(frozen=True)
class DeviceCall:
    """Kernels for the same work, the largest tile first, what they are given, and the rows of an image.

    `columns` and `dtype` are the result's, padding included.
    """

    kernels: tuple[DeviceKernel, ...]
    arguments: tuple[fx.Node | Constant, ...]
    units: int
    columns: int
    dtype: str
    multiply_adds: int = 0
    tunable: None = None

    @property
    def function(self) -> "tirx.PrimFunc":
        return self.kernels[0].function


class DeviceLegalizer(Fusion):
    """Kernels for the nodes of one graph, `shapes` at batch 1, on one architecture."""

    def __init__(self, module: fx.GraphModule, shapes: dict[str, tuple[int, ...]], arch: Arch) -> None:
        super().__init__(module, shapes)
        self.arch = arch
        self._handed_out = set(outputs(module.graph))

    def channels(self, values: ArrayLike, n: int, dtype: str) -> Constant:
        found = np.zeros(padded(n, COLUMNS), dtype)
        found[:n] = values
        return found

    def table(self, constant: Constant) -> Constant:
        rows, n = constant.shape
        found = np.zeros((rows, padded(n, CHUNK)), constant.dtype)
        found[:, :n] = constant
        return found

    def width(self, node: fx.Node) -> int:
        """Elements between rows of a node's value."""
        n = self.shapes[node.name][2]
        return n if node in self._handed_out else padded(n, CHUNK)

    def groups(self) -> list[Group]:
        """The graph cut into kernels; raises `UnsupportedOp` with every operation that has none here."""
        found = super().groups()
        missing = sorted({name_of(group.nodes[0]) for group in found if self._rule(group) is None})
        if missing:
            raise UnsupportedOp(
                f"no CUDA kernels for {', '.join(missing)}: use the default preset, or compile for a CPU"
            )
        return found

    def call(self, group: Group) -> DeviceCall:
        """The kernels of a group."""
        rule = self._rule(group)
        assert rule is not None
        return rule(group)

    def _rule(self, group: Group) -> Callable[[Group], DeviceCall] | None:
        return getattr(self, f"_{name_of(group.nodes[0])}", None)

    def _rows(self, node: fx.Node) -> int:
        return self.shapes[node.name][1]

    def _linear(self, group: Group) -> DeviceCall:
        x, weight, bias = arguments(group.nodes[0])
        w = self.array(weight)
        n, k = w.shape
        stages, operands, dtype = self.stages(group, n)
        width, stride = self.width(node_of(x)), self.width(group.result)
        kernels = _products(k, n, width, Epilogue(tuple(stages), dtype), self.arch, stride)
        tokens = self._rows(group.result)
        inputs = (node_of(x), product.packed_weights(w), self.channels(self.array(bias), n, "int32"), *operands)
        return DeviceCall(kernels, inputs, tokens, stride, dtype, tokens * k * n)

    def _elementwise(self, group: Group) -> DeviceCall:
        node = group.nodes[0]
        x = node_of(node.args[0])
        n, stride = self.shapes[node.name][2], self.width(node)
        stage, operands, dtype = self.stage(node, x, n)
        kernel = _elementwise(n, self.width(x), stride, Epilogue((stage,), dtype), self.dtype(x))
        return DeviceCall((kernel,), (x, *operands), self._rows(node), stride, dtype)

    _requantize = _add = _gelu = _elementwise

    def _attention(self, group: Group) -> DeviceCall:
        node = group.nodes[0]
        q, k, v, heads, score_mul, score_pre, score_shift, bits, multiplier, pre_shift, shift = arguments(node)
        (_, queries, width), (_, keys, _), (_, _, columns) = (self.shapes[node_of(x).name] for x in (q, k, v))
        (pre, mul), operands = self.dyadic(pre_shift, multiplier, columns)
        strides = (self.width(node_of(q)), self.width(node_of(k)), self.width(node_of(v)), self.width(node))
        sizes = Heads(heads, queries, keys, width // heads, columns // heads, strides)
        if sizes.shared > self.arch.shared:
            raise UnsupportedOp(
                f"heads of {sizes.head_size} channels are too large for {self.arch.name}'s shared memory"
            )
        epilogue = Epilogue((Requantize(int(shift), pre=pre, mul=mul),), "int8")
        kernel = _attention(sizes, int(score_shift), int(bits), epilogue, self.arch)
        scores = (self._per_head(score_pre, heads, "int8"), self._per_head(score_mul, heads, "int16"))
        work = heads * queries * keys * (sizes.head_size + sizes.value_size)
        inputs = (node_of(q), node_of(k), node_of(v), *scores, *operands)
        return DeviceCall((kernel,), inputs, 1, strides[3], "int8", work)

    def _per_head(self, argument: Any, heads: int, dtype: str) -> Constant:
        return np.broadcast_to(self.array(argument), (heads,)).astype(dtype)

    def _layernorm(self, group: Group) -> DeviceCall:
        node = group.nodes[0]
        x, multiplier, bias, shift, eps, min_shift, dtype = arguments(node)
        n, stride = self.shapes[node.name][2], self.width(node)
        kernel = _layernorm(n, int(shift), self.width(node_of(x)), stride, str(dtype))
        operands = self.channels(self.array(multiplier), n, "int16"), self.channels(self.array(bias), n, "int32")
        floor = np.array([eps, min_shift], np.int32)
        return DeviceCall((kernel,), (node_of(x), *operands, floor), self._rows(node), stride, str(dtype))

    def _patchify(self, group: Group) -> DeviceCall:
        node = group.nodes[0]
        image, height, width = arguments(node)
        stride = self.width(node)
        kernel = _patchify(self.shapes[node_of(image).name][1:], (height, width), stride)
        return DeviceCall((kernel,), (node_of(image),), self._rows(node), stride, "int8")

    def _concat_tokens(self, group: Group) -> DeviceCall:
        node = group.nodes[0]
        constant, x = (node_of(a) for a in arguments(node))
        first = self.table(self.array(constant))
        _, tokens, n = self.shapes[x.name]
        kernel = _concat_tokens(first.shape[0], tokens, n, self.width(x), self.width(node))
        return DeviceCall((kernel,), (first, x), self._rows(node), self.width(node), "int16")

    def _select_tokens(self, group: Group) -> DeviceCall:
        node = group.nodes[0]
        x, start, stop = arguments(node)
        _, tokens, n = self.shapes[node_of(x).name]
        dtype, stride = self.dtype(node_of(x)), self.width(node)
        kernel = _select_tokens(start, stop, tokens, n, self.width(node_of(x)), stride, dtype)
        return DeviceCall((kernel,), (node_of(x),), self._rows(node), stride, dtype)


# Equal kernels are one: blocks share them, and compile once.


@cache
def _products(k: int, n: int, width: int, epilogue: Epilogue, arch: Arch, stride: int) -> tuple[DeviceKernel, ...]:
    return tuple(product.product(k, n, width, epilogue, tile, arch, stride) for tile in product.tiles(n, arch))


@cache
def _elementwise(n: int, width: int, stride: int, epilogue: Epilogue, dtype: str) -> DeviceKernel:
    return elementwise.elementwise(n, width, stride, epilogue, dtype)


@cache
def _attention(sizes: Heads, score_shift: int, bits: int, epilogue: Epilogue, arch: Arch) -> DeviceKernel:
    return attention_kernel.attention(sizes, score_shift, bits, epilogue, arch)


@cache
def _layernorm(n: int, shift: int, width: int, stride: int, dtype: str) -> DeviceKernel:
    return layernorm_kernel.layernorm(n, shift, width, stride, dtype=dtype)


@cache
def _patchify(image: Any, patch: tuple[int, int], stride: int) -> DeviceKernel:
    return movement.patchify(image, patch, stride)


@cache
def _concat_tokens(first: int, tokens: int, n: int, width: int, stride: int) -> DeviceKernel:
    return movement.concat_tokens(first, tokens, n, width, stride)


@cache
def _select_tokens(start: int, stop: int, tokens: int, n: int, width: int, stride: int, dtype: str) -> DeviceKernel:
    return movement.select_tokens(start, stop, tokens, n, width, stride, dtype)
