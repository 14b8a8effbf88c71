"""Floating-point arithmetic in RISC-V machine code, by its major opcodes: capstone 5 does not know vectors.

Source: The RISC-V Instruction Set Manual, volume I: the base opcode map, and the chapters of F, D and V. Compressed
instructions (16 bits) only load and store floats.
"""

from intvit.verify.machine.fault import Fault

COMPUTES_NO_FLOATS = {
    *(0x03, 0x13, 0x1B, 0x23, 0x33, 0x3B, 0x37, 0x17),  # loads, stores and arithmetic of integers
    *(0x63, 0x67, 0x6F, 0x0F, 0x73, 0x2F),  # branches, fences, system, atomics
    *(0x07, 0x27, 0x77),  # loads and stores of floats and vectors; vector cryptography
}
FUSED = {0x43, 0x47, 0x4B, 0x4F}
OP_FP, OP_V = 0x53, 0x57
OPFVV, OPFVF = 1, 5
"""Categories of vector arithmetic (funct3) that compute with floats."""


def faults_in(code: bytes, address: int) -> tuple[int, list[Fault]]:
    """How many instructions `code` at `address` has, and those that a proof cannot accept."""
    count, at = 0, 0
    faults = []
    while at < len(code):
        size = 4 if code[at] & 3 == 3 else 2
        word = int.from_bytes(code[at : at + size], "little")
        if size == 4:
            computes = is_float(word)
            if computes is not False:
                faults.append(Fault(address + at, f"{word:08x}", readable=computes is True))
        count, at = count + 1, at + size
    return count, faults


def is_float(word: int) -> bool | None:
    """Whether a 32-bit instruction computes with floating point; None for one that is in no ratified extension."""
    opcode = word & 0x7F
    if opcode in COMPUTES_NO_FLOATS:
        return False
    if opcode in FUSED:
        return True
    if opcode == OP_FP:
        return not _moves_a_scalar(word)
    if opcode == OP_V:
        return (word >> 12) & 7 in (OPFVV, OPFVF) and not _moves_a_vector(word)
    return None


def _moves_a_scalar(word: int) -> bool:
    """`fmv.x.w`, `fmv.w.x` and their other widths; `fmv.s`, which is `fsgnj` of one register with itself."""
    operation, rounding, first, second = word >> 27, (word >> 12) & 7, (word >> 15) & 31, (word >> 20) & 31
    if operation in (0b11100, 0b11110):
        return rounding == 0 and second == 0
    return operation == 0b00100 and rounding == 0 and first == second


def _moves_a_vector(word: int) -> bool:
    """`vfmv.f.s`, `vfmv.s.f`, and `vfmv.v.f` or `vfmerge`."""
    operation, category, first, second = word >> 26, (word >> 12) & 7, (word >> 15) & 31, (word >> 20) & 31
    if category == OPFVV:
        return operation == 0b010000 and first == 0
    return operation == 0b010111 or (operation == 0b010000 and second == 0)
