"""Combining along axes: sums and their kin, prefixes, places of extremes, means and spreads.

Result dtypes are NumPy's: small integers are summed in i64 or u64, means of integers are f64. `where=` replaces what it
leaves out by the identity before combining. Half floats are combined in f32 by the ops themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from ...ir.dims import Dim, product
from ...ir.dtypes import FLOAT8, DType, bool_, f32, f64, i64, real_of
from ...ir.errors import InvalidValue, TypeMismatch
from ...ir.ops import elementwise as e
from ...ir.ops import reduce as r
from ...ir.ops.movement import Concatenate, Slice
from ...ir.structure import highest, lowest
from ...ir.types import TensorType
from ...ir.value import Full, Mul, Sub, Value
from ...ir.value import lift as lift_number
from ..arrays import (
    axes_of,
    axis_of,
    broadcast,
    broadcast_shapes,
    convert,
    described,
    dtype_argument,
    expand,
    known,
    lift,
    permute,
    reshape,
    size_value,
    typed,
)  # fmt: skip
from ..promotion import loop, result_type
from ..trace import here
from ..tracer import Tracer, unwrap, wrap
from .ufuncs import RULES, elementwise, fold, not_traced, outer, prefixes, refuse_out

GIVEN: Final = np._NoValue  # what NumPy passes for an argument that was not given


def _given(x: Any, default: Any = None) -> Any:
    return default if x is GIVEN else x


def keep(value: Value, axes: tuple[int, ...], keepdims: Any) -> Value:
    """The reduced axes again, of size 1, where `keepdims` asks for them."""
    return expand(value, axes) if _given(keepdims, False) else value


def masked(value: Value, where: Any, neutral: Any) -> Value:
    """`value` with `neutral` where the mask is false."""
    if _given(where, True) is True:
        return value
    mask = typed(where, bool_)
    shape = broadcast_shapes(value.shape, mask.shape)
    number = neutral if isinstance(neutral, Value) else Full(neutral, value.tensor.with_shape(shape))
    return e.Select(broadcast(mask, shape), broadcast(value, shape), broadcast(number, shape))


def _combine(
    ufunc: np.ufunc,
    op: type[Value],
    neutral: int,
    a: Any,
    axis: Any,
    dtype: Any,
    keepdims: Any,
    initial: Any,
    where: Any,
) -> Tracer:
    x = lift(a)
    _, gives = loop(ufunc, (described(x),), dtype_argument(dtype), casting="unsafe", reduction=True)
    kind = gives[0]
    value = masked(convert(unwrap(x), kind), where, neutral)
    axes = axes_of(_given(axis), value.rank)
    found = _along(op, value, axes)
    if _given(initial) is not None:
        begin = typed(initial, kind, found.shape)
        rule = RULES[ufunc](begin, found)
        assert isinstance(rule, Value)
        found = rule
    return wrap(keep(found, axes, keepdims))


def _along(op: type[Value], value: Value, axes: tuple[int, ...]) -> Value:
    """A reduction; fp8, which is storage only, by way of f32."""
    if not axes:
        return value
    if value.dtype in FLOAT8:
        return convert(op(convert(value, f32), axes), value.dtype)
    return op(value, axes)


def sum_(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = GIVEN, initial: Any = GIVEN,
    where: Any = GIVEN,
) -> Tracer:  # fmt: skip
    refuse_out(out, "sum")
    return _combine(np.add, r.Sum, 0, a, axis, dtype, keepdims, initial, where)


def prod(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = GIVEN, initial: Any = GIVEN,
    where: Any = GIVEN,
) -> Tracer:  # fmt: skip
    refuse_out(out, "prod")
    return _combine(np.multiply, r.Prod, 1, a, axis, dtype, keepdims, initial, where)


def _extreme(largest: bool, a: Any, axis: Any, keepdims: Any, initial: Any, where: Any, dtype: Any = None) -> Tracer:
    name = "max" if largest else "min"
    value = unwrap(lift(a))
    if dtype is not None:
        value = convert(value, dtype_argument(dtype) or value.dtype)
    axes = axes_of(_given(axis), value.rank)
    has_initial = _given(initial) is not None
    if _given(where, True) is not True and not has_initial:
        raise InvalidValue(
            f"{name}(where=) needs initial=: there may be nothing to take it from",
            code="TD0822",
            location=here(),
            edit="initial=-np.inf of a maximum, np.inf of a minimum",
        )
    _not_empty(value, axes, name, has_initial)
    ufunc = np.maximum if largest else np.minimum
    if has_initial:
        value = masked(value, where, typed(initial, value.dtype))
    if value.dtype.kind == "complex":
        found = _complex_extreme(ufunc, value, axes)
    else:
        found = _along(r.Max if largest else r.Min, value, axes)
    if has_initial:
        rule = RULES[ufunc](found, typed(initial, found.dtype, found.shape))
        assert isinstance(rule, Value)
        found = rule
    return wrap(keep(found, axes, keepdims))


def _complex_extreme(ufunc: np.ufunc, value: Value, axes: tuple[int, ...]) -> Value:
    """Complex numbers are ordered by their parts, which no reduction of ours knows: folded one after the other."""
    return unwrap(fold(ufunc, wrap(front(value, axes))))


def front(value: Value, axes: tuple[int, ...]) -> Value:
    """The axes joined into one, the first."""
    kept = [i for i in range(value.rank) if i not in axes]
    moved = permute(value, (*axes, *kept))
    return reshape(moved, (product(value.shape[i] for i in axes), *(value.shape[i] for i in kept)))


def _not_empty(value: Value, axes: tuple[int, ...], name: str, allowed: bool = False) -> None:
    if not allowed and any(type(value.shape[i]) is int and value.shape[i] == 0 for i in axes):
        raise InvalidValue(
            f"zero-size array to reduction operation {name} which has no identity",
            code="TD0822",
            location=here(),
            edit="initial=, which is the result where nothing is there",
        )


def max_(
    a: Any, axis: Any = None, out: Any = None, keepdims: Any = GIVEN, initial: Any = GIVEN, where: Any = GIVEN
) -> Tracer:
    refuse_out(out, "max")
    return _extreme(True, a, axis, keepdims, initial, where)


def min_(
    a: Any, axis: Any = None, out: Any = None, keepdims: Any = GIVEN, initial: Any = GIVEN, where: Any = GIVEN
) -> Tracer:
    refuse_out(out, "min")
    return _extreme(False, a, axis, keepdims, initial, where)


def ptp(a: Any, axis: Any = None, out: Any = None, keepdims: Any = GIVEN) -> Tracer:
    refuse_out(out, "ptp")
    x = lift(a)
    found: Tracer = elementwise(np.subtract, max_(x, axis, keepdims=keepdims), min_(x, axis, keepdims=keepdims))
    return found


def any_(a: Any, axis: Any = None, out: Any = None, keepdims: Any = GIVEN, *, where: Any = GIVEN) -> Tracer:
    refuse_out(out, "any")
    return _truth(r.Any, False, a, axis, keepdims, where)


def all_(a: Any, axis: Any = None, out: Any = None, keepdims: Any = GIVEN, *, where: Any = GIVEN) -> Tracer:
    refuse_out(out, "all")
    return _truth(r.All, True, a, axis, keepdims, where)


def _truth(op: type[Value], neutral: bool, a: Any, axis: Any, keepdims: Any, where: Any) -> Tracer:
    value = masked(convert(unwrap(lift(a)), bool_), where, neutral)
    axes = axes_of(_given(axis), value.rank)
    return wrap(keep(op(value, axes) if axes else value, axes, keepdims))


def count_nonzero(a: Any, axis: Any = None, *, keepdims: Any = False) -> Tracer:
    return sum_(wrap(convert(unwrap(lift(a)), bool_)), axis, np.intp, keepdims=keepdims)


# --- means and spreads --------------------------------------------------------------------------------------------


def _count(value: Value, axes: tuple[int, ...], where: Any, kind: DType) -> Value:
    """How many elements are combined, as a number of `kind`: a scalar, or one per result under a mask."""
    if _given(where, True) is True:
        size = product(value.shape[i] for i in axes)
        return Full(size, TensorType((), kind)) if type(size) is int else convert(size_value(size), kind)
    mask = broadcast(typed(where, bool_), value.shape)
    return convert(r.Sum(convert(mask, i64), axes), kind)


def mean_dtypes(given: DType, dtype: Any) -> tuple[DType, DType]:
    """The dtype in which a mean is computed and the one it is returned in."""
    asked = dtype_argument(dtype)
    if asked is not None:
        return asked, asked
    if given is bool_ or given.is_integer:
        return f64, f64
    return (f32, given) if given.is_float and given.bits < 32 else (given, given)


def mean(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = GIVEN, *, where: Any = GIVEN
) -> Tracer:
    refuse_out(out, "mean")
    value = unwrap(lift(a))
    inner, kind = mean_dtypes(value.dtype, dtype)
    if inner is bool_ or inner.is_integer:
        inner = f64
        value = convert(value, kind)
    axes = axes_of(_given(axis), value.rank)
    wide = convert(value, inner)
    if _given(where, True) is not True:
        wide = broadcast(
            wide, broadcast_shapes(wide.shape, np.shape(where) if not isinstance(where, Tracer) else where.shape)
        )
    total = _along(r.Sum, masked(wide, where, 0), axes)
    count = _count(wide, axes, where, inner)
    return wrap(convert(keep(total / broadcast(count, total.shape), axes, keepdims), kind))


def _spread(
    a: Any, axis: Any, dtype: Any, ddof: Any, keepdims: Any, where: Any, mean_: Any, correction: Any
) -> tuple[Value, DType]:
    """The variance in the dtype of its computation, and the dtype to return."""
    if _given(correction) is not None:
        if ddof != 0:
            raise InvalidValue(
                "ddof and correction can't be provided simultaneously",
                code="TD0822",
                location=here(),
                edit="one of the two",
            )
        ddof = correction
    value = unwrap(lift(a))
    inner, kind = mean_dtypes(value.dtype, dtype)
    axes = axes_of(_given(axis), value.rank)
    wide = convert(value, inner)
    if _given(where, True) is not True:
        wide = broadcast(
            wide, broadcast_shapes(wide.shape, np.shape(where) if not isinstance(where, Tracer) else where.shape)
        )
    count = _count(wide, axes, where, real_of(inner))
    if _given(mean_) is None:
        total = _along(r.Sum, masked(wide, where, 0), axes)
        centre = expand(total / broadcast(convert(count, inner), total.shape), axes)
    else:
        centre = typed(mean_, inner)
    off = Sub(wide, broadcast(centre, wide.shape))
    square = Mul(off, off) if inner.kind != "complex" else e.Real(Mul(off, e.Conj(off)))
    total = _along(r.Sum, masked(square, where, 0), axes)
    free = count - typed(ddof, count.dtype, count.shape)
    divisor = broadcast(e.Maximum(free, lift_number(0, free)), total.shape)
    return keep(total / divisor, axes, keepdims), real_of(kind)


def var(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = GIVEN, *,
    where: Any = GIVEN, mean: Any = GIVEN, correction: Any = GIVEN,
) -> Tracer:  # fmt: skip
    refuse_out(out, "var")
    found, kind = _spread(a, axis, dtype, ddof, keepdims, where, mean, correction)
    return wrap(convert(found, kind))


def std(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = GIVEN, *,
    where: Any = GIVEN, mean: Any = GIVEN, correction: Any = GIVEN,
) -> Tracer:  # fmt: skip
    refuse_out(out, "std")
    found, kind = _spread(a, axis, dtype, ddof, keepdims, where, mean, correction)
    return wrap(convert(e.Sqrt(found), kind))


def average(a: Any, axis: Any = None, weights: Any = None, returned: bool = False, *, keepdims: Any = GIVEN) -> Any:
    if weights is None:
        found = mean(a, axis, keepdims=keepdims)
        if not returned:
            return found
        value = unwrap(lift(a))
        count = _count(value, axes_of(axis, value.rank), GIVEN, found.value.dtype)
        return found, wrap(broadcast(count, found.shape))
    x, w = lift(a), lift(weights)
    kinds = [described(x), described(w)]
    integral = all(isinstance(k, DType) and k.kind in ("bool", "int", "uint") for k in kinds[:1])
    kind = result_type(*kinds, f64) if integral else result_type(*kinds)
    axes = axes_of(axis, x.ndim)
    wide = convert(unwrap(w), kind)
    if w.shape != x.shape:
        if axis is None:
            raise TypeMismatch(
                "axis must be given where the shapes of a and weights differ",
                code="TD0822",
                location=here(),
                edit="axis=, the axis of the weights",
            )
        if w.shape != tuple(x.shape[i] for i in axes):
            raise InvalidValue(
                "the shape of weights is not that of a along axis",
                code="TD0822",
                location=here(),
                edit="weights of the shape of a, or as many as a has along axis",
            )
        order = sorted(range(len(axes)), key=lambda i: axes[i])
        wide = expand(permute(wide, order), [i for i in range(x.ndim) if i not in axes])
        wide = broadcast(wide, x.shape)
    scale = r.Sum(wide, axes)
    total = r.Sum(Mul(convert(unwrap(x), kind), wide), axes)
    found = wrap(keep(total / scale, axes, keepdims))
    return (found, wrap(keep(scale, axes, keepdims))) if returned else found


# --- places and prefixes ------------------------------------------------------------------------------------------


def _place(op: type[Value], name: str, a: Any, axis: Any, keepdims: Any) -> Tracer:
    value = unwrap(lift(a))
    flat = axis is None
    rank = value.rank
    if flat:
        value = reshape(value, (value.tensor.size,))
    number = 0 if flat else axis_of(axis, rank)
    _not_empty(value, (number,), name)
    if value.dtype in FLOAT8:
        value = convert(value, f32)
    found = _complex_place(value, number, op is r.ArgMax) if value.dtype.kind == "complex" else op(value, number)
    if _given(keepdims, False):
        return wrap(reshape(found, (1,) * rank) if flat else expand(found, (number,)))
    return wrap(found)


def _complex_place(value: Value, axis: int, largest: bool) -> Value:
    """The first place that holds the extreme; a NaN is extreme."""
    extreme = unwrap(_extreme(largest, wrap(value), axis, True, GIVEN, GIVEN))
    same = e.Or(e.Eq(value, broadcast(extreme, value.shape)), e.IsNan(value))
    return r.ArgMax(same, axis)


def argmax(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = GIVEN) -> Tracer:
    refuse_out(out, "argmax")
    return _place(r.ArgMax, "argmax", a, axis, keepdims)


def argmin(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = GIVEN) -> Tracer:
    refuse_out(out, "argmin")
    return _place(r.ArgMin, "argmin", a, axis, keepdims)


def _prefixes(ufunc: np.ufunc, op: type[Value] | None, a: Any, axis: Any, dtype: Any) -> Tracer:
    x = lift(a)
    value = unwrap(x)
    if axis is None:
        value = reshape(value, (value.tensor.size,))
        axis = 0
    number = axis_of(axis, value.rank)
    _, gives = loop(ufunc, (described(x),), dtype_argument(dtype), casting="unsafe", reduction=True)
    if op is None or (gives[0].kind == "complex" and ufunc in (np.maximum, np.minimum)):
        order = (number, *(i for i in range(value.rank) if i != number))
        found = unwrap(prefixes(ufunc, wrap(permute(value, order)), dtype))
        return wrap(permute(found, (order.index(i) for i in range(value.rank))))
    wide = convert(value, gives[0])
    if wide.dtype in FLOAT8:
        return wrap(convert(op(convert(wide, f32), number), wide.dtype))
    return wrap(op(wide, number))


def cumsum(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Tracer:
    refuse_out(out, "cumsum")
    return _prefixes(np.add, r.CumSum, a, axis, dtype)


def cumprod(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Tracer:
    refuse_out(out, "cumprod")
    return _prefixes(np.multiply, r.CumProd, a, axis, dtype)


def _cumulative(op: Callable[..., Tracer], neutral: int) -> Callable[..., Tracer]:
    def cumulative(
        x: Any, /, *, axis: Any = None, dtype: Any = None, out: Any = None, include_initial: bool = False
    ) -> Tracer:
        given = lift(x)
        if axis is None and given.ndim > 1:
            raise InvalidValue(
                "axis is needed for arrays of more than one dimension",
                code="TD0822",
                location=here(),
                edit="axis=0, or np.ravel(x) first",
            )
        found = op(given, 0 if axis is None else axis, dtype, out)
        if not include_initial:
            return found
        number = axis_of(0 if axis is None else axis, found.ndim)
        value = unwrap(found)
        shape = tuple(1 if i == number else n for i, n in enumerate(value.shape))
        return wrap(Concatenate((Full(neutral, value.tensor.with_shape(shape)), value), number))

    return cumulative


# --- those that pass over NaN -------------------------------------------------------------------------------------


def numbers_of(a: Any, neutral: Any) -> tuple[Tracer, Tracer]:
    """The array with `neutral` for NaN, and where it is a number."""
    x = lift(a)
    value = unwrap(x)
    if not value.dtype.is_float and value.dtype.kind != "complex":
        return x, wrap(Full(True, value.tensor.with_dtype(bool_)))
    missing = unwrap(elementwise(np.isnan, x))
    filled = e.Select(missing, lift_number(neutral, value), value)
    return wrap(filled), wrap(e.Not(missing))


def nansum(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = GIVEN, initial: Any = GIVEN,
    where: Any = GIVEN,
) -> Tracer:  # fmt: skip
    return sum_(numbers_of(a, 0)[0], axis, dtype, out, keepdims, initial, where)


def nanprod(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = GIVEN, initial: Any = GIVEN,
    where: Any = GIVEN,
) -> Tracer:  # fmt: skip
    return prod(numbers_of(a, 1)[0], axis, dtype, out, keepdims, initial, where)


def _nan_extreme(largest: bool, a: Any, axis: Any, keepdims: Any, initial: Any, where: Any) -> Tracer:
    value = unwrap(lift(a))
    if value.dtype.kind == "complex":
        return ufunc_reduce(np.fmax if largest else np.fmin, a, _given(axis), None, None, keepdims, initial, where)
    if not value.dtype.is_float:
        return _extreme(largest, a, axis, keepdims, initial, where)
    filled, there = numbers_of(a, lowest(value.dtype) if largest else highest(value.dtype))
    found = _extreme(largest, filled, axis, keepdims, initial, where)
    if _given(initial) is not None:
        return found
    none = e.Not(unwrap(any_(there, axis, keepdims=keepdims)))
    return wrap(e.Select(none, lift_number(float("nan"), found.value), found.value))


def nanmax(
    a: Any, axis: Any = None, out: Any = None, keepdims: Any = GIVEN, initial: Any = GIVEN, where: Any = GIVEN
) -> Tracer:
    refuse_out(out, "nanmax")
    return _nan_extreme(True, a, axis, keepdims, initial, where)


def nanmin(
    a: Any, axis: Any = None, out: Any = None, keepdims: Any = GIVEN, initial: Any = GIVEN, where: Any = GIVEN
) -> Tracer:
    refuse_out(out, "nanmin")
    return _nan_extreme(False, a, axis, keepdims, initial, where)


def nanmean(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = GIVEN, *, where: Any = GIVEN
) -> Tracer:
    filled, there = numbers_of(a, 0)
    return mean(filled, axis, dtype, out, keepdims, where=_both(there, where))


def _both(there: Tracer, where: Any) -> Tracer:
    if _given(where, True) is True:
        return there
    found: Tracer = elementwise(np.logical_and, there, where)
    return found


def _nan_spread(
    a: Any, axis: Any, dtype: Any, ddof: Any, keepdims: Any, where: Any, mean_: Any, correction: Any
) -> Any:
    filled, there = numbers_of(a, 0)
    if lift(a).value.dtype.kind not in ("float", "complex"):
        return _spread(a, axis, dtype, ddof, keepdims, where, mean_, correction)
    found, kind = _spread(filled, axis, dtype, ddof, keepdims, _both(there, where), mean_, correction)
    free = _given(correction) if _given(correction) is not None else ddof
    count = unwrap(sum_(wrap(convert(unwrap(there), i64)), axis, keepdims=keepdims))
    few = convert(count, f64) <= float(free)
    return e.Select(few, lift_number(float("nan"), found), found), kind


def nanvar(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = GIVEN, *,
    where: Any = GIVEN, mean: Any = GIVEN, correction: Any = GIVEN,
) -> Tracer:  # fmt: skip
    refuse_out(out, "nanvar")
    found, kind = _nan_spread(a, axis, dtype, ddof, keepdims, where, mean, correction)
    return wrap(convert(found, kind))


def nanstd(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = GIVEN, *,
    where: Any = GIVEN, mean: Any = GIVEN, correction: Any = GIVEN,
) -> Tracer:  # fmt: skip
    refuse_out(out, "nanstd")
    found, kind = _nan_spread(a, axis, dtype, ddof, keepdims, where, mean, correction)
    return wrap(convert(e.Sqrt(found), kind))


def _nan_place(largest: bool, a: Any, axis: Any, keepdims: Any) -> Tracer:
    value = unwrap(lift(a))
    neutral: Any = (lowest(value.dtype) if largest else highest(value.dtype)) if value.dtype.is_float else 0
    if value.dtype.kind == "complex":
        neutral = complex(-math.inf if largest else math.inf, 0)
    return _place(r.ArgMax if largest else r.ArgMin, "nanarg", numbers_of(a, neutral)[0], axis, keepdims)


def nanargmax(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = GIVEN) -> Tracer:
    refuse_out(out, "nanargmax")
    return _nan_place(True, a, axis, keepdims)


def nanargmin(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = GIVEN) -> Tracer:
    refuse_out(out, "nanargmin")
    return _nan_place(False, a, axis, keepdims)


def nancumsum(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Tracer:
    return cumsum(numbers_of(a, 0)[0], axis, dtype, out)


def nancumprod(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Tracer:
    return cumprod(numbers_of(a, 1)[0], axis, dtype, out)


# --- the methods of ufuncs ----------------------------------------------------------------------------------------


def ufunc_reduce(
    ufunc: np.ufunc, a: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: Any = False,
    initial: Any = GIVEN, where: Any = True,
) -> Tracer:  # fmt: skip
    """`ufunc.reduce`: by the reduction of that name, else folded from the left."""
    refuse_out(out, f"{ufunc.__name__}.reduce")
    match ufunc:
        case np.add:
            return sum_(a, axis, dtype, None, keepdims, initial, where)
        case np.multiply:
            return prod(a, axis, dtype, None, keepdims, initial, where)
        case np.maximum | np.minimum:
            return _extreme(ufunc is np.maximum, a, axis, keepdims, initial, where, dtype)
        case np.logical_or if _given(initial) is None:
            return any_(a, axis, None, keepdims, where=where)
        case np.logical_and if _given(initial) is None:
            return all_(a, axis, None, keepdims, where=where)
    x = lift(a)
    masked_ = _given(where, True) is not True
    if masked_:
        chosen = typed(where, bool_)
        shape = broadcast_shapes(x.shape, chosen.shape)
        x, chosen = wrap(broadcast(unwrap(x), shape)), broadcast(chosen, shape)
    axes = axes_of(axis, x.ndim)
    if not axes:
        return x
    if len(axes) > 1 and not _reorderable(ufunc):
        raise InvalidValue(
            f"reduction operation '{ufunc.__name__}' is not reorderable, so at most one axis may be specified",
            code="TD0822",
            location=here(),
            edit="one axis at a time",
        )
    begin = _given(initial) if _given(initial) is not None else None
    identity = ufunc.identity
    empty = type(x.shape[axes[0]]) is int and x.shape[axes[0]] == 0
    if begin is None and identity is not None and (empty or masked_):
        begin = np.asarray(identity)[()]  # -1 has all bits of an unsigned type, too
    if begin is None and masked_:
        raise InvalidValue(
            f"{ufunc.__name__}.reduce(where=) needs initial=: there may be nothing to begin with",
            code="TD0822",
            location=here(),
            edit="initial=, which is the result where nothing is there",
        )
    mask = front(chosen, axes) if masked_ else None
    found = fold(ufunc, wrap(front(unwrap(x), axes)), dtype, begin, mask)
    return wrap(keep(unwrap(found), axes, keepdims))


def _reorderable(ufunc: np.ufunc) -> bool:
    return ufunc.identity is not None or ufunc in (np.maximum, np.minimum, np.fmax, np.fmin)


def ufunc_accumulate(ufunc: np.ufunc, a: Any, axis: Any = 0, dtype: Any = None, out: Any = None) -> Tracer:
    """`ufunc.accumulate`: by the prefixes of that name, else folded from the left."""
    refuse_out(out, f"{ufunc.__name__}.accumulate")
    if ufunc is np.ldexp:
        raise not_traced("numpy.ldexp.accumulate")
    known: Mapping[np.ufunc, type[Value]] = {
        np.add: r.CumSum, np.multiply: r.CumProd, np.maximum: r.CumMax, np.minimum: r.CumMin,
    }  # fmt: skip
    return _prefixes(ufunc, known.get(ufunc), a, axis, dtype)


def ufunc_reduceat(ufunc: np.ufunc, a: Any, indices: Any, axis: Any = 0, dtype: Any = None, out: Any = None) -> Tracer:
    """`ufunc.reduceat` at indices that are known: each piece is reduced by itself."""
    refuse_out(out, f"{ufunc.__name__}.reduceat")
    if ufunc is np.ldexp:
        raise not_traced("numpy.ldexp.reduceat")
    value = unwrap(lift(a))
    number = axis_of(axis, value.rank)
    size = value.shape[number]
    places = known(indices, "indices").tolist()
    pieces: list[Value] = []
    for i, low in enumerate(places):
        last = i + 1 == len(places)
        high: Dim = size if last else places[i + 1]
        if not last and places[i + 1] <= low:
            high = low + 1
        start, stop = [0] * value.rank, list(value.shape)
        start[number], stop[number] = low, high
        part = Slice(value, tuple(start), tuple(stop), (1,) * value.rank)
        pieces.append(unwrap(ufunc_reduce(ufunc, wrap(part), number, dtype, keepdims=True)))
    return wrap(Concatenate(tuple(pieces), number))


def ufunc_outer(ufunc: np.ufunc, x: Any, y: Any, **kwargs: Any) -> Any:
    return outer(ufunc, x, y, **kwargs)


TABLE: Final[Mapping[Any, Callable[..., Any]]] = {
    np.all: all_,
    np.amax: max_,
    np.amin: min_,
    np.any: any_,
    np.argmax: argmax,
    np.argmin: argmin,
    np.average: average,
    np.count_nonzero: count_nonzero,
    np.cumprod: cumprod,
    np.cumsum: cumsum,
    getattr(np, "cumulative_prod", None): _cumulative(cumprod, 1),
    getattr(np, "cumulative_sum", None): _cumulative(cumsum, 0),
    np.max: max_,
    np.mean: mean,
    np.min: min_,
    np.nanargmax: nanargmax,
    np.nanargmin: nanargmin,
    np.nancumprod: nancumprod,
    np.nancumsum: nancumsum,
    np.nanmax: nanmax,
    np.nanmean: nanmean,
    np.nanmin: nanmin,
    np.nanprod: nanprod,
    np.nanstd: nanstd,
    np.nansum: nansum,
    np.nanvar: nanvar,
    np.prod: prod,
    np.ptp: ptp,
    np.std: std,
    np.sum: sum_,
    np.var: var,
}
