"""Norms of vectors and matrices, and the condition of a matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from ...ir.dtypes import bool_, f64, real_of
from ...ir.errors import InvalidValue
from ...ir.ops import elementwise as e
from ...ir.ops import reduce as r
from ...ir.value import Full, Value
from ..arrays import axes_of, axis_of, convert, expand, lift, permute, reshape
from ..trace import here
from ..tracer import Tracer, unwrap, wrap
from .eigen import matrix, singular_values
from .reductions import front, keep, max_, min_, sum_
from .solve import inv, squared
from .ufuncs import elementwise


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
            found = e.Sqrt(r.Sum(squared(flat), (0,)))
            return wrap(reshape(found, (1,) * rank) if keepdims else found)
        axis = tuple(range(rank))
    axes = tuple(axis) if isinstance(axis, tuple | list) else (axis,)
    numbers = tuple(axis_of(each, given.ndim) for each in axes)
    if len(numbers) == 1:
        return _vector(given, ord, numbers[0], keepdims)
    if len(numbers) == 2:
        return _matrix(given, ord, numbers, keepdims)
    raise InvalidValue(
        "Improper number of dimensions to norm.",
        code="TD0822",
        location=here(),
        edit="axis= one axis or a pair of them",
    )


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
        return wrap(e.Sqrt(unwrap(sum_(wrap(squared(unwrap(x))), axis, keepdims=keepdims))))
    if isinstance(ord, str):
        raise InvalidValue(
            f"Invalid norm order {ord!r} for vectors",
            code="TD0822",
            location=here(),
            edit="ord= a number, np.inf or -np.inf",
        )
    powers = elementwise(np.power, size, ord)
    found: Tracer = elementwise(np.power, sum_(powers, axis, keepdims=keepdims), 1.0 / ord)
    return found


def _matrix(x: Tracer, ord: Any, axes: tuple[int, ...], keepdims: bool) -> Tracer:
    row, column = axes
    if row == column:
        raise InvalidValue("Duplicate axes given.", code="TD0822", location=here(), edit="two different axes")
    size = elementwise(np.absolute, x)
    if ord is None or ord in ("fro", "f"):
        return wrap(e.Sqrt(unwrap(sum_(wrap(squared(unwrap(x))), axes, keepdims=keepdims))))
    if ord in (1, -1, math.inf, -math.inf):
        first, second = (row, column) if abs(ord) == 1 else (column, row)
        sums = sum_(size, first, keepdims=True)
        extreme = (max_ if ord > 0 else min_)(sums, second, keepdims=True)
        value = unwrap(extreme)
        return (
            extreme if keepdims else wrap(reshape(value, tuple(n for i, n in enumerate(value.shape) if i not in axes)))
        )
    if ord in (2, -2, "nuc"):
        kept = [i for i in range(x.ndim) if i not in axes]
        values = singular_values(matrix(wrap(permute(unwrap(x), (*kept, *axes)))))
        last = values.rank - 1
        found: Value = values
        if ord == "nuc":
            found = r.Sum(values, (last,))
        else:
            found = r.Max(values, (last,)) if ord > 0 else r.Min(values, (last,))
        return wrap(expand(found, axes) if keepdims else found)
    raise InvalidValue(
        "Invalid norm order for matrices.",
        code="TD0822",
        location=here(),
        edit="ord= 'fro', 'nuc', 1, -1, 2, -2, np.inf or -np.inf",
    )


def cond(x: Any, p: Any = None) -> Tracer:
    if p is None or p in (2, -2):
        values = singular_values(matrix(x))
        last = values.rank - 1
        most, least = r.Max(values, (last,)), r.Min(values, (last,))
        found: Tracer = elementwise(np.true_divide, *(map(wrap, (most, least) if p != -2 else (least, most))))
        return found
    given = lift(x)
    both = unwrap(elementwise(np.multiply, norm(given, p, (-2, -1)), norm(inv(given), p, (-2, -1))))
    # A matrix without an inverse has none, if it has no NaN.
    spoilt = r.Any(e.IsNan(matrix(given)), (given.ndim - 2, given.ndim - 1))
    singular = e.And(e.IsNan(both), e.Not(spoilt))
    return wrap(e.Select(singular, Full(math.inf, both.tensor), both))


TABLE: Final[Mapping[Any, Callable[..., Any]]] = {
    np.linalg.cond: cond,
    np.linalg.matrix_norm: matrix_norm,
    np.linalg.norm: norm,
    np.linalg.vector_norm: vector_norm,
}
