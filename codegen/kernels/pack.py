"""Panels: parts of an operand copied so that a micro-kernel reads them in order, from a cache that holds them.

Rows of a panel are positions along some axes of the operand (`depth`), columns are neighbours along another one. Where
columns are contiguous in the operand, rows are copied as they are; where the rows' axis is, square blocks are turned
round in registers. Elements are converted on the way, so that half floats and small integers cost nothing later.
Packing changes no value and no order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from ...ir.classes import dataclass
from ...ir.dims import Dim, minimum
from ...ir.dtypes import DType
from ...ir.loops.build import Builder, cast
from ...ir.loops.nodes import Alloc, Const, Load, Param
from ...ir.structure import zero
from ...ir.target import Target

# The stack that a panel may take: what the emitter allows, and about what of a second-level cache is left to it.
PANEL_BYTES: Final = 128 << 10


@dataclass(frozen=True)
class Strip:
    """`extent` neighbours along an axis of an operand: the first at element `base`, each `step` after the last."""

    buffer: Param
    base: Dim
    step: Dim
    extent: Dim


@dataclass(frozen=True)
class Place:
    """Where a strip goes: column j of row i to element `base + i*pitch + j`. With `width` so many columns are written,
    whole vectors; those that the strip has not hold zeros or repeat its last, so that a micro-kernel needs no mask."""

    buffer: Param | Alloc
    pitch: Dim
    base: Dim = 0
    width: int | None = None


def packed(
    k: Builder, strip: Strip, depth: Sequence[tuple[str, Dim, Dim]], place: Place, lanes: int, target: Target
) -> None:
    """Copy a strip for each position of `depth`: (name, extent, step in the operand), outermost first; rows are counted
    through."""
    if not depth:
        _copied(k, strip, strip.base, 0, place, lanes)
        return
    *outer, (name, extent, step) = depth
    with _loops(k, outer) as at:
        row: Dim = 0
        base = strip.base
        for (_, size, move), position in zip(outer, at, strict=True):
            row = row * size + position
            base = base + position * move
        row = row * extent
        whole: Dim = 0
        if strip.step != 1 and step == 1 and turns(place.buffer.dtype, target):
            side = target.lanes(place.buffer.dtype)
            whole = extent // side * side
            with k.loop(name, whole, step=side) as j:
                _turned(k, strip, base + j, row + j, place, side)
        if whole != extent:
            with k.loop(name, extent, start=whole) as j:
                _copied(k, strip, base + j * step, row + j, place, lanes)


def _copied(k: Builder, strip: Strip, base: Dim, row: Dim, place: Place, lanes: int) -> None:
    """One row, vector by vector."""
    to = place.base + row * place.pitch
    kept = place.buffer.dtype

    def copy(column: Dim, count: Dim) -> None:
        with k.vector("l", lanes, count) as lane:
            value = Load(strip.buffer.name, (base + (column + lane) * strip.step,), strip.buffer.dtype)
            k.store(place.buffer, to + column + lane, cast(value, kept))

    if place.width is None:
        whole = strip.extent // lanes * lanes
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


def turns(dtype: DType, target: Target) -> bool:
    """Whether blocks are turned round in registers: of elements as wide as shuffles move them."""
    return dtype.bytes in (4, 8) and target.lanes(dtype) > 1


def _turned(k: Builder, strip: Strip, base: Dim, row: Dim, place: Place, side: int) -> None:
    """`side` rows that are contiguous in the operand from `base` on, in square blocks.

    Element i of a block goes where the bits of i, rotated by half, say. To take every other element of a pair of
    registers rotates by one, so log2(side) rounds of that turn the block round.
    """
    dtype = place.buffer.dtype
    columns = strip.extent if place.width is None else place.width
    whole = strip.extent == columns and (type(columns) is int and columns % side == 0)
    with k.loop("n", columns, step=side) as n:
        block = k.registers("t", dtype, (side * side,))
        with k.unrolled("r", side) as r:
            column = n + r if whole else minimum(n + r, strip.extent - 1)
            with k.vector("l", side) as lane:
                value = Load(strip.buffer.name, (base + column * strip.step + lane,), strip.buffer.dtype)
                k.store(block, side * r + lane, cast(value, dtype))
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
def _loops(k: Builder, axes: Sequence[tuple[str, Dim, Dim]]) -> Iterator[list[Dim]]:
    with ExitStack() as stack:
        yield [stack.enter_context(k.loop(name, extent)) for name, extent, _ in axes]
