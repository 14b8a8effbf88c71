"""Arithmetic on lanes of int16: half the instructions of int32 lanes where a result is proved to fit.

    packed(x)                 sat16(x)                       x86 `packssdw`, Arm `sqxtn`, RISC-V `vnclip`
    multiply_high(a, b)       (a * b) >> 16                  x86 `pmulhw`
    rounding_multiply(a, b)   (a * b + 2^14) >> 15           x86 `pmulhrsw`, Arm `sqrdmulh`
    saturating_add(a, b)      sat16(a + b)                   x86 `paddsw`, Arm `sqadd`, RISC-V `vsadd`
    multiply_add(a, b, c, d)  a * b + c * d in int32         x86 `pmaddwd`
    weighted(a, b, c, d)      the same, shifted and packed   x86 `pmaddwd`, `packssdw`

LLVM finds most of these in plain expressions; what it misses is named here. Names hold for whole vectors; other numbers
of lanes (the end of a row, a single column) are plain expressions.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Expr, lanes_of, rshift, sat16, widen
from intvit.kernels.isa import Isa

INT16 = "int16"
INT32 = "int32"
LEAST, MOST = -(1 << 15), (1 << 15) - 1


@dataclass(frozen=True)
class Instructions:
    """LLVM's names, empty where the plain expression does."""

    rounding_multiply: str = ""
    multiply_add: str = ""


NAMED = {
    "llvm.x86.avx512.": Instructions("llvm.x86.avx512.pmul.hr.sw.512", "llvm.x86.avx512.pmaddw.d.512"),
    "llvm.x86.avx2.": Instructions("llvm.x86.avx2.pmul.hr.sw", "llvm.x86.avx2.pmadd.wd"),
    "llvm.x86.sse2.": Instructions("", "llvm.x86.sse2.pmadd.wd"),
    "llvm.aarch64.neon.": Instructions("llvm.aarch64.neon.sqrdmulh", ""),
}
"""By the beginning of the name of the instruction set's dot product."""


def instructions(isa: Isa, lanes: int) -> Instructions:
    """What there is for `lanes` lanes of int16."""
    dot = isa.vector.intrinsic
    named = next((names for prefix, names in NAMED.items() if dot.startswith(prefix)), Instructions())
    return named if lanes == 2 * isa.lanes else Instructions()


def lanes16(x: Expr, lanes: int) -> Expr:
    """An int16 operand, or a Python int, as `lanes` lanes."""
    return tirx.const(x, INT16 if lanes == 1 else f"{INT16}x{lanes}") if isinstance(x, int) else x


def concat(parts: list[Expr]) -> Expr:
    """Vectors one after the other as one vector."""
    total = sum(lanes_of(part) for part in parts)
    return parts[0] if len(parts) == 1 else _shuffle(parts, list(range(total)))


def packed(x: Expr, isa: Isa) -> Expr:
    """`sat16(x)` of int32 lanes, as int16."""
    lanes = lanes_of(x)
    if not isa.narrow or lanes != 2 * isa.lanes:
        return widen(sat16(x), INT16)
    halves = [_shuffle([x], list(range(start, start + isa.lanes))) for start in (0, isa.lanes)]
    mixed = tirx.call_llvm_pure_intrin(f"{INT16}x{lanes}", isa.narrow, *halves)
    return _shuffle([mixed], [_mixed(i, lanes) for i in range(lanes)])


def _mixed(i: int, lanes: int) -> int:
    """Where `packssdw` puts lane `i`: it works on parts of 128 bits, four lanes of each vector."""
    half, (part, lane) = i // (lanes // 2), divmod(i % (lanes // 2), 4)
    return 8 * part + 4 * half + lane


def multiply_high(a: Expr, b: Expr) -> Expr:
    """`(a * b) >> 16` of int16 lanes: it fits for all."""
    b = lanes16(b, lanes_of(a))
    return widen((widen(a, INT32) * widen(b, INT32)) >> 16, INT16)


def rounding_multiply(a: Expr, b: Expr, isa: Isa) -> Expr:
    """`(a * b + 2^14) >> 15` of int16 lanes, not both -2^15: all else fits."""
    lanes = lanes_of(a)
    b = lanes16(b, lanes)
    name = instructions(isa, lanes).rounding_multiply
    if name:
        return tirx.call_llvm_pure_intrin(f"{INT16}x{lanes}", name, a, b)
    return widen(rshift(widen(a, INT32) * widen(b, INT32), 15), INT16)


def saturating_add(a: Expr, b: Expr) -> Expr:
    """`sat16(a + b)` of int16 lanes."""
    return tirx.call_llvm_pure_intrin(str(a.ty.dtype), "llvm.sadd.sat", a, b)


def multiply_add(a: Expr, b: Expr, c: Expr, d: Expr, isa: Isa) -> Expr:
    """`a * b + c * d` of int16 lanes in int32, where it fits."""
    lanes = lanes_of(a)
    b, c, d = (lanes16(x, lanes) for x in (b, c, d))
    name = instructions(isa, lanes).multiply_add
    if not name:
        return widen(a, INT32) * widen(b, INT32) + widen(c, INT32) * widen(d, INT32)
    kind = f"{INT32}x{isa.lanes}"
    halves = [
        tirx.call_llvm_pure_intrin(kind, name, _pairs(a, c, start, isa.lanes), _pairs(b, d, start, isa.lanes))
        for start in (0, isa.lanes)
    ]
    return concat(halves)


def weighted(a: Expr, b: Expr, c: Expr, d: Expr, half: int, shift: int, isa: Isa) -> Expr:
    """`sat16((a * b + c * d + half) >> shift)` of int16 lanes, where the sum fits 32 bits.

    Whole vectors on x86 keep their order: of each 128 bits `punpckl` takes the lower half and `punpckh` the upper one,
    and `packssdw` puts them together again.
    """
    lanes = lanes_of(a)
    name = instructions(isa, lanes).multiply_add
    if not name or not isa.narrow:
        y = multiply_add(a, b, c, d, isa)
        return packed((y + half if half else y) >> shift, isa)
    b, c, d = (lanes16(x, lanes) for x in (b, c, d))
    kind = f"{INT32}x{isa.lanes}"
    halves = []
    for upper in (0, 4):
        order = [8 * part + upper + i for part in range(lanes // 8) for i in range(4)]
        left, right = (_shuffle([x, y], [k for i in order for k in (i, i + lanes)]) for x, y in ((a, c), (b, d)))
        y = tirx.call_llvm_pure_intrin(kind, name, left, right)
        halves.append((y + half if half else y) >> shift)
    return tirx.call_llvm_pure_intrin(f"{INT16}x{lanes}", isa.narrow, *halves)


def _pairs(a: Expr, b: Expr, start: int, count: int) -> Expr:
    """`a[start], b[start], a[start + 1], ...`, `count` pairs: `punpckl` or `punpckh` of what `packssdw` gives."""
    lanes = lanes_of(a)
    order = sorted(range(lanes), key=lambda i: _mixed(i, lanes))
    at = [_mixed(start + i, lanes) for i in range(count)]
    return _shuffle([_shuffle([a], order), _shuffle([b], order)], [x for i in at for x in (i, i + lanes)])


def _shuffle(vectors: list[Expr], lanes: list[int]) -> Expr:
    return tirx.Shuffle(vectors, [T.int32(i) for i in lanes])
