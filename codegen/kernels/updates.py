"""Results that are an operand with a part of it written anew: scatters and dynamic updates, with the maps around them.

Where the operand is passed as what the result overwrites, only the new part is written; else it is copied first. The
updates of a scatter are taken one after the other, since they may meet in one place; batches are independent of each
other and go to threads, and what stands along a slice goes to vectors.
"""

from __future__ import annotations

from typing import TypeAlias

from ...ir.dims import product, symbol
from ...ir.graph import Graph
from ...ir.loops.nodes import For, If, Kernel, Load, Param, Stmt, Store
from ...ir.ops.indexing import DynamicUpdate, Scatter
from ...ir.program import KernelDef
from ...ir.target import Target
from ...ir.value import Parameter, Value
from .. import simd, threads
from ..lower import rules
from ..lower.compose import Composer, Position, Source
from ..lower.indexing import combined, corner, located, placed
from ..tidy import numerics
from .elementwise import LETTERS, Write, hazard, is_map, refuse_hazards, space, stores

Block: TypeAlias = tuple[Stmt, ...]


def takes(graph: Graph, target: Target) -> bool:
    """Whether some results are updates that nothing else reads, and everything else are maps."""
    last = {id(value) for value in graph.results if is_update(value)}
    if not last or any(id(operand) in last for value in graph.ops for operand in value.operands):
        return False
    return all(id(value) in last or is_map(value) for value in graph.ops)


def is_update(value: Value) -> bool:
    return isinstance(value, DynamicUpdate | Scatter)


def updates(definition: KernelDef, target: Target) -> Kernel:
    """The kernel of such a graph."""
    source = Source(definition)
    refuse_rereads(source)
    blocks: list[Block] = []
    scatters: list[Block] = []
    for value, out in zip(source.graph.results, source.outs):
        if not isinstance(value, DynamicUpdate | Scatter):
            blocks.append(space(source, value.shape, stores(value.shape, [(value, out)], target), target))
            continue
        if not overwrites(source, value, out):
            blocks.append(space(source, value.shape, stores(value.shape, [(value.x, out)], target), target))
        if isinstance(value, DynamicUpdate):
            blocks.append(space(source, value.update.shape, block_of(value, out), target))
        else:
            scatters.append(scattered(source, value, out, target))
    refuse_hazards(source, blocks)
    body = tuple([stmt for block in (*blocks, *scatters) for stmt in block])
    return Kernel(definition.name, tuple(source.params), source.dims, body, tuple(source.tables.values()))


def overwrites(source: Source, op: DynamicUpdate | Scatter, out: Param) -> bool:
    """Whether the result lies where the operand does."""
    return isinstance(op.x, Parameter) and source.buffer_of[id(op.x)] is out


def refuse_rereads(source: Source) -> None:
    """TD0433 where an operand that a scatter overwrites is read by anything else: its places are not known."""
    for value, out in zip(source.graph.results, source.outs):
        if out.role == "inout" and isinstance(value, Scatter):
            reads = sum(operand is value.x for other in source.graph.ops for operand in other.operands)
            if not overwrites(source, value, out) or reads > 1 or value.x in source.graph.results:
                raise hazard(source, out)


def block_of(op: DynamicUpdate, out: Param) -> Write:
    """The block, written where it belongs."""

    def write(composer: Composer, position: Position) -> None:
        begin = corner(op, [composer.at(start, ()) for start in op.starts], op.update.shape, composer)
        value = composer.at(op.update, position)
        at = composer.offset(tuple([a + b for a, b in zip(begin, position)]), op.shape)
        composer.out.append(Store(out.name, (at,), value))

    return write


def scattered(source: Source, op: Scatter, out: Param, target: Target) -> Block:
    """The updates in the order of their indices."""
    shape = op.indices[0].shape
    slices = op.updates.shape[len(shape) :]
    if any(extent == 0 for extent in op.updates.shape):
        return ()
    if op.unique and product(slices) == 1:
        return space(source, op.updates.shape, each(op, out), target)
    variables = [source.names.fresh(LETTERS[i % len(LETTERS)]) for i in range(len(shape))]
    at = tuple(map(symbol, variables))
    composer = Composer(source, ranges={name: (0, n) for name, n in zip(variables, shape)}, rules=rules())
    places = located(op, [composer.at(index, at) for index in op.indices], at, (), composer)

    def write(inner: Composer, rest: Position) -> None:
        new = inner.at(op.updates, (*at, *rest))
        where = inner.offset(placed(op, at, places.at, rest), op.shape)
        old = Load(out.name, (where,), out.dtype)
        inner.out.append(Store(out.name, (where,), combined(op.combine, old, new)))

    (outer,) = numerics(target, tuple(composer.out))
    one = () if places.nowhere else space(source, slices, write, target, composer.ranges)
    block: Block = (*composer.header, *outer, *(one if places.inside is None else (If(places.inside, one),)))
    weight = simd.weigh(block).total * product(slices)
    for number in reversed(range(len(shape))):
        loop = For(variables[number], 0, shape[number], 1, "serial", block)
        if number == 0 and op.batch_rank:
            below = product(shape[1:]) * weight
            loop = threads.divided(loop, max(below, 1) if type(below) is int else threads.GRAIN, source.names)
        block = (loop,)
    return block


def each(op: Scatter, out: Param) -> Write:
    """Single elements, no two of which meet, in any order."""

    def write(composer: Composer, position: Position) -> None:
        at = position[: op.indices[0].rank]
        rest = position[len(at) :]
        places = located(op, [composer.at(index, at) for index in op.indices], at, (), composer)
        if places.nowhere:
            return
        new = composer.bind(composer.at(op.updates, position))
        where = composer.offset(placed(op, at, places.at, rest), op.shape)
        store = Store(out.name, (where,), combined(op.combine, Load(out.name, (where,), out.dtype), new))
        composer.out.append(store if places.inside is None else If(places.inside, (store,)))

    return write
