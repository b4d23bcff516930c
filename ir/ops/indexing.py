"""Ops whose positions are data: gather and scatter, dynamic slices, sorting and searching.

They are irregular: no structure says them, so each has its own lowering. Gather and scatter are each other's
transposes, as are dynamic slice and dynamic update; the cotangent of a read is accumulated into the place that was
read, never spread over zeros of the whole shape and summed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from ..dims import Dim, known_lt, product, show
from ..dtypes import ARITHMETIC, COMPLEX, accumulator, bool_, i64
from ..errors import CheckFailed, InvalidValue, OutOfRange, ShapeMismatch, TreadleError, TypeMismatch
from ..types import Shape, TensorType, TupleType, Type
from ..value import Add, Array, DimSize, Full, Get, Value, lift, replace
from .contract import moved
from .elementwise import Clamp, Convert, Eq, Maximum, Select
from .families import Indexing, Tangent, normalize_axis
from .movement import Broadcast, Iota, Promise, Reshape, Transpose, static
from .reduce import ORDERED, LinearRecurrence, converted, shifted, stacked

# What an index outside its axis of n elements does.
#   raise     -n..n-1 count as NumPy counts them, anything else fails
#   clip      the nearest of 0..n-1
#   wrap      modulo n
#   fill      reads give NaN (0 for integers and bool), updates are dropped
#   drop      reads give 0, updates are dropped: the linear form of fill
#   promised  the program promises 0..n-1; another index is undefined (the evaluator refuses it)
# An axis of no elements has no nearest one: there clip and wrap do as drop does.
Mode = Literal["raise", "clip", "wrap", "fill", "drop", "promised"]
Combine = Literal["set", "add", "mul", "max", "min"]
_MODE = "or mode= of np.take and of x.at[i].set"
_MODES = ("raise", "clip", "wrap", "fill", "drop", "promised")


def _located(op: Gather | Scatter) -> tuple[Dim, ...]:
    """Check the index arrays, axes, batch and mode; the one shape of the index arrays. TD0171, TD0172, TD0174."""
    if op.mode not in _MODES:
        raise op.refuse(f"mode {op.mode!r} is none of {', '.join(_MODES)}", code="TD0174", error=InvalidValue)
    x = op.x
    if not 0 <= op.batch_rank <= x.rank:
        raise op.refuse(f"{op.batch_rank} batch axes in a value of rank {x.rank}", code="TD0172", error=InvalidValue)
    axes = tuple(normalize_axis(op, axis, x.rank) for axis in op.axes)
    op.__dict__["axes"] = axes
    if len(set(axes)) != len(axes) or any(axis < op.batch_rank for axis in axes):
        raise op.refuse(
            f"axes {axes} must be distinct and not among the {op.batch_rank} batch axes",
            code="TD0172",
            error=InvalidValue,
        )
    if len(op.indices) != len(axes) or not axes:
        raise op.refuse(f"{len(op.indices)} index arrays for axes {axes}", code="TD0171", error=InvalidValue)
    shape = op.indices[0].shape
    for index in op.indices:
        if not index.dtype.is_integer:
            raise op.refuse(f"an index is {index.type}, integers are needed", code="TD0171", error=TypeMismatch)
        if index.shape != shape:
            raise op.refuse(
                f"index shapes differ: {op.indices[0].type} and {index.type}",
                code="TD0171",
                error=ShapeMismatch,
            )
    if len(shape) < op.batch_rank or shape[: op.batch_rank] != x.shape[: op.batch_rank]:
        raise op.refuse(
            f"the first {op.batch_rank} axes of {x.type} and of the indices {op.indices[0].type} differ",
            code="TD0171",
            error=ShapeMismatch,
        )
    return shape


def _whole(op: Gather | Scatter) -> tuple[int, ...]:
    """Axes of x that are neither batch nor indexed: whole slices."""
    return tuple(i for i in range(op.batch_rank, op.x.rank) if i not in op.axes)


def _positions(op: Gather | Scatter, shape: tuple[int, ...], indices: tuple[Array, ...]) -> tuple[list[Array], Array]:
    """Positions in `shape` per index array, made valid, and where they are inside."""
    inside = np.ones(indices[0].shape, np.bool_)
    at: list[Array] = []
    for axis, index in zip(op.axes, indices, strict=True):
        n = shape[axis]
        # Of u64, what i64 does not hold is outside every axis, and so is the greatest i64.
        where = np.minimum(index, np.uint64(2**63 - 1)).astype(np.int64) if index.dtype == np.uint64 else index
        where = where.astype(np.int64)
        match op.mode:
            case "raise":
                where = np.where(where < 0, where + n, where)
            case "clip":
                where = np.clip(where, 0, max(n - 1, 0))
            case "wrap" if index.dtype == np.uint64:
                where = (index % np.uint64(max(n, 1))).astype(np.int64)
            case "wrap":
                where = where % max(n, 1)
        within = (where >= 0) & (where < n)
        if op.mode in ("raise", "promised") and not within.all():
            wrong = index[~within].flat[0]
            raise _outside(op, axis, f"index {wrong} is outside axis {axis} of size {n}")
        inside &= within
        at.append(where)
    return [np.where(inside, where, 0) for where in at], inside


def _failure(op: Gather | Scatter) -> TreadleError:
    """What is known before the call: native code tells the index, its axis and the size."""
    sizes = ", ".join(f"axis {axis} of size {op.x.shape[axis]}" for axis in op.axes)
    edit = _within(op, op.axes[0]) if len(op.axes) == 1 else f"np.clip of each index to its axis, {_MODE}"
    return op.refuse(f"an index is outside {sizes}", code="TD0170", error=OutOfRange, edit=edit)


def _within(op: Gather | Scatter, axis: int) -> str:
    if op.x.shape[axis] == 0:
        return "x.at[i].get(mode='fill') or x.at[i].set(..., mode='drop'): no index is inside an empty axis"
    return f"np.clip(i, 0, {show(op.x.shape[axis] - 1)}), {_MODE}"


def _spared(op: Gather | Scatter, wanted: Callable[[Shape], Value]) -> tuple[Value, ...]:
    """The first position stands for those that are not wanted; there is one unless the axis is empty."""
    mask = wanted(op.indices[0].shape)
    return tuple(Select(mask, index, lift(0, index)) for index in op.indices)


def _outside(op: Gather | Scatter, axis: int, message: str) -> OutOfRange | CheckFailed:
    if op.mode == "raise":
        return op.refuse(message, code="TD0170", error=OutOfRange, edit=_within(op, axis))
    return op.refuse(f"{message}; the program promised otherwise", code="TD0180", error=CheckFailed)


def _batch_positions(op: Gather | Scatter, shape: tuple[int, ...]) -> list[Array]:
    """Along each batch axis every element indexes itself."""
    return [
        np.arange(shape[i]).reshape(*(1,) * i, shape[i], *(1,) * (len(shape) - i - 1)) for i in range(op.batch_rank)
    ]


def _zeros(given: TensorType) -> Value:
    return Full(0, given)


def _is_one_place(op: Gather | Scatter) -> bool:
    """Whether each index is one number."""
    return op.batch_rank == 0 and op.indices[0].rank == 0


def _same_batch(operands: tuple[Value, ...], batched: tuple[bool, ...]) -> tuple[Value, ...]:
    """The operands, those without the new leading axis repeated along it."""
    count = next(x.shape[0] for x, here in zip(operands, batched, strict=True) if here)
    return tuple(x if here else stacked(x, count) for x, here in zip(operands, batched, strict=True))


class Gather(Indexing):
    """Elements of `x` at the positions that `indices` give along `axes`, one index array per axis, all of one shape.

    The first `batch_rank` axes of x and of the indices go together. The result has the batch axes, the other axes of
    the indices, then the axes of x that are neither, in order: a whole slice is read along these. `mode` says what an
    index outside does (see `Mode`); `unique` promises that no two positions are equal, so that the transpose may store
    without adding. Errors: TD0170 (outside, at run time), TD0171 (indices), TD0172 (axes), TD0174 (mode).
    """

    x: Value
    indices: tuple[Value, ...]
    axes: tuple[int, ...]
    mode: Mode = "raise"
    batch_rank: int = 0
    unique: bool = False

    @property
    def can_fail(self) -> bool:  # type: ignore[override]
        return self.mode == "raise"

    def failure(self) -> TreadleError:
        return _failure(self)

    def spared(self, wanted: Callable[[Shape], Value]) -> Value:
        return replace(self, indices=_spared(self, wanted))

    @property
    def linear(self) -> tuple[int, ...]:  # type: ignore[override]
        """Where `fill` reads NaN, the op is affine: see `jvp`."""
        return () if self.mode == "fill" else (0,)

    def result(self) -> Type:
        shape = _located(self)
        return TensorType((*shape, *(self.x.shape[i] for i in _whole(self))), self.x.dtype)

    def evaluate(self, x: Array, *indices: Array) -> Array:
        at, inside = _positions(self, x.shape, indices)
        x = x.transpose(*range(self.batch_rank), *self.axes, *_whole(self))
        count = self.batch_rank + len(self.axes)
        if 0 in x.shape[:count]:
            found = np.zeros((*inside.shape, *x.shape[count:]), x.dtype)
        else:
            found = x[(*_batch_positions(self, inside.shape), *at)]
        if inside.all():
            return found
        nan = self.mode == "fill" and (self.dtype.is_float or self.dtype in COMPLEX)
        fill = np.asarray(float("nan") if nan else 0).astype(x.dtype)
        return np.where(inside.reshape(*inside.shape, *(1,) * (found.ndim - inside.ndim)), found, fill)

    def jvp(self, tangents: tuple[Value | None, ...]) -> Tangent:
        if tangents[0] is None:
            return None
        return replace(self, x=tangents[0], mode=_linear_mode(self))

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        if operand != 0:
            return None
        # Half floats that may meet in one place are summed in f32 and rounded once.
        kept = self.dtype if self._apart() else accumulator(self.dtype)
        zeros = _zeros(self.x.tensor.with_dtype(kept))
        return converted(self._added(zeros, converted(cotangent, kept)), self.dtype)

    def accumulate_transpose(self, into: Value, cotangent: Value, operand: int) -> Value:
        if self._apart() or accumulator(self.dtype) is self.dtype:
            return self._added(into, cotangent) if operand == 0 else into
        return super().accumulate_transpose(into, cotangent, operand)

    def _apart(self) -> bool:
        """Whether no two positions are equal."""
        return self.unique or product(self.indices[0].shape[self.batch_rank :]) == 1

    def _added(self, into: Value, x: Value) -> Value:
        return Scatter(into, self.indices, x, self.axes, "add", _linear_mode(self), self.batch_rank, self.unique)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        if not batched[0] and self.batch_rank == 0:
            # One x for the whole batch: more positions, whole slices still last. Members may read the same element.
            indices = _same_batch(operands[1:], batched[1:])
            return replace(self, x=operands[0], indices=indices, unique=False)
        axes = tuple(axis + 1 for axis in self.axes)
        if _is_one_place(self) and not any(batched[1:]):
            # One place for the whole batch: the new axis is one more along which a whole slice is read.
            return replace(self, x=operands[0], indices=operands[1:], axes=axes)
        x, *places = _same_batch(operands, batched)
        return Gather(x, tuple(places), axes, self.mode, self.batch_rank + 1, self.unique)


def _linear_mode(op: Gather | Scatter) -> Mode:
    return "drop" if op.mode == "fill" else op.mode


class Scatter(Indexing):
    """`x` with `updates` combined into the positions that a `Gather` with the same indices would read.

    `updates` has the shape of that gather's result. Positions are taken in row-major order of the indices: with `set`
    the last one wins; `add` and `mul` combine in that order and round each time, as NumPy's `at` does; `max` and `min`
    let NaN win. `unique` promises that no two positions are equal. Errors: as `Gather`, and TD0173 (updates).
    """

    x: Value
    indices: tuple[Value, ...]
    updates: Value
    axes: tuple[int, ...]
    combine: Combine = "set"
    mode: Mode = "raise"
    batch_rank: int = 0
    unique: bool = False

    joint = True

    @property
    def can_fail(self) -> bool:  # type: ignore[override]
        return self.mode == "raise"

    def failure(self) -> TreadleError:
        return _failure(self)

    def spared(self, wanted: Callable[[Shape], Value]) -> Value:
        return replace(self, indices=_spared(self, wanted))

    @property
    def linear(self) -> tuple[int, ...]:  # type: ignore[override]
        return (0, len(self.indices) + 1) if self.combine in ("set", "add") else ()

    def result(self) -> Type:
        shape = _located(self)
        if self.combine not in ("set", "add", "mul", "max", "min"):
            raise self.refuse(
                f"combine {self.combine!r} is none of set, add, mul, max, min",
                code="TD0174",
                error=InvalidValue,
            )
        accepted = {"add": ARITHMETIC, "mul": ARITHMETIC, "max": ORDERED, "min": ORDERED}.get(self.combine)
        if accepted is not None and self.x.dtype not in accepted:
            raise self.refuse(f"{self.x.dtype} is not accepted by {self.combine}", code="TD0114", error=TypeMismatch)
        wanted = TensorType((*shape, *(self.x.shape[i] for i in _whole(self))), self.x.dtype)
        if self.updates.type != wanted:
            raise self.refuse(
                f"updates are {self.updates.type}, {wanted} is needed", code="TD0173", error=ShapeMismatch
            )
        return self.x.tensor

    def evaluate(self, x: Array, *rest: Array) -> Array:
        *indices, updates = rest
        at, inside = _positions(self, x.shape, tuple(indices))
        order = (*range(self.batch_rank), *self.axes, *_whole(self))
        kept = accumulator(self.dtype).numpy if self.combine in ("max", "min") else x.dtype
        found = np.ascontiguousarray(x.transpose(order)).astype(kept)
        # Boolean selection keeps row-major order, and `ufunc.at` is unbuffered: repeated positions meet one by one.
        where = [np.broadcast_to(p, inside.shape)[inside] for p in (*_batch_positions(self, inside.shape), *at)]
        news = updates[inside].astype(kept)
        index = tuple(where)
        match self.combine:
            case "set":
                found[index] = news
            case "add":
                (np.logical_or if self.dtype is bool_ else np.add).at(found, index, news)
            case "mul":
                (np.logical_and if self.dtype is bool_ else np.multiply).at(found, index, news)
            case "max":
                np.maximum.at(found, index, news)
            case "min":
                np.minimum.at(found, index, news)
        return found.transpose(np.argsort(order)).astype(x.dtype)

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        if 0 < operand <= len(self.indices):
            return None
        if operand == 0:
            if self.combine == "add":
                return cotangent
            gap = _zeros(self.updates.tensor)
            return Scatter(cotangent, self.indices, gap, self.axes, "set", self.mode, self.batch_rank, self.unique)
        seen = self._gather(cotangent)
        if self.combine == "add" or self.unique:
            return seen
        last = self._last()
        return seen if last is None else Select(last, seen, lift(0, seen))

    def _gather(self, x: Value) -> Value:
        """What `x`, of the result's shape, holds at each update's place."""
        return Gather(x, self.indices, self.axes, _linear_mode(self), self.batch_rank, self.unique)

    def _last(self) -> Value | None:
        """Where an update is the last one of its place; None where all are. Found by setting each one's number."""
        shape = self.indices[0].shape
        if product(shape[self.batch_rank :]) == 1:
            return None
        numbers = Reshape(Iota(TensorType((product(shape),), i64), 0), shape)
        rank = self.batch_rank
        places = TensorType((*self.x.shape[:rank], *(self.x.shape[axis] for axis in self.axes)), i64)
        axes = tuple(range(rank, places.rank))
        mode = _linear_mode(self)
        latest = Scatter(Full(-1, places), self.indices, numbers, axes, "set", mode, rank)
        last = Eq(Gather(latest, self.indices, axes, mode, rank), numbers)
        return Broadcast(last, self.updates.shape, tuple(range(len(shape))))

    def jvp(self, tangents: tuple[Value | None, ...]) -> Tangent:
        x, updates = tangents[0], tangents[-1]
        if x is None and updates is None:
            return None
        x = lift(0, self.x) if x is None else x
        updates = lift(0, self.updates) if updates is None else updates
        if self.combine in ("set", "add"):
            return replace(self, x=x, updates=updates)
        through_x, through_updates = self._shares_of_product() if self.combine == "mul" else self._shares_of_extreme()
        return replace(self, x=x * through_x, updates=updates * through_updates, combine="add")

    def _shares_of_extreme(self) -> tuple[Value, Value]:
        """Those that equal the result share its derivative equally."""
        mine = Convert(Eq(self.x, self), self.dtype)
        theirs = Convert(Eq(self.updates, self._gather(self)), self.dtype)
        count = replace(self, x=mine, updates=theirs, combine="add")
        # A dropped update reads a count of 0, and where NaN won nobody equals it: both get nothing.
        seen = Maximum(self._gather(count), lift(1, self.updates))
        return mine / Maximum(count, lift(1, self.x)), theirs / seen

    def _shares_of_product(self) -> tuple[Value, Value]:
        """The product of the others: without a division, so that zeros are no special case and it has derivatives of
        every order itself. The updates are brought into the order of their places; within a place the others are those
        before and those behind."""
        through_x = replace(self, x=lift(1, self.x))
        flat, whole = self.indices[0].tensor.size, tuple(self.x.shape[i] for i in _whole(self))
        place = Reshape(self._place(), (flat,))
        order = ArgSort(place, 0)
        sorted_place = Gather(place, (order,), (0,), "promised", 0, True)
        updates = Gather(Reshape(self.updates, (flat, *whole)), (order,), (0,), "promised", 0, True)

        def products(back: bool) -> Value:
            same = Eq(sorted_place, shifted(sorted_place, 0, -1, back))
            here = Broadcast(same, updates.shape, (0,))
            neighbour = shifted(updates, 0, 1, back)
            factors, starts = (
                Select(here, neighbour, lift(0, updates)),
                Select(here, lift(0, updates), lift(1, updates)),
            )
            return LinearRecurrence(factors, starts, 0, back)

        back_in_place = ArgSort(order, 0)
        others = Gather(products(False) * products(True), (back_in_place,), (0,), "promised", 0, True)
        return through_x, self._gather(self.x) * Reshape(others, self.updates.shape)

    def _place(self) -> Value:
        """The number of the place that each update goes to, from 1; 0 for one that is dropped."""
        rank = self.batch_rank
        sizes = (*self.x.shape[:rank], *(self.x.shape[axis] for axis in self.axes))
        numbers = Reshape(Iota(TensorType((product(sizes),), i64), 0), sizes) + 1
        return Gather(numbers, self.indices, tuple(range(rank, len(sizes))), _linear_mode(self), rank)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        axes = tuple(axis + 1 for axis in self.axes)
        if _is_one_place(self) and not any(batched[1:-1]):
            x, updates = _same_batch((operands[0], operands[-1]), (batched[0], batched[-1]))
            return replace(self, x=x, indices=operands[1:-1], updates=updates, axes=axes)
        x, *indices, updates = _same_batch(operands, batched)
        rank = self.batch_rank + 1
        return Scatter(x, tuple(indices), updates, axes, self.combine, self.mode, rank, self.unique)


def take_along(x: Value, indices: Value, axis: int, mode: Mode = "raise", unique: bool = False) -> Value:
    """Elements of `x` at `indices` along `axis`, as NumPy's take_along_axis: their other axes go together, equal in
    size.

    `unique` promises that the indices along the axis are distinct, as those of a sort are.
    """
    last = x.rank - 1
    if axis % x.rank == last:
        return Gather(x, (indices,), (last,), mode, last, unique)
    order = (*(i for i in range(x.rank) if i != axis % x.rank), axis % x.rank)
    found = Gather(Transpose(x, order), (Transpose(indices, order),), (last,), mode, last, unique)
    return moved(found, order)


def _starts(op: DynamicSlice | DynamicUpdate, sizes: Shape) -> None:
    """One i64 scalar per axis, and a window that fits: TD0175."""
    if len(op.starts) != op.x.rank or len(sizes) != op.x.rank:
        raise op.refuse(
            f"{len(op.starts)} starts and {len(sizes)} sizes for {op.x.type}",
            code="TD0175",
            error=ShapeMismatch,
        )
    for start in op.starts:
        if start.type != TensorType((), i64):
            raise op.refuse(f"a start is {start.type}, i64[] is needed", code="TD0175", error=TypeMismatch)
    for axis, (size, n) in enumerate(zip(sizes, op.x.shape, strict=True)):
        if known_lt(n, size):
            raise op.refuse(f"{size} elements of axis {axis}, which has {n}", code="TD0175", error=ShapeMismatch)


def _corner(starts: tuple[Array, ...], sizes: tuple[int, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    corner = [min(max(int(start), 0), n - size) for start, size, n in zip(starts, sizes, shape, strict=True)]
    return tuple(slice(low, low + size) for low, size in zip(corner, sizes, strict=True))


def _size(dim: Dim) -> Value:
    given = TensorType((), i64)
    return Full(dim, given) if type(dim) is int else DimSize(dim)


def block_positions(
    shape: Shape, sizes: Shape, starts: tuple[Value, ...], batched: tuple[bool, ...]
) -> tuple[tuple[int, ...], tuple[Value, ...]]:
    """Per member of a batch: the axes along which the block is a part, and an index array for each, over the block."""
    count = next(start.shape[0] for start, here in zip(starts, batched, strict=True) if here)
    axes = tuple(axis for axis, (n, size) in enumerate(zip(shape, sizes, strict=True)) if n != size)
    grid = TensorType((count, *(sizes[axis] for axis in axes)), i64)
    indices: list[Value] = []
    for place, axis in enumerate(axes):
        start = starts[axis]
        room = _size(shape[axis] - sizes[axis])
        like = start.shape
        low, high = Full(0, start.tensor), Broadcast(room, like, ())
        corner = Broadcast(Clamp(start, low, high), grid.shape, (0,) if batched[axis] else ())
        indices.append(Add(corner, Iota(grid, place + 1)))
    return axes, tuple(indices)


class DynamicSlice(Indexing):
    """The block of `x` of the given `sizes` that begins at `starts`, one i64 scalar per axis.

    The block always lies inside: a start is moved to the nearest of 0..n-size. It never fails. Errors: TD0175.
    """

    x: Value
    starts: tuple[Value, ...]
    sizes: Shape

    linear = (0,)

    def result(self) -> Type:
        _starts(self, self.sizes)
        return TensorType(self.sizes, self.x.dtype)

    def evaluate(self, x: Array, *starts: Array) -> Array:
        return np.array(x[_corner(starts, static(self.sizes), x.shape)])

    def requires(self) -> tuple[Promise, ...]:
        return tuple(zip(self.sizes, self.x.shape, strict=True))

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        return DynamicUpdate(_zeros(self.x.tensor), cotangent, self.starts) if operand == 0 else None

    def accumulate_transpose(self, into: Value, cotangent: Value, operand: int) -> Value:
        if operand != 0:
            return into
        here = DynamicSlice(into, self.starts, self.sizes)
        return DynamicUpdate(into, here + cotangent, self.starts)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        x, *starts = operands
        if not any(batched[1:]):
            return DynamicSlice(x, (Full(0, TensorType((), i64)), *starts), (x.shape[0], *self.sizes))
        shape = x.shape[1:] if batched[0] else x.shape
        axes, indices = block_positions(shape, self.sizes, tuple(starts), batched[1:])
        if not axes:
            return _same_batch(operands, batched)[0]
        # The members of a batch that read one x may overlap; within a member every position is another one.
        if batched[0]:
            found = Gather(x, indices, tuple(axis + 1 for axis in axes), "promised", 1, True)
        else:
            found = Gather(x, indices, axes, "promised")
        rest = (axis for axis in range(len(shape)) if axis not in axes)
        return moved(found, (0, *(axis + 1 for axis in (*axes, *rest))))


class DynamicUpdate(Indexing):
    """`x` with the block that begins at `starts` replaced by `update`; starts move as in `DynamicSlice`.

    Errors: TD0175 (starts), TD0176 (update).
    """

    x: Value
    update: Value
    starts: tuple[Value, ...]

    linear = (0, 1)
    joint = True

    def result(self) -> Type:
        if self.update.dtype is not self.x.dtype or self.update.rank != self.x.rank:
            raise self.refuse(f"{self.update.type} cannot stand in {self.x.type}", code="TD0176", error=ShapeMismatch)
        _starts(self, self.update.shape)
        return self.x.tensor

    def evaluate(self, x: Array, update: Array, *starts: Array) -> Array:
        found = x.copy()
        found[_corner(starts, update.shape, x.shape)] = update
        return found

    def requires(self) -> tuple[Promise, ...]:
        return tuple(zip(self.update.shape, self.x.shape, strict=True))

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        if operand == 0:
            return DynamicUpdate(cotangent, _zeros(self.update.tensor), self.starts)
        return DynamicSlice(cotangent, self.starts, self.update.shape) if operand == 1 else None

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        starts = operands[2:]
        count = next(v.shape[0] for v, here in zip(operands, batched, strict=True) if here)
        x, update = (v if here else stacked(v, count) for v, here in zip(operands[:2], batched, strict=False))
        if not any(batched[2:]):
            return DynamicUpdate(x, update, (Full(0, TensorType((), i64)), *starts))
        axes, indices = block_positions(self.x.shape, self.update.shape, starts, batched[2:])
        if not axes:
            return update
        rest = (axis for axis in range(self.x.rank) if axis not in axes)
        order = (0, *(axis + 1 for axis in (*axes, *rest)))
        news = update if list(order) == sorted(order) else Transpose(update, order)
        return Scatter(x, indices, news, tuple(axis + 1 for axis in axes), "set", "promised", 1, True)


def add_to_block(into: Value, x: Value, start: Shape) -> Value:
    """`into` with `x` added to the block that begins at `start`: the cotangent of a slice, which touches no more."""
    starts = tuple(map(_size, start))
    return DynamicUpdate(into, DynamicSlice(into, starts, x.shape) + x, starts)


def _sort_keys(x: Array, descending: bool) -> list[Array]:
    """Arrays whose ascending order by lexsort is the wanted order of x; the last one counts most. NaN is above all."""
    if x.dtype.kind in "biu":
        return [~x if descending else x]
    x = x.astype(np.float64) if x.dtype.itemsize < 8 else x
    return [-x, ~np.isnan(x)] if descending else [x]


class Sort(Indexing):
    """The operands, each permuted along `axis` so that the first `keys` of them ascend, compared lexicographically.

    Stable in both directions: equal elements keep their order. NaN is greater than every number, so it is last, as in
    NumPy, and first when `descending`; the zeros are equal. Yields a tuple. Errors: TD0177.
    """

    xs: tuple[Value, ...]
    axis: int
    keys: int = 1
    descending: bool = False

    def result(self) -> Type:
        if not 1 <= self.keys <= len(self.xs):
            raise self.refuse(f"{self.keys} keys of {len(self.xs)} operands", code="TD0177", error=InvalidValue)
        first = self.xs[0]
        self.__dict__["axis"] = normalize_axis(self, self.axis, first.rank)
        for i, x in enumerate(self.xs):
            if i < self.keys and x.dtype not in ORDERED:
                raise self.refuse(f"{x.dtype} has no order", code="TD0177", error=TypeMismatch)
            if x.shape != first.shape:
                raise self.refuse(f"shapes differ: {first.type} and {x.type}", code="TD0177", error=ShapeMismatch)
        return TupleType(tuple(x.tensor for x in self.xs))

    def evaluate(self, *xs: Array) -> tuple[Array, ...]:
        keys = [key for x in reversed(xs[: self.keys]) for key in _sort_keys(x, self.descending)]
        order = np.lexsort(keys, axis=self.axis)
        return tuple(np.take_along_axis(x, order, axis=self.axis) for x in xs)

    def jvp(self, tangents: tuple[Value | None, ...]) -> Tangent:
        if all(tangent is None for tangent in tangents):
            return None
        # The same sort once more, with the places among what is carried along.
        places = Iota(TensorType(self.xs[0].shape, i64), self.axis)
        order = Get(Sort((*self.xs, places), self.axis, self.keys, self.descending), len(self.xs))
        return tuple(
            None if tangent is None else take_along(tangent, order, self.axis, "promised", True) for tangent in tangents
        )

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        return Sort(_same_batch(operands, batched), self.axis + 1, self.keys, self.descending)


class ArgSort(Indexing):
    """The permutation, as i64, that sorts `x` along `axis` in the order of `Sort`.

    `stable=False` allows equal elements in any order; the evaluator keeps them in order. Errors: TD0177.
    """

    x: Value
    axis: int
    descending: bool = False
    stable: bool = True

    flat = True

    def result(self) -> Type:
        if self.x.dtype not in ORDERED:
            raise self.refuse(f"{self.x.dtype} has no order", code="TD0177", error=TypeMismatch)
        self.__dict__["axis"] = normalize_axis(self, self.axis, self.x.rank)
        return TensorType(self.x.shape, i64)

    def evaluate(self, x: Array) -> Array:
        return np.lexsort(_sort_keys(x, self.descending), axis=self.axis).astype(np.int64)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        return replace(self, x=operands[0], axis=self.axis + 1)


class TopK(Indexing):
    """The first `k` along `axis` in the order of `Sort` (descending if `largest`), and where they stood, as i64.

    Yields (values, indices). Errors: TD0177 (dtype), TD0178 (k).
    """

    x: Value
    k: Dim
    axis: int = -1
    largest: bool = True

    def result(self) -> Type:
        if self.x.dtype not in ORDERED:
            raise self.refuse(f"{self.x.dtype} has no order", code="TD0177", error=TypeMismatch)
        axis = self.__dict__["axis"] = normalize_axis(self, self.axis, self.x.rank)
        if known_lt(self.k, 0) or known_lt(self.x.shape[axis], self.k):
            raise self.refuse(f"{self.k} of {self.x.shape[axis]} elements", code="TD0178", error=InvalidValue)
        shape = (*self.x.shape[:axis], self.k, *self.x.shape[axis + 1 :])
        return TupleType((TensorType(shape, self.x.dtype), TensorType(shape, i64)))

    def evaluate(self, x: Array) -> tuple[Array, Array]:
        order = np.lexsort(_sort_keys(x, self.largest), axis=self.axis).astype(np.int64)
        first = np.take(order, np.arange(self.k), axis=self.axis)  # type: ignore[arg-type]
        return np.take_along_axis(x, first, axis=self.axis), first

    def requires(self) -> tuple[Promise, ...]:
        return ((0, self.k), (self.k, self.x.shape[self.axis]))

    def jvp(self, tangents: tuple[Value | None, ...]) -> Tangent:
        (tangent,) = tangents
        return None if tangent is None else (take_along(tangent, Get(self, 1), self.axis, "promised", True), None)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        return replace(self, x=operands[0], axis=self.axis + 1)


class SearchSorted(Indexing):
    """Where each of `values` would be inserted into `sorted` to keep it ascending, as i64: its last axis is searched.

    The other axes of `sorted` are batch axes, the first ones of `values`. With side `left` the elements before the
    place are less, with `right` they are less or equal; NaN is greatest. Errors: TD0179.
    """

    sorted: Value
    values: Value
    side: Literal["left", "right"] = "left"

    flat = True

    def result(self) -> Type:
        if self.side not in ("left", "right"):
            raise self.refuse(f"side {self.side!r} is neither left nor right", code="TD0179", error=InvalidValue)
        if self.sorted.dtype is not self.values.dtype or self.sorted.dtype not in ORDERED:
            raise self.refuse(
                f"{self.values.type} among {self.sorted.type}: one ordered dtype is needed",
                code="TD0179",
                error=TypeMismatch,
            )
        batch = self.sorted.rank - 1
        if batch < 0 or self.values.shape[:batch] != self.sorted.shape[:batch]:
            raise self.refuse(
                f"{self.values.type} does not go with {self.sorted.type}", code="TD0179", error=ShapeMismatch
            )
        return TensorType(self.values.shape, i64)

    def evaluate(self, sorted: Array, values: Array) -> Array:
        kept = accumulator(self.sorted.dtype).numpy
        sorted, values = sorted.astype(kept), values.astype(kept)
        found = np.empty(values.shape, np.int64)
        for at in np.ndindex(sorted.shape[:-1]):
            found[at] = np.searchsorted(sorted[at], values[at], side=self.side)
        return found

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        if not batched[0] and self.sorted.rank == 1:
            return replace(self, sorted=operands[0], values=operands[1])
        among, values = _same_batch(operands, batched)
        return SearchSorted(among, values, self.side)
