"""Order statistics, histograms and correlations.

Quantiles sort once and read the neighbours of each place; which places and weights a method means is asked of NumPy,
on the numbers 0..n-1, where q and n are known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from ...ir.dims import floordiv, product
from ...ir.dtypes import DType, bool_, f64, i64, real_of
from ...ir.errors import InvalidValue, TypeMismatch, Unsupported
from ...ir.ops import elementwise as e
from ...ir.ops.indexing import Gather, Scatter, take_along
from ...ir.ops.movement import Concatenate
from ...ir.ops.reduce import Sum
from ...ir.types import TensorType
from ...ir.value import Full, Lt, Mul, Value
from ..arrays import (
    any_traced,
    axes_of,
    broadcast,
    convert,
    described,
    dtype_argument,
    entries,
    expand,
    known,
    lift,
    permute,
    reshape,
    size_value,
    static_dim,
    static_int,
    typed,
)  # fmt: skip
from ..promotion import result_type
from ..trace import here
from ..tracer import Tracer, unwrap, wrap
from .creation import linspace
from .linear import dot
from .reductions import GIVEN, average, front, keep, max_, mean, min_, sum_
from .shaping import cut, diagonal, taken
from .sorting import searchsorted, sort
from .ufuncs import elementwise, refuse_out


def _sorted_first(a: Any, axis: Any) -> tuple[Value, tuple[int, ...]]:
    """The array with the axes joined, first, and sorted along that axis."""
    value = unwrap(lift(a))
    axes = axes_of(None if axis is GIVEN else axis, value.rank)
    moved = front(value, axes)
    return unwrap(sort(wrap(moved), 0)), axes


def _spoilt(ordered: Value) -> Value | None:
    """Where a NaN is among the sorted: it is the last one. None for types without."""
    if not ordered.dtype.is_float and ordered.dtype.kind != "complex":
        return None
    last = cut(ordered, 0, ordered.shape[0] - 1, ordered.shape[0])
    return e.IsNan(reshape(last, ordered.shape[1:]))


def median(a: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, keepdims: Any = False) -> Tracer:
    refuse_out(out, "median")
    ordered, axes = _sorted_first(a, axis)
    count = ordered.shape[0]
    if type(count) is int and count == 0:
        return mean(a, axis, keepdims=keepdims)
    low, high = floordiv(count - 1, 2), floordiv(count, 2) + 1
    if type(count) is int:
        found = unwrap(mean(wrap(cut(ordered, 0, low, high)), 0))
    else:
        # An odd count has one middle, read twice.
        middle = [wrap(cut(ordered, 0, place, place + 1)) for place in (low, high - 1)]
        found = unwrap(mean(wrap(Concatenate(tuple(unwrap(m) for m in middle), 0)), 0))
    spoilt = _spoilt(ordered)
    if spoilt is not None:
        found = e.Select(spoilt, Full(float("nan"), found.tensor), found)
    return wrap(keep(found, axes, keepdims))


def quantile(
    a: Any, q: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, method: str = "linear",
    keepdims: Any = False, *, weights: Any = None,
) -> Tracer:  # fmt: skip
    refuse_out(out, "quantile")
    return _quantile(a, q, axis, method, keepdims, weights, 1.0)


def percentile(
    a: Any, q: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, method: str = "linear",
    keepdims: Any = False, *, weights: Any = None,
) -> Tracer:  # fmt: skip
    refuse_out(out, "percentile")
    return _quantile(a, q, axis, method, keepdims, weights, 100.0)


def _quantile(a: Any, q: Any, axis: Any, method: str, keepdims: Any, weights: Any, whole: float) -> Tracer:
    if weights is not None:
        raise Unsupported(
            "quantiles with weights", code="TD0813", location=here(), edit="sort, then np.cumsum of the weights"
        )
    value = unwrap(lift(a))
    if value.dtype.kind == "complex":
        raise TypeMismatch(
            "a must be an array of real numbers", code="TD0816", location=here(), edit="a.real, or np.abs(a)"
        )
    if value.dtype is bool_:
        raise TypeMismatch(
            "quantiles of bool are not defined", code="TD0816", location=here(), edit="quantiles of x.astype(int)"
        )
    ordered, axes = _sorted_first(a, axis)
    count = ordered.shape[0]
    rank_q = lift(q).ndim
    if lift(q).value.dtype.kind == "complex":
        raise TypeMismatch(f"q is {lift(q).value.type}", code="TD0816", location=here(), edit="q.real")
    if any_traced(q) or type(count) is not int:
        if method != "linear":
            raise Unsupported(
                f"method={method!r} with a traced q or a symbolic size",
                code="TD0813",
                location=here(),
                edit="use method='linear'",
            )
        found = _interpolated(ordered, q, whole)
    else:
        found = _known_quantile(ordered, q, method, whole, value.dtype)
    spoilt = _spoilt(ordered)
    if spoilt is not None:
        found = e.Select(broadcast(spoilt, found.shape), Full(float("nan"), found.tensor), found)
    kept = expand(found, tuple(axis + rank_q for axis in axes)) if keepdims and keepdims is not GIVEN else found
    return wrap(kept)


def _known_quantile(ordered: Value, q: Any, method: str, whole: float, given: DType) -> Value:
    """Places and weights from NumPy itself, on the numbers 0..n-1."""
    count = ordered.shape[0]
    assert type(count) is int
    function: Callable[..., Any] = np.percentile if whole == 100.0 else np.quantile
    try:
        places = np.asarray(function(np.arange(count), q, method=method), np.float64)
        sample = np.asarray(
            function(np.zeros(2, given.numpy if given.numpy.kind in "iuf" else np.float32), q, method=method)
        )
    except (ValueError, TypeError) as error:
        raise InvalidValue(str(error), code="TD0822", location=here(), edit="method='linear'") from None
    low = np.floor(places).astype(np.int64)
    part = places - low
    kind = given if given.numpy.kind not in "iuf" else dtype_argument(sample.dtype) or given
    before = convert(taken(ordered, low, 0), kind)
    if not part.any():
        return before
    after = convert(taken(ordered, np.minimum(low + 1, count - 1), 0), kind)
    return _between(before, after, typed(part.reshape((*part.shape, *(1,) * (ordered.rank - 1))), kind, before.shape))


def _between(before: Value, after: Value, part: Value) -> Value:
    """Interpolation as NumPy's: from the nearer end."""
    gap, share = after - before, convert(part, after.dtype)
    return e.Select(part < 0.5, before + Mul(gap, share), after - Mul(gap, 1.0 - share))


def _interpolated(ordered: Value, q: Any, whole: float) -> Value:
    """The linear method where q or the size is computed."""
    share = unwrap(lift(q))
    if share.dtype.is_integer and whole == 1.0:
        # 0 and 1: the first and the last, in the dtype of the numbers.
        last = broadcast(convert(size_value(ordered.shape[0] - 1), i64), share.shape)
        return _read(ordered, Mul(convert(share, i64), last), ordered.dtype)
    kind = result_type(described(lift(q)), ordered.dtype, float)
    share = convert(share, kind)
    if whole != 1.0:
        share = share / whole
    last = broadcast(convert(size_value(ordered.shape[0] - 1), kind), share.shape)
    return _at_places(ordered, Mul(share, last), kind)


def _at_places(ordered: Value, places: Value, kind: DType) -> Value:
    """`ordered` read at fractional places along its first axis."""
    low = e.Floor(places)
    part = places - low
    index = convert(low, i64)
    end = broadcast(size_value(ordered.shape[0] - 1), index.shape)
    before, after = (_read(ordered, e.Minimum(at, end), kind) for at in (index, index + 1))
    spread = reshape(part, (*part.shape, *(1,) * (ordered.rank - 1)))
    return _between(before, after, broadcast(spread, before.shape))


def _read(ordered: Value, index: Value, kind: DType) -> Value:
    return convert(Gather(ordered, (index,), (0,), "clip"), kind)


# --- those that pass over NaN -------------------------------------------------------------------------------------


def _nan_quantile(a: Any, q: Any, axis: Any, keepdims: Any, whole: float, name: str, method: str) -> Tracer:
    value = unwrap(lift(a))
    half = name == "nanmedian"
    if not value.dtype.is_float and not (half and value.dtype.kind == "complex"):
        return median(a, axis, keepdims=keepdims) if half else _quantile(a, q, axis, method, keepdims, None, whole)
    if method != "linear":
        raise Unsupported(f"{name}(method={method!r})", code="TD0813", location=here(), edit="use method='linear'")
    ordered, axes = _sorted_first(a, axis)
    there = e.Not(e.IsNan(ordered))
    count = Sum(convert(there, i64), (0,))
    share = lift(q)
    inner = value.dtype if half else result_type(described(share), value.dtype, float)
    kind = real_of(inner)
    wide = typed(share, kind)
    if whole != 1.0:
        wide = wide / whole
    rank = share.ndim
    shape = (*share.shape, *ordered.shape[1:])
    last = convert(broadcast(e.Maximum(count - 1, Full(0, count.tensor)), shape), kind)
    places = Mul(broadcast(reshape(wide, (*wide.shape, *(1,) * (ordered.rank - 1))), shape), last)
    low = e.Floor(places)
    part = places - low
    flat = (product(share.shape), *ordered.shape[1:])
    end = convert(reshape(last, flat), i64)
    index = reshape(convert(low, i64), flat)
    before, after = (convert(take_along(ordered, e.Minimum(at, end), 0, "clip"), inner) for at in (index, index + 1))
    found = reshape(_between(before, after, reshape(part, flat)), shape)
    none = broadcast(e.Eq(count, Full(0, count.tensor)), shape)
    found = e.Select(none, Full(float("nan"), found.tensor), found)
    return wrap(expand(found, tuple(axis + rank for axis in axes)) if keepdims and keepdims is not GIVEN else found)


def nanmedian(
    a: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, keepdims: Any = GIVEN
) -> Tracer:
    refuse_out(out, "nanmedian")
    return _nan_quantile(a, 0.5, axis, keepdims, 1.0, "nanmedian", "linear")


def nanquantile(
    a: Any, q: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, method: str = "linear",
    keepdims: Any = GIVEN, *, weights: Any = None,
) -> Tracer:  # fmt: skip
    refuse_out(out, "nanquantile")
    return _nan_quantile(a, q, axis, keepdims, 1.0, "nanquantile", method)


def nanpercentile(
    a: Any, q: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, method: str = "linear",
    keepdims: Any = GIVEN, *, weights: Any = None,
) -> Tracer:  # fmt: skip
    refuse_out(out, "nanpercentile")
    return _nan_quantile(a, q, axis, keepdims, 100.0, "nanpercentile", method)


# --- counting -----------------------------------------------------------------------------------------------------


def bincount(x: Any, /, weights: Any = None, minlength: Any = 0) -> Tracer:
    index = unwrap(lift(x))
    if index.rank != 1 or not (index.dtype.is_integer or index.dtype is bool_):
        raise TypeMismatch(
            "bincount takes a 1-d array of integers", code="TD0822", location=here(), edit="np.ravel(x).astype(int)"
        )
    if weights is not None and unwrap(lift(weights)).dtype.kind == "complex":
        raise TypeMismatch(
            "bincount: the weights must be real",
            code="TD0816",
            location=here(),
            edit="the real and the imaginary parts one by one",
        )
    length = static_dim(minlength, "minlength")
    if not any_traced(x):
        places = known(x, "x")
        length = max(static_int(minlength, "minlength"), int(places.max()) + 1 if places.size else 0)
    elif type(length) is int and length == 0:
        raise Unsupported(
            "bincount: the length of the result depends on the values of x, which are traced",
            code="TD0811",
            location=here(),
            edit="give minlength=n; a number that is not below n then raises IndexError",
        )
    index = convert(index, i64)
    if weights is None:
        return wrap(_counted(index, Full(1, index.tensor), length, i64))
    wide = convert(unwrap(lift(weights)), f64)
    if wide.shape != index.shape:
        raise InvalidValue(
            "The weights and list don't have the same length.",
            code="TD0822",
            location=here(),
            edit="a weight for each number",
        )
    return wrap(_counted(index, wide, length, f64))


def _counted(index: Value, amounts: Value, length: Any, kind: DType) -> Value:
    # A negative number is no place here: sent outside, so that it raises.
    index = e.Select(Lt(index, Full(0, index.tensor)), broadcast(size_value(length), index.shape), index)
    return Scatter(Full(0, TensorType((length,), kind)), (index,), amounts, (0,), "add", "raise")


def _edges(a: Any, bins: Any, range_: Any, name: str) -> Tracer:
    """The edges of the bins, as NumPy places them."""
    if isinstance(bins, str):
        raise Unsupported(
            f"{name}(bins={bins!r}): the number of bins depends on traced values",
            code="TD0811",
            location=here(),
            edit="give bins as a number or as edges",
        )
    if isinstance(bins, Tracer | np.ndarray | list | tuple) and lift(bins).ndim > 0:
        return lift(bins)
    count = static_int(bins, "bins")
    if count < 1:
        raise InvalidValue(
            "`bins` must be positive, when an integer", code="TD0822", location=here(), edit="bins=1 or more"
        )
    x = lift(a)
    kind = result_type(x.value.dtype, *((f64,) if x.value.dtype.is_integer or x.value.dtype is bool_ else ()))
    if range_ is not None:
        low, high = entries(range_, "range", 2)
        if not any_traced((low, high)) and low > high:
            raise InvalidValue(
                "max must be larger than min in range parameter.",
                code="TD0822",
                location=here(),
                edit="range=(lowest, highest)",
            )
        first, last = typed(low, kind, ()), typed(high, kind, ())
    elif type(x.size) is int and x.size == 0:
        first, last = Full(0.0, TensorType((), kind)), Full(1.0, TensorType((), kind))
    else:
        first, last = convert(unwrap(min_(x)), kind), convert(unwrap(max_(x)), kind)
    same = e.Eq(first, last)
    first, last = e.Select(same, first - 0.5, first), e.Select(same, last + 0.5, last)
    found: Tracer = linspace(wrap(first), wrap(last), count + 1, dtype=kind.numpy)
    return found


def histogram_bin_edges(a: Any, bins: Any = 10, range: Any = None, weights: Any = None) -> Tracer:
    return _edges(a, bins, range, "histogram_bin_edges")


def histogram(
    a: Any, bins: Any = 10, range: Any = None, density: Any = None, weights: Any = None
) -> tuple[Tracer, Tracer]:
    edges = _edges(a, bins, range, "histogram")
    value = unwrap(lift(a))
    flat = wrap(reshape(value, (value.tensor.size,)))
    counts = wrap(_histogram([flat], [edges], weights))
    if not density:
        return counts, edges
    widths = elementwise(np.subtract, edges[1:], edges[:-1])
    total = sum_(counts)
    return elementwise(
        np.true_divide, elementwise(np.true_divide, counts, elementwise(np.multiply, widths, 1.0)), total
    ), edges


def _histogram(columns: Sequence[Tracer], edges: Sequence[Tracer], weights: Any) -> Value:
    """Counts on a grid: an element beside the grid is dropped, the last edge belongs to the last bin."""
    indices: list[Value] = []
    shape = tuple(edge.shape[0] - 1 for edge in edges)
    outside: Value | None = None
    for column, edge in zip(columns, edges, strict=True):
        place = unwrap(searchsorted(edge, column, "right")) - 1
        count = broadcast(size_value(edge.shape[0] - 1), place.shape)
        last = unwrap(elementwise(np.equal, column, edge[-1]))
        place = e.Select(last, count - 1, place)
        wrong = e.Or(place < 0, e.Not(place < count))
        if column.value.dtype.is_float:
            wrong = e.Or(wrong, e.IsNan(unwrap(column)))
        outside = wrong if outside is None else e.Or(outside, wrong)
        indices.append(place)
    assert outside is not None
    # One index outside drops the element.
    indices = [e.Select(outside, broadcast(size_value(n), at.shape), at) for at, n in zip(indices, shape, strict=True)]
    if weights is None:
        amounts: Value = Full(1, indices[0].tensor)
        kind: DType = i64
    else:
        given = unwrap(lift(weights))
        amounts = reshape(given, (given.tensor.size,))
        kind = amounts.dtype
    target = Full(0, TensorType(shape, kind))
    return Scatter(target, tuple(indices), amounts, tuple(np.arange(len(shape)).tolist()), "add", "drop")


def histogramdd(
    sample: Any, bins: Any = 10, range: Any = None, density: Any = None, weights: Any = None
) -> tuple[Tracer, tuple[Tracer, ...]]:
    if isinstance(sample, Tracer | np.ndarray):
        x = lift(sample)
        x = wrap(reshape(unwrap(x), (x.shape[0], 1))) if x.ndim == 1 else x
        columns = [x[:, i] for i in np.arange(static_int(x.shape[1], "the number of columns")).tolist()]
    else:
        columns = [lift(column) for column in sample]
        if any(column.shape != columns[0].shape for column in columns):
            raise InvalidValue(
                f"histogramdd: columns of {' and '.join(str(column.value.type) for column in columns)}",
                code="TD0822",
                location=here(),
                edit="an element of each for every point",
            )
    rank = len(columns)
    each = (
        list(bins) if isinstance(bins, tuple | list) or (isinstance(bins, np.ndarray) and bins.ndim) else [bins] * rank
    )
    ranges = [None] * rank if range is None else list(entries(range, "range", rank))
    if len(each) != rank:
        raise InvalidValue(
            f"histogramdd: bins for {len(each)} columns, the sample has {rank}",
            code="TD0822",
            location=here(),
            edit="a number for all columns, or an entry for each; a sample has its points in rows",
        )
    edges = [_edges(c, b, r, "histogramdd") for c, b, r in zip(columns, each, ranges, strict=True)]
    if weights is None:
        counts = convert(_histogram(columns, edges, None), f64)
    else:
        counts = _histogram(columns, edges, wrap(convert(unwrap(lift(weights)), f64)))
    found = wrap(counts)
    if density:
        total = sum_(found)
        for i, edge in enumerate(edges):
            width = elementwise(np.subtract, edge[1:], edge[:-1])
            shape = tuple(n if i == j else 1 for j, n in enumerate(found.shape))
            found = elementwise(np.true_divide, found, wrap(reshape(unwrap(width), shape)))
        found = elementwise(np.true_divide, found, total)
    return found, tuple(edges)


def histogram2d(
    x: Any, y: Any, bins: Any = 10, range: Any = None, density: Any = None, weights: Any = None
) -> tuple[Tracer, Tracer, Tracer]:
    alone = isinstance(bins, Tracer | np.ndarray | list | tuple) and len(bins) not in (1, 2)
    given = [bins, bins] if alone or not isinstance(bins, list | tuple) else (list(bins) * 2)[:2]
    found, edges = histogramdd([x, y], given, range, density, weights)
    return found, edges[0], edges[1]


# --- correlation --------------------------------------------------------------------------------------------------


def cov(
    m: Any, y: Any = None, rowvar: bool = True, bias: bool = False, ddof: Any = None, fweights: Any = None,
    aweights: Any = None, *, dtype: Any = None,
) -> Tracer:  # fmt: skip
    if fweights is not None:
        raise Unsupported(
            "cov with fweights", code="TD0813", location=here(), edit="repeat the observations, or use aweights"
        )
    kinds = [x.value.dtype for x in map(lift, (m,) if y is None else (m, y))]
    kind = dtype_argument(dtype) or result_type(*kinds, f64)
    x = _rows(m, kind, rowvar)
    if y is not None:
        x = Concatenate((x, _rows(y, kind, rowvar)), 0)
    free = static_int(ddof, "ddof") if ddof is not None else int(not bias)
    count = convert(size_value(x.shape[1]), f64)
    w: Value | None = None
    if aweights is None:
        centre = unwrap(average(wrap(x), 1))
        factor = count - float(free)
    else:
        weights = convert(unwrap(lift(aweights)), f64)
        centre = unwrap(average(wrap(x), 1, wrap(weights)))
        w = weights
        total = Sum(w, (0,))
        factor = total if free == 0 else total - Sum(Mul(w, w), (0,)) * float(free) / total
    centred = x - broadcast(reshape(centre, (x.shape[0], 1)), x.shape)
    turned = centred if w is None else Mul(centred, broadcast(convert(w, centred.dtype), centred.shape))
    turned = permute(turned, (1, 0))
    if turned.dtype.kind == "complex":
        turned = e.Conj(turned)
    found = unwrap(dot(wrap(centred), wrap(turned)))
    safe = e.Maximum(factor, Full(0.0, factor.tensor))
    scaled = found / broadcast(convert(safe, found.dtype), found.shape)
    shape = tuple(n for n in scaled.shape if n != 1)
    return wrap(reshape(scaled, shape))


def _rows(m: Any, kind: DType, rowvar: bool) -> Value:
    value = convert(unwrap(lift(m)), kind)
    if value.rank > 2:
        raise InvalidValue("m has more than 2 dimensions", code="TD0822", location=here(), edit="m.reshape(len(m), -1)")
    value = expand(value, range(2 - value.rank))
    return value if rowvar or value.shape[0] == 1 else permute(value, (1, 0))


def corrcoef(x: Any, y: Any = None, rowvar: bool = True, *, dtype: Any = None) -> Tracer:
    c = unwrap(cov(x, y, rowvar, dtype=dtype))
    if c.rank == 0:
        return wrap(c / c)
    d = unwrap(diagonal(wrap(c)))
    spread = e.Sqrt(e.Real(d) if d.dtype.kind == "complex" else d)
    wide = convert(spread, c.dtype)
    size = c.shape[0]
    found = c / broadcast(reshape(wide, (size, 1)), c.shape) / broadcast(wide, c.shape)
    if found.dtype.kind == "complex":
        parts = [e.Clamp(part(found), *_unit(part(found))) for part in (e.Real, e.Imag)]
        return wrap(e.Complex(*parts))
    return wrap(e.Clamp(found, *_unit(found)))


def _unit(like: Value) -> tuple[Value, Value]:
    return Full(-1.0, like.tensor), Full(1.0, like.tensor)


TABLE: Final[Mapping[Any, Callable[..., Any]]] = {
    np.bincount: bincount,
    np.corrcoef: corrcoef,
    np.cov: cov,
    np.histogram: histogram,
    np.histogram2d: histogram2d,
    np.histogram_bin_edges: histogram_bin_edges,
    np.histogramdd: histogramdd,
    np.median: median,
    np.nanmedian: nanmedian,
    np.nanpercentile: nanpercentile,
    np.nanquantile: nanquantile,
    np.percentile: percentile,
    np.quantile: quantile,
}
