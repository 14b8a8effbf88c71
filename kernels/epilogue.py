"""What a kernel does with int32 accumulators before it stores them: one composable function for all kernels.

An `Epilogue` is a sequence of stages; each maps lanes (one row, neighbouring columns) to lanes: int32 where they come
in, int16 from the first saturation on. For row `r` and column `c`, with `rshift` and `sat16` of `arith`:

    Bias         y = x + bias[c]
    Requantize   y = clamp(rshift(sat16(rshift(x, pre[c])) * mul[c], shift) + zero_point, low, high)
    Add          y = sat16(rshift(own + other, shift)),  own = sat16(rshift(x, pre[c])) * mul[c],
                 other = sat16(rshift(arm[r, c], arm_pre[c])) * arm_mul[c]
    Gelu         `gelu.py`
    Activation   `activation.py`
    Multiply     `multiply.py`
    Levels       `levels.py`

A parameter is a Python int (the same for all columns, a constant of the code) or `None`: a constant input vector, one
value per column, padded as `pack.channels` does. `Epilogue.operands` names the inputs in the order in which a kernel
takes them. Width: int16 * int16 and half a unit fit int32, two such products of `Add` do with `|mul| <= 2^14`; the sums
that come in are proved by the caller (intvit.dialect gives the same formulas, and their ranges).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from intvit.kernels.arith import Expr, clamp, half_unit, lanes_of, like, rshift, widen
from intvit.kernels.int16 import (
    INT16,
    INT32,
    LEAST,
    MOST,
    instructions,
    multiply_add,
    multiply_high,
    packed,
    rounding_multiply,
    saturating_add,
)
from intvit.kernels.isa import Isa

Fetch = Callable[[str], Expr]
"""The lanes of a named operand in its own type, at the row and columns of the vector; of a table, its buffer."""
Per = Literal["column", "row", "token", "image", "table"]
MOST_PRODUCT = 1 << 30  # of two 16-bit numbers
MOST_ZERO_POINT = 128


@dataclass(frozen=True)
class Operand:
    """An extra input of a kernel: a value for each column; or for each column and row, token or image; or a table.

    Row `r` of the kernel reads row `r % tokens` of a `token` operand, and `r / tokens` of an `image` one, an image
    having `tokens` rows; a table is read at any place and has `tokens` entries.
    """

    name: str
    dtype: str
    per: Per = "column"
    tokens: int = 0


class Stage(Protocol):
    """One step of an epilogue."""

    def operands(self) -> tuple[Operand, ...]:
        """The inputs the step reads."""

    def rounding(self, fetch: Fetch) -> Expr:
        """What the step first adds to an int32 `x` to round it: sums can begin with it. 0 where there is nothing."""

    def apply(self, x: Expr, fetch: Fetch, isa: Isa, *, rounded: bool) -> Expr:
        """Lanes to lanes; `rounded`: `x` has `rounding` in it."""


def dyadic_operands(pre: int | None, mul: int | None, prefix: str = "") -> tuple[Operand, ...]:
    """The vectors of a dyadic number per column, those that are not constants of the code."""
    vectors = ((f"{prefix}pre", "int8", pre), (f"{prefix}mul", "int16", mul))
    return tuple(Operand(name, dtype) for name, dtype, value in vectors if value is None)


def pre_shift(pre: int | None, fetch: Fetch, prefix: str = "") -> Expr:
    """A shift of int32 lanes."""
    return widen(fetch(f"{prefix}pre"), INT32) if pre is None else pre


def multiplier(mul: int | None, fetch: Fetch, prefix: str = "") -> Expr:
    """A factor of int16 lanes, or a Python int."""
    return fetch(f"{prefix}mul") if mul is None else mul


def shifted(x: Expr, pre: Expr, isa: Isa, *, rounded: bool = False) -> Expr:
    """`sat16(rshift(x, pre))` as int16 lanes; `rounded`: `x` has the half unit in it."""
    if isinstance(pre, int) and pre == 0 and not str(x.ty.dtype).startswith(INT32):
        return widen(x, INT16)
    x = widen(x, INT32)
    return packed(x >> pre if rounded else rshift(x, pre), isa)


def requantized(a: Expr, mul: Expr, shift: int, zero_point: Expr, limits: tuple[int, int], isa: Isa) -> Expr:
    """`clamp(rshift(a * mul, shift) + zero_point, *limits)` of int16 lanes: int16 where the limits are, else int32.

    From `shift = 17` on 16 bits are enough: floors nest, so `rshift(p, shift)` is `rshift(p >> 16, shift - 16)`, and
    `p >> 16` is at most 2^14. Where it fits, the zero point is added before the shift. A zero point that is not a
    Python int is int16 lanes within 8 bits.
    """
    low, high = (min(max(limit, LEAST), MOST) for limit in limits)
    largest = abs(zero_point) if isinstance(zero_point, int) else MOST_ZERO_POINT
    if shift > 16 and (MOST_PRODUCT >> shift) + largest < MOST:
        rest = shift - 16
        zero = like(a, zero_point) if isinstance(zero_point, int) else zero_point
        rounding = like(a, half_unit(rest))
        if (MOST_PRODUCT >> 16) + half_unit(rest) + (largest << rest) <= MOST:
            y = (multiply_high(a, mul) + (rounding + (zero << like(a, rest)))) >> like(a, rest)
        else:
            y = ((multiply_high(a, mul) + rounding) >> like(a, rest)) + zero
        return clamp(y, low, high)
    zero = zero_point if isinstance(zero_point, int) else widen(zero_point, INT32)
    if 0 < shift <= 15:
        y = (multiply_add(a, mul, 1, half_unit(shift), isa) >> shift) + zero
    else:
        y = rshift(product32(a, mul), shift) + zero
    return clamp(packed(y, isa), low, high) if limits == (low, high) else clamp(y, *limits)


def product32(a: Expr, mul: Expr) -> Expr:
    """`a * mul` of int16 lanes in int32."""
    return widen(a, INT32) * (mul if isinstance(mul, int) else widen(mul, INT32))


@dataclass(frozen=True)
class Bias:
    """Add a constant per column."""

    def operands(self) -> tuple[Operand, ...]:
        return (Operand("bias", INT32),)

    def rounding(self, fetch: Fetch) -> Expr:
        return 0

    def apply(self, x: Expr, fetch: Fetch, isa: Isa, *, rounded: bool) -> Expr:
        return widen(x, INT32) + fetch("bias")


@dataclass(frozen=True)
class Requantize:
    """To another scale: a dyadic number per column, a zero point, saturation.

    With `halfway` any result of at least `2^14` may stand for all of them, and any of at most `-2^14`: the next stage
    makes the same of them (`Gelu.ends_halfway`), and all factors are 0 or at least `2^14`. A value that does not fit 16
    bits when it is doubled has such a result then, and so has 2^15 - 1, or -2^15, in the place of its double. All
    others are `(a * mul + 2^13) >> 14 = (2 a * mul + 2^14) >> 15`, one instruction on lanes of 16 bits. It asks for a
    shift of 14, no zero point and the limits of int16; else `ValueError`.
    """

    shift: int
    low: int = -128
    high: int = 127
    pre: int | None = None
    mul: int | None = None
    zero_point: int = 0
    halfway: bool = False

    def __post_init__(self) -> None:
        if self.halfway and (self.shift, self.zero_point, self.low, self.high) != (14, 0, LEAST, MOST):
            raise ValueError(f"not a requantization whose values may be doubled: {self}")

    def operands(self) -> tuple[Operand, ...]:
        return dyadic_operands(self.pre, self.mul)

    def rounding(self, fetch: Fetch) -> Expr:
        return half_unit(pre_shift(self.pre, fetch))

    def apply(self, x: Expr, fetch: Fetch, isa: Isa, *, rounded: bool) -> Expr:
        a = shifted(x, pre_shift(self.pre, fetch), isa, rounded=rounded)
        if self.halfway and instructions(isa, lanes_of(a)).rounding_multiply:
            return rounding_multiply(saturating_add(a, a), multiplier(self.mul, fetch), isa)
        return requantized(a, multiplier(self.mul, fetch), self.shift, self.zero_point, (self.low, self.high), isa)


@dataclass(frozen=True)
class Add:
    """Into the residual stream: both arms at one scale, one rounding. With `tokens`, the arm is `[tokens, n]`."""

    shift: int
    pre: int | None = None
    mul: int | None = None
    arm_pre: int | None = None
    arm_mul: int | None = None
    arm_dtype: str = INT16
    tokens: int = 0

    def operands(self) -> tuple[Operand, ...]:
        arm = Operand("arm", self.arm_dtype, "token" if self.tokens else "row", self.tokens)
        own, other = dyadic_operands(self.pre, self.mul), dyadic_operands(self.arm_pre, self.arm_mul, "arm_")
        return (*own, *other, arm)

    def rounding(self, fetch: Fetch) -> Expr:
        return half_unit(pre_shift(self.pre, fetch))

    def apply(self, x: Expr, fetch: Fetch, isa: Isa, *, rounded: bool) -> Expr:
        own = shifted(x, pre_shift(self.pre, fetch), isa, rounded=rounded)
        other = shifted(fetch("arm"), pre_shift(self.arm_pre, fetch, "arm_"), isa)
        factors = multiplier(self.mul, fetch), multiplier(self.arm_mul, fetch, "arm_")
        return packed(rshift(multiply_add(own, factors[0], other, factors[1], isa), self.shift), isa)


@dataclass(frozen=True)
class Epilogue:
    """Stages in order, and the type that is stored. Operands of stage `i > 0` are named with `i` at the end."""

    stages: tuple[Stage, ...] = ()
    dtype: str = "int8"
    operands: tuple[Operand, ...] = field(init=False)

    def __post_init__(self) -> None:
        named = [
            replace(operand, name=f"{operand.name}{index or ''}")
            for index, stage in enumerate(self.stages)
            for operand in stage.operands()
        ]
        object.__setattr__(self, "operands", tuple(named))

    @property
    def biased(self) -> bool:
        """Whether it begins with a bias, which a matrix kernel can start its sums from."""
        return bool(self.stages) and isinstance(self.stages[0], Bias)

    def start(self, fetch: Fetch) -> Expr:
        """What the sums of a biased epilogue begin with: the bias, and what the stage after it rounds with."""
        first = fetch("bias")
        return first + self.stages[1].rounding(_renamed(fetch, 1)) if len(self.stages) > 1 else first

    def apply(self, x: Expr, fetch: Fetch, isa: Isa, *, started: bool = False) -> Expr:
        """All stages; `fetch` knows the operands by the names in `operands`. `started`: `x` has `start` in it."""
        started = started and self.biased
        for index, stage in enumerate(self.stages):
            if not (started and index == 0):
                x = stage.apply(x, _renamed(fetch, index), isa, rounded=started and index == 1)
        return x


def _renamed(fetch: Fetch, index: int) -> Fetch:
    return lambda name: fetch(f"{name}{index or ''}")
