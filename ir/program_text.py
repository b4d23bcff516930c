"""Printing programs and reading them back.

    program predict:
      where B >= 1
      in x: f32[B,784]
      out 0: f32[B,10]
      const 9f2c01ab12345678: f32[784,10]
      arena 64*B bytes, at least 40*B live at once
      kernel dot_add_0 updates (0, 2):
        graph dot_add(%p0: f32[B,784], ...) -> f32[B,10] where B >= 1:
          ...
      call dot_add_0(in0 f32[B,784], const0 f32[784,10], arena[0:40*B] f32[B,10]) -> out0 f32[B,10]  ~4 @net.py:12
      for t in range(T):
        copy arena[4*t:4*t + 4] f32[1] -> out0[4*t:4*t + 4]

A slot is a buffer (`in0`, `out1`, `const2`, with a range of bytes where it is not the whole from the start) or a range
of the arena. Constants are named by the hash of their content; their data travels beside the text.
"""

from __future__ import annotations

from collections.abc import Sequence

from .dims import show as show_dim
from .errors import TreadleError
from .program import Buffer, Call, Copy, Loop, Program, Promise, Slot, Statement, Switch, While
from .text import show as show_graph
from .text import show_attribute, show_dim_name


def show(program: Program) -> str:
    """The text of a program."""
    printer = _Printer()
    printer.program(program)
    return "\n".join(printer.lines) + "\n"


def show_slot(slot: Slot, typed: bool = True) -> str:
    """`in0 f32[4]`, `in0[64:80] f32[4]`, `arena[0:16] f32[4]`."""
    name = slot.space if slot.space == "arena" else f"{slot.space}{slot.index}"
    if slot.space == "arena" or slot.offset != 0:
        name += f"[{show_dim(slot.offset)}:{show_dim(slot.offset + slot.type.bytes)}]"
    return f"{name} {slot.type}" if typed else name


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
        self.buffers("const", program.constants)
        for result, argument in program.donated:
            put(f"  donated out{result} = in{argument}")
        for promise in program.requires:
            self.promise(promise)
        put(f"  arena {show_dim(program.arena_bytes)} bytes, at least {show_dim(program.lower_bound)} live at once")
        for kernel in program.kernels:
            updates = "".join(f" ({result}, {param})" for result, param in kernel.updates)
            put(f"  kernel {kernel.name}{' updates' if updates else ''}{updates}:")
            self.lines += [f"    {line}" for line in show_graph(kernel.graph).splitlines()]
        self.body(program.body, "  ")

    def buffers(self, space: str, buffers: Sequence[Buffer]) -> None:
        for buffer in buffers:
            self.lines.append(f"  {space} {show_attribute(buffer.label)}: {buffer.type}")

    def promise(self, promise: Promise) -> None:
        low, high = show_dim(promise.low), show_dim(promise.high)
        self.lines.append(f"  require {low} <= {high} else {self.error(promise.error)}")

    def error(self, error: TreadleError) -> str:
        where = f" @{error.location}" if error.location is not None else ""
        edit = f" edit {_quoted(error.edit)}" if error.edit else ""
        return f"{type(error).__name__} {error.code} {_quoted(error.message)}{edit}{where}"

    def body(self, body: Sequence[Statement], indent: str) -> None:
        for statement in body:
            self.statement(statement, indent)

    def statement(self, statement: Statement, indent: str) -> None:
        put = self.lines.append
        match statement:
            case Call(kernel, reads, writes, location, sequence, sites):
                mark = f" @{location}" if location is not None else ""
                given, found = ", ".join(map(show_slot, reads)), ", ".join(map(show_slot, writes))
                put(f"{indent}call {kernel}({given}) -> {found}  ~{sequence}{mark}")
                for site in sites:
                    put(f"{indent}  fails {self.error(site)}")
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


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


