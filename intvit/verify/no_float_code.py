"""The proof that machine code computes nothing in floating point. Needs neither torch nor TVM."""

import re
from collections.abc import Callable
from pathlib import Path

from intvit.errors import VerifyError
from intvit.verify.machine import aarch64, elf, riscv, x86
from intvit.verify.machine.fault import Fault

Reader = Callable[[bytes, int], tuple[int, list[Fault]]]
READERS: dict[int, Reader] = {62: x86.faults_in, 183: aarch64.faults_in, 243: riscv.faults_in}
"""By processor, as ELF numbers them."""
SHOWN = 5

INTEGER_IMPORTS = re.compile(
    r"TVM|tvm|_ITM_|(mem(cpy|move|set|cmp)|syscall|getauxval|sched_yield|(__register|pthread)_atfork)(@|$)|_GLOBAL_OFFSET_TABLE_$|__(?!.*([bhsdtx]f|h2f|f2h|_finite))"
)
"""TVM's runtime, the C library's memory, and the toolchain's own, but neither its arithmetic for processors without
floating point (`__addsf3`, `__floatsidf`) nor `libm`."""


def prove_no_float_instructions(path: str | Path) -> int:
    """No instruction in any executable section of a compiled module (`*.so`, `*.o`) is floating-point arithmetic.

    Returns how many there are. Raises `VerifyError` with the functions of the first that are, or that cannot be read,
    and for calls to other libraries that may compute in floating point; `IntvitError` for a file that is not ELF.
    """
    library = elf.read(Path(path))
    reader = READERS.get(library.machine)
    if reader is None:
        raise VerifyError(
            f"{path}: the code of processor {library.machine} (ELF) cannot be read: only x86-64, AArch64, RISC-V"
        )
    total = 0
    lines = [f"{name}, of another library, is called" for name in library.imports if not INTEGER_IMPORTS.match(name)]
    for code in library.code:
        count, faults = reader(code.content, code.address)
        total += count
        lines += [_described(code, fault) for fault in faults]
    if lines:
        more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        shown = "\n  ".join(lines[:SHOWN] + more)
        raise VerifyError(f"{path}: {len(lines)} instructions are or may be floating-point arithmetic:\n  {shown}")
    if not total:
        raise VerifyError(f"{path}: holds no code: nothing is proved")
    return total


def _described(code: elf.Code, fault: Fault) -> str:
    what = "computes in floating point" if fault.readable else "is an instruction that is not known"
    return f"{code.function_at(fault.address)}: {fault.address:#x}: {fault.instruction} {what}"
