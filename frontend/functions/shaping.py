"""Moving elements: shapes, axes, repetition, rolling, padding, cutting.

Sizes may be symbolic wherever NumPy's rule can be said for them; an unknown size of -1 is solved by exact division.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np

from ...ir.dims import Dim, SymbolicDim, exact_div, floordiv, known_le, maximum, minimum, mod, product, show
from ...ir.dtypes import DType, i64
from ...ir.errors import InvalidValue, ShapeMismatch, Unsupported
from ...ir.ops import elementwise as e
from ...ir.ops.contract import Dot
from ...ir.ops.indexing import Gather
from ...ir.ops.movement import Concatenate, Iota, Pad, Reverse, Slice
from ...ir.types import Shape, TensorType
from ...ir.value import Full, Value
from .. import arrays
from ..arrays import (
    any_traced,
    axes_of,
    axis_of,
    broadcast,
    broadcast_shapes,
    convert,
    entries,
    expand,
    lift,
    permute,
    size_value,
    static_dim,
    static_int,
    static_shape,
    typed,
)  # fmt: skip
from ..sizes import shown
from ..trace import here
from ..tracer import Tracer, unwrap, wrap

_DEEPER = "an axis of 1 goes in front with x[None]"


def _wrong(message: str, edit: str | None = None) -> InvalidValue:
    return InvalidValue(message, code="TD0822", location=here(), edit=edit)


def _same(x: Any, value: Value) -> Tracer:
    """A value that only moved the elements of `x`: it stays weak if x was."""
    return wrap(value, x.weak if isinstance(x, Tracer) and value.rank == 0 else None)


def refuse_order(order: Any) -> bool:
    """Whether elements are to be taken in Fortran's order. `A` and `K` are C: the graph has no memory order."""
    if order in (None, "C", "A", "K"):
        return False
    if order == "F":
        return True
    raise _wrong(f"order {order!r} does not exist", "C, F, A or K")


def solved(size: Dim, shape: Sequence[Any]) -> Shape:
    """A shape with at most one -1, which the number of elements decides."""
    dims = [static_dim(dim, "a shape") for dim in shape]
    open_ = [i for i, dim in enumerate(dims) if type(dim) is int and dim == -1]
    if not open_:
        return tuple(dims)
    if len(open_) > 1:
        raise _wrong("can only specify one unknown dimension", "-1 once, and numbers for the other sizes")
    rest = product(dim for i, dim in enumerate(dims) if i != open_[0])
    found = None if type(rest) is int and rest == 0 else exact_div(size, rest)
    if found is None:
        raise ShapeMismatch(
            f"cannot reshape an array of size {show(size)} into ({', '.join(map(show, dims))})",
            code="TD0823",
            location=here(),
            edit=f"the sizes beside -1 must divide {show(size)}",
        )
    dims[open_[0]] = found
    return tuple(dims)


def _fitting(size: Dim, shape: Shape) -> str:
    """A shape near to `shape` that an array of `size` elements has."""
    for i in range(len(shape))[::-1]:
        rest = product(dim for j, dim in enumerate(shape) if j != i)
        if not (type(rest) is int and rest == 0) and exact_div(size, rest) is not None:
            return f"({', '.join('-1' if j == i else show(dim) for j, dim in enumerate(shape))}) instead"
    return f"sizes whose product is {show(size)}; one of them may be -1 and follows from the others"


def reshape(a: Any, /, shape: Any = None, order: Any = "C", *, copy: Any = None) -> Tracer:
    value = unwrap(lift(a))
    if isinstance(shape, Tracer):
        shape = static_shape(shape)
    wanted = tuple(shape) if isinstance(shape, tuple | list | np.ndarray) else (shape,)
    to = solved(value.tensor.size, wanted)
    if product(to) != value.tensor.size:
        raise ShapeMismatch(
            f"cannot reshape an array of size {show(value.tensor.size)} into shape ({', '.join(map(show, to))})",
            code="TD0823",
            location=here(),
            edit=_fitting(value.tensor.size, to),
        )
    if refuse_order(order):
        moved = arrays.reshape(permute(value, range(value.rank)[::-1]), to[::-1])
        return wrap(permute(moved, range(len(to))[::-1]))
    return wrap(arrays.reshape(value, to))


def ravel(a: Any, order: Any = "C") -> Tracer:
    value = unwrap(lift(a))
    if refuse_order(order):
        value = permute(value, range(value.rank)[::-1])
    return wrap(arrays.reshape(value, (value.tensor.size,)))


def transpose(a: Any, axes: Any = None) -> Tracer:
    value = unwrap(lift(a))
    if axes is None:
        return wrap(permute(value, range(value.rank)[::-1]))
    order = axes_of(entries(axes, "axes") if not isinstance(axes, int) else (axes,), value.rank)
    if len(order) != value.rank:
        raise _wrong(f"axes {axes} don't match an array of {value.rank} dimensions", "each axis once")
    return wrap(permute(value, order))


def matrix_transpose(x: Any, /) -> Tracer:
    value = unwrap(lift(x))
    if value.rank < 2:
        raise _wrong(f"matrix_transpose needs at least 2 dimensions, not {value.rank}", _DEEPER)
    return swapaxes(x, -1, -2)


def swapaxes(a: Any, axis1: Any, axis2: Any) -> Tracer:
    value = unwrap(lift(a))
    first, second = axis_of(axis1, value.rank), axis_of(axis2, value.rank)
    order = list(range(value.rank))
    order[first], order[second] = second, first
    return wrap(permute(value, order))


def moveaxis(a: Any, source: Any, destination: Any) -> Tracer:
    value = unwrap(lift(a))
    start, end = axes_of(_tuple(source), value.rank), axes_of(_tuple(destination), value.rank)
    if len(start) != len(end):
        raise _wrong(f"{len(start)} axes are moved to {len(end)} places", "as many places as axes")
    order = [i for i in range(value.rank) if i not in start]
    for place, axis in sorted(zip(end, start, strict=True)):
        order.insert(place, axis)
    return wrap(permute(value, order))


def _tuple(x: Any) -> tuple[Any, ...]:
    return tuple(x) if isinstance(x, tuple | list) else (x,)


def rollaxis(a: Any, axis: Any, start: Any = 0) -> Tracer:
    value = unwrap(lift(a))
    number = axis_of(axis, value.rank)
    place = static_int(start, "start")
    place = place + value.rank if place < 0 else place
    if not 0 <= place <= value.rank:
        raise arrays.AxisOutOfRange(
            f"start {start} is outside 0..{value.rank}",
            code="TD0822",
            location=here(),
            edit=f"a start from 0 to {value.rank}",
        )
    order = [i for i in range(value.rank) if i != number]
    order.insert(place - (number < place), number)
    return wrap(permute(value, order))


def expand_dims(a: Any, axis: Any) -> Tracer:
    value = unwrap(lift(a))
    given = _tuple(axis)
    return wrap(expand(value, axes_of(given, value.rank + len(given))))


def squeeze(a: Any, axis: Any = None) -> Tracer:
    value = unwrap(lift(a))
    if axis is None:
        gone = tuple(i for i, dim in enumerate(value.shape) if type(dim) is int and dim == 1)
    else:
        gone = axes_of(_tuple(axis), value.rank)
        for i in gone:
            if value.shape[i] != 1:
                raise _wrong(
                    f"cannot select an axis to squeeze out which has size {show(value.shape[i])}, not 1",
                    f"take one place of it, as in x.take(0, {i}), or sum over it",
                )
    return _same(a, arrays.reshape(value, tuple(dim for i, dim in enumerate(value.shape) if i not in gone)))


def broadcast_to(array: Any, shape: Any, subok: bool = False) -> Tracer:
    return wrap(broadcast(unwrap(lift(array)), static_shape(shape)))


def broadcast_arrays(*args: Any, subok: bool = False) -> tuple[Tracer, ...]:
    values = [unwrap(lift(x)) for x in args]
    shape = broadcast_shapes(*(value.shape for value in values))
    return tuple(wrap(broadcast(value, shape)) for value in values)


def raised_to(rank: int, place: Callable[[Value], Shape]) -> Callable[..., Any]:
    def at_least(*arys: Any) -> Any:
        found = []
        for each in arys:
            value = unwrap(lift(each))
            found.append(wrap(value if value.rank >= rank else arrays.reshape(value, place(value))))
        return found[0] if len(found) == 1 else tuple(found)

    return at_least


def _shape_2d(value: Value) -> Shape:
    return (1, 1) if value.rank == 0 else (1, *value.shape)


def _shape_3d(value: Value) -> Shape:
    return (*((1, 1) if value.rank == 0 else (1, *value.shape) if value.rank == 1 else value.shape), 1)


def flip(m: Any, axis: Any = None) -> Tracer:
    value = unwrap(lift(m))
    axes = axes_of(axis, value.rank)
    return wrap(Reverse(value, axes) if axes else value)


def fliplr(m: Any) -> Tracer:
    _needs(m, 2, "fliplr")
    return flip(m, 1)


def flipud(m: Any) -> Tracer:
    _needs(m, 1, "flipud")
    return flip(m, 0)


def _needs(m: Any, rank: int, name: str) -> None:
    if lift(m).ndim < rank:
        raise _wrong(f"{name}: input must be >= {rank}-d, it has {lift(m).ndim}", _DEEPER)


def rot90(m: Any, k: Any = 1, axes: Any = (0, 1)) -> Tracer:
    value = unwrap(lift(m))
    first, second = axes_of(entries(axes, "axes", 2), value.rank)
    turns = static_int(k, "k") % 4
    order = list(range(value.rank))
    order[first], order[second] = second, first
    match turns:
        case 0:
            return wrap(value)
        case 1:
            return wrap(permute(Reverse(value, (second,)), order))
        case 2:
            return wrap(Reverse(value, (first, second)))
    return wrap(Reverse(permute(value, order), (second,)))


def cut(value: Value, axis: int, start: Dim, stop: Dim) -> Value:
    """The part of `value` from start to stop along one axis."""
    low: list[Dim] = [0] * value.rank
    high = list(value.shape)
    low[axis], high[axis] = start, stop
    return Slice(value, tuple(low), tuple(high), (1,) * value.rank)


def roll(a: Any, shift: Any, axis: Any = None) -> Tracer:
    value = unwrap(lift(a))
    if axis is None:
        flat = arrays.reshape(value, (value.tensor.size,))
        return wrap(arrays.reshape(_rolled(flat, 0, shift), value.shape))
    axes = tuple(axis_of(each, value.rank) for each in _tuple(axis))
    shifts = tuple(shift) if isinstance(shift, tuple | list) else (shift,)
    pairs = np.broadcast(np.arange(len(shifts)), np.arange(len(axes)))
    for i, j in pairs:
        value = _rolled(value, axes[j], shifts[i])
    return wrap(value)


def _rolled(value: Value, axis: int, shift: Any) -> Value:
    size = value.shape[axis]
    if type(size) is int and size == 0:
        return value
    if isinstance(shift, Tracer):
        # A shift that is computed: every element is read from its place, modulo the size.
        places = Iota(TensorType((size,), i64), 0)
        by = broadcast(typed(shift, i64, ()), (size,))
        found = Gather(value, (places - by,), (axis,), "wrap", 0, True)
        order = [*range(1, axis + 1), 0, *range(axis + 1, value.rank)]
        return permute(found, order)
    by_known = mod(static_dim(shift, "shift"), size)
    if type(by_known) is int and by_known == 0:
        return value
    split = size - by_known
    return Concatenate((cut(value, axis, split, size), cut(value, axis, 0, split)), axis)


def sliding_window_view(
    x: Any, window_shape: Any, axis: Any = None, *, subok: bool = False, writeable: bool = False
) -> Tracer:
    """As NumPy's, though no view: each window is read from its place."""
    value = unwrap(lift(x))
    sizes = tuple(static_dim(n, "a window") for n in _tuple(window_shape))
    if axis is None and len(sizes) != value.rank:
        raise _wrong(f"a window of {len(sizes)} axes for an array of {value.rank}", "give axis")
    numbers = [axis_of(each, value.rank) for each in (range(value.rank) if axis is None else _tuple(axis))]
    if len(numbers) != len(sizes):
        raise _wrong(f"a window of {len(sizes)} axes along {len(numbers)}", "a size for each axis")
    for number, size in zip(numbers, sizes, strict=True):
        there = value.shape[number]
        if (type(size) is int and size < 0) or (type(size) is int and type(there) is int and size > there):
            raise _wrong(f"a window of {show(size)} on an axis of {show(there)}", f"a size from 0 to {show(there)}")
        place = TensorType((there - size + 1, size), i64)
        index = Iota(place, 0) + Iota(place, 1)
        found = Gather(value, (index,), (number,), "promised")
        rest = range(2, found.rank)
        value = permute(found, (*rest[:number], 0, *rest[number:], 1))
    return wrap(value)


def fftshift(x: Any, axes: Any = None) -> Tracer:
    return _shifted(x, axes, lambda n: floordiv(n, 2))


def ifftshift(x: Any, axes: Any = None) -> Tracer:
    return _shifted(x, axes, lambda n: -floordiv(n, 2))


def _shifted(x: Any, axes: Any, by: Callable[[Dim], Dim]) -> Tracer:
    value = unwrap(lift(x))
    for axis in axes_of(axes, value.rank):
        value = _rolled(value, axis, by(value.shape[axis]))
    return wrap(value)


def repeat(a: Any, repeats: Any, axis: Any = None) -> Tracer:
    value = unwrap(lift(a))
    if axis is None:
        value = arrays.reshape(value, (value.tensor.size,))
        axis = 0
    number = axis_of(axis, value.rank)
    if any_traced(repeats) and not isinstance(repeats, SymbolicDim):
        raise _data_dependent("repeat", "repeats", "give repeats as a number that is known")
    if isinstance(repeats, SymbolicDim) or np.ndim(repeats) == 0 or len(repeats) == 1:
        count = static_dim(
            repeats if isinstance(repeats, SymbolicDim) or np.ndim(repeats) == 0 else repeats[0], "repeats"
        )
        if type(count) is int and count < 0:
            raise _wrong(f"repeats may not contain negative values, this is {count}", "max(n, 0)")
        stretched = expand(value, (number + 1,))
        shape = (*value.shape[: number + 1], count, *value.shape[number + 1 :])
        wide = broadcast(stretched, shape)
        return wrap(
            arrays.reshape(wide, (*value.shape[:number], value.shape[number] * count, *value.shape[number + 1 :]))
        )
    counts = np.asarray(repeats)
    size = value.shape[number]
    if type(size) is not int or len(counts) != size:
        raise _wrong(
            f"operands could not be broadcast together with shape ({show(size)},) ({len(counts)},)",
            f"one number, or one for each of the {show(size)} places of axis {number}",
        )
    return wrap(taken(value, np.repeat(np.arange(size), counts), number))


def taken(value: Value, places: np.ndarray[Any, Any], axis: int) -> Value:
    """`value` at places along an axis that are known and inside."""
    index = unwrap(lift(places.astype(np.int64)))
    found = Gather(value, (index,), (axis,), "promised")
    rank = index.rank
    return permute(found, [*range(rank, rank + axis), *range(rank), *range(rank + axis, found.rank)])


def _data_dependent(name: str, what: str, edit: str) -> Unsupported:
    return Unsupported(
        f"{name}: the shape of the result depends on the values of {what}, which are traced",
        code="TD0811",
        location=here(),
        edit=edit,
    )


def tile(A: Any, reps: Any) -> Tracer:
    value = unwrap(lift(A))
    given = [static_dim(each, "reps") for each in _tuple(reps.tolist() if isinstance(reps, np.ndarray) else reps)]
    rank = max(value.rank, len(given))
    counts: list[Dim] = [*(1,) * (rank - len(given)), *given]
    shape = (1,) * (rank - value.rank) + value.shape
    spread: list[Dim] = []
    for count, size in zip(counts, shape, strict=True):
        spread += [count, size]
    ones: list[Dim] = []
    for size in shape:
        ones += [1, size]
    wide = broadcast(arrays.reshape(value, tuple(ones)), tuple(spread))
    return wrap(arrays.reshape(wide, tuple(count * size for count, size in zip(counts, shape, strict=True))))


def diagonal(a: Any, offset: Any = 0, axis1: Any = 0, axis2: Any = 1) -> Tracer:
    value = unwrap(lift(a))
    if value.rank < 2:
        raise _wrong(f"diag requires an array of at least two dimensions, this has {value.rank}", _DEEPER)
    first, second = axis_of(axis1, value.rank), axis_of(axis2, value.rank)
    if first == second:
        raise _wrong(f"axis1 and axis2 are both {axis1}", "name two axes")
    k = static_int(offset, "offset")
    rows, columns = value.shape[first], value.shape[second]
    low_row, low_column = max(-k, 0), max(k, 0)
    count = maximum(minimum(rows - low_row, columns - low_column), 0)
    moved = permute(value, (first, second, *(i for i in range(value.rank) if i not in (first, second))))
    places = Iota(TensorType((count,), i64), 0)
    indices = (places + low_row, places + low_column)
    found = Gather(moved, indices, (0, 1), "promised", 0, True)
    return wrap(permute(found, (*range(1, found.rank), 0)))


def diag(v: Any, k: Any = 0) -> Tracer:
    value = unwrap(lift(v))
    if value.rank == 2:
        return diagonal(v, k)
    if value.rank != 1:
        raise _wrong(f"diag: input must be 1- or 2-d, it has {value.rank}", "np.diagonal for the diagonals of a stack")
    shift = static_int(k, "k")
    size = value.shape[0] + abs(shift)
    place = TensorType((size, size), i64)
    rows, columns = Iota(place, 0), Iota(place, 1)
    padded = Pad(value, Full(0, TensorType((), value.dtype)), (max(shift, 0),), (max(-shift, 0),), (0,))
    # By column on either side of the diagonal: the padding puts each element under its own.
    wide = broadcast(padded, (size, size))
    on = e.Eq(columns, rows + shift)
    return wrap(e.Select(on, wide, Full(0, wide.tensor)))


def diagflat(v: Any, k: Any = 0) -> Tracer:
    return diag(ravel(v), k)


def _triangle(lower: bool, m: Any, k: Any) -> Tracer:
    value = unwrap(lift(m))
    if value.rank == 1:
        value = broadcast(value, (value.shape[0], value.shape[0]))
    elif value.rank == 0:
        raise _wrong("an array of at least one dimension is needed, this is a scalar", _DEEPER)
    kept = triangle_mask(value.shape[-2], value.shape[-1], static_dim(k, "k") if lower else static_dim(k, "k") - 1)
    mask = broadcast(kept if lower else e.Not(kept), value.shape)
    return wrap(e.Select(mask, value, Full(0, value.tensor)))


def triangle_mask(rows: Dim, columns: Dim, k: Dim) -> Value:
    """Where column <= row + k."""
    place = TensorType((rows, columns), i64)
    shift = broadcast(size_value(k), place.shape)
    return Iota(place, 1) <= Iota(place, 0) + shift


def tril(m: Any, k: Any = 0) -> Tracer:
    return _triangle(True, m, k)


def triu(m: Any, k: Any = 0) -> Tracer:
    return _triangle(False, m, k)


def delete(arr: Any, obj: Any, axis: Any = None) -> Tracer:
    value = unwrap(lift(arr))
    if any_traced(obj):
        raise _data_dependent("delete", "obj", "give indices that are known, or choose with np.where")
    if axis is None:
        value = arrays.reshape(value, (value.tensor.size,))
        axis = 0
    number = axis_of(axis, value.rank)
    size = value.shape[number]
    if type(size) is not int:
        raise Unsupported(
            f"delete along an axis of size {show(size)}", code="TD0811", location=here(), edit="cut it with slices"
        )
    return wrap(taken(value, np.delete(np.arange(size), obj), number))


def insert(arr: Any, obj: Any, values: Any, axis: Any = None) -> Tracer:
    value = unwrap(lift(arr))
    if any_traced(obj):
        raise _data_dependent("insert", "obj", "give indices that are known")
    if axis is None:
        value = arrays.reshape(value, (value.tensor.size,))
        axis = 0
    number = axis_of(axis, value.rank)
    size = value.shape[number]
    if type(size) is not int:
        raise Unsupported(
            f"insert along an axis of size {show(size)}", code="TD0811", location=here(), edit="use np.concatenate"
        )
    # NumPy says where each new element goes: run it on numbers that name the elements.
    new = unwrap(lift(values))
    single = np.ndim(obj) == 0 and not isinstance(obj, slice)
    places = np.arange(size)[obj] if isinstance(obj, slice) else np.atleast_1d(np.asarray(obj))
    amount: Dim = int(np.count_nonzero(places)) if places.dtype == bool else len(places)
    if new.rank > value.rank:
        raise _wrong(
            f"insert: the values have {new.rank} axes, the array {value.rank}", "as many axes as the array, or fewer"
        )
    if amount == 1:
        new = expand(new, range(value.rank - new.rank)) if new.rank < value.rank else new
        if single:
            new = permute(new, [*range(1, number + 1), 0, *range(number + 1, value.rank)])
        amount = new.shape[number]
    shape = (*value.shape[:number], amount, *value.shape[number + 1 :])
    fresh = convert(broadcast(new, shape), value.dtype)
    names = np.insert(np.arange(size), obj, size + np.arange(static_int(shape[number], "values")))
    return wrap(taken(Concatenate((value, fresh), number), names, number))


def resize(a: Any, new_shape: Any) -> Tracer:
    value = unwrap(lift(a))
    shape = static_shape(new_shape)
    wanted, size = product(shape), value.tensor.size
    flat = arrays.reshape(value, (size,))
    if type(size) is not int or type(wanted) is not int:
        raise Unsupported(f"resize of {value.type}", code="TD0811", location=here(), edit="reshape, tile and cut it")
    if size == 0:
        return wrap(Full(0, TensorType(shape, value.dtype)))
    times = -(-wanted // size)
    return wrap(arrays.reshape(cut(unwrap(tile(wrap(flat), max(times, 1))), 0, 0, wanted), shape))


# --- padding ------------------------------------------------------------------------------------------------------


def pad(array: Any, pad_width: Any, mode: Any = "constant", **kwargs: Any) -> Tracer:
    value = unwrap(lift(array))
    widths = _pairs(pad_width, value.rank, "pad_width")
    if callable(mode):
        raise Unsupported(
            "pad with a function", code="TD0810", location=here(), edit="pad with a constant, then np.where"
        )
    known_options = {
        "constant": ("constant_values",), "linear_ramp": ("end_values",), "maximum": ("stat_length",),
        "mean": ("stat_length",), "median": ("stat_length",), "minimum": ("stat_length",),
        "reflect": ("reflect_type",), "symmetric": ("reflect_type",), "edge": (), "wrap": (), "empty": (),
    }  # fmt: skip
    if mode not in known_options:
        raise _wrong(f"pad: mode {mode!r} is not supported", f"one of {', '.join(known_options)}")
    unknown = sorted(set(kwargs) - set(known_options[mode]))
    if unknown:
        known = ", ".join(known_options[mode]) or "no keyword"
        raise _wrong(f"unsupported keyword arguments for mode {mode!r}: {unknown}", f"it takes {known}")
    if mode in ("constant", "empty"):
        return wrap(_constant_pad(value, widths, kwargs.get("constant_values", 0)))
    if mode == "linear_ramp":
        return wrap(_ramp_pad(value, widths, kwargs.get("end_values", 0)))
    if mode in ("maximum", "minimum", "mean", "median"):
        return wrap(_stat_pad(value, widths, mode, kwargs.get("stat_length")))
    return wrap(_index_pad(value, widths, mode, kwargs.get("reflect_type", "even")))


def _pairs(given: Any, rank: int, what: str) -> list[tuple[Dim, Dim]]:
    """(before, after) per axis, from any of the spellings that NumPy takes."""
    if isinstance(given, dict):
        table: dict[int, Any] = {axis_of(axis, rank): width for axis, width in given.items()}
        return [_pair(table[i], what) if i in table else (0, 0) for i in range(rank)]
    if isinstance(given, SymbolicDim) or np.ndim(np.empty(0) if any_traced(given) else given) == 0:
        return [_pair(given, what)] * rank
    rows = list(given)
    if all(not isinstance(row, list | tuple | np.ndarray) for row in rows):
        return [_pair(rows, what)] * rank
    if len(rows) == 1:
        return [_pair(rows[0], what)] * rank
    if len(rows) != rank:
        raise _wrong(f"{what} has {len(rows)} entries for {rank} axes", "one pair, or one for each axis")
    return [_pair(row, what) for row in rows]


def _pair(given: Any, what: str) -> tuple[Dim, Dim]:
    entries = list(given) if isinstance(given, list | tuple | np.ndarray) else [given]
    if len(entries) not in (1, 2):
        raise _wrong(f"{what} {given} is not a pair", "(before, after)")
    low, high = static_dim(entries[0], what), static_dim(entries[-1], what)
    for width in (low, high):
        if type(width) is int and width < 0:
            raise _wrong(f"{what} {given} is negative", "a slice, as in x[1:-1], cuts off")
    return low, high


def _amounts(given: Any, rank: int) -> list[tuple[Any, Any]]:
    """(before, after) per axis of values, which may be traced scalars."""
    if isinstance(given, Tracer) and given.ndim == 0:
        return [(given, given)] * rank
    if isinstance(given, dict):
        return [tuple(given.get(i, (0, 0))) for i in range(rank)]
    if np.ndim(given if not any_traced(given) else np.empty(0)) == 0 and not isinstance(given, tuple | list):
        return [(given, given)] * rank
    rows = list(given)
    if all(not isinstance(row, list | tuple | np.ndarray) for row in rows):
        return [(rows[0], rows[-1])] * rank
    if len(rows) == 1:
        rows = rows * rank
    return [(row[0], row[-1]) for row in map(list, rows)]


def _zero_pad(rank: int, axis: int, low: Dim, high: Dim) -> tuple[Shape, Shape]:
    return tuple(low if i == axis else 0 for i in range(rank)), tuple(high if i == axis else 0 for i in range(rank))


def _constant_pad(value: Value, widths: list[tuple[Dim, Dim]], fill: Any) -> Value:
    amounts = _amounts(fill, value.rank)
    first = amounts[0] if amounts else (0, 0)
    if (
        not isinstance(first[0], Tracer)
        and all(low is high or _equal(low, high) for low, high in amounts)
        and all(_equal(low, first[0]) for low, _ in amounts)
    ):
        scalar = typed(_cast(first[0], value.dtype), value.dtype, ())
        low, high = tuple(w[0] for w in widths), tuple(w[1] for w in widths)
        return Pad(value, scalar, low, high, (0,) * value.rank) if any(w != (0, 0) for w in widths) else value
    for axis, ((low_width, high_width), (before, after)) in enumerate(zip(widths, amounts, strict=True)):
        for width, amount, back in ((low_width, before, False), (high_width, after, True)):
            low, high = _zero_pad(value.rank, axis, 0 if back else width, width if back else 0)
            value = Pad(value, typed(_cast(amount, value.dtype), value.dtype, ()), low, high, (0,) * value.rank)
    return value


def _cast(x: Any, dtype: DType) -> Any:
    """A padding as the array's dtype holds it: NumPy assigns, so 1.5 in an integer array is 1."""
    if isinstance(x, Tracer):
        return wrap(convert(unwrap(x), dtype))
    return np.asarray(x).astype(dtype.numpy)[()]


def _equal(a: Any, b: Any) -> bool:
    return a is b or (not isinstance(a, Tracer) and not isinstance(b, Tracer) and bool(np.array_equal(a, b)))


def _ramp_pad(value: Value, widths: list[tuple[Dim, Dim]], ends: Any) -> Value:
    """Straight lines from the edges to the end values."""
    from .creation import linspace

    for axis, ((low, high), (before, after)) in enumerate(zip(widths, _amounts(ends, value.rank), strict=True)):
        parts = [value]
        size = value.shape[axis]
        if low != 0:
            edge = wrap(arrays.reshape(cut(value, axis, 0, 1), _without(value.shape, axis)))
            line = linspace(
                _cast(before, value.dtype), edge, num=low, endpoint=False, dtype=value.dtype.numpy, axis=axis
            )
            parts.insert(0, unwrap(line))
        if high != 0:
            edge = wrap(arrays.reshape(cut(value, axis, size - 1, size), _without(value.shape, axis)))
            line = linspace(
                _cast(after, value.dtype), edge, num=high, endpoint=False, dtype=value.dtype.numpy, axis=axis
            )
            parts.append(Reverse(unwrap(line), (axis,)))
        value = Concatenate(tuple(parts), axis) if len(parts) > 1 else value
    return value


def _without(shape: Shape, axis: int) -> Shape:
    return shape[:axis] + shape[axis + 1 :]


def _stat_pad(value: Value, widths: list[tuple[Dim, Dim]], mode: str, stat_length: Any) -> Value:
    """A statistic of the elements next to each edge."""
    from . import reductions, statistics

    functions: dict[str, Callable[..., Tracer]] = {
        "maximum": reductions.max_, "minimum": reductions.min_, "mean": reductions.mean, "median": statistics.median,
    }  # fmt: skip
    lengths = [(None, None)] * value.rank if stat_length is None else _pairs(stat_length, value.rank, "stat_length")
    for axis, ((low, high), (near, far)) in enumerate(zip(widths, lengths, strict=True)):
        size = value.shape[axis]
        parts = [value]
        for width, length, back in ((low, near, False), (high, far, True)):
            if width == 0:
                continue
            reach: Dim = size if length is None or known_le(size, length) else length
            if type(reach) is int and reach == 0:
                raise _wrong("stat_length of 0 yields no value for padding", "a stat_length of at least 1")
            piece = cut(value, axis, size - reach, size) if back else cut(value, axis, 0, reach)
            stat = unwrap(functions[mode](wrap(piece), axis=axis, keepdims=True))
            if value.dtype.is_integer and stat.dtype.is_float:
                stat = e.Rint(stat)
            stat = convert(stat, value.dtype)
            shape = tuple(width if i == axis else n for i, n in enumerate(value.shape))
            parts.insert(len(parts) if back else 0, broadcast(stat, shape))
        value = Concatenate(tuple(parts), axis) if len(parts) > 1 else value
    return value


def _index_pad(value: Value, widths: list[tuple[Dim, Dim]], mode: str, reflect_type: str) -> Value:
    """Modes that copy elements: NumPy pads the positions, the elements are read there. Odd reflections mirror values
    too."""
    for axis, (low, high) in enumerate(widths):
        if low == 0 and high == 0:
            continue
        size = value.shape[axis]
        if mode == "edge":
            parts = [value]
            if low != 0:
                shape = tuple(low if i == axis else n for i, n in enumerate(value.shape))
                parts.insert(0, broadcast(cut(value, axis, 0, 1), shape))
            if high != 0:
                shape = tuple(high if i == axis else n for i, n in enumerate(value.shape))
                parts.append(broadcast(cut(value, axis, size - 1, size), shape))
            value = Concatenate(tuple(parts), axis)
            continue
        if type(size) is not int or type(low) is not int or type(high) is not int:
            raise Unsupported(
                f"pad with mode {mode!r} along an axis of size {show(size)}",
                code="TD0811",
                location=here(),
                edit="use mode constant or edge, or a known size",
            )
        if size == 0:
            raise _wrong(
                f"can't extend empty axis {axis} using modes other than 'constant' or 'empty'", "mode='constant'"
            )
        if reflect_type == "odd" and mode in ("reflect", "symmetric"):
            value = _odd_pad(value, axis, low, high, mode)
            continue
        places = np.pad(np.arange(size), (low, high), mode)  # type: ignore[call-overload]
        value = taken(value, places, axis)
    return value


def _odd_pad(value: Value, axis: int, low: int, high: int, mode: str) -> Value:
    """Values mirrored at the edge too: each padding is a whole number of the edges minus an element."""
    size = value.shape[axis]
    assert type(size) is int
    # NumPy's own rule is linear in the elements: asked on unit vectors, it gives the matrix of the padding.
    matrix = np.pad(np.eye(size), ((low, high), (0, 0)), mode, reflect_type="odd")  # type: ignore[call-overload]
    weights = unwrap(lift(matrix.astype(value.dtype.numpy)))
    found = Dot(weights, value, (), (), (1,), (axis,))
    return permute(found, [*range(1, axis + 1), 0, *range(axis + 1, value.rank)])


# --- cutting ------------------------------------------------------------------------------------------------------


def array_split(ary: Any, indices_or_sections: Any, axis: Any = 0) -> list[Tracer]:
    value = unwrap(lift(ary))
    number = axis_of(axis, value.rank)
    size = value.shape[number]
    if isinstance(indices_or_sections, Tracer):
        raise _data_dependent("split", "indices_or_sections", "give indices that are known, or td.lax.dynamic_slice")
    if not isinstance(indices_or_sections, tuple | list | np.ndarray):
        count = static_int(indices_or_sections, "sections")
        if count <= 0:
            raise _wrong(f"number sections must be larger than 0, it is {count}", "at least one section")
        each, extra = floordiv(size, count), mod(size, count)
        places: list[Dim] = [each * i + minimum(extra, i) for i in range(1, count)]
    else:
        places = [_clamped(static_dim(place, "an index"), size) for place in indices_or_sections]
    bounds = [0, *places, size]
    return [
        wrap(cut(value, number, low, high if not (type(low) is int and type(high) is int and high < low) else low))
        for low, high in pairwise(bounds)
    ]


def _clamped(place: Dim, size: Dim) -> Dim:
    """A place as a slice reads it."""
    if type(place) is int and place < 0:
        place = maximum(size + place, 0)
    return minimum(place, size)


def split(ary: Any, indices_or_sections: Any, axis: Any = 0) -> list[Tracer]:
    value = unwrap(lift(ary))
    number = axis_of(axis, value.rank)
    if not isinstance(indices_or_sections, tuple | list | np.ndarray | Tracer):
        count = static_int(indices_or_sections, "sections")
        if exact_div(value.shape[number], count) is None:
            raise _wrong(
                f"array split does not result in an equal division: {show(value.shape[number])} into {count}",
                "np.array_split, whose first sections are one longer",
            )
    return array_split(ary, indices_or_sections, axis)


def _split_along(axis: int, least: int, name: str) -> Callable[..., list[Tracer]]:
    def split_along(ary: Any, indices_or_sections: Any) -> list[Tracer]:
        rank = lift(ary).ndim
        if rank < least:
            raise _wrong(f"{name} only works on arrays of {least} or more dimensions, this has {rank}", _DEEPER)
        return split(ary, indices_or_sections, 0 if name == "hsplit" and rank == 1 else axis)

    return split_along


def unstack(x: Any, /, *, axis: Any = 0) -> tuple[Tracer, ...]:
    value = unwrap(lift(x))
    if value.rank == 0:
        raise _wrong("unstack: input array must be at least 1-d", _DEEPER)
    number = axis_of(axis, value.rank)
    size = static_int(value.shape[number], "the size of the axis")
    rest = _without(value.shape, number)
    return tuple(wrap(arrays.reshape(cut(value, number, i, i + 1), rest)) for i in range(size))


def shape(a: Any) -> Shape:
    return tuple(map(shown, lift(a).shape))  # type: ignore[arg-type]


def ndim(a: Any) -> int:
    return lift(a).ndim


def size(a: Any, axis: Any = None) -> Dim:
    x = lift(a)
    return shown(product(x.shape[i] for i in axes_of(axis, x.ndim)) if axis is not None else x.size)  # type: ignore[return-value]


def copy(a: Any, order: Any = "K", subok: bool = False) -> Tracer:
    return lift(a)


TABLE: Final[Mapping[Any, Callable[..., Any]]] = {
    np.array_split: array_split,
    np.atleast_1d: raised_to(1, lambda value: (1,)),
    np.atleast_2d: raised_to(2, _shape_2d),
    np.atleast_3d: raised_to(3, _shape_3d),
    np.broadcast_arrays: broadcast_arrays,
    np.broadcast_to: broadcast_to,
    np.copy: copy,
    np.delete: delete,
    np.diag: diag,
    np.diagflat: diagflat,
    np.diagonal: diagonal,
    np.dsplit: _split_along(2, 3, "dsplit"),
    np.expand_dims: expand_dims,
    np.fft.fftshift: fftshift,
    np.fft.ifftshift: ifftshift,
    np.flip: flip,
    np.fliplr: fliplr,
    np.flipud: flipud,
    np.hsplit: _split_along(1, 1, "hsplit"),
    np.insert: insert,
    np.linalg.diagonal: lambda x, /, *, offset=0: diagonal(x, offset, -2, -1),
    np.lib.stride_tricks.sliding_window_view: sliding_window_view,
    np.linalg.matrix_transpose: matrix_transpose,
    np.matrix_transpose: matrix_transpose,
    np.moveaxis: moveaxis,
    np.ndim: ndim,
    np.pad: pad,
    np.permute_dims: transpose,
    np.ravel: ravel,
    np.repeat: repeat,
    np.reshape: reshape,
    np.resize: resize,
    np.roll: roll,
    np.rollaxis: rollaxis,
    np.rot90: rot90,
    np.shape: shape,
    np.size: size,
    np.split: split,
    np.squeeze: squeeze,
    np.swapaxes: swapaxes,
    np.tile: tile,
    np.transpose: transpose,
    np.tril: tril,
    np.triu: triu,
    getattr(np, "unstack", None): unstack,  # from NumPy 2.1 on
    np.vsplit: _split_along(0, 2, "vsplit"),
}
