"""What a loop gathers in a carry, spelt as the carry, an operator and terms: `((c + a) + b)`.

`c - a` is `c + (-a)`, and where a step adds only under a condition, it adds what is neutral otherwise: `c + a` or `c`
by m is `c + where(m, a, -0.0)`. A write under a condition writes what is there already. Each is the same to the last
bit, also for -0.0, infinities and NaN, so it may be done wherever a loop is looked at; a branch (`cond`) of little work
becomes a choice between what both give, in which nothing fails for the one that is not taken. A carry that is read on
the way, or whose condition hangs on it, is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from ..ir.classes import dataclass
from ..ir.dtypes import bool_, i64
from ..ir.graph import Graph, Uses, inline
from ..ir.location import at
from ..ir.ops.control import Scan, Switch, types_of
from ..ir.ops.elementwise import And, Convert, Maximum, Minimum, Not, Or, Select
from ..ir.ops.indexing import DynamicSlice, DynamicUpdate, Gather, Scatter
from ..ir.ops.movement import Broadcast
from ..ir.types import TensorType
from ..ir.value import Add, Full, Gt, Le, Mul, Neg, Parameter, Sub, Value, replace
from .cost import TRANSCENDENTAL_FLOPS, graph_cost
from .order import typical
from .rewrite import opened
from .spare import needed, spared

OPERATORS: Final[tuple[type[Value], ...]] = (Add, Mul, Maximum, Minimum, Or, And)
CHEAP: Final = 64.0  # flops of a branch, for each element of its results, that are no more than a branch costs


@dataclass(frozen=True, slots=True)
class _Chain:
    """A value as a carry and what is combined with it, in order; with no term, it is the carry."""

    op: type[Value] | None
    terms: tuple[Value, ...]


def neutral(op: type[Value], like: TensorType) -> Value:
    """What changes nothing: x op neutral is x, to the bit. (0.0 would make 0.0 of -0.0.) Complex numbers have none:
    1 + 0j makes a NaN beside an infinity."""
    kind = like.dtype
    number: float | int | bool
    if op is Add:
        number = -0.0 if kind.kind == "float" else 0
    elif op is Mul:
        number = 1
    elif op in (Or, And):
        all_ones: int = 1 if kind is bool_ else -1 if kind.is_signed else np.iinfo(kind.numpy).max
        number = all_ones if op is And else 0
    else:
        low = op is Maximum
        if kind.kind == "float":
            number = -math.inf if low else math.inf
        elif kind is bool_:
            number = not low
        else:
            info = np.iinfo(kind.numpy)
            number = int(info.min if low else info.max)
    return Full(number, like)


def spelled(op: Scan) -> Scan:
    """The loop whose carries are spelt so, where they can be."""
    return _Spelling(op).made()


class _Spelling:
    """One body, and which carries its values hang on."""

    def __init__(self, op: Scan) -> None:
        self.op, self.body = op, op.body
        self.uses = Uses(self.body)
        first = int(op.counted) + len(op.consts)
        self.carries = self.body.params[first : first + len(op.carry)]
        self.reads: dict[int, int] = {id(param): 1 << c for c, param in enumerate(self.carries)}
        for value in self.body.ops:
            mask = 0
            for operand in value.operands:
                mask |= self.reads.get(id(operand), 0)
            self.reads[id(value)] = mask

    def made(self) -> Scan:
        results = list(self.body.results)
        for c, param in enumerate(self.carries):
            with at(results[c].origin):
                results[c] = self._carry(c, param, results[c])
        if all(new is old for new, old in zip(results, self.body.results, strict=True)):
            return self.op
        return with_body(self.op, self.body.with_results(results))

    def _carry(self, c: int, param: Parameter, result: Value) -> Value:
        if result is param or not self._changes(result, c) or self.uses.count(result) != 1:
            return result
        written = self._written(result, param, c)
        if written is not None:
            return written
        chain = self._chain(result, param, c)
        if chain is None or chain.op is None or param.given.dtype.kind == "complex":
            return result
        found: Value = param
        for term in chain.terms:
            found = chain.op(found, term)
        return found

    def _changes(self, value: Value, c: int) -> bool:
        """Whether something other than the operators stands between the carry and its result."""
        while self._hangs(value, c) and type(value) in OPERATORS:
            held = [operand for operand in value.operands if self._hangs(operand, c)]
            if len(held) != 1:
                return False
            value = held[0]
        return isinstance(value, Sub | Select)

    def _hangs(self, value: Value, c: int) -> bool:
        return bool(self.reads.get(id(value), 0) >> c & 1)

    def _chain(self, value: Value, param: Parameter, c: int) -> _Chain | None:
        if value is param:
            return _Chain(None, ())
        if self.uses.count(value) != 1:
            return None  # somebody looks at it on the way
        match value:
            case Sub(x, y) if not self._hangs(y, c):
                return self._longer(x, Add, Neg(y), param, c)
            case Add(x, y) | Mul(x, y) | Maximum(x, y) | Minimum(x, y) | Or(x, y) | And(x, y):
                x, y = (x, y) if self._hangs(x, c) else (y, x)
                return None if self._hangs(y, c) else self._longer(x, type(value), y, param, c)
            case Select(predicate, x, y) if not self._hangs(predicate, c):
                return self._either(predicate, self._chain(x, param, c), self._chain(y, param, c))
        return None

    def _longer(self, held: Value, op: type[Value], term: Value, param: Parameter, c: int) -> _Chain | None:
        chain = self._chain(held, param, c)
        if chain is None or chain.op not in (None, op):
            return None
        return _Chain(op, (*chain.terms, term))

    def _either(self, predicate: Value, x: _Chain | None, y: _Chain | None) -> _Chain | None:
        """A choice between two of one operator: of their terms, the shorter filled up with what is neutral."""
        if x is None or y is None or (x.op is not y.op and None not in (x.op, y.op)):
            return None
        op = x.op or y.op
        if op is None:
            return None
        terms: list[Value] = []
        for i in range(max(len(x.terms), len(y.terms))):
            given = (x.terms[i : i + 1] or y.terms[i : i + 1])[0].tensor
            one, other = ((*each.terms[i : i + 1], neutral(op, given))[0] for each in (x, y))
            terms.append(Select(predicate, one, other))
        return _Chain(op, tuple(terms))

    def _written(self, value: Value, param: Parameter, c: int) -> Value | None:
        """A write under a condition as a write of what is there already where it is false."""
        match value:
            case Select(predicate, Scatter() | DynamicUpdate() as write, held) if held is param:
                taken = True
            case Select(predicate, held, Scatter() | DynamicUpdate() as write) if held is param:
                taken = False
            case _:
                return None
        if write.x is not param or self._hangs(predicate, c) or self.uses.count(write) != 1:
            return None
        if not (isinstance(predicate, Broadcast) and predicate.x.rank == 0):
            return None
        update = write.update if isinstance(write, DynamicUpdate) else write.updates
        chosen = predicate.x if not update.rank else Broadcast(predicate.x, update.shape, ())
        old: Value
        match write:
            case DynamicUpdate(starts=starts):
                old = DynamicSlice(param, starts, update.shape)
            case Scatter(combine="set"):
                if any(index.rank for index in write.indices):
                    return None  # places may be equal: what is there is what was written a moment ago
                old = Gather(param, write.indices, write.axes, write.mode, write.batch_rank, write.unique)
                if write.mode not in ("raise", "clip", "wrap", "promised"):
                    return None
            case Scatter(combine="add" | "mul") if update.dtype.kind != "complex":
                old = neutral(Add if write.combine == "add" else Mul, update.tensor)
            case _:
                return None
        one, other = (update, old) if taken else (old, update)
        new = Select(chosen, one, other)
        return replace(write, update=new) if isinstance(write, DynamicUpdate) else replace(write, updates=new)


def with_body(op: Scan, body: Graph) -> Scan:
    """The loop with another body on the same operands."""
    return Scan(op.consts, op.carry, op.xs, body, op.length, op.reverse, op.counted, op.chunk, op.any_order)


def without_branches(body: Graph, safe: Callable[[Graph], bool]) -> Graph:
    """The body in which branches of little work, all of which a batch would compute, are choices between results. What
    may fail is kept from it where its branch is not taken, unless the body as a whole is `safe`."""
    if not any(isinstance(value, Switch) and _is_cheap(value) for value in body.ops):
        return body
    plain = opened(body, lambda value: _choice(value, False))
    return plain if safe(plain) else opened(body, lambda value: _choice(value, True))


def _is_cheap(op: Switch) -> bool:
    for branch in op.branches:
        cost = graph_cost(branch, typical(branch))
        elements = sum(kind.size if type(kind.size) is int else 1 for kind in branch.result_types)
        if cost.flops + TRANSCENDENTAL_FLOPS * cost.transcendentals > CHEAP * (elements + 1):
            return False
        if any(value.bodies for value in branch.ops):
            return False
    return True


def _choice(op: Value, spare: bool) -> Graph | None:
    """A cheap switch as the results of all branches, of each of which the one is chosen whose number it is."""
    if not isinstance(op, Switch) or not _is_cheap(op):
        return None
    selector, *args = (Parameter(f"a{i}", kind) for i, kind in enumerate(types_of(op.operands)))
    if selector.dtype is bool_ and len(op.branches) == 2:
        no, yes = op.branches
        first = inline(spared(no), (Not(selector), *args)) if spare and needed(no) else inline(no, args)
        second = inline(spared(yes), (selector, *args)) if spare and needed(yes) else inline(yes, args)
        both = tuple(Select(_along(selector, y), y, x) for x, y in zip(first, second, strict=True))
        return Graph("choice", (selector, *args), both)
    number = Convert(selector, i64) if selector.dtype is not i64 else selector
    results: Sequence[Value] = ()
    last = len(op.branches) - 1
    for k in range(last, -1, -1):
        # The selector is moved to the nearest branch: the first takes all below it, the last all above.
        upto = Le(number, Full(k, number.tensor))
        if spare and needed(op.branches[k]):
            above = Gt(number, Full(k - 1, number.tensor))
            here = upto if k == 0 else above if k == last else And(above, upto)
            found = inline(spared(op.branches[k]), (here, *args))
        else:
            found = inline(op.branches[k], args)
        results = [Select(_along(upto, x), x, y) for x, y in zip(found, results, strict=True)] if k < last else found
    return Graph("choice", (selector, *args), tuple(results))


def _along(flag: Value, like: Value) -> Value:
    return Broadcast(flag, like.shape, ()) if like.rank else flag
