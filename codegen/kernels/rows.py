"""Programs over rows: recognizing them, and composing their passes.

A group is such a program when its reductions go along the same axes of one space and everything else is a map of that
space or of what is left of it (`plan`). It runs in passes over a row: pass k computes the reductions that need the
results of pass k - 1, and what the group yields for whole rows as soon as it can. A value that is dear to compute and
needed by several passes is kept in a buffer of one row.

`Program` composes the passes in terms of the space's axes; how rows lie in the lanes of vectors is for the two files
that finish it: across a row (`softmax.py`), or many rows side by side (`columns.py`).
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import field
from typing import Final, TypeAlias

from ...ir.classes import dataclass
from ...ir.dims import Dim, known_equal, product, symbol
from ...ir.dims import names as names_of
from ...ir.graph import Graph
from ...ir.loops.affine import coefficient, linearize
from ...ir.loops.build import all_exprs, walk
from ...ir.loops.nodes import MATH, MATH_BINARY, Alloc, Expr, For, Kernel, Load, Memory, Param, Stmt, Store, Var
from ...ir.ops.families import Contraction, Movement
from ...ir.ops.movement import Broadcast, Copy, Reshape
from ...ir.program import KernelDef
from ...ir.structure import State, Structure
from ...ir.target import Target
from ...ir.types import Shape
from ...ir.value import After, Elementwise, Value
from .. import simd, threads
from ..lower import rules
from ..lower.compose import Composer, Guard, Lanes, Leaf, Position, Source
from ..lower.structured import composed
from ..schedule import Axis, merged
from ..tidy import numerics
from .elementwise import hazard, is_map
from .reduce import Accumulator

Block: TypeAlias = tuple[Stmt, ...]

FREE, REDUCED, ROW = 0, 1, 2  # a value needs no reduction; is one number per row; is a whole row
KEPT_BYTES: Final = 16 << 10  # of a row that is kept: with the row itself it stays in the first cache
_MATH: Final = frozenset((*MATH, *MATH_BINARY))


# --- recognizing ------------------------------------------------------------------------------------------------------


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
            if isinstance(value, Contraction) and any(operand.operands for operand in value.operands):
                return None  # they would be computed again for every product
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


def is_kept(value: Value, found: Plan) -> bool:
    """Whether a value has the shape of what is left of the rows."""
    return _same(_long(value.shape), found.kept)


def _long(shape: Shape) -> tuple[Dim, ...]:
    return tuple([extent for extent in shape if extent != 1])


def _same(a: Sequence[Dim], b: Sequence[Dim]) -> bool:
    return len(a) == len(b) and all(known_equal(x, y) for x, y in zip(a, b))


def _is_plain(structure: Structure) -> bool:
    here = tuple([axis.position for axis in structure.axes])
    return all(read.index == here and not read.divisors and read.fill is None for read in structure.reads)


# --- composing --------------------------------------------------------------------------------------------------------


@dataclass
class Pass:
    """A pass over a row, or what is done once per row between and after the passes (`once`). `states` names the scalars
    to which the accumulators of each op come down."""

    accumulators: tuple[Accumulator, ...]
    body: Block
    header: Block
    once: bool = False
    states: dict[int, tuple[Var, ...]] = field(default_factory=dict)


class Program(ABC):
    """The passes of a group, composed over the space's axes `axes`; `u` and `l` are the vector and the lane."""

    memory: Memory = "registers"  # where the states of a row are while it is read

    def __init__(self, definition: KernelDef, found: Plan, target: Target) -> None:
        self.source = Source(definition)
        self.graph = definition.graph
        self.names = self.source.names
        self.plan = found
        self.target = target
        self.of_structure = [
            Axis(self.names.fresh(letter), 0, extent, kind)
            for letter, extent, kind in zip(_letters(found.kinds), found.extents, found.kinds)
        ]
        # Where everything is of size 1, there is a row of one element.
        self.axes = in_order_of_lanes(self.of_structure, found) or [Axis(self.names.fresh("r"), 0, 1, "r")]
        self.running = [axis for axis in self.axes if axis.kind == "r"]
        self.u, self.l = self.names.fresh("u"), self.names.fresh("l")
        self.lanes = lanes_for(found, self.graph, self.axes[-1].extent)
        self.vectors = 1
        self.leaves: dict[int, Leaf] = {}
        self.allocs: list[Alloc] = []  # register arrays and kept rows, made anew for every row
        self.passes: list[Pass] = []
        self.rows: dict[int, Load] = {}  # where the values that are kept are, by id
        self.lent: list[str] = []  # results whose rows keep something until they are written

    # What the ways of laying rows into lanes differ in.

    @abstractmethod
    def is_vector(self, once: bool) -> bool:
        """Whether a pass, or what is done once per row, stands in a vector loop."""

    @abstractmethod
    def keep_number(self, value: Value, number: Expr, block: list[Stmt]) -> Expr:
        """What reads a number per row from here on; statements that keep it are appended to `block`."""

    @abstractmethod
    def finish(self, acc: Accumulator, part: Pass) -> Expr:
        """What is left of a row, in terms of its state after the pass."""

    @abstractmethod
    def row_buffer(self, value: Value) -> Load | None:
        """A place for a row of the value, if there is one that is near."""

    @abstractmethod
    def loops(self, outer: list[Axis], inner: list[Axis], weight: int) -> Block:
        """The passes in loops over the rows (`outer`) and along them (`inner`)."""

    def accumulate(self, acc: Accumulator, element: State) -> Block:
        """One element on its way into the state."""
        return acc.step(symbol(self.u), symbol(self.l), element, self.names)

    # Positions.

    def position(self, shape: Shape, whole: bool) -> Position:
        """Where an element of a row, or the number of a row, stands in an array of `shape`."""
        axes = iter([axis for axis in self.axes if whole or axis.kind == "p"])
        return tuple([0 if extent == 1 else symbol(next(axes).var) for extent in shape])

    def composer(self, once: bool = False) -> Composer:
        ranges = {axis.var: (axis.start, axis.stop) for axis in self.axes}
        lanes = Lanes(self.l, self.lanes) if self.is_vector(once) else None
        return Composer(self.source, self.leaves, ranges, lanes, rules())

    def at(self, value: Value, composer: Composer) -> Expr:
        return composer.at(value, self.position(value.shape, self.is_whole(value)))

    def is_whole(self, value: Value) -> bool:
        """Whether the value has an element for every element of the rows, and not one number for each row."""
        tag = self.plan.tags[id(value)]
        return tag == ROW or (tag == FREE and not is_kept(value, self.plan))

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
        blocks = numerics(self.target, *[part.body for part in self.passes])
        axes, blocks = merged(self.axes, blocks)
        for part, block in zip(self.passes, blocks):
            part.body = block
        outer = [axis for axis in axes if axis.kind == "p"]
        inner = [axis for axis in axes if axis.kind == "r"]
        weight = sum([simd.weigh(part.body).total for part in self.passes])
        body = () if any(axis.extent == 0 for axis in outer) else self.loops(outer, inner, weight)
        source = self.source
        tables = tuple(source.tables.values())
        return Kernel(source.definition.name, tuple(source.params), source.dims, body, tables)

    def write(self) -> None:
        """Compose all passes, in terms of the space's axes."""
        self.choose_kept()
        results = list(zip(self.graph.results, self.source.outs))
        last = len(self.plan.stages)
        for number in range(last + 1):
            reductions = self.plan.stages[number] if number < last else []
            stores = [(v, out) for v, out in results if self.is_whole(v) and self.due(v, out) == number]
            if reductions or stores:
                self.write_pass(number, reductions, stores)
        ends = [(value, out) for value, out in results if not self.is_whole(value)]
        if ends:
            composer = self.composer(once=True)
            exprs = [(value, out, self.at(value, composer)) for value, out in ends]
            block = [
                Store(out.name, (composer.offset(self.position(value.shape, False), value.shape),), x)
                for value, out, x in exprs
            ]
            self.passes.append(Pass((), (*composer.out, *block), tuple(composer.header), True))

    def due(self, value: Value, out: Param) -> int:
        """The pass that writes a whole result. What overwrites an operand waits until nobody reads it any more."""
        return len(self.plan.stages) if out.role == "inout" else self.plan.stage[id(value)]

    def write_pass(self, number: int, reductions: list[Value], stores: list[tuple[Value, Param]]) -> None:
        composer = self.composer()
        block: list[Stmt] = []
        accumulators = []
        for value in self.kept:
            if self.needed[id(value)] >> number & 1:
                self.read_or_keep(value, composer)
        for op in reductions:
            structure = self.plan.structures[id(op)]
            acc = Accumulator.make(op, structure, self.vectors, self.lanes, self.names, self.memory)
            accumulators.append(acc)
            axes = iter(self.of_structure)
            at = {axis.name: 0 if axis.extent == 1 else symbol(next(axes).var) for axis in structure.axes}
            block += self.accumulate(acc, composed(composer, op, structure, at))
        for value, out in stores:
            place = composer.offset(self.position(value.shape, True), value.shape)
            stream = out.name not in self.lent and simd.streams(out, self.target)
            block.append(Store(out.name, (place,), self.at(value, composer), stream))
        part = Pass(tuple(accumulators), (*composer.out, *block), tuple(composer.header))
        self.passes.append(part)
        if reductions:
            self.write_between(number, part)

    def write_between(self, number: int, part: Pass) -> None:
        """What is left of each row, and what is made of that before the rows are seen again."""
        composer = self.composer(once=True)
        block: list[Stmt] = []
        for acc in part.accumulators:
            self.leaf(acc.op, False, self.keep_number(acc.op, self.finish(acc, part), block))
        tags, stage = self.plan.tags, self.plan.stage
        read = {id(x): None for reader in self.graph.ops if tags[id(reader)] == ROW for x in reader.operands}
        for value in self.graph.ops:
            here = tags[id(value)] == REDUCED and stage[id(value)] == number + 1
            if here and id(value) not in self.plan.structures and id(value) in read:
                composer.leaves.update(self.leaves)
                expr = self.at(value, composer)
                block += composer.out
                composer.out.clear()
                self.leaf(value, False, self.keep_number(value, expr, block))
        self.passes.append(Pass((), tuple(block), tuple(composer.header), True))

    # Rows that are kept.

    def read_or_keep(self, value: Value, composer: Composer) -> None:
        """A value of `kept` at the beginning of a pass that needs it: computed and kept the first time, then read."""
        key = (id(value), self.position(value.shape, True), ())
        row = self.rows.get(id(value))
        if row is not None:
            # By a name: what lent its row may be overwritten before the end of the pass.
            composer.memo[key] = composer.bind(row)
            return
        x = composer.memo[key] = composer.bind(self.at(value, composer))
        row = self.row_buffer(value) or self.lent_row(value)
        if row is not None:
            composer.out.append(Store(row.buffer, row.index, x))
            self.rows[id(value)] = row

    def lent_row(self, value: Value) -> Load | None:
        """The row of a result that is written only when the value is needed no more."""
        last = self.needed[id(value)].bit_length() - 1
        for result, out in zip(self.graph.results, self.source.outs):
            free = out.role == "out" and out.name not in self.lent and out.dtype is value.dtype
            if free and self.is_whole(result) and self.due(result, out) >= last:
                self.lent.append(out.name)
                return Load(out.name, (linearize(self.position(result.shape, True), result.shape),), value.dtype)
        return None

    def row_place(self) -> tuple[Dim, Dim]:
        """An element's number in its row, and how many there are."""
        extents = [axis.extent for axis in self.running]
        return linearize([symbol(axis.var) for axis in self.running], extents), product(extents)

    def stack_row(self, value: Value, place: Dim, length: Dim) -> Load | None:
        """A buffer of that length, if it is short enough to stay near."""
        if type(length) is not int or length * value.dtype.bytes > KEPT_BYTES:
            return None
        array = Alloc(self.names.fresh("row"), value.dtype, (length,), "stack")
        self.allocs.append(array)
        return Load(array.name, (place,), value.dtype)

    def choose_kept(self) -> None:
        """Which values of whole rows several passes need and are too dear to compute twice. `needed` has a bit for
        every pass that needs a value; of a chain the last value is kept that all those passes need."""
        self.needed: dict[int, int] = {}
        self.kept: list[Value] = []
        roots: dict[int, None] = {}
        for number, ops in enumerate(self.plan.stages):
            for op in ops:
                for operand in op.operands:
                    self.needed[id(operand)] = self.needed.get(id(operand), 0) | 1 << number
                    roots[id(operand)] = None
        for value, out in zip(self.graph.results, self.source.outs):
            if self.is_whole(value):
                self.needed[id(value)] = self.needed.get(id(value), 0) | 1 << self.due(value, out)
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
            dear[id(value)] = is_dear(value) or any(dear.get(id(operand), False) for operand in value.operands)
            passes = self.needed.get(id(value), 0)
            ends = id(value) in roots or any(
                self.needed.get(id(reader), 0) != passes for reader in readers.get(id(value), ())
            )
            if dear[id(value)] and passes & (passes - 1) and ends:
                self.kept.append(value)
                dear[id(value)] = False

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


def lanes_for(found: Plan, graph: Graph, extent: Dim) -> int:
    """Lanes of a program whose innermost axis has that extent."""
    states = [structure.combine.dtypes[0] for structure in found.structures.values() if structure.combine]
    values = [v.operands[0].dtype if id(v) in found.structures else v.dtype for v in graph.order]
    lanes = simd.lanes_of((*values, *states))
    return simd.power_above(max(extent, 1)) if type(extent) is int and extent < lanes else lanes


def in_order_of_lanes(axes: list[Axis], found: Plan) -> list[Axis]:
    """The axes as they are nested, the last one in the lanes."""
    return axes if found.plain else _vector_last(axes, found)


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


def chain_of(inner: Sequence[Axis], size: int) -> float:
    """How many elements one lane would add if all were one chain; infinite where that is not known."""
    steps: float = 1
    for axis in inner[:-1]:
        steps *= axis.extent if type(axis.extent) is int else float("inf")
    if inner:
        last = inner[-1].extent
        steps *= (-(-last // size) + (last % size + size - 1) // size) if type(last) is int else float("inf")
    return steps


def nested(axes: Sequence[Axis], body: Block) -> Block:
    for axis in reversed(axes):
        body = (For(axis.var, axis.start, axis.stop, 1, "serial", body),)
    return body


def is_dear(value: Value) -> bool:
    """Whether one element takes a smooth function."""
    return isinstance(value, Elementwise) and value.name in _MATH
