"""Vector integer arithmetic on TIR expressions: the rounding shift, saturation, loads and stores of whole vectors.

Values are int32 lanes unless said otherwise. Nothing here rounds except `rshift` (half up), nothing saturates except
`clamp` and `sat16` (`intvit.dialect.arithmetic`). Scalars (Python ints too) are broadcast by TIR's operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

Expr = Any  # a TIR expression or a Python int: TVM's annotations are too loose for a checker
Buffer = Any
LINE = 64
"""Bytes that caches move together."""


def like(x: Expr, value: int) -> Expr:
    """A constant of the type and lanes of `x`: beside a narrower type than int32 an operator widens Python ints."""
    return tirx.const(value, x.ty.dtype)


def lanes_of(x: Expr) -> int:
    """How many lanes an expression has."""
    return int(x.ty.dtype.lanes)


def rshift(x: Expr, s: Expr) -> Expr:
    """`(x + (1 << (s-1))) >> s`, `x` where `s = 0`."""
    if isinstance(s, int):
        return x if s == 0 else (x + like(x, half_unit(s))) >> like(x, s)
    return (x + half_unit(s)) >> s


def half_unit(s: Expr) -> Expr:
    """What a rounding shift by `s` adds: `1 << (s-1)`, 0 where `s = 0`."""
    if isinstance(s, int):
        return (1 << s) >> 1
    return tirx.const(1 << 30, s.ty.dtype) >> (31 - s)  # no left shift by lanes: see `by_bits`


def by_bits(x: Expr, s: Expr, most: int, shift: Callable[[Expr, Expr], Expr]) -> Expr:
    """`x` shifted by each lane's own `s`, whose bits are up to `most`, with shifts of all lanes alike.

    On plain SSE2 LLVM builds shifts by lanes, left and of 16 bits, from conversions of floats. It also makes one of a
    choice between a shifted and an unshifted value, or of a factor, unless a volatile store hides the shifted value.
    """
    s, lanes, scalar = let(s), lanes_of(x), str(x.ty.dtype).partition("x")[0]
    held = T.alloc_buffer((lanes,), scalar)
    hidden = T.alloc_buffer((lanes,), scalar, annotations={"tirx.volatile": True})
    store(held, (0,), x)
    while most:
        y = let(load(held, (0,), lanes))
        store(hidden, (0,), shift(y, like(y, most)))
        store(held, (0,), tirx.Select((s & like(s, most)) > like(s, 0), load(hidden, (0,), lanes), y))
        most //= 2
    return let(load(held, (0,), lanes))


def clamp(x: Expr, low: int, high: int) -> Expr:
    """`x` limited to `[low, high]`."""
    return tirx.max(tirx.min(x, like(x, high)), like(x, low))


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


def prefetch(buffer: Buffer, index: Sequence[Expr], nearest: int = 1) -> None:
    """Ask for the cache line of an element, which may lie past the end: a hint, on CPUs without one nothing.

    It is to stay in all caches from the level `nearest` on.
    """
    hint = (tirx.IntImm("int32", x) for x in (0, 4 - nearest, 1))  # of data to read
    T.evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", T.address_of(buffer[tuple(index)]), *hint))


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
