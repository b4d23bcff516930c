"""Maps: one pass over the results, everything between computed in registers.

Results of one shape share a nest. Axes along which every access runs on as if they were one are joined, so most nests
are a single loop over all elements; the innermost axis is cut into vectors, the outermost into pieces for threads.
Where padding or concatenation make a position fall outside an operand, the space is cut there and each part is a nest
without conditions; only what cannot be cut so is computed under a mask.

A result may overwrite an operand when each of its elements is read at the position that it is written to, and by
nothing later; otherwise the kernel is refused (TD0433), never wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

from ...ir.dims import Dim, known_le, linear, minimum, product, symbol
from ...ir.errors import Unsupported
from ...ir.graph import Graph
from ...ir.loops.affine import NO_LOOPS, Ranges, depends
from ...ir.loops.build import all_exprs, stored
from ...ir.loops.nodes import For, Kernel, Load, Param, Stmt, Store
from ...ir.ops.families import Composite, Contraction, Control, Movement, Reduction
from ...ir.ops.movement import Concatenate, Iota
from ...ir.program import KernelDef
from ...ir.target import Target
from ...ir.types import Shape, TupleType
from ...ir.value import After, Constant, DimSize, Elementwise, Full, Get, Value
from .. import simd, threads
from ..lower import rules
from ..lower.compose import MOST_TABLE_BYTES, Bound, Composer, Lanes, Position, Source
from ..schedule import Axis, merged
from ..tidy import numerics

Block: TypeAlias = tuple[Stmt, ...]
# Appends to a composer what is done at one position of a space.
Write: TypeAlias = Callable[[Composer, Position], None]
LETTERS: Final = "ijklmn"
MOST_PARTS: Final = 27  # of a space cut at its paddings


def takes(graph: Graph, target: Target) -> bool:
    """Whether every op is a map."""
    return all(is_map(value) for value in graph.ops)


def is_map(value: Value) -> bool:
    """Whether the value at a position needs its operands at a few positions: it can be computed where it is read."""
    if isinstance(value, Elementwise | Movement | Concatenate | Iota | Full | DimSize | After):
        return True
    if isinstance(value, Constant):
        return value.data.nbytes <= MOST_TABLE_BYTES
    if isinstance(value, Reduction | Contraction | Composite | Control | Get):
        return False
    if isinstance(value, tuple(rules())):
        return True
    structure = value.structure()
    return structure is not None and structure.combine is None


def elementwise(definition: KernelDef, target: Target) -> Kernel:
    """The kernel of a graph of maps."""
    source = Source(definition)
    spaces: dict[Shape, list[tuple[Value, Param]]] = {}
    for value, out in zip(source.graph.results, source.outs):
        spaces.setdefault(value.shape, []).append((value, out))
    blocks = [space(source, shape, stores(shape, results, target), target) for shape, results in spaces.items()]
    refuse_hazards(source, blocks)
    body = tuple(itertools.chain.from_iterable(blocks))
    return Kernel(definition.name, tuple(source.params), source.dims, body, tuple(source.tables.values()))


def stores(shape: Shape, results: Sequence[tuple[Value, Param]], target: Target) -> Write:
    """Each result of that shape to its buffer, past the caches where it would fill them."""

    def write(composer: Composer, position: Position) -> None:
        values = [(out, composer.at(value, position)) for value, out in results]
        at = composer.offset(position, shape)
        composer.out.extend([Store(out.name, (at,), value, simd.streams(out, target)) for out, value in values])

    return write


def space(source: Source, shape: Shape, write: Write, target: Target, around: Ranges = NO_LOOPS) -> Block:
    """The nests over a space, `write` composing what is done at one position of it. `around` are the loops in which it
    stands."""
    if any(extent == 0 for extent in shape):
        return ()
    axes = [
        Axis(source.names.fresh(LETTERS[i % len(LETTERS)]), 0, extent) for i, extent in enumerate(shape) if extent != 1
    ]
    composer = written(source, shape, axes, write, around)
    if not composer.undecided and not composer.has_variables:
        return nest(composer, axes, target)
    body: list[Stmt] = []
    for part in parts(axes, tuple(composer.undecided), source):
        composer = written(source, shape, part, write, around)
        if composer.has_variables:
            body.extend(guarded(source, shape, part, write, target, around))
        else:
            body.extend(nest(composer, part, target))
    return tuple(body)


def written(
    source: Source,
    shape: Shape,
    axes: Sequence[Axis],
    write: Write,
    around: Ranges,
    lanes: Lanes | None = None,
) -> Composer:
    """What is done at one position of the space, composed. With `lanes`, the innermost axis is the position of the
    first lane."""
    ranges: dict[str, tuple[Dim, Dim]] = {**around, **{axis.var: (axis.start, axis.stop) for axis in axes}}
    places = [symbol(axis.var) for axis in axes]
    if lanes is not None:
        inner = axes[-1]
        ranges[lanes.var] = (0, inner.stop - symbol(inner.var))
        places[-1] = symbol(inner.var) + symbol(lanes.var)  # type: ignore[assignment]
    left = iter(places)
    position = tuple([0 if extent == 1 else next(left) for extent in shape])
    composer = Composer(source, ranges=ranges, lanes=lanes, rules=rules())
    write(composer, position)
    return composer


# --- cutting at paddings ----------------------------------------------------------------------------------------------


def parts(axes: Sequence[Axis], bounds: Sequence[Bound], source: Source) -> list[list[Axis]]:
    """The space cut where the bounds begin or cease to hold along one axis, whole where no axis says that alone."""
    cuts: dict[str, list[Dim]] = {axis.var: [] for axis in axes}
    for dim, low, high, divisor in bounds:
        moving = [axis.var for axis in axes if depends(dim, axis.var)]
        if divisor != 1 or len(moving) != 1:
            continue
        parted = linear(dim, moving[0])
        if parted is None or parted[0] not in (1, -1):
            continue
        step, rest = parted
        ends = (low - rest, high - rest) if step == 1 else (rest - high + 1, rest - low + 1)
        cuts[moving[0]].extend(ends)
    pieces: list[list[Axis]] = []
    count = 1
    for axis in axes:
        ordered = in_order(cuts[axis.var], axis, source)
        count *= len(ordered) - 1
        if count > MOST_PARTS:
            pieces.append([axis])
        else:
            pieces.append([Axis(axis.var, a, b) for a, b in itertools.pairwise(ordered)])
    return [list(chosen) for chosen in itertools.product(*pieces)]


def in_order(ends: Sequence[Dim], axis: Axis, source: Source) -> list[Dim]:
    """The distinct ends inside the axis, ascending; the axis alone where their order is not known."""
    result: list[Dim] = []
    for end in dict.fromkeys(ends):
        if known_le(end, axis.start, source.known) or known_le(axis.stop, end, source.known):
            continue
        place = 0
        while place < len(result) and known_le(result[place], end, source.known):
            place += 1
        if any(not known_le(end, later, source.known) for later in result[place:]):
            return [axis.start, axis.stop]
        # An end that may lie outside the axis cannot cut it.
        if not (known_le(axis.start, end, source.known) and known_le(end, axis.stop, source.known)):
            return [axis.start, axis.stop]
        result.insert(place, end)
    return [axis.start, *result, axis.stop]


# --- one nest ---------------------------------------------------------------------------------------------------------


def nest(composer: Composer, axes: Sequence[Axis], target: Target) -> Block:
    """The composed body in loops: joined, vectorized, divided among threads."""
    source = composer.source
    (body,) = numerics(target, tuple(composer.out))
    axes, (body,) = merged(axes, (body,))
    if not axes:
        return body
    dtypes = simd.dtypes_in(body)
    lanes = simd.lanes_of(dtypes)
    weight = simd.weigh(body)
    unroll = simd.unroll_of(weight)
    *outer, inner = axes
    loop = For(inner.var, inner.start, inner.stop, 1, "serial", body)
    if not outer:
        divided = threads.divided(loop, weight.total, source.names, lanes * unroll)
        if divided is loop:
            return simd.strips(loop, lanes, unroll, source.names)
        *lets, piece = divided.body
        assert isinstance(piece, For)
        strips = simd.strips(piece, lanes, unroll, source.names)
        return (For(divided.var, divided.start, divided.stop, 1, "parallel", (*lets, *strips)),)
    block = simd.strips(loop, lanes, unroll, source.names)
    for axis in reversed(outer[1:]):
        block = (For(axis.var, axis.start, axis.stop, 1, "serial", block),)
    first = outer[0]
    rows = For(first.var, first.start, first.stop, 1, "serial", block)
    below = product([axis.extent for axis in axes[1:]])
    row = weight.total * below if type(below) is int else threads.GRAIN
    return (threads.divided(rows, row, source.names),)


def guarded(
    source: Source, shape: Shape, axes: Sequence[Axis], write: Write, target: Target, around: Ranges
) -> Block:
    """A nest in which some loads depend on where they fall: every vector counts its lanes from 0, by which the loaded
    values are kept, and the loads are under a mask."""
    if not axes:
        return numerics(target, tuple(written(source, shape, axes, write, around).out))[0]
    count = simd.lanes_of([value.dtype for value in source.graph.order if not isinstance(value.type, TupleType)])
    lanes = Lanes(source.names.fresh("l"), count)
    composer = written(source, shape, axes, write, around, lanes)
    (body,) = numerics(target, tuple(composer.out))
    *outer, inner = axes
    vector = For(lanes.var, 0, minimum(count, inner.stop - symbol(inner.var)), 1, "vector", body, count)
    block: Block = (For(inner.var, inner.start, inner.stop, count, "serial", (*composer.header, vector)),)
    for axis in reversed(outer[1:]):
        block = (For(axis.var, axis.start, axis.stop, 1, "serial", block),)
    if not outer:
        return block
    below = product([axis.extent for axis in axes[1:]])
    row = simd.weigh(body).total * below if type(below) is int else threads.GRAIN
    rows = For(outer[0].var, outer[0].start, outer[0].stop, 1, "serial", block)
    return (threads.divided(rows, row, source.names),)


# --- overwriting operands ---------------------------------------------------------------------------------------------


def refuse_hazards(source: Source, spaces: Sequence[Block]) -> None:
    """TD0433 where an element of an updated operand may be read after it was overwritten: within a space every element
    is read where it is written, and a later space does not read it."""
    updated = {out.name for out in source.outs if out.role == "inout"}
    if not updated:
        return
    overwritten: dict[str, None] = {}
    for block in spaces:
        stores = dict.fromkeys(name for name in stored(block) if name in updated)
        for straight in _straight(block):
            at = {stmt.buffer: stmt.index for stmt in straight if isinstance(stmt, Store)}
            for expr in all_exprs(straight):
                if type(expr) is Load and expr.buffer in updated:
                    elsewhere = expr.buffer in stores and at.get(expr.buffer) != expr.index
                    if expr.buffer in overwritten or elsewhere:
                        raise hazard(source, source.param(expr.buffer))
        overwritten |= stores


def hazard(source: Source, operand: Param) -> Unsupported:
    return Unsupported(
        f"{source.definition.name}: {operand.name} would be read after it was overwritten",
        code="TD0433",
        edit="leave that update out: the result then has a buffer of its own",
    )


def _straight(block: Block) -> Iterator[Block]:
    """The innermost bodies."""
    if any(isinstance(stmt, Store) for stmt in block) or not any(isinstance(stmt, For) for stmt in block):
        yield block
        return
    for stmt in block:
        if isinstance(stmt, For):
            yield from _straight(stmt.body)
