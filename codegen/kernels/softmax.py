"""Rows: reductions along rows, maps back over the rows, again reductions, in one kernel that reads each row from memory
once. Softmax, log-softmax, layer norm, mean and variance, and plain reductions are all of this form.

A group is such a program when its reductions go along the same axes of one space and everything else is a map of that
space or of what is left of it (`plan`). It runs in passes over a row: pass k computes the reductions that need the
results of pass k - 1, and what the group yields for whole rows as soon as it can. A value that is dear to compute and
needed by several passes is kept in a buffer of one row.

Where the rows lie along the innermost axis, a row is cut into vectors and the lanes are joined at its end; a short row
stays in registers, since its passes are written out and repeat each other's loads. Where another axis is innermost,
neighbouring rows are the lanes, and nothing is ever joined across lanes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from ...ir.dims import Dim, ceildiv, known_equal, minimum, product, symbol
from ...ir.dims import names as names_of
from ...ir.graph import Graph
from ...ir.loops.affine import coefficient, linearize
from ...ir.loops.build import all_exprs, cast, walk
from ...ir.loops.nodes import (
    MATH,
    MATH_BINARY,
    Alloc,
    Expr,
    For,
    Index,
    Kernel,
    Let,
    Load,
    Memory,
    Param,
    Stmt,
    Store,
    Var,
)
from ...ir.ops.families import Movement
from ...ir.ops.movement import Broadcast, Copy, Reshape
from ...ir.program import KernelDef
from ...ir.structure import State, Structure
from ...ir.target import Target
from ...ir.types import Shape
from ...ir.value import After, Elementwise, Parameter, Value
from .. import simd, threads
from ..lower import rules
from ..lower.compose import Composer, Guard, Lanes, Leaf, Position, Source
from ..lower.structured import composed
from ..schedule import Axis, merged, moved
from ..tidy import numerics
from .elementwise import hazard, is_map
from .reduce import (
    BLOCK_STEPS,
    CHAIN,
    ONE_PART,
    Accumulator,
    Waiting,
    begun,
    is_exact,
    joined_lanes,
    joined_vectors,
    tree,
    vector,
)
from .reduce import merged as merged_states

Block: TypeAlias = tuple[Stmt, ...]

FREE, REDUCED, ROW = 0, 1, 2  # a value needs no reduction; is one number per row; is a whole row
SHORT: Final = 8  # vectors of a row that is written out; half as many where its elements are dear
KEPT_BYTES: Final = 16 << 10  # of a row that is kept: with the row itself it stays in the first cache
GROUP: Final = 8  # elements of a row that are joined before they meet its state, where states are in memory
WIDE_ROWS: Final = (CHAIN - GROUP) * GROUP  # elements of a block of such rows: a chain of groups, then single ones
WIDE_LEVELS: Final = 22  # where it is not known how many blocks there are
WIDE_BYTES: Final = 96 << 10  # of states and what waits to be joined with them, on the stack
MOST_VECTORS: Final = 256  # of a tile: 16 KiB of every array
_MATH: Final = frozenset((*MATH, *MATH_BINARY))


# --- recognizing
# --------------------------------------------------------------------------------------------------------


@dataclass
class Plan:
    """How a group is a program over rows. `kinds` and `extents` are those of the space's axes that are longer than 1:
    `p` is an axis along which rows are counted, `r` one along which they run."""

    kinds: tuple[str, ...]
    extents: tuple[Dim, ...]
    stages: list[list[Value]] = field(default_factory=list)
    structures: dict[int, Structure] = field(default_factory=dict)
    tags: dict[int, int] = field(default_factory=dict)
    stage: dict[int, int] = field(default_factory=dict)
    plain: bool = True  # the reduced values lie where their structure's axes stand, so maps over rows can join in

    @property
    def kept(self) -> tuple[Dim, ...]:
        return tuple([extent for kind, extent in zip(self.kinds, self.extents) if kind == "p"])


def plan(graph: Graph) -> Plan | None:
    """The program that a graph is, None if it is none."""
    found: Plan | None = None
    for value in graph.ops:
        if not is_map(value):
            structure = value.structure()
            if structure is None or structure.combine is None or any(a.kind == "scan" for a in structure.axes):
                return None
            axes = [axis for axis in structure.axes if axis.extent != 1]
            kinds = tuple([axis.kind[0] for axis in axes])
            extents = tuple([axis.extent for axis in axes])
            if found is None:
                found = Plan(kinds, extents)
            elif kinds != found.kinds or not _same(extents, found.extents):
                return None
            found.plain = found.plain and _is_plain(structure)
            found.structures[id(value)] = structure
    if found is None:
        return None
    for value in graph.order:
        if not _place(value, found):
            return None
    for result in graph.results:
        tag = found.tags[id(result)]
        if tag == FREE and not (_same(_long(result.shape), found.extents) or _same(_long(result.shape), found.kept)):
            return None
    return found


def _place(value: Value, found: Plan) -> bool:
    """Note the tag and stage of a value; False if it has no place in the program."""
    operands = value.operands
    tags = [found.tags[id(operand)] for operand in operands]
    tag = max(tags, default=FREE)
    stage = max([found.stage[id(operand)] for operand in operands], default=0)
    if id(value) in found.structures:
        if tag == REDUCED or (tag == ROW and not found.plain):
            return False
        while len(found.stages) <= stage:
            found.stages.append([])
        found.stages[stage].append(value)
        # A row of one element is the number that is left of it.
        tag, stage = REDUCED if "r" in found.kinds else ROW, stage + 1
        if not found.plain and stage > 1:
            return False
    elif tag != FREE:
        if isinstance(value, Movement):
            moved_tag = _moved(value, tag, found)
            if moved_tag is None:
                return False
            tag = moved_tag
        elif isinstance(value, Elementwise):
            if any(other not in (FREE, tag) for other in tags):
                return False
        elif not isinstance(value, After):
            return False
    found.tags[id(value)] = tag
    found.stage[id(value)] = stage
    return True


def _moved(value: Movement, tag: int, found: Plan) -> int | None:
    """What a movement makes of a reduced value or a row, None where it moves it off its place."""
    if isinstance(value, Copy):
        return tag
    if not isinstance(value, Broadcast | Reshape):
        return None
    before, after = _long(value.x.shape), _long(value.shape)
    if _same(before, after):
        return tag
    if tag == ROW or isinstance(value, Reshape) or not found.plain or not _same(after, found.extents):
        return None
    # A broadcast back over the rows: each axis must come to stand where it was reduced from.
    longs = [axis for axis, extent in enumerate(value.to) if extent != 1]
    into = [longs.index(axis) for axis, extent in zip(value.axes, value.x.shape) if extent != 1]
    return ROW if into == [i for i, kind in enumerate(found.kinds) if kind == "p"] else None


def _long(shape: Shape) -> tuple[Dim, ...]:
    return tuple([extent for extent in shape if extent != 1])


def _same(a: Sequence[Dim], b: Sequence[Dim]) -> bool:
    return len(a) == len(b) and all(known_equal(x, y) for x, y in zip(a, b))


def _is_plain(structure: Structure) -> bool:
    here = tuple([axis.position for axis in structure.axes])
    return all(read.index == here and not read.divisors and read.fill is None for read in structure.reads)


# --- the program
# ----------------------------------------------------------------------------------------------------------


def takes(graph: Graph, target: Target) -> bool:
    return plan(graph) is not None


def rows(definition: KernelDef, target: Target) -> Kernel:
    """The kernel of a program over rows."""
    found = plan(definition.graph)
    assert found is not None
    return _Program(definition, found, target).kernel()


class _Program:
    def __init__(self, definition: KernelDef, found: Plan, target: Target) -> None:
        self.source = Source(definition)
        self.graph = definition.graph
        self.names = self.source.names
        self.plan = found
        self.target = target
        self.axes = [
            Axis(self.names.fresh(letter), 0, extent, kind)
            for letter, extent, kind in zip(_letters(found.kinds), found.extents, found.kinds)
        ]
        self.by_structure = list(self.axes)
        if not found.plain:
            self.axes = _vector_last(self.axes, found)
        if not self.axes:  # everything is of size 1: a row of one element
            self.axes = [Axis(self.names.fresh("r"), 0, 1, "r")]
        self.across = self.axes[-1].kind == "r"  # the lanes go across a row
        self.u, self.l, self.k = self.names.fresh("u"), self.names.fresh("l"), self.names.fresh("k")
        self.sizes()
        self.leaves: dict[int, Leaf] = {}
        self.allocs: list[Alloc] = []  # register arrays and kept rows, made anew for every row
        self.passes: list[_Pass] = []
        self.groups: dict[int, Alloc] = {}
        self.lent: list[str] = []  # results whose rows keep something until they are written

    def sizes(self) -> None:
        """Lanes, and vectors at a time."""
        dtypes = [v.dtype for v in self.graph.order if self.plan.tags[id(v)] != FREE or isinstance(v, Parameter)]
        dtypes = [v.operands[0].dtype if id(v) in self.plan.structures else v.dtype for v in self.graph.order] + [
            structure.combine.dtypes[0] for structure in self.plan.structures.values() if structure.combine
        ]
        self.lanes = simd.lanes_of(dtypes)
        extent = self.axes[-1].extent
        if type(extent) is int and extent < self.lanes:
            self.lanes = simd.power_above(max(extent, 1))
        dear = sum(_is_dear(v) for v in self.graph.ops)
        weight = dear * 8 + len(self.graph.ops)
        self.short = self.wide = False
        if self.across:
            self.vectors = 4 if weight < 32 else 2
            length = product([axis.extent for axis in self.axes if axis.kind == "r"])
            if type(length) is int and length <= self.lanes * (SHORT // 2 if dear else SHORT):
                self.short = True
                self.vectors = max(-(-length // self.lanes), 1)
        else:
            room = 8 if self.target.vector_registers >= 32 else 4
            self.vectors = max(room // max(weight // 4, 1), 1)
            self.wide = self.is_wide()
            if self.wide:
                self.vectors = self.tile_vectors()

    # Positions.

    def position(self, shape: Shape, whole: bool) -> Position:
        """Where an element of a row, or the number of a row, stands in an array of `shape`."""
        axes = iter([axis for axis in self.axes if whole or axis.kind == "p"])
        return tuple([0 if extent == 1 else symbol(next(axes).var) for extent in shape])

    def composer(self) -> Composer:
        ranges = {axis.var: (axis.start, axis.stop) for axis in self.axes}
        return Composer(self.source, self.leaves, ranges, Lanes(self.l, self.lanes), rules())

    def at(self, value: Value, composer: Composer) -> Expr:
        return composer.at(value, self.position(value.shape, self.is_whole(value)))

    def is_whole(self, value: Value) -> bool:
        tag = self.plan.tags[id(value)]
        return tag == ROW or (tag == FREE and not _same(_long(value.shape), self.plan.kept))

    def leaf(self, value: Value, whole: bool, known: Expr) -> None:
        """From here on the value is known where it stands in the row at hand."""
        expected = self.position(value.shape, whole)

        def found(position: Position, guard: Guard) -> Expr | None:
            return known if position == expected else None

        self.leaves[id(value)] = found

    # Passes.

    def kernel(self) -> Kernel:
        self.write()
        self.refuse_hazards()
        body = self.loops()
        source = self.source
        return Kernel(
            source.definition.name, tuple(source.params), source.dims, body, tuple(source.tables.values())
        )

    def write(self) -> None:
        """Compose all passes, in terms of the space's axes."""
        self.choose_kept()
        results = list(zip(self.graph.results, self.source.outs))
        last = len(self.plan.stages)
        for number in range(last + 1):
            reductions = self.plan.stages[number] if number < last else []
            stores: list[tuple[Value, Param]] = []
            for value, out in results:
                if self.is_whole(value):
                    # What overwrites an operand waits until nobody reads it any more.
                    due = last if out.role == "inout" else self.plan.stage[id(value)]
                    if due == number:
                        stores.append((value, out))
            if reductions or stores:
                self.write_pass(number, reductions, stores)
        ends = [(value, out) for value, out in results if not self.is_whole(value)]
        if ends:
            composer = self.composer()
            exprs = [(value, out, self.at(value, composer)) for value, out in ends]
            block = [
                Store(out.name, (composer.offset(self.position(value.shape, False), value.shape),), x)
                for value, out, x in exprs
            ]
            self.passes.append(_Pass((), (*composer.out, *block), tuple(composer.header), "end"))

    def choose_kept(self) -> None:
        """Which values of whole rows several passes need and are too dear to compute twice. `needed` has a bit for
        every pass that needs a value; of a chain the last value is kept that all those passes need."""
        self.needed: dict[int, int] = {}
        self.kept: list[Value] = []
        roots: dict[int, None] = {}
        last = len(self.plan.stages)
        for number, ops in enumerate(self.plan.stages):
            for op in ops:
                for operand in op.operands:
                    self.needed[id(operand)] = self.needed.get(id(operand), 0) | 1 << number
                    roots[id(operand)] = None
        for value, out in zip(self.graph.results, self.source.outs):
            if self.is_whole(value):
                due = last if out.role == "inout" else self.plan.stage[id(value)]
                self.needed[id(value)] = self.needed.get(id(value), 0) | 1 << due
                roots[id(value)] = None
        readers: dict[int, list[Value]] = {}
        for value in reversed(self.graph.ops):
            if id(value) in self.plan.structures or not self.is_whole(value):
                continue
            for operand in value.operands:
                self.needed[id(operand)] = self.needed.get(id(operand), 0) | self.needed.get(id(value), 0)
                readers.setdefault(id(operand), []).append(value)
        dear: dict[int, bool] = {}
        for value in self.graph.ops:
            if id(value) in self.plan.structures or not self.is_whole(value):
                continue
            dear[id(value)] = _is_dear(value) or any(dear.get(id(operand), False) for operand in value.operands)
            passes = self.needed.get(id(value), 0)
            ends = id(value) in roots or any(
                self.needed.get(id(reader), 0) != passes for reader in readers.get(id(value), ())
            )
            if dear[id(value)] and passes & (passes - 1) and ends:
                self.kept.append(value)
                dear[id(value)] = False

    def kept_row(self, value: Value, number: int) -> Load | None:
        """Where a row of that value is kept from this pass on: registers, a buffer of its own, or the row of a result
        that is written later; None where there is no room."""
        running = [axis for axis in self.axes if axis.kind == "r"]
        length = product([axis.extent for axis in running])
        lane = symbol(self.u) * self.lanes + symbol(self.l)
        if self.short:
            array = Alloc(self.names.fresh("row"), value.dtype, (self.vectors, self.lanes), "registers")
            self.allocs.append(array)
            return Load(array.name, (symbol(self.u), symbol(self.l)), value.dtype)
        place = linearize([symbol(axis.var) for axis in running], [axis.extent for axis in running])
        if not self.across:
            size = self.lanes * self.vectors
            place, length = place * size + lane, length * size
        if type(length) is int and length * value.dtype.bytes <= KEPT_BYTES:
            array = Alloc(self.names.fresh("row"), value.dtype, (length,), "stack")
            self.allocs.append(array)
            return Load(array.name, (place,), value.dtype)
        if type(length) is int and not self.across:
            return None
        last = self.needed[id(value)].bit_length() - 1
        for result, out in zip(self.graph.results, self.source.outs):
            free = out.role == "out" and out.name not in self.lent and out.dtype is value.dtype
            if free and self.is_whole(result) and self.plan.stage[id(result)] >= max(last, number + 1):
                self.lent.append(out.name)
                at = linearize(self.position(result.shape, True), result.shape)
                return Load(out.name, (at,), value.dtype)
        return None

    def refuse_hazards(self) -> None:
        """TD0433 where an updated operand may be read after it was overwritten. Rows are independent of each other and
        passes follow each other, so it is enough that each element is read where it is written, in no later pass."""
        for out in self.source.outs:
            if out.role != "inout":
                continue
            loads: list[tuple[Dim, ...]] = []
            stores: list[tuple[Dim, ...]] = []
            for part in self.passes:
                here = [x.index for x in all_exprs(part.body) if type(x) is Load and x.buffer == out.name]
                if stores and here:
                    raise hazard(self.source, out)
                loads += here
                stores += [s.index for s in walk(part.body) if isinstance(s, Store) and s.buffer == out.name]
            if any(load != store for load in loads for store in stores):
                raise hazard(self.source, out)

    def write_pass(self, number: int, reductions: list[Value], stores: list[tuple[Value, Param]]) -> None:
        composer = self.composer()
        block: list[Stmt] = []
        accumulators = []
        for value in self.kept:
            if id(value) not in self.leaves and self.needed[id(value)] >> number & 1:
                x = composer.bind(self.at(value, composer))
                composer.memo[id(value), self.position(value.shape, True), ()] = x
                row = self.kept_row(value, number)
                if row is not None:
                    composer.out.append(Store(row.buffer, row.index, x))
                    self.leaf(value, True, row)
        for op in reductions:
            structure = self.plan.structures[id(op)]
            memory: Memory = "stack" if self.wide else "registers"
            acc = Accumulator.make(op, structure, self.vectors, self.lanes, self.names, memory)
            accumulators.append(acc)
            axes = iter(self.by_structure)
            at = {axis.name: 0 if axis.extent == 1 else symbol(next(axes).var) for axis in structure.axes}
            element = composed(composer, op, structure, at)
            if self.wide:
                block.append(self.grouped(acc, element[0]))
                continue
            place = (symbol(self.u), symbol(self.l))
            block += acc.set(*place, acc.monoid.step(acc.at(*place), element), self.names)
        for value, out in stores:
            at_row = composer.offset(self.position(value.shape, True), value.shape)
            stream = out.name not in self.lent and simd.streams(out, self.target)
            block.append(Store(out.name, (at_row,), self.at(value, composer), stream))
        self.passes.append(_Pass(tuple(accumulators), (*composer.out, *block), tuple(composer.header)))
        if not reductions:
            return
        # What is left of each row, and what is made of that before the rows are seen again.
        inner = self.composer()
        block = []
        for acc in accumulators:
            op = acc.op
            if self.across:
                states = [Var(self.names.fresh("state"), dtype) for dtype in acc.monoid.dtypes]
                self.passes[-1].states[id(op)] = states
                name = self.names.fresh(op.name)
                block.append(Let(name, acc.monoid.finish(tuple(states))))
                self.leaf(op, False, Var(name, op.dtype))
            else:
                state = acc.at(symbol(self.u), symbol(self.l))
                self.leaf(op, False, self.kept_vector(op, acc.monoid.finish(state), block))
        inner.leaves.update(self.leaves)
        for value in self.graph.ops:
            if (
                self.plan.tags[id(value)] == REDUCED
                and self.plan.stage[id(value)] == number + 1
                and id(value) not in self.plan.structures
                and self.is_read_by_rows(value)
            ):
                expr = self.at(value, inner)
                block += inner.out
                inner.out.clear()
                if self.across:
                    name = self.names.fresh(value.name)
                    block.append(Let(name, expr))
                    self.leaf(value, False, Var(name, value.dtype))
                else:
                    self.leaf(value, False, self.kept_vector(value, expr, block))
                inner.leaves.update(self.leaves)
        self.passes.append(_Pass((), tuple(block), tuple(inner.header), "between"))

    def kept_vector(self, value: Value, expr: Expr, block: list[Stmt]) -> Load:
        """A number per row, where the rows are lanes: it is kept in registers."""
        shape = (1 if self.wide else self.vectors, self.lanes)
        array = Alloc(self.names.fresh(value.name), value.dtype, shape, "registers")
        self.allocs.append(array)
        place = (0 if self.wide else symbol(self.u), symbol(self.l))
        block.append(Store(array.name, place, expr))
        return Load(array.name, place, value.dtype)

    def is_read_by_rows(self, value: Value) -> bool:
        return any(
            self.plan.tags[id(reader)] == ROW and any(operand is value for operand in reader.operands)
            for reader in self.graph.ops
        )

    # Loops.

    def loops(self) -> Block:
        blocks = numerics(self.target, *[part.body for part in self.passes])
        axes, blocks = merged(self.axes, blocks)
        for part, block in zip(self.passes, blocks):
            part.body = block
        outer = [axis for axis in axes if axis.kind == "p"]
        inner = [axis for axis in axes if axis.kind == "r"]
        weight = sum([simd.weigh(part.body).total for part in self.passes])
        if any(axis.extent == 0 for axis in outer):
            return ()
        if self.across:
            return self.rows_across(outer, inner, weight)
        return self.rows_wide(outer, inner, weight) if self.wide else self.rows_as_lanes(outer, inner, weight)

    def rows_across(self, outer: list[Axis], inner: list[Axis], weight: int) -> Block:
        length = inner[-1].stop
        body: list[Stmt] = list(self.allocs)
        for part in self.passes:
            body += part.header
            if part.kind:
                for acc_states in part.states.values():
                    raise AssertionError(acc_states)
                body += part.body
                continue
            body += self.across_pass(part, inner, length)
        work = product([axis.extent for axis in inner])
        return self.over_rows(outer, tuple(body), weight * work if type(work) is int else None)

    def across_pass(self, part: _Pass, inner: list[Axis], length: Dim) -> Block:
        """One pass over a row in vectors, and its accumulators joined to scalars."""
        block: list[Stmt] = []
        for acc in part.accumulators:
            block += acc.arrays
        steps = _chain(inner, self.lanes * self.vectors)
        if not part.accumulators or all(is_exact(acc.monoid) for acc in part.accumulators) or steps <= CHAIN:
            block += begun(part.accumulators, self.names)
            block += _nested(inner[:-1], self.across_strips(part, inner[-1], 0, length))
            block += joined_vectors(part.accumulators, self.names)
        else:
            block += self.across_blocks(part, inner, length)
        for acc in part.accumulators:
            joined, state = joined_lanes(acc, self.names)
            block += joined
            block += [Let(var.name, x) for var, x in zip(part.states[id(acc.op)], state)]
        return tuple(block)

    def across_blocks(self, part: _Pass, inner: list[Axis], length: Dim) -> Block:
        names = self.names
        size = BLOCK_STEPS * self.lanes * self.vectors
        per_row = ceildiv(length, size)
        count = product([axis.extent for axis in inner[:-1]]) * per_row
        waiting = Waiting.make(part.accumulators, count, 1, names)
        number = names.fresh("block")
        start = symbol(number) * size
        end = names.fresh("end")
        flat: Dim = 0
        for axis in inner[:-1]:
            flat = flat * axis.extent + symbol(axis.var)
        body: Block = (
            Let(end, Index(minimum(start + size, length))),
            *begun(part.accumulators, names),
            *self.across_strips(part, inner[-1], start, symbol(end)),
            *joined_vectors(part.accumulators, names),
            *waiting.push(flat * per_row + symbol(number), 1, names),
        )
        loop = For(number, 0, per_row, 1, "serial", body)
        return (*waiting.allocs(), *_nested(inner[:-1], (loop,)), *waiting.collect(count, 1, names))

    def across_strips(self, part: _Pass, axis: Axis, start: Dim, stop: Dim) -> Block:
        """The elements from start to stop: rounds of whole vectors, then single ones, the last under a mask."""
        lanes, vectors = self.lanes, self.vectors
        u, lane = symbol(self.u), symbol(self.l)
        length = stop - start
        if self.short and type(stop) is int and stop <= lanes * vectors:
            body = moved(part.body, {axis.var: u * lanes + lane})
            full = stop // lanes
            straight = [For(self.u, 0, full, 1, "unrolled", (vector(self.l, lanes, body),))] if full else []
            if stop % lanes:
                end = For(self.l, 0, stop % lanes, 1, "vector", body, lanes)
                straight.append(For(self.u, full, full + 1, 1, "unrolled", (end,)))
            return tuple(straight)
        b = self.names.fresh("b")
        body = moved(part.body, {axis.var: symbol(b) + u * lanes + lane})
        step = lanes * vectors
        main = start + length // step * step
        block: list[Stmt] = []
        if main != start:
            whole = For(self.u, 0, vectors, 1, "unrolled", (vector(self.l, lanes, body),))
            block.append(For(b, start, main, step, "serial", (whole,)))
        if main != stop:
            part_vector = For(self.l, 0, minimum(lanes, stop - symbol(b)), 1, "vector", body, lanes)
            alone = For(self.u, 0, 1, 1, "unrolled", (part_vector,))
            block.append(For(b, main, stop, lanes, "serial", (alone,)))
        return tuple(block)

    def rows_as_lanes(self, outer: list[Axis], inner: list[Axis], weight: int) -> Block:
        """Tiles of neighbouring rows; whole tiles first, then what is left under masks."""
        *around, tiled = outer
        width = tiled.stop
        lanes = self.lanes
        if type(width) is int:
            self.narrow(min(self.vectors, -(-width // lanes)))
        size = lanes * self.vectors
        tile = self.names.fresh("t")
        main = width // size
        block: list[Stmt] = []
        work = product([axis.extent for axis in inner])
        if main != 0:
            place = symbol(tile) * size
            body = self.lanes_program(tiled, place, None, inner)
            loop = For(tile, 0, main, 1, "serial", body)
            if not around and type(work) is int:
                loop = threads.divided(loop, weight * work * size, self.names)
            elif not around:
                loop = For(tile, 0, main, 1, "parallel", body)
            block.append(loop)
        if width % size != 0:
            rest = width - main * size
            if type(rest) is int:
                self.narrow(-(-rest // lanes))
            block += self.lanes_program(tiled, main * size, rest, inner)
        total = work * width
        return self.over_rows(around, tuple(block), weight * total if type(total) is int else None)

    # Many rows side by side, each too long for a tile of them to be read in order: see `columns` in the README.

    def is_wide(self) -> bool:
        """Whether the rows are read a few elements of all of them at a time, their states in memory: where a tile of
        rows in registers would be a narrow strip of a wide array, of which every line is on another page."""
        running = [axis for axis in self.axes if axis.kind == "r"]
        length = product([axis.extent for axis in running])
        if not running or len(self.plan.stages) != 1 or any(self.is_whole(v) for v in self.graph.results):
            return False
        structures = self.plan.structures.values()
        if any(s.combine is None or s.combine.name not in ONE_PART for s in structures):
            return False
        if type(length) is int and length < 2 * GROUP:
            return False
        width = self.axes[-1].extent
        return type(width) is not int or width > self.vectors * self.lanes

    def tile_vectors(self) -> int:
        """Vectors of a tile: long enough to be read like a stream, and with all that waits on the stack."""
        monoids = [s.combine for s in self.plan.structures.values() if s.combine]
        kept = sum([dtype.bytes for monoid in monoids for dtype in monoid.dtypes])
        *others, last = [axis.extent for axis in self.axes if axis.kind == "r"]
        blocks = product([*others, ceildiv(last, WIDE_ROWS)])
        levels = blocks.bit_length() if type(blocks) is int else WIDE_LEVELS
        if all(map(is_exact, monoids)):
            levels = 0
        vectors = max(min(WIDE_BYTES // (kept * self.lanes * (levels + 1)), MOST_VECTORS), 1)
        width = self.axes[-1].extent
        if type(width) is not int:
            return vectors
        all_vectors = -(-width // self.lanes)
        if all_vectors <= vectors:
            return all_vectors
        # Tiles of one size, if there is one that is not much smaller.
        even = [n for n in range(vectors, vectors // 2, -1) if all_vectors % n == 0]
        return even[0] if even else vectors

    def grouped(self, acc: Accumulator, element: Expr) -> Store:
        """An element on its way: a group of them is joined before it meets the state."""
        kept = acc.monoid.dtypes[0]
        array = Alloc(self.names.fresh("part"), kept, (GROUP, self.lanes), "registers")
        self.groups[id(acc.op)] = array
        return Store(array.name, (symbol(self.k), symbol(self.l)), cast(element, kept))

    def rows_wide(self, outer: list[Axis], inner: list[Axis], weight: int) -> Block:
        """Tiles of neighbouring rows, a group of elements of every row at a time."""
        *around, tiled = outer
        size = self.lanes * self.vectors
        tile = self.names.fresh("t")
        start = symbol(tile) * size
        full = type(tiled.stop) is int and tiled.stop % size == 0
        width: Dim = size if full else tiled.stop if self.is_one_tile(tiled) else minimum(size, tiled.stop - start)
        lets: Block = ()
        if type(width) is not int:
            name = self.names.fresh("width")
            lets, width = (Let(name, Index(width)),), symbol(name)
        work = product([axis.extent for axis in inner])
        body = (*lets, *self.wide_tile(tiled, start, width, inner))
        loop = For(tile, 0, ceildiv(tiled.stop, size), 1, "serial", body)
        if not around:
            loop = threads.divided(loop, weight * work * size if type(work) is int else threads.GRAIN, self.names)
        total = work * tiled.stop
        return self.over_rows(around, (loop,), weight * total if type(total) is int else None)

    def is_one_tile(self, tiled: Axis) -> bool:
        return type(tiled.stop) is int and tiled.stop <= self.lanes * self.vectors

    def wide_tile(self, tiled: Axis, start: Dim, width: Dim, inner: list[Axis]) -> Block:
        names, lanes = self.names, self.lanes
        u, lane = symbol(self.u), symbol(self.l)
        first, *rest = self.passes
        accumulators = first.accumulators

        def over_tile(make: Callable[[Dim], Block]) -> Block:
            """Whole vectors, then the last one as far as it goes."""
            whole = For(self.u, 0, width // lanes, 1, "serial", make(lanes))
            last = make(minimum(lanes, width - u * lanes))
            part = For(self.u, width // lanes, ceildiv(width, lanes), 1, "serial", last)
            return tuple([loop for loop in (whole, part) if loop.start != loop.stop])

        *others, last = inner

        def group(elements: int, base: Dim) -> Callable[[Dim], Block]:
            body = moved(first.body, {tiled.var: start + u * lanes + lane, last.var: base + symbol(self.k)})

            def make(stop: Dim) -> Block:
                read = For(self.l, 0, stop, 1, "vector", body, lanes)
                joins: list[Stmt] = []
                for acc in accumulators:
                    part = self.groups[id(acc.op)]
                    states: list[State] = [(Load(part.name, (k, lane), part.dtype),) for k in range(elements)]
                    state = merged_states(acc.monoid, acc.at(u, lane), tree(acc.monoid, states))
                    joins += acc.set(u, lane, state, names)
                join = For(self.l, 0, stop, 1, "vector", tuple(joins), lanes)
                return (*first.header, *self.groups.values(), For(self.k, 0, elements, 1, "unrolled", (read,)), join)

            return make

        def chain(begin: Dim, end: Dim) -> Block:
            base = names.fresh("b")
            main = begin + (end - begin) // GROUP * GROUP
            loops = [For(base, begin, main, GROUP, "serial", over_tile(group(GROUP, symbol(base))))]
            if main != end:
                loops.append(For(base, main, end, 1, "serial", over_tile(group(1, symbol(base)))))
            return tuple([loop for loop in loops if loop.start != loop.stop])

        block: list[Stmt] = [*self.allocs, *[array for acc in accumulators for array in acc.arrays]]
        steps = _chain(inner, GROUP)
        if steps <= CHAIN or all(is_exact(acc.monoid) for acc in accumulators):
            block += [*begun(accumulators, names, "serial"), *_nested(others, chain(0, last.stop))]
        else:
            per_row = ceildiv(last.stop, WIDE_ROWS)
            count = product([axis.extent for axis in others]) * per_row
            waiting = Waiting.make(accumulators, count, self.vectors, names, WIDE_LEVELS, "serial")
            number = names.fresh("block")
            end = names.fresh("end")
            flat: Dim = 0
            for axis in others:
                flat = flat * axis.extent + symbol(axis.var)
            begin = symbol(number) * WIDE_ROWS
            blocked: Block = (
                Let(end, Index(minimum(begin + WIDE_ROWS, last.stop))),
                *begun(accumulators, names, "serial"),
                *chain(begin, symbol(end)),
                *waiting.push(flat * per_row + symbol(number), self.vectors, names),
            )
            loop = For(number, 0, per_row, 1, "serial", blocked)
            block += [*waiting.allocs(), *_nested(others, (loop,)), *waiting.collect(count, self.vectors, names)]
        ends = [moved(part.body, {tiled.var: start + u * lanes + lane}) for part in rest]
        headers = [stmt for part in rest for stmt in part.header]
        block += over_tile(
            lambda stop: (*headers, For(self.l, 0, stop, 1, "vector", tuple(itertools.chain(*ends)), lanes))
        )
        return tuple(block)

    def narrow(self, vectors: int) -> None:
        """Fewer vectors at a time from here on."""
        if vectors == self.vectors:
            return
        self.vectors = vectors
        self.allocs = [
            Alloc(a.name, a.dtype, (vectors, self.lanes), a.memory) if a.memory == "registers" else a
            for a in self.allocs
        ]
        for part in self.passes:
            part.accumulators = tuple(
                [
                    Accumulator(
                        acc.op,
                        acc.structure,
                        acc.monoid,
                        tuple([Alloc(a.name, a.dtype, (vectors, self.lanes), a.memory) for a in acc.arrays]),
                        vectors,
                        self.lanes,
                    )
                    for acc in part.accumulators
                ]
            )

    def lanes_program(self, tiled: Axis, start: Dim, rest: Dim | None, inner: list[Axis]) -> Block:
        """All passes over one tile of rows, of which there are `rest`, or as many as fit."""
        names, lanes, vectors = self.names, self.lanes, self.vectors
        u, lane = symbol(self.u), symbol(self.l)
        stop = lanes if rest is None else minimum(lanes, rest - u * lanes)
        block: list[Stmt] = list(self.allocs)

        def wide(body: Block) -> For:
            return For(self.u, 0, vectors, 1, "unrolled", (For(self.l, 0, stop, 1, "vector", body, lanes),))

        for part in self.passes:
            body = moved(part.body, {tiled.var: start + u * lanes + lane})
            block += part.header
            if part.kind:
                block.append(wide(body))
                continue
            for acc in part.accumulators:
                block += acc.arrays
            exact = all(is_exact(acc.monoid) for acc in part.accumulators)
            steps = _chain(inner, 1)
            if exact or steps <= CHAIN or not inner:
                block += begun(part.accumulators, names)
                block += _nested(inner, (wide(body),))
                continue
            *around, last = inner
            per_row = ceildiv(last.stop, CHAIN)
            count = product([axis.extent for axis in around]) * per_row
            waiting = Waiting.make(part.accumulators, count, vectors, names)
            number = names.fresh("block")
            flat: Dim = 0
            for axis in around:
                flat = flat * axis.extent + symbol(axis.var)
            begin = symbol(number) * CHAIN
            chain = For(last.var, begin, minimum(begin + CHAIN, last.stop), 1, "serial", (wide(body),))
            blocked: Block = (
                *begun(part.accumulators, names),
                chain,
                *waiting.push(flat * per_row + symbol(number), vectors, names),
            )
            loop = For(number, 0, per_row, 1, "serial", blocked)
            block += [*waiting.allocs(), *_nested(around, (loop,)), *waiting.collect(count, vectors, names)]
        return tuple(block)

    def over_rows(self, outer: list[Axis], body: Block, weight: int | None) -> Block:
        """The body for every row, divided among threads along the outermost axis."""
        if not outer:
            return body
        for axis in reversed(outer[1:]):
            body = (For(axis.var, axis.start, axis.stop, 1, "serial", body),)
            weight = weight * axis.extent if weight is not None and type(axis.extent) is int else None
        first = outer[0]
        loop = For(first.var, first.start, first.stop, 1, "serial", body)
        return (threads.divided(loop, threads.GRAIN if weight is None else max(weight, 1), self.names),)


@dataclass
class _Pass:
    """A pass over a row (kind ""), or what is done once per row between and after them."""

    accumulators: tuple[Accumulator, ...]
    body: Block
    header: Block
    kind: str = ""
    states: dict[int, list[Var]] = field(default_factory=dict)


def _letters(kinds: tuple[str, ...]) -> list[str]:
    """Names for the axes: i, j, k ... count rows, r, s, t ... run along them."""
    counting, running = itertools.cycle("ijkmn"), itertools.cycle("rs")
    return [next(counting) if kind == "p" else next(running) for kind in kinds]


def _vector_last(axes: list[Axis], found: Plan) -> list[Axis]:
    """The axes of a reduction that reads at other positions than its own (a window, a product of matrices), ordered so
    that the last makes the best vectors: that along which the fewest reads jump."""
    counting = [axis for axis in axes if axis.kind == "p"]
    running = [axis for axis in axes if axis.kind == "r"]
    if not counting or not running:
        return [*counting, *running]
    jumps = {"p": 0, "r": 0}
    for structure in found.structures.values():
        longs = [axis for axis in structure.axes if axis.extent != 1]
        for kind in jumps:
            last = [axis.name for axis in longs if axis.kind[0] == kind][-1]
            for read in structure.reads:
                moving = [place for place, dim in enumerate(read.index) if last in names_of(dim)]
                at_end = moving == [len(read.index) - 1] and coefficient(read.index[-1], last) in (1, -1)
                jumps[kind] += bool(moving) and not (at_end and not any(d > 1 for d in read.divisors))
    if jumps["r"] < jumps["p"]:
        return [*counting, *running]
    return [*counting[:-1], *running, counting[-1]]


def _chain(inner: Sequence[Axis], size: int) -> float:
    """How many elements one lane would add if all were one chain; infinite where that is not known."""
    steps: float = 1
    for axis in inner[:-1]:
        steps *= axis.extent if type(axis.extent) is int else float("inf")
    if inner:
        last = inner[-1].extent
        steps *= (-(-last // size) + (last % size + size - 1) // size) if type(last) is int else float("inf")
    return steps


def _nested(axes: Sequence[Axis], body: Block) -> Block:
    for axis in reversed(axes):
        body = (For(axis.var, axis.start, axis.stop, 1, "serial", body),)
    return body


def _is_dear(value: Value) -> bool:
    """Whether one element takes a smooth function."""
    return isinstance(value, Elementwise) and value.name in _MATH
