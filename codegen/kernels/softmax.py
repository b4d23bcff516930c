"""Rows that lie along the innermost axis: a row is cut into vectors, and its lanes are joined at its end.

Softmax, log-softmax, layer norm, mean and variance along the last axis are such programs (see `rows.py`), and so are
plain reductions. A short row stays in registers: its passes are written out and repeat each other's loads. A long row
runs in rounds of several vectors, the rest under a mask; sums of very long rows in blocks (see `reduce.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from ...ir.dims import Dim, ceildiv, maximum, minimum, product, symbol
from ...ir.graph import Graph
from ...ir.loops.build import all_exprs
from ...ir.loops.nodes import Alloc, Expr, For, Index, Kernel, Let, Load, LoopKind, Stmt, Store, Var
from ...ir.program import KernelDef
from ...ir.target import Target
from ...ir.value import Value
from .. import simd, threads
from ..schedule import Axis, moved
from .columns import SideBySide, Wide, is_wide
from .reduce import BLOCK_STEPS, CHAIN, Accumulator, Waiting, begun, is_exact, joined_lanes, joined_vectors, vector
from .rows import Pass, Plan, Program, chain_of, in_order_of_lanes, is_dear, nested, plan

Block: TypeAlias = tuple[Stmt, ...]

PIECES: Final = 64  # of a long row: more than there are threads, and a tree of six levels
MOST_SPLIT: Final = 16  # rows that are cut so; of more every thread has some
SHORT: Final = 8  # vectors of a row that is written out; half as many where its elements are dear


def takes(graph: Graph, target: Target) -> bool:
    """Whether the group is a program over rows."""
    return plan(graph) is not None


def rows(definition: KernelDef, target: Target) -> Kernel:
    """The kernel of a program over rows."""
    found = plan(definition.graph)
    assert found is not None
    axes = [Axis(f"a{i}", 0, extent, kind) for i, (kind, extent) in enumerate(zip(found.kinds, found.extents))]
    axes = in_order_of_lanes(axes, found)
    if not axes or axes[-1].kind == "r":
        return Across(definition, found, target).kernel()
    if is_wide(definition.graph, found, target):
        return Wide(definition, found, target).kernel()
    return SideBySide(definition, found, target).kernel()


class Across(Program):
    """The lanes go across a row."""

    def __init__(self, definition: KernelDef, found: Plan, target: Target) -> None:
        super().__init__(definition, found, target)
        dear = sum(is_dear(value) for value in self.graph.ops)
        self.vectors = 4 if dear * 8 + len(self.graph.ops) < 32 else 2
        length = product([axis.extent for axis in self.running])
        self.short = False
        if type(length) is int and length <= self.lanes * (SHORT // 2 if dear else SHORT):
            self.short = True
            self.vectors = max(-(-length // self.lanes), 1)

    def is_vector(self, once: bool) -> bool:
        return not once

    def finish(self, acc: Accumulator, part: Pass) -> Expr:
        states = tuple([Var(self.names.fresh("state"), array.dtype) for array in acc.arrays])
        part.states[id(acc.op)] = states
        return acc.finish(states)

    def keep_number(self, value: Value, number: Expr, block: list[Stmt]) -> Expr:
        name = self.names.fresh(value.name)
        block.append(Let(name, number))
        return Var(name, number.dtype)

    def row_buffer(self, value: Value) -> Load | None:
        if self.short:
            array = Alloc(self.names.fresh("row"), value.dtype, (self.vectors, self.lanes), "registers")
            self.allocs.append(array)
            return Load(array.name, (symbol(self.u), symbol(self.l)), value.dtype)
        return self.stack_row(value, *self.row_place())

    def loops(self, outer: list[Axis], inner: list[Axis], weight: int) -> Block:
        if self.is_split(outer, inner, weight):
            return self.split(outer, inner, weight)
        body: list[Stmt] = list(self.allocs)
        for part in self.passes:
            body += part.header
            body += part.body if part.once else self.across(part, inner)
        work = product([axis.extent for axis in inner])
        return self.over_rows(outer, tuple(body), weight * work if type(work) is int else None)

    def across(self, part: Pass, inner: list[Axis]) -> Block:
        """One pass over a row in vectors, and its accumulators joined to scalars."""
        arrays = [array for acc in part.accumulators for array in acc.arrays]
        return (*arrays, *self.states(part, inner, 0, inner[-1].stop), *self.scalars(part, part.accumulators))

    def scalars(self, part: Pass, accumulators: Sequence[Accumulator]) -> Block:
        """The lanes of the accumulators joined, by the names that the rest of the program knows."""
        block: list[Stmt] = []
        for acc in accumulators:
            joined, state = joined_lanes(acc, self.names)
            block += joined
            block += [Let(var.name, x) for var, x in zip(part.states[id(acc.op)], state)]
        return tuple(block)

    def states(self, part: Pass, inner: list[Axis], start: Dim, stop: Dim) -> Block:
        """A pass over the elements from start to stop of the innermost axis, one vector left of every accumulator."""
        *others, last = inner
        steps = chain_of([*others, Axis(last.var, 0, stop - start)], self.lanes * self.vectors)
        if not part.accumulators or all(is_exact(acc.monoid) for acc in part.accumulators) or steps <= CHAIN:
            strips = nested(others, self.strips(part, last, start, stop))
            begin = begun(part.accumulators, self.names)
            return (*begin, *strips, *joined_vectors(part.accumulators, self.names))
        return self.blocks(part, inner, start, stop)

    def blocks(self, part: Pass, inner: list[Axis], start: Dim, stop: Dim) -> Block:
        """A pass in blocks that are joined pairwise."""
        names = self.names
        size = BLOCK_STEPS * self.lanes * self.vectors
        per_row = ceildiv(stop - start, size)
        count = product([axis.extent for axis in inner[:-1]]) * per_row
        waiting = Waiting.make(part.accumulators, count, 1, names)
        number = names.fresh("block")
        first = start + symbol(number) * size
        end = names.fresh("end")
        flat: Dim = 0
        for axis in inner[:-1]:
            flat = flat * axis.extent + symbol(axis.var)
        body: Block = (
            Let(end, Index(minimum(first + size, stop))),
            *begun(part.accumulators, names),
            *self.strips(part, inner[-1], first, symbol(end)),
            *joined_vectors(part.accumulators, names),
            *waiting.push(flat * per_row + symbol(number), 1, names),
        )
        loop = For(number, 0, per_row, 1, "serial", body)
        return (*waiting.allocs(), *nested(inner[:-1], (loop,)), *waiting.collect(count, 1, names))

    # A few long rows, each cut into pieces for threads.

    def is_split(self, outer: list[Axis], inner: list[Axis], weight: int) -> bool:
        """Whether there are too few rows for threads to share, and nothing to do but reduce them once."""
        rows = product([axis.extent for axis in outer])
        if len(inner) != 1 or self.short or not all(part.once for part in self.passes[1:]):
            return False
        if type(rows) is not int or rows > MOST_SPLIT or any(map(self.is_whole, self.graph.results)):
            return False
        length = inner[0].extent
        return type(length) is not int or weight * length >= 4 * threads.GRAIN

    def split(self, outer: list[Axis], inner: list[Axis], weight: int) -> Block:
        """At most PIECES pieces of every row, on any thread; their states are then joined in a tree. How many there are
        is decided by the row's length alone."""
        names = self.names
        first, *rest = self.passes
        accumulators = first.accumulators
        rows = product([axis.extent for axis in outer])
        flat: Dim = 0
        for axis in outer:
            flat = flat * axis.extent + symbol(axis.var)
        length = inner[0].extent
        round_ = self.lanes * self.vectors
        least = ceildiv(max(threads.GRAIN // weight, 1), round_) * round_
        piece: Dim = maximum(least, ceildiv(ceildiv(length, PIECES), round_) * round_)
        lets: list[Stmt] = []
        if type(piece) is not int:
            name = names.fresh("piece")
            lets.append(Let(name, Index(piece)))
            piece = symbol(name)
        kept = [
            [Alloc(names.fresh("part"), array.dtype, (rows * PIECES,), "stack") for array in acc.arrays]
            for acc in accumulators
        ]
        i, c, end = names.fresh("i"), names.fresh("c"), names.fresh("end")
        blank = [
            Store(array.name, (symbol(i),), x)
            for acc, arrays in zip(accumulators, kept)
            for array, x in zip(arrays, acc.identity)
        ]
        begin = symbol(c) * piece
        work: list[Stmt] = [Let(end, Index(minimum(begin + piece, length))), *first.header]
        work += [array for acc in accumulators for array in acc.arrays]
        work += self.states(first, inner, begin, symbol(end))
        for acc, arrays in zip(accumulators, kept):
            joined, state = joined_lanes(acc, names)
            work += joined
            work += [Store(array.name, (flat * PIECES + symbol(c),), x) for array, x in zip(arrays, state)]
        loops: Block = (For(c, 0, ceildiv(length, piece), 1, "parallel", tuple(work)),)
        for axis in reversed(outer):
            loops = (For(axis.var, axis.start, axis.stop, 1, "parallel", loops),)
        join: list[Stmt] = []
        lanes = min(self.lanes, PIECES)
        for acc, arrays in zip(accumulators, kept):
            tree = replace(acc, vectors=PIECES // lanes, lanes=lanes, arrays=tuple([
                Alloc(names.fresh("acc"), array.dtype, (PIECES // lanes, lanes), "registers") for array in arrays
            ]))  # fmt: skip
            u, lane = names.fresh("u"), names.fresh("l")
            at = flat * PIECES + symbol(u) * lanes + symbol(lane)
            place = (symbol(u), symbol(lane))
            read = [Store(a.name, place, Load(b.name, (at,), b.dtype)) for a, b in zip(tree.arrays, arrays)]
            join += [*tree.arrays, For(u, 0, PIECES // lanes, 1, "unrolled", (vector(lane, lanes, tuple(read)),))]
            join += [*joined_vectors((tree,), names), *self.scalars(first, (tree,))]
        for part in rest:
            join += [*part.header, *part.body]
        blanks = For(i, 0, rows * PIECES, 1, "serial", tuple(blank))
        return (*[array for arrays in kept for array in arrays], blanks, *lets, *loops, *nested(outer, tuple(join)))

    def waits_for_memory(self, part: Pass) -> bool:
        """Whether the rows are gone over once, to add up what is made of one operand that does not fit the caches: see
        decision 04."""
        if not all(later.once for later in self.passes[1:]):
            return False
        if [acc.monoid.name for acc in part.accumulators] != ["sum"] or simd.weigh(part.body).functions:
            return False
        read = {x.buffer for x in all_exprs(part.body) if isinstance(x, Load)}
        given = [param for param in self.source.params if param.name in read]
        if len(given) != 1:
            return False
        (size,) = given[0].shape
        return type(size) is int and size * given[0].dtype.bytes > self.target.l3_bytes

    def strips(self, part: Pass, axis: Axis, start: Dim, stop: Dim) -> Block:
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
            kind: LoopKind = "prefetched" if self.waits_for_memory(part) else "serial"
            block.append(For(b, start, main, step, kind, (whole,)))
        if main != stop:
            part_vector = For(self.l, 0, minimum(lanes, stop - symbol(b)), 1, "vector", body, lanes)
            alone = For(self.u, 0, 1, 1, "unrolled", (part_vector,))
            block.append(For(b, main, stop, lanes, "serial", (alone,)))
        return tuple(block)
