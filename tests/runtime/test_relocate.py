"""The arithmetic of relocations, for the machine that is not at hand as for the one that is."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Callable

import pytest

from treadle.runtime import elf
from treadle.runtime.interrupt import ONE_PRESS, handler_code
from treadle.runtime.link import Tail, link
from treadle.runtime.relocate import put, store

Emit = Callable[..., bytes]

ARM = "aarch64-unknown-linux-gnu"
TEXT = """
@treadle_weights = external constant [0 x i32]
@bytes = internal global [64 x i8] zeroinitializer, align 1
@halves = internal global [64 x i16] zeroinitializer, align 2
@words = internal global [64 x i32] [i32 7, i32 8, i32 9, i32 10,
  i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0,
  i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0,
  i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0,
  i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 5], align 4
@longs = internal global i64 11, align 8
@vector = internal global <4 x i32> <i32 1, i32 2, i32 3, i32 4>, align 16
@table = internal constant [2 x ptr] [ptr @one, ptr @two]
declare ptr @memcpy(ptr, ptr, i64)
define internal i64 @one(i64 %x) noinline { %r = add i64 %x, 1 ret i64 %r }
define internal i64 @two(i64 %x) noinline { %r = mul i64 %x, 2 ret i64 %r }
define i64 @main(i64 %which) {
  store i8 3, ptr @bytes
  store i16 5, ptr @halves
  %b = load i8, ptr @bytes
  %bw = zext i8 %b to i64
  %h = load i16, ptr @halves
  %hw = zext i16 %h to i64
  %w = load i32, ptr getelementptr ([64 x i32], ptr @words, i32 0, i32 63)
  %ww = zext i32 %w to i64
  %l = load i64, ptr @longs
  %v = load <4 x i32>, ptr @vector
  %sum = call i32 @llvm.vector.reduce.add.v4i32(<4 x i32> %v)
  %vw = zext i32 %sum to i64
  %t1 = getelementptr [2 x ptr], ptr @table, i64 0, i64 %which
  %f = load ptr, ptr %t1
  %c = call i64 %f(i64 100)
  %d = call i64 @one(i64 1000)
  %x = load i32, ptr getelementptr (i32, ptr @treadle_weights, i64 2)
  %xw = zext i32 %x to i64
  %1 = add i64 %bw, %hw
  %2 = add i64 %1, %ww
  %3 = add i64 %2, %l
  %4 = add i64 %3, %vw
  %5 = add i64 %4, %c
  %6 = add i64 %5, %d
  %7 = add i64 %6, %xw
  ret i64 %7
}
define void @copy(ptr %a, ptr %b, i64 %n) { %r = call ptr @memcpy(ptr %a, ptr %b, i64 %n) ret void }
declare i32 @llvm.vector.reduce.add.v4i32(<4 x i32>)
"""
# 3 + 5 + words[63] + longs + sum(vector) + two(100) + one(1000) + weights[2]
ANSWER = 3 + 5 + 5 + 11 + 10 + 200 + 1001 + 42
WEIGHTS = struct.pack("<4i", 40, 41, 42, 43)
TYPES = {257, 275, 277, 278, 283, 284, 285, 286, 299, 311, 312}


@pytest.mark.parametrize(
    ("form", "word", "distance", "read"),
    [
        ("branch26", 0x94000000, -(1 << 27), lambda w: signed(w & 0x3FFFFFF, 26) * 4),
        ("branch26", 0x94000000, (1 << 27) - 4, lambda w: signed(w & 0x3FFFFFF, 26) * 4),
        ("branch19", 0x54000000, -(1 << 20), lambda w: signed(w >> 5 & 0x7FFFF, 19) * 4),
        ("branch14", 0x36000000, (1 << 15) - 4, lambda w: signed(w >> 5 & 0x3FFF, 14) * 4),
        ("adr", 0x10000000, -123457, lambda w: signed((w >> 5 & 0x7FFFF) << 2 | w >> 29 & 3, 21)),
        ("adrp", 0x90000000, -(5 << 12), lambda w: signed((w >> 5 & 0x7FFFF) << 2 | w >> 29 & 3, 21) << 12),
        ("adrp", 0x90000000, 77 << 12, lambda w: signed((w >> 5 & 0x7FFFF) << 2 | w >> 29 & 3, 21) << 12),
        ("low12/1", 0x91000000, 0xABD, lambda w: w >> 10 & 0xFFF),
        ("low12/8", 0xF9400000, 0xAB8, lambda w: (w >> 10 & 0xFFF) * 8),
        ("low12/16", 0x3DC00000, 0xAB0, lambda w: (w >> 10 & 0xFFF) * 16),
    ],
)
def test_a_field_holds_the_distance(form: str, word: int, distance: int, read: Callable[[int], int]) -> None:
    """The instruction's fields, read back by the layout in the architecture manual; other bits are
    untouched."""
    image = bytearray(4)
    struct.pack_into("<I", image, 0, word)
    assert store(form, image, 0, distance)
    (found,) = struct.unpack_from("<I", image)
    assert read(found) == distance
    assert found & word == word


def signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> bits - 1 else value


@pytest.mark.parametrize(
    ("form", "target"),
    [
        ("distance32", 1 << 31),
        ("distance32", -(1 << 31) - 1),
        ("branch26", 1 << 27),
        ("branch26", 2),
        ("branch19", 1 << 20),
        ("branch14", -(1 << 15) - 4),
        ("adr", 1 << 20),
        ("adrp", 1 << 32),
        ("low12/8", 4),
    ],
)
def test_what_does_not_reach_is_reported(form: str, target: int) -> None:
    """A distance cut to its low bits is a jump to anywhere."""
    assert not store(form, bytearray(8), 0, target)


def test_put_replaces_only_its_bits() -> None:
    """Negative values are cut to the field."""
    assert put(0xFFFFFFFF, 8, 4, 0) == 0xFFFFF0FF
    assert put(0, 8, 4, -1) == 0xF00


def linked(emit: Emit) -> bytes:
    head = link(emit(TEXT, ARM), soname="arm.so", tail=Tail(".treadle.weights", "treadle_weights", len(WEIGHTS)))
    return bytes(head) + WEIGHTS


def test_the_arm_object_uses_the_relocations_we_know(emit: Emit) -> None:
    """The emulated test below is about something only if these are there."""
    file = elf.Elf(emit(TEXT, ARM))
    tables = [s for s in file.sections if s.type == elf.RELA and not s.name.endswith(".eh_frame")]
    assert {row.type for table in tables for row in file.relocations(table)} == TYPES


@pytest.mark.skipif(importlib.util.find_spec("unicorn") is None, reason="needs the unicorn emulator")
def test_a_linked_arm_library_computes(emit: Emit) -> None:
    """The whole library, mapped at a high address and relocated as the dynamic linker does, run by an
    emulator."""
    import unicorn
    from unicorn import arm64_const as registers

    data = linked(emit)
    file = elf.Elf(data)
    base, page = 0x7F00_0000_0000, 0x10000
    machine = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
    machine.mem_map(base, (len(data) + page - 1) // page * page)
    machine.mem_write(base, data)
    far = base - page
    machine.mem_map(far, page)
    machine.mem_write(far, struct.pack("<I", 0xD65F03C0))  # a far function that returns
    rows = file.section(".rela.dyn")
    assert rows is not None
    for row in file.relocations(rows):
        assert row.type in (1025, 1027)
        value = base + row.addend if row.type == 1027 else far
        machine.mem_write(base + row.offset, struct.pack("<Q", value))
    symbols = {s.name: s.value for s in file.dynamic_symbols()}
    stack = 0x10_0000
    machine.mem_map(stack, page)

    def call(name: str, *arguments: int) -> int:
        for register, value in zip((registers.UC_ARM64_REG_X0, registers.UC_ARM64_REG_X1), arguments, strict=False):
            machine.reg_write(register, value)
        machine.reg_write(registers.UC_ARM64_REG_SP, stack + page)
        machine.reg_write(registers.UC_ARM64_REG_X30, stack)
        machine.emu_start(base + symbols[name], stack, count=10_000)
        assert machine.reg_read(registers.UC_ARM64_REG_PC) == stack
        return int(machine.reg_read(registers.UC_ARM64_REG_X0))

    assert call("main", 1) == ANSWER
    assert call("copy", 123) == 123  # through the stub and its slot to the far function, and back


@pytest.mark.skipif(importlib.util.find_spec("unicorn") is None, reason="needs the unicorn emulator")
@pytest.mark.parametrize("machine_number", [elf.X86_64, elf.AARCH64])
def test_the_signal_handler_counts_and_passes_on(machine_number: int) -> None:
    """It adds one press and reaches the next handler with the signal's arguments as they were."""
    import unicorn
    from unicorn import arm64_const as arm
    from unicorn import x86_const as x86

    code, page = 0x40_0000, 0x1000
    if machine_number == elf.AARCH64:
        machine = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        arguments = (arm.UC_ARM64_REG_X0, arm.UC_ARM64_REG_X1, arm.UC_ARM64_REG_X2)
    else:
        machine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        arguments = (x86.UC_X86_REG_RDI, x86.UC_X86_REG_RSI, x86.UC_X86_REG_RDX)
    machine.mem_map(code, 3 * page)
    machine.mem_write(code, handler_code(machine_number, page))
    machine.mem_write(code + page, struct.pack("<QQ", ONE_PRESS, code + 2 * page))
    for register, value in zip(arguments, (2, 0x1234, 0x5678), strict=True):
        machine.reg_write(register, value)
    machine.emu_start(code, code + 2 * page, count=100)
    counter, stop, following = struct.unpack("<IIQ", machine.mem_read(code + page, 16))
    assert (counter, stop, following) == (0, 1, code + 2 * page)
    assert [machine.reg_read(register) for register in arguments] == [2, 0x1234, 0x5678]
