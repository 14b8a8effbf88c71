"""`softmax`: weights of rows in Q15 as ONNX nodes (`intvit.dialect.softmax` has the formula).

An exponential depends on the distance of its score from the row's largest and is looked up, as in `attention`: the
index is the distance by the first shift, and the table is filled when the model is loaded. What a row's sum decides
depends on its length in bits, of which there are few: also tables.
"""

import numpy as np
import torch
from torch import fx

from intvit.dialect.attention import exponentials
from intvit.dialect.softmax import FRACTION
from intvit.errors import IntvitError
from intvit.nodes import arguments
from intvit.to_onnx.integer.attention import Distances, last_log2
from intvit.to_onnx.integer.dyadic import RAISE16, fits32, half
from intvit.to_onnx.integer.lookup import look_up
from intvit.to_onnx.integer.writer import LIMITS, Writer
from intvit.to_onnx.scope import Scope

MOST = RAISE16 - 1


def weighted(w: Writer, node: fx.Node) -> str:
    """The rule. A constant that all of `x` is raised by cancels out."""
    x, multiplier, pre_shift, shift, bits = arguments(node)
    _, tokens, channels = w.shapes[node.name]
    found = w.ranges.get(x.name)
    low, high = LIMITS[w.dtypes[x.name]] if found is None else (found.low, found.high)
    distances = Distances.of(w.array(pre_shift), w.array(multiplier), shift, bits, high - low)
    if not fits32(distances.rises + (high - low)):
        raise IntvitError(f"{w.scope.path}: the distances of scores leave 32 bits: it cannot be exported to ONNX")
    inputs = (
        w.constant(distances.rises, "rise"),
        w.scope.int32(distances.grain),
        w.scope.int32(distances.count),
        w.constant(distances.multiplier, "score_multiplier"),
        w.scope.int32(distances.half_down),
        w.scope.int32(1 << shift),
    )
    return w.scope.call("Softmax", softmax, w.written[x], *inputs, tokens=tokens, channels=channels, bits=bits)


def softmax(
    s: Scope,
    x: str,
    rise: str,
    grain: str,
    count: str,
    multiplier: str,
    half_down: str,
    score_unit: str,
    *,
    tokens: int,
    channels: int,
    bits: int,
) -> str:
    """int32 `[B, T, C]` to weights int32 `[B, T, C]`, raised by 2^15."""
    distance = s.op("Sub", s.op("ReduceMax", x, s.int64(-1), keepdims=1), x)
    index = s.op("Div", s.op("Add", distance, rise), grain)
    last = s.op("Sub", count, s.int32(1))
    table = exponential_table(s, count, multiplier, half_down, score_unit, bits)
    e = look_up(s, table, s.op("Min", index, last), tokens, channels)
    inverse, addend, unit = row_factors(s, s.op("ReduceSum", e, s.int64(-1), keepdims=1), channels, bits)
    y = s.op("Div", s.op("Add", s.op("Mul", e, inverse), addend), unit)
    return s.op("Add", s.op("Min", y, s.int32(MOST)), s.int32(RAISE16))


def exponential_table(s: Scope, count: str, multiplier: str, half_down: str, unit: str, bits: int) -> str:
    """The exponential at each index, int32 `[count]`; nodes that read no input."""
    w = s.op("Min", s.op("Range", s.int32(0), count, s.int32(1)), s.int32(RAISE16))
    log2 = s.op("Div", s.op("Add", s.op("Mul", w, multiplier), half_down), unit)
    log2 = s.op("Min", log2, s.int32(last_log2(bits)))
    values = exponentials(-torch.arange(last_log2(bits) + 1, dtype=torch.int32), bits).numpy()
    return s.op("Gather", s.constant(values, "int32", f"exponentials_{bits}"), log2)


def row_factors(s: Scope, sums: str, channels: int, bits: int) -> tuple[str, str, str]:
    """The reciprocal of each row's sum, half a unit of the last shift, and the unit; int32 `[B, T, 1]`."""
    lengths = range(bits, (((1 << bits) - 1) * channels).bit_length() + 1)
    length = _length(s, sums, lengths)

    def table(values: list[int], label: str) -> str:
        return s.op("Gather", s.constant(np.array(values), "int32", f"{label}_{bits}_{len(lengths)}"), length)

    up = table([1 << max(FRACTION - n, 0) for n in lengths], "up")
    down = table([1 << max(n - FRACTION, 0) for n in lengths], "down")
    reference = s.op("Div", s.op("Mul", sums, up), down)
    inverse = s.op("Min", s.op("Div", s.int32(1 << 29), reference), s.int32(MOST))
    return inverse, table([half(n - 1) for n in lengths], "half"), table([1 << (n - 1) for n in lengths], "unit")


def _length(s: Scope, sums: str, lengths: range) -> str:
    """Which of the lengths in bits each sum has, int32 `[B, T, 1]`."""
    powers = 1 << np.array(lengths[: max(len(lengths) - 1, 1)])
    reached = s.op("GreaterOrEqual", sums, s.constant(powers, "int32", f"powers_{powers[0]}_{len(powers)}"))
    return s.op("ReduceSum", s.cast(reached, "int32"), s.int64(-1), keepdims=1)
