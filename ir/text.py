"""Printing graphs, from the field schema of their ops.

Values are numbered in canonical order, so the text depends on what is computed and not on how it was built. Everything
printed can be parsed back (`ir/parse.py`), and printing that gives the same text again. Constants of more than eight
elements are named by the hash of their content; `data=True` appends their bytes, so that the text stands alone.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from typing import Any

import numpy as np

from .dims import DimName, SymbolicDim
from .dims import show as show_dim
from .dtypes import DType
from .graph import Graph
from .types import TensorType
from .value import MISSING, Array, Constant, DimSize, Field, Full, Parameter, Value

INLINE = 8  # constants of at most this many elements are written out


def show(graph: Graph, *, data: bool = False, locations: bool = True, sequences: bool = False) -> str:
    """The text of a graph. `data` appends large constants, `sequences` writes each value's traced number (`~7`)."""
    printer = _Printer(locations, sequences)
    printer.graph(graph, "")
    if data and printer.constants:
        printer.lines.append("constants:")
        printer.lines += [
            f"  #{name} = {constant.tensor} {_encode(constant.data)}" for name, constant in printer.constants.items()
        ]
    return "\n".join(printer.lines) + "\n"


def digest(constant: Constant) -> str:
    """16 hex digits that name the content: dtype, shape and bytes."""
    known: str | None = constant.__dict__.get("digest")
    if known is None:
        content = hashlib.sha256(str(constant.tensor).encode())
        content.update(constant.data.reshape(-1).view(np.uint8).data)  # bf16 and fp8 have no buffer format of their own
        known = constant.__dict__["digest"] = content.hexdigest()[:16]
    return known


def _encode(data: Array) -> str:
    return base64.b85encode(zlib.compress(data.tobytes(), 6)).decode()


class _Printer:
    def __init__(self, locations: bool, sequences: bool) -> None:
        self.lines: list[str] = []
        self.constants: dict[str, Constant] = {}
        self.locations = locations
        self.sequences = sequences

    def graph(self, graph: Graph, indent: str, head: str = "") -> None:
        names = _names(graph)
        params = ", ".join(f"{names[id(p)]}: {p.given}" for p in graph.params)
        results = ", ".join(str(v.type) for v in graph.results)
        results = results if len(graph.results) == 1 else f"({results})"
        where = f" where {', '.join(map(show_dim_name, graph.dims))}" if graph.dims else ""
        self.lines.append(f"{indent}{head}graph {graph.name}({params}) -> {results}{where}:")
        inner = indent + "  "
        for value in graph.ops:
            self.op(value, names, inner)
        self.lines.append(f"{inner}return {', '.join(names[id(v)] for v in graph.results)}".rstrip())

    def op(self, value: Value, names: dict[int, str], indent: str) -> None:
        words = [f"{names[id(value)]} = {value.name}"]
        literal = self.literal(value)
        if literal:
            words.append(literal)
        operands: list[str] = []
        attributes: list[str] = []
        bodies: list[tuple[str, Graph]] = []
        for field in value.schema:
            content = value.__dict__[field.name]
            if field.kind == "operand":
                operands.append(names[id(content)])
            elif field.kind == "operands":
                operands.append(f"[{', '.join(names[id(v)] for v in content)}]")
            elif field.kind == "body":
                bodies.append((field.name, content))
            elif field.kind == "bodies":
                bodies += [(f"{field.name}[{i}]", body) for i, body in enumerate(content)]
            elif not literal and not _implied(field, content, value):
                shown = show_attribute(content)
                # Attributes end at a space: a size that has some is put in brackets.
                bracketed = isinstance(content, SymbolicDim) and " " in shown
                attributes.append(f"{field.name}={f'({shown})' if bracketed else shown}")
        if operands:
            words.append(", ".join(operands))
        if attributes:
            words.append(f"{{{' '.join(attributes)}}}")
        line = f"{indent}{' '.join(words)} : {value.type}"
        marks = []
        if self.sequences:
            marks.append(f"~{value.sequence}")
        if self.locations and value.location is not None:
            marks.append(f"@{value.location}")
        if marks:
            line = f"{line:<64}  {' '.join(marks)}"
        self.lines.append(line)
        for name, body in bodies:
            self.graph(body, indent + "  ", f"{name} = ")

    def literal(self, value: Value) -> str | None:
        """What the three leaves print instead of attributes."""
        match value:
            case Full(number, given):
                return show_number(number, given.dtype)
            case DimSize(dim):
                return show_dim(dim)
            case Constant(data) if data.size <= INLINE:
                return f"[{', '.join(show_number(x, value.dtype) for x in data.ravel())}]"
            case Constant():
                name = digest(value)
                self.constants[name] = value
                return f"#{name}"
        return None


def _implied(field: Field, content: Any, value: Value) -> bool:
    """Whether the parser knows this attribute without being told: a default, or the result's own type."""
    if isinstance(content, TensorType):
        return content == value.type
    return field.default is not MISSING and type(content) is type(field.default) and content == field.default


def _names(graph: Graph) -> dict[int, str]:
    names: dict[int, str] = {}
    taken: set[str] = set()
    number = 0
    for value in graph.order:
        if isinstance(value, Parameter):
            label = "".join(c if c.isalnum() or c in "._" else "_" for c in value.label) or "p"
            label = f"p{label}" if label[0].isdigit() else label
            name, copy = label, 2
            while name in taken:
                name, copy = f"{label}_{copy}", copy + 1
            taken.add(name)
            names[id(value)] = f"%{name}"
        else:
            names[id(value)] = f"%{number}"
            number += 1
    return names


def show_dim_name(dim: DimName) -> str:
    """`B >= 1 and B <= 64 and B % 8 == 0`; the bare name where nothing is promised."""
    promises = []
    if dim.low != 0:
        promises.append(f"{dim.name} >= {dim.low}")
    if dim.high is not None:
        promises.append(f"{dim.name} <= {dim.high}")
    if dim.multiple_of != 1:
        promises.append(f"{dim.name} % {dim.multiple_of} == 0")
    return " and ".join(promises) or dim.name


def show_number(x: Any, dtype: DType) -> str:
    """The shortest text that reads back as the same number of `dtype`."""
    if dtype.kind == "bool":
        return str(bool(x))
    if dtype.is_integer:
        return str(int(x))
    if dtype.kind == "complex":
        return _complex_text(complex(x))
    if dtype.name in ("f16", "f32"):
        return _float_text(np.format_float_positional, dtype.numpy.type(x))
    return repr(float(x))


def _complex_text(x: complex) -> str:
    """Both parts, always: `repr` drops a real 0 and its sign, and writes infj."""
    sign = "" if repr(x.imag).startswith("-") else "+"
    return f"({x.real!r}{sign}{x.imag!r}j)"


def _float_text(positional: Any, x: Any) -> str:
    value = float(x)
    if not np.isfinite(x) or value == 0:
        return repr(value)
    if 1e-4 <= abs(value) < 1e7:
        return str(positional(x, unique=True, trim="0"))
    return str(np.format_float_scientific(x, unique=True, trim="0"))


_RESERVED = frozenset(("True", "False", "None", "inf", "nan"))


def show_attribute(content: Any) -> str:
    """One attribute: numbers, words, sizes, dtypes, types, and tuples of these."""
    if isinstance(content, complex):
        return _complex_text(content)
    if content is None or isinstance(content, bool | int | float | DType | TensorType):
        return str(content) if not isinstance(content, float) else repr(content)
    if isinstance(content, SymbolicDim):
        return show_dim(content)
    if isinstance(content, tuple):
        return f"({','.join(map(show_attribute, content))}{',' if len(content) == 1 else ''})"
    text = str(content)
    if text.isidentifier() and text not in _RESERVED:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
