"""Activations: functions of each element, and the exponentials that are normalized along axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ...ir.dtypes import bool_
from ...ir.ops import composite as c
from ...ir.ops import elementwise as e
from ...ir.ops.reduce import Max, Sum
from ...ir.value import Full, Mul, Value
from ..arrays import axes_of, axis_of, broadcast, broadcast_shapes, expand, lift, permute, reshape, typed
from ..eager import public
from ..functions.reductions import front, keep
from ..functions.shaping import split
from ..tracer import Tracer, unwrap, wrap
from .floats import floats, mapped, stored, wrong


@public
def relu(x: Any) -> Tracer:
    """max(x, 0), with derivative 0 at 0."""
    value = unwrap(lift(x))
    return stored(c.Relu, value) if value.dtype is not bool_ else wrap(value)


@public
def relu6(x: Any) -> Tracer:
    """min(max(x, 0), 6)."""
    (value,) = floats(x)
    return stored(lambda v: e.Clamp(v, Full(0, v.tensor), Full(6, v.tensor)), value)


@public
def gelu(x: Any, approximate: bool | str = False) -> Tracer:
    """x times the normal distribution function of x (Hendrycks and Gimpel 2016), by erf.

    `approximate=True` (or "tanh") uses the fit 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))). TD0830 for another.
    """
    if approximate not in (True, False, "tanh", "none"):
        raise wrong(f"gelu: approximate is {approximate!r}", "use False (erf) or True (tanh)")
    fit = approximate in (True, "tanh")
    return mapped(lambda v: c.Gelu(v, fit), x)


@public
def silu(x: Any) -> Tracer:
    """x * sigmoid(x), also called swish (Elfwing et al. 2017)."""
    return mapped(c.Silu, x)


@public
def sigmoid(x: Any) -> Tracer:
    """1 / (1 + exp(-x))."""
    return mapped(e.Logistic, x)


@public
def log_sigmoid(x: Any) -> Tracer:
    """log(sigmoid(x)), without underflow."""
    return mapped(lambda v: -e.Softplus(-v), x)


@public
def softplus(x: Any, beta: float = 1.0) -> Tracer:
    """log(1 + exp(beta * x)) / beta, without overflow."""
    if beta == 1.0:
        return mapped(e.Softplus, x)
    return mapped(lambda v: e.Softplus(v * float(beta)) / float(beta), x)


@public
def tanh(x: Any) -> Tracer:
    """The hyperbolic tangent."""
    return mapped(e.Tanh, x)


def _below(value: Value, negative: Value) -> Value:
    """The value itself above 0, `negative` elsewhere."""
    return e.Select(value > 0, value, negative)


@public
def leaky_relu(x: Any, negative_slope: Any = 0.01) -> Tracer:
    """x above 0, negative_slope * x below."""
    value, slope = floats(x, negative_slope)
    return stored(lambda v, s: _below(v, Mul(v, broadcast(s, v.shape))), value, slope)


@public
def prelu(x: Any, slope: Any, axis: int = 1) -> Tracer:
    """x above 0, slope * x below; `slope` is one number, or one for each element of `axis` (He et al. 2015).

    TD0817 where their sizes differ.
    """
    value, s = floats(x, slope)
    if s.rank == 1 and s.shape[0] != 1:
        number = axis_of(axis, value.rank)
        s = reshape(s, tuple(s.shape[0] if i == number else 1 for i in range(value.rank)))
    elif s.rank == 1:
        s = reshape(s, ())
    return stored(lambda v, w: _below(v, Mul(v, broadcast(w, v.shape))), value, s)


def _expm1_below(value: Value) -> Value:
    """exp(x) - 1 at or below 0, and 0 above, where exp would overflow and spoil the derivative."""
    return e.Expm1(e.Select(value > 0, Full(0, value.tensor), value))


@public
def elu(x: Any, alpha: float = 1.0) -> Tracer:
    """x above 0, alpha * (exp(x) - 1) below (Clevert et al. 2015)."""
    return mapped(lambda v: _below(v, _expm1_below(v) * float(alpha)), x)


@public
def celu(x: Any, alpha: float = 1.0) -> Tracer:
    """x above 0, alpha * (exp(x / alpha) - 1) below (Barron 2017)."""
    return mapped(lambda v: _below(v, _expm1_below(v / float(alpha)) * float(alpha)), x)


@public
def selu(x: Any) -> Tracer:
    """Scaled elu, whose scale and alpha keep mean 0 and variance 1 (Klambauer et al. 2017)."""
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    return mapped(lambda v: _below(v, _expm1_below(v) * alpha) * scale, x)


@public
def soft_sign(x: Any) -> Tracer:
    """x / (1 + |x|)."""
    return mapped(lambda v: v / (e.Abs(v) + 1.0), x)


@public
def mish(x: Any) -> Tracer:
    """x * tanh(softplus(x)) (Misra 2019)."""
    return mapped(lambda v: v * e.Tanh(e.Softplus(v)), x)


@public
def hard_tanh(x: Any, low: float = -1.0, high: float = 1.0) -> Tracer:
    """x cut off at low and high."""
    return mapped(lambda v: e.Clamp(v, Full(low, v.tensor), Full(high, v.tensor)), x)


@public
def hard_sigmoid(x: Any) -> Tracer:
    """relu6(x + 3) / 6."""
    return mapped(lambda v: e.Clamp(v + 3.0, Full(0, v.tensor), Full(6, v.tensor)) / 6.0, x)


@public
def hard_silu(x: Any) -> Tracer:
    """x * hard_sigmoid(x)."""
    return mapped(lambda v: v * (e.Clamp(v + 3.0, Full(0, v.tensor), Full(6, v.tensor)) / 6.0), x)


@public
def threshold(x: Any, threshold: float, value: float) -> Tracer:
    """x where it is above the threshold, `value` elsewhere."""
    return mapped(lambda v: e.Select(v > float(threshold), v, Full(float(value), v.tensor)), x)


@public
def soft_shrink(x: Any, width: float = 0.5) -> Tracer:
    """x moved towards 0 by `width`, and 0 where it would pass it."""
    return mapped(lambda v: e.Copysign(e.Maximum(e.Abs(v) - float(width), Full(0, v.tensor)), v), x)


@public
def hard_shrink(x: Any, width: float = 0.5) -> Tracer:
    """x where |x| is above `width`, 0 elsewhere."""
    return mapped(lambda v: e.Select(e.Abs(v) > float(width), v, Full(0, v.tensor)), x)


@public
def tanh_shrink(x: Any) -> Tracer:
    """x - tanh(x)."""
    return mapped(lambda v: v - e.Tanh(v), x)


@public
def glu(x: Any, axis: int = -1) -> Tracer:
    """The first half along `axis` times the sigmoid of the second: [..., 2n] gives [..., n] (Dauphin et al. 2017).

    TD0822 for an axis of an odd size.
    """
    (value,) = floats(x)
    first, second = split(wrap(value), 2, axis)
    return stored(lambda a, b: a * e.Logistic(b), unwrap(first), unwrap(second))


swish = silu
hard_swish = hard_silu


# --- exponentials along axes --------------------------------------------------------------------------------------


def _along(op: Callable[[Value, int], Value], x: Any, axis: Any, mask: Any, hidden: float) -> Tracer:
    """An op of one axis along one or several; where `mask` is false elements take no part and become `hidden`."""
    (value,) = floats(x)
    if mask is not None:
        shape = broadcast_shapes(value.shape, lift(mask).shape)
        chosen = broadcast(typed(mask, bool_), shape)
        value = broadcast(value, shape)
        value = e.Select(chosen, value, Full(-math.inf, value.tensor))
    axes = axes_of(axis, value.rank)
    if value.rank == 0:
        found = reshape(unwrap(stored(lambda v: op(v, 0), reshape(value, (1,)))), ())
    elif len(axes) == 1:
        found = unwrap(stored(lambda v: op(v, axes[0]), value))
    else:
        joined = front(value, axes)
        kept = tuple(i for i in range(value.rank) if i not in axes)
        order = (*axes, *kept)
        moved = unwrap(stored(lambda v: op(v, 0), joined))
        found = permute(
            reshape(moved, tuple(value.shape[i] for i in order)), [order.index(i) for i in range(value.rank)]
        )
    return wrap(found if mask is None else e.Select(chosen, found, Full(hidden, found.tensor)))


@public
def softmax(x: Any, axis: Any = -1, where: Any = None) -> Tracer:
    """exp(x) / sum(exp(x)) along `axis` (one, several, or None for all), without overflow; of x's shape.

    Elements where the bool `where` is false take no part and give 0.
    """
    return _along(c.Softmax, x, axis, where, 0.0)


@public
def log_softmax(x: Any, axis: Any = -1, where: Any = None) -> Tracer:
    """log(softmax(x)) along `axis`, without underflow; of x's shape.

    Elements where the bool `where` is false take no part and give -inf.
    """
    return _along(c.LogSoftmax, x, axis, where, -math.inf)


@public
def logsumexp(
    a: Any, axis: Any = None, b: Any = None, keepdims: bool = False, return_sign: bool = False, where: Any = None
) -> Any:
    """log(sum(b * exp(a))) along `axis` (None: all), without overflow, as `scipy.special.logsumexp`.

    b stretches to a. With `return_sign`, (the log of the size of the sum, its sign); without, a negative sum is NaN.
    """
    if b is None and not return_sign:
        (value,) = floats(a)
        if where is not None:
            mask = typed(where, bool_)
            shape = broadcast_shapes(value.shape, mask.shape)
            value = broadcast(value, shape)
            value = e.Select(broadcast(mask, shape), value, Full(-math.inf, value.tensor))
        axes = axes_of(axis, value.rank)
        return wrap(keep(unwrap(stored(lambda v: c.LogSumExp(v, axes), value)), axes, keepdims))
    value, weights = floats(a, 1.0 if b is None else b)
    shape = broadcast_shapes(value.shape, weights.shape)
    value, weights = broadcast(value, shape), broadcast(weights, shape)
    if where is not None:
        weights = e.Select(broadcast(typed(where, bool_), shape), weights, Full(0, weights.tensor))
    axes = axes_of(axis, value.rank)
    absent = e.Eq(weights, Full(0, weights.tensor))
    seen = e.Select(absent, Full(-math.inf, value.tensor), value)
    top = Max(seen, axes)
    shift = e.Select(e.IsFinite(top), top, Full(0, top.tensor))
    spread = broadcast(expand(shift, axes), shape)
    total = Sum(Mul(e.Exp(seen - spread), weights), axes)
    size = keep(e.Log(e.Abs(total)) + shift, axes, keepdims)
    if return_sign:
        return wrap(size), wrap(keep(e.Sign(total), axes, keepdims))
    negative = keep(total < 0, axes, keepdims)
    return wrap(e.Select(negative, Full(math.nan, size.tensor), size))
