"""Products so small that the latency of multiply-adds is what they cost: a step of a loop, a matrix of a few rows.

The sums of a matrix times a vector are few, and a sum that is one chain of multiply-adds waits for each of them. So
each of its sums is several chains here, over every second, fourth or eighth element of the contracted axis, added at
the end: how many is decided by the shape alone, so that all targets round alike. A product with rows sums in the order
of k as `gemm` does, so that a row's result does not depend on how many there are. Everything is read before the first
result is stored where all sums fit into the registers at once; then a result may overwrite an operand, as the carry of
a loop does. Taken are known sizes whose right operand lies along the lanes; the rest is `gemm`'s.
"""

from __future__ import annotations

from typing import Final

from ...ir.dims import Dim, minimum, symbol
from ...ir.dtypes import f32, f64
from ...ir.graph import Graph
from ...ir.loops.build import Builder, cast
from ...ir.loops.nodes import Alloc, Binary, Expr, Fma, For, Kernel, Load, Stmt
from ...ir.program import KernelDef
from ...ir.target import Target
from ...ir.types import TensorType
from .. import simd
from ..lower.compose import Lanes
from ..tidy import numerics
from .contraction import Problem, contraction_of
from .elementwise import hazard, refuse_hazards
from .gemm import Matrices

VECTORS: Final = 8  # sums of 64 bytes that are kept at once: two for each cycle that a multiply-add takes
UNROLLED: Final = 128  # multiply-adds of vectors that are written out; above, the contracted axis is a loop
DEEPEST: Final = 1024


def takes(graph: Graph, target: Target) -> bool:
    return problem_of(KernelDef("kernel", graph)) is not None


def problem_of(definition: KernelDef) -> Matrices | None:
    op = contraction_of(definition.graph)
    if op is None or any(type(extent) is not int or extent == 0 for extent in op.shape):
        return None
    if any(isinstance(x.type, TensorType) and x.dtype.kind == "complex" for x in definition.graph.order):
        return None
    matrices = Matrices.of(Problem.of(definition, overwrites=True))
    if matrices is None or matrices.batch or len(matrices.depth) > 1:
        return None
    if matrices.left.buffer is None or matrices.right.buffer is None:
        return None
    kept = matrices.problem.structure.combine
    assert kept is not None
    sizes = [matrices.row.extent, matrices.column.extent, *[axis.extent for axis in matrices.depth]]
    if kept.dtypes[0] not in (f32, f64) or not all(type(size) is int for size in sizes):
        return None
    if matrices.column.right != 1 or any(side.surround or side.windowed for side in (matrices.left, matrices.right)):
        return None
    writer = _Small(matrices, None)
    return matrices if writer.rows * writer.vectors <= VECTORS and writer.deep <= DEEPEST else None


def small_product(definition: KernelDef, target: Target) -> Kernel:
    matrices = problem_of(definition)
    assert matrices is not None
    return matrices.problem.kernel(_Small(matrices, target).block())


class _Small:
    """Writes the sums of one product."""

    def __init__(self, matrices: Matrices, target: Target | None) -> None:
        self.matrices = matrices
        self.target = target
        monoid = matrices.problem.structure.combine
        assert monoid is not None
        self.monoid = monoid
        self.kept = monoid.dtypes[0]
        m, n = matrices.row.extent, matrices.column.extent
        k = matrices.depth[0].extent if matrices.depth else 1
        assert type(m) is int and type(n) is int and type(k) is int
        self.rows, self.deep = m, k
        whole = simd.VECTOR_BYTES // self.kept.bytes
        self.lanes = whole if n > whole else max(1 << (n - 1).bit_length(), 2)
        self.vectors = -(-n // self.lanes)
        self.columns = n
        axes = matrices.problem.structure.axes
        vector = sum(axis.kind == "parallel" for axis in axes) == len(matrices.column.names)
        self.chains = 1
        while vector and self.chains * 2 * m * self.vectors <= VECTORS and self.chains * 2 <= k // 2:
            self.chains *= 2

    def block(self) -> tuple[Stmt, ...]:
        source, target = self.matrices.problem.source, self.target
        assert target is not None
        self.k = Builder(source.definition.name, source.dims, source.names)
        each = max(self.lanes * self.kept.bytes * 8 // target.vector_bits, 1)
        room = target.vector_registers - 2 - each
        if self.chains * self.rows * self.vectors * each <= room:
            groups = [(0, self.rows, 0, self.vectors)]
        else:
            groups = [(r, 1, v, 1) for r in range(self.rows) for v in range(self.vectors)]
        updated = [out for out in source.outs if out.role == "inout"]
        if len(groups) > 1 and updated:
            raise hazard(source, updated[0])
        for group in groups:
            self.group(*group)
        return self.k.statements()

    def group(self, first: int, rows: int, start: int, vectors: int) -> None:
        """The sums of some rows and vectors: begun, added up along the contracted axis, finished."""
        k, lanes, chains = self.k, self.lanes, self.chains
        acc = k.registers("acc", self.kept, (chains, rows, vectors * lanes))
        with (
            k.loop("c", chains, kind="unrolled") as c,
            k.loop("r", rows, kind="unrolled") as r,
            k.loop("u", vectors * lanes, step=lanes, kind="unrolled") as u,
            k.vector("l", lanes) as lane,
        ):
            k.store(acc, (c, r, u + lane), self.monoid.identity[0])
        full = self.deep // chains * chains
        short = chains * rows * vectors * (full // chains) <= UNROLLED
        with k.loop("k", full, step=chains, kind="unrolled" if short else "serial") as at:
            self.steps(acc, at, chains, first, rows, start, vectors)
        if full < self.deep:
            self.steps(acc, full, self.deep - full, first, rows, start, vectors)
        self.finish(acc, first, rows, start, vectors)

    def steps(self, acc: Alloc, at: Dim, chains: int, first: int, rows: int, start: int, vectors: int) -> None:
        """One multiply-add for each of the first `chains` chains of every sum."""
        k, matrices, lanes = self.k, self.matrices, self.lanes
        (depth,) = matrices.depth or (None,)
        with (
            k.loop("c", chains, kind="unrolled") as c,
            k.loop("r", rows, kind="unrolled") as r,
            k.loop("u", vectors * lanes, step=lanes, kind="unrolled") as u,
            k.vector("l", lanes, self.stop(start, vectors, u)) as lane,
        ):
            along = at + c
            left = matrices.left.base + (first + r) * matrices.row.left
            right = matrices.right.base + start * lanes + u + lane
            if depth is not None:
                left, right = left + along * depth.left, right + along * depth.right
            total = Load(acc.name, (c, r, u + lane), self.kept)
            operands = ((matrices.left.lies, left), (matrices.right.lies, right))
            x, y = (Load(buffer.name, (offset,), buffer.dtype) for buffer, offset in operands)
            k.store(acc, (c, r, u + lane), self.step(x, y, total))

    def step(self, left: Expr, right: Expr, total: Expr) -> Expr:
        left, right = cast(left, self.kept), cast(right, self.kept)
        assert self.target is not None
        if self.target.has("fma"):
            return Fma(left, right, total)
        return Binary("add", total, Binary("mul", left, right))

    def stop(self, start: int, vectors: int, u: Dim) -> Dim:
        """How many lanes of a vector are columns."""
        last = start + vectors == self.vectors and self.columns % self.lanes != 0
        if not last:
            return self.lanes
        if vectors == 1:
            return self.columns - start * self.lanes
        return minimum(self.lanes, self.columns - start * self.lanes - u)

    def finish(self, acc: Alloc, first: int, rows: int, start: int, vectors: int) -> None:
        """The chains added up in pairs; the epilogue; the results stored."""
        k, matrices, lanes = self.k, self.matrices, self.lanes
        problem = matrices.problem
        with (
            k.loop("r", rows, kind="unrolled") as r,
            k.loop("u", vectors * lanes, step=lanes, kind="unrolled") as u,
        ):
            name = k.names.fresh("l")
            lane = symbol(name)
            stop = self.stop(start, vectors, u)
            ranges = {str(r): (0, rows), str(u): (0, vectors * lanes), name: (0, stop)}
            places = matrices.positions([(matrices.row, first + r), (matrices.column, start * lanes + u + lane)])
            position = tuple([places[x.name] for x in problem.structure.axes if x.kind != "reduce"])
            parts: list[Expr] = [Load(acc.name, (c, r, u + lane), self.kept) for c in range(self.chains)]
            while len(parts) > 1:
                parts = [Binary("add", a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
            end = problem.epilogue(position, self.monoid.finish((parts[0],)), ranges, Lanes(name, lanes))
            assert self.target is not None
            refuse_hazards(problem.source, [(*end.header, *end.out)])
            k.emit(*end.header)
            k.emit(For(name, 0, stop, 1, "vector", numerics(self.target, tuple(end.out))[0], lanes))
