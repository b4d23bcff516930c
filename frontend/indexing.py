"""NumPy's indexing on traced arrays: basic, by arrays of integers, by masks that are known, and `.at[...]` updates.

An index is read once into a plan: the slices first, then at most one gather over the axes that arrays index, by NumPy's
rule for where their axes go in the result. `.at` runs the same plan on the positions, then scatters.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from ..ir.classes import dataclass
from ..ir.dims import Dim, SymbolicDim, ceildiv, known_le, known_lt, maximum, minimum, shortest
from ..ir.dtypes import bool_, i64
from ..ir.errors import InvalidValue, OutOfRange, ShapeMismatch, TypeMismatch, Unsupported
from ..ir.ops import elementwise as e
from ..ir.ops.indexing import Combine, DynamicSlice, DynamicUpdate, Gather, Mode, Scatter
from ..ir.ops.movement import Iota, Reverse, Slice
from ..ir.types import Shape, TensorType
from ..ir.value import Add, Full, Mul, Value
from .arrays import any_traced, broadcast, broadcast_shapes, convert, expand, lift, permute, reshape, size_value, typed
from .sizes import plain
from .trace import here, operation, promises
from .tracer import Tracer, unwrap, wrap


@dataclass(frozen=True)
class Cut:
    """One axis read by a slice: `length` elements from `start` upwards in steps of `step`, then turned round if
    `back`."""

    start: Dim
    length: Dim
    step: int
    back: bool


@dataclass(frozen=True)
class Plan:
    """A read index. `cuts` per axis of the array; `dropped` axes are read by a number; `arrays` by axis; `new` are the
    positions of new axes in the result of the basic part; `front` says that the gathered axes come first."""

    cuts: tuple[Cut, ...]
    dropped: tuple[int, ...]
    arrays: tuple[tuple[int, Value], ...]
    new: tuple[int, ...]
    front: bool
    place: int


def _error(message: str, edit: str | None = None) -> OutOfRange:
    return OutOfRange(message, code="TD0818", location=here(), edit=edit)


def out_of_bounds(index: int, axis: int, size: int) -> OutOfRange:
    edit = f"an index from {-size} to {size - 1}" if size else "an axis that has elements"
    return _error(f"index {index} is out of bounds for axis {axis} with size {size}", edit)


_MASK: Final = "a mask of the shape of the axes that it selects from"


def _is_mask(item: Any) -> bool:
    if isinstance(item, Tracer):
        return item.value.dtype is bool_
    if isinstance(item, bool | np.bool_):
        return True
    return isinstance(item, np.ndarray | list) and not any_traced(item) and np.asarray(item).dtype == np.bool_


def _items(index: Any, rank: int) -> list[Any]:
    """The entries of an index: masks as arrays of positions, an ellipsis as slices."""
    given = list(index) if isinstance(index, tuple) else [index]
    spread: list[Any] = []
    for item in given:
        if isinstance(item, Tracer) and item.value.dtype is bool_:
            raise Unsupported(
                "indexing by a traced mask: the shape of the result depends on its values",
                code="TD0811",
                location=here(),
                edit="np.where(mask, x, 0) keeps the shape; x.sum(where=mask) reduces under it",
            )
        if _is_mask(item):
            mask = np.asarray(item)
            if mask.ndim == 0:
                raise Unsupported(
                    "indexing by True or False",
                    code="TD0813",
                    location=here(),
                    edit="x[None] for True, np.where for choices",
                )
            spread += [_Positions(places, size) for places, size in zip(np.nonzero(mask), mask.shape, strict=True)]
        else:
            spread.append(item)
    used = sum(1 for item in spread if item is not None and item is not Ellipsis)
    if sum(item is Ellipsis for item in spread) > 1:
        raise _error("an index can only have a single ellipsis ('...')", "one ... for all the axes that are not named")
    if used > rank:
        raise _error(f"too many indices: the array is {rank}-dimensional, but {used} were indexed", f"at most {rank}")
    fill: list[Any] = [slice(None)] * (rank - used)
    if not any(item is Ellipsis for item in spread):
        return spread + fill
    at = next(i for i, item in enumerate(spread) if item is Ellipsis)
    return spread[:at] + (fill or [_NOTHING]) + spread[at + 1 :]


_NOTHING: Final = object()  # an ellipsis for no axes, which still stands between arrays


@dataclass(frozen=True)
class _Positions:
    """Where a mask that is known is true, along one of its axes."""

    places: np.ndarray[Any, Any]
    size: int


def read(index: Any, shape: Shape, mode: Mode = "raise") -> Plan:
    """The plan for an index into an array of `shape`. TD0818 for what NumPy refuses too, unless `mode` says what an
    index outside does; then those from -n to -1 count from the end all the same."""
    items = _items(index, len(shape))
    cuts: list[Cut] = []
    dropped: list[int] = []
    arrays: list[tuple[int, Value]] = []
    new: list[int] = []
    advanced: list[int] = []  # places among the items at which arrays stand
    scalars: list[tuple[int, Value]] = []
    whole = any(_is_array(item) for item in items)
    axis = position = 0
    for place, item in enumerate(items):
        if item is _NOTHING:
            continue
        if item is None:
            new.append(position)
            position += 1
            continue
        size = shape[axis]
        if isinstance(item, slice):
            cuts.append(_slice(item, size))
            position += 1
        elif _is_array(item):
            cuts.append(Cut(0, size, 1, False))
            arrays.append((axis, _from_front(_positions(item, axis, size, mode), size, mode)))
            advanced.append(place)
        elif isinstance(item, Tracer):
            cuts.append(Cut(0, size, 1, False))
            scalars.append((axis, _from_front(_integer(unwrap(item), axis), size, mode)))
            advanced.append(place)
        else:
            number = _number(item, axis, size, mode)
            if mode != "raise" and not (type(number) is type(size) is int and 0 <= number < size):
                # It may be outside: then it is a position like a traced one.
                cuts.append(Cut(0, size, 1, False))
                (arrays if whole else scalars).append((axis, size_value(number)))
                advanced.append(place)
            elif whole:
                # Beside arrays a number is one of them, as NumPy has it.
                cuts.append(Cut(0, size, 1, False))
                arrays.append((axis, size_value(number)))
                advanced.append(place)
            else:
                cuts.append(Cut(number, 1, 1, False))
                dropped.append(axis)
        axis += 1
    arrays = sorted([*arrays, *scalars], key=lambda pair: pair[0])
    front = bool(advanced) and advanced[-1] - advanced[0] + 1 != len(advanced)
    # Where the gathered axes go: before the first axis that follows them among those that stay.
    kept_before = 0
    if advanced and not front:
        for item in items[: advanced[0]]:
            kept_before += item is None or isinstance(item, slice)
    return Plan(tuple(cuts), tuple(dropped), tuple(arrays), tuple(new), front, kept_before)


def _is_array(item: Any) -> bool:
    """Whether the entry is an array of positions: one of rank 0 counts only if it is NumPy's own array."""
    if isinstance(item, _Positions):
        return True
    if isinstance(item, Tracer):
        return item.ndim > 0
    return isinstance(item, list | np.ndarray) and (isinstance(item, list) or item.ndim > 0)


def _from_front(value: Value, size: Dim, mode: Mode) -> Value:
    """Positions that are counted from the front; `raise` and `wrap` do so themselves, a promise is of these alone."""
    if mode in ("raise", "wrap", "promised") or value.dtype.kind == "uint":
        return value
    value = convert(value, i64)
    none = Full(0, value.tensor)
    return e.Select(value < none, value + broadcast(size_value(size), value.shape), value)


def _positions(item: Any, axis: int, size: Dim, mode: Mode) -> Value:
    if isinstance(item, _Positions):
        if type(size) is int and item.size and size != item.size:  # NumPy does not ask of empty masks
            raise _error(f"boolean index did not match: axis {axis} has size {size}, the mask {item.size}", _MASK)
        return unwrap(lift(item.places.astype(np.int64)))
    if isinstance(item, list | np.ndarray) and not any_traced(item):
        known = np.asarray(item)
        if known.size == 0:
            known = known.astype(np.int64)
        if known.dtype.kind in "iu" and type(size) is int and known.size:
            low, high = int(known.min()), int(known.max())
            if (low < -size or high >= size) and mode == "raise":
                raise out_of_bounds(high if high >= size else low, axis, size)
            if low < 0 and mode in ("raise", "promised"):
                known = np.where(known < 0, known + size, known)
        return _integer(unwrap(lift(known if known is not item else item)), axis)
    return _integer(unwrap(lift(item)), axis)


def _integer(value: Value, axis: int) -> Value:
    if not value.dtype.is_integer:
        raise _error(
            f"an index of axis {axis} is {value.type}; only integers, slices, None and ... are indices",
            "convert it by .astype(int)",
        )
    return value


def _number(item: Any, axis: int, size: Dim, mode: Mode = "raise") -> Dim:
    """A number that is known, counted from the front."""
    if isinstance(item, SymbolicDim):
        number: Dim = item
    else:
        try:
            number = int(item.__index__())
        except AttributeError:
            raise _error(
                f"an index is a {type(item).__name__}; only integers, slices, None, ... and integer arrays are indices",
                "convert it to an integer first",
            ) from None
    if type(number) is int:
        if type(size) is int and not -size <= number < size and mode == "raise":
            raise out_of_bounds(number, axis, size)
        if number < 0:
            return size + number
    elif not known_lt(number, size):
        # A computed size may lie outside; the slice's own promise is checked when the sizes are known.
        return number
    return number


def _bound(x: Any) -> Dim:
    """A bound of a slice, as it is written."""
    if isinstance(x, Tracer):
        raise Unsupported(
            "a slice with a traced bound: the shape of the result depends on its value",
            code="TD0811",
            location=here(),
            edit="td.lax.dynamic_slice(x, starts, sizes) has a size that is known",
        )
    return x if isinstance(x, SymbolicDim) else int(x.__index__())


def _slice(item: slice, size: Dim) -> Cut:
    step = 1 if item.step is None else item.step
    if isinstance(step, Tracer | SymbolicDim):
        raise InvalidValue(
            "the step of a slice must be a number that is known",
            code="TD0812",
            location=here(),
            edit="a step in numbers of Python",
        )
    step = int(step.__index__())
    if step == 0:
        raise InvalidValue("slice step cannot be zero", code="TD0822", location=here(), edit="1, -1 or another step")
    if type(size) is int and not any(isinstance(x, SymbolicDim | Tracer) for x in (item.start, item.stop)):
        places = range(*slice(item.start, item.stop, step).indices(size))
        if step > 0:
            return Cut(places.start if len(places) else 0, len(places), step, False)
        return Cut(places[-1] if len(places) else 0, len(places), -step, len(places) > 1)
    if step > 0:
        start, length = _forward(item.start, item.stop, size)
        length = shortest(length, promises())
        return Cut(start, length if step == 1 else ceildiv(length, step), step, False)
    # Downwards from start to above stop: the places stop+1 .. start, read upwards.
    top = size if item.start is None else _place(_bound(item.start), size, 1)
    low = 0 if item.stop is None else _place(_bound(item.stop), size, 1)
    length = _at_least(top - low, 0)
    count = length if step == -1 else ceildiv(length, -step)
    return Cut(_at_most(top - 1 - (count - 1) * -step, top), count, -step, True)  # of none: it begins at its end


def _forward(start: Any, stop: Any, size: Dim) -> tuple[Dim, Dim]:
    """Where a slice of step 1 begins, and its length, for sizes of which not all is known.

    Cutting k off the front and j off the back leaves n - min(n, k + j), however the slice is written: so the shapes of
    `x[1:]` and `x[:-1]` are equal.
    """
    low = 0 if start is None else _bound(start)
    high = size if stop is None else _bound(stop)
    front = low if _not_negative(low) else None
    back = 0 if stop is None else (-high if type(high) is int and high < 0 else None)
    if front is not None and back is not None:
        return _at_most(front, size), size - _at_most(front + back, size)
    begin, end = _place(low, size, 0), _place(high, size, 0)
    return begin, _at_least(end - begin, 0)


def _not_negative(dim: Dim) -> bool:
    return dim >= 0 if type(dim) is int else known_le(0, dim, promises())


def _place(bound: Dim, size: Dim, more: int) -> Dim:
    """`more` after the place that a bound of a slice names, within 0..size."""
    if type(bound) is int and bound < 0:
        return size - _at_most(-bound - more, size)
    return _at_most(bound + more, size)


def _at_most(a: Dim, b: Dim) -> Dim:
    """min(a, b), decided where what is promised of the sizes decides it."""
    known = promises()
    return a if known_le(a, b, known) else b if known_le(b, a, known) else minimum(a, b)


def _at_least(a: Dim, b: Dim) -> Dim:
    known = promises()
    return a if known_le(b, a, known) else b if known_le(a, b, known) else maximum(a, b)


def _cut(value: Value, plan: Plan) -> Value:
    """The slices of the plan, without the axes that are dropped."""
    cuts = plan.cuts
    if any(c.start != 0 or c.length != n or c.step != 1 for c, n in zip(cuts, value.shape, strict=True)):
        stop = tuple(_end(c, n) for c, n in zip(cuts, value.shape, strict=True))
        value = Slice(value, tuple(c.start for c in cuts), stop, tuple(c.step for c in cuts))
    back = tuple(i for i, c in enumerate(cuts) if c.back)
    if back:
        value = Reverse(value, back)
    if plan.dropped:
        value = reshape(value, tuple(n for i, n in enumerate(value.shape) if i not in plan.dropped))
    return value


def _end(cut: Cut, size: Dim) -> Dim:
    if cut.step == 1:
        return cut.start + cut.length
    last = cut.start + (cut.length - 1) * cut.step + 1
    return _at_least(_at_most(last, size), cut.start)


def _axis_after(plan: Plan, axis: int) -> int:
    """An axis of the array, after the dropped ones are gone."""
    return axis - sum(d < axis for d in plan.dropped)


def getitem(x: Tracer, index: Any, mode: Mode = "raise") -> Tracer:
    """`x[index]`."""
    value = unwrap(x)
    plan = read(index, value.shape, mode)
    value = _cut(value, plan)
    if plan.arrays:
        value = _gathered(value, plan, mode)
    if plan.new:
        value = _with_new_axes(value, plan)
    return wrap(value)


def _indices(plan: Plan) -> tuple[tuple[Value, ...], Shape, tuple[int, ...]]:
    """The index arrays in one shape, that shape, and the axes they index after the slices."""
    try:
        shape = broadcast_shapes(*(value.shape for _, value in plan.arrays))
    except ShapeMismatch as error:
        raise _error(f"indexing arrays: {error.message}", error.edit) from None
    arrays = tuple(broadcast(value, shape) for _, value in plan.arrays)
    return arrays, shape, tuple(_axis_after(plan, axis) for axis, _ in plan.arrays)


def _gathered(value: Value, plan: Plan, mode: Mode) -> Value:
    arrays, shape, axes = _indices(plan)
    if not shape and mode in ("clip", "promised"):
        # One element along each axis: a block of size 1, which a loop reads without a gather.
        starts = []
        sizes = []
        for axis, size in enumerate(value.shape):
            here_ = axes.index(axis) if axis in axes else None
            starts.append(Full(0, TensorType((), i64)) if here_ is None else convert(arrays[here_], i64))
            sizes.append(size if here_ is None else 1)
        found: Value = DynamicSlice(value, tuple(starts), tuple(sizes))
        return reshape(found, tuple(n for i, n in enumerate(value.shape) if i not in axes))
    found = Gather(value, arrays, axes, mode)
    if plan.front:
        return found
    before = sum(1 for i in range(axes[0]) if i not in axes)
    rank, rest = len(shape), value.rank - len(axes)
    order = [*range(rank, rank + before), *range(rank), *range(rank + before, rank + rest)]
    return permute(found, order)


def _with_new_axes(value: Value, plan: Plan) -> Value:
    """New axes count among the slices; the gathered axes stand as one block before, between or after them."""
    if not plan.arrays:
        return expand(value, plan.new)
    _, shape, _ = _indices(plan)
    block = len(shape)
    begin = 0 if plan.front else plan.place
    places = [(n if n < begin else n + block) if not plan.front else n + block for n in plan.new]
    return expand(value, places)


class At:
    """`x.at`: index it, then say what happens there."""

    __slots__ = ("x",)

    def __init__(self, x: Tracer) -> None:
        self.x = x

    def __getitem__(self, index: Any) -> Place:
        return Place(self.x, index)


_MODES: dict[str | None, Mode] = {
    None: "raise", "raise": "raise", "clip": "clip", "wrap": "wrap", "fill": "fill", "drop": "drop",
    "promise_in_bounds": "promised", "promised": "promised",
}  # fmt: skip


class Place:
    """Some elements of an array, and what they become.

    `mode` says what an index does that is outside, -n to -1 being inside: raise, clip, wrap, fill (reads give NaN, or
    0), drop, or promise_in_bounds; `unique_indices` promises that no element is named twice.
    """

    __slots__ = ("index", "x")

    def __init__(self, x: Tracer, index: Any) -> None:
        self.x = x
        self.index = plain(index)

    def get(self, *, mode: str | None = None, **promises: Any) -> Tracer:
        with operation():
            return getitem(self.x, self.index, _mode(mode))

    def set(self, value: Any, *, mode: str | None = None, unique_indices: bool = False, **promises: Any) -> Tracer:
        return self._changed("set", value, mode, unique_indices)

    def add(self, value: Any, *, mode: str | None = None, unique_indices: bool = False, **promises: Any) -> Tracer:
        return self._changed("add", value, mode, unique_indices)

    def subtract(self, value: Any, *, mode: str | None = None, unique_indices: bool = False, **promises: Any) -> Tracer:
        with operation():
            negative = -lift(value)
        return self._changed("add", negative, mode, unique_indices)

    def multiply(self, value: Any, *, mode: str | None = None, unique_indices: bool = False, **promises: Any) -> Tracer:
        return self._changed("mul", value, mode, unique_indices)

    mul = multiply

    def divide(self, value: Any, *, mode: str | None = None, unique_indices: bool = False, **promises: Any) -> Tracer:
        with operation():
            return lift(
                self.x / place_ones(self.x).at[self.index].multiply(value, mode=mode, unique_indices=unique_indices)
            )

    def min(self, value: Any, *, mode: str | None = None, unique_indices: bool = False, **promises: Any) -> Tracer:
        return self._changed("min", value, mode, unique_indices)

    def max(self, value: Any, *, mode: str | None = None, unique_indices: bool = False, **promises: Any) -> Tracer:
        return self._changed("max", value, mode, unique_indices)

    def power(self, value: Any, *, mode: str | None = None, **promises: Any) -> Tracer:
        with operation():
            return self._changed("set", getitem(self.x, self.index, _mode(mode)) ** value, mode, False)

    def apply(self, function: Any, *, mode: str | None = None, **promises: Any) -> Tracer:
        found = function(self.get(mode=mode))
        return self._changed("set", found, mode, False)

    def _changed(self, combine: Combine, value: Any, mode: str | None, unique: bool) -> Tracer:
        with operation():
            return update(self.x, self.index, value, combine, _mode(mode), unique)


def place_ones(x: Tracer) -> Tracer:
    return wrap(Full(1, x.value.tensor))


def _mode(mode: str | None) -> Mode:
    if mode not in _MODES:
        raise InvalidValue(
            f"mode {mode!r} is none of raise, clip, wrap, fill, drop, promise_in_bounds",
            code="TD0822",
            location=here(),
            edit="mode='clip'",
        )
    return _MODES[mode]


def update(x: Tracer, index: Any, value: Any, combine: Combine, mode: Mode = "raise", unique: bool = False) -> Tracer:
    """`x` with the elements at `index` set to, or combined with, `value`."""
    base = unwrap(x)
    if isinstance(index, Tracer) and index.value.dtype is bool_:
        return _masked_update(base, index, value, combine)
    plan = read(index, base.shape, mode)
    target = getitem(wrap(base), index, "promised").shape  # the shape that the value must stretch to
    update_value = convert(broadcast(typed_for(value, base), target), base.dtype)
    if not plan.arrays and combine == "set" and all(c.step == 1 and not c.back for c in plan.cuts):
        return wrap(_block_set(base, plan, update_value))
    return wrap(_scattered(base, plan, update_value, combine, mode, unique))


def typed_for(value: Any, base: Value) -> Value:
    """A new element as the array holds it; NumPy assigns without asking, but a complex number needs a complex array."""
    x = lift(value)
    if x.value.dtype.kind == "complex" and base.dtype.kind != "complex":
        raise TypeMismatch(
            f"a complex value in an array of {base.dtype}",
            code="TD0816",
            location=here(),
            edit="x.astype(complex) first",
        )
    return (
        typed(value, base.dtype)
        if not isinstance(value, float) or base.dtype.is_float
        else convert(unwrap(x), base.dtype)
    )


def _block_set(base: Value, plan: Plan, value: Value) -> Value:
    sizes = tuple(c.length for c in plan.cuts)
    block = reshape(value, sizes)
    if all(c.length == n for c, n in zip(plan.cuts, base.shape, strict=True)):
        return block
    return DynamicUpdate(base, block, tuple(size_value(c.start) for c in plan.cuts))


def _scattered(base: Value, plan: Plan, value: Value, combine: Combine, mode: Mode, unique: bool) -> Value:
    """Every element's position in each axis that is not taken whole, then one scatter."""
    rank = base.rank
    taken = [*plan.dropped, *(axis for axis, _ in plan.arrays)]
    whole = [
        i
        for i, (c, n) in enumerate(zip(plan.cuts, base.shape, strict=True))
        if c.start == 0 and c.length == n and c.step == 1 and not c.back and i not in taken
    ]
    axes = tuple(i for i in range(rank) if i not in whole)
    if not axes:
        axes, whole = (0,), whole[1:]
        if rank == 0:
            return _scattered(
                reshape(base, (1,)), Plan((Cut(0, 1, 1, False),), (0,), (), (), False, 0), value, combine, mode, unique
            )
    # The value without new axes, and with dropped axes back as 1: its axes are the gathered block and the slices.
    value = _without_new_axes(value, plan)
    arrays, block, _ = _indices(plan) if plan.arrays else ((), (), ())
    indexed = [axis for axis, _ in plan.arrays]
    sliced = [i for i in range(rank) if i not in indexed and i not in plan.dropped]
    before = 0 if plan.front or not indexed else sum(1 for i in sliced if i < indexed[0])
    order_of_value: list[Any] = [*sliced[:before], *(("block", k) for k in range(len(block))), *sliced[before:]]
    outer = [i for i in sliced if i in axes]
    wanted: list[Any] = [*(("block", k) for k in range(len(block))), *outer, *(i for i in sliced if i in whole)]
    value = permute(value, [order_of_value.index(each) for each in wanted])
    shape: Shape = (*block, *(plan.cuts[i].length for i in outer))
    indices: list[Value] = []
    grid = TensorType(shape, i64)
    for axis in axes:
        if axis in indexed:
            found = convert_index(arrays[indexed.index(axis)])
            indices.append(broadcast(reshape(found, (*found.shape, *(1,) * len(outer))), shape))
        elif axis in plan.dropped:
            indices.append(broadcast(size_value(plan.cuts[axis].start), shape))
        else:
            cut = plan.cuts[axis]
            place: Value = Iota(grid, len(block) + outer.index(axis))
            if cut.back:
                place = broadcast(size_value(cut.length - 1), shape) - place
            if cut.step != 1:
                place = place * cut.step
            if not (type(cut.start) is int and cut.start == 0):
                place = place + broadcast(size_value(cut.start), shape)
            indices.append(place)
    alone = unique or not indexed or all(type(n) is int and n == 1 for n in block)
    if not indexed:
        mode = "promised"
    return Scatter(base, tuple(indices), value, axes, combine, mode, 0, alone)


def convert_index(value: Value) -> Value:
    """Index arrays of one scatter must be of one kind with computed positions: i64."""
    return convert(value, i64)


def _without_new_axes(value: Value, plan: Plan) -> Value:
    if not plan.new:
        return value
    if plan.arrays:
        _, shape, _ = _indices(plan)
        block = len(shape)
        places = [(n if n < plan.place else n + block) if not plan.front else n + block for n in plan.new]
    else:
        places = list(plan.new)
    return reshape(value, tuple(n for i, n in enumerate(value.shape) if i not in places))


def _masked_update(base: Value, mask: Tracer, value: Any, combine: Combine) -> Tracer:
    """`x.at[mask].set(v)` for a traced mask keeps the shape: where the mask is true, v or the combination."""
    where = unwrap(mask)
    if where.shape != base.shape[: where.rank]:
        raise _error(f"boolean index did not match: the array is {base.type}, the mask {where.type}", _MASK)
    where = broadcast(reshape(where, (*where.shape, *(1,) * (base.rank - where.rank))), base.shape)
    update_value = typed_for(value, base)
    if update_value.rank > base.rank - mask.ndim and update_value.rank > 0:
        raise Unsupported(
            "a masked update with one value per chosen element",
            code="TD0811",
            location=here(),
            edit="np.where(mask, values, x) with values of x's shape",
        )
    news = broadcast(update_value, base.shape)
    ops: dict[str, type[Value]] = {"add": Add, "mul": Mul, "max": e.Maximum, "min": e.Minimum}
    return wrap(e.Select(where, news if combine == "set" else ops[combine](base, news), base))
