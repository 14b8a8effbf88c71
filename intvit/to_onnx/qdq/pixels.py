"""The graph's input as rows of pixels minus 128, one for each patch: a patch embedding is then a product.

    uint8 [B, H, W, C]     moved to rows (y, x, channel), as in the dialect   -> DequantizeLinear
    float32 [B, C, H, W]   brought to pixels, moved to rows (channel, y, x)   -> QuantizeLinear -> DequantizeLinear

The order of a row's pixels is that in which the runs that are moved are longest; the weights take it too.
"""

import numpy as np
from numpy.typing import NDArray

from intvit.input_grid import InputGrid
from intvit.to_onnx.boundary import IMAGE
from intvit.to_onnx.integer.movement import patchify
from intvit.to_onnx.qdq.values import Value, reshaped
from intvit.to_onnx.scope import Scope

CENTRE = 128
UNIT = np.ones(1)


def patches(scope: Scope, kind: str, grid: InputGrid, h: int, w: int, rounded: bool = True) -> Value:
    """Rows `[B, patches, h·w·C]` of the input, which is of type `kind`; `rounded`: floats to whole pixels."""
    channels, height, width = grid.shape
    rows, columns = height // h, width // w
    if kind == "uint8":
        x = patchify(scope, IMAGE, grid=(rows, columns), size=(h, w), channels=channels)
        parameters = scope.constant(1, "float32"), scope.constant(CENTRE, "uint8")
        return Value(scope.op("DequantizeLinear", x, *parameters, label="pixels"), UNIT)
    x = reshaped(scope, _centred(scope, grid), channels, rows, h, columns, w, label="grid")
    x = scope.op("Transpose", x, perm=[0, 2, 4, 1, 3, 5], label="grid_by_patch")
    found = Value(reshaped(scope, x, rows * columns, h * w * channels, label="patches"), UNIT)
    return found.quantized(scope) if rounded else found


def _centred(scope: Scope, grid: InputGrid) -> str:
    """Normalized float32 `[B, C, H, W]` as pixels minus 128, not yet rounded."""
    scale, offset = (np.reshape(values, (-1, 1, 1)) for values in (grid.scale, grid.offset))
    x = scope.op("Mul", IMAGE, scope.constant(1 / scale, "float32", "steps"), label="scaled_image")
    return scope.op("Sub", x, scope.constant(offset / scale + CENTRE, "float32", "centre"), label="centred_image")


def in_order(weight: NDArray[np.int8], kind: str, h: int, w: int) -> NDArray[np.int8]:
    """Weights `[N, h·w·C]` in the order of `patches`."""
    if kind == "uint8":
        return weight
    return weight.reshape(len(weight), h, w, -1).transpose(0, 3, 1, 2).reshape(weight.shape)
