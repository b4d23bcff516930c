"""Matrix products: loops over panels and tiles round a micro-kernel.

    for each panel of columns:                  in parallel
        for each block of the contracted axis:
            pack the panel of the right operand
            for each tile of rows:
                sums of the tile, in registers:  for k: sums[r, :] += left[r, k] * panel[k, :]

The right operand is the one whose free axis is innermost in the result, so that lanes run along it; the left one is
read in place, a scalar at a time, spread over the lanes. A convolution is such a product too, whose depth are the
channels and the window and whose rows overlap; where its windows leave the operand, they read a copy with zeros around
it, and so need no bounds. An operand that is computed, the prologue of the product, is computed as it is packed, once.

Every sum is one chain of multiply-adds in the order of k, whatever the blocks and the target: splitting k only puts the
sums down in between. (Of two bf16 operands the second of each pair of steps comes first, as the instructions for them
have it.) Short integers and bf16 are multiplied by dot products of words that join neighbours along k, where the target
has an instruction for them. Tiles and panels divide the sizes evenly, so that ragged sizes cost no more than their
share; sizes known only at run time take tiles whose last rows are computed twice, and panels filled up with zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Final, TypeAlias

from ...ir.classes import dataclass
from ...ir.dims import Dim, SymbolicDim, ceildiv, known_le, linear, maximum, minimum, product, substitute, symbol
from ...ir.dtypes import DType, bf16, bool_, f32, f64, holds, i8, i16, i32, u8, u32
from ...ir.graph import Graph
from ...ir.loops.affine import delinearize, depends, linearize
from ...ir.loops.build import Builder, and_, cast, eq, ge, index, lt, ne
from ...ir.loops.nodes import Alloc, Binary, Const, Expr, Fma, For, Kernel, Load, LoopKind, Param, Stmt
from ...ir.ops.elementwise import Convert, Pow
from ...ir.ops.movement import Broadcast
from ...ir.program import KernelDef
from ...ir.structure import Axis as StructureAxis
from ...ir.structure import Read, zero
from ...ir.target import Target
from ...ir.types import Shape, TensorType
from ...ir.value import Constant, DimSize, Elementwise, Full, Parameter, Value
from .. import simd
from ..isa.generic import DOT2_BF16, DOT2_I16, DOT4_U8I8
from ..isa.spec import Instruction
from ..lower import rules
from ..lower.compose import Composer, Lanes, is_one_number
from ..tidy import numerics
from .contraction import Problem, contraction_of, nest
from .pack import PANEL_BYTES, Element, Place, Strip, lying, packed

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
class Surround:
    """A copy of an operand that windows read without bounds: `low` zeros before its elements along each axis, `gap - 1`
    between them, and as many behind as make `padded`. A negative `low` leaves elements out."""

    given: TensorType
    low: Shape
    gaps: tuple[int, ...]
    padded: Shape


@dataclass(frozen=True)
class Operand:
    """What an operand is and where it lies: element `base` of the buffer is at the origin of all axes, or of the array
    that it would be where it is computed and has no buffer. `index` are its positions by the structure's axes. With
    `surround` it is a copy that is read; `windowed` says that steps of different axes meet in one element."""

    value: Value
    index: Shape
    buffer: Param | None
    base: Dim
    surround: Surround | None = None
    windowed: bool = False

    @property
    def dtype(self) -> DType:
        return self.value.dtype if self.buffer is None else self.buffer.dtype

    @property
    def lies(self) -> Param:
        """The buffer of one that is not computed."""
        assert self.buffer is not None
        return self.buffer


@dataclass(frozen=True)
class Arrangement:
    """Which axes are the columns, along which lanes run, and the rows of each product, with the steps of the operands
    exchanged or not."""

    column: Axis
    row: Axis
    batch: tuple[Axis, ...]
    depth: tuple[Axis, ...]

    @staticmethod
    def of(axes: Sequence[tuple[StructureAxis, Dim, Dim, Dim]], free: int, swapped: bool) -> Arrangement | None:
        """Of structure axes with their steps in both operands and the result, the first `free` of them not contracted;
        None where the right operand has no axis of its own."""
        made = [Axis((axis.name,), (axis.extent,), *((y, x) if swapped else (x, y)), step) for axis, x, y, step in axes]
        joined = _joined(made[:free])
        columns = [axis for axis in joined if axis.left == 0 and axis.right != 0]
        rows = [axis for axis in joined if axis.left != 0 and axis.right == 0]
        if not columns:
            return None
        column = columns[-1]
        row = max(reversed(rows), key=_size, default=_none())
        batch = tuple([axis for axis in joined if axis is not column and axis is not row])
        return Arrangement(column, row, batch, tuple(_joined(_in_order(made[free:]))))

    def cost(self, lanes: int) -> float:
        """About the cycles that all sums take; infinite where a size is not known. One vector alone loads as often as
        it multiplies, and stores to places apart go one by one."""
        sizes = [axis.extent for axis in (self.column, self.row, *self.batch, *self.depth)]
        if not all(type(size) is int for size in sizes):
            return math.inf
        vectors = -(-_size(self.column) // lanes)
        others = math.prod([_size(axis) for axis in (self.row, *self.batch) if axis.names])
        steps = math.prod(map(_size, self.depth)) * (2 if vectors == 1 else 1)
        return vectors * others * (steps + (2 if self.column.out == 1 else 3 * lanes))


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
        """None where the contraction is none: an operand is computed by more than arithmetic of its elements, or the
        lanes would run along an axis that both operands have."""
        structure, op = problem.structure, problem.op
        if len(structure.reads) != 2 or any(axis.kind == "scan" for axis in structure.axes):
            return None
        assert structure.combine is not None
        values = [given(op.operands[read.operand], structure.combine.dtypes[0]) for read in structure.reads]
        if not all(isinstance(value, Parameter) or is_prologue(value) for value in values):
            return None
        buffers = [problem.source.buffer_of.get(id(value)) for value in values]
        windows = [any(len(_moving(at, structure.axes)) > 1 for at in read.index) for read in structure.reads]
        surrounds: list[Surround | None] = []
        offsets: list[Dim] = []
        for read, value, buffer, windowed in zip(structure.reads, values, buffers, windows):
            shape, index = value.shape, read.index
            surround = None
            if read.fill is not None or read.divisors or (windowed and buffer is None):
                surround = surrounded(read, value.tensor, structure.axes)
                if surround is None:
                    return None
                shape = surround.padded
                index = tuple([at + low for at, low in zip(index, surround.low)])
            surrounds.append(surround)
            offsets.append(linearize(index, shape))
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
        if parallel and parallel[-1][1] != 0 and parallel[-1][2] != 0:
            return None
        # The lanes run along the innermost axis of the result, and whose it is, is the right operand; or along one of
        # the other operand, where that is so much better that stores apart from each other do not matter.
        inner = bool(parallel) and parallel[-1][1] != 0
        lanes = max(simd.VECTOR_BYTES // structure.combine.dtypes[0].bytes, 1)
        found: list[tuple[float, bool, Arrangement]] = []
        for swapped in (inner, not inner):
            arranged = Arrangement.of(axes, len(parallel), swapped)
            if arranged is not None:
                found.append((arranged.cost(lanes), swapped, arranged))
            elif swapped is inner:
                return None
        cost, swapped, chosen = found[0]
        if len(found) > 1 and found[1][0] < WORTH_SCATTERING * cost:
            _, swapped, chosen = found[1]
        column, row, batch, depth = chosen.column, chosen.row, chosen.batch, chosen.depth
        sides = [
            Operand(value, read.index, buffer, _origin(offset, structure.axes), surround, windowed)
            for value, read, buffer, offset, surround, windowed in zip(
                values, structure.reads, buffers, offsets, surrounds, windows
            )
        ]
        if swapped:
            sides.reverse()
        return Matrices(problem, sides[0], sides[1], batch, row, column, depth)

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


def _moving(index: Dim, axes: Sequence[StructureAxis]) -> list[StructureAxis]:
    """The axes along which an index moves."""
    return [axis for axis in axes if axis.extent != 1 and depends(index, axis.name)]


def given(operand: Value, kept: DType) -> Value:
    """What an operand was before conversions that lose nothing: its elements are converted where they are read."""
    while isinstance(operand, Convert) and kept.kind != "complex":
        if not (holds(operand.dtype, operand.x.dtype) and holds(kept, operand.dtype)):
            break
        operand = operand.x
    return operand


def is_prologue(value: Value) -> bool:
    """Whether an operand can be computed where it is read: arithmetic of elements that lie as they are read."""
    pending = [value]
    seen: dict[int, None] = {}
    while pending:
        each = pending.pop()
        if id(each) in seen or isinstance(each, Parameter | Full | DimSize):
            continue
        seen[id(each)] = None
        known = isinstance(each, Constant) and is_one_number(each.data)
        if not known and not isinstance(each, Elementwise | Broadcast):
            return False
        if each.can_fail or (isinstance(each, Pow) and each.dtype.is_integer):
            return False
        pending.extend(each.operands)
    return True


def surrounded(read: Read, given: TensorType, axes: Sequence[StructureAxis]) -> Surround | None:
    """The copy in which every position of a read is inside, None where positions fall along an axis."""
    if read.fill is not None and read.fill.value != zero(read.fill.dtype):
        return None
    low: list[Dim] = []
    padded: list[Dim] = []
    for position in read.index:
        first = _origin(position, axes)
        reach: Dim = 1
        for axis in axes:
            step = _step(position, axis.name)
            if type(step) is not int or step < 0:
                return None
            reach = reach + step * (axis.extent - 1)
        low.append(0 - first)
        # Of no windows there is nothing to read.
        padded.append(reach if known_le(0, reach) else maximum(reach, 0))
    return Surround(given, tuple(low), read.divisors or (1,) * len(low), tuple(padded))


def _step(offset: Dim, name: str) -> Dim | None:
    parts = linear(offset, name)
    return None if parts is None else parts[0]


def _origin(offset: Dim, axes: Sequence[StructureAxis]) -> Dim:
    for axis in axes:
        parts = linear(offset, axis.name)
        assert parts is not None
        offset = parts[1]
    return offset


def _in_order(depth: list[Axis]) -> list[Axis]:
    """The contracted axes as the left operand has them in memory, so that its elements are read one after another."""
    moves = [axis.left for axis in depth if type(axis.left) is int]
    if len(moves) < len(depth):
        return depth
    order = sorted(range(len(depth)), key=lambda number: -moves[number])
    return [depth[number] for number in order]


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
class Words:
    """An instruction that multiplies and adds several neighbours along k at once, and the types of which the operands'
    words hold so many; `swapped`: it takes the right operand first."""

    instruction: Instruction
    left: DType
    right: DType
    swapped: bool = False

    @property
    def count(self) -> int:
        return u32.bits // self.left.bits

    @staticmethod
    def of(matrices: Matrices, kept: DType, target: Target) -> Words | None:
        """The dot product for these types, None where the target has none, or where words would reach over the end of
        the innermost of several axes. Sums of integers wrap, so their order is free."""
        left, right = matrices.left.dtype, matrices.right.dtype
        found: Words | None = None
        if kept is i32 and {left, right} == {u8, i8} and target.has(DOT4_U8I8.ability):
            found = Words(DOT4_U8I8, left, right, left is i8)
        elif kept is i32 and left in _SHORT and right in _SHORT and target.has(DOT2_I16.ability):
            found = Words(DOT2_I16, i16, i16)
        elif in_pairs(matrices, kept) and target.has(DOT2_BF16.ability):
            found = Words(DOT2_BF16, bf16, bf16)
        if found is None or not matrices.depth:
            return None
        return found if len(matrices.depth) == 1 or whole_words(matrices, found.count) else None


_SHORT: Final = (u8, i8, i16)


def in_pairs(matrices: Matrices, kept: DType) -> bool:
    """Whether the second of each pair of steps comes first, on every target alike: that is the order in which
    instructions for bf16 add."""
    if kept is not f32 or matrices.left.dtype is not bf16 or matrices.right.dtype is not bf16:
        return False
    return len(matrices.depth) == 1 or (len(matrices.depth) > 1 and whole_words(matrices, 2))


def whole_words(matrices: Matrices, count: int) -> bool:
    """Whether the innermost axis of the depth is whole words of so many elements."""
    extent = matrices.depth[-1].extent
    return type(extent) is int and extent % count == 0


@dataclass(frozen=True)
class Plan:
    """What is decided of a product: tiles of rows, panels of vectors of `lanes`, the contracted axis in blocks of
    `deep`, whether panels are packed, rows in blocks of so many tiles (0: in one); whether the left operand is packed,
    or all panels of the right one beforehand, which needs a workspace, and whether unfinished sums do. With `words` a
    row of a panel is one step of an instruction, several of k; `deep` counts rows of panels."""

    words: Words | None
    lanes: int
    rows: Cut
    columns: Cut
    deep: Dim
    packs: bool
    block: int
    parallel: bool
    packs_left: bool
    packs_right: bool
    keeps_sums: bool


BLANK: Final = 1 << 13  # zeros written by one piece of work
GUESS: Final = 256  # for sizes known only at run time
MOST_ROWS: Final = 14
WORTH_SCATTERING: Final = 0.7
FEW_FOR_WORDS: Final = 4
PACKED_ROWS: Final = 64  # of the left operand at a time
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


def planned(matrices: Matrices, kept: DType, target: Target, sums: bool, work: bool) -> Plan:
    """The tile with the least time for these sizes.

    A step of k costs a tile the largest of its multiply-adds, its loads, and the latency of a multiply-add. Beginning
    and ending a tile costs about two steps for each of its sums, again for every block of k. A panel must fit
    PANEL_BYTES: that is what the stack of a thread holds, and with it a second-level cache, from which a panel is read
    at full speed. Blocks of k need memory for unfinished sums: a result's (`sums`), or some workspace (`work`).
    """
    words = Words.of(matrices, kept, target)
    if words is not None:
        plan = _planned(matrices, kept, target, sums, work, words)
        if plan.packs and (plan.packs_left or holds_words(matrices.left, matrices, words)):
            return plan
    return _planned(matrices, kept, target, sums, work, None)


def _planned(matrices: Matrices, kept: DType, target: Target, sums: bool, work: bool, words: Words | None) -> Plan:
    lanes = max(simd.VECTOR_BYTES // kept.bytes, 1)
    m, n, k = matrices.row.extent, matrices.column.extent, steps(matrices, words)
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
    units = product([*[axis.extent for axis in matrices.batch], columns.count])
    work_ = product([units, height, depth, columns.size * lanes])
    tall = rows_cut.count if type(rows_cut.count) is int else GUESS // rows
    block = 0
    if type(units) is int and units < 2 * target.cores and tall * rows_cut.size >= 256:
        block = -(-tall // min(-(-2 * target.cores // max(units, 1)), tall * rows_cut.size // 128))
    # The panels of a right operand that many products share (the weights of a convolution) are packed once, and so are
    # those of one that is computed, which a single row reads where it is made.
    uses = product([axis.extent for axis in matrices.batch if axis.right == 0])
    # Packing costs as much as some rows do; with words, which multiply many times as fast, as few.
    most_few = 2 * rows_cut.size if words is None else FEW_FOR_WORDS
    computed = matrices.right.buffer is None
    few = type(m) is int and type(uses) is int and m * uses <= (1 if computed else most_few)
    # One panel of whole vectors is read in place; masks would stand in the innermost loop.
    whole = type(n) is int and columns.count == 1 and n % lanes == 0
    packs = matrices.column.right != 1 or not (few or (whole and uses == 1 and not computed and words is None))
    most = deepest(columns.size) // 2 * 2
    blocks = max(-(-depth // most), 1)
    again = block != 0 or (blocks > 1 and len(matrices.depth) > 1)
    packs_right = packs and work and not few and (uses != 1 or (computed and again))
    deep: Dim = k
    if packs and not packs_right and (type(k) is not int or blocks > 1):
        if len(matrices.depth) == 1 and (sums or work):
            deep = -(-depth // (2 * blocks)) * 2 if type(k) is int else most
        else:
            packs = False
    parallel = type(work_) is not int or work_ >= SERIAL
    several = type(n) is not int or type(columns.count) is not int or columns.count > 2
    if words is None:
        left = (
            work
            and matrices.left.surround is None
            and (awkward(matrices, kept) if several else matrices.left.buffer is None and bool(matrices.depth))
        )
    else:
        left = work and not (holds_words(matrices.left, matrices, words) and not awkward(matrices, words.left))
        left = left and not matrices.left.windowed and matrices.left.surround is None
    keeps_sums = deep != k and not sums
    return Plan(words, lanes, rows_cut, columns, deep, packs, block, parallel, left, packs_right, keeps_sums)


def steps(matrices: Matrices, words: Words | None) -> Dim:
    """How many steps the sums take: rows of a panel."""
    extents = [axis.extent for axis in matrices.depth]
    return product(extents) if words is None else product([*extents[:-1], ceildiv(extents[-1], words.count)])


def holds_words(left: Operand, matrices: Matrices, words: Words) -> bool:
    """Whether words of the left operand are read where it lies, or in the copy with zeros around it."""
    lies = left.surround is not None or (left.buffer is not None and left.dtype is words.left)
    return lies and matrices.depth[-1].left == 1 and whole_words(matrices, words.count)


def awkward(matrices: Matrices, held: DType) -> bool:
    """Whether rows of the left operand are better read from a copy: they are computed, not contiguous, not of the type
    that is multiplied, or so far apart that a tile's rows fall on the same lines of a first-level cache. Windows never
    are: their copy would be many times the operand."""
    if matrices.left.windowed:
        return False
    dtype, apart = matrices.left.dtype, matrices.row.left
    depth, computed = matrices.depth, matrices.left.buffer is None
    if computed or dtype is not held or not depth or depth[-1].left != 1 or len(depth) > 1:
        return bool(depth)
    return type(apart) is not int or apart * dtype.bytes % 512 == 0


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
    if not definition.work and needs_room(matrices):
        return matrices.problem.kernel(nest(matrices.problem, target))
    return matrices.problem.kernel(_Gemm(matrices, target, definition.work).block())


def needs_room(matrices: Matrices) -> bool:
    """Whether there is no kernel without a workspace: windows leave an operand, or the left one is computed."""
    computed = matrices.left.buffer is None and bool(matrices.depth)
    return computed or matrices.left.surround is not None or matrices.right.surround is not None


def workspace(graph: Graph, target: Target) -> tuple[TensorType, ...]:
    """Room for operands with zeros around them, for packed ones and for unfinished sums, where they are wanted."""
    matrices = matrices_of(KernelDef("kernel", graph))
    assert matrices is not None
    return _Gemm(matrices, target, None).workspace()


def partials(problem: Problem, kept: DType) -> Param | None:
    """A result whose memory can hold unfinished sums: of their type, and never an operand's memory. Which results take
    over operands is not yet known when the workspace is asked for."""
    sizes = [(param.dtype, param.shape) for param in problem.source.graph.params]
    for value, out in problem.results:
        if out.dtype is kept and out.role == "out" and (value.dtype, value.shape) not in sizes:
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

    def __init__(self, matrices: Matrices, target: Target, work: tuple[TensorType, ...] | None) -> None:
        self.matrices = matrices
        self.problem = matrices.problem
        self.target = target
        source = self.problem.source
        self.k = Builder(source.definition.name, source.dims, source.names)
        monoid = self.problem.structure.combine
        assert monoid is not None
        self.monoid = monoid
        self.kept = monoid.dtypes[0]
        self.pairs = in_pairs(matrices, self.kept)
        self.sums = partials(self.problem, self.kept)
        self.plan = planned(matrices, self.kept, target, self.sums is not None, work is None or len(work) > 0)
        # A kernel that is given no workspace does without; one that is given some is given all that it asked for.
        self.left: Param | None = None
        self.panels: Param | None = None
        self.copies: list[tuple[Operand, Param]] = []
        if work:
            given = [Param(source.names.fresh("w"), each.dtype, (each.size,), "out") for each in work]
            source.params.extend(given)
            rooms = iter(given)
            for side in ("left", "right"):
                operand = getattr(matrices, side)
                if operand.surround:
                    self.copies.append((operand, next(rooms)))
                    there = replace(operand, buffer=self.copies[-1][1])
                    matrices = replace(matrices, **{side: there})
            self.matrices = matrices
            if self.plan.packs_left:
                self.left = next(rooms)
            if self.plan.packs_right:
                self.panels = next(rooms)
            if self.plan.keeps_sums:
                self.sums = next(rooms)
        self.fuses = self.kept in (f32, f64) and target.has("fma")
        self.at: list[tuple[Axis, Dim]] = []
        self.panel: Alloc | Param | None = None
        self.panel_at: Dim = 0

    @contextmanager
    def vector(self, stop: Dim | None = None) -> Iterator[SymbolicDim]:
        """The lanes of a vector, of which the first `stop` are on."""
        lanes = self.plan.lanes
        end = lanes if stop is None else minimum(lanes, stop)
        with self.k.vector("l", lanes, end) as var:
            yield var

    # Operands.

    def held(self, side: str) -> DType:
        """The type in which a packed operand, or a copy of it, holds its elements."""
        words = self.plan.words
        return self.kept if words is None else words.left if side == "left" else words.right

    def computed(self, operand: Operand, position: Sequence[Dim]) -> Expr:
        """An element of an operand that has no buffer, computed here."""
        composer = Composer(self.problem.source, ranges=self.k.ranges, rules=rules())
        value = composer.at(operand.value, tuple([composer.place(dim) for dim in position]))
        assert not composer.header, "arithmetic of elements needs no variables"
        self.k.emit(*composer.out)
        return value

    def element(self, operand: Operand, side: str, places: Sequence[tuple[Axis, Dim]], word: bool = False) -> Expr:
        """An element of an operand, or a word of its neighbours, where these axes and those of `at` stand there."""
        if operand.buffer is None:
            stand = self.matrices.positions([*self.at, *places])
            return self.computed(operand, [substitute(dim, stand) for dim in operand.index])
        offset = operand.base
        for axis, place in (*self.at, *places):
            offset = offset + place * (axis.left if side == "left" else axis.right)
        return Load(operand.buffer.name, (offset,), u32 if word else operand.buffer.dtype)

    # Operands with zeros around them.

    def surround(self, operand: Operand, room: Param, kind: LoopKind) -> None:
        """Zeros everywhere, then the elements where they belong."""
        k, around = self.k, operand.surround
        lanes = self.copied_lanes(operand, room)
        assert around is not None
        size = product(around.padded)
        with k.loop("z", size, step=BLANK, kind=kind) as z:
            count = BLANK if type(size) is int and size % BLANK == 0 else minimum(BLANK, size - z)
            with k.loop("u", count, step=lanes) as u, k.vector("l", lanes, minimum(lanes, count - u)) as lane:
                k.store(room, z + u + lane, Const(zero(room.dtype), room.dtype))
        given = around.given.shape
        rank = len(given)
        # From the last axis that is changed on, neighbours in the operand are neighbours in the copy.
        changed = [j for j in range(rank) if (around.low[j], around.gaps[j], around.padded[j]) != (0, 1, given[j])]
        last = max(changed, default=0)
        if operand.buffer is None:
            last = max(last, rank - 1)  # computed elements go by position
        last += around.gaps[last] != 1
        starts: list[Dim] = []
        counts: list[Dim] = []
        for n, low, gap, whole in zip(given, around.low, around.gaps, around.padded):
            start: Dim = 0 if known_le(0, low) else ceildiv(maximum(0 - low, 0), gap)
            stop = minimum(n, ceildiv(whole - low, gap))
            starts.append(start)
            counts.append(stop - start if known_le(start, stop) else maximum(stop - start, 0))
        with ExitStack() as stack:
            at = [stack.enter_context(k.loop("s", count, kind=kind)) for count in counts[:last]]
            places = [*(start + s for start, s in zip(starts, at)), *starts[last:]]
            to = linearize([low + gap * s for low, gap, s in zip(around.low, around.gaps, places)], around.padded)
            strip = Strip(self.along_last(operand, places, given), product(counts[last:]))
            packed(k, strip, (), Place(room, 0, to), lanes, self.target)

    def along_last(self, operand: Operand, places: Sequence[Dim], shape: Shape) -> Element:
        """Neighbours along the last axis from `places` on."""
        if operand.buffer is not None:
            return lying(operand.buffer, linearize(places, shape), (), 1)
        *outer, last = places
        return lambda _, column: self.computed(operand, [*outer, last + column])

    def copied_lanes(self, operand: Operand, room: Param) -> int:
        """The vectors in which an operand is copied: whole registers where nothing is computed on the way."""
        same = operand.buffer is not None and operand.buffer.dtype is room.dtype
        return max(simd.VECTOR_BYTES // room.dtype.bytes, 1) if same else self.plan.lanes

    # The left operand.

    def workspace(self) -> tuple[TensorType, ...]:
        found = [
            TensorType(operand.surround.padded, self.held(side))
            for side, operand in (("left", self.matrices.left), ("right", self.matrices.right))
            if operand.surround
        ]
        if self.plan.packs_left:
            sizes = [axis.extent for axis in self.matrices.batch if axis.left != 0]
            found.append(TensorType((*sizes, self.matrices.row.extent, self.pitch), self.held("left")))
        if self.plan.packs_right:
            sizes = [axis.extent for axis in self.matrices.batch if axis.right != 0]
            found.append(TensorType((*sizes, self.panel_count, self.steps, self.width), self.panel_dtype))
        if self.plan.keeps_sums:
            found.append(self.problem.op.tensor.with_dtype(self.kept))
        return tuple(found)

    @property
    def panel_dtype(self) -> DType:
        return self.kept if self.plan.words is None else u32

    @property
    def steps(self) -> Dim:
        """Rows of a panel."""
        return steps(self.matrices, self.plan.words)

    @property
    def together(self) -> int:
        """Neighbours along k in one row of a panel."""
        return 1 if self.plan.words is None else self.plan.words.count

    @property
    def depth(self) -> Dim:
        return product([axis.extent for axis in self.matrices.depth])

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return self.plan.columns.size * self.plan.lanes

    @property
    def panel_count(self) -> Dim:
        cut = self.plan.columns
        return ceildiv(self.matrices.column.extent, self.width) if cut.ragged else cut.count

    @property
    def pitch(self) -> Dim:
        """Elements between rows of the packed left operand: an odd number of lines, so that the rows of a tile fall on
        different ones of a cache."""
        line = max(simd.VECTOR_BYTES // self.held("left").bytes, 1)
        return (2 * ceildiv(self.depth, 2 * line) + 1) * line

    def left_row(self, at: Sequence[tuple[Axis, Dim]], row: Dim) -> Dim:
        """Where a row of the packed left operand begins."""
        number: Dim = 0
        for axis, place in at:
            if axis.left != 0:
                number = number * axis.extent + place
        return (number * self.matrices.row.extent + row) * self.pitch

    def pack_left(self, kind: LoopKind) -> None:
        """Rows of k, one after the other."""
        assert self.left is not None
        k, matrices = self.k, self.matrices
        lanes = self.copied_lanes(matrices.left, self.left)
        row = matrices.row
        with ExitStack() as stack:
            own = [axis for axis in matrices.batch if axis.left != 0]
            at: list[tuple[Axis, Dim]] = [
                (axis, stack.enter_context(k.loop("b", axis.extent, kind=kind))) for axis in own
            ]
            start = stack.enter_context(k.loop("i", row.extent, step=PACKED_ROWS, kind=kind))
            count: Dim = PACKED_ROWS
            if type(row.extent) is not int or row.extent % PACKED_ROWS:
                count = symbol(k.let("n", index(minimum(PACKED_ROWS, row.extent - start))).name)
            *outer, inner = matrices.depth
            column: Dim = 0
            with ExitStack() as around:
                self.at = [*at, *((axis, around.enter_context(k.loop("k", axis.extent))) for axis in outer)]
                for axis, place in self.at[len(at) :]:
                    column = column * axis.extent + place

                def element(rows: Sequence[Dim], depth: Dim) -> Expr:
                    return self.element(matrices.left, "left", [(row, start + rows[0]), (inner, depth)])

                strip = Strip(element, inner.extent, inner.left != 1 and row.left == 1)
                to = Place(self.left, self.pitch, self.left_row(at, start) + column * inner.extent)
                packed(k, strip, [("j", count)], to, lanes, self.target)
            # What lies between rows is read by nobody, but a workspace is written whole: tests compare its bits.
            with (
                k.loop("j", count) as j,
                k.loop("u", self.pitch, start=self.depth, step=lanes) as u,
                k.vector("l", lanes, minimum(lanes, self.pitch - u)) as lane,
            ):
                here = self.left_row(at, start + j) + u + lane
                k.store(self.left, here, Const(zero(self.left.dtype), self.left.dtype))

    # Panels.

    def block(self) -> Block:
        plan, batch = self.plan, self.matrices.batch
        kind: LoopKind = "parallel" if plan.parallel else "serial"
        for operand, room in self.copies:
            self.surround(operand, room, kind)
        if self.left is not None:
            self.pack_left(kind)
        if self.panels is not None:
            self.pack_right(kind)
        with ExitStack() as stack:
            places: dict[int, Dim] = {}

            def over(axes: Sequence[Axis]) -> None:
                for axis in axes:
                    places[id(axis)] = stack.enter_context(self.k.loop("b", axis.extent, kind=kind))

            if self.panels is None:
                over(batch)
                tile_range = self.row_block(stack, kind)
                number = stack.enter_context(self.k.loop("p", self.panel_count, kind=kind))
            else:
                # Outermost what the panel depends on: it stays in a cache while the others run.
                over([axis for axis in batch if axis.right != 0])
                number = stack.enter_context(self.k.loop("p", self.panel_count, kind=kind))
                over([axis for axis in batch if axis.right == 0])
                tile_range = self.row_block(stack, kind)
            self.at = [(axis, places[id(axis)]) for axis in batch]
            if self.panels is not None:
                self.panel, self.panel_at = self.panels, self.panel_start(self.at, number)
            elif plan.packs:
                rows = plan.deep if type(plan.deep) is int else deepest(plan.columns.size)
                self.panel = self.k.alloc("panel", self.panel_dtype, (rows * self.width,))
            self.spans(number, lambda columns: self.strip(columns, tile_range))
        return self.k.statements()

    def row_block(self, stack: ExitStack, kind: LoopKind) -> tuple[Dim, Dim]:
        """The tiles of rows of one block: all, if there is one."""
        plan = self.plan
        tiles_ = ceildiv(self.matrices.row.extent, plan.rows.size) if plan.rows.ragged else plan.rows.count
        blocks = ceildiv(tiles_, plan.block) if plan.block else 1
        if blocks == 1:
            return 0, tiles_
        number = stack.enter_context(self.k.loop("q", blocks, kind=kind))
        end = self.k.let("end", index(minimum(number * plan.block + plan.block, tiles_)))
        return number * plan.block, symbol(end.name)

    def spans(self, number: Dim, body: Callable[[_Span], None]) -> None:
        """`body` for the columns of panel `number`."""
        plan, cut, width, extent = self.plan, self.plan.columns, self.width, self.matrices.column.extent
        masked = type(extent) is not int or extent % plan.lanes != 0
        if cut.ragged and not plan.packs:
            # Masks would stand in the innermost loop, so whole panels have a loop of their own.
            with self.k.if_(lt(index(number), index(cut.first))):
                body(_Span(number * width, width))
            with self.k.else_():
                body(_Span(number * width, width, extent - number * width))
        elif cut.rest == 0:
            start = number * width
            body(_Span(start, width, extent - start if masked else None))
        else:
            small = width - plan.lanes
            start = number * small + cut.first * plan.lanes
            thinner = _Span(start, small, extent - start if masked else None)
            if cut.first == 0:
                body(thinner)
            else:
                with self.k.if_(lt(index(number), index(cut.first))):
                    body(_Span(number * width, width))
                with self.k.else_():
                    body(thinner)

    def panel_start(self, at: Sequence[tuple[Axis, Dim]], number: Dim) -> Dim:
        """Where a panel begins among those packed beforehand."""
        place: Dim = 0
        for axis, position in at:
            if axis.right != 0:
                place = place * axis.extent + position
        return (place * self.panel_count + number) * self.steps * self.width

    def pack_right(self, kind: LoopKind) -> None:
        """All panels, whole."""
        panels = self.panels
        assert panels is not None
        depth = [axis.extent for axis in self.matrices.depth]
        with ExitStack() as stack:
            own = [axis for axis in self.matrices.batch if axis.right != 0]
            self.at = [(axis, stack.enter_context(self.k.loop("b", axis.extent, kind=kind))) for axis in own]
            number = stack.enter_context(self.k.loop("p", self.panel_count, kind=kind))
            base = self.panel_start(self.at, number)
            self.spans(number, lambda columns: self.packed(columns, 0, depth, panels, self.width, base))

    def strip(self, columns: _Span, tile_range: tuple[Dim, Dim]) -> None:
        """One panel: packed block by block, times all tiles of rows."""
        extents = [axis.extent for axis in self.matrices.depth]
        deep, together = self.plan.deep, self.together
        whole = self.steps
        if whole == deep:
            self.pack_panel(columns, 0, extents)
            self.tiles(columns, tile_range, 0, [*extents[:-1], *[ceildiv(n, together) for n in extents[-1:]]])
            return
        assert type(deep) is int
        # Of no products the sums are finished too.
        with self.k.loop("d", whole if type(whole) is int else maximum(whole, 1), step=deep) as start:
            extent: Dim = deep
            if type(whole) is not int or whole % deep:
                extent = symbol(self.k.let("n", index(minimum(deep, whole - start))).name)
            size = extent * together
            if together > 1 and extents[-1] != whole * together:
                size = symbol(self.k.let("n", index(minimum(size, extents[-1] - start * together))).name)
            self.pack_panel(columns, start * together, [size])
            self.tiles(columns, tile_range, start, [extent])

    def pack_panel(self, columns: _Span, start: Dim, extents: Sequence[Dim]) -> None:
        if self.panel is not None and self.panels is None:
            self.packed(columns, start, extents, self.panel, columns.size, 0)

    def packed(
        self, columns: _Span, start: Dim, extents: Sequence[Dim], panel: Param | Alloc, pitch: int, base: Dim
    ) -> None:
        """The columns of a panel, of so many steps along each axis of the depth; `start` of the innermost."""
        right, axis, depth, words = self.matrices.right, self.matrices.column, self.matrices.depth, self.plan.words

        def element(places: Sequence[Dim], column: Dim, word: bool = False) -> Expr:
            at = [*places[:-1], *[place + start for place in places[-1:]]]
            return self.element(right, "right", [*zip(depth, at, strict=True), (axis, columns.start + column)], word)

        deep = bool(depth) and axis.right != 1 and depth[-1].right == 1
        # Words are read where elements lie side by side as they are wanted.
        lies = words is not None and right.buffer is not None and right.buffer.dtype is words.right
        strip = Strip(
            element,
            columns.size if columns.left is None else columns.left,
            deep,
            (lambda places, column: element(places, column, True)) if lies and deep else None,
        )
        place = Place(panel, pitch, base, pitch, None if words is None else words.right)
        packed(self.k, strip, [("k", extent) for extent in extents], place, self.plan.lanes, self.target)

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
            with self.k.loop("i", high, start=low) as number:
                self.tile(_Span(number * cut.size, cut.size), columns, start, extents)
            left = extent - cut.first * cut.size
            here = ne(index(left), 0)
            with self.k.if_(here if one else and_(here, lt(index(cut.first), index(last)))):
                self.tile(_Span(cut.first * cut.size, cut.size, left), columns, start, extents)
            return
        if cut.first != 0:
            low, high = between(0, cut.first, "t")
            with self.k.loop("i", high, start=low) as number:
                self.tile(_Span(cut.start(number), cut.size), columns, start, extents)
        if cut.rest:
            low, high = between(cut.first, cut.count, "t")
            with self.k.loop("i", high, start=low) as number:
                self.tile(_Span(cut.start_of_rest(number), cut.size - 1), columns, start, extents)

    def tile(self, rows: _Span, columns: _Span, start: Dim, extents: Sequence[Dim]) -> None:
        """The sums of one tile: begun or taken up, step by step, put down or finished."""
        k = self.k
        acc = k.registers("acc", self.kept, (rows.size, columns.size))
        whole = self.steps
        split = self.plan.deep != whole
        identity = self.monoid.identity[0]
        if split:
            with k.if_(eq(index(start), 0)):
                self.each(rows, columns, lambda r, c: k.store(acc, (r, c), identity))
            with k.else_():
                self.each(rows, columns, lambda r, c: k.store(acc, (r, c), self.partial(rows, columns, r, c)), True)
        else:
            self.each(rows, columns, lambda r, c: k.store(acc, (r, c), identity))
        if self.left is not None and self.panel is not None:
            extents = [product(extents)]
        with ExitStack() as stack:
            *outer, inner = extents or [1]
            at: list[Dim] = [stack.enter_context(k.loop("k", extent)) for extent in outer]
            row: Dim = 0
            for place, extent in zip(at, outer, strict=True):
                row = row * extent + place

            def step(last: Dim) -> None:
                """The products of one row of the panel added."""
                here = [*at, last]
                self.each(
                    rows,
                    columns,
                    lambda r, c: k.store(
                        acc, (r, c), self.added(acc, rows, columns, r, c, here, row * inner + last, start)
                    ),
                    self.panel is None,
                )

            if self.pairs and self.plan.words is None:
                with k.loop("k", inner // 2) as pair:
                    step(2 * pair + 1)
                    step(2 * pair)
                if inner // 2 * 2 != inner:
                    with k.loop("k", inner, start=inner // 2 * 2) as place:
                        step(place)
            elif extents:
                with k.loop("k", inner) as place:
                    step(place)
            else:
                step(0)
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

    def added(
        self, acc: Alloc, rows: _Span, columns: _Span, r: Dim, c: Dim, at: Sequence[Dim], row: Dim, start: Dim
    ) -> Expr:
        """A sum and the next of its products: row `row` of the panel, or where the axes of the depth stand at `at`."""
        matrices, words, together = self.matrices, self.plan.words, self.together
        depth = matrices.depth
        *outer, last = at
        here = list(zip(depth, [*outer, (last + start) * together]))
        left: Expr
        if self.left is not None:
            place = self.left_row(self.at, self.row(rows, r)) + (row + start) * together
            left = Load(self.left.name, (place,), self.left.dtype if words is None else u32)
        else:
            left = self.element(matrices.left, "left", [*here, (matrices.row, self.row(rows, r))], words is not None)
        right: Expr
        if self.panel is not None:
            pitch = columns.size if self.panels is None else self.width
            right = Load(self.panel.name, (self.panel_at + row * pitch + c,), self.panel_dtype)
        else:
            right = self.element(matrices.right, "right", [*here, (matrices.column, columns.start + c)])
        total = Load(acc.name, (r, c), self.kept)
        if words is None:
            return self.step(left, right, total)
        return words.instruction(total, *((right, left) if words.swapped else (left, right)))

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
                    **k.ranges,
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
