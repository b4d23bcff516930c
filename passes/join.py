"""Make one control op of two: of those that repeat each other, and of a loop and one over what it stacks.

A derivative repeats the loop that it differentiates, with more results: what a step leaves for the loop that runs back.
Where every carry of one loop begins and goes on as one of the other's, the first is contained in the second: its
results become further results there, and what both bodies compute is computed once. Two branches by one selector take
the same branch, so they are joined if they share work. A loop over what another one stacks, in the same direction,
takes each element when it is made (a tangent's loop beside its value's), and the stack may never be. Otherwise ops that
need each other's results, and loops that share nothing, stay as they are; so does a graph in which there is nothing to
join.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..ir.classes import dataclass
from ..ir.dims import Dim
from ..ir.graph import Graph, rebuild
from ..ir.location import at
from ..ir.ops.control import Scan, Switch, While
from ..ir.value import Constant, DimSize, Full, Get, Parameter, Value
from .rewrite import in_all_bodies

Merge = Callable[[Graph], Graph]  # one node for each value, see `cleanup.merge`
Joinable = Scan | While | Switch


def join(graph: Graph, merge: Merge) -> Graph:
    """The graph with such ops joined, also within bodies; itself where there are none."""
    graph = in_all_bodies(graph, lambda op, body: join(body, merge))
    while (joined := _join_one(graph, merge)) is not None:
        graph = joined
    return graph


def _join_one(graph: Graph, merge: Merge) -> Graph | None:
    ops = [value for value in graph.ops if isinstance(value, Joinable)]
    if len(ops) < 2:
        return None
    number = {id(op): 1 << i for i, op in enumerate(ops)}
    needs: dict[int, int] = {}
    for value in graph.order:
        mask = number.get(id(value), 0)
        for operand in value.operands:
            mask |= needs[id(operand)]
        needs[id(value)] = mask
    needed: dict[int, int] = dict.fromkeys(needs, 0)
    for value in reversed(graph.order):
        mask = needed[id(value)] | number.get(id(value), 0)
        for operand in value.operands:
            needed[id(operand)] |= mask
    readers: dict[int, int] = {}  # of each value, and of each op of several results
    for op in ops:
        for operand in op.operands:
            for read in (operand, *_tuple(operand)):
                readers[id(read)] = readers.get(id(read), 0) | number[id(op)]
    for large in ops:
        mine = number[id(large)]
        beside = 0
        for operand in large.operands:
            for read in (operand, *_tuple(operand)):
                beside |= readers[id(read)]
        # Those that share something with it and are neither before nor after it, and those that read what it makes.
        beside &= ~(needs[id(large)] | needed[id(large)])
        pairs = beside | readers.get(id(large), 0)
        while pairs:
            lowest = pairs & -pairs
            pairs ^= lowest
            small = ops[lowest.bit_length() - 1]
            if type(small) is not type(large):
                continue
            with at(large.origin):
                found = _joined(small, large, merge) if lowest & beside else _chained(large, small, needs, mine)
            if found is not None:
                return _replaced(graph, large, small, found)
    return None


def _tuple(value: Value) -> tuple[Value, ...]:
    """The op whose result a value is a part of."""
    return (value.x,) if isinstance(value, Get) else ()


@dataclass(frozen=True, slots=True)
class Joined:
    """The op that stands for both, and which of its results are those of the large (or first) and the small (or
    second) one."""

    op: Joinable
    large: tuple[int, ...]
    small: tuple[int, ...]


def _replaced(graph: Graph, large: Value, small: Value, found: Joined) -> Graph:
    memo: dict[int, Value] = {}
    for value in graph.ops:
        if isinstance(value, Get) and (value.x is large or value.x is small):
            places = found.large if value.x is large else found.small
            with at(value.origin):
                memo[id(value)] = Get(found.op, places[value.index])
    return rebuild(graph, lambda value: None, memo=memo)


def _chained(first: Joinable, second: Joinable, needs: dict[int, int], number: int) -> Joined | None:
    """Two scans of which the second reads nothing of the first but what it stacks, and that step by step."""
    if not isinstance(first, Scan) or not isinstance(second, Scan):
        return None
    if _paces(first) != _paces(second):
        return None
    count, others = len(first.carry), len(second.carry)
    if any(needs[id(operand)] & number for operand in (*second.consts, *second.carry)):
        return None
    stacked: dict[int, int] = {}
    for x in second.xs:
        if isinstance(x, Get) and x.x is first and x.index >= count:
            stacked[id(x)] = x.index
        elif needs[id(x)] & number:
            return None
    a, b = first.body.params, second.body.params
    i, j = int(first.counted), int(second.counted)
    consts = _Params(first.consts, a[i : i + len(first.consts)])
    slices = _Params(first.xs, a[i + len(first.consts) + count :])
    counter = a[:i] or b[:j]
    memo: dict[int, Value] = {id(param): counter[0] for param in b[:j]}
    for operand, param in zip(second.consts, b[j : j + len(second.consts)], strict=True):
        memo[id(param)] = consts.add(operand, param)
    carries = _new(b[j + len(second.consts) : j + len(second.consts) + others], memo)
    for operand, param in zip(second.xs, b[j + len(second.consts) + others :], strict=True):
        made = stacked.get(id(operand))
        memo[id(param)] = slices.add(operand, param) if made is None else first.body.results[made]
    then = _with(second.body, memo)
    before = first.body.results
    params = (*counter, *consts.params, *a[i + len(first.consts) :][:count], *carries, *slices.params)
    results = (*before[:count], *then[:others], *before[count:], *then[others:])
    op = Scan(
        tuple(consts.operands),
        (*first.carry, *second.carry),
        tuple(slices.operands),
        Graph(second.body.name, params, results, first.body.dims),
        first.length,
        first.reverse,
        bool(counter),
        first.chunk,
        first.any_order and second.any_order,
    )
    both = count + others
    return Joined(
        op,
        (*range(count), *range(both, others + len(before))),
        (*range(count, both), *range(others + len(before), len(results))),
    )


def _paces(op: Scan) -> tuple[Dim, bool, int]:
    """What two scans need in common to be one."""
    return op.length, op.reverse, op.chunk


def _joined(small: Joinable, large: Joinable, merge: Merge) -> Joined | None:
    match small, large:
        case Switch(), Switch() if small.selector is large.selector and len(small.branches) == len(large.branches):
            return _switches(small, large, merge)
        case Scan(), Scan() if _paces(small) == _paces(large):
            return _scans(small, large, merge)
        case While(), While():
            return _whiles(small, large, merge)
    return None


class _Params:
    """The operands of both, each once: the large op's in their places, then those that it lacks."""

    def __init__(self, operands: Sequence[Value], params: Sequence[Parameter]) -> None:
        self.operands, self.params = list(operands), list(params)
        self.known = {id(operand): param for operand, param in zip(operands, params, strict=True)}

    def add(self, operand: Value, param: Parameter) -> Parameter:
        """The parameter for an operand of the small op, whose own parameter is `param`."""
        if id(operand) not in self.known:
            # A new one: the two bodies may share parameters, as a derivative's does with what it was made from.
            self.known[id(operand)] = Parameter(param.label, param.given)
            self.operands.append(operand)
            self.params.append(self.known[id(operand)])
        return self.known[id(operand)]


def _work(graph: Graph) -> int:
    """How many values are computed, those without operands aside."""
    return sum(not isinstance(value, Full | Constant | DimSize) for value in graph.ops)


def _with(body: Graph, memo: dict[int, Value]) -> tuple[Value, ...]:
    return rebuild(body, lambda value: None, memo=dict(memo)).results


def _new(params: Sequence[Parameter], memo: dict[int, Value]) -> tuple[Parameter, ...]:
    found = tuple(Parameter(param.label, param.given) for param in params)
    memo.update((id(param), new) for param, new in zip(params, found, strict=True))
    return found


def _switches(small: Switch, large: Switch, merge: Merge) -> Joined | None:
    branches = []
    shared = False
    args: _Params | None = None
    for mine, theirs in zip(small.branches, large.branches, strict=True):
        args = _Params(large.args, theirs.params)
        memo: dict[int, Value] = {
            id(param): args.add(arg, param) for arg, param in zip(small.args, mine.params, strict=True)
        }
        results = (*theirs.results, *_with(mine, memo))
        branch = merge(Graph(theirs.name, tuple(args.params), results, theirs.dims))
        shared |= _work(branch) < _work(mine) + _work(theirs)
        branches.append(branch)
    if not shared or args is None:
        return None
    count = len(large.branches[0].results)
    op = Switch(large.selector, tuple(args.operands), tuple(branches))
    return Joined(op, tuple(range(count)), tuple(range(count, count + len(small.branches[0].results))))


def _carried_alike(
    starts: Sequence[Value], params: Sequence[Parameter], body: Graph, merge: Merge
) -> tuple[list[int], Graph]:
    """For each carry the first one that always has its value, and the body with those in place of the others.

    `body` begins its results with the carries. Carries that begin alike are taken to be alike until a step tells them
    apart; what is left when no step does is alike by induction.
    """
    alike = [next(j for j, other in enumerate(starts) if other is start) for start in starts]
    while True:
        memo: dict[int, Value] = {id(param): params[alike[i]] for i, param in enumerate(params)}
        merged = merge(body.with_results(_with(body, memo)))
        after = [id(result) for result in merged.results[: len(starts)]]
        split = [
            next(j for j in range(i + 1) if alike[j] == alike[i] and after[j] == after[i]) for i in range(len(starts))
        ]
        if split == alike:
            return alike, merged
        alike = split


def _scans(small: Scan, large: Scan, merge: Merge) -> Joined | None:
    first, n, count = int(large.counted), len(large.consts), len(large.carry)
    if any(all(start is not other for other in large.carry) for start in small.carry):
        return None
    params = large.body.params
    consts = _Params(large.consts, params[first : first + n])
    slices = _Params(large.xs, params[first + n + count :])
    mine, k, m = int(small.counted), len(small.consts), len(small.carry)
    theirs = small.body.params
    number = params[:first] or theirs[:mine]
    memo: dict[int, Value] = {id(param): number[0] for param in theirs[:mine]}
    for operand, param in zip(small.consts, theirs[mine : mine + k], strict=True):
        memo[id(param)] = consts.add(operand, param)
    for operand, param in zip(small.xs, theirs[mine + k + m :], strict=True):
        memo[id(param)] = slices.add(operand, param)
    carries, others = params[first + n : first + n + count], _new(theirs[mine + k : mine + k + m], memo)
    again = _with(small.body, memo)
    every = (*number, *consts.params, *carries, *others, *slices.params)
    results = (*large.body.results[:count], *again[:m], *large.body.results[count:], *again[m:])
    both = Graph(large.body.name, every, results, large.body.dims)
    alike, merged = _carried_alike((*large.carry, *small.carry), (*carries, *others), both, merge)
    if any(place >= count for place in alike[count:]) or not _shares(merged, small.body, large.body):
        return None
    outputs = merged.results[count + m :]
    kept = (*number, *consts.params, *carries, *slices.params)
    body = Graph(large.body.name, kept, (*merged.results[:count], *outputs), large.body.dims)
    op = Scan(
        tuple(consts.operands),
        large.carry,
        tuple(slices.operands),
        body,
        large.length,
        large.reverse,
        bool(number),
        large.chunk,
        large.any_order,
    )
    last = len(large.body.results)
    return Joined(op, tuple(range(last)), (*alike[count:], *range(last, last + len(again) - m)))


def _whiles(small: While, large: While, merge: Merge) -> Joined | None:
    """Joined only where both go on under one condition, so that they take the same steps."""
    if any(all(start is not other for other in large.carry) for start in small.carry):
        return None
    n, count, k = len(large.consts), len(large.carry), len(small.consts)
    consts = _Params(large.consts, large.body.params[:n])
    memo: dict[int, Value] = {
        id(param): consts.add(operand, param)
        for operand, param in zip(small.consts, small.body.params[:k], strict=True)
    }
    carries, others = large.body.params[n:], _new(small.body.params[k:], memo)
    again = _with(small.body, memo)
    # The conditions, on the bodies' parameters.
    asked = _with(large.condition, dict(zip(map(id, large.condition.params), large.body.params, strict=True)))
    mine = [memo[id(param)] for param in small.body.params]
    asked_again = _with(small.condition, dict(zip(map(id, small.condition.params), mine, strict=True)))
    every = (*consts.params, *carries, *others)
    both = Graph(large.body.name, every, (*large.body.results, *again, *asked, *asked_again), large.body.dims)
    alike, merged = _carried_alike((*large.carry, *small.carry), (*carries, *others), both, merge)
    one_condition = merged.results[-2] is merged.results[-1]
    if any(place >= count for place in alike[count:]) or not one_condition:
        return None
    kept = (*consts.params, *carries)
    body = Graph(large.body.name, kept, merged.results[:count], large.body.dims)
    spare = tuple(Parameter(param.label, param.given) for param in consts.params[n:])
    condition = Graph(
        large.condition.name,
        (*large.condition.params[:n], *spare, *large.condition.params[n:]),
        large.condition.results,
        large.condition.dims,
    )
    op = While(tuple(consts.operands), large.carry, condition, body)
    return Joined(op, tuple(range(count)), tuple(alike[count:]))


def _shares(merged: Graph, small: Graph, large: Graph) -> bool:
    return _work(merged) < _work(small) + _work(large)
