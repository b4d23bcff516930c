"""Sorting rows: runs by insertion, joined pair by pair; and the first few of a row by a heap.

A row is sorted where its result lies. Two neighbouring runs are merged through a buffer on the stack that holds the
left one; where that is too long, both are cut so that what belongs in front comes to the front by a rotation, and the
parts are merged in turn. So a row of any length needs no memory beyond the buffer, equal elements keep their order, and
runs that are in order already are left alone. The first k need no sort of the rest: a heap keeps the best so far, the
worst of them on top, where the next element is compared with it.

The places of an argsort are sorted by what they point at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from ...ir.classes import dataclass
from ...ir.dims import Dim, ceildiv, minimum, product, symbol
from ...ir.dtypes import i64
from ...ir.graph import Graph
from ...ir.loops.affine import linearize
from ...ir.loops.build import Builder, Operand, add, and_, cast, ge, gt, lt, not_, or_, select, shl, sub
from ...ir.loops.build import load as element
from ...ir.loops.nodes import Alloc, Expr, For, Index, Kernel, Param, Stmt
from ...ir.ops.indexing import ArgSort, Sort, TopK
from ...ir.program import KernelDef
from ...ir.target import Target
from ...ir.types import TupleType
from ...ir.value import Get, Parameter
from .. import threads
from ..lower import rules
from ..lower.compose import Composer, Position, Source
from ..lower.sort import Ordering, before, descends, keys_of, operands_of
from ..tidy import numerics
from .elementwise import LETTERS, hazard, is_map

Block: TypeAlias = tuple[Stmt, ...]
RUN: Final = 16  # so many elements are sorted faster by insertion than by merging
BUFFER_BYTES: Final = 64 << 10  # of a left run while it is merged: half of what a worker's stack may hold
# Merges put off: a cut leaves neither part more than three quarters, so no row that fits a machine needs more.
DEPTH: Final = 96


def takes(graph: Graph, target: Target) -> bool:
    """Whether the results are those of one sort, and everything else are maps before it."""
    return ordering_of(graph) is not None


def ordering_of(graph: Graph) -> Ordering | None:
    found = [value for value in graph.ops if isinstance(value, Sort | ArgSort | TopK)]
    if len(found) != 1:
        return None
    op = found[0]
    parts = [value for value in graph.ops if isinstance(value, Get) and value.x is op]
    maps = [value for value in graph.ops if value is not op and value not in parts]
    if not all(map(is_map, maps)) or any(operand is op or operand in parts for x in maps for operand in x.operands):
        return None
    if isinstance(op.type, TupleType):
        whole = [value.index if isinstance(value, Get) and value.x is op else -1 for value in graph.results]
        return op if whole == list(range(len(op.type.elements))) else None
    return op if graph.results == (op,) else None


def sort(definition: KernelDef, target: Target) -> Kernel:
    """The kernel of a sort."""
    source = Source(definition)
    op = ordering_of(source.graph)
    assert op is not None
    refuse_hazards(source, op)
    shape = operands_of(op)[0].shape
    variables = [source.names.fresh(LETTERS[i % len(LETTERS)]) for i in range(len(shape))]
    row = Row(source, op, tuple(map(symbol, variables)))
    if isinstance(op, TopK):
        row.first(op.k)
    else:
        row.sort()
    (block,) = numerics(target, row.k.statements())
    axes = [axis for axis in range(len(shape)) if axis != op.axis]
    for axis in reversed(axes):
        loop = For(variables[axis], 0, shape[axis], 1, "serial", block)
        if axis == axes[0]:
            below = product([shape[a] for a in axes[1:]]) * cost(shape[op.axis])
            loop = threads.divided(loop, max(below, 1) if type(below) is int else threads.GRAIN, source.names)
        block = (loop,)
    return Kernel(definition.name, tuple(source.params), source.dims, block, tuple(source.tables.values()))


def refuse_hazards(source: Source, op: Ordering) -> None:
    """TD0433 unless every overwritten operand is permuted as it is, and read by nothing else."""
    for number, out in enumerate(source.outs):
        if out.role != "inout":
            continue
        readers = [x for value in source.graph.ops for x in value.operands if source.buffer_of.get(id(x)) is out]
        x = op.xs[number] if isinstance(op, Sort) else None
        if not isinstance(x, Parameter) or source.buffer_of[id(x)] is not out or len(readers) > 1:
            raise hazard(source, out)


def cost(n: Dim) -> Dim:
    """What a row costs, as bytes that could be moved meanwhile: eight for each comparison."""
    return max(n, 1) * n.bit_length() * 8 if type(n) is int else n * 128


@dataclass(frozen=True)
class Column:
    """One of the arrays that make up a row: element number i of the row lies at `place(i)`."""

    buffer: Param | Alloc
    place: Callable[[Dim], Dim]


Columns: TypeAlias = Sequence[Column]


class Row:
    """One row, at `position` but for its own axis, sorted where the results lie."""

    def __init__(self, source: Source, op: Ordering, position: Position) -> None:
        self.k = Builder(source.definition.name, names=source.names)
        self.source = source
        self.op = op
        self.position = position
        self.length: Dim = operands_of(op)[0].shape[op.axis]
        kinds = op.tensors
        self.columns = [Column(out, self.along(kind.shape)) for out, kind in zip(source.outs, kinds, strict=True)]

    def along(self, shape: tuple[Dim, ...]) -> Callable[[Dim], Dim]:
        axis = self.op.axis
        return lambda i: linearize((*self.position[:axis], i, *self.position[axis + 1 :]), shape)

    # Elements.

    def name(self, value: Operand) -> Dim:
        """A number that is not negative, as it may stand in positions."""
        return symbol(self.k.let("at", value, i64).name)

    def variable(self, value: Operand) -> Alloc:
        """A whole number in a register."""
        made = self.k.registers("r", i64, ())
        self.set(made, value)
        return made

    def set(self, variable: Alloc, value: Operand) -> None:
        self.k.store(variable, (), value)

    def at(self, index: Dim, columns: Columns | None = None) -> list[Expr]:
        """The elements number `index`, by names."""
        return [self.k.let("x", element(c.buffer, c.place(index))) for c in columns or self.columns]

    def put(self, index: Dim, values: Sequence[Expr], columns: Columns | None = None) -> None:
        for column, value in zip(columns or self.columns, values, strict=True):
            self.k.store(column.buffer, column.place(index), value)

    def given(self, index: Dim) -> list[Expr]:
        """The operands' elements number `index`, by names."""
        axis = self.op.axis
        composer = Composer(self.source, rules=rules())
        where = (*self.position[:axis], index, *self.position[axis + 1 :])
        values = [composer.at(x, where) for x in operands_of(self.op)]
        self.k.emit(*composer.out)
        return [self.k.let("x", value) for value in values]

    def keys(self, values: Sequence[Expr]) -> Sequence[Expr]:
        """What is compared of a row's element."""
        if isinstance(self.op, ArgSort):
            return self.given(self.name(values[0]))
        return values[: keys_of(self.op)]

    def precedes(self, a: Sequence[Expr], b: Sequence[Expr]) -> Expr:
        """Whether `a` comes before `b` and is not equal to it."""
        return self.k.let("first", before(self.keys(a), self.keys(b), descends(self.op)))

    # Sorting.

    def sort(self) -> None:
        """Runs, then runs of runs."""
        k, n = self.k, self.length
        if n == 0:
            return
        todo = k.alloc("todo", i64, (3 * DEPTH,))
        held = self.held()
        with k.loop("run", ceildiv(n, RUN)) as run:
            begin = self.name(Index(run * RUN))
            end = self.name(Index(minimum(begin + RUN, n)))
            with k.loop("next", end, start=begin) as place:
                values = [Index(place)] if isinstance(self.op, ArgSort) else self.given(place)
                self.insert(values, begin, place)
        if type(n) is int and n <= RUN:
            return
        width = self.variable(RUN)
        with k.if_(gt(Index(n), RUN)), k.do() as again:
            half = self.name(element(width))
            with k.loop("pair", ceildiv(n, 2 * half)) as pair:
                low = self.name(Index(2 * half * pair))
                middle = self.name(Index(minimum(low + half, n)))
                high = self.name(Index(minimum(low + 2 * half, n)))
                with k.if_(lt(Index(middle), Index(high))):
                    self.merge(low, middle, high, todo, *held)
            self.set(width, shl(Index(half), 1))
            again(lt(element(width), Index(n)))

    def held(self) -> tuple[Dim, list[Column]]:
        """The buffer of a left run, and how many elements it holds."""
        most = max(BUFFER_BYTES // sum(column.buffer.dtype.bytes for column in self.columns), 1)
        if type(self.length) is int:
            # No left run is longer than the greatest power of two times RUN below the length.
            runs = -(-self.length // RUN)
            most = min(most, RUN << max((runs - 1).bit_length() - 1, 0))
        return most, [Column(self.k.alloc("held", c.buffer.dtype, (most,)), lambda i: i) for c in self.columns]

    def insert(self, values: Sequence[Expr], begin: Dim, place: Dim) -> None:
        """An element into the run from `begin` to `place`: what it precedes moves up."""
        k = self.k
        at = self.variable(Index(place))
        with k.if_(gt(Index(place), Index(begin))), k.do() as again:
            here = self.name(element(at))
            below = self.name(sub(Index(here), 1))
            other = self.at(below)
            moves = self.precedes(values, other)
            with k.if_(moves):
                self.put(here, other)
                self.set(at, Index(below))
            again(and_(moves, gt(Index(below), Index(begin))))
        self.put(self.name(element(at)), values)

    def merge(self, low: Dim, middle: Dim, high: Dim, todo: Alloc, most: Dim, held: Columns) -> None:
        """Two neighbouring runs, neither of them empty, as one."""
        k = self.k
        top = self.variable(0)
        self.push(todo, top, low, middle, high)
        with k.do() as again:
            self.set(top, sub(element(top), 3))
            base = self.name(element(top))
            low, middle, high = (self.name(element(todo, base + i)) for i in range(3))
            with k.if_(and_(lt(Index(low), Index(middle)), lt(Index(middle), Index(high)))):
                apart = self.precedes(self.at(middle), self.at(middle - 1))
                with k.if_(apart):
                    with k.if_(gt(Index(middle - low), Index(most))):
                        self.cut(low, middle, high, todo, top)
                    with k.else_():
                        self.join(low, middle, high, held)
            again(gt(element(top), 0))

    def push(self, todo: Alloc, top: Alloc, *numbers: Dim) -> None:
        base = self.name(element(top))
        for i, number in enumerate(numbers):
            self.k.store(todo, base + i, Index(number))
        self.set(top, add(Index(base), len(numbers)))

    def join(self, low: Dim, middle: Dim, high: Dim, held: Columns) -> None:
        """Merge, the left run aside. What is left of the right run stands where it belongs."""
        k = self.k
        count = self.name(Index(middle - low))
        with k.loop("i", count) as i:
            self.put(i, self.at(low + i), held)
        left, right = self.variable(0), self.variable(Index(middle))
        with k.do() as again:
            one, two = self.name(element(left)), self.name(element(right))
            mine, theirs = self.at(one, held), self.at(two)
            takes = self.precedes(theirs, mine)
            to = self.name(Index(low + one + two - middle))
            self.put(to, [select(takes, y, x) for x, y in zip(mine, theirs, strict=True)])
            step = k.let("step", cast(takes, i64))
            self.set(left, add(Index(one), sub(1, step)))
            self.set(right, add(Index(two), step))
            again(and_(lt(element(left), Index(count)), lt(element(right), Index(high))))
        rest, taken = self.name(element(left)), self.name(element(right))
        with k.loop("i", count, start=rest) as i:
            self.put(low + i + taken - middle, self.at(i, held))

    def cut(self, low: Dim, middle: Dim, high: Dim, todo: Alloc, top: Alloc) -> None:
        """Halve the longer run; what of the other one belongs in front of its middle comes there by a rotation."""
        k = self.k
        one, two = self.variable(0), self.variable(0)
        with k.if_(ge(Index(middle - low), Index(high - middle))):
            half = self.name(Index(low + (middle - low) // 2))
            pivot = self.at(half)
            self.set(one, Index(half))
            # Equal elements of the right run stay behind the pivot.
            self.search(two, middle, high, lambda x: self.precedes(x, pivot))
        with k.else_():
            half = self.name(Index(middle + (high - middle) // 2))
            pivot = self.at(half)
            self.set(two, Index(half))
            # Equal elements of the left run stay before it.
            self.search(one, low, middle, lambda x: not_(self.precedes(pivot, x)))
        first, second = self.name(element(one)), self.name(element(two))
        self.reverse(first, middle)
        self.reverse(middle, second)
        self.reverse(first, second)
        between = self.name(Index(first + second - middle))
        self.push(todo, top, between, second, high)
        self.push(todo, top, low, first, between)

    def search(self, found: Alloc, low: Dim, high: Dim, passes: Callable[[Sequence[Expr]], Expr]) -> None:
        """The first place from `low` on whose element does not pass, `high` if all do; those that pass come first."""
        k = self.k
        self.set(found, Index(low))
        left = self.variable(Index(high - low))
        with k.if_(gt(element(left), 0)), k.do() as again:
            count = self.name(element(left))
            at = self.name(add(element(found), Index(count // 2)))
            on = k.let("on", passes(self.at(at)))
            self.set(found, select(on, Index(at + 1), element(found)))
            self.set(left, select(on, Index(count - count // 2 - 1), Index(count // 2)))
            again(gt(element(left), 0))

    def reverse(self, low: Dim, high: Dim) -> None:
        with self.k.loop("i", (high - low) // 2) as i:
            one, two = self.at(low + i), self.at(high - 1 - i)
            self.put(low + i, two)
            self.put(high - 1 - i, one)

    # The first few.

    def first(self, count: Dim) -> None:
        """The best `count`: all elements pass a heap of them, which is then taken apart from the worst on."""
        k, n = self.k, self.length
        if count == 0 or n == 0:
            return
        with k.if_(gt(Index(count), 0)):
            with k.loop("i", count) as i:
                self.put(i, [*self.given(i), Index(i)])
            with k.loop("i", count // 2) as i:
                start = self.name(Index(count // 2 - 1 - i))
                self.sift(self.at(start), start, count)
            with k.loop("i", n, start=count) as i:
                values = [*self.given(i), Index(i)]
                # Of equal elements the earlier is better, and all in the heap are earlier.
                with k.if_(self.precedes(values, self.at(0))):
                    self.sift(values, 0, count)
            with k.loop("i", count - 1) as i:
                last = self.name(Index(count - 1 - i))
                values = self.at(last)
                self.put(last, self.at(0))
                self.sift(values, 0, last)

    def worse(self, a: Sequence[Expr], b: Sequence[Expr]) -> Expr:
        """The order of the heap: worse elements on top, of equal ones the later."""
        later = and_(not_(self.precedes(a, b)), gt(a[1], b[1]))
        return self.k.let("worse", or_(self.precedes(b, a), later))

    def sift(self, values: Sequence[Expr], start: Dim, count: Dim) -> None:
        """An element into the heap of `count` from the place `start` down: worse ones move up."""
        k = self.k
        hole = self.variable(Index(start))
        with k.if_(lt(Index(2 * start + 1), Index(count))), k.do() as again:
            here = self.name(element(hole))
            one = self.name(Index(2 * here + 1))
            two = self.name(Index(minimum(one + 1, count - 1)))
            left, right = self.at(one), self.at(two)
            takes = self.worse(right, left)
            child = [k.let("x", select(takes, y, x)) for x, y in zip(left, right, strict=True)]
            at = self.name(select(takes, Index(two), Index(one)))
            moves = self.worse(child, values)
            with k.if_(moves):
                self.put(here, child)
                self.set(hole, Index(at))
            again(and_(moves, lt(Index(2 * at + 1), Index(count))))
        self.put(self.name(element(hole)), values)
