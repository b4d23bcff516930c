"""Optimizers as pairs of functions: `treadle.optim`.

An optimizer is `init(params) -> state` and `update(grads, state, params) -> (params, state)`, written in plain NumPy
over trees, so that under `td.jit(donate_argnames=("params", "state"))` each update is one fused loop over the buffers
it replaces. The formulas and the order of operations are those of torch.optim, whose results they equal step for step.
Adding one is a matter of a rule for one array, see `_optimizer`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..ir.errors import InvalidValue
from . import tree

Schedule = Callable[[Any], Any]


class Optimizer(NamedTuple):
    """`init(params) -> state`; `update(grads, state, params) -> (new params, new state)`. A state holds `step`, an
    int32 scalar array that counts updates, and one tree like `params` per moment."""

    init: Callable[[Any], dict[str, Any]]
    update: Callable[[Any, dict[str, Any], Any], tuple[Any, dict[str, Any]]]


# rule(gradient, parameter, rate, step, *moments) -> (new parameter, *new moments); step counts from 1, as a float.
Rule = Callable[..., tuple[Any, ...]]


def _optimizer(rate: float | Schedule, moments: tuple[str, ...], rule: Rule) -> Optimizer:
    """The pair made of a rule for one array. `rate` is a number or a schedule of the step (from 0)."""

    def init(params: Any) -> dict[str, Any]:
        state: dict[str, Any] = {"step": np.zeros((), np.int32)}
        return state | {name: tree.map(np.zeros_like, params) for name in moments}

    def update(grads: Any, state: dict[str, Any], params: Any) -> tuple[Any, dict[str, Any]]:
        step = state["step"]
        now = rate(step) if callable(rate) else rate
        count = (step + 1).astype(np.float32)
        found = tree.map(
            lambda p, g, *m: _Row(rule(g, p, now, count, *m)), params, grads, *(state[name] for name in moments)
        )
        columns = [tree.map(lambda row, i=i: row[i], found, is_leaf=_is_row) for i in range(1 + len(moments))]
        return columns[0], {"step": step + 1, **dict(zip(moments, columns[1:], strict=True))}

    return Optimizer(init, update)


class _Row(tuple[Any, ...]):
    """What a rule gives for one array: a leaf, although a tuple."""

    __slots__ = ()


def _is_row(value: Any) -> bool:
    return isinstance(value, _Row)


def sgd(
    rate: float | Schedule, momentum: float = 0.0, *, nesterov: bool = False, weight_decay: float = 0.0
) -> Optimizer:
    """Stochastic gradient descent, with momentum or Nesterov's (Sutskever et al. 2013, in torch's form)."""
    if nesterov and momentum <= 0:
        raise InvalidValue(
            "nesterov needs a momentum above 0", code="TD0720", edit="sgd(rate, momentum=0.9, nesterov=True)"
        )

    def plain(g: Any, p: Any, now: Any, count: Any) -> tuple[Any, ...]:
        g = g + weight_decay * p if weight_decay else g
        return (_stepped(p, now, g),)

    def heavy(g: Any, p: Any, now: Any, count: Any, velocity: Any) -> tuple[Any, ...]:
        g = g + weight_decay * p if weight_decay else g
        velocity = momentum * velocity + g
        return _stepped(p, now, g + momentum * velocity if nesterov else velocity), velocity

    return _optimizer(rate, ("velocity",), heavy) if momentum else _optimizer(rate, (), plain)


def adam(rate: float | Schedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Optimizer:
    """Adam (Kingma and Ba 2015), with bias correction."""
    return _adam(rate, b1, b2, eps, 0.0)


def adamw(
    rate: float | Schedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.01
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    return _adam(rate, b1, b2, eps, weight_decay)


def _adam(rate: float | Schedule, b1: float, b2: float, eps: float, weight_decay: float) -> Optimizer:
    def rule(g: Any, p: Any, now: Any, count: Any, m: Any, v: Any) -> tuple[Any, ...]:
        p = p * _as(1 - now * weight_decay, p) if weight_decay else p
        m = m + (g - m) * (1 - b1)
        v = b2 * v + (1 - b2) * g * g
        size = now / (1 - b1**count)
        root = np.sqrt(1 - b2**count)
        return p - _as(size, p) * m / (np.sqrt(v) / _as(root, p) + eps), m, v

    return _optimizer(rate, ("m", "v"), rule)


def _as(x: Any, like: Any) -> Any:
    """A number in the dtype of `like`: the rate of a schedule must not widen float32 parameters."""
    return x.astype(like.dtype) if hasattr(x, "astype") else x


def _stepped(p: Any, rate: Any, direction: Any) -> Any:
    return p - _as(rate, p) * direction


# Schedules: functions of the step, an integer scalar that counts from 0.


def constant(rate: float) -> Schedule:
    """Always `rate`."""
    return lambda step: rate


def cosine(rate: float, steps: int, final: float = 0.0) -> Schedule:
    """From `rate` down to `final` along half a cosine in `steps` steps, then `final` (Loshchilov and Hutter 2017)."""

    def schedule(step: Any) -> Any:
        share = np.minimum(step, steps).astype(np.float32) / steps
        return final + (rate - final) * 0.5 * (1 + np.cos(np.pi * share))

    return schedule


def warm_up(schedule: float | Schedule, steps: int) -> Schedule:
    """Linearly from 0 to the schedule's value over the first `steps` steps; the schedule begins after them."""

    def warmed(step: Any) -> Any:
        after = schedule(np.maximum(step - steps, 0)) if callable(schedule) else schedule
        return after * np.minimum((step + 1).astype(np.float32) / steps, 1)

    return warmed


# Gradients and initial values.


def global_norm(gradients: Any) -> Any:
    """The Euclidean norm of all leaves taken together."""
    return np.sqrt(sum(np.sum(g * g) for g in tree.leaves(gradients)))


def clip_by_norm(gradients: Any, limit: float) -> Any:
    """Gradients scaled down so that their global norm is at most `limit`; as torch.nn.utils.clip_grad_norm_."""
    scale = np.minimum(limit / (global_norm(gradients) + 1e-6), 1.0)
    return tree.map(lambda g: g * _as(scale, g), gradients)


def glorot(generator: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    """Uniform in +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010). The last axis is the output's; the one before
    it the input's; further ones are windows."""
    fan_in, fan_out = fans(shape)
    limit = np.sqrt(6 / (fan_in + fan_out))
    return generator.uniform(-limit, limit, shape).astype(dtype)


def he(generator: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    """Normal with variance 2 / fan_in (He et al. 2015), for layers followed by relu."""
    return (generator.standard_normal(shape) * np.sqrt(2 / fans(shape)[0])).astype(dtype)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(inputs, outputs) that meet in one unit of a weight of this shape."""
    if len(shape) < 2:
        raise InvalidValue(f"a weight of shape {shape} has no fan in and fan out", code="TD0721")
    window = int(np.prod(shape[:-2], dtype=np.int64))
    return shape[-2] * window, shape[-1] * window


__all__ = [
    "Optimizer", "Schedule", "adam", "adamw", "clip_by_norm", "constant", "cosine", "global_norm", "glorot", "he",
    "sgd", "warm_up",
]  # fmt: skip
