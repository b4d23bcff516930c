"""Normalization: by the statistics of a batch, of layers, of groups, by lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ir.dtypes import FLOAT8, DType, accumulator, f32
from ...ir.ops import composite as c
from ...ir.ops import elementwise as e
from ...ir.ops.contract import ReduceWindow
from ...ir.ops.reduce import Sum
from ...ir.types import Shape, TensorType
from ...ir.value import Full, Mul, Value
from ..arrays import axes_of, axis_of, broadcast, convert, expand, lift, static_int
from ..eager import public
from ..functions.reductions import mean
from ..tracer import Tracer, wrap
from .floats import floats, stored


def _filled(x: Value, given: Sequence[Any], fills: Sequence[float], shape: Shape) -> list[Value]:
    """Parameters of a norm in x's dtype, constants where none is given."""
    return [
        Full(fill, TensorType(shape, x.dtype)) if each is None else each
        for each, fill in zip(given, fills, strict=True)
    ]


def _norm(x: Any, *parameters: Any) -> tuple[Value, list[Value | None], DType]:
    """x and the parameters in the dtype in which they meet; fp8 in f32. The dtype to return comes last."""
    met = iter(floats(x, *(p for p in parameters if p is not None)))
    value = next(met)
    rows = [None if p is None else next(met) for p in parameters]
    kind = value.dtype
    if kind in FLOAT8:
        return convert(value, f32), [None if r is None else convert(r, f32) for r in rows], kind
    return value, rows, kind


@public
def layer_norm(x: Any, scale: Any = None, shift: Any = None, *, axis: Any = -1, eps: float = 1e-5) -> Tracer:
    """(x - mean) / sqrt(variance + eps) * scale + shift, the statistics along `axis`, one or several (Ba et al. 2016).

    `scale` and `shift` have the sizes of those axes (1 and 0 unless given; TD0230). Statistics in f32 at least.
    """
    value, rows, kind = _norm(x, scale, shift)
    axes = tuple(sorted(axes_of(axis, value.rank)))
    gain, offset = _filled(value, rows, (1.0, 0.0), tuple(value.shape[i] for i in axes))
    return wrap(convert(c.LayerNorm(value, gain, offset, axes, float(eps)), kind))


@public
def rms_norm(x: Any, scale: Any = None, *, axis: Any = -1, eps: float = 1e-6) -> Tracer:
    """x / sqrt(mean(x * x) + eps) * scale, the mean along `axis`, one or several (Zhang and Sennrich 2019).

    `scale` has the sizes of those axes (1 unless given; TD0230).
    """
    value, rows, kind = _norm(x, scale)
    axes = tuple(sorted(axes_of(axis, value.rank)))
    (gain,) = _filled(value, rows, (1.0,), tuple(value.shape[i] for i in axes))
    return wrap(convert(c.RmsNorm(value, gain, axes, float(eps)), kind))


@public
def batch_norm(
    x: Any, mean: Any, var: Any, scale: Any = None, shift: Any = None, *, axis: int = 1, eps: float = 1e-5
) -> Tracer:
    """(x - mean) / sqrt(var + eps) * scale + shift, one number of each for each element of `axis` (Ioffe 2015).

    x [N, C, ...], the others [C] (TD0230). In training the statistics are those of the batch: `batch_stats(x)`.
    """
    value, rows, kind = _norm(x, mean, var, scale, shift)
    number = axis_of(axis, value.rank)
    filled = _filled(value, rows, (0.0, 1.0, 1.0, 0.0), (value.shape[number],))
    return wrap(convert(c.BatchNorm(value, filled[0], filled[1], filled[2], filled[3], number, float(eps)), kind))


@public
def batch_stats(x: Any, *, axis: int = 1) -> tuple[Tracer, Tracer]:
    """Mean and variance (of the whole population) over all axes but `axis`: what `batch_norm` takes in training.

    [N, C, ...] gives two [C].
    """
    (value,) = floats(x)
    number = axis_of(axis, value.rank)
    axes = tuple(i for i in range(value.rank) if i != number)
    return mean(wrap(value), axes), stored(lambda v: c.Variance(v, axes), value)


@public
def group_norm(
    x: Any, groups: int, scale: Any = None, shift: Any = None, *, axis: int = 1, eps: float = 1e-5
) -> Tracer:
    """Layer norm within each of `groups` runs of channels, together with all axes but the first and `axis`.

    x [N, C, ...], `scale` and `shift` [C] (TD0230). TD0231 where the groups do not divide C (Wu and He 2018).
    """
    value, rows, kind = _norm(x, scale, shift)
    number = axis_of(axis, value.rank)
    axes = tuple(i for i in range(1, value.rank) if i != number)
    gain, offset = _filled(value, rows, (1.0, 0.0), (value.shape[number],))
    count = static_int(groups, "groups")
    return wrap(convert(c.GroupNorm(value, gain, offset, count, number, axes, float(eps)), kind))


@public
def instance_norm(x: Any, scale: Any = None, shift: Any = None, *, axis: int = 1, eps: float = 1e-5) -> Tracer:
    """Each channel of each example normalized by itself: `group_norm` with as many groups (Ulyanov et al. 2016)."""
    channels = static_int(lift(x).shape[axis], "the number of channels")
    return lift(group_norm(x, channels, scale, shift, axis=axis, eps=eps))


@public
def standardize(x: Any, axis: Any = -1, eps: float = 1e-5) -> Tracer:
    """(x - mean) / sqrt(variance + eps) along `axis`."""
    return lift(layer_norm(x, axis=axis, eps=eps))


@public
def normalize(x: Any, axis: Any = -1, eps: float = 1e-12) -> Tracer:
    """x / max(|x|, eps), the Euclidean norm along `axis`."""
    (value,) = floats(x)
    axes = axes_of(axis, value.rank)

    def unit(v: Value) -> Value:
        wide = convert(v, accumulator(v.dtype))
        size = e.Sqrt(Sum(Mul(wide, wide), axes))
        safe = e.Maximum(size, Full(eps, size.tensor))
        return convert(wide / broadcast(expand(safe, axes), wide.shape), v.dtype)

    return stored(unit, value)


@public
def local_response_norm(x: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tracer:
    """x / (k + alpha * (mean of x^2 over `size` neighbouring channels)) ^ beta, as torch's (Krizhevsky et al. 2012).

    x [N, C, ...]; beside the channels there are zeros.
    """
    (value,) = floats(x)
    width = static_int(size, "size")

    def normed(v: Value) -> Value:
        def over(number: Any, one: Any) -> tuple[Any, ...]:
            return tuple(number if i == 1 else one for i in range(v.rank))

        wide = convert(v, accumulator(v.dtype))
        pads = over((width // 2, (width - 1) // 2), (0, 0))
        near = ReduceWindow(Mul(wide, wide), "sum", over(width, 1), over(1, 1), pads, over(1, 1))
        share = e.Pow(near * (alpha / width) + float(k), Full(float(beta), near.tensor))
        return convert(wide / share, v.dtype)

    return stored(normed, value)
