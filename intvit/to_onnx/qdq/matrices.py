"""Tokens in groups as matrices, for products of two computed tensors."""

from intvit.to_onnx.qdq.values import reshaped
from intvit.to_onnx.scope import Scope


def matrices(scope: Scope, x: str, groups: int, shape: tuple[int, ...], *, turned: bool) -> str:
    """`[B, G·T, K]`, whose `shape` is without the batch, as `[B, G, T, K]`, or turned as `[B, G, K, T]`."""
    tokens, channels = shape
    label = "right" if turned else "left"
    grouped = reshaped(scope, x, groups, tokens // groups, channels, label=f"{label}_by_token")
    return scope.op("Transpose", grouped, perm=[0, 1, 3, 2], label=label) if turned else grouped
