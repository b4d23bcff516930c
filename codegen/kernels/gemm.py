"""Matrix products: loops over panels and tiles round a micro-kernel.

    for each panel of columns:                  in parallel
        for each block of the contracted axis:
            pack the panel of the right operand
            for each tile of rows:
                sums of the tile, in registers:  for k: sums[r, :] += left[r, k] * panel[k, :]

The right operand is the one whose free axis is innermost in the result, so that lanes run along it; the left one is
read in place, a scalar at a time, spread over the lanes. Every sum is one chain of multiply-adds in the order of k,
whatever the blocks and the target: splitting k only puts the sums down in between. Tiles and panels
divide the sizes evenly, so that ragged sizes cost no more than their share; sizes known only at run time take tiles
whose last rows are computed twice, and panels filled up with zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

from ...ir.dims import Dim, SymbolicDim, ceildiv, linear, maximum, minimum, product, symbol
from ...ir.dtypes import DType, bool_, f32, f64
from ...ir.graph import Graph
from ...ir.loops.affine import delinearize, linearize
from ...ir.loops.build import Builder, and_, cast, eq, ge, index, lt, ne
from ...ir.loops.nodes import Alloc, Binary, Expr, Fma, For, Kernel, Load, LoopKind, Param, Stmt
from ...ir.program import KernelDef
from ...ir.structure import Axis as StructureAxis
from ...ir.structure import Read
from ...ir.target import Target
from ...ir.types import TensorType
from ...ir.value import Parameter
from .. import simd
from ..lower.compose import Lanes
from ..tidy import numerics
from .contraction import Problem, contraction_of
from .pack import PANEL_BYTES, Strip, packed

Block: TypeAlias = tuple[Stmt, ...]


# --- the problem ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """Neighbouring axes of the structure that run on as one: what a step moves in the operands and the result."""

    names: tuple[str, ...]
    extents: tuple[Dim, ...]
    left: Dim
    right: Dim
    out: Dim

    @property
    def extent(self) -> Dim:
        return product(self.extents)


@dataclass(frozen=True)
class Operand:
    """Where an operand lies: element `base` of the buffer is at the origin of all axes."""

    buffer: Param
    base: Dim


@dataclass(frozen=True)
class Matrices:
    """A contraction as products of matrices, one for each position of the `batch` axes."""

    problem: Problem
    left: Operand
    right: Operand
    batch: tuple[Axis, ...]
    row: Axis
    column: Axis
    depth: tuple[Axis, ...]

    @staticmethod
    def of(problem: Problem) -> Matrices | None:
        """None where the contraction is none: an operand is computed, or dilated, or the lanes would run along an axis
        that both operands have."""
        structure, op = problem.structure, problem.op
        if len(structure.reads) != 2 or not all(isinstance(x, Parameter) for x in op.operands):
            return None
        if any(read.fill is not None or read.divisors for read in structure.reads):
            return None
        if op.operands[0] is op.operands[1] or any(axis.kind == "scan" for axis in structure.axes):
            return None
        offsets = [_offset(read, problem) for read in structure.reads]
        axes: list[tuple[StructureAxis, Dim, Dim, Dim]] = []
        results = [axis for axis in structure.axes if axis.kind == "parallel"]
        out = linearize([axis.position for axis in results], op.shape)
        for axis in structure.axes:
            steps = [_step(offset, axis.name) for offset in (*offsets, out)]
            if any(step is None for step in steps):
                return None
            if axis.extent != 1:
                axes.append((axis, *steps))  # type: ignore[arg-type]
        parallel = [entry for entry in axes if entry[0].kind == "parallel"]
        reduced = [entry for entry in axes if entry[0].kind == "reduce"]
        if any(x == 0 or y == 0 for _, x, y, _ in reduced):
            return None
        # The lanes run along the innermost axis of the result; whose it is, is the right operand.
        swapped = False
        if parallel:
            _, x, y, _ = parallel[-1]
            if x != 0 and y != 0:
                return None
            swapped = x != 0
        made = [
            Axis((axis.name,), (axis.extent,), *((y, x) if swapped else (x, y)), step) for axis, x, y, step in axes
        ]
        number = len(parallel)
        free, depth = _joined(made[:number]), _joined(made[number:])
        columns = [axis for axis in free if axis.left == 0 and axis.right != 0]
        rows = [axis for axis in free if axis.left != 0 and axis.right == 0]
        if not columns:
            return None
        column = columns[-1]
        row = max(rows, key=_size, default=_none())
        batch = tuple([axis for axis in free if axis is not column and axis is not row])
        sides = [
            Operand(problem.source.buffer_of[id(op.operands[read.operand])], _origin(offset, structure.axes))
            for read, offset in zip(structure.reads, offsets)
        ]
        if swapped:
            sides.reverse()
        return Matrices(problem, sides[0], sides[1], batch, row, column, tuple(depth))

    def positions(self, at: Sequence[tuple[Axis, Dim]]) -> dict[str, Dim]:
        """Where the structure's axes stand when these do; the others have one position."""
        found: dict[str, Dim] = {axis.name: 0 for axis in self.problem.structure.axes}
        for axis, place in at:
            found.update(zip(axis.names, delinearize(place, axis.extents)))
        return found


def _none() -> Axis:
    return Axis((), (), 0, 0, 0)


def _size(axis: Axis) -> int:
    extent = axis.extent
    return extent if type(extent) is int else 1 << 20


def _offset(read: Read, problem: Problem) -> Dim:
    return linearize(read.index, problem.op.operands[read.operand].shape)


def _step(offset: Dim, name: str) -> Dim | None:
    parts = linear(offset, name)
    return None if parts is None else parts[0]


def _origin(offset: Dim, axes: Sequence[StructureAxis]) -> Dim:
    for axis in axes:
        parts = linear(offset, axis.name)
        assert parts is not None
        offset = parts[1]
    return offset


def _joined(axes: Sequence[Axis]) -> list[Axis]:
    """Neighbours joined where a step of the outer one moves as far as all steps of the inner one, everywhere."""
    result: list[Axis] = []
    for axis in axes:
        before = result[-1] if result else None
        if before is not None and all(
            a == b * axis.extent
            for a, b in ((before.left, axis.left), (before.right, axis.right), (before.out, axis.out))
        ):
            names, extents = (*before.names, *axis.names), (*before.extents, *axis.extents)
            result[-1] = Axis(names, extents, axis.left, axis.right, axis.out)
        else:
            result.append(axis)
    return result


# --- sizes of tiles ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """An extent in `first` pieces of `size` and `rest` pieces of one less. An extent not known before run time has
    pieces of `size`, and if `ragged` a last one that is less."""

    size: int
    first: Dim
    rest: int = 0
    ragged: bool = False

    @property
    def count(self) -> Dim:
        return self.first + self.rest

    @staticmethod
    def of(extent: int, most: int) -> Cut:
        """As few pieces of at most `most` as there can be, and as even."""
        pieces = max(-(-extent // most), 1)
        size = max(-(-extent // pieces), 1)
        rest = pieces * size - extent
        return Cut(size, pieces - rest, rest)

    def start(self, number: Dim) -> Dim:
        return number * self.size

    def start_of_rest(self, number: Dim) -> Dim:
        return number * (self.size - 1) + self.first

    def pieces(self) -> list[tuple[int, int]]:
        """(size, how many) of a known extent."""
        assert type(self.first) is int
        return [(size, count) for size, count in ((self.size, self.first), (self.size - 1, self.rest)) if count]


@dataclass(frozen=True)
class Plan:
    """What is decided of a product: tiles of rows, panels of vectors of `lanes`, the contracted axis in blocks of
    `deep`, whether panels are packed, rows in blocks of so many tiles (0: in one)."""

    lanes: int
    rows: Cut
    columns: Cut
    deep: Dim
    packs: bool
    block: int
    parallel: bool


GUESS: Final = 256  # for sizes known only at run time
MOST_ROWS: Final = 14
SERIAL: Final = 1 << 20  # multiply-adds below which threads are not asked: some 10 us


def tiles(target: Target) -> Iterator[tuple[int, int]]:
    """(rows, vectors) of the tiles whose sums stay in registers, beside a row of the panel and a scalar.

    A vector is 64 bytes on every target and may be several registers. With 32 registers of 64 bytes: 6x4, 9x3, 14x2,
    which reach the peak (measured; one more row spills, one vector alone loads as often as it multiplies).
    """
    each = max(8 * simd.VECTOR_BYTES // target.vector_bits, 1)
    for vectors in (4, 3, 2, 1):
        rows = (target.vector_registers - 1 - vectors * each) // (vectors * each)
        if rows > 0:
            yield min(rows, MOST_ROWS), vectors


def planned(matrices: Matrices, kept: DType, target: Target, blocks_allowed: bool) -> Plan:
    """The tile with the least time for these sizes.

    A step of k costs a tile the largest of its multiply-adds, its loads, and the latency of a multiply-add. Beginning
    and ending a tile costs about two steps for each of its sums, again for every block of k. A panel must fit
    PANEL_BYTES: that is what the stack of a thread holds, and with it a second-level cache, from which a panel is read
    at full speed.
    """
    lanes = max(simd.VECTOR_BYTES // kept.bytes, 1)
    m, n, k = matrices.row.extent, matrices.column.extent, product([axis.extent for axis in matrices.depth])
    height = m if type(m) is int else GUESS
    width = -(-(n if type(n) is int else GUESS) // lanes)
    depth = k if type(k) is int else 2 * GUESS
    best: tuple[float, int, int] | None = None
    for rows, vectors in tiles(target):
        blocks = max(-(-depth // deepest(vectors)), 1)
        cost = 0.0
        for h, a in Cut.of(height, rows).pieces():
            for v, b in Cut.of(width, vectors).pieces():
                step = max(h * v / target.fma_pipes, h / 2 + v, 4)
                cost += a * b * (depth * step + blocks * (2 * h * v + 10))
        if best is None or cost < best[0]:
            best = (cost, rows, vectors)
    assert best is not None
    _, rows, vectors = best
    rows_cut = Cut.of(m, rows) if type(m) is int else Cut(rows, m // rows, 0, True)
    columns = Cut.of(width, vectors) if type(n) is int else Cut(vectors, n // (vectors * lanes), 0, True)
    few = type(m) is int and m <= 2 * rows_cut.size
    whole = type(n) is int and columns.count == 1
    packs = matrices.column.right != 1 or not (few or whole)
    most = deepest(columns.size)
    blocks = max(-(-depth // most), 1)
    deep: Dim = k
    if packs and (type(k) is not int or blocks > 1):
        if len(matrices.depth) == 1 and blocks_allowed:
            deep = -(-depth // blocks) if type(k) is int else most
        else:
            packs = False
    units = product([*[axis.extent for axis in matrices.batch], columns.count])
    work = product([units, height, depth, columns.size * lanes])
    tall = rows_cut.count if type(rows_cut.count) is int else GUESS // rows
    block = 0
    if type(units) is int and units < 2 * target.cores and tall * rows_cut.size >= 256:
        block = -(-tall // min(-(-2 * target.cores // max(units, 1)), tall * rows_cut.size // 128))
    return Plan(lanes, rows_cut, columns, deep, packs, block, type(work) is not int or work >= SERIAL)


def deepest(vectors: int) -> int:
    """Rows of a panel of so many vectors."""
    return max(PANEL_BYTES // (vectors * simd.VECTOR_BYTES), 1)


# --- the kernel -------------------------------------------------------------------------------------------------------


def takes(graph: Graph, target: Target) -> bool:
    return matrices_of(KernelDef("kernel", graph)) is not None


def matrices_of(definition: KernelDef) -> Matrices | None:
    """The products of matrices that a group is, None for another one."""
    op = contraction_of(definition.graph)
    if op is None or any(extent == 0 for extent in op.shape):
        return None
    if any(isinstance(x.type, TensorType) and x.dtype.kind == "complex" for x in definition.graph.order):
        return None
    return Matrices.of(Problem.of(definition))


def gemm(definition: KernelDef, target: Target) -> Kernel:
    """The kernel of a group whose contraction is a product of matrices."""
    matrices = matrices_of(definition)
    assert matrices is not None
    return matrices.problem.kernel(_Gemm(matrices, target).block())


def partials(problem: Problem, kept: DType) -> Param | None:
    """A result whose memory can hold unfinished sums: of their type, and no operand's memory."""
    for out in problem.source.outs:
        if out.dtype is kept and out.role == "out":
            return out
    return None


@dataclass(frozen=True)
class _Span:
    """`size` neighbours from `start` on; with `left`, only so many of them are there, at least one."""

    start: Dim
    size: int
    left: Dim | None = None


class _Gemm:
    """Writes the loops of one problem."""

    def __init__(self, matrices: Matrices, target: Target) -> None:
        self.matrices = matrices
        self.problem = matrices.problem
        self.target = target
        source = self.problem.source
        self.k = Builder(source.definition.name, source.dims, source.names)
        monoid = self.problem.structure.combine
        assert monoid is not None
        self.monoid = monoid
        self.kept = monoid.dtypes[0]
        self.sums = partials(self.problem, self.kept)
        self.plan = planned(matrices, self.kept, target, self.sums is not None)
        self.fuses = self.kept in (f32, f64) and target.has("fma")
        self.ranges: dict[str, tuple[Dim, Dim]] = {}
        self.at: list[tuple[Axis, Dim]] = []
        self.panel: Alloc | None = None

    @contextmanager
    def loop(self, name: str, stop: Dim, start: Dim = 0, step: int = 1, kind: LoopKind = "serial") -> Iterator[Dim]:
        with self.k.loop(name, stop, start=start, step=step, kind=kind) as var:
            self.ranges[str(var)] = (start, stop)
            yield var
            del self.ranges[str(var)]

    @contextmanager
    def vector(self, stop: Dim | None = None) -> Iterator[SymbolicDim]:
        """The lanes of a vector, of which the first `stop` are on."""
        lanes = self.plan.lanes
        end = lanes if stop is None else minimum(lanes, stop)
        with self.k.vector("l", lanes, end) as var:
            yield var

    # Panels.

    def block(self) -> Block:
        plan, cut = self.plan, self.plan.columns
        kind: LoopKind = "parallel" if plan.parallel else "serial"
        with ExitStack() as stack:
            for axis in self.matrices.batch:
                self.at.append((axis, stack.enter_context(self.loop("b", axis.extent, kind=kind))))
            width = cut.size * plan.lanes
            extent = self.matrices.column.extent
            count = ceildiv(extent, width) if cut.ragged else cut.count
            tiles_ = ceildiv(self.matrices.row.extent, plan.rows.size) if plan.rows.ragged else plan.rows.count
            blocks = ceildiv(tiles_, plan.block) if plan.block else 1
            row_block = stack.enter_context(self.loop("q", blocks, kind=kind)) if blocks != 1 else None
            number = stack.enter_context(self.loop("p", count, kind=kind))
            if row_block is None:
                tile_range: tuple[Dim, Dim] = (0, tiles_)
            else:
                end = self.k.let("end", index(minimum(row_block * plan.block + plan.block, tiles_)))
                tile_range = (row_block * plan.block, symbol(end.name))
            if plan.packs:
                rows = plan.deep if type(plan.deep) is int else deepest(cut.size)
                self.panel = self.k.alloc("panel", self.kept, (rows * width,))
            masked = type(extent) is not int or extent % plan.lanes != 0
            if cut.ragged and not plan.packs:
                # Masks would stand in the innermost loop, so whole panels have a loop of their own.
                with self.k.if_(lt(index(number), index(cut.first))):
                    self.strip(_Span(number * width, width), tile_range)
                with self.k.else_():
                    self.strip(_Span(number * width, width, extent - number * width), tile_range)
            elif cut.rest == 0:
                start = number * width
                self.strip(_Span(start, width, extent - start if masked else None), tile_range)
            else:
                small = width - plan.lanes
                start = number * small + cut.first * plan.lanes
                thinner = _Span(start, small, extent - start if masked else None)
                if cut.first == 0:
                    self.strip(thinner, tile_range)
                else:
                    with self.k.if_(lt(index(number), index(cut.first))):
                        self.strip(_Span(number * width, width), tile_range)
                    with self.k.else_():
                        self.strip(thinner, tile_range)
        return self.k.statements()

    def strip(self, columns: _Span, tile_range: tuple[Dim, Dim]) -> None:
        """One panel: packed block by block, times all tiles of rows."""
        depth = self.matrices.depth
        whole = product([axis.extent for axis in depth])
        deep = self.plan.deep
        if whole == deep:
            self.packed(columns, 0, [axis.extent for axis in depth])
            self.tiles(columns, tile_range, 0, [axis.extent for axis in depth])
            return
        assert type(deep) is int
        with self.loop("d", whole, step=deep) as start:
            extent: Dim = deep
            if type(whole) is not int or whole % deep:
                extent = symbol(self.k.let("n", index(minimum(deep, whole - start))).name)
            self.packed(columns, start, [extent])
            self.tiles(columns, tile_range, start, [extent])

    def packed(self, columns: _Span, start: Dim, extents: Sequence[Dim]) -> None:
        if self.panel is None:
            return
        right, axis, depth = self.matrices.right, self.matrices.column, self.matrices.depth
        base = right.base + columns.start * axis.right + start * depth[-1].right
        for each, place in self.at:
            base = base + place * each.right
        strip = Strip(right.buffer, base, axis.right, columns.size, columns.left)
        loops = [("k", extent, each.right) for each, extent in zip(depth, extents, strict=True)]
        packed(self.k, strip, loops, self.panel, self.plan.lanes, self.target)

    # Tiles.

    def tiles(self, columns: _Span, tile_range: tuple[Dim, Dim], start: Dim, extents: Sequence[Dim]) -> None:
        cut, extent = self.plan.rows, self.matrices.row.extent
        first, last = tile_range
        one = self.plan.block == 0

        def between(low: Dim, high: Dim, name: str) -> tuple[Dim, Dim]:
            """[low, high) within the tiles of this block."""
            if one:
                return low, high
            ends = (maximum(first, low), minimum(last, high))
            a, b = (symbol(self.k.let(name, index(end)).name) for end in ends)
            return a, b

        if cut.ragged:
            low, high = between(0, cut.first, "t")
            with self.loop("i", high, low) as number:
                self.tile(_Span(number * cut.size, cut.size), columns, start, extents)
            left = extent - cut.first * cut.size
            here = ne(index(left), 0)
            with self.k.if_(here if one else and_(here, lt(index(cut.first), index(last)))):
                self.tile(_Span(cut.first * cut.size, cut.size, left), columns, start, extents)
            return
        if cut.first != 0:
            low, high = between(0, cut.first, "t")
            with self.loop("i", high, low) as number:
                self.tile(_Span(cut.start(number), cut.size), columns, start, extents)
        if cut.rest:
            low, high = between(cut.first, cut.count, "t")
            with self.loop("i", high, low) as number:
                self.tile(_Span(cut.start_of_rest(number), cut.size - 1), columns, start, extents)

    def tile(self, rows: _Span, columns: _Span, start: Dim, extents: Sequence[Dim]) -> None:
        """The sums of one tile: begun or taken up, k by k, put down or finished."""
        k, matrices = self.k, self.matrices
        acc = k.registers("acc", self.kept, (rows.size, columns.size))
        whole = product([axis.extent for axis in matrices.depth])
        split = self.plan.deep != whole
        identity = self.monoid.identity[0]
        if split:
            with k.if_(eq(index(start), 0)):
                self.each(rows, columns, lambda r, c: k.store(acc, (r, c), identity))
            with k.else_():
                self.each(rows, columns, lambda r, c: k.store(acc, (r, c), self.partial(rows, columns, r, c)), True)
        else:
            self.each(rows, columns, lambda r, c: k.store(acc, (r, c), identity))
        with ExitStack() as stack:
            at = [stack.enter_context(self.loop("k", extent)) for extent in extents]
            row: Dim = 0
            for place, extent in zip(at, extents, strict=True):
                row = row * extent + place
            at = [*at[:-1], at[-1] + start] if at else []
            places = list(zip(matrices.depth, at, strict=True))

            def step(r: Dim, c: Dim) -> None:
                left = self.element(matrices.left, "left", [*places, (matrices.row, self.row(rows, r))])
                right: Expr
                if self.panel is not None:
                    right = Load(self.panel.name, (row * columns.size + c,), self.kept)
                else:
                    place = (matrices.column, columns.start + c)
                    right = self.element(matrices.right, "right", [*places, place])
                k.store(acc, (r, c), self.step(left, right, Load(acc.name, (r, c), self.kept)))

            self.each(rows, columns, step, self.panel is None)
        if not split:
            self.finish(rows, columns, acc)
            return
        with k.if_(ge(index(start + extents[-1]), index(whole))):
            self.finish(rows, columns, acc)
        with k.else_():

            def put(r: Dim, c: Dim) -> None:
                assert self.sums is not None
                k.store(self.sums, self.out(rows, columns, r, c), Load(acc.name, (r, c), self.kept))

            self.each(rows, columns, put, True, True)

    def each(
        self,
        rows: _Span,
        columns: _Span,
        body: Callable[[SymbolicDim, Dim], None],
        masked: bool = False,
        guarded: bool = False,
    ) -> None:
        """`body` for every sum of a tile. `masked`: not for columns that are not there; `guarded`: nor for rows."""
        k = self.k
        with k.loop("r", rows.size, kind="unrolled") as r, ExitStack() as stack:
            if guarded and rows.left is not None:
                stack.enter_context(k.if_(lt(index(r), index(rows.left))))
            with k.loop("u", columns.size, step=self.plan.lanes, kind="unrolled") as u:
                left = columns.left - u if masked and columns.left is not None else None
                with self.vector(left) as lane:
                    body(r, u + lane)

    def row(self, rows: _Span, r: Dim) -> Dim:
        """Where row r of a tile is read: a row that is not there reads the last one."""
        return rows.start + (r if rows.left is None else minimum(r, rows.left - 1))

    def element(self, operand: Operand, side: str, places: Sequence[tuple[Axis, Dim]]) -> Load:
        offset = operand.base
        for axis, place in (*self.at, *places):
            offset = offset + place * (axis.left if side == "left" else axis.right)
        return Load(operand.buffer.name, (offset,), operand.buffer.dtype)

    def step(self, left: Expr, right: Expr, total: Expr) -> Expr:
        left, right = cast(left, self.kept), cast(right, self.kept)
        if self.fuses:
            return Fma(left, right, total)
        if self.kept is bool_:
            return Binary("or", total, Binary("and", left, right))
        return Binary("add", total, Binary("mul", left, right))

    def out(self, rows: _Span, columns: _Span, r: Dim, c: Dim) -> Dim:
        offset: Dim = (rows.start + r) * self.matrices.row.out + (columns.start + c) * self.matrices.column.out
        for axis, place in self.at:
            offset = offset + place * axis.out
        return offset

    def partial(self, rows: _Span, columns: _Span, r: Dim, c: Dim) -> Expr:
        assert self.sums is not None
        row = r if rows.left is None else minimum(r, rows.left - 1)
        return Load(self.sums.name, (self.out(rows, columns, row, c),), self.kept)

    def finish(self, rows: _Span, columns: _Span, acc: Alloc) -> None:
        """The epilogue of a tile, and its results stored."""
        k, matrices, lanes = self.k, self.matrices, self.plan.lanes
        with k.loop("r", rows.size, kind="unrolled") as r, ExitStack() as stack:
            if rows.left is not None:
                stack.enter_context(k.if_(lt(index(r), index(rows.left))))
            with k.loop("u", columns.size, step=lanes, kind="unrolled") as u:
                name = k.names.fresh("l")
                lane = symbol(name)
                stop = lanes if columns.left is None else minimum(lanes, columns.left - u)
                ranges = {
                    **self.ranges,
                    str(r): (0, rows.size if rows.left is None else rows.left),
                    str(u): (0, columns.size),
                    name: (0, lanes if columns.left is None else columns.left - u),
                }
                at = [*self.at, (matrices.row, rows.start + r), (matrices.column, columns.start + u + lane)]
                places = matrices.positions(at)
                position = tuple([places[x.name] for x in self.problem.structure.axes if x.kind != "reduce"])
                total = self.monoid.finish((Load(acc.name, (r, u + lane), self.kept),))
                end = self.problem.epilogue(position, total, ranges, Lanes(name, lanes))
                k.emit(*end.header)
                k.emit(For(name, 0, stop, 1, "vector", numerics(self.target, tuple(end.out))[0], lanes))
