"""The validator catches programs that are legal and wrong: each test plants one fault in a right program.

Two oracles stand beside it: the checker of programs, which sees what is illegal, and the program run over real bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_graphs import OPEN_LOOPS, Case, cases, context

from treadle.ir.errors import CheckFailed
from treadle.ir.evaluate import evaluate
from treadle.ir.graph import Graph
from treadle.ir.parse import parse_graph
from treadle.ir.program import Call, Copy, Loop, Program, Slot, Statement, Switch, While
from treadle.ir.program_check import check
from treadle.ir.program_evaluate import run
from treadle.passes.buffers import to_program
from treadle.passes.pipelines import find
from treadle.passes.validate import validate


def planned(text: str, limit: int = 64) -> tuple[Graph, Program]:
    graph = find("fuse").with_options(limit=limit, loop_ops=0)(parse_graph(text), context())
    return graph, to_program(graph, context())[0]


def everywhere(body: Sequence[Statement], change: Callable[[Statement], Statement]) -> tuple[Statement, ...]:
    """Every statement changed, those inside loops and branches first."""
    found: list[Statement] = []
    for statement in body:
        match statement:
            case Loop(body=inner):
                statement = replace(statement, body=everywhere(inner, change))
            case While(condition=condition, body=inner):
                statement = replace(statement, condition=everywhere(condition, change), body=everywhere(inner, change))
            case Switch(branches=branches):
                statement = replace(statement, branches=tuple(everywhere(b, change) for b in branches))
        found.append(change(statement))
    return tuple(found)


# Three products in a row: each needs the one before it and the argument.
CHAIN = """
graph f(%x: f32[4,4]) -> f32[4,4]:
  %0 = dot %x, %x {x_batch=() y_batch=() x_contract=(1,) y_contract=(0,)} : f32[4,4]
  %1 = dot %0, %x {x_batch=() y_batch=() x_contract=(1,) y_contract=(0,)} : f32[4,4]
  %2 = dot %1, %0 {x_batch=() y_batch=() x_contract=(1,) y_contract=(0,)} : f32[4,4]
  return %2
"""


def test_a_right_program_passes() -> None:
    graph, program = planned(CHAIN)
    validate(graph, program)


def test_a_slot_that_is_taken_too_early_is_caught() -> None:
    """The second product is put where the first one lies, which the third still reads. No call overlaps itself, and
    every byte that is read was written: only the content is wrong."""
    graph, program = planned(CHAIN)
    first, second, third = program.body
    assert isinstance(first, Call) and isinstance(second, Call) and isinstance(third, Call)
    spare = replace(first.writes[0], offset=0)
    third = replace(third, reads=(spare, spare))
    second = replace(second, reads=(Slot("in", 0, 0, spare.type), second.reads[1]), writes=(spare,))
    wrong = replace(program, body=(first, second, third))
    check(wrong)
    with pytest.raises(CheckFailed, match="TD0352: f: result 0 does not hold what the graph says"):
        validate(graph, wrong)


def test_operands_in_another_order_are_caught() -> None:
    graph, program = planned(CHAIN)
    *before, last = program.body
    assert isinstance(last, Call)
    wrong = replace(program, body=(*before, replace(last, reads=last.reads[::-1])))
    check(wrong)
    with pytest.raises(CheckFailed, match="TD0352"):
        validate(graph, wrong)


def test_statements_in_another_order_are_caught() -> None:
    graph, program = planned(
        """
graph f(%x: f32[4], %y: f32[1], %i: i64[]) -> (f32[4], f32[]):
  %0 = exp %x : f32[4]
  %1 = dynamic_update %0, %y, [%i] : f32[4]
  %2 = sum %0 {axes=(0,)} : f32[]
  return %1, %2
""",
        limit=1,
    )
    first, *rest = program.body
    validate(graph, program)
    wrong = replace(program, body=(first, *rest[::-1]))
    check(wrong)
    with pytest.raises(CheckFailed, match=r"TD0352: f: result 1"):
        validate(graph, wrong)


LOOP = """
graph f(%x: f32[4], %y: f32[4]) -> (f32[4], f32[4]):
  %0 = scan [], [%x, %y], [] {length=3} : (f32[4], f32[4])
    body = graph step(%a: f32[4], %b: f32[4]) -> (f32[4], f32[4]):
      %0 = neg %b : f32[4]
      return %0, %a
  %1 = get %0 {index=0} : f32[4]
  %2 = get %0 {index=1} : f32[4]
  return %1, %2
"""


def test_a_lost_copy_of_a_carry_is_caught() -> None:
    """Each copy in turn is left out: before the loop, in it, and the one through spare memory."""
    graph, program = planned(LOOP)
    validate(graph, program)
    copies: list[Copy] = []

    def note(statement: Statement) -> Statement:
        if isinstance(statement, Copy):
            copies.append(statement)
        return statement

    everywhere(program.body, note)
    assert len(copies) >= 3
    for lost in copies:

        def lose(statement: Statement, lost: Copy = lost) -> Statement:
            return Copy(lost.target, lost.target) if statement is lost else statement

        with pytest.raises(CheckFailed, match="TD0352"):
            validate(graph, replace(program, body=everywhere(program.body, lose)))


def test_a_loop_that_runs_the_other_way_is_caught() -> None:
    graph, program = planned(
        """
graph f(%x: f32[4], %xs: f32[3,4]) -> f32[4]:
  %0 = scan [], [%x], [%xs] {length=3} : (f32[4])
    body = graph step(%a: f32[4], %s: f32[4]) -> f32[4]:
      %0 = sub %s, %a : f32[4]
      return %0
  %1 = get %0 {index=0} : f32[4]
  return %1
"""
    )
    validate(graph, program)
    wrong = replace(
        program, body=everywhere(program.body, lambda s: replace(s, reverse=True) if isinstance(s, Loop) else s)
    )
    with pytest.raises(CheckFailed, match="TD0352"):
        validate(graph, wrong)


def test_exchanged_branches_are_caught() -> None:
    graph, program = planned(
        """
graph f(%n: i64[], %x: f32[4]) -> f32[4]:
  %0 = switch %n, [%x] : (f32[4])
    branches[0] = graph a(%a: f32[4]) -> f32[4]:
      %0 = exp %a : f32[4]
      return %0
    branches[1] = graph b(%a: f32[4]) -> f32[4]:
      return %a
  %1 = get %0 {index=0} : f32[4]
  return %1
"""
    )
    validate(graph, program)
    wrong = replace(
        program,
        body=everywhere(program.body, lambda s: replace(s, branches=s.branches[::-1]) if isinstance(s, Switch) else s),
    )
    with pytest.raises(CheckFailed, match="TD0352"):
        validate(graph, wrong)


# What is wrong inside a loop is seen whatever the contents are that decide how often it runs.
@pytest.mark.parametrize("constant", range(8))
def test_loops_are_entered(constant: int) -> None:
    graph, program = planned(
        f"""
graph f(%x: f32[]) -> f32[]:
  %0 = full {constant}.0 : f32[]
  %1 = while [], [%0, %x] : (f32[], f32[])
    condition = graph c(%i: f32[], %y: f32[]) -> bool[]:
      %0 = full 9.0 : f32[]
      %1 = lt %i, %0 : bool[]
      return %1
    body = graph b(%i: f32[], %y: f32[]) -> (f32[], f32[]):
      %0 = full 1.0 : f32[]
      %1 = add %i, %0 : f32[]
      return %1, %i
  %2 = get %1 {{index=1}} : f32[]
  return %2
"""
    )
    validate(graph, program)
    (loop,) = [s for s in program.body if isinstance(s, While)]
    for i in range(len(loop.body)):
        rest = replace(loop, body=loop.body[:i] + loop.body[i + 1 :])
        with pytest.raises(CheckFailed, match="TD0352"):
            validate(graph, replace(program, body=tuple(rest if s is loop else s for s in program.body)))


def test_another_kernel_is_caught() -> None:
    """Kernels are told apart by what they compute, not by what they are called."""
    _, program = planned("graph f(%x: f32[4]) -> f32[4]:\n  %0 = exp %x : f32[4]\n  return %0\n")
    other, _ = planned("graph f(%x: f32[4]) -> f32[4]:\n  %0 = neg %x : f32[4]\n  return %0\n")
    with pytest.raises(CheckFailed, match="TD0352"):
        validate(other, program)


# Any one slot moved elsewhere: what neither the checker nor the validator refuses is still right on real bytes.
@pytest.mark.fuzz
@given(cases(depth=1, symbolic=False), st.integers(0, 1 << 30))
@settings(suppress_health_check=list(HealthCheck))
def test_no_moved_slot_goes_unseen(case: Case, seed: int) -> None:
    rng = random.Random(seed)
    cx = context()
    graph = OPEN_LOOPS.run(case.graph, cx)[-1].after
    program, constants = to_program(graph, cx)
    slots: list[Slot] = []

    def note(statement: Statement) -> Statement:
        match statement:
            case Call(_, reads, writes):
                slots.extend((*reads, *writes))
            case Copy(source, target):
                slots.extend((source, target))
        return statement

    everywhere(program.body, note)
    places = [(s.space, s.index, s.offset) for s in slots]
    assume(len(set(places)) > 1)
    number = rng.randrange(len(slots))
    space, index, offset = rng.choice([p for p in places if p != places[number]])
    seen = iter(range(len(slots)))

    def moved(slot: Slot) -> Slot:
        return replace(slot, space=space, index=index, offset=offset) if next(seen) == number else slot

    def mutate(statement: Statement) -> Statement:
        match statement:
            case Call(_, reads, writes):
                return replace(statement, reads=tuple(map(moved, reads)), writes=tuple(map(moved, writes)))
            case Copy(source, target):
                return Copy(moved(source), moved(target))
        return statement

    wrong = replace(program, body=everywhere(program.body, mutate))
    try:
        check(wrong)
        validate(graph, wrong)
    except CheckFailed:
        return
    for found, want in zip(run(wrong, constants, *case.args), evaluate(graph, *case.args), strict=True):
        np.testing.assert_array_equal(found, want)
