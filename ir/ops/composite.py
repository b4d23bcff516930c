"""Named functions: softmax and its kin, activations, normalizations, attention.

Each is worth a name because a kernel computes it better than its pieces would, or because its numbers need care that a
spelling in plain ops loses. `decompose` writes it in plain ops, stably: a target without a kernel opens it, derivatives
and batches may come from it. `evaluate` is written apart, in double precision rounded once, so each checks the other.
Half floats are computed in f32 and rounded once at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from ..dims import Dim, exact_div, product, show
from ..dtypes import FLOATS, REALS, DType, accumulator, bool_, i32, i64
from ..errors import InvalidValue, ShapeMismatch, TypeMismatch
from ..loops import scalars
from ..structure import Axis, Monoid, Read, Structure, element, logsumexp_monoid, welford_monoid
from ..types import Shape, TensorType, Type
from ..value import Array, DimSize, Full, Value, lift, replace
from .contract import Dot
from .elementwise import Clamp, Exp, IsFinite, Log, Logistic, Maximum, Rsqrt, Select, TimesNormalCdf, where, widely
from .families import Composite, Tangent, normalize_axis
from .movement import Broadcast, Iota, Reshape, Transpose
from .reduce import Max, Sum, converted, stacked


def wide(x: Value) -> Value:
    """`x` in the type in which it is computed with: f32 for half floats."""
    return converted(x, accumulator(x.dtype))


def spread(x: Value, like: Value, reduced: Sequence[int]) -> Value:
    """What a reduction of `like` along `reduced` gave, repeated along these axes again."""
    return Broadcast(x, like.shape, tuple(i for i in range(like.rank) if i not in reduced))


def along(x: Value, like: Value, axes: Sequence[int]) -> Value:
    """`x`, which has the axes `axes` of `like`, repeated along the others."""
    return Broadcast(x, like.shape, tuple(axes))


def count(x: Value, axes: Sequence[int], shape: Shape, less: int = 0) -> Value:
    """The number of elements of `x` along `axes`, minus `less`, filling `shape` in `x`'s dtype."""
    number = product(x.shape[i] for i in axes)
    given = TensorType(shape, x.dtype)
    if isinstance(number, int):
        return Full(float(max(number - less, 0)), given)
    size = converted(DimSize(number), x.dtype)
    if less:
        size = Maximum(size - float(less), lift(0, size))
    return Broadcast(size, shape, ())


def mean(x: Value, axes: Sequence[int]) -> Value:
    """Of no elements: NaN."""
    total = Sum(x, tuple(axes))
    return total / count(x, axes, total.shape)


def normalized_axes(op: Composite, axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Distinct axes counted from the front, in order; TD0121 and TD0122 otherwise."""
    found = tuple(sorted(normalize_axis(op, axis, rank) for axis in axes))
    if len(set(found)) != len(found):
        raise op.refuse(f"axes {tuple(axes)} repeat", code="TD0122", error=InvalidValue)
    return found


def accept(op: Composite, *operands: Value, among: tuple[DType, ...] = FLOATS) -> None:
    """All operands have one dtype, and it is among those; TD0114 and TD0115 otherwise."""
    first = operands[0].dtype
    if first not in among:
        raise op.refuse(
            f"{first} is not accepted; it takes {', '.join(d.name for d in among)}", code="TD0114", error=TypeMismatch
        )
    for other in operands[1:]:
        if other.dtype is not first:
            raise op.refuse(f"dtypes differ: {first} and {other.dtype}", code="TD0115", error=TypeMismatch)


# --- exponentials along an axis -----------------------------------------------------------------------------------


class AlongAxis(Composite):
    """A function of the elements along one axis that has the operand's type."""

    x: Value
    axis: int

    def result(self) -> Type:
        accept(self, self.x)
        self.__dict__["axis"] = normalize_axis(self, self.axis, self.x.rank)
        return self.x.tensor

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        return replace(self, x=operands[0], axis=self.axis + 1)


class Softmax(AlongAxis):
    """exp(x) / sum(exp(x)) along `axis`.

    The greatest element is subtracted first, so nothing overflows: elements of -inf give 0, and a row sums to 1 within
    a few roundings. A row with NaN or +inf in it, or of -inf alone, is NaN.
    """

    def decompose(self) -> Value:
        x, axes = wide(self.x), (self.axis,)
        powers = Exp(x - spread(Max(x, axes), x, axes))
        return converted(powers / spread(Sum(powers, axes), x, axes), self.dtype)

    def evaluate(self, x: Array) -> Array:
        def softmax(x: Array) -> Array:
            powers = np.exp(x - np.max(x, axis=self.axis, keepdims=True, initial=-np.inf))
            return np.asarray(powers / np.sum(powers, axis=self.axis, keepdims=True))

        return widely(softmax, x)

    def jvp(self, tangents: tuple[Value | None, ...]) -> Tangent:
        (tangent,) = tangents
        if tangent is None:
            return None
        y, axes = wide(self), (self.axis,)
        moved = y * wide(tangent)
        return converted(moved - y * spread(Sum(moved, axes), y, axes), self.dtype)


class LogSoftmax(AlongAxis):
    """x - log(sum(exp(x))) along `axis`.

    The greatest element is subtracted first, so the result is finite where softmax would underflow to 0. A row with NaN
    or +inf in it, or of -inf alone, is NaN.
    """

    def decompose(self) -> Value:
        x, axes = wide(self.x), (self.axis,)
        below = x - spread(Max(x, axes), x, axes)
        return converted(below - spread(Log(Sum(Exp(below), axes)), x, axes), self.dtype)

    def evaluate(self, x: Array) -> Array:
        def log_softmax(x: Array) -> Array:
            below = x - np.max(x, axis=self.axis, keepdims=True, initial=-np.inf)
            return np.asarray(below - np.log(np.sum(np.exp(below), axis=self.axis, keepdims=True)))

        return widely(log_softmax, x)

    def jvp(self, tangents: tuple[Value | None, ...]) -> Tangent:
        (tangent,) = tangents
        if tangent is None:
            return None
        t, axes = wide(tangent), (self.axis,)
        weights = Exp(wide(self))
        return converted(t - spread(Sum(weights * t, axes), t, axes), self.dtype)


class LogSumExp(Composite):
    """log(sum(exp(x))) along `axes`, without overflow: +inf where an element is, -inf of none or of -inf alone."""

    x: Value
    axes: tuple[int, ...]

    def result(self) -> Type:
        accept(self, self.x)
        axes = self.__dict__["axes"] = normalized_axes(self, self.axes, self.x.rank)
        return TensorType(tuple(dim for i, dim in enumerate(self.x.shape) if i not in axes), self.x.dtype)

    def decompose(self) -> Value:
        x = wide(self.x)
        top = Max(x, self.axes)
        # Infinities are not subtracted from themselves.
        shift = where(IsFinite(top), top, 0, top)
        total = Sum(Exp(x - spread(shift, x, self.axes)), self.axes)
        return converted(Log(total) + shift, self.dtype)

    def structure(self) -> Structure | None:
        return reduction(self.x, self.axes, logsumexp_monoid(self.dtype), self.dtype)

    def evaluate(self, x: Array) -> Array:
        return widely(lambda v: np.logaddexp.reduce(v, axis=self.axes, initial=-np.inf), x) if self.axes else x

    def jvp(self, tangents: tuple[Value | None, ...]) -> Tangent:
        (tangent,) = tangents
        if tangent is None:
            return None
        x, total = wide(self.x), wide(self)
        total = where(IsFinite(total), total, 0, total)
        weights = Exp(x - spread(total, x, self.axes))
        return converted(Sum(weights * wide(tangent), self.axes), self.dtype)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        return replace(self, x=operands[0], axes=tuple(axis + 1 for axis in self.axes))


class Variance(Composite):
    """The mean squared distance from the mean along `axes`; `correction` is taken off the number of elements (ddof).

    In two passes: the mean first, then the distances from it, so that a large mean costs no digits. Of no more than
    `correction` elements: NaN or inf, as division by zero has it.
    """

    x: Value
    axes: tuple[int, ...]
    correction: int = 0

    def result(self) -> Type:
        accept(self, self.x)
        axes = self.__dict__["axes"] = normalized_axes(self, self.axes, self.x.rank)
        return TensorType(tuple(dim for i, dim in enumerate(self.x.shape) if i not in axes), self.x.dtype)

    def decompose(self) -> Value:
        x = wide(self.x)
        apart = x - spread(mean(x, self.axes), x, self.axes)
        total = Sum(apart * apart, self.axes)
        return converted(total / count(x, self.axes, total.shape, self.correction), self.dtype)

    def structure(self) -> Structure | None:
        return reduction(self.x, self.axes, welford_monoid(self.dtype, self.correction), self.dtype)

    def evaluate(self, x: Array) -> Array:
        def variance(x: Array) -> Array:
            n = math.prod(x.shape[i] for i in self.axes)
            apart = x - np.sum(x, axis=self.axes, keepdims=True) / np.float64(n)
            return np.asarray(np.sum(apart * apart, axis=self.axes) / np.float64(max(n - self.correction, 0)))

        return widely(variance, x)

    def jvp(self, tangents: tuple[Value | None, ...]) -> Tangent:
        (tangent,) = tangents
        if tangent is None:
            return None
        # The distances sum to 0, so the tangent of the mean drops out.
        x = wide(self.x)
        apart = x - spread(mean(x, self.axes), x, self.axes)
        total = Sum(2.0 * (apart * wide(tangent)), self.axes)
        return converted(total / count(x, self.axes, total.shape, self.correction), self.dtype)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        return replace(self, x=operands[0], axes=tuple(axis + 1 for axis in self.axes))


def reduction(x: Value, axes: Sequence[int], monoid: Monoid, dtype: DType) -> Structure:
    """The structure that combines the elements of `x` along `axes`."""
    over = tuple(Axis(f"a{i}", dim, "reduce" if i in axes else "parallel") for i, dim in enumerate(x.shape))
    here = tuple(axis.position for axis in over)
    return Structure(over, (Read(0, here),), (element(0, x.dtype),), monoid, dtype)


# --- activations --------------------------------------------------------------------------------------------------

# Beyond these, a bounded stand-in for x gives the function's limit where x itself would give infinity times zero:
# erfc, exp(-x*x) and the logistic have underflowed in every dtype.
GELU_BOUND = 100.0
SILU_BOUND = 1000.0
TANH_SLOPE = math.sqrt(2.0 / math.pi)
TANH_CUBIC = 0.044715


class Activation(Composite):
    """A map of one operand that keeps its type."""

    x: Value

    accepts: ClassVar[tuple[DType, ...]] = FLOATS

    def result(self) -> Type:
        accept(self, self.x, among=self.accepts)
        return self.x.tensor

    def slope(self) -> Value:
        """The derivative at x, in the type in which x is computed with."""
        raise TypeError(f"{self.name} has no slope")

    def jvp(self, tangents: tuple[Value | None, ...]) -> Tangent:
        (tangent,) = tangents
        if tangent is None or not self.dtype.is_float:
            return None
        return converted(wide(tangent) * self.slope(), self.dtype)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        return self.with_operands(operands)


class Relu(Activation):
    """max(x, 0); NaN stays. Its derivative at 0 is 0, by convention, where that of a maximum would be shared."""

    accepts = REALS

    def decompose(self) -> Value:
        return Maximum(self.x, lift(0, self.x))

    def evaluate(self, x: Array) -> Array:
        return np.where(x > 0, x, np.where(x != x, x, np.zeros_like(x)))

    def jvp(self, tangents: tuple[Value | None, ...]) -> Tangent:
        (tangent,) = tangents
        if tangent is None or not self.dtype.is_float:
            return None
        return Select(self.x > 0, tangent, lift(0, tangent))


class Gelu(Activation):
    """x times the normal distribution function of x; with `approximate`, the usual fit by tanh (off by up to 5e-4).

    Without cancellation for negative x (the fit x (1 + tanh u) / 2 is x logistic(2u)); tends to 0 at -inf, where the
    product of its factors would be NaN, and so does its derivative; to 1 at +inf.
    """

    approximate: bool = False

    def decompose(self) -> Value:
        x = wide(self.x)
        if not self.approximate:
            return converted(TimesNormalCdf(x), self.dtype)
        # Cubed beyond the bounds it may overflow, to the infinity whose logistic is the limit.
        bounded = Select(x < -GELU_BOUND, lift(-GELU_BOUND, x), x)
        return converted(bounded * Logistic(_twice_tanh_argument(x)), self.dtype)

    def slope(self) -> Value:
        x = wide(self.x)
        if not self.approximate:
            return TimesNormalCdf(x).slope()
        c = Clamp(x, lift(-GELU_BOUND, x), lift(GELU_BOUND, x))
        s = Logistic(_twice_tanh_argument(c))
        return s + c * (s * (1.0 - s)) * (2.0 * TANH_SLOPE * (1.0 + 3.0 * TANH_CUBIC * (c * c)))

    def evaluate(self, x: Array) -> Array:
        def gelu(x: Array) -> Array:
            if not self.approximate:
                return np.asarray(scalars.unary("times_normal_cdf", x))
            bounded = np.maximum(x, -GELU_BOUND)
            return np.asarray(bounded * scalars.unary("logistic", 2 * TANH_SLOPE * x * (1 + TANH_CUBIC * x * x)))

        return widely(gelu, x)


def _twice_tanh_argument(x: Value) -> Value:
    return 2.0 * TANH_SLOPE * (x * (1.0 + TANH_CUBIC * (x * x)))


class Silu(Activation):
    """x logistic(x), also called swish; tends to 0 at -inf, and so does its derivative; to 1 at +inf."""

    def decompose(self) -> Value:
        x = wide(self.x)
        return converted(Maximum(x, lift(-SILU_BOUND, x)) * Logistic(x), self.dtype)

    def slope(self) -> Value:
        x = wide(self.x)
        s = Logistic(x)
        return s * (1.0 + Clamp(x, lift(-SILU_BOUND, x), lift(SILU_BOUND, x)) * (1.0 - s))

    def evaluate(self, x: Array) -> Array:
        return widely(lambda v: np.maximum(v, -SILU_BOUND) * scalars.unary("logistic", v), x)


# --- normalizations -----------------------------------------------------------------------------------------------


def sized(op: Composite, what: str, v: Value, x: Value, axes: Sequence[int]) -> None:
    """`v` has the sizes of `x` along `axes`; TD0230 otherwise."""
    if v.shape != tuple(x.shape[i] for i in axes):
        wanted = TensorType(tuple(x.shape[i] for i in axes), x.dtype)
        raise op.refuse(
            f"{what} is {v.type}; along axes {tuple(axes)} of {x.type} it must be {wanted}",
            code="TD0230",
            error=ShapeMismatch,
        )


class LayerNorm(Composite):
    """(x - mean) / sqrt(variance + eps) * scale + shift, mean and variance along `axes`.

    `scale` and `shift` have the sizes of those axes, in order. The variance is that of the whole population, in two
    passes, so that a large mean costs no digits.
    """

    x: Value
    scale: Value
    shift: Value
    axes: tuple[int, ...]
    eps: float

    def result(self) -> Type:
        accept(self, self.x, self.scale, self.shift)
        axes = self.__dict__["axes"] = normalized_axes(self, self.axes, self.x.rank)
        sized(self, "scale", self.scale, self.x, axes)
        sized(self, "shift", self.shift, self.x, axes)
        return self.x.tensor

    def decompose(self) -> Value:
        x, scale, shift = wide(self.x), wide(self.scale), wide(self.shift)
        unit = standardized(x, self.axes, self.eps)
        return converted(unit * along(scale, x, self.axes) + along(shift, x, self.axes), self.dtype)

    def evaluate(self, x: Array, scale: Array, shift: Array) -> Array:
        def layer_norm(x: Array, scale: Array, shift: Array) -> Array:
            apart = x - _mean(x, self.axes)
            unit = apart / np.sqrt(_mean(apart * apart, self.axes) + self.eps)
            return np.asarray(unit * _along(scale, x, self.axes) + _along(shift, x, self.axes))

        return widely(layer_norm, x, scale, shift)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        # A scale of its own for each element of the batch is not a layer norm: then its pieces are batched.
        if batched[1] or batched[2]:
            return None
        x, scale, shift = operands
        return LayerNorm(x, scale, shift, tuple(axis + 1 for axis in self.axes), self.eps)


def standardized(x: Value, axes: Sequence[int], eps: float) -> Value:
    """(x - mean) / sqrt(variance + eps), in two passes."""
    apart = x - spread(mean(x, axes), x, axes)
    gain = Rsqrt(mean(apart * apart, axes) + eps)
    return apart * spread(gain, x, axes)


def _mean(x: Array, axes: Sequence[int]) -> Array:
    """Along axes that are kept with size 1, for evaluating; of no elements NaN, without a warning."""
    n = np.float64(math.prod(x.shape[i] for i in axes))
    return np.asarray(np.sum(x, axis=tuple(axes), keepdims=True) / n)


def _along(v: Array, x: Array, axes: Sequence[int]) -> Array:
    return v.reshape([x.shape[i] if i in axes else 1 for i in range(x.ndim)])


class RmsNorm(Composite):
    """x / sqrt(mean(x*x) + eps) * scale, the mean along `axes`, whose sizes `scale` has."""

    x: Value
    scale: Value
    axes: tuple[int, ...]
    eps: float

    def result(self) -> Type:
        accept(self, self.x, self.scale)
        axes = self.__dict__["axes"] = normalized_axes(self, self.axes, self.x.rank)
        sized(self, "scale", self.scale, self.x, axes)
        return self.x.tensor

    def decompose(self) -> Value:
        x, scale = wide(self.x), wide(self.scale)
        gain = Rsqrt(mean(x * x, self.axes) + self.eps)
        return converted(x * spread(gain, x, self.axes) * along(scale, x, self.axes), self.dtype)

    def evaluate(self, x: Array, scale: Array) -> Array:
        def rms_norm(x: Array, scale: Array) -> Array:
            return np.asarray(x / np.sqrt(_mean(x * x, self.axes) + self.eps) * _along(scale, x, self.axes))

        return widely(rms_norm, x, scale)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        if batched[1]:
            return None
        x, scale = operands
        return RmsNorm(x, scale, tuple(axis + 1 for axis in self.axes), self.eps)


class BatchNorm(Composite):
    """(x - mean) / sqrt(var + eps) * scale + shift, with given statistics: one number for each element of `axis`.

    The mean is subtracted first, so that a mean far from 0 costs no digits.
    """

    x: Value
    mean: Value
    var: Value
    scale: Value
    shift: Value
    axis: int
    eps: float

    def result(self) -> Type:
        accept(self, *self.operands)
        axis = self.__dict__["axis"] = normalize_axis(self, self.axis, self.x.rank)
        for what in ("mean", "var", "scale", "shift"):
            sized(self, what, getattr(self, what), self.x, (axis,))
        return self.x.tensor

    def decompose(self) -> Value:
        x, mean, var, scale, shift = (wide(v) for v in self.operands)
        gain = scale * Rsqrt(var + self.eps)
        mean, gain, shift = (along(v, x, (self.axis,)) for v in (mean, gain, shift))
        return converted((x - mean) * gain + shift, self.dtype)

    def evaluate(self, x: Array, mean: Array, var: Array, scale: Array, shift: Array) -> Array:
        def batch_norm(x: Array, *rows: Array) -> Array:
            mean, var, scale, shift = (_along(row, x, (self.axis,)) for row in rows)
            return np.asarray((x - mean) / np.sqrt(var + self.eps) * scale + shift)

        return widely(batch_norm, x, mean, var, scale, shift)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        if any(batched[1:]):
            return None
        x, mean, var, scale, shift = operands
        return BatchNorm(x, mean, var, scale, shift, self.axis + 1, self.eps)


class GroupNorm(Composite):
    """Layer norm within each of `groups` equal runs of the channels on `axis`, together with all of `axes`.

    `scale` and `shift` have one number for each channel. `groups` = channels is instance norm.
    """

    x: Value
    scale: Value
    shift: Value
    groups: int
    axis: int
    axes: tuple[int, ...]
    eps: float

    def result(self) -> Type:
        accept(self, self.x, self.scale, self.shift)
        axis = self.__dict__["axis"] = normalize_axis(self, self.axis, self.x.rank)
        axes = self.__dict__["axes"] = normalized_axes(self, self.axes, self.x.rank)
        if axis in axes:
            raise self.refuse(f"axis {axis} of the channels is among {axes}", code="TD0122", error=InvalidValue)
        if self.groups < 1 or exact_div(self.x.shape[axis], self.groups) is None:
            raise self.refuse(
                f"{show(self.x.shape[axis])} channels are not {self.groups} equal groups",
                code="TD0231",
                error=InvalidValue,
            )
        sized(self, "scale", self.scale, self.x, (axis,))
        sized(self, "shift", self.shift, self.x, (axis,))
        return self.x.tensor

    def grouped(self, shape: Shape) -> tuple[Shape, tuple[int, ...]]:
        """The shape with the channels cut into groups, and the axes of it along which each group is normalized."""
        channels = exact_div(shape[self.axis], self.groups)
        assert channels is not None
        cut = (*shape[: self.axis], self.groups, channels, *shape[self.axis + 1 :])
        return cut, tuple(sorted((self.axis + 1, *(i + (i > self.axis) for i in self.axes))))

    def decompose(self) -> Value:
        x, scale, shift = wide(self.x), wide(self.scale), wide(self.shift)
        shape, axes = self.grouped(x.shape)
        unit = Reshape(standardized(Reshape(x, shape), axes, self.eps), x.shape)
        return converted(unit * along(scale, x, (self.axis,)) + along(shift, x, (self.axis,)), self.dtype)

    def evaluate(self, x: Array, scale: Array, shift: Array) -> Array:
        def group_norm(x: Array, scale: Array, shift: Array) -> Array:
            pieces = []
            over = (self.axis, *self.axes)
            for piece in np.split(x, self.groups, axis=self.axis):
                apart = piece - _mean(piece, over)
                pieces.append(apart / np.sqrt(_mean(apart * apart, over) + self.eps))
            unit = np.concatenate(pieces, axis=self.axis)
            return np.asarray(unit * _along(scale, x, (self.axis,)) + _along(shift, x, (self.axis,)))

        return widely(group_norm, x, scale, shift)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        if batched[1] or batched[2]:
            return None
        x, scale, shift = operands
        return GroupNorm(x, scale, shift, self.groups, self.axis + 1, tuple(i + 1 for i in self.axes), self.eps)


# --- attention ----------------------------------------------------------------------------------------------------


class Attention(Composite):
    """softmax(scale * q kᵀ + mask) v: each query's mean of the values, weighted by how well its key matches.

    `q` is [*batch, *groups, T, D], `k` [*batch, S, D], `v` [*batch, S, E], the result [*batch, *groups, T, E]: queries
    that share keys (grouped heads) stand along `groups`, and nothing is repeated. `mask` holds one value or none, with
    the axes `mask_axes` of the scores [*batch, *groups, T, S]: bool (false: not attended to) or of q's dtype (added).
    With `causal`, query i attends to keys up to i + `offset`. A query that attends to nothing, whose scores are all
    -inf, gives 0. Scores, weights and sums are f32 for half floats; the greatest score is subtracted first.
    """

    q: Value
    k: Value
    v: Value
    mask: tuple[Value, ...]
    scale: float
    causal: bool = False
    offset: Dim = 0
    mask_axes: tuple[int, ...] = ()

    @property
    def batch_axes(self) -> tuple[int, ...]:
        """The leading axes that q, k and v share."""
        return tuple(range(self.k.rank - 2))

    @property
    def score_shape(self) -> Shape:
        return (*self.q.shape[:-1], self.k.shape[-2])

    def result(self) -> Type:
        q, k, v = self.q, self.k, self.v
        accept(self, q, k, v)
        shapes = f"q {q.type}, k {k.type}, v {v.type}"
        if k.rank < 2 or v.rank != k.rank or q.rank < k.rank:
            raise self.refuse(
                f"{shapes}: q must be [*batch, *groups, T, D], k [*batch, S, D], v [*batch, S, E]",
                code="TD0232",
                error=ShapeMismatch,
            )
        batch = len(self.batch_axes)
        for what, one, two in (
            ("batch axes differ", k.shape[:-2], v.shape[:-2]),
            ("batch axes differ", k.shape[:-2], q.shape[:batch]),
            ("queries and keys differ in size", q.shape[-1:], k.shape[-1:]),
            ("keys and values differ in number", k.shape[-2:-1], v.shape[-2:-1]),
        ):
            if one != two:
                raise self.refuse(f"{what}: {shapes}", code="TD0232", error=ShapeMismatch)
        self._check_mask()
        return TensorType((*q.shape[:-1], v.shape[-1]), q.dtype)

    def _check_mask(self) -> None:
        if len(self.mask) > 1:
            raise self.refuse(f"{len(self.mask)} masks are given", code="TD0233", error=InvalidValue)
        axes = tuple(normalize_axis(self, axis, self.q.rank) for axis in self.mask_axes)
        self.__dict__["mask_axes"] = axes
        if not self.mask:
            if axes:
                raise self.refuse("mask_axes without a mask", code="TD0233", error=InvalidValue)
            return
        (mask,) = self.mask
        wanted = tuple(self.score_shape[i] for i in axes)
        if mask.dtype not in (bool_, self.q.dtype) or axes != tuple(sorted(set(axes))) or mask.shape != wanted:
            raise self.refuse(
                f"the mask is {mask.type}; along axes {axes} of the scores it must be bool or {self.q.dtype}, "
                f"of shape {TensorType(wanted, bool_)}",
                code="TD0233",
                error=ShapeMismatch,
            )

    # The pieces, each used by the value and by the derivative.

    def products(self, q: Value, k: Value) -> Value:
        """q kᵀ, in the type in which sums are kept."""
        axes, kept = self.batch_axes, accumulator(q.dtype)
        return Dot(q, k, axes, axes, (q.rank - 1,), (k.rank - 1,), None if kept is q.dtype else kept)

    def averages(self, weights: Value, v: Value) -> Value:
        """The sums of values weighted by `weights` [*batch, *groups, T, S]."""
        axes = self.batch_axes
        return Dot(weights, wide(v), axes, axes, (weights.rank - 1,), (v.rank - 2,))

    def scores(self) -> Value:
        scores = self.products(self.q, self.k) * self.scale
        least = lift(-math.inf, scores)
        for mask in self.mask:
            if mask.dtype is bool_:
                scores = Select(along(mask, scores, self.mask_axes), scores, least)
            else:
                scores = scores + along(wide(mask), scores, self.mask_axes)
        return Select(self.before(scores), scores, least) if self.causal else scores

    def before(self, scores: Value) -> Value:
        """Whether a causal query may look at a key, as a bool of the scores' shape."""
        sizes = scores.shape[-2:]
        known = all(isinstance(dim, int) and abs(dim) < 2**30 for dim in (*sizes, self.offset))
        square = TensorType(sizes, i32 if known else i64)
        last = Iota(square, 0) + Broadcast(converted(DimSize(self.offset), square.dtype), sizes, ())
        return along(Iota(square, 1) <= last, scores, (scores.rank - 2, scores.rank - 1))

    def powers(self) -> tuple[Value, Value]:
        """exp(scores - greatest), and their sums: 1 or more, and 0 where nothing is attended to."""
        scores = self.scores()
        axes = (scores.rank - 1,)
        top = Max(scores, axes)
        # A query that attends to nothing has -inf here, which is not subtracted from itself.
        shift = where(top > -math.inf, top, 0, top)
        powers = Exp(scores - spread(shift, scores, axes))
        return powers, Sum(powers, axes)

    def decompose(self) -> Value:
        powers, total = self.powers()
        found = self.averages(powers, self.v)
        return converted(found / spread(Maximum(total, lift(1, total)), found, (found.rank - 1,)), self.dtype)

    def jvp(self, tangents: tuple[Value | None, ...]) -> Tangent:
        dq, dk, dv, *dmask = tangents
        powers, total = self.powers()
        axes = (powers.rank - 1,)
        weights = powers / spread(Maximum(total, lift(1, total)), powers, axes)
        terms: list[Value] = []
        if dq is not None:
            terms.append(self.products(dq, self.k) * self.scale)
        if dk is not None:
            terms.append(self.products(self.q, dk) * self.scale)
        terms += [along(wide(t), weights, self.mask_axes) for t in dmask if t is not None]
        found: list[Value] = []
        if terms:
            moved = weights * added(terms)
            found.append(self.averages(moved - weights * spread(Sum(moved, axes), moved, axes), self.v))
        if dv is not None:
            found.append(self.averages(weights, dv))
        return converted(added(found), self.dtype) if found else None

    def evaluate(self, q: Array, k: Array, v: Array, *mask: Array) -> Array:
        q64, k64, v64 = (np.asarray(x, np.float64) for x in (q, k, v))
        batch, groups = k.shape[:-2], q.shape[len(k.shape) - 2 : -2]
        one = (1,) * len(groups)
        k64, v64 = (x.reshape(*batch, *one, *x.shape[-2:]) for x in (k64, v64))
        scores = np.asarray(np.matmul(q64, np.swapaxes(k64, -1, -2)) * self.scale)
        for each in mask:
            placed = _along(each, scores, self.mask_axes)
            scores = np.where(placed, scores, -np.inf) if each.dtype == np.bool_ else scores + placed.astype(np.float64)
        if self.causal:
            rows, columns = np.arange(scores.shape[-2])[:, None], np.arange(scores.shape[-1])
            scores = np.where(columns <= rows + int(self.offset), scores, -np.inf)
        top = np.max(scores, axis=-1, keepdims=True, initial=-np.inf)
        powers = np.exp(scores - np.where(np.isneginf(top), 0.0, top))
        total = np.sum(powers, axis=-1, keepdims=True)
        found = np.matmul(powers / np.where(total == 0, 1.0, total), v64)
        return np.asarray(found).astype(q.dtype)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        size = next(v.shape[0] for v, here in zip(operands, batched, strict=True) if here)
        q, k, v, *masks = operands
        shared = not batched[1] and not batched[2]
        # Where keys and values are shared by the whole batch, its axis is one more group of queries; else it leads.
        place = len(self.batch_axes) if shared else 0
        q = moved_to(q if batched[0] else stacked(q, size), place)
        if not shared:
            k, v = (x if here else stacked(x, size) for x, here in zip((k, v), batched[1:3], strict=True))
        axes = tuple(axis + (axis >= place) for axis in self.mask_axes)
        if any(batched[3:]):
            before = sum(axis < place for axis in self.mask_axes)
            masks = [moved_to(mask, before) for mask in masks]
            axes = (*axes[:before], place, *axes[before:])
        found = Attention(q, k, v, tuple(masks), self.scale, self.causal, self.offset, axes)
        return Transpose(found, (place, *range(place), *range(place + 1, found.rank))) if place else found


def moved_to(x: Value, place: int) -> Value:
    """`x` with its first axis moved behind `place` others."""
    return Transpose(x, (*range(1, place + 1), 0, *range(place + 1, x.rank))) if place else x


def added(terms: Sequence[Value]) -> Value:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
