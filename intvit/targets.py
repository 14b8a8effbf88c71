"""Named CPU targets of compiled modules."""

import difflib

from tvm.target import Target, codegen

from intvit.errors import IntvitError

X86_64 = "x86_64-linux-gnu"
TARGETS: dict[str, dict[str, str]] = {
    "x86-64-v4": {"mtriple": X86_64, "mcpu": "x86-64-v4"},
    "x86-64-v3": {"mtriple": X86_64, "mcpu": "x86-64-v3"},
    "x86-64": {"mtriple": X86_64, "mcpu": "x86-64"},
}
"""Portable levels of x86-64 (its psABI): AVX-512, AVX2, SSE2. `auto` is this machine's own CPU."""


def resolve(name: str) -> Target:
    """The TVM target called `auto` (this machine) or a name of `TARGETS`; raises `IntvitError` for any other."""
    if name == "auto":
        own = {"mtriple": codegen.llvm_get_system_triple(), "mcpu": codegen.llvm_get_system_cpu()}
        return Target({"kind": "llvm", **own})
    if name not in TARGETS:
        close = difflib.get_close_matches(name, TARGETS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise IntvitError(f"unknown target {name!r}: choose auto, {', '.join(TARGETS)}{hint}")
    return Target({"kind": "llvm", **TARGETS[name]})


def features(target: Target) -> str:
    """The name that a module carries: the CPU that it was compiled for."""
    return str(target.attrs.get("mcpu", "generic"))
