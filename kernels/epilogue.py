"""What a kernel does with int32 accumulators before it stores them: one composable function for all kernels.

An `Epilogue` is a sequence of stages; each maps int32 lanes (one row, neighbouring columns) to int32 lanes. For row `r`
and column `c`, with `rshift` and `sat16` of `arith`:

    Bias         y = x + bias[c]
    Requantize   y = clamp(rshift(sat16(rshift(x, pre[c])) * mul[c], shift) + zero_point, low, high)
    Add          y = sat16(rshift(own + other, shift)),  own = sat16(rshift(x, pre[c])) * mul[c],
                 other = sat16(rshift(arm[r, c], arm_pre[c])) * arm_mul[c]
    Gelu         `gelu.py`

A parameter is a Python int (the same for all columns, a constant of the code) or `None`: a constant input vector, one
value per column, padded as `pack.channels` does. `Epilogue.operands` names the inputs in the order in which a kernel
takes them. Width: int16 * int16 and half a unit fit int32, two such products of `Add` do with `|mul| <= 2^14`; the sums
that come in are proved by the caller (intvit.dialect gives the same formulas, and their ranges).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from intvit.kernels.arith import Expr, clamp, rshift, sat16

Fetch = Callable[[str], Expr]  # the int32 lanes of a named operand, at the row and columns of the vector


@dataclass(frozen=True)
class Operand:
    """An extra input of a kernel: a value for each column; for each row and column; or for each token and column."""

    name: str
    dtype: str
    per: Literal["column", "row", "token"] = "column"
    tokens: int = 0  # rows of a `token` operand: row r of the kernel reads its row r % tokens


class Stage(Protocol):
    """One step of an epilogue."""

    def operands(self) -> tuple[Operand, ...]:
        """The inputs the step reads."""

    def apply(self, x: Expr, fetch: Fetch) -> Expr:
        """Int32 lanes to int32 lanes."""


def dyadic_operands(pre: int | None, mul: int | None, prefix: str = "") -> tuple[Operand, ...]:
    """The vectors of a dyadic number per column, those that are not constants of the code."""
    vectors = ((f"{prefix}pre", "int8", pre), (f"{prefix}mul", "int16", mul))
    return tuple(Operand(name, dtype) for name, dtype, value in vectors if value is None)


def scaled(x: Expr, pre: int | None, mul: int | None, fetch: Fetch, prefix: str = "") -> Expr:
    """`sat16(rshift(x, pre)) * mul`."""
    shift = fetch(f"{prefix}pre") if pre is None else pre
    return sat16(rshift(x, shift)) * (fetch(f"{prefix}mul") if mul is None else mul)


@dataclass(frozen=True)
class Bias:
    """Add a constant per column."""

    def operands(self) -> tuple[Operand, ...]:
        return (Operand("bias", "int32"),)

    def apply(self, x: Expr, fetch: Fetch) -> Expr:
        return x + fetch("bias")


@dataclass(frozen=True)
class Requantize:
    """To another scale: a dyadic number per column, a zero point, saturation."""

    shift: int
    low: int = -128
    high: int = 127
    pre: int | None = None
    mul: int | None = None
    zero_point: int = 0

    def operands(self) -> tuple[Operand, ...]:
        return dyadic_operands(self.pre, self.mul)

    def apply(self, x: Expr, fetch: Fetch) -> Expr:
        y = rshift(scaled(x, self.pre, self.mul, fetch), self.shift)
        return clamp(y + self.zero_point if self.zero_point else y, self.low, self.high)


@dataclass(frozen=True)
class Add:
    """Into the residual stream: both arms at one scale, one rounding. With `tokens`, the arm is `[tokens, n]`."""

    shift: int
    pre: int | None = None
    mul: int | None = None
    arm_pre: int | None = None
    arm_mul: int | None = None
    arm_dtype: str = "int16"
    tokens: int = 0

    def operands(self) -> tuple[Operand, ...]:
        arm = Operand("arm", self.arm_dtype, "token" if self.tokens else "row", self.tokens)
        own, other = dyadic_operands(self.pre, self.mul), dyadic_operands(self.arm_pre, self.arm_mul, "arm_")
        return (*own, *other, arm)

    def apply(self, x: Expr, fetch: Fetch) -> Expr:
        own = scaled(x, self.pre, self.mul, fetch)
        return sat16(rshift(own + scaled(fetch("arm"), self.arm_pre, self.arm_mul, fetch, "arm_"), self.shift))


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

    def apply(self, x: Expr, fetch: Fetch, *, biased: bool = False) -> Expr:
        """All stages; `fetch` knows the operands by the names in `operands`. `biased`: `x` has the first bias in it."""
        for index, stage in enumerate(self.stages):
            if not (biased and self.biased and index == 0):
                x = stage.apply(x, _renamed(fetch, index))
        return x


def _renamed(fetch: Fetch, index: int) -> Fetch:
    return lambda name: fetch(f"{name}{index or ''}")
