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

from ...ir.dims import (
    Atom,
    Dim,
    SymbolicDim,
    ceildiv,
    exact_div,
    known_le,
    linear,
    minimum,
    product,
    substitute,
    symbol,
)
from ...ir.errors import Unsupported
from ...ir.graph import Graph
from ...ir.loops.affine import NO_LOOPS, Ranges, coefficient, depends
from ...ir.loops.build import all_exprs, positions, rebuild, stored
from ...ir.loops.nodes import Alloc, Expr, For, Kernel, Load, Param, Stmt, Store
from ...ir.ops.families import Composite, Contraction, Control, Movement, Reduction
from ...ir.ops.movement import Concatenate, Iota
from ...ir.program import KernelDef
from ...ir.target import Target
from ...ir.types import Shape, TupleType
from ...ir.value import After, Constant, DimSize, Elementwise, Full, Get, Value
from .. import simd, threads
from ..lower import rules
from ..lower.compose import Bound, Composer, Lanes, Position, Source, in_code
from ..schedule import Axis, merged, moved, parallelize, vectorize
from ..tidy import numerics
from .transcendental import branches

Block: TypeAlias = tuple[Stmt, ...]
# Appends to a composer what is done at one position of a space.
Write: TypeAlias = Callable[[Composer, Position], None]
LETTERS: Final = "ijklmn"
SQUARE: Final = 8  # lines of an operand that lie across the results, in a tile; and tiles in a square of tiles
MOST_CROSSED: Final = 40  # operations of a body that is written out for every line of a tile
MOST_SPLITS: Final = 4  # times that an axis is cut where a reshape joined it
MOST_PARTS: Final = 27  # of a space cut at its paddings


def takes(graph: Graph, target: Target) -> bool:
    """Whether every op is a map."""
    return all(is_map(value) for value in graph.ops)


def is_map(value: Value) -> bool:
    """Whether the value at a position needs its operands at a few positions: it can be computed where it is read."""
    if isinstance(value, Elementwise | Movement | Concatenate | Iota | Full | DimSize | After):
        return True
    if isinstance(value, Constant):
        return in_code(value)
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
    sizes: list[Shape] = [() if extent == 1 else (extent,) for extent in shape]
    axes, position = laid_out(source, sizes)
    composer = written(source, position, axes, write, around)
    for _ in range(MOST_SPLITS):
        finer = divided_by(sizes, axes, composer)
        if finer is None:
            break
        sizes = finer
        axes, position = laid_out(source, sizes)
        composer = written(source, position, axes, write, around)
    if not composer.undecided and not composer.has_variables:
        return nest(composer, axes, target)
    body: list[Stmt] = []
    for part in parts(axes, tuple(composer.undecided), source):
        composer = written(source, position, part, write, around)
        if composer.has_variables:
            body.extend(guarded(source, position, part, write, target, around))
        else:
            body.extend(nest(composer, part, target))
    return tuple(body)


def laid_out(source: Source, sizes: Sequence[Shape]) -> tuple[list[Axis], Position]:
    """An axis for every size, and the position they make: an axis of the space may be several, the first the
    coarsest."""
    axes: list[Axis] = []
    position: list[Dim] = []
    for parts_ in sizes:
        place: Dim = 0
        for extent in parts_:
            axes.append(Axis(source.names.fresh(LETTERS[len(axes) % len(LETTERS)]), 0, extent))
            place = place * extent + symbol(axes[-1].var)
        position.append(place)
    return axes, tuple(position)


def divided_by(sizes: Sequence[Shape], axes: Sequence[Axis], composer: Composer) -> list[Shape] | None:
    """Finer sizes, if some position divides an axis: a reshape joined there what lies apart in an operand. None where
    no axis can be cut."""
    divisors: dict[str, Dim] = {}
    for expr in all_exprs(composer.out):
        for dim in positions(expr) if type(expr) is Load else ():
            for dividend, divisor in quotients(dim):
                for axis in axes:
                    if dividend == symbol(axis.var) and exact_div(axis.stop, divisor) is not None:
                        divisors.setdefault(axis.var, divisor)
    if not divisors:
        return None
    left = iter(axes)
    finer: list[Shape] = []
    for parts_ in sizes:
        cut: list[Dim] = []
        for extent in parts_:
            divisor = divisors.get(next(left).var, 1)
            coarse = exact_div(extent, divisor)
            cut += [extent] if divisor == 1 or coarse is None else [coarse, divisor]
        finer.append(tuple(cut))
    return finer


def quotients(dim: Dim) -> Iterator[tuple[Dim, Dim]]:
    """Every division in a position, with what is divided and by what."""
    if isinstance(dim, SymbolicDim):
        for factors, _ in dim.terms:
            for factor in factors:
                if isinstance(factor, Atom):
                    for operand in factor.operands:
                        yield from quotients(operand)
                    if factor.kind in ("floordiv", "mod"):
                        yield factor.operands[0], factor.operands[1]


def written(
    source: Source,
    position: Position,
    axes: Sequence[Axis],
    write: Write,
    around: Ranges,
    lanes: Lanes | None = None,
) -> Composer:
    """What is done at one position of the space, composed. With `lanes`, the innermost axis is the position of the
    first lane."""
    ranges: dict[str, tuple[Dim, Dim]] = {**around, **{axis.var: (axis.start, axis.stop) for axis in axes}}
    if lanes is not None:
        inner = axes[-1]
        ranges[lanes.var] = (0, inner.stop - symbol(inner.var))
        here = {inner.var: symbol(inner.var) + symbol(lanes.var)}
        position = tuple([substitute(dim, here) for dim in position])
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
    names = source.names
    block: Block = body
    for axis in reversed(axes):
        block = (For(axis.var, axis.start, axis.stop, 1, "serial", block),)
    *outer, inner = axes
    crossing = crossed(axes, body)
    if crossing is not None and weight.operations <= MOST_CROSSED:
        return crosswise(source, axes, crossing, body, lanes, unroll, weight.total)
    if weight.functions and not branches(body):
        # Long chains of operations: as lanes of one vector the two of a round advance side by side.
        lanes, unroll = lanes * unroll, 1
    # Elements of a space are independent by construction; updated operands are looked at by `refuse_hazards`.
    if not outer:
        block = parallelize(block, inner.var, weight.total, names, lanes * unroll, checked=False)
        return vectorize(block, inner.var, lanes, names, unroll, checked=False)
    first = outer[0]
    below = product([axis.extent for axis in axes[1:]])
    row = weight.total * below if type(below) is int else threads.GRAIN
    block = parallelize(block, first.var, max(row, 1), names, checked=False)
    return vectorize(block, inner.var, lanes, names, unroll, checked=False)


def crossed(axes: Sequence[Axis], body: Block) -> Axis | None:
    """The outer axis along which some operand lies, where the results lie along the innermost."""
    inner = axes[-1]
    for expr in all_exprs(body):
        if type(expr) is Load and _jumps(expr.index[0], inner.var):
            for axis in axes[:-1]:
                if coefficient(expr.index[0], axis.var) == 1:
                    return axis
    return None


def _jumps(dim: Dim, var: str) -> bool:
    step = coefficient(dim, var)
    return step is not None and step not in (0, 1, -1)


def crosswise(
    source: Source, axes: Sequence[Axis], crossing: Axis, body: Block, lanes: int, unroll: int, weight: int
) -> Block:
    """Tiles of SQUARE lines by SQUARE columns: lines of a crossing operand are read into registers as they lie, and the
    body reads its columns from there. Tiles come in squares of tiles, so that pages and lines are used up while they
    are at hand. What is left at two sides is read across."""
    names = source.names
    inner = axes[-1]
    around = [axis for axis in axes[:-1] if axis is not crossing]
    rows, columns = crossing.extent // SQUARE, inner.extent // SQUARE
    row, column, i, lane = (names.fresh(name) for name in (f"{crossing.var}t", f"{inner.var}t", "r", "l"))
    top, left = crossing.start + symbol(row) * SQUARE, inner.start + symbol(column) * SQUARE
    copies: list[Stmt] = []
    tiles: dict[tuple[str, Dim], str] = {}

    def from_tile(x: Expr) -> Expr:
        if type(x) is not Load or not _jumps(x.index[0], inner.var) or coefficient(x.index[0], crossing.var) != 1:
            return x
        key = x.buffer, x.index[0]
        if key not in tiles:
            tiles[key] = names.fresh("tile")
            line = substitute(x.index[0], {crossing.var: top + symbol(lane), inner.var: left + symbol(i)})
            read = Store(tiles[key], (symbol(i), symbol(lane)), Load(x.buffer, (line,), x.dtype))
            vector = For(lane, 0, SQUARE, 1, "vector", (read,), SQUARE)
            copies.append(Alloc(tiles[key], x.dtype, (SQUARE, SQUARE), "registers"))
            copies.append(For(i, 0, SQUARE, 1, "unrolled", (vector,)))
        return Load(tiles[key], (symbol(lane), symbol(i)), x.dtype)

    here = {crossing.var: top + symbol(i), inner.var: left + symbol(lane)}
    vector = For(lane, 0, SQUARE, 1, "vector", moved(rebuild(body, expr=from_tile), here), SQUARE)
    tile: Block = (*copies, For(i, 0, SQUARE, 1, "unrolled", (vector,)))
    big_row, big_column = names.fresh(f"{row}s"), names.fresh(f"{column}s")
    r, c = symbol(big_row) * SQUARE, symbol(big_column) * SQUARE
    loops = For(column, c, minimum(c + SQUARE, columns), 1, "serial", tile)
    loops = For(row, r, minimum(r + SQUARE, rows), 1, "serial", (loops,))
    loops = For(big_column, 0, ceildiv(columns, SQUARE), 1, "serial", (loops,))
    loops = For(big_row, 0, ceildiv(rows, SQUARE), 1, "serial", (loops,))
    low, right = crossing.start + rows * SQUARE, inner.start + columns * SQUARE
    block: list[Stmt] = []
    if rows != 0 and columns != 0:
        block.append(loops)
    rest = [
        (Axis(crossing.var, crossing.start, low), Axis(inner.var, right, inner.stop)),
        (Axis(crossing.var, low, crossing.stop), inner),
    ]
    for side, end in rest:
        if side.start != side.stop and end.start != end.stop:
            edge: Block = (For(end.var, end.start, end.stop, 1, "serial", body),)
            edge = vectorize(edge, end.var, lanes, names, checked=False)
            block.append(For(side.var, side.start, side.stop, 1, "serial", edge))
    if not around:
        work = weight * inner.extent * SQUARE * SQUARE
        loops = threads.divided(loops, work if type(work) is int and work else threads.GRAIN, names)
        return (loops, *block[1:]) if rows != 0 and columns != 0 else tuple(block)
    below = product([axis.extent for axis in (*around[1:], crossing, inner)])
    result: Block = tuple(block)
    for axis in reversed(around):
        result = (For(axis.var, axis.start, axis.stop, 1, "serial", result),)
    work = weight * below if type(below) is int else threads.GRAIN
    return parallelize(result, around[0].var, max(work, 1), names, checked=False)


def guarded(
    source: Source, position: Position, axes: Sequence[Axis], write: Write, target: Target, around: Ranges
) -> Block:
    """A nest in which some loads depend on where they fall: every vector counts its lanes from 0, by which the loaded
    values are kept, and the loads are under a mask."""
    if not axes:
        return numerics(target, tuple(written(source, position, axes, write, around).out))[0]
    count = simd.lanes_of([value.dtype for value in source.graph.order if not isinstance(value.type, TupleType)])
    lanes = Lanes(source.names.fresh("l"), count)
    composer = written(source, position, axes, write, around, lanes)
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
    return (threads.divided(rows, max(row, 1), source.names),)


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
