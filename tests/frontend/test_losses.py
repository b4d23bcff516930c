"""Gradients of the losses: against slopes of their definitions, at their corners, on what is masked, and torch's.

The definitions are in NumPy and float64, for one example after another as a textbook has them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import treadle as td
from treadle import nn

RNG = np.random.default_rng(0)
X, Y, Z = (RNG.standard_normal((4, 3)) for _ in range(3))
LABELS = np.array([2, 0, 1, 2])
WEIGHT = np.array([0.5, 1.0, 2.0])
P = np.exp(Z) / np.exp(Z).sum(1, keepdims=True)
inf = np.inf

# --- slopes -------------------------------------------------------------------------------------------------------


def log_softmax(x: Any) -> Any:
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def smoothed(x: Any) -> Any:
    """Weighted, smoothed and with label 1 ignored, summed example by example."""
    total, count = 0.0, 0.0
    for row, label in zip(log_softmax(x), LABELS, strict=True):
        if label != 1:
            total -= 0.9 * WEIGHT[label] * row[label] + 0.1 / 3 * (WEIGHT * row).sum()
            count += WEIGHT[label]
    return total / count


def length(x: Any) -> Any:
    return np.sqrt((x * x).sum(-1))


LOSSES: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "cross_entropy": (
        lambda x: nn.cross_entropy(x, LABELS),
        lambda x: -np.mean([row[k] for row, k in zip(log_softmax(x), LABELS, strict=True)]), (X,),
    ),
    "cross_entropy weighted, smoothed, ignoring": (
        lambda x: nn.cross_entropy(x, LABELS, weight=WEIGHT, label_smoothing=0.1, ignore_index=1), smoothed, (X,),
    ),
    "cross_entropy of probabilities": (
        nn.cross_entropy, lambda x, p: -(p * log_softmax(x)).sum(1).mean(), (X, P),
    ),
    "nll": (
        lambda x: nn.nll(x, LABELS), lambda x: -np.mean([row[k] for row, k in zip(x, LABELS, strict=True)]), (X,),
    ),
    "binary_cross_entropy": (
        lambda x, p: nn.binary_cross_entropy(x, p, pos_weight=3.0),
        lambda x, p: np.mean(3 * p * np.log1p(np.exp(-x)) + (1 - p) * np.log1p(np.exp(x))), (X, P),
    ),
    "mse": (nn.mse, lambda x, y: np.mean((x - y) ** 2), (X, Y)),
    "mse, stretched": (nn.mse, lambda x, y: np.mean((x - y) ** 2), (X, Y[0])),
    "mae": (nn.mae, lambda x, y: np.mean(np.abs(x - y)), (X, Y)),
    "huber": (
        lambda x, y: nn.huber(x, y, 0.7),
        lambda x, y: np.mean(
            np.where(np.abs(x - y) <= 0.7, 0.5 * (x - y) ** 2, 0.7 * (np.abs(x - y) - 0.35))
        ),
        (X, Y),
    ),
    "smooth_l1": (
        lambda x, y: nn.smooth_l1(x, y, 0.7),
        lambda x, y: np.mean(np.where(np.abs(x - y) < 0.7, 0.5 / 0.7 * (x - y) ** 2, np.abs(x - y) - 0.35)), (X, Y),
    ),
    "log_cosh": (nn.log_cosh, lambda x, y: np.mean(np.log(np.cosh(x - y))), (X, Y)),
    "hinge": (nn.hinge, lambda x, y: np.mean(np.maximum(0, 1 - x * y)), (X, np.sign(Y))),
    "poisson_nll": (nn.poisson_nll, lambda x, y: np.mean(np.exp(x) - y * x), (X, Y)),
    "kl_divergence": (
        nn.kl_divergence, lambda q, p: (p * (np.log(p) - q)).sum(-1).mean(), (log_softmax(X), P),
    ),
    "cosine_similarity": (
        lambda x, y: np.sum(nn.cosine_similarity(x, y) * np.arange(4.0)),
        lambda x, y: ((x * y).sum(-1) / (length(x) * length(y))) @ np.arange(4.0), (X, Y),
    ),
    "triplet_margin": (
        nn.triplet_margin,
        lambda a, p, n: np.maximum(0, length(a - p + 1e-6) - length(a - n + 1e-6) + 1).mean(), (X, Y, Z),
    ),
}  # fmt: skip


def slope(f: Callable[..., Any], args: tuple[np.ndarray, ...], number: int) -> np.ndarray:
    found = np.zeros_like(args[number])
    for place in np.ndindex(found.shape):
        unit = np.zeros_like(found)
        unit[place] = 1

        def by(h: float, unit: np.ndarray = unit) -> float:
            ahead, behind = (f(*args[:number], args[number] + s * h * unit, *args[number + 1 :]) for s in (1, -1))
            return float(ahead - behind) / (2 * h)

        found[place] = (4 * by(5e-4) - by(1e-3)) / 3
    return found


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_slopes(name: str) -> None:
    """By every argument that moves, and forward as backward."""
    ours, theirs, args = LOSSES[name]
    numbers = tuple(range(len(args)))
    value, gradients = td.jit(td.value_and_grad(ours, numbers))(*args)
    np.testing.assert_allclose(value, theirs(*args), rtol=1e-12)
    wanted = [slope(theirs, args, number) for number in numbers]
    for found, want in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-8, atol=1e-9)
    along = [np.cos(np.arange(a.size)).reshape(a.shape) for a in args]
    tangent = td.jit(lambda *args: td.jvp(ours, args, tuple(along))[1])(*args)
    total = sum(np.sum(w * t) for w, t in zip(wanted, along, strict=True))
    np.testing.assert_allclose(tangent, total, rtol=1e-8, atol=1e-9)


# --- corners, and what is masked ----------------------------------------------------------------------------------

ROW, THIRD = 1 / (1 + np.e), 1 / 3
# Loss, where, its value, its gradient. What takes no part has the gradient 0, whatever stands there.
EDGES: dict[str, tuple[Callable[[Any], Any], Any, float, Any]] = {
    "a class that cannot be": (
        lambda x: nn.cross_entropy(x, np.array([1])), [[-inf, 0, 1]], np.log(1 + np.e), [[0, ROW - 1, 1 - ROW]],
    ),
    "a class that cannot be, and its probability": (
        lambda x: nn.cross_entropy(x, np.array([[0.0, 1.0, 0.0]])), [[-inf, 0, 1]],
        np.log(1 + np.e), [[0, ROW - 1, 1 - ROW]],
    ),
    "ignored examples": (
        lambda x: nn.cross_entropy(x, np.array([-100, 1, -100]), ignore_index=-100),
        [[np.nan, 0, 0], [0, 0, 0], [inf, -inf, 1]], np.log(3), [[0, 0, 0], [THIRD, THIRD - 1, THIRD], [0, 0, 0]],
    ),
    "all are ignored": (
        lambda x: nn.cross_entropy(x, np.array([-100, -100]), ignore_index=-100, reduction="sum"),
        [[1, 2, 3], [0, 0, 0]], 0, [[0, 0, 0], [0, 0, 0]],
    ),
    "classes of no weight": (
        lambda x: nn.cross_entropy(x, np.array([0, 1]), weight=np.array([1.0, 0.0, 1.0])),
        [[0, 0, 0], [5, -3, 1]], np.log(3), [[THIRD - 1, THIRD, THIRD], [0, 0, 0]],
    ),
    "scores far apart": (lambda x: nn.cross_entropy(x, np.array([1])), [[1e4, 0, 0]], 1e4, [[1, -1, 0]]),
    "logarithms of nothing": (lambda x: nn.nll(x, np.array([1])), [[-inf, 0]], 0, [[0, -1]]),
    "sure of both": (
        lambda x: nn.binary_cross_entropy(x, np.array([1.0, 0.0, 0.0, 1.0]), reduction="sum"),
        [1e3, -1e3, 1e3, -1e3], 2e3, [0, 0, 1, -1],
    ),
    "no difference": (lambda x: nn.mse(x, np.zeros(2)), [0, 0], 0, [0, 0]),
    "no distance": (lambda x: nn.mae(x, np.zeros(2)), [0, 2], 1, [0, 0.5]),
    "huber where it bends": (
        lambda x: nn.huber(x, np.zeros(4), 2.0, reduction="sum"), [0, 2, -2, 3], 8, [0, 2, -2, 2],
    ),
    "smooth_l1 where it bends": (
        lambda x: nn.smooth_l1(x, np.zeros(4), 2.0, reduction="sum"), [0, 2, -2, 3], 4, [0, 1, -1, 1],
    ),
    "smooth_l1 without a bend": (
        lambda x: nn.smooth_l1(x, np.zeros(3), 0.0, reduction="sum"), [0, 2, -3], 5, [0, 1, -1],
    ),
    "log_cosh far away": (lambda x: nn.log_cosh(x, np.zeros(2), reduction="sum"), [0, 1e3], 1e3 - np.log(2), [0, 1]),
    "hinge at its margin": (lambda x: nn.hinge(x, np.ones(3), reduction="sum"), [1, 2, 0], 1, [-0.5, 0, -1]),
    "what has no probability": (
        lambda q: nn.kl_divergence(q, np.array([0.5, 0.0, 0.5]), reduction="sum"), [0, -inf, 0],
        np.log(0.5), [-0.5, 0, -0.5],
    ),
}  # fmt: skip


@pytest.mark.parametrize("edge", EDGES)
def test_gradients_at_edges(edge: str) -> None:
    loss, at, value, gradient = EDGES[edge]
    found = td.jit(td.value_and_grad(loss))(np.array(at, float))
    np.testing.assert_allclose(found[0], value, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(found[1], gradient, rtol=1e-14, atol=1e-15)


def test_labels_outside_are_refused() -> None:
    """Unless they are the ones that are ignored."""
    for labels in ([3, 0], [-4, 0], [-100, 0]):
        with pytest.raises(IndexError, match="TD0170"):
            td.jit(nn.cross_entropy)(X[:2], np.array(labels))
    assert np.isfinite(td.jit(lambda x, y: nn.cross_entropy(x, y, ignore_index=-100))(X[:2], np.array([-100, 0])))


# --- torch --------------------------------------------------------------------------------------------------------


def test_gradients_like_torchs() -> None:
    torch = pytest.importorskip("torch")
    f, labels, weight = torch.nn.functional, torch.tensor(LABELS), torch.tensor(WEIGHT)
    theirs: dict[str, Callable[..., Any]] = {
        "cross_entropy": lambda x: f.cross_entropy(x, labels),
        "cross_entropy weighted, smoothed, ignoring": lambda x: f.cross_entropy(
            x, labels, weight=weight, label_smoothing=0.1, ignore_index=1
        ),
        "cross_entropy of probabilities": f.cross_entropy,
        "nll": lambda x: f.nll_loss(x, labels),
        "binary_cross_entropy": lambda x, p: f.binary_cross_entropy_with_logits(x, p, pos_weight=torch.tensor(3.0)),
        "mse": f.mse_loss,
        "mae": f.l1_loss,
        "huber": lambda x, y: f.huber_loss(x, y, delta=0.7),
        "smooth_l1": lambda x, y: f.smooth_l1_loss(x, y, beta=0.7),
        "poisson_nll": f.poisson_nll_loss,
        "triplet_margin": f.triplet_margin_loss,
    }
    for name, loss in theirs.items():
        ours, _, args = LOSSES[name]
        tensors = [torch.tensor(a, requires_grad=True) for a in args]
        loss(*tensors).backward()
        for found, tensor in zip(td.grad(ours, tuple(range(len(args))))(*args), tensors, strict=True):
            np.testing.assert_allclose(found, tensor.grad.numpy(), rtol=1e-10, atol=1e-12, err_msg=name)
    x = np.array([0.0, 2.0, -2.0, 3.0])
    for ours, loss in ((nn.huber, f.huber_loss), (nn.smooth_l1, f.smooth_l1_loss), (nn.mae, f.l1_loss)):
        at = torch.tensor(x, requires_grad=True)
        loss(at, torch.zeros(4, dtype=torch.float64), reduction="sum").backward()
        found = td.grad(lambda x, ours=ours: ours(x, np.zeros(4), reduction="sum"))(x)
        np.testing.assert_array_equal(found, at.grad.numpy())
