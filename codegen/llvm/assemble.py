"""From a program and its kernels to the text of one module, or of several where that is long.

The program's slots become places in the entry's buffers, its calls runs of kernels, each with failure sites of its own;
kernels stand in the text once, however often they are called. Where a long text is cut is decided by the text alone, so
that the objects of its parts, and what is linked of them, are the same bytes whoever generates them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, assert_never

from ...ir.dims import symbol
from ...ir.loops.nodes import Kernel
from ...ir.program import Call, Copy, KernelDef, Loop, Program, Slot, Statement, Switch, While
from ...ir.target import Target
from . import entry
from .emit import Module
from .pool import pool_module

# Of text, a seventh of a second of code generation: enough that what is said once in every module does not show, little
# enough that the last one of several is not long waited for.
PART_BYTES: Final = 256 << 10


def module_text(program: Program, kernels: Mapping[str, Kernel], target: Target) -> str:
    """The program as one module."""
    parts = Parts(target, undivided=True)
    for kernel in kernels.values():
        parts.add(kernel)
    return parts.last(program)


class Parts:
    """The modules of a program in the making. Kernels go in one by one; a module comes out when it is full, and the
    last one with the entry. A program of less than `PART_BYTES` of kernels has one, and so has an `undivided` one."""

    def __init__(self, target: Target, *, undivided: bool = False) -> None:
        self.target = target
        self.undivided = undivided
        self.module = Module(target)
        self.kernels = 0
        self.bytes = 0  # in finished modules

    def add(self, kernel: Kernel) -> str | None:
        """The text of the module that this kernel fills."""
        module = self.module
        module.add(kernel)
        self.kernels += 1
        if self.undivided or sum(map(len, module.functions)) < PART_BYTES:
            return None
        module.share()
        self.module = Module(self.target, module.kernels)
        text = module.text()
        self.bytes += len(text)
        return text

    def last(self, program: Program, *, interface: entry.Interface | None = None, timed: bool = False) -> str:
        """The text of the last module; with `interface`, a saved model's C functions and a thread pool of its own are
        in it too; `timed` makes it a program for profiling, with one output more (see `entry.Times`)."""
        module = self.module
        entry.add_entry(module, entry_of(program, timed))
        if interface is not None:
            entry.add_interface(module, interface, pool=True)
            module.add_text(pool_module(self.target.triple, embed=True))
        return module.text()


def entry_of(program: Program, timed: bool = False) -> entry.Entry:
    """The program as the entry's plain data. The sites of what it requires of its dims follow those of its calls."""
    steps = _Steps(program, timed)
    body = steps.body(program.body)
    requires = tuple(
        entry.Require(promise.low, promise.high, steps.sites + number)
        for number, promise in enumerate(program.requires, 1)
    )
    times = entry.Times(steps.base["const"] - 1, steps.calls) if timed else None
    return entry.Entry(tuple(dim.name for dim in program.dims), body, program.arena_bytes, requires, times)


class _Steps:
    def __init__(self, program: Program, timed: bool) -> None:
        self.kernels: dict[str, KernelDef] = {kernel.name: kernel for kernel in program.kernels}
        inputs, outputs = len(program.inputs), len(program.outputs) + timed
        self.base = {"in": 0, "out": inputs, "const": inputs + outputs}
        self.sites = 0
        self.calls = 0

    def body(self, statements: tuple[Statement, ...]) -> tuple[entry.Step, ...]:
        return tuple(self.step(statement) for statement in statements)

    def place(self, slot: Slot) -> entry.Place:
        if slot.space == "arena":
            return entry.Place("arena", 0, slot.offset)
        return entry.Place("buffer", self.base[slot.space] + slot.index, slot.offset)

    def step(self, statement: Statement) -> entry.Step:
        match statement:
            case Call(name, reads, writes, sites=sites, work=work):
                kernel = self.kernels[name]
                updated = {result for result, _ in kernel.updates}
                slots = (*reads, *(slot for i, slot in enumerate(writes) if i not in updated), *work)
                first, self.sites = self.sites, self.sites + len(sites)
                dims = tuple(symbol(dim.name) for dim in kernel.graph.dims)
                number, self.calls = self.calls, self.calls + 1
                return entry.Run(name, tuple(map(self.place, slots)), dims, first, number)
            case Copy(source, target):
                return entry.Move(self.place(source), self.place(target), source.type.bytes)
            case Loop(var, count, body, reverse):
                return entry.Count(var, count, self.body(body), reverse)
            case While(condition, flag, body):
                return entry.Loop(self.body(condition), self.place(flag), self.body(body))
            case Switch(selector, branches):
                dtype = selector.type.dtype.name
                return entry.Switch(self.place(selector), dtype, tuple(self.body(branch) for branch in branches))
        assert_never(statement)
