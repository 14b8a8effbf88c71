"""Attention of floats as ONNX nodes, window by window and head by head."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from intvit.to_onnx.qdq.values import reshaped, table
from intvit.to_onnx.scope import Scope

MASKED = -1e4
"""The bias of masked keys: a number that half precision holds."""


@dataclass(frozen=True)
class Heads:
    """Heads of channels, and windows of tokens, of tensors `[B, W·T, H·D]`."""

    scope: Scope
    heads: int
    windows: int

    def attend(
        self,
        operands: Sequence[str],
        shapes: Sequence[Sequence[int]],
        bias: NDArray[np.float32] | None = None,
        kinds: Sequence[int] = (),
    ) -> str:
        """`softmax(q kᵀ + bias[kinds]) v` of queries, keys and values; bias `[K, H or 1, T, S]`."""
        rows, columns = ((0, 2, 1, 3), (0, 2, 3, 1))
        labels = ("queries", "keys", "values")
        q, k, v = (
            self._split(x, shape, order, label)
            for x, shape, order, label in zip(operands, shapes, (rows, columns, rows), labels, strict=True)
        )
        scope = self.scope
        product = scope.op("MatMul", q, k, label="scores")
        if bias is not None:
            product = self._biased(product, bias, kinds, shapes)
        weights_of_keys = scope.op("Softmax", product, axis=-1, label="probabilities")
        mean = scope.op("MatMul", weights_of_keys, v, label="mean")
        by_token = scope.op("Transpose", mean, perm=[0, 2, 1, 3], label="mean_by_token")
        return reshaped(scope, by_token, shapes[0][0], shapes[2][1], label="attended")

    def _split(self, x: str, shape: Sequence[int], order: Sequence[int], label: str) -> str:
        """`[B·W, T, H, D]`, in another order."""
        tokens, channels = shape
        parts = (tokens // self.windows, self.heads, channels // self.heads)
        x = reshaped(self.scope, x, *parts, label=f"{label}_by_token")
        return self.scope.op("Transpose", x, perm=list(order), label=label)

    def _biased(
        self, product: str, bias: NDArray[np.float32], kinds: Sequence[int], shapes: Sequence[Sequence[int]]
    ) -> str:
        """The bias added to the scores `[B·W, H, T, S]` of all windows."""
        scope, tokens = self.scope, [shape[0] // self.windows for shape in shapes[:2]]
        if self.windows == 1:
            return scope.op("Add", product, table(scope, bias[list(kinds)], "bias"), label="biased_scores")
        of_windows = scope.op("Gather", table(scope, bias, "bias"), scope.int64(*kinds), axis=0, label="window_bias")
        by_window = reshaped(scope, product, self.windows, self.heads, *tokens, label="scores_by_window")
        total = scope.op("Add", by_window, of_windows, label="biased_scores_by_window")
        return reshaped(scope, total, self.heads, *tokens, label="biased_scores")
