"""What attention asks of a softmax: what it does between the product of scores and that of values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from intvit.kernels.arith import Buffer, Expr
from intvit.kernels.isa import Isa

Vectors = Callable[[Expr], Expr]  # int32 lanes to int32 or int16 lanes
Scaling = Callable[[Expr], Vectors]  # for query `t` of a block


class Softmax(Protocol):
    """One form of the softmax, on a block of queries, one in each lane.

    `pre` and `mul` are the dyadic number of the head's scores. Scores are int32 `[keys and more, lanes]`, weights int16
    `[groups, lanes * group]`: a group holds `isa.group` keys of each query, and has weight 0 past the last key, where
    scores are any integers.
    """

    def stored(self, sums: Expr, pre: Expr, mul: Expr) -> Expr:
        """What is kept of the sums of the first product, int32 lanes."""

    def weigh(
        self, scores: Buffer, top: Buffer, pre: Expr, mul: Expr, weights: Buffer, keys: int, isa: Isa
    ) -> Scaling | None:
        """Fills the weights of a block from its scores and their maxima; what is left to do to `P.V`."""
