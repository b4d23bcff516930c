"""What every program must keep, asked of its statements alone.

Kernels are called with what they take; a call writes over an operand only where its kernel says so; copies and slots
stay inside their memory; nothing is written that is not ours; every byte that is read was written before, on every way
through the branches and loops, and every result is complete at the end. Sizes are tried at a few values of the names:
what is wrong for all but a few sizes is found, what is wrong for one odd size may not be.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, product
from typing import Final, NoReturn, TypeAlias, assert_never

from .dims import Dim, DimName
from .dims import evaluate as evaluate_dim
from .dims import names as names_in
from .dtypes import bool_, i32, i64
from .errors import CheckFailed
from .program import Call, Copy, KernelDef, Loop, Program, Slot, Statement, Switch, While
from .types import TensorType

MOST_STEPS: Final = 64  # of a loop that are followed one by one; of longer ones the first and the last
MOST_TRIALS: Final = 16

Key: TypeAlias = tuple[str, int]
Span: TypeAlias = tuple[Key, int, int]


class Written:
    """Which bytes of each memory have been written: disjoint, sorted ranges."""

    def __init__(self, ranges: Mapping[Key, list[tuple[int, int]]] | None = None) -> None:
        self.ranges = {key: list(found) for key, found in (ranges or {}).items()}

    def copy(self) -> Written:
        return Written(self.ranges)

    def add(self, span: Span) -> None:
        key, low, high = span
        if low == high:
            return
        ranges = self.ranges.setdefault(key, [])
        first = bisect_left(ranges, low, key=lambda r: r[1])
        last = bisect_right(ranges, high, key=lambda r: r[0])
        if first < last:
            low, high = min(low, ranges[first][0]), max(high, ranges[last - 1][1])
        ranges[first:last] = [(low, high)]

    def missing(self, span: Span) -> int | None:
        """The first byte of the range that has not been written."""
        key, low, high = span
        if low == high:
            return None
        ranges = self.ranges.get(key, [])
        place = bisect_right(ranges, low, key=lambda r: r[0]) - 1
        if place < 0 or ranges[place][1] <= low:
            return low
        return None if ranges[place][1] >= high else ranges[place][1]

    def both(self, other: Written) -> Written:
        """What was written on either of two ways."""
        found = Written()
        for key, ranges in self.ranges.items():
            for low, high in ranges:
                for start, end in other.ranges.get(key, []):
                    if low < end and start < high:
                        found.add((key, max(low, start), min(high, end)))
        return found


def check(program: Program) -> None:
    """Raises CheckFailed (TD0280) with the statement that breaks a rule."""
    _Shapes(program).check()
    for sizes in _trials(program):
        _Flow(program, sizes).check()


def _trials(program: Program) -> Iterator[dict[str, int]]:
    """A few values of the names that keep what is promised of them."""
    choices = [_values(dim) for dim in program.dims]
    for count, values in enumerate(product(*choices)):
        if count == MOST_TRIALS:
            return
        sizes = {dim.name: value for dim, value in zip(program.dims, values, strict=True)}
        if all(evaluate_dim(p.low, sizes) <= evaluate_dim(p.high, sizes) for p in program.requires):
            yield sizes


def _values(dim: DimName) -> list[int]:
    found = [dim.least + i * dim.multiple_of for i in (0, 1, 2, 7)]
    return [value for value in found if dim.high is None or value <= dim.high]


def _fail(program: Program, statement: Statement | None, what: str) -> NoReturn:
    from .program_text import show_statement

    lines = show_statement(statement).splitlines() if statement is not None else []
    shown = "".join(f"\n    {line}" for line in lines[:1])
    raise CheckFailed(f"{program.name}: {what}{shown}", code="TD0280")


def _sizes(statement: Statement) -> Iterator[Dim]:
    """The places, sizes and counts of a statement, those of its bodies left out."""
    slots: tuple[Slot, ...] = ()
    match statement:
        case Call(_, reads, writes, work=work):
            slots = (*reads, *writes, *work)
        case Copy(source, target):
            slots = (source, target)
        case Loop(count=count):
            yield count
        case While(flag=slot) | Switch(selector=slot):
            slots = (slot,)
    for slot in slots:
        yield slot.offset
        yield from slot.type.shape


class _Shapes:
    """The rules that need no sizes: names, numbers and types."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.kernels: dict[str, KernelDef] = {}

    def check(self) -> None:
        program = self.program
        for kernel in program.kernels:
            if kernel.name in self.kernels:
                _fail(program, None, f"two kernels are called {kernel.name}")
            self.kernels[kernel.name] = kernel
            for result, param in kernel.updates:
                if not (0 <= result < len(kernel.graph.results) and 0 <= param < len(kernel.graph.params)):
                    _fail(program, None, f"{kernel.name} has no result {result} or no operand {param} to update")
                if kernel.graph.results[result].type != kernel.graph.params[param].given:
                    _fail(program, None, f"{kernel.name}: result {result} is not of the type of operand {param}")
        for result, argument in program.donated:
            if not (0 <= result < len(program.outputs) and 0 <= argument < len(program.inputs)):
                _fail(program, None, f"there is no result {result}, or no argument {argument}, to donate")
            if program.outputs[result].type != program.inputs[argument].type:
                _fail(program, None, f"argument {argument} cannot hold result {result}: it has another type")
        self.body(program.body, {dim.name for dim in program.dims})

    def body(self, statements: Sequence[Statement], names: set[str]) -> None:
        for statement in statements:
            for size in _sizes(statement):
                unknown = next((name for name in names_in(size) if name not in names), None)
                if unknown is not None:
                    _fail(self.program, statement, f"{unknown} is not known here")
            match statement:
                case Call():
                    self.call(statement)
                case Copy(source, target):
                    if source.type != target.type:
                        _fail(self.program, statement, f"{source.type} is copied to {target.type}")
                case Loop(var, _, body):
                    if var in names:
                        _fail(self.program, statement, f"{var} is taken")
                    self.body(body, {*names, var})
                case While(condition, flag, body):
                    if flag.type != TensorType((), bool_):
                        _fail(self.program, statement, f"the flag is {flag.type}, not one bool")
                    self.body(condition, names)
                    self.body(body, names)
                case Switch(selector, branches):
                    if selector.type.shape or selector.type.dtype not in (bool_, i32, i64):
                        _fail(self.program, statement, f"the selector is {selector.type}, not one bool, i32 or i64")
                    if not branches:
                        _fail(self.program, statement, "there is no branch")
                    for branch in branches:
                        self.body(branch, names)
                case _:
                    assert_never(statement)

    def call(self, call: Call) -> None:
        kernel = self.kernels.get(call.kernel)
        if kernel is None:
            _fail(self.program, call, f"there is no kernel {call.kernel}")
        for what, slots, kinds in (
            ("operand", call.reads, kernel.graph.param_types),
            ("result", call.writes, kernel.graph.result_types),
            ("scratch", call.work, kernel.work),
        ):
            if len(slots) != len(kinds):
                _fail(self.program, call, f"{call.kernel} has {len(kinds)} {what}s, {len(slots)} are given")
            for i, (slot, kind) in enumerate(zip(slots, kinds, strict=True)):
                if slot.type != kind:
                    _fail(self.program, call, f"{what} {i} of {call.kernel} is {kind}, {slot.type} is given")


class _Flow:
    """The rules that need sizes: where slots lie, and what has been written when they are read."""

    def __init__(self, program: Program, sizes: Mapping[str, int]) -> None:
        self.program = program
        self.sizes = dict(sizes)
        self.kernels = {kernel.name: kernel for kernel in program.kernels}
        self.sharing: dict[Key, Key] = {("out", result): ("in", argument) for result, argument in program.donated}
        self.ours = {("arena", 0), *(("out", i) for i in range(len(program.outputs)))}
        self.ours |= {("in", argument) for _, argument in program.donated}
        self.lengths: dict[Key, int] = {("arena", 0): evaluate_dim(program.arena_bytes, sizes)}
        for space, buffers in (("in", program.inputs), ("out", program.outputs), ("const", program.constants)):
            for i, buffer in enumerate(buffers):
                self.lengths[space, i] = evaluate_dim(buffer.type.bytes, sizes)

    def check(self) -> None:
        written = Written()
        for space, buffers in (("in", self.program.inputs), ("const", self.program.constants)):
            for i in range(len(buffers)):
                written.add(((space, i), 0, self.lengths[space, i]))
        written = self.body(self.program.body, written)
        for i, buffer in enumerate(self.program.outputs):
            lost = written.missing(self.span(Slot("out", i, 0, buffer.type), None))
            if lost is not None:
                _fail(self.program, None, f"byte {lost} of result {i} is never written{self.at()}")

    def at(self) -> str:
        return f" (at {', '.join(f'{name}={value}' for name, value in self.sizes.items())})" if self.sizes else ""

    def span(self, slot: Slot, statement: Statement | None) -> Span:
        key = (slot.space, slot.index)
        if key not in self.lengths:
            _fail(self.program, statement, f"there is no {slot.memory}")
        low = evaluate_dim(slot.offset, self.sizes)
        high = low + evaluate_dim(slot.type.bytes, self.sizes)
        if low < 0 or high > self.lengths[key]:
            where = f"bytes {low}:{high} of {slot.memory}, which has {self.lengths[key]}"
            _fail(self.program, statement, where + self.at())
        return self.sharing.get(key, key), low, high

    def read(self, slot: Slot, written: Written, statement: Statement) -> Span:
        span = self.span(slot, statement)
        lost = written.missing(span)
        if lost is not None:
            _fail(self.program, statement, f"byte {lost} of {slot.memory} is read before it is written{self.at()}")
        return span

    def target(self, slot: Slot, statement: Statement) -> Span:
        span = self.span(slot, statement)
        if (slot.space, slot.index) not in self.ours and span[1] < span[2]:
            _fail(self.program, statement, f"{slot.memory} is not ours to write")
        return span

    def body(self, statements: Sequence[Statement], written: Written) -> Written:
        for statement in statements:
            written = self.statement(statement, written)
        return written

    def statement(self, statement: Statement, written: Written) -> Written:
        match statement:
            case Call():
                self.call(statement, written)
            case Copy(source, target):
                given, taken = self.read(source, written, statement), self.target(target, statement)
                if _overlap(given, taken):
                    _fail(self.program, statement, f"a copy overlaps what it copies{self.at()}")
                written.add(taken)
            case Loop(var, count, body, reverse):
                steps = range(evaluate_dim(count, self.sizes))
                followed: Sequence[int] = steps if len(steps) <= MOST_STEPS else (0, 1, steps[-1])
                before = {key: list(found) for key, found in written.ranges.items()}
                for number in reversed(followed) if reverse else followed:
                    self.sizes[var] = number
                    written = self.body(body, written)
                self.sizes.pop(var, None)
                if len(followed) < len(steps):
                    self.stretch(written, before)
            case While(condition, flag, body):
                written = self.body(condition, written)
                self.read(flag, written, statement)
                # No step need happen, so what the body writes counts for nothing afterwards.
                inside = self.body(condition, self.body(body, written.copy()))
                self.read(flag, inside, statement)
                self.body(condition, self.body(body, inside))
            case Switch(selector, branches):
                self.read(selector, written, statement)
                ends = [self.body(branch, written.copy()) for branch in branches]
                written = ends[0]
                for end in ends[1:]:
                    written = written.both(end)
            case _:
                assert_never(statement)
        return written

    def stretch(self, written: Written, before: Mapping[Key, list[tuple[int, int]]]) -> None:
        """The steps between those followed write between what these wrote."""
        for key, ranges in list(written.ranges.items()):
            if ranges != before.get(key, []) and len(ranges) > 1:
                written.add((key, ranges[0][0], ranges[-1][1]))

    def call(self, call: Call, written: Written) -> None:
        kernel = self.kernels[call.kernel]
        reads = [self.read(slot, written, call) for slot in call.reads]
        writes = [self.target(slot, call) for slot in call.writes]
        work = [self.target(slot, call) for slot in call.work]
        updates = {(result, param) for result, param in kernel.updates}
        for i, mine in enumerate(writes):
            for j, other in enumerate(reads):
                if (i, j) in updates:
                    if mine != other:
                        _fail(self.program, call, f"result {i} is to be written over operand {j}, and is not")
                elif _overlap(mine, other):
                    _fail(self.program, call, f"result {i} is written over operand {j}{self.at()}")
        for i, mine in enumerate(chain(writes, work)):
            if any(_overlap(mine, other) for other in (*writes, *work)[i + 1 :]):
                _fail(self.program, call, f"two results or scratch arrays are at one place{self.at()}")
        if any(_overlap(mine, other) for mine in work for other in reads):
            _fail(self.program, call, f"scratch is in use{self.at()}")
        for span in writes:
            written.add(span)


def _overlap(a: Span, b: Span) -> bool:
    return a[0] == b[0] and a[1] < b[2] and b[1] < a[2]
