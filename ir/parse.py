"""Reading graphs back, from the same field schema that prints them.

The reader needs no line structure: after an op come its marks, then either its bodies, the next `%name =`, or `return`.
Every error says line, column and what was expected there.
"""

from __future__ import annotations

import base64
import inspect
import re
import sys
import zlib
from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

import numpy as np

from . import dtypes
from .dims import Dim, DimName
from .dims import parse as parse_dim
from .errors import ParseError, TreadleError
from .graph import Graph
from .location import Location, Origin, at
from .ops import OPS
from .types import TensorType, TupleType, Type
from .value import Array, Constant, DimSize, Field, Full, Parameter, Value

_SKIP = re.compile(r"(?:[ \t\r\n]+|#(?![0-9a-f])[^\n]*)*")
_WORD = re.compile(r"[A-Za-z_]\w*")
_NAME = re.compile(r"%[\w.]+")
_NUMBER = re.compile(r"[-+]?(?:inf\b|nan\b|0x[0-9a-f]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
_COMPLEX = re.compile(r"\([-+\dinfae.E]+[-+][\dinfae.E+-]*j\)|[-+]?[\d.e]+j")
_HASH = re.compile(r"#([0-9a-f]{16})")
_FILE_LINE = re.compile(r"@(.*?[^\s/]):(\d+)(?=\s|$)")
_GRAPH_NAME = re.compile(r"[^\s(]+")


def parse_graph(text: str, constants: Mapping[str, Array] | None = None) -> Graph:
    """The graph of a text. `constants` supplies, by hash, data the text only names. Raises ParseError (TD0260 to
    TD0270)."""
    reader = Reader(text, constants)
    graph = reader.graph(nested=False)
    reader.skip()
    if reader.position < len(text) and not text.startswith("constants:", reader.position):
        reader.fail("the end of the text")
    return graph


@cache
def hints(name: str) -> dict[str, Any]:
    """The types of the attributes of the op of this name."""
    cls = OPS[name]
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        names = vars(sys.modules[base.__module__])
        own = inspect.get_annotations(base)
        attributes = [field.name for field in cls.schema if field.kind == "attribute" and field.name in own]
        found |= {name: eval(own[name], dict(names)) for name in attributes}
    return found


def fits(value: Any, hint: Any) -> bool:
    """Whether a value that was read is of an attribute's type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin is Union or origin is UnionType:
        return any(fits(value, each) for each in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        inner = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        return len(inner) == len(value) and all(map(fits, value, inner))
    if hint is None or hint is NoneType:
        return value is None
    return type(value) in ((int, float) if hint is float else (hint,))


def embedded_constants(text: str) -> dict[str, Array]:
    """The data lines after `constants:` in a text printed with `data=True`."""
    start = text.rfind("\nconstants:\n")
    found: dict[str, Array] = {}
    if start < 0:
        return found
    reader = Reader(text, {})
    reader.position = start + len("\nconstants:\n")
    while reader.skip() < len(text):
        name = reader.match(_HASH, "#hash of a constant")[1:]
        reader.expect("=")
        given = reader.tensor_type()
        blob = reader.match(re.compile(r"\S+"), "base85 data")
        shape = tuple(int(str(n)) for n in given.shape)
        try:
            data = np.frombuffer(zlib.decompress(base64.b85decode(blob)), given.dtype.numpy).reshape(shape)
        except (ValueError, zlib.error):
            reader.fail("base85 data of that type")
        found[name] = data
    return found


class Reader:
    """A cursor over a text; also used by the program's parser, whose kernels are graphs."""

    def __init__(self, text: str, constants: Mapping[str, Array] | None) -> None:
        self.text = text
        self.position = 0
        self.constants = dict(constants or {})
        if constants is None or "\nconstants:\n" in text:
            self.constants |= embedded_constants(text) if constants != {} else {}

    # Tokens.

    def skip(self) -> int:
        found = _SKIP.match(self.text, self.position)
        self.position = found.end() if found else self.position
        return self.position

    def fail(self, expected: str, *, code: str = "TD0260") -> NoReturn:
        before = self.text[: self.position]
        line = before.count("\n") + 1
        column = self.position - before.rfind("\n")
        rest = self.text[self.position : self.position + 24].split("\n")[0] or "the end of the line"
        whole = self.text.splitlines()[line - 1] if line <= len(self.text.splitlines()) else ""
        shown = f"\n    {whole}\n    {' ' * (column - 1)}^" if whole.strip() else ""
        raise ParseError(f"line {line}, column {column}: expected {expected}, found {rest!r}{shown}", code=code)

    def peek(self, word: str) -> bool:
        self.skip()
        if not self.text.startswith(word, self.position):
            return False
        after = self.position + len(word)
        return not (
            word[-1].isalnum() and after < len(self.text) and (self.text[after].isalnum() or self.text[after] == "_")
        )

    def accept(self, word: str) -> bool:
        if self.peek(word):
            self.position += len(word)
            return True
        return False

    def expect(self, word: str) -> None:
        if not self.accept(word):
            self.fail(repr(word))

    def match(self, pattern: re.Pattern[str], expected: str) -> str:
        self.skip()
        found = pattern.match(self.text, self.position)
        if found is None or not found.group():
            self.fail(expected)
        self.position = found.end()
        return found.group()

    def until(self, stops: str, expected: str) -> str:
        """Raw text up to one of `stops` outside brackets."""
        depth = 0
        start = self.position
        for i in range(start, len(self.text)):
            c = self.text[i]
            if depth == 0 and c in stops:
                self.position = i
                return self.text[start:i]
            depth += (c in "([{") - (c in ")]}")
            if c == "\n":
                break
        self.fail(expected)

    # Types.

    def dim(self, stops: str) -> Dim:
        self.skip()
        start = self.position
        text = self.until(stops, "a size")
        try:
            return parse_dim(text)
        except TreadleError:
            self.position = start
            self.fail("a size such as 4, B or 2*B + 1")

    def tensor_type(self) -> TensorType:
        name = self.match(_WORD, "a type such as f32[4]")
        if not dtypes.is_name(name):
            self.position -= len(name)
            self.fail(f"a dtype ({', '.join(d.name for d in dtypes.DTYPES[:13])}, ...)", code="TD0261")
        self.expect("[")
        shape: list[Dim] = []
        while not self.accept("]"):
            shape.append(self.dim(",]"))
            if not self.accept(",") and not self.peek("]"):
                self.fail("',' or ']'")
        return TensorType(tuple(shape), dtypes.named(name))

    def any_type(self) -> Type:
        if not self.accept("("):
            return self.tensor_type()
        elements: list[TensorType] = []
        while not self.accept(")"):
            elements.append(self.tensor_type())
            if not self.accept(",") and not self.peek(")"):
                self.fail("',' or ')'")
        return TupleType(tuple(elements))

    # Graphs.

    def graph(self, *, nested: bool) -> Graph:
        self.expect("graph")
        name = self.match(_GRAPH_NAME, "the graph's name")
        self.expect("(")
        names: dict[str, Value] = {}
        params: list[Parameter] = []
        while not self.accept(")"):
            label = self.match(_NAME, "a parameter such as %x")
            self.expect(":")
            param = Parameter(label[1:], self.tensor_type())
            if label in names:
                self.fail(f"another name than {label}, which is taken", code="TD0262")
            names[label] = param
            params.append(param)
            if not self.accept(",") and not self.peek(")"):
                self.fail("',' or ')'")
        self.expect("->")
        declared = self.any_type()
        dims = self.where() if self.accept("where") else ()
        self.expect(":")
        number = 0
        while not self.accept("return"):
            if not self.peek("%"):
                self.fail("'%name = op ...' or 'return'")
            number += 1
            self.op(names, number)
        results: list[Value] = []
        while self.peek("%"):
            results.append(self.value(names))
            if not self.accept(","):
                break
        found = results[0].type if len(results) == 1 else TupleType(tuple(v.tensor for v in results))
        if found != declared and TupleType(tuple(v.tensor for v in results)) != declared:
            self.fail(f"results of type {declared}; they are {found}", code="TD0263")
        return Graph(name, tuple(params), tuple(results), dims)

    def where(self) -> tuple[DimName, ...]:
        dims: list[DimName] = []
        while True:
            name = self.match(_WORD, "the name of a size")
            promises: dict[str, int] = {}
            while True:
                if self.accept(">="):
                    promises["low"] = self.integer()
                elif self.accept("<="):
                    promises["high"] = self.integer()
                elif self.accept("%"):
                    promises["multiple_of"] = self.integer()
                    self.expect("==")
                    self.expect("0")
                if not self.accept("and"):
                    break
                if self.match(_WORD, name) != name:
                    self.fail(f"a promise about {name}")
            dims.append(DimName(name, **promises))
            if not self.accept(","):
                return tuple(dims)

    def integer(self) -> int:
        return int(self.match(re.compile(r"-?\d+"), "an integer"))

    def value(self, names: dict[str, Value]) -> Value:
        start = self.skip()
        label = self.match(_NAME, "a value such as %0")
        if label not in names:
            self.position = start
            self.fail(f"a value defined above; {label} is not", code="TD0264")
        return names[label]

    def op(self, names: dict[str, Value], number: int) -> None:
        label = self.match(_NAME, "a name such as %0")
        if label in names:
            self.fail(f"another name than {label}, which is taken", code="TD0262")
        self.expect("=")
        start = self.skip()
        word = self.match(_WORD, "the name of an op")
        cls = OPS.get(word)
        if cls is None:
            from difflib import get_close_matches

            self.position = start
            near = get_close_matches(word, OPS, 1)
            self.fail(f"the name of an op{f' (did you mean {near[0]!r}?)' if near else ''}", code="TD0265")
        fields: dict[str, Any] = {}
        literal = self.leaf_literal(cls)
        for field in cls.schema:
            if field.kind == "operand":
                fields[field.name] = self.value(names)
                self.accept(",")
            elif field.kind == "operands":
                self.expect("[")
                group: list[Value] = []
                while not self.accept("]"):
                    group.append(self.value(names))
                    if not self.accept(",") and not self.peek("]"):
                        self.fail("',' or ']'")
                fields[field.name] = tuple(group)
                self.accept(",")
        if self.accept("{"):
            annotations = {field.name: field for field in cls.schema if field.kind == "attribute"}
            while not self.accept("}"):
                start = self.skip()
                name = self.match(_WORD, "an attribute")
                if name not in annotations:
                    self.position = start
                    self.fail(f"an attribute of {word} ({', '.join(annotations) or 'it has none'})", code="TD0266")
                self.expect("=")
                start = self.skip()
                fields[name] = self.attribute(annotations[name], " }")
                if not fits(fields[name], hints(word)[name]):
                    self.position = start
                    self.fail(f"{annotations[name].annotation} for {name!r}", code="TD0270")
        self.expect(":")
        start = self.skip()
        declared = self.any_type()
        origin = self.origin(number)
        self.bodies(cls, fields)
        for field in cls.schema:
            if field.annotation == "TensorType" and field.name not in fields:
                fields[field.name] = declared
        with at(origin):
            if literal is not None:
                built = self.leaf(cls, literal, declared, start)
            else:
                missing = [f.name for f in cls.schema if f.name not in fields and repr(f.default) == "MISSING"]
                if missing:
                    self.position = start
                    self.fail(f"{word} with the attribute {missing[0]!r}", code="TD0267")
                built = cls(**fields)
        if built.type != declared:
            self.position = start
            self.fail(f"the type {built.type}, which is what {word} yields", code="TD0268")
        names[label] = built

    def origin(self, number: int) -> Origin:
        sequence, location = number, None
        while True:
            if self.accept("~"):
                sequence = self.integer()
            elif self.peek("@"):
                found = _FILE_LINE.match(self.text, self.position)
                if found is None:
                    self.fail("@file:line")
                self.position = found.end()
                location = Location(found[1], int(found[2]))
            else:
                return Origin(location, sequence)

    def bodies(self, cls: type[Value], fields: dict[str, Any]) -> None:
        for field in cls.schema:
            if field.kind == "body":
                self.expect(field.name)
                self.expect("=")
                fields[field.name] = self.graph(nested=True)
            elif field.kind == "bodies":
                found: list[Graph] = []
                while self.accept(f"{field.name}[{len(found)}]"):
                    self.expect("=")
                    found.append(self.graph(nested=True))
                fields[field.name] = tuple(found)

    # Literals and attributes.

    def leaf_literal(self, cls: type[Value]) -> Any:
        if cls is Full:
            return self.number()
        if cls is DimSize:
            return self.dim(":")
        if cls is Constant:
            if self.peek("#"):
                return self.match(_HASH, "#hash of a constant")[1:]
            self.expect("[")
            numbers: list[Any] = []
            while not self.accept("]"):
                numbers.append(self.number())
                if not self.accept(",") and not self.peek("]"):
                    self.fail("',' or ']'")
            return numbers
        return None

    def leaf(self, cls: type[Value], literal: Any, declared: Type, start: int) -> Value:
        assert isinstance(declared, TensorType)
        if cls is Full:
            return Full(literal, declared)
        if cls is DimSize:
            return DimSize(literal)
        if isinstance(literal, str):
            if literal not in self.constants:
                self.position = start
                self.fail(
                    f"the data of constant #{literal}: print the text with data=True or pass constants=", code="TD0269"
                )
            return Constant(self.constants[literal])
        shape = tuple(int(str(n)) for n in declared.shape)
        return Constant(np.array(literal, dtype=declared.dtype.numpy).reshape(shape))

    def number(self) -> bool | int | float | complex:
        self.skip()
        if self.accept("True"):
            return True
        if self.accept("False"):
            return False
        found = _COMPLEX.match(self.text, self.position)
        if found is not None:
            self.position = found.end()
            return complex(found.group())
        text = self.match(_NUMBER, "a number")
        return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)

    def at_tuple(self) -> bool:
        """Whether the bracket here holds items, as in `(4,)` and `()`, and does not begin a size like `(H + 1) //
        2`."""
        depth = 0
        for i in range(self.position, len(self.text)):
            c = self.text[i]
            depth += (c in "([{") - (c in ")]}")
            if depth == 0 or (depth == 1 and c == ","):
                return c == "," or not self.text[self.position + 1 : i].strip()
        return True

    def attribute(self, field: Field, stops: str) -> Any:
        """One attribute; a bare word is a size or a string as the field's annotation says."""
        self.skip()
        if self.peek("(") and self.at_tuple() and not _COMPLEX.match(self.text, self.position):
            self.expect("(")
            items: list[Any] = []
            while not self.accept(")"):
                items.append(self.attribute(field, ",)"))
                if not self.accept(",") and not self.peek(")"):
                    self.fail("',' or ')'")
            return tuple(items)
        if self.accept('"'):
            text = self.match(re.compile(r'(?:[^"\\\n]|\\.)*'), "a string") if not self.peek('"') else ""
            self.expect('"')
            return re.sub(r"\\(.)", r"\1", text)
        for word, constant in (("True", True), ("False", False), ("None", None)):
            if self.accept(word):
                return constant
        if "Dim" in field.annotation or "Shape" in field.annotation:
            return self.dim(stops)
        found = _WORD.match(self.text, self.position)
        if found is not None and found.group() not in ("inf", "nan"):
            word_ = found.group()
            if dtypes.is_name(word_):
                if self.text.startswith("[", found.end()):
                    return self.tensor_type()
                self.position = found.end()
                return dtypes.named(word_)
            self.position = found.end()
            return word_
        return self.number()
