"""Merge values that are the same, and take from control ops what nobody needs.

Two ops of one class, with the same attributes, bodies and operands, compute the same: nodes are pure. Order marks
(`After`) are never merged, nor is what stands behind different ones, since its operands differ. A control op loses the
results that nobody reads, the carries and operands that reach no other result, carries that never change (they become
operands) and results that only pass an operand on; two that repeat each other become one (`join.py`). Operands given
twice, and plain numbers, move into the bodies. Dead code needs no pass: a graph is what its results reach. A graph with
nothing of this kind is returned as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..ir.classes import dataclass
from ..ir.dims import Dim
from ..ir.fingerprint import same
from ..ir.graph import Graph, rebuild
from ..ir.location import at
from ..ir.ops.control import Call, Scan, Switch, While
from ..ir.ops.families import Control
from ..ir.ops.movement import Broadcast
from ..ir.text import digest
from ..ir.value import After, BinaryElementwise, Constant, DimSize, Full, Get, Value, replace
from .join import join
from .manager import Context, graph_pass
from .rewrite import in_all_bodies, in_bodies


@graph_pass()
def cleanup(graph: Graph, cx: Context) -> Graph:
    """Merge values that are the same; prune control ops."""
    return tidied(without_idle_waits(graph))


def tidied(graph: Graph) -> Graph:
    """The graph merged and pruned until neither finds anything."""
    # What is pruned lets more be merged, and the other way round. Each round leaves less.
    while (after := prune(join(merge(graph), merge))) is not graph:
        graph = after
    return graph


def without_idle_waits(graph: Graph, carried: Sequence[Value] = ()) -> Graph:
    """The graph whose `After` wait only for what is computed at all: for parameters and constants there is nothing to
    wait, and a wait is no reason to compute what nobody else reads. What a checkpoint computes again is then merged
    with what was computed first, where both would stand together anyway. What a loop has `carried` into a step is
    computed, by the step before: what waits for it is not for all steps at once."""
    graph = in_all_bodies(graph, lambda op, body: without_idle_waits(body, carries(op, body)))
    if not any(isinstance(value, After) for value in graph.ops):
        return graph
    live = {id(result) for result in graph.results}
    known: set[int] = set()
    for value in reversed(graph.ops):
        if id(value) in live:
            live.update(map(id, (value.x,) if isinstance(value, After) else value.operands))
    for value in graph.ops:
        if all(id(operand) in known for operand in value.operands):
            known.add(id(value))
    given = {id(param) for param in graph.params} - {id(param) for param in carried}

    def idle(value: Value) -> bool:
        return id(value) in given or id(value) in known or id(value) not in live

    memo: dict[int, Value] = {id(param): param for param in graph.params}
    for value in graph.ops:
        if id(value) in live:
            with at(value.origin):
                if isinstance(value, After):
                    waits = tuple(d for d in value.dependencies if not idle(d))
                    if not waits:
                        memo[id(value)] = memo[id(value.x)]
                        continue
                    operands = (memo[id(value.x)], *(memo[id(d)] for d in waits))
                    same = len(waits) == len(value.dependencies)
                    memo[id(value)] = value.with_operands(operands) if same else After(operands[0], operands[1:])
                else:
                    memo[id(value)] = value.with_operands(tuple(memo[id(operand)] for operand in value.operands))
    return graph.with_results([memo[id(result)] for result in graph.results])


def carries(op: Value, body: Graph) -> Sequence[Value]:
    """The parameters of a loop's body that the step before has made."""
    match op:
        case Scan():
            first = int(op.counted) + len(op.consts)
            return body.params[first : first + len(op.carry)]
        case While():
            return body.params[len(op.consts) :]
    return ()


# --- merging ------------------------------------------------------------------------------------------------------


def merge(graph: Graph) -> Graph:
    """The graph with one node for each value, also within bodies; itself where that is so already."""
    known: dict[tuple[Any, ...], list[Value]] = {}
    changed = False

    def step(value: Value) -> Value | None:
        nonlocal changed
        if isinstance(value, After):
            return None
        if value.bodies:
            inner = in_bodies(value, merge)
            changed |= inner is not value
            value = inner
        alike = known.setdefault(key(value), [])
        for other in alike:
            if other is value or all(same(a, b) for a, b in zip(value.bodies, other.bodies, strict=True)):
                changed |= other is not value
                return other
        alike.append(value)
        return value

    found = rebuild(graph, step)
    return found if changed else graph


def key(value: Value) -> tuple[Any, ...]:
    """What two values have in common when they are the same but for their bodies. Good while both are alive."""
    if isinstance(value, Constant):
        return (Constant, digest(value))
    parts: list[Any] = [type(value), value.type]
    for field in value.schema:
        content = value.__dict__[field.name]
        if field.kind == "operand":
            parts.append(id(content))
        elif field.kind == "operands":
            parts.append(tuple(map(id, content)))
        elif field.kind == "attribute":
            parts.append(exact(content))
    # The parts of a complex product are rounded one after the other.
    if isinstance(value, BinaryElementwise) and value.commutes and value.dtype.kind != "complex":
        parts[2:] = sorted(parts[2:])
    return tuple(parts)


def exact(content: Any) -> Any:
    """An attribute as something that compares exactly: -0.0 is not 0.0, True is not 1, and NaN is itself."""
    if isinstance(content, tuple):
        return tuple(map(exact, content))
    return (type(content), repr(content)) if isinstance(content, bool | float | complex) else content


# --- pruning ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """A control op with less in it. `op` stands on the operands of the old one numbered in `kept`, and is None where
    nothing is left to compute. `results` says, for each result of the old op that is read: which result of the new one
    it is, or which operand of the old one, as it stands or repeated along a new first axis."""

    op: Control | None
    kept: tuple[int, ...]
    results: dict[int, Result]


@dataclass(frozen=True, slots=True)
class Result:
    new: int | None = None
    operand: int | None = None
    repeat: Dim | None = None


def prune(graph: Graph) -> Graph:
    """The graph whose control ops compute only what is read; itself where they do so already."""
    plans, live = _plans(graph)
    if not plans:
        return graph
    memo: dict[int, Value] = {id(param): param for param in graph.params}
    parts: dict[int, dict[int, Value]] = {}
    for value in graph.ops:
        if id(value) not in live:
            continue
        with at(value.origin):
            if id(value) in plans:
                parts[id(value)] = _built(value, plans[id(value)], memo)
            elif isinstance(value, Get) and id(value.x) in parts:
                memo[id(value)] = parts[id(value.x)][value.index]
            else:
                memo[id(value)] = value.with_operands(tuple(memo[id(operand)] for operand in value.operands))
    return graph.with_results([memo[id(result)] for result in graph.results])


def _built(value: Value, plan: Plan, memo: dict[int, Value]) -> dict[int, Value]:
    """The values of the results that are read."""
    op = None if plan.op is None else plan.op.with_operands(tuple(memo[id(value.operands[i])] for i in plan.kept))
    found: dict[int, Value] = {}
    for index, result in plan.results.items():
        if result.new is not None:
            assert op is not None
            found[index] = Get(op, result.new)
        else:
            assert result.operand is not None
            operand = memo[id(value.operands[result.operand])]
            found[index] = operand if result.repeat is None else _repeated(operand, result.repeat)
    return found


def _repeated(x: Value, length: Dim) -> Value:
    return Broadcast(x, (length, *x.shape), tuple(range(1, x.rank + 1)))


def _plans(graph: Graph) -> tuple[dict[int, Plan], set[int]]:
    """The plans of control ops that can lose something, by id, and the ids of what is still needed then."""
    plans: dict[int, Plan] = {}
    live = {id(result) for result in graph.results}
    # Tuples that something else than a `Get` holds are taken as they are.
    whole = {id(result) for result in graph.results}
    read: dict[int, set[int]] = {}
    for value in reversed(graph.ops):
        if id(value) not in live:
            continue
        needed: Iterable[Value] = value.operands
        if isinstance(value, Get):
            read.setdefault(id(value.x), set()).add(value.index)
        elif isinstance(value, Control) and id(value) not in whole:
            plan = plan_of(value, tuple(sorted(read.get(id(value), ()))))
            if plan is not None:
                plans[id(value)] = plan
                used = (*plan.kept, *(r.operand for r in plan.results.values() if r.operand is not None))
                needed = [value.operands[i] for i in used]
        if not isinstance(value, Get):
            whole.update(id(operand) for operand in value.operands)
        live.update(map(id, needed))
    return plans, live


def plan_of(op: Control, wanted: tuple[int, ...]) -> Plan | None:
    """What is left of `op` when only the results numbered in `wanted` are read; None where it can lose nothing."""
    with at(op.origin):
        match op:
            case Call():
                plan = _call(op, wanted)
            case Switch():
                plan = _switch(op, wanted)
            case While():
                plan = _while(op, wanted)
            case Scan():
                plan = _scan(op, wanted)
            case _:
                return None
    if plan.op is None or len(plan.kept) < len(op.operands):
        return plan
    return None if all(a is b for a, b in zip(plan.op.bodies, op.bodies, strict=True)) else plan


def _call(op: Call, wanted: Sequence[int]) -> Plan:
    body = _with_known(op.body, list(enumerate(op.args)))
    passed = {i: p for i in wanted if (p := _number(body.results[i], body)) is not None}
    chosen, places = _distinct([i for i in wanted if i not in passed], [body])
    kept = _bits(_read(body, chosen), 0, len(op.args))
    results = {i: Result(operand=p) for i, p in passed.items()} | places
    if not chosen:
        return Plan(None, (), results)
    left = _restricted(body, kept, chosen)
    args = tuple(op.args[i] for i in kept)
    found = replace(op, args=args, body=left)
    assert isinstance(found, Call)
    return Plan(found, tuple(kept), results)


def _switch(op: Switch, wanted: Sequence[int]) -> Plan:
    branches = [_with_known(branch, list(enumerate(op.args))) for branch in op.branches]
    passed: dict[int, int] = {}
    for i in wanted:
        number = _number(branches[0].results[i], branches[0])
        if number is not None and all(_number(branch.results[i], branch) == number for branch in branches):
            passed[i] = number
    chosen, places = _distinct([i for i in wanted if i not in passed], branches)
    mask = 0
    for branch in branches:
        mask |= _read(branch, chosen)
    kept = _bits(mask, 0, len(op.args))
    results = {i: Result(operand=1 + p) for i, p in passed.items()} | places
    if not chosen:
        return Plan(None, (), results)
    left = tuple(_restricted(branch, kept, chosen) for branch in branches)
    return Plan(Switch(op.selector, tuple(op.args[i] for i in kept), left), (0, *(1 + i for i in kept)), results)


def _while(op: While, wanted: Sequence[int]) -> Plan:
    consts, end = len(op.consts), len(op.operands)
    body, condition = (_with_known(each, list(enumerate(op.consts))) for each in (op.body, op.condition))
    steady = _steady(body, consts, len(op.carry))
    asked = _read(condition, [0])
    varying = _needed(body, consts, len(op.carry), steady, [i for i in wanted if i not in steady], asked)
    results = {i: Result(operand=consts + i) for i in wanted if i in steady}
    if not results.keys() ^ set(wanted):
        return Plan(None, (), results)
    mask = asked | _read(body, varying)
    fixed = [*_bits(mask, 0, consts), *(consts + i for i in steady if mask >> (consts + i) & 1)]
    kept = (*fixed, *(consts + i for i in varying))
    results |= {i: Result(new=varying.index(i)) for i in wanted if i not in steady}
    assert all(number < end for number in kept)
    left = While(
        tuple(op.operands[i] for i in fixed),
        tuple(op.carry[i] for i in varying),
        _restricted(condition, kept, [0]),
        _restricted(body, kept, varying),
    )
    return Plan(left, kept, results)


def _scan(op: Scan, wanted: Sequence[int]) -> Plan:
    counted, consts, carried = int(op.counted), len(op.consts), len(op.carry)
    first_x = consts + carried
    sliced = [(counted + first_x + i, x) for i, x in enumerate(op.xs)]
    body = _with_known(op.body, [(counted + i, v) for i, v in enumerate(op.consts)], sliced)
    steady = _steady(body, counted + consts, carried)
    results: dict[int, Result] = {}
    stacked: list[int] = []
    for i in wanted:
        number = _number(body.results[i], body)
        operand = None if number is None or number < counted else number - counted
        if i < carried:
            if i in steady:
                results[i] = Result(operand=consts + i)
        elif operand is not None and operand >= first_x:
            results[i] = Result(operand=operand)
        elif operand is not None and (operand < consts or operand - consts in steady):
            results[i] = Result(operand=operand, repeat=op.length)
        else:
            stacked.append(i)
    moving = [i for i in wanted if i < carried and i not in steady]
    varying = _needed(body, counted + consts, carried, steady, moving, _read(body, stacked))
    chosen, places = _distinct(stacked, [body])
    if not varying and not chosen:
        return Plan(None, (), results)
    mask = _read(body, [*varying, *chosen])
    inner = counted + consts
    fixed = [*_bits(mask >> counted, 0, consts), *(consts + i for i in steady if mask >> (inner + i) & 1)]
    xs = [first_x + i for i in _bits(mask >> (counted + first_x), 0, len(op.xs))]
    kept = (*fixed, *(consts + i for i in varying), *xs)
    results |= {i: Result(new=varying.index(i)) for i in moving}
    results |= {i: Result(new=len(varying) + (place.new or 0)) for i, place in places.items()}
    counts = bool(counted and mask & 1)
    params = ((0,) if counts else ()) + tuple(counted + i for i in kept)
    left = Scan(
        tuple(op.operands[i] for i in fixed),
        tuple(op.carry[i] for i in varying),
        tuple(op.operands[i] for i in xs),
        _restricted(body, params, [*varying, *chosen]),
        op.length,
        op.reverse,
        counts,
        op.chunk,
        op.any_order,
    )
    return Plan(left, kept, results)


# Bodies. Results are named by their numbers, sets of parameters are bits.


def _with_known(body: Graph, shared: Sequence[tuple[int, Value]], sliced: Sequence[tuple[int, Value]] = ()) -> Graph:
    """The body with one parameter for operands that are one value, and with plain numbers in place of theirs.

    Pairs are of a parameter's number and its operand: `shared` operands come in as they are, `sliced` ones alike."""
    memo: dict[int, Value] = {}
    used = _read(body, range(len(body.results)))
    for pairs in (shared, sliced):
        first: dict[int, Value] = {}
        for number, operand in pairs:
            param = body.params[number]
            if not used >> number & 1:
                continue
            if pairs is shared and _is_number(operand):
                memo[id(param)] = replace(operand)
            elif id(operand) in first:
                memo[id(param)] = first[id(operand)]
            else:
                first[id(operand)] = param
    return rebuild(body, lambda value: None, memo=memo) if memo else body


def _is_number(operand: Value) -> bool:
    """Whether a value is written down as easily as it is passed."""
    return isinstance(operand, Full | DimSize) or (isinstance(operand, Constant) and operand.rank == 0)


def _number(value: Value, body: Graph) -> int | None:
    """Which parameter of the body a value is."""
    return next((i for i, param in enumerate(body.params) if param is value), None)


def _read(body: Graph, results: Iterable[int]) -> int:
    """The parameters on which any of these results depends."""
    mask = 0
    for reads in _reads(body, results):
        mask |= reads
    return mask


def _reads(body: Graph, results: Iterable[int]) -> list[int]:
    """The parameters on which each of these results depends."""
    values = [body.results[i] for i in results]
    masks = {id(param): 1 << i for i, param in enumerate(body.params)}
    for value in body.with_results(values).ops:
        mask = 0
        for operand in value.operands:
            mask |= masks[id(operand)]
        masks[id(value)] = mask
    return [masks[id(value)] for value in values]


def _bits(mask: int, low: int, high: int) -> list[int]:
    return [i for i in range(low, high) if mask >> i & 1]


def _distinct(results: Sequence[int], bodies: Sequence[Graph]) -> tuple[list[int], dict[int, Result]]:
    """One number for results that are the same value in every body, and which of them each result is."""
    chosen: list[int] = []
    places: dict[tuple[int, ...], int] = {}
    found: dict[int, Result] = {}
    for i in results:
        same_value = tuple(id(body.results[i]) for body in bodies)
        if same_value not in places:
            places[same_value] = len(chosen)
            chosen.append(i)
        found[i] = Result(new=places[same_value])
    return chosen, found


def _steady(body: Graph, first: int, carried: int) -> list[int]:
    """The carries that the body gives on as they came; their parameters begin at `first`."""
    return [i for i in range(carried) if body.results[i] is body.params[first + i]]


def _needed(
    body: Graph, first: int, carried: int, steady: Sequence[int], wanted: Sequence[int], asked: int
) -> list[int]:
    """The carries that change and reach the carries `wanted`, or are among the parameters `asked` for."""
    reads = _reads(body, range(carried))
    found = 0
    pending = [*wanted, *(i for i in _bits(asked >> first, 0, carried) if i not in steady)]
    while pending:
        i = pending.pop()
        if not found >> i & 1:
            found |= 1 << i
            pending += [j for j in _bits(reads[i] >> first, 0, carried) if j not in steady]
    return _bits(found, 0, carried)


def _restricted(body: Graph, params: Sequence[int], results: Sequence[int]) -> Graph:
    """The body with these parameters and results alone, and pruned itself; the same one where nothing changes."""
    if list(params) != list(range(len(body.params))) or list(results) != list(range(len(body.results))):
        kept = tuple(body.params[i] for i in params)
        body = Graph(body.name, kept, tuple(body.results[i] for i in results), body.dims)
    return prune(body)
