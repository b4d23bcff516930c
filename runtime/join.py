"""Joins relocatable objects into one, as `ld -r` would, with no tool but Python.

A long program is generated in parts. What one of them calls and another defines is found by name; hidden names become
local ones, since nobody outside the program may use them. Sections are kept as they are, one behind the other: their
relocations name symbols, so only the numbers of symbols change. A single object comes back as it is, and equal input
gives equal bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from . import elf
from .elf import Buffer, Elf, Symbol
from .errors import BadObject
from .relocate import DROPPED, align

FILE = 4  # the kind of the symbol that names a source


class Piece(NamedTuple):
    """A section of the result. ORDER: its number is its place in the table."""

    name: str
    type: int
    flags: int
    content: bytes
    size: int
    link: int = 0
    info: int = 0
    alignment: int = 1
    entry_size: int = 0


def join(objects: Sequence[Buffer]) -> bytes:
    """The object that defines what any of these defines."""
    if len(objects) == 1:
        return bytes(objects[0])
    files = [Elf(data) for data in objects]
    if any(file.kind != elf.RELOCATABLE for file in files):
        raise BadObject("not a relocatable object", code="TD0904")
    if len({file.machine for file in files}) != 1:
        raise BadObject("objects for different machines cannot be joined", code="TD0902")
    return _Joined(files).build()


class _Joined:
    """One object in the making: sections, then the symbols of all files, then relocations, which need both."""

    def __init__(self, files: Sequence[Elf]) -> None:
        self.files = files
        self.pieces = [Piece("", 0, 0, b"", 0, alignment=0)]
        # By file: the old number of a section or of a symbol -> the new one.
        self.sections: list[dict[int, int]] = []
        self.symbols: list[dict[int, int]] = []
        for file in files:
            self.sections.append(self.take_sections(file))
        self.names = bytearray(1)
        self.rows = [bytes(elf.SYMBOL.size)]
        self.take_symbols()

    def take_sections(self, file: Elf) -> dict[int, int]:
        numbers: dict[int, int] = {}
        for number, section in enumerate(file.sections):
            if not section.flags & elf.ALLOC or section.name.startswith(DROPPED):
                continue
            numbers[number] = len(self.pieces)
            name, type, flags, _, _, size, _, _, alignment, entry_size = section
            content = bytes(file.content(section))
            self.pieces.append(Piece(name, type, flags, content, size, 0, 0, alignment, entry_size))
        return numbers

    def take_symbols(self) -> None:
        """Local ones first, as the format asks; then what is defined for others, then what is wanted of them."""
        tables = [file.symbols() for file in self.files]
        self.symbols = [{} for _ in tables]
        defined: dict[str, int] = {}
        for inside in (True, False):
            for table, sections, numbers in zip(tables, self.sections, self.symbols, strict=True):
                for old, symbol in enumerate(table):
                    local = symbol.binding == elf.LOCAL
                    if symbol.section == elf.UNDEFINED or symbol.kind == FILE:
                        continue
                    if inside is not (local or symbol.visibility in elf.HIDDEN):
                        continue
                    if symbol.section not in sections:
                        if local:
                            continue  # of a section that is not loaded
                        raise BadObject(f"{symbol.name!r} lies in no section that is loaded", code="TD0905")
                    if not local and symbol.name in defined:
                        raise BadObject(f"two objects define {symbol.name!r}", code="TD0913")
                    numbers[old] = self.row(symbol, sections[symbol.section], elf.LOCAL if inside else symbol.binding)
                    if not local:
                        defined[symbol.name] = numbers[old]
            if inside:
                self.locals = len(self.rows)
        for table, numbers in zip(tables, self.symbols, strict=True):
            for old, symbol in enumerate(table):
                if old and symbol.section == elf.UNDEFINED:
                    if symbol.name not in defined:
                        defined[symbol.name] = self.row(symbol, elf.UNDEFINED, symbol.binding)
                    numbers[old] = defined[symbol.name]

    def row(self, symbol: Symbol, section: int, binding: int) -> int:
        """Put a symbol into the table; returns its number."""
        name = 0
        if symbol.name:
            name = len(self.names)
            self.names += symbol.name.encode() + b"\0"
        self.rows.append(
            elf.SYMBOL.pack(name, binding << 4 | symbol.kind, symbol.visibility, section, symbol.value, symbol.size)
        )
        return len(self.rows) - 1

    def relocations(self) -> list[Piece]:
        """The relocations of every section that is kept; the table of symbols comes right behind the last."""
        found: list[tuple[str, int, int, bytes]] = []
        for file, sections, symbols in zip(self.files, self.sections, self.symbols, strict=True):
            for section in file.sections:
                if section.type == elf.RELA and section.info in sections:
                    rows = bytearray()
                    for offset, type, symbol, addend in file.relocations(section):
                        if symbol not in symbols:
                            raise elf.damaged("a relocation names no symbol")
                        rows += elf.RELOCATION.pack(offset, symbols[symbol] << 32 | type, addend)
                    found.append((section.name, sections[section.info], section.flags, bytes(rows)))
        table = len(self.pieces) + len(found)
        return [
            Piece(name, elf.RELA, flags, rows, len(rows), table, target, 8, elf.RELOCATION.size)
            for name, target, flags, rows in found
        ]

    def build(self) -> bytes:
        pieces = [*self.pieces, *self.relocations()]
        number = len(pieces)
        rows = b"".join(self.rows)
        pieces += [
            Piece(".symtab", elf.SYMTAB, 0, rows, len(rows), number + 1, self.locals, 8, elf.SYMBOL.size),
            Piece(".strtab", elf.STRTAB, 0, bytes(self.names), len(self.names)),
            # A linker takes an object without this for one that wants its stack executable.
            Piece(".note.GNU-stack", elf.PROGBITS, 0, b"", 0),
        ]
        titles = bytearray(1)
        places: dict[str, int] = {"": 0}
        for name in [*(piece.name for piece in pieces), ".shstrtab"]:
            if name not in places:
                places[name] = len(titles)
                titles += name.encode() + b"\0"
        pieces.append(Piece(".shstrtab", elf.STRTAB, 0, bytes(titles), len(titles)))
        if len(pieces) >= elf.FIRST_RESERVED:
            raise BadObject(f"{len(pieces)} sections are too many for one object", code="TD0905")
        out = bytearray(elf.HEADER.size)
        headers = []
        for piece in pieces:
            name, type, flags, content, size, link, info, alignment, entry_size = piece
            out += bytes(align(len(out), alignment) - len(out))
            headers.append(
                elf.SECTION_HEADER.pack(
                    places[name], type, flags, 0, len(out) if type else 0, size, link, info, alignment, entry_size
                )
            )
            out += content
        out += bytes(align(len(out), 8) - len(out))
        machine, table = self.files[0].machine, len(out)
        out[: elf.HEADER.size] = elf.HEADER.pack(
            elf.IDENTITY, elf.RELOCATABLE, machine, 1, 0, 0, table, 0, elf.HEADER.size, 0, 0,
            elf.SECTION_HEADER.size, len(pieces), len(pieces) - 1,
        )  # fmt: skip
        return bytes(out + b"".join(headers))
