"""What a graph or a program costs: arithmetic, transcendentals, bytes moved, and a predicted time on a target.

Counts are of the graph as written (a fused multiply-add is two flops), from the structures of its ops; bytes are those
that a kernel reads and writes in memory, so fusion lowers them. Sizes may be symbolic: counts are then of given dims.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..ir.dims import Dim, product
from ..ir.dims import evaluate as evaluate_dim
from ..ir.graph import Graph
from ..ir.loops.nodes import MATH, MATH_BINARY, Binary, Call, Cast, Expr, Fma, Select, Unary
from ..ir.program import Call as ProgramCall
from ..ir.program import Copy, Loop, Program, Statement, Switch, While
from ..ir.target import Target
from ..ir.types import TensorType
from ..ir.value import Value

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
        bodies = value.bodies
        return sum((graph_cost(body, sizes) for body in bodies), Cost())
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


def cost_of(program: Program, sizes: Mapping[str, int]) -> Cost:
    """One run of a program; `while` loops count once."""
    kernels = {k.name: graph_cost(k.graph, sizes) for k in program.kernels}

    def body(statements: tuple[Statement, ...]) -> Cost:
        total = Cost()
        for statement in statements:
            match statement:
                case ProgramCall(name, reads, writes):
                    moved = sum(type_bytes(slot.type, sizes) for slot in (*reads, *writes))
                    total += kernels[name] + Cost(bytes=float(moved))
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
