"""`activation` and `divide` in float. Results are not rounded: what reads them may round them.

The integer graph knows no function but its knots: an `activation` is a table at every 16-bit integer, which is filled
from its knots when the model is loaded.
"""

import numpy as np
from numpy.typing import NDArray

from intvit.dialect.activation import KNOTS, STEP_BITS
from intvit.grid import LIMITS
from intvit.to_onnx.integer.lookup import look_up
from intvit.to_onnx.qdq.values import reshaped
from intvit.to_onnx.scope import Scope

STEP = 1 << STEP_BITS
FIRST, LAST = LIMITS["int16"]


def interpolated(
    scope: Scope, x: str, knots: NDArray[np.int16], shift: int, dtype: str, scale: float, shape: tuple[int, int]
) -> str:
    """`scale` times the results of `intvit::activation`, not rounded, at its integers in float `[B, *shape]`."""
    values = scope.constant(knots * (2.0 ** (STEP_BITS - shift) * scale), "float32", "knots")
    values = scope.op("Reshape", values, scope.int64(-1, 1), label="column")
    low, high = (
        scope.op("Slice", values, scope.int64(first), scope.int64(first + KNOTS - 1), scope.int64(0), label=label)
        for first, label in ((0, "below"), (1, "above"))
    )
    numbers = scope.op("Range", scope.int32(0), scope.int32(STEP), scope.int32(1), label="places")
    part = scope.op("Mul", scope.cast(numbers, "float32"), scope.constant(1 / STEP, "float32"), label="part")
    climb = scope.op("Mul", scope.op("Sub", high, low, label="slope"), part, label="climb")
    ends = (scope.constant(limit * scale, "float32") for limit in LIMITS[dtype])
    table = scope.op("Clip", scope.op("Add", low, climb, label="lines"), *ends, label="table")
    place = scope.op("Add", x, scope.constant(0.5 - FIRST, "float32"), label="place")
    inside = scope.op(
        "Clip", place, scope.constant(0.0, "float32"), scope.constant(LAST - FIRST, "float32"), label="inside"
    )
    return look_up(scope, table, scope.cast(inside, "int32"), *shape)


def divided(scope: Scope, a: str, b: str, step: float, sizes: tuple[int, int, int]) -> str:
    """`a` `[B, T, C]` by `b` `[B, T, G]`, each column of which divides `C / G` channels; `sizes` are T, C and G.

    A divisor that rounds to 0 steps is 1 step, as in `intvit::divide`.
    """
    tokens, channels, blocks = sizes
    small = scope.op("Less", scope.op("Abs", b, label="magnitude"), scope.constant(step / 2, "float32"), label="small")
    divisor = scope.op("Where", small, scope.constant(step, "float32"), b, label="divisor")
    if blocks in (1, channels):
        return scope.op("Div", a, divisor, label="quotient")
    rows = reshaped(scope, a, tokens, blocks, channels // blocks, label="blocks")
    each = scope.op("Unsqueeze", divisor, scope.int64(-1), label="divisors")
    return reshaped(scope, scope.op("Div", rows, each, label="quotients"), tokens, channels, label="quotient")
