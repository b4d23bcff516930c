"""Putting arrays together: concatenate, stack, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from ...ir.dtypes import DType
from ...ir.errors import InvalidValue, TypeMismatch
from ...ir.ops.movement import Concatenate
from ...ir.value import Value
from ..arrays import axis_of, dtype_argument, expand, lift, reshape
from ..promotion import result_type
from ..trace import here
from ..tracer import Tracer, unwrap, wrap
from .creation import astype
from .shaping import raised_to
from .ufuncs import refuse_out

_column = raised_to(2, lambda value: (value.tensor.size, 1))


def _met(items: Sequence[Any], dtype: Any, casting: str = "same_kind") -> list[Value]:
    """The items in the dtype in which they meet; NumPy takes Python numbers in them as arrays, so they are not weak."""
    xs = [lift(item) for item in items]
    asked: DType | None = dtype_argument(dtype)
    kind = asked if asked is not None else result_type(*(x.value.dtype for x in xs))
    return [unwrap(astype(x, kind, casting="unsafe" if asked is None else casting)) for x in xs]


def _items(arrays: Any, name: str) -> list[Any]:
    if isinstance(arrays, Tracer):
        return list(arrays)
    try:
        found = list(arrays)
    except TypeError:
        raise TypeMismatch(
            f"{name} takes a sequence of arrays", code="TD0822", location=here(), edit=f"np.{name}([a, b])"
        ) from None
    if not found:
        raise InvalidValue(
            f"{name}: need at least one array",
            code="TD0822",
            location=here(),
            edit="np.zeros of the wanted shape where the list may be empty",
        )
    return found


def concatenate(
    arrays: Any, /, axis: Any = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind"
) -> Tracer:
    refuse_out(out, "concatenate")
    values = _met(_items(arrays, "concatenate"), dtype, casting)
    if axis is None:
        values = [reshape(value, (value.tensor.size,)) for value in values]
        axis = 0
    rank = values[0].rank
    if rank == 0:
        raise InvalidValue(
            "zero-dimensional arrays cannot be concatenated", code="TD0822", location=here(), edit="np.stack([a, b])"
        )
    number = axis_of(axis, rank)
    return wrap(values[0] if len(values) == 1 else Concatenate(tuple(values), number))


def stack(arrays: Any, axis: Any = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind") -> Tracer:
    refuse_out(out, "stack")
    values = _met(_items(arrays, "stack"), dtype, casting)
    if any(value.shape != values[0].shape for value in values):
        shapes = ", ".join(str(value.type) for value in values)
        raise InvalidValue(
            f"all input arrays must have the same shape, these are {shapes}",
            code="TD0822",
            location=here(),
            edit="np.concatenate along an axis in which they differ, or np.broadcast_arrays first",
        )
    number = axis_of(axis, values[0].rank + 1)
    return wrap(Concatenate(tuple(expand(value, (number,)) for value in values), number))


def _raised(arrays: Any, rank: int, name: str) -> list[Any]:
    """The items with at least `rank` axes, as NumPy's atleast functions add them."""
    shapes: dict[int, Callable[[Value], Any]] = {
        1: lambda value: (1,),
        2: lambda value: (1, 1) if value.rank == 0 else (1, *value.shape),
        3: lambda value: (*((1, 1) if value.rank == 0 else (1, *value.shape) if value.rank == 1 else value.shape), 1),
    }
    raised = raised_to(rank, shapes[rank])
    return [raised(item) for item in _items(arrays, name)]


def hstack(tup: Any, *, dtype: Any = None, casting: str = "same_kind") -> Tracer:
    items = _raised(tup, 1, "hstack")
    return concatenate(items, 0 if items[0].ndim == 1 else 1, dtype=dtype)


def vstack(tup: Any, *, dtype: Any = None, casting: str = "same_kind") -> Tracer:
    return concatenate(_raised(tup, 2, "vstack"), 0, dtype=dtype)


def dstack(tup: Any) -> Tracer:
    return concatenate(_raised(tup, 3, "dstack"), 2)


def column_stack(tup: Any) -> Tracer:
    return concatenate([_column(item) for item in _items(tup, "column_stack")], 1)


def append(arr: Any, values: Any, axis: Any = None) -> Tracer:
    return concatenate((arr, values), axis)


def block(arrays: Any) -> Tracer:
    depth = _depth(arrays)
    ranks = [lift(leaf).ndim for leaf in _leaves(arrays)]
    return _block(arrays, depth, max([depth, *ranks]))


def _depth(x: Any) -> int:
    return 1 + max(map(_depth, x)) if isinstance(x, list) else 0


def _leaves(x: Any) -> list[Any]:
    return [leaf for item in x for leaf in _leaves(item)] if isinstance(x, list) else [x]


def _block(x: Any, depth: int, rank: int) -> Tracer:
    if not isinstance(x, list):
        value = unwrap(lift(x))
        return wrap(expand(value, range(rank - value.rank)))
    return concatenate([_block(item, depth - 1, rank) for item in x], -depth)


TABLE: Final[Mapping[Any, Callable[..., Any]]] = {
    np.append: append,
    np.block: block,
    np.column_stack: column_stack,
    np.concat: concatenate,
    np.concatenate: concatenate,
    np.dstack: dstack,
    np.hstack: hstack,
    np.stack: stack,
    np.vstack: vstack,
}
