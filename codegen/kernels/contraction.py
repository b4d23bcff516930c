"""Groups of one contraction and the maps after it, and the nest that computes any of them.

The maps after a contraction read its result at their own position alone, so they are its epilogue: composed once and
applied to the sums where they lie in registers. `gemm` makes the fast kernels of the common shapes; what
they leave (complex numbers, dilated operands, odd layouts) is the nest here: the result's innermost axis in lanes, the
reduced axes inside, in the order of the structure. It is right for every contraction with a structure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from ...ir.classes import dataclass
from ...ir.dims import Dim, minimum, product, symbol
from ...ir.graph import Graph
from ...ir.loops.affine import NO_LOOPS, Ranges
from ...ir.loops.nodes import Alloc, Expr, For, Kernel, Load, Param, Stmt, Store
from ...ir.ops.families import Contraction
from ...ir.program import KernelDef
from ...ir.structure import Structure
from ...ir.target import Target
from ...ir.types import TensorType
from ...ir.value import Parameter, Value
from .. import simd, threads
from ..lower import rules
from ..lower.compose import Composer, Guard, Lanes, Leaf, Position, Source
from ..lower.structured import composed, stored
from ..tidy import numerics
from .elementwise import hazard, is_map

Block: TypeAlias = tuple[Stmt, ...]
LETTERS: Final = "ijklmn"


def contraction_of(graph: Graph) -> Value | None:
    """The contraction of a group that is one with maps after it, each of which reads it at its own position."""
    found: Value | None = None
    for value in graph.ops:
        if not isinstance(value, Contraction):
            if not is_map(value):
                return None
        elif found is None:
            found = value
        else:
            return None
    if found is None or found.structure() is None or found.can_fail:
        return None
    if any(not isinstance(x.type, TensorType) or x.shape != found.shape for x in graph.results):
        return None
    for value in graph.ops:
        if found in value.operands and not reads_in_place(value, found):
            return None
    return found


def reads_in_place(reader: Value, value: Value) -> bool:
    """Whether `reader` needs of `value` only the element at its own position."""
    structure = reader.structure()
    if structure is None or structure.shape != value.shape:
        return False
    here = tuple([axis.position for axis in structure.axes])
    reads = [read for read in structure.reads if reader.operands[read.operand] is value]
    return all(read.index == here and read.fill is None and not read.divisors for read in reads)


def takes(graph: Graph, target: Target) -> bool:
    """Operands are read as they lie: what is computed would be so again for every product."""
    found = contraction_of(graph)
    return found is not None and not any(operand.operands for operand in found.operands)


@dataclass(frozen=True)
class Problem:
    """A group, its contraction, and where its results go."""

    source: Source
    op: Value
    structure: Structure

    @staticmethod
    def of(definition: KernelDef, overwrites: bool = False) -> Problem:
        """Refuses (TD0433) to overwrite an operand of the contraction, which is read after the first results stand,
        unless the kernel itself sees to that (`overwrites`)."""
        op = contraction_of(definition.graph)
        assert op is not None
        structure = op.structure()
        assert structure is not None
        source = Source(definition)
        for param in operands_of(op):
            buffer = source.buffer_of[id(param)]
            if buffer.role == "inout" and not overwrites:
                raise hazard(source, buffer)
        return Problem(source, op, structure)

    @property
    def results(self) -> Sequence[tuple[Value, Param]]:
        return list(zip(self.source.graph.results, self.source.outs, strict=True))

    def epilogue(self, position: Position, total: Expr, ranges: Ranges, lanes: Lanes | None) -> Composer:
        """The stores of all results at a position at which the contraction is `total`. With `lanes`, the innermost axis
        of the position is that of the first lane plus the lane."""

        def leaf(at: Position, guard: Guard) -> Expr | None:
            return total if at == position else None

        leaves: Mapping[int, Leaf] = {id(self.op): leaf}
        composer = Composer(self.source, leaves, ranges, lanes, rules())
        if self.source.readers.get(id(self.op), 0) + (self.op in self.source.graph.results) > 1:
            total = composer.bind(total)
        stores = [(out, composer.at(value, position)) for value, out in self.results]
        at = composer.offset(position, self.op.shape)
        composer.out.extend([Store(out.name, (at,), value) for out, value in stores])
        return composer

    def kernel(self, body: Block) -> Kernel:
        source = self.source
        return Kernel(source.definition.name, tuple(source.params), source.dims, body, tuple(source.tables.values()))


def operands_of(value: Value) -> list[Parameter]:
    """The parameters that a value is computed from, each once."""
    found: dict[int, Parameter] = {}
    seen: dict[int, None] = {}
    waiting = list(value.operands)
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen[id(each)] = None
        if isinstance(each, Parameter):
            found[id(each)] = each
        waiting.extend(each.operands)
    return list(found.values())


# --- the nest of any contraction --------------------------------------------------------------------------------------


def contraction(definition: KernelDef, target: Target) -> Kernel:
    """The kernel of a group whose contraction has no faster one."""
    problem = Problem.of(definition)
    return problem.kernel(nest(problem, target))


def nest(problem: Problem, target: Target) -> Block:
    source, op, structure = problem.source, problem.op, problem.structure
    monoid = structure.combine
    assert monoid is not None
    if any(extent == 0 for extent in op.shape):
        return ()
    names = {axis.name: source.names.fresh(axis.name) for axis in structure.axes}
    outer = [axis for axis in structure.axes if axis.kind == "parallel" and axis.extent != 1]
    inner = [axis for axis in structure.axes if axis.kind == "reduce"]
    at: dict[str, Dim] = {axis.name: 0 if axis.extent == 1 else symbol(names[axis.name]) for axis in structure.axes}
    ranges: dict[str, tuple[Dim, Dim]] = {
        names[axis.name]: (0, axis.extent) for axis in (*outer, *inner) if axis.extent != 1
    }
    lanes: Lanes | None = None
    if outer:
        last = outer.pop()
        dtypes = [value.dtype for value in source.graph.order if isinstance(value.type, TensorType)]
        count = simd.lanes_of([*dtypes, *monoid.dtypes])
        lanes = Lanes(source.names.fresh("l"), count)
        base = names[last.name]
        ranges[lanes.var] = (0, last.extent - symbol(base))
        at[last.name] = symbol(base) + symbol(lanes.var)
    where: Position = (symbol(lanes.var),) if lanes else ()
    states = [
        Alloc(source.names.fresh("s"), dtype, (lanes.count,) if lanes else (), "registers") for dtype in monoid.dtypes
    ]
    state = tuple([Load(alloc.name, where, alloc.dtype) for alloc in states])

    def wide(block: Block) -> Block:
        """The block in lanes."""
        if lanes is None:
            return block
        return (For(lanes.var, 0, minimum(lanes.count, last.extent - symbol(base)), 1, "vector", block, lanes.count),)

    composer = Composer(source, ranges=ranges, lanes=lanes, rules=rules())
    element = composed(composer, op, structure, at)
    news = [composer.bind(x) for x in monoid.step(state, element)]
    step: Block = (*composer.header, *wide((*composer.out, *stored(states, news, where))))
    for axis in reversed(inner):
        if axis.extent != 1:
            step = (For(names[axis.name], 0, axis.extent, 1, "serial", step),)
    position = tuple([at[axis.name] for axis in structure.axes if axis.kind != "reduce"])
    outside = {name: span for name, span in ranges.items() if name not in {names[axis.name] for axis in inner}}
    end = problem.epilogue(position, monoid.finish(state), outside or NO_LOOPS, lanes)
    begin = wide(stored(states, monoid.identity, where))
    body: Block = (*states, *begin, *step, *end.header, *wide(tuple(end.out)))
    (body,) = numerics(target, body)
    axes = list(outer)
    if lanes is not None:
        body = (For(base, 0, last.extent, lanes.count, "serial", body),)
    for axis in reversed(axes[1:]):
        body = (For(names[axis.name], 0, axis.extent, 1, "serial", body),)
    if not axes:
        return body
    first = axes[0]
    rest = product([axis.extent for axis in structure.axes if axis is not first])
    weight = max(4 * rest, 1) if type(rest) is int else threads.GRAIN
    return (threads.divided(For(names[first.name], 0, first.extent, 1, "serial", body), weight, source.names),)
