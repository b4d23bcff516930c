"""The import law: who may know whom.

Every file of the package is parsed, none is imported, so a forbidden arrow is found even in code that no test
runs. The tables below are the law; a new file in `ir` is given its place there before anything may import it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("ir", "passes", "codegen", "runtime", "frontend")
OUTSIDE = ("tests", "examples", "benchmarks")

# Room: the rooms it may import.
MAY_IMPORT: dict[str, set[str]] = {
    "ir": set(),
    "passes": {"ir"},
    "codegen": {"ir"},
    "runtime": set(),
    "frontend": {"ir", "passes", "codegen", "runtime"},
    "": {"frontend", "ir"},  # the root's __init__ and __main__
}

# Room: the packages from elsewhere it may import, beside the standard library.
MAY_USE: dict[str, set[str]] = {
    "ir": {"numpy", "ml_dtypes"},
    "passes": {"numpy", "ml_dtypes", "networkx"},
    "codegen": {"numpy", "ml_dtypes", "llvmlite"},
    "runtime": {"numpy"},
    "frontend": {"numpy", "ml_dtypes", "networkx", "rich", "onnx", "torch"},
    "": set(),
}

# Slow to import, so only inside the functions that use them: neither `import treadle` nor a warm call pays.
DELAYED = {"networkx", "rich", "llvmlite", "onnx", "torch"}

# LLVM is known in one corner only.
KNOWS_LLVM = ("codegen.llvm", "codegen.host")

# Arrows that the tables forbid, or that hide inside a function, each with the reason why it is honest. They
# hold only inside a function or under TYPE_CHECKING.
HONEST = {
    ("frontend.compile", "codegen"): "the driver delays it: a call answered by the cache generates no code",
    ("frontend.tracer", "passes.autodiff_custom"): "a trace without control flow opens no rules: no pass is loaded",
    ("ir.graph", "ir.text"): "str(graph) is its text, and Python asks the object for it",
    ("ir.program", "ir.program_text"): "the same of str(program)",
    ("ir.value", "ir.graph"): "for types only: control ops have fields that are graphs",
    ("ir.ops.movement", "ir.ops.reduce"): "the transpose of broadcast is sum, and the transpose of sum is broadcast",
    ("ir.ops.movement", "ir.ops.indexing"): "the cotangent of a slice is added to a block",
}

# The inner order of `ir`: a file may import what stands on a line above it. Files on one line do not see
# each other, unless the line says so by the word "free" (the search for cycles below still holds for them).
INNER_ORDER = """
    classes
    location
    errors
    dtypes
    dims
    types
    target
    loops free
    structure
    value
    graph
    ops.families
    ops.elementwise
    ops.movement
    ops.reduce
    ops.contract
    ops.indexing
    ops.random
    ops.control
    ops.custom
    ops.composite
    ops.quantized
    ops.collective
    ops
    text parse evaluate forms fingerprint free
    program
    program_text program_evaluate program_check free
"""


@dataclass(frozen=True)
class Import:
    """One imported name. `name` is dotted; inside the package it has lost its leading `treadle.`"""

    file: Path
    line: int
    importer: str
    name: str
    ours: bool
    inside_function: bool
    for_types_only: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}: {self.importer or 'the root'} -> {self.name}"


def module_name(file: Path) -> str:
    """`ir/ops/reduce.py` is "ir.ops.reduce", `ir/ops/__init__.py` is "ir.ops", the root's files are ""."""
    parts = list(file.relative_to(ROOT).with_suffix("").parts)
    if parts[-1] in ("__init__", "__main__"):
        parts.pop()
    return ".".join(parts)


def room_of(module: str) -> str:
    return module.partition(".")[0]


@cache
def package_files() -> tuple[Path, ...]:
    files = sorted(ROOT.glob("*.py"))
    for room in ROOMS:
        files += sorted((ROOT / room).rglob("*.py"))
    return tuple(files)


@cache
def modules() -> frozenset[str]:
    return frozenset(module_name(file) for file in package_files())


def imports_of(file: Path) -> Iterator[Import]:
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    importer = module_name(file)
    package = importer.split(".") if importer else []
    if file.name not in ("__init__.py", "__main__.py"):
        package = package[:-1]

    def visit(node: ast.AST, inside: bool, typing_only: bool) -> Iterator[Import]:
        def found(name: str, ours: bool) -> Import:
            return Import(file, getattr(node, "lineno", 0), importer, name, ours, inside, typing_only)

        match node:
            case ast.Import(names=names):
                for alias in names:
                    ours = alias.name == "treadle" or alias.name.startswith("treadle.")
                    yield found(alias.name, ours)
            case ast.ImportFrom(module=base, names=names, level=0) if base is not None:
                yield found(base, base == "treadle" or base.startswith("treadle."))
            case ast.ImportFrom(module=base, names=names, level=level):
                stem = package[: len(package) - (level - 1)] + (base.split(".") if base else [])
                for alias in names:
                    whole = ".".join([*stem, alias.name])
                    yield found(whole if whole in modules() else ".".join(stem), True)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                inside = True
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                typing_only = True
            case _:
                pass
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside, typing_only)

    yield from visit(tree, False, False)


@cache
def all_imports() -> tuple[Import, ...]:
    return tuple(found for file in package_files() for found in imports_of(file))


def honest(found: Import) -> bool:
    known = {(found.importer, found.name), (found.importer, room_of(found.name))}
    return bool(known & HONEST.keys()) and (found.inside_function or found.for_types_only)


def test_the_reader_of_imports_reads_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The law is only as good as its reader: every spelling of an import must come out as the same arrow."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    monkeypatch.setitem(globals(), "modules", lambda: {"ir", "ir.graph", "ir.ops.reduce", "passes.fuse"})
    file = tmp_path / "ir" / "ops" / "reduce.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "from ..graph import Graph\n"
        "from .. import graph\n"
        "from ...passes import fuse\n"
        "import numpy as np, llvmlite.binding\n"
        "from rich.table import Table\n"
        "def f():\n"
        "    from ...passes.fuse import limit\n"
        "if TYPE_CHECKING:\n"
        "    import treadle.codegen\n"
    )
    assert [(i.line, i.name, i.ours, i.inside_function, i.for_types_only) for i in imports_of(file)] == [
        (1, "ir.graph", True, False, False),
        (2, "ir.graph", True, False, False),
        (3, "passes.fuse", True, False, False),
        (4, "numpy", False, False, False),
        (4, "llvmlite.binding", False, False, False),
        (5, "rich.table", False, False, False),
        (7, "passes.fuse", True, True, False),
        (9, "treadle.codegen", True, False, True),
    ]


def report(arrows: list[str]) -> None:
    assert not arrows, "\n" + "\n".join(arrows)


def test_rooms_import_only_what_stands_below_them() -> None:
    """passes and codegen are siblings, runtime knows no room: otherwise nothing can be changed alone."""
    report(
        [
            f"{found}    ({room_of(found.importer) or 'the root'} may not know {room_of(found.name)})"
            for found in all_imports()
            if found.ours
            and found.name not in ("", "treadle")
            and room_of(found.name) != room_of(found.importer)
            and room_of(found.name) not in MAY_IMPORT[room_of(found.importer)]
        ]
    )


def test_rooms_use_only_their_packages() -> None:
    """An artifact needs numpy and ctypes, a graph needs no LLVM: a stray import would end that unseen."""
    wrong = []
    for found in all_imports():
        if found.ours:
            continue
        package = found.name.partition(".")[0]
        if package in sys.stdlib_module_names:
            continue
        if package not in MAY_USE[room_of(found.importer)]:
            wrong.append(f"{found}    (not among the packages of {room_of(found.importer) or 'the root'})")
        elif package == "llvmlite" and not found.importer.startswith(KNOWS_LLVM):
            wrong.append(f"{found}    (llvmlite belongs to {' and '.join(KNOWS_LLVM)})")
    report(wrong)


def test_slow_packages_are_imported_where_they_are_used() -> None:
    """The start-up law: importing networkx alone costs more than everything of ours together."""
    report(
        [
            f"{found}    (import it inside the function that uses it)"
            for found in all_imports()
            if not found.ours
            and found.name.partition(".")[0] in DELAYED
            and not found.inside_function
            and not found.for_types_only
        ]
    )


def test_no_room_is_imported_in_hiding() -> None:
    """Imports inside functions are how cycles are made to work; between rooms there is nothing to hide."""
    report(
        [
            f"{found}    (move it to the top of the file, or hand the thing in)"
            for found in all_imports()
            if found.ours
            and found.inside_function
            and room_of(found.name) != room_of(found.importer)
            and not honest(found)
        ]
    )


def test_imports_inside_the_package_are_relative() -> None:
    """`import treadle.ir` inside the package ties it to its installed name, and hides that it is ours."""
    report(
        [
            f"{found}    (write it relative)"
            for found in all_imports()
            if found.ours and (found.name == "treadle" or found.name.startswith("treadle."))
        ]
    )


def test_nobody_imports_a_room_by_its_short_name() -> None:
    """With the repository root on the path `import ir` works, and gives a second copy of every class."""
    files = [*package_files()]
    for place in OUTSIDE:
        files += sorted((ROOT / place).rglob("*.py"))
    report(
        [
            f"{found}    (write treadle.{found.name})"
            for file in files
            for found in imports_of(file)
            if not found.ours and room_of(found.name) in ROOMS
        ]
    )


def test_nothing_is_imported_by_a_string() -> None:
    """`import_module("treadle.codegen")` is an arrow that no reader of imports can see."""
    wrong = []
    for file in package_files():
        if module_name(file) == "":
            continue  # the root's aliases are the one place for it
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                    args=[ast.Constant(value=str(name)), *_],
                ) if name.startswith(("treadle", ".")):
                    wrong.append(f"{file.relative_to(ROOT)}:{node.lineno}: import_module({name!r})")
    report(wrong)


def place_in_ir(module: str, places: dict[str, int]) -> int | None:
    """The line of the longest entry that covers `module`, which has lost its leading "ir."."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        entry = ".".join(parts[:length])
        if entry in places and (length == len(parts) or entry != "ops"):
            return places[entry]
    return None


def inner_order() -> tuple[dict[str, int], set[int]]:
    places: dict[str, int] = {}
    free: set[int] = set()
    for number, line in enumerate(INNER_ORDER.split("\n")):
        for word in line.split():
            if word == "free":
                free.add(number)
            else:
                places[word] = number
    return places, free


def test_ir_is_read_from_left_to_right() -> None:
    """Twenty files that may all see each other are one file of nine thousand lines."""
    places, free = inner_order()
    wrong = [
        f"{module.replace('.', '/')}.py has no place in INNER_ORDER"
        for module in sorted(modules())
        if module.startswith("ir.") and place_in_ir(module[3:], places) is None
    ]
    for found in all_imports():
        if not found.ours or room_of(found.importer) != "ir" or room_of(found.name) != "ir" or honest(found):
            continue
        if found.importer == "ir":
            continue  # the room's own __init__ stands above all
        if found.name == "ir":
            wrong.append(f"{found}    (import the file, not the room)")
            continue
        here, there = place_in_ir(found.importer[3:], places), place_in_ir(found.name[3:], places)
        if here is None or there is None or there < here or (there == here and here in free):
            continue
        wrong.append(f"{found}    ({found.importer} stands left of {found.name})")
    report(wrong)


@pytest.mark.parametrize("room", ROOMS)
def test_no_cycles(room: str) -> None:
    """Two files that import each other can only be read together, and one import order of them fails."""
    arrows: dict[str, dict[str, Import]] = {}
    for found in all_imports():
        delayed = found.for_types_only or found.inside_function
        if found.ours and not delayed and room_of(found.importer) == room == room_of(found.name):
            arrows.setdefault(found.importer, {})[found.name] = found
    done: set[str] = set()
    wrong: list[str] = []

    def walk(module: str, path: list[str]) -> None:
        if module in path:
            circle = [*path[path.index(module) :], module]
            wrong.append("\n".join(str(arrows[a][b]) for a, b in pairwise(circle)))
            return
        if module in done:
            return
        for target in arrows.get(module, {}):
            walk(target, [*path, module])
        done.add(module)

    for module in sorted(arrows):
        walk(module, [])
    report(wrong)


def test_no_file_at_the_root_shadows_a_module() -> None:
    """With the root on the path, a `random.py` there would be everybody's `random`."""
    assert [file.name for file in sorted(ROOT.glob("*.py"))] == ["__init__.py", "__main__.py"]
    others = {"numpy", "torch", "jax", "onnx", "numba", "llvmlite", "networkx", "rich", "ml_dtypes", "scipy"}
    taken = others | set(sys.stdlib_module_names)
    assert [path.name for path in sorted(ROOT.iterdir()) if path.is_dir() and path.name in taken] == []


def test_the_packages_are_all_listed() -> None:
    """The wheel holds the packages that pyproject.toml lists; a folder left out is missed only by users."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {".".join(("treadle", *file.parent.relative_to(ROOT).parts)) for file in package_files()}
    assert set(listed) == there
    assert [name for name in listed if not (ROOT / Path(*name.split(".")[1:]) / "__init__.py").exists()] == []


def test_importing_treadle_loads_nothing_slow() -> None:
    """The start-up law, observed: a fresh process, every public name that needs no compilation."""
    script = (
        "import sys, treadle\n"
        "treadle.__version__, treadle.TreadleError\n"
        "getattr(treadle, 'jit', None)\n"
        f"print(sorted({DELAYED!r} & set(sys.modules)))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "[]\n"
