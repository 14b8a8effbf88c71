"""`requantize` and `add`: one dyadic number per channel brings integers from one scale to another.

    requantize:  y = saturate(((sat16(x >> pre) · multiplier) >> shift) + zero_point)
    add:         y = sat16((sat16(a >> a_pre) · a_multiplier + sat16(b >> b_pre) · b_multiplier) >> shift)

with rounding shifts. `add` brings both arms to one scale in 32 bits, adds, then rounds once:
|multiplier| <= 2^14 each, so the sum of the two products fits. `multiplier`, `pre`: int32 `[C]` or `[1]`.
"""

import torch
from torch import Tensor

from intvit.dialect.arithmetic import INT16, RANGE, requantized, rounding_shift, saturate16
from intvit.dialect.operation import dtype_named, operation, require, require_channels, require_dtype
from intvit.ranges import Operand, Range, Ranges

ADD_MULTIPLIER = 1 << 14


def multiplier_range(multiplier: Tensor) -> Range:
    return Range(int(multiplier.min()), int(multiplier.max()))


def constant_range(x: Operand | Tensor) -> Operand:
    """The range of an operand, also where it is a constant of the graph."""
    return Operand(int(x.min()), int(x.max()), tuple(x.shape)) if isinstance(x, Tensor) else x


def scaled_range(x: Range, pre_shift: Tensor, multiplier: Tensor) -> Range:
    """Of `sat16(x >> pre) · multiplier`, over all channels: a shift moves both ends towards 0, the larger the nearer.

    The kernels hold multipliers as int16 and shift by at most 30: other parameters break the rule.
    """
    factors = multiplier_range(multiplier)
    require(factors.fits(16), f"multipliers must be within 16 bits, not {factors.low}..{factors.high}")
    least, most = int(pre_shift.min()), int(pre_shift.max())
    require(least >= 0 and most <= 30, f"pre-shifts must be in 0..30, not {least}..{most}")
    shifted = x.rounding_shift(least).union(x.rounding_shift(most)).clamp(*INT16)
    return shifted * factors


def shifted_input(x: Range, pre_shift: Tensor) -> Range:
    """Of `x + half` before a rounding pre-shift: the addition can overflow too."""
    return x + Range(0, (1 << int(pre_shift.max())) >> 1)


def requantized_ranges(x: Range, pre_shift: Tensor, multiplier: Tensor, shift: int) -> Ranges:
    product = scaled_range(x, pre_shift, multiplier)
    rounded = product + Range(0, (1 << shift) >> 1)
    return Ranges(
        product.rounding_shift(shift), {"pre-shift": shifted_input(x, pre_shift), "product": product.union(rounded)}
    )


def check_dyadic(channels: int, multiplier: Tensor, pre_shift: Tensor, shift: int, prefix: str = "") -> None:
    """A dyadic number's fields; `prefix` is what their names begin with."""
    require_channels(channels, **{f"{prefix}multiplier": multiplier, f"{prefix}pre_shift": pre_shift})
    require(0 <= shift <= 30, f"{prefix}shift must be in 0..30, not {shift}")


def _requantize_check(
    x: Tensor, multiplier: Tensor, pre_shift: Tensor, shift: int, zero_point: int, dtype: str
) -> Tensor:
    require_dtype("x", x, torch.int8, torch.int16, torch.int32)
    check_dyadic(x.shape[-1], multiplier, pre_shift, shift)
    return x.new_empty(x.shape, dtype=dtype_named(dtype))


def _requantize_ranges(
    x: Operand, multiplier: Tensor, pre_shift: Tensor, shift: int, zero_point: int, dtype: str
) -> Ranges:
    inner = requantized_ranges(x, pre_shift, multiplier, shift)
    shifted = inner.result + zero_point
    return Ranges(
        shifted.clamp(*RANGE[dtype_named(dtype)]), {**inner.intermediates, "result before saturation": shifted}
    )


@operation(check=_requantize_check, ranges=_requantize_ranges)
def requantize(x: Tensor, multiplier: Tensor, pre_shift: Tensor, shift: int, zero_point: int, dtype: str) -> Tensor:
    """int8, int16 or int32 `[B, T, C]` to `dtype` at another scale."""
    target = dtype_named(dtype)
    y = requantized(x.to(torch.int32), pre_shift, multiplier, shift) + zero_point
    return y.clamp(*RANGE[target]).to(target)


def _add_check(
    a: Tensor,
    a_multiplier: Tensor,
    a_pre_shift: Tensor,
    b: Tensor,
    b_multiplier: Tensor,
    b_pre_shift: Tensor,
    shift: int,
) -> Tensor:
    for name, arm in (("a", a), ("b", b)):
        require_dtype(name, arm, torch.int16, torch.int32)
    same = a.shape == b.shape if a.ndim == b.ndim else a.shape[-2:] == b.shape[-2:]
    require(same, f"arms must have one shape, not {tuple(a.shape)} and {tuple(b.shape)}")
    check_dyadic(a.shape[-1], a_multiplier, a_pre_shift, shift, "a_")
    check_dyadic(b.shape[-1], b_multiplier, b_pre_shift, shift, "b_")
    whole = a if a.ndim >= b.ndim else b
    return whole.new_empty(whole.shape, dtype=torch.int16)


def _add_ranges(
    a: Operand | Tensor,
    a_multiplier: Tensor,
    a_pre_shift: Tensor,
    b: Operand | Tensor,
    b_multiplier: Tensor,
    b_pre_shift: Tensor,
    shift: int,
) -> Ranges:
    a, b = constant_range(a), constant_range(b)
    total = scaled_range(a, a_pre_shift, a_multiplier) + scaled_range(b, b_pre_shift, b_multiplier)
    return Ranges(
        total.rounding_shift(shift).clamp(*INT16),
        {
            "a pre-shift": shifted_input(a, a_pre_shift),
            "b pre-shift": shifted_input(b, b_pre_shift),
            "sum": total.union(total + Range(0, (1 << shift) >> 1)),
        },
    )


@operation(check=_add_check, ranges=_add_ranges)
def add(
    a: Tensor,
    a_multiplier: Tensor,
    a_pre_shift: Tensor,
    b: Tensor,
    b_multiplier: Tensor,
    b_pre_shift: Tensor,
    shift: int,
) -> Tensor:
    """Residual sum of `a`, `b` (int16 or int32, `[B, T, C]`; a constant arm is `[T, C]`) as int16."""
    left = saturate16(rounding_shift(a.to(torch.int32), a_pre_shift)) * a_multiplier
    right = saturate16(rounding_shift(b.to(torch.int32), b_pre_shift)) * b_multiplier
    return saturate16(rounding_shift(left + right, shift)).to(torch.int16)
