"""What the proof reads of an ELF file (64 bits, little-endian): executable sections, functions, imports.

Source: System V Application Binary Interface, chapters 4 (object files: sections, symbols) and 5 (program loading).
"""

import platform
import struct
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

from intvit.errors import IntvitError

PROGBITS, SYMTAB, STRTAB, DYNSYM = 1, 2, 3, 11
EXECUTABLE = 4
FUNCTION = 2
PROCESSORS = {62: "x86_64", 183: "aarch64", 243: "riscv64"}
"""By `e_machine`, as `platform.machine` calls them."""
SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")


@dataclass(frozen=True)
class Code:
    """An executable section; `functions` are (address, name), sorted."""

    address: int
    content: bytes
    functions: tuple[tuple[int, str], ...]

    def function_at(self, address: int) -> str:
        """The function that holds an address: the last one that begins before it."""
        index = bisect_right(self.functions, address, key=lambda entry: entry[0])
        return self.functions[index - 1][1] if index else "(start of the section)"


@dataclass(frozen=True)
class Elf:
    """The number of the processor (`e_machine`), all code, and the names that other libraries must give."""

    machine: int
    code: tuple[Code, ...]
    imports: tuple[str, ...]


@dataclass(frozen=True)
class _Section:
    kind: int
    flags: int
    address: int
    content: bytes
    link: int


def foreign_processor(path: Path) -> str | None:
    """The processor that a file is for where this machine's is another; None for one that is not ELF, or not there."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        header = file.read(20)
    name = PROCESSORS.get(int.from_bytes(header[18:], "little")) if header.startswith(b"\x7fELF") else None
    return None if name == platform.machine() else name


def read(path: Path) -> Elf:
    """The code in `path`; raises `IntvitError` for a missing or damaged file, or one of another format."""
    if not path.is_file():
        raise IntvitError(f"{path}: no such file")
    content = path.read_bytes()
    if content[:6] != b"\x7fELF\x02\x01":
        raise IntvitError(f"{path}: not a library of a 64-bit little-endian Linux (ELF): its code cannot be read")
    try:
        return _elf(content)
    except (struct.error, IndexError, ValueError) as error:
        raise IntvitError(f"{path}: damaged, its code cannot be read ({error})") from error


def _elf(content: bytes) -> Elf:
    sections = _sections(content)
    functions: dict[int, dict[int, str]] = {}
    imports = set()
    for table in (s for s in sections if s.kind in (SYMTAB, DYNSYM)):
        names = sections[table.link].content
        for name, info, _, section, value, _ in SYMBOL.iter_unpack(table.content):
            if section == 0 and name:
                imports.add(_text(names, name))
            elif info & 15 == FUNCTION:
                functions.setdefault(section, {})[value] = _text(names, name)
    code = (
        Code(s.address, s.content, tuple(sorted(functions.get(index, {}).items())))
        for index, s in enumerate(sections)
        if s.kind == PROGBITS and s.flags & EXECUTABLE and s.content
    )
    return Elf(struct.unpack_from("<H", content, 18)[0], tuple(code), tuple(sorted(imports)))


def _sections(content: bytes) -> list[_Section]:
    (start,) = struct.unpack_from("<Q", content, 40)
    size, count = struct.unpack_from("<HH", content, 58)
    sections = []
    for index in range(count):
        _, kind, flags, address, offset, length, link, *_ = SECTION_HEADER.unpack_from(content, start + index * size)
        stored = content[offset : offset + length] if kind in (PROGBITS, SYMTAB, STRTAB, DYNSYM) else b""
        if kind == PROGBITS and len(stored) != length:
            raise ValueError("it is cut short")
        sections.append(_Section(kind, flags, address, stored, link))
    return sections


def _text(names: bytes, start: int) -> str:
    return names[start : names.index(0, start)].decode(errors="replace")
