"""`divide`: reciprocals of divisors, and the requantization of what they make of dividends, as ONNX nodes.

What a divisor's length decides is in tables: its power of two, and for each shift up to `LONGEST` the numbers of an
unsigned shift of `a r + 2^31` (see `requantize.shifted_far`), which has room for half a unit: `|a r|` is below 2^30.
"""

from typing import Any

import numpy as np
from torch import fx

from intvit.dialect.divide import MOST_PRE_SHIFT
from intvit.nodes import arguments
from intvit.to_onnx.integer.dyadic import INT32_END, LEVELS8, LEVELS16, RAISE8, RAISE16, Levels, half
from intvit.to_onnx.integer.requantize import Far, requantize
from intvit.to_onnx.integer.writer import Writer
from intvit.to_onnx.scope import Scope

LENGTHS = 16
"""Of divisors, in bits."""
LONGEST = LENGTHS - 1 + MOST_PRE_SHIFT


def quotient(w: Writer, node: fx.Node) -> str:
    """The rule of `intvit::divide`."""
    a, b, multiplier, pre_shift, shift, dtype = arguments(node)
    (_, tokens, channels), blocks = w.shapes[node.name], w.shapes[b.name][-1]
    factors, pre = w.array(multiplier).astype(np.int64), w.array(pre_shift)
    lowest, count = (-RAISE8, LEVELS8) if dtype == "int8" else (-RAISE16, LEVELS16)
    levels = Levels(shift, lowest, count, RAISE16 * int(abs(factors).max()), RAISE16 * factors)
    if blocks > 1 and pre.size > 1:
        pre = pre.reshape(blocks, -1)
    shifts = w.scope.constant(pre[0] if pre.size == 1 else pre, "int32", "pre")
    plain = (w.raised(x, np.zeros(1, np.int64)) for x in (a, b))
    inputs = (*plain, shifts, w.multiplier(factors), w.addend(levels.addend, factors), *w.ends(levels))
    fixed: dict[str, Any] = dict(shape=(tokens, channels), blocks=blocks, bits=8 if dtype == "int8" else 16)
    return w.scope.call("Divide", divide, *inputs, **fixed, far=levels.far)


def divide(
    s: Scope,
    a: str,
    b: str,
    pre: str,
    multiplier: str,
    addend: str,
    unit: str,
    top: str,
    *,
    shape: tuple[int, int],
    blocks: int,
    bits: int,
    far: Far,
) -> str:
    """Quotient of int32 `[B, T, C]` and `[B, T, blocks]` within 16 bits as levels: uint8 with 8 `bits`, else int32."""
    r, shifts = reciprocals(s, b)
    if blocks > 1:
        a = s.op("Reshape", a, s.int64(-1, shape[0], blocks, shape[1] // blocks))
        r, shifts = (s.op("Unsqueeze", x, s.int64(-1)) for x in (r, shifts))
    x = shifted(s, s.op("Mul", a, r), s.op("Add", shifts, pre))
    if blocks > 1:
        x = s.op("Reshape", x, s.int64(-1, *shape))
    return requantize(s, x, s.int32(1), multiplier, addend, unit, top, bits=bits, far=far)


def reciprocals(s: Scope, b: str) -> tuple[str, str]:
    """`r` and `n - 1` of each divisor, int32 like it."""
    size = s.op("Max", s.op("Abs", b), s.int32(1))
    powers = s.constant(1 << np.arange(1, LENGTHS), "int32", "powers")
    reached = s.op("GreaterOrEqual", s.op("Unsqueeze", size, s.int64(-1)), powers)
    longer = s.op("ReduceSum", s.cast(reached, "int32"), s.int64(-1), keepdims=0)
    up = s.op("Gather", s.constant(1 << np.arange(LENGTHS - 1, -1, -1), "int32", "up"), longer)
    normal = s.op("Div", s.op("Mul", size, up), s.int32(2))
    rounded = s.op("Add", s.op("Div", normal, s.int32(2)), s.int32(1 << 29))
    r = s.op("Min", s.op("Div", rounded, normal), s.int32(RAISE16 - 1))
    return s.op("Where", s.op("Less", b, s.int32(0)), s.op("Neg", r), r), longer


def shifted(s: Scope, x: str, by: str) -> str:
    """`x >> by`, rounded and raised by 2^15, of int32 within 2^30 and shifts in `0 .. LONGEST`."""
    shifts = range(LONGEST + 1)
    rise = s.constant([INT32_END + half(k) for k in shifts], "uint32", "rise")
    back = s.constant([(INT32_END >> k) - RAISE16 for k in shifts], "int32", "back")
    total = s.op("Add", s.cast(x, "uint32"), s.op("Gather", rise, by))
    moved = s.op("BitShift", total, s.cast(by, "uint32"), direction="RIGHT")
    return s.op("Sub", s.cast(moved, "int32"), s.op("Gather", back, by))
