"""Turn written loops into batched ops, as far as their steps do not wait for each other.

Where no carry is a recurrence (see `steps`), all steps are taken at once by the rules of `batch`: the step number
becomes an iota, the slice of a stacked operand the operand itself, a row written by each step one stacked write, a
reduction one reduction over the new axis. Else the recurrence stays a loop, and what it does not need is distributed
around it: the products of all inputs of a recurrent network are one product in front of the loop, those of all outputs
one behind it, what is the same in every step is computed once. Each is done only where the target is predicted to gain
by it; what all steps would take in memory is bounded by computing so many steps at once as fit. A sum of floats that a
program adds up step by step is a recurrence, for its order can be seen, unless `any_order` says otherwise. Loops that
nothing can be said of are left as they are, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace as replace_fields
from types import MappingProxyType
from typing import Final

from ..ir.classes import dataclass
from ..ir.dims import Dim, DimName, evaluate, known_le, names, product
from ..ir.dtypes import i64
from ..ir.errors import Unsupported
from ..ir.graph import Graph, inline, rebuild
from ..ir.location import at
from ..ir.ops.control import Scan, While
from ..ir.ops.elementwise import Convert
from ..ir.ops.families import Contraction, Movement
from ..ir.ops.indexing import DynamicUpdate, Gather, Scatter, block_positions
from ..ir.ops.movement import Broadcast, Concatenate, Iota, Reshape, Reverse, Slice, Transpose
from ..ir.types import TensorType
from ..ir.value import Add, After, Constant, DimSize, Full, Get, Mul, Parameter, Value, replace
from .accumulations import spelled, with_body, without_branches
from .autodiff import reachable_from
from .batch import Spread, repeat, total
from .cost import TRANSCENDENTAL_FLOPS, graph_cost, scalar_cost
from .manager import Context, graph_pass
from .order import typical
from .rewrite import in_bodies
from .spare import needed
from .steps import REDUCTIONS, Row, Steps, Write, lines, trips, within

NOTHING: Final[Mapping[int, Value]] = MappingProxyType({})
CALL = 150.0  # cycles of what is called once: a kernel, and the arrays between it and others
STEP = 8.0  # cycles of a step of a loop, beside what it computes
FAST = 32.0  # bytes a cycle to and from a second-level cache
SLOW = 8.0  # and from memory


@dataclass(frozen=True)
class VectorizeOptions:
    """`bytes` is what the arrays of a batched loop may take at once; `any_order` lets sums and products of floats be
    reordered; `always` asks for no gain."""

    bytes: int = 1 << 28
    any_order: bool = False
    always: bool = False


@graph_pass(options=VectorizeOptions())
def vectorize(graph: Graph, cx: Context, options: VectorizeOptions) -> Graph:
    """Turn loops into batched ops, as far as their steps are independent."""
    sizes = typical(graph)
    return _in_graph(graph, _Pass(cx, options, graph.dims, sizes))


@dataclass(frozen=True)
class _Pass:
    """What every loop of a graph is asked with."""

    cx: Context
    options: VectorizeOptions
    dims: tuple[DimName, ...]
    sizes: Mapping[str, int]

    def size(self, dim: Dim) -> int:
        return dim if type(dim) is int else evaluate(dim, {**dict.fromkeys(names(dim), 64), **self.sizes})


def _in_graph(graph: Graph, run: _Pass) -> Graph:
    """The graph with its loops vectorized, the innermost first."""
    if not any(value.bodies for value in graph.ops):
        return graph
    memo: dict[int, Value] = {id(param): param for param in graph.params}
    parts: dict[int, Sequence[Value]] = {}
    for value in graph.ops:
        with at(value.origin):
            if isinstance(value, Get) and id(value.x) in parts:
                memo[id(value)] = parts[id(value.x)][value.index]
                continue
            made = value.with_operands(tuple(memo[id(operand)] for operand in value.operands))
            made = in_bodies(made, lambda body: _in_graph(body, run))
            found = _counted(made) if isinstance(made, While) else None
            loop = found[0] if found is not None else made
            results = _loop(loop, run) if isinstance(loop, Scan) else None
            if results is not None:
                parts[id(value)] = results if found is None else found[1](results)
            else:
                memo[id(value)] = made
    if all(memo.get(id(result)) is result for result in graph.results):
        return graph
    return graph.with_results([memo[id(result)] for result in graph.results])


def _counted(op: While) -> tuple[Scan, Callable[[Sequence[Value]], list[Value]]] | None:
    """A while whose number of steps is known, as a scan; and the results of the while from those of the scan."""
    found = trips(op)
    if found is None:
        return None
    c, start, by, count = found
    n = len(op.consts)
    kind = op.carry[c].tensor
    number = Parameter("i", TensorType((), i64))
    params = op.body.params
    place = Add(Mul(number, Full(by, number.tensor)), Full(start, number.tensor))
    counter: Value = place if kind.dtype is i64 else Convert(place, kind.dtype)
    kept = [i for i in range(len(op.carry)) if i != c]
    memo = [*params[:n], *params[n : n + c], counter, *params[n + c + 1 :]]
    results = inline(op.body, memo)
    body = Graph(
        op.body.name,
        (number, *params[:n], *(params[n + i] for i in kept)),
        tuple(results[i] for i in kept),
        op.body.dims,
    )
    scan = Scan(op.consts, tuple(op.carry[i] for i in kept), (), body, count, False, True)
    last = Full(start + by * count, kind)

    def back(found: Sequence[Value]) -> list[Value]:
        return [*found[:c], last, *found[c:]]

    return scan, back


def _loop(op: Scan, run: _Pass) -> list[Value] | None:
    """What became of the results of a loop; None where it stays as it is, with the reason said."""
    if known_le(op.length, 0) or op.chunk == 1:
        return None
    try:
        return _Loop(_steps(_without_counts(op), run), run).results()
    except Unsupported as error:
        run.cx.remark(op, f"stays a loop: {error.message}")
    except Declined as reason:
        run.cx.remark(op, f"stays a loop: {reason}")
    return None


def _steps(op: Scan, run: _Pass) -> Steps:
    """What the steps of a loop have to do with each other, in the spelling of it that says most."""
    any_order = run.options.any_order or op.any_order
    choices = without_branches(op.body, lambda body: _never_fails(body, op, run.dims))
    if choices is not op.body:
        steps = Steps(spelled(with_body(op, choices)), run.dims, any_order=any_order)
        if not steps.core:
            return steps
    op = spelled(op)
    steps = Steps(op, run.dims, any_order=any_order)
    if steps.core:
        kept = _beside(steps, _Costs(run, op.length))
        steps = Steps(op, run.dims, any_order=any_order, kept=kept) if kept else steps
    return steps


def _never_fails(body: Graph, op: Scan, dims: Sequence[DimName]) -> bool:
    """Whether all that could fail are places on lines that stay inside."""
    sizes = {dim.name: dim for dim in dims}
    known = lines(body, body.params[0] if op.counted else None, op.length, sizes)
    for value in body.ops:
        if value.can_fail or any(map(needed, value.bodies)):
            if not isinstance(value, Gather | Scatter):
                return False
            for axis, index in zip(value.axes, value.indices, strict=True):
                line = known.get(id(index))
                if line is None or not within(line, op.length, value.x.shape[axis], sizes):
                    return False
    return True


def _beside(steps: Steps, costs: _Costs) -> list[int]:
    """The carries that could be reduced, or written, all at once beside a recurrence, and are better kept with it: what
    they are made of hangs on it, or is too little or too much to be taken out."""
    roots: dict[int, Sequence[Value]] = {c: each.terms for c, each in steps.reduces.items()}
    for c, writes in steps.writes.items():
        if any(write.row is None for write in writes):
            roots[c] = [operand for write in writes for operand in write.op.operands[1:]]
    results = steps.body.results
    kept: list[int] = []
    for c, needs in roots.items():
        others = [result for i, result in enumerate(results) if i != c]
        shared = {id(value) for value in reachable_from(others)}
        own = [v for v in reachable_from(needs) if id(v) not in shared and id(v) not in steps.fixed]
        gain = costs.count * (1 + sum(map(costs.gain, own)))
        size = costs.count * sum(costs.bytes(v) for v in own if _kept_apart(v) and id(v) not in steps.rows)
        options = costs.run.options
        if (
            any(id(value) in steps.in_core for value in needs)
            or (gain < CALL and not options.always)
            or size > options.bytes
        ):
            kept.append(c)
    return kept


def _without_counts(op: Scan) -> Scan:
    """The loop whose carries that only count are computed from the step's number. They stay as carries that are handed
    on, and nobody reads them."""
    first, n = int(op.counted), len(op.consts)
    params = op.body.params
    known = lines(op.body, None)
    number = params[0] if op.counted else Parameter("i", TensorType((), i64))
    passed: Value = number
    if op.reverse:
        last = op.length - 1
        passed = (Full(last, number.tensor) if type(last) is int else DimSize(last)) - number
    memo: dict[int, Value] = {}
    for c, start in enumerate(op.carry):
        param, result = params[first + n + c], op.body.results[c]
        begin = known_start(start)
        if begin is None or not isinstance(result, Add) or param.given.dtype is not i64:
            continue
        others = [operand for operand in result.operands if operand is not param]
        step = known.get(id(others[0])) if len(others) == 1 else None
        if step is None or type(step[0]) is not int:
            continue
        memo[id(param)] = Add(Mul(passed, Full(step[0], passed.tensor)), Full(begin, passed.tensor))
    if not memo:
        return op
    body = op.body
    results = inline(body, [memo.get(id(param), param) for param in params])
    every = params if op.counted else (number, *params)
    made = Graph(body.name, tuple(every), results, body.dims)
    return Scan(op.consts, op.carry, op.xs, made, op.length, op.reverse, True, op.chunk, op.any_order)


def known_start(value: Value) -> int | None:
    """The number that an integer scalar is known to be."""
    known = isinstance(value, Full | Constant)
    found = lines(Graph("start", (), (value,)), None).get(id(value)) if known else None
    return found[0] if found is not None and type(found[0]) is int else None


class Declined(Exception):
    """Why a loop stays a loop."""


# What it costs.


class _Costs:
    """Cycles of the values of a body: in a step of the loop, and as a share of what all steps take at once."""

    def __init__(self, run: _Pass, length: Dim) -> None:
        self.run, self.target = run, run.cx.target
        self.count = max(run.size(length), 1)

    def bytes(self, value: Value) -> int:
        return sum(self.run.size(kind.bytes) for kind in value.tensors)

    def touched(self, value: Value) -> int:
        """The bytes that a value writes: of an update in place the part that is new."""
        match value:
            case Scatter(updates=new) | DynamicUpdate(update=new):
                return self.bytes(new)
        return self.bytes(value)

    def stack(self, value: Value) -> float:
        """Writing a value in each step, and reading it again."""
        size = self.bytes(value)
        return 2 * size / (FAST if self.count * size <= self.target.l2_bytes else SLOW) + 1

    def inside(self, value: Value) -> float:
        return self._work(value)[0]

    def outside(self, value: Value) -> float:
        return self._work(value)[1]

    def gain(self, value: Value) -> float:
        inside, outside = self._work(value)
        return inside - outside

    def _work(self, value: Value) -> tuple[float, float]:
        target = self.target
        if isinstance(value, Full | Constant | DimSize | Iota | Get | After | Parameter):
            return 0.0, 0.0
        structure = value.structure()
        if structure is None:
            if not value.bodies:
                moved = 2.0 * self.touched(value) / value.tensors[0].dtype.bytes
                return moved + 20, moved
            sizes = {**dict.fromkeys(self._names(value), 64), **self.run.sizes}
            total = graph_cost(Graph("op", (), ()), sizes)
            for body in value.bodies:
                total += graph_cost(body, sizes)
            times = self.run.size(value.length) if isinstance(value, Scan) else 1
            flops = (total.flops + TRANSCENDENTAL_FLOPS * total.transcendentals) * times
            return flops + STEP * times, flops / target.lanes(value.tensors[0].dtype) + STEP * times / self.count
        points = self.run.size(product(axis.extent for axis in structure.axes))
        lanes = target.lanes(value.dtype) * target.fma_pipes
        if isinstance(value, Contraction):
            read = max(self.bytes(operand) for operand in value.operands)
            return max(points / lanes, read / FAST) + 20, 1.1 * points / lanes
        flops, math = scalar_cost(structure.body[0])
        each = max(flops + TRANSCENDENTAL_FLOPS * math + (structure.combine is not None), 0.5)
        return -(-points // target.lanes(value.dtype)) * each, points / target.lanes(value.dtype) * each

    @staticmethod
    def _names(value: Value) -> list[str]:
        return [
            name for body in value.bodies for v in body.order for k in v.tensors for d in k.shape for name in names(d)
        ]


def _kept_apart(value: Value) -> bool:
    """Whether a value lies in memory when many steps are taken at once: what is neither a map nor a leaf."""
    structure = value.structure()
    return (structure is None and not isinstance(value, Get | After | Parameter | Constant | DimSize)) or (
        structure is not None and structure.combine is not None
    )


# One loop.


class _Loop:
    """One loop on its way: what is computed for all steps at once, what in each, and how they meet."""

    def __init__(self, steps: Steps, run: _Pass) -> None:
        self.steps, self.run = steps, run
        self.op, self.body = steps.op, steps.body
        self.costs = _Costs(run, self.op.length)
        self.spread = Spread(self.op.length)
        # By id: values that are computed in the loop, and those of them that others need of every step.
        self.inside: dict[int, Value] = {}
        self.exported: list[Value] = []

    @property
    def several(self) -> bool:
        """Whether there is at least one step."""
        return known_le(1, self.op.length, self.steps.dims)

    def results(self) -> list[Value] | None:
        steps, op = self.steps, self.op
        if not self.several and any(v.can_fail or _fails(v) for v in self.body.ops if id(v) in steps.fixed):
            raise Declined("what is the same in every step may fail, and there may be no step")
        if not steps.core:
            if not op.chunk and not self.run.options.always and self._whole(True) < self._whole(False):
                self.run.cx.remark(op, f"stays a loop: {self.costs.count} steps of so little are faster from registers")
                return None
            room = self._room()
            if room is not None:
                return self._in_chunks(room)
        else:
            self._choose()
            if not self._moved():
                self.run.cx.remark(op, f"stays a loop: {self._why()}")
                return None
        self._sources()
        core = self._core() if steps.core or self.inside else None
        if core is None:
            count = op.length
            self.run.cx.remark(op, f"vectorized: {count} steps at once{self._how()}")
        else:
            before, behind, once = self._counts()
            parts = [
                f"{n} ops {where}"
                for n, where in ((before, "in front of it"), (behind, "behind it"), (once, "once"))
                if n
            ]
            parts += ["reductions at once"] if steps.reduces else []
            self.run.cx.remark(op, f"distributed: {self._left()}; {', '.join(parts)}")
        return self._assembled(core)

    # Choosing.

    def _whole(self, loop: bool) -> float:
        """Cycles of all steps, one after the other or at once."""
        costs = self.costs
        total, calls = 0.0, 0
        for value in self.body.ops:
            if id(value) in self.steps.fixed:
                continue
            total += costs.inside(value) if loop else costs.outside(value)
            if _kept_apart(value) and not self._is_row(value):
                calls += 1
                size = costs.touched(value)
                far = size > self.costs.target.l2_bytes if loop else costs.count * size > self.costs.target.l2_bytes
                total += 2 * size / (SLOW if far else FAST)
        if loop:
            return costs.count * (total + STEP)
        return costs.count * total + CALL * calls

    def _is_row(self, value: Value) -> bool:
        """Whether a value is a row that is read or written in its turn: all of them are a part of an array."""
        written = [write.op for write in self._writes() if write.row is not None]
        return id(value) in self.steps.rows or any(value is op for op in written)

    def _writes(self) -> list[Write]:
        return [write for writes in self.steps.writes.values() for write in writes]

    def _choose(self) -> None:
        """Fill `inside`: everything that the recurrences need, and what is not worth moving."""
        steps, costs = self.steps, self.costs
        free = [v for v in self.body.ops if not isinstance(v, Full | Constant | DimSize | Iota)]
        pinned = self._pinned()
        writing = {id(write.op) for write in self._writes()}
        for value in reversed(free):
            core = id(value) in steps.in_core and id(value) in steps.into_core
            back = id(value) in steps.in_core and any(id(r) in self.inside for r in steps.uses.readers(value))
            if id(value) not in steps.rows and id(value) not in writing and (core or back or id(value) in pinned):
                self.inside[id(value)] = value
        for c in steps.core:
            result = self.body.results[c]
            if not isinstance(result, Parameter | Full | Constant | DimSize | Iota):
                self.inside.setdefault(id(result), result)
        held = self._held()
        readers = {id(v): list(steps.uses.readers(v)) for v in self.body.order}
        given = {id(v) for v in (*self._outputs(), *held)}
        # In front of the loop, from its side: a value whose stack costs more than computing it in the loop stays there.
        front = [v for v in free if id(v) not in steps.in_core and id(v) not in self.inside and id(v) not in steps.rows]
        gained = spent = 0.0
        forced = {id(v) for v in held}
        for value in reversed(front):
            if not any(id(r) in self.inside for r in readers[id(value)]) and not self._carried_on(value):
                if id(value) in steps.into_core:
                    gained += self._gain(value)
                continue
            fixed = id(value) in steps.fixed
            spent_here = 0.0 if fixed or id(value) in given else costs.stack(value)
            saved = 0.0 if fixed else sum(costs.stack(o) for o in value.operands if self._would_stack(o))
            if isinstance(value, Get):
                # Goes where the op goes of which it is a part.
                gained += self._gain(value.x)
                spent += spent_here
            elif id(value) not in forced:
                gain = self._gain(value)
                if (
                    self._enlarges(value)
                    or gain + saved < spent_here
                    or (gain <= 0 and not fixed and id(value) not in given)
                ):
                    self.inside[id(value)] = value
                    continue
                gained += gain
                spent += spent_here
        new = costs.count * sum(costs.bytes(v) for v in front if self._is_new(v) and id(v) not in given)
        given_anyway = 2 * costs.count * sum(map(costs.bytes, steps.xs))
        dear = gained * costs.count < spent * costs.count + CALL
        if (dear and not self.run.options.always) or new > max(given_anyway, costs.target.l2_bytes // 2):
            for value in front:
                if id(value) in steps.into_core and id(value) not in forced:
                    self.inside[id(value)] = value
        # Behind it, from its side.
        behind = [v for v in free if id(v) in steps.in_core and id(v) not in self.inside and id(v) not in steps.rows]
        gained, kept = 0.0, []
        for value in behind:
            if id(value) in writing:
                continue
            if isinstance(value, Get):
                if id(value.x) in self.inside:
                    self.inside[id(value)] = value
                continue
            ahead = sum(costs.stack(o) for o in self._needs(value) if id(o) not in given)
            own = costs.stack(value) if id(value) in given or readers[id(value)] else 0.0
            late = any(
                id(o) not in self.inside and id(o) in steps.in_core and not self._is_core(o) for o in value.operands
            )
            if late or costs.gain(value) + own > ahead:
                gained += costs.gain(value) - ahead
                kept.append(value)
            else:
                self.inside[id(value)] = value
        if gained * costs.count < CALL and not self.run.options.always:
            handed = {id(steps.carries[c]) for c in steps.handed}
            if not any(id(o) in handed for value in kept for o in value.operands):
                self.inside.update((id(value), value) for value in kept)

    def _is_new(self, value: Value) -> bool:
        """Whether a value in front of the loop is stacked for it."""
        read = any(id(r) in self.inside for r in self.steps.uses.readers(value)) or self._carried_on(value)
        return read and id(value) not in self.inside and id(value) not in self.steps.fixed

    def _gain(self, value: Value) -> float:
        if id(value) in self.steps.fixed:
            return self.costs.inside(value) * (1 - 1 / self.costs.count)
        return self.costs.gain(value)

    def _is_core(self, value: Value) -> bool:
        return any(value is self.steps.carries[c] for c in self.steps.core)

    def _needs(self, value: Value) -> list[Value]:
        """The operands that the loop would have to hand out."""
        return [o for o in dict.fromkeys(value.operands) if id(o) in self.inside or self._is_core(o)]

    def _would_stack(self, value: Value) -> bool:
        """Whether a value would have to be stacked if its reader stayed in the loop."""
        return (
            not isinstance(value, Parameter | Full | Constant | DimSize | Iota)
            and id(value) not in self.steps.fixed
            and id(value) not in self.steps.rows
            and not any(id(r) in self.inside for r in self.steps.uses.readers(value))
        )

    def _enlarges(self, value: Value) -> bool:
        """Whether a value only repeats or moves what it is made of: the loop reads that instead."""
        if isinstance(value, Broadcast):
            return True
        return isinstance(value, Movement) and id(value) in self.steps.fixed

    def _carried_on(self, value: Value) -> bool:
        return any(self.body.results[c] is value for c in self.steps.core)

    def _pinned(self) -> dict[int, None]:
        """What stays in the loop for the sake of memory, and all that needs it: what stands behind an order mark is
        computed again there on purpose, and so, as a rule, is a loop that gives more than it takes."""
        found: dict[int, None] = {}
        for value in self.body.ops:
            if (
                isinstance(value, After)
                or (value.bodies and self.costs.bytes(value) > sum(map(self.costs.bytes, value.operands)))
                or any(id(operand) in found for operand in value.operands)
            ):
                found[id(value)] = None
        return found

    def _held(self) -> list[Value]:
        """What has to stand in front of the loop: what carries hand on that no recurrence reaches."""
        roots = [self.body.results[c] for c in self.steps.handed if id(self.body.results[c]) not in self.steps.in_core]
        found: dict[int, Value] = {}
        while roots:
            value = roots.pop()
            if id(value) not in found:
                found[id(value)] = value
                roots += () if id(value) in self.steps.rows else value.operands
        return list(found.values())

    def _outputs(self) -> list[Value]:
        """What all steps give: stacked results, written rows, what is handed on."""
        steps = self.steps
        found = [*steps.ys, *(self.body.results[c] for c in steps.handed)]
        for write in self._writes():
            found += write.op.operands[1:] if write.row is None else (write.update,)
        for each in steps.reduces.values():
            found += each.terms
        return found

    def _moved(self) -> bool:
        """Whether anything that costs something left the loop."""
        return any(
            id(v) not in self.inside
            and not isinstance(v, Full | Constant | DimSize | Iota | Get | Broadcast)
            and id(v) not in self.steps.rows
            and all(v is not write.op for write in self._writes())
            for v in self.body.ops
        )

    def _counts(self) -> tuple[int, int, int]:
        before = behind = once = 0
        for value in self.body.ops:
            if id(value) in self.inside or isinstance(value, Full | Constant | DimSize | Iota | Get):
                continue
            if id(value) in self.steps.fixed:
                once += 1
            elif id(value) in self.steps.in_core:
                behind += 1
            else:
                before += 1
        return before, behind, once

    def _how(self) -> str:
        steps = self.steps
        parts = []
        if steps.writes:
            parts.append("what they write is one write")
        if steps.reduces:
            parts.append("what they add up is one reduction")
        return f"; {', '.join(parts)}" if parts else ""

    def _labels(self, carries: Sequence[int]) -> str:
        return _listed([f"`{self.steps.carries[c].label}`" for c in carries])

    def _left(self) -> str:
        """What the loop that is left is for."""
        ordered = [c for c in self.steps.core if c in self.steps.ordered]
        others = [c for c in self.steps.core if c not in self.steps.ordered]
        parts = [f"the recurrence of {self._labels(others)} stays a loop"] if others else []
        parts += [f"a loop adds up {self._labels(ordered)} in the order of the steps"] if ordered else []
        return " and ".join(parts)

    def _why(self) -> str:
        """What makes the carries recurrences, with the line of the first."""
        steps = self.steps
        others = [c for c in steps.core if c not in steps.ordered]
        if not others:
            return f"floats in {self._labels(steps.core)} are added in the order of the steps, and little else is done"
        place = self.body.results[others[0]].location
        where = f", at {place}" if place is not None else ""
        return f"what a step leaves in {self._labels(others)} is read by the next{where}"

    # Building.

    def _sources(self) -> None:
        """What stands, outside of the loop, for what a step is given."""
        op, steps, spread = self.op, self.steps, self.spread
        for param, value in zip(steps.consts, op.consts, strict=True):
            spread.give(param, value, False)
        if steps.number is not None:
            spread.give(steps.number, Iota(TensorType((op.length,), i64), 0), True)
        for param, value in zip(steps.xs, op.xs, strict=True):
            spread.give(param, value, True)
        if steps.rows:
            for value in self.body.ops:
                row = steps.rows.get(id(value))
                if row is not None:
                    spread.give(value, self._rows(value, row), True)
        for c in steps.handed:
            if id(self.body.results[c]) not in steps.in_core:
                self._hand_on(c)

    def _hand_on(self, c: int) -> None:
        self.spread.give(self.steps.carries[c], self._before(c), True)

    def _before(self, c: int) -> Value:
        """What a carry that is handed on is at the beginning of every step."""
        start, after = self.op.carry[c], self._stack(self.body.results[c])
        first = Reshape(start, (1, *start.shape))
        if self.op.reverse:
            return _part(Concatenate((after, first), 0), 1, self.op.length + 1)
        return _part(Concatenate((first, after), 0), 0, self.op.length)

    def _last(self, c: int) -> Value:
        """What such a carry is in the end."""
        start, after = self.op.carry[c], self._stack(self.body.results[c])
        place: Dim = 0 if self.op.reverse else self.op.length - 1
        if not self.several:
            first = Reshape(start, (1, *start.shape))
            after = Concatenate((after, first) if self.op.reverse else (first, after), 0)
            place = 0 if self.op.reverse else self.op.length
        return Reshape(_part(after, place, place + 1), start.shape)

    def _stack(self, value: Value) -> Value:
        """A value of every step."""
        ((found, batched),) = self.spread.of([value])
        return found if batched else repeat(found, self.op.length)

    def _rows(self, value: Value, row: Row) -> Value:
        """All rows that steps read, along a first axis."""
        source = self._start(row.source)
        first, by = row.at
        last = first + (self.op.length - 1) * by
        low, high = (first, last) if by > 0 else (last, first)
        if self.several:
            start: list[Dim] = [0] * source.rank
            stop = list(source.shape)
            step = [1] * source.rank
            start[row.axis], stop[row.axis], step[row.axis] = low, high + 1, abs(by)
            found = source if abs(by) == 1 and low == 0 and high + 1 == source.shape[row.axis] else None
            if found is None:
                found = Slice(source, tuple(start), tuple(stop), tuple(step))
        else:
            raise Declined(f"rows of {row.source.tensor} are read, and there may be no step")
        if by < 0:
            found = Reverse(found, (row.axis,))
        if row.axis:
            found = Transpose(found, (row.axis, *(i for i in range(source.rank) if i != row.axis)))
        return Reshape(found, (self.op.length, *value.shape)) if row.size else found

    def _start(self, source: Value) -> Value:
        """A value that is the same in every step, or what a carry begins as, outside of the loop."""
        for param, start in zip(self.steps.carries, self.op.carry, strict=True):
            if param is source:
                return start
        ((found, batched),) = self.spread.of([source])
        assert not batched
        return found

    def _core(self) -> Value:
        """The loop that is left. What it hands out stands for the values that are read behind it."""
        op, steps, body = self.op, self.steps, self.body
        memo: dict[int, Value] = {}
        consts: list[tuple[Parameter, Value]] = []
        xs: list[tuple[Parameter, Value]] = []
        carries = tuple(steps.carries[c] for c in steps.core)
        memo.update((id(param), param) for param in carries)
        number = steps.number
        counted = False

        def enter(value: Value) -> Value:
            nonlocal counted
            if id(value) in memo:
                return memo[id(value)]
            if value is number:
                counted = True
                return value
            if isinstance(value, Full | Constant | DimSize | Iota):
                return value
            if any(value is steps.carries[c] for c in steps.handed) and id(value) in steps.in_core:
                raise Declined("what one step hands on to the next is wanted between them")
            ((found, batched),) = self.spread.of([value])
            label = value.label if isinstance(value, Parameter) else f"{value.name}{len(consts) + len(xs)}"
            param = Parameter(label, value.tensor)
            (xs if batched else consts).append((param, found))
            memo[id(value)] = param
            return param

        for value in body.ops:
            if id(value) in self.inside:
                with at(value.origin):
                    memo[id(value)] = value.with_operands(tuple(enter(operand) for operand in value.operands))
        outputs = [v for v in self._read_behind() if id(v) in self.inside or self._is_core(v)]
        results = [enter(body.results[c]) for c in steps.core]
        ys = [memo[id(v)] for v in outputs]
        params = ((number,) if counted and number is not None else ()) + tuple(p for p, _ in consts) + carries
        made = Scan(
            tuple(v for _, v in consts),
            tuple(op.carry[c] for c in steps.core),
            tuple(v for _, v in xs),
            Graph(body.name, (*params, *(p for p, _ in xs)), (*results, *ys), body.dims),
            op.length,
            op.reverse,
            counted,
            op.chunk,
            op.any_order,
        )
        for i, value in enumerate(outputs, len(carries)):
            self.spread.give(value, Get(made, i), True)
        for c in steps.handed:
            if id(self.body.results[c]) in steps.in_core:
                self._hand_on(c)
        return made

    def _read_behind(self) -> list[Value]:
        """The values that are read outside of the loop: outputs, and operands of what was moved behind."""
        found: dict[int, Value] = {}
        pending = self._outputs()
        while pending:
            value = pending.pop()
            if id(value) in found:
                continue
            found[id(value)] = value
            if id(value) not in self.inside and id(value) not in self.steps.rows:
                pending += value.operands
        return [value for value in self.body.order if id(value) in found]

    def _assembled(self, core: Value | None, reduced: Mapping[int, Value] = NOTHING) -> list[Value]:
        """The results of the whole loop; those of reductions may be known."""
        op, steps = self.op, self.steps
        results: list[Value] = []
        for c, start in enumerate(op.carry):
            with at(self.body.results[c].origin):
                if c in steps.core:
                    assert core is not None
                    results.append(Get(core, steps.core.index(c)))
                elif c in steps.writes:
                    found = start
                    for write in steps.writes[c]:
                        found = self._written(found, write)
                    results.append(found)
                elif c in reduced:
                    results.append(reduced[c])
                elif c in steps.reduces:
                    reduce = steps.reduces[c]
                    found = start
                    for term in reduce.terms:
                        found = reduce.op(found, total(self._stack(term), REDUCTIONS[reduce.op]))
                    results.append(found)
                else:
                    results.append(self._last(c))
        for value in steps.ys:
            with at(value.origin):
                results.append(self._stack(value))
        return results

    def _written(self, start: Value, write: Write) -> Value:
        """`start` with what all steps write."""
        op, row = write.op, write.row
        update = self._stack(write.update)
        count = self.op.length
        if row is not None and self.several and abs(row.at[1]) == max(row.size, 1):
            # Neighbours: one block.
            first, by = row.at
            if by < 0:
                update = Reverse(update, (0,))
                first = first + (count - 1) * by
            rest = list(range(1, update.rank))
            rest.insert(row.axis, 0)
            block = Transpose(update, tuple(rest)) if row.axis else update
            shape = list(start.shape)
            shape[row.axis] = count * max(row.size, 1)
            block = Reshape(block, tuple(shape)) if block.shape != tuple(shape) else block
            if block.shape == start.shape:
                return block
            places = [Full(0, TensorType((), i64)) for _ in start.shape]
            at_first: list[Value] = list(places)
            at_first[row.axis] = Full(first, TensorType((), i64)) if type(first) is int else DimSize(first)
            return DynamicUpdate(start, block, tuple(at_first))
        apart = row is not None
        if isinstance(op, Scatter):
            indices = tuple(self._stack(index) for index in op.indices)
            if op.batch_rank:
                raise Declined("rows of several arrays are written at once")
            if self.op.reverse and not apart:
                indices, update = tuple(Reverse(i, (0,)) for i in indices), Reverse(update, (0,))
            return replace(
                op, x=start, indices=indices, updates=update, unique=apart, mode="promised" if apart else op.mode
            )
        stacks = self.spread.of(list(op.starts))
        flags = tuple(batched for _, batched in stacks)
        axes, where = block_positions(op.shape, op.update.shape, tuple(v for v, _ in stacks), flags)
        if not axes:
            # Every step writes all of it; the last one is left.
            place: Dim = 0 if self.op.reverse else count - 1
            return Reshape(_part(update, place, place + 1), start.shape)
        others = [axis for axis in range(start.rank) if axis not in axes]
        update = Transpose(update, (0, *(axis + 1 for axis in (*axes, *others))))
        if self.op.reverse and not apart:
            where, update = tuple(Reverse(i, (0,)) for i in where), Reverse(update, (0,))
        return Scatter(start, where, update, axes, "set", "promised", 0, apart)

    # Memory.

    def _room(self) -> int | None:
        """How many steps fit into the budget at once; None where all do."""
        budget, length = self.run.options.bytes, self.op.length
        known = {*self.steps.fixed, *self.steps.rows, *(id(write.op) for write in self._writes())}
        kept = [v for v in self.body.ops if id(v) not in known and _kept_apart(v)]
        each = max(sum(map(self.costs.bytes, dict.fromkeys((*kept, *self._outputs())))), 1)
        room = min(budget // each, self.op.chunk or budget)
        if length <= room if type(length) is int else room >= 1 << 16:
            return None
        if room < 2:
            raise Declined(f"one step makes {each} bytes, the budget is {budget}")
        if self.steps.handed:
            raise Declined(f"all steps make more than {budget} bytes, and one hands a value on to the next")
        return room

    def _in_chunks(self, room: int) -> list[Value]:
        """The results by way of a loop over chunks of so many steps, each of which is computed at once."""
        op, steps = self.op, self.steps
        self._sources()
        params = self.body.params
        rows = {key: Parameter("row", v.tensor) for v in self.body.ops if (key := id(v)) in steps.rows}
        stacks = [self.spread.of([v])[0][0] for v in self.body.ops if id(v) in rows]
        outs = [v for v in dict.fromkeys(self._outputs()) if id(v) not in self.spread.table]
        reduced = list(steps.reduces)
        memo: dict[int, Value] = {**rows}
        body = rebuild(
            self.body.with_results([*(self.body.results[c] for c in reduced), *outs]), lambda v: None, memo=memo
        )
        first = int(op.counted) + len(op.consts)
        kept = (*params[:first], *(steps.carries[c] for c in reduced), *steps.xs, *rows.values())
        body = Graph(body.name, kept, body.results, body.dims)
        starts = tuple(op.carry[c] for c in reduced)
        plain = Scan(
            op.consts, starts, (*op.xs, *stacks), body, op.length, op.reverse, op.counted, any_order=op.any_order
        )
        found = chunked(plain, room, self.run)
        for value, stack in zip(outs, found[len(reduced) :], strict=True):
            self.spread.give(value, stack, True)
        why = "as asked" if room == op.chunk else f"within {self.run.options.bytes} bytes"
        self.run.cx.remark(op, f"vectorized: {room} of {op.length} steps at once, {why}")
        return self._assembled(None, dict(zip(reduced, found, strict=False)))


def chunked(op: Scan, room: int, run: _Pass) -> list[Value]:
    """The results of a scan whose steps are independent, or only reduce, over chunks of `room` steps."""
    inner = _Pass(run.cx, replace_fields(run.options, bytes=1 << 62, always=True), run.dims, run.sizes)
    count = op.length // room
    whole = count * room
    first, n, m = int(op.counted), len(op.consts), len(op.carry)
    tail = op.length - whole
    number = TensorType((), i64)

    def piece(given: Sequence[Value], start: Value | None, size: Dim) -> Sequence[Value]:
        """The results of `size` steps on consts, carry and slices; `start` is added to the number of a step."""
        consts, carry, xs = tuple(given[:n]), tuple(given[n : n + m]), tuple(given[n + m :])
        body = op.body
        if start is not None:
            base = Parameter("start", number)
            params = body.params
            place = Add(params[0], base)
            results = inline(body, [place, *params[1:]])
            body = Graph(body.name, (params[0], base, *params[1:]), results, body.dims)
            consts = (start, *consts)
        scan = Scan(consts, carry, xs, body, size, op.reverse, op.counted, any_order=op.any_order)
        said = len(run.cx.remarks)
        found = _loop(scan, inner)
        del run.cx.remarks[said:]
        if found is None:
            raise Declined("its chunks cannot be computed at once")
        return found

    slices = [x.tensor.with_shape((room, *x.shape[1:])) for x in op.xs]
    kinds = (*(v.tensor for v in (*op.consts, *op.carry)), *slices)
    params = tuple(Parameter(p.label, kind) for p, kind in zip(op.body.params[first:], kinds, strict=True))
    chunk = Parameter("chunk", number)
    body = Graph(
        op.body.name,
        (*((chunk,) if first else ()), *params),
        tuple(piece(params, Mul(chunk, Full(room, number)) if first else None, room)),
        op.body.dims,
    )

    def main(carry: Sequence[Value]) -> list[Value]:
        xs = tuple(Reshape(_part(x, 0, whole), (count, room, *x.shape[1:])) for x in op.xs)
        made = Scan(op.consts, tuple(carry), xs, body, count, op.reverse, op.counted, chunk=1)
        return [Get(made, i) for i in range(len(body.results))]

    def rest(carry: Sequence[Value]) -> Sequence[Value]:
        xs = [_part(x, whole, op.length) for x in op.xs]
        start = Full(whole, number) if type(whole) is int else DimSize(whole)
        return piece((*op.consts, *carry, *xs), start if first else None, tail)

    ends = type(tail) is not int or tail > 0
    if op.reverse and ends:
        last = rest(op.carry)
        found = main(last[:m])
    else:
        found = main(op.carry)
        last = rest(found[:m]) if ends else ()
    results = list(found[:m] if op.reverse or not ends else last[:m])
    for i, y in enumerate(found[m:], m):
        flat: Value = Reshape(y, (whole, *y.shape[2:]))
        results.append(Concatenate((flat, last[i]), 0) if ends else flat)
    return results


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _fails(value: Value) -> bool:
    return any(v.can_fail or _fails(v) for body in value.bodies for v in body.ops)


def _part(x: Value, start: Dim, stop: Dim) -> Value:
    """Elements of the first axis."""
    begin = (start, *(0 for _ in x.shape[1:]))
    return Slice(x, begin, (stop, *x.shape[1:]), (1,) * x.rank)
