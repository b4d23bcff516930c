"""Words that do not belong in a finished change: unfinished business, second ways, one machine's paths.

Read from what git tracks where there is a checkout, else from the source folders.
"""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXTS = (".py", ".md", ".toml", ".ini", ".text", ".graph", ".loops", ".program", ".yml", ".yaml", ".txt", "")
FOLDERS = ("ir", "passes", "codegen", "runtime", "frontend", "tests", "docs", "examples", "benchmarks")

# The words are spelt in pieces, so that this file does not find itself.
UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")) + r")\b")
STUBS = re.compile(r"\bNotImplemented" + "Error\\b")
SECOND_WAYS = re.compile(r"\bleg" + r"acy\b|\w_v[2-9]\b", re.IGNORECASE)
MACHINE_PATHS = re.compile(r"(?<![\w.~-])/(work|root|home|Users|farm)/|(?<![\w.~-])/tm" + "p/")
VAGUE_FILES = re.compile(r"(^|/)(helpers?|utils?|misc|common|stuff)\.py$")


@cache
def files() -> tuple[Path, ...]:
    command = ["git", "ls-files", "-z"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:  # no git here
        listing = ""
    if listing:
        found = [ROOT / name for name in listing.split("\0") if name]
    else:
        found = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*"))]
        found += sorted(path for path in ROOT.iterdir() if path.is_file())
    return tuple(path for path in found if path.is_file() and path.suffix in TEXTS)


def lines_with(pattern: re.Pattern[str], suffixes: tuple[str, ...] = TEXTS) -> list[str]:
    found = []
    for path in files():
        if path.suffix not in suffixes or path.name == "LICENSE":
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if pattern.search(text):
            found += [
                f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
                for number, line in enumerate(text.splitlines(), 1)
                if pattern.search(line)
            ]
    return found


def test_nothing_is_left_unfinished() -> None:
    """What is not there is refused by name; a note to oneself is not a refusal."""
    assert lines_with(UNFINISHED) == []


def test_nothing_is_a_stub() -> None:
    """An abstract method says so by its class; a missing case has an error code of its own."""
    assert lines_with(STUBS, (".py",)) == []


def test_there_are_no_two_ways() -> None:
    """The change that brings the new way removes the old one."""
    assert lines_with(SECOND_WAYS, (".py",)) == []


def test_no_path_of_one_machine() -> None:
    """The checkout may lie anywhere, and temporary files go where the system says."""
    assert lines_with(MACHINE_PATHS) == []


def test_files_are_named_by_what_they_are_for() -> None:
    """A file of helpers is where things go that nobody could place."""
    assert [str(path.relative_to(ROOT)) for path in files() if VAGUE_FILES.search(path.as_posix())] == []


def test_every_file_opens_by_saying_what_it_is_for() -> None:
    """The first sentence tells a reader what to expect, and so what would be a bug."""
    silent = []
    for path in files():
        if path.suffix == ".py":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            if ast.get_docstring(tree) is None:
                silent.append(str(path.relative_to(ROOT)))
    assert silent == []


def test_no_test_is_put_aside() -> None:
    """A test is skipped where hardware or a package is absent, on a stated condition; for no other reason."""
    aside = []
    for path in files():
        if path.suffix != ".py" or not path.is_relative_to(ROOT / "tests"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Attribute(value=ast.Attribute(attr="mark"), attr="skip" | "xfail" as name):
                    aside.append(f"{path.relative_to(ROOT)}:{node.lineno}: mark.{name}")
                case ast.Call(func=ast.Attribute(value=ast.Name(id="pytest"), attr="xfail" as name)):
                    aside.append(f"{path.relative_to(ROOT)}:{node.lineno}: pytest.{name}()")
    assert aside == []
