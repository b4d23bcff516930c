"""Eigenvalues of Hermitian matrices and singular values, by Jacobi's rotations, and what is made of them.

A sweep meets every pair of columns once, half of the columns at a time: columns i and i + n/2 are turned together, then
the columns move on as the players of a tournament do, so a round is a few ops on whole matrices of any number of
leading axes. Sweeps go on until one meets only rounding, which is after a handful: near the end each squares what is
left (Golub and Van Loan, Matrix Computations, 8.5). The signs of vectors are not LAPACK's. General matrices have no
such method: `eig` is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from ...ir.dims import show
from ...ir.dtypes import DType, bool_, i32, i64, real_of
from ...ir.errors import Unsupported
from ...ir.graph import Graph
from ...ir.ops import elementwise as e
from ...ir.ops import reduce as r
from ...ir.ops.control import Scan, While
from ...ir.ops.indexing import ArgSort, take_along
from ...ir.ops.movement import Concatenate, Iota, Pad
from ...ir.types import TensorType
from ...ir.value import Full, Get, Mul, Parameter, Value
from .. import transforms
from ..arrays import broadcast, convert, expand, lift, reshape, static_int
from ..custom import custom_jvp
from ..trace import here, operation
from ..tracer import Tracer, unwrap, wrap
from . import spectral_rules
from .creation import eye, vander
from .linear import contract, matmul
from .reductions import count_nonzero
from .shaping import cut
from .solve import adjoint, basis, diagonal_of, inexact, not_square, squared, wrong
from .ufuncs import elementwise

_SIZE: Final = "the size of a matrix"
_SWEEPS: Final = 40  # an end for what never settles, such as infinities; 6 to 10 are usual


class EighResult(NamedTuple):
    """What `eigh` gives."""

    eigenvalues: Tracer
    eigenvectors: Tracer


class SVDResult(NamedTuple):
    """What `svd` gives."""

    U: Tracer
    S: Tracer
    Vh: Tracer


# --- rotations ----------------------------------------------------------------------------------------------------


def _epsilon(kind: DType) -> float:
    return float(np.finfo(real_of(kind).numpy).eps)


def _rotation(p: Value, q: Value, between: Value) -> tuple[Value, Value, Value, Value]:
    """For the matrices [[p, b], [conj b, q]]: c and s of the rotation that makes them diagonal, b / |b|, and by how
    much p falls and q grows."""
    size = _size(between)
    none = size < float(np.finfo(size.dtype.numpy).tiny) / _epsilon(size.dtype)  # below, quotients lose their digits
    size = e.Select(none, Full(0, size.tensor), size)
    half = (q - p) * 0.5
    reach = e.Abs(half) + e.Hypot(half, size)
    safe = e.Select(none, Full(1.0, size.tensor), reach)
    tangent = e.Copysign(size / safe, half)
    c = 1.0 / e.Sqrt(tangent * tangent + 1.0)
    one = Full(1.0, size.tensor)
    if between.dtype.kind == "complex":
        phase: Value = between / convert(e.Select(none, one, size), between.dtype)
        phase = e.Select(none, Full(1.0, phase.tensor), phase)
    else:
        phase = e.Copysign(one, between)
    return c, c * tangent, phase, tangent * size


def _turned(x: Value, axis: int, c: Value, s: Value, phase: Value) -> Value:
    """The two halves of an axis turned by pairs: (c first - s phase second, s first + c phase second)."""
    half = c.shape[-1]
    first, second = cut(x, axis, 0, half), cut(x, axis, half, x.shape[axis])
    other = (x.rank - 1) if axis == x.rank - 2 else (x.rank - 2)

    def wide(factor: Value) -> Value:
        return broadcast(expand(convert(factor, x.dtype), (other,)), first.shape)

    moved = Mul(wide(phase), second)
    return Concatenate((Mul(wide(c), first) - Mul(wide(s), moved), Mul(wide(s), first) + Mul(wide(c), moved)), axis)


def _seated(x: Value, axis: int) -> Value:
    """The next round of the tournament: the first stays, the others move on by one place around the table."""
    size = x.shape[axis]
    assert isinstance(size, int)
    half = size // 2
    if half == 1:
        return x

    def seats(low: int, high: int) -> Value:
        return cut(x, axis, low, high)

    parts = [seats(0, 1), seats(half, half + 1), seats(1, half - 1), seats(half + 1, size), seats(half - 1, half)]
    return Concatenate(tuple(part for part in parts if part.shape[axis] != 0), axis)


def _size(x: Value) -> Value:
    return e.Hypot(e.Real(x), e.Imag(x)) if x.dtype.kind == "complex" else e.Abs(x)


def _conjugate(x: Value) -> Value:
    return e.Conj(x) if x.dtype.kind == "complex" else x


def _even(x: Value, axes: tuple[int, ...]) -> Value:
    """With one more row or column of zeros where their number is odd: they meet nobody."""
    high = [0] * x.rank
    for axis in axes:
        high[axis] = static_int(x.shape[axis], _SIZE) % 2
    return Pad(x, Full(0, TensorType((), x.dtype)), (0,) * x.rank, tuple(high), (0,) * x.rank) if any(high) else x


def _unit(x: Value) -> Value:
    """The identity matrix of x's columns, one for each of the leading axes."""
    size = x.shape[-1]
    return broadcast(convert(unwrap(eye(size)), x.dtype), (*x.shape[:-2], size, size))


def _sweeps(
    name: str,
    held: tuple[Value, ...],
    start: tuple[Value, ...],
    rounds: int,
    one_round: Callable[..., tuple[Value, ...]],
    enough: float,
) -> list[Value]:
    """The state after sweeps of `rounds` rounds, until no matrix met more than `enough` in one. A round takes what is
    held and the state, and gives the new state and what it met, one number per matrix."""
    least = held[0]
    met = Full(0, least.tensor)

    def build(body: str, values: tuple[Value, ...], step: Callable[..., tuple[Value, ...]]) -> Graph:
        params = tuple(Parameter(f"c{i}", value.tensor) for i, value in enumerate(values))
        return Graph(body, params, step(*params))

    def turn(*given: Value) -> tuple[Value, ...]:
        *state, now = one_round(*given[:-1])
        return (*state, e.Maximum(given[-1], now))

    rounding = build(f"{name}_round", (*held, *start, met), turn)

    def sweep(*given: Value) -> tuple[Value, ...]:
        state = given[len(held) + 1 : -1]
        found = Scan(given[: len(held)], (*state, met), (), rounding, rounds)
        return (given[len(held)] + 1, *(Get(found, i) for i in range(len(state) + 1)))

    def unfinished(*given: Value) -> tuple[Value, ...]:
        going = given[-1] > enough
        some = r.Any(going, tuple(range(going.rank))) if going.rank else going
        return (e.And(some, given[len(held)] < _SWEEPS),)

    carry = (Full(0, TensorType((), i64)), *start, Full(1.0, least.tensor))
    bodies = build(f"{name}_unfinished", (*held, *carry), unfinished), build(name, (*held, *carry), sweep)
    found = While(held, carry, *bodies)
    return [Get(found, i + 1) for i in range(len(start))]


def _product(x: Value, y: Value) -> Value:
    return unwrap(matmul(wrap(x), wrap(y)))


def _orthonormal(v: Value) -> Value:
    """A step of Newton's towards the next unitary matrix: hundreds of rotations leave v as many roundings off."""
    return v + _product(v, _unit(v) - _product(adjoint(v), v)) * 0.5


def _scaled(x: Value) -> tuple[Value, Value]:
    """x by its greatest element, so that squares stay in range, and that element: one per matrix."""
    size = _size(x)
    most: Value = r.Max(size, (x.rank - 2, x.rank - 1))
    unit = e.Or(e.Eq(most, Full(0, most.tensor)), e.Not(e.IsFinite(most)))
    most = e.Select(unit, Full(1.0, most.tensor), most)
    return x / convert(_over(most, x), x.dtype), most


def _over(number: Value, x: Value) -> Value:
    """One number per matrix, stretched over its elements."""
    return broadcast(expand(number, (x.rank - 2, x.rank - 1)), x.shape)


# --- Hermitian matrices -------------------------------------------------------------------------------------------


def _hermitian(a: Any, UPLO: str) -> Value:
    """The matrix of which `a` has the lower or the upper triangle."""
    kind = inexact(a)
    x = convert(unwrap(lift(a)), kind)
    if x.rank < 2 or x.shape[-1] != x.shape[-2]:
        raise not_square(x)
    if str(UPLO).upper() not in ("L", "U"):
        raise wrong(f"UPLO is {UPLO!r}", "'L' or 'U'")
    place = TensorType(x.shape, i64)
    down, right = Iota(place, x.rank - 2), Iota(place, x.rank - 1)
    inside = down > right if UPLO.upper() == "L" else down < right
    mirrored = e.Select(inside, x, adjoint(x))
    if kind.kind != "complex":
        return mirrored
    return e.Select(e.Eq(down, right), convert(e.Real(x), kind), mirrored)


def _eigen(x: Value) -> tuple[Value, Value]:
    """Eigenvalues in rising order, and the eigenvectors in columns."""
    size = _sizes(x)[1]
    rank, row, column = x.rank, x.rank - 2, x.rank - 1
    if size <= 1:
        return diagonal_of(e.Real(x) if x.dtype.kind == "complex" else x), _unit(x)
    x, scale = _scaled(x)
    grid = _even(x, (row, column))
    half = _sizes(grid)[1] // 2
    whole = e.Sqrt(r.Sum(squared(x), (row, column)))
    down, right = Iota(TensorType(grid.shape, i64), row), Iota(TensorType(grid.shape, i64), column)
    on = e.Eq(down, right)
    partners = e.Or(e.Eq(down, right + half), e.Eq(right, down + half))

    def one_round(whole: Value, m: Value, v: Value) -> tuple[Value, ...]:
        upper = cut(m, row, 0, half)
        p, between = diagonal_of(cut(upper, column, 0, half)), diagonal_of(cut(upper, column, half, 2 * half))
        q = diagonal_of(cut(cut(m, row, half, 2 * half), column, half, 2 * half))
        if m.dtype.kind == "complex":
            p, q = e.Real(p), e.Real(q)
        c, s, phase, change = _rotation(p, q, between)
        m = _turned(_turned(m, row, c, s, phase), column, c, s, _conjugate(phase))
        diagonal = convert(Concatenate((p - change, q + change), row), m.dtype)
        m = e.Select(on, broadcast(expand(diagonal, (column,)), m.shape), e.Select(partners, Full(0, m.tensor), m))
        v = _turned(v, column, c, s, _conjugate(phase))
        return _seated(_seated(m, row), column), _seated(v, column), r.Max(_size(between), (row,)) / whole

    m, v = _sweeps("eigh", (whole,), (grid, _unit(grid)), 2 * half - 1, one_round, _epsilon(x.dtype))
    m, v = cut(cut(m, row, 0, size), column, 0, size), cut(cut(v, row, 0, size), column, 0, size)
    v = _orthonormal(v)
    values = diagonal_of(e.Real(m) if m.dtype.kind == "complex" else m)
    values = Mul(values, broadcast(expand(scale, (rank - 2,)), values.shape))
    order = ArgSort(values, rank - 2)
    return take_along(values, order, rank - 2, "promised", True), _columns(v, order)


def _columns(x: Value, order: Value) -> Value:
    """The columns of x in that order."""
    wide = broadcast(expand(order, (x.rank - 2,)), (*x.shape[:-1], order.shape[-1]))
    return take_along(x, wide, x.rank - 1, "promised", True)


@custom_jvp
def _decomposed(x: Tracer) -> tuple[Tracer, Tracer]:
    """The eigenvalues and eigenvectors of a Hermitian matrix, with their derivative."""
    with operation():
        values, vectors = _eigen(unwrap(x))
        return wrap(values), wrap(vectors)


@_decomposed.defjvp
def _decomposed_rule(primals: Any, tangents: Any) -> Any:
    found = _decomposed(*primals)
    with operation():
        values, vectors = map(unwrap, found)
        return found, tuple(map(wrap, spectral_rules.eigen(values, vectors, unwrap(tangents[0]))))


def eigh(a: Any, UPLO: str = "L") -> Any:
    return EighResult(*_decomposed(wrap(_hermitian(a, UPLO))))


def eigvalsh(a: Any, UPLO: str = "L") -> Tracer:
    values: Tracer = _decomposed(wrap(_hermitian(a, UPLO)))[0]
    return values


# --- singular values ----------------------------------------------------------------------------------------------


def matrix(a: Any) -> Value:
    x = convert(unwrap(lift(a)), inexact(a))
    if x.rank < 2:
        raise not_square(x)
    return x


def _sizes(x: Value) -> tuple[int, int]:
    """Rows and columns, which must be known: pairs of columns are counted out while tracing."""
    return static_int(x.shape[-2], _SIZE), static_int(x.shape[-1], _SIZE)


def _wide(x: Value) -> bool:
    rows, columns = _sizes(x)
    return rows < columns


def _orthogonal(x: Value) -> tuple[Value, Value, Value]:
    """x V with orthogonal columns, their lengths in falling order, and V, for x with no more columns than rows.

    x V is by x's greatest element, its lengths are not. Columns are orthogonal when their product is rounding beside
    their lengths, or beside the whole matrix.
    """
    rank, row, column = x.rank, x.rank - 2, x.rank - 1
    size = _sizes(x)[1]
    x, scale = _scaled(x)
    if size > 1:
        epsilon = _epsilon(x.dtype)
        grid = _even(x, (column,))
        half = _sizes(grid)[1] // 2
        floor = r.Sum(squared(x), (row, column)) * epsilon**2

        def one_round(floor: Value, m: Value, v: Value) -> tuple[Value, ...]:
            first, second = cut(m, column, 0, half), cut(m, column, half, 2 * half)
            p, q = r.Sum(squared(first), (row,)), r.Sum(squared(second), (row,))
            between: Value = r.Sum(Mul(_conjugate(first), second), (row,))
            size = _size(between)
            small = e.Not(size > broadcast(expand(floor, (row,)), size.shape))
            between = e.Select(small, Full(0, between.tensor), between)
            angle = e.Select(small, Full(0, size.tensor), size / e.Sqrt(p) / e.Sqrt(q))
            c, s, phase, _ = _rotation(p, q, between)
            m, v = (_seated(_turned(each, column, c, s, _conjugate(phase)), column) for each in (m, v))
            return m, v, r.Max(angle, (row,))

        enough = epsilon * max(10.0, _sizes(x)[0] ** 0.5)
        _, v = _sweeps("svd", (floor,), (grid, _unit(grid)), 2 * half - 1, one_round, enough)
        v = _orthonormal(cut(cut(v, row, 0, size), column, 0, size))
        x = _product(x, v)
    else:
        v = _unit(x)
    lengths: Value = e.Sqrt(r.Sum(squared(x), (row,)))
    order = ArgSort(lengths, rank - 2, True)
    lengths = take_along(lengths, order, rank - 2, "promised", True)
    lengths = Mul(lengths, broadcast(expand(scale, (row,)), lengths.shape))
    return _columns(x, order), lengths, _columns(v, order)


def _svd(x: Value, whole: bool) -> tuple[Value, Value, Value]:
    """U, the singular values in falling order, V; U and V square if `whole`, else with a column for each value.

    The directions of the orthogonal columns are completed to a basis by reflections, which find one where a column is
    zero, too.
    """
    if _wide(x):
        v, values, u = _svd(adjoint(x), whole)
        return u, values, v
    columns, values, v = _orthogonal(x)
    q, upper = basis(columns, x.shape[-2] if whole else x.shape[-1])
    heads = diagonal_of(cut(upper, x.rank - 2, 0, x.shape[-1]))
    size = _size(heads)
    none = e.Eq(size, Full(0, size.tensor))
    one = Full(1.0, heads.tensor)
    phase: Value = e.Select(none, one, heads / convert(e.Select(none, Full(1.0, size.tensor), size), heads.dtype))
    if q.shape[-1] != x.shape[-1]:
        rest = Full(1.0, phase.tensor.with_shape((*phase.shape[:-1], q.shape[-1] - x.shape[-1])))
        phase = Concatenate((phase, rest), x.rank - 2)
    return Mul(q, broadcast(expand(phase, (x.rank - 2,)), q.shape)), values, v


@partial(custom_jvp, nondiff_argnums=(1,))
def _factored(x: Tracer, whole: bool) -> tuple[Tracer, Tracer, Tracer]:
    """U, the singular values and V of `_svd`, with their derivative."""
    with operation():
        u, values, v = _svd(unwrap(x), whole)
        return wrap(u), wrap(values), wrap(v)


@_factored.defjvp
def _factored_rule(whole: bool, primals: Any, tangents: Any) -> Any:
    rows, columns = _sizes(unwrap(primals[0]))
    if whole and rows != columns:
        raise Unsupported(
            f"svd: how the vectors beyond the {min(rows, columns)} singular values turn is open, so the whole U and V "
            "of a matrix that is not square have no derivative",
            code="TD0709",
            location=here(),
            edit="full_matrices=False",
        )
    found = _factored(primals[0], whole)
    u, values, v = map(unwrap, found)
    with operation():
        return found, tuple(map(wrap, spectral_rules.singular(u, values, v, unwrap(tangents[0]))))


def svd(a: Any, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False) -> Any:
    if not compute_uv:
        return svdvals(a, hermitian)
    u, values, v = _factored(wrap(_mirrored(a, hermitian)), full_matrices)
    return SVDResult(u, values, wrap(adjoint(unwrap(v))))


def _mirrored(a: Any, hermitian: bool) -> Value:
    """The matrix; of one that is said to be Hermitian, what its lower triangle says."""
    return _hermitian(a, "L") if hermitian else matrix(a)


def singular_values(x: Value) -> Value:
    """In falling order."""
    return unwrap(_values(wrap(x)))


@custom_jvp
def _values(x: Tracer) -> Tracer:
    value = unwrap(x)
    with operation():
        return wrap(_orthogonal(adjoint(value) if _wide(value) else value)[1])


@_values.defjvp
def _values_rule(primals: Any, tangents: Any) -> Any:
    u, values, v = _factored(primals[0], False)
    with operation():
        dots = spectral_rules.singular(unwrap(u), unwrap(values), unwrap(v), unwrap(tangents[0]))
        return values, wrap(dots[1])


def svdvals(x: Any, hermitian: bool = False) -> Tracer:
    return wrap(singular_values(_mirrored(x, hermitian)))


def _inverse(x: Value, cutoff: Value, b: Value | None) -> Value:
    """V S^+ U* b, or without b, where S^+ inverts the singular values above the cutoff: (x V) is U S."""
    if _wide(x):
        # The pseudo-inverse of the adjoint is the adjoint of the pseudo-inverse.
        found = adjoint(_inverse(adjoint(x), cutoff, None))
        return found if b is None else _product(found, b)
    columns, values, v = _orthogonal(x)
    kept = values > broadcast(expand(cutoff, (values.rank - 1,)), values.shape)
    safe = e.Select(kept, values, Full(1.0, values.tensor))
    lengths = e.Sqrt(r.Sum(squared(columns), (x.rank - 2,)))
    unit = columns / convert(_across(e.Select(kept, lengths, Full(1.0, lengths.tensor)), columns), x.dtype)
    back = v * convert(_across(e.Select(kept, 1.0 / safe, Full(0, safe.tensor)), v), x.dtype)
    turned = adjoint(unit)
    return _product(back, turned if b is None else _product(turned, b))


def _across(numbers: Value, x: Value) -> Value:
    """One number per column, stretched over the rows."""
    return broadcast(expand(numbers, (x.rank - 2,)), x.shape)


def _largest(values: Value) -> Value:
    return r.Max(values, (values.rank - 1,))


def pinv(a: Any, rcond: Any = None, hermitian: bool = False, *, rtol: Any = np._NoValue) -> Tracer:
    x = _mirrored(a, hermitian)
    if rcond is None:
        default = 1e-15 if rtol is np._NoValue else max(_sizes(x)) * _epsilon(x.dtype)
        rcond = default if rtol is np._NoValue or rtol is None else rtol
    cutoff = elementwise(np.multiply, rcond, wrap(_largest(singular_values(x))))
    found: Tracer = _inverted(wrap(x), transforms.stop_gradient(wrap(convert(unwrap(cutoff), real_of(x.dtype)))))
    return found


@custom_jvp
def _inverted(x: Tracer, cutoff: Tracer) -> Tracer:
    """The pseudo-inverse, with its derivative while the rank stays."""
    with operation():
        return wrap(_inverse(unwrap(x), unwrap(cutoff), None))


@_inverted.defjvp
def _inverted_rule(primals: Any, tangents: Any) -> Any:
    found = _inverted(*primals)
    with operation():
        change = spectral_rules.pseudo_inverse(unwrap(primals[0]), unwrap(found), unwrap(tangents[0]))
        return found, wrap(change)


def matrix_rank(A: Any, tol: Any = None, hermitian: bool = False, *, rtol: Any = None) -> Tracer:
    given = lift(A)
    if given.ndim < 2:
        return wrap(convert(r.Any(convert(unwrap(given), bool_), tuple(range(given.ndim))), i64))
    x = _mirrored(given, hermitian)
    values = singular_values(x)
    if tol is None:
        rtol = max(_sizes(x)) * _epsilon(x.dtype) if rtol is None else rtol
        tol = elementwise(np.multiply, wrap(expand(_largest(values), (values.rank - 1,))), _column(rtol))
    else:
        tol = _column(tol)
    return count_nonzero(elementwise(np.greater, wrap(values), tol), axis=-1)


def _column(x: Any) -> Any:
    """A number, or one per matrix with a new last axis."""
    return x if np.ndim(x) == 0 else wrap(expand(unwrap(lift(x)), (lift(x).ndim,)))


def lstsq(a: Any, b: Any, rcond: Any = None) -> tuple[Tracer, ...]:
    """The shortest x for which |a x - b| is least, the squares that are left, the rank, the singular values."""
    kind = inexact(a, b)
    x, right = convert(unwrap(lift(a)), kind), convert(unwrap(lift(b)), kind)
    if x.rank != 2:
        raise wrong(f"{x.rank}-dimensional array given. Array must be two-dimensional", "td.vmap solves a stack")
    vector = right.rank == 1
    right = expand(right, (1,)) if vector else right
    if right.rank < 2:
        raise wrong("lstsq: b is a scalar", "a vector as long as the matrix has rows")
    if right.shape[0] != x.shape[0]:
        raise wrong(f"lstsq: the matrix has {show(x.shape[0])} rows, b has {show(right.shape[0])}", "b of as many rows")
    m, n = _sizes(x)
    values = singular_values(x)
    share = max(m, n) * _epsilon(kind) if rcond is None else _epsilon(kind) if _negative(rcond) else rcond
    cutoff = convert(unwrap(elementwise(np.multiply, share, wrap(_largest(values)))), values.dtype)
    found = unwrap(_solved(wrap(x), transforms.stop_gradient(wrap(cutoff)), wrap(right)))
    rank = r.Sum(convert(values > broadcast(cutoff, values.shape), i32), (0,))
    left = contract(x, found, (), (), (1,), (0,)) - right
    squares = r.Sum(squared(left), (0,)) if m > n else Full(0, TensorType((0,), values.dtype))
    return wrap(reshape(found, (n,)) if vector else found), wrap(squares), wrap(rank), wrap(values)


@custom_jvp
def _solved(x: Tracer, cutoff: Tracer, b: Tracer) -> Tracer:
    """The pseudo-inverse times b, with its derivative while the rank stays."""
    with operation():
        return wrap(_inverse(unwrap(x), unwrap(cutoff), unwrap(b)))


@_solved.defjvp
def _solved_rule(primals: Any, tangents: Any) -> Any:
    x, cutoff, b = primals
    found, inverse = _solved(*primals), _inverted(x, cutoff)
    with operation():
        values = map(unwrap, (x, inverse, b, found, tangents[0], tangents[2]))
        return found, wrap(spectral_rules.least_squares(*values))


def _negative(x: Any) -> bool:
    return isinstance(x, int | float) and x < 0


def polyfit(x: Any, y: Any, deg: Any, rcond: Any = None, full: bool = False, w: Any = None, cov: Any = False) -> Tracer:
    """As NumPy's: columns of powers scaled to length 1, then least squares."""
    if full or cov:
        raise Unsupported(
            "polyfit(full=) and polyfit(cov=)",
            code="TD0813",
            location=here(),
            edit="np.linalg.lstsq(np.vander(x, deg + 1), y) gives residuals and rank",
        )
    order = static_int(deg, "deg") + 1
    points, right = (elementwise(np.add, each, 0.0) for each in (x, y))
    if points.ndim != 1 or right.ndim not in (1, 2) or right.shape[0] != points.shape[0]:
        raise wrong("polyfit: expected x and y to have same length", "a value for each point")
    powers = vander(points, order)
    if w is not None:
        weight = elementwise(np.add, w, 0.0)
        powers = elementwise(np.multiply, powers, wrap(expand(unwrap(weight), (1,))))
        wide = weight if right.ndim == 1 else wrap(expand(unwrap(weight), (1,)))
        right = elementwise(np.multiply, right, wide)
    size = e.Sqrt(r.Sum(squared(unwrap(powers)), (0,)))
    kind = unwrap(powers).dtype
    scaled = unwrap(powers) / convert(broadcast(size, powers.shape), kind)
    if rcond is None:
        rcond = static_int(points.shape[0], "the number of points") * _epsilon(kind)
    found = unwrap(lstsq(wrap(scaled), right, rcond)[0])
    return wrap(found / convert(broadcast(size if found.rank == 1 else expand(size, (1,)), found.shape), found.dtype))


TABLE: Final[Mapping[Any, Callable[..., Any]]] = {
    np.linalg.eigh: eigh,
    np.linalg.eigvalsh: eigvalsh,
    np.linalg.lstsq: lstsq,
    np.linalg.matrix_rank: matrix_rank,
    np.linalg.pinv: pinv,
    np.linalg.svd: svd,
    np.linalg.svdvals: lambda x, /: svdvals(x),
    np.polyfit: polyfit,
}
