"""vmap of whole graphs: the same as calling once per element and stacking, for every choice of what is batched."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from corpus import TEXTS, WHILE

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
