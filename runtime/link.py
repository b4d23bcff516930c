"""Links one relocatable object into a shared library, with no tool but Python.

Every byte's address equals its offset in the file: groups lie on pages of their own, zero-initialised data is
written out, so there is one number to reason about, and a C compiler can link against the result (it has
section headers, real section indices, DT_HASH and DT_SONAME). Nothing is both writable and executable, the
stack is not executable, slots and constant pointers become read-only once filled in, nothing runs at loading,
and equal input gives equal bytes. Extra `Blob`s become read-only data with a symbol; one `Tail`, of any size,
follows the returned bytes in the file, so that gigabytes of weights are never held twice.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from . import elf
from .elf import AARCH64, X86_64, Buffer, Symbol
from .relocate import CODE, DATA, FIXED, READ, Plan, Pointer, align

# The largest page a kernel of that machine may use: segments are aligned to it.
PAGE = {X86_64: 4096, AARCH64: 65536}

# Dynamic relocation types: an address inside this library, the address of a symbol, the same plus an addend.
BY_BASE = {X86_64: 8, AARCH64: 1027}
BY_SYMBOL = {X86_64: 6, AARCH64: 1025}
BY_SUM = {X86_64: 1, AARCH64: 257}

DT_NULL, DT_NEEDED, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ, DT_RELAENT = 0, 1, 4, 5, 6, 7, 8, 9
DT_STRSZ, DT_SYMENT, DT_SONAME, DT_FLAGS = 10, 11, 14, 30
DT_FLAGS_1, DT_RELACOUNT = 0x6FFFFFFB, 0x6FFFFFF9
BIND_NOW = 8
NOW_1 = 1
NEVER_UNLOAD_1 = 8
DYNAMIC_ENTRIES = 13  # at most, without the libraries

SECTION_OF = {READ: ".rodata", CODE: ".text", FIXED: ".data.rel.ro", DATA: ".data"}


class Blob(NamedTuple):
    """Read-only bytes with a section of their own. A loaded one is mapped with the library and may have a
    symbol; the others are only in the file."""

    section: str
    data: bytes
    symbol: str | None = None
    loaded: bool = True


class Tail(NamedTuple):
    """Read-only bytes, page-aligned and mapped by the kernel, that the caller writes after what `link`
    returns."""

    section: str
    symbol: str
    size: int


class Part:
    """A section of the file: its size is known first, then it is placed, then it is filled. `link` names
    another."""

    def __init__(
        self,
        name: str,
        size: int,
        *,
        type: int = elf.PROGBITS,
        flags: int = elf.ALLOC,
        alignment: int = 1,
        entry_size: int = 0,
        link: str = "",
        info: int = 0,
        offset: int = 0,
    ) -> None:
        self.name = name
        self.size = size
        self.type = type
        self.flags = flags
        self.alignment = alignment
        self.entry_size = entry_size
        self.link = link
        self.info = info
        self.offset = offset


class Strings:
    """A string table; equal strings share a place."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.data = bytearray(1)
        self.places: dict[str, int] = {"": 0}
        for text in texts:
            if text not in self.places:
                self.places[text] = len(self.data)
                self.data += text.encode() + b"\0"


def link(
    data: Buffer,
    *,
    soname: str,
    blobs: Sequence[Blob] = (),
    tail: Tail | None = None,
    prefix: Blob | None = None,
) -> bytearray:
    """The shared library made of the object `data`. `prefix` is a loaded blob placed right behind the ELF
    header, at offset 64, where it is found without reading any table. With a `tail`, the result ends on a
    page boundary and the caller appends exactly `tail.size` bytes."""
    return Library(data, soname, blobs, tail, prefix).build()


class Library:
    """One library in the making. The order of its parts is the order of the file: what the dynamic linker
    reads, loaded blobs, the four groups of the object, what is only in the file, the section headers, the
    tail."""

    def __init__(
        self, data: Buffer, soname: str, blobs: Sequence[Blob], tail: Tail | None, prefix: Blob | None
    ) -> None:
        self.soname = soname
        self.prefix = prefix
        self.blobs = ([prefix] if prefix else []) + list(blobs)
        self.tail = tail
        # symbol -> the part that it is the start of
        self.given = {blob.symbol: blob.section for blob in self.blobs if blob.symbol and blob.loaded}
        if tail:
            self.given[tail.symbol] = tail.section
        self.plan = plan = Plan(data, frozenset(self.given))
        self.page = PAGE[plan.machine]
        kept = [symbol for symbol in plan.symbols if symbol.section in plan.pieces]
        self.exports = [symbol for symbol in kept if elf.exported(symbol)]
        self.locals = [s for s in kept if s.binding == elf.LOCAL and s.kind in (elf.FUNCTION, elf.OBJECT)]
        self.names = ["", *plan.far, *(symbol.name for symbol in self.exports), *self.given]
        self.needed = libraries(plan.far)
        self.strings = Strings([*self.needed, soname, *self.names])
        self.debug_strings = Strings([*(symbol.name for symbol in self.locals), *self.names])
        self.hash = hash_words(self.names)
        self.segments = 6 + bool(plan.pieces_of(DATA)) + bool(tail and tail.size)
        self.parts: dict[str, Part] = {}
        self.lay_out()

    def lay_out(self) -> None:
        """Decide where everything lies."""
        plan, symbol_bytes = self.plan, len(self.names) * elf.SYMBOL.size
        loaded = [Part(blob.section, len(blob.data), alignment=64) for blob in self.blobs if blob.loaded]
        position = elf.HEADER.size
        if self.prefix:
            position = self.put(position, loaded.pop(0))
        self.headers_at = align(position, 8)
        position = self.put(
            self.headers_at + self.segments * elf.PROGRAM_HEADER.size,
            Part(".hash", len(self.hash), type=elf.HASH, alignment=8, entry_size=4, link=".dynsym"),
            Part(".dynsym", symbol_bytes, type=elf.DYNSYM, alignment=8, entry_size=24, link=".dynstr", info=1),
            Part(".dynstr", len(self.strings.data), type=elf.STRTAB),
            Part(".rela.dyn", plan.pointers * 24, type=elf.RELA, alignment=8, entry_size=24, link=".dynsym"),
            *loaded,
        )
        dynamic_bytes = 16 * (DYNAMIC_ENTRIES + len(self.needed))
        self.image = image = plan.place(0, self.page, {READ: position, FIXED: dynamic_bytes})
        code, fixed = elf.ALLOC | elf.EXECUTE, elf.ALLOC | elf.WRITE
        stub_bytes = image.spans[CODE][1] - image.stubs
        for part in (
            self.group(READ, elf.ALLOC),
            self.group(CODE, code),
            Part(".plt", stub_bytes, flags=code, alignment=16, offset=image.stubs),
            Part(
                ".dynamic", dynamic_bytes, type=elf.DYNAMIC, flags=fixed, alignment=8, entry_size=16, link=".dynstr",
                offset=image.spans[FIXED][0],
            ),
            self.group(FIXED, fixed),
            Part(".got", 8 * len(plan.slots), flags=fixed, alignment=8, entry_size=8, offset=image.slots),
            self.group(DATA, fixed),
        ):  # fmt: skip
            self.parts[part.name] = part
        # Not mapped: texts, and symbols for debuggers and profilers.
        debug_bytes = symbol_bytes + len(self.locals) * elf.SYMBOL.size
        position = self.put(
            image.end,
            *(Part(blob.section, len(blob.data), flags=0, alignment=8) for blob in self.blobs if not blob.loaded),
            Part(
                ".symtab", debug_bytes, type=elf.SYMTAB, flags=0, alignment=8, entry_size=24, link=".strtab",
                info=1 + len(self.locals),
            ),
            Part(".strtab", len(self.debug_strings.data), type=elf.STRTAB, flags=0),
        )  # fmt: skip
        tail_names = [self.tail.section] if self.tail else []
        self.section_strings = Strings([*self.parts, ".shstrtab", *tail_names])
        part = Part(".shstrtab", len(self.section_strings.data), type=elf.STRTAB, flags=0)
        self.table_at = align(self.put(position, part), 8)
        self.end = self.table_at + (1 + len(self.parts) + len(tail_names)) * elf.SECTION_HEADER.size
        if self.tail:
            self.end = align(self.end, self.page)
            self.put(self.end, Part(self.tail.section, self.tail.size, alignment=self.page))
        self.numbers = {name: number for number, name in enumerate(self.parts, 1)}

    def put(self, position: int, *parts: Part) -> int:
        """Place parts one after the other; returns the end of the last."""
        for part in parts:
            part.offset = position = align(position, part.alignment)
            self.parts[part.name] = part
            position += part.size
        return position

    def group(self, group: str, flags: int) -> Part:
        """The part that covers all sections of a group."""
        image = self.image
        pieces = [(image.offsets[i], image.plan.pieces[i].section) for i in image.plan.pieces_of(group)]
        if not pieces:
            return Part(SECTION_OF[group], 0, flags=flags, offset=image.spans[group][group is READ])
        first, last = min(place for place, _ in pieces), max(place + section.size for place, section in pieces)
        alignment = max(1, *(section.alignment for _, section in pieces))
        return Part(SECTION_OF[group], last - first, flags=flags, alignment=alignment, offset=first)

    def build(self) -> bytearray:
        """The bytes of the file, without the tail."""
        out = bytearray(self.end)
        for blob in self.blobs:
            self.fill(out, blob.section, blob.data)
        elsewhere = {symbol: self.parts[section].offset for symbol, section in self.given.items()}
        pointers = self.image.fill(out, elsewhere)
        self.fill(out, ".hash", self.hash)
        self.fill(out, ".dynsym", bytes(elf.SYMBOL.size), *self.symbols(self.strings))
        self.fill(out, ".dynstr", self.strings.data)
        self.fill(out, ".rela.dyn", *self.relocations(pointers))
        self.fill(out, ".dynamic", *self.dynamic(pointers))
        shown = [self.symbol(symbol, self.debug_strings) for symbol in self.locals]
        self.fill(out, ".symtab", bytes(elf.SYMBOL.size), *shown, *self.symbols(self.debug_strings))
        self.fill(out, ".strtab", self.debug_strings.data)
        self.fill(out, ".shstrtab", self.section_strings.data)
        rows = b"".join(self.section_headers())
        out[self.table_at : self.table_at + len(rows)] = rows
        headers = list(self.program_headers())
        assert len(headers) == self.segments
        out[self.headers_at : self.headers_at + 56 * len(headers)] = b"".join(headers)
        out[: elf.HEADER.size] = elf.HEADER.pack(
            elf.IDENTITY,
            elf.SHARED,
            self.plan.machine,
            1,
            0,
            self.headers_at,
            self.table_at,
            0,
            elf.HEADER.size,
            elf.PROGRAM_HEADER.size,
            self.segments,
            elf.SECTION_HEADER.size,
            1 + len(self.parts),
            self.numbers[".shstrtab"],
        )
        return out

    def fill(self, out: bytearray, name: str, *contents: Buffer) -> None:
        part = self.parts[name]
        data = b"".join(contents)
        assert len(data) <= part.size, name
        out[part.offset : part.offset + len(data)] = data

    def symbol(self, symbol: Symbol, table: Strings) -> bytes:
        """A row for a symbol of the object."""
        section = self.numbers[SECTION_OF[self.plan.pieces[symbol.section].group]]
        info = (elf.LOCAL if symbol.binding == elf.LOCAL else elf.GLOBAL) << 4 | symbol.kind
        place = self.image.offset(symbol)
        return elf.SYMBOL.pack(table.places[symbol.name], info, 0, section, place, symbol.size)

    def symbols(self, table: Strings) -> Iterable[bytes]:
        """The rows of all names but the first, which is empty. ORDER: `names`."""
        for name in self.plan.far:
            yield elf.SYMBOL.pack(table.places[name], elf.GLOBAL << 4, 0, elf.UNDEFINED, 0, 0)
        for symbol in self.exports:
            yield self.symbol(symbol, table)
        for name, section in self.given.items():
            part, info = self.parts[section], elf.GLOBAL << 4 | elf.OBJECT
            yield elf.SYMBOL.pack(table.places[name], info, 0, self.numbers[section], part.offset, part.size)

    def relocations(self, pointers: list[Pointer]) -> Iterable[bytes]:
        """What the dynamic linker fills in; those without a symbol first, because DT_RELACOUNT counts
        them."""
        machine = self.plan.machine
        slots = range(self.image.slots, self.image.slots + 8 * len(self.plan.slots))
        for pointer in sorted(pointers, key=lambda pointer: (pointer.symbol is not None, pointer.offset)):
            if pointer.symbol is None:
                yield elf.RELOCATION.pack(pointer.offset, BY_BASE[machine], pointer.addend)
            else:
                kind = (BY_SYMBOL if pointer.offset in slots else BY_SUM)[machine]
                number = self.names.index(pointer.symbol)
                yield elf.RELOCATION.pack(pointer.offset, number << 32 | kind, pointer.addend)

    def dynamic(self, pointers: list[Pointer]) -> Iterable[bytes]:
        """What the dynamic linker reads first. ORDER: DYNAMIC_ENTRIES counts these, DT_NULL among them."""
        places = self.strings.places
        # A library whose threads run its code must outlive them.
        never_unload = NEVER_UNLOAD_1 if "pthread_create" in self.plan.far else 0
        entries = [
            *((DT_NEEDED, places[library]) for library in self.needed),
            (DT_SONAME, places[self.soname]),
            (DT_HASH, self.parts[".hash"].offset),
            (DT_STRTAB, self.parts[".dynstr"].offset),
            (DT_SYMTAB, self.parts[".dynsym"].offset),
            (DT_STRSZ, self.parts[".dynstr"].size),
            (DT_SYMENT, elf.SYMBOL.size),
            (DT_FLAGS, BIND_NOW),
            (DT_FLAGS_1, NOW_1 | never_unload),
        ]
        if pointers:
            entries += [
                (DT_RELA, self.parts[".rela.dyn"].offset),
                (DT_RELASZ, self.parts[".rela.dyn"].size),
                (DT_RELAENT, elf.RELOCATION.size),
                (DT_RELACOUNT, sum(pointer.symbol is None for pointer in pointers)),
            ]
        return (struct.pack("<QQ", *entry) for entry in (*entries, (DT_NULL, 0)))

    def section_headers(self) -> Iterable[bytes]:
        """What linkers and debuggers read."""
        yield bytes(elf.SECTION_HEADER.size)
        for part in self.parts.values():
            yield elf.SECTION_HEADER.pack(
                self.section_strings.places[part.name],
                part.type,
                part.flags,
                part.offset if part.flags & elf.ALLOC else 0,
                part.offset,
                part.size,
                self.numbers[part.link] if part.link else 0,
                part.info,
                part.alignment,
                part.entry_size,
            )

    def program_headers(self) -> Iterable[bytes]:
        """What the kernel maps. ORDER: `segments` counts these."""

        def row(type: int, flags: int, first: int, in_file: int, in_memory: int, alignment: int) -> bytes:
            return elf.PROGRAM_HEADER.pack(type, flags, first, first, first, in_file, in_memory, alignment)

        writable = elf.READABLE | elf.WRITABLE
        kinds = ((READ, elf.READABLE), (CODE, elf.READABLE | elf.EXECUTABLE), (FIXED, writable), (DATA, writable))
        for group, flags in kinds:
            first, last = self.image.spans[group]
            if group is not DATA or self.plan.pieces_of(DATA):
                # What becomes read-only does so page by page, so its segment ends on one.
                in_memory = align(last - first, self.page) if group is FIXED else last - first
                yield row(elf.LOAD, flags, first, last - first, in_memory, self.page)
        if self.tail and self.tail.size:
            yield row(elf.LOAD, elf.READABLE, self.end, self.tail.size, self.tail.size, self.page)
        dynamic = self.parts[".dynamic"]
        yield row(elf.DYNAMIC_SEGMENT, writable, dynamic.offset, dynamic.size, dynamic.size, 8)
        first, last = self.image.spans[FIXED]
        yield row(elf.RELRO, elf.READABLE, first, last - first, align(last - first, self.page), 1)
        yield row(elf.STACK, writable, 0, 0, 0, 16)


def libraries(far: Iterable[str]) -> list[str]:
    """The libraries that define the far names: libc, and before glibc 2.34 its thread library beside it."""
    names = list(far)
    found = ["libc.so.6"] if names else []
    return found + (["libpthread.so.0"] if any(name.startswith("pthread_") for name in names) else [])


def hash_words(names: Sequence[str]) -> bytes:
    """The DT_HASH table: bucket heads, then for each symbol the next of its bucket."""
    buckets, chains = [0] * len(names), [0] * len(names)
    for number, name in enumerate(names):
        if number:
            bucket = elf_hash(name) % len(buckets)
            chains[number], buckets[bucket] = buckets[bucket], number
    return struct.pack(f"<{2 + 2 * len(names)}I", len(buckets), len(chains), *buckets, *chains)


def elf_hash(name: str) -> int:
    """The hash of the System V ABI, chapter 5."""
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        value = (value ^ (value & 0xF0000000) >> 24) & 0x0FFFFFFF
    return value
