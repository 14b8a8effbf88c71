"""Intervals of integers, exact because they are Python integers: what the overflow proof computes with."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Range:
    """The closed interval `[low, high]` of one tensor's integers."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"empty range [{self.low}, {self.high}]")

    @property
    def magnitude(self) -> int:
        return max(-self.low, self.high)

    def __add__(self, other: "Range | int") -> "Range":
        other = as_range(other)
        return Range(self.low + other.low, self.high + other.high)

    def __sub__(self, other: "Range | int") -> "Range":
        other = as_range(other)
        return Range(self.low - other.high, self.high - other.low)

    def __mul__(self, other: "Range | int") -> "Range":
        other = as_range(other)
        products = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        return Range(min(products), max(products))

    def union(self, other: "Range") -> "Range":
        return Range(min(self.low, other.low), max(self.high, other.high))

    def clamp(self, low: int, high: int) -> "Range":
        return Range(min(max(self.low, low), high), min(max(self.high, low), high))

    def rounding_shift(self, shift: int) -> "Range":
        half = (1 << shift) >> 1
        return Range((self.low + half) >> shift, (self.high + half) >> shift)

    def fits(self, bits: int) -> bool:
        return self.low >= -(1 << (bits - 1)) and self.high < 1 << (bits - 1)


@dataclass(frozen=True)
class Operand(Range):
    """The range of a tensor that is computed at run time, with its shape (the batch counts as 1)."""

    shape: tuple[int, ...] = ()


def as_range(value: "Range | int") -> Range:
    return value if isinstance(value, Range) else Range(value, value)


@dataclass(frozen=True)
class Ranges:
    """The range of an operation's result, and of each of its intermediates by name; all must fit `bits` bits."""

    result: Range
    intermediates: Mapping[str, Range] = field(default_factory=dict)
    bits: int = 32

    def overflowing(self) -> dict[str, Range]:
        return {name: found for name, found in self.intermediates.items() if not found.fits(self.bits)}
