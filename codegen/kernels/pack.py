"""Panels: parts of an operand copied so that a micro-kernel reads them in order, from a cache that holds them.

Rows of a panel are positions along some axes of the operand (`depth`), columns are neighbours along another one. Where
columns are contiguous in the operand, rows are copied as they are; where the rows' axis is, square blocks are turned
round in registers. Elements are converted on the way, so that half floats and small integers cost nothing later, and an
operand that is computed is computed here, once for each of its elements. Where a micro-kernel takes several steps of
the contracted axis at once, neighbours along it are joined in words. Packing changes no value and no order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final, TypeAlias

from ...ir.classes import dataclass
from ...ir.dims import Dim, ceildiv, minimum
from ...ir.dtypes import DType, u8, u16
from ...ir.loops.build import Builder, bits, cast, index, lit, mul, or_, shl
from ...ir.loops.nodes import Alloc, Const, Expr, Load, Param, neighbours
from ...ir.structure import zero
from ...ir.target import Target

# The stack that a panel may take: what the emitter allows, and about what of a second-level cache is left to it.
PANEL_BYTES: Final = 128 << 10

# An element of an operand: where the loops of the depth stand, and the column.
Element: TypeAlias = Callable[[Sequence[Dim], Dim], Expr]


@dataclass(frozen=True)
class Strip:
    """`extent` neighbours along an axis of an operand, the columns. `deep` says that neighbours along the innermost
    axis of the depth lie side by side, so that they are read together; `word` reads several of them as one unsigned
    integer, the first in its low bits, where the operand holds them as they are wanted."""

    element: Element
    extent: Dim
    deep: bool = False
    word: Element | None = None


def lying(buffer: Param, base: Dim, moves: Sequence[Dim], step: Dim, dtype: DType | None = None) -> Element:
    """The elements of an operand that lies in memory, from element `base` on: a step along each axis of the depth, and
    along the columns, goes so far. With `dtype`, words of it."""

    def element(places: Sequence[Dim], column: Dim) -> Expr:
        at = base + column * step
        for place, move in zip(places, moves, strict=True):
            at = at + place * move
        return Load(buffer.name, (at,), dtype or buffer.dtype)

    return element


@dataclass(frozen=True)
class Place:
    """Where a strip goes: column j of row i to element `base + i*pitch + j`. With `width` so many columns are written,
    whole vectors; those that the strip has not hold zeros or repeat its last, so that a micro-kernel needs no mask.
    `held` is the type of the elements where the buffer is one of words, each of which holds as many rows as fit."""

    buffer: Param | Alloc
    pitch: Dim
    base: Dim = 0
    width: int | None = None
    held: DType | None = None

    @property
    def rows(self) -> int:
        """How many rows of the operand one row of the panel is."""
        return 1 if self.held is None else neighbours(self.buffer.dtype, self.held)


def packed(
    k: Builder, strip: Strip, depth: Sequence[tuple[str, Dim]], place: Place, lanes: int, target: Target
) -> None:
    """Copy a strip for each position of `depth`: (name, extent), outermost first; rows are counted through. Words join
    rows of the innermost axis; those that are missing to a last word are zeros."""
    if not depth:
        _copied(k, strip, (), 0, place, lanes)
        return
    *outer, (name, extent) = depth
    count = place.rows
    full = extent // count
    with _loops(k, outer) as at:
        row: Dim = 0
        for (_, size), position in zip(outer, at, strict=True):
            row = row * size + position
        row = row * ceildiv(extent, count)
        whole: Dim = 0
        if strip.deep and (count == 1 or strip.word is not None) and turns(place.buffer.dtype, target):
            side = target.lanes(place.buffer.dtype)
            whole = full // side * side
            with k.loop(name, whole, step=side) as j:
                _turned(k, strip, (*at, j), row + j, place, side)
        if whole != full:
            with k.loop(name, full, start=whole) as j:
                _copied(k, strip, (*at, j), row + j, place, lanes)
        if extent != full * count:
            # A size known only at run time may need none.
            with k.loop("e", minimum(1, extent - full * count)) as e:
                _copied(k, strip, (*at, full + e), row + full + e, place, lanes, extent - full * count)


def _copied(
    k: Builder, strip: Strip, at: Sequence[Dim], row: Dim, place: Place, lanes: int, last: Dim | None = None
) -> None:
    """One row, vector by vector. With `last`, only so many of the rows that its words join are there."""
    to = place.base + row * place.pitch
    kept = place.buffer.dtype

    def value(column: Dim) -> Expr:
        if place.held is None:
            return cast(strip.element(at, column), kept)
        *outer, word = at
        parts = [_part(strip.element((*outer, word * place.rows + n), column), n, place) for n in range(place.rows)]
        whole = parts[0]
        for part in parts[1:]:
            whole = or_(whole, part)
        return whole

    def copy(column: Dim, count: Dim) -> None:
        if last is None:
            with k.vector("l", lanes, count) as lane:
                k.store(place.buffer, to + column + lane, value(column + lane))
            return
        *outer, word = at
        with k.vector("l", lanes, count) as lane:
            k.store(place.buffer, to + column + lane, Const(0, kept))
        with k.loop("n", last) as n, k.vector("l", lanes, count) as lane:
            here = (to + column + lane,)
            part = _part(strip.element((*outer, word * place.rows + n), column + lane), n, place)
            k.store(place.buffer, here, or_(Load(place.buffer.name, here, kept), part))

    if place.width is None:
        whole = strip.extent // lanes * lanes
        if whole != 0:
            with k.loop("u", whole, step=lanes) as u:
                copy(u, lanes)
        if strip.extent != whole:
            copy(whole, strip.extent - whole)
        return
    with k.loop("u", place.width, step=lanes, kind="unrolled") as u:
        if strip.extent == place.width:
            copy(u, lanes)
            return
        with k.vector("l", lanes) as lane:
            k.store(place.buffer, to + u + lane, Const(zero(kept), kept))
        copy(u, minimum(lanes, strip.extent - u))


def _part(element: Expr, number: Dim, place: Place) -> Expr:
    """An element at its place among those of a word."""
    word, held = place.buffer.dtype, place.held
    assert held is not None
    seen = bits(cast(element, held), {8: u8, 16: u16}[held.bits])
    return (
        shl(cast(seen, word), mul(cast(index(number), word), lit(held.bits, word))) if number != 0 else cast(seen, word)
    )


def turns(dtype: DType, target: Target) -> bool:
    """Whether blocks are turned round in registers: of elements as wide as shuffles move them."""
    return dtype.bytes in (4, 8) and target.lanes(dtype) > 1


def _turned(k: Builder, strip: Strip, at: Sequence[Dim], row: Dim, place: Place, side: int) -> None:
    """`side` rows that are contiguous in the operand from `at` on, in square blocks.

    Element i of a block goes where the bits of i, rotated by half, say. To take every other element of a pair of
    registers rotates by one, so log2(side) rounds of that turn the block round.
    """
    dtype = place.buffer.dtype
    *outer, first = at
    columns = strip.extent if place.width is None else place.width
    whole = strip.extent == columns and (type(columns) is int and columns % side == 0)
    read = strip.element if place.held is None else strip.word
    assert read is not None
    with k.loop("n", columns, step=side) as n:
        block = k.registers("t", dtype, (side * side,))
        with k.unrolled("r", side) as r:
            column = n + r if whole else minimum(n + r, strip.extent - 1)
            with k.vector("l", side) as lane:
                k.store(block, side * r + lane, cast(read((*outer, (first + lane) * place.rows), column), dtype))
        for _ in range(side.bit_length() - 1):
            turned = k.registers("t", dtype, (side * side,))
            for odd in (0, 1):
                with k.unrolled("r", side // 2) as r, k.vector("l", side) as lane:
                    value = Load(block.name, (2 * side * r + 2 * lane + odd,), dtype)
                    k.store(turned, side * r + side * side // 2 * odd + lane, value)
            block = turned
        stop = side if place.width is not None or whole else minimum(side, columns - n)
        with k.unrolled("r", side) as r, k.vector("l", side, stop) as lane:
            value = Load(block.name, (side * r + lane,), dtype)
            k.store(place.buffer, place.base + (row + r) * place.pitch + n + lane, value)


@contextmanager
def _loops(k: Builder, axes: Sequence[tuple[str, Dim]]) -> Iterator[list[Dim]]:
    with ExitStack() as stack:
        yield [stack.enter_context(k.loop(name, extent)) for name, extent in axes]
