"""Ops that only move elements: broadcast, reshape, transpose, slice, pad, concatenate, reverse, copy; and iota.

Every result element is one operand element or a fill, read at an affine position (through `//` and `%` where a
reshape needs them), so each is its own structure and fuses into its readers. All are linear, of any dtype, and
shape rules work for known and symbolic sizes alike. A slice or a crop that is not provably outside is accepted:
`requires()` lists what the sizes must keep, for the graph's checker and the entry.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ..dims import Dim, ceildiv, floordiv, known_lt, maximum, mod, product, show
from ..dtypes import NUMBERS, bool_
from ..errors import InvalidValue, ShapeMismatch, TypeMismatch
from ..loops.nodes import Binary, Const, Expr, Index
from ..loops.nodes import Select as Choose
from ..structure import Read, Structure, axes_of, element, pointwise
from ..types import Shape, TensorType, Type
from ..value import Array, Full, Value, lift
from .elementwise import Select, convert
from .families import Movement, Op, normalize_axis

Promise = tuple[Dim, Dim]  # the first is at most the second


def static(shape: Shape) -> tuple[int, ...]:
    """The sizes as ints: the evaluator asks ops on concrete types only."""
    return tuple(int(dim) for dim in shape)


def spelled(shape: Shape) -> str:
    return f"({', '.join(map(show, shape))})"


def _zero(like: Value) -> Value:
    """The scalar 0 of `like`'s dtype."""
    return Full(0, TensorType((), like.dtype))


def _no_negative_size(op: Value, shape: Shape) -> None:
    for dim in shape:
        if known_lt(dim, 0):
            raise op.refuse(f"the size {show(dim)} is negative", code="TD0147", error=ShapeMismatch)


def _steps(extent: Dim, step: int) -> Dim:
    """How many positions 0, step, 2*step ... lie below `extent`."""
    return extent if step == 1 else ceildiv(extent, step)


class Broadcast(Movement):
    """Repeat `x` along new axes: its axis i becomes axis `axes[i]` of a result of shape `to`. Nothing of size 1
    stretches."""

    to: Shape
    axes: tuple[int, ...]

    def result(self) -> Type:
        rank = len(self.to)
        axes = tuple(normalize_axis(self, axis, rank) if rank else axis for axis in self.axes)
        if len(axes) != self.x.rank or any(a >= b for a, b in pairwise(axes)) or (axes and not rank):
            raise self.refuse(
                f"axes {self.axes} do not name, in increasing order, one of {rank} axes for each of {self.x.rank}",
                code="TD0134",
                error=InvalidValue,
            )
        self.__dict__["axes"] = axes
        _no_negative_size(self, self.to)
        for i, axis in enumerate(axes):
            if self.x.shape[i] != self.to[axis]:
                raise self.refuse(
                    f"axis {i} of {self.x.type} is not the size of axis {axis} of {spelled(self.to)}",
                    code="TD0135",
                    error=ShapeMismatch,
                )
        return TensorType(self.to, self.x.dtype)

    def evaluate(self, x: Array) -> Array:
        shape = [1] * len(self.to)
        for i, axis in enumerate(self.axes):
            shape[axis] = x.shape[i]
        return np.broadcast_to(x.reshape(shape), static(self.to)).copy()

    def read(self, at: tuple[Dim, ...]) -> Read:
        return Read(0, tuple(at[axis] for axis in self.axes))

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        from .reduce import Sum

        added = tuple(axis for axis in range(len(self.to)) if axis not in self.axes)
        return Sum(cotangent, added) if added else cotangent

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        (x,) = operands
        return Broadcast(x, (x.shape[0], *self.to), (0, *(axis + 1 for axis in self.axes)))


class Reshape(Movement):
    """The same elements in the same row-major order under another shape of provably the same size."""

    to: Shape

    def result(self) -> Type:
        _no_negative_size(self, self.to)
        if product(self.to) != self.x.tensor.size:
            raise self.refuse(
                f"{self.x.type} has {show(self.x.tensor.size)} elements, "
                f"{spelled(self.to)} has {show(product(self.to))}",
                code="TD0136",
                error=ShapeMismatch,
            )
        return TensorType(self.to, self.x.dtype)

    def evaluate(self, x: Array) -> Array:
        return x.reshape(static(self.to)).copy()

    def groups(self) -> tuple[tuple[range, range], ...]:
        """The shapes cut into the shortest runs of axes of equal size: (axes of x, axes of the result). A run of
        one axis on either side moves no element between axes, so positions stay affine where they can."""
        before, after = [_running(shape) for shape in (self.x.shape, self.to)]
        groups: list[tuple[range, range]] = []
        i = j = 0
        for end in range(1, len(before)):
            meeting = next((k for k in range(j, len(after)) if after[k] == before[end]), None)
            # A run of x with nothing on the other side holds ones alone; it waits for company, unless it ends
            # the shape.
            if meeting is not None:
                groups.append((range(i, end), range(j, meeting)))
                i, j = end, meeting
        if i < self.x.rank or j < len(self.to):
            groups.append((range(i, self.x.rank), range(j, len(self.to))))
        return tuple(groups)

    def read(self, at: tuple[Dim, ...]) -> Read:
        if any(dim == 0 for dim in self.to):
            # There is no element, and a size of 0 cannot be divided by.
            return Read(0, (0,) * self.x.rank, (), Const(_nothing(self), self.dtype))
        index: list[Dim] = []
        for mine, others in self.groups():
            place: Dim = 0
            for axis in others:
                place = place * self.to[axis] + at[axis]
            sizes = [self.x.shape[axis] for axis in mine]
            for position, size in enumerate(sizes):
                inner = product(sizes[position + 1 :])
                outermost = all(dim == 1 for dim in sizes[:position])
                quotient = floordiv(place, inner)
                index.append(0 if size == 1 else quotient if outermost else mod(quotient, size))
        return Read(0, tuple(index))

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        return Reshape(cotangent, self.x.shape)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        (x,) = operands
        return Reshape(x, (x.shape[0], *self.to))


def _running(shape: Shape) -> list[Dim]:
    """The products of the first 0, 1, 2 ... sizes."""
    products: list[Dim] = [1]
    for dim in shape:
        products.append(products[-1] * dim)
    return products


class Transpose(Movement):
    """Axis i of the result is axis `permutation[i]` of `x`."""

    permutation: tuple[int, ...]

    def result(self) -> Type:
        permutation = tuple(normalize_axis(self, axis, self.x.rank) for axis in self.permutation)
        if sorted(permutation) != list(range(self.x.rank)):
            raise self.refuse(
                f"{self.permutation} does not name each of {self.x.rank} axes once",
                code="TD0137",
                error=InvalidValue,
            )
        self.__dict__["permutation"] = permutation
        return TensorType(tuple(self.x.shape[axis] for axis in permutation), self.x.dtype)

    def evaluate(self, x: Array) -> Array:
        return np.transpose(x, self.permutation).copy()

    def read(self, at: tuple[Dim, ...]) -> Read:
        return Read(0, tuple(at[self.permutation.index(axis)] for axis in range(self.x.rank)))

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        return Transpose(cotangent, tuple(self.permutation.index(axis) for axis in range(self.x.rank)))

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        return Transpose(operands[0], (0, *(axis + 1 for axis in self.permutation)))


class Slice(Movement):
    """The elements at start, start + step ... below stop, along every axis; 0 <= start <= stop <= size and step
    >= 1."""

    start: Shape
    stop: Shape
    step: tuple[int, ...]

    def result(self) -> Type:
        rank = self.x.rank
        if not len(self.start) == len(self.stop) == len(self.step) == rank:
            raise self.refuse(
                f"start, stop and step have {len(self.start)}, {len(self.stop)} and {len(self.step)} entries "
                f"for {rank} axes",
                code="TD0138",
                error=InvalidValue,
            )
        for axis, step in enumerate(self.step):
            if step < 1:
                raise self.refuse(f"the step {step} of axis {axis} is not positive", code="TD0139", error=InvalidValue)
        for axis, (size, start, stop) in enumerate(zip(self.x.shape, self.start, self.stop, strict=True)):
            if known_lt(start, 0) or known_lt(stop, start) or known_lt(size, stop):
                raise self.refuse(
                    f"{show(start)}:{show(stop)} is not inside axis {axis} of size {show(size)}",
                    code="TD0138",
                    error=InvalidValue,
                )
        shape = tuple(_steps(b - a, s) for a, b, s in zip(self.start, self.stop, self.step, strict=True))
        return TensorType(shape, self.x.dtype)

    def requires(self) -> tuple[Promise, ...]:
        return tuple(
            promise
            for size, start, stop in zip(self.x.shape, self.start, self.stop, strict=True)
            for promise in ((0, start), (start, stop), (stop, size))
        )

    def evaluate(self, x: Array) -> Array:
        bounds = zip(static(self.start), static(self.stop), self.step, strict=True)
        return np.asarray(x[tuple(slice(*bound) for bound in bounds)]).copy()

    def read(self, at: tuple[Dim, ...]) -> Read:
        return Read(0, tuple(start + here * step for here, start, step in zip(at, self.start, self.step, strict=True)))

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        spread = tuple(step - 1 for step in self.step)
        covered = _spread(cotangent.shape, spread)
        rest = tuple(size - a - n for size, a, n in zip(self.x.shape, self.start, covered, strict=True))
        return Pad(cotangent, _zero(cotangent), self.start, rest, spread)

    def accumulate_transpose(self, into: Value, cotangent: Value, operand: int) -> Value:
        from .indexing import add_to_block

        none = (0,) * self.rank
        spread = tuple(step - 1 for step in self.step)
        block = Pad(cotangent, _zero(cotangent), none, none, spread) if any(spread) else cotangent
        return add_to_block(into, block, self.start)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        (x,) = operands
        return Slice(x, (0, *self.start), (x.shape[0], *self.stop), (1, *self.step))


def _spread(shape: Shape, interior: tuple[int, ...]) -> Shape:
    """The sizes with `interior` elements put between neighbours; 0 stays 0."""
    return tuple(
        size if gap == 0 else maximum((size - 1) * (gap + 1) + 1, 0) for size, gap in zip(shape, interior, strict=True)
    )


class Pad(Movement):
    """`x` with `interior` copies of the scalar `value` between neighbours, `low` before and `high` after, along
    every axis. A negative `low` or `high` crops what the interior padding made."""

    value: Value
    low: Shape
    high: Shape
    interior: tuple[int, ...]

    linear = (0, 1)
    joint = True

    def result(self) -> Type:
        if self.value.rank != 0 or self.value.dtype is not self.x.dtype:
            raise self.refuse(
                f"the padding of {self.x.type} is {self.value.type}, not {self.x.dtype}[]",
                code="TD0142",
                error=TypeMismatch,
            )
        rank = self.x.rank
        if not len(self.low) == len(self.high) == len(self.interior) == rank:
            raise self.refuse(
                f"low, high and interior have {len(self.low)}, {len(self.high)} and {len(self.interior)} entries "
                f"for {rank} axes",
                code="TD0140",
                error=InvalidValue,
            )
        if any(gap < 0 for gap in self.interior):
            raise self.refuse(f"the interior padding {self.interior} is negative", code="TD0140", error=InvalidValue)
        shape = tuple(
            low + size + high
            for low, size, high in zip(self.low, _spread(self.x.shape, self.interior), self.high, strict=True)
        )
        for axis, size in enumerate(shape):
            if known_lt(size, 0):
                raise self.refuse(
                    f"the padded size {show(size)} of axis {axis} is negative",
                    code="TD0141",
                    error=ShapeMismatch,
                )
        return TensorType(shape, self.x.dtype)

    def requires(self) -> tuple[Promise, ...]:
        return tuple((0, size) for size in self.shape)

    def evaluate(self, x: Array, value: Array) -> Array:
        shape = static(self.shape)
        padded = np.full(shape, value, dtype=x.dtype)
        targets, sources = [], []
        for n, size, low, gap in zip(x.shape, shape, static(self.low), self.interior, strict=True):
            place = low + np.arange(n) * (gap + 1)
            inside = (place >= 0) & (place < size)
            targets.append(place[inside])
            sources.append(np.flatnonzero(inside))
        padded[np.ix_(*targets)] = x[np.ix_(*sources)]
        return padded

    def structure(self) -> Structure | None:
        axes = axes_of(self.shape)
        here = tuple(axis.position - low for axis, low in zip(axes, self.low, strict=True))
        divisors = tuple(gap + 1 for gap in self.interior)
        if isinstance(self.value, Full):
            read = Read(0, here, divisors, Const(self.value.value, self.dtype))
            return Structure(axes, (read,), (element(0, self.dtype),), None, self.dtype)
        # A padding that is computed cannot be a fill: it is read, and chosen wherever the operand is not.
        inside: Expr = Const(True, bool_)
        for place, size, divisor in zip(here, self.x.shape, divisors, strict=True):
            low, high = _compare("ge", place, 0), _compare("lt", place, size * divisor)
            inside = Binary("and", inside, Binary("and", low, high))
            if divisor > 1:
                inside = Binary("and", inside, _compare("eq", mod(place, divisor), 0))
        reads = (Read(0, here, divisors, Const(_nothing(self), self.dtype)), Read(1, ()))
        body = Choose(inside, element(0, self.dtype), element(1, self.dtype))
        return Structure(axes, reads, (body,), None, self.dtype)

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        none = (0,) * self.x.rank
        if operand == 1:
            from .reduce import Sum

            mask = self._mask(self.x.tensor, cotangent)
            kept = Select(mask, lift(0, cotangent), cotangent)
            return Sum(kept, tuple(range(self.rank)))
        low, high = tuple(-n for n in self.low), tuple(-n for n in self.high)
        cropped = Pad(cotangent, _zero(cotangent), low, high, none)
        if not any(self.interior):
            return cropped
        return Slice(cropped, none, cropped.shape, tuple(gap + 1 for gap in self.interior))

    def _mask(self, given: TensorType, like: Value) -> Value:
        """Where the result holds an element of the operand."""
        everywhere = Full(True, given.with_dtype(bool_))
        nowhere = Full(False, TensorType((), bool_))
        return Pad(everywhere, nowhere, self.low, self.high, self.interior)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        x, value = operands
        low, high, interior = (0, *self.low), (0, *self.high), (0, *self.interior)
        if not batched[1]:
            return Pad(x, value, low, high, interior)
        # Each member of the batch has a padding of its own: choose between the two after moving both into place.
        count = value.shape[0]
        mask = Broadcast(self._mask(self.x.tensor, x), (count, *self.shape), tuple(range(1, self.rank + 1)))
        padding = Broadcast(value, (count, *self.shape), (0,))
        if batched[0]:
            return Select(mask, Pad(x, _zero(x), low, high, interior), padding)
        alone = Pad(x, _zero(x), self.low, self.high, self.interior)
        return Select(mask, Broadcast(alone, (count, *self.shape), tuple(range(1, self.rank + 1))), padding)


def _compare(op: str, a: Dim, b: Dim) -> Expr:
    return Binary(op, Index(a), Index(b))


def _nothing(op: Value) -> bool | int | float | complex:
    """The 0 of the op's dtype, as a literal."""
    return Full(0, TensorType((), op.dtype)).value


class Concatenate(Op):
    """The operands one after the other along `axis`; their other sizes are equal."""

    xs: tuple[Value, ...]
    axis: int

    joint = True

    @property
    def linear(self) -> tuple[int, ...]:  # type: ignore[override]  # it has as many operands as it is given
        return tuple(range(len(self.xs)))

    def result(self) -> Type:
        if not self.xs:
            raise self.refuse("there is nothing to concatenate", code="TD0143", error=InvalidValue)
        first = self.xs[0]
        axis = normalize_axis(self, self.axis, first.rank)
        self.__dict__["axis"] = axis
        for other in self.xs[1:]:
            if other.dtype is not first.dtype:
                raise self.refuse(f"dtypes differ: {first.dtype} and {other.dtype}", code="TD0115", error=TypeMismatch)
            if _without(other.shape, axis) != _without(first.shape, axis) or other.rank != first.rank:
                raise self.refuse(
                    f"{first.type} and {other.type} differ in more than axis {axis}",
                    code="TD0144",
                    error=ShapeMismatch,
                    edit="give all of them the same size along the other axes, or name the axis in which they differ",
                )
        total: Dim = 0
        for x in self.xs:
            total = total + x.shape[axis]
        return TensorType((*first.shape[:axis], total, *first.shape[axis + 1 :]), first.dtype)

    @property
    def offsets(self) -> tuple[Dim, ...]:
        """Where each operand begins along the axis."""
        offsets: list[Dim] = [0]
        for x in self.xs[:-1]:
            offsets.append(offsets[-1] + x.shape[self.axis])
        return tuple(offsets)

    def evaluate(self, *xs: Array) -> Array:
        return np.concatenate(xs, axis=self.axis)

    def structure(self) -> Structure | None:
        axes = axes_of(self.shape)
        here = tuple(axis.position for axis in axes)
        place = here[self.axis]
        fill = Const(_nothing(self), self.dtype)
        offsets = self.offsets
        reads = tuple(
            Read(i, (*here[: self.axis], place - offset, *here[self.axis + 1 :]), (), fill)
            for i, offset in enumerate(offsets)
        )

        def among(first: int, last: int) -> Expr:
            # Halved, so that joining a thousand operands does not nest a thousand selects.
            if first == last:
                return element(first, self.dtype)
            middle = (first + last + 1) // 2
            return Choose(_compare("lt", place, offsets[middle]), among(first, middle - 1), among(middle, last))

        return Structure(axes, reads, (among(0, len(reads) - 1),), None, self.dtype)

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        start: list[Dim] = [0] * self.rank
        stop = list(self.shape)
        start[self.axis] = self.offsets[operand]
        stop[self.axis] = start[self.axis] + self.xs[operand].shape[self.axis]
        return Slice(cotangent, tuple(start), tuple(stop), (1,) * self.rank)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        count = next(x.shape[0] for x, moved in zip(operands, batched, strict=True) if moved)
        stacked = tuple(
            x if moved else Broadcast(x, (count, *x.shape), tuple(range(1, x.rank + 1)))
            for x, moved in zip(operands, batched, strict=True)
        )
        return Concatenate(stacked, self.axis + 1)


def _without(shape: Shape, axis: int) -> Shape:
    return shape[:axis] + shape[axis + 1 :]


class Reverse(Movement):
    """The elements in opposite order along `axes`."""

    axes: tuple[int, ...]

    def result(self) -> Type:
        axes = tuple(sorted(normalize_axis(self, axis, self.x.rank) for axis in self.axes))
        if any(a == b for a, b in pairwise(axes)):
            raise self.refuse(f"axes {self.axes} repeat", code="TD0122", error=InvalidValue)
        self.__dict__["axes"] = axes
        return self.x.tensor

    def evaluate(self, x: Array) -> Array:
        return np.flip(x, self.axes).copy()

    def read(self, at: tuple[Dim, ...]) -> Read:
        return Read(0, tuple(self.x.shape[i] - 1 - here if i in self.axes else here for i, here in enumerate(at)))

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        return Reverse(cotangent, self.axes)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        return Reverse(operands[0], tuple(axis + 1 for axis in self.axes))


class Iota(Op):
    """0, 1, 2 ... along `axis`, the same along the others; converted from i64, so that narrow integers wrap."""

    given: TensorType
    axis: int

    def result(self) -> Type:
        if self.given.dtype not in NUMBERS:
            raise self.refuse(f"{self.given.dtype} is not accepted", code="TD0114", error=TypeMismatch)
        self.__dict__["axis"] = normalize_axis(self, self.axis, self.given.rank)
        _no_negative_size(self, self.given.shape)
        return self.given

    def evaluate(self) -> Array:
        shape = static(self.shape)
        along = [1] * len(shape)
        along[self.axis] = shape[self.axis]
        counted = np.arange(shape[self.axis], dtype=np.int64).astype(self.dtype.numpy)
        return np.broadcast_to(counted.reshape(along), shape).copy()

    def structure(self) -> Structure | None:
        place = axes_of(self.shape)[self.axis].position
        return pointwise(self.shape, (), convert(Index(place), self.dtype), self.dtype)


class Copy(Movement):
    """The same elements in memory of their own: what `order` inserts where an update would overwrite what is
    still read."""

    def result(self) -> Type:
        return self.x.tensor

    def evaluate(self, x: Array) -> Array:
        return x.copy()

    def read(self, at: tuple[Dim, ...]) -> Read:
        return Read(0, at)

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        return cotangent

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        return Copy(operands[0])


class StopGradient(Movement):
    """`x`, whose derivative is taken as zero. A kernel that reads it reads `x`."""

    flat = True
    linear = ()

    def result(self) -> Type:
        return self.x.type

    def evaluate(self, x: Array) -> Array:
        return x

    def read(self, at: tuple[Dim, ...]) -> Read:
        return Read(0, at)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        return StopGradient(operands[0])
