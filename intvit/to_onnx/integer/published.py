"""The forms of I-ViT as published, as ONNX nodes (`intvit.dialect.published` has the formulas).

Their exponentials are functions of few integers: of a distance between two 8-bit scores, or of an 8-bit value and its
row's maximum. They are tables here, stored with the model. 64-bit integers: `layernorm_published` needs them, as in the
reference.
"""

from typing import Any

import numpy as np
import torch
from torch import fx

from intvit.dialect.published import (
    LARGEST,
    SOFTMAX_BITS,
    SQRT_START,
    SQRT_STEPS,
    shift_exponential,
    sigmoid_table,
)
from intvit.nodes import arguments
from intvit.to_onnx.integer.attention import score_products, weighted_values
from intvit.to_onnx.integer.dyadic import LEVELS8, RAISE8, RAISE16, Array, Levels, Rounding
from intvit.to_onnx.integer.lookup import look_up
from intvit.to_onnx.integer.requantize import Far, requantize
from intvit.to_onnx.integer.writer import Writer
from intvit.to_onnx.scope import Scope


def dyadic(
    w: Writer, multiplier: Array, pre: Array, shift: int, shape: tuple[int, ...]
) -> tuple[list[str], Far, Array]:
    """The constants of a requantization to 8 bits, `far`, and what its operand is raised by, each of `shape`."""
    factors, rounding = multiplier.astype(np.int64), Rounding(pre)
    levels = Levels(shift, -RAISE8, LEVELS8, RAISE16 * int(abs(factors).max()), rounding.raised_by * factors)
    rows = ((rounding.divisor, "divisor"), (factors, "multiplier"), (levels.addend, "addend"))
    constants = [w.scope.constant(np.reshape(v, (-1, *shape)), "int32", label) for v, label in rows]
    return [*constants, *w.ends(levels)], levels.far, rounding.rise.reshape(-1, *shape)


def attention_published(w: Writer, node: fx.Node) -> str:
    """The rule of `attention_published`."""
    q, k, v, heads, score_m, score_pre, score_shift, x0, multiplier, pre, shift = arguments(node)
    scores, score_far, score_rise = dyadic(w, w.array(score_m), w.array(score_pre), score_shift, (1, 1))
    results, far, rise = dyadic(w, w.array(multiplier), w.array(pre), shift, ())
    table = shift_exponential(-torch.arange(LEVELS8, dtype=torch.int32), x0, SOFTMAX_BITS).numpy()
    inputs = (
        w.written[q],
        *(w.written[x] if w.portable else w.signed(x) for x in (k, v)),
        w.scope.constant(score_rise, "int32", "score_rise"),
        w.scope.constant(rise, "int32", "rise"),
        w.scope.constant(table, "int32", f"exponentials_{-x0}"),
        *scores,
        *results,
    )
    tokens, keys = w.shapes[q.name][1], w.shapes[k.name][1]
    fixed = dict(heads=heads, tokens=tokens, keys=keys, portable=w.portable, score_far=score_far, far=far)
    return w.scope.call("AttentionPublished", attention_nodes, *inputs, **fixed)


def attention_nodes(
    s: Scope,
    q: str,
    k: str,
    v: str,
    score_rise: str,
    rise: str,
    table: str,
    score_divisor: str,
    score_multiplier: str,
    score_addend: str,
    score_unit: str,
    score_top: str,
    divisor: str,
    multiplier: str,
    addend: str,
    unit: str,
    top: str,
    *,
    heads: int,
    tokens: int,
    keys: int,
    portable: bool,
    score_far: Far,
    far: Far,
) -> str:
    """Attention with 8-bit scores and 16-bit probabilities; operands and result as `attention`."""
    scores = score_products(s, q, k, heads, tokens, keys, portable)
    dyadic_of = (score_divisor, score_multiplier, score_addend, score_unit, score_top)
    levels = s.cast(requantize(s, s.op("Add", scores, score_rise), *dyadic_of, bits=8, far=score_far), "int32")
    distance = s.op("Sub", s.op("ReduceMax", levels, s.int64(-1), keepdims=1), levels)
    e = look_up(s, table, distance, heads, tokens, keys)
    factor = s.op("Div", s.int32(LARGEST), s.op("ReduceSum", e, s.int64(-1), keepdims=1))
    p = s.op("Div", s.op("Mul", e, factor), s.int32(1 << 16))
    halves = (s.cast(s.op("Div", p, s.int32(LEVELS8)), "uint8"), s.cast(p, "uint8"))
    o = weighted_values(s, *halves, v, heads, keys, portable)
    o = s.op("Reshape", s.op("Transpose", o, perm=[0, 2, 1, 3]), s.int64(0, 0, -1))
    return requantize(s, s.op("Add", o, rise), divisor, multiplier, addend, unit, top, bits=8, far=far)


def gelu_published(w: Writer, node: fx.Node) -> str:
    """The rule of `gelu_published`."""
    x, x0, multiplier, pre, shift = arguments(node)
    constants, far, rise = dyadic(w, w.array(multiplier), w.array(pre), shift, ())
    shape = w.shapes[node.name][1:]
    table = w.scope.constant(sigmoid_table(x0).numpy().ravel(), "int8", f"sigmoids_{-x0}")
    inputs = (w.written[x], table, w.scope.constant(rise, "int32", "rise"), *constants)
    fixed: dict[str, Any] = dict(far=far, shape=shape)
    return w.scope.call("GELUPublished", gelu_nodes, *inputs, **fixed)


def gelu_nodes(
    s: Scope,
    x: str,
    table: str,
    rise: str,
    divisor: str,
    multiplier: str,
    addend: str,
    unit: str,
    top: str,
    *,
    far: Far,
    shape: tuple[int, int],
) -> str:
    """`x σ(1.702 x)` of raised 8-bit `[B, *shape]`, the sigmoid by a table of 128 maxima times 256 values."""
    wide = s.cast(x, "int32")
    peak = s.op("Max", s.op("ReduceMax", wide, s.int64(-1), keepdims=1), s.int32(RAISE8))
    place = s.op("Add", s.op("Mul", s.op("Sub", peak, s.int32(RAISE8)), s.int32(LEVELS8)), wide)
    sigmoid = s.cast(look_up(s, table, place, *shape), "int32")
    product = s.op("Mul", s.op("Sub", wide, s.int32(RAISE8)), sigmoid)
    return requantize(s, s.op("Add", product, rise), divisor, multiplier, addend, unit, top, bits=8, far=far)


def layernorm_published(w: Writer, node: fx.Node) -> str:
    """The rule of `layernorm_published`."""
    x, bias = arguments(node)
    offset = w.scope.constant(w.array(bias).astype(np.int64), "int64", "bias")
    raised = w.raised(x, np.zeros(1, np.int64))
    return w.scope.call("LayerNormPublished", layernorm_nodes, raised, offset, channels=w.shapes[node.name][-1])


def layernorm_nodes(s: Scope, x: str, bias: str, *, channels: int) -> str:
    """LayerNorm of int32 rows by ten Newton steps from 2^16, int32."""
    wide, far = s.cast(x, "int64"), s.int64(1 << 40)
    total = s.op("Mul", s.op("ReduceSum", wide, s.int64(-1), keepdims=1), s.int64(2))
    raised = s.op("Add", total, s.int64(channels + (channels << 40)))
    mean = s.op("Sub", s.op("Div", raised, s.int64(2 * channels)), s.int64(1 << 39))
    centred = s.op("Sub", wide, mean)
    variance = s.op("ReduceSum", s.op("Mul", centred, centred), s.int64(-1), keepdims=1)
    root = s.int64(SQRT_START)
    for _ in range(SQRT_STEPS):
        root = s.op("Div", s.op("Add", root, s.op("Div", variance, root)), s.int64(2))
    product = s.op("Mul", centred, s.op("Div", s.int64(LARGEST), root))
    halved = s.op("Sub", s.op("Div", s.op("Add", product, far), s.int64(2)), s.int64(1 << 39))
    y = s.op("Add", halved, bias)
    return s.cast(s.op("Clip", y, s.int64(-LARGEST - 1), s.int64(LARGEST)), "int32")
