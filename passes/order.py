"""Choose a sequence of the groups in which little memory is live at once.

The order of the user's program is always a candidate; others are the canonical order, depth first with the needier
operand first, and a greedy list schedule that prefers what frees most. The one with the lowest peak is taken, the
program's on a tie, so nothing is ever worse than as written. An update goes after the other readers of what it
overwrites, wherever that closes no cycle: then it can work in place; so does what makes a result that goes where a
donated argument lies. `After` is obeyed as an operand is.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import TypeAlias

from ..ir.classes import dataclass
from ..ir.dims import Dim, evaluate
from ..ir.forms import everywhere
from ..ir.graph import Graph
from ..ir.ops.control import Group, Scan, While
from ..ir.ops.families import Control
from ..ir.value import After, Get, Value
from .arena import ALIGNMENT, samples
from .reuse import updates_of, view_of

Priority: TypeAlias = Callable[[int], tuple[int, ...]]


@dataclass
class Step:
    """One op that runs. `makes` are the buffers it fills, `reads` those it reads, `needs` the steps before it; `room`
    is what it needs while it runs; `overwrites` the buffers it would best take over."""

    op: Value
    number: int
    makes: list[int] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)
    needs: list[int] = field(default_factory=list)
    overwrites: list[int] = field(default_factory=list)
    room: int = 0


@dataclass(frozen=True, slots=True)
class Sequenced:
    """Ops in the order in which they run, and the most bytes live between them at the sizes tried."""

    ops: tuple[Value, ...]
    peak: int


class Work:
    """The steps of one grouped graph and what they need of each other. `sizes` are values for the symbolic sizes,
    `donated` are (result, parameter) pairs of which the result goes where the parameter lies."""

    def __init__(self, graph: Graph, sizes: Mapping[str, int], donated: Sequence[tuple[int, int]] = ()) -> None:
        self.graph = graph
        self.sizes = sizes
        self.steps: list[Step] = []
        self.bytes: list[int] = []
        self.maker: list[int] = []
        # Of a value: the buffers it lies in (one per tuple element) and the steps it waits for.
        self.buffers: dict[int, tuple[int, ...]] = {}
        self.waits: dict[int, tuple[int, ...]] = {}
        for param in graph.params:
            self.buffers[id(param)] = (self.buffer(-1, 0),)
            self.waits[id(param)] = ()
        for value in graph.ops:
            self.enter(value)
        for result, argument in donated:
            taken = self.buffers[id(graph.params[argument])][0]
            for buffer in self.buffers[id(graph.results[result])]:
                if self.maker[buffer] >= 0 and buffer != taken:
                    self.steps[self.maker[buffer]].overwrites.append(taken)
        for each in graph.results:
            for buffer in self.buffers[id(each)]:
                self.bytes[buffer] = 0  # results have memory of their own
        self.readers: list[list[int]] = [[] for _ in self.bytes]
        for step in self.steps:
            for buffer in step.reads:
                self.readers[buffer].append(step.number)

    def enter(self, value: Value) -> None:
        operands = value.operands
        waits = tuple(dict.fromkeys(step for o in operands for step in self.waits[id(o)]))
        if isinstance(value, Get) and self.buffers[id(value.x)]:
            self.buffers[id(value)] = (self.buffers[id(value.x)][value.index],)
            self.waits[id(value)] = waits
        elif isinstance(value, After):
            self.buffers[id(value)] = self.buffers[id(value.x)]
            self.waits[id(value)] = waits
        elif isinstance(value, Group) and (view := view_of(value.body)) is not None:
            self.buffers[id(value)] = self.buffers[id(value.args[view.param])]
            self.waits[id(value)] = waits
        elif value.bodies:
            self.step(value, waits)
        else:
            self.buffers[id(value)] = ()
            self.waits[id(value)] = waits

    def buffer(self, maker: int, size: int) -> int:
        self.bytes.append(-(-size // ALIGNMENT) * ALIGNMENT)
        self.maker.append(maker)
        return len(self.bytes) - 1

    def step(self, value: Value, waits: tuple[int, ...]) -> None:
        step = Step(value, len(self.steps), needs=list(waits))
        self.steps.append(step)
        step.reads = list(dict.fromkeys(b for o in value.operands for b in self.buffers[id(o)]))
        kinds = value.tensors
        step.makes = [self.buffer(step.number, evaluate(kind.bytes, self.sizes)) for kind in kinds]
        self.buffers[id(value)] = tuple(step.makes)
        self.waits[id(value)] = (step.number,)
        if isinstance(value, Group):
            for _, param in updates_of(value.body):
                step.overwrites += self.buffers[id(value.args[param])]
        elif isinstance(value, Control):
            step.room = room_of(value, self.sizes)
            if isinstance(value, Scan | While):
                step.overwrites = [b for c in value.carry for b in self.buffers[id(c)]]

    def schedule(self, priority: Priority, *, frees: bool = False, wishes: bool = True) -> list[int]:
        """The steps, each after what it needs; among those that can run, the least by `priority`. With `frees`, what
        lowers the live bytes most comes first, then `priority`. With `wishes`, what overwrites comes after the other
        readers, where it can."""
        after: list[list[int]] = [[] for _ in self.steps]
        missing = [0] * len(self.steps)
        wished = [0] * len(self.steps)
        gently: list[list[int]] = [[] for _ in self.steps]
        for step in self.steps:
            for need in step.needs:
                after[need].append(step.number)
                missing[step.number] += 1
            for buffer in step.overwrites if wishes else ():
                for reader in self.readers[buffer]:
                    if reader != step.number:
                        gently[reader].append(step.number)
                        wished[step.number] += 1
        unread = [len(readers) for readers in self.readers]
        gain = [0] * len(self.steps)

        def key(number: int) -> tuple[int, ...]:
            return (-gain[number], *priority(number)) if frees else priority(number)

        if frees:
            for step in self.steps:
                gain[step.number] = -sum(self.bytes[b] for b in step.makes)
            for buffer, readers in enumerate(self.readers):
                if len(readers) == 1:
                    gain[readers[0]] += self.bytes[buffer]
        ready: list[tuple[tuple[int, ...], int]] = []
        waiting: list[tuple[tuple[int, ...], int]] = []
        done = [False] * len(self.steps)

        def offer(number: int) -> None:
            if not missing[number] and not done[number]:
                heapq.heappush(waiting if wished[number] else ready, (key(number), number))

        for step in self.steps:
            offer(step.number)
        found: list[int] = []
        while len(found) < len(self.steps):
            # Nothing else can run: the update's wish to be last would close a cycle.
            _, number = heapq.heappop(ready or waiting)
            if done[number]:
                continue
            done[number] = True
            found.append(number)
            for other in after[number]:
                missing[other] -= 1
                offer(other)
            for other in gently[number]:
                wished[other] -= 1
                offer(other)
            for buffer in self.steps[number].reads:
                unread[buffer] -= 1
                if frees and unread[buffer] == 1:
                    last = next(reader for reader in self.readers[buffer] if not done[reader])
                    gain[last] += self.bytes[buffer]
                    offer(last)
        return found

    def peak(self, sequence: Sequence[int]) -> int:
        """The most bytes live at once when the steps run in this order."""
        unread = [len(readers) for readers in self.readers]
        live = most = 0
        for number in sequence:
            step = self.steps[number]
            live += sum(self.bytes[b] for b in step.makes)
            most = max(most, live + step.room)
            for buffer in step.reads:
                unread[buffer] -= 1
                if not unread[buffer] and self.maker[buffer] >= 0:
                    live -= self.bytes[buffer]
            live -= sum(self.bytes[b] for b in step.makes if not self.readers[b])
        return most

    def neediest_first(self) -> list[int]:
        """Ranks of a depth-first order that enters the operand with the larger need first (Sethi and Ullman)."""
        need = [0] * len(self.steps)
        for step in self.steps:
            made = sum(self.bytes[b] for b in step.makes)
            held = 0
            most = 0
            for other in sorted(step.needs, key=lambda n: -need[n]):
                most = max(most, held + need[other])
                held += sum(self.bytes[b] for b in self.steps[other].makes)
            need[step.number] = max(most, held + made + step.room)
        rank: list[int] = [-1] * len(self.steps)
        count = 0
        for root in range(len(self.steps)):
            stack = [(root, False)]
            while stack:
                number, ready = stack.pop()
                if rank[number] >= 0:
                    continue
                if ready:
                    rank[number] = count
                    count += 1
                    continue
                stack.append((number, True))
                stack += [(n, False) for n in sorted(self.steps[number].needs, key=lambda n: need[n]) if rank[n] < 0]
        return rank


def room_of(value: Control, sizes: Mapping[str, int]) -> int:
    """What the bodies of a control op need beside its operands and results; one of them runs at a time."""
    return max((sequences(body, sizes)[1].peak for body in value.bodies), default=0)


def sequences(
    graph: Graph, sizes: Mapping[str, int], donated: Sequence[tuple[int, int]] = ()
) -> tuple[Sequenced, Sequenced, Sequenced]:
    """The candidates, on a tie the earlier is better: the program's order with updates after other readers; the one
    with the least peak; the program's order as it stands. They are one object where they are the same."""
    work = Work(graph, sizes, donated)

    def sequenced(numbers: Sequence[int]) -> Sequenced:
        return Sequenced(tuple(work.steps[n].op for n in numbers), work.peak(numbers))

    order = work.schedule(lambda n: (work.steps[n].op.sequence, n))
    least = written = program = sequenced(order)
    if len(order) > 2:
        needy = work.neediest_first()
        others = (
            work.schedule(lambda n: (n,)),
            work.schedule(lambda n: (needy[n],)),
            work.schedule(lambda n: (work.steps[n].op.sequence, n), frees=True),
        )
        least = min((program, *map(sequenced, others)), key=lambda each: each.peak)
    if any(step.overwrites for step in work.steps):
        literal = work.schedule(lambda n: (work.steps[n].op.sequence, n), wishes=False)
        written = program if literal == order else sequenced(literal)
    return program, least, written


def typical(graph: Graph) -> dict[str, int]:
    """Values for the symbolic sizes at which sequences are compared."""
    sizes: dict[Dim, None] = {}
    for value in everywhere(graph):
        kinds = value.tensors
        sizes.update(dict.fromkeys(dim for kind in kinds for dim in kind.shape if type(dim) is not int))
    found = samples(list(sizes), {dim.name: dim for dim in graph.dims})[1]
    for dim in graph.dims:
        found.setdefault(dim.name, max(dim.least, 1))
    return found
