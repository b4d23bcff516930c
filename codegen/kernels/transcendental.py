"""Smooth functions opened into primitives: after `open_math` a kernel holds no call of MATH or MATH_BINARY.

The generators write `exp(x)`; what that means to the last bit is written in the files `math_*.py`, as scalars of the
loops. So the loops evaluator predicts the machine code, vectors need no library, and every target gives the same bits.
A function is written once per dtype and kept as a template; each call in a kernel is the template under fresh names,
as lets ahead of the statement that made the call. Half floats are computed in f32. A kernel without such calls is
returned itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeAlias, assert_never

from ...ir.classes import dataclass
from ...ir.dims import Dim, symbol
from ...ir.dims import names as dim_names
from ...ir.dtypes import DType, bf16, c64, c128, f16, f32, f64, u64
from ...ir.errors import Unsupported
from ...ir.loops.build import Names, all_exprs, map_operands, names_of, substitute
from ...ir.loops.nodes import (
    MATH,
    MATH_BINARY,
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
    Table,
    Unary,
    Var,
    While,
)
from ...ir.target import Target
from . import math_complex, math_exp, math_gamma, math_log, math_power, math_random, math_root, math_special, math_trig
from .math_writing import Lets, Rare, Written

Block: TypeAlias = tuple[Stmt, ...]
Writer: TypeAlias = Callable[..., Expr]
_MATH: Final = frozenset((*MATH, *MATH_BINARY))


def _wide(writer: Writer) -> Writer:
    """A function of f32 by way of f64: right to the last bit, but for ties."""

    def write(*given: Expr | Lets) -> Expr:
        *operands, b = given
        wide = [b.let("wide", Cast(x, f64)) for x in operands]  # type: ignore[union-attr, arg-type]
        return Cast(writer(*wide, b), f32)

    return write


_BOTH: Final[dict[str, Writer]] = {
    "exp": math_exp.exp,
    "exp2": math_exp.exp2,
    "expm1": math_exp.expm1,
    "sinh": math_exp.sinh,
    "cosh": math_exp.cosh,
    "rsqrt": math_root.rsqrt,
    "asin": math_trig.asin,
    "acos": math_trig.acos,
    "atan": math_trig.atan,
}
_F64: Final[dict[str, Writer]] = {
    "logistic": math_exp.logistic,
    "tanh": math_exp.tanh,
    "log": math_log.log_f64,
    "log2": math_log.log2_f64,
    "log10": math_log.log10_f64,
    "log1p": math_log.log1p_f64,
    "softplus": math_exp.softplus_f64,
    "logaddexp": math_exp.logaddexp_f64,
    "logaddexp2": math_exp.logaddexp2_f64,
    "asinh": math_log.asinh_f64,
    "acosh": math_log.acosh_f64,
    "atanh": math_log.atanh_f64,
    "sin": math_trig.sin_f64,
    "cos": math_trig.cos_f64,
    "tan": math_trig.tan_f64,
    "atan2": math_trig.atan2_f64,
    "cbrt": math_root.cbrt_f64,
    "hypot": math_root.hypot_f64,
    "pow": math_power.pow_f64,
    "erf": math_special.erf_f64,
    "erfc": math_special.erfc_f64,
    "normal_cdf": math_special.normal_cdf_f64,
    "times_normal_cdf": math_special.times_normal_cdf_f64,
    "erfinv": math_special.erfinv_f64,
    "lgamma": math_gamma.lgamma_f64,
    "digamma": math_gamma.digamma_f64,
}
_F32: Final[dict[str, Writer]] = {
    "log": math_log.log_f32,
    "erf": math_special.erf_f32,
    "erfc": math_special.erfc_f32,
    "erfinv": math_special.erfinv_f32,
    "normal_cdf": math_special.normal_cdf_f32,
    "times_normal_cdf": math_special.times_normal_cdf_f32,
    "logistic": math_exp.logistic_f32,
    "tanh": math_exp.tanh_f32,
    "sin": math_trig.sin_f32,
    "cos": math_trig.cos_f32,
    "tan": math_trig.tan_f32,
    "pow": math_power.pow_f32,
}
# Every function, by name and dtype: (operands..., lets) -> expression.
WRITERS: Final[dict[tuple[str, DType], Writer]] = {
    **{(op, f32): _wide(writer) for op, writer in _F64.items()},
    **{(op, f64): writer for op, writer in {**_BOTH, **_F64}.items()},
    **{(op, f32): writer for op, writer in {**_BOTH, **_F32}.items()},
    **{(op, dtype): writer for dtype in (c64, c128) for op, writer in math_complex.WRITERS.items()},
    ("threefry", u64): math_random.threefry_u64,
}


def open_math(kernel: Kernel, target: Target) -> Kernel:
    """The kernel with every call of a smooth function written out in primitives.

    Raises `Unsupported` (TD0435) for a function that is not written for its dtype.
    """
    if not any(is_math(x) for x in all_exprs(kernel.body)):
        return kernel
    opening = _Opening(names_of(kernel))
    body = opening.block(kernel.body)
    return replace(kernel, body=body, tables=(*kernel.tables, *opening.tables.values()))


def is_math(expr: Expr) -> bool:
    """Whether this is a call to be opened: also the modulus and the root of a complex number are."""
    match expr:
        case Unary(op, x):
            return op in _MATH or (op in ("abs", "sqrt") and x.dtype.kind == "complex")
        case Binary(op):
            return op in _MATH
        case _:
            return False


def branches(block: Block) -> bool:
    """Whether some function of a block has a rare case, which a vector loop asks for with every vector."""
    called = [(x.op, x.x.dtype) for x in all_exprs(block) if isinstance(x, Unary | Binary) and is_math(x)]
    return any(
        isinstance(let, Rare)
        for op, dtype in called
        for let in template(op, f32 if dtype in (f16, bf16) else dtype).lets
    )


@dataclass(frozen=True, slots=True)
class Template:
    """A function written once: its operands' names, its lets and result in terms of them, its tables."""

    operands: tuple[str, ...]
    lets: tuple[Let | Rare, ...]
    result: Expr
    tables: tuple[Table, ...]


@functools.cache
def template(op: str, dtype: DType) -> Template:
    writer = WRITERS.get((op, dtype))
    if writer is None:
        raise Unsupported(f"{op} of {dtype} is not written", code="TD0435")
    operands = ("x", "y")[: 2 if op in MATH_BINARY else 1]
    written = Written(operands)
    result = writer(*[Var(name, dtype) for name in operands], written)
    return Template(operands, tuple(written.lets), result, tuple(written.tables))


@dataclass(slots=True)
class _Lanes:
    """The vector loop around. What is rare in it is kept per lane, in registers, which a variable counting from 0 must
    index: its name once it is needed."""

    loop: For
    counter: str | None = None


class _Opening:
    """One kernel on its way. A block that stands at two places, as main loop and tail share theirs, stays shared."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.tables: dict[int, Table] = {}  # by identity: templates live as long as the process
        self.blocks: dict[int, Block] = {}
        self.counters: dict[int, str | None] = {}  # of the bodies of vector loops
        self.lets: list[Stmt] = []  # ahead of the statement at hand
        self.lanes: _Lanes | None = None

    def block(self, stmts: Block) -> Block:
        found = self.blocks.get(id(stmts))
        if found is None:
            outer, self.lets = self.lets, []
            result: list[Stmt] = []
            for stmt in stmts:
                made = self.stmt(stmt)
                result += self.lets
                self.lets.clear()
                result.append(made)
            self.lets = outer
            changed = len(result) != len(stmts) or any(new is not old for new, old in zip(result, stmts))
            found = self.blocks[id(stmts)] = tuple(result) if changed else stmts
        return found

    def stmt(self, stmt: Stmt) -> Stmt:
        match stmt:
            case Let(name, value):
                made = self.expr(value)
                return stmt if made is value else Let(name, made)
            case Store(buffer, index, value, stream):
                made = self.expr(value)
                return stmt if made is value else Store(buffer, index, made, stream)
            case For(kind="vector", body=body):
                return self.vector_loop(stmt)
            case For(body=body):
                inner = self.block(body)
                return stmt if inner is body else replace(stmt, body=inner)
            case If(condition, then, otherwise):
                yes, no = self.block(then), self.block(otherwise)
                return If(self.expr(condition), yes, no)
            case While(body, condition):
                inner = self.block(body)
                outer, self.lets = self.lets, []
                made = self.expr(condition)  # evaluated where the body ends
                inner, self.lets = (*inner, *self.lets), outer
                return While(inner, made)
            case Fail(when, site, found):
                made = self.expr(when)
                return stmt if made is when else Fail(made, site, found)
            case Alloc():
                return stmt
            case _:
                assert_never(stmt)

    def vector_loop(self, stmt: For) -> For:
        body = stmt.body
        outer, self.lanes = self.lanes, _Lanes(stmt)
        inner = self.block(body)
        counter = self.counters.setdefault(id(body), self.lanes.counter)
        self.lanes = outer
        if counter is None:
            return stmt if inner is body else replace(stmt, body=inner)
        inner = substitute(inner, {stmt.var: stmt.start + symbol(counter) * stmt.step})
        trips = stmt.stop - stmt.start
        trips = trips if stmt.step == 1 else (trips + (stmt.step - 1)) // stmt.step
        return For(counter, 0, trips, 1, "vector", inner, stmt.lanes)

    def expr(self, expr: Expr) -> Expr:
        made = map_operands(expr, self.expr)
        if not is_math(made):
            return made
        match made:
            case Unary(op, x):
                return self.call(op, x)
            case Binary(op, x, y):
                return self.call(op, x, y)
            case _:
                raise AssertionError("mathematics is unary or binary")

    def call(self, op: str, *operands: Expr) -> Expr:
        dtype = operands[0].dtype
        if dtype in (f16, bf16):
            return Cast(self.call(op, *[Cast(x, f32) for x in operands]), dtype)
        made = template(op, dtype)
        names: dict[str, str] = {}
        values: dict[str, Expr] = {}
        for table in made.tables:
            names[table.name] = self.table(table)
        for name, value in zip(made.operands, operands):
            values[name] = self.named(name, value)
        for let in made.lets:
            if isinstance(let, Rare):
                self.rare(let, names, values)
            else:
                self.let(let, names, values)
        return _under(made.result, names, values)

    def let(self, let: Let, names: dict[str, str], values: dict[str, Expr]) -> None:
        fresh = self.names.fresh(let.name)
        self.lets.append(Let(fresh, _under(let.value, names, values)))
        values[let.name] = Var(fresh, let.value.dtype)

    def rare(self, rare: Rare, names: dict[str, str], values: dict[str, Expr]) -> None:
        """let v = usual; if condition: v = unusual - with v in a register array, which a branch may overwrite."""
        width = 1
        place: Dim = 0
        if self.lanes is not None:
            width = self.lanes.loop.lanes
            if self.lanes.counter is None:
                self.lanes.counter = self.names.fresh("lane")
            place = symbol(self.lanes.counter)
        arrays = []
        for name, usual in zip(rare.names, rare.usual):
            made = Alloc(self.names.fresh(name), usual.dtype, (width,), "registers")
            self.lets += [made, Store(made.name, (place,), _under(usual, names, values))]
            arrays.append(made)
        condition = _under(rare.condition, names, values)
        outer, self.lets = self.lets, []
        for let in rare.lets:
            self.let(let, names, values)
        stores = [Store(a.name, (place,), _under(x, names, values)) for a, x in zip(arrays, rare.unusual)]
        outer.append(If(condition, (*self.lets, *stores)))
        self.lets = outer
        for name, array in zip(rare.names, arrays):
            fresh = self.names.fresh(name)
            self.lets.append(Let(fresh, Load(array.name, (place,), array.dtype)))
            values[name] = Var(fresh, array.dtype)

    def named(self, base: str, value: Expr) -> Expr:
        """The operand as something that may be read several times."""
        if type(value) in (Var, Const):
            return value
        fresh = self.names.fresh(base)
        self.lets.append(Let(fresh, value))
        return Var(fresh, value.dtype)

    def table(self, table: Table) -> str:
        found = self.tables.get(id(table))
        if found is None:
            found = self.tables[id(table)] = replace(table, name=self.names.fresh(table.name))
        return found.name


def _under(expr: Expr, names: dict[str, str], values: dict[str, Expr]) -> Expr:
    """A template's expression under the kernel's names."""
    match expr:
        case Var(name):
            return values[name]
        case Const():
            return expr
        case Fma(x, y, z):
            return Fma(_under(x, names, values), _under(y, names, values), _under(z, names, values))
        case Binary(op, x, y):
            return Binary(op, _under(x, names, values), _under(y, names, values))
        case Unary(op, x):
            return Unary(op, _under(x, names, values))
        case Select(x, y, z):
            return Select(_under(x, names, values), _under(y, names, values), _under(z, names, values))
        case Cast(x, dtype, bits):
            return Cast(_under(x, names, values), dtype, bits)
        case Load(buffer, (position,), dtype):
            (index,) = [values[name] for name in dim_names(position)]
            assert isinstance(index, Var)
            return Load(names[buffer], (symbol(index.name),), dtype)
        case Load() | Index() | Call():
            raise AssertionError("a function of mathematics reads nothing but its tables")
        case _:
            assert_never(expr)
