"""Linear systems and norms: LU with partial pivoting, Cholesky, triangular solves, QR, each a scan over the columns.

Every step works on the whole matrix, of any number of leading batch axes. A singular matrix gives infinities or NaN
where NumPy raises LinAlgError: whether it is singular is not known before the numbers are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from ...ir.dims import Dim, minimum
from ...ir.dtypes import DType, bool_, f64, i64, real_of
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
    axis_of,
    broadcast,
    broadcast_shapes,
    convert,
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
from .reductions import front, keep, max_, min_, sum_
from .shaping import cut, triangle_mask
from .ufuncs import elementwise


def _wrong(message: str) -> ShapeMismatch:
    return ShapeMismatch(message, code="TD0824", location=here())


def _inexact(*xs: Any) -> DType:
    """NumPy's linalg computes in f32 or f64 (and their complex kin)."""
    kind = result_type(*(lift(x).value.dtype for x in xs))
    if kind is bool_ or kind.is_integer:
        return f64
    if kind.is_float and kind.bits < 32:
        raise Unsupported(
            f"array type {kind} is unsupported in linalg", code="TD0816", location=here(), edit="x.astype(np.float32)"
        )
    return kind


def _square(x: Any, kind: DType) -> Value:
    value = convert(unwrap(lift(x)), kind)
    if value.rank < 2:
        raise _wrong(f"{value.rank}-dimensional array given. Array must be at least two-dimensional")
    if value.shape[-1] != value.shape[-2]:
        raise _wrong("Last 2 dimensions of the array must be square")
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
        factor = e.Select(below, line / broadcast(expand(head, (rank - 2,)), rows), _zero(line))
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
    kind = _inexact(a, b)
    matrix = _square(a, kind)
    right = convert(unwrap(lift(b)), kind)
    vector = right.rank == 1
    if vector:
        right = expand(right, (1,))
    if right.shape[-2] != matrix.shape[-1]:
        raise _wrong(f"solve: the matrix has {matrix.shape[-1]} columns, b has {right.shape[-2]} rows")
    lead = broadcast_shapes(matrix.shape[:-2], right.shape[:-2])
    return broadcast(matrix, (*lead, *matrix.shape[-2:])), broadcast(right, (*lead, *right.shape[-2:])), vector


def inv(a: Any) -> Tracer:
    kind = _inexact(a)
    matrix = _square(a, kind)
    unit = convert(unwrap(eye(matrix.shape[-1])), kind)
    return solve(wrap(matrix), wrap(broadcast(unit, matrix.shape)))


def _diagonal_of(x: Value) -> Value:
    on = _at_diagonal(x.shape)
    return r.Sum(e.Select(on, x, _zero(x)), (x.rank - 1,))


def _at_diagonal(shape: Shape) -> Value:
    rank = len(shape)
    return e.Eq(Iota(TensorType(shape, i64), rank - 1), Iota(TensorType(shape, i64), rank - 2))


def det(a: Any) -> Tracer:
    kind = _inexact(a)
    lu, _, swaps = _lu(_square(a, kind))
    product = r.Prod(_diagonal_of(lu), (lu.rank - 2,))
    odd = e.Eq(e.And(swaps, Full(1, swaps.tensor)), Full(1, swaps.tensor))
    return wrap(e.Select(odd, -product, product))


def slogdet(a: Any) -> Any:
    kind = _inexact(a)
    lu, _, swaps = _lu(_square(a, kind))
    diagonal = _diagonal_of(lu)
    size = e.Abs(diagonal)
    sign = r.Prod(e.Sign(diagonal), (lu.rank - 2,))
    odd = e.Eq(e.And(swaps, Full(1, swaps.tensor)), Full(1, swaps.tensor))
    return SlogdetResult(wrap(e.Select(odd, -sign, sign)), wrap(r.Sum(e.Log(size), (lu.rank - 2,))))


def cholesky(a: Any, /, *, upper: bool = False) -> Tracer:
    kind = _inexact(a)
    matrix = _square(a, kind)
    rank, n = matrix.rank, matrix.shape[-1]
    row, column = rank - 2, rank - 1
    if upper:
        matrix = _adjoint(matrix)

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
    return wrap(_adjoint(found) if upper else found)


def _adjoint(x: Value) -> Value:
    turned = permute(x, (*range(x.rank - 2), x.rank - 1, x.rank - 2))
    return e.Conj(turned) if x.dtype.kind == "complex" else turned


def qr(a: Any, mode: str = "reduced") -> Any:
    """By Householder reflections, with LAPACK's signs."""
    if mode not in ("reduced", "complete", "r"):
        raise Unsupported(f"qr(mode={mode!r})", code="TD0813", location=here(), edit="use reduced, complete or r")
    kind = _inexact(a)
    matrix = convert(unwrap(lift(a)), kind)
    if matrix.rank < 2:
        raise _wrong(f"{matrix.rank}-dimensional array given. Array must be at least two-dimensional")
    rank, m, n = matrix.rank, matrix.shape[-2], matrix.shape[-1]
    row, column = rank - 2, rank - 1
    lines = (*matrix.shape[:-2], m)
    batch = tuple(range(rank - 2))
    unit = broadcast(convert(unwrap(eye(m)), kind), (*matrix.shape[:-2], m, m))

    def step(k: Value, x: Value, q: Value) -> tuple[Value, ...]:
        line = _take_row(x, k, column)
        place = Iota(TensorType(lines, i64), rank - 2)
        at = broadcast(k, lines)
        tail = e.Select(place < at, _zero(line), line)
        head = _take_row(line, k, rank - 2)
        rest = e.Select(place > at, line, _zero(line))
        rest_size = r.Sum(_squared(rest), (rank - 2,))
        size = e.Sqrt(rest_size + _squared(head))
        real = e.Real(head) if kind.kind == "complex" else head
        alpha = convert(e.Copysign(size, real), kind)
        # Nothing below the head: LAPACK leaves such a column alone (a complex head is turned real).
        flat: Value = e.Eq(rest_size, _zero(rest_size))
        if kind.kind == "complex":
            flat = e.And(flat, e.Eq(e.Imag(head), _zero(real)))
        v = tail + e.Select(e.Eq(place, at), broadcast(expand(alpha, (rank - 2,)), lines), _zero(line))
        norm = r.Sum(_squared(v), (rank - 2,))
        safe = e.Select(e.Eq(norm, _zero(norm)), Full(1.0, norm.tensor), norm)
        if kind.kind == "complex":
            # tau of LAPACK: the reflection takes the column to -alpha exactly.
            beta = -alpha
            tau = (beta - head) / e.Select(e.Eq(beta, _zero(beta)), Full(1, beta.tensor), beta)
            scale_v = head - beta
            unit_v = v / broadcast(expand(e.Select(flat, Full(1, scale_v.tensor), scale_v), (rank - 2,)), lines)
            tau = e.Select(flat, _zero(tau), tau)
            w = contract(e.Conj(unit_v), x, batch, batch, (rank - 2,), (row,))
            back = contract(q, unit_v, batch, batch, (column,), (rank - 2,))
            x = x - _outer(Mul(unit_v, broadcast(expand(e.Conj(tau), (rank - 2,)), lines)), w)
            q = q - _outer(Mul(back, broadcast(expand(tau, (rank - 2,)), lines)), e.Conj(unit_v))
            return x, q
        factor = e.Select(flat, _zero(norm), 2.0 / safe)
        scaled = Mul(v, broadcast(expand(factor, (rank - 2,)), lines))
        w = contract(v, x, batch, batch, (rank - 2,), (row,))
        back = contract(q, v, batch, batch, (column,), (rank - 2,))
        return x - _outer(scaled, w), q - _outer(back, scaled)

    count = minimum(m, n)
    upper, q = _loop("qr", (), (matrix, unit), count, step)
    mask = broadcast(triangle_mask(m, n, -1), upper.shape)
    upper = e.Select(mask, _zero(upper), upper)
    if mode == "complete":
        return QRResult(wrap(q), wrap(upper))
    upper = cut(upper, row, 0, count)
    if mode == "r":
        return wrap(upper)
    return QRResult(wrap(cut(q, column, 0, count)), wrap(upper))


def _squared(x: Value) -> Value:
    return e.Real(Mul(x, e.Conj(x))) if x.dtype.kind == "complex" else Mul(x, x)


def _outer(x: Value, y: Value) -> Value:
    shape = (*x.shape, y.shape[-1])
    return Mul(broadcast(expand(x, (x.rank,)), shape), broadcast(expand(y, (y.rank - 1,)), shape))


def tensorsolve(a: Any, b: Any, axes: Any = None) -> Tracer:
    x, y = lift(a), lift(b)
    if axes is not None:
        moved = [i for i in range(x.ndim) if i not in axes_of(tuple(axes), x.ndim)]
        x = wrap(permute(unwrap(x), (*moved, *axes_of(tuple(axes), x.ndim))))
    shape = x.shape[y.ndim :]
    rows = y.size
    square = wrap(reshape(unwrap(x), (rows, rows)))
    return wrap(reshape(unwrap(solve(square, wrap(reshape(unwrap(y), (rows,))))), shape))


def tensorinv(a: Any, ind: int = 2) -> Tracer:
    x = lift(a)
    if ind <= 0:
        raise InvalidValue("Invalid ind argument.", code="TD0822", location=here())
    first, second = x.shape[:ind], x.shape[ind:]
    rows: Dim = 1
    for n in first:
        rows = rows * n
    return wrap(reshape(unwrap(inv(wrap(reshape(unwrap(x), (rows, rows))))), (*second, *first)))


# --- norms --------------------------------------------------------------------------------------------------------


def vector_norm(x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Tracer:
    value = unwrap(lift(x))
    axes = axes_of(axis, value.rank)
    found = norm(wrap(front(value, axes)), ord, 0)
    return wrap(keep(unwrap(found), axes, keepdims))


def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Tracer:
    return norm(x, ord, (-2, -1), keepdims)


def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Tracer:
    given = lift(x)
    kind = given.value.dtype
    if kind is bool_ or kind.is_integer:
        given = wrap(convert(unwrap(given), f64))
    if axis is None:
        rank = given.ndim
        if ord is None or (ord in ("f", "fro") and rank == 2) or (ord == 2 and rank == 1 and not isinstance(ord, str)):
            flat = reshape(unwrap(given), (given.size,))
            found = e.Sqrt(r.Sum(_squared(flat), (0,)))
            return wrap(reshape(found, (1,) * rank) if keepdims else found)
        axis = tuple(range(rank))
    axes = tuple(axis) if isinstance(axis, tuple | list) else (axis,)
    numbers = tuple(axis_of(each, given.ndim) for each in axes)
    if len(numbers) == 1:
        return _vector(given, ord, numbers[0], keepdims)
    if len(numbers) == 2:
        return _matrix(given, ord, numbers, keepdims)
    raise InvalidValue("Improper number of dimensions to norm.", code="TD0822", location=here())


def _vector(x: Tracer, ord: Any, axis: int, keepdims: bool) -> Tracer:
    size = elementwise(np.absolute, x)
    if ord == math.inf:
        return max_(size, axis, keepdims=keepdims)
    if ord == -math.inf:
        return min_(size, axis, keepdims=keepdims)
    if ord == 0:
        there = convert(unwrap(elementwise(np.not_equal, x, 0)), real_of(unwrap(x).dtype))
        return sum_(wrap(there), axis, keepdims=keepdims)
    if ord == 1:
        return sum_(size, axis, keepdims=keepdims)
    if ord is None or ord == 2:
        return wrap(e.Sqrt(unwrap(sum_(wrap(_squared(unwrap(x))), axis, keepdims=keepdims))))
    if isinstance(ord, str):
        raise InvalidValue(f"Invalid norm order {ord!r} for vectors", code="TD0822", location=here())
    powers = elementwise(np.power, size, ord)
    found: Tracer = elementwise(np.power, sum_(powers, axis, keepdims=keepdims), 1.0 / ord)
    return found


def _matrix(x: Tracer, ord: Any, axes: tuple[int, ...], keepdims: bool) -> Tracer:
    row, column = axes
    if row == column:
        raise InvalidValue("Duplicate axes given.", code="TD0822", location=here())
    size = elementwise(np.absolute, x)
    if ord is None or ord in ("fro", "f"):
        return wrap(e.Sqrt(unwrap(sum_(wrap(_squared(unwrap(x))), axes, keepdims=keepdims))))
    if ord in (1, -1, math.inf, -math.inf):
        first, second = (row, column) if abs(ord) == 1 else (column, row)
        sums = sum_(size, first, keepdims=True)
        extreme = (max_ if ord > 0 else min_)(sums, second, keepdims=True)
        value = unwrap(extreme)
        return (
            extreme if keepdims else wrap(reshape(value, tuple(n for i, n in enumerate(value.shape) if i not in axes)))
        )
    if ord in (2, -2, "nuc"):
        raise Unsupported(
            f"norm(ord={ord!r}) needs singular values",
            code="TD0810",
            location=here(),
            edit="use the Frobenius norm, or compute it outside",
        )
    raise InvalidValue("Invalid norm order for matrices.", code="TD0822", location=here())


TABLE: Final[Mapping[Any, Callable[..., Any]]] = {
    np.linalg.cholesky: cholesky,
    np.linalg.det: det,
    np.linalg.inv: inv,
    np.linalg.matrix_norm: matrix_norm,
    np.linalg.norm: norm,
    np.linalg.qr: qr,
    np.linalg.slogdet: slogdet,
    np.linalg.solve: solve,
    np.linalg.tensorinv: tensorinv,
    np.linalg.tensorsolve: tensorsolve,
    np.linalg.vector_norm: vector_norm,
}
