"""How many elements a compiled program reads and writes in memory, counted in its loops: no model of costs has a say.

A loop counts as often as it runs, both sides of a branch count, and what lies in registers does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from treadle.ir.dims import evaluate
from treadle.ir.loops.nodes import Alloc, For, If, Index, Kernel, Let, Load, Store, While
from treadle.ir.program import Call, Copy, Loop, Switch
from treadle.ir.program import While as ProgramWhile


def touched(compiled: Any) -> int:
    """Elements read and written by one call of a program whose sizes are known."""
    compilation = compiled.executed.compilation
    kernels = {name: of_kernel(kernel) for name, kernel in compilation.kernels.items()}

    def statements(body: Sequence[Any]) -> int:
        total = 0
        for statement in body:
            match statement:
                case Call():
                    total += kernels[statement.kernel]
                case Copy():
                    total += 2 * evaluate(statement.source.type.size, {})
                case Loop():
                    total += evaluate(statement.count, {}) * statements(statement.body)
                case ProgramWhile():
                    total += statements(statement.condition) + statements(statement.body)
                case Switch():
                    total += sum(map(statements, statement.branches))
        return total

    return statements(compilation.program.body)


def of_kernel(kernel: Kernel) -> int:
    registers: set[str] = {table.name for table in kernel.tables}

    def inside(node: Any, at: dict[str, int]) -> int:
        """Of an expression, or of statements; `at` are the numbers that are known."""
        match node:
            case tuple() | list():
                at = dict(at)
                return sum(inside(each, at) for each in node)
            case Alloc(name=name, memory=memory):
                registers.update([name] if memory == "registers" else [])
                return 0
            case Let(name=name, value=Index(dim=dim)):
                at[name] = evaluate(dim, at)
                return 0
            case For(var=var, body=body, step=step):
                places = range(evaluate(node.start, at), evaluate(node.stop, at), step)
                if has_bounds(body):
                    return sum(inside(body, {**at, var: place}) for place in places)
                return len(places) * inside(body, at) if places else 0
            case Load(buffer=buffer) | Store(buffer=buffer):
                own = int(buffer not in registers)
                return own + (inside(node.value, at) if isinstance(node, Store) else 0)
        if type(node).__module__.endswith("loops.nodes"):
            return sum(inside(getattr(node, each.name), at) for each in fields(node))
        return 0

    return inside(kernel.body, {})


def has_bounds(node: Any) -> bool:
    """Whether some loop inside has bounds that are no plain numbers."""
    if isinstance(node, tuple | list):
        return any(map(has_bounds, node))
    if isinstance(node, For):
        return not (type(node.start) is int and type(node.stop) is int) or has_bounds(node.body)
    if isinstance(node, If):
        return has_bounds(node.then) or has_bounds(node.otherwise)
    return isinstance(node, While) and has_bounds(node.body)
