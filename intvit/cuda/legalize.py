"""Which CUDA kernel each group of operations becomes, and its constant operands in the kernel's layout.

Rows of values inside a program are padded to 16 elements, so that every row begins where a vector load may; rows of
what is handed out are not. What the padding holds is never used: weights are zero there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from torch import fx

from intvit.attention_node import AttentionNode
from intvit.errors import UnsupportedOp
from intvit.fusion import Constant, Fusion, Group, geometry_of, kernel, name_of, node_of
from intvit.kernels.cuda import attention as attention_kernel
from intvit.kernels.cuda import biased_attention, elementwise, movement, product
from intvit.kernels.cuda import divide as divide_kernel
from intvit.kernels.cuda import groupnorm as groupnorm_kernel
from intvit.kernels.cuda import layernorm as layernorm_kernel
from intvit.kernels.cuda import rearrange as rearrange_kernel
from intvit.kernels.cuda import rmsnorm as rmsnorm_kernel
from intvit.kernels.cuda import row_products as row_products_kernel
from intvit.kernels.cuda import softmax_rows as softmax_kernel
from intvit.kernels.cuda import windows as windows_kernel
from intvit.kernels.cuda.arch import Arch
from intvit.kernels.cuda.fragments import CHUNK, padded
from intvit.kernels.cuda.heads import Heads
from intvit.kernels.cuda.launch import DeviceKernel
from intvit.kernels.epilogue import Epilogue, Requantize
from intvit.kernels.pack import weight_bits
from intvit.kernels.score_bias import ScoreBias
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
        sizes, epilogue = (k, n, width), Epilogue(tuple(stages), dtype)
        tiles, bits = product.tiles(n, self.arch), weight_bits(w)
        kernels = tuple(kernel(product.product, *sizes, epilogue, tile, self.arch, stride, bits=bits) for tile in tiles)
        tokens = self._rows(group.result)
        inputs = (node_of(x), product.packed_weights(w, bits), self.channels(self.array(bias), n, "int32"), *operands)
        return DeviceCall(kernels, inputs, tokens, stride, dtype, tokens * k * n)

    def _elementwise(self, group: Group) -> DeviceCall:
        node = group.nodes[0]
        x = node_of(node.args[0])
        n, stride = self.shapes[node.name][2], self.width(node)
        stage, operands, dtype = self.stage(node, x, n)
        epilogue = Epilogue((stage,), dtype)
        kernels = (kernel(elementwise.elementwise, n, self.width(x), stride, epilogue, self.dtype(x)),)
        return DeviceCall(kernels, (x, *operands), self._rows(node), stride, dtype)

    _requantize = _add = _gelu = _activation = _multiply = _levels = _elementwise

    def _divide(self, group: Group) -> DeviceCall:
        node = group.nodes[0]
        a, b = (node_of(x) for x in node.args[:2])
        n, stride = self.shapes[node.name][2], self.width(node)
        pre, stage, operands, dtype = self.quotient(node, n)
        sizes = (n, self.shapes[b.name][2], (self.width(a), self.width(b)), stride, pre)
        kernels = (kernel(divide_kernel.divide, *sizes, Epilogue((stage,), dtype)),)
        return DeviceCall(kernels, (a, b, *operands), self._rows(node), stride, dtype)

    def _attention(self, group: Group) -> DeviceCall:
        node = AttentionNode.of(group.nodes[0])
        sizes = self._heads(node, group.result)
        multiplier, pre_shift, shift = node.result
        (pre, mul), operands = self.dyadic(pre_shift, multiplier, sizes.heads * sizes.value_size)
        epilogue = Epilogue((Requantize(shift, pre=pre, mul=mul),), "int8")
        score_mul, score_pre, score_shift = node.score
        fixed = (sizes, score_shift, node.softmax, epilogue, self.arch)
        bias, tables = self._bias(node)
        build = biased_attention.biased_attention if bias else attention_kernel.attention
        kernels = (kernel(build, *fixed, *bias, levels=node.levels),)
        scores = (self.per_head(score_pre, sizes.heads, "int8"), self.per_head(score_mul, sizes.heads, "int16"))
        work = node.windows * sizes.heads * sizes.queries * sizes.keys * (sizes.head_size + sizes.value_size)
        inputs = (node.q, node.k, node.v, *scores, *tables, *operands)
        return DeviceCall(kernels, inputs, node.windows, sizes.strides[3], "int8", work)

    _biased_attention = _attention

    def _heads(self, node: AttentionNode, result: fx.Node) -> Heads:
        """The sizes of a window; refuses heads that are too large."""
        (_, queries, width), (_, keys, _), (_, _, columns) = (self.shapes[x.name] for x in (node.q, node.k, node.v))
        w, h = node.windows, node.heads
        tokens, channels = (queries // w, keys // w), (width // h, columns // h)
        strides = (self.width(node.q), self.width(node.k), self.width(node.v), self.width(result))
        sizes = Heads(h, *tokens, *channels, strides)
        if sizes.shared > self.arch.shared:
            raise UnsupportedOp(
                f"heads of {sizes.head_size} channels are too large for {self.arch.name}'s shared memory"
            )
        return sizes

    def _bias(self, node: AttentionNode) -> tuple[tuple[ScoreBias, ...], list[Constant]]:
        """What a kernel is told of the bias, and its operands; nothing where there is none."""
        if node.bias is None:
            return (), []
        table = self.array(node.bias)
        return (ScoreBias.of(table, node.windows),), [table.reshape(-1, table.shape[-1]), self.array(node.kinds)]

    def _layernorm(self, group: Group) -> DeviceCall:
        node = group.nodes[0]
        x, multiplier, bias, shift, eps, min_shift, dtype = arguments(node)
        n, stride = self.shapes[node.name][2], self.width(node)
        kernels = (kernel(layernorm_kernel.layernorm, n, int(shift), self.width(node_of(x)), stride, dtype=str(dtype)),)
        operands = self.channels(self.array(multiplier), n, "int16"), self.channels(self.array(bias), n, "int32")
        floor = np.array([eps, min_shift], np.int32)
        return DeviceCall(kernels, (node_of(x), *operands, floor), self._rows(node), stride, str(dtype))

    def _rmsnorm(self, group: Group) -> DeviceCall:
        node = group.nodes[0]
        x, multiplier, shift, eps, min_shift, groups, dtype = arguments(node)
        n, stride = self.shapes[node.name][2], self.width(node)
        sizes = (n, int(groups), int(shift), self.width(node_of(x)), stride)
        kernels = (kernel(rmsnorm_kernel.rmsnorm, *sizes, dtype=str(dtype)),)
        floor = np.array([eps, min_shift], np.int32)
        inputs = (node_of(x), self.channels(self.array(multiplier), n, "int16"), floor)
        return DeviceCall(kernels, inputs, self._rows(node), stride, str(dtype))

    def _groupnorm(self, group: Group) -> DeviceCall:
        node = group.nodes[0]
        x, multiplier, bias, shift, groups, eps, min_shift, dtype = arguments(node)
        n, stride = self.shapes[node.name][2], self.width(node)
        sizes = (n, int(groups), self._rows(node), int(shift), self.width(node_of(x)), stride)
        kernels = (kernel(groupnorm_kernel.groupnorm, *sizes, dtype=str(dtype)),)
        operands = self.channels(self.array(multiplier), n, "int16"), self.channels(self.array(bias), n, "int32")
        floor = np.array([eps, min_shift], np.int32)
        return DeviceCall(kernels, (node_of(x), *operands, floor), 1, stride, str(dtype))

    def _patchify(self, group: Group) -> DeviceCall:
        node = group.nodes[0]
        if group.result is not node:
            return self._unfold(group)
        image, height, width = arguments(node)
        stride = self.width(node)
        kernels = (kernel(movement.patchify, self.shapes[node_of(image).name][1:], (height, width), stride),)
        return DeviceCall(kernels, (node_of(image),), self._rows(node), stride, "int8")

    def _concat_tokens(self, group: Group) -> DeviceCall:
        node = group.nodes[0]
        constant, x = (node_of(a) for a in arguments(node))
        first = self.table(self.array(constant))
        _, tokens, n = self.shapes[x.name]
        kernels = (kernel(movement.concat_tokens, first.shape[0], tokens, n, self.width(x), self.width(node)),)
        return DeviceCall(kernels, (first, x), self._rows(node), self.width(node), "int16")

    def _select_tokens(self, group: Group) -> DeviceCall:
        node = group.nodes[0]
        x, start, stop = arguments(node)
        _, tokens, n = self.shapes[node_of(x).name]
        dtype, stride = self.dtype(node_of(x)), self.width(node)
        sizes = (start, stop, tokens, n, self.width(node_of(x)), stride)
        kernels = (kernel(movement.select_tokens, *sizes, dtype),)
        return DeviceCall(kernels, (node_of(x),), self._rows(node), stride, dtype)

    def _depthwise(self, group: Group) -> DeviceCall:
        head = group.nodes[0]
        x, weight, bias, fill, *_ = arguments(head)
        w, geometry = self.array(weight), geometry_of(head)
        n, stride = w.shape[1], self.width(group.result)
        stages, operands, dtype = self.stages(group, n)
        epilogue = Epilogue(tuple(stages), dtype)
        kernels = (kernel(windows_kernel.depthwise, n, geometry, self.width(node_of(x)), stride, epilogue),)
        outside, start = self.channels(self.fill(fill), n, "int8"), self.channels(self.array(bias), n, "int32")
        inputs = (node_of(x), self.table(w), outside, start, *operands)
        return DeviceCall(kernels, inputs, geometry.tokens, stride, dtype, geometry.tokens * w.size)

    def _unfold(self, group: Group) -> DeviceCall:
        """Windows of a tensor, or of the image where the group begins with its pixels."""
        node, first = group.result, group.nodes[0]
        x, fill, *_ = arguments(node)
        n, stride = self.shapes[node_of(x).name][2], self.width(node)
        width, dtype = (self.width(node_of(x)), "int8") if first is node else (n, "uint8")
        kernels = (kernel(windows_kernel.unfold, n, geometry_of(node), width, stride, dtype),)
        outside = self.channels(self.fill(fill), n, "int8")
        return DeviceCall(kernels, (node_of(first.args[0]), outside), self._rows(node), stride, "int8")

    def _pool(self, group: Group) -> DeviceCall:
        node = group.nodes[0]
        x, *_ = arguments(node)
        n, stride, dtype = self.shapes[node.name][2], self.width(node), self.dtype(node)
        kind, shift, operands = self.averaging(node)
        sizes = (n, geometry_of(node), kind, shift, self.width(node_of(x)), stride)
        kernels = (kernel(windows_kernel.pool, *sizes, dtype),)
        return DeviceCall(kernels, (node_of(x), *operands), self._rows(node), stride, dtype)

    def _rearrange(self, group: Group) -> DeviceCall:
        node = group.nodes[0]
        tensors = [node_of(x) for x in arguments(node)[0]]
        constant = [x.op == "get_attr" for x in tensors]
        inputs = [self.table(self.array(x)) if fixed else x for x, fixed in zip(tensors, constant, strict=True)]
        widths = [x.shape[1] if isinstance(x, np.ndarray) else self.width(x) for x in inputs]
        blocks, dtype, stride = self.blocks(node), self.dtype(node), self.width(node)
        offsets = blocks.offsets(widths)
        sources = tuple(
            rearrange_kernel.Source(tokens, width, fixed)
            for (tokens, _), width, fixed in zip(blocks.shapes, widths, constant, strict=True)
        )
        sizes = (sources, *blocks.index.shape, blocks.chunk, stride)
        kernels = (kernel(rearrange_kernel.rearrange, *sizes, dtype=dtype, is_sum=offsets.is_sum),)
        operands = (*inputs, offsets.rows, offsets.columns.ravel())
        return DeviceCall(kernels, operands, self._rows(node), stride, dtype)

    def _product(self, group: Group) -> DeviceCall:
        a, b, groups = arguments(group.nodes[0])
        (_, left, depth), (_, right, _) = (self.shapes[node_of(x).name] for x in (a, b))
        n = right // groups
        stages, operands, dtype = self.stages(group, n)
        strides = self.width(node_of(a)), self.width(node_of(b)), self.width(group.result)
        sizes = row_products_kernel.Groups(groups, left // groups, n, depth, strides)
        kernels = (kernel(row_products_kernel.row_products, sizes, Epilogue(tuple(stages), dtype), self.arch),)
        return DeviceCall(kernels, (node_of(a), node_of(b), *operands), 1, strides[2], dtype, left * n * depth)

    def _softmax(self, group: Group) -> DeviceCall:
        x, multiplier, pre_shift, shift, bits = arguments(group.nodes[0])
        n, stride = self.shapes[group.result.name][2], self.width(group.result)
        stages, operands, dtype = self.stages(group, n)
        sizes = (n, int(shift), int(bits), self.width(node_of(x)), stride)
        epilogue = Epilogue(tuple(stages), dtype)
        kernels = (kernel(softmax_kernel.softmax, *sizes, epilogue, self.dtype(node_of(x))),)
        pre, mul = self.array(pre_shift).astype(np.int8), self.array(multiplier).astype(np.int16)
        return DeviceCall(kernels, (node_of(x), pre, mul, *operands), self._rows(group.result), stride, dtype)
