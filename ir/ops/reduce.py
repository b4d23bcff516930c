"""Combining the elements along axes: reductions to one value, and prefixes along an axis.

Every member is a monoid over a small state (`structure.py`), so partial results can be merged: that gives thread
splits and sharding. Half floats are accumulated in f32 and rounded once. The result has the operand's dtype; whoever
wants NumPy's wider sums converts first. All are total: what is combined from no elements is the identity.
"""

from __future__ import annotations

from dataclasses import replace as replace_fields
from typing import ClassVar

import numpy as np

from ..dims import Dim, product
from ..dtypes import ARITHMETIC, NUMBERS, REALS, DType, accumulator, bool_, i64
from ..errors import ShapeMismatch, TypeMismatch
from ..loops.nodes import Const, Expr, Index
from ..structure import (
    Axis,
    Monoid,
    Read,
    Structure,
    arg_monoid,
    element,
    highest,
    lowest,
    max_monoid,
    min_monoid,
    prod_monoid,
    recurrence_monoid,
    sum_monoid,
)
from ..types import TensorType, Type
from ..value import Array, Full, Value, lift, replace
from .elementwise import Convert, Eq, Select
from .families import Op, Reduction, Tangent, normalize_axis
from .movement import Broadcast, Pad, Reshape, Transpose

ORDERED: tuple[DType, ...] = (bool_, *REALS)


def stacked(x: Value, count: Dim) -> Value:
    """`x` repeated `count` times along a new leading axis."""
    return Broadcast(x, (count, *x.shape), tuple(range(1, x.rank + 1)))


def shifted(x: Value, axis: int, fill: int, back: bool = False) -> Value:
    """The neighbour before each element along `axis` (after it with `back`), `fill` where there is none."""
    low = tuple((-1 if back else 1) if i == axis else 0 for i in range(x.rank))
    value = Full(fill, TensorType((), x.dtype))
    return Pad(x, value, low, tuple(-n for n in low), (0,) * x.rank)


def converted(x: Value, to: DType) -> Value:
    return x if x.dtype is to else Convert(x, to)


class Sum(Reduction):
    """Sum along `axes`; integers wrap; `or` for bool. Of no elements: 0."""

    linear = (0,)

    def monoid(self) -> Monoid:
        return sum_monoid(self.x.dtype)

    def evaluate(self, x: Array) -> Array:
        if self.dtype is bool_:
            return np.asarray(np.logical_or.reduce(x, axis=self.axes))
        kept = accumulator(self.dtype).numpy
        return np.asarray(np.add.reduce(x.astype(kept), axis=self.axes, dtype=kept)).astype(self.dtype.numpy)

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        return Broadcast(cotangent, self.x.shape, kept_axes(self))


class Prod(Reduction):
    """Product along `axes`; integers wrap; `and` for bool. Of no elements: 1.

    The derivative takes the product of the others from both sides, so zeros are no special case.
    """

    def monoid(self) -> Monoid:
        return prod_monoid(self.x.dtype)

    def evaluate(self, x: Array) -> Array:
        if self.dtype is bool_:
            return np.asarray(np.logical_and.reduce(x, axis=self.axes))
        kept = accumulator(self.dtype).numpy
        return np.asarray(np.multiply.reduce(x.astype(kept), axis=self.axes, dtype=kept)).astype(self.dtype.numpy)

    def jvp(self, tangents: tuple[Value | None, ...]) -> Tangent:
        (tangent,) = tangents
        if tangent is None:
            return None
        kept = accumulator(self.dtype)
        x, t = (_one_axis(self, converted(v, kept)) for v in (self.x, tangent))
        last = x.rank - 1
        before = CumProd(shifted(x, last, 1), last)
        after = CumProd(shifted(x, last, 1, back=True), last, reverse=True)
        return converted(Sum(t * (before * after), (last,)), self.dtype)


def kept_axes(op: Reduction) -> tuple[int, ...]:
    return tuple(i for i in range(op.x.rank) if i not in op.axes)


def _one_axis(op: Reduction, x: Value) -> Value:
    """`x` with the reduced axes joined into one, the last."""
    kept = kept_axes(op)
    moved = Transpose(x, kept + op.axes)
    return Reshape(moved, (*(x.shape[i] for i in kept), product(x.shape[i] for i in op.axes)))


class Extreme(Reduction):
    """Max and Min. Elements that share the extreme share its derivative equally."""

    accepts = ORDERED

    def jvp(self, tangents: tuple[Value | None, ...]) -> Tangent:
        (tangent,) = tangents
        if tangent is None:
            return None
        chosen = Eq(self.x, Broadcast(self, self.x.shape, kept_axes(self)))
        count = Sum(Convert(chosen, self.dtype), self.axes)
        return Sum(Select(chosen, tangent, lift(0, tangent)), self.axes) / count


class Max(Extreme):
    """Greatest element along `axes`; NaN wins. Of no elements: -inf, or the least integer."""

    def monoid(self) -> Monoid:
        return max_monoid(self.x.dtype)

    def evaluate(self, x: Array) -> Array:
        kept = accumulator(self.dtype).numpy
        least = np.asarray(lowest(self.dtype), kept)[()]
        return np.asarray(np.maximum.reduce(x.astype(kept), axis=self.axes, initial=least)).astype(self.dtype.numpy)


class Min(Extreme):
    """Least element along `axes`; NaN wins. Of no elements: inf, or the greatest integer."""

    def monoid(self) -> Monoid:
        return min_monoid(self.x.dtype)

    def evaluate(self, x: Array) -> Array:
        kept = accumulator(self.dtype).numpy
        most = np.asarray(highest(self.dtype), kept)[()]
        return np.asarray(np.minimum.reduce(x.astype(kept), axis=self.axes, initial=most)).astype(self.dtype.numpy)


class Any(Reduction):
    """Whether some element along `axes` is true. Of no elements: false."""

    flat = True
    accepts = (bool_,)

    def monoid(self) -> Monoid:
        return sum_monoid(bool_)

    def evaluate(self, x: Array) -> Array:
        return np.asarray(np.logical_or.reduce(x, axis=self.axes))


class All(Reduction):
    """Whether every element along `axes` is true. Of no elements: true."""

    flat = True
    accepts = (bool_,)

    def monoid(self) -> Monoid:
        return prod_monoid(bool_)

    def evaluate(self, x: Array) -> Array:
        return np.asarray(np.logical_and.reduce(x, axis=self.axes))


class AlongAxis(Op):
    """Ops of one operand that combine along one axis."""

    x: Value
    axis: int

    accepts: ClassVar[tuple[DType, ...]] = ARITHMETIC

    def check(self) -> None:
        """The dtype is accepted; the axis is counted from the front."""
        if self.x.dtype not in self.accepts:
            raise self.refuse(f"{self.x.dtype} is not accepted", code="TD0114", error=TypeMismatch)
        self.__dict__["axis"] = normalize_axis(self, self.axis, self.x.rank)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        return replace(self, x=operands[0], axis=self.axis + 1)


class ArgExtreme(AlongAxis):
    """First position of an extreme along `axis`, as i64. The first NaN wins. Of no elements: -1."""

    flat = True
    accepts = ORDERED
    largest: ClassVar[bool]

    def result(self) -> Type:
        self.check()
        return TensorType(tuple(d for i, d in enumerate(self.x.shape) if i != self.axis), i64)

    def structure(self) -> Structure | None:
        axes = tuple(
            Axis(f"a{i}", dim, "reduce" if i == self.axis else "parallel") for i, dim in enumerate(self.x.shape)
        )
        here = tuple(axis.position for axis in axes)
        body: tuple[Expr, ...] = (element(0, self.x.dtype), Index(here[self.axis]))
        return Structure(axes, (Read(0, here),), body, arg_monoid(self.x.dtype, i64, self.largest), i64)

    def evaluate(self, x: Array) -> Array:
        if x.shape[self.axis] == 0:
            return np.full(np.delete(x.shape, self.axis), -1, np.int64)
        find = np.argmax if self.largest else np.argmin
        return np.asarray(find(x.astype(accumulator(self.x.dtype).numpy), axis=self.axis), np.int64)


class ArgMax(ArgExtreme):
    """First position of the greatest element along `axis`, as i64. The first NaN wins. Of no elements: -1."""

    largest = True


class ArgMin(ArgExtreme):
    """First position of the least element along `axis`, as i64. The first NaN wins. Of no elements: -1."""

    largest = False


class Cumulative(AlongAxis):
    """Prefixes along `axis`: element i combines elements 0..i, or i..n-1 with `reverse`."""

    reverse: bool = False

    def monoid(self) -> Monoid:
        raise TypeError(f"{type(self).__name__} has no monoid")

    def accumulate_array(self, x: Array) -> Array:
        """The prefixes along `axis` from the front, in the accumulator's type."""
        raise TypeError(f"{type(self).__name__} has no reference")

    def result(self) -> Type:
        self.check()
        return self.x.tensor

    def structure(self) -> Structure | None:
        axes = tuple(
            Axis(f"a{i}", dim, "scan", self.reverse) if i == self.axis else Axis(f"a{i}", dim)
            for i, dim in enumerate(self.x.shape)
        )
        here = tuple(axis.position for axis in axes)
        return Structure(axes, (Read(0, here),), (element(0, self.x.dtype),), self.monoid(), self.dtype)

    def evaluate(self, x: Array) -> Array:
        x = x.astype(accumulator(self.dtype).numpy)
        if self.reverse:
            return np.flip(self.accumulate_array(np.flip(x, self.axis)), self.axis).astype(self.dtype.numpy)
        return self.accumulate_array(x).astype(self.dtype.numpy)


class CumSum(Cumulative):
    """Running sums along `axis`; integers wrap; running `or` for bool."""

    linear = (0,)

    def monoid(self) -> Monoid:
        monoid = sum_monoid(self.x.dtype)
        if self.x.dtype is bool_ or self.x.dtype.is_integer:
            return monoid
        # 0.0 + -0.0 is 0.0; a prefix of one element is that element, as in NumPy.
        kept = monoid.identity[0].dtype
        nothing = complex(-0.0, -0.0) if kept.kind == "complex" else -0.0
        return replace_fields(monoid, identity=(Const(nothing, kept),))

    def accumulate_array(self, x: Array) -> Array:
        function = np.logical_or if self.dtype is bool_ else np.add
        return np.asarray(function.accumulate(x, axis=self.axis, dtype=x.dtype))

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        return CumSum(cotangent, self.axis, not self.reverse)


class CumProd(Cumulative):
    """Running products along `axis`; integers wrap; running `and` for bool."""

    def monoid(self) -> Monoid:
        return prod_monoid(self.x.dtype)

    def accumulate_array(self, x: Array) -> Array:
        function = np.logical_and if self.dtype is bool_ else np.multiply
        return np.asarray(function.accumulate(x, axis=self.axis, dtype=x.dtype))

    def jvp(self, tangents: tuple[Value | None, ...]) -> Tangent:
        (tangent,) = tangents
        if tangent is None:
            return None
        # y[i] = y[i-1] * x[i], so dy[i] = x[i] * dy[i-1] + y[i-1] * dx[i].
        before = shifted(self, self.axis, 1, self.reverse)
        return LinearRecurrence(self.x, before * tangent, self.axis, self.reverse)


class CumExtreme(Cumulative):
    """CumMax and CumMin. The derivative goes to the last element so far that has the extreme."""

    accepts = ORDERED

    def jvp(self, tangents: tuple[Value | None, ...]) -> Tangent:
        (tangent,) = tangents
        if tangent is None:
            return None
        taken = Eq(self.x, self)
        kept = Select(taken, lift(0, tangent), lift(1, tangent))
        return LinearRecurrence(kept, Select(taken, tangent, lift(0, tangent)), self.axis, self.reverse)


class CumMax(CumExtreme):
    """Running maxima along `axis`; NaN wins from where it stands."""

    def monoid(self) -> Monoid:
        return max_monoid(self.x.dtype)

    def accumulate_array(self, x: Array) -> Array:
        return np.asarray(np.maximum.accumulate(x, axis=self.axis))


class CumMin(CumExtreme):
    """Running minima along `axis`; NaN wins from where it stands."""

    def monoid(self) -> Monoid:
        return min_monoid(self.x.dtype)

    def accumulate_array(self, x: Array) -> Array:
        return np.asarray(np.minimum.accumulate(x, axis=self.axis))


class LinearRecurrence(Op):
    """`y[i] = a[i] * y[i-1] + b[i]` along `axis`, with y[-1] = 0; from the end towards the front with `reverse`.

    Linear in `b`. The derivative of running products is one of these, and so are moving averages and linear state
    space models. Composition of the affine maps is associative, so prefixes can be computed in parallel.
    """

    a: Value
    b: Value
    axis: int
    reverse: bool = False

    linear = (1,)

    def result(self) -> Type:
        if self.a.dtype not in NUMBERS:
            raise self.refuse(f"{self.a.dtype} is not accepted", code="TD0114", error=TypeMismatch)
        if self.a.type != self.b.type:
            raise self.refuse(
                f"a is {self.a.type}, b is {self.b.type}; both need one type",
                code="TD0168",
                error=ShapeMismatch,
            )
        self.__dict__["axis"] = normalize_axis(self, self.axis, self.a.rank)
        return self.b.tensor

    def structure(self) -> Structure | None:
        axes = tuple(
            Axis(f"a{i}", dim, "scan", self.reverse) if i == self.axis else Axis(f"a{i}", dim)
            for i, dim in enumerate(self.shape)
        )
        here = tuple(axis.position for axis in axes)
        body = (element(0, self.dtype), element(1, self.dtype))
        return Structure(axes, (Read(0, here), Read(1, here)), body, recurrence_monoid(self.dtype), self.dtype)

    def evaluate(self, a: Array, b: Array) -> Array:
        kept = accumulator(self.dtype).numpy
        a, b = np.moveaxis(a.astype(kept), self.axis, 0), np.moveaxis(b.astype(kept), self.axis, 0)
        result = np.empty_like(b)
        before = np.zeros_like(b[:1])
        for i in reversed(range(len(b))) if self.reverse else range(len(b)):
            result[i] = before[0] * a[i] + b[i]
            before = result[i : i + 1]
        return np.moveaxis(result, 0, self.axis).astype(self.dtype.numpy)

    def jvp(self, tangents: tuple[Value | None, ...]) -> Tangent:
        a, b = tangents
        if a is not None:
            through_a = a * shifted(self, self.axis, 0, self.reverse)
            b = through_a if b is None else b + through_a
        return None if b is None else LinearRecurrence(self.a, b, self.axis, self.reverse)

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        if operand == 0:
            return None
        # b[j] reaches y[i] for i >= j through a[j+1] ... a[i]: the recurrence from the other end, with a moved by one.
        return LinearRecurrence(shifted(self.a, self.axis, 0, not self.reverse), cotangent, self.axis, not self.reverse)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        count = next(x.shape[0] for x, moved in zip(operands, batched, strict=True) if moved)
        a, b = (x if moved else stacked(x, count) for x, moved in zip(operands, batched, strict=True))
        return LinearRecurrence(a, b, self.axis + 1, self.reverse)
