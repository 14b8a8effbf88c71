"""The bias of an attention's scores: from its table, a query in each lane, and masked keys (`biased_attention`).

    x[s, t] = -2^24 where bias[k, h, t, s] = -2^15, else scores[s, t] + bias[k, h, t, s]

`k` is the kind of bias that the window has. The table lies as it is read, `[kinds * heads, keys, queries]` of int16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from intvit.kernels.arith import Buffer, Expr, let, like, load32
from intvit.kernels.function import Tensor
from intvit.kernels.isa import Isa
from intvit.kernels.pack import round_up

MASK, MASKED = -(1 << 15), -(1 << 24)
"""The bias of a masked key, and its score."""
QUERIES = 16
"""Queries are padded to multiples of it: the lanes of every instruction set."""


@dataclass(frozen=True)
class ScoreBias:
    """Sizes of a bias: `heads` is 1 where all share it, `masks` says whether it masks any key."""

    kinds: int
    heads: int
    queries: int
    keys: int
    windows: int
    masks: bool

    @classmethod
    def of(cls, table: NDArray[Any], windows: int) -> ScoreBias:
        """That of `windows` windows, of a table `[kinds, heads or 1, queries, keys]`."""
        kinds, heads, queries, keys = table.shape
        return cls(kinds, heads, queries, keys, windows, bool((table == MASK).any()))

    @property
    def tensors(self) -> list[Tensor]:
        """The kernel's parameters: the table, and the kind of each window."""
        shape = self.kinds * self.heads, self.keys, round_up(self.queries, QUERIES)
        return [Tensor("bias", shape, "int16"), Tensor("kinds", (self.windows,), "int32")]

    def of_block(
        self, table: Buffer, kinds: Buffer, window: Expr, head: Expr, first: Expr, isa: Isa
    ) -> Callable[[Expr, Expr], Expr]:
        """Adds the bias of key `s` to int32 lanes, scores of the queries from `first` on.

        `window` counts those of all images; a key past the last has the last one's bias.
        """
        kind = let(load32(kinds, (window % self.windows,), 1).astype("int64"))
        matrix = let(kind * self.heads + (head if self.heads > 1 else 0))

        def added(s: Expr, scores: Expr) -> Expr:
            bias = let(load32(table, (matrix, tirx.min(s, self.keys - 1), first), isa.lanes))
            x = scores + bias
            return tirx.Select(bias > like(bias, MASK), x, like(bias, MASKED)) if self.masks else x

        return added


def packed_bias(bias: NDArray[np.generic]) -> NDArray[np.generic]:
    """int16 `[kinds, heads, queries, keys]` as the kernels read it; the last query is repeated, as they repeat it."""
    queries, keys = bias.shape[2:]
    missing = round_up(queries, QUERIES) - queries
    turned = bias.reshape(-1, queries, keys).swapaxes(1, 2)
    return np.pad(turned, ((0, 0), (0, 0), (0, missing)), mode="edge")
