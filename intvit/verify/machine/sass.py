"""Instructions of NVIDIA GPUs (SASS), judged by their names: integers only, and nothing in local memory.

Source: CUDA Binary Utilities, "Instruction Set Reference", the tables of Turing, Ampere and Ada, Hopper, Blackwell. An
instruction that is in none of their lists for integers, moves, predicates, memory and control is refused: so are new
ones. One float instruction is accepted in one form, in which the assembler uses it to make a constant:
`HFMA2.MMA R5, -RZ, RZ, 0, 2.38e-07` adds a constant to minus zero times zero, which gives that constant bit by bit.
"""

import re

from intvit.verify.machine.routine import Routine

INTEGER = "BMSK BREV FLO IABS IADD IADD3 IADD32I IDP IDP4A IMAD IMNMX IMUL IMUL32I ISCADD ISCADD32I ISETP LEA"
LOGIC = "LOP LOP3 LOP32I POPC SHF SHL SHR VABSDIFF VABSDIFF4 VIADD VIADDMNMX VIMNMX VIMNMX3 I2I I2IP"
PRODUCTS = "IMMA IGMMA IDP IDP4A"
MOVES = "MOV MOV32I MOVM PRMT SEL SGXT SHFL PLOP3 PSETP P2R R2P B2R CS2R S2R LEPC NOP MATCH VOTE"
MEMORY = (
    "FENCE LD LDC LDG LDGDEPBAR LDGSTS LDS LDSM STSM ST STG STS STAS SYNCS QSPC ATOM ATOMS ATOMG RED REDAS REDG CCTL"
)
BARRIERS = "ERRBAR MEMBAR BAR DEPBAR ARRIVES WARPGROUP WARPGROUPSET WARPSYNC NANOSLEEP YIELD ELECT ENDCOLLECTIVE"
UNIFORM = (
    "R2UR REDUX CREDUX S2UR CS2UR LDCU UBMSK UBREV UCGABAR_ARV UCGABAR_WAIT UCLEA UFLO UI2I UI2IP UIABS UIADD3 UIMAD "
    "UIMNMX UISETP ULDC ULEA ULEPC ULOP ULOP3 ULOP32I UMOV UP2UR UPLOP3 UPOPC UPRMT UPSETP UR2UP USEL USETMAXREG USGXT "
    "USHF USHL USHR UVIADD UVIMNMX VOTEU UBLKCP UBLKPF UTMALDG UTMASTG UTMAPF UTMACCTL UTMACMDFLUSH"
)
CONTROL = "ACQBULK BMOV BPT BRA BREAK BRX BRXU BSSY BSYNC CALL CGAERRBAR EXIT JMP JMX JMXU KILL PREEXIT RET RPCMOV"
KNOWN = frozenset(" ".join((INTEGER, LOGIC, PRODUCTS, MOVES, MEMORY, BARRIERS, UNIFORM, CONTROL)).split())
MATRIX_PRODUCT = frozenset(PRODUCTS.split())
FLOAT = re.compile(r"U?[FHD]\w+|MUFU|U?I2FP?|VHMNMX|Q\w*MMA")
"""Instructions with floats, among those that are not known."""
LOCAL = {"LDL", "STL", "CCTLL"}

FLOATS = "computes in floating point"

SECTION = re.compile(r"^\.section\s+\.text\.([\w$.]+)")
INSTRUCTION = re.compile(r"^/\*[0-9a-f]{4,}\*/\s*(?:@!?U?P\w+\s+)?(.*?)\s*;?\s*(?:/\*.*)?$")
NOTE = re.compile(r"\s*\(\*.*?\*\)")
"""What the disassembler says of an instruction, such as `(*"SpillRefill"*)`."""
ENTRY = "STO_CUDA_ENTRY"
OPCODE = re.compile(r"\w+")
FLOAT_TYPE = re.compile(r"\.(?:[BT]?F\d+|U?E\d+M\d+)")
NUMBER = r"[+-]?(?:\d[\d.]*(?:e[+-]?\d+)?|INF|QNAN|SNAN)"
CONSTANT_MOVE = re.compile(rf"HFMA2(?:\.MMA)? R\d+, -RZ, RZ, {NUMBER} *, {NUMBER}")


def read(text: str) -> tuple[Routine, ...]:
    """The functions in what `nvdisasm -c` printed of an image."""
    routines: list[Routine] = []
    name, kernel, found = "", False, list[str]()
    for line in map(str.strip, text.splitlines()):
        section = SECTION.match(line)
        if section:
            routines.append(Routine(name, kernel, tuple(found)))
            name, kernel, found = section[1], False, []
        elif line.startswith("/*"):
            instruction = INSTRUCTION.match(NOTE.sub("", line))
            found.append(instruction[1] if instruction else line)
        elif line.startswith(".other") and ENTRY in line:
            kernel = True
    return (*routines[1:], Routine(name, kernel, tuple(found))) if routines else ()


def fault_of(instruction: str) -> str | None:
    """Why an instruction is refused; None if it computes with integers and keeps off local memory."""
    found = OPCODE.match(instruction)
    opcode = found[0] if found else ""
    if opcode in LOCAL:
        return "uses local memory: registers are spilled"
    if CONSTANT_MOVE.fullmatch(instruction):
        return None
    if opcode in KNOWN:
        return FLOATS if FLOAT_TYPE.search(instruction.split(" ")[0]) else None
    return FLOATS if FLOAT.fullmatch(opcode) else "is not a known instruction"


def is_matrix_product(instruction: str) -> bool:
    """Whether it multiplies small integers and adds the products up in 32 bits."""
    found = OPCODE.match(instruction)
    return found is not None and found[0] in MATRIX_PRODUCT
