"""What the matrix kernels need to know of a CPU: vector width, number of registers, and the step of the dot product.

A step multiplies exactly and adds into 32-bit lanes: `acc[l] += sum_g a[g] * w[l][g]`, `g < group`.

| operands  | group | instruction                                                                    |
|-----------|-------|--------------------------------------------------------------------------------|
| 16-bit    | 2     | x86 `pmaddwd`: no sum of two products of 8-bit values saturates; `vpdpwssd`    |
| 16-bit    | 1     | the widening multiply-add that LLVM maps to `smlal`, `vwmacc`, ...             |
| u8 by s8  | 4     | AVX-512 VNNI `vpdpbusd`: adds modulo 2^32, never saturates (`vpdpbusds` would) |
| s8 by s8  | 4     | Armv8.2 `sdot`                                                                 |
| s8 by s8  |       | AMX `tdpbssd` on whole tiles (`*_tiles`); the rest is AVX-512 VNNI              |

Where packed weights hold more neighbours together than a step takes (`X86`, four), a vector has two steps of half as
many columns, and a column's sum is that of two lanes (`tile.of_columns`).

With unsigned operands a product computes on `x + 128` and its sums begin with `-128 sum_k w` (`pack.bias`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm import tirx
from tvm.target import Target, codegen
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Expr, by_bits, lanes_of, widen

TILE_ROWS, TILE_DEPTH = 16, 64
"""Rows of an AMX tile, and its bytes in a row."""


@dataclass(frozen=True)
class Isa:
    """One vector instruction set, as the kernels see it."""

    name: str
    lanes: int  # int32 lanes of a vector
    registers: int  # vector registers
    group: int  # neighbours in K that one step of the dot product adds up
    intrinsic: str = ""  # LLVM's name of the dot product
    vectors: int = 2  # vectors in a panel (columns of a register tile)
    element: str = "int16"  # the left operand: int16, or uint8 with its zero at 128
    accumulates: bool = False  # the dot product adds to its first operand
    tiles: bool = False  # products of constant weights, and those of attention, are on AMX: `*_tiles`
    shifts_by_lanes: bool = True  # each lane by its own amount, without floats: see `by_bits`
    packed: tuple[int, int] | None = None  # columns of a panel of packed weights and neighbours in K, if not its own
    narrow: str = ""  # LLVM's name of the saturation of two vectors to int16, 128 bits of each in turn

    @property
    def vector(self) -> Isa:
        """The same CPU without tiles."""
        return AVX512_VNNI if self.tiles else self

    @property
    def depth(self) -> int:
        """Neighbours in K to whose multiples weights are padded."""
        return TILE_DEPTH if self.packed == X86 else self.neighbours

    @property
    def panel(self) -> int:
        """Columns whose sums go through the epilogue together: those of `spread` register tiles."""
        return self.lanes * self.vectors

    @property
    def columns(self) -> int:
        """Columns of a panel of packed weights: some register tiles."""
        return self.packed[0] if self.packed else self.panel

    @property
    def neighbours(self) -> int:
        """Neighbours in K that packed weights hold together: one step of the dot product, or two."""
        return self.packed[1] if self.packed else self.group

    @property
    def spread(self) -> int:
        """Neighbouring lanes that have sums of one column, where packed weights hold some steps of it together."""
        return self.neighbours // self.group

    @property
    def most_rows(self) -> int:
        """Rows of the largest register tile: all registers but those of weights and two for broadcasts."""
        return (self.registers - self.vectors - 2) // self.vectors

    @property
    def zero(self) -> int:
        """What the left operand holds for 0."""
        return 128 if self.element == "uint8" else 0

    @property
    def itemsize(self) -> int:
        """Bytes of a left operand."""
        return 2 if self.element == "int16" else 1

    @property
    def wide(self) -> Isa:
        """The same CPU with 16-bit operands on both sides."""
        if self.element == "int16":
            return self
        return WIDE if self.name == DOTPROD.name else AVX512_VNNI_PAIRS

    @property
    def signed(self) -> Isa:
        """The same CPU with operands as they are: int8, or int16."""
        return replace(self, element="int8") if self.zero else self

    def lshift(self, x: Expr, s: Expr) -> Expr:
        """`x << s` for int32 lanes `s` in 0..31."""
        return x << s if self.shifts_by_lanes else by_bits(x, s, 16, lambda y, step: y << step)

    def rshift16(self, x: Expr, s: Expr) -> Expr:
        """`x >> s` of uint16 lanes for `s` at most 15; for any other `s`, any value."""
        return x >> s if self.shifts_by_lanes else by_bits(x, s, 8, lambda y, step: y >> step)

    def left(self, x: Expr) -> Expr:
        """int8 lanes as the left operand of a dot product."""
        return widen(x, "uint8") ^ self.zero if self.zero else widen(x, self.element)

    def right(self, w: Expr) -> Expr:
        """int8 lanes as the right operand of a dot product."""
        return w if self.zero else widen(w, self.element)

    def repeat(self, a: Expr) -> Expr:
        """Neighbours of a left operand, as many as a column has in a vector, over and over."""
        count = lanes_of(a)
        if count == 1:
            return T.broadcast(a, self.lanes)
        several = T.broadcast(tirx.reinterpret(f"int{8 * self.itemsize * count}", a), self.lanes * self.group // count)
        return tirx.reinterpret(f"{self.element}x{self.lanes * self.group}", several)

    def dot(self, acc: Expr, a: Expr, w: Expr) -> Expr:
        """`acc + a . w`: int32 lanes; `a` and `w` have `group` operands per lane."""
        kind = f"int32x{self.lanes}"
        if self.accumulates:
            return tirx.call_llvm_pure_intrin(kind, self.intrinsic, acc, a, w)
        if self.intrinsic:
            return acc + tirx.call_llvm_pure_intrin(kind, self.intrinsic, a, w)
        return acc + a.astype(kind) * w.astype(kind)


X86 = (32, 4)
"""How packed weights lie on x86-64: as `vpdpbusd` and AMX read them, for all variants of a module to share."""

AVX512 = Isa(
    "avx512",
    lanes=16,
    registers=32,
    group=2,
    intrinsic="llvm.x86.avx512.pmaddw.d.512",
    narrow="llvm.x86.avx512.packssdw.512",
    packed=X86,
)
_VNNI = replace(AVX512, accumulates=True)
AVX512_VNNI = replace(_VNNI, name="avx512-vnni", group=4, intrinsic="llvm.x86.avx512.vpdpbusd.512", element="uint8")
AVX512_VNNI_PAIRS = replace(_VNNI, name="avx512-vnni-pairs", intrinsic="llvm.x86.avx512.vpdpwssd.512")
AMX = replace(AVX512_VNNI, name="amx", element="int8", accumulates=False, intrinsic="", tiles=True)
AVX2 = Isa(
    "avx2",
    lanes=8,
    registers=16,
    group=2,
    intrinsic="llvm.x86.avx2.pmadd.wd",
    narrow="llvm.x86.avx2.packssdw",
    packed=X86,
)
SSE2 = Isa(
    "sse2",
    lanes=4,
    registers=16,
    group=2,
    intrinsic="llvm.x86.sse2.pmadd.wd",
    narrow="llvm.x86.sse2.packssdw.128",
    shifts_by_lanes=False,
    packed=X86,
)
WIDE = Isa("generic-32", lanes=4, registers=32, group=1)
DOTPROD = replace(
    WIDE,
    name="dotprod",
    group=4,
    intrinsic="llvm.aarch64.neon.sdot.v4i32.v16i8",
    element="int8",
    accumulates=True,
)
NARROW = Isa("generic-16", lanes=4, registers=16, group=1, shifts_by_lanes=False)

_X86 = (("amx-int8", AMX), ("avx512vnni", AVX512_VNNI), ("avx512bw", AVX512), ("avx2", AVX2), ("sse2", SSE2))


def detect(target: Target) -> Isa:
    """The instruction set for a TVM target; every `llvm` target has one."""
    if target.kind.name != "llvm":
        raise ValueError(f"the CPU kernels are built for llvm targets, not for {target.kind.name!r}")
    triple = str(target.attrs.get("mtriple", "")) or codegen.llvm_get_system_triple()
    architecture = triple.split("-", 1)[0]
    if architecture in ("x86_64", "i386", "i686"):
        for feature, isa in _X86:
            if codegen.target_has_features(feature, target):
                return isa
    if architecture.startswith(("aarch64", "arm64")) and codegen.target_has_features("dotprod", target):
        return DOTPROD
    return WIDE if architecture.startswith(("aarch64", "arm64", "riscv", "ppc64", "powerpc64")) else NARROW
