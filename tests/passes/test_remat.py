"""What a checkpoint keeps: the cuts against all ways to choose, the budgets, and the graphs that come of them."""

from __future__ import annotations

from functools import cache
from itertools import combinations

import numpy as np
import pytest
from random_graphs import context

from treadle.ir.errors import InvalidValue, Unsupported
from treadle.ir.evaluate import evaluate
from treadle.ir.forms import WELL_FORMED
from treadle.ir.graph import Graph
from treadle.ir.ops.control import Checkpoint
from treadle.ir.parse import parse_graph
from treadle.ir.value import After, Get, Parameter, Value
from treadle.passes import autodiff, remat
from treadle.passes.cleanup import cleanup
from treadle.passes.expand import expand

# A chain of dear and cheap values of several sizes, one of them read again further on, and a contraction.
CHAIN = """
graph chain(%x: f64[4,3], %w: f64[3,3]) -> f64[4,3]:
  %a = dot %x, %w {x_batch=() y_batch=() x_contract=(1,) y_contract=(0,)} : f64[4,3]
  %b = sin %a : f64[4,3]
  %c = sum %b {axes=(1,)} : f64[4]
  %d = exp %c : f64[4]
  %e = broadcast %d {to=(4,3) axes=(0,)} : f64[4,3]
  %f = mul %e, %b : f64[4,3]
  %g = tanh %f : f64[4,3]
  %h = mul %g, %a : f64[4,3]
  return %h
"""


def pushed(graph: Graph) -> tuple[list[Value], list[Parameter]]:
    dots = [Parameter(f"t{i}", p.given) for i, p in enumerate(graph.params)]
    found = autodiff.push(graph.results, {id(p): dot for p, dot in zip(graph.params, dots, strict=True)})
    return [t for t in found if t is not None], dots


def chosen(text: str, policy: str) -> tuple[list[str], remat.Choice]:
    graph = parse_graph(text)
    choice = remat.choose(graph, *pushed(graph), policy)
    return [value.name for value in choice.kept], choice


@cache
def everything(text: str) -> list[tuple[int, int, bool]]:
    """(bytes, work, whether no contraction is computed again) of every set of values that could be kept."""
    graph = parse_graph(text)
    linear, dots = pushed(graph)
    needed = {id(v) for v in remat._read_by(linear, dots)}
    values = [v for v in autodiff.reachable_from([v for v in graph.ops if id(v) in needed]) if v.operands]
    # Second derivatives of the values, which only the linear part has, are among what is needed.
    values += [v for v in autodiff.reachable_from(remat._read_by(linear, dots)) if v.operands and v not in values]
    found = []
    for count in range(len(values) + 1):
        for kept in combinations(values, count):
            again: set[int] = set()
            stack = [v for v in values if id(v) in needed]
            while stack:
                value = stack.pop()
                if id(value) not in again and not any(value is k for k in kept) and value.operands:
                    again.add(id(value))
                    stack.extend(value.operands)
            redone = [v for v in values if id(v) in again]
            size = sum(int(np.prod(v.shape)) * 8 for v in kept)  # type: ignore[arg-type]
            found.append((size, sum(map(remat.work, redone)), not any(v.name == "dot" for v in redone)))
    return found


def test_cuts_are_minimal() -> None:
    """Of all sets of values none has fewer bytes where no contraction is computed again."""
    names, choice = chosen(CHAIN, "min_cut")
    least = min((size, work) for size, work, spared in everything(CHAIN) if spared)
    assert (choice.bytes, choice.work) == least
    assert names == ["dot"]


@pytest.mark.parametrize("budget", [0, 31, 32, 96, 128, 200, 10_000])
def test_budgets_are_kept(budget: int) -> None:
    """No set within the budget that lies on the hull of all sets is better; nothing fits that would save more alone."""
    _, choice = chosen(CHAIN, str(budget))
    ways = everything(CHAIN)
    assert choice.bytes <= budget
    best = min(work for size, work, _ in ways if size <= budget)
    # The hull and the best bargains are no exhaustive search; on a chain they find the best or a neighbour of it.
    assert choice.work <= 1.5 * best + 64
    assert choice.work <= max(work for size, work, _ in ways)
    for size, work, _ in choice.frontier:
        assert not any((s <= size and w < work) or (s < size and w <= work) for s, w, _ in ways), "on the frontier"


def test_policies_by_name() -> None:
    assert chosen(CHAIN, "nothing")[0] == []
    assert chosen(CHAIN, "dots")[0] == ["dot"]
    names, choice = chosen(CHAIN, "everything")
    assert choice.work == 0 and "tanh" in names
    text = str(chosen(CHAIN, "128")[1])
    assert "<- chosen" in text and text.splitlines()[0].split() == "kept bytes bytes at once flops again".split()


def test_unknown_policies() -> None:
    for policy in ("all", "2XB", ""):
        with pytest.raises(InvalidValue, match="TD0345"):
            remat.budget_of(policy)
    assert [remat.budget_of(p) for p in ("2MB", "1.5K", "77", "1 GiB")] == [2**21, 1536, 77, 2**30]


def test_budgets_need_sizes() -> None:
    text = CHAIN.replace("[4,3]", "[B,3]").replace("f64[4]", "f64[B]").replace("to=(4,3)", "to=(B,3)")
    text = text.replace("-> f64[B,3]:", "-> f64[B,3] where B:")
    assert chosen(text, "min_cut")[0] == ["dot"]
    with pytest.raises(Unsupported, match="TD0346"):
        chosen(text, "128")


def checkpointed(policy: str, layers: int = 3) -> Graph:
    """Layers, each of which is a checkpoint, and a sum of squares behind them."""
    body = parse_graph(CHAIN)
    x, w = (Parameter(p.label, p.given) for p in body.params)
    value: Value = x
    for _ in range(layers):
        value = Get(Checkpoint((value, w), body, policy), 0)
    return Graph("layers", (x, w), (value * value,))


POLICIES = ("nothing", "everything", "dots", "min_cut", "128")


@pytest.mark.parametrize("policy", POLICIES)
def test_derivatives_do_not_depend_on_the_policy(policy: str) -> None:
    """Values, gradients and their tangents are those without a checkpoint, to the last bit or two."""
    graph = checkpointed(policy)
    plain = expand(graph, context())
    rng = np.random.default_rng(0)
    args = [rng.uniform(-1, 1, kind.shape) for kind in graph.param_types]
    extra = [rng.standard_normal((4, 3))]
    made = autodiff.vjp(graph, [True, True])
    WELL_FORMED.check(made)
    for got, want in zip(
        evaluate(made, *args, *extra), evaluate(autodiff.vjp(plain, [True, True]), *args, *extra), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-12)
    directions = [rng.standard_normal(kind.shape) for kind in made.param_types]
    twice, expected = (
        evaluate(autodiff.jvp(autodiff.vjp(g, [True, True]), [True] * 3), *args, *extra, *directions)
        for g in (graph, plain)
    )
    for got, want in zip(twice, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10)


def compiled(graph: Graph) -> Graph:
    return cleanup(expand(graph, context()), context())


def count(graph: Graph, name: str) -> int:
    return sum(value.name == name for value in graph.ops)


def test_values_are_computed_again_when_the_way_back_needs_them() -> None:
    """Behind marks that wait for a cotangent, so neither before it nor merged with what was computed first."""
    made = compiled(autodiff.vjp(checkpointed("nothing"), [True, True]))
    assert count(made, "tanh") == 2 * 3
    waits = [value for value in made.ops if isinstance(value, After)]
    assert waits and all(value.dependencies for value in waits)
    kept = compiled(autodiff.vjp(checkpointed("everything"), [True, True]))
    assert count(kept, "tanh") == 3
    spared = compiled(autodiff.vjp(checkpointed("dots"), [True, True]))
    assert count(spared, "dot") == count(kept, "dot")
    assert count(spared, "tanh") == 2 * 3


def test_forward_mode_computes_nothing_twice() -> None:
    """There is no way back to wait for, so the marks go and the copies are merged."""
    made = compiled(autodiff.jvp(checkpointed("nothing"), [True, True]))
    assert count(made, "tanh") == 3
    assert not any(isinstance(value, After) for value in made.ops)


def test_a_wait_is_no_reason_to_compute() -> None:
    """What nobody else reads, parameters and constants are not waited for."""
    graph = parse_graph(
        """
graph f(%x: f64[3], %y: f64[3]) -> (f64[3], f64[3]):
  %a = sin %x : f64[3]
  %b = cos %y : f64[3]
  %c = full 1.0 : f64[3]
  %d = exp %c : f64[3]
  %e = after %x, [%a, %y, %d] : f64[3]
  %f = after %e, [%b] : f64[3]
  %g = tanh %f : f64[3]
  return %g, %b
"""
    )
    found = cleanup(graph, context())
    assert [value.name for value in found.ops] == ["cos", "after", "tanh"]
    for got, want in zip(evaluate(found, np.ones(3), np.ones(3)), evaluate(graph, np.ones(3), np.ones(3)), strict=True):
        np.testing.assert_array_equal(got, want)
