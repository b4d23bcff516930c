"""Objects into shared libraries: what the dynamic linker, a C compiler and binutils make of them."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from treadle.runtime import elf, loader
from treadle.runtime.errors import BadObject
from treadle.runtime.link import Blob, Tail, link

Emit = Callable[..., bytes]

TEXT = """
@treadle_weights = external constant [0 x i32]
@note = external hidden constant [0 x i8]
@table = constant [2 x ptr] [ptr @one, ptr @two]
@far = global [1 x ptr] [ptr @memset]
@counter = internal global i32 5
@zero = internal global [100 x i32] zeroinitializer
declare ptr @memcpy(ptr, ptr, i64)
declare ptr @memset(ptr, i32, i64)
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
  ret i32 %n
}
define i32 @weight(i64 %i) {
  %p = getelementptr i32, ptr @treadle_weights, i64 %i
  %v = load i32, ptr %p
  ret i32 %v
}
define i32 @letter(i64 %i) {
  %p = getelementptr i8, ptr @note, i64 %i
  %v = load i8, ptr %p
  %w = zext i8 %v to i32
  ret i32 %w
}
define ptr @copy(ptr %a, ptr %b, i64 %n) { %r = call ptr @memcpy(ptr %a, ptr %b, i64 %n) ret ptr %r }
define ptr @far_function() { %f = load ptr, ptr @far ret ptr %f }
define hidden i32 @secret() { ret i32 1 }
"""
WEIGHTS = np.arange(7, 7 + 3000, dtype=np.int32)


def library(data: bytes) -> bytes:
    head = link(
        data,
        soname="libtiny.so",
        prefix=Blob(".treadle.seal", b"s" * 64),
        blobs=[Blob(".note_text", b"hello", "note"), Blob(".treadle.text.graph", b"graph f", loaded=False)],
        tail=Tail(".treadle.weights", "treadle_weights", WEIGHTS.nbytes),
    )
    return bytes(head) + WEIGHTS.tobytes()


@pytest.fixture
def tiny(emit: Emit, tmp_path: Path) -> Path:
    path = tmp_path / "libtiny.so"
    path.write_bytes(library(emit(TEXT)))
    return path


def test_the_dynamic_linker_takes_it(tiny: Path) -> None:
    """Code, tables, data, blobs, the tail and far names are all where the code expects them."""
    lib = ctypes.CDLL(str(tiny))
    i64 = ctypes.c_int64
    assert (lib.apply(0, 10), lib.apply(1, 10), lib.count(), lib.count()) == (11, 20, 6, 7)
    assert [lib.weight(i64(i)) for i in (0, 1, 2999)] == [7, 8, 3006]
    assert bytes(lib.letter(i64(i)) for i in range(5)) == b"hello"
    source, target = ctypes.create_string_buffer(b"abc"), ctypes.create_string_buffer(4)
    lib.copy(target, source, i64(3))
    assert target.value == b"abc"
    lib.far_function.restype = ctypes.c_void_p
    assert lib.far_function() == loader.far_address("memset")


def test_its_layout_keeps_the_promises(tiny: Path) -> None:
    """Addresses equal offsets, nothing is writable and executable, the stack is not executable, hidden
    names stay in, every exported symbol has a real section, and nothing runs at loading."""
    data = tiny.read_bytes()
    file = elf.Elf(data)
    assert all(section.address == section.offset for section in file.sections if section.flags & elf.ALLOC)
    loads = [segment for segment in file.segments if segment.type == elf.LOAD]
    assert all(segment.address == segment.offset and segment.offset % 4096 == 0 for segment in loads)
    assert not any(s.flags & elf.WRITABLE and s.flags & elf.EXECUTABLE for s in loads)
    (stack,) = [segment for segment in file.segments if segment.type == elf.STACK]
    assert not stack.flags & elf.EXECUTABLE
    (fixed,) = [segment for segment in file.segments if segment.type == elf.RELRO]
    for name in (".dynamic", ".got", ".data.rel.ro"):
        section = file.section(name)
        assert section is not None
        assert fixed.address <= section.address <= section.address + section.size <= fixed.address + fixed.memory_size
    assert elf.undefined_symbols(data) == ("memcpy", "memset")
    names = ("apply", "copy", "count", "far", "far_function", "letter", "note", "table", "treadle_weights", "weight")
    assert elf.defined_symbols(data) == names
    for symbol in file.dynamic_symbols():
        if symbol.section != elf.UNDEFINED:
            section = file.sections[symbol.section]
            assert section.address <= symbol.value <= symbol.value + symbol.size <= section.address + section.size
    assert not any(section.type in elf.CONSTRUCTORS for section in file.sections)
    weights = file.section(".treadle.weights")
    assert weights is not None
    assert weights.offset % 4096 == 0
    assert bytes(file.content(weights)) == WEIGHTS.tobytes()
    assert bytes(data[64:128]) == b"s" * 64
    text = file.section(".treadle.text.graph")
    assert text is not None
    assert (bytes(file.content(text)), text.flags) == (b"graph f", 0)


def test_slots_are_read_only_after_loading(tiny: Path) -> None:
    """The dynamic linker must find the read-only range usable: pages of their own."""
    lib = ctypes.CDLL(str(tiny))
    base = ctypes.addressof(ctypes.c_char.in_dll(lib, "note")) - next(
        s.value for s in elf.Elf(tiny.read_bytes()).dynamic_symbols() if s.name == "note"
    )
    got = elf.Elf(tiny.read_bytes()).section(".got")
    assert got is not None
    rows = [line.split()[:2] for line in Path("/proc/self/maps").read_text().splitlines()]
    spans = [(*(int(end, 16) for end in span.split("-")), permissions) for span, permissions in rows]
    assert [p for first, last, p in spans if first <= base + got.address < last] == ["r--p"]


def test_equal_input_gives_equal_bytes(emit: Emit) -> None:
    """Saved models are compared by their bytes, across processes too."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_link import *\n"
    code += "import conftest, hashlib; print(hashlib.sha256(library(conftest.compile_text(TEXT))).hexdigest())"
    import hashlib

    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert other.stdout.strip() == hashlib.sha256(library(emit(TEXT))).hexdigest()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")
def test_a_c_program_links_against_it(tiny: Path, tmp_path: Path) -> None:
    """A C build must be able to name the file like any library."""
    main = tmp_path / "main.c"
    main.write_text(
        "#include <stdio.h>\nint apply(int, int); int weight(long); extern const int treadle_weights[];\n"
        'int main(void) { printf("%d %d %d\\n", apply(1, 21), weight(2), treadle_weights[3]); return 0; }\n'
    )
    program = tmp_path / "main"
    command = ["gcc", "-Wall", "-Werror", str(main), "-L", str(tmp_path), "-ltiny", "-o", str(program)]
    built = subprocess.run([*command, f"-Wl,-rpath,{tmp_path}", "-Wl,--fatal-warnings"], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == "42 9 10\n"


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs binutils")
@pytest.mark.parametrize("triple", ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"])
def test_binutils_reads_it_without_a_warning(emit: Emit, tmp_path: Path, triple: str) -> None:
    """An independent reader of every table we write."""
    path = tmp_path / "libtiny.so"
    path.write_bytes(library(emit(TEXT, triple)))
    seen = subprocess.run(["readelf", "-aW", path], capture_output=True, text=True, check=True)
    assert "warning" not in (seen.stdout + seen.stderr).lower()
    assert "error" not in seen.stderr.lower()
    for wanted in ("Library soname: [libtiny.so]", "Shared library: [libc.so.6]", "GNU_RELRO", "GNU_STACK", "BIND_NOW"):
        assert wanted in seen.stdout


def test_a_library_that_starts_threads_is_never_unloaded(emit: Emit, tmp_path: Path) -> None:
    """Threads that sleep in unmapped code would take the process with them."""
    text = (
        "declare i32 @pthread_create(ptr, ptr, ptr, ptr)\ndefine i32 @start(ptr %p) "
        "{ %r = call i32 @pthread_create(ptr %p, ptr null, ptr null, ptr null) ret i32 %r }"
    )
    path = tmp_path / "threads.so"
    path.write_bytes(link(emit(text), soname="threads.so"))
    lib = ctypes.CDLL(str(path))
    close = ctypes.CDLL(None).dlclose
    close.argtypes = (ctypes.c_void_p,)
    close(lib._handle)
    assert str(path) in Path("/proc/self/maps").read_text()


def test_a_pointer_in_read_only_data_is_refused(emit: Emit) -> None:
    """It would need the text to be writable while loading."""
    import llvmlite.binding as llvm

    emit("define void @f() { ret void }")  # initialises the targets
    triple = "x86_64-unknown-linux-gnu"
    machine = llvm.Target.from_triple(triple).create_target_machine(reloc="static", codemodel="small")
    module = llvm.parse_assembly("@p = constant ptr @f\ndefine void @f() { ret void }")
    with pytest.raises(BadObject, match=r"TD0906.*reloc='pic'"):
        link(machine.emit_object(module), soname="x.so")
