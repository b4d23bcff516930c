"""The manager's promises: what a pipeline refuses, what can be seen of a run, and who is blamed for a wrong answer."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from random_graphs import TARGET, Permissive, context

from treadle.ir.errors import CheckFailed, InvalidValue
from treadle.ir.evaluate import evaluate
from treadle.ir.forms import EXPANDED, GROUPED
from treadle.ir.graph import Graph, rebuild
from treadle.ir.ops.elementwise import Convert
from treadle.ir.parse import parse_graph
from treadle.ir.value import Add, Full, Sub, Value, replace
from treadle.passes.manager import Context, Pipeline, Step, blame, graph_pass
from treadle.passes.pipelines import DEFAULT, PASSES, find, given, spelled
from treadle.passes.rewrite import rewrite

TEXT = """
graph f(%x: f32[4], %y: f32[4]) -> f32[4]:
  %0 = full 0.0 : f32[4]
  %1 = neg %x : f32[4]
  %2 = neg %1 : f32[4]
  %3 = sub %2, %y : f32[4]
  %4 = tanh %3 : f32[4]
  return %4
"""
GRAPH = parse_graph(TEXT)
ARGS = (np.linspace(-1, 1, 4, dtype=np.float32), np.ones(4, np.float32))


# Passes that exist only here.


@graph_pass()
def swap(graph: Graph, cx: Context) -> Graph:
    """Wrong on purpose: x - y becomes y - x."""

    return rebuild(graph, lambda value: Sub(value.y, value.x) if isinstance(value, Sub) else None)


@graph_pass()
def idle(graph: Graph, cx: Context) -> Graph:
    """Right, and says why it does nothing."""
    cx.remark(graph.results[0], "left alone")
    return graph


@graph_pass(gives=[GROUPED])
def boast(graph: Graph, cx: Context) -> Graph:
    """Says that it groups, and does not."""
    return graph


@graph_pass(breaks=[EXPANDED])
def spoil(graph: Graph, cx: Context) -> Graph:
    return graph


@graph_pass()
def retype(graph: Graph, cx: Context) -> Graph:
    from treadle.ir.dtypes import f64

    return graph.with_results([Convert(result, f64) for result in graph.results])


# Options.


@pytest.mark.parametrize(
    "text", ["identities", "identities(exact=False), fuse(limit=8, copy_flops=2)", "", "cleanup, cleanup"]
)
def test_passes_are_spelt_as_they_print(text: str) -> None:
    """What a dump shows can be typed in again."""
    assert ", ".join(each.spelling for each in spelled(text)) == text


def test_every_option_can_be_spelt() -> None:
    """No option is only for Python: each has a plain default, and a changed one comes back from its spelling."""
    for each in PASSES.values():
        for field in fields(each.options) if each.options is not None else ():
            assert type(field.default) in (bool, int)
            changed = each.with_options(**{field.name: not field.default if type(field.default) is bool else 3})
            assert spelled(changed.spelling) == (changed,)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("fuzz", "TD0304"),
        ("fuse(depth=3)", "TD0301"),
        ("fuse(limit=None)", "TD0301"),
        ("fuse(limit=True)", "TD0301"),
        ("cleanup(limit=3)", "TD0301"),
        ("fuse(3)", "TD0306"),
        ("fuse(limit=print())", "TD0306"),
        ("fuse; cleanup", "TD0306"),
        ("fuse(", "TD0306"),
        ("'fuse'", "TD0306"),
    ],
)
def test_what_is_no_pass_is_refused(text: str, code: str) -> None:
    """A misspelt option must not be a pass without it."""
    with pytest.raises(InvalidValue, match=code):
        spelled(text)


# Forms.


def test_a_need_must_be_given_before() -> None:
    """The table is checked when it is built, not when it is run."""
    with pytest.raises(CheckFailed, match=r"TD0302: pipeline p: fuse needs EXPANDED, which no pass before it gives"):
        Pipeline("p", (find("fuse"), find("expand")))
    with pytest.raises(CheckFailed, match="TD0302"):
        Pipeline("p", (find("expand"), spoil, find("fuse")))
    Pipeline("p", (find("expand"), spoil, find("expand"), find("fuse")))


def test_a_graph_may_have_a_form_from_the_start() -> None:
    """A text without composites is fused as it stands; one with composites has to be expanded first."""
    composite = parse_graph("graph f(%x: f32[4]) -> f32[4]:\n  %0 = softmax %x {axis=0} : f32[4]\n  return %0\n")
    assert len(given("fuse", GRAPH, Permissive().keeps).run(GRAPH, context())) == 1
    with pytest.raises(CheckFailed, match="TD0302"):
        given("fuse", composite, Permissive().keeps)
    given("fuse", composite, lambda op: True)


def test_forms_are_checked_after_every_pass() -> None:
    """A pass that does not give what it says is named, and what breaks the form with it."""
    pipeline = Pipeline("p", (find("expand"), boast, find("cleanup")))
    pipeline.run(GRAPH, context())
    with pytest.raises(CheckFailed, match=r"TD0250: f is not GROUPED after boast: <neg : f32\[4\]> computes outside"):
        pipeline.run(GRAPH, Context(TARGET, Permissive(), check=True))


def test_a_pass_may_not_change_the_signature() -> None:
    """Callers pass and receive what the traced graph says."""
    with pytest.raises(CheckFailed, match="TD0307: f: retype"):
        Pipeline("p", (retype,)).run(GRAPH, context())


# What is seen of a run.


def test_passes_are_announced_before_they_run() -> None:
    """Whoever watches a compilation knows which pass is at work, and on what."""
    heard: list[tuple[str, Graph, int]] = []
    cx = context()
    cx.announce = lambda spelling, graph: heard.append((spelling, graph, len(cx.remarks)))
    steps = Pipeline("p", (idle, find("identities").with_options(exact=False), idle)).run(GRAPH, cx)
    assert [(name, said) for name, _, said in heard] == [("idle", 0), ("identities(exact=False)", 1), ("idle", 1)]
    assert [graph for _, graph, _ in heard] == [step.before for step in steps]


def test_steps_show_what_happened() -> None:
    """Each step keeps both graphs, says whether anything changed, and has the remarks of its own pass alone."""
    first, second = Pipeline("p", (idle, find("identities"))).run(GRAPH, context())
    assert first.after is second.before is GRAPH
    assert not first.changed and "(unchanged)" in str(first) and first.diff() == ""
    assert [str(remark) for remark in first.remarks] == ["idle: tanh: left alone"] and not second.remarks
    assert second.changed and "4 -> 2 ops" in str(second)
    assert "--- before identities" in second.diff() and "-  %0 = neg %x : f32[4]" in second.diff()
    assert first.seconds >= 0


def test_a_run_can_stop_early() -> None:
    assert [step.name for step in DEFAULT.run(GRAPH, context(), until="identities")] == [
        "expand",
        "cleanup",
        "vectorize",
        "identities",
    ]


# Blame.


def run(*names: object) -> list[Step]:
    return Pipeline("p", tuple(find(n) if isinstance(n, str) else n for n in names)).run(GRAPH, context())  # type: ignore[misc]


def test_the_first_wrong_pass_is_blamed() -> None:
    """Not the one after it, in which the wrong answer is still there, and not one that made other roundings."""
    verdict = blame(run("expand", "identities", swap, "cleanup", "constants", "fuse"), ARGS)
    assert verdict.step is not None and verdict.step.name == "swap"
    want, got = (evaluate(g, *ARGS)[0] for g in (verdict.step.before, verdict.step.after))
    assert verdict.error == pytest.approx(np.abs(want - got).max() / np.abs(want).max())
    assert "swap changed the answer by" in str(verdict) and "+++ after swap" in str(verdict)


def test_nobody_is_blamed_for_nothing() -> None:
    verdict = blame(run("expand", "identities", "cleanup", "constants", "fuse"), ARGS)
    assert verdict.step is None and verdict.error == 0 and "no pass changed the answer" in str(verdict)


# On inputs where the wrong answer is the right one, nobody can be blamed: which inputs are given matters.
def test_blame_sees_only_the_given_inputs() -> None:
    same = (ARGS[0], ARGS[0])
    assert blame(run("expand", swap), same).step is None


def planted(dtype: str, before: str, after: str) -> list[Step]:
    """One step that turns one graph of an array into another."""
    graphs = [
        parse_graph(f"graph f(%x: {dtype}[3]) -> {dtype}[3]:\n  {line} : {dtype}[3]\n  return %0\n")
        for line in (before, after)
    ]
    return [Step("planted", 0.0, graphs[0], graphs[1], True, ())]


def test_integers_must_be_the_same_and_floats_nearly() -> None:
    """A unit in the last place is a rounding for floats and a wrong answer for integers."""
    floats = planted("f32", "%0 = exp2 %x", "%0 = exp2 %x")[0]
    nearly = Graph("f", floats.after.params, (floats.after.results[0] * (1 + 2e-7),))
    off = Graph("f", floats.after.params, (floats.after.results[0] * (1 + 2e-5),))
    x = (np.array([0.5, 1.5, 2.5], np.float32),)
    assert blame([Step("planted", 0.0, floats.before, nearly, True, ())], x).step is None
    assert blame([Step("planted", 0.0, floats.before, off, True, ())], x).step is not None
    assert blame([Step("planted", 0.0, floats.before, off, True, ())], x, tolerance=[1e-4]).step is None
    numbers = planted("i32", "%0 = neg %x", "%0 = not %x")
    assert blame(numbers, (np.array([1000000, 2, 3], np.int32),)).step is not None


def test_nan_is_no_excuse() -> None:
    """NaN where a number was is a change, however large the numbers beside it; NaN where NaN was is none."""
    step = planted("f32", "%0 = sqrt %x", "%0 = log %x")[0]
    nan = Graph("f", step.after.params, (replace(step.before.results[0], x=step.after.params[0] * float("nan")),))
    x = (np.array([4.0, np.nan, 1e30], np.float32),)
    assert blame([Step("planted", 0.0, step.before, nan, True, ())], x).error == np.inf
    assert blame([Step("planted", 0.0, step.before, step.before, True, ())], x).step is None


def test_an_error_is_an_answer() -> None:
    """A pass that removes a failure, or brings one, is blamed."""
    fails = parse_graph(
        """
graph f(%x: i32[3], %y: i32[3]) -> i32[3]:
  %0 = pow %x, %y : i32[3]
  return %0
"""
    )
    quiet = Graph("f", fails.params, (Add(*fails.params),))
    x = (np.array([1, 2, 3], np.int32), np.array([0, -1, 2], np.int32))
    for before, after in ((fails, quiet), (quiet, fails)):
        assert blame([Step("planted", 0.0, before, after, True, ())], x).step is not None
    assert blame([Step("planted", 0.0, fails, fails, True, ())], x).step is None


# Rewriting.


def test_rules_that_undo_each_other_are_an_error() -> None:
    """A budget per op turns a cycle into an error with the op's name, not a hang."""

    def flip(value: Value) -> Value | None:
        match value:
            case Sub(x, y):
                return Add(y, x)
            case Add(x, y):
                return Sub(y, x)
        return None

    with pytest.raises(CheckFailed, match="TD0303: rewrites of"):
        rewrite(GRAPH, flip)


def test_a_rule_may_not_change_a_type() -> None:
    """Readers would be built on what they do not expect."""
    with pytest.raises(CheckFailed, match="TD0305"):
        rewrite(GRAPH, lambda v: Full(1, v.tensor.with_shape(())) if isinstance(v, Sub) else None)
