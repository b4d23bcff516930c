"""Structure: axes, reads, body, combine; the bridge from what an op means to the loops that compute it.

Batching, fusion, partition and the naive nest are all derived from this one value. What axes, affine reads and a
scalar body cannot say is irregular, and an op that is irregular has no structure (`structure()` returns None).

The result is indexed by the axes that are not reduced, in the order in which they are declared. For `dot`:
parallel `m, n`; reduce `k`; reads `x[m,k]`, `y[k,n]`; body `x*y`; combine `+`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import field
from typing import Literal

from .classes import dataclass
from .dims import Dim, symbol
from .dtypes import DType, accumulator, bool_
from .loops.nodes import Binary, Cast, Const, Expr, Select, Unary, Var

AxisKind = Literal["parallel", "reduce", "scan"]
State = tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """`scan` axes appear in the result like parallel ones; the element there combines the prefix up to and including
    it."""

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
    """`body` is a tuple of scalars over `element(i, dtype)` (the value of read i) and `Index` of axis names; more than
    one scalar only where the monoid takes more. Without `combine` there is one scalar and no reduce axis. Where
    `fault`, a scalar of the same kind, is true, the call fails at that element (`Value.failure` says with what)."""

    axes: tuple[Axis, ...]
    reads: tuple[Read, ...]
    body: tuple[Expr, ...]
    combine: Monoid | None = None
    dtype: DType = field(default=bool_)
    fault: Expr | None = None

    @property
    def shape(self) -> tuple[Dim, ...]:
        return tuple(axis.extent for axis in self.axes if axis.kind != "reduce")

    @property
    def reduced(self) -> tuple[Axis, ...]:
        return tuple(axis for axis in self.axes if axis.kind == "reduce")


def element(read: int, dtype: DType) -> Var:
    """The scalar that stands for the value of read number `read` in a body."""
    return Var(f"r{read}", dtype)


@functools.lru_cache(maxsize=4096)
def axes_of(shape: tuple[Dim, ...]) -> tuple[Axis, ...]:
    """Parallel axes `a0, a1, ...` over a shape."""
    return tuple(Axis(f"a{i}", extent) for i, extent in enumerate(shape))


def pointwise(
    shape: tuple[Dim, ...], dtypes: tuple[DType, ...], body: Expr, dtype: DType, fault: Expr | None = None
) -> Structure:
    """The structure of a map whose operands all have `shape`."""
    axes = axes_of(shape)
    return Structure(axes, _reads_here(axes, len(dtypes)), (body,), None, dtype, fault)


@functools.lru_cache(maxsize=4096)
def _reads_here(axes: tuple[Axis, ...], count: int) -> tuple[Read, ...]:
    """One read of each operand, at the position of the axes."""
    here = tuple(axis.position for axis in axes)
    return tuple(Read(i, here) for i in range(count))


def _simple(name: str, op: str, identity: bool | int | float | complex, dtype: DType, result: DType) -> Monoid:
    def join(a: State, b: State) -> State:
        return (Binary(op, a[0], b[0]),)

    def finish(a: State) -> Expr:
        return a[0] if result is dtype else Cast(a[0], result)

    def step(a: State, b: State) -> State:
        return join(a, (b[0] if b[0].dtype is dtype else Cast(b[0], dtype),))

    return Monoid(name, (Const(identity, dtype),), step, join, finish)


def zero(dtype: DType) -> bool | int | float | complex:
    """0 as the literal of `dtype` that `Const` wants."""
    return {"bool": False, "int": 0, "uint": 0, "complex": 0j}.get(dtype.kind, 0.0)


def one(dtype: DType) -> bool | int | float | complex:
    return {"bool": True, "int": 1, "uint": 1, "complex": 1 + 0j}.get(dtype.kind, 1.0)


def sum_monoid(dtype: DType) -> Monoid:
    """Sums, kept in the accumulator type of `dtype`; `or` for bool."""
    if dtype is bool_:
        return _simple("any", "or", False, dtype, dtype)
    kept = accumulator(dtype)
    return _simple("sum", "add", zero(kept), kept, dtype)


def prod_monoid(dtype: DType) -> Monoid:
    if dtype is bool_:
        return _simple("all", "and", True, dtype, dtype)
    kept = accumulator(dtype)
    return _simple("prod", "mul", one(kept), kept, dtype)


def lowest(dtype: DType) -> bool | int | float:
    """The value below which nothing lies: the identity of max."""
    if dtype is bool_:
        return False
    if dtype.is_integer:
        return -(1 << (dtype.bits - 1)) if dtype.kind == "int" else 0
    return -math.inf


def highest(dtype: DType) -> bool | int | float:
    if dtype is bool_:
        return True
    if dtype.is_integer:
        return (1 << (dtype.bits - 1)) - 1 if dtype.kind == "int" else (1 << dtype.bits) - 1
    return math.inf


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


def recurrence_monoid(dtype: DType) -> Monoid:
    """Composition of affine maps y -> a*y + b; elements are (a, b), the result is what the composition makes of 0."""
    kept = accumulator(dtype)

    def merge(first: State, then: State) -> State:
        slope = Binary("mul", then[0], first[0])
        return (slope, Binary("add", Binary("mul", then[0], first[1]), then[1]))

    def step(state: State, x: State) -> State:
        return merge(state, (_as(x[0], kept), _as(x[1], kept)))

    return Monoid(
        "recurrence", (Const(one(kept), kept), Const(zero(kept), kept)), step, merge, lambda a: _as(a[1], dtype)
    )


def logsumexp_monoid(dtype: DType) -> Monoid:
    """log(sum(exp(x))) without overflow. The state is (m, s): the sum is s * exp(m), m the greatest element so far."""
    kept = accumulator(dtype)

    def merge(a: State, b: State) -> State:
        top = Binary("max", a[0], b[0])
        return (top, Binary("add", _rescaled(a[0], top, a[1]), _rescaled(b[0], top, b[1])))

    def step(state: State, x: State) -> State:
        return merge(state, (_as(x[0], kept), Const(1.0, kept)))

    def finish(a: State) -> Expr:
        return _as(Binary("add", a[0], Unary("log", a[1])), dtype)

    return Monoid("logsumexp", (Const(-math.inf, kept), Const(0.0, kept)), step, merge, finish)


def welford_monoid(dtype: DType, correction: int = 0) -> Monoid:
    """Variance by Welford's and Chan's updates: the state is (count, mean, sum of squared distances from the mean).

    `correction` is subtracted from the count (NumPy's ddof). Of no elements: NaN."""
    kept = accumulator(dtype)
    none, single = Const(0.0, kept), Const(1.0, kept)

    def merge(a: State, b: State) -> State:
        count = Binary("add", a[0], b[0])
        # Two empty states would divide 0 by 0.
        share = Binary("div", b[0], Binary("max", count, single))
        apart = Binary("sub", b[1], a[1])
        mean = Binary("add", a[1], Binary("mul", apart, share))
        across = Binary("mul", Binary("mul", apart, apart), Binary("mul", a[0], share))
        return (count, mean, Binary("add", Binary("add", a[2], b[2]), across))

    def step(state: State, x: State) -> State:
        value = _as(x[0], kept)
        count = Binary("add", state[0], single)
        apart = Binary("sub", value, state[1])
        mean = Binary("add", state[1], Binary("div", apart, count))
        return (count, mean, Binary("add", state[2], Binary("mul", apart, Binary("sub", value, mean))))

    def finish(a: State) -> Expr:
        count = Binary("sub", a[0], Const(float(correction), kept)) if correction else a[0]
        return _as(Binary("div", a[2], count), dtype)

    return Monoid("welford", (none, none, none), step, merge, finish)


def online_softmax_monoid(dtype: DType) -> Monoid:
    """The mean of values weighted by exp(score), in one pass. Elements are (score, value), the state is
    (greatest score, sum of weights, weighted sum). Of no elements: NaN."""
    kept = accumulator(dtype)

    def merge(a: State, b: State) -> State:
        top = Binary("max", a[0], b[0])
        weights = Binary("add", _rescaled(a[0], top, a[1]), _rescaled(b[0], top, b[1]))
        return (top, weights, Binary("add", _rescaled(a[0], top, a[2]), _rescaled(b[0], top, b[2])))

    def step(state: State, x: State) -> State:
        return merge(state, (_as(x[0], kept), Const(1.0, kept), _as(x[1], kept)))

    def finish(a: State) -> Expr:
        return _as(Binary("div", a[2], a[1]), dtype)

    return Monoid("online_softmax", (Const(-math.inf, kept), Const(0.0, kept), Const(0.0, kept)), step, merge, finish)


def _as(x: Expr, dtype: DType) -> Expr:
    return x if x.dtype is dtype else Cast(x, dtype)


def _rescaled(was: Expr, top: Expr, x: Expr) -> Expr:
    """x * exp(was - top); x itself where both are equal, infinities included, whose difference is NaN."""
    factor = Unary("exp", Binary("sub", was, top))
    return Binary("mul", x, Select(Binary("eq", was, top), Const(1.0, x.dtype), factor))
