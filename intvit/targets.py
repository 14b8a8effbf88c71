"""Named CPU targets of compiled modules: what LLVM is told, and the kernels' instruction set."""

import ctypes
import difflib
import platform
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

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
    "x86-64-v4-amx": "amx_int8",
    "x86-64-v4-vnni": "avx512_vnni",
    "x86-64-v4": "avx512bw",
    "x86-64-v3": "avx2",
    "x86-64-v1": "sse2",
    "aarch64-dotprod": "dotprod",
    "aarch64": "neon",
    "riscv64": "m",
}
"""By what a machine is known to run a target, the best of an architecture first: flags of Linux, or LLVM's features."""


def resolve(name: str) -> Cpu:
    """The target called `auto` (the best that this machine runs) or a name of `TARGETS`; else `IntvitError`."""
    if name == "auto":
        return TARGETS[next((known for known in NEEDS if runs_here(known)), "generic")]
    if name not in TARGETS:
        close = difflib.get_close_matches(name, TARGETS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise IntvitError(f"unknown target {name!r}: choose auto, {', '.join(TARGETS)}, or cuda for a GPU{hint}")
    return TARGETS[name]


def baseline(cpu: Cpu) -> Cpu:
    """The least target of an architecture: for code that runs before the instructions are known to be there."""
    names = [name for name in NEEDS if TARGETS[name].triple == cpu.triple]
    return TARGETS[names[-1]] if names else cpu


def runs_here(name: str) -> bool:
    """Whether this machine has the instructions of a target, and its system hands them out."""
    cpu = TARGETS[name]
    if cpu.variants:
        return any(runs_here(variant) for variant in cpu.variants)
    if cpu.triple.partition("-")[0] != platform.machine():
        return name == "generic"
    if name == "generic":
        return True
    if cpu.triple == X86_64:
        return NEEDS[name] in _flags() and (name != "x86-64-v4-amx" or _tiles_are_handed_out())
    native = Target({"kind": "llvm", "mtriple": cpu.triple, "mcpu": codegen.llvm_get_system_cpu()})
    return bool(codegen.target_has_features(NEEDS[name], native))


def require_here(cpu: Cpu) -> None:
    """Raises `IntvitError` for a target whose modules would refuse to run on this machine."""
    processor = cpu.triple.partition("-")[0]
    here = runs_here(cpu.name) or (cpu.name == "x86-64-v4-amx" and _has_unlisted_tiles())
    if here or (processor == platform.machine() and cpu.triple != X86_64):  # LLVM may not know the CPU: the module does
        return
    reason = (
        "needs instructions that this CPU lacks or its system does not hand out"
        if processor == platform.machine()
        else f"is for {processor}, which this machine is not"
    )
    raise IntvitError(f"target {cpu.name} {reason}: choose auto, or write a file for such a machine (`intvit compile`)")


def _has_unlisted_tiles() -> bool:
    """Tiles that are handed out but not listed, as an emulator's are; a module asks in the same way."""
    flags = _flags() if platform.machine() == "x86_64" else []
    return NEEDS["x86-64-v4-vnni"] in flags and "amx_tile" not in flags and _tiles_are_handed_out()


def _flags() -> list[str]:
    """The instructions of this machine that Linux enables; LLVM goes by the CPU's name, which a hypervisor keeps."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])


def _tiles_are_handed_out() -> bool:
    """Asks Linux for AMX's tile registers: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`."""
    return int(ctypes.CDLL(None).syscall(158, 0x1023, 18)) == 0


def variants_of(cpu: Cpu) -> list[Cpu]:
    """The targets that a module for `cpu` holds."""
    return [TARGETS[name] for name in cpu.variants] or [cpu]
