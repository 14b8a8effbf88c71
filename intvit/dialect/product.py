"""`product`: two int8 activations, `y = a bᵀ` in int32, in groups of consecutive tokens.

    y[g, m, n] = Σ_k a[g, m, k] b[g, n, k]        a [B, G·M, K], b [B, G·N, K]  ->  y [B, G·M, N]

Both operands are symmetric with one scale each, so that the sums have one scale, the product of the two, and no
correction for a zero point: what attention in other forms is made of (talking heads, linear and channel attention).
"""

import torch
from torch import Tensor

from intvit.dialect.arithmetic import integer_matmul
from intvit.dialect.operation import operation, require, require_dtype
from intvit.ranges import Operand, Range, Ranges


def _check(a: Tensor, b: Tensor, groups: int) -> Tensor:
    for name, x in (("a", a), ("b", b)):
        require_dtype(name, x, torch.int8)
        require(x.ndim == 3, f"{name} must be [batch, tokens, channels]")
        require(groups >= 1 and x.shape[1] % groups == 0, f"{name} has {x.shape[1]} tokens for {groups} groups")
    require(a.shape[-1] == b.shape[-1], f"a has {a.shape[-1]} channels and b {b.shape[-1]}")
    return a.new_empty(a.shape[0], a.shape[1], b.shape[1] // groups, dtype=torch.int32)


def _ranges(a: Operand, b: Operand, groups: int) -> Ranges:
    sums = (a * b) * a.shape[-1]
    return Ranges(sums, {"accumulator": sums.union(Range(0, 0))})


@operation(check=_check, ranges=_ranges)
def product(a: Tensor, b: Tensor, groups: int) -> Tensor:
    """int8 a `[B, G·M, K]`, b `[B, G·N, K]` to int32 `[B, G·M, N]`."""
    left, right = (x.unflatten(1, (groups, -1)) for x in (a, b))
    return integer_matmul(left, right.mT).flatten(1, 2)
