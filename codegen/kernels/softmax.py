"""Rows that lie along the innermost axis: a row is cut into vectors, and its lanes are joined at its end.

Softmax, log-softmax, layer norm, mean and variance along the last axis are such programs (see `rows.py`), and so are
plain reductions. A short row stays in registers: its passes are written out and repeat each other's loads. A long row
runs in rounds of several vectors, the rest under a mask; sums of very long rows in blocks (see `reduce.py`).
"""

from __future__ import annotations

from typing import Final, TypeAlias

from ...ir.dims import Dim, ceildiv, minimum, product, symbol
from ...ir.graph import Graph
from ...ir.loops.nodes import Alloc, Expr, For, Index, Kernel, Let, Load, Stmt, Var
from ...ir.program import KernelDef
from ...ir.target import Target
from ...ir.value import Value
from ..schedule import Axis, moved
from .columns import SideBySide, Wide, is_wide
from .reduce import BLOCK_STEPS, CHAIN, Accumulator, Waiting, begun, is_exact, joined_lanes, joined_vectors, vector
from .rows import Pass, Plan, Program, chain_of, in_order_of_lanes, is_dear, nested, plan

Block: TypeAlias = tuple[Stmt, ...]

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
        body: list[Stmt] = list(self.allocs)
        for part in self.passes:
            body += part.header
            body += part.body if part.once else self.across(part, inner)
        work = product([axis.extent for axis in inner])
        return self.over_rows(outer, tuple(body), weight * work if type(work) is int else None)

    def across(self, part: Pass, inner: list[Axis]) -> Block:
        """One pass over a row in vectors, and its accumulators joined to scalars."""
        length = inner[-1].stop
        block: list[Stmt] = []
        for acc in part.accumulators:
            block += acc.arrays
        steps = chain_of(inner, self.lanes * self.vectors)
        if not part.accumulators or all(is_exact(acc.monoid) for acc in part.accumulators) or steps <= CHAIN:
            block += begun(part.accumulators, self.names)
            block += nested(inner[:-1], self.strips(part, inner[-1], 0, length))
            block += joined_vectors(part.accumulators, self.names)
        else:
            block += self.blocks(part, inner, length)
        for acc in part.accumulators:
            joined, state = joined_lanes(acc, self.names)
            block += joined
            block += [Let(var.name, x) for var, x in zip(part.states[id(acc.op)], state)]
        return tuple(block)

    def blocks(self, part: Pass, inner: list[Axis], length: Dim) -> Block:
        """A pass in blocks that are joined pairwise."""
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
            *self.strips(part, inner[-1], start, symbol(end)),
            *joined_vectors(part.accumulators, names),
            *waiting.push(flat * per_row + symbol(number), 1, names),
        )
        loop = For(number, 0, per_row, 1, "serial", body)
        return (*waiting.allocs(), *nested(inner[:-1], (loop,)), *waiting.collect(count, 1, names))

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
            block.append(For(b, start, main, step, "serial", (whole,)))
        if main != stop:
            part_vector = For(self.l, 0, minimum(lanes, stop - symbol(b)), 1, "vector", body, lanes)
            alone = For(self.u, 0, 1, 1, "unrolled", (part_vector,))
            block.append(For(b, main, stop, lanes, "serial", (alone,)))
        return tuple(block)
