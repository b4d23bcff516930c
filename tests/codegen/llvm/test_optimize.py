"""LLVM text to bytes: what is refused, what is equal, what the machine then does."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from treadle.codegen.llvm.optimize import assembly, object_code
from treadle.ir.errors import CheckFailed, InvalidValue

X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"

TEXT = """
define i32 @twice(i32 %x) nounwind {
  %p = alloca i32
  store i32 %x, ptr %p
  %a = load i32, ptr %p
  %b = load i32, ptr %p
  %y = add i32 %a, %b
  ret i32 %y
}
"""


@pytest.mark.parametrize(("triple", "machine"), [(X86, 62), (ARM, 183)])
def test_an_object_is_a_relocatable_elf_file_for_the_machine_asked(triple: str, machine: int) -> None:
    """Objects are made for machines other than this one; the ELF header says which (e_machine), and that it links."""
    code = object_code(TEXT, triple, "", "")
    assert code[:4] == b"\x7fELF"
    assert int.from_bytes(code[16:18], "little") == 1  # ET_REL
    assert int.from_bytes(code[18:20], "little") == machine


def test_the_text_is_taken_as_it_is_unless_a_pipeline_is_asked_for() -> None:
    """Emission decides; a pass pipeline costs more than it brings. The store through the stack shows which ran."""
    assert "(%rsp)" in assembly(TEXT, X86, "", "")
    assert "(%rsp)" not in assembly(TEXT, X86, "", "", pipeline=2)


def test_features_reach_the_code_generator() -> None:
    """One text, two machines: with FMA the fused operation is one instruction, without it a call."""
    text = """
declare double @llvm.fma.f64(double, double, double)
define double @f(double %a, double %b, double %c) nounwind {
  %r = call double @llvm.fma.f64(double %a, double %b, double %c)
  ret double %r
}
"""
    assert "vfmadd" in assembly(text, X86, "", "+fma")
    assert "vfmadd" not in assembly(text, X86, "", "")


def test_two_processes_and_two_threads_make_the_same_bytes() -> None:
    """The cache and the determinism of builds rest on it."""
    program = (
        "import sys; from treadle.codegen.llvm.optimize import object_code;"
        f"sys.stdout.buffer.write(object_code({TEXT!r}, {X86!r}, 'x86-64-v3', '', pipeline=2))"
    )
    fresh = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
    with ThreadPoolExecutor(2) as threads:
        made = list(threads.map(lambda _: object_code(TEXT, X86, "x86-64-v3", "", pipeline=2), range(8)))
    assert set(made) == {fresh}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("define i32 @f(", "expected"),
        # Well-formed to the parser: only the verifier saves the process from an assertion in the code
        # generator.
        ("define i32 @f() {\n %x = add i32 %y, 1\n %y = add i32 %x, 1\n ret i32 %x\n}", "dominate"),
    ],
)
def test_a_wrong_text_is_refused_with_llvms_reason(text: str, why: str) -> None:
    """This LLVM has assertions on: what it is handed unverified can end the process."""
    with pytest.raises(CheckFailed, match=why) as caught:
        object_code(text, X86, "", "")
    assert caught.value.code == "TD0506"


def test_an_unknown_machine_is_refused_by_name() -> None:
    """The triple comes from a target text that a person may have written."""
    with pytest.raises(InvalidValue, match="vax-dec-vms") as caught:
        object_code(TEXT, "vax-dec-vms", "", "")
    assert caught.value.code == "TD0508"


def test_a_text_for_another_machine_is_refused() -> None:
    """A text that names its triple must not be compiled silently for another."""
    with pytest.raises(CheckFailed, match="aarch64") as caught:
        object_code(f'target triple = "{ARM}"\n{TEXT}', X86, "", "")
    assert caught.value.code == "TD0507"


def test_importing_the_module_does_not_import_llvmlite() -> None:
    """Start-up: the import costs tens of milliseconds, and a warm call needs none of it."""
    program = "import sys, treadle.codegen.llvm.optimize; sys.exit('llvmlite' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
