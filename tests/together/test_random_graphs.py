"""Random graphs through everything: texts read back, every pass keeps the value and the forms, the program computes
what the graph says, machine code what the program says.

A few graphs in every run, many by `make fuzz`. The oracle is the reference interpreter, op by op; what is not exact is
said where it is allowed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_graphs import OPEN_LOOPS, Case, TableCase, cases, context, table_cases
from sample import agree

from treadle.frontend.compile import prepare
from treadle.frontend.options import Options
from treadle.ir.errors import TreadleError, Unsupported
from treadle.ir.evaluate import evaluate
from treadle.ir.forms import EXPANDED, GROUPED, PLAIN, WELL_FORMED
from treadle.ir.graph import Graph
from treadle.ir.parse import parse_graph
from treadle.ir.program_evaluate import run
from treadle.ir.text import show
from treadle.ir.types import TensorType
from treadle.passes.buffers import to_program
from treadle.passes.pipelines import DEFAULT, PASSES

pytestmark = pytest.mark.fuzz

# What a graph costs to make is the strategy's business; what is too slow is found by the time limit.
settings.register_profile("graphs", settings.default, suppress_health_check=list(HealthCheck))
graphs = settings(settings.get_profile("graphs"))
few = settings(graphs, max_examples=settings.default.max_examples // 2)

Array = np.ndarray[Any, Any]


def same(graph: Graph, args: Sequence[Array], wanted: Sequence[Array], about: str) -> None:
    """The graph evaluates to the same bits; NaN is NaN."""
    for found, want in zip(evaluate(graph, *args), wanted, strict=True):
        agree(found, want, about=f"{about}:\n{graph}")


def near(found: Sequence[Array], wanted: Sequence[Array], about: object) -> None:
    """Equal but for other orders of summation, on the tame numbers of `cases`."""
    for have, want in zip(found, wanted, strict=True):
        assert have.dtype == want.dtype and have.shape == want.shape
        np.testing.assert_allclose(have, want, rtol=2e-5, atol=2e-5, err_msg=str(about))


def wanted(case: Case) -> tuple[Array, ...]:
    """What the graph is; where it fails, this case says nothing."""
    try:
        return evaluate(case.graph, *case.args)
    except TreadleError:
        assume(False)
        raise


def reads_back(graph: Graph) -> None:
    for options in ({}, {"sequences": True}, {"locations": False}):
        text = show(graph, data=True, **options)
        assert show(parse_graph(text), data=True, **options) == text


@given(cases(depth=2))
@graphs
def test_texts_of_tame_graphs_read_back(case: Case) -> None:
    reads_back(case.graph)
    same(parse_graph(show(case.graph, data=True)), case.args, wanted(case), "read back")


@given(table_cases())
@graphs
def test_texts_of_any_graph_read_back(case: TableCase) -> None:
    reads_back(case.graph)
    same(parse_graph(show(case.graph, data=True)), case.args, wanted(case), "read back")


@pytest.mark.parametrize("name", PASSES)
@given(case=cases(depth=2))
@graphs
def test_each_pass_keeps_tame_graphs(name: str, case: Case) -> None:
    """One pass by itself, on a graph as a user writes it."""
    after = PASSES[name](case.graph, context())
    for form in (WELL_FORMED, PLAIN, *PASSES[name].gives):
        form.check(after)
    if name == "identities":  # sums of sums become one sum
        near(evaluate(after, *case.args), wanted(case), after)
    else:
        same(after, case.args, wanted(case), name)
    reads_back(after)


@given(table_cases())
@graphs
def test_passes_keep_any_graph(case: TableCase) -> None:
    """The whole pipeline over every op, dtype and special value: opened composites may round otherwise, nothing after
    them."""
    steps = DEFAULT.run(case.graph, context())
    expanded, *rest = steps
    case.graph = expanded.after
    expected = wanted(case)
    for step in rest:
        WELL_FORMED.check(step.after)
        EXPANDED.check(step.after)
        same(step.after, case.args, expected, step.name)
    GROUPED.check(rest[-1].after)
    reads_back(rest[-1].after)
    program, constants = to_program(rest[-1].after, context())
    for found, want in zip(run(program, constants, *case.args), expected, strict=True):
        agree(found, want, about=program)


def refusing(seed: int) -> Any:
    """A code generator that has a kernel for some groups, at random, and wants scratch for some."""
    rng = random.Random(seed)
    answers: dict[str, bool] = {}

    def refuse(group: Graph) -> bool:
        return answers.setdefault(str(group), len(group.ops) > 1 and rng.random() < 0.4)

    def scratch(group: Graph) -> tuple[TensorType, ...]:
        return group.result_types[:1] if len(str(group)) % 3 == 0 else ()

    return context(refuse, scratch)


@given(cases(depth=2), st.integers(0, 1 << 30), st.data())
@graphs
def test_programs_compute_what_the_graph_says(case: Case, seed: int, data: Any) -> None:
    """Whatever kernels there are and whatever is donated; run over real bytes, with poison wherever nothing was
    written, and on symbols."""
    expected = wanted(case)
    cx = refusing(seed)
    cx.check = True
    grouped = data.draw(st.sampled_from((DEFAULT, OPEN_LOOPS))).run(case.graph, cx)[-1].after
    near(evaluate(grouped, *case.args), expected, grouped)
    donated: list[tuple[int, int]] = []
    for result, kind in enumerate(grouped.result_types):
        free = [
            argument
            for argument, given_kind in enumerate(grouped.param_types)
            if given_kind == kind and argument not in [a for _, a in donated]
        ]
        if free and data.draw(st.booleans()):
            donated.append((result, data.draw(st.sampled_from(free))))
    program, constants = to_program(grouped, cx, donated=donated)
    near(run(program, constants, *case.args), expected, program)


def compiled(graph: Graph, args: Sequence[Array]) -> tuple[Array, ...]:
    options = Options(cache=False, check=True)
    return tuple(prepare(graph, options=options).executable([np.array(arg) for arg in args]))


@given(cases(steps=9))
@few
def test_machine_code_computes_what_tame_graphs_say(case: Case) -> None:
    near(compiled(case.graph, case.args), wanted(case), case.graph)


# Refused by name: arithmetic on fp8, and complex numbers where a kernel has none.
REFUSALS = ("TD0431", "TD0434", "TD0435", "TD0501", "TD0502", "TD0503", "TD0504")


@given(table_cases(stated=True, steps=4))
@few
def test_machine_code_keeps_the_stated_bounds(case: TableCase) -> None:
    """Every op, dtype and special value, fused with others as it comes: exact where the op is, else as far off as its
    row allows."""
    expected = wanted(case)
    try:
        found = compiled(case.graph, case.args)
    except Unsupported as error:
        assert error.code in REFUSALS, error
        return
    for have, want, bound in zip(found, expected, case.bounds, strict=True):
        agree(have, want, bound.ulp, bound.atol, about=case.graph)
