"""Combining the elements along axes: reductions to one value, and prefixes along an axis.

Every member is a monoid over a small state (`structure.py`), so partial results can be merged: that gives thread splits
and sharding. Half floats are accumulated in f32 and rounded once. The result has the operand's dtype; whoever wants
NumPy's wider sums converts first. All are total: what is combined from no elements is the identity.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..dtypes import ARITHMETIC, NUMBERS, REALS, DType, accumulator, bool_, i64
from ..errors import ShapeMismatch, TypeMismatch
from ..loops.nodes import Expr, Index
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
from ..value import Array, Value
from .families import Op, Reduction, normalize_axis

ORDERED: tuple[DType, ...] = (bool_, *REALS)


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


class Prod(Reduction):
    """Product along `axes`; integers wrap; `and` for bool. Of no elements: 1."""

    def monoid(self) -> Monoid:
        return prod_monoid(self.x.dtype)

    def evaluate(self, x: Array) -> Array:
        if self.dtype is bool_:
            return np.asarray(np.logical_and.reduce(x, axis=self.axes))
        kept = accumulator(self.dtype).numpy
        return np.asarray(np.multiply.reduce(x.astype(kept), axis=self.axes, dtype=kept)).astype(
            self.dtype.numpy
        )


class Max(Reduction):
    """Greatest element along `axes`; NaN wins. Of no elements: -inf, or the least integer."""

    accepts = ORDERED

    def monoid(self) -> Monoid:
        return max_monoid(self.x.dtype)

    def evaluate(self, x: Array) -> Array:
        kept = accumulator(self.dtype).numpy
        least = np.asarray(lowest(self.dtype), kept)[()]
        return np.asarray(np.maximum.reduce(x.astype(kept), axis=self.axes, initial=least)).astype(
            self.dtype.numpy
        )


class Min(Reduction):
    """Least element along `axes`; NaN wins. Of no elements: inf, or the greatest integer."""

    accepts = ORDERED

    def monoid(self) -> Monoid:
        return min_monoid(self.x.dtype)

    def evaluate(self, x: Array) -> Array:
        kept = accumulator(self.dtype).numpy
        most = np.asarray(highest(self.dtype), kept)[()]
        return np.asarray(np.minimum.reduce(x.astype(kept), axis=self.axes, initial=most)).astype(
            self.dtype.numpy
        )


class Any(Reduction):
    """Whether some element along `axes` is true. Of no elements: false."""

    accepts = (bool_,)

    def monoid(self) -> Monoid:
        return sum_monoid(bool_)

    def evaluate(self, x: Array) -> Array:
        return np.asarray(np.logical_or.reduce(x, axis=self.axes))


class All(Reduction):
    """Whether every element along `axes` is true. Of no elements: true."""

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


class ArgExtreme(AlongAxis):
    """First position of an extreme along `axis`, as i64. The first NaN wins. Of no elements: -1."""

    accepts = ORDERED
    largest: ClassVar[bool]

    def result(self) -> Type:
        self.check()
        return TensorType(tuple(d for i, d in enumerate(self.x.shape) if i != self.axis), i64)

    def structure(self) -> Structure | None:
        axes = tuple(
            Axis(f"a{i}", dim, "reduce" if i == self.axis else "parallel")
            for i, dim in enumerate(self.x.shape)
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
        return sum_monoid(self.x.dtype)

    def accumulate_array(self, x: Array) -> Array:
        function = np.logical_or if self.dtype is bool_ else np.add
        return np.asarray(function.accumulate(x, axis=self.axis, dtype=x.dtype))


class CumProd(Cumulative):
    """Running products along `axis`; integers wrap; running `and` for bool."""

    def monoid(self) -> Monoid:
        return prod_monoid(self.x.dtype)

    def accumulate_array(self, x: Array) -> Array:
        function = np.logical_and if self.dtype is bool_ else np.multiply
        return np.asarray(function.accumulate(x, axis=self.axis, dtype=x.dtype))


class CumMax(Cumulative):
    """Running maxima along `axis`; NaN wins from where it stands."""

    accepts = ORDERED

    def monoid(self) -> Monoid:
        return max_monoid(self.x.dtype)

    def accumulate_array(self, x: Array) -> Array:
        return np.asarray(np.maximum.accumulate(x, axis=self.axis))


class CumMin(Cumulative):
    """Running minima along `axis`; NaN wins from where it stands."""

    accepts = ORDERED

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
        return Structure(
            axes, (Read(0, here), Read(1, here)), body, recurrence_monoid(self.dtype), self.dtype
        )

    def evaluate(self, a: Array, b: Array) -> Array:
        kept = accumulator(self.dtype).numpy
        a, b = np.moveaxis(a.astype(kept), self.axis, 0), np.moveaxis(b.astype(kept), self.axis, 0)
        result = np.empty_like(b)
        before = np.zeros_like(b[:1])
        for i in reversed(range(len(b))) if self.reverse else range(len(b)):
            result[i] = before[0] * a[i] + b[i]
            before = result[i : i + 1]
        return np.moveaxis(result, 0, self.axis).astype(self.dtype.numpy)


REDUCE: tuple[type[Op], ...] = (
    Sum, Prod, Max, Min, Any, All, ArgMax, ArgMin, CumSum, CumProd, CumMax, CumMin, LinearRecurrence,
)  # fmt: skip
