"""Making blocks plain: numerics placed once, and what the verbs leave behind taken away.

Two of these rewrites change results, within what is promised, and are applied exactly once, before vectorization, so
that main loop and tail, and every target with a multiply-add, agree bit for bit:

- `placed_fma` joins a product with the sum it feeds, one rounding instead of two, where nothing else reads the product;
- `widened` keeps half floats as f32 between a load and a store: they are storage, arithmetic is f32.

The others keep every bit: `tidied` simplifies positions under the ranges of the loops, drops lets that nobody reads and
joins equal ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from ..ir.dims import Dim, DimName
from ..ir.dtypes import DType, bf16, f16, f32, f64
from ..ir.loops.affine import simplify
from ..ir.loops.build import all_exprs, map_exprs, map_operands, map_stmts, rebuild, used_names
from ..ir.loops.nodes import (
    COMPARISONS,
    MATH,
    MATH_BINARY,
    Alloc,
    Binary,
    Cast,
    Const,
    Expr,
    Fail,
    Fma,
    For,
    If,
    Let,
    Select,
    Stmt,
    Store,
    Unary,
    Var,
    While,
)
from ..ir.target import Target

Block: TypeAlias = tuple[Stmt, ...]
HALVES: Final = (f16, bf16)
_FUSED: Final = (f32, f64)


def numerics(target: Target, *blocks: Block) -> tuple[Block, ...]:
    """Both rewrites of numerics, of blocks that may read each other's lets if they are given in order. Without a
    multiply-add in hardware none is placed: it would be a subroutine."""
    if any(expr.dtype in HALVES for block in blocks for expr in all_exprs(block)):
        widening = _Widening()
        blocks = tuple([widening.block(block) for block in blocks])
    return tuple([placed_fma(block) for block in blocks]) if target.has("fma") else blocks


# --- multiply-add -----------------------------------------------------------------------------------------------------


def placed_fma(block: Block) -> Block:
    """x*y + z and x*y - z and z - x*y of f32 and f64 with one rounding. Of two products the left one is taken.

    A product that is read twice has a name by now, so an operand that is a product is read here alone.
    """
    return map_exprs(block, _fused)


def _fused(expr: Expr) -> Expr:
    if type(expr) is not Binary or expr.op not in ("add", "sub") or expr.x.dtype not in _FUSED:
        return expr
    x, y = expr.x, expr.y
    if expr.op == "add":
        if type(x) is Binary and x.op == "mul":
            return Fma(x.x, x.y, y)
        if type(y) is Binary and y.op == "mul":
            return Fma(y.x, y.y, x)
    else:
        if type(x) is Binary and x.op == "mul":
            return Fma(x.x, x.y, negated(y))
        if type(y) is Binary and y.op == "mul":
            return Fma(negated(y.x), y.y, x)
    return expr


def negated(x: Expr) -> Expr:
    if type(x) is Const and isinstance(x.value, float):
        return Const(-x.value, x.dtype)
    if type(x) is Unary and x.op == "neg":
        return x.x
    return Unary("neg", x)


# --- half floats ------------------------------------------------------------------------------------------------------

# Functions that may as well be computed on the wider value; the others look at the half float's own bits.
_WIDE: Final = frozenset(
    ("neg", "abs", "floor", "ceil", "trunc", "rint", "sqrt", "isnan", "isinf", "isfinite", "signbit", "add", "sub",
     "mul", "div", "floordiv", "mod", "rem", "min", "max", "fmin", "fmax", "copysign", *COMPARISONS, *MATH,
     *MATH_BINARY)
)  # fmt: skip


def widened(block: Block) -> Block:
    """Half floats as f32 from a load to a store. A conversion that the program asks for still rounds."""
    return _Widening().block(block)


class _Widening:
    def __init__(self) -> None:
        self.names: dict[str, None] = {}  # lets that hold a half float, now as f32

    def block(self, block: Block) -> Block:
        return tuple([self.stmt(stmt) for stmt in block])

    def stmt(self, stmt: Stmt) -> Stmt:
        match stmt:
            case Let(name, value):
                if value.dtype in HALVES:
                    self.names[name] = None
                return Let(name, self.wide(value))
            case Store(buffer, index, value, stream):
                return Store(buffer, index, _narrow(self.wide(value), value.dtype), stream)
            case For(var, start, stop, step, kind, body, lanes):
                return For(var, start, stop, step, kind, self.block(body), lanes)
            case While(body, condition):
                return While(self.block(body), self.wide(condition))
            case If(condition, then, otherwise):
                return If(self.wide(condition), self.block(then), self.block(otherwise))
            case Fail(when, site, found):
                return Fail(self.wide(when), site, found)
            case Alloc():
                return stmt

    def wide(self, expr: Expr) -> Expr:
        """The expression, as f32 where it is a half float."""
        half = expr.dtype in HALVES
        match expr:
            case Var(name):
                return Var(name, f32) if name in self.names else _widen(expr) if half else expr
            case Const(value):
                return Const(value, f32) if half else expr
            case Cast(x, dtype, bits):
                inner = _narrow(self.wide(x), x.dtype) if bits else self.wide(x)
                if not bits and inner.dtype is dtype:
                    return inner
                return _widen(Cast(inner, dtype, bits)) if half else Cast(inner, dtype, bits)
            case Unary(op) | Binary(op) if op in _WIDE:
                return map_operands(expr, self.wide)
            case Select() | Fma():
                return map_operands(expr, self.wide)
            case _:
                made = map_operands(expr, lambda x: _narrow(self.wide(x), x.dtype))
                return _widen(made) if half else made


def _widen(expr: Expr) -> Expr:
    return Cast(expr, f32)


def _narrow(expr: Expr, dtype: DType) -> Expr:
    if expr.dtype is dtype:
        return expr
    if type(expr) is Const:
        return Const(expr.value, dtype)
    if type(expr) is Cast and not expr.bits and expr.x.dtype is dtype:
        return expr.x
    return Cast(expr, dtype)


# --- plainness --------------------------------------------------------------------------------------------------------


def tidied(block: Block, known: Mapping[str, DimName] | None = None) -> Block:
    """Simpler positions, no dead lets, one let for equal values."""
    block = simplified(block, known or {})
    return without_dead(joined(block))


def simplified(block: Block, known: Mapping[str, DimName]) -> Block:
    """Positions simplified under the ranges of the loops around them."""
    return _simplified(block, {}, known)


def _simplified(block: Block, ranges: dict[str, tuple[Dim, Dim]], known: Mapping[str, DimName]) -> Block:
    def plain(dim: Dim) -> Dim:
        return simplify(dim, ranges, known)

    result: list[Stmt] = []
    for stmt in block:
        match stmt:
            case For(var, start, stop, step, kind, body, lanes):
                first, last = plain(start), plain(stop)
                inside = _simplified(body, {**ranges, var: (first, last)}, known)
                result.append(For(var, first, last, step, kind, inside, lanes))
            case While(body, condition):
                (made,) = rebuild((If(condition, ()),), dim=plain)
                assert isinstance(made, If)
                result.append(While(_simplified(body, ranges, known), made.condition))
            case If(condition, then, otherwise):
                (made,) = rebuild((If(condition, ()),), dim=plain)
                assert isinstance(made, If)
                yes, no = _simplified(then, ranges, known), _simplified(otherwise, ranges, known)
                result.append(If(made.condition, yes, no))
            case _:
                result.extend(rebuild((stmt,), dim=plain))
    return tuple(result)


def without_dead(block: Block) -> Block:
    """Without lets whose name nobody reads."""
    while True:
        smaller = _without_unread(block, frozenset(used_names(block)))
        if smaller is block:
            return block
        block = smaller


def _without_unread(block: Block, used: frozenset[str]) -> Block:
    return map_stmts(block, lambda stmt: () if isinstance(stmt, Let) and stmt.name not in used else stmt)


def joined(block: Block) -> Block:
    """Equal lets of one block as one, where no store comes between that could change what they load."""
    result: list[Stmt] = []
    seen: dict[Expr, Var] = {}
    renamed: dict[str, Var] = {}

    def current(expr: Expr) -> Expr:
        return renamed.get(expr.name, expr) if type(expr) is Var else expr

    for stmt in block:
        if isinstance(stmt, Let):
            value = rebuild((Let(stmt.name, stmt.value),), expr=current)[0]
            assert isinstance(value, Let)
            first = seen.get(value.value)
            # An integer may stand in positions by its name, which stays.
            if first is not None and not value.value.dtype.is_integer:
                renamed[stmt.name] = first
                continue
            seen.setdefault(value.value, Var(stmt.name, value.value.dtype))
            result.append(value)
            continue
        made = rebuild((stmt,), expr=current)[0] if renamed else stmt
        if isinstance(made, For):
            made = For(made.var, made.start, made.stop, made.step, made.kind, joined(made.body), made.lanes)
        if not isinstance(made, Alloc | Fail):
            seen.clear()
        result.append(made)
    return tuple(result)
