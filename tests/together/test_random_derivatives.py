"""Random graphs through the transforms: tangents are slopes, cotangents their transpose, batches stacked single calls.

The graphs are those of the passes (control flow, views, joins, updates, ties), in float64. Where a step changes which
side of a kink or of a tie holds, differences say nothing; that both modes agree is asked everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_graphs import Case, cases

from treadle.ir.dtypes import f32, f64
from treadle.ir.errors import TreadleError, Unsupported
from treadle.ir.evaluate import evaluate
from treadle.ir.forms import WELL_FORMED
from treadle.ir.graph import Graph
from treadle.ir.parse import embedded_constants, parse_graph
from treadle.ir.text import show
from treadle.passes import autodiff
from treadle.passes.batch import batch

pytestmark = pytest.mark.fuzz

settings.register_profile("graphs", settings.default, suppress_health_check=list(HealthCheck))
graphs = settings(settings.get_profile("graphs"))

Array = np.ndarray[Any, Any]


def in_double(case: Case) -> tuple[Graph, list[Array]]:
    """The graph with every float32 a float64, by its text; and arguments for it. Where it fails, a case says
    nothing."""
    constants = embedded_constants(show(case.graph, data=True))
    doubled = {name: x.astype(np.float64) if x.dtype == np.float32 else x for name, x in constants.items()}
    graph = parse_graph(show(case.graph).replace(f32.name, f64.name), doubled)
    args = [np.asarray(arg, np.float64) for arg in case.args]
    try:
        evaluate(graph, *args)
    except TreadleError:
        assume(False)
    return graph, args


def directions(args: Sequence[Array], seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(arg.shape) for arg in args]


def values(graph: Graph, args: Sequence[Array]) -> list[Array]:
    kept = graph.with_results([r for r in graph.results if autodiff.differentiable(r)])
    return list(evaluate(kept, *args))


def slopes(graph: Graph, args: Sequence[Array], along: Sequence[Array], h: float) -> list[Array]:
    ahead, behind = (values(graph, [x + s * h * t for x, t in zip(args, along, strict=True)]) for s in (1, -1))
    return [(a - b) / (2 * h) for a, b in zip(ahead, behind, strict=True)]


@given(cases(depth=2), st.integers(0, 1000))
@graphs
def test_tangents_are_slopes(case: Case, seed: int) -> None:
    graph, args = in_double(case)
    along = directions(args, seed)
    forward = autodiff.jvp(graph, [True] * len(args))
    WELL_FORMED.check(forward)
    tangents = evaluate(forward, *args, *along)[len(graph.results) :]
    coarse, fine = (slopes(graph, args, along, h) for h in (2e-5, 1e-5))
    for tangent, a, b in zip(tangents, coarse, fine, strict=True):
        assume(np.allclose(a, b, rtol=1e-6, atol=1e-7))  # no kink between them
        # A kink or a jump at the very point is on one side or on the other: slopes of both sides are no derivative.
        assume(np.allclose(*(sided(graph, args, along, s) for s in (1, -1)), rtol=1e-3, atol=1e-3))
        np.testing.assert_allclose(tangent, (4 * b - a) / 3, rtol=1e-5, atol=1e-6, err_msg=str(graph))


def sided(graph: Graph, args: Sequence[Array], along: Sequence[Array], sign: int) -> Array:
    """The slopes of one side, all in a row."""
    h = sign * 1e-6
    here, there = values(graph, args), values(graph, [x + h * t for x, t in zip(args, along, strict=True)])
    return np.concatenate([(b - a).ravel() / h for a, b in zip(here, there, strict=True)])


@given(cases(depth=2), st.integers(0, 1000))
@graphs
def test_cotangents_are_the_transpose(case: Case, seed: int) -> None:
    """Also at ties and kinks: a convention does not depend on the way."""
    graph, args = in_double(case)
    moving = [True] * len(args)
    along = directions(args, seed)
    tangents = evaluate(autodiff.jvp(graph, moving), *args, *along)[len(graph.results) :]
    try:
        backward = autodiff.vjp(graph, moving)
    except Unsupported as error:
        assert error.code == "TD0342", error  # a while loop without a bound
        return
    WELL_FORMED.check(backward)
    bars = directions(tangents, seed + 1)
    found = evaluate(backward, *args, *bars)[len(graph.results) :]
    left = sum(np.sum(t * b) for t, b in zip(tangents, bars, strict=True))
    right = sum(np.sum(t * c) for t, c in zip(along, found, strict=True))
    np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-9, err_msg=str(graph))


@given(cases(depth=2), st.data())
@graphs
def test_batches_are_stacks_of_single_calls(case: Case, data: Any) -> None:
    """For whichever operands have the axis; of the derivative, too."""
    graph, args = in_double(case)
    if data.draw(st.booleans()):
        graph, along = autodiff.jvp(graph, [True] * len(args)), directions(args, 0)
        args = [*args, *along]
    mask = [data.draw(st.booleans()) for _ in args]
    assume(any(mask))
    members = [np.stack([arg, 0.5 * arg, -arg]) if b else arg for arg, b in zip(args, mask, strict=True)]
    made, flags = batch(graph, mask, 3)
    WELL_FORMED.check(made)
    singles = []
    for k in range(3):
        try:
            singles.append(evaluate(graph, *(x[k] if b else x for x, b in zip(members, mask, strict=True))))
        except TreadleError:
            assume(False)
    found = evaluate(made, *members)
    for i, (value, flag) in enumerate(zip(found, flags, strict=True)):
        for k in range(3):
            each = value[k] if flag else value
            np.testing.assert_allclose(each, singles[k][i], rtol=1e-9, atol=1e-9, err_msg=str(graph))
