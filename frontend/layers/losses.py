"""Losses: how far predictions are from what they should be; one number, or one for each example."""

from __future__ import annotations

import math
from typing import Any

from ...ir.dtypes import FLOAT8, accumulator, f32
from ...ir.errors import TypeMismatch
from ...ir.ops import elementwise as e
from ...ir.ops.reduce import Sum
from ...ir.value import Full, Mul, Value
from ..arrays import axis_of, broadcast, broadcast_shapes, convert, expand, lift, reshape, static_int, typed
from ..eager import public
from ..functions.reductions import mean, sum_
from ..functions.selection import take, take_along_axis
from ..functions.selection import where as where_
from ..trace import here
from ..tracer import Tracer, unwrap, wrap
from .activations import log_softmax
from .floats import floats, stored, wrong


def _reduced(losses: Tracer, reduction: str, weights: Tracer | None = None) -> Tracer:
    """None, the sum, or the mean (weighted, where elements have weights)."""
    if reduction == "none":
        return losses
    if reduction == "sum":
        return sum_(losses)
    if reduction != "mean":
        raise wrong(f"reduction {reduction!r} is none of mean, sum, none")
    if weights is None:
        return mean(losses)
    return lift(sum_(losses) / sum_(weights))


@public
def cross_entropy(
    logits: Any,
    labels: Any,
    *,
    axis: int = -1,
    weight: Any = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tracer:
    """-log softmax(logits) at the labels, as `torch.nn.functional.cross_entropy`, with the classes along `axis`.

    logits [..., C] and labels [...] of integers, or of floats [..., C]: probabilities. `weight` [C] weighs classes;
    `label_smoothing` mixes the labels with 1 / C (Szegedy et al. 2016); examples whose label is `ignore_index` take no
    part, nor do classes whose logit is -inf and whose probability is 0. `reduction` is "mean" (over examples, weighted
    if they are), "sum" or "none" [...]. A label outside raises IndexError (TD0170). TD0831 for labels of another dtype
    or shape, TD0830 for another reduction.
    """
    (scores,) = floats(logits)
    number = axis_of(axis, scores.rank)
    classes = scores.shape[number]
    logs = lift(log_softmax(wrap(scores), number))
    given = lift(labels)
    row = None if weight is None else _row(weight, scores, number)
    if given.value.dtype.is_float:
        target = given
        if label_smoothing:
            share = 1.0 / static_int(classes, "the number of classes")
            target = lift(given * (1.0 - label_smoothing) + label_smoothing * share)
        # A class that cannot be, and is not, adds nothing: 0 log 0.
        logs = lift(where_((target == 0) & (logs == -math.inf), 0, logs))
        losses = lift(-sum_(lift(logs * target * row if row is not None else logs * target), number))
        return _reduced(losses, reduction)
    return _of_classes("cross_entropy", logs, given, number, row, label_smoothing, ignore_index, reduction)


def _of_classes(
    name: str,
    logs: Tracer,
    labels: Tracer,
    axis: int,
    row: Tracer | None,
    smoothing: float,
    ignore_index: int | None,
    reduction: str,
) -> Tracer:
    """-logs at the labels, weighted by the row of classes, mixed with the mean over all classes."""
    value = unwrap(logs)
    classes = value.shape[axis]
    if not labels.value.dtype.is_integer or labels.ndim != value.rank - 1:
        raise TypeMismatch(
            f"{name}: the labels are {labels.value.type}; integers with the shape of {value.type} without axis {axis} "
            "are needed" + (", or probabilities of their shape" if name == "cross_entropy" else ""),
            code="TD0831",
            location=here(),
        )
    ignored = None if ignore_index is None else lift(labels == ignore_index)
    safe = labels if ignored is None else lift(where_(ignored, 0, labels))
    at = wrap(expand(unwrap(safe), (axis,)))
    weighted = logs if row is None else lift(logs * row)
    picked = unwrap(take_along_axis(weighted, at, axis))
    losses = lift(-wrap(reshape(picked, tuple(n for i, n in enumerate(picked.shape) if i != axis))))
    counts: Tracer | None = None
    if row is not None:
        counts = take(wrap(reshape(unwrap(row), (classes,))), safe)
    if smoothing:
        share = smoothing / static_int(classes, "the number of classes")
        losses = lift(losses * (1.0 - smoothing) - sum_(weighted, axis) * share)
    if ignored is not None:
        losses = lift(where_(ignored, 0, losses))
        counts = lift(where_(ignored, 0, 1.0 if counts is None else counts))
        counts = wrap(convert(unwrap(counts), losses.value.dtype))
    return _reduced(losses, reduction, counts)


@public
def nll(
    log_probabilities: Any,
    labels: Any,
    *,
    axis: int = -1,
    weight: Any = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tracer:
    """-log p at the labels, from log p: `cross_entropy` after `log_softmax`, with its arguments and errors."""
    (logs,) = floats(log_probabilities)
    number = axis_of(axis, logs.rank)
    row = None if weight is None else _row(weight, logs, number)
    return _of_classes("nll", wrap(logs), lift(labels), number, row, 0.0, ignore_index, reduction)


def _row(weight: Any, like: Value, axis: int) -> Tracer:
    """One number per class, along the axis of the classes."""
    shape = tuple(like.shape[axis] if i == axis else 1 for i in range(like.rank))
    return wrap(reshape(typed(weight, like.dtype), shape))


@public
def binary_cross_entropy(logits: Any, labels: Any, *, pos_weight: Any = None, reduction: str = "mean") -> Tracer:
    """-(w y log sigmoid(x) + (1 - y) log(1 - sigmoid(x))), from the logits x, without overflow.

    logits and labels (in [0, 1]) stretch to each other; `pos_weight`, w, to both. As
    `torch.nn.functional.binary_cross_entropy_with_logits`. TD0830 for a reduction other than mean, sum, none.
    """
    x, y = floats(logits, labels)
    shape = broadcast_shapes(x.shape, y.shape)
    x, y = broadcast(x, shape), broadcast(y, shape)
    if pos_weight is None:
        return _reduced(stored(lambda a, b: e.Softplus(a) - Mul(a, b), x, y), reduction)
    w = broadcast(typed(pos_weight, x.dtype), shape)

    def weighted(a: Value, b: Value, c: Value) -> Value:
        return Mul(1.0 - b, a) + Mul(1.0 + Mul(c - 1.0, b), e.Softplus(-a))

    return _reduced(stored(weighted, x, y, w), reduction)


def _difference(predictions: Any, targets: Any) -> Value:
    x, y = floats(predictions, targets)
    shape = broadcast_shapes(x.shape, y.shape)
    x, y = broadcast(x, shape), broadcast(y, shape)
    if x.dtype in FLOAT8:
        return convert(x, f32) - convert(y, f32)
    return x - y


@public
def mse(predictions: Any, targets: Any, *, reduction: str = "mean") -> Tracer:
    """The squared difference; predictions and targets stretch to each other, `reduction` as `cross_entropy`'s."""
    apart = _difference(predictions, targets)
    return _reduced(wrap(Mul(apart, apart)), reduction)


@public
def mae(predictions: Any, targets: Any, *, reduction: str = "mean") -> Tracer:
    """The absolute difference; predictions and targets stretch to each other, `reduction` as `cross_entropy`'s."""
    return _reduced(wrap(e.Abs(_difference(predictions, targets))), reduction)


@public
def huber(predictions: Any, targets: Any, delta: float = 1.0, *, reduction: str = "mean") -> Tracer:
    """Half the squared difference up to `delta`, a straight line of slope `delta` beyond (Huber 1964)."""
    apart = _difference(predictions, targets)
    size = e.Abs(apart)
    near = Mul(apart, apart) * 0.5
    far = (size - 0.5 * delta) * float(delta)
    return _reduced(wrap(e.Select(size <= float(delta), near, far)), reduction)


@public
def smooth_l1(predictions: Any, targets: Any, beta: float = 1.0, *, reduction: str = "mean") -> Tracer:
    """Half the squared difference over `beta` up to `beta`, a straight line of slope 1 beyond (Girshick 2015)."""
    apart = _difference(predictions, targets)
    size = e.Abs(apart)
    if beta == 0:
        return _reduced(wrap(size), reduction)
    near = Mul(apart, apart) * (0.5 / float(beta))
    return _reduced(wrap(e.Select(size < float(beta), near, size - 0.5 * float(beta))), reduction)


@public
def log_cosh(predictions: Any, targets: Any, *, reduction: str = "mean") -> Tracer:
    """log(cosh(difference)), without overflow."""
    size = e.Abs(_difference(predictions, targets))
    return _reduced(wrap(size + e.Softplus(size * -2.0) - math.log(2.0)), reduction)


@public
def hinge(scores: Any, labels: Any, margin: float = 1.0, *, reduction: str = "mean") -> Tracer:
    """max(0, margin - y x) of scores x and labels y, which are 1 or -1."""
    x, y = floats(scores, labels)
    shape = broadcast_shapes(x.shape, y.shape)
    x, y = broadcast(x, shape), broadcast(y, shape)
    return _reduced(stored(lambda a, b: e.Maximum(margin - Mul(a, b), Full(0, a.tensor)), x, y), reduction)


@public
def poisson_nll(log_rates: Any, targets: Any, *, reduction: str = "mean") -> Tracer:
    """exp(x) - y x of the logarithm x of a rate and a count y: -log of Poisson's law but for a constant."""
    x, y = floats(log_rates, targets)
    shape = broadcast_shapes(x.shape, y.shape)
    x, y = broadcast(x, shape), broadcast(y, shape)
    return _reduced(stored(lambda a, b: e.Exp(a) - Mul(a, b), x, y), reduction)


@public
def triplet_margin(
    anchor: Any, positive: Any, negative: Any, margin: float = 1.0, *, axis: int = -1, eps: float = 1e-6,
    reduction: str = "mean",
) -> Tracer:  # fmt: skip
    """max(0, |a - p| - |a - n| + margin), Euclidean lengths along `axis`, as torch's (Schroff et al. 2015).

    `eps` is added to the differences, so that the slope at equal points is finite.
    """

    def distance(a: Any, b: Any) -> Value:
        apart = _difference(a, b)
        wide = convert(apart, accumulator(apart.dtype)) + float(eps)
        return e.Sqrt(Sum(Mul(wide, wide), (axis_of(axis, wide.rank),)))

    near, far = distance(anchor, positive), distance(anchor, negative)
    shape = broadcast_shapes(near.shape, far.shape)
    gap = broadcast(near, shape) - broadcast(far, shape) + float(margin)
    return _reduced(wrap(e.Maximum(gap, Full(0, gap.tensor))), reduction)


@public
def kl_divergence(log_predictions: Any, targets: Any, *, axis: Any = -1, reduction: str = "mean") -> Tracer:
    """sum(p * (log p - log q)) along `axis`, from log q and p; terms with p = 0 are 0.

    `reduction` is over what is left of the axes ("mean", as torch's "batchmean" of two axes).
    """
    logs, p = floats(log_predictions, targets)
    shape = broadcast_shapes(logs.shape, p.shape)
    logs, p = broadcast(logs, shape), broadcast(p, shape)

    def terms(q: Value, p: Value) -> Value:
        none = e.Eq(p, Full(0, p.tensor))
        safe = e.Select(none, Full(1.0, p.tensor), p)
        return e.Select(none, Full(0, p.tensor), Mul(p, e.Log(safe) - q))

    return _reduced(sum_(stored(terms, logs, p), axis), reduction)


@public
def cosine_similarity(x: Any, y: Any, axis: int = -1, eps: float = 1e-8) -> Tracer:
    """The cosine of the angle between x and y along `axis`: [..., n] gives [...]; lengths are at least `eps`."""
    a, b = floats(x, y)
    shape = broadcast_shapes(a.shape, b.shape)
    kind = a.dtype
    a, b = (convert(broadcast(v, shape), accumulator(kind)) for v in (a, b))
    number = axis_of(axis, len(shape))

    def size(v: Value) -> Value:
        found = e.Sqrt(Sum(Mul(v, v), (number,)))
        return e.Maximum(found, Full(eps, found.tensor))

    return wrap(convert(Sum(Mul(a, b), (number,)) / Mul(size(a), size(b)), kind))
