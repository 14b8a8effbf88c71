"""`multiply`: product by elements, brought to the result's scale by one dyadic number per channel.

    y = saturate((sat16((a · b) >> pre) · multiplier) >> shift)

with rounding shifts. `a · b` of two 16-bit numbers fits 32 bits for all (2^30); the pre-shift takes it back to 16.
`multiplier`, `pre`: int32 `[C]` or `[1]`. `b` has a value for each of `a`, or one token for all of an image.
"""

import torch
from torch import Tensor

from intvit.dialect.arithmetic import RANGE, requantized
from intvit.dialect.operation import dtype_named, operation, require, require_dtype
from intvit.dialect.requantize import check_dyadic, constant_range, requantized_ranges
from intvit.ranges import Operand, Ranges


def _check(a: Tensor, b: Tensor, multiplier: Tensor, pre_shift: Tensor, shift: int, dtype: str) -> Tensor:
    require_dtype("a", a, torch.int16)
    require_dtype("b", b, torch.int16)
    batch, tokens, channels = a.shape
    fits = list(b.shape[-2:]) in ([tokens, channels], [1, channels]) and (b.ndim == 2 or b.shape[0] == batch)
    require(fits, f"b must have the tokens of a or one, not {tuple(a.shape)} and {tuple(b.shape)}")
    check_dyadic(channels, multiplier, pre_shift, shift)
    require(dtype in ("int8", "int16"), f"dtype must be int8 or int16, not {dtype!r}")
    return a.new_empty(a.shape, dtype=dtype_named(dtype))


def _ranges(a: Operand, b: Operand | Tensor, multiplier: Tensor, pre_shift: Tensor, shift: int, dtype: str) -> Ranges:
    product = a * constant_range(b)
    inner = requantized_ranges(product, pre_shift, multiplier, shift)
    result = inner.result.clamp(*RANGE[dtype_named(dtype)])
    return Ranges(result, {"a · b": product, **inner.intermediates})


@operation(check=_check, ranges=_ranges)
def multiply(a: Tensor, b: Tensor, multiplier: Tensor, pre_shift: Tensor, shift: int, dtype: str) -> Tensor:
    """`a` int16 `[B, T, C]` times `b` int16 `[B, T, C]`, `[B, 1, C]` or constant `[T or 1, C]`, as int8 or int16."""
    target = dtype_named(dtype)
    product = a.to(torch.int32) * b.to(torch.int32)
    return requantized(product, pre_shift, multiplier, shift).clamp(*RANGE[target]).to(target)
