"""Reading loops back: the kernel that `show` printed, from its text.

Written by hand, so that every error says line, column and what was expected. Names are looked up while reading, since
a scalar's or an element's type is told by where it was bound. A literal gets its type in a second step, once its whole
expression is read, by the same question that the printer asks (`text.says_type`). What the text means is not judged
here: `check` does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, NoReturn, TypeVar, assert_never

from ..classes import dataclass
from ..dims import Dim, symbol
from ..dims import names as dim_names
from ..dims import parse as parse_dim
from ..dtypes import DType, bool_, i64, is_name, named, real_of
from ..errors import InvalidValue, ParseError
from .build import lit
from .nodes import (
    BINARY,
    MATH,
    MATH_BINARY,
    UNARY,
    Alloc,
    Binary,
    Call,
    Cast,
    Const,
    Expr,
    Fail,
    Fma,
    For,
    If,
    Index,
    Kernel,
    Let,
    Load,
    LoopKind,
    Memory,
    Param,
    Role,
    Select,
    Stmt,
    Store,
    Table,
    Unary,
    Var,
    While,
    neighbours,
)
from .text import COMPARE, DEEPEST, INFIX, POWER, PREFIXES, RESERVED, TESTS, UNTYPED, operands_type

T = TypeVar("T")

_PREFIX_OF: Final[Mapping[str, str]] = {sign: op for op, sign in PREFIXES.items()}
_INFIX_OF: Final[Mapping[str, tuple[str, int]]] = {
    sign: (op, binds) for op, (sign, binds) in INFIX.items() if binds != POWER
}
_ONE = frozenset((*UNARY, *MATH))
_TWO = frozenset((*BINARY, *MATH_BINARY))
_KINDS: Final[Mapping[str, LoopKind]] = {
    "range": "serial", "prefetched": "prefetched", "unrolled": "unrolled", "vector": "vector", "parallel": "parallel",
}  # fmt: skip
_MEMORIES: Final[Mapping[str, Memory]] = {"stack": "stack", "registers": "registers"}
_ROLES: Final[Mapping[str, Role]] = {"out": "out", "inout": "inout"}
_PLACES = 512  # positions kept by text: the same few stand in most elements of a kernel

_TOKEN: Final = re.compile(
    r"(?P<blank>[ ]+|\#[^\n]*)"
    r"|(?P<newline>\r?\n)"
    r"|(?P<number>0[xX][0-9a-fA-F]*\.?[0-9a-fA-F]*(?:[pP][+-]?\d+)?|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[^\W\d]\w*)"
    r"|(?P<sign>//|\*\*|<<|>>|==|!=|<=|>=|[-+*/%&|^~<>()\[\],:=.])"
)


def parse_kernel(text: str) -> Kernel:
    """The kernel of this text. Raises `ParseError` (TD0401)."""
    parser = _Parser(text)
    kernel = parser.kernel()
    if parser.token.kind != "end":
        parser.expected("the end of the text")
    return kernel


def parse_kernels(text: str) -> tuple[Kernel, ...]:
    """All kernels of a text, one after another."""
    parser = _Parser(text)
    kernels = []
    while parser.token.kind != "end":
        kernels.append(parser.kernel())
    return tuple(kernels)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # number, name, sign, newline, indent, dedent, end
    text: str
    line: int
    column: int

    def __str__(self) -> str:
        shown = {"newline": "the end of the line", "indent": "a deeper line", "dedent": "a less deep line"}
        return shown.get(self.kind, "the end of the text" if self.kind == "end" else f"'{self.text}'")


def _error(lines: list[str], line: int, column: int, message: str) -> ParseError:
    shown = lines[line - 1] if line <= len(lines) else ""
    return ParseError(f"line {line}, column {column}: {message}\n    {shown}\n    {' ' * (column - 1)}^", code="TD0401")


def _tokens(text: str, lines: list[str]) -> list[_Token]:
    """The tokens of a text, with `newline`, `indent` and `dedent` as in Python: none in brackets or empty lines."""
    tokens: list[_Token] = []
    depths: list[int] = []  # of the blocks that are open; the first line says how deep the whole text stands
    brackets: list[_Token] = []
    line, begins, at = 1, 0, 0
    fresh = True  # nothing but blanks so far in this line
    while at < len(text):
        match = _TOKEN.match(text, at)
        column = at - begins + 1
        if match is None:
            raise _error(lines, line, column, f"{text[at]!r} is not part of the language")
        kind = match.lastgroup or ""
        if kind == "newline":
            if not fresh and not brackets:
                tokens.append(_Token("newline", "", line, column))
            fresh = fresh or not brackets
            line, begins = line + 1, match.end()
        elif kind != "blank":
            if fresh and not brackets:
                if not depths:
                    depths.append(column - 1)
                if column - 1 > depths[-1]:
                    depths.append(column - 1)
                    tokens.append(_Token("indent", "", line, column))
                while column - 1 < depths[-1] and len(depths) > 1:
                    depths.pop()
                    tokens.append(_Token("dedent", "", line, column))
                if column - 1 != depths[-1]:
                    raise _error(lines, line, column, "this line is as deep as no line around it")
            fresh = False
            token = _Token(kind, match[0], line, column)
            tokens.append(token)
            if kind == "sign" and match[0] in "([":
                brackets.append(token)
            elif kind == "sign" and match[0] in ")]" and brackets:
                brackets.pop()
        at = match.end()
    if brackets:
        raise _error(lines, brackets[-1].line, brackets[-1].column, f"{brackets[-1]} is never closed")
    end = len(text) - begins + 1
    if not fresh:
        tokens.append(_Token("newline", "", line, end))
    tokens += [_Token("dedent", "", line, end)] * (len(depths) - 1)
    tokens.append(_Token("end", "", line, end))
    return tokens


class _Parser:
    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        self.tokens = _tokens(text, self.lines)
        self.at = 0
        self.token = self.tokens[0]
        self.scalars: dict[str, DType | None] = {}  # None for loop variables and sizes, which stand for an Index
        self.buffers: dict[str, DType] = {}
        self.literals: dict[int, _Token] = {}  # where a literal without a type stands, by identity
        self.places: dict[str, Dim] = {}
        self.depth = 0

    # Tokens.

    def fail(self, token: _Token, message: str) -> NoReturn:
        raise _error(self.lines, token.line, token.column, message)

    def expected(self, what: str) -> NoReturn:
        self.fail(self.token, f"expected {what}, found {self.token}")

    def advance(self) -> _Token:
        token = self.token
        self.at += 1
        self.token = self.tokens[self.at]
        return token

    def peek(self, ahead: int = 1) -> _Token:
        return self.tokens[min(self.at + ahead, len(self.tokens) - 1)]

    def sees(self, text: str) -> bool:
        return self.token.text == text and self.token.kind in ("sign", "name")

    def accept(self, text: str) -> bool:
        if self.sees(text):
            self.advance()
            return True
        return False

    def need(self, text: str) -> None:
        if not self.accept(text):
            self.expected(f"'{text}'")

    def need_kind(self, kind: str, what: str) -> _Token:
        if self.token.kind != kind:
            self.expected(what)
        return self.advance()

    def name(self, what: str) -> str:
        token = self.need_kind("name", what)
        if token.text in RESERVED:
            self.fail(token, f"expected {what}, found the word '{token.text}'")
        return token.text

    def choice(self, table: Mapping[str, T], what: str) -> T:
        if self.token.kind == "name" and self.token.text in table:
            return table[self.advance().text]
        self.expected(what)

    def separated(self, close: str, item: Callable[[], T]) -> tuple[T, ...]:
        """Items between commas up to a closing bracket, which is read too."""
        items: list[T] = []
        while not self.accept(close):
            if items:
                if not self.accept(","):
                    self.expected(f"',' or '{close}'")
                if self.accept(close):
                    break
            items.append(item())
        return tuple(items)

    # Types and positions.

    def dtype(self) -> DType:
        if self.token.kind == "name" and is_name(self.token.text):
            return named(self.advance().text)
        self.expected("a dtype such as f32")

    def shape(self) -> tuple[Dim, ...]:
        self.need("[")
        return self.separated("]", self.place)

    def place(self) -> Dim:
        """A position: the text up to the comma or bracket that ends it, read by `dims`."""
        first = self.token
        brackets = 0
        parts: list[str] = []
        while self.token.kind in ("number", "name", "sign"):
            text = self.token.text
            if brackets == 0 and text in (",", "]", ")", ":", "="):
                break
            brackets += (text in ("(", "[")) - (text in (")", "]"))
            parts.append(text)
            if self.token.kind == "name" and text not in ("min", "max") and text not in self.scalars:
                self.fail(self.token, f"the name '{text}' is not bound here")
            self.advance()
        if not parts:
            self.expected("a position")
        text = " ".join(parts)
        found = self.places.get(text)
        if found is None:
            try:
                found = parse_dim(text)
            except ParseError as error:
                self.fail(first, f"not a position: {error.message}")
            if len(self.places) < _PLACES:
                self.places[text] = found
        for name in dim_names(found):
            dtype = self.scalars[name]
            if dtype is not None and not dtype.is_integer:
                self.fail(first, f"{name} is {dtype}: only integers stand in positions")
        return found

    def integer(self, what: str) -> int:
        sign = -1 if self.accept("-") else 1
        token = self.need_kind("number", what)
        if not token.text.isdigit():
            self.fail(token, f"expected {what}, found {token}")
        return sign * int(token.text)

    # Kernels and statements.

    def kernel(self) -> Kernel:
        self.need("kernel")
        name = self.name("the kernel's name")
        opened = self.at
        # The sizes are declared after the parameters that mention them.
        while self.token.kind != "newline" and not self.sees("where"):
            self.advance()
        dims: list[str] = []
        if self.accept("where"):
            dims.append(self.name("a size"))
            while self.accept(","):
                dims.append(self.name("a size"))
        ended = self.at
        self.at, self.token = opened, self.tokens[opened]
        self.scalars, self.buffers = dict.fromkeys(dims), {}
        self.need("(")
        params = self.separated(")", self.param)
        if dims:
            self.need("where")
            self.at, self.token = ended, self.tokens[ended]
        self.need(":")
        self.need_kind("newline", "the end of the line")
        self.need_kind("indent", "the kernel's body, deeper than its head")
        tables: list[Table] = []
        while self.sees("table"):
            tables.append(self.table())
        body = self.statements() if self.token.kind != "dedent" else ()
        self.advance()
        return Kernel(name, params, tuple(dims), body, tuple(tables))

    def param(self) -> Param:
        name = self.name("a parameter")
        self.need(":")
        role: Role = "in"
        if self.token.text in _ROLES:
            role = self.choice(_ROLES, "a role")
        dtype = self.dtype()
        shape = self.shape()
        self.buffers[name] = dtype
        return Param(name, dtype, shape, role)

    def table(self) -> Table:
        self.need("table")
        name = self.name("the table's name")
        self.need(":")
        dtype = self.dtype()
        self.need("=")
        self.need("[")
        values = self.separated("]", lambda: self.table_value(dtype))
        self.need_kind("newline", "the end of the line")
        self.buffers[name] = dtype
        return Table(name, dtype, values)

    def table_value(self, dtype: DType) -> float | int:
        token = self.token
        if self.token.text in ("True", "False"):
            return self.advance().text == "True"
        value = self.typed(self.number(), dtype, token).value
        if isinstance(value, complex):
            self.fail(token, "a table holds no complex numbers")
        return value

    def body(self) -> tuple[Stmt, ...]:
        """A block after ':'. What it binds is forgotten by `closed`."""
        self.need(":")
        self.need_kind("newline", "the end of the line")
        self.need_kind("indent", "a deeper block")
        stmts = self.statements()
        self.need_kind("dedent", "a statement")
        return stmts

    def closed(self, read: Callable[[], T]) -> T:
        """What `read` reads; names bound in it end with it."""
        scalars, buffers = self.scalars, self.buffers
        self.scalars, self.buffers = dict(scalars), dict(buffers)
        result = read()
        self.scalars, self.buffers = scalars, buffers
        return result

    def statements(self) -> tuple[Stmt, ...]:
        if self.accept("pass"):
            self.need_kind("newline", "the end of the line")
            return ()
        stmts: list[Stmt] = []
        while self.token.kind != "dedent":
            stmts.append(self.statement())
        return tuple(stmts)

    def statement(self) -> Stmt:
        word = self.token.text if self.token.kind == "name" else ""
        match word:
            case "let":
                return self.let()
            case "for":
                return self.closed(self.loop)
            case "if":
                return self.branch()
            case "do":
                return self.closed(self.repeat)
            case "fail":
                return self.failing()
        following = self.peek().text
        if word == "stream" and self.peek().kind == "name":
            self.advance()
            return replace(self.store(), stream=True)
        if word and word not in RESERVED and following == "[":
            return self.store()
        if word and word not in RESERVED and following == ":":
            return self.alloc()
        self.expected("a statement: let, for, if, do, fail, 'name[...] = ' or 'name: '")

    def let(self) -> Let:
        self.advance()
        name = self.name("a name")
        self.need(":")
        dtype = self.dtype()
        self.need("=")
        value = self.expression(dtype)
        self.need_kind("newline", "an operator or the end of the line")
        self.scalars[name] = dtype
        return Let(name, value)

    def store(self) -> Store:
        token = self.token
        name = self.name("a buffer")
        if name not in self.buffers:
            self.fail(token, f"the buffer '{name}' is not known here")
        self.need("[")
        index = self.separated("]", self.place)
        self.need("=")
        value = self.expression(self.buffers[name])
        self.need_kind("newline", "an operator or the end of the line")
        return Store(name, index, value)

    def alloc(self) -> Alloc:
        name = self.name("a buffer")
        self.need(":")
        memory = self.choice(_MEMORIES, "stack or registers")
        dtype = self.dtype()
        shape = self.shape()
        self.need_kind("newline", "the end of the line")
        self.buffers[name] = dtype
        return Alloc(name, dtype, shape, memory)

    def loop(self) -> For:
        self.advance()
        name = self.name("a loop variable")
        self.need("in")
        kind = self.choice(_KINDS, "range, prefetched, unrolled, vector or parallel")
        opened = self.token
        self.need("(")
        lanes: list[int] = []

        def bound() -> Dim:
            if self.sees("lanes") and self.peek().text == "=":
                self.advance()
                self.advance()
                lanes.append(self.integer("a number of lanes"))
                return 0
            if lanes:
                self.expected("')': lanes come last")
            return self.place()

        bounds = self.separated(")", bound)
        bounds = bounds[: len(bounds) - len(lanes)]
        if not 1 <= len(bounds) <= 3 or len(lanes) > 1:
            self.fail(opened, f"{kind} takes one to three bounds, and lanes once")
        start: Dim = bounds[0] if len(bounds) > 1 else 0
        stop = bounds[min(len(bounds) - 1, 1)]
        step = bounds[2] if len(bounds) > 2 else 1
        if type(step) is not int:
            self.fail(opened, "the step of a loop is a number")
        width = lanes[0] if lanes else 0
        if kind == "vector" and not lanes:
            if len(bounds) != 1 or type(stop) is not int:
                self.fail(opened, "a vector loop whose trip count is not its lanes says lanes=...")
            width = stop
        self.scalars[name] = None
        return For(name, start, stop, step, kind, self.body(), width)

    def repeat(self) -> While:
        self.advance()
        body = self.body()
        self.need("while")
        condition = self.expression(bool_)
        self.need_kind("newline", "an operator or the end of the line")
        return While(body, condition)

    def branch(self) -> If:
        self.advance()
        condition = self.expression(bool_)
        then = self.closed(self.body)
        if self.sees("elif"):
            return If(condition, then, (self.branch(),))
        otherwise = self.closed(self.body) if self.accept("else") else ()
        return If(condition, then, otherwise)

    def failing(self) -> Fail:
        self.advance()
        site = self.integer("the number of the failure")
        found: list[Expr] = []
        if self.accept("("):
            found.append(self.expression(i64))
            while self.accept(","):
                found.append(self.expression(i64))
            self.need(")")
        self.need("if")
        when = self.expression(bool_)
        self.need_kind("newline", "an operator or the end of the line")
        return Fail(when, site, tuple(found))

    # Expressions, literals first without their types.

    def expression(self, expected: DType | None) -> Expr:
        return self.resolve(self.infix(COMPARE), expected)

    def infix(self, least: int) -> Expr:
        left = self.prefix()
        terms = 0
        while self.token.kind == "sign" and self.token.text in _INFIX_OF:
            op, binds = _INFIX_OF[self.token.text]
            if binds < least:
                break
            terms += 1
            if terms > DEEPEST:
                self.fail(self.token, f"more than {DEEPEST} operators in a row: bind parts of it with let")
            self.advance()
            left = Binary(op, left, self.infix(binds + 1))
            if binds == COMPARE and self.token.text in _INFIX_OF and _INFIX_OF[self.token.text][1] == COMPARE:
                self.fail(self.token, "comparisons do not chain: combine them with &")
        return left

    def prefix(self) -> Expr:
        self.depth += 1
        if self.depth > DEEPEST:
            self.fail(self.token, f"deeper than {DEEPEST} levels: bind parts of it with let")
        result: Expr
        if self.token.kind == "sign" and self.token.text in _PREFIX_OF:
            op = _PREFIX_OF[self.token.text]
            number = self.peek().kind == "number" or self.peek().text in ("inf", "nan")
            if op == "neg" and number and self.peek(2).text != "**":
                result = self.literal()
            else:
                self.advance()
                result = Unary(op, self.prefix())
        else:
            result = self.atom()
            if self.accept("**"):
                result = Binary("pow", result, self.prefix())
        self.depth -= 1
        return result

    def atom(self) -> Expr:
        token = self.token
        if token.kind == "number" or token.text in ("inf", "nan"):
            return self.literal()
        if self.accept("("):
            inside = self.infix(COMPARE)
            self.need(")")
            return inside
        if token.kind != "name" or token.text in RESERVED - {"True", "False"}:
            self.expected("an expression")
        self.advance()
        if token.text in ("True", "False"):
            return Const(token.text == "True", bool_)
        if self.sees("["):
            return self.load(token)
        if self.sees("(") or (self.sees(".") and is_name(token.text)):
            return self.applied(token)
        if token.text not in self.scalars:
            self.fail(token, f"the name '{token.text}' is not bound here")
        dtype = self.scalars[token.text]
        return Index(symbol(token.text)) if dtype is None else Var(token.text, dtype)

    def load(self, token: _Token) -> Load:
        if token.text not in self.buffers:
            self.fail(token, f"the buffer '{token.text}' is not known here")
        self.advance()
        held = self.buffers[token.text]
        index: list[Dim] = []
        while not self.accept("]"):
            if index and self.accept(":"):
                word = self.token
                dtype = self.dtype()
                if not neighbours(dtype, held):
                    self.fail(word, f"no number of neighbours of {held} makes one {dtype}")
                self.need("]")
                return Load(token.text, tuple(index), dtype)
            if index and not self.accept(","):
                self.expected("',' or ']'")
            if index and self.accept("]"):
                break
            index.append(self.place())
        return Load(token.text, tuple(index), held)

    def applied(self, token: _Token) -> Expr:
        """What follows a function's or a type's name."""
        name = token.text
        if is_name(name):
            return self.typed_application(named(name))
        self.advance()
        if name == "index":
            place = self.place()
            self.need(")")
            return Index(place)
        args = self.separated(")", lambda: self.infix(COMPARE))
        count = 1 if name in _ONE else 2 if name in _TWO else 3 if name in ("fma", "select") else 0
        if count == 0:
            self.fail(token, f"there is no function '{name}'")
        if len(args) != count:
            self.fail(token, f"{name} takes {count} operand{'s' if count > 1 else ''}, found {len(args)}")
        if name == "fma":
            return Fma(*args)
        if name == "select":
            return Select(*args)
        return Unary(name, args[0]) if count == 1 else Binary(name, args[0], args[1])

    def typed_application(self, dtype: DType) -> Expr:
        """`f32(2.0)`, `f32(x)`, `f32.bits(x)`, `c64(1.0, 2.0)`, `i32.instruction(x, y)`."""
        if self.accept("."):
            words = [self.need_kind("name", "bits or an instruction").text]
            while self.accept("."):
                words.append(self.need_kind("name", "the rest of the instruction's name").text)
            opened = self.token
            self.need("(")
            args = self.separated(")", lambda: self.infix(COMPARE))
            if words != ["bits"]:
                return Call(".".join(words), args, dtype)
            if len(args) != 1:
                self.fail(opened, f"bits takes 1 operand, found {len(args)}")
            return Cast(args[0], dtype, True)
        self.advance()
        token = self.token
        sign = 1 if token.text == "-" else 0
        literal = self.peek(sign).kind == "number" or self.peek(sign).text in ("inf", "nan")
        if literal and self.peek(sign + 1).text in (")", ",") and dtype is not bool_:
            value = self.number()
            if dtype.kind == "complex":
                self.need(",")
                part = real_of(dtype)
                other = self.token
                real = self.typed(value, part, token).value
                imag = self.typed(self.number(), part, other).value
                self.need(")")
                assert isinstance(real, float)
                assert isinstance(imag, float)
                return Const(complex(real, imag), dtype)
            self.need(")")
            return self.typed(value, dtype, token)
        inside = self.infix(COMPARE)
        self.need(")")
        return Cast(inside, dtype)

    # Literals.

    def number(self) -> str:
        """The text of a literal with its sign."""
        sign = "-" if self.accept("-") else ""
        if self.token.kind == "number" or self.token.text in ("inf", "nan"):
            return sign + self.advance().text
        self.expected("a number")

    def literal(self) -> Const:
        token = self.token
        text = self.number()
        whole = _whole(text)
        const = Const(_float(text) if whole is None else whole, UNTYPED)
        self.literals[id(const)] = token
        return const

    def typed(self, text: str | int | float, dtype: DType, token: _Token) -> Const:
        if isinstance(text, str):
            whole = _whole(text)
            value: int | float = _float(text) if whole is None else whole
        else:
            value = text
        try:
            if dtype is bool_ or (dtype.is_integer and not isinstance(value, int)):
                raise InvalidValue("", code="TD0402")
            return lit(float(value) if dtype.is_float else value, dtype)
        except (InvalidValue, OverflowError):
            self.fail(token, f"expected a value of {dtype}")

    def resolve(self, expr: Expr, expected: DType | None) -> Expr:
        """`expr` with the types of its literals, `expected` where the surroundings say so."""
        match expr:
            case Const(value, dtype):
                if dtype is not UNTYPED:
                    return expr
                token = self.literals[id(expr)]
                if expected is None:
                    self.fail(token, "the type of this number is not known here: write it like f32(2.0)")
                assert not isinstance(value, complex)
                return self.typed(value, expected, token)
            case Var() | Index() | Load():
                return expr
            case Unary(op, x):
                return Unary(op, self.resolve(x, None if op in TESTS else expected))
            case Binary(op, x, y):
                hint = operands_type(op, (x, y), expected, True)
                return Binary(op, self.resolve(x, hint), self.resolve(y, hint))
            case Fma(x, y, z):
                hint = operands_type("fma", (x, y, z), expected, True)
                return Fma(self.resolve(x, hint), self.resolve(y, hint), self.resolve(z, hint))
            case Select(condition, x, y):
                hint = operands_type("select", (x, y), expected, True)
                return Select(self.resolve(condition, bool_), self.resolve(x, hint), self.resolve(y, hint))
            case Cast(x, dtype, bits):
                return Cast(self.resolve(x, None), dtype, bits)
            case Call(instruction, args, dtype):
                return Call(instruction, tuple([self.resolve(x, None) for x in args]), dtype)
            case _:
                assert_never(expr)


def _whole(text: str) -> int | None:
    """The integer that a literal is, None for a float; -0 is one."""
    digits = text.removeprefix("-")
    if digits.isdigit():
        return int(text) if text != "-0" else None
    if digits[:2] in ("0x", "0X") and not any(letter in digits for letter in ".pP"):
        return int(text, 16)
    return None


def _float(text: str) -> float:
    if text.endswith("nan"):
        return math.nan
    return float.fromhex(text) if "x" in text or "X" in text else float(text)
