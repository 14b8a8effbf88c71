"""The ends of an exported graph: what becomes uint8 pixels, and what the integers of an output become."""

import numpy as np

from intvit.input_grid import InputGrid
from intvit.to_onnx.scope import Scope

IMAGE = "image"


def pixels(scope: Scope, kind: str, grid: InputGrid) -> str:
    """uint8 `[B, H, W, C]` from the input, which is that or normalized float32 `[B, C, H, W]`.

    A normalized value is brought to the nearest pixel of its channel's grid in float64, half to even, as
    `InputGrid.pixels` does: float32 would give one value in 30,000 the pixel beside it.
    """
    if kind == "uint8":
        return IMAGE
    with scope.at("pixels"):
        column = (len(grid.scale), 1, 1)
        offset = scope.constant(np.reshape(grid.offset, column), "float64", "offset")
        scale = scope.constant(np.reshape(grid.scale, column), "float64", "scale")
        x = scope.op("Sub", scope.cast(IMAGE, "float64"), offset)
        x = scope.op("Round", scope.op("Div", x, scale))
        x = scope.op("Clip", x, scope.constant(0, "float64"), scope.constant(255, "float64"))
        return scope.op("Transpose", scope.cast(x, "uint8"), perm=[0, 2, 3, 1])


def results(
    scope: Scope, integers: list[str], kind: str, scales: tuple[float, ...], shapes: tuple[tuple[int, ...], ...]
) -> list[str]:
    """The graph's outputs, `[B, *shape]`: the integers, or float32, the integers times their one scale."""
    names = []
    for i, (x, scale, shape) in enumerate(zip(integers, scales, shapes, strict=True)):
        name = "logits" if len(integers) == 1 else f"output_{i}"
        if kind == "float32":
            with scope.at(f"{name}_scale"):
                x = scope.op("Mul", scope.cast(x, "float32"), scope.constant(scale, "float32"))
        names.append(scope.op("Reshape", x, scope.int64(-1, *shape), label=name))
    return names
