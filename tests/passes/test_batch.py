"""vmap of whole graphs: the same as calling once per element and stacking, for every choice of what is batched."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from corpus import TEXTS, WHILE

import treadle as td
from treadle.ir.evaluate import evaluate
from treadle.ir.forms import WELL_FORMED
from treadle.ir.graph import Graph
from treadle.ir.parse import parse_graph
from treadle.passes import autodiff
from treadle.passes.batch import batch, batch_all


def check(graph: Graph, mask: tuple[bool, ...], size: int = 3) -> None:
    generator = np.random.default_rng(0)
    args = [
        generator.uniform(-1, 1, (size, *kind.shape) if batched else kind.shape)
        for kind, batched in zip(graph.param_types, mask, strict=True)
    ]
    made, flags = batch(graph, mask, size)
    WELL_FORMED.check(made)
    found = evaluate(made, *args)
    for k in range(size):
        one = evaluate(graph, *(a[k] if b else a for a, b in zip(args, mask, strict=True)))
        for value, flag, expected in zip(found, flags, one, strict=True):
            np.testing.assert_allclose(value[k] if flag else value, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", TEXTS)
def test_batch_is_stacked_calls(name: str) -> None:
    graph = parse_graph(TEXTS[name])
    for mask in product((False, True), repeat=len(graph.params)):
        if any(mask):
            check(graph, mask)


# Per-example gradients: the derivative is a graph, so it is batched like one.
@pytest.mark.parametrize("name", TEXTS)
def test_derivatives_are_batched(name: str) -> None:
    graph = parse_graph(TEXTS[name])
    made = autodiff.vjp(graph, [True] * len(graph.params))
    check(made, (False, *[True] * (len(made.params) - 1)))


# Elements stop at different times; those that are done hold what they had.
def test_while_runs_until_all_are_done() -> None:
    graph, flags = batch(parse_graph(WHILE), (True, False), 4)
    found = evaluate(graph, np.array([1.0, 2.0, 5.0, 40.0]), 1.5)
    assert flags == (True,)
    assert found[0].tolist() == [1.0, 1.0, 1.25, 1.25]


# The number of ops does not depend on how many elements there are.
def test_the_size_does_not_unroll() -> None:
    graph = parse_graph(TEXTS["rnn"])
    counts = [len(batch(graph, (True, True, True), size)[0].ops) for size in (2, 2000)]
    assert counts[0] == counts[1]


# A contraction whose two operands are batched stays one contraction.
def test_one_contraction() -> None:
    made, _ = batch(parse_graph(TEXTS["dense"]), (True, True), 7)
    assert [v.name for v in made.ops].count("dot") == 1


def test_results_that_do_not_vary_are_repeated_on_request() -> None:
    graph = parse_graph("graph f(%x: f64[], %y: f64[]) -> (f64[], f64[]):\n  return %x, %y\n")
    made = batch_all(graph, (True, False), 3, [True, True])
    found = evaluate(made, np.arange(3.0), 5.0)
    assert found[1].tolist() == [5.0, 5.0, 5.0]


# Branches that members of a batch take by themselves.

W = np.random.default_rng(1).normal(size=(32, 32)) / 6


def dear(c: Any, v: Any, w: Any) -> Any:
    """One branch costs nothing, two are products."""
    return td.lax.switch(c, [lambda v: -v, lambda v: np.tanh(np.tanh(v @ w) @ w), lambda v: v @ w.T @ w], v)


def dear_by_hand(c: int, v: Any, w: Any) -> Any:
    return [lambda v: -v, lambda v: np.tanh(np.tanh(v @ w) @ w), lambda v: v @ w.T @ w][min(max(c, 0), 2)](v)


def members(n: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(n)
    return rng.integers(-1, 4, n), rng.normal(size=(n, 32))


@pytest.mark.parametrize("n", [1, 5, 32, 33, 100])
def test_dear_branches_are_computed_for_those_that_take_them(n: int) -> None:
    """By blocks, of which the last is not full: values, and gradients of what members have and of what they share."""
    c, v = members(n)
    batched = td.jit(td.vmap(dear, in_axes=(0, 0, None)))
    want = np.stack([dear_by_hand(k, a, W) for k, a in zip(c, v, strict=True)])
    np.testing.assert_allclose(batched(c, v, W), want, rtol=1e-12, atol=1e-12)
    found = td.jit(td.grad(lambda v, w: np.sin(td.vmap(dear, in_axes=(0, 0, None))(c, v, w)).sum(), (0, 1)))(v, W)
    along = [np.random.default_rng(3).normal(size=x.shape) for x in (v, W)]
    for i, (slope, direction) in enumerate(zip(found, along, strict=True)):
        ends = [[x + e * direction if i == j else x for j, x in enumerate((v, W))] for e in (1e-6, -1e-6)]
        sums = [sum(np.sin(dear_by_hand(k, a, w)).sum() for k, a in zip(c, v, strict=True)) for v, w in ends]
        np.testing.assert_allclose((slope * direction).sum(), (sums[0] - sums[1]) / 2e-6, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_a_branch_that_nobody_takes(taken: int) -> None:
    c, v = np.full(40, taken), members(40)[1]
    want = np.stack([dear_by_hand(taken, a, W) for a in v])
    np.testing.assert_allclose(td.vmap(dear, in_axes=(0, 0, None))(c, v, W), want, rtol=1e-12, atol=1e-12)


def test_branches_of_a_batch_of_any_size() -> None:
    kinds = td.ShapeDtype(("n",), "int64"), td.ShapeDtype(("n", 32), "float64")
    compiled = td.jit(td.vmap(dear, in_axes=(0, 0, None))).compile(*kinds, W)
    for n in (0, 1, 70):
        c, v = members(n)
        want = np.array([dear_by_hand(k, a, W) for k, a in zip(c, v, strict=True)]).reshape(n, 32)
        np.testing.assert_allclose(compiled(c, v, W), want, rtol=1e-12, atol=1e-12)


def test_what_branches_cost_decides() -> None:
    """Products are worth moving members for, a few flops are not; the number of ops does not depend on the batch."""

    def ops(f: Any, *args: Any) -> list[str]:
        return [value.name for value in td.jit(f).trace(*args).graph.ops]

    cheap = td.vmap(lambda c, v: td.lax.cond(c > 0, lambda v: v * 2, lambda v: v + 1, v))
    assert "arg_sort" not in ops(cheap, *members(64))
    counts = [ops(td.vmap(dear, in_axes=(0, 0, None)), *members(n), W) for n in (64, 640)]
    assert "arg_sort" in counts[0] and counts[0] == counts[1]


# Chunks.


@pytest.mark.parametrize("n", [1, 7, 8, 20])
def test_chunks_of_a_batch(n: int) -> None:
    """`chunk_size` and `batch_size` bound how much is computed at once, and nothing else."""
    v = members(n)[1]
    want = np.sin(v @ W) + v[:, :1]

    def row(v: Any) -> Any:
        return np.sin(v @ W) + v[0]

    for f in (
        td.vmap(row, chunk_size=7),
        lambda v: td.lax.map(row, v, batch_size=7),
        lambda v: td.lax.pfor(lambda i: row(v[i]), n, chunk_size=7),
    ):
        np.testing.assert_allclose(td.jit(f)(v), want, rtol=1e-12, atol=1e-12)
        slope = td.jit(td.grad(lambda v, f=f: f(v).sum()))(v)
        np.testing.assert_allclose(slope, td.grad(lambda v: td.vmap(row)(v).sum())(v), rtol=1e-12, atol=1e-12)


def test_a_chunk_bounds_the_memory() -> None:
    """512 products of 128 KiB each: all at once take 64 MiB, 16 at once take two."""
    x, w = np.ones((512, 8)), np.ones((8, 128))

    def outer(row: Any) -> Any:
        big = np.tanh(np.outer(row @ w, row @ w))
        return (big @ big.sum(axis=0)).sum()

    def bytes_of(f: Any) -> int:
        found: int = td.jit(f).compile(x).memory_analysis().temp_size_in_bytes
        return found

    assert bytes_of(td.vmap(outer, chunk_size=16)) < bytes_of(td.vmap(outer)) / 8


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda x: td.vmap(np.sin, chunk_size=0)(x), "TD0713"),
        (lambda x: td.lax.map(np.sin, x, batch_size=0), "TD0843"),
        (lambda x: td.lax.pfor(lambda i: x[i], 3, chunk_size=-1), "TD0843"),
    ],
)
def test_a_chunk_of_nothing_is_refused(call: Any, code: str) -> None:
    with pytest.raises(td.TreadleError) as caught:
        td.jit(call)(np.ones(3))
    assert caught.value.code == code
