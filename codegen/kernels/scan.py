"""Scans along an axis: running sums, products and extremes, linear recurrences; with the maps around them.

Prefixes are combined in the order of the axis, one after the other, as NumPy does. Where another axis is innermost its
neighbours are the lanes of vectors; a scan along the innermost axis is a chain of single elements, of which every row
has one of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from ...ir.dims import Dim, known_equal, minimum, product, symbol
from ...ir.graph import Graph
from ...ir.loops.build import Names, all_exprs
from ...ir.loops.nodes import Alloc, For, Kernel, Load, Stmt, Store
from ...ir.program import KernelDef
from ...ir.structure import Structure
from ...ir.target import Target
from ...ir.types import TupleType
from ...ir.value import Value
from .. import simd, threads
from ..lower import rules
from ..lower.compose import Composer, Lanes, Position, Source
from ..lower.structured import composed
from ..schedule import Axis
from ..tidy import numerics
from .elementwise import hazard, is_map
from .reduce import stored

Block: TypeAlias = tuple[Stmt, ...]
_LETTERS: Final = "ijklmn"


def takes(graph: Graph, target: Target) -> bool:
    return bool(scanned(graph))


def scanned(graph: Graph) -> dict[int, tuple[Value, Structure]]:
    """The scans of a group: all along one axis in one direction; everything else are maps, and every result has the
    shape of the scans. Empty where the group is not so."""
    found: dict[int, tuple[Value, Structure]] = {}
    for value in graph.ops:
        if is_map(value):
            continue
        structure = value.structure()
        if structure is None or structure.combine is None or not any(axis.kind == "scan" for axis in structure.axes):
            return {}
        found[id(value)] = value, structure
    first = next(iter(found.values()), None)
    if first is None:
        return {}
    along = [(axis.kind, axis.reverse) for axis in first[1].axes]
    for value, structure in found.values():
        if [(axis.kind, axis.reverse) for axis in structure.axes] != along or not _same(value, first[0]):
            return {}
    # What depends on a scan must look at it where the scan stands.
    after: dict[int, None] = {}
    for value in graph.ops:
        reads = any(id(operand) in after for operand in value.operands)
        if reads and (id(value) in found or not _same(value, first[0]) or not _is_in_place(value)):
            return {}
        if reads or id(value) in found:
            after[id(value)] = None
    return found if all(_same(result, first[0]) for result in graph.results) else {}


def _is_in_place(value: Value) -> bool:
    """Whether an element needs its operands' elements at the same position."""
    structure = value.structure()
    if structure is None:
        return False
    here = tuple([axis.position for axis in structure.axes])
    return all(read.index == here for read in structure.reads)


def _same(a: Value, b: Value) -> bool:
    if isinstance(a.type, TupleType) or isinstance(b.type, TupleType) or a.rank != b.rank:
        return False
    return all(known_equal(x, y) for x, y in zip(a.shape, b.shape))


def scan(definition: KernelDef, target: Target) -> Kernel:
    """The kernel of a group of scans."""
    source = Source(definition)
    graph, names = source.graph, source.names
    found = scanned(graph)
    model, structure = next(iter(found.values()))
    place = next(i for i, axis in enumerate(structure.axes) if axis.kind == "scan")
    axes = [Axis(names.fresh(_LETTERS[i % len(_LETTERS)]), 0, extent) for i, extent in enumerate(model.shape)]
    along = axes[place]
    others = [axis for axis in axes if axis is not along]
    wide = bool(others) and others[-1] is axes[-1] and axes[-1].extent != 1
    lane = names.fresh("l")
    count = simd.lanes_of([v.dtype for v in graph.order if not isinstance(v.type, TupleType)]) if wide else 1
    inner = others[-1] if wide else None
    here: Dim = along.stop - 1 - symbol(along.var) if structure.axes[place].reverse else symbol(along.var)
    places: dict[str, Dim] = {axis.var: symbol(axis.var) for axis in axes}
    places[along.var] = here
    if inner is not None:
        places[inner.var] = symbol(inner.var) + symbol(lane)
    position: Position = tuple(places.values())
    ranges: dict[str, tuple[Dim, Dim]] = {axis.var: (0, axis.stop) for axis in axes}
    if inner is not None:
        ranges[lane] = (0, inner.stop - symbol(inner.var))
    composer = Composer(source, {}, ranges, Lanes(lane, count) if wide else None, rules())
    where: tuple[Dim, ...] = (symbol(lane),) if wide else ()
    allocs: list[Stmt] = []
    begin: list[Stmt] = []
    for op, rule in found.values():
        monoid = rule.combine
        assert monoid is not None
        arrays = [Alloc(names.fresh("s"), kept, (count,) if wide else (), "registers") for kept in monoid.dtypes]
        allocs += arrays
        begin += [Store(array.name, where, x) for array, x in zip(arrays, monoid.identity)]
        element = composed(composer, op, rule, {axis.name: at for axis, at in zip(rule.axes, position)})
        state = tuple([Load(array.name, where, array.dtype) for array in arrays])
        composer.out += stored(arrays, where, monoid.step(state, element), names)
        composer.memo[id(op), position, ()] = composer.bind(monoid.finish(state))
    values = [composer.at(value, position) for value in graph.results]
    at = composer.offset(position, model.shape)
    composer.out += [Store(out.name, (at,), value) for out, value in zip(source.outs, values)]
    for out in source.outs:
        if out.role == "inout" and any(
            type(x) is Load and x.buffer == out.name and x.index != (at,) for x in all_exprs(composer.out)
        ):
            raise hazard(source, out)
    first, step = numerics(target, tuple(begin), (*composer.header, *composer.out) if not wide else tuple(composer.out))
    return Kernel(
        definition.name,
        tuple(source.params),
        source.dims,
        _loops(first, step, tuple(allocs), composer, along, others, inner, lane, count, names),
        tuple(source.tables.values()),
    )


def _loops(
    begin: Block,
    step: Block,
    allocs: Block,
    composer: Composer,
    along: Axis,
    others: Sequence[Axis],
    inner: Axis | None,
    lane: str,
    count: int,
    names: Names,
) -> Block:
    weight = simd.weigh(step).total
    if inner is not None:
        stop = minimum(count, inner.stop - symbol(inner.var))
        begin = (*allocs, *composer.header, For(lane, 0, count, 1, "vector", begin, count))
        step = (For(lane, 0, stop, 1, "vector", step, count),)
        allocs = ()
    body: Block = (*allocs, *begin, For(along.var, 0, along.stop, 1, "serial", step))
    work = along.stop
    if inner is not None:
        body = (For(inner.var, 0, inner.stop, count, "serial", body),)
        others = others[:-1]
        work = product((work, inner.stop))
    if not others:
        return body
    for axis in reversed(others[1:]):
        body = (For(axis.var, 0, axis.stop, 1, "serial", body),)
        work = product((work, axis.stop))
    first = others[0]
    loop = For(first.var, 0, first.stop, 1, "serial", body)
    return (threads.divided(loop, weight * work if type(work) is int and work else threads.GRAIN, names),)
