"""Vectorized loops compute what the loops in NumPy compute: for no, one and many steps, nested, in both directions, in
chunks, and where only a part can be moved. What is said of each loop is tested too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_lax import Plain
from random_graphs import context

import treadle as td
from treadle.ir.evaluate import evaluate
from treadle.ir.forms import WELL_FORMED, everywhere
from treadle.ir.graph import Graph
from treadle.ir.ops.control import Scan, While
from treadle.passes.pipelines import find

rng = np.random.default_rng(0)
X, Y, W = rng.normal(size=7), rng.normal(size=(7, 4)), rng.normal(size=(4, 4)) / 2
K = np.array([2, 0, 2, 5, 6, 0, 1])


def put(out: Any, index: Any, value: Any) -> Any:
    """`out` with an element or a row replaced, traced or not."""
    if not isinstance(out, np.ndarray):
        return out.at[index].set(value)
    out = out.copy()
    out[index] = value
    return out


def add_at(out: Any, index: Any, value: Any) -> Any:
    if not isinstance(out, np.ndarray):
        return out.at[index].add(value)
    out = out.copy()
    np.add.at(out, index, value)
    return out


def vectorized(graph: Graph, **options: Any) -> tuple[Graph, list[str]]:
    cx = context()
    cleaned = find("cleanup")(graph, cx)
    found = find("vectorize").with_options(**options)(cleaned, cx)
    WELL_FORMED.check(found)
    return found, [remark.text for remark in cx.remarks]


def loops(graph: Graph) -> int:
    return sum(isinstance(value, Scan | While) for value in everywhere(graph))


def check(f: Callable[..., Any], *args: Any, left: int | None = 0, exact: bool = False, **options: Any) -> list[str]:
    """`f(lax, *args)`, vectorized, is `f` in NumPy; `left` loops are left. What the pass said."""
    graph = td.jit(lambda *args: f(td.lax, *args)).trace(*args).graph
    made, said = vectorized(graph, **{"always": True, **options})
    want = td.tree.leaves(f(Plain, *args))
    for found, expected in zip(evaluate(made, *args), want, strict=True):
        if exact or np.asarray(expected).dtype.kind in "biu":
            np.testing.assert_array_equal(found, expected)
        else:
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert left in (None, loops(made)), (said, str(made))
    return said


# Loops whose steps are independent: nothing is left of them.
INDEPENDENT: dict[str, Callable[..., Any]] = {
    "map": lambda lax, x, y, w, k: lax.map(lambda row: np.tanh(row @ w), y),
    "pfor": lambda lax, x, y, w, k: lax.pfor(lambda i: np.sin(x[i]) * y[i], 7),
    "pfor of numbers": lambda lax, x, y, w, k: lax.pfor(lambda i: i * i + 1, 5),
    "rows written": lambda lax, x, y, w, k:
        lax.fori_loop(0, 7, lambda i, out: put(out, i, y[i] * x[i]), np.zeros((7, 4))),
    "some rows written": lambda lax, x, y, w, k:
        lax.fori_loop(1, 6, lambda i, out: put(out, i, y[i - 1] + y[i + 1]), y),
    "every second row": lambda lax, x, y, w, k: lax.fori_loop(0, 3, lambda i, out: put(out, 2 * i + 1, y[i]), y),
    "rows from the end": lambda lax, x, y, w, k: lax.fori_loop(0, 7, lambda i, out: put(out, 6 - i, y[i]), y),
    "columns": lambda lax, x, y, w, k:
        lax.fori_loop(0, 4, lambda i, out: put(out, (slice(None), i), y[:, 3 - i] + x), y),
    "its own row": lambda lax, x, y, w, k: lax.fori_loop(0, 7, lambda i, out: put(out, i, out[i] * 2 + x[i]), y),
    "a row to come": lambda lax, x, y, w, k: lax.fori_loop(0, 6, lambda i, out: put(out, i, out[i + 1] * 2), y),
    "rows by data, the last one wins": lambda lax, x, y, w, k:
        lax.fori_loop(0, 7, lambda i, out: put(out, k[i], y[i]), y),
    "sums by data": lambda lax, x, y, w, k: lax.fori_loop(0, 7, lambda i, out: add_at(out, k[i], x[i]), np.zeros(7)),
    "a histogram": lambda lax, x, y, w, k: lax.fori_loop(0, 7, lambda i, out: add_at(out, k[i], 1), np.zeros(7, int)),
    "a sum of integers": lambda lax, x, y, w, k: lax.fori_loop(0, 7, lambda i, c: c + k[i] * i, 3),
    "a product of integers": lambda lax, x, y, w, k: lax.fori_loop(0, 7, lambda i, c: c * (k[i] + 1), 2),
    "the greatest": lambda lax, x, y, w, k: lax.fori_loop(0, 7, lambda i, c: np.maximum(c, x[i]), -9.0),
    "the least of rows": lambda lax, x, y, w, k:
        lax.fori_loop(0, 7, lambda i, c: np.minimum(np.minimum(c, y[i]), x[i]), y[0]),
    "whether any": lambda lax, x, y, w, k: lax.fori_loop(0, 7, lambda i, c: c | (x[i] > 1), np.bool_(False)),
    "a difference of integers": lambda lax, x, y, w, k: lax.fori_loop(0, 7, lambda i, c: c - k[i] * i, 3),
    "sums and differences": lambda lax, x, y, w, k: lax.fori_loop(0, 7, lambda i, c: (c - k[i] + i) - 2, 3),
    "a sum under a condition": lambda lax, x, y, w, k:
        lax.fori_loop(0, 7, lambda i, c: np.where(x[i] > 0, c + k[i], c), 3),
    "a sum but for a condition": lambda lax, x, y, w, k:
        lax.fori_loop(0, 7, lambda i, c: np.where(x[i] > 0, c, c - k[i]), 3),
    "one of two sums": lambda lax, x, y, w, k:
        lax.fori_loop(0, 7, lambda i, c: np.where(x[i] > 0, c + k[i] + 1, c - i), 3),
    "a product under conditions": lambda lax, x, y, w, k:
        lax.fori_loop(0, 7, lambda i, c: np.where(x[i] > 0, np.where(k[i] > 1, c * k[i], c), c * 2), 3),
    "the greatest under a condition": lambda lax, x, y, w, k:
        lax.fori_loop(0, 7, lambda i, c: np.where(k[i] > 1, np.maximum(c, x[i]), c), -9.0),
    "the least integer under a condition": lambda lax, x, y, w, k:
        lax.fori_loop(0, 7, lambda i, c: np.where(x[i] > 0, np.minimum(c, k[i]), c), 9),
    "whether all under a condition": lambda lax, x, y, w, k:
        lax.fori_loop(0, 7, lambda i, c: np.where(k[i] > 1, c & (x[i] < 9), c), np.bool_(True)),
    "a count in a branch": lambda lax, x, y, w, k:
        lax.fori_loop(0, 7, lambda i, c: lax.cond(x[i] > 0, lambda c: c + 1, lambda c: c, c), 0),
    "sums in branches": lambda lax, x, y, w, k:
        lax.fori_loop(0, 7, lambda i, s: lax.switch(
            k[i] - 1, [lambda a, b: (a + i, b), lambda a, b: (a, b - k[i]), lambda a, b: (a + 2, b + 1)], *s), (0, 5)),
    "three gathered at once": lambda lax, x, y, w, k:
        lax.fori_loop(0, 7, lambda i, s: (s[0] + k[i], np.maximum(s[1], y[i]), s[2] - k[i] * i), (0, y[0], 9)),
    "rows written under a condition": lambda lax, x, y, w, k:
        lax.fori_loop(0, 7, lambda i, out: np.where(x[i] > 0, put(out, i, y[i] * 2), out), y),
    "rows written in a branch": lambda lax, x, y, w, k:
        lax.fori_loop(0, 7, lambda i, out: lax.cond(x[i] > 0, lambda o: o, lambda o: put(o, i, o[i] * 2), out), y),
    "a histogram under a condition": lambda lax, x, y, w, k:
        lax.fori_loop(0, 7, lambda i, c: np.where(x[i] > 0, add_at(c, k[i], 1), c), np.zeros(7, int)),
    "two rows of a step": lambda lax, x, y, w, k:
        lax.fori_loop(0, 3, lambda i, out: put(put(out, 2 * i, y[i]), 2 * i + 1, -y[i]), y),
    "a row and the one before": lambda lax, x, y, w, k:
        lax.fori_loop(1, 7, lambda i, out: put(put(out, i, y[i] * 2), i - 1, -y[i]), y),
    "two columns of a step": lambda lax, x, y, w, k:
        lax.fori_loop(0, 7, lambda i, out: put(put(out, (i, 0), x[i]), (i, 2), -x[i]), y),
    "sums at two places": lambda lax, x, y, w, k:
        lax.fori_loop(0, 7, lambda i, c: add_at(add_at(c, k[i], 1), i, 5), np.zeros(7, int)),
    "the last one": lambda lax, x, y, w, k: lax.fori_loop(0, 7, lambda i, c: y[i] * 2, y[0]),
    "handed on": lambda lax, x, y, w, k: lax.scan(lambda c, a: (a, c + a), x[0], x),
    "handed on twice": lambda lax, x, y, w, k: lax.scan(lambda c, a: ((a, c[0]), c[1] + a), (x[0], x[1]), x),
    "handed on from the end": lambda lax, x, y, w, k: lax.scan(lambda c, a: (a, c + a), x[0], x, reverse=True),
    "counted twice": lambda lax, x, y, w, k: lax.scan(lambda c, a: (c + 2, a * c), 3, x),
    "counted from the end": lambda lax, x, y, w, k: lax.scan(lambda c, a: (c + 2, a * c), 3, x, reverse=True),
    "counted while": lambda lax, x, y, w, k:
        lax.while_loop(lambda s: s[0] < 6, lambda s: (s[0] + 2, put(s[1], s[0], y[s[0]])), (0, y * 2))[1],
    "nested": lambda lax, x, y, w, k: lax.map(lambda row: lax.map(lambda a: a * row, x), y),
    "an inner sum": lambda lax, x, y, w, k:
        lax.fori_loop(0, 7, lambda i, c: lax.fori_loop(0, 4, lambda j, c: c + i * j * k[i], c), 0),
    "an inner branch": lambda lax, x, y, w, k: lax.map(lambda a: lax.cond(a > 0, lambda a: a * 2, lambda a: -a, a), x),
    "an outer branch": lambda lax, x, y, w, k:
        lax.map(lambda a: lax.cond(x[0] > 0, lambda a: a * 2, lambda a: -a, a), x),
    "blocks": lambda lax, x, y, w, k:
        lax.pfor(lambda i: y[i : i + 2] if lax is Plain else td.lax.dynamic_slice(y, (i, 0), (2, 4)), 5),
    "the sorted rows": lambda lax, x, y, w, k: lax.map(lambda row: np.sort(row)[::-1], y),
}  # fmt: skip


@pytest.mark.parametrize("name", INDEPENDENT)
def test_independent_steps_are_taken_at_once(name: str) -> None:
    check(INDEPENDENT[name], X, Y, W, K)


CHUNKED = (
    "map", "pfor", "rows written", "its own row", "a sum of integers", "the greatest",
    "rows by data, the last one wins", "sums by data", "whether any", "the sorted rows",
)  # fmt: skip


@pytest.mark.parametrize("name", CHUNKED)  # fmt: skip
@pytest.mark.parametrize("room", [2, 3, 6])
def test_chunks_compute_the_same(name: str, room: int) -> None:
    """The budget lets some of the steps be taken at once; what is left over follows."""
    (said,) = check(INDEPENDENT[name], X, Y, W, K, left=None, bytes=1)
    assert said.startswith("stays a loop: one step makes")
    each = int(said.split()[6])
    (said,) = check(INDEPENDENT[name], X, Y, W, K, left=None, bytes=each * room)
    assert said.startswith(f"vectorized: {room} of 7 steps at once, within")


def rnn(lax: Any, x: Any, y: Any, w: Any, k: Any) -> Any:
    """Elman's: products with the inputs and for the outputs need no step before them."""
    return lax.scan(lambda h, a: (np.tanh(a @ w + h @ w), h @ w.T), y[0], y)


# Loops with a recurrence, which stays; and how many loops are left.
RECURRENT: dict[str, tuple[int, Callable[..., Any]]] = {
    "rnn": (1, rnn),
    "rnn from the end": (
        1, lambda lax, x, y, w, k: lax.scan(lambda h, a: (np.tanh(a @ w + h @ w), h @ w), y[0], y, reverse=True)),
    "a running sum": (1, lambda lax, x, y, w, k: lax.scan(lambda c, a: (c + a, np.exp(c)), 0.0, x)),
    "a row of the step before": (
        1, lambda lax, x, y, w, k: lax.fori_loop(1, 7, lambda i, out: put(out, i, np.tanh(out[i - 1] @ w)), y)),
    "a sum of floats": (1, lambda lax, x, y, w, k: lax.fori_loop(0, 7, lambda i, c: c + np.sin(y[i]) @ w, y[0])),
    "a difference of floats": (1, lambda lax, x, y, w, k: lax.fori_loop(0, 7, lambda i, c: c - np.sin(y[i]) @ w, y[0])),
    "floats under a condition": (
        1, lambda lax, x, y, w, k: lax.fori_loop(0, 7, lambda i, c: np.where(x[i] > 0, c + np.sin(y[i]) @ w, c), y[0])),
    "reductions beside": (
        1, lambda lax, x, y, w, k: lax.fori_loop(
            0, 7, lambda i, s: (np.tanh(s[0] @ w + y[i]), np.maximum(s[1], x[i] * 2), s[2] + k[i]), (y[0], -9.0, 0))),
    "the greatest of the states": (
        1, lambda lax, x, y, w, k: lax.scan(
            lambda s, a: ((np.tanh(s[0] @ w + a), np.maximum(s[1], s[0])), ()), (y[0], y[0]), y)[0]),
    "a histogram beside": (
        1, lambda lax, x, y, w, k: lax.fori_loop(
            0, 7, lambda i, s: (np.tanh(s[0] @ w + y[i]), add_at(s[1], k[i], x[i])), (y[0], np.zeros(7)))),
    "a histogram of the states": (
        1, lambda lax, x, y, w, k: lax.fori_loop(
            0, 7, lambda i, s: (np.tanh(s[0] @ w + y[i]), add_at(s[1], k[i], s[0][0])), (y[0], np.zeros(7)))),
    "a row and the next": (
        1, lambda lax, x, y, w, k: lax.fori_loop(0, 6, lambda i, out: put(put(out, i, y[i] * 2), i + 1, -y[i]), y)),
    "a row that was just written": (
        1, lambda lax, x, y, w, k: lax.fori_loop(
            0, 7, lambda i, out: (lambda new: put(new, i, new[i] * 2))(put(out, i, y[i] @ w)), y)),
    "a condition on the carry": (
        1, lambda lax, x, y, w, k: lax.fori_loop(0, 7, lambda i, c: np.where(c > x[i], c - k[i], c + 1), 0)),
    "a carry that is read on the way": (
        1, lambda lax, x, y, w, k: lax.scan(lambda c, a: (np.where(a > 0, c + 1, c), c * a), 0, x)),
    "two that hang on each other": (
        1, lambda lax, x, y, w, k: lax.scan(lambda c, a: ((c[1] * 0.5, c[0] + a), c[0] @ w), (y[0], y[1]), y)),
    "handed on in front": (
        1, lambda lax, x, y, w, k: lax.scan(lambda c, a: ((a @ w, np.tanh(c[1] + c[0])), c[1] @ w), (y[0], y[1]), y)),
    "handed on behind": (
        1, lambda lax, x, y, w, k: lax.scan(lambda c, a: ((np.tanh(c[0] + a), c[0] @ w), c[1] + a), (y[0], y[1]), y)),
    "writes beside": (
        1, lambda lax, x, y, w, k: lax.fori_loop(
            0, 7, lambda i, s: (np.tanh(s[0] @ w + y[i] @ w), put(s[1], i, s[0] @ w)), (y[0], y * 0))),
    "an inner recurrence": (
        1,
        lambda lax, x, y, w, k: lax.map(lambda r: lax.scan(lambda h, a: (np.tanh(h @ w + a), h[0]), r, x), y)),
    "a branch on the carry": (
        1, lambda lax, x, y, w, k: lax.scan(
            lambda h, a: (lax.cond(h[0] > 0, lambda h: h * 0.5, lambda h: h + 1.0, h) + a @ w, h @ w), y[0], y)),
    "the same in every step": (
        1,
        lambda lax, x, y, w, k: lax.scan(lambda h, a: (np.tanh(h @ (w @ w) + np.exp(x[:4])), ()), y[0], y)[0]),
}  # fmt: skip


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrences_stay_loops(name: str, always: bool) -> None:
    """Whatever is moved out of the loop, or is not."""
    left, f = RECURRENT[name]
    check(f, X, Y, W, K, left=left if always else None, always=always)


def test_products_of_a_recurrence_are_two_around_it() -> None:
    """The loop is left with the product that hangs on the step before."""
    x, y, w = np.ones((300, 16)), np.ones((300, 16)), np.ones((16, 16)) / 16
    graph = td.jit(lambda x, y, w: rnn(td.lax, x, y, w, K)).trace(x, y, w).graph
    made, said = vectorized(graph)
    (loop,) = (value for value in made.ops if isinstance(value, Scan))
    assert [v.name for v in loop.body.ops].count("dot") == 1
    assert [v.name for v in made.ops].count("dot") == 2
    assert said == [
        "distributed: the recurrence of `carry` stays a loop; 1 ops in front of it, 1 ops behind it, 1 ops once"
    ]


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("name", INDEPENDENT)
def test_few_steps(name: str, steps: int) -> None:
    """None, one or two steps of the same loops; a loop of no step may stay."""
    if "nested" in name or "7" in name:
        return
    f = INDEPENDENT[name]

    class Short:
        """`lax` whose loops are cut short."""

        def __init__(self, lax: Any) -> None:
            self.lax = lax

        def fori_loop(self, low: int, high: int, body: Any, init: Any) -> Any:
            return self.lax.fori_loop(low, min(low + steps, high), body, init)

        def scan(self, body: Any, init: Any, xs: Any, reverse: bool = False) -> Any:
            return self.lax.scan(body, init, xs[:steps], reverse=reverse)

        def __getattr__(self, what: str) -> Any:
            return getattr(self.lax, what)

    graph = td.jit(lambda *args: f(Short(td.lax), *args)).trace(X, Y, W, K).graph
    made, _ = vectorized(graph, always=True)
    want = td.tree.leaves(f(Short(Plain), X, Y, W, K))
    for found, expected in zip(evaluate(made, X, Y, W, K), want, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("name", [*INDEPENDENT, *RECURRENT])
def test_compiled(name: str) -> None:
    """Native code, through the whole pipeline, and the gradient where there is one, against differences."""
    f = INDEPENDENT[name] if name in INDEPENDENT else RECURRENT[name][1]
    found = td.tree.leaves(td.jit(lambda *args: f(td.lax, *args))(X, Y, W, K))
    for one, expected in zip(found, td.tree.leaves(f(Plain, X, Y, W, K)), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-10, atol=1e-12)


def weighted(lax: Any, f: Callable[..., Any], y: Any, w: Any) -> Any:
    given = (X, K) if lax is Plain else (td.numpy.asarray(X), td.numpy.asarray(K))
    leaves = td.tree.leaves(f(lax, given[0], y, w, given[1]))
    return sum((np.sin(leaf) * (1 + np.arange(leaf.size).reshape(leaf.shape))).sum() for leaf in leaves)


@pytest.mark.parametrize("name", RECURRENT)
def test_gradients_of_recurrences(name: str) -> None:
    """What a backward loop adds up over its steps is taken out of it; the gradient is that of the loop in NumPy."""
    f = RECURRENT[name][1]
    gradients = td.jit(td.grad(lambda y, w: weighted(td.lax, f, y, w), (0, 1)))(Y, W)
    for k, (gradient, value) in enumerate(zip(gradients, (Y, W), strict=True)):
        along = rng.normal(size=value.shape)
        ends = [[v + s * along if i == k else v for i, v in enumerate((Y, W))] for s in (1e-6, -1e-6)]
        slope = (weighted(Plain, f, *ends[0]) - weighted(Plain, f, *ends[1])) / 2e-6
        np.testing.assert_allclose((gradient * along).sum(), slope, rtol=1e-6, atol=1e-6)


def test_the_gradient_of_weights_is_one_product_behind_the_loop() -> None:
    """A backward loop hands out the factors of what each step adds to a weight's gradient."""
    f = td.grad(lambda w, y: (rnn(td.lax, X, y, w, K)[1] ** 2).sum())
    graph = td.jit(f).trace(W, np.ones((300, 4))).graph
    made, _ = vectorized(graph)
    for loop in (value for value in made.ops if isinstance(value, Scan)):
        assert all(result.rank <= 1 for result in loop.body.results)
        assert [v.name for v in loop.body.ops].count("dot") == 1


# Bits.


def test_what_is_not_added_leaves_the_sign_of_zero() -> None:
    """-0.0 + 0.0 is 0.0, so what a step does not add is -0.0; an infinity or NaN that is not taken is not there."""
    x = np.array([np.inf, -1.0, np.nan, -2.0, 1e300])

    def f(lax: Any, x: Any) -> Any:
        def step(i: Any, c: Any) -> Any:
            none, some = c
            return np.where(x[i] < -9, none + x[i], none), np.where(abs(x[i]) < 9, some - x[i] * x[i], some)

        return lax.fori_loop(0, 5, step, (np.float64(-0.0), np.float64(-0.0)))

    with np.errstate(over="ignore"):
        want = f(Plain, x)
    assert np.signbit(want[0]) and want[1] == -5
    compiled = td.jit(lambda x: f(td.lax, x))(x)
    graph = td.jit(lambda x: f(td.lax, x)).trace(x).graph
    for found in (compiled, evaluate(vectorized(graph, always=True)[0], x), evaluate(vectorized(graph)[0], x)):
        for one, expected in zip(found, want, strict=True):
            np.testing.assert_array_equal(one, expected)
            assert np.isnan(one) or np.signbit(one) == np.signbit(expected)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint32", "float16", "float32", "float64", "bool"])
def test_what_is_neutral_in_every_dtype(dtype: str) -> None:
    """Sums wrap, products too; the ends of a type are its own greatest and least."""
    values = np.array([200, 3, 7, 100, 5, 255]).astype(dtype)
    m = np.array([True, False, True, True, False, True])
    operators = [np.maximum, np.minimum] + (
        [np.logical_or, np.logical_and] if dtype == "bool" else [np.add, np.multiply]
    )
    if dtype != "bool":
        operators.append(np.subtract)
    bitwise = [np.bitwise_and, np.bitwise_or] if np.dtype(dtype).kind in "iu" else []  # no reduction is known for them
    for op in operators + bitwise:
        for skipped in (m, ~m, np.zeros(6, bool)):
            f = lambda lax, v, m, op=op: lax.fori_loop(  # noqa: E731
                0, 6, lambda i, c: np.where(m[i], op(c, v[i]), c), v[1]
            )
            exact = op not in (np.add, np.subtract, np.multiply) or np.dtype(dtype).kind in "iu"
            with np.errstate(over="ignore"):
                check(f, values, skipped, left=0 if exact and op not in bitwise else None, exact=True)


@pytest.mark.parametrize("how", ["add", "multiply"])
def test_complex_numbers_have_no_neutral_one(how: str) -> None:
    """Adding -0.0 makes 0.0j of -0.0j, multiplying by 1 makes a NaN beside an infinity."""
    x = np.array([complex(-0.0, -0.0), complex(np.inf, 1.0), complex(0.0, np.inf)], "complex64")

    def f(x: Any, m: Any) -> Any:
        def body(i: Any, c: Any) -> Any:
            return np.where(m[i], getattr(c.at[i], how)(np.complex64(2)), c)

        return td.lax.fori_loop(0, 3, body, x)

    m = np.zeros(3, bool)
    traced = td.jit(f).trace(x, m).graph
    for found in (td.jit(f)(x, m), *evaluate(vectorized(traced, always=True)[0], x, m)):
        np.testing.assert_array_equal(found.view(np.uint32), x.view(np.uint32))


def test_branches_that_are_not_taken_do_not_fail() -> None:
    """An index is only looked at where its branch is taken, as in the loop; where it is taken it fails."""
    f = td.jit(
        lambda x, k: td.lax.fori_loop(
            0, 7, lambda i, c: td.lax.cond(k[i] < 7, lambda c: c + x[k[i]], lambda c: c, c), 0
        )
    )
    x = np.arange(10, 17)
    for k in (K, K + 3):
        assert f(x, k) == sum(x[i] for i in k if i < 7)
    assert "vectorized: 7 steps" in f.explain() or "registers" in f.explain()
    with pytest.raises(IndexError):
        f(x, np.full(7, -8))


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from([-2, -1, 0, 1, 2, 3])), min_size=2, max_size=3),
    st.integers(0, 4), st.booleans(), st.sampled_from(["set", "add", "ints"]),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_several_writes_of_a_step(lines: list[tuple[int, int]], steps: int, reverse: bool, how: str) -> None:
    """Wherever the writes of a step meet those of another: the loop in NumPy says which is left."""
    size = 24
    starts = [at - min(by, 0) * 4 for at, by in lines]
    write = put if how == "set" else add_at

    def f(lax: Any, x: Any) -> Any:
        def step(s: Any, value: Any) -> Any:
            n, out = s
            for j, (start, (_, by)) in enumerate(zip(starts, lines, strict=True)):
                out = write(out, start + by * n, value * (j + 1) + j)
            return (n + 1, out), ()

        return lax.scan(step, (0, np.zeros(size, x.dtype)), x, reverse=reverse)[0][1]

    values = np.array([3.1, -1.7, 0.4, 9.3])[:steps]
    check(f, (values * 10).astype(int) if how == "ints" else values, left=None, exact=True)


# What is said.


@pytest.mark.parametrize(
    ("f", "reason"),
    [
        (lambda lax, x, y, w, k: lax.scan(lambda c, a: (np.tanh(c + a), ()), 0.0, x)[0],
         "stays a loop: what a step leaves in `carry` is read by the next, at test_vectorize.py"),
        (lambda lax, x, y, w, k: lax.map(lambda r: np.sort(np.sort(r) * w[0]).sum(), y[:2]),
         "stays a loop: 2 steps of so little are faster from registers"),
        (lambda lax, x, y, w, k: lax.map(np.tanh, y), "vectorized: 7 steps at once"),
        (lambda lax, x, y, w, k: lax.fori_loop(0, 7, lambda i, out: put(out, k[i], y[i]), y),
         "vectorized: 7 steps at once; what they write is one write"),
    ],
)  # fmt: skip
def test_reasons(f: Any, reason: str) -> None:
    said = check(f, X, Y, W, K, left=0 if "vectorized" in reason else 1, always="write" in reason)
    assert said[-1].startswith(reason), said


def test_a_step_that_does_not_fit_is_said() -> None:
    said = check(INDEPENDENT["map"], X, Y, W, K, left=1, bytes=40)
    assert said == ["stays a loop: one step makes 64 bytes, the budget is 40"]


def test_sums_of_floats_keep_their_order_unless_told() -> None:
    """1e16 swallows what is added to it one by one; any order may not."""
    x = np.array([1e16, *[1.0] * 64])

    def f(lax: Any, x: Any) -> Any:
        return lax.fori_loop(0, 65, lambda i, c: c + np.abs(x[i]), 0.0)

    check(f, x, left=1, exact=True)
    graph = td.jit(lambda x: f(td.lax, x)).trace(x).graph
    made, _ = vectorized(graph, any_order=True, always=True)
    assert loops(made) == 0
    np.testing.assert_allclose(evaluate(made, x)[0], 1e16 + 64, rtol=1e-15)


def test_symbolic_sizes() -> None:
    """A number of steps that is known when it runs: none, one, many."""
    compiled = td.jit(
        lambda y: (td.lax.map(lambda r: np.tanh(r) + r[0], y), td.lax.scan(lambda c, r: (r, c * r), np.ones(4), y))
    ).compile(td.ShapeDtype(("n", 4), "float64"))
    for n in (0, 1, 7):
        rows, (last, ys) = compiled(Y[:n])
        np.testing.assert_allclose(rows, np.tanh(Y[:n]) + Y[:n, :1])
        np.testing.assert_allclose(last, Y[n - 1] if n else np.ones(4))
        np.testing.assert_allclose(ys, np.concatenate([np.ones((1, 4)), Y])[:n] * Y[:n])


def test_the_number_of_ops_does_not_depend_on_the_steps() -> None:
    counts = []
    for n in (10, 1000):
        graph = td.jit(lambda y: td.lax.map(lambda r: np.tanh(r @ W), y)).trace(np.ones((n, 4))).graph
        counts.append(len(vectorized(graph, always=True)[0].ops))
    assert counts[0] == counts[1]


def test_places_that_are_counted_from_the_end() -> None:
    """Of a block that begins at i - 7 or at i, no step needs to ask which it is: rows stay rows."""
    for first in (0, -7):
        f = lambda y, first=first: td.lax.pfor(  # noqa: E731
            lambda i: np.sin(td.lax.dynamic_index_in_dim(y, i + first, 0, keepdims=False)), 7
        )
        made, _ = vectorized(td.jit(f).trace(Y).graph, always=True)
        assert {value.name for value in made.ops} <= {"reshape", "sin"}
        np.testing.assert_allclose(evaluate(made, Y)[0], np.sin(Y), rtol=1e-12)
    crossing = td.jit(lambda y: td.lax.pfor(lambda i: td.lax.dynamic_index_in_dim(y, i - 3, 0, keepdims=False), 7))
    np.testing.assert_array_equal(crossing(Y), Y[np.arange(7) - 3])


def test_an_index_outside_still_fails() -> None:
    f = td.jit(lambda x, k: td.lax.pfor(lambda i: x[k[i]], 7))
    np.testing.assert_array_equal(f(X, K), X[K])
    with pytest.raises(IndexError):
        f(X, K + 5)


# Random loops.

EXPRESSIONS: dict[str, Callable[..., Any]] = {
    "x[i]": lambda lax, i, s, x, y, w: x[i],
    "y[i]": lambda lax, i, s, x, y, w: y[i].sum(),
    "y[i + 1]": lambda lax, i, s, x, y, w: (y[i + 1] * y[i]).sum(),
    "w[i]": lambda lax, i, s, x, y, w: (y[i] @ w)[1],
    "i": lambda lax, i, s, x, y, w: i * 0.25,
    "the sum": lambda lax, i, s, x, y, w: s["sum"] * 0.1,
    "the state": lambda lax, i, s, x, y, w: np.tanh(s["state"]).sum(),
    "the last": lambda lax, i, s, x, y, w: s["last"] * 0.5,
    "own row": lambda lax, i, s, x, y, w: s["rows"][i].sum() * 0.1,
    "next row": lambda lax, i, s, x, y, w: s["rows"][i + 1].sum() * 0.1,
    "row before": lambda lax, i, s, x, y, w: s["rows"][i - 1].sum() * 0.1,
    "branch": lambda lax, i, s, x, y, w: lax.cond(x[i] > 0, lambda a: np.sin(a), lambda a: a * a, x[i]),
    "inner": lambda lax, i, s, x, y, w: lax.fori_loop(0, 3, lambda j, c: np.maximum(c, x[i] * j), 0.0),
    "constant": lambda lax, i, s, x, y, w: np.exp(x).sum() * 0.1,
}  # fmt: skip


@st.composite
def bodies(draw: Any) -> Callable[..., Any]:
    """A loop over a state of six parts, each updated from what was drawn for it, or left alone; some of them where a
    condition holds."""
    names = st.lists(st.sampled_from(list(EXPRESSIONS)), min_size=1, max_size=2)
    drawn = {part: draw(names) for part in ("sum", "state", "last", "rows", "most", "count")}
    moving = draw(st.sets(st.sampled_from(list(drawn)), min_size=1))
    masked = draw(st.sets(st.sampled_from(["sum", "rows", "most", "count"])))
    branches = draw(st.booleans())

    def f(lax: Any, steps: int, x: Any, y: Any, w: Any) -> Any:
        def body(i: Any, s: Any) -> Any:
            def value(part: str) -> Any:
                return sum(EXPRESSIONS[name](lax, i, s, x, y, w) for name in drawn[part])

            new = dict(s)
            if "sum" in moving:
                new["sum"] = s["sum"] + value("sum")
            if "state" in moving:
                new["state"] = np.tanh(s["state"] @ w + value("state"))
            if "last" in moving:
                new["last"] = value("last") * 1.0
            if "rows" in moving:
                new["rows"] = put(s["rows"], i, y[i] * value("rows"))
            if "most" in moving:
                new["most"] = np.maximum(s["most"], value("most"))
            if "count" in moving:
                new["count"] = s["count"] - np.floor(value("count")).astype(int)
            for part in sorted(masked & moving):
                if branches:
                    new[part] = lax.cond(x[i] > 0, lambda a, b: a, lambda a, b: b, new[part], s[part])
                else:
                    new[part] = np.where(x[i] > 0, new[part], s[part])
            return new

        state = {"sum": np.float64(0.5), "state": y[0], "last": np.float64(1), "rows": y * 1.0, "most": np.float64(-1)}
        state["count"] = np.int64(3)
        return lax.fori_loop(1, 1 + steps, body, state)

    return f


@given(bodies(), st.sampled_from([0, 1, 2, 5]), st.booleans(), st.booleans(), st.sampled_from([1 << 28, 200]))
@settings(max_examples=60, deadline=None)
def test_random_loops(f: Callable[..., Any], steps: int, always: bool, any_order: bool, budget: int) -> None:
    """Whatever the steps read of each other: the loop in NumPy says what comes out."""
    graph = td.jit(lambda x, y, w: f(td.lax, steps, x, y, w)).trace(X, Y, W).graph
    made, _ = vectorized(graph, always=always, any_order=any_order, bytes=budget)
    want = td.tree.leaves(f(Plain, steps, X, Y, W))
    for found, expected in zip(evaluate(made, X, Y, W), want, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
