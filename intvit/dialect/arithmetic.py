"""The integer arithmetic that all operations share: one rounding rule, and saturation is explicit.

Everything here takes and returns int32 (or int64) tensors. `Dyadic` is the one way to multiply by a real number.
"""

import torch
from torch import Tensor

INT8 = (-128, 127)
INT16 = (-(2**15), 2**15 - 1)
INT32 = (-(2**31), 2**31 - 1)
RANGE = {torch.int8: INT8, torch.uint8: (0, 255), torch.int16: INT16, torch.int32: INT32}


def rounding_shift(x: Tensor, shift: Tensor | int) -> Tensor:
    """`(x + 2^(shift-1)) >> shift`, half up; `shift = 0` is the identity (*Hacker's Delight* 2-7)."""
    if isinstance(shift, int):
        return (x + ((1 << shift) >> 1)) >> shift
    one = torch.ones_like(shift)
    return (x + ((one << shift) >> 1)) >> shift


def scale_by_power(x: Tensor, shift: Tensor) -> Tensor:
    """`x / 2^shift`: a rounding right shift, or an exact left shift where `shift` is negative."""
    return rounding_shift(x << (-shift).clamp(min=0), shift.clamp(min=0))


def saturate16(x: Tensor) -> Tensor:
    return x.clamp(*INT16)


def bit_length(x: Tensor) -> Tensor:
    """Bits of a non-negative int32: 0 for 0, `floor(log2 x) + 1` otherwise (*Hacker's Delight* 5-3, by halving)."""
    bits, rest = torch.zeros_like(x), x
    for step in (16, 8, 4, 2, 1):
        large = rest >= (1 << step)
        bits = bits + large * step
        rest = torch.where(large, rest >> step, rest)
    return bits + (rest > 0).to(x.dtype)


def integer_sqrt(x: Tensor) -> Tensor:
    """`floor(sqrt(x))` for `0 <= x < 2^30`, digit by digit (*Hacker's Delight* 11-1)."""
    root = torch.zeros_like(x)
    for bit in range(14, -1, -1):
        candidate = root + (1 << bit)
        root = torch.where(candidate * candidate <= x, candidate, root)
    return root


def requantized(x: Tensor, pre_shift: Tensor, multiplier: Tensor, shift: int) -> Tensor:
    """The one requantization: `(saturate16(x >> pre_shift) * multiplier) >> shift`, both shifts rounding.

    `x` int32 `[..., C]`; `pre_shift` >= 0 and `multiplier` (within int16) int32, `[C]` or `[1]`. The result is int32,
    not yet saturated to its own type. The product of two 16-bit numbers fits 32 bits for every input.
    """
    return rounding_shift(saturate16(rounding_shift(x, pre_shift)) * multiplier, shift)


def integer_matmul(a: Tensor, b: Tensor) -> Tensor:
    """Exact product of integer tensors in int32: `[..., M, K] @ [..., K, N]`."""
    return a.to(torch.int32) @ b.to(torch.int32)
