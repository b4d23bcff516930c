"""Take work out of loops that they need not do step by step, and that `vectorize` leaves in them.

It has distributed what does not wait for the step before, where the target gains; what a derivative only adds up never
enters its loop (see `autodiff_control`). Left is what is the same in each step of a loop of any kind, also what later
passes have found to be so: it is computed before the loop. And a matrix that each step would read across its rows is
transposed once. Nothing that can fail moves, nor what waits (`After`); then the loop stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from ..ir.graph import Graph, inline, rebuild
from ..ir.location import at
from ..ir.ops.contract import Dot
from ..ir.ops.control import Scan, While
from ..ir.ops.families import Movement
from ..ir.ops.movement import Transpose
from ..ir.types import TensorType
from ..ir.value import After, Constant, DimSize, Full, Get, Parameter, Value, replace
from .cleanup import tidied
from .manager import Context, graph_pass
from .rewrite import in_bodies

Loop: TypeAlias = Scan | While


@graph_pass()
def loop_motion(graph: Graph, cx: Context) -> Graph:
    """Take out of loops what they need not do step by step."""
    after = moved(graph)
    return graph if after is graph else tidied(after)


def moved(graph: Graph) -> Graph:
    """The graph with less in its loops, inner ones first; itself where nothing moves."""
    if not any(value.bodies for value in graph.ops):
        return graph
    changed = False

    def step(value: Value) -> Value | None:
        nonlocal changed
        if not value.bodies:
            return None
        found = in_bodies(value, moved)
        if isinstance(found, Scan | While):
            found = transposed_once(without_constants(found))
        changed |= found is not value
        return found

    found = rebuild(graph, step)
    return found if changed else graph


# --- what stands still ------------------------------------------------------------------------------------------------


def movable(value: Value) -> bool:
    """Whether it makes no difference when, and how often, a value is computed."""
    return isinstance(value.type, TensorType) and not isinstance(value, After | Get) and not value.can_fail


def is_written(value: Value) -> bool:
    """Values that are as easily written down as read."""
    return isinstance(value, Parameter | Full | DimSize) or (isinstance(value, Constant) and value.rank == 0)


def dependent(body: Graph, params: Sequence[Value]) -> dict[int, Value]:
    """The movable values that nothing but these parameters enters; numbers alone are among them."""
    found: dict[int, Value] = {id(param): param for param in params}
    for value in body.ops:
        if movable(value) and all(id(operand) in found for operand in value.operands):
            found[id(value)] = value
    return found


def edges(body: Graph, inside: dict[int, Value]) -> list[Value]:
    """Which of the values `inside` the others read, in order. Where that is a view or copies of another one, the other
    is meant: the copies are made where they are read."""
    found: dict[int, Value] = {}
    waiting = [operand for value in body.ops if id(value) not in inside for operand in value.operands]
    waiting += body.results
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if id(value) not in inside or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Movement) and not isinstance(value, Transpose):
            waiting += value.operands
        elif not is_written(value) and not isinstance(value, Constant):
            found[id(value)] = value
    return [value for value in body.ops if id(value) in found]


def without_constants(op: Loop) -> Loop:
    """The loop that is handed what would be the same in each of its steps."""
    first = int(op.counted) if isinstance(op, Scan) else 0
    n = len(op.consts)
    body = op.body
    inside = dependent(body, body.params[first : first + n])
    steady = edges(body, inside)
    if not steady:
        return op
    given = inline(Graph("", body.params[first : first + n], tuple(steady), body.dims), op.consts)
    return handed(op, given, {id(value): i for i, value in enumerate(steady)})


def handed(op: Loop, given: Sequence[Value], stands_for: dict[int, int]) -> Loop:
    """The loop with further constants, `given`; values of the body that some of them stand for are named by id."""
    first = int(op.counted) if isinstance(op, Scan) else 0
    n = first + len(op.consts)
    new = tuple(Parameter(f"m{i}", value.tensor) for i, value in enumerate(given, len(op.consts)))

    def wider(graph: Graph, table: dict[int, Value]) -> Graph:
        found = rebuild(graph, lambda value: None, memo=table)
        return Graph(graph.name, (*graph.params[:n], *new, *graph.params[n:]), found.results, graph.dims)

    body = wider(op.body, {key: new[i] for key, i in stands_for.items()})
    consts = (*op.consts, *given)
    if isinstance(op, While):
        return While(consts, op.carry, wider(op.condition, {}), body)
    return Scan(consts, op.carry, op.xs, body, op.length, op.reverse, op.counted, op.chunk, op.any_order)


# --- matrices that are read across their rows -------------------------------------------------------------------------


def transposed_once(op: Loop) -> Loop:
    """The loop whose products read its constant matrices along their rows: lanes run along the last axis of a product's
    result, and a matrix that has this axis elsewhere would be put in order in every step."""
    first = int(op.counted) if isinstance(op, Scan) else 0
    params = op.body.params[first : first + len(op.consts)]
    number = {id(param): i for i, param in enumerate(params)}
    given: list[Value] = []
    places: dict[tuple[int, tuple[int, ...]], int] = {}
    new: dict[int, tuple[str, tuple[int, ...], int]] = {}
    for value in op.body.ops:
        if not isinstance(value, Dot) or value.rank == 0:
            continue
        side = "y" if value.y_free else "x"
        operand: Value = value.__dict__[side]
        free = value.y_free if side == "y" else value.x_free
        if not free or id(operand) not in number or free[-1] == operand.rank - 1:
            continue
        order = (*(axis for axis in range(operand.rank) if axis != free[-1]), free[-1])
        key = (number[id(operand)], order)
        if key not in places:
            places[key] = len(given)
            given.append(Transpose(op.consts[key[0]], order))
        new[id(value)] = (side, order, places[key])
    if not given:
        return op
    loop = handed(op, given, {})
    added = loop.body.params[first + len(op.consts) :]
    table: dict[int, Value] = {}

    def turned(value: Dot, side: str, order: tuple[int, ...], place: int) -> Value:
        changes: dict[str, object] = {side: added[place]}
        for axes in (f"{side}_batch", f"{side}_contract"):
            changes[axes] = tuple(order.index(axis) for axis in value.__dict__[axes])
        return replace(value, **changes)

    for param in loop.body.params:
        table[id(param)] = param
    for value in loop.body.ops:
        with at(value.origin):
            rebuilt = value.with_operands(tuple([table[id(operand)] for operand in value.operands]))
            if id(value) in new:
                assert isinstance(rebuilt, Dot)
                rebuilt = turned(rebuilt, *new[id(value)])
            table[id(value)] = rebuilt
    results = [table[id(result)] for result in loop.body.results]
    found = replace(loop, body=loop.body.with_results(results))
    assert isinstance(found, Scan | While)
    return found
