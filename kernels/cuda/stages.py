"""The stages of `intvit.kernels.epilogue` on one int32 value, to the bit."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from intvit.kernels.activation import FIRST, STEP, Activation
from intvit.kernels.arith import Buffer, Expr
from intvit.kernels.cuda.arith import INT32, clamp, let, rshift, sat16, wide
from intvit.kernels.epilogue import Add, Bias, Epilogue, Requantize, Stage
from intvit.kernels.gelu import FRACTION, HIGH, LOW, POLYNOMIAL, Gelu
from intvit.kernels.levels import FIRST as FIRST_LEVEL
from intvit.kernels.levels import Levels
from intvit.kernels.multiply import Multiply

Fetch = Callable[[str], Expr]
"""An operand of the epilogue by its name, at the row and column of the value, as int32; of a table, its buffer."""


def finished(epilogue: Epilogue, x: Expr, fetch: Fetch) -> Expr:
    """All stages in order."""
    for index, stage in enumerate(epilogue.stages):
        x = let(_apply(stage, x, _renamed(fetch, index)))
    return x


def _renamed(fetch: Fetch, index: int) -> Fetch:
    return lambda name: fetch(f"{name}{index or ''}")


def _apply(stage: Stage, x: Expr, fetch: Fetch) -> Expr:
    if isinstance(stage, Bias):
        return x + fetch("bias")
    if isinstance(stage, Requantize):
        return requantized(
            x, _of(stage.pre, "pre", fetch), _of(stage.mul, "mul", fetch), stage.shift, stage.zero_point, stage
        )
    if isinstance(stage, Multiply):
        product = let(x * fetch("arm"))
        return requantized(product, _of(stage.pre, "pre", fetch), _of(stage.mul, "mul", fetch), stage.shift, 0, stage)
    if isinstance(stage, Activation):
        return clamp(rshift(lines(x, fetch("table")), stage.shift), stage.low, stage.high)
    if isinstance(stage, Levels):
        return element(fetch("levels"), x - FIRST_LEVEL)
    if isinstance(stage, Add):
        own = shifted(x, _of(stage.pre, "pre", fetch)) * _of(stage.mul, "mul", fetch)
        other = shifted(fetch("arm"), _of(stage.arm_pre, "arm_pre", fetch)) * _of(stage.arm_mul, "arm_mul", fetch)
        return sat16(rshift(own + other, stage.shift))
    assert isinstance(stage, Gelu), f"no form of {type(stage).__name__} for a GPU"
    zero = _of(stage.zero_point, "zero", fetch)
    fixed = let(gelu(x, stage.fraction))
    value = shifted(fixed, _of(stage.pre, "pre", fetch)) * _of(stage.mul, "mul", fetch)
    return clamp(rshift(value, stage.shift) + zero, LOW, HIGH)


def _of(constant: int | None, name: str, fetch: Fetch) -> Expr:
    return fetch(name) if constant is None else constant


def shifted(x: Expr, pre: Expr) -> Expr:
    """`sat16(rshift(x, pre))`."""
    return sat16(let(rshift(x, pre)))


def requantized(x: Expr, pre: Expr, mul: Expr, shift: int, zero_point: int, limits: Requantize | Multiply) -> Expr:
    """`clamp(rshift(sat16(rshift(x, pre)) * mul, shift) + zero_point, low, high)`."""
    value = rshift(shifted(x, pre) * mul, shift)
    return clamp(value + zero_point if zero_point else value, limits.low, limits.high)


def lines(x: Expr, table: Buffer) -> Expr:
    """The lines between the knots of a table at `x`, times 256 (`intvit.dialect.activation`)."""
    index = let((x >> 8) - FIRST)
    low, high = let(element(table, index)), let(element(table, index + 1))
    return low * STEP + (high - low) * (x & (STEP - 1))


def gelu(x: Expr, fraction: int) -> Expr:
    """GELU of `x / 2^fraction`, `x` within int16, in Q13 (`intvit.dialect.gelu`)."""
    up = FRACTION - fraction
    magnitude = let(tirx.max(x, 0 - x))
    u = let(tirx.min(magnitude << up, tirx.const(32767, INT32)))
    p: Expr = tirx.const(POLYNOMIAL[0], INT32)
    for coefficient in POLYNOMIAL[1:]:
        p = let(rshift(p * u, 15) + coefficient)
    p2 = let(rshift(p * p, 15))
    p4 = let(rshift(p2 * p2, 15))
    return (tirx.max(x, tirx.const(0, INT32)) << up) - rshift(u * p4, 15)


def element(buffer: Expr, index: Expr) -> Expr:
    """An element of any integer type as int32."""
    return wide(buffer[index])
