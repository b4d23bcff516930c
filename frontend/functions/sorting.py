"""Order: sort, argsort, lexsort, partitions, searches in sorted arrays. NaN is last, as in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from ...ir.dtypes import FLOAT8, c64, c128, f32, i64
from ...ir.errors import InvalidValue, Unsupported
from ...ir.ops import elementwise as e
from ...ir.ops.indexing import ArgSort, SearchSorted, Sort
from ...ir.ops.movement import Iota, Reverse
from ...ir.value import Get, Value
from ..arrays import (
    any_traced,
    axis_of,
    broadcast,
    broadcast_shapes,
    convert,
    described,
    lift,
    reshape,
    size_value,
    static_int,
)
from ..promotion import result_type
from ..trace import here
from ..tracer import Tracer, unwrap, wrap
from .selection import take


def _along(a: Any, axis: Any) -> tuple[Value, int]:
    value = unwrap(lift(a))
    if axis is None:
        return reshape(value, (value.tensor.size,)), 0
    return value, axis_of(axis, value.rank)


def _no_fields(order: Any) -> None:
    if order is not None:
        raise InvalidValue(
            "an array without fields cannot be sorted by them (order=)",
            code="TD0822",
            location=here(),
            edit="leave order out",
        )


def sort(a: Any, axis: Any = -1, kind: Any = None, order: Any = None, *, stable: Any = None) -> Tracer:
    _no_fields(order)
    value, number = _along(a, axis)
    if value.dtype.kind == "complex":
        found = Sort((e.Real(value), e.Imag(value)), number, 2)
        return wrap(e.Complex(Get(found, 0), Get(found, 1)))
    if value.dtype in FLOAT8:
        return wrap(convert(Get(Sort((convert(value, f32),), number), 0), value.dtype))
    return wrap(Get(Sort((value,), number), 0))


def argsort(a: Any, axis: Any = -1, kind: Any = None, order: Any = None, *, stable: Any = None) -> Tracer:
    _no_fields(order)
    value, number = _along(a, axis)
    if value.dtype.kind == "complex":
        return wrap(_permutation([e.Real(value), e.Imag(value)], number))
    return wrap(ArgSort(convert(value, f32) if value.dtype in FLOAT8 else value, number))


def _permutation(keys: Sequence[Value], axis: int) -> Value:
    places = Iota(keys[0].tensor.with_dtype(i64), axis)
    return Get(Sort((*keys, places), axis, len(keys)), len(keys))


def sort_complex(a: Any) -> Tracer:
    value = unwrap(sort(a))
    if value.dtype.kind == "complex":
        return wrap(value)
    # NumPy asks only whether two bytes hold the type: f32 becomes c128.
    return wrap(convert(value, c64 if value.dtype.is_integer and value.dtype.bits <= 16 else c128))


def lexsort(keys: Any, axis: Any = -1) -> Tracer:
    given = [unwrap(x) for x in lift(keys)] if isinstance(keys, Tracer) else [unwrap(lift(key)) for key in keys]
    if not given:
        raise InvalidValue(
            "need sequence of keys with len > 0 in lexsort",
            code="TD0822",
            location=here(),
            edit="np.lexsort((minor, major))",
        )
    shape = broadcast_shapes(*(key.shape for key in given))
    ordered = [broadcast(key, shape) for key in reversed(given)]
    parts = [p for key in ordered for p in ((e.Real(key), e.Imag(key)) if key.dtype.kind == "complex" else (key,))]
    return wrap(_permutation(parts, axis_of(axis, len(shape))))


def partition(a: Any, kth: Any, axis: Any = -1, kind: str = "introselect", order: Any = None) -> Tracer:
    """A sorted array is partitioned at every place."""
    _places(a, kth, axis)
    return sort(a, axis)


def argpartition(a: Any, kth: Any, axis: Any = -1, kind: str = "introselect", order: Any = None) -> Tracer:
    _places(a, kth, axis)
    return argsort(a, axis)


def _places(a: Any, kth: Any, axis: Any) -> None:
    value, number = _along(a, axis)
    size = value.shape[number]
    for k in kth if isinstance(kth, tuple | list | np.ndarray) else (kth,):
        place = static_int(k, "kth")
        if type(size) is int and not -size <= place < size:
            raise InvalidValue(
                f"kth(={place}) out of bounds ({size})",
                code="TD0822",
                location=here(),
                edit=f"a kth from {-size} to {size - 1}",
            )


def searchsorted(a: Any, v: Any, side: Any = "left", sorter: Any = None) -> Tracer:
    if sorter is not None:
        a = take(a, sorter)
    if side not in ("left", "right"):
        raise InvalidValue(
            f"side must be 'left' or 'right' (got {side!r})", code="TD0822", location=here(), edit="side='left'"
        )
    x, y = lift(a), lift(v)
    if x.ndim != 1:
        raise InvalidValue(
            "object too deep for desired array: searchsorted takes 1-d arrays",
            code="TD0822",
            location=here(),
            edit="np.ravel(a), or td.vmap over its rows",
        )
    # NumPy converts the needles to the type in which both meet; a Python number is an array here.
    kind = result_type(x.value.dtype, described(v))
    if kind.kind == "complex":
        raise Unsupported(
            "searchsorted of complex numbers", code="TD0810", location=here(), edit="search for the real parts"
        )
    return wrap(SearchSorted(convert(unwrap(x), kind), convert(unwrap(y), kind), side))


def digitize(x: Any, bins: Any, right: bool = False) -> Tracer:
    edges = lift(bins)
    if edges.ndim != 1:
        raise InvalidValue("bins must be 1-dimensional", code="TD0822", location=here(), edit="np.ravel(bins)")
    side = "left" if right else "right"
    if not any_traced(bins):
        known = np.asarray(bins)
        up = bool(np.all(np.diff(known) >= 0))
        if not up and not bool(np.all(np.diff(known) <= 0)):
            raise InvalidValue(
                "bins must be monotonically increasing or decreasing",
                code="TD0822",
                location=here(),
                edit="np.sort(bins)",
            )
        return searchsorted(edges, x, side) if up else _descending(edges, x, side)
    # Whether computed edges fall is computed too.
    first, last = unwrap(edges[0]), unwrap(edges[-1])
    up_value, down_value = unwrap(searchsorted(edges, x, side)), unwrap(_descending(edges, x, side))
    rising = broadcast(e.Not(last < first), up_value.shape)
    return wrap(e.Select(rising, up_value, down_value))


def _descending(edges: Tracer, x: Any, side: str) -> Tracer:
    turned = wrap(Reverse(unwrap(edges), (0,)))
    found = unwrap(searchsorted(turned, x, side))
    return wrap(broadcast(size_value(edges.shape[0]), found.shape) - found)


TABLE: Final[Mapping[Any, Callable[..., Any]]] = {
    np.argpartition: argpartition,
    np.argsort: argsort,
    np.digitize: digitize,
    np.lexsort: lexsort,
    np.partition: partition,
    np.searchsorted: searchsorted,
    np.sort: sort,
    np.sort_complex: sort_complex,
}
