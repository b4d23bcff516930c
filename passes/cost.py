"""What a graph or a program costs: arithmetic, transcendentals, bytes moved, and a predicted time on a target.

Counts are of the graph as written (a fused multiply-add is two flops), from the structures of its ops; bytes are those
that a kernel reads and writes in memory, so fusion lowers them, and a kernel that reads a part of an array, or updates
one in place, moves that part alone. Sizes may be symbolic: counts are then of given dims.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..ir.classes import dataclass
from ..ir.dims import Dim, product
from ..ir.dims import evaluate as evaluate_dim
from ..ir.graph import Graph, Uses
from ..ir.loops.nodes import MATH, MATH_BINARY, Binary, Call, Cast, Expr, Fma, Select, Unary
from ..ir.ops.control import Scan
from ..ir.ops.indexing import DynamicSlice, DynamicUpdate, Gather, Scatter
from ..ir.ops.movement import Slice
from ..ir.program import Call as ProgramCall
from ..ir.program import Copy, KernelDef, Loop, Program, Statement, Switch, While
from ..ir.target import Target
from ..ir.types import TensorType
from ..ir.value import Parameter, Value

_MATH = frozenset((*MATH, *MATH_BINARY))
TRANSCENDENTAL_FLOPS = 20  # of a polynomial of the usual degree, for predicting time


@dataclass(frozen=True, slots=True)
class Cost:
    flops: float = 0.0
    transcendentals: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.transcendentals + other.transcendentals, self.bytes + other.bytes)

    def times(self, n: float) -> Cost:
        return Cost(self.flops * n, self.transcendentals * n, self.bytes * n)

    def seconds(self, target: Target) -> float:
        """A floor for the time on one core: arithmetic at half its peak beside memory traffic at 10 GB/s."""
        peak = 2.0 * target.fma_pipes * (target.vector_bits / 32) * 3e9
        return (self.flops + TRANSCENDENTAL_FLOPS * self.transcendentals) / (0.5 * peak) + self.bytes / 1e10


def scalar_cost(expr: Expr) -> tuple[int, int]:
    """(flops, transcendentals) of evaluating one scalar body."""
    flops = math = 0
    pending: list[Expr] = [expr]
    while pending:
        match pending.pop():
            case Unary(op, x):
                math += op in _MATH
                flops += op not in _MATH
                pending.append(x)
            case Binary(op, x, y):
                math += op in _MATH
                flops += op not in _MATH
                pending += (x, y)
            case Fma(x, y, z):
                flops += 2
                pending += (x, y, z)
            case Select(c, x, y):
                flops += 1
                pending += (c, x, y)
            case Cast(x):
                pending.append(x)
            case Call(_, args):
                flops += 1
                pending += args
            case _:
                pass
    return flops, math


def _size(dims: tuple[Dim, ...], sizes: Mapping[str, int]) -> int:
    return evaluate_dim(product(dims), sizes)


def op_cost(value: Value, sizes: Mapping[str, int]) -> Cost:
    """Arithmetic of one op; moving data is counted by kernels, not here."""
    structure = value.structure()
    if structure is None:
        total = sum((graph_cost(body, sizes) for body in value.bodies), Cost())
        return total.times(_size((value.length,), sizes)) if isinstance(value, Scan) else total
    points = _size(tuple(axis.extent for axis in structure.axes), sizes)
    flops = math = 0
    for body in structure.body:
        f, m = scalar_cost(body)
        flops, math = flops + f, math + m
    return Cost(float((flops + (structure.combine is not None)) * points), float(math * points))


def graph_cost(graph: Graph, sizes: Mapping[str, int]) -> Cost:
    """Arithmetic of all ops of a graph."""
    return sum((op_cost(value, sizes) for value in graph.ops), Cost())


def type_bytes(kind: TensorType, sizes: Mapping[str, int]) -> int:
    return evaluate_dim(kind.bytes, sizes)


def kernel_bytes(kernel: KernelDef, sizes: Mapping[str, int]) -> int:
    """What one call reads and writes in memory."""
    uses = Uses(kernel.graph)
    targets = {result: kernel.graph.params[param] for result, param in kernel.updates}
    updated: list[Parameter] = []
    total = 0
    for number, result in enumerate(kernel.graph.results):
        parts = _updates_in_place(result, targets[number]) if number in targets else None
        if parts is None:
            total += type_bytes(result.tensor, sizes)
        else:
            total += sum(type_bytes(part.tensor, sizes) for part in parts)
            updated.append(targets[number])
    for param in kernel.graph.params:
        total += _bytes_read(param, uses, any(param is other for other in updated), sizes)
    return total


def _updates_in_place(result: Value, target: Parameter) -> list[Value] | None:
    """What is stored when `result` takes the memory of `target`; None where that is more than parts of it."""
    parts: list[Value] = []
    while isinstance(result, DynamicUpdate | Scatter):
        parts.append(result.update if isinstance(result, DynamicUpdate) else result.updates)
        result = result.x
    return parts if result is target and parts else None


def _bytes_read(param: Parameter, uses: Uses, updated: bool, sizes: Mapping[str, int]) -> int:
    whole = type_bytes(param.given, sizes)
    total = 0
    for reader in uses.readers(param):
        if sum(operand is param for operand in reader.operands) > 1:
            return whole
        match reader:
            case DynamicSlice(x) | Gather(x) | Slice(x) if x is param:
                total += type_bytes(reader.tensor, sizes)
            case Scatter(x, _, updates, combine=combine) if x is param and updated:
                total += 0 if combine == "set" else type_bytes(updates.tensor, sizes)
            case DynamicUpdate(x) if x is param and updated:
                pass
            case _:
                return whole
    return whole if uses.is_result(param) else min(total, whole)


def cost_of(program: Program, sizes: Mapping[str, int]) -> Cost:
    """One run of a program; `while` loops count once."""
    kernels = {k.name: graph_cost(k.graph, sizes) + Cost(bytes=float(kernel_bytes(k, sizes))) for k in program.kernels}

    def body(statements: tuple[Statement, ...]) -> Cost:
        total = Cost()
        for statement in statements:
            match statement:
                case ProgramCall(name):
                    total += kernels[name]
                case Copy(source):
                    total += Cost(bytes=2.0 * type_bytes(source.type, sizes))
                case Loop(count=count, body=inner):
                    total += body(inner).times(evaluate_dim(count, sizes))
                case While(condition, _, inner):
                    total += body(condition) + body(inner)
                case Switch(_, branches):
                    total += max((body(b) for b in branches), key=lambda c: c.flops + c.bytes, default=Cost())
        return total

    return body(program.body)
