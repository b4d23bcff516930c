"""Sequences: every one is legal, none needs more memory than the program's own order, and the peak it is chosen by is
what a slow walk over the values counts."""

from __future__ import annotations

import itertools

from hypothesis import given
from random_graphs import Case, cases, context

from treadle.ir.dims import evaluate
from treadle.ir.graph import Graph
from treadle.ir.ops.control import Group
from treadle.ir.parse import parse_graph
from treadle.ir.value import After, Get, Value
from treadle.passes.arena import ALIGNMENT
from treadle.passes.fuse import fuse
from treadle.passes.order import Work, sequences, typical
from treadle.passes.reuse import updates_of, view_of


def grouped(text: str) -> Graph:
    return fuse(parse_graph(text), context())


def counted(graph: Graph, order: tuple[Value, ...], sizes: dict[str, int]) -> int:
    """The most bytes live at once, by asking at each moment which values have been made and are still to be read."""
    running = {id(op) for op in order}

    def lies_in(value: Value) -> tuple[int, int] | None:
        """(op, result) whose memory a value is, None for what is given from outside."""
        whole, index = (value.x, value.index) if isinstance(value, Get) else (value, 0)
        if isinstance(whole, Group) and (view := view_of(whole.body)) is not None:
            return lies_in(whole.args[view.param])
        if isinstance(whole, After):
            return lies_in(whole.x)
        return (id(whole), index) if id(whole) in running else None

    kept = {place for result in graph.results if (place := lies_in(result)) is not None}
    read = [{place for o in op.operands if (place := lies_in(o)) is not None} for op in order]
    most = 0
    for now, op in enumerate(order):
        live = {(id(op), i) for i in range(len(op.tensors))}
        live |= {place for place in set().union(*read[now:]) if place[0] in {id(before) for before in order[:now]}}
        kinds = {(id(each), i): kind for each in order for i, kind in enumerate(each.tensors)}
        rounded = [-(-evaluate(kinds[p].bytes, sizes) // ALIGNMENT) * ALIGNMENT for p in live if p not in kept]
        most = max(most, sum(rounded))
    return most


def legal(graph: Graph, order: tuple[Value, ...]) -> bool:
    """Whether everything comes after what it reads, `Get`s and views looked through."""
    done = {id(param) for param in graph.params}
    running = {id(op) for op in order}

    def made(value: Value) -> bool:
        return id(value) in done if id(value) in running else all(map(made, value.operands))

    for op in order:
        if not all(map(made, op.operands)):
            return False
        done.add(id(op))
    return True


@given(cases(depth=0, steps=10))
def test_no_sequence_is_worse_than_the_program(case: Case) -> None:
    graph = fuse(case.graph, context())
    sizes = typical(graph)
    program, least, written = sequences(graph, sizes)
    for each in (program, least, written):
        assert legal(graph, each.ops)
        assert {id(op) for op in each.ops} == {id(op) for op in program.ops}
        assert each.peak == counted(graph, each.ops, sizes)
    assert least.peak <= program.peak


# Written first and read last: as it stands, three long arrays live at once, and two are enough.
WIDE = """
graph f(%x: f32[64]) -> f32[]:
  %0 = dot %x, %x {x_batch=() y_batch=() x_contract=() y_contract=()} : f32[64,64]
  %1 = cum_sum %0 {axis=0 reverse=False} : f32[64,64]
  %2 = neg %x : f32[64]
  %3 = dot %2, %x {x_batch=() y_batch=() x_contract=() y_contract=()} : f32[64,64]
  %4 = cum_sum %3 {axis=1 reverse=False} : f32[64,64]
  %5 = dot %1, %x {x_batch=() y_batch=() x_contract=(0,) y_contract=(0,)} : f32[64]
  %6 = dot %4, %x {x_batch=() y_batch=() x_contract=(0,) y_contract=(0,)} : f32[64]
  %7 = dot %5, %6 {x_batch=() y_batch=() x_contract=(0,) y_contract=(0,)} : f32[]
  return %7
"""


def test_the_least_of_small_graphs_is_found() -> None:
    """Every legal sequence tried, the chosen one needs no more than the best."""
    graph = grouped(WIDE)
    program, least, _ = sequences(graph, {})
    legal_ones = [order for order in itertools.permutations(least.ops) if legal(graph, order)]
    assert len(legal_ones) > 1
    assert least.peak == min(counted(graph, order, {}) for order in legal_ones) < program.peak


def test_an_update_waits_for_the_other_readers_of_what_it_overwrites() -> None:
    """Then it works in place, wherever it is written; where that is a cycle it goes first all the same."""
    graph = grouped("""
graph f(%x: f32[100], %r: f32[1], %i: i64[]) -> (f32[100], f32[]):
  %0 = exp %x : f32[100]
  %1 = dynamic_update %0, %r, [%i] : f32[100]
  %2 = dot %0, %0 {x_batch=() y_batch=() x_contract=() y_contract=()} : f32[100,100]
  %3 = sum %2 {axes=(0,1)} : f32[]
  return %1, %3
""")
    program, _, written = sequences(graph, {})

    def place(order: tuple[Value, ...], update: bool) -> int:
        groups = [op for op in order if isinstance(op, Group)]
        return next(i for i, op in enumerate(groups) if bool(updates_of(op.body)) == update and i > 0)

    assert place(program.ops, True) > place(program.ops, False)
    assert place(written.ops, True) < place(written.ops, False)


def test_the_same_sequence_whatever_was_built_before() -> None:
    """Ties are broken by the program's order, never by where objects lie."""
    found = []
    for clutter in range(3):
        kept = [Value.__new__(Get) for _ in range(clutter * 1000)]
        graph = grouped(WIDE)
        found.append([op.body.name for op in sequences(graph, {})[1].ops if isinstance(op, Group)])
        del kept
    assert found[0] == found[1] == found[2]


def test_room_counts_while_a_step_runs() -> None:
    graph = grouped(WIDE)
    work = Work(graph, {})
    order = [step.number for step in work.steps]
    before = work.peak(order)
    work.steps[0].room = 1 << 30
    assert work.peak(order) >= (1 << 30) > before
