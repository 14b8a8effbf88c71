"""Floating-point arithmetic in x86-64 machine code, by the names of the instructions.

Every instruction that is named for floats (`..ps`, `..pd`, `..ss`, `..sd`, conversions, x87) is one, unless it is known
to move, shuffle, select or combine bits. Those of packed integers begin with `p` or `vp`, and so do shuffles such as
`vpermps`.

Capstone 5 ends at AVX-512 VNNI. Of what came later only integer instructions and moves are accepted, by their encoding
(Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, 2.3 and 2.7); all else cannot be read.
"""

import capstone

from intvit.verify.machine.fault import Fault

CARRIES_BITS = (
    *("mov", "maskmov", "unpck", "shuf", "blend", "broadcast", "insert", "extract", "compress", "expand"),
    *("gather", "scatter", "and", "or", "xor", "test", "stos", "lods"),
)
"""How names begin (without `v`) that are spelled for floats and compute nothing with them."""

VEX_INTEGERS = {
    **dict.fromkeys((0x49, 0x4B), "AMX: configure, load, store and clear tiles"),
    0x5E: "AMX-INT8: products of tiles",
    **dict.fromkeys((0x50, 0x51, 0x52, 0x53), "AVX-VNNI, AVX-VNNI-INT8: dot products"),
    **dict.fromkeys((0xB4, 0xB5), "AVX-IFMA: 52-bit multiply-add"),
    **dict.fromkeys((0xD2, 0xD3), "AVX-VNNI-INT16: dot products"),
}
"""Opcodes of map 2 (0F 38) under a three-byte VEX prefix, with any of its operand prefixes."""
EVEX_MOVES = {(1, 0x6E), (1, 0x7E), (2, 0x10), (2, 0x11), (2, 0x6E), (2, 0x7E)}
"""(Operand prefix, opcode) of map 5: `vmovw`, `vmovsh` of AVX512-FP16, which LLVM uses for 16-bit integers."""
VEX, EVEX = 0xC4, 0x62


def faults_in(code: bytes, address: int) -> tuple[int, list[Fault]]:
    """How many instructions `code` at `address` has, and those that a proof cannot accept; ends at an unknown one."""
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    view = memoryview(bytearray(code))  # capstone reads this in place
    count, at = 0, 0
    faults = []
    while at < len(code):
        for where, size, mnemonic, operands in engine.disasm_lite(view[at:], address + at):
            count, at = count + 1, where + size - address
            if is_float(mnemonic):
                faults.append(Fault(where, f"{mnemonic} {operands}"))
        if at < len(code):
            size = newer_size(code[at : at + 15])
            if not size:
                return count, [*faults, Fault(address + at, code[at : at + 8].hex(" "), readable=False)]
            count, at = count + 1, at + size
    return count, faults


def is_float(mnemonic: str) -> bool:
    """Whether an instruction computes with floating point, by the name that capstone gives it (`rep movsd`)."""
    name = mnemonic.rsplit(" ")[-1].removeprefix("v")
    if name.startswith("p"):
        return name.startswith(("pf", "pi2f"))  # 3DNow!
    if name.startswith(("f", "cvt")):
        return True
    return name.endswith(("ps", "pd", "ss", "sd")) and not name.startswith(CARRIES_BITS)


def newer_size(code: bytes) -> int:
    """Bytes of the instruction that `code` begins with, if it is an accepted one newer than capstone; else 0."""
    if len(code) < 6:
        return 0
    if code[0] == VEX and code[1] & 31 == 2 and code[3] in VEX_INTEGERS:
        return 4 + operand_size(code[4:])
    if code[0] == EVEX and code[1] & 7 == 5 and (code[2] & 3, code[4]) in EVEX_MOVES:
        return 5 + operand_size(code[5:])
    return 0


def operand_size(code: bytes) -> int:
    """Bytes of ModRM, SIB and displacement (the manual's tables 2-2 and 2-3)."""
    mode, register = code[0] >> 6, code[0] & 7
    indexed = mode != 3 and register == 4
    if mode == 0:
        base = code[1] & 7 if indexed else register
        displacement = 4 if base == 5 else 0
    else:
        displacement = {1: 1, 2: 4, 3: 0}[mode]
    return 1 + indexed + displacement
