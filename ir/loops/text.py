"""Printing loops: a text that reads like Python and gives the same kernel back when parsed.

Operators are infix where Python has them, all other functions are called by name. A literal is bare where
its type is known from its surroundings (what it is stored to, or the first operand beside it that says its
own type), otherwise it names its type: `f32(2.0)`. A number is the shortest text that its dtype reads back
exactly. Loop variables and sizes stand for themselves as scalars; other positions read `index(i + 1)`.
Round trips hold for kernels that `check` accepts; others are still printed, so that messages can show them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import assert_never

import numpy as np

from ..dims import Dim, symbol
from ..dims import names as dim_names
from ..dims import show as show_dim
from ..dtypes import DType, bool_, complex_of, i64, real_of
from .nodes import (
    COMPARISONS,
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
    Param,
    Select,
    Stmt,
    Store,
    Table,
    Unary,
    Var,
    While,
)

# How tightly each operator binds, as in Python; a larger number binds tighter.
COMPARE, OR, XOR, AND, SHIFT, SUM, PRODUCT, PREFIX, POWER, ATOM = range(10)
INFIX: Mapping[str, tuple[str, int]] = {
    "eq": ("==", COMPARE), "ne": ("!=", COMPARE), "lt": ("<", COMPARE), "le": ("<=", COMPARE),
    "gt": (">", COMPARE), "ge": (">=", COMPARE),
    "or": ("|", OR), "xor": ("^", XOR), "and": ("&", AND), "shl": ("<<", SHIFT), "shr": (">>", SHIFT),
    "add": ("+", SUM), "sub": ("-", SUM), "mul": ("*", PRODUCT), "div": ("/", PRODUCT),
    "floordiv": ("//", PRODUCT), "mod": ("%", PRODUCT), "pow": ("**", POWER),
}  # fmt: skip
TESTS = ("isnan", "isinf", "isfinite", "signbit")  # unary functions to bool
PREFIXES: Mapping[str, str] = {"neg": "-", "not": "~"}
INDENT = "  "
DEEPEST = 150  # levels of one expression; functions over expressions are recursive, and Python's stack is finite
# Words that begin a statement or a literal, and so cannot name anything; neither can a dtype.
RESERVED = frozenset("let for in if elif else do while fail pass kernel table where True False inf nan".split())
_TABLE_WIDTH = 100


def show(kernel: Kernel) -> str:
    """The whole kernel, with a newline at its end."""
    return "\n".join(_Printer(kernel.dims, kernel.params).kernel(kernel)) + "\n"


def show_stmt(stmt: Stmt) -> str:
    """One statement with its blocks, outside any kernel."""
    return "\n".join(_Printer(None, ()).stmt(stmt))


def show_head(stmt: Stmt) -> str:
    """The line of a statement without its blocks, for messages."""
    match stmt:
        case While(condition=condition):
            return f"while {show_expr(condition)}"
        case _:
            return _Printer(None, ()).stmt(stmt)[0]


def show_expr(expr: Expr, expected: DType | None = None) -> str:
    """One expression; `expected` is the type that a literal would have here."""
    return _Printer(None, ()).expr(expr, expected)[0]


def show_type(dtype: DType, shape: Sequence[Dim]) -> str:
    return f"{dtype}[{','.join(map(show_dim, shape))}]"


def show_param(param: Param) -> str:
    role = "" if param.role == "in" else f"{param.role} "
    return f"{param.name}: {role}{show_type(param.dtype, param.shape)}"


# --- literals
# ---------------------------------------------------------------------------------------------------------


def show_number(value: bool | int | float | complex, dtype: DType) -> str:
    """The shortest text from which `dtype` reads `value` back; `inf`, `-inf`, `nan`, `-0.0` as such."""
    if dtype.kind == "bool":
        return "True" if value else "False"
    if dtype.kind == "complex":
        assert isinstance(value, complex | float | int)
        real, imag = complex(value).real, complex(value).imag
        part = real_of(dtype)
        return f"{show_number(real, part)}, {show_number(imag, part)}"
    if isinstance(value, complex):
        return str(value)
    if dtype.is_integer:
        return str(int(value))
    number = float(value)
    if number != number:
        return "nan"
    exact = repr(number)
    if dtype.numpy == np.float64 or number in (float("inf"), -float("inf")):
        return exact
    with np.errstate(all="ignore"):
        short = _as_float_text(str(dtype.numpy.type(number)))
    return short if len(short) < len(exact) and _read(short, dtype) == number else exact


def _read(text: str, dtype: DType) -> float:
    """The value of `dtype` that the parser makes of a decimal text."""
    with np.errstate(all="ignore"):
        return float(dtype.numpy.type(float(text)))


_SIMPLE = re.compile(r"-?\d+")


def _as_float_text(text: str) -> str:
    return f"{text}.0" if _SIMPLE.fullmatch(text) else text


# --- the type of a literal
# --------------------------------------------------------------------------------------------


UNTYPED = DType("untyped", np.void, "float", 0)  # of a literal whose surroundings are not read yet


def says_type(expr: Expr, written: bool) -> DType | None:
    """The type that an expression shows by itself, None for literals without a type and what is made of
    them alone.

    Printer and parser both ask this, so a literal is printed bare exactly where the parser can tell its
    type. The parser knows which literals were `written` with their type; the printer asks as if none were.
    """
    match expr:
        case Const(dtype=dtype):
            if dtype is UNTYPED:
                return None
            return dtype if written or dtype.kind in ("bool", "complex") else None
        case Var(dtype=dtype) | Index(dtype=dtype) | Load(dtype=dtype) | Cast(dtype=dtype) | Call(dtype=dtype):
            return dtype
        case Unary(op, x):
            if op in TESTS:
                return bool_
            inner = says_type(x, written)
            return None if inner is None else (real_of(inner) if op in ("real", "imag", "abs") else inner)
        case Binary(op, x, y):
            if op in COMPARISONS:
                return bool_
            inner = says_type(x, written) or says_type(y, written)
            return complex_of(inner) if inner is not None and op == "complex" else inner
        case Fma(x, y, z):
            return says_type(x, written) or says_type(y, written) or says_type(z, written)
        case Select(_, x, y):
            return says_type(x, written) or says_type(y, written)
        case _:
            assert_never(expr)


def operands_type(op: str, exprs: tuple[Expr, ...], expected: DType | None, written: bool) -> DType | None:
    """The type of bare literals among operands that share one type, None if only a written type can tell."""
    if expected is not None and op not in COMPARISONS and op != "complex":
        return expected
    for x in exprs:
        found = says_type(x, written)
        if found is not None:
            return found
    return None


class _Printer:
    def __init__(self, dims: Iterable[str] | None, params: Iterable[Param]) -> None:
        # Names that stand for an Index; None outside a kernel, where any may.
        self.positions = None if dims is None else dict.fromkeys(dims)
        self.buffers = {param.name: param.dtype for param in params}

    # A statement is a list of lines without their outer indentation.

    def kernel(self, kernel: Kernel) -> list[str]:
        params = ", ".join(map(show_param, kernel.params))
        where = f" where {', '.join(kernel.dims)}" if kernel.dims else ""
        lines = [f"kernel {kernel.name}({params}){where}:"]
        for table in kernel.tables:
            lines += _indented(self.table(table))
        return lines + (self.block(kernel.body) if kernel.body or not kernel.tables else [])

    def table(self, table: Table) -> list[str]:
        lines = [f"table {table.name}: {table.dtype} = ["]
        for value in table.values:
            text = show_number(value, table.dtype)
            if len(lines[-1]) + len(text) + 2 > _TABLE_WIDTH:
                lines.append(INDENT)
            lines[-1] += text + ", "
        lines[-1] = lines[-1].removesuffix(", ") + "]"
        return [line.rstrip() for line in lines]

    def block(self, stmts: tuple[Stmt, ...]) -> list[str]:
        if not stmts:
            return [f"{INDENT}pass"]
        return _indented([line for stmt in stmts for line in self.stmt(stmt)])

    def stmt(self, stmt: Stmt) -> list[str]:
        match stmt:
            case Let(name, value):
                if self.positions is not None:
                    self.positions.pop(name, None)
                return [f"let {name}: {value.dtype} = {self.expr(value, value.dtype)[0]}"]
            case Store(buffer, index, value, stream):
                text = self.expr(value, self.buffers.get(buffer, value.dtype))[0]
                return [f"{'stream ' if stream else ''}{buffer}[{_places(index)}] = {text}"]
            case Alloc(name, dtype, shape, memory):
                self.buffers[name] = dtype
                return [f"{name}: {memory} {show_type(dtype, shape)}"]
            case For(name, body=body):
                if self.positions is not None:
                    self.positions[name] = None
                return [f"for {name} in {_range(stmt)}:", *self.block(body)]
            case While(body, condition):
                inner = self.block(body)
                return ["do:", *inner, f"while {self.expr(condition, bool_)[0]}"]
            case If(condition, then, otherwise):
                lines = [f"if {self.expr(condition, bool_)[0]}:", *self.block(then)]
                if len(otherwise) == 1 and isinstance(otherwise[0], If):
                    first, *rest = self.stmt(otherwise[0])
                    return [*lines, f"el{first}", *rest]
                return [*lines, "else:", *self.block(otherwise)] if otherwise else lines
            case Fail(when, site, found):
                told = f" ({', '.join([self.expr(x, i64)[0] for x in found])})" if found else ""
                return [f"fail {site}{told} if {self.expr(when, bool_)[0]}"]
            case _:
                assert_never(stmt)

    # An expression is its text and how tightly its outermost operator binds.

    def expr(self, expr: Expr, expected: DType | None) -> tuple[str, int]:
        match expr:
            case Const(value, dtype):
                return self.const(value, dtype, expected)
            case Var(name):
                return name, ATOM
            case Index(dim):
                bare = dim_names(dim) if type(dim) is not int else ()
                known = len(bare) == 1 and (self.positions is None or bare[0] in self.positions)
                if known and dim == symbol(bare[0]):
                    return bare[0], ATOM
                return f"index({show_dim(dim)})", ATOM
            case Load(buffer, index, dtype):
                word = f": {dtype}" if self.buffers.get(buffer, dtype) is not dtype else ""
                return f"{buffer}[{_places(index)}{word}]", ATOM
            case Unary(op, x):
                hint = None if op in TESTS else expected
                sign = PREFIXES.get(op)
                if sign is None:
                    return f"{op}({self.expr(x, hint)[0]})", ATOM
                inside, binds = self.expr(x, hint)
                # A sign before a number belongs to the number, so what is negated must not look like one.
                signed = binds >= PREFIX and not isinstance(x, Const)
                return (f"{sign}{inside}" if signed else f"{sign}({inside})"), PREFIX
            case Binary(op, x, y):
                hint = operands_type(op, (x, y), expected, False)
                left, left_binds = self.expr(x, hint)
                right, right_binds = self.expr(y, hint or x.dtype)
                if op not in INFIX:
                    return f"{op}({left}, {right})", ATOM
                sign, binds = INFIX[op]
                chained = op not in COMPARISONS and op != "pow"
                if left_binds < binds or (left_binds == binds and not chained):
                    left = f"({left})"
                if right_binds <= binds:
                    right = f"({right})"
                return f"{left} {sign} {right}", binds
            case Fma(x, y, z):
                return f"fma({', '.join(self.together((x, y, z), expected))})", ATOM
            case Select(condition, x, y):
                test = self.expr(condition, bool_)[0]
                return f"select({', '.join((test, *self.together((x, y), expected)))})", ATOM
            case Cast(x, dtype, bits):
                return f"{dtype}{'.bits' if bits else ''}({self.expr(x, None)[0]})", ATOM
            case Call(instruction, args, dtype):
                inside = ", ".join([self.expr(x, None)[0] for x in args])
                return f"{dtype}.{instruction}({inside})", ATOM
            case _:
                assert_never(expr)

    def together(self, exprs: tuple[Expr, ...], expected: DType | None) -> list[str]:
        hint = operands_type("", exprs, expected, False)
        first = self.expr(exprs[0], hint)[0]
        return [first, *[self.expr(x, hint or exprs[0].dtype)[0] for x in exprs[1:]]]

    def const(self, value: bool | int | float | complex, dtype: DType, expected: DType | None) -> tuple[str, int]:
        text = show_number(value, dtype)
        if dtype.kind == "complex" or (dtype is not expected and dtype is not bool_):
            return f"{dtype}({text})", ATOM
        return text, PREFIX if text.startswith("-") else ATOM


def _indented(lines: Iterable[str]) -> list[str]:
    return [INDENT + line for line in lines]


def _places(index: Sequence[Dim]) -> str:
    return ", ".join(map(show_dim, index))


def _range(loop: For) -> str:
    """`range(n)`, `vector(16)`, `parallel(2, n)`, `vector(0, n - i, lanes=16)`: Python's short forms of a
    range.
    """
    kind = "range" if loop.kind == "serial" else loop.kind
    start, stop, step = show_dim(loop.start), show_dim(loop.stop), str(loop.step)
    parts = [start, stop, step] if step != "1" else [start, stop] if start != "0" else [stop]
    full = loop.kind == "vector" and len(parts) == 1 and loop.stop == loop.lanes
    if not full and (loop.lanes or loop.kind == "vector"):
        parts.append(f"lanes={loop.lanes}")
    return f"{kind}({', '.join(parts)})"
