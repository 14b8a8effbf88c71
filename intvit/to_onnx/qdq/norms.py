"""Normalizations that ONNX has no operator for in all opsets, from float nodes: `rmsnorm`, `groupnorm`."""

import numpy as np
from numpy.typing import NDArray

from intvit.to_onnx.qdq.values import reshaped
from intvit.to_onnx.scope import Scope

SMALLEST = 1e-12
"""In place of an ε of 0."""


def rms_normalized(
    scope: Scope, x: str, weight: NDArray[np.float64], groups: int, eps: float, shape: tuple[int, int]
) -> str:
    """`x / sqrt(mean(x²) + eps) · weight` of `[B, *shape]`, the mean over each of `groups` blocks of channels."""
    tokens, channels = shape
    blocks = x if groups == 1 else reshaped(scope, x, tokens, groups, channels // groups, label="blocks")
    squares = scope.op("Mul", blocks, blocks, label="squares")
    mean = scope.op("ReduceMean", squares, scope.int64(-1), keepdims=1, label="mean_square")
    least = scope.constant(max(eps, SMALLEST), "float32", "epsilon")
    root = scope.op("Sqrt", scope.op("Add", mean, least, label="with_epsilon"), label="root_mean_square")
    unit = scope.op("Div", blocks, root, label="unit")
    rows = unit if groups == 1 else reshaped(scope, unit, tokens, channels, label="rows")
    return scope.op("Mul", rows, scope.constant(weight, "float32", "weight"), label="normalized")


def group_normalized(
    scope: Scope,
    x: str,
    weight: NDArray[np.float64],
    bias: NDArray[np.float64],
    groups: int,
    eps: float,
    shape: tuple[int, int],
) -> str:
    """Normalized over the tokens and each of `groups` blocks of channels of `[B, *shape]`, as InstanceNormalization.

    The operator GroupNormalization has a weight for each group in opset 18 and for each channel from 21 on.
    """
    tokens, channels = shape
    columns = scope.op("Transpose", x, perm=[0, 2, 1], label="by_channel")
    lines = reshaped(scope, columns, groups, channels // groups * tokens, label="groups")
    plain = scope.constant(np.ones(groups), "float32", "ones"), scope.constant(np.zeros(groups), "float32", "zeros")
    unit = scope.op("InstanceNormalization", lines, *plain, epsilon=max(eps, SMALLEST), label="deviations")
    columns = reshaped(scope, unit, channels, tokens, label="deviations_by_channel")
    rows = scope.op("Transpose", columns, perm=[0, 2, 1], label="deviations_by_token")
    scaled = scope.op("Mul", rows, scope.constant(weight, "float32", "weight"), label="weighted")
    return scope.op("Add", scaled, scope.constant(bias, "float32", "bias"), label="normalized")
