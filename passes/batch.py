"""One more axis: vmap of graphs.

A value that depends on a batched one gets a new leading axis; what does not, stays as it is and is only repeated where
an op needs it beside a batched operand. Contractions become one batched contraction, never an unrolled loop, and the
number of ops does not depend on the size. Loops are batched as loops: a carry that becomes batched in one step is
batched from the start (a fixpoint), a `while` runs until all are done and holds those that were done before, and a
switch whose selector is batched computes all branches and selects, but for dear ones: those are for the members alone
that take them.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.dims import Dim, ceildiv, known_le
from ..ir.dtypes import bool_, i64
from ..ir.errors import Unsupported
from ..ir.graph import Graph, inline
from ..ir.location import at
from ..ir.ops.contract import Dot
from ..ir.ops.control import Call, Scan, Switch, While
from ..ir.ops.custom import CustomJvp, CustomTangent, CustomVjp
from ..ir.ops.elementwise import Clamp, Convert, Eq, Minimum, Select
from ..ir.ops.families import Composite, Op, Reduction
from ..ir.ops.indexing import ArgSort, Gather
from ..ir.ops.movement import Broadcast, Concatenate, Iota, Reshape, Transpose
from ..ir.ops.reduce import Any as AnyOf
from ..ir.ops.reduce import Sum
from ..ir.types import TensorType
from ..ir.value import After, DimSize, Elementwise, Full, Get, Lt, Parameter, Value, replace
from .autodiff import differentiable, reachable_from
from .cost import TRANSCENDENTAL_FLOPS, graph_cost, type_bytes
from .order import typical
from .spare import needed, spared, until

# A value and whether it carries the new axis; of a tuple-valued op, one flag per element.
Flags = bool | tuple[bool, ...]
# An op batched: one value, or its elements where these come from several.
Batched = tuple["Value | tuple[Value, ...]", Flags]


def repeat(value: Value, size: Dim) -> Value:
    """`value` along a new leading axis."""
    if isinstance(value, Full):
        return Full(value.value, value.tensor.with_shape((size, *value.shape)))
    return Broadcast(value, (size, *value.shape), tuple(range(1, value.rank + 1)))


class Spread:
    """Values given a new leading axis of `size`, as far as they depend on ones that have it.

    `give` says what stands for a value, and whether that has the axis; what `of` finds out is kept for the next time.
    """

    def __init__(self, size: Dim) -> None:
        self.size = size
        self.table: dict[int, Value | tuple[Value, ...]] = {}
        self.flags: dict[int, Flags] = {}
        self.held: list[Value] = []  # what the tables know by its id lives as long as they do

    def give(self, value: Value, stands: Value, batched: bool) -> None:
        self.table[id(value)], self.flags[id(value)] = stands, batched
        self.held.append(value)

    def of(self, results: Sequence[Value]) -> list[tuple[Value, bool]]:
        """What became of `results`; each with whether it has the axis. Unknown parameters stand for themselves."""
        for value in reachable_from(results, known=self.table):
            self._visit(value)
            self.held.append(value)
        return [(self._one(r), self.flags[id(r)] is True) for r in results]

    def _one(self, value: Value) -> Value:
        found = self.table[id(value)]
        assert isinstance(found, Value)
        return found

    def _visit(self, value: Value) -> None:
        table, flags = self.table, self.flags
        operands = value.operands
        mask = tuple(flags.get(id(o), False) is True for o in operands)
        if isinstance(value, Get):
            inner, several = flags.get(id(value.x), False), table[id(value.x)]
            if isinstance(several, tuple):
                table[id(value)] = several[value.index]
            elif several is value.x:
                table[id(value)] = value
            else:
                table[id(value)] = Get(several, value.index)
            flags[id(value)] = inner[value.index] if isinstance(inner, tuple) else False
            return
        with at(value.origin):
            if not any(mask):
                # What it reads may stand elsewhere now: a part without the axis of a loop that has it in others.
                table[id(value)], flags[id(value)] = value.with_operands(tuple(map(self._one, operands))), False
                return
            table[id(value)], flags[id(value)] = _op(value, tuple(map(self._one, operands)), mask, self.size)


def batch(graph: Graph, batched: Sequence[bool], size: Dim) -> tuple[Graph, tuple[bool, ...]]:
    """The graph with a new leading axis on the parameters marked in `batched`; and which results have it."""
    params = tuple(
        Parameter(p.label, p.given.with_shape((size, *p.shape))) if b else p
        for p, b in zip(graph.params, batched, strict=True)
    )
    spread = Spread(size)
    for old, new, b in zip(graph.params, params, batched, strict=True):
        spread.give(old, new, b)
    found = spread.of(graph.results)
    made = Graph(f"{graph.name}_batched", params, tuple(v for v, _ in found), graph.dims)
    return made, tuple(b for _, b in found)


def batch_all(graph: Graph, batched: Sequence[bool], size: Dim, wanted: Sequence[bool]) -> Graph:
    """As `batch`, with the results marked in `wanted` repeated where they do not have the axis by themselves."""
    made, flags = batch(graph, batched, size)
    results = [repeat(r, size) if w and not f else r for r, f, w in zip(made.results, flags, wanted, strict=True)]
    return made.with_results(results)


def by_steps(graph: Graph, args: Sequence[Value], batched: Sequence[bool], size: Dim, chunk: int) -> tuple[Value, ...]:
    """The results of the graph for each slice of the arguments marked in `batched`, stacked, by a loop of which at most
    `chunk` steps are taken at once."""
    rows = list(zip(graph.params, args, batched, strict=True))
    params = (*(p for p, _, b in rows if not b), *(p for p, _, b in rows if b))
    body = Graph(graph.name, params, graph.results, graph.dims)
    consts, xs = tuple(a for _, a, b in rows if not b), tuple(a for _, a, b in rows if b)
    loop = Scan(consts, (), xs, body, size, chunk=chunk)
    return tuple(Get(loop, i) for i in range(len(graph.results)))


def _op(value: Value, operands: tuple[Value, ...], mask: tuple[bool, ...], size: Dim) -> Batched:
    match value:
        case Call():
            return _call(value, operands, mask, size)
        case CustomJvp() | CustomVjp():
            return _custom(value, operands, mask, size)
        case CustomTangent():
            return _custom_tangent(value, operands, mask, size)
        case Switch():
            return _switch(value, operands, mask, size)
        case While():
            return _while(value, operands, mask, size)
        case Scan():
            return _scan(value, operands, mask, size)
        case After():
            return value.with_operands(operands), mask[0]
        case Elementwise():
            return value.with_operands(_together(operands, mask, size)), True
    assert isinstance(value, Op)
    found = value.batch(operands, mask)
    if found is None and not all(mask):
        found = value.batch(_together(operands, mask, size), tuple(True for _ in mask))
    if found is None and isinstance(value, Composite):
        spread = Spread(size)
        for old, new, here in zip(value.operands, operands, mask, strict=True):
            spread.give(old, new, here)
        ((opened, flag),) = spread.of([value.decompose()])
        return opened, flag
    if found is None:
        raise Unsupported(f"{value.name} has no batching rule", code="TD0343", location=value.location)
    kind = found.type
    return found, True if isinstance(kind, TensorType) else tuple(True for _ in kind.elements)


def _together(operands: tuple[Value, ...], mask: tuple[bool, ...], size: Dim) -> tuple[Value, ...]:
    return tuple(o if m else repeat(o, size) for o, m in zip(operands, mask, strict=True))


def _call(op: Call, operands: tuple[Value, ...], mask: tuple[bool, ...], size: Dim) -> Batched:
    body, flags = batch(op.body, mask, size)
    return replace(op, args=operands, body=body), flags


def _custom(op: CustomJvp | CustomVjp, operands: tuple[Value, ...], mask: tuple[bool, ...], size: Dim) -> Batched:
    """The body batched now, the rule when it is asked for. A result has the axis if its value or its tangent does."""
    _, flags = batch(op.body, mask, size)
    inner = mask[op.captured :]
    moving = tuple(m for m, a in zip(inner, op.args[op.captured :], strict=True) if differentiable(a))
    floats = [differentiable(result) for result in op.body.results]
    if isinstance(op, CustomJvp):

        def forward() -> Graph:
            rule: Graph = op.rule()
            return batch_all(rule, (*inner, *moving), size, [True] * len(rule.results))

        wanted = [f or floating for f, floating in zip(flags, floats, strict=True)]
        body = batch_all(op.body, mask, size, wanted)
        return CustomJvp(operands, body, forward, op.captured), tuple(wanted)

    def both() -> tuple[Graph, Graph]:
        ahead, back = op.rule()
        count = len(op.body.results)
        _, found = batch(ahead, inner, size)
        kept = found[count:]
        ahead = batch_all(ahead, inner, size, (*wanted, *kept))
        return ahead, _summed(back, (*kept, *(True for f in floats if f)), moving, size)

    wanted = [f or floating for f, floating in zip(flags, floats, strict=True)]
    body = batch_all(op.body, mask, size, wanted)
    return CustomVjp(operands, body, both, op.captured), tuple(wanted)


def _summed(graph: Graph, mask: Sequence[bool], batched: Sequence[bool], size: Dim) -> Graph:
    """`graph` batched, with the results that are not marked in `batched` summed over the new axis: cotangents of what
    all members share."""
    made = batch_all(graph, mask, size, [True] * len(graph.results))
    results = [r if b else Sum(r, (0,)) for r, b in zip(made.results, batched, strict=True)]
    return made.with_results(results)


def _custom_tangent(op: CustomTangent, operands: tuple[Value, ...], mask: tuple[bool, ...], size: Dim) -> Batched:
    count = len(op.residuals)
    results = len(op.backward.params) - count
    backward = _summed(op.backward, (*mask[:count], *[True] * results), mask[count:], size)
    forward = tuple(batch_all(graph, mask, size, [True] * results) for graph in op.forward)
    made = CustomTangent(operands[:count], operands[count:], backward, forward)
    return made, (True,) * results


def _switch(op: Switch, operands: tuple[Value, ...], mask: tuple[bool, ...], size: Dim) -> Batched:
    selector, args = operands[0], operands[1:]
    if mask[0]:
        return _selected(op, operands, mask, size)
    wanted = [False] * len(op.branches[0].results)
    flags = [batch(branch, mask[1:], size)[1] for branch in op.branches]
    for each in flags:
        wanted = [w or f for w, f in zip(wanted, each, strict=True)]
    branches = tuple(batch_all(branch, mask[1:], size, wanted) for branch in op.branches)
    return Switch(selector, args, branches), tuple(wanted)


def _selected(op: Switch, operands: tuple[Value, ...], mask: tuple[bool, ...], size: Dim) -> Batched:
    """All branches for all members, of which each takes its own; in the others nothing fails for it."""
    selector, args = operands[0], operands[1:]
    number = Convert(selector, i64) if selector.dtype is not i64 else selector
    last = Full(len(op.branches) - 1, number.tensor)
    number = Clamp(number, Full(0, number.tensor), last)
    batched = [True] * len(op.branches[0].results)
    dear = [_is_dear(branch, mask[1:], len(op.branches)) for branch in op.branches]
    if any(dear):
        return _compacted(op, number, args, mask[1:], size, dear), tuple(batched)
    chosen: list[Value] = []
    for k, branch in enumerate(op.branches):
        here = Eq(number, Full(k, number.tensor))
        out = _for_all(branch, here, args, mask[1:], size)
        chosen = [Select(_along(here, v), v, c) for v, c in zip(out, chosen, strict=True)] if k else list(out)
    return tuple(chosen), tuple(batched)


def _for_all(branch: Graph, here: Value, args: tuple[Value, ...], mask: Sequence[bool], size: Dim) -> Sequence[Value]:
    """The results of a branch for all members; those that are not `here` neither fail in it nor are waited for."""
    batched = [True] * len(branch.results)
    if needed(branch):
        return inline(batch_all(spared(branch), (True, *mask), size, batched), (here, *args))
    return inline(batch_all(branch, mask, size, batched), args)


BLOCK = 32  # members of a batch that take one branch together
MOVED = 8.0  # flops that moving an element to its block and back is worth


def _is_dear(branch: Graph, mask: Sequence[bool], count: int) -> bool:
    """Whether a branch costs more, for the members that do not take it, than moving the others to one place and
    back."""
    sizes = typical(branch)
    cost = graph_cost(branch, sizes)
    own = [kind for kind, here in zip(branch.param_types, mask, strict=True) if here]
    moved = sum(type_bytes(kind, sizes) / kind.dtype.bytes for kind in (*own, *branch.result_types))
    flops = cost.flops + TRANSCENDENTAL_FLOPS * cost.transcendentals
    return flops * (1 - 1 / count) > MOVED * (moved + BLOCK)


def _compacted(
    op: Switch, number: Value, args: tuple[Value, ...], mask: tuple[bool, ...], size: Dim, dear: Sequence[bool]
) -> tuple[Value, ...]:
    """Members of a batch that take one of the `dear` branches are gathered, run in blocks, and their results taken back
    to where they belong; a block that no member fills is skipped. The last block is filled up with its last member."""
    block = size if known_le(size, BLOCK) else BLOCK
    blocks = ceildiv(size, block)
    room = blocks * block
    order = ArgSort(number, 0)
    place = ArgSort(order, 0)
    scalar = TensorType((), i64)
    one = TensorType((room,), i64)
    own = Iota(TensorType((size,), i64), 0)
    stacks: list[Sequence[Value]] = []
    where: Value | None = None
    offset: Dim = 0
    for k, branch in enumerate(op.branches):
        here = Eq(number, Full(k, number.tensor))
        if dear[k]:
            count = Sum(Convert(here, i64), (0,))
            start = Sum(Convert(Lt(number, Full(k, number.tensor)), i64), (0,))
            # A branch that nobody takes is given some member, and skipped.
            last = Clamp(start + count - 1, Full(0, scalar), _dim(size - 1))
            spots = Minimum(Iota(one, 0) + Broadcast(start, one.shape, ()), Broadcast(last, one.shape, ()))
            members = Gather(order, (spots,), (0,), "promised")
            rows = [
                Reshape(Gather(a, (members,), (0,), "promised"), (blocks, block, *a.shape[1:]))
                for a, m in zip(args, mask, strict=True)
                if m
            ]
            shared = tuple(a for a, m in zip(args, mask, strict=True) if not m)
            loop = _in_blocks(branch, count, shared, tuple(rows), mask, block, blocks)
            found = [Get(loop, i) for i in range(len(branch.results))]
            stacks.append([Reshape(v, (room, *v.shape[2:])) for v in found])
            at_place = place - Broadcast(start, place.shape, ())
            length = room
        else:
            stacks.append(_for_all(branch, here, args, mask, size))
            at_place, length = own, size
        at_place = at_place + Broadcast(_dim(offset), own.shape, ())
        where = at_place if where is None else Select(here, at_place, where)
        offset = offset + length
    assert where is not None
    return tuple(
        Gather(Concatenate(tuple(each), 0), (where,), (0,), "promised", 0, True) for each in zip(*stacks, strict=True)
    )


def _in_blocks(
    branch: Graph,
    count: Value,
    shared: tuple[Value, ...],
    rows: tuple[Value, ...],
    mask: tuple[bool, ...],
    block: Dim,
    blocks: Dim,
) -> Scan:
    """The results of a branch for blocks of members, of which the first `count` are wanted."""
    made = batch_all(branch, mask, block, [True] * len(branch.results))
    order = [i for i, m in enumerate(mask) if not m] + [i for i, m in enumerate(mask) if m]
    run = Graph(branch.name, tuple(made.params[i] for i in order), made.results, branch.dims)
    spare = tuple(Parameter(p.label, p.given) for p in run.params)
    skip = Graph("skipped", spare, tuple(Full(0, kind) for kind in run.result_types), branch.dims)
    number, wanted = Parameter("block", TensorType((), i64)), Parameter("count", count.tensor)
    params = tuple(Parameter(p.label, p.given) for p in run.params)
    taken = Switch(Lt(number * _dim(block), wanted), params, (skip, run))
    results = tuple(Get(taken, i) for i in range(len(run.results)))
    n = len(shared)
    body = Graph(branch.name, (number, wanted, *params[:n], *params[n:]), results, branch.dims)
    # One block after the other: taken at once, they would ask which of them is skipped.
    return Scan((count, *shared), (), rows, body, blocks, counted=True, chunk=1)


def _dim(dim: Dim) -> Value:
    given = TensorType((), i64)
    return Full(dim, given) if type(dim) is int else DimSize(dim)


def _along(flag: Value, like: Value) -> Value:
    """A flag per batch element, repeated over the other axes of `like`."""
    return flag if flag.shape == like.shape else Broadcast(flag, like.shape, (0,))


def _carry_flags(
    body: Graph, before: Sequence[bool], carry: Sequence[bool], after: Sequence[bool], size: Dim
) -> list[bool]:
    """Which carries are batched: a fixpoint from those that start so."""
    flags = list(carry)
    while True:
        _, found = batch(body, (*before, *flags, *after), size)
        grown = [a or b for a, b in zip(flags, found, strict=False)]
        if grown == flags:
            return flags
        flags = grown


def _while(op: While, operands: tuple[Value, ...], mask: tuple[bool, ...], size: Dim) -> Batched:
    n = len(op.consts)
    flags = _carry_flags(op.body, mask[:n], mask[n:], (), size)
    _, (varies,) = batch(op.condition, (*mask[:n], *flags), size)
    if varies:
        # Every carry differs between the elements once some of them stop earlier.
        flags = [True] * len(flags)
    condition, (varies,) = batch(op.condition, (*mask[:n], *flags), size)
    body = batch_all(until(op.condition, op.body) if varies else op.body, (*mask[:n], *flags), size, flags)
    carry = tuple(v if m or not f else repeat(v, size) for v, m, f in zip(operands[n:], mask[n:], flags, strict=True))
    if varies:
        running = condition.results[0]
        params = body.params
        going = inline(condition, params)[0]
        held = [Select(_along(going, new), new, old) for new, old in zip(body.results, params[n:], strict=True)]
        body = Graph(body.name, params, tuple(held), body.dims)
        condition = condition.with_results([AnyOf(running, (0,))])
        assert running.dtype is bool_
    return While(operands[:n], carry, condition, body), tuple(flags)


def _scan(op: Scan, operands: tuple[Value, ...], mask: tuple[bool, ...], size: Dim) -> Batched:
    n, m = len(op.consts), len(op.consts) + len(op.carry)
    number = (False,) if op.counted else ()
    flags = _carry_flags(op.body, (*number, *mask[:n]), mask[n:m], mask[m:], size)
    inner_mask = (*number, *mask[:n], *flags, *mask[m:])
    _, found = batch(op.body, inner_mask, size)
    body = batch_all(op.body, inner_mask, size, (*flags, *found[len(flags) :]))
    carry = tuple(v if b or not f else repeat(v, size) for v, b, f in zip(operands[n:m], mask[n:m], flags, strict=True))
    # The loop's axis stays the first one: a batched input moves its new axis behind it, a batched output before it.
    xs = tuple(_swapped(x) if b else x for x, b in zip(operands[m:], mask[m:], strict=True))
    made = Scan(operands[:n], carry, xs, body, op.length, op.reverse, op.counted, op.chunk, op.any_order)
    outputs = found[len(flags) :]
    if not any(outputs):
        return made, (*flags, *outputs)
    values: list[Value] = [Get(made, i) for i in range(len(flags))]
    for i, b in enumerate(outputs, len(flags)):
        y: Value = Get(made, i)
        values.append(_swapped(y) if b else y)
    return tuple(values), (*flags, *outputs)


def _swapped(x: Value) -> Value:
    return Transpose(x, (1, 0, *range(2, x.rank)))


def total(x: Value, kind: type[Reduction]) -> Value:
    """A reduction over the first axis. A sum of products is one product, which contracts that axis too."""
    match x:
        case Transpose(y, (0, *order)) if kind is Sum:
            return Transpose(total(y, kind), tuple(axis - 1 for axis in order))
        case Dot() if kind is Sum and x.x_batch:
            return replace(
                x,
                x_batch=x.x_batch[1:],
                y_batch=x.y_batch[1:],
                x_contract=(x.x_batch[0], *x.x_contract),
                y_contract=(x.y_batch[0], *x.y_contract),
            )
    return kind(x, (0,))
