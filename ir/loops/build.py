"""Writing loop nests from Python, and rebuilding them: literals, scalar functions, a builder, walks, maps.

Nodes stay plain dataclasses (`==` compares them), so scalar functions are functions here, not operators. A
Python number beside an expression takes that expression's dtype. Rebuilding keeps identity: what a function
does not change is the same object after it, and a nest in which nothing changed is returned itself.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias, assert_never

import numpy as np

from ..dims import Dim, SymbolicDim, names_size, symbol
from ..dims import names as dim_names
from ..dims import substitute as substitute_dim
from ..dtypes import DType, bool_, i64
from ..errors import InvalidValue, TypeMismatch
from .nodes import (
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
)

Number: TypeAlias = bool | int | float | complex
Operand: TypeAlias = Expr | SymbolicDim | bool | int | float | complex
Position: TypeAlias = Dim | Var | Index
Buffer: TypeAlias = Param | Alloc | Table
Block: TypeAlias = tuple[Stmt, ...]


# --- scalars ------------------------------------------------------------------------------------------------


def lit(value: Number | np.generic, dtype: DType) -> Const:
    """The constant of `dtype` nearest to `value`, kept as a Python number that `dtype` holds exactly.

    Raises `InvalidValue` (TD0402) where there is none: 300 as u8, 0.5 as i32, 1j as f32.
    """
    kind = dtype.kind
    given = value.item() if isinstance(value, np.generic) and dtype.kind != "float8" else value
    if isinstance(given, np.generic):
        given = float(given)
    if kind == "complex":
        return Const(_rounded_complex(complex(given), dtype), dtype)
    if not isinstance(given, complex):
        if kind in ("float", "float8"):
            return Const(_rounded(float(given), dtype), dtype)
        if kind == "bool" and given in (0, 1):
            return Const(bool(given), dtype)
        if dtype.is_integer and math.isfinite(given) and given == int(given):
            whole = int(given)
            least = -(1 << (dtype.bits - 1)) if dtype.is_signed else 0
            if least <= whole < least + (1 << dtype.bits):
                return Const(whole, dtype)
    raise InvalidValue(f"{value!r} is not a value of {dtype}", code="TD0402", edit="cast it where it is computed")


def _rounded(value: float, dtype: DType) -> float:
    if value != value:
        return math.nan  # one object, so that equal constants of a tuple are found equal by identity
    with np.errstate(all="ignore"):
        return float(dtype.numpy.type(value))


def _rounded_complex(value: complex, dtype: DType) -> complex:
    with np.errstate(all="ignore"):
        return complex(dtype.numpy.type(value))


def var(name: str, dtype: DType) -> Var:
    return Var(name, dtype)


def index(position: Position) -> Index:
    """A position as an i64 scalar."""
    return Index(as_position(position))


def as_position(x: Position) -> Dim:
    """A `Dim` from what may stand in a buffer's brackets: a `Dim`, an `Index`, an integer bound by `Let`."""
    match x:
        case Index(dim):
            return dim
        case Var(name, dtype):
            if not dtype.is_integer:
                raise TypeMismatch(f"{name}: {dtype} is not a position", code="TD0404")
            return symbol(name)
        case _:
            return x


def as_expr(x: Operand, dtype: DType | None = None) -> Expr:
    """`x` as an expression; a Python number needs the dtype it takes."""
    if isinstance(x, SymbolicDim):
        return Index(x)
    if isinstance(x, bool | int | float | complex | np.generic):
        if dtype is None:
            if isinstance(x, bool):
                return Const(x, bool_)
            raise TypeMismatch(f"the type of {x!r} is not known here", code="TD0404", edit=f"write lit({x!r}, f32)")
        return lit(x, dtype)
    return x


def _together(*operands: Operand) -> tuple[Expr, ...]:
    """Operands of one dtype: numbers take that of the first operand that has one."""
    for x in operands:
        if isinstance(x, SymbolicDim):
            return tuple([as_expr(y, i64) for y in operands])
        if not isinstance(x, bool | int | float | complex | np.generic):
            dtype = x.dtype
            return tuple([as_expr(y, dtype) for y in operands])
    return tuple([as_expr(x) for x in operands])


def load(buffer: Buffer, *at: Position) -> Load:
    return Load(buffer.name, tuple([as_position(x) for x in at]), buffer.dtype)


def unary(op: str, x: Operand) -> Unary:
    """A function of UNARY or MATH by its name."""
    return Unary(op, as_expr(x))


def binary(op: str, x: Operand, y: Operand) -> Binary:
    """A function of BINARY or MATH_BINARY by its name."""
    left, right = _together(x, y)
    return Binary(op, left, right)


def neg(x: Operand) -> Unary:
    return unary("neg", x)


def absolute(x: Operand) -> Unary:
    return unary("abs", x)


def not_(x: Operand) -> Unary:
    return unary("not", x)


def sqrt(x: Operand) -> Unary:
    return unary("sqrt", x)


def isnan(x: Operand) -> Unary:
    return unary("isnan", x)


def add(x: Operand, y: Operand) -> Binary:
    return binary("add", x, y)


def sub(x: Operand, y: Operand) -> Binary:
    return binary("sub", x, y)


def mul(x: Operand, y: Operand) -> Binary:
    return binary("mul", x, y)


def div(x: Operand, y: Operand) -> Binary:
    return binary("div", x, y)


def minimum(x: Operand, y: Operand) -> Binary:
    return binary("min", x, y)


def maximum(x: Operand, y: Operand) -> Binary:
    return binary("max", x, y)


def and_(x: Operand, y: Operand) -> Binary:
    return binary("and", x, y)


def or_(x: Operand, y: Operand) -> Binary:
    return binary("or", x, y)


def xor(x: Operand, y: Operand) -> Binary:
    return binary("xor", x, y)


def shl(x: Operand, y: Operand) -> Binary:
    return binary("shl", x, y)


def shr(x: Operand, y: Operand) -> Binary:
    return binary("shr", x, y)


def eq(x: Operand, y: Operand) -> Binary:
    return binary("eq", x, y)


def ne(x: Operand, y: Operand) -> Binary:
    return binary("ne", x, y)


def lt(x: Operand, y: Operand) -> Binary:
    return binary("lt", x, y)


def le(x: Operand, y: Operand) -> Binary:
    return binary("le", x, y)


def gt(x: Operand, y: Operand) -> Binary:
    return binary("gt", x, y)


def ge(x: Operand, y: Operand) -> Binary:
    return binary("ge", x, y)


def copysign(x: Operand, y: Operand) -> Binary:
    return binary("copysign", x, y)


def fma(x: Operand, y: Operand, z: Operand) -> Fma:
    return Fma(*_together(x, y, z))


def multiply_add(x: Operand, y: Operand, z: Operand) -> Expr:
    """x*y + z for any dtype: an `Fma`, so one rounding, for floats; the two operations otherwise."""
    a, b, c = _together(x, y, z)
    return Fma(a, b, c) if a.dtype.kind == "float" else Binary("add", Binary("mul", a, b), c)


def select(condition: Operand, x: Operand, y: Operand) -> Select:
    return Select(as_expr(condition, bool_), *_together(x, y))


def cast(x: Operand, dtype: DType) -> Expr:
    """`x` as `dtype`, itself if it is of that type."""
    inner = as_expr(x)
    return inner if inner.dtype is dtype else Cast(inner, dtype)


def bits(x: Operand, dtype: DType) -> Cast:
    """The bits of `x` seen as `dtype`."""
    return Cast(as_expr(x), dtype, True)


def call(instruction: str, args: Sequence[Expr], dtype: DType) -> Call:
    return Call(instruction, tuple(args), dtype)


def combine(op: str, operands: Iterable[Expr]) -> Expr:
    """op over all operands from the left; there must be at least one."""
    first, *rest = operands
    for x in rest:
        first = Binary(op, first, x)
    return first


# --- statements ---------------------------------------------------------------------------------------------


class Names:
    """Names not yet taken: `fresh("i")` is `i`, then `i_1`, `i_2`."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._next: dict[str, int] = {}

    def fresh(self, base: str) -> str:
        name = base
        while name in self._taken:
            number = self._next.get(base, 0) + 1
            self._next[base] = number
            name = f"{base}_{number}"
        self._taken.add(name)
        return name

    def take(self, *names: str) -> None:
        self._taken.update(names)


def names_of(kernel: Kernel) -> Names:
    """The names a kernel binds are taken."""
    names = Names(kernel.dims)
    names.take(*[param.name for param in kernel.params], *[table.name for table in kernel.tables])
    names.take(*bound_names(kernel.body))
    return names


def loop(
    name: str,
    stop: Dim,
    body: Iterable[Stmt] | Callable[[SymbolicDim], Iterable[Stmt]],
    *,
    start: Dim = 0,
    step: int = 1,
    kind: LoopKind = "serial",
    lanes: int = 0,
) -> For:
    """`for name in range(start, stop, step)`; `body` may be a function of the loop's variable."""
    inner = tuple(body(symbol(name)) if callable(body) else body)
    return For(name, start, stop, step, kind, inner, lanes)


def nest(names: Sequence[str], shape: Sequence[Dim], body: Iterable[Stmt], kind: LoopKind = "serial") -> Block:
    """`body` in one loop per axis of `shape`, the first outermost; `kind` is that of the outermost loop."""
    inner = tuple(body)
    for axis in reversed(range(len(shape))):
        inner = (For(names[axis], 0, shape[axis], 1, kind if axis == 0 else "serial", inner),)
    return inner


class Builder:
    """A kernel written from the top down: statements go where the innermost open `with` stands.

    >>> k = Builder("scale", dims=("N",))
    >>> n = symbol("N")
    >>> x, y = k.input("x", f32, (n,)), k.output("y", f32, (n,))
    >>> with k.loop("i", n) as i:
    ...     k.store(y, i, mul(load(x, i), 2.0))
    >>> kernel = k.finish()
    """

    def __init__(self, name: str, dims: Sequence[str] = (), names: Names | None = None) -> None:
        self.name = name
        self.dims = tuple(dims)
        self.names = names if names is not None else Names()
        self.names.take(*dims)
        self._params: list[Param] = []
        self._tables: list[Table] = []
        self._blocks: list[list[Stmt]] = [[]]
        # What the variables of the open loops range over, for `affine.simplify`.
        self.ranges: dict[str, tuple[Dim, Dim]] = {}

    def param(self, name: str, dtype: DType, shape: Sequence[Dim], role: Role) -> Param:
        made = Param(self.names.fresh(name), dtype, tuple(shape), role)
        self._params.append(made)
        return made

    def input(self, name: str, dtype: DType, shape: Sequence[Dim]) -> Param:
        return self.param(name, dtype, shape, "in")

    def output(self, name: str, dtype: DType, shape: Sequence[Dim]) -> Param:
        return self.param(name, dtype, shape, "out")

    def inout(self, name: str, dtype: DType, shape: Sequence[Dim]) -> Param:
        return self.param(name, dtype, shape, "inout")

    def table(self, name: str, dtype: DType, values: Iterable[float | int]) -> Table:
        made = Table(self.names.fresh(name), dtype, tuple([_real_literal(value, dtype) for value in values]))
        self._tables.append(made)
        return made

    def emit(self, *stmts: Stmt) -> None:
        self._blocks[-1].extend(stmts)

    def let(self, name: str, value: Operand, dtype: DType | None = None) -> Var:
        """Bind `value` to a fresh name like `name`."""
        expr = as_expr(value, dtype)
        bound = self.names.fresh(name)
        self.emit(Let(bound, expr))
        return Var(bound, expr.dtype)

    def alloc(self, name: str, dtype: DType, shape: Sequence[Dim], memory: Memory = "stack") -> Alloc:
        made = Alloc(self.names.fresh(name), dtype, tuple(shape), memory)
        self.emit(made)
        return made

    def registers(self, name: str, dtype: DType, shape: Sequence[int]) -> Alloc:
        return self.alloc(name, dtype, shape, "registers")

    def store(
        self, buffer: Buffer, at: Position | tuple[Position, ...], value: Operand, *, stream: bool = False
    ) -> None:
        places = at if isinstance(at, tuple) else (at,)
        index = tuple([as_position(x) for x in places])
        self.emit(Store(buffer.name, index, as_expr(value, buffer.dtype), stream))

    def fail(self, when: Operand, site: int, *found: Operand) -> None:
        self.emit(Fail(as_expr(when, bool_), site, tuple([as_expr(x, i64) for x in found])))

    @contextlib.contextmanager
    def loop(
        self,
        name: str,
        stop: Dim,
        *,
        start: Dim = 0,
        step: int = 1,
        kind: LoopKind = "serial",
        lanes: int = 0,
    ) -> Iterator[SymbolicDim]:
        bound = self.names.fresh(name)
        with self._block() as body:
            self.ranges[bound] = (start, stop)
            yield symbol(bound)
            del self.ranges[bound]
        self.emit(For(bound, start, stop, step, kind, tuple(body), lanes))

    def parallel(
        self, name: str, stop: Dim, *, start: Dim = 0, step: int = 1
    ) -> contextlib.AbstractContextManager[SymbolicDim]:
        return self.loop(name, stop, start=start, step=step, kind="parallel")

    def unrolled(self, name: str, stop: Dim, *, start: Dim = 0) -> contextlib.AbstractContextManager[SymbolicDim]:
        return self.loop(name, stop, start=start, kind="unrolled")

    def vector(
        self, name: str, lanes: int, stop: Dim | None = None, *, start: Dim = 0
    ) -> contextlib.AbstractContextManager[SymbolicDim]:
        """`stop` is `lanes` where it is not given; a smaller trip count is a masked tail."""
        return self.loop(name, lanes if stop is None else stop, start=start, kind="vector", lanes=lanes)

    @contextlib.contextmanager
    def if_(self, condition: Operand) -> Iterator[None]:
        with self._block() as body:
            yield
        self.emit(If(as_expr(condition, bool_), tuple(body)))

    @contextlib.contextmanager
    def else_(self) -> Iterator[None]:
        """The other branch of the `if_` just closed."""
        before = self._blocks[-1][-1] if self._blocks[-1] else None
        if not isinstance(before, If) or before.otherwise:
            raise InvalidValue("else_ must follow an if_", code="TD0405")
        with self._block() as body:
            yield
        self._blocks[-1][-1] = replace(before, otherwise=tuple(body))

    @contextlib.contextmanager
    def do(self) -> Iterator[Callable[[Operand], None]]:
        """A `While`: `with k.do() as again: ...; again(condition)`."""
        conditions: list[Expr] = []
        with self._block() as body:
            yield lambda condition: conditions.append(as_expr(condition, bool_))
        if len(conditions) != 1:
            raise InvalidValue("a do loop states its condition once", code="TD0405")
        self.emit(While(tuple(body), conditions[0]))

    @contextlib.contextmanager
    def _block(self) -> Iterator[list[Stmt]]:
        body: list[Stmt] = []
        self._blocks.append(body)
        try:
            yield body
        finally:
            self._blocks.pop()

    def statements(self) -> Block:
        """What was written so far in the open block."""
        return tuple(self._blocks[-1])

    def finish(self) -> Kernel:
        return Kernel(self.name, tuple(self._params), self.dims, self.statements(), tuple(self._tables))


def _real_literal(value: float | int, dtype: DType) -> float | int:
    literal = lit(value, dtype).value
    assert not isinstance(literal, complex)
    return literal


# --- walks --------------------------------------------------------------------------------------------------


def blocks(stmt: Stmt) -> tuple[Block, ...]:
    """The blocks directly inside a statement."""
    match stmt:
        case For(body=body) | While(body=body):
            return (body,)
        case If(then=then, otherwise=otherwise):
            return (then, otherwise)
        case Let() | Store() | Alloc() | Fail():
            return ()
        case _:
            assert_never(stmt)


def expressions(stmt: Stmt) -> tuple[Expr, ...]:
    """The expressions that a statement itself evaluates, without those of its blocks."""
    match stmt:
        case Let(value=x) | Store(value=x) | If(condition=x) | While(condition=x):
            return (x,)
        case Fail(when, _, found):
            return (when, *found)
        case Alloc() | For():
            return ()
        case _:
            assert_never(stmt)


def operands(expr: Expr) -> tuple[Expr, ...]:
    match expr:
        case Const() | Var() | Index() | Load():
            return ()
        case Unary(x=x) | Cast(x=x):
            return (x,)
        case Binary(x=x, y=y):
            return (x, y)
        case Fma(x=x, y=y, z=z):
            return (x, y, z)
        case Select(condition=condition, x=x, y=y):
            return (condition, x, y)
        case Call(args=args):
            return args
        case _:
            assert_never(expr)


def positions(node: Stmt | Expr) -> tuple[Dim, ...]:
    """The positions and sizes written in a node itself."""
    match node:
        case Load(index=at) | Store(index=at):
            return at
        case Index(dim=dim):
            return (dim,)
        case For(start=start, stop=stop):
            return (start, stop)
        case Alloc(shape=shape):
            return shape
        case _:
            return ()


def walk(stmts: Iterable[Stmt]) -> Iterator[Stmt]:
    """Every statement in order, the outer before the inner."""
    waiting = list(stmts)
    waiting.reverse()
    while waiting:
        stmt = waiting.pop()
        yield stmt
        kind = type(stmt)
        if kind is For or kind is While:
            waiting.extend(reversed(stmt.body))  # type: ignore[union-attr]
        elif kind is If:
            waiting.extend(reversed(stmt.otherwise))  # type: ignore[union-attr]
            waiting.extend(reversed(stmt.then))  # type: ignore[union-attr]


def walk_expr(*roots: Expr) -> Iterator[Expr]:
    """Every expression in these, the outer before the inner, left to right."""
    waiting = list(roots)
    waiting.reverse()
    while waiting:
        expr = waiting.pop()
        yield expr
        kind = type(expr)
        if kind is Binary:
            waiting.append(expr.y)  # type: ignore[union-attr]
            waiting.append(expr.x)  # type: ignore[union-attr]
        elif kind is not Load and kind is not Var and kind is not Const:
            waiting.extend(reversed(operands(expr)))


def all_exprs(stmts: Iterable[Stmt]) -> Iterator[Expr]:
    """Every expression of every statement."""
    for stmt in walk(stmts):
        yield from walk_expr(*expressions(stmt))


def bound_names(stmts: Iterable[Stmt]) -> Iterator[str]:
    """The names that loops, lets and allocations inside bind, in order."""
    for stmt in walk(stmts):
        match stmt:
            case For(var=name) | Let(name=name) | Alloc(name=name):
                yield name
            case _:
                pass


def stored(stmts: Iterable[Stmt]) -> tuple[str, ...]:
    """The names of the buffers that are written, each once, in order."""
    return tuple(dict.fromkeys([stmt.buffer for stmt in walk(stmts) if type(stmt) is Store]))


def loaded(stmts: Iterable[Stmt]) -> tuple[str, ...]:
    """The names of the buffers that are read, each once, in order."""
    return tuple(dict.fromkeys([expr.buffer for expr in all_exprs(stmts) if type(expr) is Load]))


def used_names(stmts: Iterable[Stmt]) -> tuple[str, ...]:
    """The names of scalars and positions that are read, bound inside or not, each once, in order."""
    found: dict[str, None] = {}
    for stmt in walk(stmts):
        for dim in positions(stmt):
            if type(dim) is not int:
                found.update(dict.fromkeys(dim_names(dim)))
        for expr in walk_expr(*expressions(stmt)):
            if type(expr) is Var:
                found[expr.name] = None
            else:
                for dim in positions(expr):
                    if type(dim) is not int:
                        found.update(dict.fromkeys(dim_names(dim)))
    return tuple(found)


# --- maps ---------------------------------------------------------------------------------------------------


def map_operands(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """`expr` with its direct operands changed."""
    match expr:
        case Const() | Var() | Index() | Load():
            return expr
        case Binary(op, x, y):
            a, b = change(x), change(y)
            return expr if a is x and b is y else Binary(op, a, b)
        case Unary(op, x):
            a = change(x)
            return expr if a is x else Unary(op, a)
        case Fma(x, y, z):
            a, b, c = change(x), change(y), change(z)
            return expr if a is x and b is y and c is z else Fma(a, b, c)
        case Select(x, y, z):
            a, b, c = change(x), change(y), change(z)
            return expr if a is x and b is y and c is z else Select(a, b, c)
        case Cast(x, dtype, as_bits):
            a = change(x)
            return expr if a is x else Cast(a, dtype, as_bits)
        case Call(instruction, args, dtype):
            changed = tuple([change(x) for x in args])
            return expr if _same(changed, args) else Call(instruction, changed, dtype)
        case _:
            assert_never(expr)


def _same(a: Sequence[object], b: Sequence[object]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b))


def map_expr(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """`expr` with `change` applied to every part, the inner before the outer."""

    def visit(x: Expr) -> Expr:
        return change(map_operands(x, visit))

    return visit(expr)


def map_exprs(stmts: Block, change: Callable[[Expr], Expr]) -> Block:
    """The nest with `change` applied to every part of every expression, the inner before the outer."""
    return rebuild(stmts, expr=change)


def map_stmts(stmts: Block, change: Callable[[Stmt], Stmt | Block]) -> Block:
    """The nest with every statement replaced by what `change` makes of it: another, several, or () for none.

    It is called on inner statements first, so what it gets has its blocks already changed.
    """
    result: list[Stmt] = []
    for stmt in stmts:
        match stmt:
            case For(body=body) | While(body=body):
                inner = map_stmts(body, change)
                made = change(stmt if inner is body else replace(stmt, body=inner))
            case If(condition, then, otherwise):
                yes, no = map_stmts(then, change), map_stmts(otherwise, change)
                made = change(stmt if yes is then and no is otherwise else If(condition, yes, no))
            case Let() | Store() | Alloc() | Fail():
                made = change(stmt)
            case _:
                assert_never(stmt)
        if isinstance(made, tuple):
            result.extend(made)
        else:
            result.append(made)
    return stmts if _same(result, stmts) else tuple(result)


def rebuild(
    stmts: Block,
    *,
    expr: Callable[[Expr], Expr] | None = None,
    dim: Callable[[Dim], Dim] | None = None,
    buffer: Callable[[str], str] | None = None,
    binder: Callable[[str], str] | None = None,
) -> Block:
    """The nest with some of its parts changed, in one walk.

    `dim` is applied to every position and size, `buffer` to every name of a buffer read, written or
    allocated, `binder` to every name that a loop or a let binds; then `expr` to every part of every
    expression, the inner before the outer.
    """
    return _Rebuild(expr, dim, buffer, binder).block(stmts)


class _Rebuild:
    def __init__(
        self,
        expr: Callable[[Expr], Expr] | None,
        dim: Callable[[Dim], Dim] | None,
        buffer: Callable[[str], str] | None,
        binder: Callable[[str], str] | None,
    ) -> None:
        self.change = expr
        self.dim = dim
        self.buffer = buffer
        self.binder = binder
        self.leaves = dim is not None or buffer is not None

    def block(self, stmts: Block) -> Block:
        changed = [self.stmt(stmt) for stmt in stmts]
        return stmts if _same(changed, stmts) else tuple(changed)

    def stmt(self, stmt: Stmt) -> Stmt:
        match stmt:
            case Store(buffer, at, value, stream):
                made, new, to = self.expr(value), self.places(at), self.named(buffer)
                return stmt if made is value and new is at and to is buffer else Store(to, new, made, stream)
            case Let(name, value):
                made, bound = self.expr(value), self.bound(name)
                return stmt if made is value and bound is name else Let(bound, made)
            case For(name, start, stop, step, kind, body, lanes):
                inner, bound = self.block(body), self.bound(name)
                first, last = self.place(start), self.place(stop)
                if inner is body and bound is name and first is start and last is stop:
                    return stmt
                return For(bound, first, last, step, kind, inner, lanes)
            case If(condition, then, otherwise):
                made, yes, no = self.expr(condition), self.block(then), self.block(otherwise)
                return stmt if made is condition and yes is then and no is otherwise else If(made, yes, no)
            case While(body, condition):
                inner, made = self.block(body), self.expr(condition)
                return stmt if inner is body and made is condition else While(inner, made)
            case Alloc(name, dtype, shape, memory):
                to, new = self.named(name), self.places(shape)
                return stmt if to is name and new is shape else Alloc(to, dtype, new, memory)
            case Fail(when, site, found):
                made, told = self.expr(when), tuple([self.expr(x) for x in found])
                same = made is when and all(a is b for a, b in zip(told, found))
                return stmt if same else Fail(made, site, told)
            case _:
                assert_never(stmt)

    def expr(self, x: Expr) -> Expr:
        if self.leaves:
            match x:
                case Load(buffer, at, dtype):
                    new, to = self.places(at), self.named(buffer)
                    made: Expr = x if new is at and to is buffer else Load(to, new, dtype)
                case Index(dim, dtype):
                    moved = self.place(dim)
                    made = x if moved is dim else Index(moved, dtype)
                case _:
                    made = map_operands(x, self.expr)
        else:
            made = map_operands(x, self.expr)
        return made if self.change is None else self.change(made)

    def place(self, dim: Dim) -> Dim:
        return dim if self.dim is None else self.dim(dim)

    def places(self, dims: tuple[Dim, ...]) -> tuple[Dim, ...]:
        if self.dim is None:
            return dims
        changed = tuple([self.dim(dim) for dim in dims])
        return dims if _same(changed, dims) else changed

    def named(self, buffer: str) -> str:
        return buffer if self.buffer is None else self.buffer(buffer)

    def bound(self, name: str) -> str:
        return name if self.binder is None else self.binder(name)


def substitute(stmts: Block, values: Mapping[str, Dim | Expr], buffers: Mapping[str, str] | None = None) -> Block:
    """The nest with free names replaced: a loop variable or size by a `Dim`, a scalar by an expression, a
    buffer by another.

    Raises `InvalidValue` (TD0403) where a name of `values` is bound inside, or a name that a value mentions
    is.
    """
    incoming: dict[str, None] = dict.fromkeys(values)
    for value in values.values():
        incoming.update(dict.fromkeys(_names_in(value)))
    caught = [name for name in bound_names(stmts) if name in incoming]
    if caught:
        raise InvalidValue(
            f"cannot substitute: {caught[0]} is bound inside",
            code="TD0403",
            edit="give the inner one a fresh name",
        )
    expr, dim = _substitution(values)
    return rebuild(stmts, expr=expr, dim=dim, buffer=_renamer(buffers))


def substitute_expr(x: Expr, values: Mapping[str, Dim | Expr], buffers: Mapping[str, str] | None = None) -> Expr:
    """The same for one expression."""
    expr, dim = _substitution(values)
    return _Rebuild(expr, dim, _renamer(buffers), None).expr(x)


def rename(stmts: Block, names: Mapping[str, str]) -> Block:
    """The nest with scalars, loop variables and buffers renamed, where they are bound and where they are
    used.
    """

    def of_expr(x: Expr) -> Expr:
        return Var(names[x.name], x.dtype) if type(x) is Var and x.name in names else x

    # A scalar called `max` is in no position.
    symbols: dict[str, Dim] = {old: symbol(new) for old, new in names.items() if names_size(new)}
    renamer = _renamer(names)
    return rebuild(stmts, expr=of_expr, dim=lambda x: substitute_dim(x, symbols), buffer=renamer, binder=renamer)


def _renamer(names: Mapping[str, str] | None) -> Callable[[str], str] | None:
    if not names:
        return None
    return lambda name: names.get(name, name)


def _names_in(value: Dim | Expr) -> Iterator[str]:
    if isinstance(value, int | SymbolicDim):
        yield from dim_names(value)
        return
    for x in walk_expr(value):
        if isinstance(x, Var):
            yield x.name
        for dim in positions(x):
            yield from dim_names(dim)


def _substitution(
    values: Mapping[str, Dim | Expr],
) -> tuple[Callable[[Expr], Expr], Callable[[Dim], Dim]]:
    dims: dict[str, Dim] = {}
    for name, value in values.items():
        match value:
            case Index(dim):
                dims[name] = dim
            case Var(other, dtype) if dtype.is_integer:
                dims[name] = symbol(other)
            case Const(number, dtype) if dtype.is_integer:
                assert isinstance(number, int)
                dims[name] = int(number)
            case int() | SymbolicDim():
                dims[name] = value
            case _:
                pass  # a scalar that no position can hold

    def of_expr(x: Expr) -> Expr:
        if type(x) is Var and x.name in values:
            value = values[x.name]
            if isinstance(value, int | SymbolicDim):
                whole = Index(value)
                return whole if x.dtype is i64 else Cast(whole, x.dtype)
            return value
        return x

    def of_dim(dim: Dim) -> Dim:
        if type(dim) is int:
            return dim
        for name in dim_names(dim):
            if name in values and name not in dims:
                raise InvalidValue(f"{name} stands in the position {dim}, where a scalar cannot", code="TD0403")
        return substitute_dim(dim, dims)

    return of_expr, of_dim
