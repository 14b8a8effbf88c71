"""Dyadic numbers as ONNX nodes: `(saturate16(x >> pre) * multiplier) >> shift` without a signed shift.

ONNX shifts unsigned integers only (before opset 28), and its division truncates. So a number is kept *raised* by what
makes it non-negative, and a right shift is a division by `2^shift`. Where a raised number is negative all the same, the
result is at its lower limit either way.

    x' = x + 2^(pre-1) + 2^pre raised_by                        `Rounding.rise`, in the bias of a product
    v' = clip(x' / 2^pre, 0, 2^16 - 1)                          saturate16(x >> pre) + raised_by
    y' = clip((v' m + addend) / 2^shift, 0, count - 1)          the result, counted from its lowest level

`raised_by` is 2^15, or less for shifts of 16 and more, behind which no raised operand is saturated.

16-bit integers are int32 tensors raised by 2^15, 8-bit ones uint8 tensors raised by 2^7: the integer product of ONNX
Runtime is fast with these.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intvit.to_onnx.scope import Scope

RAISE16, RAISE8 = 1 << 15, 1 << 7
LEVELS16, LEVELS8 = 1 << 16, 1 << 8
INT32_END = 1 << 31
FLOOR = 1 << 30
"""Operands from `-FLOOR` on are raised above 0 before a shift of 15 and more."""

Array = NDArray[Any]


def half(shift: int) -> int:
    """What a rounding shift adds."""
    return (1 << shift) >> 1


def fits32(*values: Array | int) -> bool:
    """Whether signed 32-bit integers hold all these numbers."""
    return all(np.min(v) >= -INT32_END and np.max(v) < INT32_END for v in values)


@dataclass(frozen=True)
class Rounding:
    """The first shift of a dyadic number: `pre` int `[C]` or `[1]`."""

    pre: Array

    @property
    def divisor(self) -> Array:
        """`2^pre`."""
        return np.int64(1) << self.pre.astype(np.int64)

    @property
    def raised_by(self) -> Array:
        """What the quotient is raised by."""
        raised: Array = np.minimum(RAISE16, FLOOR // self.divisor)
        return raised

    @property
    def rise(self) -> Array:
        """What an operand is raised by before it is divided."""
        rise: Array = self.divisor // 2 + self.raised_by * self.divisor
        return rise

    def holds(self, low: int, high: int) -> bool:
        """Whether 32 bits hold operands from `low` to `high` when raised, and none gets lost below."""
        return fits32(low + self.rise, high + self.rise) and (low >= -FLOOR or int(self.pre.max()) < 16)


@dataclass(frozen=True)
class Levels:
    """The last shift of a dyadic number, rounded, to `count` levels of which 0 stands for `lowest`.

    The sum that is shifted is within `bound` of 0, and `rises` of it are in the operand. `near` says whether 32 bits
    hold the raised sum; else it is shifted before it is raised.
    """

    shift: int
    lowest: int
    count: int
    bound: int
    rises: Array

    @property
    def near(self) -> bool:
        raised = -self.lowest * (1 << self.shift)
        return fits32(raised - self.bound, raised + self.bound + half(self.shift), self._addend(raised))

    @property
    def addend(self) -> Array:
        """What the operand is short of the sum that is shifted."""
        return self._addend(-self.lowest * (1 << self.shift) if self.near else 0)

    def _addend(self, raised: int) -> Array:
        return half(self.shift) + raised - self.rises

    @property
    def far(self) -> tuple[int, int] | None:
        """`shift` and `lowest`, which are numbers of the function itself, where the sum is not near."""
        return None if self.near else (self.shift, self.lowest)


def saturated(scope: Scope, raised: str, divisor: str) -> str:
    """`saturate16(x >> pre) + raised_by` of a raised int32 tensor."""
    return scope.op("Clip", scope.op("Div", raised, divisor), scope.int32(0), scope.int32(LEVELS16 - 1))


def levelled(scope: Scope, total: str, unit: str, top: str, far: tuple[int, int] | None) -> str:
    """Levels `0 .. top` of an int32 sum to which `Levels.addend` has been added; `unit` is `2^shift`."""
    if far is None:
        return scope.op("Clip", scope.op("Div", total, unit), scope.int32(0), top)
    shift, lowest = far
    y = scope.op("Sub", floor_shift(scope, total, shift), scope.int32(lowest))
    return scope.op("Clip", y, scope.int32(0), top)


def floor_shift(scope: Scope, x: str, shift: int) -> str:
    """`x >> shift` of any int32 tensor, by an unsigned shift of `x + 2^31`."""
    if not shift:
        return x
    raised = scope.op("Add", scope.cast(x, "uint32"), scope.constant(INT32_END, "uint32"))
    shifted = scope.op("BitShift", raised, scope.constant(shift, "uint32"), direction="RIGHT")
    return scope.op("Sub", scope.cast(shifted, "int32"), scope.int32(INT32_END >> shift))
