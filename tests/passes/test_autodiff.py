"""Derivatives of whole graphs, control flow included: against finite differences, each other, and themselves again."""

from __future__ import annotations

import numpy as np
import pytest
from corpus import TEXTS, WHILE

from treadle.ir.errors import Unsupported
from treadle.ir.evaluate import evaluate
from treadle.ir.forms import WELL_FORMED
from treadle.ir.graph import Graph
from treadle.ir.parse import parse_graph
from treadle.ir.text import show
from treadle.passes import autodiff

graphs = pytest.mark.parametrize("name", TEXTS)


def arrays(graph: Graph, seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.uniform(0.2, 1.2, kind.shape) for kind in graph.param_types]


def results(graph: Graph, seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(kind.shape) for kind in graph.result_types]


def slope(graph: Graph, at: list[np.ndarray], along: list[np.ndarray]) -> list[np.ndarray]:
    step = 1e-6
    above = evaluate(graph, *(x + step * d for x, d in zip(at, along, strict=True)))
    below = evaluate(graph, *(x - step * d for x, d in zip(at, along, strict=True)))
    return [(a - b) / (2 * step) for a, b in zip(above, below, strict=True)]


# The tangent is the slope along a direction.
@graphs
def test_tangents_are_slopes(name: str) -> None:
    graph = parse_graph(TEXTS[name])
    at, along = arrays(graph, 0), arrays(graph, 1)
    found = evaluate(autodiff.jvp(graph, [True] * len(at)), *at, *along)[len(graph.results) :]
    for tangent, expected in zip(found, slope(graph, at, along), strict=True):
        np.testing.assert_allclose(tangent, expected, rtol=1e-6, atol=1e-8)


# <Jv, w> = <v, J^T w>, and values are left as they are.
@graphs
def test_cotangents_are_the_transpose(name: str) -> None:
    graph = parse_graph(TEXTS[name])
    at, along, bars = arrays(graph, 0), arrays(graph, 1), results(graph, 2)
    moving = [True] * len(at)
    tangents = evaluate(autodiff.jvp(graph, moving), *at, *along)[len(bars) :]
    pulled = evaluate(autodiff.vjp(graph, moving), *at, *bars)
    for value, expected in zip(pulled, evaluate(graph, *at), strict=False):
        np.testing.assert_array_equal(value, expected)
    forward = sum(np.vdot(t, b) for t, b in zip(tangents, bars, strict=True))
    backward = sum(np.vdot(c, d) for c, d in zip(pulled[len(bars) :], along, strict=True))
    np.testing.assert_allclose(forward, backward, rtol=1e-10)


# Derivatives of derivatives: reverse over reverse, and forward over reverse, are the slopes of the reverse derivative.
@graphs
def test_second_derivatives(name: str) -> None:
    first = autodiff.vjp(parse_graph(TEXTS[name]), [True] * len(parse_graph(TEXTS[name]).params))
    at, along = arrays(first, 0), arrays(first, 1)
    expected = slope(first, at, along)
    over = autodiff.jvp(first, [True] * len(at))
    found = evaluate(over, *at, *along)[len(first.results) :]
    for tangent, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(tangent, wanted, rtol=1e-5, atol=1e-7)
    bars = results(first, 2)
    pulled = evaluate(autodiff.vjp(first, [True] * len(at)), *at, *bars)[len(bars) :]
    forward = sum(np.vdot(t, b) for t, b in zip(found, bars, strict=True))
    backward = sum(np.vdot(c, d) for c, d in zip(pulled, along, strict=True))
    np.testing.assert_allclose(forward, backward, rtol=1e-9)


# What a transform makes is a graph like any other: typed by the rules, and readable back.
@graphs
def test_derivatives_are_graphs(name: str) -> None:
    graph = parse_graph(TEXTS[name])
    made = autodiff.vjp(graph, [True] * len(graph.params))
    WELL_FORMED.check(made)
    text = show(made)
    assert show(parse_graph(text)) == text


# Only what moves is differentiated: the other parameter gets no cotangent.
def test_parameters_that_do_not_move() -> None:
    graph = parse_graph(TEXTS["dense"])
    made = autodiff.vjp(graph, [False, True])
    assert len(made.results) == 2
    assert made.results[1].type == graph.params[1].type


# The gradient of n slices of one array is linear in n: no slice's cotangent is spread over the whole array.
def test_cotangents_of_slices_are_added_in_place() -> None:
    def pieces(n: int) -> int:
        lines = [f"graph pieces(%x: f64[{3 * n}]) -> f64[3]:"]
        for i in range(n):
            lines.append(f"  %s{i} = slice %x {{start=({3 * i},) stop=({3 * i + 3},) step=(1,)}} : f64[3]")
            lines.append(f"  %a{i} = {'tanh %s0' if i == 0 else f'mul %a{i - 1}, %s{i}'} : f64[3]")
        made = autodiff.vjp(parse_graph("\n".join([*lines, f"  return %a{n - 1}"])), [True])
        return sum(value.name == "pad" for value in made.ops)

    assert pieces(20) <= 1


def test_a_while_loop_has_a_tangent() -> None:
    graph = parse_graph(WHILE)
    found = evaluate(autodiff.jvp(graph, [True, True]), 5.0, 1.5, 1.0, 1.0)
    assert [float(v) for v in found] == [1.25, 0.25]


# The error says what to write instead.
def test_a_while_loop_has_no_reverse() -> None:
    with pytest.raises(Unsupported, match="TD0342") as caught:
        autodiff.vjp(parse_graph(WHILE), [True, True])
    assert "max_steps" in str(caught.value)
