"""What a derivative backward keeps of a checkpointed function, and what it computes again.

A value read by the backward part is kept, or computed again from what is kept and from the function's operands, which
are at hand anyway. Each way to choose is a cut through the graph between the operands and what is read: `policy` says
which cut. `nothing` computes all again; `everything` keeps what is read; `dots` keeps the results of contractions;
`min_cut` keeps the fewest bytes from which no contraction and no loop is computed again; a number of bytes (`2MB`)
computes as little again as fits into it. Random numbers come from keys, so they are the same when drawn again.

The cut by bytes and work is a minimal one in a network with two nodes for each value, the way in (it is computed again)
and the way out (it is at hand), for a price of a byte in work. Prices between two known cuts give the lower convex hull
of all (bytes, work): the frontier. What the hull leaves of a budget is filled by the best bargains, and of equal ones
by those that part what is computed again: the way back goes from one kept value to the one before it, and what lies
between is there at once. That and what is still kept is the peak that a choice predicts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from ..ir.dims import SymbolicDim, evaluate, names
from ..ir.errors import InvalidValue, Unsupported
from ..ir.graph import Graph
from ..ir.location import Location
from ..ir.ops.control import Checkpoint, Scan, While
from ..ir.ops.families import Composite, Contraction, Control
from ..ir.types import TensorType
from ..ir.value import Constant, DimSize, Full, Get, Parameter, Value
from . import autodiff
from .cost import TRANSCENDENTAL_FLOPS, op_cost

POLICIES = ("nothing", "everything", "dots", "min_cut")
BARGAINS = 64  # values that are tried for what a budget has left
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?)i?B?", re.IGNORECASE)
_UNIT = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
_FREE = (Parameter, Full, Constant, DimSize)


def budget_of(policy: str) -> int | None:
    """The bytes that `2MB`, `512K` or `1000` spell; None for a policy by name, TD0345 for what is neither."""
    if policy in POLICIES:
        return None
    found = _BYTES.fullmatch(policy)
    if found is None:
        raise InvalidValue(
            f"{policy!r} says neither what a checkpoint keeps nor how many bytes",
            code="TD0345",
            edit=f"one of {', '.join(POLICIES)}, or a size as '2MB'",
        )
    return int(float(found[1]) * _UNIT[found[2].upper()])


@dataclass(frozen=True)
class Told:
    """What was chosen for one checkpoint: of which function, by which policy, where the user called it, and the table
    of the ways to choose."""

    name: str
    policy: str
    location: Location | None
    table: str

    def __str__(self) -> str:
        where = f"  at {self.location}" if self.location is not None else ""
        return f"{self.name}, policy {self.policy}{where}\n{self.table}"


# Who is told. Nothing is read from here, so that no choice hangs on it.
_listening: ContextVar[list[Told] | None] = ContextVar("listening", default=None)


@contextmanager
def told(to: list[Told]) -> Iterator[None]:
    """What is chosen while this is open is added to `to`."""
    token = _listening.set(to)
    try:
        yield
    finally:
        _listening.reset(token)


def tell(op: Checkpoint, choice: Choice) -> None:
    """Say what was chosen for a checkpoint."""
    listening = _listening.get()
    if listening is not None:
        listening.append(Told(op.body.name, op.policy, op.location, str(choice)))


@dataclass(frozen=True)
class Choice:
    """The values that are kept, their bytes, the work of computing the others again, in flops, and the most bytes of
    both that the way back has at once. `frontier` are (bytes, work, peak) of the cuts that were weighed."""

    kept: tuple[Value, ...]
    bytes: int
    work: int
    peak: int
    frontier: tuple[tuple[int, int, int], ...] = ()

    @property
    def point(self) -> tuple[int, int, int]:
        return self.bytes, self.work, self.peak

    def __str__(self) -> str:
        lines = [f"{'kept bytes':>14} {'bytes at once':>14} {'flops again':>14}"]
        lines += [
            f"{size:>14,} {peak:>14,} {work:>14,}{'  <- chosen' if (size, work, peak) == self.point else ''}"
            for size, work, peak in sorted({*self.frontier, self.point})
        ]
        return "\n".join(lines)


def choose(body: Graph, linear: Sequence[Value], dots: Sequence[Parameter], policy: str) -> Choice:
    """What is kept of `body` for `linear`, values that are linear in `dots`."""
    budget = budget_of(policy)
    needed = _read_by(linear, dots)
    known = autodiff.reachable_from(needed)
    network = _Network(known, needed, policy == "min_cut")
    if budget is None:
        none, whole = network.choice(()), network.choice(needed)
        found = {"nothing": none, "everything": whole}.get(policy)
        if policy == "dots":
            found = network.choice([v for v in known if isinstance(v, Contraction)])
        found = network.cut(network.all_work + 1, 1) if found is None else found
        # Beside what is chosen, for comparison: all of it again, and nothing.
        return replace(found, frontier=(none.point, whole.point))
    unknown = sorted({name for v in known if isinstance(v.type, TensorType) for name in v.type.names()})
    if unknown:
        raise Unsupported(
            f"a checkpoint within {policy} of a function whose sizes {', '.join(unknown)} are not known",
            code="TD0346",
            location=needed[0].location if needed else None,
            edit="policy='min_cut', which needs no number of bytes",
        )
    return network.within(budget)


def _read_by(linear: Sequence[Value], dots: Sequence[Parameter]) -> list[Value]:
    """What the linear part reads of the values beside it, in order; operands and constants are at hand."""
    moving = {id(dot) for dot in dots}
    order = autodiff.reachable_from(linear)
    for value in order:
        if any(id(operand) in moving for operand in value.operands):
            moving.add(id(value))
    read = {id(operand) for value in order if id(value) in moving for operand in value.operands}
    read |= {id(value) for value in linear if id(value) not in moving}
    return [v for v in order if id(v) in read and id(v) not in moving and not isinstance(v, _FREE)]


def _contracts(value: Value) -> bool:
    if isinstance(value, Composite):
        return any(_contracts(piece) for piece in _pieces(value))
    return isinstance(value, Contraction)


def _pieces(value: Composite) -> list[Value]:
    """The ops that a composite is made of."""
    ends = {id(operand) for operand in value.operands}
    found: list[Value] = []
    stack: list[Value] = [value.decompose()]
    while stack:
        piece = stack.pop()
        if id(piece) not in ends:
            ends.add(id(piece))
            found.append(piece)
            stack.extend(piece.operands)
    return found


def work(value: Value) -> int:
    """Flops, a transcendental as many as its polynomial has, and one for each element that is made."""
    if isinstance(value, Get | Full | Constant | DimSize | Parameter):
        return 0
    if isinstance(value, Composite):
        return sum(work(piece) for piece in _pieces(value))
    kinds = (value.type,) if isinstance(value.type, TensorType) else value.type.elements
    elements = sum(_bytes_of(kind) // max(kind.dtype.bytes, 1) for kind in kinds)
    if isinstance(value, Control):
        times = value.length if isinstance(value, Scan) and isinstance(value.length, int) else 1
        return elements + times * sum(work(v) for body in value.bodies for v in body.ops)
    if value.structure() is None:
        return (TRANSCENDENTAL_FLOPS + 1) * elements
    unknown = sorted({name for v in (value, *value.operands) for name in v.tensor.names()})
    cost = op_cost(value, dict.fromkeys(unknown, 1))
    return int(cost.flops + TRANSCENDENTAL_FLOPS * cost.transcendentals) + elements


def _bytes_of(kind: TensorType) -> int:
    """Sizes that are not known count as one: only proportions matter then."""
    size = kind.bytes
    return evaluate(size, dict.fromkeys(names(size), 1)) if isinstance(size, SymbolicDim) else size


class _Network:
    """The known values that the backward part may need, what it reads of them, and what each costs."""

    def __init__(self, known: Sequence[Value], needed: Sequence[Value], spare_dear: bool) -> None:
        self.values = [value for value in known if not isinstance(value, _FREE)]
        self.needed = [id(value) for value in needed]
        self.place = {id(value): number for number, value in enumerate(self.values)}
        self.bytes = {id(v): _bytes_of(v.type) if isinstance(v.type, TensorType) else 0 for v in self.values}
        self.work = {id(v): work(v) for v in self.values}
        # How often a `while` runs is not known, so nothing can be said about its work: it is not run again.
        self.dear = {
            id(v)
            for v in self.values
            if isinstance(v, While) or (spare_dear and (isinstance(v, Control) or _contracts(v)))
        }
        self.whole = {id(v) for v in self.values if not isinstance(v.type, TensorType)}
        self.all_work = sum(self.work.values())
        self.all_bytes = sum(self.bytes.values())

    def choice(self, kept: Sequence[Value]) -> Choice:
        """What is read of these, and what is computed again beside them."""
        at_hand = {id(value) for value in kept}
        again = self.again(at_hand)
        wanted = {*self.needed, *(id(operand) for v in self.values if id(v) in again for operand in v.operands)}
        kept = tuple(value for value in self.values if id(value) in at_hand and id(value) in wanted)
        total = sum(self.bytes[id(value)] for value in kept)
        peak = max(self.at_once(kept, again), default=0)
        return Choice(kept, total, sum(self.work[key] for key in self.work if key in again), peak)

    def again(self, kept: set[int]) -> set[int]:
        """What is computed again when these are kept."""
        found: set[int] = set()
        wanted = set(self.needed)
        for value in reversed(self.values):
            if id(value) in wanted and id(value) not in kept:
                found.add(id(value))
                wanted.update(map(id, value.operands))
        return found

    def starts(self, again: set[int]) -> dict[int, int]:
        """For each value that is computed again the place at which the way back, which takes them from the last to the
        first, does so: that of the last one which is made of it."""
        found = {key: place for key, place in self.place.items() if key in again}
        for value in reversed(self.values):
            if id(value) in again:
                for operand in value.operands:
                    if id(operand) in found:
                        found[id(operand)] = max(found[id(operand)], found[id(value)])
        return found

    def at_once(self, kept: Sequence[Value], again: set[int]) -> list[int]:
        """The bytes that are there when the way back has come to each place: what is kept, and what was computed again,
        until they are read by it or by what is computed later."""
        starts, end = self.starts(again), len(self.values) - 1
        until = {key: self.place[key] for key in self.needed}
        for value in self.values:
            if id(value) in again:
                for operand in value.operands:
                    key, start = id(operand), starts[id(value)]
                    if start < starts.get(key, end + 1):
                        until[key] = min(until.get(key, start), start)
        steps = [0] * (end + 2)
        for key, start in [*starts.items(), *((id(value), end) for value in kept)]:
            if key in until:
                steps[until[key]] += self.bytes[key]
                steps[start + 1] -= self.bytes[key]
        return list(accumulate(steps))

    def cut(self, byte: int, flop: int) -> Choice:
        """The choice that costs least at these prices."""
        import networkx

        graph: Any = networkx.DiGraph()
        graph.add_node("source")
        graph.add_node("sink")
        endless = (self.all_bytes + 1) * byte + (self.all_work + 1) * flop
        for number, value in enumerate(self.values):
            key = id(value)
            graph.add_edge("source", (number, "in"), capacity=endless if key in self.dear else self.work[key] * flop)
            keep = endless if key in self.whole else self.bytes[key] * byte
            graph.add_edge((number, "in"), (number, "out"), capacity=keep)
        place = self.place
        for number, value in enumerate(self.values):
            for operand in value.operands:
                if id(operand) in place:
                    graph.add_edge((place[id(operand)], "out"), (number, "in"), capacity=endless)
        for key in self.needed:
            graph.add_edge((place[key], "out"), "sink", capacity=endless)
        _, (_, at_hand) = networkx.minimum_cut(graph, "source", "sink")
        kept = [v for n, v in enumerate(self.values) if (n, "out") in at_hand and (n, "in") not in at_hand]
        return self.choice(kept)

    def within(self, budget: int) -> Choice:
        """The choice of least work found whose bytes fit; that of fewest bytes if none does."""
        least = self.cut(self.all_work + 1, 1)
        most = self.cut(1, self.all_bytes + 1)
        seen = {least.point, most.point}
        if most.bytes <= budget:
            return replace(most, frontier=tuple(sorted(seen)))
        while least.bytes <= budget:
            middle = self.cut(least.work - most.work, most.bytes - least.bytes)
            if middle.point in seen:
                break
            seen.add(middle.point)
            if middle.bytes <= budget:
                least = middle
            else:
                most = middle
        return replace(self._filled(least, budget), frontier=tuple(sorted(seen)))

    def _filled(self, choice: Choice, budget: int) -> Choice:
        """More values kept while they fit, those first that save most work for a byte."""
        again = self.again({id(value) for value in choice.kept})
        candidates = [v for v in reversed(self.values) if id(v) in again and id(v) not in self.whole]
        candidates.sort(key=self._price)
        for _ in range(BARGAINS):
            candidates = [v for v in candidates if choice.bytes + self.bytes[id(v)] <= budget]
            if not candidates:
                break
            value = self._parting(choice, [v for v in candidates if self._price(v) == self._price(candidates[0])])
            candidates = [v for v in candidates if v is not value]
            more = self.choice((*choice.kept, value))
            if more.work < choice.work:
                choice = more
        return choice

    def _price(self, value: Value) -> float:
        return -self.work[id(value)] / (self.bytes[id(value)] + 1)

    def _parting(self, choice: Choice, equal: Sequence[Value]) -> Value:
        """Of values of one price, the latest first, the one in the middle of those computed again when most is there at
        once; the latest if none of them is."""
        again = self.again({id(value) for value in choice.kept})
        starts, bytes_at = self.starts(again), self.at_once(choice.kept, again)
        top = bytes_at.index(max(bytes_at))
        there = [v for v in equal if self.place[id(v)] <= top <= starts.get(id(v), -1)]
        return there[len(there) // 2] if there else equal[0]
