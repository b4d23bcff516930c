"""Memory: from a grouped graph to a program.

Every tensor begins in a storage of its own. Storages are then joined wherever a copy would otherwise be made, and
wherever a kernel can write over an operand that nobody needs any more: results with their buffers, donated arguments
with the results that take them, the carry of a loop with what it begins and goes on with, joined arrays with their
parts, updates with what they update. Two storages join only if no two contents that overlap in bytes are live at
once; what cannot be joined is copied, so the program is right either way. What is left gets offsets in one arena
(`arena.py`).

Moments are the positions of the program's statements, bodies included, counted through. A content that a loop's body
reads from outside is live to the end of the loop; one made and read inside an iteration, only for that part of it.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cached_property
from itertools import count
from operator import attrgetter
from typing import TypeAlias, assert_never

from ..ir.classes import dataclass
from ..ir.dims import Dim, DimName, Known, evaluate, known_le, names, symbol
from ..ir.errors import Unsupported
from ..ir.fingerprint import fingerprint
from ..ir.forms import GROUPED, everywhere
from ..ir.graph import Graph, failing
from ..ir.ops.control import Call as CallOp
from ..ir.ops.control import Group, Scan
from ..ir.ops.control import Switch as SwitchOp
from ..ir.ops.control import While as WhileOp
from ..ir.program import (
    Buffer,
    Call,
    Copy,
    KernelDef,
    Loop,
    Program,
    Slot,
    Space,
    Statement,
    Switch,
    While,
)
from ..ir.program_check import check
from ..ir.text import digest
from ..ir.types import TensorType
from ..ir.value import After, Array, Constant, DimSize, Get, Value, with_origin
from .arena import Record, align, lower_bound, plan, top
from .manager import Context, Kernels, Remark
from .order import sequences, typical
from .promises import promises_of
from .reuse import join_of, overwritable, sizes_in, updates_of, view_of
from .validate import validate

FOREVER = 1 << 60


@dataclass(eq=False)
class Content:
    """Bytes of a storage that mean one thing from moment `first` to `last`. `loops` is how many loops it is inside."""

    storage: Storage
    at: Dim
    bytes: Dim
    first: int
    last: int
    loops: int = 0


@dataclass(eq=False)
class Storage:
    """Memory of its own: given from outside (`place`), or some of the arena. Contents are sorted by their last
    moment."""

    bytes: Dim
    place: tuple[Space, int] | None = None
    contents: list[Content] = field(default_factory=list)
    offset: Dim = 0


@dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """A tensor that lies in a content, `offset` bytes after its beginning."""

    type: TensorType
    content: Content
    offset: Dim = 0

    def view(self, kind: TensorType, offset: Dim) -> Tensor:
        return Tensor(kind, self.content, self.offset + offset)

    @property
    def at(self) -> Dim:
        """Where it begins in its storage."""
        return self.content.at + self.offset


Tensors: TypeAlias = tuple[Tensor, ...]


@dataclass(eq=False)
class Move:
    """The bytes of `source` become those of `target` at a moment. `mark` is the moment's content where the target's own
    does not cover it; `part` says that source and target mean the same from then on, as parts of an array do."""

    source: Tensor
    target: Tensor
    moment: int
    mark: Content | None = None
    part: bool = False


@dataclass(eq=False)
class Run:
    """A kernel on tensors."""

    group: Group
    reads: Tensors
    writes: Tensors
    work: Tensors
    moment: int

    @cached_property
    def overwrites(self) -> tuple[tuple[int, int], ...]:
        """(result, parameter) pairs where the kernel may write the result over what it reads."""
        return overwritable(self.group.body)

    @property
    def takeovers(self) -> tuple[tuple[int, int], ...]:
        """The same, or for an update the pairs where it must."""
        return updates_of(self.group.body) or self.overwrites


@dataclass(eq=False)
class Moves:
    """Moves that happen at once; `sequence` is what they become."""

    moves: list[Move]
    moment: int
    sequence: list[tuple[Tensor, Tensor]] = field(default_factory=list)


@dataclass(eq=False)
class Counted:
    var: str
    count: Dim
    body: list[Step]
    reverse: bool


@dataclass(eq=False)
class Repeated:
    condition: list[Step]
    flag: Tensor
    body: list[Step]


@dataclass(eq=False)
class Chosen:
    selector: Tensor
    branches: list[list[Step]]


Step: TypeAlias = Run | Moves | Counted | Repeated | Chosen
Env: TypeAlias = dict[int, Tensors]


class Builder:
    """The steps of a graph and its bodies, with contents whose lives are known; nothing is joined yet. `choice` says
    which of the sequences is taken, `choices` which of them differ anywhere."""

    def __init__(self, graph: Graph, sizes: Mapping[str, int], kernels: Kernels, *, choice: int) -> None:
        self.graph = graph
        self.kernels = kernels
        self.sizes = sizes
        self.choice = choice
        self.choices: dict[int, None] = {0: None}
        self.now = 0
        self.constants: dict[str, tuple[Constant, Tensor]] = {}
        self.storages: list[Storage] = []
        self.runs: list[Run] = []
        self.moves: list[Move] = []
        # For each result of a switch the moves into it, one for each branch.
        self.branched: list[tuple[Move, ...]] = []
        self.loops: list[dict[int, Content]] = []
        self.variables: dict[str, int] = {}  # of the loops so far: how deep inside loops each is known
        self.names = (f"t{i}" if i else "t" for i in count())
        self.taken = {name for value in everywhere(graph) for name in sizes_in(value)} | {d.name for d in graph.dims}

    # Contents.

    def tick(self) -> int:
        self.now += 1
        return self.now

    def storage(self, size: Dim, place: tuple[Space, int] | None = None) -> Storage:
        found = Storage(size, place)
        self.storages.append(found)
        return found

    def content(self, storage: Storage, first: int, last: int, *, loops: int | None = None) -> Content:
        found = Content(storage, 0, storage.bytes, first, last, len(self.loops) if loops is None else loops)
        storage.contents.append(found)
        return found

    def fresh(self, kind: TensorType) -> Tensor:
        """A tensor in a storage of its own, which begins now."""
        return Tensor(kind, self.content(self.storage(kind.bytes), self.now, self.now))

    def read(self, tensor: Tensor) -> Tensor:
        """Say that a tensor is read now."""
        content = tensor.content
        content.last = max(content.last, self.now)
        if content.loops < len(self.loops):
            # The next iteration will read it again: it lives to the end of the outermost loop that it is outside of.
            self.loops[content.loops][id(content)] = content
        return tensor

    def begin_loop(self) -> None:
        self.loops.append({})

    def end_loop(self) -> None:
        moment = self.tick()
        for content in self.loops.pop().values():
            content.last = max(content.last, moment)

    def move(self, source: Tensor, target: Tensor, *, mark: bool = False, part: bool = False) -> Move:
        """A move now. With `mark`, the target's storage is taken at this moment, beside the lives of its contents."""
        self.read(source)
        found = Move(source, target, self.now, None, part)
        if mark:
            found.mark = Content(target.content.storage, target.at, target.type.bytes, self.now, self.now)
            target.content.storage.contents.append(found.mark)
        self.moves.append(found)
        return found

    # Graphs.

    def body(
        self, graph: Graph, args: Sequence[Tensor], steps: list[Step], donated: Sequence[tuple[int, int]] = ()
    ) -> Tensors:
        """Append the steps of a graph whose parameters are these tensors; its results."""
        env: Env = {id(param): (arg,) for param, arg in zip(graph.params, args, strict=True)}
        candidates = sequences(graph, self.sizes, donated)
        self.choices.update((i, None) for i, each in enumerate(candidates) if each is not candidates[0])
        for op in candidates[self.choice].ops:
            operands = tuple(self.tensor(o, env, steps) for o in op.operands)
            env[id(op)] = self.step(op, operands, steps)
        return tuple(self.tensor(result, env, steps) for result in graph.results)

    def tensor(self, value: Value, env: Env, steps: list[Step]) -> Tensor:
        return self.tensors(value, env, steps)[0]

    def tensors(self, value: Value, env: Env, steps: list[Step]) -> Tensors:
        """Where a value lies. Values that only stand for others are followed to them."""
        behind: list[Value] = []
        while id(value) not in env:
            match value:
                case Get(x) | After(x):
                    behind.append(value)
                    value = x
                case Group(args, body) if (view := view_of(body)) is not None:
                    behind.append(value)
                    value = args[view.param]
                case Constant():
                    env[id(value)] = (self.constant(value),)
                case _ if not value.operands and not value.bodies:
                    leaf = Group((), Graph(value.name, (), (value,), self.graph.dims))
                    with_origin(leaf, value.origin)
                    env[id(value)] = self.step(leaf, (), steps)
                case _:
                    raise Unsupported(
                        f"{value.name} outside a group cannot be planned", code="TD0350", location=value.location
                    )
        for follower in reversed(behind):
            found = env[id(value)]
            if isinstance(follower, Get):
                found = (found[follower.index],)
            elif isinstance(follower, Group):
                lies = view_of(follower.body)
                assert lies is not None
                found = (found[0].view(follower.body.result_types[0], lies.offset),)
            env[id(follower)] = found
            value = follower
        return env[id(value)]

    def constant(self, value: Constant) -> Tensor:
        name = digest(value)
        if name not in self.constants:
            storage = self.storage(value.tensor.bytes, ("const", len(self.constants)))
            self.constants[name] = (value, Tensor(value.tensor, self.content(storage, -1, FOREVER, loops=0)))
        return self.constants[name][1]

    def step(self, op: Value, operands: Tensors, steps: list[Step]) -> Tensors:
        match op:
            case Group():
                return self.group(op, operands, steps)
            case CallOp():
                return self.body(op.body, operands, steps)
            case Scan():
                return self.scan(op, operands, steps)
            case WhileOp():
                return self.repeat(op, operands, steps)
            case SwitchOp():
                return self.choose(op, operands, steps)
        raise Unsupported(f"{op.name} outside a group cannot be planned", code="TD0350", location=op.location)

    def group(self, op: Group, operands: Tensors, steps: list[Step]) -> Tensors:
        self.tick()
        joined = join_of(op.body)
        if joined is not None:
            whole = self.fresh(op.body.result_types[0])
            moves = [
                self.move(operands[i], whole.view(operands[i].type, offset), part=True) for i, offset in joined.parts
            ]
            steps.append(Moves(moves, self.now))
            return (whole,)
        for operand in operands:
            self.read(operand)
        writes = tuple(self.fresh(kind) for kind in op.body.result_types)
        work = tuple(self.fresh(kind) for kind in self.kernels.workspace(op.body))
        run = Run(op, operands, writes, work, self.now)
        self.runs.append(run)
        steps.append(run)
        return run.writes

    def variable(self) -> str:
        name = next(name for name in self.names if name not in self.taken)
        self.variables[name] = len(self.loops)
        return name

    def carried(self, begins: Tensors, steps: list[Step]) -> Tensors:
        """Slots for a loop's carry, filled; what they hold inside the loop, which has begun."""
        moment = self.tick()
        found = []
        for value in begins:
            content = Content(self.storage(value.type.bytes), 0, value.type.bytes, moment, moment, len(self.loops) + 1)
            content.storage.contents.append(content)
            found.append(Tensor(value.type, content))
        steps.append(Moves([self.move(v, slot) for v, slot in zip(begins, found, strict=True)], moment))
        self.begin_loop()
        return tuple(found)

    def carried_out(self, carry: Tensors) -> Tensors:
        """What the slots of the carry hold after the loop, which has ended."""
        return tuple(Tensor(t.type, self.content(t.content.storage, self.now, self.now)) for t in carry)

    def scan(self, op: Scan, operands: Tensors, steps: list[Step]) -> Tensors:
        n, m = len(op.consts), len(op.consts) + len(op.carry)
        self.tick()
        stacks = tuple(self.fresh(kind) for kind in op.type.elements[len(op.carry) :])  # type: ignore[union-attr]
        carry = self.carried(operands[n:m], steps)
        var = self.variable()
        here = symbol(var)
        inner: list[Step] = []
        number: Tensors = ()
        if op.counted:
            counter = Graph("counter", (), (DimSize(here),), (DimName(var),))
            group = Group((), counter)
            with_origin(group, op.origin)
            number = self.group(group, (), inner)
        slices = tuple(
            x.view(x.type.with_shape(x.type.shape[1:]), here * x.type.with_shape(x.type.shape[1:]).bytes)
            for x in operands[m:]
        )
        results = self.body(op.body, (*number, *operands[:n], *carry, *slices), inner)
        moment = self.tick()
        moves = [self.move(r, c, mark=True) for r, c in zip(results, carry, strict=False)]
        for result, stack in zip(results[len(carry) :], stacks, strict=True):
            moves.append(self.move(result, stack.view(result.type, here * result.type.bytes), part=True))
        inner.append(Moves(moves, moment))
        steps.append(Counted(var, op.length, inner, op.reverse))
        self.end_loop()
        for stack in stacks:
            stack.content.last = max(stack.content.last, self.now)  # written until here, even if nobody reads it
        return (*self.carried_out(carry), *stacks)

    def repeat(self, op: WhileOp, operands: Tensors, steps: list[Step]) -> Tensors:
        n = len(op.consts)
        carry = self.carried(operands[n:], steps)
        condition: list[Step] = []
        (flag,) = self.body(op.condition, (*operands[:n], *carry), condition)
        self.tick()
        self.read(flag)
        inner: list[Step] = []
        results = self.body(op.body, (*operands[:n], *carry), inner)
        moment = self.tick()
        inner.append(Moves([self.move(r, c, mark=True) for r, c in zip(results, carry, strict=True)], moment))
        steps.append(Repeated(condition, flag, inner))
        self.end_loop()
        return self.carried_out(carry)

    def choose(self, op: SwitchOp, operands: Tensors, steps: list[Step]) -> Tensors:
        self.tick()
        self.read(operands[0])
        found = tuple(self.fresh(kind) for kind in op.branches[0].result_types)
        branches: list[list[Step]] = []
        moves: list[list[Move]] = []
        for branch in op.branches:
            inner: list[Step] = []
            results = self.body(branch, operands[1:], inner)
            moment = self.tick()
            moves.append([self.move(r, f, mark=True) for r, f in zip(results, found, strict=True)])
            inner.append(Moves(moves[-1], moment))
            branches.append(inner)
        self.branched += zip(*moves, strict=True)
        moment = self.tick()
        for result in found:
            result.content.first = result.content.last = moment
        steps.append(Chosen(operands[0], branches))
        return found

    def whole(self, donated: Sequence[tuple[int, int]]) -> list[Step]:
        """The steps of the program, its arguments and results included."""
        graph = self.graph
        given = {argument for _, argument in donated}
        inputs = []
        for i, kind in enumerate(graph.param_types):
            storage = self.storage(kind.bytes, ("in", i))
            last = 0 if i in given else FOREVER
            inputs.append(Tensor(kind, self.content(storage, -1, last)))
        steps: list[Step] = []
        results = self.body(graph, inputs, steps, donated)
        self.tick()
        taken = dict(donated)
        moves = []
        for i, result in enumerate(results):
            storage = inputs[taken[i]].content.storage if i in taken else self.storage(result.type.bytes, ("out", i))
            out = Tensor(result.type, self.content(storage, self.now + 1, self.now + 1))
            moves.append(self.move(result, out, mark=True))
        steps.append(Moves(moves, self.now))
        self.tick()
        return steps


by_end = attrgetter("last")


class Joiner:
    """Joins storages where that is proven to keep every content intact while it lives."""

    def __init__(self, builder: Builder, known: Known) -> None:
        self.known = known
        self.variables = builder.variables
        self.moves = builder.moves
        # The contents (operand, result) of kernels that write over the operand position by position.
        self.in_place: dict[tuple[int, int], tuple[Run, int, int]] = {}
        for storage in builder.storages:
            storage.contents.sort(key=by_end)
        for run in builder.runs:
            for result, param in run.takeovers:
                operand, written = run.reads[param].content, run.writes[result].content
                if operand.last == run.moment:
                    self.in_place.setdefault((id(operand), id(written)), (run, param, result))

    def fits(self, inner: Storage, at: Dim, outer: Storage, begin: Dim) -> Dim | None:
        """Where `inner` lies in `outer` when its byte `at` meets byte `begin` there; None if it may stick out."""
        shift = begin - at
        if type(at) is int and at == 0 and inner.bytes == outer.bytes and begin == 0:
            return 0
        if not known_le(0, shift, self.known):
            return None
        return shift if known_le(shift + inner.bytes, outer.bytes, self.known) else None

    def move(self, move: Move) -> bool:
        """Let a move's source and target be the same bytes, so that nothing is copied."""
        source, target = move.source, move.target
        a, b = target.content.storage, source.content.storage
        if a is b:
            return bool(source.at == target.at)
        shift: Dim | None
        if b.place is None and type(source.at) is int and source.at == 0 and b.bytes == source.type.bytes:
            shift = target.at  # inside by construction: it is as large as what it moves to
        elif b.place is None:
            shift = self.fits(b, source.at, a, target.at)
        elif a.place is None:
            shift = self.fits(a, target.at, b, source.at)
            a, b = b, a
        else:
            return False
        if shift is None:
            return False
        if not self.join(a, b, shift, move):
            return False
        if move.mark is not None:
            a.contents.remove(move.mark)
        return True

    def together(self, moves: Sequence[Move]) -> bool:
        """Let the result of a switch be the bytes in which every branch leaves it: what the one hands on as it is, and
        the other has written parts of. One branch runs, so that the moment of one's move is none of the other's."""
        first = moves[0]
        a, b = first.target.content.storage, first.source.content.storage
        if a is b or any(m.source.content.storage is not b or m.source.at != first.source.at for m in moves):
            return False
        if a.place is not None or first.target.at != 0 or a.bytes != first.target.type.bytes:
            return False
        # A carry takes what it was back from the switch at once.
        back = [
            m for m in self.moves
            if m.source.content is first.target.content and m.target.content.storage is b
            and m.target.at == first.source.at and m.target.type.bytes == a.bytes
        ]  # fmt: skip
        marks = [m.mark for m in (*moves, *back) if m.mark is not None]
        shift = self.fits(a, 0, b, first.source.at)
        if shift is None or not self.join(b, a, shift, None, marks):
            return False
        for move in moves:
            if move.mark is not None:
                b.contents.remove(move.mark)
        return True

    def overwrite(self, run: Run, result: int, param: int) -> bool:
        """Let a result take over the bytes of an operand."""
        operand, written = run.reads[param], run.writes[result]
        a, b = operand.content.storage, written.content.storage
        if a is b or (a.place is not None and b.place is not None):
            return a is b and operand.at == written.at
        if b.place is not None or not self.exactly(b, written):
            a, b, operand, written = b, a, written, operand
            if not self.exactly(b, written):
                return False
        return self.join(a, b, operand.at, None)

    def exactly(self, storage: Storage, tensor: Tensor) -> bool:
        return tensor.at == 0 and storage.bytes == tensor.type.bytes

    def join(self, a: Storage, b: Storage, shift: Dim, move: Move | None, marks: Sequence[Content] = ()) -> bool:
        """Put `b` into `a`, `shift` bytes from its beginning, unless two of their contents are in each other's way;
        `marks` are in nobody's."""
        # What moves with a loop's variable has no place outside the loop, nor the same place in its next step.
        depth = max((self.variables.get(name, 0) for name in names(shift)), default=0)
        if any(content.loops < depth for content in b.contents):
            return False
        if b.contents and a.contents:
            begins = min(content.first for content in b.contents)
            ends = b.contents[-1].last
            for mine in reversed(a.contents):
                if mine.last < begins:
                    break
                if mine.first > ends:
                    continue
                for other in b.contents:
                    if any(other is mark or mine is mark for mark in marks):
                        continue
                    if self.clash(mine, other, a, b, shift, move):
                        return False
        for content in b.contents:
            content.at = content.at + shift
            content.storage = a
        for content in b.contents:
            insort(a.contents, content, key=by_end)
        b.contents = []
        return True

    def clash(self, mine: Content, other: Content, a: Storage, b: Storage, shift: Dim, move: Move | None) -> bool:
        """Whether a content of `a` and one of `b`, shifted, need the same byte at the same moment."""
        if mine.last < other.first or other.last < mine.first:
            return False
        if move is not None:
            if mine is move.mark or other is move.mark:
                return False
            ends = move.source.content, move.target.content
            if (mine, other) == ends or (other, mine) == ends:
                # A part means what the whole means; other moves hand the bytes on at their moment.
                part = move.part and ends[0].bytes == move.source.type.bytes
                if part or ends[0].last <= move.moment <= ends[1].first:
                    return False
        start = other.at + shift
        if known_le(mine.at + mine.bytes, start, self.known) or known_le(start + other.bytes, mine.at, self.known):
            return False
        before, after, moved = (mine, other, False) if mine.first < other.first else (other, mine, True)
        found = self.in_place.get((id(before), id(after)))
        if found is None or before.last != after.first:
            return True
        run, param, result = found
        operand, written = run.reads[param], run.writes[result]
        begin = operand.at + (shift if moved else 0)
        end = written.at + (0 if moved else shift)
        beside = (r for i, r in enumerate(run.reads) if i != param)
        return bool(begin != end) or any(r.content.storage is a or r.content.storage is b for r in beside)


def join_all(builder: Builder, cx: Context, known: Known) -> None:
    """Join what can be joined: results and loops first, then parts, then kernels that write over an operand."""
    joiner = Joiner(builder, known)
    # Updates first: not to be joined costs them a copy of all that they leave alone.
    for run in builder.runs:
        for result, param in updates_of(run.group.body):
            if not joiner.overwrite(run, result, param):
                changed = run.group.body.results[result]
                cx.remark(changed, "not updated in place: what it changes is still read, or not ours")
    for moves in reversed(builder.branched):
        joiner.together(moves)
    for move in reversed(builder.moves):
        joiner.move(move)
    for run in builder.runs:
        taken: set[int] = set()
        for result, param in run.overwrites:
            # An operand that is read later, or a result that has a place, cannot be joined.
            if (
                run.reads[param].content.last == run.moment
                and result not in taken
                and joiner.overwrite(run, result, param)
            ):
                taken.add(result)


def sequence_moves(steps: Sequence[Step], builder: Builder, known: Known) -> None:
    """Turn moves that happen at once into copies one after the other; a cycle goes through spare bytes."""

    def overlap(a: Tensor, b: Tensor) -> bool:
        if a.content.storage is not b.content.storage:
            return False
        after = known_le(a.at + a.type.bytes, b.at, known) or known_le(b.at + b.type.bytes, a.at, known)
        return not after

    def order(step: Moves) -> None:
        pending = [
            (move.source, move.target)
            for move in step.moves
            if move.source.content.storage is not move.target.content.storage or move.source.at != move.target.at
        ]
        while pending:
            for i, (source, target) in enumerate(pending):
                if not any(overlap(target, other) for j, (other, _) in enumerate(pending) if j != i) and not overlap(
                    source, target
                ):
                    step.sequence.append(pending.pop(i))
                    break
            else:
                source, target = pending[0]
                content = Content(builder.storage(source.type.bytes), 0, source.type.bytes, step.moment, step.moment)
                content.storage.contents.append(content)
                spare = Tensor(source.type, content)
                step.sequence.append((source, spare))
                pending[0] = (spare, target)

    waiting = [list(steps)]
    while waiting:
        for step in waiting.pop():
            match step:
                case Moves():
                    order(step)
                case Counted(body=body):
                    waiting.append(body)
                case Repeated(condition=condition, body=body):
                    waiting += (condition, body)
                case Chosen(branches=branches):
                    waiting += branches


@dataclass
class Planned:
    """A program in the making: steps, and where every storage lies."""

    steps: list[Step]
    builder: Builder
    arena_bytes: Dim
    bound: Dim
    remarks: tuple[Remark, ...]


def planned(
    graph: Graph, cx: Context, donated: Sequence[tuple[int, int]], sizes: Mapping[str, int], choice: int
) -> Planned:
    said = len(cx.remarks)
    builder = Builder(graph, sizes, cx.kernels, choice=choice)
    steps = builder.whole(donated)
    known = {dim.name: dim for dim in graph.dims}
    join_all(builder, cx, known)
    sequence_moves(steps, builder, known)
    storages = [s for s in builder.storages if s.place is None and s.contents]
    records: list[Record] = [
        (align(s.bytes), min(content.first for content in s.contents), max(c.last for c in s.contents))
        for s in storages
    ]
    offsets = plan(records, known)
    for storage, offset in zip(storages, offsets, strict=True):
        storage.offset = offset
    return Planned(steps, builder, top(records, offsets, known), lower_bound(records, known), tuple(cx.remarks[said:]))


class Writer:
    """The statements of planned steps, and their kernels."""

    def __init__(self, dims: Sequence[DimName], variables: Sequence[str]) -> None:
        self.dims = {dim.name: dim for dim in (*dims, *(DimName(name) for name in variables))}
        self.kernels: dict[str, KernelDef] = {}

    def slot(self, tensor: Tensor) -> Slot:
        storage = tensor.content.storage
        if storage.place is not None:
            return Slot(*storage.place, tensor.at, tensor.type)
        return Slot("arena", 0, storage.offset + tensor.at, tensor.type)

    def body(self, steps: Sequence[Step]) -> tuple[Statement, ...]:
        found: list[Statement] = []
        for step in steps:
            match step:
                case Run():
                    found.append(self.call(step))
                case Moves(sequence=sequence):
                    found += [Copy(self.slot(source), self.slot(target)) for source, target in sequence]
                case Counted(var, count, body, reverse):
                    found.append(Loop(var, count, self.body(body), reverse))
                case Repeated(condition, flag, body):
                    found.append(While(self.body(condition), self.slot(flag), self.body(body)))
                case Chosen(selector, branches):
                    found.append(Switch(self.slot(selector), tuple(self.body(branch) for branch in branches)))
                case _:
                    assert_never(step)
        return tuple(found)

    def call(self, run: Run) -> Call:
        group = run.group
        reads, writes = tuple(map(self.slot, run.reads)), tuple(map(self.slot, run.writes))
        updates = tuple(
            (result, param) for result, param in run.takeovers if self.same_place(run.writes[result], run.reads[param])
        )
        work = tuple(map(self.slot, run.work))
        kernel = self.kernel(group.body, updates, tuple(slot.type for slot in work))
        sites = tuple(op.failure() for op in failing(group.body))
        return Call(kernel.name, reads, writes, group.location, group.sequence, sites, work)

    def same_place(self, a: Tensor, b: Tensor) -> bool:
        return a.content.storage is b.content.storage and a.at == b.at

    def kernel(self, body: Graph, updates: tuple[tuple[int, int], ...], work: tuple[TensorType, ...]) -> KernelDef:
        used = dict.fromkeys(name for value in everywhere(body) for name in sizes_in(value)) if self.dims else {}
        dims = tuple(dim for name, dim in self.dims.items() if name in used)
        own = Graph(body.name, body.params, body.results, dims)
        key = fingerprint(own, repr(updates))
        if key not in self.kernels:
            self.kernels[key] = KernelDef(f"{body.name}_{len(self.kernels)}", own, updates, work)
        return self.kernels[key]


def to_program(
    graph: Graph, cx: Context, *, donated: Sequence[tuple[int, int]] = ()
) -> tuple[Program, tuple[Array, ...]]:
    """The program of a grouped graph, and the data of its constants in the order of its constant slots.

    `donated` pairs (result, argument): that result is written into that argument's memory.
    """
    before, cx.running = cx.running, "buffers"
    try:
        if cx.check:
            GROUPED.check(graph, cx.kernels.keeps)
        sizes = typical(graph)
        said = len(cx.remarks)
        plans = [planned(graph, cx, donated, sizes, 0)]
        # An order with less live memory may still pack worse: never above the program's own.
        plans += [planned(graph, cx, donated, sizes, choice) for choice in plans[0].builder.choices if choice]
        best = min(plans, key=lambda each: evaluate(each.arena_bytes, sizes))
        cx.remarks[said:] = best.remarks
        program, constants = write(graph, best, donated)
        if cx.check:
            check(program)
            validate(graph, program)
        return program, constants
    finally:
        cx.running = before


def write(graph: Graph, plan: Planned, donated: Sequence[tuple[int, int]]) -> tuple[Program, tuple[Array, ...]]:
    builder = plan.builder
    writer = Writer(graph.dims, list(builder.variables))
    body = writer.body(plan.steps)
    program = Program(
        graph.name,
        graph.dims,
        tuple(Buffer(p.label, p.given) for p in graph.params),
        tuple(Buffer(f"{i}", r.tensor) for i, r in enumerate(graph.results)),
        tuple(Buffer(name, constant.tensor) for name, (constant, _) in builder.constants.items()),
        tuple(writer.kernels.values()),
        body,
        plan.arena_bytes,
        plan.bound,
        tuple(donated),
        promises_of(graph),
    )
    return program, tuple(constant.data for constant, _ in builder.constants.values())
