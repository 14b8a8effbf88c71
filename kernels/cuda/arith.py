"""Integer arithmetic of one value in a 32-bit register, to the bit that of `intvit.dialect.arithmetic`.

A GPU has no 16-bit lanes worth using: all values are int32. Divisions are of non-negative numbers; those by a variable
are done bit by bit, because the compiler would take a reciprocal in floating point.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Expr

INT32 = "int32"
LARGEST = (1 << 31) - 1


def let(value: Expr) -> Expr:
    """Evaluate `value` here, once, in a register."""
    return T.bind(value)


def wide(x: Expr) -> Expr:
    """As int32."""
    return x.astype(INT32) if str(x.ty.dtype) != INT32 else x


def quotient(a: Expr, b: int) -> Expr:
    """`a / b` for `a >= 0` and a constant: a shift, or a multiplication and a shift."""
    return a >> (b.bit_length() - 1) if b & (b - 1) == 0 else tirx.truncdiv(a, tirx.const(b, INT32))


def remainder(a: Expr, b: int) -> Expr:
    """`a % b` for `a >= 0` and a constant."""
    return a & (b - 1) if b & (b - 1) == 0 else tirx.truncmod(a, tirx.const(b, INT32))


def half_unit(s: Expr) -> Expr:
    """What a rounding shift by `s` in 0..30 adds: `1 << (s-1)`, 0 where `s = 0`."""
    return (1 << s) >> 1 if isinstance(s, int) else (tirx.const(1, INT32) << s) >> 1


def rshift(x: Expr, s: Expr) -> Expr:
    """`(x + (1 << (s-1))) >> s`, `x` where `s = 0`."""
    if isinstance(s, int):
        return x if s == 0 else (x + half_unit(s)) >> s
    return (x + half_unit(s)) >> s


def clamp(x: Expr, low: int, high: int) -> Expr:
    """`x` limited to `[low, high]`, where that is less than int32."""
    if high < LARGEST:
        x = tirx.min(x, tirx.const(high, INT32))
    return tirx.max(x, tirx.const(low, INT32)) if low > -LARGEST - 1 else x


def sat16(x: Expr) -> Expr:
    """`x` limited to the range of int16."""
    return clamp(x, -32768, 32767)


def bit_length(x: Expr) -> Expr:
    """Bits of a non-negative int32."""
    return let(32 - tirx.call_pure_extern(INT32, "__clz", x))


def divided(a: Expr, b: Expr, bits: int) -> Expr:
    """`min(a / b, 2^bits - 1)` for `a >= 0` and `b > 0`, bit by bit, restoring (*Hacker's Delight* 9-4).

    `b << (bits - 1)` must fit 31 bits: with 15 bits `b` may be up to 2^16.
    """
    state = T.alloc_buffer((2,), INT32, scope="local")
    T.buffer_store(state, a, [0])
    T.buffer_store(state, tirx.const(0, INT32), [1])
    with T.unroll(bits) as i:
        taken = let(b << (bits - 1 - i))
        fits = let(state[0] >= taken)
        T.buffer_store(state, tirx.Select(fits, state[0] - taken, state[0]), [0])
        T.buffer_store(state, state[1] + state[1] + tirx.Select(fits, tirx.const(1, INT32), tirx.const(0, INT32)), [1])
    return let(state[1])
