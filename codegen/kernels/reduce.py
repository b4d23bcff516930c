"""Reductions in registers: states, steps, blocks and trees, in one order on every target.

The order of a sum over n elements is fixed by n alone. Lanes: element e of a row goes to lane e mod 16 (f32; 8 for
f64) of one of a few vectors in turn. Chains: each lane adds at most 128 elements one after the other. Trees: the
vectors of a block are joined pairwise, blocks are joined pairwise as they come (the number of blocks so far, in binary,
says which partial sums are waiting), and last the lanes, halves onto halves. So no element takes part in more than 127
+ ceil(log2(n / 128)) rounded additions, which is the error bound that is promised:

    |error| <= (ceil(log2(n / 128)) + 128) u sum |x|

Maxima, bitwise operations and integer sums do not round, so they run as one chain per lane.

A monoid's `merge` joins neighbouring ranges, while lanes interleave. That is the same for all but the positions of
extremes: these compare positions where values are equal (`merged`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from ...ir.classes import dataclass
from ...ir.dims import Dim, product, symbol
from ...ir.dtypes import i32, i64
from ...ir.loops.build import Names, and_, cast, eq, ge, lt, ne, not_, or_, shr
from ...ir.loops.nodes import (
    Alloc,
    Binary,
    Const,
    Expr,
    For,
    If,
    Index,
    Let,
    Load,
    LoopKind,
    Memory,
    Select,
    Stmt,
    Store,
    Var,
    While,
)
from ...ir.structure import Monoid, State, Structure
from ...ir.value import Value

Block: TypeAlias = tuple[Stmt, ...]

CHAIN: Final = 128  # elements that a lane adds one after the other
BLOCK_STEPS: Final = 64  # rounds of the main loop in a block; the rest of a block adds a few more per lane
MOST_LEVELS: Final = 40  # partial sums waiting: enough for 2**40 blocks
ONE_PART: Final = ("sum", "prod", "max", "min", "any", "all")  # an element, cast, is a state
_EXACT: Final = ("max", "min", "any", "all", "argmax", "argmin")


def is_exact(monoid: Monoid) -> bool:
    """Whether the order of combination cannot be seen in the result."""
    return monoid.name in _EXACT or all(not dtype.is_float and dtype.kind != "complex" for dtype in monoid.dtypes)


def _is_arg(monoid: Monoid) -> bool:
    return monoid.name in ("argmax", "argmin")


def stepped(monoid: Monoid, state: State, element: State, names: Names, block: list[Stmt]) -> State:
    """The state after one more element, which comes later than all it has seen. What is read several times is bound by
    lets appended to `block`."""
    if monoid.name in ONE_PART:
        return monoid.step(state, element)
    state, element = bound(state, names, block), bound(element, names, block)
    if not _is_arg(monoid):
        return monoid.step(state, element)
    takes: Expr = Binary("gt" if monoid.name == "argmax" else "lt", element[0], state[0])
    if state[0].dtype.is_float:
        takes = and_(or_(takes, ne(element[0], element[0])), eq(state[0], state[0]))
    # A position of -1 is that of no element yet.
    (taken,) = bound((or_(takes, lt(state[1], 0)),), names, block)
    return (Select(taken, element[0], state[0]), Select(taken, cast(element[1], state[1].dtype), state[1]))


def merged(monoid: Monoid, a: State, b: State, names: Names, block: list[Stmt]) -> State:
    """Two states of disjoint sets of elements joined; neither needs to lie before the other."""
    if monoid.name in ONE_PART:
        return monoid.merge(a, b)
    a, b = bound(a, names, block), bound(b, names, block)
    if not _is_arg(monoid):
        return monoid.merge(a, b)
    takes: Expr = Binary("gt" if monoid.name == "argmax" else "lt", b[0], a[0])
    level: Expr = eq(a[0], b[0])
    if a[0].dtype.is_float:
        wrong, fresh = bound((ne(a[0], a[0]), ne(b[0], b[0])), names, block)
        level = or_(level, and_(wrong, fresh))
        takes = or_(and_(takes, not_(wrong)), and_(fresh, not_(wrong)))
    takes = or_(takes, and_(level, lt(b[1], a[1])))
    (taken,) = bound((and_(or_(takes, lt(a[1], 0)), ge(b[1], 0)),), names, block)
    return (Select(taken, b[0], a[0]), Select(taken, b[1], a[1]))


def bound(state: State, names: Names, block: list[Stmt]) -> State:
    """The parts of a state by names."""
    result: list[Expr] = []
    for part in state:
        if isinstance(part, Var | Const):
            result.append(part)
            continue
        name = names.fresh("s")
        block.append(Let(name, part))
        result.append(Var(name, part.dtype))
    return tuple(result)


@dataclass(frozen=True)
class Accumulator:
    """The state of one reduction in `vectors` registers of `lanes` lanes, one array per part of the state."""

    op: Value
    structure: Structure
    monoid: Monoid
    arrays: tuple[Alloc, ...]
    vectors: int
    lanes: int

    @staticmethod
    def make(
        op: Value, structure: Structure, vectors: int, lanes: int, names: Names, memory: Memory = "registers"
    ) -> Accumulator:
        monoid = structure.combine
        assert monoid is not None
        dtypes = list(monoid.dtypes)
        length = product(axis.extent for axis in structure.reduced)
        if _is_arg(monoid) and type(length) is int and length < 1 << 31:
            dtypes[1] = i32  # a position takes no more room than a number
        arrays = tuple([Alloc(names.fresh("acc"), dtype, (vectors, lanes), memory) for dtype in dtypes])
        return Accumulator(op, structure, monoid, arrays, vectors, lanes)

    @property
    def identity(self) -> State:
        return tuple([Const(x.value, array.dtype) for x, array in zip(self.monoid.identity, self.arrays, strict=True)])

    def finish(self, state: State) -> Expr:
        """What is left of a row, from its state."""
        return cast(self.monoid.finish(state), self.op.dtype)

    def step(self, vector: Dim, lane: Dim, element: State, names: Names) -> Block:
        """One more element."""
        block: list[Stmt] = []
        state = stepped(self.monoid, self.at(vector, lane), element, names, block)
        return (*block, *self.set(vector, lane, state, names))

    def join(self, vector: Dim, lane: Dim, other: State, names: Names) -> Block:
        """Another state joined in front of the one that is kept."""
        block: list[Stmt] = []
        state = merged(self.monoid, other, self.at(vector, lane), names, block)
        return (*block, *self.set(vector, lane, state, names))

    def at(self, vector: Dim, lane: Dim) -> State:
        return tuple([Load(array.name, (vector, lane), array.dtype) for array in self.arrays])

    def set(self, vector: Dim, lane: Dim, state: State, names: Names) -> Block:
        return stored(self.arrays, (vector, lane), state, names)


def stored(arrays: Sequence[Alloc], index: tuple[Dim, ...], state: State, names: Names) -> Block:
    """A state written to arrays from which it may have been computed: all parts before the first is overwritten."""
    if len(arrays) == 1:
        return (Store(arrays[0].name, index, state[0]),)
    lets = [Let(names.fresh("s"), part) for part in state]
    stores = [Store(a.name, index, Var(let.name, a.dtype)) for a, let in zip(arrays, lets, strict=True)]
    return (*lets, *stores)


def begun(accumulators: Sequence[Accumulator], names: Names, kind: LoopKind = "unrolled") -> Block:
    """Every accumulator at its identity."""
    block: list[Stmt] = []
    for acc in accumulators:
        u, lane = names.fresh("u"), names.fresh("l")
        stores = tuple([Store(a.name, (symbol(u), symbol(lane)), x) for a, x in zip(acc.arrays, acc.identity)])
        block.append(For(u, 0, acc.vectors, 1, kind, (vector(lane, acc.lanes, stores),)))
    return tuple(block)


def vector(lane: str, lanes: int, body: Block) -> For:
    return For(lane, 0, lanes, 1, "vector", body, lanes)


def joined_vectors(accumulators: Sequence[Accumulator], names: Names) -> Block:
    """The vectors of each accumulator joined pairwise into its first."""
    block: list[Stmt] = []
    for acc in accumulators:
        if acc.vectors == 1:
            continue
        lane = names.fresh("l")
        inside: list[Stmt] = []
        state = tree(acc.monoid, [acc.at(u, symbol(lane)) for u in range(acc.vectors)], names, inside)
        block.append(vector(lane, acc.lanes, (*inside, *acc.set(0, symbol(lane), state, names))))
    return tuple(block)


def tree(monoid: Monoid, states: list[State], names: Names, block: list[Stmt]) -> State:
    """States joined pairwise until one is left."""
    while len(states) > 1:
        pairs = [merged(monoid, a, b, names, block) for a, b in zip(states[::2], states[1::2])]
        states = pairs + ([states[-1]] if len(states) % 2 else [])
    return states[0]


def joined_lanes(acc: Accumulator, names: Names) -> tuple[Block, State]:
    """The lanes of the first vector joined, the upper half onto the lower; the state that is left, as scalars."""
    block: list[Stmt] = []
    width = acc.lanes
    arrays: tuple[Alloc, ...] = acc.arrays
    at: tuple[Dim, ...] = (0,)
    while width > 1:
        width //= 2
        lane = symbol(names.fresh("l"))
        low: State = tuple([Load(a.name, (*at, lane), a.dtype) for a in arrays])
        high: State = tuple([Load(a.name, (*at, lane + width), a.dtype) for a in arrays])
        halves = tuple([Alloc(names.fresh("half"), a.dtype, (width,), "registers") for a in arrays])
        inside: list[Stmt] = []
        state = merged(acc.monoid, low, high, names, inside)
        block += [*halves, vector(str(lane), width, (*inside, *stored(halves, (lane,), state, names)))]
        arrays, at = halves, ()
    return tuple(block), tuple([Load(a.name, (*at, 0), a.dtype) for a in arrays])


# --- blocks -----------------------------------------------------------------------------------------------------------


# What is done with one vector of an accumulator and the arrays that wait for it.
_Each: TypeAlias = Callable[[Accumulator, tuple[Alloc, ...], Dim, Dim], Block]


@dataclass(frozen=True)
class Waiting:
    """Partial states of whole blocks, one row of `stack` per power of two: after `count` blocks, level h holds the
    state of 2**h of them where bit h of `count` is set."""

    accumulators: tuple[Accumulator, ...]
    arrays: tuple[tuple[Alloc, ...], ...]
    level: Alloc
    levels: int
    kind: LoopKind = "unrolled"  # of the loop over a block's vectors

    @staticmethod
    def make(
        accumulators: Sequence[Accumulator],
        blocks: Dim,
        vectors: int,
        names: Names,
        levels: int = MOST_LEVELS,
        kind: LoopKind = "unrolled",
    ) -> Waiting:
        """Room for that many blocks of `vectors` vectors each, or 2**levels where it is not known how many."""
        levels = blocks.bit_length() if type(blocks) is int else levels
        arrays = [
            tuple([Alloc(names.fresh("wait"), a.dtype, (levels, vectors * acc.lanes), "stack") for a in acc.arrays])
            for acc in accumulators
        ]
        level = Alloc(names.fresh("h"), i64, (), "registers")
        return Waiting(tuple(accumulators), tuple(arrays), level, levels, kind)

    def allocs(self) -> Block:
        return (*[a for arrays in self.arrays for a in arrays], self.level)

    def each(self, vectors: int, body: _Each, names: Names) -> Block:
        """`body` for every vector of every accumulator."""
        block: list[Stmt] = []
        for acc, arrays in zip(self.accumulators, self.arrays):
            u, lane = names.fresh("u"), names.fresh("l")
            inner = body(acc, arrays, symbol(u), symbol(lane))
            block.append(For(u, 0, vectors, 1, self.kind, (vector(lane, acc.lanes, inner),)))
        return tuple(block)

    def push(self, number: Dim, vectors: int, names: Names) -> Block:
        """Block `number` is done: it is joined with those that wait as a carry ripples through a binary number."""
        at = names.fresh("at")
        here = Load(self.level.name, (), i64)

        def join(acc: Accumulator, arrays: tuple[Alloc, ...], u: Dim, lane: Dim) -> Block:
            waits = tuple([Load(a.name, (symbol(at), u * acc.lanes + lane), a.dtype) for a in arrays])
            return acc.join(u, lane, waits, names)

        ripple: Block = (
            Let(at, here),
            *self.each(vectors, join, names),
            Store(self.level.name, (), Binary("add", Var(at, i64), Const(1, i64))),
        )
        place = names.fresh("at")

        def wait(acc: Accumulator, arrays: tuple[Alloc, ...], u: Dim, lane: Dim) -> Block:
            index = (symbol(place), u * acc.lanes + lane)
            return tuple([Store(a.name, index, x) for a, x in zip(arrays, acc.at(u, lane))])

        return (
            Store(self.level.name, (), Const(0, i64)),
            If(_bit(number, Const(0, i64)), (While(ripple, _bit(number, here)),)),
            Let(place, here),
            *self.each(vectors, wait, names),
        )

    def collect(self, count: Dim, vectors: int, names: Names) -> Block:
        """All that waits joined into the accumulators, the smallest first."""
        name = names.fresh("h")

        def join(acc: Accumulator, arrays: tuple[Alloc, ...], u: Dim, lane: Dim) -> Block:
            waits = tuple([Load(a.name, (symbol(name), u * acc.lanes + lane), a.dtype) for a in arrays])
            return acc.join(u, lane, waits, names)

        taken = If(_bit(count, Index(symbol(name))), self.each(vectors, join, names))
        return (*begun(self.accumulators, names, self.kind), For(name, 0, self.levels, 1, "serial", (taken,)))


def _bit(number: Dim, place: Expr) -> Expr:
    """Whether bit `place` of the number is set."""
    return eq(and_(shr(Index(number), place), 1), 1)
