"""Floating-point arithmetic in AArch64 machine code, by the names of the instructions (Arm ARM, DDI 0487).

Names of float instructions begin with `f` or, for bfloat16, with `bf`; conversions from integers are `scvtf`, `ucvtf`.
"""

import re

import capstone

from intvit.verify.machine.fault import Fault

SIZE = 4
FLOAT = re.compile(r"f(?!mov$|csel$)|bf(?!c$|i$|m$|xil$)|[su]cvtf")
"""Not `fmov` and `fcsel`, which move and select, nor the bit-field instructions `bfc`, `bfi`, `bfm`, `bfxil`."""


def faults_in(code: bytes, address: int) -> tuple[int, list[Fault]]:
    """How many instructions `code` at `address` has, and those that a proof cannot accept."""
    engine = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN)
    view = memoryview(bytearray(code))  # capstone reads this in place
    count, at = 0, 0
    faults = []
    while at < len(code):
        for where, _, mnemonic, operands in engine.disasm_lite(view[at:], address + at):
            count, at = count + 1, where + SIZE - address
            if is_float(mnemonic):
                faults.append(Fault(where, f"{mnemonic} {operands}"))
        if at < len(code):
            faults.append(Fault(address + at, code[at : at + SIZE].hex(" "), readable=False))
            at += SIZE
    return count, faults


def is_float(mnemonic: str) -> bool:
    """Whether an instruction computes with floating point."""
    return FLOAT.match(mnemonic) is not None
