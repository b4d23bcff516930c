"""Structure to naive nest, once for all structured ops; and the specification of a kernel.

The specification is the sequence of the members' naive nests, each writing an array of its own: one loop per axis, one
element at a time, reductions from the identity in the order of their axes. It is slow and plainly right, and every
fast kernel is compared with it. Its arrays are on the stack whatever their size: it is meant to be evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

from ...ir.classes import dataclass
from ...ir.dims import Dim, product, symbol
from ...ir.dtypes import DType
from ...ir.errors import Unsupported
from ...ir.graph import Graph
from ...ir.loops.affine import NO_LOOPS, Ranges, linearize
from ...ir.loops.build import substitute_expr, walk_expr
from ...ir.loops.nodes import Alloc, Expr, For, Kernel, Load, Param, Stmt, Store, Var
from ...ir.program import KernelDef
from ...ir.structure import Axis, Monoid, Structure
from ...ir.types import Shape
from ...ir.value import After, Constant, Full, Get, Parameter, Value
from .compose import NO_RULES, Composer, Guard, Leaf, Position, Rule, Source, read_steps

Block: TypeAlias = tuple[Stmt, ...]
_LETTERS: Final = "ijklmn"
_ONCE: Final = ("sum", "prod", "max", "min", "any", "all")  # monoids whose step reads its element once


@dataclass(frozen=True)
class Place:
    """Where a value lies: in a one-dimensional buffer, its elements in row-major order from `base` on."""

    buffer: str
    dtype: DType
    shape: Shape
    base: Dim = 0

    def load(self, position: Position) -> Load:
        return Load(self.buffer, (self.base + linearize(position, self.shape),), self.dtype)

    def store(self, position: Position, value: Expr) -> Store:
        return Store(self.buffer, (self.base + linearize(position, self.shape),), value)

    def row(self, number: Dim) -> Place:
        """One position of the first axis."""
        shape = self.shape[1:]
        return Place(self.buffer, self.dtype, shape, self.base + number * product(shape))

    def flat(self) -> Place:
        """The same elements along one axis."""
        return replace(self, shape=(product(self.shape),))

    def leaf(self, composer: Composer) -> Leaf:
        """How a composer reads it."""
        buffer = Param(self.buffer, self.dtype, (), "in")

        def read(position: Position, guard: Guard) -> Expr:
            return composer.read(buffer, self.shape, position, guard, self.base)

        return read


# The naive statements of an op that has no structure. It stores its results at `nests.places[id(op)]`, which it sets.
NestRule: TypeAlias = Callable[[Any, "Nests"], Block]
NO_NESTS: Final[Mapping[type, NestRule]] = {}


class Nests:
    """The naive nests of a graph's values, in order. Rules for ops without a structure get this object: `place` says
    where an operand lies, `room` makes an array, `graph` lowers a closed body onto given places."""

    def __init__(
        self, source: Source, rules: Mapping[type, Rule] = NO_RULES, nests: Mapping[type, NestRule] = NO_NESTS
    ) -> None:
        self.source = source
        self.names = source.names
        self.rules = rules
        self.nests = nests
        self.places: dict[int, tuple[Place, ...]] = {}
        self.allocs: list[Alloc] = []

    def place(self, value: Value) -> Place:
        """Where a tensor lies that was computed or given."""
        return self.places[id(value)][0]

    def room(self, dtype: DType, shape: Shape, name: str = "t") -> Place:
        """A new array."""
        fresh = self.names.fresh(name)
        self.allocs.append(Alloc(fresh, dtype, (product(shape),), "stack"))
        return Place(fresh, dtype, shape)

    def rooms(self, op: Value) -> tuple[Place, ...]:
        """New arrays for the results of an op, which is where they will lie."""
        kinds = op.tensors
        self.places[id(op)] = tuple([self.room(kind.dtype, kind.shape) for kind in kinds])
        return self.places[id(op)]

    def located(self, value: Value, block: list[Stmt]) -> Place:
        """Where a tensor lies; what is otherwise computed where it is read is written to an array of its own first."""
        if id(value) not in self.places:
            block.extend(self.map(value, self.rooms(value)[0]))
        return self.place(value)

    def composer(self, op: Value | None = None, ranges: Ranges = NO_LOOPS) -> Composer:
        """One to which everything computed so far, the op itself excepted, is an array."""
        composer = Composer(self.source, ranges=ranges, rules=self.rules)
        operands = op.operands if op is not None else ()
        for operand in operands:
            if id(operand) in self.places:
                composer.leaves[id(operand)] = self.place(operand).leaf(composer)
        return composer

    def graph(self, graph: Graph, args: Sequence[Place]) -> tuple[Block, tuple[Place, ...]]:
        """The nests of a closed graph on operands that lie at `args`, and where its results lie."""
        for param, place in zip(graph.params, args, strict=True):
            self.places[id(param)] = (place,)
        block: list[Stmt] = []
        for value in graph.ops:
            block.extend(self.value(value))
        results = tuple([self.located(result, block) for result in graph.results])
        return tuple(block), results

    def value(self, op: Value) -> Block:
        """The nest of one op."""
        if isinstance(op, Parameter | Full | Constant):
            return ()  # computed where they are read
        for cls, rule in self.nests.items():
            if isinstance(op, cls):
                return rule(op, self)
        if isinstance(op, Get):
            self.places[id(op)] = (self.places[id(op.x)][op.index],)
            return ()
        if isinstance(op, After) and id(op.x) in self.places:
            self.places[id(op)] = self.places[id(op.x)]
            return ()
        structure = op.structure()
        if structure is None or structure.combine is None:
            if structure is None and not isinstance(op, tuple(self.rules)):
                raise Unsupported(f"{op.name} has no loops", code="TD0430", location=op.location)
            return self.map(op, self.rooms(op)[0])
        return self.combined(op, structure, structure.combine, self.rooms(op)[0])

    def map(self, op: Value, target: Place) -> Block:
        """One loop per axis, one element at a time."""
        variables = [self.names.fresh(_LETTERS[i % len(_LETTERS)]) for i in range(len(target.shape))]
        position = tuple(map(symbol, variables))
        composer = self.composer(op, {name: (0, extent) for name, extent in zip(variables, target.shape)})
        value = composer.at(op, position)
        return looped(variables, target.shape, (*composer.header, *composer.out, target.store(position, value)))

    def combined(self, op: Value, structure: Structure, monoid: Monoid, target: Place) -> Block:
        """Parallel axes outside, then the axis of a scan, then the reduced ones: the state starts from the identity."""
        outer = [axis for axis in structure.axes if axis.kind == "parallel"]
        inner = [axis for axis in structure.axes if axis.kind != "parallel"]
        names = {axis.name: self.names.fresh(axis.name) for axis in structure.axes}
        at = {axis.name: _position(axis, names[axis.name]) for axis in structure.axes}
        ranges: dict[str, tuple[Dim, Dim]] = {names[axis.name]: (0, axis.extent) for axis in structure.axes}
        composer = self.composer(op, ranges)
        element = composed(composer, op, structure, at)
        states = [Alloc(self.names.fresh("s"), kept, (), "registers") for kept in monoid.dtypes]
        state = tuple([Load(alloc.name, (), alloc.dtype) for alloc in states])
        # All parts of the new state are computed from the old one.
        news = [composer.bind(x) for x in monoid.step(state, element)]
        step: Block = (*composer.header, *composer.out, *stored(states, news))
        begin: Block = (*states, *stored(states, monoid.identity))
        where = tuple([at[axis.name] for axis in structure.axes if axis.kind != "reduce"])
        finish = target.store(where, monoid.finish(state))
        if any(axis.kind == "scan" for axis in inner):
            body = (*begin, *looped([names[a.name] for a in inner], [a.extent for a in inner], (*step, finish)))
        else:
            body = (*begin, *looped([names[a.name] for a in inner], [a.extent for a in inner], step), finish)
        return looped([names[axis.name] for axis in outer], [axis.extent for axis in outer], body)


def _position(axis: Axis, name: str) -> Dim:
    return axis.extent - 1 - symbol(name) if axis.reverse else symbol(name)


def composed(composer: Composer, op: Value, structure: Structure, at: Mapping[str, Dim]) -> tuple[Expr, ...]:
    """The body of a structure whose axes stand at the given positions: what its monoid takes as an element."""
    values: dict[str, Dim | Expr] = dict(at)
    simple = structure.combine is None or structure.combine.name in _ONCE
    used = [x.name for x in walk_expr(*structure.body) if isinstance(x, Var)]
    for number, read in enumerate(structure.reads):
        name = f"r{number}"
        element = composer.run(read_steps(op.operands[read.operand], read, at, (), composer))
        # A product that is added once is left in place, where it becomes part of a multiply-add.
        once = simple and used.count(name) == 1 and structure.fault is None
        values[name] = element if once else composer.bind(element)
    if structure.fault is not None:
        composer.fail(op, substitute_expr(structure.fault, values), ())
    return tuple([substitute_expr(x, values) for x in structure.body])


def stored(states: Sequence[Alloc], values: Sequence[Expr], index: tuple[Dim, ...] = ()) -> Block:
    """The parts of a state written to their registers."""
    return tuple([Store(alloc.name, index, value) for alloc, value in zip(states, values, strict=True)])


def looped(variables: Sequence[str], extents: Sequence[Dim], body: Block) -> Block:
    """The body in one serial loop per variable, the first outermost."""
    for name, extent in zip(reversed(variables), reversed(extents)):
        body = (For(name, 0, extent, 1, "serial", body),)
    return body


def specification(definition: KernelDef) -> Kernel:
    """The kernel as its members' naive nests in sequence. Results are written after everything is computed, so that an
    updated operand is read before it is overwritten."""
    from . import nest_rules, rules

    source = Source(definition)
    nests = Nests(source, rules(), nest_rules())
    graph = source.graph
    given = [Place(source.buffer_of[id(p)].name, p.dtype, p.shape) for p in graph.params]
    body, results = nests.graph(graph, given)
    if definition.updates:
        # An operand that is passed on as a result may be overwritten before it is.
        kept: list[Place] = []
        for place in results:
            fresh = nests.room(place.dtype, place.shape)
            body += copied(nests, place, fresh)
            kept.append(fresh)
        results = tuple(kept)
    for place, out in zip(results, source.outs, strict=True):
        body += copied(nests, place, Place(out.name, out.dtype, place.shape))
    tables = tuple(source.tables.values())
    return Kernel(definition.name, tuple(source.params), source.dims, (*nests.allocs, *body), tables)


def copied(nests: Nests, source: Place, target: Place) -> Block:
    """Every element of one array stored to another, in order."""
    name = nests.names.fresh("i")
    at = (symbol(name),)
    value = source.flat().load(at)
    return looped([name], (product(source.shape),), (target.flat().store(at, value),))
