"""Reads ELF64: objects made by a code generator, shared libraries made by us or by anyone.

A file is untrusted until it is read: every offset, count and string is checked against the bytes at hand, so
damaged input ends in `BadObject` and never in a wild read. Only little-endian x86-64 and aarch64 are known;
anything else is refused by name. Nothing is written or mapped here: `relocate.py` places an object, `link.py`
and `loader.py` use that.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from .errors import BadObject

Buffer = bytes | bytearray | memoryview

X86_64 = 62
AARCH64 = 183
MACHINES = {X86_64: "x86-64", AARCH64: "aarch64"}

# File kinds.
RELOCATABLE = 1
SHARED = 3

# Section types and flags.
PROGBITS = 1
SYMTAB = 2
STRTAB = 3
RELA = 4
HASH = 5
DYNAMIC = 6
NOTE = 7
NOBITS = 8
DYNSYM = 11
CONSTRUCTORS = (14, 15, 16)  # init, fini and preinit arrays
WRITE = 1
ALLOC = 2
EXECUTE = 4
INFO_LINK = 64
TLS = 1024

# Symbol bindings, kinds, visibilities and the section indices that are no section.
LOCAL = 0
GLOBAL = 1
WEAK = 2
NO_TYPE = 0
OBJECT = 1
FUNCTION = 2
SECTION = 3
DEFAULT = 0
HIDDEN = (1, 2)  # internal and hidden: not for other libraries
UNDEFINED = 0
FIRST_RESERVED = 0xFF00

# Segment kinds and flags.
LOAD = 1
DYNAMIC_SEGMENT = 2
STACK = 0x6474E551
RELRO = 0x6474E552
READABLE = 4
WRITABLE = 2
EXECUTABLE = 1

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
SYMBOL = struct.Struct("<IBBHQQ")
RELOCATION = struct.Struct("<QQq")
IDENTITY = b"\x7fELF\x02\x01\x01" + bytes(9)  # 64 bits, little-endian, version 1, System V


class Section(NamedTuple):
    """A row of the section header table. `offset` and `size` lie inside the file unless the type is
    NOBITS."""

    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


class Segment(NamedTuple):
    """A row of the program header table."""

    type: int
    flags: int
    offset: int
    address: int
    file_size: int
    memory_size: int
    alignment: int


class Symbol(NamedTuple):
    """A row of a symbol table; `section` is an index, 0 for undefined."""

    name: str
    value: int
    size: int
    section: int
    binding: int
    kind: int
    visibility: int


class Relocation(NamedTuple):
    """Add `addend` to the symbol's address and store it, in the way of `type`, at `offset` of the section."""

    offset: int
    type: int
    symbol: int
    addend: int


class Elf:
    """One file, read. Tables are read once, here; contents are views into the caller's bytes.

    `length` is the file's, when `data` is only its beginning: all but sections that are not asked for.
    """

    def __init__(self, data: Buffer, length: int | None = None) -> None:
        self.data = memoryview(data).cast("B")
        self.length = len(self.data) if length is None else length
        size = len(self.data)
        if size < HEADER.size or bytes(self.data[:4]) != b"\x7fELF":
            raise BadObject("not an ELF file", code="TD0901")
        if bytes(self.data[4:7]) != IDENTITY[4:7]:
            raise BadObject("an ELF file, but not a little-endian 64-bit one", code="TD0901")
        fields = HEADER.unpack_from(self.data)
        _, self.kind, self.machine, _, _, segments, sections, _, _, segment_size, n_segments, *rest = fields
        section_size, n_sections, names = rest
        if self.machine not in MACHINES:
            raise BadObject(f"an ELF file for machine {self.machine}, which is not known", code="TD0902")
        if (n_segments and segment_size != PROGRAM_HEADER.size) or (n_sections and section_size != SECTION_HEADER.size):
            raise damaged("a header table has rows of the wrong size")
        self.segments = tuple(
            Segment(type, flags, offset, address, in_file, in_memory, alignment)
            for type, flags, offset, address, _, in_file, in_memory, alignment in PROGRAM_HEADER.iter_unpack(
                self.table(segments, n_segments * PROGRAM_HEADER.size, "the program header table")
            )
        )
        rows = list(
            SECTION_HEADER.iter_unpack(
                self.table(sections, n_sections * SECTION_HEADER.size, "the section header table")
            )
        )
        for number, row in enumerate(rows):
            if row[1] != NOBITS and row[4] + row[5] > self.length:
                raise damaged(f"section {number} reaches past the end of the file")
        if rows and not names < len(rows):
            raise damaged("the section names are in no section")
        table = bytes(self.data[rows[names][4] : rows[names][4] + rows[names][5]]) if rows else b""
        self.sections = tuple(
            Section(string(table, name), type, flags, address, offset, size, link, info, alignment, entry)
            for name, type, flags, address, offset, size, link, info, alignment, entry in rows
        )

    def table(self, offset: int, size: int, what: str) -> memoryview:
        """The bytes [offset, offset + size), which `what` claims to be."""
        if offset + size > len(self.data):
            raise damaged(f"{what} reaches past the end of the file")
        return self.data[offset : offset + size]

    def content(self, section: Section) -> memoryview:
        """The bytes of a section; empty for one that takes no room in the file."""
        return self.data[:0] if section.type == NOBITS else self.data[section.offset : section.offset + section.size]

    def section(self, name: str) -> Section | None:
        """The section of that name, if there is one."""
        return next((section for section in self.sections if section.name == name), None)

    def symbols(self, table: int = SYMTAB) -> tuple[Symbol, ...]:
        """The symbol table of that section type; without one, nothing."""
        for section in self.sections:
            if section.type == table:
                names = bytes(self.content(self.linked(section)))
                if section.size % SYMBOL.size:
                    raise damaged("a symbol table holds half a symbol")
                return tuple(
                    Symbol(string(names, name), value, size, index, info >> 4, info & 15, other & 3)
                    for name, info, other, index, value, size in SYMBOL.iter_unpack(self.content(section))
                )
        return ()

    def dynamic_symbols(self) -> tuple[Symbol, ...]:
        """What a shared library gives to and asks of others."""
        return self.symbols(DYNSYM)

    def relocations(self, section: Section) -> list[Relocation]:
        """The rows of a RELA section."""
        if section.size % RELOCATION.size:
            raise damaged(f"{section.name} holds half a relocation")
        return [
            Relocation(offset, info & 0xFFFFFFFF, info >> 32, addend)
            for offset, info, addend in RELOCATION.iter_unpack(self.content(section))
        ]

    def linked(self, section: Section) -> Section:
        """The section that `section` names in its link field."""
        if not section.link < len(self.sections):
            raise damaged(f"{section.name} is linked to no section")
        return self.sections[section.link]


def undefined_symbols(data: Buffer) -> tuple[str, ...]:
    """The names that an object or a shared library needs from others, sorted."""
    elf = Elf(data)
    symbols = elf.symbols(SYMTAB if elf.kind == RELOCATABLE else DYNSYM)
    return tuple(sorted({s.name for s in symbols if s.section == UNDEFINED and s.binding != LOCAL}))


def defined_symbols(data: Buffer) -> tuple[str, ...]:
    """The names that an object or a shared library offers to others, sorted."""
    elf = Elf(data)
    symbols = elf.symbols(SYMTAB if elf.kind == RELOCATABLE else DYNSYM)
    return tuple(sorted({s.name for s in symbols if exported(s)}))


def exported(symbol: Symbol) -> bool:
    """Whether other libraries may use this definition."""
    return symbol.section != UNDEFINED and symbol.binding != LOCAL and symbol.visibility not in HIDDEN


def string(table: bytes, offset: int) -> str:
    """The NUL-terminated string at `offset` of a string table."""
    end = table.find(0, offset)
    if offset >= len(table) or end < 0:
        raise damaged("a name lies outside its string table")
    return table[offset:end].decode("utf-8", "replace")


def damaged(what: str) -> BadObject:
    return BadObject(f"damaged ELF file: {what}", code="TD0903")
