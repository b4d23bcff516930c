"""Control ops joined: the answers stay, one loop or branch is left where two shared work, and others are left alone."""

from __future__ import annotations

import numpy as np
import pytest
from corpus import TEXTS, WHILE
from random_graphs import context

from treadle.ir.evaluate import evaluate
from treadle.ir.forms import WELL_FORMED, everywhere
from treadle.ir.graph import Graph
from treadle.ir.ops.families import Control
from treadle.ir.parse import parse_graph
from treadle.passes import autodiff
from treadle.passes.cleanup import cleanup


def loops(graph: Graph) -> list[str]:
    return [value.name for value in everywhere(graph) if isinstance(value, Control)]


def cleaned(graph: Graph, *args: object) -> Graph:
    """The graph after `cleanup`, which evaluates to the same bits."""
    found = cleanup(graph, context())
    WELL_FORMED.check(found)
    for got, want in zip(evaluate(found, *args), evaluate(graph, *args), strict=True):
        np.testing.assert_array_equal(got, want)
    return found


def drawn(graph: Graph) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.uniform(0.2, 1.2, kind.shape) for kind in graph.param_types]


@pytest.mark.parametrize("name", ["rnn", "counted", "parts", "branches"])
def test_a_value_and_its_tangent_are_one_loop(name: str) -> None:
    """Forward mode needs no stack: the tangent's step takes what it needs from the value's."""
    graph = autodiff.jvp(parse_graph(TEXTS[name]), [True] * len(parse_graph(TEXTS[name]).params))
    assert len(loops(graph)) > 1
    assert len(loops(cleaned(graph, *drawn(graph)))) == 1


@pytest.mark.parametrize("name", ["rnn", "counted", "parts"])
def test_a_value_and_its_cotangent_are_two_loops(name: str) -> None:
    """One forwards, which stores what the one backwards reads; not one more forwards for the value."""
    graph = autodiff.vjp(parse_graph(TEXTS[name]), [True] * len(parse_graph(TEXTS[name]).params))
    assert len(loops(graph)) > 2
    assert len(loops(cleaned(graph, *drawn(graph)))) == 2


def test_a_while_loop_and_its_tangent_are_one() -> None:
    graph = autodiff.jvp(parse_graph(WHILE), [True, True])
    assert loops(cleaned(graph, np.float64(40), np.float64(1.5), np.float64(1), np.float64(1))) == ["while"]


APART = {
    # Both begin with x, but their steps tell them apart; they share nothing.
    "different steps": """
graph f(%x: f64[], %ys: f64[3]) -> (f64[], f64[]):
  %0 = scan [], [%x], [%ys] {length=3} : (f64[])
    body = graph a(%c: f64[], %y: f64[]) -> f64[]:
      %a = mul %c, %y : f64[]
      return %a
  %1 = get %0 {index=0} : f64[]
  %2 = scan [], [%x], [%ys] {length=3} : (f64[])
    body = graph b(%c: f64[], %y: f64[]) -> f64[]:
      %a = sub %c, %y : f64[]
      return %a
  %3 = get %2 {index=0} : f64[]
  return %1, %3
""",
    # The second begins where the first ends.
    "one after the other": """
graph f(%x: f64[], %ys: f64[3]) -> f64[]:
  %0 = scan [], [%x], [%ys] {length=3} : (f64[], f64[3])
    body = graph a(%c: f64[], %y: f64[]) -> (f64[], f64[]):
      %a = mul %c, %y : f64[]
      return %a, %c
  %1 = get %0 {index=0} : f64[]
  %2 = get %0 {index=1} : f64[3]
  %3 = scan [], [%1], [%2] {length=3} : (f64[])
    body = graph b(%c: f64[], %y: f64[]) -> f64[]:
      %a = sub %c, %y : f64[]
      return %a
  %4 = get %3 {index=0} : f64[]
  return %4
""",
    # The second reads the stack from its end, and all of it in each step.
    "backwards": """
graph f(%x: f64[], %ys: f64[3]) -> f64[]:
  %0 = scan [], [%x], [%ys] {length=3} : (f64[], f64[3])
    body = graph a(%c: f64[], %y: f64[]) -> (f64[], f64[]):
      %a = mul %c, %y : f64[]
      return %a, %c
  %2 = get %0 {index=1} : f64[3]
  %3 = scan [], [%x], [%2] {length=3 reverse=True} : (f64[])
    body = graph b(%c: f64[], %y: f64[]) -> f64[]:
      %a = sub %c, %y : f64[]
      return %a
  %4 = get %3 {index=0} : f64[]
  return %4
""",
    "the whole stack": """
graph f(%x: f64[], %ys: f64[3]) -> f64[]:
  %0 = scan [], [%x], [%ys] {length=3} : (f64[], f64[3])
    body = graph a(%c: f64[], %y: f64[]) -> (f64[], f64[]):
      %a = mul %c, %y : f64[]
      return %a, %c
  %2 = get %0 {index=1} : f64[3]
  %3 = scan [%2], [%x], [%2] {length=3} : (f64[])
    body = graph b(%s: f64[3], %c: f64[], %y: f64[]) -> f64[]:
      %t = sum %s {axes=(0,)} : f64[]
      %a = sub %c, %y : f64[]
      %b = mul %a, %t : f64[]
      return %b
  %4 = get %3 {index=0} : f64[]
  return %4
""",
    "other lengths": """
graph f(%x: f64[], %ys: f64[3], %zs: f64[2]) -> (f64[], f64[]):
  %0 = scan [], [%x], [%ys] {length=3} : (f64[])
    body = graph a(%c: f64[], %y: f64[]) -> f64[]:
      %a = mul %c, %y : f64[]
      return %a
  %1 = get %0 {index=0} : f64[]
  %2 = scan [], [%x], [%zs] {length=2} : (f64[])
    body = graph b(%c: f64[], %y: f64[]) -> f64[]:
      %a = mul %c, %y : f64[]
      return %a
  %3 = get %2 {index=0} : f64[]
  return %1, %3
""",
}


@pytest.mark.parametrize("name", APART)
def test_loops_that_must_stay_apart(name: str) -> None:
    graph = parse_graph(APART[name])
    assert len(loops(cleaned(graph, *drawn(graph)))) == 2


def test_a_step_takes_what_another_makes() -> None:
    """The stack between two loops is gone: each element goes from step to step."""
    graph = parse_graph(
        """
graph f(%x: f64[], %ys: f64[3]) -> (f64[], f64[3]):
  %0 = scan [], [], [%ys] {length=3} : (f64[3])
    body = graph a(%y: f64[]) -> f64[]:
      %a = exp %y : f64[]
      return %a
  %1 = get %0 {index=0} : f64[3]
  %2 = scan [], [%x], [%1] {length=3} : (f64[], f64[3])
    body = graph b(%c: f64[], %y: f64[]) -> (f64[], f64[]):
      %a = sub %c, %y : f64[]
      return %a, %c
  %3 = get %2 {index=0} : f64[]
  %4 = get %2 {index=1} : f64[3]
  return %3, %4
"""
    )
    found = cleaned(graph, *drawn(graph))
    assert loops(found) == ["scan"]
    (scan,) = (value for value in found.ops if isinstance(value, Control))
    assert len(scan.bodies[0].results) == 2
