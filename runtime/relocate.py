"""Places one relocatable object in an image and resolves what can be resolved without knowing where the image
lies.

The image has four groups, each on its own pages: READ (constants), CODE, FIXED (written while loading,
read-only afterwards: pointers and the table of far addresses) and DATA. All references inside the image are
relative, so they are settled here once, for `link.py` and `loader.py` alike; what needs an absolute address
comes back as a list of `Pointer`s, to be filled in by the loader or written down for the dynamic linker. Far
functions are reached through a stub and a slot in FIXED, because libc may lie further away than a call can
jump. Unknown relocations, thread-local data, constructors and pointers in read-only data are refused by name.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

from . import elf
from .elf import AARCH64, X86_64, Buffer, Elf, Section, Symbol
from .errors import BadObject

READ, CODE, FIXED, DATA = "read", "code", "fixed", "data"
GROUPS = (READ, CODE, FIXED, DATA)
SLOT = 8
SMALLEST_PAGE = 4096
MOST_ZEROED_BYTES = 256 << 20  # what is zeroed takes room in a saved model; no program of ours needs much
STUB = {X86_64: 8, AARCH64: 16}

# Sections that are allocated in memory but that nothing of ours reads: unwinding tables (no exception passes
# through native code) and notes.
DROPPED = (".eh_frame", ".note", ".comment", ".ARM.")

# What a relocation asks for.
ABSOLUTE = "absolute"  # an address, as 8 bytes
RELATIVE = "relative"  # a distance to a place in the image
CALL = "call"  # the same, but a stub will do
INDIRECT = "indirect"  # a distance to a slot that holds the address


class Rule(NamedTuple):
    """How one relocation type is computed and stored; `form` names a case of `store`."""

    name: str
    need: str
    form: str


RULES: dict[int, dict[int, Rule]] = {
    X86_64: {
        1: Rule("R_X86_64_64", ABSOLUTE, "word64"),
        2: Rule("R_X86_64_PC32", RELATIVE, "distance32"),
        4: Rule("R_X86_64_PLT32", CALL, "distance32"),
        9: Rule("R_X86_64_GOTPCREL", INDIRECT, "distance32"),
        24: Rule("R_X86_64_PC64", RELATIVE, "distance64"),
        41: Rule("R_X86_64_GOTPCRELX", INDIRECT, "distance32"),
        42: Rule("R_X86_64_REX_GOTPCRELX", INDIRECT, "distance32"),
    },
    AARCH64: {
        257: Rule("R_AARCH64_ABS64", ABSOLUTE, "word64"),
        260: Rule("R_AARCH64_PREL64", RELATIVE, "distance64"),
        261: Rule("R_AARCH64_PREL32", RELATIVE, "distance32"),
        274: Rule("R_AARCH64_ADR_PREL_LO21", RELATIVE, "adr"),
        275: Rule("R_AARCH64_ADR_PREL_PG_HI21", RELATIVE, "adrp"),
        277: Rule("R_AARCH64_ADD_ABS_LO12_NC", RELATIVE, "low12/1"),
        278: Rule("R_AARCH64_LDST8_ABS_LO12_NC", RELATIVE, "low12/1"),
        279: Rule("R_AARCH64_TSTBR14", RELATIVE, "branch14"),
        280: Rule("R_AARCH64_CONDBR19", RELATIVE, "branch19"),
        282: Rule("R_AARCH64_JUMP26", CALL, "branch26"),
        283: Rule("R_AARCH64_CALL26", CALL, "branch26"),
        284: Rule("R_AARCH64_LDST16_ABS_LO12_NC", RELATIVE, "low12/2"),
        285: Rule("R_AARCH64_LDST32_ABS_LO12_NC", RELATIVE, "low12/4"),
        286: Rule("R_AARCH64_LDST64_ABS_LO12_NC", RELATIVE, "low12/8"),
        299: Rule("R_AARCH64_LDST128_ABS_LO12_NC", RELATIVE, "low12/16"),
        311: Rule("R_AARCH64_ADR_GOT_PAGE", INDIRECT, "adrp"),
        312: Rule("R_AARCH64_LD64_GOT_LO12_NC", INDIRECT, "low12/8"),
    },
}


class Pointer(NamedTuple):
    """Eight bytes at `offset` of the image that must hold an address: of image offset `addend` when
    `symbol` is None, else of that far symbol plus `addend`."""

    offset: int
    symbol: str | None
    addend: int


class Piece(NamedTuple):
    """One kept section of the object: its group and its relocations."""

    section: Section
    group: str
    relocations: list[elf.Relocation]


class Plan:
    """What an object needs, counted before anything is placed.

    `elsewhere` are the names that the caller will place in the image itself, at offsets known later.
    """

    def __init__(self, data: Buffer, elsewhere: frozenset[str] = frozenset()) -> None:
        self.elf = Elf(data)
        if self.elf.kind != elf.RELOCATABLE:
            raise BadObject("not a relocatable object", code="TD0904")
        self.machine = self.elf.machine
        self.symbols = self.elf.symbols()
        self.elsewhere = elsewhere
        self.pieces = self._pieces()
        self.slots: dict[int, int] = {}  # symbol index -> number of its slot
        self.stubs: dict[int, int] = {}  # symbol index -> number of its stub
        self.pointers = 0  # how many `Pointer`s `place` will return, slots included
        self.far: dict[str, int] = {}  # undefined names in order of first use -> their symbol index
        self._count()

    def _pieces(self) -> dict[int, Piece]:
        pieces: dict[int, Piece] = {}
        for index, section in enumerate(self.elf.sections):
            if not section.flags & elf.ALLOC or section.name.startswith(DROPPED):
                continue
            if section.type in elf.CONSTRUCTORS or section.name.startswith((".ctors", ".dtors")):
                raise BadObject(f"{section.name}: code that runs at loading is not taken", code="TD0905")
            if section.flags & elf.TLS:
                raise BadObject(f"{section.name}: thread-local data is not taken", code="TD0905")
            if section.alignment & (section.alignment - 1) or section.alignment > SMALLEST_PAGE:
                raise BadObject(f"{section.name}: alignment {section.alignment} cannot be kept", code="TD0905")
            if section.type == elf.NOBITS and section.size > MOST_ZEROED_BYTES:
                raise BadObject(f"{section.name}: {section.size} zeroed bytes are too many", code="TD0905")
            if section.type not in (elf.PROGBITS, elf.NOBITS):
                raise BadObject(f"{section.name}: section type {section.type} is not known", code="TD0905")
            if section.flags & elf.EXECUTE:
                if section.flags & elf.WRITE:
                    raise BadObject(f"{section.name}: code that can be written is not taken", code="TD0905")
                group = CODE
            elif not section.flags & elf.WRITE:
                group = READ
            else:
                group = FIXED if section.name.startswith(".data.rel.ro") else DATA
            pieces[index] = Piece(section, group, [])
        for section in self.elf.sections:
            if section.type == elf.RELA and section.info in pieces:
                pieces[section.info].relocations.extend(self.elf.relocations(section))
            elif section.type == 9 and section.info in pieces:
                raise BadObject(f"{section.name}: relocations without addends are not taken", code="TD0905")
        return pieces

    def pieces_of(self, group: str) -> list[int]:
        """The section indices of a group's pieces, those of no size left out."""
        return [index for index, piece in self.pieces.items() if piece.group is group and piece.section.size]

    def _count(self) -> None:
        for piece in self.pieces.values():
            for relocation in piece.relocations:
                rule = self.rule(relocation, piece)
                symbol = self.symbol(relocation.symbol)
                away = symbol.section == elf.UNDEFINED and symbol.name not in self.elsewhere
                if away:
                    self.far.setdefault(symbol.name, relocation.symbol)
                if rule.need == ABSOLUTE:
                    if piece.group in (READ, CODE):
                        raise BadObject(
                            f"{piece.section.name}: a pointer in read-only memory; compile with reloc='pic'",
                            code="TD0906",
                        )
                    self.pointers += 1
                elif rule.need == INDIRECT or (rule.need == CALL and away):
                    if relocation.symbol not in self.slots:
                        self.slots[relocation.symbol] = len(self.slots)
                        self.pointers += 1
                    if rule.need == CALL:
                        self.stubs.setdefault(relocation.symbol, len(self.stubs))
                elif away:
                    raise BadObject(
                        f"{rule.name} against {symbol.name!r}, which lies elsewhere, maybe out of reach",
                        code="TD0906",
                    )

    def rule(self, relocation: elf.Relocation, piece: Piece) -> Rule:
        rule = RULES[self.machine].get(relocation.type)
        if rule is None:
            machine = elf.MACHINES[self.machine]
            raise BadObject(
                f"{piece.section.name}: {machine} relocation type {relocation.type} is not known",
                code="TD0907",
            )
        return rule

    def symbol(self, index: int) -> Symbol:
        if not 0 < index < len(self.symbols):
            raise elf.damaged("a relocation names no symbol")
        symbol = self.symbols[index]
        if symbol.section >= elf.FIRST_RESERVED:
            raise BadObject(f"{symbol.name!r} is a common or absolute symbol, which is not taken", code="TD0905")
        if symbol.section != elf.UNDEFINED and symbol.section not in self.pieces:
            raise elf.damaged(f"{symbol.name!r} lies in no section that is loaded")
        if symbol.section != elf.UNDEFINED and symbol.value > self.pieces[symbol.section].section.size:
            raise elf.damaged(f"{symbol.name!r} lies outside its section")
        return symbol

    def place(self, start: int, page: int, reserve: Mapping[str, int]) -> Image:
        """Give every section an offset: groups in their order on pages of their own, the first one from
        `start`, each after `reserve` bytes of the caller's."""
        offsets: dict[int, int] = {}
        spans: dict[str, tuple[int, int]] = {}
        end = start
        for group in GROUPS:
            first = position = end if group is READ else align(end, page)
            position += reserve.get(group, 0)
            for index, piece in self.pieces.items():
                if piece.group is group and piece.section.size:
                    position = align(position, piece.section.alignment)
                    offsets[index] = position
                    position += piece.section.size
                elif piece.group is group:
                    offsets[index] = position
            if group is CODE:
                stubs = position = align(position, 16)
                position += len(self.stubs) * STUB[self.machine]
            elif group is FIXED:
                slots = position = align(position, SLOT)
                position += len(self.slots) * SLOT
            spans[group] = (first, position)
            end = position
        return Image(self, offsets, spans, stubs, slots, end)


class Image:
    """Where everything lies. `spans` are the groups' first and last offsets; only a multiple of the page
    may be added."""

    def __init__(
        self,
        plan: Plan,
        offsets: dict[int, int],
        spans: dict[str, tuple[int, int]],
        stubs: int,
        slots: int,
        end: int,
    ) -> None:
        self.plan = plan
        self.offsets = offsets
        self.spans = spans
        self.stubs = stubs
        self.slots = slots
        self.end = end

    def offset(self, symbol: Symbol) -> int:
        """The place of a symbol that the object defines."""
        return self.offsets[symbol.section] + symbol.value

    def fill(self, image: bytearray, elsewhere: Mapping[str, int]) -> list[Pointer]:
        """Copy the sections into `image`, settle every relative reference, write the stubs; the rest is
        returned."""
        plan = self.plan
        pointers: list[Pointer] = []
        for symbol_index, number in plan.slots.items():
            pointers.append(self._pointer(self.slots + number * SLOT, plan.symbols[symbol_index], 0, elsewhere))
        for symbol_index, number in plan.stubs.items():
            place = self.stubs + number * STUB[plan.machine]
            write_stub(plan.machine, image, place, self.slots + plan.slots[symbol_index] * SLOT)
        for index, piece in plan.pieces.items():
            base = self.offsets[index]
            content = plan.elf.content(piece.section)
            image[base : base + len(content)] = content
        for index, piece in plan.pieces.items():
            base, limit = self.offsets[index], piece.section.size
            for offset, type, symbol_index, addend in piece.relocations:
                rule = RULES[plan.machine][type]
                if offset + (8 if rule.form.endswith("64") else 4) > limit or piece.section.type == elf.NOBITS:
                    raise elf.damaged(f"a relocation of {piece.section.name} lies outside it")
                symbol = plan.symbols[symbol_index]
                place = base + offset
                if rule.need == ABSOLUTE:
                    pointers.append(self._pointer(place, symbol, addend, elsewhere))
                    continue
                if rule.need == INDIRECT:
                    target = self.slots + plan.slots[symbol_index] * SLOT
                elif rule.need == CALL and symbol_index in plan.stubs:
                    target = self.stubs + plan.stubs[symbol_index] * STUB[plan.machine]
                elif symbol.section == elf.UNDEFINED:
                    target = elsewhere[symbol.name]
                else:
                    target = self.offset(symbol)
                if not store(rule.form, image, place, target + addend):
                    raise BadObject(f"{rule.name} against {symbol.name!r} does not reach", code="TD0908")
        return pointers

    def _pointer(self, place: int, symbol: Symbol, addend: int, elsewhere: Mapping[str, int]) -> Pointer:
        if symbol.section != elf.UNDEFINED:
            return Pointer(place, None, self.offset(symbol) + addend)
        if symbol.name in elsewhere:
            return Pointer(place, None, elsewhere[symbol.name] + addend)
        return Pointer(place, symbol.name, addend)


def store(form: str, image: bytearray, place: int, target: int) -> bool:
    """Write the reference from `place` to `target` in the given form; False when the distance does not
    fit."""
    distance = target - place
    if form == "distance32":
        if not -(1 << 31) <= distance < 1 << 31:
            return False
        struct.pack_into("<i", image, place, distance)
        return True
    if form == "distance64":
        struct.pack_into("<q", image, place, distance)
        return True
    (word,) = struct.unpack_from("<I", image, place)
    if form == "adrp":
        pages = (target >> 12) - (place >> 12)
        fits, word = -(1 << 20) <= pages < 1 << 20, put(put(word, 29, 2, pages), 5, 19, pages >> 2)
    elif form == "adr":
        fits, word = -(1 << 20) <= distance < 1 << 20, put(put(word, 29, 2, distance), 5, 19, distance >> 2)
    elif form.startswith("low12/"):
        unit = int(form[6:])
        low = target & 0xFFF
        fits, word = low % unit == 0, put(word, 10, 12, low // unit)
    else:
        bits, first = {"branch26": (26, 0), "branch19": (19, 5), "branch14": (14, 5)}[form]
        fits = distance % 4 == 0 and -(1 << bits + 1) <= distance < 1 << bits + 1
        word = put(word, first, bits, distance >> 2)
    struct.pack_into("<I", image, place, word)
    return fits


def put(word: int, first: int, bits: int, value: int) -> int:
    """`word` with `bits` bits from bit `first` replaced by the low bits of `value`."""
    mask = (1 << bits) - 1
    return word & ~(mask << first) | (value & mask) << first


def write_stub(machine: int, image: bytearray, place: int, slot: int) -> None:
    """A jump through `slot`."""
    if machine == X86_64:
        image[place : place + 8] = b"\xff\x25" + struct.pack("<i", slot - place - 6) + b"\x66\x90"
        return
    # adrp x16, slot; ldr x17, [x16, slot]; br x17; nop: x16 and x17 are the registers a call may lose on its
    # way.
    struct.pack_into("<IIII", image, place, 0x90000010, 0xF9400211, 0xD61F0220, 0xD503201F)
    store("adrp", image, place, slot)
    store("low12/8", image, place + 4, slot)


def align(offset: int, alignment: int) -> int:
    """The first multiple of `alignment` (a power of two; 0 means 1) that is not below `offset`."""
    alignment = max(alignment, 1)
    return (offset + alignment - 1) & -alignment
