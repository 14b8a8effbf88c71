"""`unfold`, `depthwise` and `pool`: windows of images as slices of a padded one, a slice for each pixel of a window.

Channels stay last, so that a slice moves whole runs of channels and no tensor is transposed. What ONNX Runtime has for
it, `ConvInteger`, makes a product of each channel (1.31, one thread, 28 x 28 x 128 by 3 x 3: 1.2 ms; slices 0.46).

    unfold       slices of uint8, concatenated; tokens gathered where the padding differs by channel
    depthwise    Σ_i w_i (x_i - fill) + (bias + fill Σ_i w_i), int32: padded with 0
    pool         slices of columns, then of rows: summed and multiplied, or the largest; a sum of all tokens is one node
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from torch import fx

from intvit.errors import IntvitError
from intvit.fusion import geometry_of, node_of
from intvit.geometry import Axis, Geometry
from intvit.nodes import arguments
from intvit.to_onnx.integer import requantize
from intvit.to_onnx.integer.dyadic import LEVELS8, LEVELS16, RAISE8, RAISE16, Array, Levels, Rounding, fits32
from intvit.to_onnx.integer.writer import LIMITS, Writer
from intvit.to_onnx.rearrange import expanded
from intvit.to_onnx.scope import Scope

MOST = 255
"""Of a raised activation, or of the distance of one from another."""
Bounds = tuple[tuple[int, int, int], tuple[int, int, int]]


def unfolded(w: Writer, node: fx.Node) -> str:
    x, fill, *_ = arguments(node)
    geometry, outside = geometry_of(node), w.array(fill).astype(np.int64) + RAISE8
    channels = w.shapes[node_of(x).name][2]
    if not geometry.padded or (outside == outside[0]).all():
        value = w.scope.constant(outside[0], "uint8")
        return w.scope.call("Unfold", unfold, w.written[x], value, geometry=geometry, channels=channels)
    inputs = (
        w.scope.constant(outside[None], "uint8", "outside"),
        w.scope.constant(places(geometry), "int32", "places"),
    )
    return w.scope.call("UnfoldGathered", gathered, w.written[x], *inputs, geometry=geometry, channels=channels)


def places(geometry: Geometry) -> Array:
    """Which token each pixel of each window is, `[tokens, taps]`; outside of the image, the one behind the last."""
    rows, columns = (
        axis.stride * np.arange(axis.count)[:, None] - axis.before + axis.dilation * np.arange(axis.kernel)
        for axis in (geometry.rows, geometry.columns)
    )
    y, x = rows[:, None, :, None], columns[None, :, None, :]
    (height, width), outside = geometry.size, geometry.pixels
    found = np.where((y >= 0) & (y < height) & (x >= 0) & (x < width), y * width + x, outside)
    return found.reshape(geometry.tokens, geometry.taps)


def convolved(w: Writer, node: fx.Node) -> str:
    x, weight, bias, fill, *_ = arguments(node)
    factors, outside = w.array(weight).astype(np.int64), w.array(fill).astype(np.int64)
    constant, sizes = w.array(bias) + outside * factors.sum(0), MOST * abs(factors).sum(0)
    if not fits32(sizes + abs(constant), -sizes - abs(constant)):
        raise IntvitError(f"{w.scope.path}: sums of a convolution leave 32 bits: it cannot be exported to ONNX")
    centred = w.raised(node_of(x), -outside)
    inputs = (w.narrow(constant, "int16", "bias"), w.scope.constant(factors, "int8", "weight"))
    geometry, channels = geometry_of(node), factors.shape[1]
    return w.scope.call("Depthwise", depthwise, centred, *inputs, geometry=geometry, channels=channels)


def pooled(w: Writer, node: fx.Node) -> str:
    x, *_, kind, multiplier, pre_shift, shift, dtype = arguments(node)
    geometry, channels = geometry_of(node), w.shapes[node.name][2]
    fixed: dict[str, Any] = dict(geometry=geometry, channels=channels)
    if kind == "max":
        found = w.raised(node_of(x), np.array([RAISE16 if dtype == "int16" else RAISE8]))
        y = w.scope.call("MaxPool", largest, found, **fixed)
        return w.scope.cast(y, "uint8") if dtype == "int8" else y
    total = w.scope.call("SumPool", summed, w.raised(node_of(x), np.zeros(1, np.int64)), **fixed)
    factors, pre = (w.array(values).astype(np.int64)[:, None] for values in (multiplier, pre_shift))
    low, high = (max(geometry.counts) * limit for limit in LIMITS[str(dtype)])
    raised, divisor, raised_by = _raised(w, total, pre, low, high)
    lowest, count = (-RAISE8, LEVELS8) if dtype == "int8" else (-RAISE16, LEVELS16)
    levels = Levels(shift, lowest, count, RAISE16 * int(abs(factors).max()), raised_by * factors)
    inputs = (raised, divisor, w.multiplier(factors), w.addend(levels.addend, factors), *w.ends(levels))
    bits: dict[str, Any] = dict(bits=8 if dtype == "int8" else 16, far=levels.far)
    return w.scope.call("Requantize", requantize.requantize, *inputs, **bits)


def _raised(w: Writer, total: str, pre: Array, low: int, high: int) -> tuple[str, str, Array]:
    """Sums as `requantize` takes them: raised, the divisor, and by what their quotient is raised."""
    rounding = Rounding(pre)
    if rounding.holds(low, high):
        return w.scope.op("Add", total, w.constant(rounding.rise, "rise")), w.divisor(rounding), rounding.raised_by
    return w.shifted_far(total, rounding), w.scope.int32(1), np.array([RAISE16])


# nodes


def unfold(s: Scope, x: str, outside: str, *, geometry: Geometry, channels: int) -> str:
    """uint8 `[B, H·W, C]` to `[B, H'·W', taps·C]`; `outside` is what the padding holds."""
    image = padded(s, x, outside, geometry, channels)
    slices = [sliced(s, image, geometry, bounds) for bounds in taps(geometry)]
    joined = s.op("Concat", *slices, axis=3) if len(slices) > 1 else slices[0]
    return s.op("Reshape", joined, s.int64(-1, geometry.tokens, geometry.taps * channels))


def gathered(s: Scope, x: str, outside: str, places: str, *, geometry: Geometry, channels: int) -> str:
    """The same with a row of numbers `[1, C]` as padding: a token behind those of the image."""
    tokens = s.op("Concat", x, expanded(s, outside, x, 1, channels), axis=1)
    rows = s.op("Gather", tokens, places, axis=1)
    return s.op("Reshape", rows, s.int64(-1, geometry.tokens, geometry.taps * channels))


def depthwise(s: Scope, x: str, bias: str, weight: str, *, geometry: Geometry, channels: int) -> str:
    """Sums of int32 `[B, H·W, C]`, whose padding is 0, times int8 weights `[taps, C]`, and the bias."""
    image = padded(s, x, s.int32(0), geometry, channels)
    wide, total = s.cast(weight, "int32"), bias
    for i, bounds in enumerate(taps(geometry)):
        factors = s.op("Gather", wide, s.constant(i, "int64"), axis=0)
        total = s.op("Add", s.op("Mul", sliced(s, image, geometry, bounds), factors), total)
    return s.op("Reshape", total, s.int64(-1, geometry.tokens, channels))


def summed(s: Scope, x: str, *, geometry: Geometry, channels: int) -> str:
    """Sums of int32 over windows, without their padding."""
    if geometry.counts == (geometry.pixels,):
        return s.op("ReduceSum", x, s.int64(1), keepdims=1)
    return over_windows(s, x, "Add", geometry, channels)


def largest(s: Scope, x: str, *, geometry: Geometry, channels: int) -> str:
    """The largest of int32 that are not negative."""
    if geometry.counts == (geometry.pixels,):
        return s.op("ReduceMax", x, s.int64(1), keepdims=1)
    return over_windows(s, x, "Max", geometry, channels)


def over_windows(s: Scope, x: str, operator: str, geometry: Geometry, channels: int) -> str:
    """An operator between the columns of windows, then between their rows; the padding is 0."""
    image = padded(s, x, s.int32(0), geometry, channels)
    for number, axis in ((2, geometry.columns), (1, geometry.rows)):
        slices = [sliced_axis(s, image, number, steps(axis, tap)) for tap in range(axis.kernel)]
        image = reduce(lambda a, b: s.op(operator, a, b), slices)
    return s.op("Reshape", image, s.int64(-1, geometry.tokens, channels))


def padded(s: Scope, x: str, outside: str, geometry: Geometry, channels: int) -> str:
    """`[B, H·W, C]` as an image with its padding."""
    image = s.op("Reshape", x, s.int64(-1, *geometry.size, channels))
    if not geometry.padded:
        return image
    top, left, bottom, right = geometry.padding
    return s.op("Pad", image, s.int64(0, top, left, 0, 0, bottom, right, 0), outside)


def taps(geometry: Geometry) -> Sequence[Bounds]:
    """First, last and step of every pixel of all windows, vertically and horizontally, row by row."""
    rows, columns = geometry.rows, geometry.columns
    return [(steps(rows, i), steps(columns, j)) for i in range(rows.kernel) for j in range(columns.kernel)]


def steps(axis: Axis, tap: int) -> tuple[int, int, int]:
    """The first of the padded pixels that are a tap of windows, the one behind the last, and the step."""
    first = tap * axis.dilation
    return first, first + (axis.count - 1) * axis.stride + 1, axis.stride


def sliced(s: Scope, image: str, geometry: Geometry, bounds: Bounds) -> str:
    """A pixel of every window of a padded image."""
    if geometry.taps == 1 and geometry.stride == (1, 1):
        return image
    first, last, step = (s.int64(*numbers) for numbers in zip(*bounds, strict=True))
    return s.op("Slice", image, first, last, s.int64(1, 2), step)


def sliced_axis(s: Scope, image: str, axis: int, bounds: tuple[int, int, int]) -> str:
    """The same along one axis."""
    first, last, step = (s.int64(number) for number in bounds)
    return s.op("Slice", image, first, last, s.int64(axis), step)
