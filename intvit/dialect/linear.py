"""`linear`: the int8 product with constant weights, `acc[m, n] = Σ_k x[m, k] w[n, k] + b[n]` in int32.

    x int8 [B, T, K], weight int8 [N, K], bias int32 [N]  ->  int32 [B, T, N]

The scale of the result is per output channel. A zero point of `x` is inside `b`, so the rule of the
ranges is the sum over `k` of the exact interval of each term, with the real weights.
"""

from functools import cache

import torch
from torch import Tensor

from intvit.dialect.arithmetic import integer_matmul
from intvit.dialect.operation import operation, require, require_dtype
from intvit.ranges import Operand, Range, Ranges


def _check(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    require_dtype("x", x, torch.int8)
    require_dtype("weight", weight, torch.int8)
    require_dtype("bias", bias, torch.int32)
    require(x.ndim == 3, "x must be [batch, tokens, channels]")
    require(weight.ndim == 2 and weight.shape[1] == x.shape[-1], f"weight must be [N, {x.shape[-1]}]")
    require(list(bias.shape) == [weight.shape[0]], f"bias must be [{weight.shape[0]}]")
    return x.new_empty(*x.shape[:-1], weight.shape[0], dtype=torch.int32)


def _ranges(x: Operand, weight: Tensor, bias: Tensor) -> Ranges:
    wide = weight.to(torch.int64)
    positive, negative = wide.clamp(min=0).sum(1), wide.clamp(max=0).sum(1)
    low = positive * x.low + negative * x.high
    high = positive * x.high + negative * x.low
    partial = Range(min(int(low.min()), 0), max(int(high.max()), 0))
    total = Range(int((low + bias).min()), int((high + bias).max()))
    return Ranges(total, {"accumulator": partial.union(total)})


MIN_INT_MM = 16
"""`torch._int_mm` refuses fewer rows on some devices, and is wrong for one column of `x` (torch 2.13, x86)."""


@cache
def _int_mm_is_exact() -> bool:
    """Whether this machine's `torch._int_mm` sums without saturating (some int8 units add pairs in 16 bits)."""
    extremes = torch.tensor([-128, 127], dtype=torch.int8)
    a = torch.cat([extremes.repeat(32, 64), extremes[:, None].repeat(16, 128)])
    b = torch.cat([extremes.repeat_interleave(64).repeat(16, 1), extremes[:, None].repeat(8, 128)]).T.contiguous()
    return torch.equal(torch._int_mm(a, b), integer_matmul(a, b))


@operation(check=_check, ranges=_ranges)
def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`x @ weight.T + bias` in int32."""
    rows = x.reshape(-1, x.shape[-1])
    if min(rows.shape) > MIN_INT_MM and _int_mm_is_exact():
        product = torch._int_mm(rows.contiguous(), weight.T.contiguous())
    else:
        product = integer_matmul(rows, weight.T)
    return (product + bias).reshape(*x.shape[:-1], weight.shape[0])
