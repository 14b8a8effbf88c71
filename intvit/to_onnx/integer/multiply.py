"""`multiply`: the product of two 16-bit integers, brought to another scale (see `dyadic`).

The product of -2^15 by itself, 2^30, is the one that leaves 32 bits where it is raised for a pre-shift of 15. What is
above `MOST` is saturated all the same, with any pre-shift up to that.
"""

from typing import Any

import numpy as np
from torch import fx

from intvit.nodes import arguments
from intvit.to_onnx.integer.dyadic import INT32_END, LEVELS8, LEVELS16, RAISE8, RAISE16, Levels, Rounding
from intvit.to_onnx.integer.requantize import Far, requantize, shifted_far
from intvit.to_onnx.integer.writer import Writer
from intvit.to_onnx.scope import Scope

MOST_PRE_SHIFT = 15
MOST = (1 << 30) - (1 << 14) - 1


def multiplication(w: Writer, node: fx.Node) -> str:
    """The rule of `intvit::multiply`."""
    a, b, multiplier, pre_shift, shift, dtype = arguments(node)
    factors, pre = w.array(multiplier).astype(np.int64), w.array(pre_shift)
    near = int(pre.max()) <= MOST_PRE_SHIFT
    rounding = Rounding(pre)
    raised_by = rounding.raised_by if near else np.array([RAISE16])
    lowest, count = (-RAISE8, LEVELS8) if dtype == "int8" else (-RAISE16, LEVELS16)
    levels = Levels(shift, lowest, count, RAISE16 * int(abs(factors).max()), raised_by * factors)
    shifted = near_numbers(w, rounding) if near else far_numbers(w, pre)
    inputs = (_plain(w, a), _plain(w, b), *shifted, w.multiplier(factors), w.addend(levels.addend, factors))
    fixed: dict[str, Any] = dict(bits=8 if dtype == "int8" else 16, far=levels.far)
    return w.scope.call("Multiply", multiply if near else multiply_far, *inputs, *w.ends(levels), **fixed)


def _plain(w: Writer, factor: fx.Node) -> str:
    """A factor as int32."""
    if factor.op == "get_attr":
        return w.scope.cast(w.scope.constant(w.array(factor), "int16", "factor"), "int32")
    return w.raised(factor, np.zeros(1, np.int64))


def near_numbers(w: Writer, rounding: Rounding) -> tuple[str, str]:
    """What a product is raised by, and its divisor."""
    return w.constant(rounding.rise, "rise"), w.divisor(rounding)


def far_numbers(w: Writer, pre: Any) -> tuple[str, str, str]:
    """What `shifted_far` takes."""
    divisor = Rounding(pre).divisor
    return (
        w.constant(INT32_END + divisor // 2, "rise", "uint32"),
        w.constant(pre, "pre", "uint32"),
        w.constant(INT32_END // divisor - RAISE16, "back"),
    )


def multiply(
    s: Scope,
    a: str,
    b: str,
    rise: str,
    divisor: str,
    multiplier: str,
    addend: str,
    unit: str,
    top: str,
    *,
    bits: int,
    far: Far,
) -> str:
    """Product of int32 within 16 bits as levels: uint8 with 8 `bits`, else int32."""
    product = s.op("Min", s.op("Mul", a, b), s.int32(MOST))
    raised = s.op("Add", product, rise)
    return requantize(s, raised, divisor, multiplier, addend, unit, top, bits=bits, far=far)


def multiply_far(
    s: Scope,
    a: str,
    b: str,
    rise: str,
    pre: str,
    back: str,
    multiplier: str,
    addend: str,
    unit: str,
    top: str,
    *,
    bits: int,
    far: Far,
) -> str:
    """The same with larger pre-shifts, of unsigned integers."""
    raised = shifted_far(s, s.op("Mul", a, b), rise, pre, back)
    return requantize(s, raised, s.int32(1), multiplier, addend, unit, top, bits=bits, far=far)
