"""Several objects into one: what of them calls and reads what of others, and what the system's linker makes of it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from treadle.runtime import elf
from treadle.runtime.errors import BadObject
from treadle.runtime.join import join
from treadle.runtime.link import link
from treadle.runtime.loader import load

Emit = Callable[..., bytes]

# Each has an internal function and a table of one name, a constant that the code generator makes, a pointer that needs
# an address; they call each other by hidden names and by exported ones, and libc.
FIRST = """
@table = internal constant [2 x i32] [i32 10, i32 20]
@pointers = internal global [2 x ptr] [ptr @own, ptr @second]
declare hidden i32 @second(i32)
declare ptr @memset(ptr, i32, i64)
define internal i32 @own(i32 %x) noinline { %r = add i32 %x, 1 ret i32 %r }
define hidden double @scaled(double %x) { %r = fmul double %x, 0x3FD5555555555555 ret double %r }
define i32 @apply(i64 %which, i32 %x) {
  %p = getelementptr [2 x ptr], ptr @pointers, i64 0, i64 %which
  %f = load ptr, ptr %p
  %r = call i32 %f(i32 %x)
  ret i32 %r
}
define i32 @direct(i32 %x) { %r = call i32 @second(i32 %x) ret i32 %r }
define i32 @first_table(i64 %i) {
  %p = getelementptr [2 x i32], ptr @table, i64 0, i64 %i
  %r = load i32, ptr %p
  ret i32 %r
}
define ptr @clear(ptr %p) { %r = call ptr @memset(ptr %p, i32 0, i64 8) ret ptr %r }
"""
SECOND = """
@table = internal constant [2 x i32] [i32 30, i32 40]
@counter = internal global [40 x i32] zeroinitializer
declare i32 @first_table(i64)
declare hidden double @scaled(double)
declare ptr @memset(ptr, i32, i64)
define internal i32 @own(i32 %x) noinline { %r = mul i32 %x, 3 ret i32 %r }
define hidden i32 @second(i32 %x) {
  %a = call i32 @own(i32 %x)
  %b = call i32 @first_table(i64 1)
  %p = getelementptr [2 x i32], ptr @table, i64 0, i64 0
  %c = load i32, ptr %p
  %d = add i32 %a, %b
  %e = add i32 %d, %c
  %n = load i32, ptr @counter
  %m = add i32 %n, 1
  store i32 %m, ptr @counter
  ret i32 %e
}
define i32 @count() { %n = load i32, ptr @counter ret i32 %n }
define double @third(double %x) { %r = call double @scaled(double %x) ret double %r }
define ptr @clear_too(ptr %p) { %r = call ptr @memset(ptr %p, i32 0, i64 8) ret ptr %r }
"""
EXPORTED = ("apply", "clear", "clear_too", "count", "direct", "first_table", "third")
ARM = "aarch64-unknown-linux-gnu"


def check(functions: Callable[[str], int]) -> None:
    def call(name: str, result: type, *given: tuple[type, object]) -> object:
        made = ctypes.CFUNCTYPE(result, *(kind for kind, _ in given))(functions(name))
        return made(*(value for _, value in given))

    i32, i64, f64 = ctypes.c_int32, ctypes.c_int64, ctypes.c_double
    assert call("apply", i32, (i64, 0), (i32, 5)) == 6
    assert call("apply", i32, (i64, 1), (i32, 5)) == 15 + 20 + 30
    assert call("direct", i32, (i32, 7)) == 21 + 20 + 30
    assert call("count", i32) == 2
    assert call("third", f64, (f64, 3.0)) == 3.0 * (1 / 3)
    for name in ("clear", "clear_too"):
        room = ctypes.create_string_buffer(b"12345678")
        call(name, ctypes.c_void_p, (ctypes.c_void_p, ctypes.addressof(room)))
        assert room.raw[:8] == bytes(8)


def test_parts_call_and_read_each_other(emit: Emit) -> None:
    """Whichever comes first, they run as one; equal names inside them stay apart."""
    for texts in ((FIRST, SECOND), (SECOND, FIRST)):
        loaded = load(join([emit(text) for text in texts]))
        check(loaded.address)


def test_the_names_of_the_whole(emit: Emit) -> None:
    """Outside there are the exported names; hidden ones are local, so that debuggers and profilers show them."""
    joined = join([emit(FIRST), emit(SECOND)])
    assert elf.defined_symbols(joined) == EXPORTED
    assert elf.undefined_symbols(joined) == ("memset",)
    inside = [s.name for s in elf.Elf(joined).symbols() if s.binding == elf.LOCAL and s.kind == elf.FUNCTION]
    assert sorted(inside) == ["own", "own", "scaled", "second"]


@pytest.mark.parametrize("triple", ["", ARM])
def test_equal_parts_make_equal_bytes(emit: Emit, triple: str) -> None:
    """The cache and reproducible models rest on it; one part alone is left as it is. Linking resolves everything."""
    parts = [emit(FIRST, triple), emit(SECOND, triple)]
    assert join(parts) == join([bytearray(part) for part in parts])
    assert join(parts[:1]) == parts[0]
    library = elf.Elf(link(join(parts), soname="libtwo.so"))
    assert {s.name for s in library.dynamic_symbols() if s.section == elf.UNDEFINED and s.name} == {"memset"}


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here")
def test_the_systems_linker_takes_it(emit: Emit, tmp_path: Path) -> None:
    """The linker is not ours: what it makes of the joined object behaves as what it makes of the parts."""
    parts = [tmp_path / "first.o", tmp_path / "second.o"]
    for path, text in zip(parts, (FIRST, SECOND), strict=True):
        path.write_bytes(emit(text))
    whole = tmp_path / "whole.o"
    whole.write_bytes(join([path.read_bytes() for path in parts]))
    for name, inputs in (("parts.so", parts), ("whole.so", [whole])):
        made = tmp_path / name
        linked = subprocess.run(
            ["gcc", "-shared", "-nostdlib", "-Wl,--fatal-warnings", "-o", made, *inputs], capture_output=True, text=True
        )
        assert linked.returncode == 0, linked.stderr
        library = ctypes.CDLL(str(made))
        # memset comes from the libc that this process has.
        check(lambda symbol, library=library: ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value or 0)


@pytest.mark.parametrize(
    ("texts", "triples", "code"),
    [((FIRST, FIRST), ("", ""), "TD0913"), ((FIRST, SECOND), ("", ARM), "TD0902")],
)
def test_what_cannot_be_one_object_is_refused(
    emit: Emit, texts: tuple[str, ...], triples: tuple[str, ...], code: str
) -> None:
    """Parts are made by other processes, so what does not fit is said before it runs."""
    with pytest.raises(BadObject, match=code):
        join([emit(text, triple) for text, triple in zip(texts, triples, strict=True)])


def test_a_library_is_no_part(emit: Emit) -> None:
    """Only relocatable objects have what joining needs."""
    with pytest.raises(BadObject, match="TD0904"):
        join([emit(FIRST), bytes(link(emit(SECOND.replace("declare hidden", "declare")), soname="x.so"))])
