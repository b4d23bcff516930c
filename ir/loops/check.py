"""Whether a kernel keeps the rules of the language: names, types, ranks, bounds, and one writer per parallel element.

Refused is what is wrong whenever it runs; what cannot be known from loop ranges and sizes passes, so a kernel that is
accepted here may still leave a buffer under a condition or with sizes that lie. Names are bound once: nothing is
shadowed, loop variables, lets, sizes and buffers share one space, so that substitution is plain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product as combinations
from typing import Final, NoReturn, assert_never

import numpy as np

from ..classes import dataclass
from ..dims import Dim, bounds, known_lt, show, substitute, symbol
from ..dims import names as dim_names
from ..dtypes import DType, Kind, bool_, f32, f64, i64, is_name, u64
from ..errors import CheckFailed
from .affine import Ranges, reach
from .build import expressions, operands, walk, walk_expr
from .nodes import (
    BINARY,
    COMPARISONS,
    MATH,
    MATH_BINARY,
    MOST_FOUND,
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
    Select,
    Stmt,
    Store,
    Unary,
    Var,
    While,
    neighbours,
)
from .text import DEEPEST, RESERVED, show_expr, show_head

_INTEGERS: Final[tuple[Kind, ...]] = ("int", "uint")
_REALS: Final[tuple[Kind, ...]] = (*_INTEGERS, "float")
_NUMBERS: Final[tuple[Kind, ...]] = (*_REALS, "complex")
_BITS: Final[tuple[Kind, ...]] = ("bool", *_INTEGERS)
_INEXACT: Final[tuple[Kind, ...]] = ("float", "complex")
_COMPLEX_MATH = (
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "rsqrt", "sin", "cos", "tan", "asin", "acos", "atan",
    "sinh", "cosh", "tanh", "asinh", "acosh", "atanh",
)  # fmt: skip

# The kinds of operand that each function takes; fp8 is storage only and stands in none. `complex` takes f32 and f64.
ACCEPTS: Final[Mapping[str, tuple[Kind, ...]]] = {
    **dict.fromkeys(UNARY, ("float",)),
    **dict.fromkeys(MATH, ("float",)),
    **dict.fromkeys(_COMPLEX_MATH, _INEXACT),
    **dict.fromkeys(BINARY, _REALS),
    **dict.fromkeys(MATH_BINARY, ("float",)),
    **dict.fromkeys(COMPARISONS, ("bool", *_REALS)),
    **dict.fromkeys(("eq", "ne"), ("bool", *_NUMBERS)),
    **dict.fromkeys(("neg", "abs", "add", "sub", "mul", "pow"), _NUMBERS),
    **dict.fromkeys(("div", "sqrt", "isnan", "isinf", "isfinite"), _INEXACT),
    **dict.fromkeys(("min", "max", "fmin", "fmax"), ("bool", *_REALS)),
    **dict.fromkeys(("not", "and", "or", "xor"), _BITS),
    **dict.fromkeys(("shl", "shr", "popcount", "truncdiv"), _INTEGERS),
    **dict.fromkeys(("real", "imag", "conj"), ("complex",)),
    **dict.fromkeys(("copysign", "nextafter", "exponent_shift", "complex"), ("float",)),
    "threefry": ("uint",),
}


def check(kernel: Kernel) -> None:
    """Raises `CheckFailed` with the rule that is broken and the statement that breaks it."""
    _Check(kernel).run()


def accepts(op: str, dtype: DType) -> bool:
    """Whether a function of one or two operands takes operands of `dtype`."""
    if op == "complex":
        return dtype in (f32, f64)
    if op == "threefry":
        return dtype is u64
    return dtype.kind in ACCEPTS.get(op, ())


@dataclass(frozen=True)
class _Buffer:
    dtype: DType
    shape: tuple[Dim, ...]
    kind: str  # in, out, inout, table, stack, registers


@dataclass(frozen=True)
class _Scope:
    """What is around a statement."""

    loops: tuple[For, ...] = ()
    guarded: bool = False  # inside an If: it may be the condition that keeps an index inside
    dead: bool = False  # inside a loop that never runs

    @property
    def ranges(self) -> Ranges:
        return {loop.var: (loop.start, loop.stop) for loop in self.loops}


class _Check:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.stmt: Stmt | None = None
        self.buffers: dict[str, _Buffer] = {}
        self.scalars: dict[str, DType] = {}  # lets
        self.loops: dict[str, For | None] = {}  # loop variables; None for sizes
        self.written: dict[str, None] = {}

    def fail(self, code: str, problem: str) -> NoReturn:
        place = "" if self.stmt is None else f", in `{show_head(self.stmt)}`"
        raise CheckFailed(f"kernel {self.kernel.name}: {problem}{place}", code=code)

    def run(self) -> None:
        kernel = self.kernel
        if not kernel.name.isidentifier() or kernel.name in RESERVED:
            self.fail("TD0410", f"{kernel.name!r} cannot name a kernel")
        for name in kernel.dims:
            self.bind(name)
            self.loops[name] = None
        for param in kernel.params:
            self.bind(param.name)
            for dim in param.shape:
                self.position(dim)
            self.buffers[param.name] = _Buffer(param.dtype, param.shape, param.role)
        for table in kernel.tables:
            self.bind(table.name)
            for value in table.values:
                self.literal(value, table.dtype)
            self.buffers[table.name] = _Buffer(table.dtype, (len(table.values),), "table")
        self.block(kernel.body, _Scope())
        self.stmt = None
        for param in kernel.params:
            if param.role != "in" and param.name not in self.written:
                self.fail("TD0417", f"{param.role} parameter {param.name} is never written")

    # Names.

    def bind(self, name: str) -> None:
        if not name.isidentifier() or name in RESERVED or is_name(name) or name in ("min", "max"):
            self.fail("TD0410", f"{name!r} cannot name a scalar, a size or a buffer")
        if name in self.buffers or name in self.scalars or name in self.loops:
            self.fail("TD0410", f"the name {name} is bound already")

    def position(self, dim: Dim) -> None:
        """Its names stand for integers that exist here."""
        if type(dim) is int:
            return
        for name in dim_names(dim):
            if name not in self.loops and name not in self.scalars:
                self.fail("TD0410", f"{name} in the position {show(dim)} is not bound here")
            dtype = self.scalars.get(name, i64)
            if not dtype.is_integer:
                self.fail("TD0411", f"{name} in the position {show(dim)} is {dtype}, not an integer")

    # Expressions.

    def expr(self, root: Expr, scope: _Scope) -> DType:
        """The type of an expression, all of whose parts keep the rules."""
        if _depth(root) > DEEPEST:
            self.fail("TD0419", f"the expression is deeper than {DEEPEST} levels: bind parts of it with Let")
        for x in walk_expr(root):
            self.part(x, scope)
        return root.dtype

    def part(self, x: Expr, scope: _Scope) -> None:
        match x:
            case Const(value, dtype):
                self.literal(value, dtype)
            case Var(name, dtype):
                if name in self.loops:
                    self.fail("TD0411", f"{name} is a position: as a scalar it is an Index")
                if name not in self.scalars:
                    self.fail("TD0410", f"{name} is not bound here")
                if self.scalars[name] is not dtype:
                    self.fail("TD0411", f"{name} is {self.scalars[name]}, not {dtype}")
            case Index(dim, dtype):
                self.position(dim)
                if dtype is not i64:
                    self.fail("TD0411", f"index({show(dim)}) is i64, not {dtype}")
            case Load(buffer, index, dtype):
                known = self.element(buffer, index, scope)
                if known.dtype is not dtype:
                    self.word(buffer, known, index, dtype, scope)
                undefined = known.kind in ("out", "stack", "registers") and buffer not in self.written
                if undefined and not scope.guarded:
                    self.fail("TD0417", f"{buffer} is read before anything is written to it")
            case Unary(op, inner):
                if op not in UNARY and op not in MATH:
                    self.fail("TD0411", f"there is no function {op} of one operand")
                if not accepts(op, inner.dtype):
                    self.fail("TD0411", f"{op} does not take {inner.dtype}: {show_expr(x)}")
            case Binary(op, left, right):
                if op not in BINARY and op not in MATH_BINARY:
                    self.fail("TD0411", f"there is no function {op} of two operands")
                if not accepts(op, left.dtype):
                    self.fail("TD0411", f"{op} does not take {left.dtype}: {show_expr(x)}")
                self.same(x, left, right)
            case Fma(a, b, c):
                if a.dtype.kind != "float":
                    self.fail("TD0411", f"fma does not take {a.dtype}: {show_expr(x)}")
                self.same(x, a, b, c)
            case Select(condition, left, right):
                if condition.dtype is not bool_:
                    self.fail("TD0411", f"the condition of select is {condition.dtype}: {show_expr(x)}")
                self.same(x, left, right)
            case Cast(inner, dtype, bits):
                plain = inner.dtype.kind not in ("bool", "complex") and dtype.kind not in ("bool", "complex")
                if bits and not (plain and inner.dtype.bits == dtype.bits):
                    self.fail("TD0411", f"the bits of {inner.dtype} are not those of any {dtype}: {show_expr(x)}")
            case Call(instruction):
                if not all(word.isidentifier() for word in instruction.split(".")) or instruction == "bits":
                    self.fail("TD0410", f"{instruction!r} cannot name an instruction")
            case _:
                assert_never(x)

    def same(self, x: Expr, first: Expr, *rest: Expr) -> None:
        for other in rest:
            if other.dtype is not first.dtype:
                self.fail("TD0411", f"operands differ: {first.dtype} and {other.dtype} in {show_expr(x)}")

    def literal(self, value: bool | int | float | complex, dtype: DType) -> None:
        if not _holds(value, dtype):
            self.fail(
                "TD0411", f"{value!r} is not a value of {dtype}: constants are exact, write lit({value!r}, {dtype})"
            )

    def typed(self, x: Expr, wanted: DType, scope: _Scope, what: str) -> None:
        found = self.expr(x, scope)
        if found is not wanted:
            self.fail("TD0411", f"{what} is {wanted}, not {found}")

    # Elements.

    def element(self, buffer: str, index: tuple[Dim, ...], scope: _Scope) -> _Buffer:
        known = self.buffers.get(buffer)
        if known is None:
            self.fail("TD0412", f"the buffer {buffer} is not known here")
        if len(index) != len(known.shape):
            self.fail("TD0412", f"{buffer} has {len(known.shape)} axes, was given {len(index)} positions")
        for axis, (dim, extent) in enumerate(zip(index, known.shape)):
            self.position(dim)
            outside = self.outside(dim, extent, scope)
            if outside is not None:
                self.fail("TD0413", f"{show(dim)} is outside axis {axis} of {buffer}, of size {show(extent)}{outside}")
            if known.kind == "registers":
                for name in dim_names(dim):
                    loop = self.loops.get(name)
                    if loop is None or loop.kind not in ("unrolled", "vector"):
                        self.fail("TD0414", f"{buffer} is in registers and {name} is no unrolled or vector variable")
        return known

    def word(self, buffer: str, known: _Buffer, index: tuple[Dim, ...], dtype: DType, scope: _Scope) -> None:
        """Several neighbours read as one word."""
        count = neighbours(dtype, known.dtype)
        if count == 0 or known.kind == "registers" or not index:
            self.fail("TD0411", f"{buffer} holds {known.dtype}, not {dtype}")
        last, extent = index[-1] + count - 1, known.shape[-1]
        outside = self.outside(last, extent, scope)
        if outside is not None:
            self.fail(
                "TD0413", f"{show(last)} is outside axis {len(index) - 1} of {buffer}, of size {show(extent)}{outside}"
            )

    def outside(self, dim: Dim, extent: Dim, scope: _Scope) -> str | None:
        """Where the position is known to leave [0, extent); None if it may stay inside."""
        if scope.guarded or scope.dead:
            return None  # it may never run: unrolling a padded window leaves such branches
        if type(dim) is int and type(extent) is int:
            return None if 0 <= dim < extent else ""
        ranges = scope.ranges
        below, above = reach(dim, ranges), reach(dim - extent, ranges)
        if below is not None and _below_zero(below[1]):
            return ""
        if above is not None and _not_below_zero(above[0]):
            return ""
        for first_and_last in self.corners(dim, scope.loops):
            at = substitute(dim, first_and_last)
            if _below_zero(at) or _not_below_zero(at - extent):
                values = ", ".join([f"{name} = {show(value)}" for name, value in first_and_last.items()])
                return f", at {values}"
        return None

    def corners(self, dim: Dim, loops: Sequence[For]) -> Iterable[dict[str, Dim]]:
        """First and last values of the loop variables in a position, for iterations that run whenever the nest does."""
        used: list[For] = []
        wanted = set(dim_names(dim))
        for loop in reversed(loops):
            if loop.var in wanted:
                used.append(loop)
                wanted.update((*dim_names(loop.start), *dim_names(loop.stop)))
        if not used or len(used) > 4:
            return
        outer_names = {loop.var for loop in loops}
        used.reverse()
        for choice in combinations((False, True), repeat=len(used)):
            values: dict[str, Dim] = {}
            for loop, last in zip(used, choice):
                start, stop = substitute(loop.start, values), substitute(loop.stop, values)
                depends = any(name in outer_names for name in (*dim_names(loop.start), *dim_names(loop.stop)))
                if depends and not known_lt(start, stop):
                    break  # perhaps empty in this corner
                values[loop.var] = start + (stop - start - 1) // loop.step * loop.step if last else start
            else:
                yield values

    # Statements.

    def block(self, stmts: tuple[Stmt, ...], scope: _Scope, ends: While | None = None) -> None:
        scalars, buffers, loops = self.scalars, self.buffers, self.loops
        self.scalars, self.buffers, self.loops = dict(scalars), dict(buffers), dict(loops)
        for stmt in stmts:
            self.statement(stmt, scope)
        if ends is not None:  # its condition is evaluated where the body ends, so it sees what the body binds
            self.stmt = ends
            self.typed(ends.condition, bool_, scope, "a condition")
        self.scalars, self.buffers, self.loops = scalars, buffers, loops

    def statement(self, stmt: Stmt, scope: _Scope) -> None:
        self.stmt = stmt
        match stmt:
            case Let(name, value):
                dtype = self.expr(value, scope)
                self.bind(name)
                self.scalars[name] = dtype
            case Store(buffer, index, value):
                known = self.element(buffer, index, scope)
                if known.kind in ("in", "table"):
                    self.fail("TD0412", f"{buffer} is read-only")
                self.typed(value, known.dtype, scope, f"an element of {buffer}")
                self.written[buffer] = None
            case Alloc(name, dtype, shape, memory):
                self.bind(name)
                for dim in shape:
                    self.position(dim)
                    if memory == "registers" and type(dim) is not int:
                        self.fail("TD0414", f"{name} is in registers: its shape is constant")
                    if _below_zero(dim):
                        self.fail("TD0412", f"{name} has the negative size {show(dim)}")
                self.buffers[name] = _Buffer(dtype, shape, memory)
                self.written.pop(name, None)
            case For():
                self.loop(stmt, scope)
            case While(body):
                self.block(body, scope, stmt)
            case If(condition, then, otherwise):
                self.typed(condition, bool_, scope, "a condition")
                inner = replace(scope, guarded=True)
                self.block(then, inner)
                self.block(otherwise, inner)
            case Fail(when, site, found):
                self.typed(when, bool_, scope, "a condition")
                for number in found:
                    self.typed(number, i64, scope, "a number that a failure tells")
                if len(found) > MOST_FOUND:
                    self.fail("TD0418", f"a failure tells at most {MOST_FOUND} numbers")
                if not 1 <= site < 2**31:
                    self.fail("TD0418", f"the number of a failure is {site}, not from 1 to 2**31 - 1")
            case _:
                assert_never(stmt)

    def loop(self, loop: For, scope: _Scope) -> None:
        self.bind(loop.var)
        self.position(loop.start)
        self.position(loop.stop)
        if loop.step < 1:
            self.fail("TD0418", f"the step of a loop is {loop.step}, not at least 1")
        least = reach(loop.start, scope.ranges)
        if least is not None and _below_zero(least[1]):
            self.fail("TD0418", f"loop variables count from 0 or above, {loop.var} starts at {show(loop.start)}")
        if loop.kind == "vector":
            if loop.lanes < 1:
                self.fail("TD0416", "a vector loop has at least one lane")
            most = bounds(loop.stop - loop.start - loop.lanes * loop.step)[0]
            if most is not None and most > 0:
                self.fail("TD0416", f"more iterations than {loop.lanes} lanes")
        elif loop.lanes:
            self.fail("TD0416", "lanes belong to vector loops")
        if loop.kind in ("vector", "parallel"):
            for outer in scope.loops:
                if outer.kind == "vector":
                    self.fail("TD0416", f"a {loop.kind} loop inside the vector loop over {outer.var}")
        if loop.kind == "unrolled":
            for name in (*dim_names(loop.start), *dim_names(loop.stop)):
                other = self.loops.get(name)
                if other is None or other.kind != "unrolled":
                    self.fail("TD0418", f"an unrolled loop has constant bounds, and {name} is not constant")
        if loop.kind in ("vector", "parallel"):
            self.writers(loop)
        self.stmt = loop
        outer_loops = self.loops
        self.loops = {**outer_loops, loop.var: loop}
        length = reach(loop.stop - loop.start, scope.ranges)
        dead = scope.dead or (length is not None and _below_zero(length[1] - 1))
        self.block(loop.body, replace(scope, loops=(*scope.loops, loop), dead=dead))
        self.loops = outer_loops

    # One writer per element.

    def writers(self, loop: For) -> None:
        """No two iterations of a parallel or vector loop write one element, and none reads what another writes, as
        far as that is known: of accesses outside conditions, whether they stay where they are from one iteration
        to the next, or meet after a few.
        """
        extent = bounds(loop.stop - loop.start)[1]
        if extent is not None and extent <= loop.step:
            return  # at most one iteration
        local = {stmt.name for stmt in walk(loop.body) if isinstance(stmt, Alloc)}
        accesses = [access for access in _unconditional(loop.body) if access.buffer not in local]
        moving = _moving(loop)
        for access in accesses:
            used = [name for dim in access.index for name in dim_names(dim) if name in moving]
            if access.verb == "write" and not used:
                self.stmt = access.stmt
                self.fail("TD0415", f"every iteration of the {loop.kind} loop over {loop.var} writes this element")
            if access.verb == "read" or any(name != loop.var for name in used):
                continue
            for shift in _NEIGHBOURS:
                if extent is None or abs(shift) * loop.step < extent:
                    other: dict[str, Dim] = {loop.var: symbol(loop.var) + shift * loop.step}
                    self.meets(loop, access, tuple([substitute(dim, other) for dim in access.index]), accesses)

    def meets(self, loop: For, write: _Access, moved: tuple[Dim, ...], accesses: Iterable[_Access]) -> None:
        for other in accesses:
            if other.buffer == write.buffer and other.index == moved:
                self.stmt = other.stmt
                place = f"{other.buffer}[{', '.join(map(show, other.index))}]"
                problem = f"an iteration of the {loop.kind} loop over {loop.var} {other.verb}s what another writes"
                self.fail("TD0415", f"{problem}: {place}")


_NEIGHBOURS = (1, -1, 2, -2, 3, -3, 4, -4)  # iterations with which one is compared


@dataclass(frozen=True)
class _Access:
    verb: str  # read or write
    buffer: str
    index: tuple[Dim, ...]
    stmt: Stmt


def _moving(loop: For) -> set[str]:
    """Names in the body that may differ from one iteration to the next: the loop's variable, lets, and variables of
    inner loops whose ranges move. The others run over the same values in every iteration.
    """
    found = {loop.var}
    for stmt in walk(loop.body):
        match stmt:
            case Let(name=name):
                found.add(name)
            case For(var=name, start=start, stop=stop):
                if any(used in found for used in (*dim_names(start), *dim_names(stop))):
                    found.add(name)
            case _:
                pass
    return found


def _unconditional(stmts: Iterable[Stmt]) -> Iterator[_Access]:
    """What is read and written in every run of a block."""
    for stmt in stmts:
        for x in walk_expr(*expressions(stmt)):
            if isinstance(x, Load):
                yield _Access("read", x.buffer, x.index, stmt)
        match stmt:
            case Store(buffer, index):
                yield _Access("write", buffer, index, stmt)
            case For(body=body) | While(body=body):
                yield from _unconditional(body)
            case _:
                pass


def _depth(root: Expr) -> int:
    depth, level = 0, [root]
    while level:
        depth += 1
        if depth > DEEPEST:
            break
        level = [x for parent in level for x in operands(parent)]
    return depth


def _holds(value: bool | int | float | complex, dtype: DType) -> bool:
    """Whether a Python number is a value of the type, exactly."""
    if dtype.kind == "bool":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if dtype.is_integer:
        least = -(1 << (dtype.bits - 1)) if dtype.is_signed else 0
        return isinstance(value, int) and least <= value < least + (1 << dtype.bits)
    if isinstance(value, complex):
        if dtype.kind != "complex":
            return False
        part = f64 if dtype.bits == 128 else f32
        return _holds(value.real, part) and _holds(value.imag, part)
    if dtype.kind == "complex":
        return False
    with np.errstate(all="ignore"):
        kept = float(dtype.numpy.type(value))
    return kept == value or (math.isnan(kept) and math.isnan(value))


def _below_zero(dim: Dim) -> bool:
    high = bounds(dim)[1]
    return high is not None and high < 0


def _not_below_zero(dim: Dim) -> bool:
    low = bounds(dim)[0]
    return low is not None and low >= 0
