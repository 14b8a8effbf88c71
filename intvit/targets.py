"""Named CPU targets of compiled modules: what LLVM is told, and the kernels' instruction set."""

import ctypes
import difflib
import platform
from dataclasses import dataclass
from functools import cached_property

from tvm.target import Target, codegen

from intvit.errors import IntvitError
from intvit.kernels.isa import NARROW, Isa, detect

X86_64, AARCH64, RISCV64 = "x86_64-linux-gnu", "aarch64-linux-gnu", "riscv64-linux-gnu"
VNNI = ("+avx512vnni",)
AMX = (*VNNI, "+amx-tile", "+amx-int8")


@dataclass(frozen=True)
class Cpu:
    """A family of processors; `variants` names the targets that a module for several of them holds, the best first."""

    name: str
    triple: str
    cpu: str = "generic"
    features: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()

    @cached_property
    def target(self) -> Target:
        """What TVM compiles for."""
        return Target({"kind": "llvm", "mtriple": self.triple, "mcpu": self.cpu, "mattr": list(self.features)})

    @property
    def isa(self) -> Isa:
        """What the kernels use."""
        return NARROW if self.name == "generic" else detect(self.target)

    @property
    def symbol(self) -> str:
        """The name as a part of a C identifier."""
        return self.name.replace("-", "_")


TARGETS: dict[str, Cpu] = {
    cpu.name: cpu
    for cpu in (
        Cpu("x86-64", X86_64, variants=("x86-64-v4-amx", "x86-64-v4-vnni", "x86-64-v3", "x86-64-v1")),
        Cpu("x86-64-v4-amx", X86_64, "x86-64-v4", AMX),
        Cpu("x86-64-v4-vnni", X86_64, "x86-64-v4", VNNI),
        Cpu("x86-64-v4", X86_64, "x86-64-v4"),
        Cpu("x86-64-v3", X86_64, "x86-64-v3"),
        Cpu("x86-64-v1", X86_64, "x86-64"),
        Cpu("aarch64-dotprod", AARCH64, features=("+neon", "+dotprod")),
        Cpu("aarch64", AARCH64, features=("+neon",)),
        Cpu("riscv64", RISCV64, "generic-rv64", ("+m", "+a", "+f", "+d", "+c")),
        Cpu("generic", codegen.llvm_get_system_triple()),
    )
}
"""Levels of x86-64 (its psABI), its dot products and tiles; `x86-64` holds four of them."""

NEEDS = {
    "x86-64-v4-amx": "amx-int8",
    "x86-64-v4-vnni": "avx512vnni",
    "x86-64-v4": "avx512bw",
    "x86-64-v3": "avx2",
    "x86-64-v1": "sse2",
    "aarch64-dotprod": "dotprod",
    "aarch64": "neon",
    "riscv64": "m",
}
"""The feature of LLVM's by which a machine is known to run a target, the best target of an architecture first."""


def resolve(name: str) -> Cpu:
    """The target called `auto` (the best that this machine runs) or a name of `TARGETS`; else `IntvitError`."""
    if name == "auto":
        return TARGETS[next((known for known in NEEDS if runs_here(known)), "generic")]
    if name not in TARGETS:
        close = difflib.get_close_matches(name, TARGETS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise IntvitError(f"unknown target {name!r}: choose auto, {', '.join(TARGETS)}{hint}")
    return TARGETS[name]


def runs_here(name: str) -> bool:
    """Whether this machine has the instructions of a target, and its system hands them out."""
    cpu = TARGETS[name]
    if cpu.variants:
        return any(runs_here(variant) for variant in cpu.variants)
    if cpu.triple.partition("-")[0] != platform.machine():
        return name == "generic"
    native = Target({"kind": "llvm", "mtriple": cpu.triple, "mcpu": codegen.llvm_get_system_cpu()})
    if name == "generic" or not codegen.target_has_features(NEEDS[name], native):
        return name == "generic"
    return name != "x86-64-v4-amx" or _tiles_are_handed_out()


def _tiles_are_handed_out() -> bool:
    """Asks Linux for AMX's tile registers: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`."""
    return int(ctypes.CDLL(None).syscall(158, 0x1023, 18)) == 0


def variants_of(cpu: Cpu) -> list[Cpu]:
    """The targets that a module for `cpu` holds."""
    return [TARGETS[name] for name in cpu.variants] or [cpu]
