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
from .elf import AARCH64, X86_64, Buffer
from .relocate import CODE, DATA, FIXED, READ, Image, Plan, Pointer, align

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


class Row(NamedTuple):
    """A section header to be: `link` names another row."""

    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: str = ""
    info: int = 0
    alignment: int = 1
    entry_size: int = 0


class Strings:
    """A string table in the making; equal strings share a place."""

    def __init__(self) -> None:
        self.data = bytearray(1)
        self.places: dict[str, int] = {"": 0}

    def add(self, text: str) -> int:
        if text not in self.places:
            self.places[text] = len(self.data)
            self.data += text.encode() + b"\0"
        return self.places[text]


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
    loaded = ([prefix] if prefix else []) + [blob for blob in blobs if blob.loaded]
    plan = Plan(data, frozenset(b.symbol for b in loaded if b.symbol) | ({tail.symbol} if tail else set()))
    machine, page = plan.machine, PAGE[plan.machine]

    strings = Strings()
    needed = [strings.add(library) for library in libraries(plan.far)]
    soname_at = strings.add(soname)
    exports = [s for s in plan.symbols if elf.exported(s) and s.section in plan.pieces]
    offered = [b.symbol for b in loaded if b.symbol] + ([tail.symbol] if tail else [])
    names = ["", *plan.far, *(s.name for s in exports), *offered]
    for name in names:
        strings.add(name)

    # The READ group opens with what the dynamic linker reads; sizes are known now, contents follow.
    segments = 6 + bool(plan.pieces_of(DATA)) + bool(tail and tail.size)
    position = elf.HEADER.size
    blob_at: dict[str, int] = {}
    if prefix:
        blob_at[prefix.section] = position
        position += len(prefix.data)
    headers_at = align(position, 8)
    hash_at = headers_at + segments * elf.PROGRAM_HEADER.size
    hash_table = hash_words(names)
    symbols_at = align(hash_at + len(hash_table), 8)
    strings_at = symbols_at + len(names) * elf.SYMBOL.size
    relocations_at = align(strings_at + len(strings.data), 8)
    position = relocations_at + plan.pointers * elf.RELOCATION.size
    for blob in loaded:
        if blob is not prefix:
            blob_at[blob.section] = position = align(position, 64)
            position += len(blob.data)
    dynamic_words = 2 * (14 + len(needed))
    image = plan.place(0, page, {READ: position, FIXED: dynamic_words * 8})
    dynamic_at = image.spans[FIXED][0]

    # Behind what is mapped: texts, the symbol table for debuggers and profilers, the section headers.
    position = image.end
    for blob in blobs:
        if not blob.loaded:
            blob_at[blob.section] = position = align(position, 8)
            position += len(blob.data)
    rows = [
        *(
            [Row(prefix.section, elf.PROGBITS, elf.ALLOC, blob_at[prefix.section], len(prefix.data))]
            if prefix
            else []
        ),
        Row(".hash", elf.HASH, elf.ALLOC, hash_at, len(hash_table), ".dynsym", 0, 8, 4),
        Row(".dynsym", elf.DYNSYM, elf.ALLOC, symbols_at, len(names) * 24, ".dynstr", 1, 8, elf.SYMBOL.size),
        Row(".dynstr", elf.STRTAB, elf.ALLOC, strings_at, len(strings.data)),
        Row(".rela.dyn", elf.RELA, elf.ALLOC, relocations_at, plan.pointers * 24, ".dynsym", 0, 8, 24),
        *(
            Row(b.section, elf.PROGBITS, elf.ALLOC, blob_at[b.section], len(b.data), alignment=64)
            for b in loaded
            if b is not prefix
        ),
        row_of(image, READ, ".rodata", elf.ALLOC),
        row_of(image, CODE, ".text", elf.ALLOC | elf.EXECUTE),
        Row(
            ".plt",
            elf.PROGBITS,
            elf.ALLOC | elf.EXECUTE,
            image.stubs,
            image.spans[CODE][1] - image.stubs,
            "",
            0,
            16,
        ),
        Row(
            ".dynamic", elf.DYNAMIC, elf.ALLOC | elf.WRITE, dynamic_at, dynamic_words * 8, ".dynstr", 0, 8, 16
        ),
        row_of(image, FIXED, ".data.rel.ro", elf.ALLOC | elf.WRITE),
        Row(".got", elf.PROGBITS, elf.ALLOC | elf.WRITE, image.slots, len(plan.slots) * 8, "", 0, 8, 8),
        row_of(image, DATA, ".data", elf.ALLOC | elf.WRITE),
    ]
    rows += [Row(b.section, elf.PROGBITS, 0, blob_at[b.section], len(b.data)) for b in blobs if not b.loaded]
    local = [
        s
        for s in plan.symbols
        if s.binding == elf.LOCAL and s.kind in (elf.FUNCTION, elf.OBJECT) and s.section in plan.pieces
    ]
    debug_strings = Strings()
    for symbol in local:
        debug_strings.add(symbol.name)
    for name in names:
        debug_strings.add(name)
    debug_at = align(position, 8)
    debug_size = (len(names) + len(local)) * elf.SYMBOL.size
    rows.append(Row(".symtab", elf.SYMTAB, 0, debug_at, debug_size, ".strtab", len(local) + 1, 8, 24))
    rows.append(Row(".strtab", elf.STRTAB, 0, debug_at + debug_size, len(debug_strings.data)))
    section_strings = Strings()
    for name in (*(row.name for row in rows), ".shstrtab", *([tail.section] if tail else [])):
        section_strings.add(name)
    section_strings_at = debug_at + debug_size + len(debug_strings.data)
    rows.append(Row(".shstrtab", elf.STRTAB, 0, section_strings_at, len(section_strings.data)))
    table_at = align(section_strings_at + len(section_strings.data), 8)
    end = table_at + (len(rows) + 1 + bool(tail)) * elf.SECTION_HEADER.size
    if tail:
        end = align(end, page)
        blob_at[tail.section] = end
        rows.append(Row(tail.section, elf.PROGBITS, elf.ALLOC, end, tail.size, alignment=page))
    numbers = {row.name: number for number, row in enumerate(rows, 1)}

    # Contents.
    out = bytearray(end)
    for blob in (*loaded, *(b for b in blobs if not b.loaded)):
        place = blob_at[blob.section]
        out[place : place + len(blob.data)] = blob.data
    elsewhere = {b.symbol: blob_at[b.section] for b in loaded if b.symbol}
    if tail:
        elsewhere[tail.symbol] = end
    pointers = image.fill(out, elsewhere)

    section_of = {
        READ: numbers[".rodata"],
        CODE: numbers[".text"],
        FIXED: numbers[".data.rel.ro"],
        DATA: numbers[".data"],
    }
    offered_rows = [
        *((b.section, len(b.data)) for b in loaded if b.symbol),
        *([(tail.section, tail.size)] if tail else []),
    ]

    def symbol_rows(table: Strings) -> Iterable[bytes]:
        for name in plan.far:
            yield elf.SYMBOL.pack(table.places[name], elf.GLOBAL << 4, 0, elf.UNDEFINED, 0, 0)
        for s in exports:
            where = section_of[plan.pieces[s.section].group]
            info = elf.GLOBAL << 4 | s.kind
            yield elf.SYMBOL.pack(table.places[s.name], info, 0, where, image.offset(s), s.size)
        for name, (section, size) in zip(offered, offered_rows, strict=True):
            info = elf.GLOBAL << 4 | elf.OBJECT
            yield elf.SYMBOL.pack(table.places[name], info, 0, numbers[section], blob_at[section], size)

    locals_ = [
        elf.SYMBOL.pack(
            debug_strings.places[s.name],
            s.kind,
            0,
            section_of[plan.pieces[s.section].group],
            image.offset(s),
            s.size,
        )
        for s in local
    ]
    write(out, hash_at, hash_table)
    write(out, symbols_at, bytes(elf.SYMBOL.size), *symbol_rows(strings))
    write(out, strings_at, bytes(strings.data))
    by_base = sum(pointer.symbol is None for pointer in pointers)
    write(out, relocations_at, *dynamic_relocations(machine, image, pointers, names))
    entries = [
        *((DT_NEEDED, library) for library in needed),
        (DT_SONAME, soname_at),
        (DT_HASH, hash_at),
        (DT_STRTAB, strings_at),
        (DT_SYMTAB, symbols_at),
        (DT_STRSZ, len(strings.data)),
        (DT_SYMENT, elf.SYMBOL.size),
        *(
            [
                (DT_RELA, relocations_at),
                (DT_RELASZ, plan.pointers * 24),
                (DT_RELAENT, 24),
                (DT_RELACOUNT, by_base),
            ]
            if pointers
            else []
        ),
        (DT_FLAGS, BIND_NOW),
        # A library whose threads run its code must outlive them.
        (DT_FLAGS_1, NOW_1 | (NEVER_UNLOAD_1 if "pthread_create" in plan.far else 0)),
    ]
    write(out, dynamic_at, *(struct.pack("<QQ", *entry) for entry in entries))
    write(out, debug_at, bytes(elf.SYMBOL.size), *locals_, *symbol_rows(debug_strings))
    write(out, debug_at + debug_size, bytes(debug_strings.data))
    write(out, section_strings_at, bytes(section_strings.data))
    write(
        out,
        table_at,
        bytes(elf.SECTION_HEADER.size),
        *(
            elf.SECTION_HEADER.pack(
                section_strings.places[row.name],
                row.type,
                row.flags,
                row.offset if row.flags & elf.ALLOC else 0,
                row.offset,
                row.size,
                numbers[row.link] if row.link else 0,
                row.info,
                row.alignment,
                row.entry_size,
            )
            for row in rows
        ),
    )
    table = list(program_headers(image, page, dynamic_at, dynamic_words * 8, tail, end))
    assert len(table) == segments
    write(out, headers_at, *table)
    header = (elf.IDENTITY, elf.SHARED, machine, 1, 0, headers_at, table_at, 0, elf.HEADER.size)
    sizes = (elf.PROGRAM_HEADER.size, segments, elf.SECTION_HEADER.size, len(rows) + 1, numbers[".shstrtab"])
    write(out, 0, elf.HEADER.pack(*header, *sizes))
    return out


def program_headers(
    image: Image, page: int, dynamic_at: int, dynamic_size: int, tail: Tail | None, end: int
) -> Iterable[bytes]:
    """What the kernel maps. ORDER: `segments` in `link` counts these."""

    def row(type: int, flags: int, first: int, in_file: int, in_memory: int, alignment: int) -> bytes:
        return elf.PROGRAM_HEADER.pack(type, flags, first, first, first, in_file, in_memory, alignment)

    writable = elf.READABLE | elf.WRITABLE
    for group, flags in (
        (READ, elf.READABLE),
        (CODE, elf.READABLE | elf.EXECUTABLE),
        (FIXED, writable),
        (DATA, writable),
    ):
        first, last = image.spans[group]
        if group is DATA and not image.plan.pieces_of(DATA):
            continue
        # The slots become read-only page by page, so their segment ends on one.
        in_memory = align(last - first, page) if group is FIXED else last - first
        yield row(elf.LOAD, flags, first, last - first, in_memory, page)
    if tail and tail.size:
        yield row(elf.LOAD, elf.READABLE, end, tail.size, tail.size, page)
    yield row(elf.DYNAMIC_SEGMENT, writable, dynamic_at, dynamic_size, dynamic_size, 8)
    first, last = image.spans[FIXED]
    yield row(elf.RELRO, elf.READABLE, first, last - first, align(last - first, page), 1)
    yield row(elf.STACK, writable, 0, 0, 0, 16)


def dynamic_relocations(
    machine: int, image: Image, pointers: list[Pointer], names: list[str]
) -> Iterable[bytes]:
    """What the dynamic linker fills in; those without a symbol first, because DT_RELACOUNT counts them."""
    slots = range(image.slots, image.slots + 8 * len(image.plan.slots))
    for pointer in sorted(pointers, key=lambda pointer: (pointer.symbol is not None, pointer.offset)):
        if pointer.symbol is None:
            yield elf.RELOCATION.pack(pointer.offset, BY_BASE[machine], pointer.addend)
        else:
            kind = (BY_SYMBOL if pointer.offset in slots else BY_SUM)[machine]
            yield elf.RELOCATION.pack(
                pointer.offset, names.index(pointer.symbol) << 32 | kind, pointer.addend
            )


def libraries(far: Iterable[str]) -> list[str]:
    """The libraries that define the far names: libc, and before glibc 2.34 its thread library beside it."""
    names = list(far)
    found = ["libc.so.6"] if names else []
    return found + (["libpthread.so.0"] if any(name.startswith("pthread_") for name in names) else [])


def row_of(image: Image, group: str, name: str, flags: int) -> Row:
    """The section header that covers all sections of a group."""
    pieces = image.plan.pieces_of(group)
    if not pieces:
        return Row(
            name, elf.PROGBITS, flags, image.spans[group][1] if group is READ else image.spans[group][0], 0
        )
    first = min(image.offsets[index] for index in pieces)
    last = max(image.offsets[index] + image.plan.pieces[index].section.size for index in pieces)
    alignment = max(image.plan.pieces[index].section.alignment for index in pieces)
    return Row(name, elf.PROGBITS, flags, first, last - first, alignment=max(alignment, 1))


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


def write(out: bytearray, place: int, *parts: bytes) -> None:
    data = b"".join(parts)
    out[place : place + len(data)] = data
