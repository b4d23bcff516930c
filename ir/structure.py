"""Structure: axes, reads, body, combine; the bridge from what an op means to the loops that compute it.

Batching, fusion, partition and the naive nest are all derived from this one value. What axes, affine reads and a
scalar body cannot say is irregular, and an op that is irregular has no structure (`structure()` returns None).

The result is indexed by the axes that are not reduced, in the order in which they are declared. For `dot`:
parallel `m, n`; reduce `k`; reads `x[m,k]`, `y[k,n]`; body `x*y`; combine `+`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from .dims import Dim, symbol
from .dtypes import DType, accumulator, bool_
from .loops.nodes import Binary, Cast, Const, Expr, Select, Var

AxisKind = Literal["parallel", "reduce", "scan"]
State = tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """`scan` axes appear in the result like parallel ones; the element there combines the prefix up to and including it."""

    name: str
    extent: Dim
    kind: AxisKind = "parallel"
    reverse: bool = False

    @property
    def position(self) -> Dim:
        return symbol(self.name)


@dataclass(frozen=True, slots=True)
class Read:
    """One read of operand number `operand` at affine positions over the axes' names.

    With `divisors`, position j is `index[j] / divisors[j]` where that is whole. Where a position is not whole or lies
    outside the operand, the value read is `fill`; without a fill every position is inside by construction.
    """

    operand: int
    index: tuple[Dim, ...]
    divisors: tuple[int, ...] = ()
    fill: Const | None = None


@dataclass(frozen=True, slots=True)
class Monoid:
    """How elements are combined along reduce and scan axes. States are small tuples of scalars; `step` takes an element
    (the body's tuple), `merge` joins two states of adjacent ranges in order, `finish` makes the result."""

    name: str
    identity: tuple[Const, ...]
    step: Callable[[State, State], State]
    merge: Callable[[State, State], State]
    finish: Callable[[State], Expr]

    @property
    def dtypes(self) -> tuple[DType, ...]:
        return tuple(const.dtype for const in self.identity)


@dataclass(frozen=True, slots=True)
class Structure:
    """`body` is a tuple of scalars over `element(i, dtype)` (the value of read i) and `Index` of axis names; more than one
    scalar only where the monoid takes more. Without `combine` there is one scalar and no reduce axis."""

    axes: tuple[Axis, ...]
    reads: tuple[Read, ...]
    body: tuple[Expr, ...]
    combine: Monoid | None = None
    dtype: DType = field(default=bool_)

    @property
    def shape(self) -> tuple[Dim, ...]:
        return tuple(axis.extent for axis in self.axes if axis.kind != "reduce")

    @property
    def reduced(self) -> tuple[Axis, ...]:
        return tuple(axis for axis in self.axes if axis.kind == "reduce")


def element(read: int, dtype: DType) -> Var:
    """The scalar that stands for the value of read number `read` in a body."""
    return Var(f"r{read}", dtype)


def axes_of(shape: tuple[Dim, ...]) -> tuple[Axis, ...]:
    """Parallel axes `a0, a1, ...` over a shape."""
    return tuple(Axis(f"a{i}", extent) for i, extent in enumerate(shape))


def pointwise(shape: tuple[Dim, ...], dtypes: tuple[DType, ...], body: Expr, dtype: DType) -> Structure:
    """The structure of a map whose operands all have `shape`."""
    axes = axes_of(shape)
    here = tuple(axis.position for axis in axes)
    return Structure(axes, tuple(Read(i, here) for i in range(len(dtypes))), (body,), None, dtype)


def _simple(name: str, op: str, identity: bool | int | float | complex, dtype: DType, result: DType) -> Monoid:
    def join(a: State, b: State) -> State:
        return (Binary(op, a[0], b[0]),)

    def finish(a: State) -> Expr:
        return a[0] if result is dtype else Cast(a[0], result)

    def step(a: State, b: State) -> State:
        return join(a, (b[0] if b[0].dtype is dtype else Cast(b[0], dtype),))

    return Monoid(name, (Const(identity, dtype),), step, join, finish)


def sum_monoid(dtype: DType) -> Monoid:
    """Sums, kept in the accumulator type of `dtype`; `or` for bool."""
    if dtype is bool_:
        return _simple("any", "or", False, dtype, dtype)
    kept = accumulator(dtype)
    return _simple("sum", "add", 0 if kept.is_integer else 0.0, kept, dtype)


def prod_monoid(dtype: DType) -> Monoid:
    if dtype is bool_:
        return _simple("all", "and", True, dtype, dtype)
    kept = accumulator(dtype)
    return _simple("prod", "mul", 1 if kept.is_integer else 1.0, kept, dtype)


def lowest(dtype: DType) -> bool | int | float:
    """The value below which nothing lies: the identity of max."""
    if dtype is bool_:
        return False
    if dtype.is_integer:
        return -(2 ** (dtype.bits - 1)) if dtype.kind == "int" else 0
    return -float("inf")


def highest(dtype: DType) -> bool | int | float:
    if dtype is bool_:
        return True
    if dtype.is_integer:
        return 2 ** (dtype.bits - 1) - 1 if dtype.kind == "int" else 2**dtype.bits - 1
    return float("inf")


def max_monoid(dtype: DType) -> Monoid:
    """Maximum; NaN wins, as in NumPy."""
    return _simple("max", "max", lowest(dtype), dtype, dtype)


def min_monoid(dtype: DType) -> Monoid:
    return _simple("min", "min", highest(dtype), dtype, dtype)


def arg_monoid(dtype: DType, index: DType, largest: bool) -> Monoid:
    """First position of the extreme; the first NaN wins, as in NumPy. Elements are (value, position)."""
    better = "gt" if largest else "lt"
    worst = lowest(dtype) if largest else highest(dtype)

    def join(a: State, b: State) -> State:
        # A state whose position is -1 is empty: whatever comes first replaces it, even an equal extreme.
        takes: Expr = Binary(better, b[0], a[0])
        if dtype.is_float:
            fresh = Binary("and", Binary("ne", b[0], b[0]), Binary("eq", a[0], a[0]))
            kept = Binary("ne", a[0], a[0])
            takes = Select(kept, Const(False, bool_), Binary("or", takes, fresh))
        takes = Binary("or", takes, Binary("lt", a[1], Const(0, index)))
        takes = Binary("and", takes, Binary("ge", b[1], Const(0, index)))
        return (Select(takes, b[0], a[0]), Select(takes, b[1], a[1]))

    name = "argmax" if largest else "argmin"
    return Monoid(name, (Const(worst, dtype), Const(-1, index)), join, join, lambda a: a[1])
