"""All transforms of all transforms of all transforms, over a corpus of functions, against contour integrals.

Every function goes from a vector to a number, and so does what each transform makes of it: a derivative along a
direction (backward or forward), a weighted sum over a batch, the same function compiled or as a checkpoint. So they
compose to any depth. The reference does the same with NumPy alone: on complex numbers a derivative along a direction is
a mean over a small circle, exact to many digits however often it is repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from plain_lax import Plain
from scipy import special

import treadle as td

Scalar = Callable[[Any], Any]

X = np.array([0.35, -0.6, 0.8, 0.2])
ALONG = {"grad": np.array([0.5, -0.3, 0.9, 1.1]), "jvp": np.array([-0.7, 0.4, 0.2, 1.3])}
# How a batch is made of a vector, and the weights of its members in the sum.
SCALES, WEIGHTS = np.array([1.0, 0.7, -0.4]), np.array([0.8, -1.2, 0.5])

# --- the transforms, twice ----------------------------------------------------------------------------------------


def along_gradient(f: Scalar) -> Scalar:
    gradient = td.grad(f)
    return lambda x: np.sum(gradient(x) * ALONG["grad"])


def along_tangent(f: Scalar) -> Scalar:
    return lambda x: td.jvp(f, (x,), (ALONG["jvp"],))[1]


def over_batch(f: Scalar) -> Scalar:
    batched = td.vmap(f)
    return lambda x: np.sum(batched(SCALES[:, None] * x + 0.1) * WEIGHTS)


TRANSFORMS: dict[str, Callable[[Scalar], Scalar]] = {
    "jit": lambda f: td.jit(f),
    "grad": along_gradient,
    "jvp": along_tangent,
    "vmap": over_batch,
    "checkpoint": lambda f: td.checkpoint(f),
}

POINTS = np.exp(2j * np.pi * np.arange(8) / 8)
RADIUS = 0.006  # off by RADIUS**8 of a ninth derivative, and by rounding / RADIUS for each derivative


def slope(f: Scalar, direction: np.ndarray) -> Scalar:
    """The derivative along a direction, by Cauchy's integral; itself a function of complex vectors."""
    return lambda x: sum(f(x + RADIUS * p * direction) / p for p in POINTS) / (len(POINTS) * RADIUS)


REFERENCES: dict[str, Callable[[Scalar], Scalar]] = {
    "jit": lambda f: f,
    "grad": lambda f: slope(f, ALONG["grad"]),
    "jvp": lambda f: slope(f, ALONG["jvp"]),
    "vmap": lambda f: lambda x: sum(w * f(s * x + 0.1) for s, w in zip(SCALES, WEIGHTS, strict=True)),
    "checkpoint": lambda f: f,
}

COMPOSITIONS = list(product(TRANSFORMS, repeat=3))

# --- what functions compute with ----------------------------------------------------------------------------------


class Native:
    """NumPy and treadle, as a user writes."""

    lax, nn = td.lax, td.nn
    sort, abs, maximum, arctan2, hypot = np.sort, np.abs, np.maximum, np.arctan2, np.hypot
    erf, logistic, softmax, gelu = td.lax.erf, td.lax.logistic, td.nn.softmax, td.nn.gelu
    logsumexp = staticmethod(td.nn.logsumexp)
    solve, variance = staticmethod(np.linalg.solve), staticmethod(np.var)

    @staticmethod
    def real(x: Any) -> Any:
        return x

    @staticmethod
    def put(x: Any, i: Any, value: Any, how: str = "set") -> Any:
        if isinstance(x, np.ndarray):  # outside a trace the function is NumPy's
            return Reference.put(x, i, value, how).real
        return getattr(x.at[i], how)(value)

    @staticmethod
    def element(x: Any, i: Any) -> Any:
        return td.numpy.asarray(x)[i]

    @staticmethod
    def layer_norm(x: Any) -> Any:
        return td.nn.layer_norm(x, eps=1e-3)

    @staticmethod
    def own_jvp(x: Any) -> Any:
        return cubed(x)

    @staticmethod
    def own_vjp(x: Any) -> Any:
        return sine_of_square(x)

    @staticmethod
    def attention(q: Any, k: Any, v: Any) -> Any:
        return td.nn.dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]

    @staticmethod
    def convolved(x: Any, w: Any) -> Any:
        return td.nn.conv(x[None, None, :], w[None, None, :], padding="VALID")[0, 0]


class Reference:
    """The same for complex numbers, by formulas; branches go by the real part."""

    lax = Plain
    erf, solve = staticmethod(special.erf), staticmethod(np.linalg.solve)

    @staticmethod
    def real(x: Any) -> Any:
        return np.real(x)

    @staticmethod
    def element(x: Any, i: Any) -> Any:
        return x[i]

    @staticmethod
    def sort(x: Any) -> Any:
        return x[np.argsort(x.real)]

    @staticmethod
    def abs(x: Any) -> Any:
        return np.where(x.real < 0, -x, x)

    @staticmethod
    def maximum(x: Any, y: Any) -> Any:
        return np.where(np.real(x) > np.real(y), x, y)

    @staticmethod
    def arctan2(y: Any, x: Any) -> Any:
        return np.arctan(y / x) + np.where(x.real < 0, np.where(y.real < 0, -np.pi, np.pi), 0)

    @staticmethod
    def hypot(x: Any, y: Any) -> Any:
        return np.sqrt(x * x + y * y)

    @staticmethod
    def logistic(x: Any) -> Any:
        return 1 / (1 + np.exp(-x))

    @staticmethod
    def softmax(x: Any) -> Any:
        return np.exp(x) / np.sum(np.exp(x), axis=-1, keepdims=True)

    @staticmethod
    def logsumexp(x: Any) -> Any:
        return np.log(np.sum(np.exp(x)))

    @staticmethod
    def gelu(x: Any) -> Any:
        return 0.5 * x * (1 + special.erf(x / np.sqrt(2)))

    @staticmethod
    def put(x: Any, i: Any, value: Any, how: str = "set") -> Any:
        found = np.array(x, complex)
        if how == "set":
            found[i] = value
        elif how == "add":
            np.add.at(found, i, value)
        else:
            np.multiply.at(found, i, value)
        return found

    @staticmethod
    def variance(x: Any) -> Any:
        return np.mean((x - np.mean(x)) ** 2)

    @staticmethod
    def layer_norm(x: Any) -> Any:
        apart = x - np.mean(x)
        return apart / np.sqrt(np.mean(apart * apart) + 1e-3)

    @staticmethod
    def own_jvp(x: Any) -> Any:
        return x * x * x

    @staticmethod
    def own_vjp(x: Any) -> Any:
        return np.sin(x * x)

    @staticmethod
    def attention(q: Any, k: Any, v: Any) -> Any:
        return Reference.softmax(q @ k.T / np.sqrt(q.shape[-1])) @ v

    @staticmethod
    def convolved(x: Any, w: Any) -> Any:
        return np.array([np.sum(x[i : i + len(w)] * w) for i in range(len(x) - len(w) + 1)])


@td.custom_jvp
def cubed(x: Any) -> Any:
    return x * x * x


@cubed.defjvp
def _cubed(primals: Any, tangents: Any) -> Any:
    return cubed(primals[0]), 3 * primals[0] ** 2 * tangents[0]


@td.custom_vjp
def sine_of_square(x: Any) -> Any:
    return np.sin(x * x)


sine_of_square.defvjp(lambda x: (sine_of_square(x), x), lambda x, c: (2 * x * np.cos(x * x) * c,))

# --- the corpus ---------------------------------------------------------------------------------------------------

# Kinks and branches stand where no batch of batches of batches of X comes near.
W = np.array([[0.3, -0.5, 0.2, 0.7], [0.1, 0.4, -0.6, 0.2], [0.5, 0.1, 0.3, -0.4], [-0.2, 0.6, 0.1, 0.3]])


def loop_step(m: Any, c: Any, a: Any) -> Any:
    return np.tanh(W @ c + a)


def runge_kutta(m: Any, x: Any) -> Any:
    def field(y: Any) -> Any:
        return np.tanh(W @ y) - 0.1 * y

    def step(i: Any, y: Any) -> Any:
        a = field(y)
        b = field(y + 0.1 * a)
        c = field(y + 0.1 * b)
        d = field(y + 0.2 * c)
        return y + 0.2 / 6 * (a + 2 * b + 2 * c + d)

    return np.sum(m.lax.fori_loop(0, 4, step, x) ** 2)


def filtered(m: Any, x: Any) -> Any:
    """A Kalman filter of one state: a carry of two numbers, divisions, outputs."""

    def step(carry: Any, z: Any) -> Any:
        mean, variance = carry
        variance = variance + 0.1
        gain = variance / (variance + 0.5)
        mean = mean + gain * (z - mean)
        return (mean, (1 - gain) * variance), mean * gain

    (mean, variance), out = m.lax.scan(step, (x[0], x[1] * x[1] + 0.3), x)
    return mean * variance + np.sum(out**2)


def bisected(m: Any, x: Any) -> Any:
    """A loop that stops by its state."""
    return np.sum(
        m.lax.while_loop(lambda v: np.sum(m.real(v) ** 2) < 4.5, lambda v: v * 1.5 + 0.1, x, max_steps=20) ** 2
    )


def table_of_rows(m: Any, x: Any) -> Any:
    def step(table: Any, i: Any) -> Any:
        return m.put(table, i, np.sin(table[(i + 3) % 4]) * x), ()

    return np.sum(m.lax.scan(step, np.outer(x, x) + W, np.arange(4))[0] * W)


def two_loops(m: Any, x: Any) -> Any:
    _, ys = m.lax.scan(lambda c, a: (c * np.cos(a), c + a * a), x[0], x)
    last, _ = m.lax.scan(lambda c, y: (np.sin(c + y), ()), x[1], ys)
    return last


def loop_of_branches(m: Any, x: Any) -> Any:
    def step(c: Any, i: Any) -> Any:
        return m.lax.cond(i % 2 == 0, lambda v: v * x, lambda v: np.sin(v) + 0.5, c), ()

    return np.sum(m.lax.scan(step, x, np.arange(3))[0])


def branch_of_loops(m: Any, x: Any) -> Any:
    return m.lax.cond(
        m.real(x[0]) > 0.2,
        lambda v: np.sum(m.lax.fori_loop(0, 3, lambda i, u: np.sin(u) * v, v)),
        lambda v: np.prod(v + 1.0),
        x,
    )


CORPUS: dict[str, Callable[[Any, Any], Any]] = {
    "sine": lambda m, x: np.sum(np.sin(x) * x),
    "exponential": lambda m, x: np.exp(np.dot(x, W @ x)),
    "power": lambda m, x: np.sum((x * x + 1.0) ** 1.5) + np.sum(x**3),
    "rational": lambda m, x: np.sum(x / (1.0 + x * x)),
    "logarithms": lambda m, x: np.sum(np.log1p(x * x) * np.expm1(x)),
    "roots": lambda m, x: np.sqrt(np.sum(x * x)) * np.cbrt(2.0),
    "error function": lambda m, x: np.sum(m.erf(x) * x),
    "logistic": lambda m, x: np.sum(m.logistic(3 * x) ** 2),
    "hyperbolic": lambda m, x: np.sum(np.sinh(x) * np.arctan(x) + np.arcsinh(x)),
    "angle": lambda m, x: np.sum(m.arctan2(x + 2.0, x[::-1] + 3.0)) * m.hypot(x[0], x[1] + 2.0),
    "perceptron": lambda m, x: np.sum(np.tanh(np.tanh(x @ W) @ W.T) ** 2),
    "gelu": lambda m, x: np.sum(m.gelu(W @ x)),
    "softmax": lambda m, x: np.sum(m.softmax(2 * x) * np.arange(4.0)),
    "logsumexp": lambda m, x: m.logsumexp(3 * x),
    "layer norm": lambda m, x: np.sum(m.layer_norm(x) * np.array([1.0, 2.0, -1.0, 0.5])),
    "attention": lambda m, x: np.sum(m.attention(x.reshape(2, 2), W[:, :2] * x[:, None], W[:, 2:]) ** 2),
    "convolution": lambda m, x: np.sum(m.convolved(x, np.array([0.5, -1.0, 0.25]) * x[:3]) ** 2),
    "matrices": lambda m, x: np.trace(np.outer(x, x) @ W @ np.outer(x, W[0])),
    "einsum": lambda m, x: np.einsum("i,ij,j,k->", x, W, x, np.sin(x)),
    "solve": lambda m, x: np.sum(m.solve(np.eye(4) * 3 + np.outer(x, x), np.sin(x)) * x),
    "running sums": lambda m, x: np.sum(np.cumsum(np.sin(x)) ** 2),
    "running products": lambda m, x: np.sum(np.cumprod(x + 1.5) * np.arange(1.0, 5.0)),
    "product": lambda m, x: np.prod(np.sin(x) + 2.0),
    "variance": lambda m, x: m.variance(x * x) + np.mean(x) ** 3,
    "sorted": lambda m, x: np.sum(m.sort(np.sin(x)) * np.array([1.0, -2.0, 3.0, 0.5])),
    "greatest": lambda m, x: np.sum(m.maximum(x * x, 1.178 - x)),
    "absolute": lambda m, x: np.sum(m.abs(x + 0.7) * x * x),
    "where": lambda m, x: np.sum(np.where(m.real(x) > 0.695, np.exp(x), x * x)),
    "slices": lambda m, x: np.sum(x[1:] * np.sin(x[:-1])) + x[-1] * x[0],
    "gathered": lambda m, x: np.sum(np.sin(x[np.array([0, 2, 2, 3, 1])]) * x[np.array([1, 1, 0, 3, 2])]),
    "scattered": lambda m, x: np.sum(m.put(x, np.array([0, 2, 0]), x[1:] * x[:-1], "add") ** 3),
    "replaced": lambda m, x: np.sum(m.put(np.sin(x), slice(1, 3), x[2:] * x[0]) * x),
    "multiplied in place": lambda m, x: np.sum(m.put(np.cos(x), np.array([1, 1, 3]), x[:3] + 1.0, "multiply")),
    "moved about": lambda m, x: np.sum(np.concatenate([x[::-1], np.roll(x, 1)]).reshape(2, 4).T @ SCALES[:2] * x),
    "padded": lambda m, x: np.sum(np.pad(x, (2, 1)) * np.pad(np.sin(x), (1, 2))),
    "scan": lambda m, x: np.sum(m.lax.scan(lambda c, a: (loop_step(m, c, a), ()), x, np.outer(x, x))[0]),
    "scan backwards": lambda m, x: np.sum(m.lax.scan(lambda c, a: (c * a + x, np.sin(c)), x, W * x, reverse=True)[1]),
    "fori": lambda m, x: np.sum(m.lax.fori_loop(0, 3, lambda i, v: np.sin(v) * x + v * i, x)),
    "while": bisected,
    "map": lambda m, x: np.sum(m.lax.map(lambda row: np.sum(np.sin(row) * x) ** 2, W * x)),
    "pfor": lambda m, x: np.sum(m.lax.pfor(lambda i: m.element(x, i) * np.sum(np.sin(x * m.element(x, i))), 4)),
    "associative scan": lambda m, x: np.sum(m.lax.associative_scan(lambda a, b: a * b, np.cos(x)) * x),
    "switch": lambda m, x: m.lax.switch(1, [np.sum, lambda v: np.sum(np.sin(v) ** 3), np.prod], x),
    "runge kutta": runge_kutta,
    "kalman": filtered,
    "rows of a table": table_of_rows,
    "two loops": two_loops,
    "loop of branches": loop_of_branches,
    "branch of loops": branch_of_loops,
    "rule forward": lambda m, x: np.sum(m.own_jvp(x) * np.sin(x)),
    "rule backward": lambda m, x: np.sum(m.own_vjp(x) * np.exp(x)),
}  # fmt: skip


def check(name: str, composition: tuple[str, ...]) -> None:
    function = CORPUS[name]

    def native(x: Any) -> Any:
        return function(Native, x)

    def reference(x: Any) -> Any:
        return function(Reference, x)

    found: Scalar = native
    wanted: Scalar = reference
    for each in reversed(composition):
        found, wanted = TRANSFORMS[each](found), REFERENCES[each](wanted)
    want = complex(wanted(X.astype(complex))).real
    np.testing.assert_allclose(found(X), want, rtol=2e-7, atol=2e-8, err_msg=f"{' of '.join(composition)} of {name}")


@pytest.mark.parametrize("name", CORPUS)
def test_gradients_to_twelve_digits(name: str) -> None:
    """Against the complex step, which loses no digit: the imaginary part of f(x + ihv) / h for a tiny h."""
    function = CORPUS[name]
    gradient = td.jit(td.grad(lambda x: function(Native, x)))(X)
    step = 1e-30
    want = [np.imag(function(Reference, X + step * 1j * unit)) / step for unit in np.eye(4)]
    np.testing.assert_allclose(gradient, want, rtol=1e-12, atol=1e-13)


def test_the_corpus_is_large() -> None:
    assert len(CORPUS) >= 40 and len(COMPOSITIONS) == 125


@pytest.mark.parametrize("number", range(len(CORPUS)), ids=list(CORPUS))
def test_some_compositions_of_every_function(number: int) -> None:
    """Each function under a few compositions, and each composition over some function: the steps are coprime."""
    name = list(CORPUS)[number]
    for k in range(3):
        check(name, COMPOSITIONS[(number * 3 + k) * 41 % len(COMPOSITIONS)])


def test_the_sample_meets_every_composition() -> None:
    assert {(number * 3 + k) * 41 % 125 for number in range(len(CORPUS)) for k in range(3)} == set(range(125))


@pytest.mark.slow
@pytest.mark.parametrize("name", CORPUS)
def test_all_compositions(name: str) -> None:
    for composition in COMPOSITIONS:
        check(name, composition)
