"""An `activation` in float: a table at every 16-bit integer, which is filled from its knots when the model is loaded.

The integer graph knows no function but its knots. Results are not rounded: what reads them may round them.
"""

import numpy as np
from numpy.typing import NDArray

from intvit.dialect.activation import KNOTS, STEP_BITS
from intvit.grid import LIMITS
from intvit.to_onnx.integer.lookup import look_up
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
