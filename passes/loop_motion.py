"""Take work out of loops that they need not do step by step.

Out of every loop goes what is the same in each step. Out of a scan, whose steps are counted, goes also what reads its
stacked inputs alone: the product of a weight with each step's input is one product with all of them, before the loop.
And what only adds up: a carry that grows by the product of two values of the step, as the gradient of a weight does, is
one product of the stacks of both, after the loop. A matrix that each step would read across its rows is transposed
once. Nothing that can fail moves, nor what waits (`After`), nor what would need large stacks; then the loop stays as it
is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from ..ir.dims import Dim, known_le, product
from ..ir.graph import Graph, Uses, inline, rebuild
from ..ir.location import at
from ..ir.ops.contract import Dot
from ..ir.ops.control import Scan, While
from ..ir.ops.families import Contraction, Movement
from ..ir.ops.movement import Transpose
from ..ir.ops.reduce import Sum
from ..ir.types import TensorType
from ..ir.value import Add, After, Constant, DimSize, Full, Get, Parameter, Sub, Value, replace
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
    if isinstance(loop, Scan):
        loop = batched_before(loop, cx)
    loop = transposed_once(loop)
    found = summed_after(loop, cx) if isinstance(loop, Scan) else None
    if found is None and loop is not op:
        found = tuple([Get(loop, i) for i in range(len(op.type.elements))])  # type: ignore[union-attr]
    return found


# --- what stands still, and what follows the inputs -------------------------------------------------------------------


def movable(value: Value) -> bool:
    """Whether it makes no difference when, and how often, a value is computed."""
    return isinstance(value.type, TensorType) and not isinstance(value, After) and not value.can_fail


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
        if id(value) in inside and (isinstance(value, Contraction) or any(id(o) in heavy for o in value.operands)):
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


# --- sums over the steps ----------------------------------------------------------------------------------------------


def terms_of(total: Value, carry: Value, uses: Uses) -> list[tuple[Value, bool]] | None:
    """What is added to a carry in a step, each with whether it is taken off; None where the carry does more than add
    up."""
    found: list[tuple[Value, bool]] = []
    value = carry
    while value is not total:
        if not uses.only(value):
            return None
        (reader,) = uses.readers(value)
        match reader:
            case Add(x, y) if x is not y:
                found.append((y if x is value else x, False))
            case Sub(x, y) if x is value and y is not value:
                found.append((y, True))
            case _:
                return None
        value = reader
    return found if uses.count(total) == 1 else None


def summed_after(op: Scan, cx: Context) -> Elements | None:
    """The elements of the scan whose sums over all steps of products are products of stacks, after the loop."""
    body, first = op.body, int(op.counted)
    n, count = first + len(op.consts), len(op.carry)
    carries, xs = body.params[n : n + count], body.params[n + count :]
    if not any(isinstance(value, Dot) for value in body.ops):
        return None
    uses = Uses(body)
    given = {id(x): stack for x, stack in zip(xs, op.xs, strict=True)}
    consts = {id(param) for param in body.params[:n]}
    stacked: dict[int, Value] = {id(result): result for result in body.results[count:]}
    fresh: dict[int, Value] = {}  # values that are not stacked yet

    def new(values: Sequence[Value]) -> list[Value]:
        """Those of these values that would have to be stacked."""
        return [v for v in dict.fromkeys(values) if all(id(v) not in known for known in (given, stacked, fresh))]

    sums: dict[int, list[tuple[Value, bool]]] = {}
    taken: dict[int, list[tuple[Value, bool]]] = {}
    for i, (carry, total) in enumerate(zip(carries, body.results[:count], strict=True)):
        if carry.dtype.kind in ("int", "uint", "float", "complex") and total is not carry:
            found = terms_of(total, carry, uses)
            if found is not None:
                sums[i] = found
    for i, terms in sums.items():
        for term, minus in terms:
            match term:
                case Dot(x, y) if not {id(x), id(y)} & consts and uses.only(term):
                    more = new((x, y))
                    # What is stacked is written and read once, as the carry would have been.
                    less = known_le(sum(value.tensor.bytes for value in more), term.tensor.bytes)
                    if less and fits([*fresh.values(), *more], op.length):
                        fresh |= {id(value): value for value in more}
                        taken.setdefault(i, []).append((term, minus))
    # What else is added is summed beside them where it is stacked anyway.
    for i, terms in sums.items():
        for term, minus in terms:
            if not new((term,)) and not isinstance(term, Dot):
                taken.setdefault(i, []).append((term, minus))
    if not taken:
        return None
    return _split(op, sums, taken, list(fresh.values()), given)


def _split(
    op: Scan,
    sums: dict[int, list[tuple[Value, bool]]],
    taken: dict[int, list[tuple[Value, bool]]],
    fresh: Sequence[Value],
    given: dict[int, Value],
) -> Elements:
    """The scan without the terms `taken`, with the stacks of the `fresh` values, and the sums after it."""
    body, count = op.body, len(op.carry)
    n = int(op.counted) + len(op.consts)
    results = list(body.results)
    for i, terms in taken.items():
        left: Value = body.params[n + i]
        gone = [id(term) for term, _ in terms]
        for term, minus in sums[i]:
            if id(term) not in gone:
                left = Sub(left, term) if minus else Add(left, term)
        results[i] = left
    loop = replace(op, body=Graph(body.name, body.params, (*results, *fresh), body.dims))
    stacks = dict(given)
    for i, value in enumerate(fresh, len(results)):
        stacks[id(value)] = Get(loop, i)
    for i, result in enumerate(body.results[count:], count):
        stacks.setdefault(id(result), Get(loop, i))
    elements: list[Value] = [Get(loop, i) for i in range(len(results))]
    for i, terms in taken.items():
        for term, minus in terms:
            with at(term.origin):
                total = over_steps(term, stacks)
                elements[i] = Sub(elements[i], total) if minus else Add(elements[i], total)
    return tuple(elements)


def over_steps(term: Value, stacks: dict[int, Value]) -> Value:
    """The sum of a term over all steps, from the stacks of what it is made of."""
    match term:
        case Dot(x, y, x_batch, y_batch, x_contract, y_contract, accumulate) if id(term) not in stacks:

            def later(axes: tuple[int, ...]) -> tuple[int, ...]:
                return tuple(axis + 1 for axis in axes)

            return Dot(
                stacks[id(x)],
                stacks[id(y)],
                later(x_batch),
                later(y_batch),
                (0, *later(x_contract)),
                (0, *later(y_contract)),
                accumulate,
            )
    return Sum(stacks[id(term)], (0,))
