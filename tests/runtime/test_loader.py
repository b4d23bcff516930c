"""Object bytes to callable addresses, in process."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from treadle.runtime import elf, loader
from treadle.runtime.errors import BadObject

Emit = Callable[..., bytes]

EVERYTHING = """
@table = private constant [2 x ptr] [ptr @one, ptr @two]
@big = private constant [4 x i32] [i32 1, i32 2, i32 3, i32 4], align 64
@counter = internal global i32 5
@zero = internal global [100 x i32] zeroinitializer
declare ptr @memcpy(ptr, ptr, i64)
define internal i32 @one(i32 %x) noinline { %r = add i32 %x, 1 ret i32 %r }
define internal i32 @two(i32 %x) noinline { %r = mul i32 %x, 2 ret i32 %r }
define i32 @apply(i32 %which, i32 %x) {
  %p = getelementptr [2 x ptr], ptr @table, i32 0, i32 %which
  %f = load ptr, ptr %p
  %r = call i32 %f(i32 %x)
  ret i32 %r
}
define i32 @count() {
  %v = load i32, ptr @counter
  %n = add i32 %v, 1
  store i32 %n, ptr @counter
  %zp = getelementptr [100 x i32], ptr @zero, i32 0, i32 %v
  %old = load i32, ptr %zp
  store i32 %n, ptr %zp
  %s = add i32 %n, %old
  ret i32 %s
}
define i32 @pick(i64 %i) {
  %p = getelementptr [4 x i32], ptr @big, i32 0, i64 %i
  %v = load i32, ptr %p
  ret i32 %v
}
define i32 @switch(i32 %x) {
  switch i32 %x, label %other [
    i32 0, label %a i32 1, label %b i32 2, label %c i32 3, label %d i32 4, label %e
  ]
a:
  ret i32 11
b:
  ret i32 7
c:
  ret i32 -3
d:
  ret i32 99
e:
  ret i32 1000
other:
  ret i32 0
}
define ptr @copy(ptr %a, ptr %b, i64 %n) { %r = call ptr @memcpy(ptr %a, ptr %b, i64 %n) ret ptr %r }
define ptr @copier() { ret ptr @memcpy }
"""


def function(loaded: loader.LoadedObject, name: str, result: type, *arguments: type) -> Callable[..., object]:
    return ctypes.CFUNCTYPE(result, *arguments)(loaded.address(name))


def test_everything_an_object_may_hold_works_once_loaded(emit: Emit) -> None:
    """Calls, tables of pointers, constants, writable and zeroed data, jump tables, far calls and far
    addresses."""
    loaded = loader.load(emit(EVERYTHING))
    i32 = ctypes.c_int32
    apply = function(loaded, "apply", i32, i32, i32)
    assert (apply(0, 10), apply(1, 10)) == (11, 20)
    count = function(loaded, "count", i32)
    assert (count(), count()) == (6, 7)
    pick = function(loaded, "pick", i32, ctypes.c_int64)
    assert [pick(i) for i in range(4)] == [1, 2, 3, 4]
    switch = function(loaded, "switch", i32, i32)
    assert [switch(i) for i in range(6)] == [11, 7, -3, 99, 1000, 0]
    source, target = np.arange(9), np.zeros(9, np.int64)
    pointer = ctypes.c_void_p
    function(loaded, "copy", pointer, pointer, pointer, ctypes.c_size_t)(
        target.ctypes.data, source.ctypes.data, source.nbytes
    )
    assert (source == target).all()
    assert function(loaded, "copier", pointer)() == loader.far_address("memcpy")


def mappings(address: int, size: int) -> list[str]:
    """The permissions of what this process has mapped in that range."""
    rows = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last, permissions = re.match(r"(\w+)-(\w+) (\S+)", line).groups()  # type: ignore[union-attr]
        if int(first, 16) < address + size and address < int(last, 16):
            rows.append(permissions)
    return rows


def test_no_page_is_writable_and_executable(emit: Emit) -> None:
    """Memory that can be written and run is how a bug becomes an attack."""
    loaded = loader.load(emit(EVERYTHING))
    found = mappings(loaded.base, loaded.size)
    assert any("x" in permissions for permissions in found)
    assert not any("w" in permissions and "x" in permissions for permissions in found)
    # Constants and filled-in pointers cannot be written either: only counter and zero are.
    assert sum("w" in permissions for permissions in found) == 1


def test_memory_goes_back_when_the_object_is_dropped(emit: Emit) -> None:
    """A thousand compiled functions must not leave a thousand mappings."""
    loaded = loader.load(emit(EVERYTHING))
    base, size = loaded.base, loaded.size
    assert mappings(base, size)
    del loaded
    gc.collect()
    assert not mappings(base, size)


def test_a_closed_object_gives_no_addresses(emit: Emit) -> None:
    """An address into unmapped memory must never be handed out."""
    loaded = loader.load(emit(EVERYTHING))
    loaded.close()
    loaded.close()
    with pytest.raises(BadObject, match="TD0911"):
        loaded.address("count")


def test_names_off_the_closed_list_are_refused_by_name(emit: Emit) -> None:
    """libm or compiler-rt in an object is a defect of code generation; it must not load by luck."""
    text = "declare double @sin(double)\ndefine double @f(double %x) { %r = call double @sin(double %x) ret double %r }"
    with pytest.raises(BadObject, match=r"TD0909.*sin"):
        loader.load(emit(text))
    assert loader.load(emit(text), symbols={"sin": loader.far_address("memcpy")}).address("f")


def test_a_given_symbol_is_what_the_code_calls(emit: Emit) -> None:
    """Objects may refer to each other by addresses that the caller hands in."""
    first = loader.load(emit("define i32 @seven() { ret i32 7 }"))
    second = loader.load(
        emit("declare i32 @seven()\ndefine i32 @eight() { %r = call i32 @seven() %s = add i32 %r, 1 ret i32 %s }"),
        symbols={"seven": first.address("seven")},
    )
    assert function(second, "eight", ctypes.c_int32)() == 8


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("@t = thread_local global i32 0\ndefine ptr @f() { ret ptr @t }", "TD0905"),
        (
            "@llvm.global_ctors = appending global [1 x { i32, ptr, ptr }] [{ i32, ptr, ptr } "
            "{ i32 65535, ptr @f, ptr null }]\ndefine void @f() { ret void }",
            "TD0905",
        ),
        ("@c = common global i32 0\ndefine ptr @f() { ret ptr @c }", "TD0905"),
        (
            "@d = external dso_local global i32\ndefine i32 @f() { %v = load i32, ptr @d ret i32 %v }",
            "TD0906",
        ),
    ],
)
def test_what_cannot_be_loaded_is_refused_by_name(emit: Emit, text: str, code: str) -> None:
    """Thread-local data, constructors, common symbols and data that may lie too far away are not ours to
    guess at."""
    with pytest.raises(BadObject, match=code):
        loader.load(emit(text))


def test_an_unknown_relocation_is_refused_by_its_number(emit: Emit) -> None:
    """A relocation that is skipped is a wrong pointer."""
    data = bytearray(emit("@g = external global i32\ndefine ptr @f() { ret ptr @g }"))
    file = elf.Elf(data)
    rows = next(s for s in file.sections if s.type == elf.RELA and s.name == ".rela.text")
    (info,) = struct.unpack_from("<Q", data, rows.offset + 8)
    struct.pack_into("<Q", data, rows.offset + 8, info & ~0xFFFFFFFF | 77)
    with pytest.raises(BadObject, match=r"TD0907.*relocation type 77"):
        loader.load(bytes(data))


def test_an_object_for_another_machine_is_refused(emit: Emit) -> None:
    """Its bytes would run as nonsense."""
    other = "aarch64-unknown-linux-gnu" if loader.HOST == elf.X86_64 else "x86_64-unknown-linux-gnu"
    with pytest.raises(BadObject, match="TD0902"):
        loader.load(emit("define i32 @f() { ret i32 7 }", other))


def test_what_is_no_object_is_refused() -> None:
    """Garbage from a cache must end in an error of ours."""
    for data in (b"", b"garbage", b"\x7fELF", bytes(64), b"\x7fELF" + bytes(200)):
        with pytest.raises(BadObject, match="TD0901"):
            loader.load(data)


def test_a_damaged_object_never_reads_wildly(emit: Emit) -> None:
    """Any damage ends in BadObject, or changes code bytes only: nothing else may escape while reading and
    placing."""
    data = emit(EVERYTHING)
    random = np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), 3):
            damaged[place] ^= 1 << int(random.integers(8))
        with contextlib.suppress(BadObject):
            loader.load(bytes(damaged))
    for length in np.linspace(0, len(data) - 1, 64).astype(int):
        with pytest.raises(BadObject):
            loader.load(data[:length])


def test_the_undefined_names_are_what_the_object_asks_for(emit: Emit) -> None:
    """The totality test of code generation stands on this function."""
    assert elf.undefined_symbols(emit(EVERYTHING)) == ("memcpy",)
    assert elf.defined_symbols(emit(EVERYTHING)) == ("apply", "copier", "copy", "count", "pick", "switch")
