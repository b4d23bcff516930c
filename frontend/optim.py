"""Optimizers as pairs of functions: `treadle.optim`.

An optimizer is `init(params) -> state` and `update(grads, state, params) -> (params, state)`, written in plain NumPy
over trees, so that under `td.jit(donate_argnames=("params", "state"))` each update is one fused loop for each array,
over the buffers it replaces. The formulas and the order of operations are those of torch.optim, whose results they
equal step for step. A further one is a rule for one array, given to `from_rule`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..ir.dtypes import f64, of
from ..ir.errors import InvalidValue, ShapeMismatch, TypeMismatch
from . import random, tree
from .trace import here
from .userline import spoken

Schedule = Callable[[Any], Any]


class Optimizer(NamedTuple):
    """`init(params) -> state`; `update(grads, state, params) -> (new params, new state)`. A state holds `step`, an
    int32 scalar array that counts updates, and one tree like `params` per moment."""

    init: Callable[[Any], dict[str, Any]]
    update: Callable[[Any, dict[str, Any], Any], tuple[Any, dict[str, Any]]]


# rule(gradient, parameter, rate, count, *moments) -> (new parameter, *new moments), see `from_rule`.
Rule = Callable[..., tuple[Any, ...]]


@spoken
def from_rule(rate: float | Schedule, moments: Sequence[str], rule: Rule) -> Optimizer:
    """The optimizer that does `rule` to each array: `rule(g, p, now, count, *moments) -> (p, *moments)`.

    g is the gradient in p's dtype, `now` the rate (a number, or a schedule of the step from 0), also in p's dtype;
    `count` is the number of the update from 1, in float64, in which 1 - b**count keeps its digits. Moments begin as
    zeros like p. Half floats come as float32, and results take the dtypes of what they replace. Errors of `update`:
    TD0611 for trees of other structures, TD0722 where a gradient or a moment has not the parameter's shape, TD0723 for
    parameters that are no real floats.
    """
    _within("rate", rate, 0.0, math.inf)
    names = tuple(moments)

    def init(params: Any) -> dict[str, Any]:
        for path, leaf in tree.paths(params, "params"):
            _checked(leaf, leaf, path)
        state: dict[str, Any] = {"step": np.zeros((), np.int32)}
        return state | {name: tree.map(np.zeros_like, params) for name in names}

    def update(grads: Any, state: dict[str, Any], params: Any) -> tuple[Any, dict[str, Any]]:
        step = state["step"]
        now = rate(step) if callable(rate) else rate
        count = (step + 1).astype(np.float64)

        def one(path: str, p: Any, g: Any, *rows: Any) -> _Row:
            for each in (g, *rows):
                _checked(p, each, path)
            wide = _wide(p)
            found = rule(_as(g, wide), wide, _as(now, wide), count, *map(_wide, rows))
            return _Row(_as(new, old) for new, old in zip(found, (p, *rows), strict=True))

        named = tree.structure(params).unflatten([path for path, _ in tree.paths(params, "params")])
        found = tree.map(one, named, params, grads, *(state[name] for name in names))
        columns = [tree.map(lambda row, i=i: row[i], found, is_leaf=_is_row) for i in range(1 + len(names))]
        return columns[0], {"step": step + 1, **dict(zip(names, columns[1:], strict=True))}

    return Optimizer(spoken(init), spoken(update))


class _Row(tuple[Any, ...]):
    """What a rule gives for one array: a leaf, although a tuple."""

    __slots__ = ()


def _is_row(value: Any) -> bool:
    return isinstance(value, _Row)


def _checked(p: Any, other: Any, path: str) -> None:
    """A stretched gradient would give the parameter another shape; a square of complex numbers is no size."""
    for each in (p, other):
        if not hasattr(each, "dtype") or of(each.dtype).kind != "float":
            raise TypeMismatch(
                f"{path} and its gradient must be arrays of real floats",
                code="TD0723",
                location=here(),
                edit="keep real and imaginary parts apart, and what is not trained out of the tree",
            )
    if np.shape(p) != np.shape(other):
        raise ShapeMismatch(
            f"{path} has the shape {np.shape(p)}, its gradient or moment {np.shape(other)}",
            code="TD0722",
            location=here(),
            edit="a gradient, and a state of init, of the same parameters",
        )


def _within(name: str, value: Any, low: float, high: float) -> None:
    """Numbers are checked; schedules and traced numbers cannot be."""
    if isinstance(value, int | float) and not (low <= value < high):
        bound = f"in [{low:g}, {high:g})" if high < math.inf else f"{low:g} or more, and finite"
        raise InvalidValue(
            f"{name}={value} must be {bound}", code="TD0720", location=here(), edit=f"give a {name} that is {bound}"
        )


@spoken
def sgd(
    rate: float | Schedule, momentum: float = 0.0, *, nesterov: bool = False, weight_decay: float = 0.0
) -> Optimizer:
    """Stochastic gradient descent, with momentum or Nesterov's (Sutskever et al. 2013, in torch's form)."""
    _within("momentum", momentum, 0.0, math.inf)
    _within("weight_decay", weight_decay, 0.0, math.inf)
    if nesterov and not momentum:
        raise InvalidValue(
            "nesterov needs a momentum above 0",
            code="TD0720",
            location=here(),
            edit="sgd(rate, momentum=0.9, nesterov=True)",
        )

    def plain(g: Any, p: Any, now: Any, count: Any) -> tuple[Any, ...]:
        g = g + weight_decay * p if weight_decay else g
        return (p - now * g,)

    def heavy(g: Any, p: Any, now: Any, count: Any, velocity: Any) -> tuple[Any, ...]:
        g = g + weight_decay * p if weight_decay else g
        velocity = momentum * velocity + g
        return p - now * (g + momentum * velocity if nesterov else velocity), velocity

    return from_rule(rate, ("velocity",), heavy) if momentum else from_rule(rate, (), plain)


@spoken
def adam(rate: float | Schedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Optimizer:
    """Adam (Kingma and Ba 2015), with bias correction."""
    return _adam(rate, b1, b2, eps, 0.0)


@spoken
def adamw(
    rate: float | Schedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.01
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    return _adam(rate, b1, b2, eps, weight_decay)


def _adam(rate: float | Schedule, b1: float, b2: float, eps: float, weight_decay: float) -> Optimizer:
    for name, value, high in (("b1", b1, 1.0), ("b2", b2, 1.0), ("eps", eps, math.inf)):
        _within(name, value, 0.0, high)
    _within("weight_decay", weight_decay, 0.0, math.inf)

    def rule(g: Any, p: Any, now: Any, count: Any, m: Any, v: Any) -> tuple[Any, ...]:
        p = p * (1 - now * weight_decay) if weight_decay else p
        m = m + (g - m) * (1 - b1)
        v = b2 * v + (1 - b2) * g * g
        size = now / _as(1 - b1**count, p)
        root = _as(np.sqrt(1 - b2**count), p)
        return p - size * m / (np.sqrt(v) / root + eps), m, v

    return from_rule(rate, ("m", "v"), rule)


def _wide(x: Any) -> Any:
    """Half floats as float32: in float16 the square of a small gradient, and Adam's eps, are 0."""
    return x.astype(np.float32) if of(x.dtype).bits < 32 else x


def _as(x: Any, like: Any) -> Any:
    """An array in the dtype of `like`: the float64 of a schedule must not widen float32 parameters."""
    return x.astype(like.dtype) if hasattr(x, "astype") else x


# Schedules: functions of the step, an integer (a number or a scalar array) that counts from 0. Float64 throughout.


def _float(step: Any) -> Any:
    return np.asarray(step, np.float64) if isinstance(step, int) else step.astype(np.float64)


@spoken
def constant(rate: float) -> Schedule:
    """Always `rate`."""
    _within("rate", rate, 0.0, math.inf)
    return lambda step: rate


@spoken
def cosine(rate: float, steps: int, final: float = 0.0) -> Schedule:
    """From `rate` down to `final` along half a cosine in `steps` steps, then `final` (Loshchilov and Hutter 2017)."""
    _within("steps", steps, 1, math.inf)

    def schedule(step: Any) -> Any:
        share = np.minimum(_float(step), steps) / steps
        return final + (rate - final) * 0.5 * (1 + np.cos(np.pi * share))

    return schedule


@spoken
def warm_up(schedule: float | Schedule, steps: int) -> Schedule:
    """Linearly from 0 to the schedule's value over the first `steps` steps; the schedule begins after them."""
    _within("steps", steps, 1, math.inf)

    def warmed(step: Any) -> Any:
        after = schedule(np.maximum(step - steps, 0)) if callable(schedule) else schedule
        return after * np.minimum((_float(step) + 1) / steps, 1)

    return warmed


# Gradients and initial values.


@spoken
def global_norm(gradients: Any) -> Any:
    """The Euclidean norm of all leaves taken together; of half floats in float32."""
    return np.sqrt(sum(np.sum(wide * wide) for wide in map(_wide, tree.leaves(gradients))))


@spoken
def clip_by_norm(gradients: Any, limit: float) -> Any:
    """Gradients scaled down so that their global norm is at most `limit`; as torch.nn.utils.clip_grad_norm_."""
    _within("limit", limit, 0.0, math.inf)
    scale = np.minimum(limit / (global_norm(gradients) + 1e-6), 1.0)
    return tree.map(lambda g: _as(g * _as(scale, _wide(g)), g), gradients)


@spoken
def glorot(
    key: Any, shape: Sequence[int], dtype: Any = "float32", *, in_axis: int | None = None, out_axis: int | None = None
) -> Any:
    """Uniform in +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010), from a key of `td.random`.

    The fans are the sizes of `in_axis` and `out_axis` times those of all other axes. Unless said otherwise a weight of
    two axes is that of `x @ w`, inputs first, and one of more that of `td.nn.conv`, outputs first. TD0721 for fewer
    axes, or if only one of the two is given.
    """
    fan_in, fan_out = _fans(shape, in_axis, out_axis)
    limit = math.sqrt(6 / (fan_in + fan_out))
    return random.uniform(key, shape, dtype, -limit, limit)


@spoken
def he(
    key: Any, shape: Sequence[int], dtype: Any = "float32", *, in_axis: int | None = None, out_axis: int | None = None
) -> Any:
    """Normal with variance 2 / fan_in (He et al. 2015), for layers followed by relu; key and axes as `glorot`'s."""
    deviation = math.sqrt(2 / _fans(shape, in_axis, out_axis)[0])
    wide = "float64" if of(dtype) is f64 else "float32"
    return (random.normal(key, shape, wide) * np.dtype(wide).type(deviation)).astype(of(dtype).numpy)


def _fans(shape: Sequence[int], in_axis: int | None, out_axis: int | None) -> tuple[int, int]:
    """(inputs, outputs) that meet in one unit of a weight of this shape."""
    sizes = tuple(shape)
    axes = (in_axis, out_axis) if (in_axis, out_axis) != (None, None) else ((0, 1) if len(sizes) == 2 else (1, 0))
    if len(sizes) < 2 or None in axes or len({axis % len(sizes) for axis in axes if axis is not None}) < 2:
        raise InvalidValue(
            f"a weight of shape {sizes} has no fan in and fan out along axes {axes[0]} and {axes[1]}",
            code="TD0721",
            location=here(),
            edit="in_axis=0, out_axis=1",
        )
    inputs, outputs = (sizes[axis] for axis in axes if axis is not None)
    others = math.prod(sizes) // max(inputs * outputs, 1)
    return max(inputs * others, 1), max(outputs * others, 1)


__all__ = [
    "Optimizer", "Schedule", "adam", "adamw", "clip_by_norm", "constant", "cosine", "from_rule", "global_norm",
    "glorot", "he", "sgd", "warm_up",
]  # fmt: skip
