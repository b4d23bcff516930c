"""The op vocabulary as a table: which rules each op has, and where they are written."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from ..ir.ops import OPS
from ..ir.value import Elementwise, Value
from .userline import unknown_name

RULES = ("result", "evaluate", "structure", "partials", "transpose", "jvp", "batch", "decompose")
ROOT = Path(__file__).resolve().parent.parent


def place(member: Any) -> str:
    """`ir/ops/elementwise.py:274`."""
    file = Path(inspect.getsourcefile(member) or "").resolve()
    return f"{file.relative_to(ROOT)}:{inspect.getsourcelines(member)[1]}"


def rules(cls: type[Value]) -> list[tuple[str, str, str]]:
    """(rule, "own" or the family it comes from, file:line) of an op."""
    found = []
    for rule in RULES:
        member = inspect.getattr_static(cls, rule, None)
        if member is None:
            continue
        owner = next(base for base in cls.__mro__ if rule in base.__dict__)
        if owner in (Value,) or owner.__name__ == "Op":
            continue
        function = member.fget if isinstance(member, property) else member
        found.append((rule, "own" if owner is cls else f"of {owner.__name__}", place(function)))
    return found


def family(cls: type[Value]) -> str:
    return next(
        (b.__name__ for b in cls.__mro__[1:] if b.__module__.endswith("families")),
        "Elementwise" if issubclass(cls, Elementwise) else "Value",
    )


def overview() -> str:
    """Every op by family, one line each."""
    by_family: dict[str, list[str]] = {}
    for name, cls in OPS.items():
        by_family.setdefault(family(cls), []).append(name)
    return "\n".join(f"{name}: {', '.join(members)}" for name, members in by_family.items())


def describe(name: str) -> str:
    """One op: what it means, its fields, and each of its rules with file and line."""
    cls = OPS.get(name)
    if cls is None:
        raise unknown_name("op", name, list(OPS))
    fields = ", ".join(
        f"{f.name}: {f.annotation}" + ("" if repr(f.default) == "MISSING" else f" = {f.default!r}") for f in cls.schema
    )
    lines = [f"{name}({fields})", f"  {place(cls)}", "", inspect.cleandoc(cls.__doc__ or ""), ""]
    lines += [f"  {rule:<10} {own:<18} {where}" for rule, own, where in rules(cls)]
    return "\n".join(lines)
