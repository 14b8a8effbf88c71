"""Vector integer arithmetic on TIR expressions: the rounding shift, saturation, loads and stores of whole vectors.

Values are int32 lanes unless said otherwise. Nothing here rounds except `rshift` (half up), nothing saturates except
`clamp` and `sat16` (`intvit.dialect.arithmetic`). Scalars (Python ints too) are broadcast by TIR's operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

Expr = Any  # a TIR expression or a Python int: TVM's annotations are too loose for a checker
Buffer = Any


def lanes_of(x: Expr) -> int:
    """How many lanes an expression has."""
    return int(x.ty.dtype.lanes)


def rshift(x: Expr, s: Expr) -> Expr:
    """`(x + (1 << (s-1))) >> s`, `x` where `s = 0`."""
    if isinstance(s, int):
        return x if s == 0 else (x + (1 << (s - 1))) >> s
    return (x + (tirx.const(1 << 30, s.ty.dtype) >> (31 - s))) >> s  # no left shift by lanes: see `lshift`


def lshift(x: Expr, s: Expr) -> Expr:
    """`x << s` for lanes `s` in 0..30, as a product: LLVM builds this shift from floats on plain SSE2."""
    return x * (tirx.const(1 << 30, s.ty.dtype) >> (30 - s))


def clamp(x: Expr, low: int, high: int) -> Expr:
    """`x` limited to `[low, high]`."""
    return tirx.max(tirx.min(x, high), low)


def sat16(x: Expr) -> Expr:
    """`x` limited to the range of int16."""
    return clamp(x, -32768, 32767)


def load(buffer: Buffer, index: Sequence[Expr], lanes: int) -> Expr:
    """`lanes` neighbours from `index` on, in the buffer's own type."""
    *outer, last = index
    return buffer[(*outer, last if lanes == 1 else T.ramp(last, 1, lanes))]


def load32(buffer: Buffer, index: Sequence[Expr], lanes: int) -> Expr:
    """`load`, extended to int32."""
    return widen(load(buffer, index, lanes), "int32")


def widen(x: Expr, scalar: str) -> Expr:
    """`x` with every lane cast to the type `scalar`."""
    lanes = lanes_of(x)
    return x.astype(scalar if lanes == 1 else f"{scalar}x{lanes}")


def store(buffer: Buffer, index: Sequence[Expr], value: Expr) -> None:
    """Store the lanes of `value` from `index` on, cast to the buffer's type."""
    *outer, last = index
    lanes = lanes_of(value)
    T.buffer_store(buffer, widen(value, str(buffer.ty.dtype)), [*outer, last if lanes == 1 else T.ramp(last, 1, lanes)])


def bit_length(x: Expr) -> Expr:
    """Bits of a non-negative int32 (*Hacker's Delight* 5-3, by halving: no target is without it)."""
    bits = tirx.min(x, 1)
    for step in (16, 8, 4, 2, 1):
        more = let(tirx.min(x >> step, 1) * step)
        bits, x = bits + more, let(x >> more)
    return let(bits)


def let(value: Expr) -> Expr:
    """Evaluate `value` here, once."""
    return T.bind(value)
