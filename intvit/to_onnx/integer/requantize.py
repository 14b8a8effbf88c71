"""`requantize` and `add`: a dyadic number for each arm, one rounding, and saturation (see `dyadic`)."""

from intvit.to_onnx.integer.dyadic import INT32_END, LEVELS16, floor_shift, levelled, saturated
from intvit.to_onnx.scope import Scope

Far = tuple[int, int] | None


def requantize(
    s: Scope, x: str, divisor: str, multiplier: str, addend: str, unit: str, top: str, *, bits: int, far: Far
) -> str:
    """Raised int32 to levels `0 .. top`: uint8 with 8 `bits`, else int32."""
    total = s.op("Add", s.op("Mul", saturated(s, x, divisor), multiplier), addend)
    y = levelled(s, total, unit, top, far)
    return s.cast(y, "uint8") if bits == 8 else y


def requantize_wide(s: Scope, x: str, divisor: str, multiplier: str, addend: str, *, shift: int, zero: int) -> str:
    """Raised int32 to int32, which no result leaves."""
    y = floor_shift(s, s.op("Add", s.op("Mul", saturated(s, x, divisor), multiplier), addend), shift)
    return s.op("Add", y, s.int32(zero)) if zero else y


def arm(s: Scope, x: str, divisor: str, multiplier: str) -> str:
    """One arm of a residual sum, `(saturate16(x >> pre) + raised_by) * multiplier` of raised int32."""
    return s.op("Mul", saturated(s, x, divisor), multiplier)


def add(s: Scope, a: str, b: str, addend: str, unit: str, top: str, *, far: Far) -> str:
    """Residual sum of two arms as raised 16-bit integers; the addend takes back their raises before they meet."""
    return levelled(s, s.op("Add", s.op("Add", a, addend), b), unit, top, far)


def shifted_far(s: Scope, x: str, rise: str, pre: str, back: str) -> str:
    """`x >> pre`, raised by 2^15, of int32 that has no room to be raised: an unsigned shift of `x + 2^31`.

    Above `2^31 - 2^16` all operands that `x + 2^(pre-1)` does not overflow for are saturated alike.
    """
    below = s.op("Min", x, s.int32(INT32_END - LEVELS16))
    total = s.op("Add", s.cast(below, "uint32"), rise)
    return s.op("Sub", s.cast(s.op("BitShift", total, pre, direction="RIGHT"), "int32"), back)
