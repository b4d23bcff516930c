"""Golden cases as text: pytest collects every `.text` file below `tests/` as a list of small cases.

    # why this case exists, in a sentence
    graph f(%x: f32[4]) -> f32[4]:
      %0 = full 0.0 : f32[4]
      %1 = add %x, %0 : f32[4]
      return %1
    => identities
    graph f(%x: f32[4]) -> f32[4]:
      return %x
    run f([1, 2, 3, 4]) == [1, 2, 3, 4]
    -----

Cases are separated by a line of dashes. After `=>` stand the passes, spelt as on the command line and applied
from left to right: `=> identities, fuse(limit=64) --target x86-64:avx2`. Below it stands what must come out:
what the passes said (`# fuse: add: not fused: two users`) and the text, or the error that must be raised. A
case without `=>` must come out of the parser and the printer as it went in.

The kernels that fusion may ask for are those of the code generator for the target (`generic:v128` unless another is
named), as on the command line; with `--kernels any` there is one for everything and with `--kernels none` for nothing
but single ops, so that a case shows what the pass wants by itself. A last `program`, or `program(donated=[(0, 1)])`
with pairs of result and argument, makes the program of the grouped graph. A program may also be given; `=> check` then
asks the independent checker.

`run` lines are checked by evaluating the graph before and after, and the program; `==` is exact (NaN equals NaN), `~=`
allows what rounding in the result's type explains. A plain number stands for an array full of it. The command
`pytest tests --update` writes what came out below `=>`, but never a `run` line: only a person can say what a
function should return.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import unified_diff
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RULE = re.compile(r"^-{5,}$", re.MULTILINE)
SEPARATOR = "-----"
RUN = re.compile(r"run (?P<name>[^\s(]+)(?P<arguments>\(.*\)) (?P<relation>==|~=) (?P<expected>.*)")
NAMES = {"nan": np.nan, "inf": np.inf, "True": True, "False": False}


@dataclass(frozen=True)
class Case:
    """One case as it stands in its file: the lines of each part, and the number of its first line."""

    line: int
    why: tuple[str, ...]
    given: tuple[str, ...]
    passes: str | None
    expected: tuple[str, ...]
    runs: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.why[0].lstrip("# ").rstrip(".")

    @property
    def text(self) -> str:
        middle = () if self.passes is None else (f"=> {self.passes}", *self.expected)
        return "\n".join((*self.why, *self.given, *middle, *self.runs))


class BadCase(Exception):
    """A case that is not in the form described above."""


def cases_of(text: str) -> list[Case]:
    """The cases of a file. Blank lines round a case mean nothing; inside a part they are kept."""
    cases = []
    line = 1
    for piece in RULE.split(text):
        above = len(piece) - len(piece.lstrip("\n"))
        if piece.strip():
            cases.append(case_of(piece.strip("\n"), line + above))
        line += piece.count("\n")
    return cases


def case_of(text: str, line: int) -> Case:
    lines = text.splitlines()
    why = 0
    while why < len(lines) and lines[why].startswith("#"):
        why += 1
    if why == 0:
        raise BadCase(f"line {line}: a case opens with a comment that says why it exists")
    end = len(lines)
    while end > why and lines[end - 1].startswith("run "):
        end -= 1
    arrows = [i for i in range(why, end) if lines[i].startswith("=> ")]
    if len(arrows) > 1:
        raise BadCase(f"line {line + arrows[1]}: a second '=>' in one case")
    arrow = arrows[0] if arrows else end
    return Case(
        line,
        tuple(lines[:why]),
        tuple(lines[why:arrow]),
        lines[arrow].removeprefix("=> ") if arrows else None,
        tuple(lines[arrow + 1 : end]),
        tuple(lines[end:]),
    )


def text_of(cases: list[Case]) -> str:
    return f"\n{SEPARATOR}\n".join(case.text for case in cases) + "\n"


# What a case needs from the package.


def parse(text: str) -> Any:
    from treadle.ir.parse import parse_graph
    from treadle.ir.program_text import parse_program

    return parse_program(text) if text.startswith("program") else parse_graph(text)


STAGE = re.compile(r"(?P<passes>.*?)(?:^|,\s*)program(?:\((?P<options>.*)\))?")
WORDS = re.compile(r"\s--(?P<name>target|kernels)\s+(?P<value>\S+)")


class AllKernels:
    """A code generator that has a kernel for every group, or for single ops alone."""

    def __init__(self, answer: bool) -> None:
        self.answer = answer

    def accepts(self, group: object) -> bool:
        return self.answer

    def keeps(self, op: object) -> bool:
        return False

    def workspace(self, group: object) -> tuple[()]:
        return ()


def context(target_name: str, kernels: str) -> Any:
    from treadle.frontend.compile import Compilation
    from treadle.ir.graph import Graph
    from treadle.ir.target import parse as parse_target
    from treadle.passes.manager import Context

    target = parse_target(target_name)
    if kernels:
        return Context(target, AllKernels({"any": True, "none": False}[kernels]), check=True)
    return Compilation(Graph("empty", (), ()), target, check=True).context


def apply(text: str, graph: Any) -> tuple[list[str], Any]:
    """What the passes said, and what they made of `graph`. Forms, and what a program computes, are checked as well."""
    from treadle.ir.program_check import check
    from treadle.passes.buffers import to_program
    from treadle.passes.pipelines import given

    if text == "check":
        check(graph)
        return [], graph
    words = {found["name"]: found["value"] for found in WORDS.finditer(text)}
    spelling = WORDS.sub("", text).strip()
    cx = context(words.get("target", "generic:v128"), words.get("kernels", ""))
    planned = STAGE.fullmatch(spelling)
    if planned:
        spelling = planned["passes"]
    for step in given(spelling, graph, cx.kernels.keeps).run(graph, cx):
        graph = step.after
    if planned:
        tree = ast.parse(f"dict({planned['options'] or ''})", mode="eval").body
        assert isinstance(tree, ast.Call)
        options = {str(each.arg): ast.literal_eval(each.value) for each in tree.keywords}
        graph = (graph, *to_program(graph, cx, **options))
    return [f"# {remark}" for remark in cx.remarks], graph


def outcome(case: Case) -> tuple[tuple[str, ...], list[Any]]:
    """The lines that come out of a case, and the graphs on which its `run` lines must hold."""
    from treadle.ir.errors import TreadleError
    from treadle.ir.graph import Graph
    from treadle.ir.program_text import show as show_program
    from treadle.ir.text import show

    try:
        given = parse("\n".join(case.given) + "\n")
        said, result = apply(case.passes, given) if case.passes is not None else ([], given)
    except TreadleError as error:
        return tuple(f"error {error}".splitlines()), []
    stages = [given]
    if isinstance(result, tuple):
        stages += [result[0], result[1:]]
        text = show_program(result[1])
    else:
        stages.append(result)
        text = show(result) if isinstance(result, Graph) else show_program(result)
    return (*said, *text.splitlines()), stages


# Run lines.


def literal(text: str) -> Any:
    """A Python literal in which `nan` and `inf` are numbers."""
    return eval(compile(text, "run", "eval"), {"__builtins__": {}}, dict(NAMES))


def array_of(value: Any, given: Any) -> Any:
    """`value` as an array of type `given`; a plain number fills the shape, where the shape is known."""
    array = np.asarray(value).astype(given.dtype.numpy)
    if array.ndim == 0 and all(isinstance(size, int) for size in given.shape):
        array = np.full(given.shape, array, given.dtype.numpy)
    return array


# What a few roundings in the result's type explain; bf16 and the types of eight bits are not in the list.
TOLERANCE = {"float16": 4e-3, "float32": 1e-5, "complex64": 1e-5, "float64": 1e-12, "complex128": 1e-12}


def check_run(line: str, stage: Any) -> None:
    """`stage` is a graph, or a program with the data of its constants."""
    from treadle.ir.evaluate import evaluate
    from treadle.ir.graph import Graph
    from treadle.ir.program_evaluate import run

    found = RUN.fullmatch(line)
    if found is None:
        raise BadCase(f"not of the form `run f(1.0) == 2.0`: {line}")
    graph, constants = stage if isinstance(stage, tuple) else (stage, ())
    assert found["name"] == graph.name, f"the graph is called {graph.name}: {line}"
    arguments = literal(found["arguments"][:-1] + ",)") if found["arguments"] != "()" else ()
    is_graph = isinstance(graph, Graph)
    kinds = graph.param_types if is_graph else [buffer.type for buffer in graph.inputs]
    values = [array_of(value, kind) for value, kind in zip(arguments, kinds, strict=True)]
    results = evaluate(graph, *values) if is_graph else run(graph, constants, *values)
    wanted = literal(found["expected"])
    if len(results) == 1:
        wanted = (wanted,)
    for one, want in zip(results, wanted, strict=True):
        expected = np.broadcast_to(np.asarray(want).astype(one.dtype), one.shape)
        kind = np.complex128 if one.dtype.kind == "c" else np.float64
        if one.dtype.kind in "biu":
            good = np.array_equal(one, expected)
        elif found["relation"] == "==":
            good = np.array_equal(one.astype(kind), expected.astype(kind), equal_nan=True)
        else:
            error = TOLERANCE.get(one.dtype.name, 3e-2)
            good = np.allclose(one.astype(kind), expected.astype(kind), error, error, equal_nan=True)
        assert good, f"{line}\n{'the graph' if is_graph else 'the program'} gives {one.tolist()}:\n{graph}"


# Collection.


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    return TextFile.from_parent(parent, path=file_path) if file_path.suffix == ".text" else None


class TextFile(pytest.File):
    def collect(self) -> Iterator[pytest.Item]:
        self.cases = cases_of(self.path.read_text(encoding="utf-8"))
        for number, case in enumerate(self.cases):
            yield TextCase.from_parent(self, name=case.name, number=number)

    def rewrite(self, number: int, expected: tuple[str, ...]) -> None:
        case = self.cases[number]
        if case.passes is None:
            self.cases[number] = replace(case, given=expected)
        else:
            self.cases[number] = replace(case, expected=expected)
        self.path.write_text(text_of(self.cases), encoding="utf-8")


class TextCase(pytest.Item):
    def __init__(self, *, number: int, **rest: Any) -> None:
        super().__init__(**rest)
        self.number = number

    @property
    def file(self) -> TextFile:
        assert isinstance(self.parent, TextFile)
        return self.parent

    def runtest(self) -> None:
        case = self.file.cases[self.number]
        found, stages = outcome(case)
        expected = case.given if case.passes is None else case.expected
        if found != expected:
            if self.config.getoption("--update"):
                self.file.rewrite(self.number, found)
            else:
                raise Different("\n".join(unified_diff(expected, found, "expected", "found", lineterm="")))
        if case.runs and found and found[0].startswith("error "):
            raise BadCase("nothing is run where an error is raised")
        for line in case.runs:
            for stage in stages:
                check_run(line, stage)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        case = self.file.cases[self.number]
        head = f"{self.path}:{case.line}: {case.name}\n"
        if isinstance(excinfo.value, Different | BadCase):
            return f"{head}{excinfo.value}"
        if isinstance(excinfo.value, AssertionError) and excinfo.traceback[-1].path == Path(__file__):
            return f"{head}{excinfo.value}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.file.cases[self.number].line - 1, self.name


class Different(Exception):
    """What came out is not what the case expects; the message is the diff."""
