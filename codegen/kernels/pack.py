"""Panels: a strip of an operand copied so that a micro-kernel reads it in order, from a cache that holds it.

A panel is a row for each position of the contracted axis, each of a few whole vectors; what lies behind the operand's
end is zero, or repeats the last element, so that the micro-kernel needs no mask. Where the operand's other axis is
contiguous rows are copied as they are; where the contracted one is, blocks are turned round in registers. Elements are
converted on the way, so that half floats and small integers cost nothing later. Packing changes no value and no order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from ...ir.dims import Dim, minimum
from ...ir.dtypes import DType
from ...ir.loops.build import Builder, cast
from ...ir.loops.nodes import Alloc, Const, Load, Param
from ...ir.structure import zero
from ...ir.target import Target

# The stack that a panel may take: half a second-level cache, and what the smallest of our threads' stacks allows.
PANEL_BYTES: Final = 128 << 10


@dataclass(frozen=True)
class Strip:
    """`width` neighbours along an axis of an operand, from `start` on; `left` elements are there (None: all of them).

    `step` is what a step along the axis moves, `base` the element at its start.
    """

    buffer: Param
    base: Dim
    step: Dim
    width: int
    left: Dim | None = None


def packed(
    k: Builder, strip: Strip, depth: Sequence[tuple[str, Dim, Dim]], panel: Alloc, lanes: int, target: Target
) -> None:
    """Fill the rows of a panel. `depth` lists (name, extent, step in the operand) of the contracted axes, outermost
    first; rows are counted through."""
    *outer, (name, extent, step) = depth
    row: Dim = 0
    base = strip.base
    with _loops(k, outer) as at:
        for (_, size, move), place in zip(outer, at):
            row = row * size + place
            base = base + place * move
        row = row * extent
        if strip.step != 1 and step == 1 and transposes(panel.dtype, target):
            _turned(k, strip, base, row, name, extent, panel, target)
            return
        with k.loop(name, extent) as j:
            _copied(k, strip, base + j * step, row + j, panel, lanes)


def _copied(k: Builder, strip: Strip, base: Dim, row: Dim, panel: Alloc, lanes: int) -> None:
    """One row, vector by vector."""
    with k.loop("u", strip.width, step=lanes, kind="unrolled") as u:
        if strip.left is not None:
            with k.vector("l", lanes) as lane:
                k.store(panel, row * strip.width + u + lane, Const(zero(panel.dtype), panel.dtype))
        stop = lanes if strip.left is None else minimum(lanes, strip.left - u)
        with k.vector("l", lanes, stop) as lane:
            value = Load(strip.buffer.name, (base + (u + lane) * strip.step,), strip.buffer.dtype)
            k.store(panel, row * strip.width + u + lane, cast(value, panel.dtype))


def transposes(dtype: DType, target: Target) -> bool:
    """Whether blocks are turned round in registers: of elements as wide as shuffles move them."""
    return dtype.bytes in (4, 8) and target.lanes(dtype) > 1


def _turned(
    k: Builder, strip: Strip, base: Dim, row: Dim, name: str, extent: Dim, panel: Alloc, target: Target
) -> None:
    """Square blocks of whole registers, transposed; the last few rows one by one.

    Element i of a block moves to the place whose number is i with its bits rotated; to take every other element of a
    pair of registers is to rotate by one, so log2(side) rounds of it turn a block of side * side.
    """
    dtype = panel.dtype
    side = target.lanes(dtype)
    whole = extent // side * side
    with k.loop("n", strip.width, step=side) as n, k.loop(name, whole, step=side) as j:
        block = k.registers("t", dtype, (side * side,))
        with k.loop("r", side, kind="unrolled") as r:
            place: Dim = n + r if strip.left is None else minimum(n + r, strip.left - 1)
            with k.vector("l", side) as lane:
                value = Load(strip.buffer.name, (base + place * strip.step + j + lane,), strip.buffer.dtype)
                k.store(block, side * r + lane, cast(value, dtype))
        for _ in range(side.bit_length() - 1):
            turned = k.registers("t", dtype, (side * side,))
            for odd in (0, 1):
                with k.loop("r", side // 2, kind="unrolled") as r, k.vector("l", side) as lane:
                    value = Load(block.name, (2 * side * r + 2 * lane + odd,), dtype)
                    k.store(turned, side * r + side * side // 2 * odd + lane, value)
            block = turned
        with k.loop("r", side, kind="unrolled") as r, k.vector("l", side) as lane:
            k.store(panel, (row + j + r) * strip.width + n + lane, Load(block.name, (side * r + lane,), dtype))
    if extent % side != 0:
        with k.loop(name, extent, start=whole) as j, k.loop("n", strip.width, step=side) as n:
            stop = side if strip.left is None else minimum(side, strip.left - n)
            if strip.left is not None:
                with k.vector("l", side) as lane:
                    k.store(panel, (row + j) * strip.width + n + lane, Const(zero(dtype), dtype))
            with k.vector("l", side, stop) as lane:
                value = Load(strip.buffer.name, (base + (n + lane) * strip.step + j,), strip.buffer.dtype)
                k.store(panel, (row + j) * strip.width + n + lane, cast(value, dtype))


@contextmanager
def _loops(k: Builder, axes: Sequence[tuple[str, Dim, Dim]]) -> Iterator[list[Dim]]:
    with ExitStack() as stack:
        yield [stack.enter_context(k.loop(name, extent)) for name, extent, _ in axes]
