"""The intrinsics we call: how their names are spelt and how they are declared.

An intrinsic is used only if LLVM turns it into instructions on the target at hand. Those that would become a call into
a maths or compiler library (`llvm.fma` without FMA, `llvm.floor` without SSE4.1, half conversions without F16C) are
opened by `scalars.py` into arithmetic instead, so an object needs nothing but libc's block operations.
"""

from __future__ import annotations

from typing import Final

_MANGLED: Final = {"float": "f32", "double": "f64", "half": "f16", "bfloat": "bf16", "ptr": "p0"}


def declaration(result: str, name: str, types: tuple[str, ...]) -> str:
    """The line that declares one function."""
    return f"declare {result} @{name}({', '.join(types)})"


def overload(type_: str) -> str:
    """How a type is spelt in the name of an overloaded intrinsic: `<16 x float>` is `v16f32`."""
    if type_[0] == "<":
        count, _, scalar = type_[1:-1].split(" ")
        return f"v{count}{_MANGLED.get(scalar, scalar)}"
    return _MANGLED.get(type_, type_)


def masked_load(kind: str, count: int) -> tuple[str, str]:
    """(name, declaration) of a load of `count` elements under a mask; lanes that are off are given."""
    name = f"llvm.masked.load.{overload(kind)}.p0"
    return name, declaration(kind, name, ("ptr", f"<{count} x i1>", kind))


def masked_store(kind: str, count: int) -> tuple[str, str]:
    name = f"llvm.masked.store.{overload(kind)}.p0"
    return name, declaration("void", name, (kind, "ptr", f"<{count} x i1>"))


def gather(kind: str, count: int) -> tuple[str, str]:
    """A load from `count` addresses. Without the instruction LLVM writes one load per lane."""
    name = f"llvm.masked.gather.{overload(kind)}.v{count}p0"
    return name, declaration(kind, name, (f"<{count} x ptr>", f"<{count} x i1>", kind))


def scatter(kind: str, count: int) -> tuple[str, str]:
    name = f"llvm.masked.scatter.{overload(kind)}.v{count}p0"
    return name, declaration("void", name, (kind, f"<{count} x ptr>", f"<{count} x i1>"))
