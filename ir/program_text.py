"""Printing programs and reading them back.

    program predict:
      where B >= 1
      in x: f32[B,784]
      out 0: f32[B,10]
      const #9f2c01ab12345678: f32[784,10]
      arena: 64*B
      lower bound: 64*B
      kernel dot_add_0 updates (0, 2):
        graph dot_add(%p0: f32[B,784], ...) -> f32[B,10] where B >= 1:
          ...
      call dot_add_0(in0 f32[B,784], const0 f32[784,10], arena[0:40*B] f32[B,10]) -> out0 f32[B,10]  ~4 @net.py:12
      for t in range(T):
        copy arena[4*t:4*t + 4] f32[1] -> out0[4*t:4*t + 4]

A slot is a buffer (`in0`, `out1`, `const2`, with a range of bytes where it does not begin at the first) or a range of
the arena. Constants are named by the hash of their content; their data travels beside the text. Blocks are indented.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from . import errors
from .dims import Dim
from .dims import show as show_dim
from .errors import TreadleError
from .location import Location
from .parse import Reader
from .program import (
    Buffer,
    Call,
    Copy,
    KernelDef,
    Loop,
    Program,
    Promise,
    Slot,
    Space,
    Statement,
    Switch,
    While,
)
from .text import show as show_graph
from .text import show_attribute, show_dim_name
from .types import TensorType
from .value import Array

_WORD: Final = re.compile(r"[A-Za-z_]\w*")
_STRING: Final = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_HASH: Final = re.compile(r"#[0-9a-f]{16}")
_BUFFER: Final = re.compile(r"(in|out|const)(\d+)\b")
_CODE: Final = re.compile(r"TD\d{4}")
_FILE_LINE: Final = re.compile(r"@(.+?):(\d+)(?=\s|$)")


def show(program: Program) -> str:
    """The text of a program."""
    printer = _Printer()
    printer.program(program)
    return "\n".join(printer.lines) + "\n"


def show_slot(slot: Slot, typed: bool = True) -> str:
    """`in0 f32[4]`, `in0[64:80] f32[4]`, `arena[0:16] f32[4]`."""
    name = slot.memory
    if slot.space == "arena" or slot.offset != 0:
        name += f"[{show_dim(slot.offset)}:{show_dim(slot.offset + slot.type.bytes)}]"
    return f"{name} {slot.type}" if typed else name


def show_statement(statement: Statement) -> str:
    """A statement by itself, with its body."""
    printer = _Printer()
    printer.statement(statement, "")
    return "\n".join(printer.lines)


class _Printer:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def program(self, program: Program) -> None:
        put = self.lines.append
        put(f"program {program.name}:")
        if program.dims:
            put(f"  where {', '.join(map(show_dim_name, program.dims))}")
        self.buffers("in", program.inputs)
        self.buffers("out", program.outputs)
        for buffer in program.constants:
            put(f"  const #{buffer.label}: {buffer.type}")
        for result, argument in program.donated:
            put(f"  donated out{result} = in{argument}")
        for promise in program.requires:
            put(f"  require {show_dim(promise.low)} <= {show_dim(promise.high)}: {show_error(promise.error)}")
        put(f"  arena: {show_dim(program.arena_bytes)}")
        put(f"  lower bound: {show_dim(program.lower_bound)}")
        for kernel in program.kernels:
            updates = "".join(f" ({result}, {param})" for result, param in kernel.updates)
            work = f" work {', '.join(map(str, kernel.work))}" if kernel.work else ""
            put(f"  kernel {kernel.name}{' updates' if updates else ''}{updates}{work}:")
            self.lines += [f"    {line}" for line in show_graph(kernel.graph).splitlines()]
        self.body(program.body, "  ")

    def buffers(self, space: str, buffers: Sequence[Buffer]) -> None:
        for buffer in buffers:
            self.lines.append(f"  {space} {show_attribute(buffer.label)}: {buffer.type}")

    def body(self, body: Sequence[Statement], indent: str) -> None:
        for statement in body:
            self.statement(statement, indent)

    def statement(self, statement: Statement, indent: str) -> None:
        put = self.lines.append
        match statement:
            case Call(kernel, reads, writes, location, sequence, sites, work):
                mark = f" @{location}" if location is not None else ""
                given, found = ", ".join(map(show_slot, reads)), ", ".join(map(show_slot, writes))
                scratch = f" work {', '.join(map(show_slot, work))}" if work else ""
                put(f"{indent}call {kernel}({given}) -> {found}{scratch}  ~{sequence}{mark}")
                for site in sites:
                    put(f"{indent}  fails {show_error(site)}")
            case Copy(source, target):
                put(f"{indent}copy {show_slot(source)} -> {show_slot(target, typed=False)}")
            case Loop(var, count, body, reverse):
                counted = f"range({show_dim(count)})"
                put(f"{indent}for {var} in {f'reversed({counted})' if reverse else counted}:")
                self.body(body, indent + "  ")
            case While(condition, flag, body):
                put(f"{indent}while {show_slot(flag)}:")
                put(f"{indent}condition:")
                self.body(condition, indent + "  ")
                put(f"{indent}do:")
                self.body(body, indent + "  ")
            case Switch(selector, branches):
                put(f"{indent}switch {show_slot(selector)}:")
                for i, branch in enumerate(branches):
                    put(f"{indent}case {i}:")
                    self.body(branch, indent + "  ")


def show_error(error: TreadleError) -> str:
    """`OutOfRange TD0170 "message" edit "what to change" from "where" @file:line`."""
    words = [type(error).__name__, error.code, _quoted(error.message)]
    if error.edit:
        words += ["edit", _quoted(error.edit)]
    for line in error.provenance:
        words += ["from", _quoted(line)]
    if error.location is not None:
        words.append(f"@{error.location}")
    return " ".join(words)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def parse_program(text: str, constants: Mapping[str, Array] | None = None) -> Program:
    """The program of a text. `constants` supplies, by hash, data that kernels only name. Raises ParseError (TD0282)."""
    reader = _ProgramReader(text, constants)
    program = reader.program()
    reader.skip()
    if reader.position < len(text):
        reader.fail("a statement, or the end of the text")
    return program


class _ProgramReader(Reader):
    def fail(self, expected: str, *, code: str = "TD0282") -> NoReturn:
        super().fail(expected, code="TD0282" if code == "TD0260" else code)

    def column(self) -> int:
        """How far the next word is indented; -1 at the end of the text."""
        self.skip()
        if self.position >= len(self.text):
            return -1
        return self.position - self.text.rfind("\n", 0, self.position) - 1

    def word(self, expected: str) -> str:
        return self.match(_WORD, expected)

    def string(self) -> str:
        quoted = self.match(_STRING, "a string")[1:-1]
        return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], quoted)

    def label(self) -> str:
        return self.string() if self.peek('"') else self.word("a label")

    def program(self) -> Program:
        self.expect("program")
        name = self.until(":", "the program's name").strip()
        self.expect(":")
        fields: dict[str, Any] = {"dims": self.where() if self.accept("where") else ()}
        for space, field in (("in", "inputs"), ("out", "outputs")):
            buffers: list[Buffer] = []
            while self.accept(space):
                label = self.label()
                self.expect(":")
                buffers.append(Buffer(label, self.tensor_type()))
            fields[field] = tuple(buffers)
        constants: list[Buffer] = []
        while self.accept("const"):
            label = self.match(_HASH, "the hash of a constant")[1:]
            self.expect(":")
            constants.append(Buffer(label, self.tensor_type()))
        fields["constants"] = tuple(constants)
        donated: list[tuple[int, int]] = []
        while self.accept("donated"):
            result = self.buffer("out")
            self.expect("=")
            donated.append((result, self.buffer("in")))
        fields["donated"] = tuple(donated)
        requires: list[Promise] = []
        while self.accept("require"):
            low = self.dim("<")
            self.expect("<=")
            high = self.dim(":")
            self.expect(":")
            requires.append(Promise(low, high, self.error()))
        fields["requires"] = tuple(requires)
        self.expect("arena")
        self.expect(":")
        fields["arena_bytes"] = self.dim("\n")
        for word in ("lower", "bound", ":"):
            self.expect(word)
        fields["lower_bound"] = self.dim("\n")
        kernels: list[KernelDef] = []
        while self.accept("kernel"):
            kernels.append(self.kernel())
        fields["kernels"] = tuple(kernels)
        return Program(name, body=self.body(0), **fields)

    def buffer(self, space: str) -> int:
        found = self.match(_BUFFER, f"a buffer such as {space}0")
        if not found.startswith(space):
            self.position -= len(found)
            self.fail(f"a buffer such as {space}0")
        return int(found[len(space) :])

    def kernel(self) -> KernelDef:
        name = self.word("the name of a kernel")
        updates: list[tuple[int, int]] = []
        work: list[TensorType] = []
        if self.accept("updates"):
            while self.accept("("):
                result = self.integer()
                self.expect(",")
                updates.append((result, self.integer()))
                self.expect(")")
        if self.accept("work"):
            work.append(self.tensor_type())
            while self.accept(","):
                work.append(self.tensor_type())
        self.expect(":")
        return KernelDef(name, self.graph(nested=True), tuple(updates), tuple(work))

    def slot(self, kind: TensorType | None = None) -> Slot:
        self.skip()
        found = _BUFFER.match(self.text, self.position)
        space: Space = "arena"
        index = 0
        if found is not None:
            self.position = found.end()
            space, index = found[1], int(found[2])  # type: ignore[assignment]
        elif not self.accept("arena"):
            self.fail("a slot such as in0 or arena[0:64]")
        offset: Dim = 0
        end: Dim | None = None
        if self.accept("["):
            offset = self.dim(":")
            self.expect(":")
            end = self.dim("]")
            self.expect("]")
        elif space == "arena":
            self.fail("the range of bytes")
        given = self.tensor_type() if kind is None else kind
        if end is not None and end != offset + given.bytes:
            self.fail(f"a range of {show_dim(given.bytes)} bytes, which {given} has")
        return Slot(space, index, offset, given)

    def slots(self, end: str | None) -> tuple[Slot, ...]:
        found: list[Slot] = []
        if end is not None and self.accept(end):
            return ()
        while True:
            found.append(self.slot())
            if not self.accept(","):
                break
        if end is not None:
            self.expect(end)
        return tuple(found)

    def error(self) -> TreadleError:
        start = self.skip()
        kind = getattr(errors, self.word("the name of an error"), None)
        if not (isinstance(kind, type) and issubclass(kind, TreadleError)):
            self.position = start
            self.fail("the name of an error of treadle's")
        code = self.match(_CODE, "a code such as TD0170")
        message = self.string()
        edit = self.string() if self.accept("edit") else None
        provenance: list[str] = []
        while self.accept("from"):
            provenance.append(self.string())
        location = None
        if self.peek("@"):
            found = _FILE_LINE.match(self.text, self.position)
            if found is None:
                self.fail("@file:line")
            self.position = found.end()
            location = Location(found[1], int(found[2]))
        return kind(message, code=code, location=location, edit=edit, provenance=tuple(provenance))

    # Statements.

    def body(self, outside: int) -> tuple[Statement, ...]:
        """The statements that are indented further than `outside`."""
        found: list[Statement] = []
        while self.column() > outside:
            found.append(self.statement(self.column()))
        return tuple(found)

    def statement(self, column: int) -> Statement:
        if self.accept("call"):
            return self.call(column)
        if self.accept("copy"):
            source = self.slot()
            self.expect("->")
            return Copy(source, self.slot(source.type))
        if self.accept("for"):
            var = self.word("the variable")
            self.expect("in")
            reverse = self.accept("reversed")
            if reverse:
                self.expect("(")
            self.expect("range")
            self.expect("(")
            count = self.dim(")")
            self.expect(")")
            if reverse:
                self.expect(")")
            self.expect(":")
            return Loop(var, count, self.body(column), reverse)
        if self.accept("while"):
            flag = self.slot()
            self.expect(":")
            self.part("condition", column)
            condition = self.body(column)
            self.part("do", column)
            return While(condition, flag, self.body(column))
        if self.accept("switch"):
            selector = self.slot()
            self.expect(":")
            branches: list[tuple[Statement, ...]] = []
            while self.column() == column and self.peek("case"):
                self.expect("case")
                if self.integer() != len(branches):
                    self.fail(f"case {len(branches)} next")
                self.expect(":")
                branches.append(self.body(column))
            return Switch(selector, tuple(branches))
        self.fail("call, copy, for, while or switch")

    def part(self, word: str, column: int) -> None:
        if self.column() != column:
            self.fail(f"{word!r} in line with 'while'")
        self.expect(word)
        self.expect(":")

    def call(self, column: int) -> Call:
        kernel = self.word("the name of a kernel")
        self.expect("(")
        reads = self.slots(")")
        self.expect("->")
        writes = self.slots(None)
        work = self.slots(None) if self.accept("work") else ()
        origin = self.origin(0)
        sites: list[TreadleError] = []
        while self.column() > column and self.accept("fails"):
            sites.append(self.error())
        return Call(kernel, reads, writes, origin.location, origin.sequence, tuple(sites), work)
