"""Inline assembly in PTX as a call of the function of `simt.h` that does the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

Operands = list[str]


class UnknownInstruction(Exception):
    """What the emulator does not know."""


def rewrite_assembly(text: str) -> str:
    """`text` with each `asm volatile("instruction" : outputs : inputs : clobbers)` replaced; lines stay.

    Raises:
        UnknownInstruction: names an instruction, or a form of one, that is not emulated.
    """
    pieces, end = [], 0
    for start, stop, inside in _statements(text):
        lines = "\n" * text.count("\n", start, stop)
        pieces += [text[end:start], _call(inside), lines]
        end = stop
    return "".join([*pieces, text[end:]])


def _statements(text: str) -> Iterator[tuple[int, int, str]]:
    """Begin and end of each statement, and what stands between its parentheses."""
    for found in re.finditer(r"\basm(?:\s+volatile)?\s*\(", text):
        inside = _until_closed(text, found.end())
        yield found.start(), found.end() + len(inside) + 1, inside


def _until_closed(text: str, start: int) -> str:
    depth, quoted = 1, False
    for i in range(start, len(text)):
        if text[i] == '"' and text[i - 1] != "\\":
            quoted = not quoted
        elif not quoted:
            depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return text[start:i]
    raise UnknownInstruction(f"assembly without an end: {text[start : start + 80]}")


def _call(inside: str) -> str:
    found = re.match(r'\s*((?:"(?:[^"\\]|\\.)*"\s*)+)(.*)', inside, re.DOTALL)
    if found is None:
        raise UnknownInstruction(f"assembly that cannot be read: {inside}")
    template = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', found[1])).replace("\\n", " ").replace("\\t", " ")
    expressions = re.findall(r'"[=+]?&?[a-z]"\s*\(([^()]*)\)', found[2])
    instruction = template.strip().rstrip(";").strip()
    mnemonic, _, rest = instruction.partition(" ")
    if ";" in rest or "{" in mnemonic or mnemonic.startswith("@"):
        raise UnknownInstruction(f"not a single instruction: {template}")

    def expression(operand: re.Match[str]) -> str:
        return f"({expressions[int(operand[1])]})"

    operands = [re.sub(r"%(\d+)", expression, part.strip(" {}[]\t")) for part in rest.split(",") if part.strip()]
    for pattern, emit in _INSTRUCTIONS:
        if matched := re.fullmatch(pattern, mnemonic):
            try:
                return emit(matched, operands)
            except (IndexError, ValueError) as e:
                raise UnknownInstruction(f"a form that is not emulated: {instruction}") from e
    raise UnknownInstruction(f"instruction that is not emulated: {instruction}")


def _registers(operands: Operands) -> str:
    return ", ".join(f"simt::in({o})" for o in operands)


def _results(operands: Operands) -> str:
    return ", ".join(f"simt::out({o})" for o in operands)


def _exactly(operands: Operands, count: int) -> Operands:
    if len(operands) != count:
        raise ValueError(f"{count} operands wanted, {len(operands)} given")
    return operands


def _flag(value: bool) -> str:
    return "true" if value else "false"


_MMA_REGISTERS = {"m8n8k16": (2, 4), "m16n8k16": (4, 7), "m16n8k32": (4, 10)}
"""Registers of D; of A, B and C together."""


def _multiply(m: re.Match[str], operands: Operands) -> str:
    results, sources = _MMA_REGISTERS[m[1]]
    _exactly(operands, results + sources)
    signs = f"{_flag(m[2] == 's8')}, {_flag(m[3] == 's8')}"
    d, abc = _results(operands[:results]), _registers(operands[results:])
    return f"simt::multiply(simt::Shape::{m[1]}, {signs}, {{{d}}}, {{{abc}}});"


def _load_matrix(m: re.Match[str], operands: Operands) -> str:
    count = int(m[1])
    *results, address = _exactly(operands, count + 1)
    return f"simt::load_matrix({_flag(m[2] is not None)}, {{{_results(results)}}}, simt::in({address}));"


def _copy(m: re.Match[str], operands: Operands) -> str:
    to, source, size, *read = operands
    if size not in (("16",) if m[1] == "cg" else ("4", "8", "16")) or len(read) > 1:
        raise ValueError("cp-size, or more than src-size")
    return f"simt::copy_async(simt::in({to}), (const char*){source}, {size}, simt::in({read[0] if read else size}));"


def _wait_group(m: re.Match[str], operands: Operands) -> str:
    return f"simt::wait_group({int(_exactly(operands, 1)[0])});"


def _shuffle(m: re.Match[str], operands: Operands) -> str:
    d, *rest = _exactly(operands, 5)
    if "|" in d:
        raise ValueError("a predicate as result")
    return f"*simt::out({d}) = simt::shuffle(simt::Shuffle::{m[1]}, {_registers(rest)});"


def _dot4(m: re.Match[str], operands: Operands) -> str:
    d, *rest = _exactly(operands, 4)
    signs = f"{_flag(m[1] == 's32')}, {_flag(m[2] == 's32')}"
    return f"*simt::out({d}) = simt::dot4({signs}, {_registers(rest)});"


def _value(function: str, sources: int) -> Callable[[re.Match[str], Operands], str]:
    def emit(m: re.Match[str], operands: Operands) -> str:
        d, *rest = _exactly(operands, sources + 1)
        return f"*simt::out({d}) = {function}({_registers(rest)});"

    return emit


def _plain(statement: str) -> Callable[[re.Match[str], Operands], str]:
    def emit(m: re.Match[str], operands: Operands) -> str:
        _exactly(operands, 0)
        return statement

    return emit


def _sync_warp(m: re.Match[str], operands: Operands) -> str:
    return f"simt::sync_warp({_exactly(operands, 1)[0]});"


def _barrier(m: re.Match[str], operands: Operands) -> str:
    if _exactly(operands, 1) != ["0"]:
        raise ValueError("a barrier other than 0")
    return "simt::sync_threads();"


_TYPE = r"\.([su]8)"
_INSTRUCTIONS: tuple[tuple[str, Callable[[re.Match[str], Operands], str]], ...] = (
    (rf"mma\.sync\.aligned\.(m8n8k16|m16n8k16|m16n8k32)\.row\.col\.s32{_TYPE}{_TYPE}\.s32", _multiply),
    (r"ldmatrix\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.shared(?:::cta)?\.b16", _load_matrix),
    (r"cp\.async\.(ca|cg)\.shared(?:::cta)?\.global(?:\.L2::(?:64|128|256)B)?", _copy),
    (r"cp\.async\.commit_group", _plain("simt::commit_group();")),
    (r"cp\.async\.wait_group", _wait_group),
    (r"cp\.async\.wait_all", _plain("simt::wait_all();")),
    (r"shfl\.sync\.(up|down|bfly|idx)\.b32", _shuffle),
    (r"prmt\.b32", _value("simt::permute", 3)),
    (r"dp4a\.([su]32)\.([su]32)", _dot4),
    (r"mul\.hi\.s32", _value("__mulhi", 2)),
    (r"mul\.hi\.u32", _value("__umulhi", 2)),
    (r"clz\.b32", _value("__clz", 1)),
    (r"popc\.b32", _value("__popc", 1)),
    (r"bar\.warp\.sync", _sync_warp),
    (r"(?:bar|barrier)(?:\.cta)?\.sync(?:\.aligned)?", _barrier),
)
