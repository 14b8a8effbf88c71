"""What each operation of the dialect becomes: the function that is called, and the constants that it is given.

A rule `(writer, node) -> name` writes a node whose operands are written.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import fx

from intvit.dialect.gelu import FRACTION
from intvit.errors import IntvitError
from intvit.fusion import name_of, node_of
from intvit.nodes import arguments
from intvit.to_onnx.integer import gelu, layernorm, movement, requantize
from intvit.to_onnx.integer.activation import activation
from intvit.to_onnx.integer.attention_rules import biased_shiftmax_attention, shiftmax_attention
from intvit.to_onnx.integer.divide import quotient
from intvit.to_onnx.integer.dyadic import (
    INT32_END,
    LEVELS8,
    LEVELS16,
    RAISE8,
    RAISE16,
    Array,
    Levels,
    Rounding,
    half,
)
from intvit.to_onnx.integer.groupnorm import group_norm
from intvit.to_onnx.integer.levels import levelling
from intvit.to_onnx.integer.linear import Product, reads_alone, siblings
from intvit.to_onnx.integer.multiply import multiplication
from intvit.to_onnx.integer.product import multiplied
from intvit.to_onnx.integer.published import attention_published, gelu_published, layernorm_published
from intvit.to_onnx.integer.rearrange import rearrangement
from intvit.to_onnx.integer.rmsnorm import rms_norm
from intvit.to_onnx.integer.softmax import weighted
from intvit.to_onnx.integer.windows import convolved, pooled, unfolded
from intvit.to_onnx.integer.writer import Writer

Rule = Callable[[Writer, fx.Node], str]
INT16_LEVELS = (-RAISE16, LEVELS16)
INT8_LEVELS = (-RAISE8, LEVELS8)


def patchify(w: Writer, node: fx.Node) -> str:
    image, height, width = arguments(node)
    _, rows, columns, channels = w.shapes[image.name]
    fixed: dict[str, Any] = dict(grid=(rows // height, columns // width), size=(height, width), channels=channels)
    return w.scope.call("Patchify", movement.patchify, w.written[image], **fixed)


def linear(w: Writer, node: fx.Node) -> str:
    """A product with all others of the same operand that end like it; their results are split."""
    group = [member for member in siblings(node) if folds(w, member)] if folds(w, node) else [node]
    product = Product.of([product_of(w, member) for member in group])
    x = product.write(w.scope, w.written[node_of(node.args[0])], w.portable)
    reader = node_of(next(iter(node.users)))
    if folds(w, node) and name_of(reader) == "requantize":
        finish(w, group, x)
    return x


def product_of(w: Writer, node: fx.Node) -> Product:
    """The product of a node, raised as its reader wants it."""
    _, weight, bias = arguments(node)
    rise = rounding_of(w, node).rise if folds(w, node) else np.zeros(1, np.int64)
    return Product(w.array(weight), w.array(bias), rise)


def rounding_of(w: Writer, node: fx.Node) -> Rounding:
    """By what the one reader of a product shifts it first."""
    reader = node_of(next(iter(node.users)))
    pre = reader.args[2] if name_of(reader) == "requantize" or reader.args[0] is node else reader.args[5]
    return Rounding(w.array(pre))


def folds(w: Writer, node: fx.Node) -> bool:
    """Whether a product takes in the raise of the one that reads it; found out once, since it reads all weights."""
    if node not in w.folded:
        w.folded[node] = _folds(w, node)
    return w.folded[node]


def _folds(w: Writer, node: fx.Node) -> bool:
    if name_of(node) != "linear" or not reads_alone(node):
        return False
    _, weight, bias = arguments(node)
    rounding = rounding_of(w, node)
    product = Product(w.array(weight), w.array(bias), rounding.rise)
    return product.fits and rounding.holds(*product.bounds)


def finish(w: Writer, group: list[fx.Node], x: str) -> None:
    """Requantizes the sums of all products of a group at once."""
    readers = [node_of(next(iter(member.users))) for member in group]
    sizes = [w.shapes[member.name][-1] for member in group]
    multiplier, pre = (
        np.concatenate([np.broadcast_to(w.array(r.args[i]), n) for r, n in zip(readers, sizes, strict=True)])
        for i in (1, 2)
    )
    rounding = Rounding(pre)
    parts = [requantized(w, readers[0], x, w.divisor(rounding), rounding.raised_by, multiplier)]
    if len(group) > 1:
        labels = [reader.name for reader in readers]
        parts = w.scope.ops("Split", parts[0], w.scope.int64(*sizes), labels=labels, axis=-1)
    for member, reader, part in zip(group, readers, parts, strict=True):
        w.written[member], w.written[reader] = x, part


def requantization(w: Writer, node: fx.Node) -> str:
    x, multiplier, pre_shift, *_ = arguments(node)
    return requantized(w, node, *w.operand(x, w.array(pre_shift)), w.array(multiplier))


def requantized(w: Writer, node: fx.Node, raised: str, divisor: str, raised_by: Array, multiplier: Array) -> str:
    *_, shift, zero, dtype = arguments(node)
    factors = multiplier.astype(np.int64)
    m, rises = w.multiplier(factors), raised_by * factors
    if dtype == "int32":
        wide = (raised, divisor, m, w.addend(half(shift) - rises, factors))
        return w.scope.call("RequantizeWide", requantize.requantize_wide, *wide, shift=shift, zero=zero)
    lowest, count = levels_of(w, node, dtype)
    levels = Levels(shift, lowest - zero, count, RAISE16 * int(abs(factors).max()), rises)
    inputs = (raised, divisor, m, w.addend(levels.addend, factors), *w.ends(levels))
    fixed: dict[str, Any] = dict(bits=8 if dtype == "int8" else 16, far=levels.far)
    return w.scope.call("Requantize", requantize.requantize, *inputs, **fixed)


def levels_of(w: Writer, node: fx.Node, dtype: str) -> tuple[int, int]:
    """The levels of a result: fewer where only a GELU reads it, which does not tell the others apart."""
    if dtype == "int8":
        return INT8_LEVELS
    reader = node_of(next(iter(node.users))) if len(node.users) == 1 else None
    if reader is None or name_of(reader) != "gelu" or not is_one_function(w, reader):
        return INT16_LEVELS
    lowest, count = support(w, reader)
    w.lowest[node] = lowest
    return lowest, count


def add(w: Writer, node: fx.Node) -> str:
    *dyadics, shift = arguments(node)
    factors = [w.array(dyadics[i]).astype(np.int64) for i in (1, 4)]
    operands = ((dyadics[0], dyadics[2], factors[0]), (dyadics[3], dyadics[5], factors[1]))
    (a, rises), (b, more) = (arm(w, node_of(x), w.array(pre), m) for x, pre, m in operands)
    bound = sum(RAISE16 * int(abs(m).max()) for m in factors)
    levels = Levels(shift, *INT16_LEVELS, bound, rises + more)
    addend = w.addend(levels.addend, *factors)
    return w.scope.call("Add", requantize.add, a, b, addend, *w.ends(levels), far=levels.far)


def arm(w: Writer, operand: fx.Node, pre: Array, factors: Array) -> tuple[str, Array]:
    """One arm of a residual sum, and what it is raised by."""
    m = w.multiplier(factors)
    if operand.op == "get_attr":
        shifted = (w.array(operand).astype(np.int64) + Rounding(pre).divisor // 2) >> pre
        table = w.scope.constant(shifted.clip(-RAISE16, RAISE16 - 1), "int16", "tokens")
        raised = w.scope.op("Add", w.scope.cast(table, "int32"), w.scope.int32(RAISE16))
        return w.scope.op("Mul", raised, m), RAISE16 * factors
    if not pre.any() and w.dtypes[operand.name] == "int16":
        return w.scope.op("Mul", w.raised(operand, np.array([RAISE16])), m), RAISE16 * factors
    raised, divisor, raised_by = w.operand(operand, pre, folds(w, operand))
    return w.scope.call("Arm", requantize.arm, raised, divisor, m), raised_by * factors


def shift_gelu(w: Writer, node: fx.Node) -> str:
    x, fraction, multiplier, pre_shift, shift, zero_point = arguments(node)
    factors, rounding = w.array(multiplier).astype(np.int64), Rounding(w.array(pre_shift))
    levels = Levels(
        shift, -RAISE8 - zero_point, LEVELS8, RAISE16 * int(abs(factors).max()), rounding.raised_by * factors
    )
    up = w.scope.int32(1 << (FRACTION - fraction))
    bumps = w.scope.constant(gelu.bump(fraction), "int16", f"gelu_bump_{fraction}")
    rows = (rounding.rise, rounding.divisor, factors, levels.addend)
    labels = ("rise", "divisor", "multiplier", "addend")
    dyadic = (*(w.constant(row, label) for row, label in zip(rows, labels, strict=True)), *w.ends(levels))
    if not is_one_function(w, node):
        plain = w.raised(x, np.zeros(1, np.int64))
        return w.scope.call("ShiftGELUByChannel", gelu.gelu_of, plain, bumps, up, *dyadic, far=levels.far)
    lowest, count = support(w, node)
    index = w.written[x]
    if w.lowest.get(x) != lowest or name_of(x) != "requantize":
        index = w.scope.op("Clip", w.raised(x, np.array([-lowest])), w.scope.int32(0), w.scope.int32(count - 1))
    shape = w.shapes[node.name][1:]
    inputs = (index, w.scope.int32(lowest), w.scope.int32(lowest + count), bumps, up, *dyadic)
    fixed: dict[str, Any] = dict(far=levels.far, shape=shape)
    return w.scope.call("ShiftGELU", gelu.shift_gelu, *inputs, **fixed)


def is_one_function(w: Writer, node: fx.Node) -> bool:
    """Whether a GELU is the same for all channels."""
    return all(len(np.unique(w.array(node.args[i]))) == 1 for i in (2, 3))


def support(w: Writer, node: fx.Node) -> tuple[int, int]:
    """Outside which integers a GELU does not change."""
    _, fraction, multiplier, pre_shift, shift, zero_point = arguments(node)
    return gelu.support(fraction, w.array(multiplier)[:1], w.array(pre_shift)[:1], shift, zero_point)


def norm(w: Writer, node: fx.Node) -> str:
    x, multiplier, bias, shift, eps, min_shift, dtype = arguments(node)
    _, tokens, channels = w.shapes[node.name]
    factors, offset = (w.array(a).astype(np.int64) for a in (multiplier, bias))
    bound = RAISE16 * int(abs(factors).max()) + int(abs(offset).max())
    fine = dtype == "int16"
    levels = Levels(shift, *(INT16_LEVELS if fine else INT8_LEVELS), bound, -offset)
    unsigned = not fine and layernorm.takes_unsigned(levels)
    kind = "uint32" if unsigned else "int32"
    addend = (levels.addend + INT32_END) % (1 << 32) if unsigned else levels.addend
    if dtype == "int32":
        raise IntvitError(f"{w.scope.path}: a LayerNorm's result must have 8 or 16 bits: it cannot be exported to ONNX")
    floor = w.scope.constant(layernorm.floors(eps, min_shift), "int64", "floor")
    rows = (w.raised(x, np.array([RAISE16])), floor, w.multiplier(factors, kind))
    inputs = (*rows, w.constant(addend, "addend", kind))
    clipped = layernorm.saturates(channels, eps, min_shift)
    fixed: dict[str, Any] = dict(channels=channels, tokens=tokens, min_shift=min_shift, clipped=clipped, far=levels.far)
    if fine:
        return w.scope.call("LayerNormFine", layernorm.layernorm_fine, *inputs, *w.ends(levels), **fixed)
    late = layernorm.rounds_late(eps, min_shift)
    unit, top = w.ends(levels)
    ends = [unit, w.scope.int32(0), top]
    if unsigned:
        first = INT32_END >> shift
        ends = [w.scope.constant(v, "uint32") for v in (shift, first, first + LEVELS8 - 1)]
    return w.scope.call("LayerNorm", layernorm.layernorm, *inputs, *ends, unsigned=unsigned, late=late, **fixed)


def concat_tokens(w: Writer, node: fx.Node) -> str:
    constant, x = arguments(node)
    raised = w.array(constant).astype(np.int32) + RAISE16
    tokens, channels = raised.shape
    fixed: dict[str, Any] = dict(tokens=tokens, channels=channels)
    inputs = (w.scope.constant(raised, "int32", "tokens"), w.raised(x, np.array([RAISE16])))
    return w.scope.call("ConcatTokens", movement.concat_tokens, *inputs, **fixed)


def select_tokens(w: Writer, node: fx.Node) -> str:
    x, start, stop = arguments(node)
    return w.scope.call("SelectTokens", movement.select_tokens, w.written[x], start=start, stop=stop)


RULES: dict[str, Rule] = {
    "patchify": patchify,
    "linear": linear,
    "requantize": requantization,
    "add": add,
    "attention": shiftmax_attention,
    "biased_attention": biased_shiftmax_attention,
    "gelu": shift_gelu,
    "activation": activation,
    "levels": levelling,
    "multiply": multiplication,
    "divide": quotient,
    "layernorm": norm,
    "rmsnorm": rms_norm,
    "groupnorm": group_norm,
    "concat_tokens": concat_tokens,
    "select_tokens": select_tokens,
    "rearrange": rearrangement,
    "unfold": unfolded,
    "depthwise": convolved,
    "pool": pooled,
    "product": multiplied,
    "softmax": weighted,
    "attention_published": attention_published,
    "gelu_published": gelu_published,
    "layernorm_published": layernorm_published,
}
