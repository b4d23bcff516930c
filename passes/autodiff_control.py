"""Derivatives of ops with closed bodies: call, switch, while, scan.

A scan is split. The known part runs forward and stacks what the linear part reads of each step (its residuals: what is
cheap to compute again from a stacked carry or input is computed again instead, and so is what a checkpoint marks). The
linear part is a scan of its own over those stacks, and its transpose is that scan run backwards. The known part repeats
the original scan with more outputs; `cleanup` makes one of the two. Switches compute their branches' known part again
in the derivative branch. `while` has a tangent, carried beside the values, but no transpose: how often it ran is not
known before it has.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.dims import Dim, known_le
from ..ir.dtypes import i64
from ..ir.errors import Unsupported
from ..ir.graph import Graph, inline
from ..ir.ops.contract import Dot
from ..ir.ops.control import Call, Scan, Switch, While
from ..ir.ops.families import Control, Movement
from ..ir.ops.movement import Iota, Transpose
from ..ir.ops.reduce import Sum
from ..ir.types import TensorType
from ..ir.value import Add, Constant, DimSize, Full, Get, Parameter, Value
from . import autodiff
from .batch import Spread, repeat, total
from .cost import scalar_cost

CHEAP_FLOPS = 2  # a residual that costs no more than this per element is computed again


def control_tangent(op: Control, tangents: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    """The tangents of the results from those of the operands."""
    match op:
        case Call(args, body):
            seeds = {id(a): t for a, t in zip(args, tangents, strict=True) if t is not None}
            return tuple(autodiff.push(inline(body, args), seeds))
        case Switch():
            return _switch_tangent(op, tangents)
        case While():
            return _while_tangent(op, tangents)
        case Scan():
            return _scan_tangent(op, tangents)
    raise Unsupported(f"{op.name} has no derivative", code="TD0341", location=op.location)


def control_transpose(
    op: Control, cotangents: tuple[Value | None, ...], moving: tuple[bool, ...]
) -> tuple[Value | None, ...]:
    """The cotangents of the operands in which `op` is linear (`moving`), from those of its results."""
    match op:
        case Switch():
            return _switch_transpose(op, cotangents, moving)
        case Scan():
            return _scan_transpose(op, cotangents, moving)
        case While():
            raise Unsupported(
                "the reverse derivative of a while loop needs to know how often it can run",
                code="TD0342",
                location=op.location,
                edit="td.lax.while_loop(cond, body, init, max_steps=...)",
            )
    raise Unsupported(f"{op.name} has no transpose", code="TD0341", location=op.location)


def _params(values: Sequence[Value], stem: str) -> tuple[Parameter, ...]:
    return tuple(Parameter(f"{stem}{i}", v.tensor) for i, v in enumerate(values))


def _elements(op: Value, start: int, count: int) -> list[Value]:
    return [Get(op, i) for i in range(start, start + count)]


# Switch.


def _switch_tangent(op: Switch, tangents: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    present = [(a, t) for a, t in zip(op.args, tangents[1:], strict=True) if t is not None]
    moving = [i for i, t in enumerate(tangents[1:]) if t is not None]
    carrying = [i for i, r in enumerate(op.branches[0].results) if autodiff.differentiable(r)]
    branches = []
    for branch in op.branches:
        dots = _params([a for a, _ in present], "t")
        seeds = {id(branch.params[i]): dot for i, dot in zip(moving, dots, strict=True)}
        results = [branch.results[i] for i in carrying]
        found = autodiff.push(results, seeds)
        filled = [autodiff.zeros_like(r) if t is None else t for r, t in zip(results, found, strict=True)]
        branches.append(Graph(f"{branch.name}_jvp", (*branch.params, *dots), tuple(filled), branch.dims))
    made = Switch(op.selector, (*op.args, *(t for _, t in present)), tuple(branches))
    out: list[Value | None] = [None] * len(op.branches[0].results)
    for place, i in enumerate(carrying):
        out[i] = Get(made, place)
    return tuple(out)


def _switch_transpose(
    op: Switch, cotangents: tuple[Value | None, ...], moving: tuple[bool, ...]
) -> tuple[Value | None, ...]:
    linear = [i for i, moves in enumerate(moving[1:]) if moves]
    kept = [i for i, moves in enumerate(moving[1:]) if not moves]
    seen = [(i, c) for i, c in enumerate(cotangents) if c is not None]
    branches = []
    for branch in op.branches:
        bars = _params([c for _, c in seen], "bar")
        wanted = [branch.params[i] for i in linear]
        found = autodiff.transpose([branch.results[i] for i, _ in seen], bars, wanted)
        filled = [autodiff.zeros_like(w) if c is None else c for w, c in zip(wanted, found, strict=True)]
        params = (*(branch.params[i] for i in kept), *bars)
        branches.append(Graph(f"{branch.name}_transposed", params, tuple(filled), branch.dims))
    made = Switch(op.selector, (*(op.args[i] for i in kept), *(c for _, c in seen)), tuple(branches))
    out: list[Value | None] = [None] * len(op.operands)
    for place, i in enumerate(linear):
        out[1 + i] = Get(made, place)
    return tuple(out)


# While.


def _moving_carries(body: Graph, first: int, count: int, seeds: dict[int, Value], start: Sequence[bool]) -> list[bool]:
    """Which carries move: those whose initial value does, and those that a moving one reaches (a fixpoint)."""
    moving = list(start)
    while True:
        trial = dict(seeds)
        for i in range(count):
            param = body.params[first + i]
            if moving[i] and autodiff.differentiable(param):
                trial[id(param)] = Parameter(f"trial{i}", param.given)
        found = autodiff.push(body.results[:count], trial)
        grown = [
            (m or t is not None) and autodiff.differentiable(body.params[first + i])
            for i, (m, t) in enumerate(zip(moving, found, strict=True))
        ]
        if grown == moving:
            return moving
        moving = grown


def _while_tangent(op: While, tangents: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    n, count = len(op.consts), len(op.carry)
    const_dots = [(i, t) for i, t in enumerate(tangents[:n]) if t is not None]
    dots = _params([t for _, t in const_dots], "tc")
    seeds: dict[int, Value] = {id(op.body.params[i]): d for (i, _), d in zip(const_dots, dots, strict=True)}
    moving = _moving_carries(op.body, n, count, seeds, [t is not None for t in tangents[n:]])
    carried = [i for i in range(count) if moving[i]]
    carry_dots = tuple(Parameter(f"t{i}", op.body.params[n + i].given) for i in carried)
    for i, dot in zip(carried, carry_dots, strict=True):
        seeds[id(op.body.params[n + i])] = dot
    found = autodiff.push([op.body.results[i] for i in carried], seeds)
    outs = tuple(
        autodiff.zeros_like(op.body.results[i]) if t is None else t for i, t in zip(carried, found, strict=True)
    )
    consts, carries = op.body.params[:n], op.body.params[n:]
    body = Graph(
        f"{op.body.name}_jvp", (*consts, *dots, *carries, *carry_dots), (*op.body.results, *outs), op.body.dims
    )
    spare = tuple(Parameter(p.label, p.given) for p in (*dots, *carry_dots))
    condition = Graph(
        op.condition.name,
        (*op.condition.params[:n], *spare[: len(dots)], *op.condition.params[n:], *spare[len(dots) :]),
        op.condition.results,
        op.condition.dims,
    )
    starts = []
    for i in carried:
        tangent = tangents[n + i]
        starts.append(autodiff.zeros_like(op.carry[i]) if tangent is None else tangent)
    made = While((*op.consts, *(t for _, t in const_dots)), (*op.carry, *starts), condition, body)
    out: list[Value | None] = [None] * count
    for place, i in enumerate(carried):
        out[i] = Get(made, count + place)
    return tuple(out)


# Scan.


def _scan_tangent(op: Scan, tangents: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    body, first = op.body, 1 if op.counted else 0
    n, count = len(op.consts), len(op.carry)
    given = tuple(tangents)
    const_dots = [(i, t) for i, t in enumerate(given[:n]) if t is not None]
    x_dots = [(i, t) for i, t in enumerate(given[n + count :]) if t is not None]
    consts = body.params[first : first + n]
    xs = body.params[first + n + count :]
    tc = tuple(Parameter(f"tc{i}", consts[i].given) for i, _ in const_dots)
    tx = tuple(Parameter(f"tx{i}", xs[i].given) for i, _ in x_dots)
    seeds: dict[int, Value] = {id(consts[i]): p for (i, _), p in zip(const_dots, tc, strict=True)}
    seeds |= {id(xs[i]): p for (i, _), p in zip(x_dots, tx, strict=True)}
    moving = _moving_carries(body, first + n, count, seeds, [t is not None for t in given[n : n + count]])
    carried = [i for i in range(count) if moving[i]]
    carries = body.params[first + n : first + n + count]
    ta = tuple(Parameter(f"t{i}", carries[i].given) for i in carried)
    seeds |= {id(carries[i]): p for i, p in zip(carried, ta, strict=True)}
    outputs = [i for i in range(count, len(body.results)) if autodiff.differentiable(body.results[i])]
    found = autodiff.push([body.results[i] for i in (*carried, *outputs)], seeds)
    live = [i for i, t in zip(outputs, found[len(carried) :], strict=True) if t is not None]
    dots = [
        autodiff.zeros_like(body.results[i]) if t is None else t
        for i, t in zip((*carried, *outputs), found, strict=True)
        if i in carried or i in live
    ]
    linear_params = (*tc, *ta, *tx)
    residuals = _residuals(dots, linear_params, body.params)
    # What a step reads: constants as they are, the step's inputs again, its carries and residuals from stacks.
    used_consts = [i for i, p in enumerate(consts) if any(p is r for r in residuals)]
    used_xs = [i for i, p in enumerate(xs) if any(p is r for r in residuals)]
    stacked = [r for r in residuals if not any(r is p for p in (*consts, *xs, *body.params[:first]))]
    counted = op.counted and any(body.params[0] is r for r in residuals)
    known = Graph(f"{body.name}_known", body.params, (*body.results, *stacked), body.dims)
    forward = Scan(op.consts, op.carry, op.xs, known, op.length, op.reverse, op.counted, op.chunk, op.any_order)
    stacks = _elements(forward, len(body.results), len(stacked))
    stand_ins = tuple(Parameter(f"r{i}", r.tensor) for i, r in enumerate(stacked))
    memo = {id(r): p for r, p in zip(stacked, stand_ins, strict=True)}
    number = (body.params[0],) if counted else ()
    step = (
        *number,
        *(consts[i] for i in used_consts),
        *tc,
        *ta,
        *stand_ins,
        *(xs[i] for i in used_xs),
        *tx,
    )
    linear = _rewired(f"{body.name}_linear", step, dots, memo, body)
    starts = []
    for i in carried:
        tangent = given[n + i]
        starts.append(autodiff.zeros_like(op.carry[i]) if tangent is None else tangent)
    made = Scan(
        (*(op.consts[i] for i in used_consts), *(t for _, t in const_dots)),
        tuple(starts),
        (*stacks, *(op.xs[i] for i in used_xs), *(t for _, t in x_dots)),
        linear,
        op.length,
        op.reverse,
        counted,
        op.chunk,
        op.any_order,
    )
    out: list[Value | None] = [None] * len(body.results)
    for place, i in enumerate((*carried, *live)):
        out[i] = Get(made, place)
    return tuple(out)


def _rewired(
    name: str, params: tuple[Parameter, ...], results: Sequence[Value], memo: dict[int, Parameter], body: Graph
) -> Graph:
    """A graph of `results` in which the values in `memo` are parameters."""
    table: dict[int, Value] = {id(p): p for p in params}
    table.update(memo)
    for value in autodiff.reachable_from(results, table):
        operands = tuple(table[id(o)] for o in value.operands)
        table[id(value)] = value.with_operands(operands)
    return Graph(name, params, tuple(table[id(r)] for r in results), body.dims)


def _residuals(dots: Sequence[Value], linear: Sequence[Parameter], params: Sequence[Parameter]) -> list[Value]:
    """The known values that the linear part reads. A cheap one gives way to what it is computed from."""
    moving = {id(p) for p in linear}
    order = autodiff.reachable_from(dots)
    for value in order:
        if any(id(o) in moving for o in value.operands):
            moving.add(id(value))
    behind = autodiff.behind_marks([value for value in order if id(value) not in moving])
    found: dict[int, Value] = {}
    pending = [o for value in order if id(value) in moving for o in value.operands if id(o) not in moving]
    pending += [d for d in dots if id(d) not in moving]
    seen: set[int] = set()
    while pending:
        value = pending.pop(0)
        if id(value) in seen:
            continue
        seen.add(id(value))
        if _free(value):
            continue
        if not isinstance(value, Parameter) and (id(value) in behind or _cheap(value)):
            pending.extend(value.operands)
        else:
            found[id(value)] = value
    return list(found.values())


def _free(value: Value) -> bool:
    return isinstance(value, Full | Constant | DimSize)


def _cheap(value: Value) -> bool:
    """Worth computing again: a movement or a map of few flops, whose operands are no larger than itself."""
    structure = value.structure()
    if structure is None or structure.combine is not None or not isinstance(value.type, TensorType):
        return False
    flops, math = scalar_cost(structure.body[0])
    small = isinstance(value, Movement) or len(value.operands) <= 2
    return small and math == 0 and flops <= CHEAP_FLOPS


def _scan_transpose(
    op: Scan, cotangents: tuple[Value | None, ...], moving: tuple[bool, ...]
) -> tuple[Value | None, ...]:
    body, first = op.body, 1 if op.counted else 0
    n, count = len(op.consts), len(op.carry)
    consts = body.params[first : first + n]
    carries = body.params[first + n : first + n + count]
    xs = body.params[first + n + count :]
    linear_consts = [i for i in range(n) if moving[i]]
    known_consts = [i for i in range(n) if not moving[i]]
    linear_xs = [i for i in range(len(xs)) if moving[n + count + i]]
    known_xs = [i for i in range(len(xs)) if not moving[n + count + i]]
    seen = [(i, c) for i, c in enumerate(cotangents[count:]) if c is not None]
    bars = tuple(Parameter(f"bar{i}", p.given) for i, p in enumerate(carries))
    sums = tuple(Parameter(f"sum{i}", consts[i].given) for i in linear_consts)
    y_bars = tuple(Parameter(f"ybar{i}", body.results[count + i].tensor) for i, _ in seen)
    wanted = [*(consts[i] for i in linear_consts), *carries, *(xs[i] for i in linear_xs)]
    found = autodiff.transpose(
        [*body.results[:count], *(body.results[count + i] for i, _ in seen)],
        [*bars, *y_bars],
        wanted,
        into={id(consts[i]): s for i, s in zip(linear_consts, sums, strict=True)},
    )
    filled = [
        (sums[place] if place < len(sums) else autodiff.zeros_like(w)) if c is None else c
        for place, (w, c) in enumerate(zip(wanted, found, strict=True))
    ]
    k = len(linear_consts)
    number = (body.params[0],) if op.counted else ()
    outside: list[tuple[Parameter, Value]] = [(xs[i], op.xs[i]) for i in known_xs]
    outside += [(y_bar, c) for y_bar, (_, c) in zip(y_bars, seen, strict=True)]
    behind = _Products([(consts[i], op.consts[i]) for i in known_consts], outside, number, op.length)
    kept = behind.taken(sums, filled[:k])
    results = (*filled[k : k + count], *kept, *filled[k + count :], *behind.factors.values())
    params = (*number, *(consts[i] for i in known_consts), *bars, *sums, *(xs[i] for i in known_xs), *y_bars)
    back = Graph(f"{body.name}_transposed", params, results, body.dims)
    starts: list[Value] = []
    for i, carry in enumerate(op.carry):
        cotangent = cotangents[i]
        starts.append(autodiff.zeros_like(carry) if cotangent is None else cotangent)
    made = Scan(
        tuple(op.consts[i] for i in known_consts),
        (*starts, *(autodiff.zeros_like(op.consts[i]) for i in linear_consts)),
        (*(op.xs[i] for i in known_xs), *(c for _, c in seen)),
        back,
        op.length,
        not op.reverse,
        op.counted,
        op.chunk,
        any_order=True,
    )
    out: list[Value | None] = [None] * len(op.operands)
    totals = behind.totals(_elements(made, len(results) - len(behind.factors), len(behind.factors)))
    for place, i in enumerate(linear_consts):
        # What is left of a sum in the loop is the zeros that it began with, if all of it was taken.
        found_there: Value | None = None if kept[place] is sums[place] else Get(made, count + place)
        for each in totals[place]:
            found_there = each if found_there is None else found_there + each
        out[i] = Get(made, count + place) if found_there is None else found_there
    for i in range(count):
        if moving[n + i]:
            out[n + i] = Get(made, i)
    for place, i in enumerate(linear_xs):
        out[n + count + i] = Get(made, count + k + place)
    return tuple(out)


class _Products:
    """Terms of the sums over all steps that are products: the loop hands out their factors, and one product behind it
    contracts the steps too, instead of one product in each step. The order of a sum that a derivative adds up is
    nobody's promise."""

    def __init__(
        self,
        consts: Sequence[tuple[Parameter, Value]],
        stacks: Sequence[tuple[Parameter, Value]],
        number: Sequence[Parameter],
        length: Dim,
    ) -> None:
        self.spread = Spread(length)
        for param, value in consts:
            self.spread.give(param, value, False)
        for param, value in stacks:
            self.spread.give(param, value, True)
        for param in number:
            self.spread.give(param, Iota(TensorType((length,), i64), 0), True)
        self.factors: dict[int, Value] = {}
        self.terms: list[list[Value]] = []

    def taken(self, sums: Sequence[Parameter], results: Sequence[Value | None]) -> list[Value]:
        """What is left of each sum in the loop."""
        chains = [_terms(param, result) for param, result in zip(sums, results, strict=True)]
        for param, terms in zip(sums, chains, strict=True):
            for term in terms:
                product = _product(term)
                if product is not None and self._small(product, param) and not any(map(_of_a_loop, self._new(product))):
                    self.factors.update((id(f), f) for f in self._new(product))
        left: list[Value] = []
        for param, result, terms in zip(sums, results, chains, strict=True):
            behind = [term for term in terms if self._is_known(term)]
            self.terms.append(behind)
            if not behind:
                assert result is not None
                left.append(result)
                continue
            rest: Value = param
            for term in terms:
                if all(term is not other for other in behind):
                    rest = rest + term
            left.append(rest)
        return left

    def _new(self, product: Dot) -> list[Value]:
        """The factors that only the loop knows."""
        free = (Full, Constant, DimSize)
        return [f for f in product.operands if id(f) not in self.spread.table and not isinstance(f, free)]

    def _small(self, product: Dot, total: Parameter) -> bool:
        """Whether the loop writes less when it hands out the factors than when it adds up the products."""
        room: Dim = 0
        for factor in self._new(product):
            room = room + factor.tensor.bytes
        return known_le(room, total.given.bytes)

    def _is_known(self, term: Value) -> bool:
        """Whether a term follows from factors that are handed out, or from what the loop was given."""
        product = _product(term)
        if product is not None:
            return all(
                id(f) in self.factors or not self._new(product) or id(f) in self.spread.table for f in product.operands
            )
        while isinstance(term, Sum | Transpose):
            term = term.x
        return id(term) in self.factors or self.spread.flags.get(id(term)) is True

    def totals(self, stacks: Sequence[Value]) -> list[list[Value]]:
        """The terms that were taken, over all steps."""
        for factor, stack in zip(self.factors.values(), stacks, strict=True):
            self.spread.give(factor, stack, True)
        return [
            [total(v if batched else repeat(v, self.spread.size), Sum) for v, batched in self.spread.of(terms)]
            for terms in self.terms
        ]


def _terms(param: Parameter, result: Value | None) -> list[Value]:
    """The terms of a running sum; none where something else is done to it."""
    terms: list[Value] = []
    while result is not None and result is not param:
        if not isinstance(result, Add):
            return []
        terms.append(result.y)
        result = result.x
    return terms[::-1]


def _of_a_loop(factor: Value) -> bool:
    """Whether a loop inside a step has made a value. A scan of scans is how steps are checkpointed: what an inner one
    stacks is there as long as a step of the outer one."""
    return any(isinstance(value, Scan | While) for value in autodiff.reachable_from([factor]))


def _product(term: Value) -> Dot | None:
    while isinstance(term, Transpose):
        term = term.x
    return term if isinstance(term, Dot) else None
