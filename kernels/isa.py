"""What the matrix kernels need to know of a CPU: vector width, number of registers, and the step of the dot product.

A step multiplies 16-bit lanes exactly and adds into 32-bit lanes: `acc[l] += sum_g a[g] * w[l][g]`, `g < group`. On
x86 this is `pmaddwd` (group 2: |sum| <= 2 * 128 * 128 for 8-bit operands, nothing saturates; with VNNI LLVM turns
add + pmaddwd into `vpdpwssd`). Elsewhere it is the plain widening multiply-add (group 1) that LLVM maps to `smlal`,
`vwmacc`, ...

A new instruction (8-bit dot products, tiles) is a new `Isa` with another `dot`, in `detect`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.target import Target, codegen
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Expr


@dataclass(frozen=True)
class Isa:
    """One vector instruction set, as the kernels see it."""

    name: str
    lanes: int  # int32 lanes of a vector
    registers: int  # vector registers
    group: int  # neighbours in K that one step of the dot product adds up
    pmadd: str = ""  # LLVM intrinsic of the pairwise multiply-add
    vectors: int = 2  # vectors in a panel (columns of a register tile)

    @property
    def panel(self) -> int:
        """Columns of a register tile."""
        return self.lanes * self.vectors

    @property
    def most_rows(self) -> int:
        """Rows of the largest register tile: all registers but the panel of weights and two for broadcasts."""
        return (self.registers - self.vectors - 2) // self.vectors

    def repeat(self, a: Expr) -> Expr:
        """`group` int16 neighbours, once for every lane."""
        if self.group == 1:
            return T.broadcast(a, self.lanes)
        pair = T.broadcast(tirx.reinterpret("int32", a), self.lanes)
        return tirx.reinterpret(f"int16x{self.lanes * self.group}", pair)

    def dot(self, acc: Expr, a: Expr, w: Expr) -> Expr:
        """`acc + a . w`: int32 lanes; `a` and `w` have `group` int16 per lane."""
        kind = f"int32x{self.lanes}"
        if self.pmadd:
            return acc + tirx.call_llvm_pure_intrin(kind, self.pmadd, a, w)
        return acc + a.astype(kind) * w.astype(kind)


AVX512 = Isa("avx512", lanes=16, registers=32, group=2, pmadd="llvm.x86.avx512.pmaddw.d.512")
AVX2 = Isa("avx2", lanes=8, registers=16, group=2, pmadd="llvm.x86.avx2.pmadd.wd")
SSE2 = Isa("sse2", lanes=4, registers=16, group=2, pmadd="llvm.x86.sse2.pmadd.wd")
WIDE = Isa("generic-32", lanes=4, registers=32, group=1)
NARROW = Isa("generic-16", lanes=4, registers=16, group=1)

_X86 = (("avx512bw", AVX512), ("avx2", AVX2), ("sse2", SSE2))


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
    return WIDE if architecture.startswith(("aarch64", "arm64", "riscv", "ppc64", "powerpc64")) else NARROW
