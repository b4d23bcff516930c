"""What the steps of a loop have to do with each other: the facts by which `vectorize` chooses.

A value of a body is the same in every step, or differs between steps but needs none before it, or hangs on a carry. A
carry is a count (its value follows from the number of the step), a row written by each step where no other step writes
or reads, a reduction (each step combines one term into it and looks at it for nothing else), a value handed on to the
next step, or, if what it becomes depends on what it was, a recurrence. Nothing here changes a graph; where a fact is
not known (an index that is data), the answer is the one that forbids more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, TypeAlias

from ..ir.classes import dataclass
from ..ir.dims import NOTHING, Dim, DimName, known_le
from ..ir.dtypes import bool_, i32, i64
from ..ir.graph import Graph, Uses
from ..ir.ops.control import Scan, While
from ..ir.ops.elementwise import And, Convert, Maximum, Minimum, Or, Select
from ..ir.ops.families import Reduction
from ..ir.ops.indexing import DynamicSlice, DynamicUpdate, Gather, Scatter
from ..ir.ops.reduce import All as AllOf
from ..ir.ops.reduce import Any as AnyOf
from ..ir.ops.reduce import Max, Min, Prod, Sum
from ..ir.value import Add, Constant, DimSize, Full, Ge, Gt, Le, Lt, Mul, Neg, Parameter, Sub, Value

# A scalar of the body as a + b * (number of the step).
Line: TypeAlias = tuple[Dim, int]

NARROW: Final = 1 << 31  # positions below this fit the integers that indices come in


@dataclass(frozen=True, slots=True)
class Row:
    """The element or the rows of `source` along `axis` at the line `at`: what one step reads, or writes. `size` counts
    the elements of a block along the axis; 0: the axis is not there."""

    source: Value
    axis: int
    at: Line
    size: int = 0


@dataclass(frozen=True, slots=True)
class Write:
    """A carry that a step only writes into: `op` is what writes. `row` says where, if that is a line of its own."""

    op: Scatter | DynamicUpdate
    row: Row | None

    @property
    def update(self) -> Value:
        """What is written in a step."""
        return self.op.update if isinstance(self.op, DynamicUpdate) else self.op.updates


@dataclass(frozen=True, slots=True)
class Reduce:
    """A carry into which each step combines `terms`, by `op`, and that no step looks at."""

    op: type[Value]
    terms: tuple[Value, ...]


def lines(
    body: Graph, number: Value | None, count: Dim | None = None, dims: Mapping[str, DimName] = NOTHING
) -> dict[int, Line]:
    """The integer scalars of a body that are a line in the step's number, by their ids. With the number of steps, also
    places of which those below 0 are counted from the end, where none or all are."""
    found: dict[int, Line] = {} if number is None else {id(number): (0, 1)}
    for value in body.ops:
        if not _is_integer(value):
            continue
        line = _line(value, found)
        match value:
            case Select(Lt(x, Full(0)), turned, y) if x is y and count is not None and id(x) in found:
                start, by = found[id(x)]
                last = start + (count - 1) * by
                if known_le(0, start, dims) and known_le(0, last, dims):
                    line = found[id(x)]
                elif known_le(start + 1, 0, dims) and known_le(last + 1, 0, dims):
                    line = found.get(id(turned))
        if line is not None:
            found[id(value)] = line
    return found


def _is_integer(value: Value) -> bool:
    kinds = value.tensors
    return len(kinds) == 1 and kinds[0].shape == () and kinds[0].dtype in (i64, i32)


def _line(value: Value, known: dict[int, Line]) -> Line | None:
    operands = [known.get(id(operand)) for operand in value.operands]
    if any(line is None for line in operands):
        return None
    match value, operands:
        case Full(number), _:
            return int(number.real), 0
        case Constant(data), _:
            return int(data), 0
        case DimSize(dim), _:
            return dim, 0
        case Add(), [(a, b), (c, d)]:
            return a + c, b + d
        case Sub(), [(a, b), (c, d)]:
            return a - c, b - d
        case Neg(), [(a, b)]:
            return -a, -b
        case Mul(), [(a, b), (int(c), 0)]:
            return a * c, b * c
        case Mul(), [(int(a), 0), (c, d)]:
            return a * c, a * d
        case Convert(), [(int(a), b)] if abs(a) < NARROW and abs(b) < NARROW >> 20:
            return a, b
    return None


def within(line: Line, count: Dim, size: Dim, dims: dict[str, DimName]) -> bool:
    """Whether a line stays in 0..size-1 for the steps 0..count-1."""
    start, step = line
    last = start + (count - 1) * step
    low, high = (start, last) if step >= 0 else (last, start)
    return known_le(0, low, dims) and known_le(high + 1, size, dims)


class Steps:
    """One scan, and what is true of it. `core` are the carries that are recurrences; `handed` those that only hand a
    value on, in an order in which each comes after those that it hangs on."""

    def __init__(
        self, op: Scan, dims: Sequence[DimName], *, any_order: bool = False, kept: Collection[int] = ()
    ) -> None:
        """`any_order`: reductions whose order can be seen count as reductions. Of the carries in `kept` none counts as
        a reduction, nor as a write to rows that are not a line of their own: they are recurrences then."""
        self.op, self.body = op, op.body
        self.dims = {dim.name: dim for dim in dims}
        first, n, count = int(op.counted), len(op.consts), len(op.carry)
        params = self.body.params
        self.number = params[0] if op.counted else None
        self.consts = params[first : first + n]
        self.carries = params[first + n : first + n + count]
        self.xs = params[first + n + count :]
        self.ys = self.body.results[count:]
        self.uses = Uses(self.body)
        self.lines = lines(self.body, self.number, op.length, self.dims)
        self.rows: dict[int, Row] = {}
        self.fixed = self._fixed()
        self._find_rows()
        self.writes: dict[int, tuple[Write, ...]] = {}
        self._find_writes(kept)
        self.reads = self._depends()
        self.reduces: dict[int, Reduce] = {}
        # Recurrences that are reductions but for their order, which can be seen.
        self.ordered: dict[int, Reduce] = {}
        for c in range(count):
            found = None if c in self.writes else self._reduction(c)
            if found is not None and (any_order or is_exact(found)):
                if c not in kept:
                    self.reduces[c] = found
            elif found is not None:
                self.ordered[c] = found
        self.core, self.handed = self._recurrences()
        self.in_core, self.into_core = self._reach()

    # Values that are the same in every step.

    def _fixed(self) -> dict[int, None]:
        """The ids of the values that no parameter of a step reaches."""
        moving = {id(p) for p in self.body.params if all(p is not c for c in self.consts)}
        for value in self.body.ops:
            if any(id(operand) in moving for operand in value.operands):
                moving.add(id(value))
        return {id(value): None for value in self.body.order if id(value) not in moving}

    # Rows that steps read and write.

    def _at(self, index: Value, count: Dim) -> Line | None:
        """A line on which every step is somewhere else, inside 0..count-1."""
        line = self.lines.get(id(index))
        if line is None or line[1] == 0 or not within(line, self.op.length, count, self.dims):
            return None
        return line

    def _row(self, value: Value, x: Value, starts: Sequence[Value], sizes: Sequence[Dim]) -> Row | None:
        """Where a block lies that moves along one axis, and has the whole of the others."""
        found: Row | None = None
        for axis, (start, size, n) in enumerate(zip(starts, sizes, x.shape, strict=True)):
            if size == n and self.lines.get(id(start)) == (0, 0):
                continue
            if found is not None or type(size) is not int:
                return None
            line = self._at(start, n - size + 1)
            if line is None:
                return None
            found = Row(x, axis, line, size)
        return found

    def _find_rows(self) -> None:
        for value in self.body.ops:
            match value:
                case Gather(x, (index,), (axis,), batch_rank=0) if index.rank == 0:
                    line = self._at(index, x.shape[axis])
                    row = None if line is None else Row(x, axis, line)
                case DynamicSlice(x, starts, sizes):
                    row = self._row(value, x, starts, sizes)
                    row = row if row is not None and row.size == 1 else None
                case _:
                    continue
            if row is not None and (id(row.source) in self.fixed or row.source in self.carries):
                self.rows[id(value)] = row

    def _find_writes(self, kept: Collection[int]) -> None:
        for c, param in enumerate(self.carries):
            ops = self._writing(c, param)
            rows = [self._written(op) for op in ops]
            others = [reader for reader in self.uses.readers(param) if not ops or reader is not ops[0]]
            if not ops or self.uses.is_result(param):
                continue
            if not all(self._reads_before(reader, row) for reader in others for row in rows):
                continue
            if any(not self._in_turn(a, b) for i, a in enumerate(ops) for b in ops[i + 1 :]):
                continue
            if c not in kept or all(row is not None for row in rows):
                self.writes[c] = tuple(map(Write, ops, rows))
        for key, row in list(self.rows.items()):
            # A row of a carry is one of what the carry began as only where no step has written it.
            if isinstance(row.source, Parameter) and id(row.source) not in self.fixed:
                if not any(self.carries[c] is row.source for c in self.writes):
                    del self.rows[key]

    def _writing(self, c: int, param: Parameter) -> list[Scatter | DynamicUpdate]:
        """The writes of a step into a carry, one after the other, where nobody looks at it between them."""
        ops: list[Scatter | DynamicUpdate] = []
        op = self.body.results[c]
        while op is not param:
            if not isinstance(op, Scatter | DynamicUpdate) or any(operand is op.x for operand in op.operands[1:]):
                return []
            if not (self.uses.only(op) if ops else self._is_last(op)) or any(o is param for o in op.operands[1:]):
                return []
            ops.append(op)
            op = op.x
        return ops[::-1]

    def _in_turn(self, first: Scatter | DynamicUpdate, second: Scatter | DynamicUpdate) -> bool:
        """Whether all that the first of two writes of a step writes may be written before all that the second does:
        where the second has been in one step, the first does not come in a later one."""
        if isinstance(first, Scatter) and isinstance(second, Scatter) and first.combine == second.combine == "add":
            if first.dtype.is_integer or first.dtype is bool_:
                return True
        here, there = self._places(first), self._places(second)
        return any(axis in there and self._never_after(place, there[axis]) for axis, place in here.items())

    def _places(self, op: Scatter | DynamicUpdate) -> dict[int, tuple[Line, int]]:
        """The lines on which the blocks that steps write begin, and their lengths, by axis, as far as they are
        known."""
        found: dict[int, tuple[Line, int]] = {}
        if isinstance(op, Scatter):
            blocks: list[tuple[int, Value, Dim]] = [
                (axis, index, 1) for axis, index in zip(op.axes, op.indices, strict=True) if index.rank == 0
            ]
        else:
            blocks = [(i, start, n) for i, (start, n) in enumerate(zip(op.starts, op.update.shape, strict=True))]
        for axis, index, size in blocks:
            line = self.lines.get(id(index))
            if line is not None and type(size) is int:
                if within(line, self.op.length, op.x.shape[axis] - size + 1, self.dims):
                    found[axis] = line, size
        return found

    def _never_after(self, first: tuple[Line, int], second: tuple[Line, int]) -> bool:
        """Whether a block on the one line does not meet, in any later step, where the other has been."""
        ((a, by), width), ((b, other), size) = first, second
        gap = b - a
        if by != other or type(gap) is not int:
            return False
        low, high = gap - width, gap + size  # a block `by * k` further meets it where low < by * k < high
        if by == 0:
            return not low < 0 < high
        if (by < 0) != self.op.reverse:
            low, high = -high, -low
        k = max(low // abs(by) + 1, 1)
        later = self.op.length - 1
        return abs(by) * k >= high or (type(later) is int and k > later)

    def _is_last(self, value: Value) -> bool:
        """Whether a value is one carry's result and nothing else."""
        return not self.uses.readers(value) and sum(result is value for result in self.body.results) == 1

    def _written(self, op: Scatter | DynamicUpdate) -> Row | None:
        """The row of a write, if steps write different rows."""
        match op:
            case Scatter(x, (index,), combine="set", axes=(axis,), batch_rank=0) if index.rank == 0:
                line = self._at(index, x.shape[axis])
                return None if line is None else Row(x, axis, line)
            case DynamicUpdate(x, update, starts):
                row = self._row(op, x, starts, update.shape)
                return row if row is not None and row.size <= abs(row.at[1]) else None
        return None

    def _reads_before(self, reader: Value, written: Row | None) -> bool:
        """Whether what `reader` reads of a carry is not written by an earlier step: its own row, or one to come."""
        row = self.rows.get(id(reader))
        if row is None or written is None or written.size > 1 or row.axis != written.axis:
            return False
        (a, b), (c, d) = row.at, written.at
        if b != d:
            return False
        distance = a - c if (b > 0) != self.op.reverse else c - a
        return known_le(0, distance)

    # Which carries hang on which.

    def _depends(self) -> dict[int, int]:
        """A bit for each carry that a value reads, by the value's id; rows that are not carried over do not count."""
        reads = {id(param): 0 for param in self.body.params}
        for c, param in enumerate(self.carries):
            if c not in self.writes:
                reads[id(param)] = 1 << c
        writing = {id(write.op) for writes in self.writes.values() for write in writes}
        for value in self.body.ops:
            mask = 0
            if id(value) not in self.rows and id(value) not in writing:
                for operand in value.operands:
                    mask |= reads[id(operand)]
            elif id(value) in writing:
                for operand in value.operands[1:]:
                    mask |= reads[id(operand)]
            reads[id(value)] = mask
        return reads

    def _reduction(self, c: int) -> Reduce | None:
        """The carry as a reduction: `((p op a) op b)`, each link read by the next alone."""
        param, link = self.carries[c], self.body.results[c]
        kind, terms = type(link), []
        if kind not in REDUCTIONS or param.given.dtype not in REDUCTIONS[kind].accepts or not self._is_last(link):
            return None
        while link is not param:
            if type(link) is not kind:
                return None
            held = [operand for operand in link.operands if self.reads[id(operand)] >> c & 1]
            if len(held) != 1 or self.uses.count(held[0]) != 1:
                return None
            terms.append(next(operand for operand in link.operands if operand is not held[0]))
            link = held[0]
        return Reduce(kind, tuple(reversed(terms)))

    def _recurrences(self) -> tuple[list[int], list[int]]:
        """The carries that hang on themselves, with all between them; and those that are handed on."""
        apart = [c for c in range(len(self.carries)) if c not in self.writes and c not in self.reduces]
        known = sum(1 << c for c in apart)
        needs = {c: self.reads[id(self.body.results[c])] & known for c in apart}
        for _ in apart:
            for c in apart:
                for d in apart:
                    if needs[c] >> d & 1:
                        needs[c] |= needs[d]
        cyclic = sum(1 << c for c in apart if needs[c] >> c & 1)
        needed = 0
        for c in apart:
            needed |= needs[c] if cyclic >> c & 1 else 0
        core = [c for c in apart if cyclic >> c & 1 or (needs[c] & cyclic and needed >> c & 1)]
        return core, sorted((c for c in apart if c not in core), key=lambda c: needs[c].bit_count())

    def _reach(self) -> tuple[dict[int, None], dict[int, None]]:
        """The ids of the values that hang on a recurrence, and of those that one hangs on."""
        mask = sum(1 << c for c in self.core)
        for c in self.handed:
            if self.reads[id(self.body.results[c])] & mask:
                mask |= 1 << c
        after = {id(value): None for value in self.body.order if self.reads[id(value)] & mask}
        pending = [self.body.results[c] for c in self.core]
        into: dict[int, None] = {}
        while pending:
            value = pending.pop()
            if id(value) not in into:
                into[id(value)] = None
                pending += () if id(value) in self.rows else value.operands
        return after, into


# The reduction that combines all terms at once, and whether its order is free: of these, all give the same in any
# order. Sums and products do where they are of integers or bools.
REDUCTIONS: Final[dict[type[Value], type[Reduction]]] = {
    Add: Sum,
    Mul: Prod,
    Maximum: Max,
    Minimum: Min,
    Or: AnyOf,
    And: AllOf,
}


def is_exact(found: Reduce) -> bool:
    """Whether the order in which the terms are combined cannot be seen."""
    dtype = found.terms[0].dtype
    return found.op in (Maximum, Minimum) or dtype.is_integer or dtype is bool_


def trips(op: While) -> tuple[int, int, int, int] | None:
    """Of a while that counts between numbers that are known: which carry counts, from where, by how much, how often."""
    n = len(op.consts)
    found = lines(op.condition, None), lines(op.body, None)
    match op.condition.results[0]:
        case Lt(Parameter() as p, Value() as end) | Gt(Value() as end, Parameter() as p):
            up, closed = True, 0
        case Le(Parameter() as p, Value() as end) | Ge(Value() as end, Parameter() as p):
            up, closed = True, 1
        case Gt(Parameter() as p, Value() as end) | Lt(Value() as end, Parameter() as p):
            up, closed = False, 0
        case Ge(Parameter() as p, Value() as end) | Le(Value() as end, Parameter() as p):
            up, closed = False, 1
        case _:
            return None
    c = next((i for i, param in enumerate(op.condition.params[n:]) if param is p), None)
    if c is None:
        return None
    start, end_at = op.carry[c], found[0].get(id(end))
    begin = _line(start, {}) if isinstance(start, Full | Constant) and _is_integer(start) else None
    match op.body.results[c]:
        case Add(x, y) if x is op.body.params[n + c]:
            step = found[1].get(id(y))
        case Add(y, x) if x is op.body.params[n + c]:
            step = found[1].get(id(y))
        case _:
            return None
    if begin is None or end_at is None or step is None:
        return None
    a, b, by = begin[0], end_at[0], step[0]
    if not (type(a) is int and type(b) is int and type(by) is int) or by == 0 or (by > 0) is not up:
        return None
    span = (b - a if up else a - b) + closed
    count = max(-(-span // abs(by)), 0)
    return (c, a, by, count) if abs(a) + count * abs(by) < NARROW else None
