"""Rows side by side: where an axis along which rows are counted is innermost, neighbouring rows are the lanes, and
nothing is ever joined across lanes. Sums of columns, softmax along a middle axis, pooling of channels-last images.

Usually a tile of rows has its states in registers and is read from its first element to its last (`SideBySide`). Where
that tile would be a narrow strip of a wide array, every line of it on another page, the array is read as it lies, with
the states of all rows in memory and a group of elements joined before they meet them (`Wide`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Final, TypeAlias

from ...ir.dims import Dim, ceildiv, minimum, product, symbol
from ...ir.graph import Graph
from ...ir.loops.build import cast
from ...ir.loops.nodes import Alloc, Expr, For, Index, Let, Load, Stmt, Store
from ...ir.program import KernelDef
from ...ir.structure import State
from ...ir.target import Target
from ...ir.value import Value
from .. import threads
from ..schedule import Axis, moved
from .reduce import CHAIN, ONE_PART, Accumulator, Waiting, begun, is_exact, tree
from .rows import FREE, ROW, Pass, Plan, Program, chain_of, in_order_of_lanes, is_dear, is_kept, lanes_for, nested

Block: TypeAlias = tuple[Stmt, ...]

GROUP: Final = 8  # elements of a row that are joined before they meet its state, where states are in memory
WIDE_ROWS: Final = (CHAIN - GROUP) * GROUP  # elements of a block of such rows: a chain of groups, then single ones
WIDE_LEVELS: Final = 22  # where it is not known how many blocks there are
WIDE_BYTES: Final = 96 << 10  # of states and what waits to be joined with them, on the stack
MOST_VECTORS: Final = 256  # of a tile: 16 KiB of every array


def vectors_for(graph: Graph, target: Target) -> int:
    """Vectors of a tile whose states are in registers."""
    weight = 8 * sum(map(is_dear, graph.ops)) + len(graph.ops)
    room = 8 if target.vector_registers >= 32 else 4
    return max(room // max(weight // 4, 1), 1)


class SideBySide(Program):
    """Tiles of neighbouring rows, their states in registers."""

    def __init__(self, definition: KernelDef, found: Plan, target: Target) -> None:
        super().__init__(definition, found, target)
        self.vectors = vectors_for(self.graph, target)

    def is_vector(self, once: bool) -> bool:
        return True

    def finish(self, acc: Accumulator, part: Pass) -> Expr:
        return acc.finish(acc.at(symbol(self.u), symbol(self.l)))

    def keep_number(self, value: Value, number: Expr, block: list[Stmt]) -> Expr:
        array = Alloc(self.names.fresh(value.name), value.dtype, (self.vectors, self.lanes), "registers")
        self.allocs.append(array)
        place = (symbol(self.u), symbol(self.l))
        block.append(Store(array.name, place, number))
        return Load(array.name, place, value.dtype)

    def row_buffer(self, value: Value) -> Load | None:
        size = self.lanes * self.vectors
        place, length = self.row_place()
        return self.stack_row(value, place * size + symbol(self.u) * self.lanes + symbol(self.l), length * size)

    def loops(self, outer: list[Axis], inner: list[Axis], weight: int) -> Block:
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
            body = self.tile(tiled, place, None, inner)
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
            block += self.tile(tiled, main * size, rest, inner)
        total = work * width
        return self.over_rows(around, tuple(block), weight * total if type(total) is int else None)

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

    def tile(self, tiled: Axis, start: Dim, rest: Dim | None, inner: list[Axis]) -> Block:
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
            if part.once:
                block.append(wide(body))
                continue
            for acc in part.accumulators:
                block += acc.arrays
            exact = all(is_exact(acc.monoid) for acc in part.accumulators)
            steps = chain_of(inner, 1)
            if exact or steps <= CHAIN or not inner:
                block += begun(part.accumulators, names)
                block += nested(inner, (wide(body),))
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
            block += [*waiting.allocs(), *nested(around, (loop,)), *waiting.collect(count, vectors, names)]
        return tuple(block)


def is_wide(graph: Graph, found: Plan, target: Target) -> bool:
    """Whether a tile of rows in registers would be a narrow strip of a wide array: plain reductions of long rows, more
    of them than the tile has."""
    axes = [Axis(f"a{i}", 0, extent, kind) for i, (kind, extent) in enumerate(zip(found.kinds, found.extents))]
    axes = in_order_of_lanes(axes, found)
    length = product([axis.extent for axis in axes if axis.kind == "r"])
    tags = [(v, found.tags[id(v)]) for v in graph.results]
    whole = any(tag == ROW or (tag == FREE and not is_kept(v, found)) for v, tag in tags)
    if "r" not in found.kinds or len(found.stages) != 1 or whole:
        return False
    structures = found.structures.values()
    if any(s.combine is None or s.combine.name not in ONE_PART for s in structures):
        return False
    if type(length) is int and length < 2 * GROUP:
        return False
    width = axes[-1].extent
    return type(width) is not int or width > vectors_for(graph, target) * lanes_for(found, graph, width)


class Wide(Program):
    """Many rows, a group of elements of every one of them at a time, their states in memory."""

    memory = "stack"

    def __init__(self, definition: KernelDef, found: Plan, target: Target) -> None:
        super().__init__(definition, found, target)
        self.k = self.names.fresh("k")
        self.groups: dict[int, Alloc] = {}
        self.vectors = self.tile_vectors()

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

    def is_vector(self, once: bool) -> bool:
        return True

    def finish(self, acc: Accumulator, part: Pass) -> Expr:
        return acc.finish(acc.at(symbol(self.u), symbol(self.l)))

    def keep_number(self, value: Value, number: Expr, block: list[Stmt]) -> Expr:
        array = Alloc(self.names.fresh(value.name), value.dtype, (1, self.lanes), "registers")
        self.allocs.append(array)
        block.append(Store(array.name, (0, symbol(self.l)), number))
        return Load(array.name, (0, symbol(self.l)), value.dtype)

    def row_buffer(self, value: Value) -> Load | None:
        return None  # every row is read once

    def accumulate(self, acc: Accumulator, element: State) -> Block:
        """An element on its way: a group of them is joined before it meets the state."""
        kept = acc.monoid.dtypes[0]
        array = Alloc(self.names.fresh("part"), kept, (GROUP, self.lanes), "registers")
        self.groups[id(acc.op)] = array
        return (Store(array.name, (symbol(self.k), symbol(self.l)), cast(element[0], kept)),)

    def loops(self, outer: list[Axis], inner: list[Axis], weight: int) -> Block:
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
                    joins += acc.join(u, lane, tree(acc.monoid, states, names, joins), names)
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
        steps = chain_of(inner, GROUP)
        if steps <= CHAIN or all(is_exact(acc.monoid) for acc in accumulators):
            block += [*begun(accumulators, names, "serial"), *nested(others, chain(0, last.stop))]
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
            block += [*waiting.allocs(), *nested(others, (loop,)), *waiting.collect(count, self.vectors, names)]
        ends = [moved(part.body, {tiled.var: start + u * lanes + lane}) for part in rest]
        headers = [stmt for part in rest for stmt in part.header]
        block += over_tile(
            lambda stop: (*headers, For(self.l, 0, stop, 1, "vector", tuple(itertools.chain(*ends)), lanes))
        )
        return tuple(block)
