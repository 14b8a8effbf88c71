"""Floating-point arithmetic in PTX, by the types that declarations and instructions name.

Source: Parallel Thread Execution ISA, "Types" and "Instruction Set". Every float instruction, register and variable
names its type (`add.f32`, `.reg .f64`), and moves of untyped bits are `.b16`, `.b32`. An integer division by a value
that is not a constant names no float type, but is computed with floats in the machine code (`I2F`, `MUFU.RCP`).
"""

import re

from intvit.verify.machine.routine import Routine

COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
LINE = re.compile(r"^[ \t]*\.(?:loc|file|version|target|address_size)\b[^\n]*", re.MULTILINE)
"""Directives that end with their line, and not with a semicolon."""
BEGINS = re.compile(r"\.(entry|func)\s+(?:\([^)]*\)\s*)?([\w$%.]+)([^{;]*)([{;])")
"""A function or its declaration: kind, name, parameters, and the brace that opens its body."""
BRACE = re.compile(r"[{}]")
LABEL = re.compile(r"(?:[{}\s]|[\w$%]+:(?!:))*")
"""Blocks and labels before an instruction."""
GUARD = re.compile(r"@!?%?\w+\s+")
FLOAT_TYPE = re.compile(r"\.(?:[bt]?f\d+|u?e\d+m\d+|s\d+f\d+)(?:x\d+)?\b")
FLOAT_NUMBER = re.compile(r"\b0[fF][0-9a-fA-F]{8}\b|\b0[dD][0-9a-fA-F]{16}\b|\b\d+\.\d")
DIVISION = re.compile(r"(?:div|rem)\.[su]\d+\s.*,\s*(\S+)$")
CONSTANT = re.compile(r"-?\d\w*")
CALLED = re.compile(r"call(?:\.uni)?\s+(?:\([^)]*\)\s*,\s*)?([\w$%.]+)")
MATRIX_PRODUCT = re.compile(r"(?:mma|wmma\.mma|wgmma\.mma_async)\.\S*\.s32\.[su][48]\.[su][48]\b|dp4a\.")


def read(text: str) -> tuple[tuple[Routine, ...], tuple[str, ...]]:
    """The functions of a PTX module, and what it declares outside of their bodies."""
    text = LINE.sub("", COMMENT.sub("", text))
    routines, outside, at = [], "", 0
    while begin := BEGINS.search(text, at):
        outside += text[at : begin.end(3)] + ";"
        at = begin.end()
        if begin[4] == "{":
            end = _end_of_body(text, at)
            routines.append(Routine(begin[2], begin[1] == "entry", _statements(text[at:end])))
            at = end
    return tuple(routines), _statements(outside + text[at:])


def fault_of(statement: str, functions: frozenset[str]) -> str | None:
    """Why an instruction or a declaration is not of integers, where `functions` may be called; None if it is."""
    found = FLOAT_TYPE.search(statement)
    if found:
        return f"has the float type {found[0][1:]}"
    if FLOAT_NUMBER.search(statement):
        return "has a float constant"
    division = DIVISION.match(statement)
    if division and not CONSTANT.fullmatch(division[1]):
        return "divides by a variable, which is computed in floating point"
    if statement.startswith("call"):
        called = CALLED.match(statement)
        if called is None or called[1] not in functions:
            return "calls a function that is not in the module"
    return None


def is_matrix_product(instruction: str) -> bool:
    """Whether it multiplies 8-bit or 4-bit integers and adds the products up in 32 bits."""
    return MATRIX_PRODUCT.match(instruction) is not None


def _end_of_body(text: str, at: int) -> int:
    depth = 1
    for brace in BRACE.finditer(text, at):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.end()
    return len(text)


def _statements(text: str) -> tuple[str, ...]:
    """Instructions and declarations, each on one line, without labels and guards."""
    lines = (" ".join(part.split()) for part in text.split(";"))
    found = []
    for line in lines:
        start = LABEL.match(line)
        line = line[start.end() if start else 0 :]
        guard = GUARD.match(line)
        line = line[guard.end() if guard else 0 :]
        if line:
            found.append(line)
    return tuple(found)
