"""`activation`: a table of all 16-bit integers' results, which is filled from 257 knots when the model is loaded.

What fills it are nodes that read no input: runtimes compute them once, and the file holds the knots only. The raised
form of an operand, 0 to 65535, is its place in the table.
"""

from typing import Any

import numpy as np
from torch import fx

from intvit.dialect.activation import KNOTS, STEP_BITS
from intvit.nodes import arguments
from intvit.to_onnx.integer.dyadic import LEVELS8, LEVELS16, RAISE8, RAISE16, Levels, levelled
from intvit.to_onnx.integer.lookup import look_up
from intvit.to_onnx.integer.requantize import Far
from intvit.to_onnx.integer.writer import Writer
from intvit.to_onnx.scope import Scope

STEP = 1 << STEP_BITS


def activation(w: Writer, node: fx.Node) -> str:
    """The rule of `intvit::activation`."""
    x, table, shift, dtype = arguments(node)
    lowest, count = (-RAISE8, LEVELS8) if dtype == "int8" else (-RAISE16, LEVELS16)
    levels = Levels(shift, lowest, count, RAISE16 * STEP, np.zeros(1, np.int64))
    knots = w.scope.constant(w.array(table), "int16", "knots")
    inputs = (w.raised(x, np.array([RAISE16])), knots, w.constant(levels.addend, "addend"), *w.ends(levels))
    fixed: dict[str, Any] = dict(bits=8 if dtype == "int8" else 16, far=levels.far, shape=w.shapes[node.name][1:])
    return w.scope.call("Activation", lines_between, *inputs, **fixed)


def lines_between(
    s: Scope,
    x: str,
    knots: str,
    addend: str,
    unit: str,
    top: str,
    *,
    bits: int,
    far: Far,
    shape: tuple[int, int],
) -> str:
    """The lines between knots at raised 16-bit integers, as levels `[B, *shape]`: uint8 with 8 `bits`, else int32."""
    rows = s.op("Reshape", s.cast(knots, "int32"), s.int64(-1, 1))
    low, high = (s.op("Slice", rows, s.int64(first), s.int64(first + KNOTS - 1), s.int64(0)) for first in (0, 1))
    part = s.op("Range", s.int32(0), s.int32(STEP), s.int32(1))
    climb = s.op("Mul", s.op("Sub", high, low), part)
    lines = s.op("Add", s.op("Mul", low, s.int32(STEP)), climb)
    table = levelled(s, s.op("Add", lines, addend), unit, top, far)
    return look_up(s, s.cast(table, "uint8") if bits == 8 else table, x, *shape)
