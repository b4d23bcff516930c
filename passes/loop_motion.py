"""Take work out of loops that they need not do step by step.

Out of every loop goes what is the same in each step. Out of a scan, whose steps are counted, go also products that read
its stacked inputs alone: that of a weight with each step's input is one product with all of them, before the loop. So
do those that only a stacked result needs, after it. (Whole loops whose steps are independent are `vectorize`'s, and
what a derivative only adds up never enters its loop, see `autodiff_control`.) A matrix that each step would read
across its rows is transposed once. Nothing that can fail moves, nor what waits (`After`), nor
what would need large stacks; then the loop stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from ..ir.classes import dataclass
from ..ir.dims import Dim, known_le, product
from ..ir.graph import Graph, inline, rebuild
from ..ir.location import at
from ..ir.ops.contract import Dot
from ..ir.ops.control import Scan, While
from ..ir.ops.families import Contraction, Movement
from ..ir.ops.movement import Transpose
from ..ir.types import TensorType
from ..ir.value import After, Constant, DimSize, Full, Get, Parameter, Value, replace
from .batch import batch
from .cleanup import tidied
from .identities import exchanged
from .manager import Context, graph_pass
from .rewrite import in_bodies, rewrite

STACK_BYTES: Final = 32 << 20  # of what one loop may stack more than it did

Elements: TypeAlias = tuple[Value, ...]
Loop: TypeAlias = Scan | While


@graph_pass()
def loop_motion(graph: Graph, cx: Context) -> Graph:
    """Take out of loops what they need not do step by step."""
    after = moved(graph, cx)
    return graph if after is graph else tidied(after)


def moved(graph: Graph, cx: Context) -> Graph:
    """The graph with less in its loops, inner ones first; itself where nothing moves."""
    if not any(value.bodies for value in graph.ops):
        return graph
    memo: dict[int, Value] = {id(param): param for param in graph.params}
    parts: dict[int, Elements] = {}
    for value in graph.ops:
        with at(value.origin):
            if isinstance(value, Get) and id(value.x) in parts:
                memo[id(value)] = parts[id(value.x)][value.index]
                continue
            operands = value.operands
            if any(memo[id(operand)] is not operand for operand in operands):
                op = value.with_operands(tuple([memo[id(operand)] for operand in operands]))
            else:
                op = value
            op = in_bodies(op, lambda body: moved(body, cx))
            memo[id(value)] = op
            if isinstance(op, Scan | While):
                found = unloaded(op, cx)
                if found is not None:
                    parts[id(value)] = found
    if all(memo[id(result)] is result for result in graph.results):
        return graph
    return graph.with_results([memo[id(result)] for result in graph.results])


def unloaded(op: Loop, cx: Context) -> Elements | None:
    """The elements of a loop that does less, None where it has to do all it does."""
    loop = without_constants(op)
    made: list[Made] = []
    if isinstance(loop, Scan):
        loop, made = batched_after(loop, cx)
        loop = batched_before(loop, cx)
    loop = transposed_once(loop)
    if loop is op:
        return None
    elements: list[Value] = [Get(loop, i) for i in range(len(loop.body.results))]
    for each in made:
        elements[each.number] = each.of_all_steps(elements)
    return tuple(elements)


# --- what stands still, and what follows the inputs -------------------------------------------------------------------


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
    return Scan(consts, op.carry, op.xs, body, op.length, op.reverse, op.counted)


def batched_before(op: Scan, cx: Context) -> Scan:
    """The scan whose steps are handed the products that read nothing but its inputs: made for all of them at once."""
    body, first = op.body, int(op.counted)
    n, m = first + len(op.consts), first + len(op.consts) + len(op.carry)
    consts, xs = body.params[first:n], body.params[m:]
    inside = dependent(body, (*consts, *xs))
    # A value is worth it for a product in it.
    heavy: set[int] = set()
    for value in body.ops:
        if id(value) in inside and (sums_up(value) or any(id(o) in heavy for o in value.operands)):
            heavy.add(id(value))
    ahead = [value for value in edges(body, inside) if id(value) in heavy and fits([value], op.length)]
    if not ahead:
        return op
    graph = Graph(body.name, (*consts, *xs), tuple(ahead), body.dims)
    made, flags = batch(graph, (*[False] * len(consts), *[True] * len(xs)), op.length)
    assert all(flags)
    given = inline(rewrite(made, in_order), (*op.consts, *op.xs))
    for value in ahead:
        cx.remark(value, "made for all steps at once, before the loop")
    new = tuple(Parameter(f"a{i}", value.tensor) for i, value in enumerate(ahead))
    left = rebuild(body, lambda value: None, memo={id(a): p for a, p in zip(ahead, new, strict=True)})
    inner = Graph(body.name, (*body.params, *new), left.results, body.dims)
    return Scan(op.consts, op.carry, (*op.xs, *given), inner, op.length, op.reverse, op.counted)


@dataclass(frozen=True)
class Made:
    """Result `number` of a loop as `graph` of all steps at once. `stacks` are its operands: results of the loop by
    number, or values; those marked in `stacked` have the axis of the steps."""

    number: int
    graph: Graph
    stacks: tuple[int | Value, ...]
    stacked: tuple[bool, ...]
    length: Dim

    def of_all_steps(self, elements: Sequence[Value]) -> Value:
        made, (flag,) = batch(self.graph, self.stacked, self.length)
        assert flag
        given = [elements[stack] if isinstance(stack, int) else stack for stack in self.stacks]
        return inline(rewrite(made, in_order), given)[0]


def batched_after(op: Scan, cx: Context) -> tuple[Scan, list[Made]]:
    """The scan without products that only its stacked results need, and what these are made of after it: stacks of
    what the products read."""
    body, first, count = op.body, int(op.counted), len(op.carry)
    n = first + len(op.consts)
    carried = {id(value) for value in body.with_results(body.results[:count]).ops}
    consts = {id(param): x for param, x in zip(body.params[first:n], op.consts, strict=True)}
    stacks: dict[int, int | Value] = {id(x): s for x, s in zip(body.params[n + count :], op.xs, strict=True)}
    looped = behind_loops(body)
    fresh: list[Value] = []
    made: list[Made] = []
    for number, result in enumerate(body.results[count:], count):
        inner, edge = cone(body, result, carried)
        more = [v for v in edge if id(v) not in consts and id(v) not in stacks]
        small = known_le(sum(v.tensor.bytes for v in more), 4 * result.tensor.bytes)
        counts = any(v is param for v in edge for param in body.params[:first])
        if counts or not any(map(sums_up, inner)) or all(id(v) in consts for v in edge):
            continue
        if not small or not fits([*fresh, *more], op.length) or any(id(v) in looped for v in more):
            continue
        for value in more:
            stacks[id(value)] = len(body.results) + len(fresh)
            fresh.append(value)
        params = tuple(Parameter(f"p{i}", value.tensor) for i, value in enumerate(edge))
        table: dict[int, Value] = {id(v): p for v, p in zip(edge, params, strict=True)}
        for value in inner:
            with at(value.origin):
                table[id(value)] = value.with_operands(tuple([table[id(operand)] for operand in value.operands]))
        graph = Graph(body.name, params, (table[id(result)],), body.dims)
        places = tuple([consts[id(v)] if id(v) in consts else stacks[id(v)] for v in edge])
        made.append(Made(number, graph, places, tuple([id(v) not in consts for v in edge]), op.length))
        cx.remark(result, "made of all steps at once, after the loop")
    if not made:
        return op, []
    inner_body = Graph(body.name, body.params, (*body.results, *fresh), body.dims)
    return Scan(op.consts, op.carry, op.xs, inner_body, op.length, op.reverse, op.counted), made


def behind_loops(body: Graph) -> set[int]:
    """The values that a loop within a step has made. A scan of scans is how steps are checkpointed: what the inner one
    stacks is to be there for as long as a step of the outer one."""
    found: set[int] = set()
    for value in body.ops:
        if isinstance(value, Scan | While) or any(id(operand) in found for operand in value.operands):
            found.add(id(value))
    return found


def cone(body: Graph, result: Value, carried: set[int]) -> tuple[list[Value], list[Value]]:
    """The movable values that `result` is made of and no carry needs, in order, and what these read beyond them."""
    inner: dict[int, Value] = {}
    edge: dict[int, Value] = {}
    waiting = [result]
    while waiting:
        value = waiting.pop()
        written = isinstance(value, Full | DimSize | Constant)
        if written or (movable(value) and not isinstance(value, Parameter) and id(value) not in carried):
            if id(value) not in inner:
                inner[id(value)] = value
                waiting += value.operands
        else:
            edge[id(value)] = value
    return [v for v in body.order if id(v) in inner], [v for v in body.order if id(v) in edge]


def sums_up(value: Value) -> bool:
    """Whether a value is a product that is no mere outer one, which had better be made where it is read."""
    structure = value.structure() if isinstance(value, Contraction) else None
    return structure is not None and any(axis.kind == "reduce" and axis.extent != 1 for axis in structure.axes)


def in_order(value: Value) -> Value | None:
    """A transposed product as the product with its operands exchanged."""
    match value:
        case Transpose(Dot() as dot, permutation):
            return exchanged(dot, permutation)
    return None


def fits(values: Sequence[Value], length: Dim) -> bool:
    """Whether stacks of these values are small. Of a length that is not known they are as small as one step's."""
    sizes = [value.tensor.bytes for value in values]
    total = product([sum(sizes), length if type(length) is int else 1])
    return type(total) is int and total <= STACK_BYTES


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
