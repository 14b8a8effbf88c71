"""Grids, where a float tensor's integers lie, and dyadic numbers, which bring integers from one grid to another.

    real = scale · q + offset        q of `dtype`; scale and offset float64, `[1]` or one per channel `[C]`

An offset need not be a multiple of the scale: it is only allowed where it folds into a bias. Grids exist until
lowering; in the integer graph only the dyadic numbers that they imply are left.
"""

import math
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from intvit.levels import ENTRIES, looked_up

LIMITS = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "int16": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1),
}
DTYPES = {"uint8": torch.uint8, "int8": torch.int8, "int16": torch.int16, "int32": torch.int32}
SMALLEST_SCALE = 1e-12
MAX_PRE_SHIFT = 30


class Role(Enum):
    """What a tensor is read for: it decides width and granularity."""

    PRODUCT = "product"
    """An int8 operand of a product with constant weights."""
    SCORE = "score"
    """Queries and keys: int8, symmetric, one scale per head."""
    VALUE = "value"
    """Values of an attention: int8, one scale per channel, around 0 or the middle of its values."""
    MATRIX = "matrix"
    """An operand of a product of two computed tensors: int8, symmetric, one scale."""
    FIXED = "fixed"
    """The input of an activation function: int16 with a power of two as scale."""
    WIDE = "wide"
    """The residual stream: int16, one scale."""
    LOGIT = "logit"
    """The scores of an attention in I-ViT's form: int8, one scale."""
    ACCUMULATOR = "accumulator"
    """The exact int32 sums of a product, one scale per output channel."""
    OUTPUT = "output"
    """An output of the model: one scale."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Scale and offset of a tensor's integers; `[1]` or `[C]`, float64.

    With `levels`, int8 `[256]`, what reads the tensor on this grid takes `levels[q + 128]` for int8 `q`; what writes it
    does not.
    """

    scale: Tensor
    offset: Tensor
    dtype: str
    levels: Tensor | None = None

    def __post_init__(self) -> None:
        if self.levels is None:
            return
        if (self.dtype, self.levels.dtype, list(self.levels.shape)) != ("int8", torch.int8, [ENTRIES]):
            raise ValueError(f"levels are int8 [{ENTRIES}], of int8 grids")

    @property
    def ends(self) -> tuple[int, int]:
        """The least and the largest integer that a tensor on it has."""
        return LIMITS[self.dtype] if self.levels is None else (int(self.levels.min()), int(self.levels.max()))

    @property
    def without_levels(self) -> "Grid":
        """The same grid as it is written: with all of its integers."""
        return self if self.levels is None else replace(self, levels=None)

    @classmethod
    def symmetric(cls, bound: Tensor, dtype: str) -> "Grid":
        """The finest grid without offset that holds `[-bound, bound]`."""
        scale = (bound.double() / LIMITS[dtype][1]).clamp(min=SMALLEST_SCALE)
        return cls(scale, torch.zeros_like(scale), dtype)

    @classmethod
    def affine(cls, low: Tensor, high: Tensor, dtype: str) -> "Grid":
        """The grid whose ends are `low` and `high`."""
        first, last = LIMITS[dtype]
        scale = ((high.double() - low.double()) / (last - first)).clamp(min=SMALLEST_SCALE)
        return cls(scale, low.double() - first * scale, dtype)

    def no_finer_than(self, step: Tensor) -> "Grid":
        """The same grid with steps of at least `step`, `[1]` or `[C]`; its offset stays."""
        return self if bool((self.scale >= step).all()) else replace(self, scale=self.scale.clamp(min=step))

    def repeated(self, times: int) -> "Grid":
        """That of `times` blocks of channels, each on this grid."""
        scale, offset = (t.repeat(times) if t.numel() > 1 else t for t in (self.scale, self.offset))
        return replace(self, scale=scale, offset=offset)

    def quantize(self, x: Tensor) -> Tensor:
        q = torch.floor((x.double() - self.offset) / self.scale + 0.5)
        integers = q.clamp(*LIMITS[self.dtype]).to(DTYPES[self.dtype])
        return integers if self.levels is None else looked_up(integers, self.levels)

    def dequantize(self, q: Tensor) -> Tensor:
        return (q.double() * self.scale + self.offset).to(torch.float32)


@dataclass(frozen=True, eq=False)
class Dyadic:
    """`ratio ~ multiplier / 2^(pre_shift + shift)`: multiplier, pre_shift int32 `[C]` or `[1]`, shift an integer."""

    multiplier: Tensor
    pre_shift: Tensor
    shift: int


def shift_for(ratio: Tensor, span: int, bits: int = 15) -> int:
    """The largest shift at which `saturate16(x >> pre) · multiplier` reaches `span` without any left shift."""
    precise = 14 + bits - math.ceil(math.log2(span))
    return min(precise, math.floor(math.log2((2**bits - 1) / float(ratio.max()))))


def dyadic(ratio: Tensor, shift: int, *, bits: int = 15, max_pre_shift: int = MAX_PRE_SHIFT) -> Dyadic:
    """The dyadic numbers nearest to `ratio` (positive, float64) with multipliers of `bits` bits and the given shift.

    Raises `ValueError` where a ratio is too large: its integers would need a left shift.
    """
    if shift < 0:
        raise ValueError(f"ratio {float(ratio.max()):.3g} is too large for a {bits}-bit multiplier")
    room = torch.floor(torch.log2((2**bits - 1) / (ratio * 2**shift)))
    pre_shift = room.clamp(0, max_pre_shift)
    multiplier = torch.round(ratio * torch.exp2(pre_shift + shift)).clamp(max=2**bits - 1)
    return Dyadic(multiplier.to(torch.int32), pre_shift.to(torch.int32), shift)


def dyadic_for(ratio: Tensor, span: int, max_pre_shift: int = MAX_PRE_SHIFT) -> Dyadic:
    """The dyadic numbers of a requantization whose results lie within `±span`."""
    return dyadic(ratio, shift_for(ratio, span), max_pre_shift=max_pre_shift)
