"""Structural hashes: the cache key of a graph, and what makes two kernels one.

Two graphs have one fingerprint when they compute the same by the same ops in the same order of operands: names of
parameters, locations and traced numbers do not count, contents of constants do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from .graph import Graph
from .text import digest, show_attribute
from .value import Constant, Parameter, Value


def fingerprint(graph: Graph, *extra: str) -> str:
    """64 hex digits; `extra` are further words that the key depends on (version, target, options)."""
    content = hashlib.sha256()
    _feed(content, graph)
    for word in extra:
        content.update(word.encode())
        content.update(b"\0")
    return content.hexdigest()


def same(a: Graph, b: Graph) -> bool:
    """Whether two graphs are structurally equal."""
    return fingerprint(a) == fingerprint(b)


def _feed(content: Any, graph: Graph) -> None:
    numbers: dict[int, int] = {}
    types: dict[int, str] = {}  # the texts of the types by their addresses: the values keep them alive
    for value in graph.order:
        numbers[id(value)] = len(numbers)
        kind = types.get(id(value.type))
        if kind is None:
            kind = types[id(value.type)] = str(value.type)
        content.update(_line(value, numbers, kind).encode())
        for body in value.bodies:
            content.update(b"{")
            _feed(content, body)
            content.update(b"}")
    content.update(f"return {[numbers[id(v)] for v in graph.results]}".encode())
    content.update(f"where {graph.dims}".encode())


def _line(value: Value, numbers: dict[int, int], kind: str) -> str:
    if isinstance(value, Parameter):
        return f"parameter {value.given};"
    if isinstance(value, Constant):
        return f"constant {digest(value)};"
    operands = _numbered(value, numbers)
    attributes = ",".join(f"{name}={_exact(content)}" for name, content in value.attributes())
    return f"{value.name} {operands} {attributes}:{kind};"


def _numbered(value: Value, numbers: dict[int, int]) -> Sequence[object]:
    found: list[object] = []
    for field in value.schema:
        if field.kind == "operand":
            found.append(numbers[id(value.__dict__[field.name])])
        elif field.kind == "operands":
            found.append([numbers[id(v)] for v in value.__dict__[field.name]])
    return found


def _exact(content: Any) -> str:
    """Attributes by their text; floats by their bits, so that -0.0 and 0.0 differ."""
    if isinstance(content, float):
        return content.hex()
    if isinstance(content, tuple):
        return f"({','.join(map(_exact, content))})"
    return show_attribute(content)
