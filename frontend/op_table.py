"""The op vocabulary as a table: which rules each op has, and where they are written.

A row is what the rest of the house needs to know of an op: its type and reference, how loops come of it, its
derivative, how it is batched, its fusion class, its text. Most follow from the family or the structure. A rule that is
nowhere is a hole; `tests/house/test_op_rules.py` fails on one with the name of the file to open.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..codegen import lower
from ..codegen.lower.compose import Composer
from ..codegen.lower.structured import Nests
from ..ir import evaluate, parse
from ..ir.ops import OPS
from ..ir.ops.families import Composite, Control, Movement, Op, Reduction
from ..ir.value import After, Constant, DimSize, Elementwise, Full, Get, Value
from ..passes import autodiff, autodiff_control, batch, fuse
from .userline import unknown_name

ROOT = Path(__file__).resolve().parent.parent


class Rule(NamedTuple):
    """One cell of the table: `how` the op comes by the rule ("own", "of Movement", "from its structure") and where that
    is written. Of a hole `how` is empty, and `where` is the file in which it belongs."""

    name: str
    how: str
    where: str


def place(member: Any) -> str:
    """`ir/ops/elementwise.py:274`."""
    file = Path(inspect.getsourcefile(member) or "").resolve()
    return f"{file.relative_to(ROOT)}:{inspect.getsourcelines(member)[1]}"


def chapter(cls: type[Value]) -> str:
    """The file that defines the op."""
    return str(Path(inspect.getsourcefile(cls) or "").resolve().relative_to(ROOT))


def written(cls: type[Value], name: str) -> tuple[str, str] | None:
    """("own" or the class it comes from, file:line) of a method, None where nothing more special than `Value` and `Op`
    has one."""
    owner = next((base for base in cls.__mro__ if name in base.__dict__), Value)
    if owner in (Value, Op):
        return None
    member = owner.__dict__[name]
    how = "own" if owner is cls else f"of {owner.__name__}"
    return how, place(member.fget if isinstance(member, property) else member)


def row(cls: type[Value]) -> list[Rule]:
    """Every rule of an op."""
    return [
        Rule(name, *(find(cls) or ("", where.format(chapter=chapter(cls))))) for name, (find, where) in _RULES.items()
    ]


def holes(cls: type[Value]) -> list[Rule]:
    """The rules that an op needs and has not."""
    return [rule for rule in row(cls) if not rule.how]


# --- the columns ------------------------------------------------------------------------------------------------------


def _type(cls: type[Value]) -> tuple[str, str] | None:
    return written(cls, "result")


def _reference(cls: type[Value]) -> tuple[str, str] | None:
    if issubclass(cls, Control):
        found = written(cls, "evaluate_bodies")
        return None if found is None or found[0] == "of Control" else found
    if issubclass(cls, Full | DimSize | Constant):
        return "by the interpreter", place(evaluate._value)
    return written(cls, "evaluate")


def _loops(cls: type[Value]) -> tuple[str, str] | None:
    """How a kernel comes of the op: a rule of its own in codegen, its structure, its decomposition."""
    for table, how in ((lower.rules(), "at a position"), (lower.nest_rules(), "a nest")):
        for known, rule in table.items():
            if issubclass(cls, known):
                return how, place(rule)
    if issubclass(cls, Full | Constant | After):
        return "where it is read", place(Composer.steps)
    if issubclass(cls, Get):
        return "an element of a tuple", place(Nests.value)
    structure = written(cls, "structure")
    if structure is not None:
        return f"structure, {structure[0]}", structure[1]
    opened = written(cls, "decompose") if issubclass(cls, Composite) else None
    return None if opened is None or opened[0] == "of Composite" else ("opened", opened[1])


def _derivative(cls: type[Value]) -> tuple[str, str] | None:
    """The most special rule there is: `jvp`, else `partials`, else the transpose of what is linear."""
    found = {name: written(cls, name) for name in ("jvp", "partials", "transpose")}
    for name, rule in found.items():
        if rule is not None and rule[0] != "of Elementwise":
            return f"{name}, {rule[0]}", rule[1]
    if not any(field.kind in ("operand", "operands") for field in cls.schema):
        return "no operands", place(cls)
    if cls.flat is not False:
        owner = next(base for base in cls.__mro__ if "flat" in base.__dict__)
        return "flat", place(owner)
    if issubclass(cls, Control):
        return "of its bodies", place(autodiff_control.control_tangent)
    if issubclass(cls, Composite):
        return "of its pieces", place(autodiff.tangent_of)
    return ("of its element", place(autodiff.transpose)) if issubclass(cls, Get) else None


def _batch(cls: type[Value]) -> tuple[str, str] | None:
    found = written(cls, "batch")
    if found is not None:
        return found
    if not any(field.kind in ("operand", "operands") for field in cls.schema):
        return "no operands", place(cls)
    if issubclass(cls, Elementwise | After):
        return "maps every element", place(batch._op)
    if issubclass(cls, Get):
        return "of its element", place(batch.Spread)
    if issubclass(cls, Control):
        return "of its bodies", place(batch._op)
    return ("of its pieces", place(batch._op)) if issubclass(cls, Composite) else None


def _fusion(cls: type[Value]) -> tuple[str, str] | None:
    """Which class fusion sees the op in: computed of each value, from its structure."""
    if issubclass(cls, Control):
        return "stays as it is", place(fuse.is_outside)
    if issubclass(cls, Get | After | Full | DimSize | Constant):
        return "no computation", place(fuse.is_outside)
    if issubclass(cls, Elementwise | Movement):
        return "map", place(fuse.kind_of)
    if issubclass(cls, Reduction):
        return "reduction", place(fuse.kind_of)
    if written(cls, "structure") is not None:
        return "from its structure", place(fuse.kind_of)
    if issubclass(cls, Composite):
        return "of its pieces", place(fuse.kind_of)
    known = issubclass(cls, (*lower.rules(), *lower.nest_rules()))
    return ("loose", place(fuse.kind_of)) if known else None


def _text(cls: type[Value]) -> tuple[str, str] | None:
    """Printed and read back by the fields' annotations; whether that is a fixpoint is asked of the op table's rows."""
    return "from its fields", place(parse.Reader.op)


_RULES: dict[str, tuple[Callable[[type[Value]], tuple[str, str] | None], str]] = {
    "type": (_type, "{chapter}"),
    "reference": (_reference, "{chapter}"),
    "loops": (_loops, "{chapter} (structure) or codegen/lower/"),
    "derivative": (_derivative, "{chapter} (partials, transpose, jvp or flat)"),
    "batch": (_batch, "{chapter} (batch)"),
    "fusion": (_fusion, "passes/fuse.py"),
    "text": (_text, "ir/parse.py"),
}


# --- for people -------------------------------------------------------------------------------------------------------


def family(cls: type[Value]) -> str:
    return next(
        (b.__name__ for b in cls.__mro__[1:] if b.__module__.endswith("families")),
        "Elementwise" if issubclass(cls, Elementwise) else "Value",
    )


def overview() -> str:
    """Every op by family."""
    by_family: dict[str, list[str]] = {}
    for name, cls in OPS.items():
        by_family.setdefault(family(cls), []).append(name)
    wrapped = textwrap.TextWrapper(width=100, subsequent_indent="    ")
    return "\n".join(wrapped.fill(f"{name}: {', '.join(members)}") for name, members in by_family.items())


def describe(name: str) -> str:
    """One op: what it means, its fields, and each of its rules with file and line."""
    cls = OPS.get(name)
    if cls is None:
        raise unknown_name("op", name, list(OPS))
    fields = ", ".join(
        f"{f.name}: {f.annotation}" + ("" if repr(f.default) == "MISSING" else f" = {f.default!r}") for f in cls.schema
    )
    lines = [f"{name}({fields})", f"  {place(cls)}", "", inspect.cleandoc(cls.__doc__ or ""), ""]
    return "\n".join([*lines, *_aligned(row(cls))])


def _aligned(rules: list[Rule]) -> Iterator[str]:
    width = max(len(rule.how) for rule in rules)
    for rule in rules:
        yield f"  {rule.name:<10} {rule.how or 'MISSING':<{width}}  {rule.where}"
