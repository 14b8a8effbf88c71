"""Convolutions and pools in float: `Conv`, `AveragePool` and `MaxPool`, which want the channels before the pixels.

    unfold and its linears     one Conv of int8 weights and activations behind DequantizeLinear, int32 bias likewise
    depthwise                  the same with a group for each channel; of one pixel, Mul and Add
    pool                       AveragePool without its padding, or MaxPool; a mean of all pixels is ReduceMean

What lies outside of an image is `fill`, which need not be 0: the image is padded with it before it is quantized.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from intvit.geometry import Geometry
from intvit.to_onnx.qdq.scales import Scale
from intvit.to_onnx.qdq.values import Value, reshaped, table
from intvit.to_onnx.scope import Scope

Array = NDArray[Any]


def convolution(
    scope: Scope, x: Value, fill: Array, geometry: Geometry, weight: NDArray[np.int8], bias: Array, scale: Scale
) -> str:
    """`[B, H·W, C]` to `[B, H'·W', N]`, `scale` `[N]` times integers; weight `[N, C / groups, kh, kw]`, bias int32."""
    channels, (count, inner) = fill.size, weight.shape[:2]
    if geometry.taps == 1 and geometry.stride == (1, 1) and inner == 1 and not geometry.padded:
        return _scaled(scope, x, weight.ravel(), bias * scale, scale)
    step = x.quantization
    framed = _framed(scope, x.at(scope, step), fill * step, geometry)
    operand = Value(framed, step).quantized(scope)
    parameters = scope.constant(scale / step, "float32", "weight_scale"), scope.constant(scale, "float32", "bias_scale")
    factors = scope.constant(weight, "int8", "weight"), scope.constant(bias, "int32", "bias")
    inputs = [
        scope.op("DequantizeLinear", stored, parameter, axis=0, label=label)
        for stored, parameter, label in zip(factors, parameters, ("weights", "biases"), strict=True)
    ]
    top, left, bottom, right = (0,) * 4 if fill.any() else geometry.padding
    y = scope.op(
        "Conv",
        operand.name,
        *inputs,
        kernel_shape=geometry.kernel,
        strides=geometry.stride,
        dilations=geometry.dilation,
        pads=[top, left, bottom, right],
        group=channels // inner,
        label="convolved",
    )
    return tokens(scope, y, geometry, count)


def _scaled(scope: Scope, x: Value, weight: Array, bias: Scale, scale: Scale) -> str:
    """Channels times factors: nothing is summed, so that nothing is gained by rounding."""
    y = x.at(scope, weight * scale)
    return scope.op("Add", y, scope.constant(bias, "float32", "offset"), label="scaled")


def _framed(scope: Scope, x: str, outside: Scale, geometry: Geometry) -> str:
    """`[B, H·W, C]` as an image `[B, C, H, W]`, with its padding where that is not 0."""
    found = image(scope, x, geometry, outside.size)
    if not outside.any():
        return found
    top, left, bottom, right = geometry.padding
    pads = scope.int64(0, 0, top, left, 0, 0, bottom, right)
    if (outside == outside[0]).all():
        return scope.op("Pad", found, pads, scope.constant(outside[0], "float32"), label="padded")
    height, width = geometry.size
    frame = np.pad(np.zeros((height, width)), ((top, bottom), (left, right)), constant_values=1)
    values = scope.constant(outside[:, None, None], "float32", "outside")
    border = scope.op("Mul", table(scope, frame, "frame"), values, label="border")
    return scope.op("Add", scope.op("Pad", found, pads, label="room"), border, label="padded")


def pooled(scope: Scope, x: str, geometry: Geometry, kind: str, channels: int) -> str:
    """`[B, H·W, C]` to `[B, H'·W', C]`."""
    if kind == "mean" and geometry.counts == (geometry.pixels,):
        return scope.op("ReduceMean", x, scope.int64(1), keepdims=1, label="mean")
    operator, more = ("MaxPool", {}) if kind == "max" else ("AveragePool", {"count_include_pad": 0})
    y = scope.op(
        operator,
        image(scope, x, geometry, channels),
        kernel_shape=geometry.kernel,
        strides=geometry.stride,
        pads=geometry.padding,
        label="pooled",
        **more,
    )
    return tokens(scope, y, geometry, channels)


def image(scope: Scope, x: str, geometry: Geometry, channels: int) -> str:
    """Tokens as an image `[B, C, H, W]`."""
    rows = reshaped(scope, x, *geometry.size, channels, label="pixels")
    return scope.op("Transpose", rows, perm=[0, 3, 1, 2], label="image")


def tokens(scope: Scope, y: str, geometry: Geometry, channels: int) -> str:
    """A result `[B, C, H', W']` as tokens."""
    rows = scope.op("Transpose", y, perm=[0, 2, 3, 1], label="pixels")
    return reshaped(scope, rows, geometry.tokens, channels, label="tokens")
