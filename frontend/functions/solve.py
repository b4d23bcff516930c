"""Linear systems: LU with partial pivoting, Cholesky, triangular solves, QR, each a scan over the columns.

Every step works on the whole matrix, of any number of leading batch axes. A singular matrix gives infinities or NaN
where NumPy raises LinAlgError: whether it is singular is not known before the numbers are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from ...ir.dims import Dim, minimum, product, show
from ...ir.dtypes import DType, bool_, f64, i64
from ...ir.errors import InvalidValue, ShapeMismatch, Unsupported
from ...ir.graph import Graph
from ...ir.ops import elementwise as e
from ...ir.ops import reduce as r
from ...ir.ops.control import Scan
from ...ir.ops.indexing import Gather
from ...ir.ops.movement import Iota
from ...ir.types import Shape, TensorType
from ...ir.value import Full, Get, Mul, Parameter, Value
from ..arrays import (
    axes_of,
    broadcast,
    broadcast_shapes,
    convert,
    entries,
    expand,
    lift,
    permute,
    reshape,
)  # fmt: skip
from ..promotion import result_type
from ..trace import here
from ..tracer import Tracer, unwrap, wrap
from .creation import eye
from .linear import contract
from .shaping import cut, triangle_mask

SQUARE: Final = "np.linalg.lstsq, qr or svd, or the square x.T @ x"
STACKED: Final = "a matrix, such as np.diag(x), or x[None] of one row"


def wrong(message: str, edit: str) -> ShapeMismatch:
    return ShapeMismatch(message, code="TD0824", location=here(), edit=edit)


def not_square(x: Value) -> ShapeMismatch:
    if x.rank < 2:
        return wrong(f"{x.rank}-dimensional array given. Array must be at least two-dimensional", STACKED)
    return wrong(f"Last 2 dimensions of the array must be square, they are {x.type}", SQUARE)


def inexact(*xs: Any) -> DType:
    """NumPy's linalg computes in f32 or f64 (and their complex kin)."""
    given = [lift(x).value.dtype for x in xs]
    kind = result_type(*(f64 if kind is bool_ or kind.is_integer else kind for kind in given))
    if kind.is_float and kind.bits < 32:
        raise Unsupported(
            f"array type {kind} is unsupported in linalg", code="TD0816", location=here(), edit="x.astype(np.float32)"
        )
    return kind


def _square(x: Any, kind: DType) -> Value:
    value = convert(unwrap(lift(x)), kind)
    if value.rank < 2 or value.shape[-1] != value.shape[-2]:
        raise not_square(value)
    return value


def _loop(
    name: str,
    held: tuple[Value, ...],
    carry: tuple[Value, ...],
    length: Dim,
    step: Callable[..., tuple[Value, ...]],
    reverse: bool = False,
) -> list[Value]:
    """The carry after `carry = step(k, *held, *carry)` for each k below `length`."""
    number = Parameter("k", TensorType((), i64))
    params = tuple(Parameter(f"c{i}", value.tensor) for i, value in enumerate((*held, *carry)))
    body = Graph(name, (number, *params), step(number, *params))
    found = Scan(held, carry, (), body, length, reverse, True)
    return [Get(found, i) for i in range(len(carry))]


def _take_row(x: Value, k: Value, axis: int) -> Value:
    """The slice of `x` at position k of one axis, without it."""
    return Gather(x, (k,), (axis,), "promised")


def _at(k: Value, shape: Shape, axis: int) -> Value:
    """Where the position along `axis` is k."""
    return e.Eq(Iota(TensorType(shape, i64), axis), broadcast(k, shape))


def _after(k: Value, shape: Shape, axis: int) -> Value:
    return Iota(TensorType(shape, i64), axis) > broadcast(k, shape)


def _zero(like: Value) -> Value:
    return Full(0, like.tensor)


def _lu(a: Value) -> tuple[Value, Value, Value]:
    """L (below the diagonal) and U in one matrix, the row permutation, and how often rows were exchanged."""
    rank, n = a.rank, a.shape[-1]
    row, column = rank - 2, rank - 1
    rows = (*a.shape[:-2], n)
    start: tuple[Value, ...] = (a, Iota(TensorType(rows, i64), rank - 2), Full(0, TensorType(a.shape[:-2], i64)))

    def step(k: Value, x: Value, order: Value, swaps: Value) -> tuple[Value, ...]:
        line = _take_row(x, k, column)  # column k: one number per row
        size = e.Abs(line)
        usable = e.Not(Iota(TensorType(rows, i64), rank - 2) < broadcast(k, rows))
        pivot = r.ArgMax(e.Select(usable, size, Full(-1.0, size.tensor)), rank - 2)  # one per matrix
        here_ = Iota(TensorType(rows, i64), rank - 2)
        wide_pivot = broadcast(expand(pivot, (rank - 2,)), rows)
        is_k, is_pivot = e.Eq(here_, broadcast(k, rows)), e.Eq(here_, wide_pivot)
        source = e.Select(is_k, wide_pivot, e.Select(is_pivot, broadcast(k, rows), here_))
        batch = rank - 2
        x = Gather(x, (source,), (row,), "promised", batch, True)
        order = Gather(order, (source,), (row,), "promised", batch, True)
        swaps = swaps + convert(e.Ne(pivot, broadcast(k, pivot.shape)), i64)
        line = _take_row(x, k, column)
        top = _take_row(x, k, row)  # row k: one number per column
        head = _take_row(line, k, rank - 2)
        below = Iota(TensorType(rows, i64), rank - 2) > broadcast(k, rows)
        # As LAPACK: a column without a pivot is left alone, and the determinant is 0.
        none = e.Eq(head, _zero(head))
        pivots = broadcast(expand(e.Select(none, Full(1, head.tensor), head), (rank - 2,)), rows)
        factor = e.Select(below, line / pivots, _zero(line))
        beyond = Iota(TensorType(rows, i64), rank - 2) > broadcast(k, rows)
        rest = e.Select(beyond, top, _zero(top))
        update = Mul(broadcast(expand(factor, (column,)), x.shape), broadcast(expand(rest, (row,)), x.shape))
        stored = e.Select(
            e.And(_at(k, x.shape, column), _after(k, x.shape, row)),
            broadcast(expand(factor, (column,)), x.shape),
            x - update,
        )
        return stored, order, swaps

    lu, order, swaps = _loop("lu", (), start, n, step)
    return lu, order, swaps


def _substituted(t: Value, b: Value, lower: bool, unit: bool) -> Value:
    """The solution of `t @ x = b` for a triangular t, row by row."""
    rank = t.rank
    row, batch = rank - 2, tuple(range(rank - 2))

    def step(k: Value, t: Value, x: Value) -> tuple[Value, ...]:
        line = _take_row(t, k, row)
        place, at = Iota(TensorType(line.shape, i64), row), broadcast(k, line.shape)
        known = e.Select(place < at if lower else place > at, line, _zero(line))
        found = _take_row(x, k, row) - contract(known, x, batch, batch, (row,), (row,))
        if not unit:
            found = found / broadcast(expand(_take_row(line, k, row), (row,)), found.shape)
        return (e.Select(_at(k, x.shape, row), broadcast(expand(found, (row,)), x.shape), x),)

    return _loop("substitute", (t,), (b,), t.shape[-1], step, not lower)[0]


class SlogdetResult(NamedTuple):
    """What `slogdet` gives: the sign, and the logarithm of the size."""

    sign: Tracer
    logabsdet: Tracer


class QRResult(NamedTuple):
    """What `qr` gives."""

    Q: Tracer
    R: Tracer


def solve(a: Any, b: Any) -> Tracer:
    matrix, right, vector = _system(a, b)
    lu, order, _ = _lu(matrix)
    batch = matrix.rank - 2
    moved = Gather(right, (order,), (batch,), "promised", batch, True)
    found = _substituted(lu, _substituted(lu, moved, True, True), False, False)
    return wrap(reshape(found, found.shape[:-1]) if vector else found)


def solve_triangular(a: Any, b: Any, lower: bool, unit: bool) -> Tracer:
    matrix, right, vector = _system(a, b)
    found = _substituted(matrix, right, lower, unit)
    return wrap(reshape(found, found.shape[:-1]) if vector else found)


def _system(a: Any, b: Any) -> tuple[Value, Value, bool]:
    """Matrix and right sides in one dtype with one stack of leading axes, and whether b was a vector."""
    kind = inexact(a, b)
    matrix = _square(a, kind)
    right = convert(unwrap(lift(b)), kind)
    vector = right.rank == 1
    if vector:
        right = expand(right, (1,))
    if right.rank < 2:
        raise wrong("solve: b is a scalar", "a vector as long as the matrix has rows")
    if right.shape[-2] != matrix.shape[-1]:
        raise wrong(
            f"solve: the matrix has {matrix.shape[-1]} columns, b has {right.shape[-2]} rows",
            "b of as many rows; several right sides stand beside each other in its columns",
        )
    lead = broadcast_shapes(matrix.shape[:-2], right.shape[:-2])
    return broadcast(matrix, (*lead, *matrix.shape[-2:])), broadcast(right, (*lead, *right.shape[-2:])), vector


def inv(a: Any) -> Tracer:
    kind = inexact(a)
    matrix = _square(a, kind)
    unit = convert(unwrap(eye(matrix.shape[-1])), kind)
    return solve(wrap(matrix), wrap(broadcast(unit, matrix.shape)))


def diagonal_of(x: Value) -> Value:
    on = _at_diagonal(x.shape)
    return r.Sum(e.Select(on, x, _zero(x)), (x.rank - 1,))


def _at_diagonal(shape: Shape) -> Value:
    rank = len(shape)
    return e.Eq(Iota(TensorType(shape, i64), rank - 1), Iota(TensorType(shape, i64), rank - 2))


def det(a: Any) -> Tracer:
    kind = inexact(a)
    lu, _, swaps = _lu(_square(a, kind))
    product = r.Prod(diagonal_of(lu), (lu.rank - 2,))
    odd = e.Eq(e.And(swaps, Full(1, swaps.tensor)), Full(1, swaps.tensor))
    return wrap(e.Select(odd, -product, product))


def slogdet(a: Any) -> Any:
    kind = inexact(a)
    lu, _, swaps = _lu(_square(a, kind))
    diagonal = diagonal_of(lu)
    size = e.Abs(diagonal)
    sign = r.Prod(e.Sign(diagonal), (lu.rank - 2,))
    odd = e.Eq(e.And(swaps, Full(1, swaps.tensor)), Full(1, swaps.tensor))
    return SlogdetResult(wrap(e.Select(odd, -sign, sign)), wrap(r.Sum(e.Log(size), (lu.rank - 2,))))


def cholesky(a: Any, /, *, upper: bool = False) -> Tracer:
    kind = inexact(a)
    matrix = _square(a, kind)
    rank, n = matrix.rank, matrix.shape[-1]
    row, column = rank - 2, rank - 1
    if upper:
        matrix = adjoint(matrix)

    def step(k: Value, x: Value, found: Value) -> tuple[Value, ...]:
        line = _take_row(x, k, column)
        head = _take_row(line, k, rank - 2)
        root = e.Sqrt(e.Real(head)) if kind.kind == "complex" else e.Sqrt(head)
        scaled = line / broadcast(expand(convert(root, kind), (rank - 2,)), line.shape)
        inside = e.Not(Iota(TensorType(line.shape, i64), rank - 2) < broadcast(k, line.shape))
        scaled = e.Select(inside, scaled, _zero(scaled))
        other = e.Conj(scaled) if kind.kind == "complex" else scaled
        update = Mul(broadcast(expand(scaled, (column,)), x.shape), broadcast(expand(other, (row,)), x.shape))
        kept = e.Select(_at(k, x.shape, column), broadcast(expand(scaled, (column,)), x.shape), found)
        return x - update, kept

    _, found = _loop("cholesky", (), (matrix, _zero(matrix)), n, step)
    return wrap(adjoint(found) if upper else found)


def adjoint(x: Value) -> Value:
    turned = permute(x, (*range(x.rank - 2), x.rank - 1, x.rank - 2))
    return e.Conj(turned) if x.dtype.kind == "complex" else turned


def qr(a: Any, mode: str = "reduced") -> Any:
    """By Householder reflections, with LAPACK's signs."""
    if mode not in ("reduced", "complete", "r"):
        raise Unsupported(f"qr(mode={mode!r})", code="TD0813", location=here(), edit="use reduced, complete or r")
    matrix = convert(unwrap(lift(a)), inexact(a))
    if matrix.rank < 2:
        raise not_square(matrix)
    m, n = matrix.shape[-2], matrix.shape[-1]
    count = minimum(m, n)
    reflections, upper = _reflected(matrix)
    upper = e.Select(broadcast(triangle_mask(m, n, -1), upper.shape), _zero(upper), upper)
    if mode == "complete":
        return QRResult(wrap(_product(reflections, matrix, m)), wrap(upper))
    upper = cut(upper, matrix.rank - 2, 0, count)
    if mode == "r":
        return wrap(upper)
    return QRResult(wrap(_product(reflections, matrix, count)), wrap(upper))


def basis(matrix: Value, columns: Dim) -> tuple[Value, Value]:
    """Q with so many orthonormal columns, also where the matrix has not full rank, and R, for which matrix = Q R."""
    reflections, upper = _reflected(matrix)
    return _product(reflections, matrix, columns), upper


def _reflected(matrix: Value) -> tuple[tuple[Value, Value], Value]:
    """The reflections that make the matrix upper triangular, and what it becomes.

    Number k is x -> x - tau v (v* x), where v is zero above row k; with LAPACK's tau, it takes the column to a real
    head. Stacked along a new first axis: the vectors, and their tau.
    """
    kind = matrix.dtype
    rank, m, n = matrix.rank, matrix.shape[-2], matrix.shape[-1]
    lines = (*matrix.shape[:-2], m)
    batch = tuple(range(rank - 2))

    def step(k: Value, x: Value) -> tuple[Value, ...]:
        line = _take_row(x, k, rank - 1)
        place = Iota(TensorType(lines, i64), rank - 2)
        at = broadcast(k, lines)
        head = _take_row(line, k, rank - 2)
        rest = e.Select(place > at, line, _zero(line))
        rest_size = r.Sum(squared(rest), (rank - 2,))
        real = e.Real(head) if kind.kind == "complex" else head
        beta = convert(-e.Copysign(e.Sqrt(rest_size + squared(head)), real), kind)
        # Nothing below the head: LAPACK leaves such a column alone (a complex head is turned real).
        flat: Value = e.Eq(rest_size, _zero(rest_size))
        if kind.kind == "complex":
            flat = e.And(flat, e.Eq(e.Imag(head), _zero(real)))
        one = Full(1, head.tensor)
        tau = e.Select(flat, _zero(head), (beta - head) / e.Select(flat, one, beta))
        scaled = rest / broadcast(expand(e.Select(flat, one, head - beta), (rank - 2,)), lines)
        v = e.Select(e.Eq(place, at), Full(1, scaled.tensor), scaled)
        back = e.Conj(tau) if kind.kind == "complex" else tau
        return _reflect(x, v, back, batch), v, tau

    number, x = Parameter("k", TensorType((), i64)), Parameter("x", matrix.tensor)
    body = Graph("reflect", (number, x), step(number, x))
    found = Scan((), (matrix,), (), body, minimum(m, n), False, True)
    return (Get(found, 1), Get(found, 2)), Get(found, 0)


def _reflect(x: Value, v: Value, tau: Value, batch: tuple[int, ...]) -> Value:
    """x - tau v (v* x)."""
    conjugate = e.Conj(v) if v.dtype.kind == "complex" else v
    along = contract(conjugate, x, batch, batch, (v.rank - 1,), (x.rank - 2,))
    return x - _outer(Mul(v, broadcast(expand(tau, (v.rank - 1,)), v.shape)), along)


def _product(reflections: tuple[Value, Value], matrix: Value, columns: Dim) -> Value:
    """The first columns of the product of the reflections."""
    start = broadcast(convert(unwrap(eye(matrix.shape[-2], columns)), matrix.dtype), (*matrix.shape[:-1], columns))
    vectors, factors = reflections
    q = Parameter("q", start.tensor)
    v = Parameter("v", vectors.tensor.with_shape(vectors.shape[1:]))
    tau = Parameter("tau", factors.tensor.with_shape(factors.shape[1:]))
    body = Graph("gather", (q, v, tau), (_reflect(q, v, tau, tuple(range(matrix.rank - 2))),))
    return Get(Scan((), (start,), (vectors, factors), body, vectors.shape[0], True), 0)


def squared(x: Value) -> Value:
    return e.Real(Mul(x, e.Conj(x))) if x.dtype.kind == "complex" else Mul(x, x)


def _outer(x: Value, y: Value) -> Value:
    shape = (*x.shape, y.shape[-1])
    return Mul(broadcast(expand(x, (x.rank,)), shape), broadcast(expand(y, (y.rank - 1,)), shape))


def tensorsolve(a: Any, b: Any, axes: Any = None) -> Tracer:
    x, y = lift(a), lift(b)
    if axes is not None:
        last = axes_of(entries(axes, "axes"), x.ndim)
        x = wrap(permute(unwrap(x), (*(i for i in range(x.ndim) if i not in last), *last)))
    shape = x.shape[y.ndim :]
    rows = y.size
    count = unwrap(y).tensor.size
    if unwrap(x).tensor.size != count * count:
        raise wrong(
            f"tensorsolve: {x.value.type} is no square of the {show(count)} elements of b",
            "the sizes behind those of b multiply to as many",
        )
    square = wrap(reshape(unwrap(x), (rows, rows)))
    return wrap(reshape(unwrap(solve(square, wrap(reshape(unwrap(y), (rows,))))), shape))


def tensorinv(a: Any, ind: int = 2) -> Tracer:
    x = lift(a)
    if ind <= 0:
        raise InvalidValue("Invalid ind argument.", code="TD0822", location=here(), edit="an ind above 0")
    first, second = x.shape[:ind], x.shape[ind:]
    rows = product(unwrap(x).shape[:ind])
    if unwrap(x).tensor.size != rows * rows:
        raise wrong(f"tensorinv: {x.value.type} is not square behind axis {ind}", "another ind")
    return wrap(reshape(unwrap(inv(wrap(reshape(unwrap(x), (rows, rows))))), (*second, *first)))


TABLE: Final[Mapping[Any, Callable[..., Any]]] = {
    np.linalg.cholesky: cholesky,
    np.linalg.det: det,
    np.linalg.inv: inv,
    np.linalg.qr: qr,
    np.linalg.slogdet: slogdet,
    np.linalg.solve: solve,
    np.linalg.tensorinv: tensorinv,
    np.linalg.tensorsolve: tensorsolve,
}
