"""Does a program compute what its graph says? Both are run on symbols, and the results compared.

The content of memory is written as pieces of terms: an argument, a constant, or a kernel (by its structure) applied to
the contents of its operands. The graph is evaluated on such contents, and so is the program, statement by statement,
over memory that holds them; every byte of every result must then hold the same piece of the same term. Since this
follows values and not lifetimes, it shares nothing with the planner that it checks: a slot reused too early, an
update over what is still read, a lost copy of a loop's carry each give another term somewhere. Sizes are taken at a
few values, loops run a few times, and branches are chosen by a hash of the content that decides. What decides, in a
loop each time, must be the same contents on both sides, too."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from ..ir.dims import Dim
from ..ir.dims import evaluate as evaluate_dim
from ..ir.errors import CheckFailed
from ..ir.fingerprint import fingerprint
from ..ir.graph import Graph
from ..ir.ops.control import Call as CallOp
from ..ir.ops.control import Group, Scan
from ..ir.ops.control import Switch as SwitchOp
from ..ir.ops.control import While as WhileOp
from ..ir.program import Call, Copy, Loop, Program, Slot, Statement, Switch, While
from ..ir.text import digest
from ..ir.types import TensorType
from ..ir.value import After, Constant, DimSize, Get, Value
from .order import typical
from .reuse import join_of, view_of

Piece: TypeAlias = tuple[str, int, int]  # term, first byte of it, number of bytes
Rope: TypeAlias = tuple[Piece, ...]

TIMES = (2, 0, 1, 3)  # that a loop without a known number of rounds runs, in each of the comparisons
MOST_STEPS = 20_000  # kernels run before the comparison is given up


class _TooLong(Exception):
    """More steps than a check is worth."""


def whole(term: str, size: int) -> Rope:
    return ((term, 0, size),) if size else ()


def joined(ropes: Sequence[Rope]) -> Rope:
    """Contents one after the other; neighbouring pieces of one term are one piece."""
    found: list[Piece] = []
    for rope in ropes:
        for term, start, size in rope:
            if found and found[-1][0] == term and found[-1][1] + found[-1][2] == start:
                found[-1] = (term, found[-1][1], found[-1][2] + size)
            elif size:
                found.append((term, start, size))
    return tuple(found)


def part(rope: Rope, offset: int, size: int) -> Rope:
    """`size` bytes of a content from `offset` on."""
    found: list[Piece] = []
    at = 0
    for term, start, length in rope:
        low, high = max(offset, at), min(offset + size, at + length)
        if low < high:
            found.append((term, start + low - at, high - low))
        at += length
    return tuple(found)


class Terms:
    """Names of contents. A kernel's term is the hash of its structure and of what it is applied to."""

    def __init__(self, sizes: Mapping[str, int], salt: int) -> None:
        self.sizes = sizes
        self.salt = salt
        self.steps = 0
        self.decided: list[Rope] = []  # what branches and loops have looked at
        self._structures: dict[int, tuple[Graph, str]] = {}

    def structure(self, body: Graph) -> str:
        if id(body) not in self._structures:
            bare = Graph(body.name, body.params, body.results)
            self._structures[id(body)] = body, fingerprint(bare)
        return self._structures[id(body)][1]

    def applied(self, body: Graph, args: Sequence[Rope]) -> list[Rope]:
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise _TooLong
        term = hashlib.sha256(f"{self.structure(body)} {tuple(args)!r}".encode()).hexdigest()[:24]
        return [whole(f"{term}.{i}", self.bytes(kind)) for i, kind in enumerate(body.result_types)]

    def number(self, value: int) -> Rope:
        return whole(f"number {value}", 8)

    def bytes(self, kind: TensorType) -> int:
        return evaluate_dim(kind.bytes, self.sizes)

    def chosen(self, rope: Rope, ways: int) -> int:
        """Which way a content that decides goes."""
        self.decided.append(joined([rope]))
        return int(hashlib.sha256(f"{self.salt} {self.decided[-1]!r}".encode()).hexdigest()[:8], 16) % ways

    def goes_on(self, rope: Rope, done: int) -> bool:
        """Whether a loop that has run so often, and has this for a condition, runs again: the same for every content,
        for a hash might never enter the loop that is wrong."""
        self.decided.append(joined([rope]))
        return done < TIMES[self.salt]

    def taken(self) -> list[Rope]:
        """What has decided since this was asked last, in an order of its own: loops may change places."""
        found, self.decided = sorted(self.decided), []
        return found


class _Graphs:
    """A grouped graph on contents."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms

    def run(self, graph: Graph, args: Sequence[Rope]) -> list[Rope]:
        known: dict[int, tuple[Rope, ...]] = {id(p): (a,) for p, a in zip(graph.params, args, strict=True)}
        for value in graph.ops:
            operands = [known[id(operand)][0] for operand in value.operands if not isinstance(value, Get)]
            known[id(value)] = tuple(self.value(value, operands, known))
        return [known[id(result)][0] for result in graph.results]

    def value(self, value: Value, operands: list[Rope], known: Mapping[int, tuple[Rope, ...]]) -> Sequence[Rope]:
        terms = self.terms
        match value:
            case Get(x, index):
                return [known[id(x)][index]]
            case After():
                return operands[:1]
            case Constant():
                return [whole(f"const {digest(value)}", terms.bytes(value.tensor))]
            case Group(_, body):
                view, join = view_of(body), join_of(body)
                size = terms.bytes(body.result_types[0]) if body.results else 0
                if view is not None:
                    return [part(operands[view.param], evaluate_dim(view.offset, terms.sizes), size)]
                if join is not None:
                    return [joined([operands[i] for i, _ in join.parts])]
                return terms.applied(body, operands)
            case CallOp(_, body):
                return self.run(body, operands)
            case Scan():
                return self.scan(value, operands)
            case WhileOp():
                return self.repeat(value, operands)
            case SwitchOp(_, _, branches):
                return self.run(branches[terms.chosen(operands[0], len(branches))], operands[1:])
            case _:
                leaf = Graph(value.name, (), (value,))
                return terms.applied(leaf, ())

    def scan(self, op: Scan, operands: list[Rope]) -> list[Rope]:
        n, m = len(op.consts), len(op.consts) + len(op.carry)
        consts, carry, xs = operands[:n], operands[n:m], operands[m:]
        widths = [self.terms.bytes(x.tensor.with_shape(x.shape[1:])) for x in op.xs]
        length = evaluate_dim(op.length, self.terms.sizes)
        rows: list[list[Rope]] = [[()] * length for _ in op.body.results[len(carry) :]]
        for t in reversed(range(length)) if op.reverse else range(length):
            number = [self.terms.number(t)] if op.counted else []
            slices = [part(x, t * width, width) for x, width in zip(xs, widths, strict=True)]
            found = self.run(op.body, [*number, *consts, *carry, *slices])
            carry = found[: len(carry)]
            for row, y in zip(rows, found[len(carry) :], strict=True):
                row[t] = y
        return [*carry, *(joined(row) for row in rows)]

    def repeat(self, op: WhileOp, operands: list[Rope]) -> list[Rope]:
        n = len(op.consts)
        consts, carry = operands[:n], operands[n:]
        done = 0
        while self.terms.goes_on(self.run(op.condition, [*consts, *carry])[0], done):
            carry = self.run(op.body, [*consts, *carry])
            done += 1
        return carry


class _Memory:
    """One buffer: what its bytes hold. Pieces are (first byte, last byte excluded, term, first byte of the term)."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, int, str, int]] = []

    def read(self, low: int, high: int) -> Rope:
        found: list[Piece] = []
        at = low
        place = max(bisect_right(self.pieces, low, key=lambda p: p[0]) - 1, 0)
        while at < high and place < len(self.pieces):
            begin, end, term, start = self.pieces[place]
            place += 1
            if end <= at:
                continue
            if begin > at:
                break
            found.append((term, start + at - begin, min(end, high) - at))
            at = min(end, high)
        if at < high:
            found.append(("nothing", 0, high - at))
        return joined([tuple(found)])

    def write(self, low: int, high: int, rope: Rope) -> None:
        first = bisect_right(self.pieces, low, key=lambda p: p[1])
        last = first
        new: list[tuple[int, int, str, int]] = []
        while last < len(self.pieces) and self.pieces[last][0] < high:
            begin, end, term, start = self.pieces[last]
            if begin < low:
                new.append((begin, low, term, start))
            if end > high:
                new.append((high, end, term, start + high - begin))
            last += 1
        at = low
        for term, start, size in rope:
            new.append((at, at + size, term, start))
            at += size
        self.pieces[first:last] = sorted(new)


class _Programs:
    """A program on contents."""

    def __init__(self, program: Program, terms: Terms) -> None:
        self.program = program
        self.terms = terms
        self.kernels = {kernel.name: kernel for kernel in program.kernels}
        self.sizes = dict(terms.sizes)
        self.sharing = {("out", result): ("in", argument) for result, argument in program.donated}
        self.memory: dict[tuple[str, int], _Memory] = {}

    def run(self) -> list[Rope]:
        for i, buffer in enumerate(self.program.inputs):
            self.write(Slot("in", i, 0, buffer.type), whole(f"in {i}", self.terms.bytes(buffer.type)))
        for i, buffer in enumerate(self.program.constants):
            self.write(Slot("const", i, 0, buffer.type), whole(f"const {buffer.label}", self.terms.bytes(buffer.type)))
        self.body(self.program.body)
        return [self.read(Slot("out", i, 0, buffer.type)) for i, buffer in enumerate(self.program.outputs)]

    def place(self, slot: Slot) -> tuple[_Memory, int, int]:
        key = (slot.space, slot.index)
        low = evaluate_dim(slot.offset, self.sizes)
        memory = self.memory.setdefault(self.sharing.get(key, key), _Memory())
        return memory, low, low + self.terms.bytes(slot.type)

    def read(self, slot: Slot) -> Rope:
        memory, low, high = self.place(slot)
        return memory.read(low, high)

    def write(self, slot: Slot, rope: Rope) -> None:
        memory, low, high = self.place(slot)
        memory.write(low, high, rope)

    def body(self, statements: Sequence[Statement]) -> None:
        for statement in statements:
            match statement:
                case Call():
                    self.call(statement)
                case Copy(source, target):
                    self.write(target, self.read(source))
                case Loop(var, count, body, reverse):
                    steps = range(evaluate_dim(count, self.sizes))
                    for number in reversed(steps) if reverse else steps:
                        self.sizes[var] = number
                        self.body(body)
                    self.sizes.pop(var, None)
                case While(condition, flag, body):
                    done = 0
                    self.body(condition)
                    while self.terms.goes_on(self.read(flag), done):
                        self.body(body)
                        self.body(condition)
                        done += 1
                case Switch(selector, branches):
                    self.body(branches[self.terms.chosen(self.read(selector), len(branches))])

    def call(self, call: Call) -> None:
        body = self.kernels[call.kernel].graph
        args = [self.read(slot) for slot in call.reads]
        match body.results:
            case (DimSize(dim),) if not call.reads and _counts(dim, self.sizes, self.terms.sizes):
                results = [self.terms.number(evaluate_dim(dim, self.sizes))]
            case _:
                results = self.terms.applied(body, args)
        for slot in call.work:
            self.write(slot, whole("scratch", self.terms.bytes(slot.type)))
        for slot, rope in zip(call.writes, results, strict=True):
            self.write(slot, rope)


def _counts(dim: Dim, inside: Mapping[str, int], outside: Mapping[str, int]) -> bool:
    """Whether a size is the variable of a loop."""
    return str(dim) in inside and str(dim) not in outside


def validate(graph: Graph, program: Program) -> None:
    """CheckFailed (TD0352) names the first result of the program that is not the grouped graph's."""
    large = typical(graph)
    small = {dim.name: dim.least for dim in graph.dims}
    for salt, sizes in enumerate(({**large, **small}, large, large, large)):
        if any(evaluate_dim(p.low, sizes) > evaluate_dim(p.high, sizes) for p in program.requires):
            continue
        terms = Terms(sizes, salt)
        arguments = [whole(f"in {i}", terms.bytes(kind)) for i, kind in enumerate(graph.param_types)]
        try:
            wanted = _Graphs(terms).run(graph, arguments)
            decided = terms.taken()
            found = _Programs(program, terms).run()
        except _TooLong:
            continue
        at = f" (at {', '.join(f'{n}={v}' for n, v in sizes.items())})" if sizes else ""
        for i, (expected, rope) in enumerate(zip(wanted, found, strict=True)):
            if joined([expected]) != joined([rope]):
                raise CheckFailed(f"{program.name}: result {i} does not hold what the graph says{at}", code="TD0352")
        if decided != terms.taken():
            raise CheckFailed(f"{program.name}: a loop or a branch does not see what the graph says{at}", code="TD0352")
