"""Control flow as operations: native loops against Python's, gradients against differences of Python's loops.

Each case is written once, over a namespace: `td.lax` compiles it, `Plain` runs it as ordinary Python. What is promised
of costs is read from the compiled program, what is refused from the message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from plain_lax import Plain
from traffic import touched

import treadle as td
from treadle.frontend import tree
from treadle.ir.ops.control import Scan

# Cases: a function of the namespace, the number of steps and two arrays. Weights make every element count.

N = 4


def branch(lax: Any, n: int, x: Any, y: Any) -> Any:
    return lax.cond(x[0] > 0.3 * n, lambda a, b: a * b, lambda a, b: np.sin(a) + y, x, y)


def branches(lax: Any, n: int, x: Any, y: Any) -> Any:
    index = np.floor(x[0] * 0).astype(np.int64) + (n - 1)
    return lax.switch(index, [lambda a: (a, y), lambda a: (a * y, a), lambda a: (np.exp(a), a * a)], x)


def power(lax: Any, n: int, x: Any, y: Any) -> Any:
    """Bounds that are known, an index that is read."""
    return lax.fori_loop(0, n, lambda i, v: v * x + np.cos(v) * (i + 1), y)


def shifted_bounds(lax: Any, n: int, x: Any, y: Any) -> Any:
    return lax.fori_loop(3, 3 + n, lambda i, v: v + y * i, x)


def no_bounds(lax: Any, n: int, x: Any, y: Any) -> Any:
    """Fewer than none is none."""
    return lax.fori_loop(n, 0, lambda i, v: v * y, x)


def reads_by_number(lax: Any, n: int, x: Any, y: Any) -> Any:
    return lax.fori_loop(0, n, lambda i, s: s + np.sin(x[i % N]) * s, y[0])


def bounded(lax: Any, n: int, x: Any, y: Any) -> Any:
    """Stops by its condition before the bound."""
    return lax.while_loop(lambda v: np.sum(v * v) < 5.0 + 10 * n, lambda v: v * 1.5 + y, x, max_steps=6)


def bounded_tree(lax: Any, n: int, x: Any, y: Any) -> Any:
    """Stops at the bound, which may be no step at all."""

    def step(state: Any) -> Any:
        return {"i": state["i"] + 1, "v": (np.tanh(state["v"][0]) + y, state["v"][1] * x)}

    return lax.while_loop(lambda s: s["i"] < n, step, {"i": 0, "v": (x, y)}, max_steps=n)["v"]


def recurrent(lax: Any, n: int, x: Any, y: Any) -> Any:
    """A carry that is a tree, outputs that are another, a matrix from outside."""
    w = x[:, None] * y[None, :]

    def step(carry: Any, row: Any) -> Any:
        h = np.tanh(w @ carry["h"] + row["x"])
        return {"h": h, "sum": carry["sum"] + h * row["y"]}, (h, np.sum(h))

    rows = {"x": np.outer(np.arange(1.0, n + 1), x), "y": np.outer(np.arange(1.0, n + 1), y)}
    last, (hs, sums) = lax.scan(step, {"h": y, "sum": np.zeros(N)}, rows)
    return last, np.sum(hs, axis=0), np.sum(sums)


def backwards(lax: Any, n: int, x: Any, y: Any) -> Any:
    last, outs = lax.scan(lambda c, a: (c * a + y, np.sin(c)), x, np.outer(np.arange(1.0, n + 1), y), reverse=True)
    return last, np.sum(outs * 0.5, axis=0)


def without_inputs(lax: Any, n: int, x: Any, y: Any) -> Any:
    return lax.scan(lambda c, _: (c * y + x, ()), x, None, length=n)[0]


def weak_numbers(lax: Any, n: int, x: Any, y: Any) -> Any:
    """Python numbers in a carry take the type that the body gives them."""
    (a, k), _ = lax.scan(lambda c, row: ((c[0] * np.sum(row) + 1, c[1] + 1), ()), (2.0, 0), np.outer(np.ones(n), x))
    return a * y + k


def rows_of_a_table(lax: Any, n: int, x: Any, y: Any) -> Any:
    """A carry of which each step replaces one row and reads another."""

    def step(table: Any, i: Any) -> Any:
        row = np.tanh(table[i]) * y + x
        if lax is Plain:
            table = table.copy()
            table[(i + 1) % 3] = row
            return table, ()
        return td.lax.dynamic_update_index_in_dim(table, row, (i + 1) % 3, 0), ()

    return lax.scan(step, np.stack([x, y, x * y]), np.arange(n) % 3)[0]


def each(lax: Any, n: int, x: Any, y: Any) -> Any:
    return np.sum(lax.map(lambda row: np.sin(row) * y, np.outer(np.arange(1.0, n + 2), x)), axis=0)


def each_number(lax: Any, n: int, x: Any, y: Any) -> Any:
    return np.sum(lax.pfor(lambda i: x[i % N] * y * (i + 1.0), n + 1), axis=0)


def prefixes(lax: Any, n: int, x: Any, y: Any) -> Any:
    return lax.associative_scan(lambda a, b: a * b, np.outer(np.arange(1.0, n + 2), x) * y)


def affine_prefixes(lax: Any, n: int, x: Any, y: Any) -> Any:
    """Composition of affine maps, from the end, along the second axis: associative, not commutative."""

    def compose(a: Any, b: Any) -> Any:
        return a[0] * b[0], a[1] * b[0] + b[1]

    scale = np.outer(x, np.ones(n + 1))
    return lax.associative_scan(compose, (scale, np.outer(y, np.arange(1.0, n + 2))), reverse=True, axis=1)[1]


def nested(lax: Any, n: int, x: Any, y: Any) -> Any:
    """A loop in a loop in a branch, with what the outer ones carry read inside."""

    def outer(carry: Any, a: Any) -> Any:
        def inner(i: Any, v: Any) -> Any:
            return v * np.cos(carry) + a * x

        v = lax.fori_loop(0, n, inner, carry)
        return v * y, np.sum(v)

    def run(v: Any) -> Any:
        return lax.scan(outer, v, np.arange(1.0, 3.0))

    return lax.cond(np.sum(x) > -100, run, lambda v: (v, np.zeros(2)), x)


def branch_in_a_loop(lax: Any, n: int, x: Any, y: Any) -> Any:
    def step(v: Any, i: Any) -> Any:
        v = lax.cond(i % 2 == 0, lambda a: a * x, lambda a: np.sin(a) + y, v)
        return v, v[0]

    last, firsts = lax.scan(step, y, np.arange(n))
    return last, np.sum(firsts)


def bounded_in_a_loop(lax: Any, n: int, x: Any, y: Any) -> Any:
    def step(v: Any, i: Any) -> Any:
        return lax.while_loop(lambda u: np.sum(u * u) < 3.0, lambda u: u * 1.5 + 0.1, v, max_steps=8) * y, ()

    return lax.scan(step, x, np.arange(n))[0]


CASES = (
    branch, branches, power, shifted_bounds, no_bounds, reads_by_number, bounded, bounded_tree, recurrent, backwards,
    without_inputs, weak_numbers, rows_of_a_table, each, each_number, prefixes, affine_prefixes, nested,
    branch_in_a_loop, bounded_in_a_loop,
)  # fmt: skip

X = np.array([0.7, -0.4, 1.1, 0.2])
Y = np.array([0.9, 0.5, -0.3, 1.3])


def weighted(value: Any) -> Any:
    """One number in which every element of every leaf has a weight of its own."""
    total: Any = 0.0
    for k, leaf in enumerate(tree.leaves(value)):
        weights = np.cos(np.arange(int(np.prod(leaf.shape))) + 3.0 * k).reshape(leaf.shape)
        total = total + np.sum(leaf * weights)
    return total


def slope(f: Callable[..., Any], at: tuple[Any, ...], along: tuple[Any, ...]) -> float:
    def difference(h: float) -> float:
        ahead, behind = (f(*(a + s * h * d for a, d in zip(at, along, strict=True))) for s in (1, -1))
        return float(ahead - behind) / (2 * h)

    return (4 * difference(5e-4) - difference(1e-3)) / 3


def close(got: Any, want: Any, **tolerance: float) -> None:
    for a, b in zip(tree.leaves(got), tree.leaves(want), strict=True):
        assert np.shape(a) == np.shape(b)
        np.testing.assert_allclose(a, b, **(tolerance or {"rtol": 1e-12, "atol": 1e-12}))


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_native_control_flow(case: Callable[..., Any], steps: int) -> None:
    """Values equal Python's own loops; gradients and tangents equal the slopes of these."""

    def native(x: Any, y: Any) -> Any:
        return case(td.lax, steps, x, y)

    def whole(x: Any, y: Any) -> Any:
        return weighted(native(x, y))

    @td.jit
    def everything(x: Any, y: Any, dx: Any, dy: Any) -> Any:
        return native(x, y), td.grad(whole, (0, 1))(x, y), td.jvp(whole, (x, y), (dx, dy))[1]

    dx, dy = np.array([0.3, -1.0, 0.5, 0.8]), np.array([-0.6, 0.2, 1.0, 0.4])
    value, (gx, gy), tangent = everything(X, Y, dx, dy)
    close(value, case(Plain, steps, X, Y))
    want = slope(lambda x, y: weighted(case(Plain, steps, x, y)), (X, Y), (dx, dy))
    np.testing.assert_allclose(tangent, want, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(gx @ dx + gy @ dy, want, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_batches_of_control_flow(case: Callable[..., Any]) -> None:
    """Elements of a batch go through a loop as alone: they stop at different times, and take different branches."""
    xs = np.stack([X, Y, -X])

    def weighed(x: Any) -> Any:
        return weighted(case(td.lax, 2, x, Y))

    values, gradients = td.jit(td.vmap(td.value_and_grad(weighed)))(xs)
    for k, x in enumerate(xs):
        np.testing.assert_allclose(values[k], weighted(case(Plain, 2, x, Y)), rtol=1e-12, atol=1e-12)
        along = np.array([1.0, -0.5, 0.25, 2.0])
        want = slope(lambda x: weighted(case(Plain, 2, x, Y)), (x,), (along,))
        np.testing.assert_allclose(gradients[k] @ along, want, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("start", [-9, -5, -2, -1, 0, 3, 9])
@pytest.mark.parametrize("kind", [int, np.int64, np.int32])
def test_blocks_that_begin_before_the_end(start: int, kind: Any) -> None:
    """A start below 0 is counted from the end, and the block then moved to lie inside: known or traced, as in JAX."""
    x = np.arange(20.0).reshape(5, 4)
    first = min(max(start + 5 if start < 0 else start, 0), 3)
    last = min(max(start + 5 if start < 0 else start, 0), 4)
    changed, row = x.copy(), x.copy()
    changed[first : first + 2, 1:3] = -1
    row[last] = -1

    def blocks(x: Any, i: Any) -> Any:
        return (
            td.lax.dynamic_slice(x, (i, -3), (2, 2)), td.lax.dynamic_slice_in_dim(x, i, 2, 0),
            td.lax.dynamic_index_in_dim(x, i, 0, keepdims=False),
            td.lax.dynamic_update_slice(x, -np.ones((2, 2)), (i, 1)),
            td.lax.dynamic_update_index_in_dim(x, -np.ones(4), i, 0),
        )  # fmt: skip

    wanted = x[first : first + 2, 1:3], x[first : first + 2], x[last], changed, row
    for found in (td.jit(blocks)(x, kind(start)), td.jit(lambda x: blocks(x, kind(start)))(x)):
        for one, want in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, want)


@pytest.mark.parametrize("index", [2**63 + 5, 2**64 - 1])
def test_places_that_no_i64_holds_are_moved_to_the_last(index: int) -> None:
    """The upper half of u64 is no place below 0, known or traced."""
    x, branches = np.arange(6.0), [lambda: 10, lambda: 20, lambda: 30]

    def last(i: Any) -> Any:
        return td.lax.switch(i, branches), td.lax.dynamic_slice(x, (i,), (2,))

    for found in (
        td.jit(last)(np.uint64(index)),
        td.jit(lambda: last(np.uint64(index)))(),
        td.jit(lambda: last(index))(),
    ):
        assert found[0] == 30
        np.testing.assert_array_equal(found[1], x[4:])
    np.testing.assert_array_equal(td.jit(lambda: td.lax.dynamic_slice(x, (-index,), (2,)))(), x[:2])


# What a loop costs.


def read_in_a_loop(x: Any) -> Any:
    return td.lax.fori_loop(0, x.shape[0], lambda i, c: c + np.sin(x[i]) * c, 1.0)


def rows_one_by_one(x: Any) -> Any:
    """Each step reads a row of the carry and of x, and replaces one row."""

    def step(table: Any, i: Any) -> Any:
        before = td.lax.dynamic_index_in_dim(table, i - 1, 0, keepdims=False)
        return td.lax.dynamic_update_index_in_dim(table, np.tanh(before) + x[i], i, 0), ()

    return np.sum(td.lax.scan(step, np.zeros_like(x), np.arange(x.shape[0]))[0])


def in_slices(x: Any) -> Any:
    total = 0.0
    for i in range(0, x.shape[0], 4):
        total = total + np.sum(np.sin(x[i : i + 4]) * x[i])
    return total


@pytest.mark.parametrize(
    ("f", "width"),
    [(read_in_a_loop, ()), (rows_one_by_one, (8,)), (rows_one_by_one, (600,))],
    ids=["reads x[i]", "updates a row", "updates a long row"],
)
@pytest.mark.parametrize("transform", [lambda f: f, td.grad], ids=["value", "gradient"])
def test_loops_move_what_they_touch(f: Any, width: tuple[int, ...], transform: Any) -> None:
    """T steps that touch one element or row each move O(T) of them, forward and backward, not O(T) whole arrays."""
    compiled = [td.jit(transform(f)).compile(np.ones((n, *width))) for n in (32, 64, 128)]
    counts = [each.cost_analysis()["bytes accessed"] for each in compiled]
    # But for single numbers, which may be computed before the loop.
    assert abs(counts[2] - counts[1] - 2 * (counts[1] - counts[0])) < 0.01 * counts[2]
    # Some dozen arrays are much less than T of them. What is predicted is what is done.
    assert counts[2] < 32 * 128 * 8 * (width or (1,))[0]
    done = [touched(each) for each in compiled]
    assert done[2] < 2.1 * done[1] < 4.5 * done[0], done
    assert done[2] < 48 * 128 * (width or (1,))[0], done


@pytest.mark.parametrize("width", [8, 600])
def test_batches_of_loops_move_what_they_touch(width: int) -> None:
    """The row that a step reads is one for all members: none of them is spread over all steps."""

    def product(x: Any) -> Any:
        return np.sum(td.lax.fori_loop(0, x.shape[0], lambda i, c: np.tanh(c * x[i]), np.ones(width)))

    done = [touched(td.jit(td.vmap(td.grad(product))).compile(np.ones((3, n, width)))) for n in (16, 32, 64)]
    assert done[2] < 2.1 * done[1] < 4.5 * done[0], done
    assert done[2] < 32 * 3 * 64 * width, done


def put(table: Any, i: Any, row: Any) -> Any:
    """The table with a row replaced."""
    if not isinstance(table, np.ndarray):
        return table.at[i].set(row)
    table = table.copy()
    table[i] = row
    return table


# Steps (table, i, flag, row) -> table, and another result, whose branches hand on, update, exchange or make anew.
BRANCHES: dict[str, Callable[..., Any]] = {
    "updated or not": lambda lax, t, i, p, a: (
        lax.cond(p, lambda t: put(t, i, np.sin(t[i - 1]) + a), lambda t: t, t), a
    ),
    "not or updated": lambda lax, t, i, p, a: (
        lax.cond(p, lambda t: t, lambda t: put(put(t, i, a), i - 1, t[i]), t), a
    ),
    "here or there": lambda lax, t, i, p, a: (lax.cond(p, lambda t: put(t, i, a), lambda t: put(t, i - 1, -a), t), a),
    "what was there is kept, too": lambda lax, t, i, p, a: lax.cond(
        p, lambda t: (put(t, i, a), t[i]), lambda t: (t, t[i - 1]), t
    ),
    "read behind": lambda lax, t, i, p, a: (lax.cond(p, lambda t: put(t, i, a), lambda t: t, t), t[i] * 2),
    "anew or not": lambda lax, t, i, p, a: (lax.cond(p, lambda t: t[::-1] + a, lambda t: t, t), a),
    "one of three": lambda lax, t, i, p, a: (
        lax.switch(i % 3, [lambda t: t, lambda t: put(t, i, a), lambda t: put(put(t, i, a * 2), i - 1, a)], t), a
    ),
    "a branch in a branch": lambda lax, t, i, p, a: (
        lax.cond(p, lambda t: lax.cond(i > 2, lambda t: put(t, i, a), lambda t: t, t), lambda t: put(t, i, -a), t), a
    ),
}  # fmt: skip


@pytest.mark.parametrize("width", [3, 600])
@pytest.mark.parametrize("case", BRANCHES)
def test_branches_that_update(case: str, width: int) -> None:
    """In a loop that is one kernel and in one of the program: what a branch writes in place is what it would give."""
    x = np.random.default_rng(0).standard_normal((7, width))
    flags = np.array([True, False, False, True, True, False, True])

    def loop(lax: Any, x: Any, flags: Any) -> Any:
        step = lambda t, i: BRANCHES[case](lax, t, i, flags[i], x[i])  # noqa: E731
        return lax.scan(step, x * 2, np.arange(7))

    close(td.jit(lambda x, flags: loop(td.lax, x, flags))(x, flags), loop(Plain, x, flags))


@pytest.mark.parametrize("width", [8, 600])
def test_branches_move_what_they_touch(width: int) -> None:
    """A step that updates a row under a condition, or until a loop with a bound has ended, copies no array for it."""

    def under_a_condition(x: Any, flags: Any) -> Any:
        step = lambda i, t: td.lax.cond(flags[i], lambda t: put(t, i, np.sin(t[i - 1])), lambda t: t, t)  # noqa: E731
        return td.lax.fori_loop(0, x.shape[0], step, x)

    def up_to_a_bound(x: Any, flags: Any) -> Any:
        step = lambda s: (s[0] + 1, put(s[1], s[0], np.sin(s[1][s[0] - 1])))  # noqa: E731
        return td.lax.while_loop(lambda s: flags[s[0]], step, (0, x), max_steps=x.shape[0])[1]

    for f in (under_a_condition, up_to_a_bound):
        done = [touched(td.jit(f).compile(np.ones((n, width)), np.ones(n, bool))) for n in (32, 64, 128)]
        assert done[2] < 2.2 * done[1] < 4.8 * done[0], (f.__name__, done)
        assert done[2] < 24 * 128 * width, (f.__name__, done)


def test_gradients_of_slices_are_linear() -> None:
    """n slices of one array: each adds to its own part of the cotangent."""
    compiled = [td.jit(td.grad(in_slices)).compile(np.ones(4 * n)) for n in (8, 16, 32)]
    for counts in ([each.cost_analysis()["bytes accessed"] for each in compiled], [touched(each) for each in compiled]):
        assert counts[2] / counts[1] < 2.2 and counts[1] / counts[0] < 2.2


def forward_loops(f: Callable[..., Any], *args: Any) -> list[list[tuple[int, ...]]]:
    """Of each loop of the cleaned graph that counts upwards: the shapes that a step stores for a later one to read."""
    steps = td.jit(f).compile(*args).executed.compilation.steps
    cleaned = next(step.after for step in steps if step.name == "cleanup")
    loops = [v for v in cleaned.ops if isinstance(v, Scan) and not v.reverse]
    return [[r.shape for r in loop.body.results[len(loop.carry) :]] for loop in loops]


def test_residuals_are_stored_only_where_dear() -> None:
    """Of a step `tanh(c * 2 + x) * 3` the backward loop needs the tanh alone; after a linear step no value at all is
    needed, so the forward loop is gone."""
    x = np.ones((5, 3))

    def dear(x: Any) -> Any:
        return np.sum(td.lax.scan(lambda c, a: (np.tanh(c * 2 + a) * 3, ()), np.zeros(3), x)[0])

    def linear(x: Any) -> Any:
        return np.sum(td.lax.scan(lambda c, a: (c * 0.5 + a, ()), np.zeros(3), x)[0])

    assert forward_loops(td.grad(dear), x) == [[(3,)]]
    assert forward_loops(td.grad(linear), x) == []


# What is refused.


def refused(f: Callable[..., Any], *args: Any, code: str, says: tuple[str, ...], line: str) -> None:
    """The call fails with this code, these words, and the user's line."""
    with pytest.raises(td.TreadleError) as caught:
        td.jit(f)(*args)
    assert caught.value.code == code
    for words in (*says, "edit: "):
        assert words in str(caught.value), str(caught.value)
    location = caught.value.location
    assert location is not None and location.file == __file__, str(caught.value)
    assert line in str(caught.value), str(caught.value)


def test_a_carry_keeps_its_type() -> None:
    """The leaf and both types are named: in a carry of many arrays that is what one looks for."""

    def narrows(x: Any) -> Any:
        return td.lax.scan(lambda c, a: ({"h": c["h"].astype(np.float32), "n": c["n"]}, ()), {"h": x, "n": 0}, x)

    def grows(x: Any) -> Any:
        return td.lax.while_loop(lambda c: True, lambda c: (c[0], np.concatenate([c[1], c[1]])), (0, x))

    def counts(x: Any) -> Any:
        return td.lax.fori_loop(0, 3, lambda i, c: (c[0] + 1.5, c[1]), (np.zeros(2, np.int64), x))

    def another_tree(x: Any) -> Any:
        return td.lax.scan(lambda c, a: ((c, c), ()), x, x)

    x = np.ones(3)
    refused(narrows, x, code="TD0842", says=("carry['h']", "f64[3]", "f32[3]", ".astype(np.float64)"), line="narrows")
    refused(grows, x, code="TD0842", says=("carry[1]", "f64[3]", "f64[6]"), line="np.concatenate")
    refused(counts, x, code="TD0842", says=("carry[0]", "i64[2]", "f64[2]"), line="c[0] + 1.5")
    refused(another_tree, x, code="TD0842", says=("*", "(*, *)"), line="(c, c)")


def test_a_carry_keeps_its_type_whatever_the_loop() -> None:
    """A bound makes branches of a while loop, and a bound that is data makes a while loop of another: the user wrote
    neither."""

    def bounded(f: Callable[[Any], Any], init: Any) -> Callable[[Any], Any]:
        return lambda x: td.lax.while_loop(lambda c: True, f, init, max_steps=3)

    def to_data(f: Callable[[Any, Any], Any], init: Any) -> Callable[[Any], Any]:
        return lambda x: td.lax.fori_loop(0, np.sum(x).astype(int), f, init)

    x = np.ones(3)
    narrows = bounded(
        lambda c: {"h": c["h"].astype(np.float32), "n": c["n"] + 1}, {"h": x, "n": 0}
    )  # fmt: skip
    refused(narrows, x, code="TD0842", says=("while_loop: carry['h']", "f64[3]", "f32[3]"), line=".astype(np.float32)")
    refused(bounded(lambda c: (c[0], c[1][:1]), (0, x)), x, code="TD0842", says=("carry[1]", "f64[1]"), line="c[1][:1]")
    refused(
        bounded(lambda c: (c, c), x), x, code="TD0842", says=("while_loop", "(*, *)", "one array"), line="max_steps"
    )
    refused(to_data(lambda i, c: {"h": c["h"] > 0}, {"h": x}), x, code="TD0842",
            says=("fori_loop: carry['h']", "f64[3]", "bool[3]"), line='c["h"] > 0')  # fmt: skip
    refused(to_data(lambda i, c: [c], x), x, code="TD0842", says=("fori_loop", "[*]"), line="td.lax.fori_loop")


def test_numbers_that_a_type_does_not_hold() -> None:
    """A Python number takes the dtype that the body gives it, as it would beside an array; 1.5 is no whole number."""
    for init, number in ((1.5, np.int64(2)), (1j, np.float64(2)), (2, np.bool_(True))):
        for steps, most in ((0, None), (2, 3)):
            refused(
                lambda k, init=init, n=most: td.lax.while_loop(lambda c: False, lambda c: k, init, max_steps=n),
                number, code="TD0842", says=("goes in as",), line="td.lax.while_loop",
            )  # fmt: skip
            refused(
                lambda k, init=init, steps=steps: td.lax.fori_loop(0, steps, lambda i, c: k, init),
                number, code="TD0842", says=("goes in as",), line="td.lax.fori_loop",
            )  # fmt: skip
    for most in (None, 9):
        f = lambda k, most=most: td.lax.while_loop(lambda c: c < 9, lambda c: c * k, 1, max_steps=most)  # noqa: E731
        found = td.jit(f)(np.float32(2.5))
        assert found == 15.625 and found.dtype == np.float32


def test_branches_give_one_type() -> None:
    def types(x: Any) -> Any:
        return td.lax.cond(x[0] > 0, lambda: {"a": x}, lambda: {"a": x[:2]})

    def trees(x: Any) -> Any:
        return td.lax.switch(x[0].astype(int), [lambda: x, lambda: (x, x)])

    def none(x: Any) -> Any:
        return td.lax.switch(x[0].astype(int), [])

    def array(x: Any) -> Any:
        return td.lax.cond(x > 0, lambda: x, lambda: -x)

    x = np.ones(3)
    refused(types, x, code="TD0841", says=("result['a']", "f64[3]", "f64[2]"), line="td.lax.cond")
    refused(trees, x, code="TD0841", says=("branch 1",), line="td.lax.switch")
    refused(none, x, code="TD0840", says=("no branch",), line="td.lax.switch")
    refused(array, x, code="TD0840", says=("bool[3]", "np.where"), line="td.lax.cond")


def test_loops_say_what_they_need() -> None:
    def condition(x: Any) -> Any:
        return td.lax.while_loop(lambda c: c > 0, lambda c: c, x)

    def no_length(x: Any) -> Any:
        return td.lax.scan(lambda c, _: (c, ()), x)

    def lengths(x: Any) -> Any:
        return td.lax.scan(lambda c, a: (c, ()), 0, {"a": x, "b": x[:2]})

    def scalar(x: Any) -> Any:
        return td.lax.scan(lambda c, a: (c, ()), 0, x[0])

    def less_than_no_step(x: Any) -> Any:
        return td.lax.while_loop(lambda c: False, lambda c: c, x, max_steps=-1)

    def no_pair(x: Any) -> Any:
        return td.lax.scan(lambda c, a: c, 0, x)

    x = np.ones(3)
    refused(condition, x, code="TD0840", says=("bool[3]", ".any()"), line="while_loop")
    refused(no_length, x, code="TD0843", says=("length",), line="td.lax.scan")
    refused(lengths, x, code="TD0843", says=("xs['b']", "2", "3"), line="td.lax.scan")
    refused(scalar, x, code="TD0843", says=("xs", "no axis"), line="td.lax.scan")
    refused(no_pair, x, code="TD0842", says=("(carry, y)",), line="td.lax.scan")
    refused(less_than_no_step, x, code="TD0843", says=("max_steps is -1",), line="max_steps=-1")


def test_a_while_loop_needs_a_bound_to_be_turned_round() -> None:
    """How often it ran is not known before it has; the error shows what to add."""

    def halved(x: Any) -> Any:
        return td.lax.while_loop(lambda c: np.sum(c) > 1, lambda c: c / 2, x).sum()

    refused(td.grad(halved), np.ones(3), code="TD0342", says=("max_steps=...",), line="while_loop")
    value, tangent = td.jit(lambda x, t: td.jvp(halved, (x,), (t,)))(np.ones(3), np.ones(3))
    assert (value, tangent) == (0.75, 0.75)


def doubled(x: Any) -> Any:
    return td.lax.while_loop(lambda v: np.sum(v) < 10.0, lambda v: v * 2, x, max_steps=3)


@pytest.mark.parametrize(
    ("f", "x"),
    [
        (doubled, np.ones(3)),
        (td.jit(doubled), np.ones(3)),
        (lambda x: td.jit(doubled)(x)[1], np.ones(3)),
        (td.jit(td.grad(lambda x: np.sum(doubled(x)))), np.ones(3)),
        (td.jit(lambda x: td.jvp(doubled, (x,), (x,))[1]), np.ones(3)),
        (td.jit(td.vmap(doubled)), np.array([[9.0, 9.0], [4.0, 1.0], [1.0, 1.0]])),
    ],
    ids=["at once", "compiled", "one element", "gradient", "tangent", "one of a batch"],
)
def test_a_while_loop_that_exceeds_its_bound(f: Callable[..., Any], x: Any) -> None:
    """What is not finished is no result, in whichever way it is asked for; less to do is."""
    assert np.isfinite(f(x * 2)).all()
    with pytest.raises(RuntimeError, match="TD0157") as caught:
        f(x / 4)
    error = caught.value
    assert isinstance(error, td.TreadleError) and error.location is not None and error.location.file == __file__
    for words in ("max_steps=3", "still true", "td.lax.while_loop(lambda v: np.sum(v)", "greater max_steps"):
        assert words in str(error), str(error)


def at(x: Any, i: Any) -> Any:
    return td.numpy.asarray(x)[i]


TABLE = np.array([5.0, 6.0, 7.0])
# What a member of a batch does not come to, in branches and after its loop has ended.
NOT_TAKEN: dict[str, Callable[[Any, Any], Any]] = {
    "an index": lambda lax, k: lax.cond(k < 3, lambda: at(TABLE, k), lambda: -1.0),
    "an update": lambda lax, k: lax.cond(k < 3, lambda: changed(k), lambda: TABLE * 2),
    "a power": lambda lax, k: lax.cond(k >= 0, lambda: 2**k, lambda: k),
    "a loop without an end": lambda lax, k: lax.cond(
        k > 0, lambda: lax.while_loop(lambda v: v < 100, lambda v: v * 3, k), lambda: k
    ),
    "too many steps": lambda lax, k: lax.cond(
        k > 3, lambda: lax.while_loop(lambda v: v < 9, lambda v: v + 1, k, max_steps=5), lambda: k
    ),
    "an index in a loop": lambda lax, k: lax.cond(
        k < 3, lambda: lax.fori_loop(0, 2, lambda i, s: s + at(TABLE, k), 0.0), lambda: -1.0
    ),
    "an index in a branch": lambda lax, k: lax.switch(
        k + 1, [lambda: 0.0, lambda: lax.cond(k < 3, lambda: at(TABLE, k), lambda: 1.0), lambda: 2.0]
    ),
    "an index after the end": lambda lax, k: lax.while_loop(
        lambda s: s[0] < k % 3, lambda s: (s[0] + 1, s[1] + at(TABLE, s[0] + 3 - k % 3)), (0, 0.0)
    )[1],
    "an index after the end, bounded": lambda lax, k: lax.while_loop(
        lambda s: s[0] < k % 3, lambda s: (s[0] + 1, s[1] + at(TABLE, s[0] + 3 - k % 3)), (0, 0.0), max_steps=3
    )[1],
}  # fmt: skip


def changed(k: Any) -> Any:
    if isinstance(k, np.generic):
        return np.where(np.arange(3) == k % 3, 1.0, TABLE)
    return td.numpy.asarray(TABLE).at[k].set(1.0)


@pytest.mark.parametrize("case", NOT_TAKEN)
def test_what_a_member_of_a_batch_does_not_come_to(case: str) -> None:
    """It cannot fail, and is not waited for: the same as each member alone."""
    f = NOT_TAKEN[case]
    ks = np.array([2, -1, 7, 1, 0, 5, -3])
    found = td.jit(td.vmap(lambda k: f(td.lax, k)))(ks)
    np.testing.assert_array_equal(found, [f(Plain, k) for k in ks])


def test_what_a_member_of_a_batch_comes_to_fails() -> None:
    f = td.jit(td.vmap(lambda k: NOT_TAKEN["an index"](td.lax, k - 4)))
    assert f(np.array([4, 5, 7])).tolist() == [5, 6, -1]
    with pytest.raises(IndexError, match="TD0170"):
        f(np.array([4, 0, 7]))


def test_bounds_that_are_data() -> None:
    """A loop to a traced bound is a while loop: it runs, and has tangents."""

    def power(x: Any, n: Any) -> Any:
        return td.lax.fori_loop(0, n, lambda i, c: c * x, 1.0)

    for n in (0, 1, 5):
        assert td.jit(power)(1.5, n) == 1.5**n
        slope = td.jit(lambda x, n: td.jvp(lambda x: power(x, n), (x,), (1.0,))[1])(1.5, n)
        np.testing.assert_allclose(slope, n * 1.5 ** (n - 1) if n else 0.0)


def test_control_flow_runs_outside_a_trace() -> None:
    """The same names on plain arrays, so that a function can be tried before it is compiled."""
    last, sums = td.lax.scan(lambda c, a: (c + a, c + a), 0, np.arange(4))
    assert last == 6 and sums.tolist() == [0, 1, 3, 6]
    assert td.lax.cond(True, lambda: 1, lambda: 2) == 1
    assert td.lax.while_loop(lambda v: v < 9, lambda v: v * 2, 1) == 16
    assert td.lax.pfor(lambda i: i * i, 4).tolist() == [0, 1, 4, 9]
