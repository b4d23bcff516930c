"""Choose the groups: which ops run together as one kernel.

Every op that computes ends up in a `Group` whose body is a closed graph; leaves (fills, sizes, small constants) are
copied into the groups that read them, control flow stays and is fused inside its bodies.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.forms import GROUPED
from ..ir.graph import Graph
from ..ir.ops.control import Call, Control, Group
from ..ir.ops.movement import Iota
from ..ir.value import After, Constant, DimSize, Full, Get, Parameter, Value
from .manager import Context, graph_pass
from .rewrite import in_bodies


@dataclass(frozen=True)
class FuseOptions:
    """`limit` is the largest number of ops in one group."""

    limit: int = 64


SMALL = 16  # a constant of at most this many elements is part of the code that reads it


def is_leaf(value: Value) -> bool:
    """Whether a value costs nothing to make where it is read."""
    return isinstance(value, Full | DimSize | Iota) or (isinstance(value, Constant) and value.data.size <= SMALL)


def close(members: list[Value], outputs: list[Value], name: str, graph: Graph) -> tuple[Group, tuple[Value, ...]]:
    """A group of `members` (in order) that yields `outputs`, and its arguments."""
    inside = {id(v) for v in members}
    params: dict[int, Parameter] = {}
    args: list[Value] = []
    new: dict[int, Value] = {}

    def enter(value: Value) -> Value:
        if id(value) in new:
            return new[id(value)]
        if is_leaf(value) and id(value) not in inside:
            return value
        if id(value) not in params:
            params[id(value)] = Parameter(f"p{len(params)}", value.tensor)
            args.append(value)
        return params[id(value)]

    for member in members:
        new[id(member)] = member.with_operands(tuple(enter(o) for o in member.operands))
        new[id(member)].__dict__["location"] = member.location
        new[id(member)].__dict__["sequence"] = member.sequence
    body = Graph(name, tuple(params.values()), tuple(new[id(o)] for o in outputs), graph.dims)
    return Group(tuple(args), body), tuple(args)


@graph_pass(gives=[GROUPED], options=FuseOptions())
def fuse(graph: Graph, cx: Context, options: FuseOptions) -> Graph:
    """Group ops into kernels."""
    table: dict[int, Value] = {id(p): p for p in graph.params}
    for value in graph.ops:
        operands = tuple(table[id(o)] for o in value.operands)
        if isinstance(value, Control) and not isinstance(value, Call):
            value = in_bodies(value, lambda body: fuse(body, cx))
            table[id(value)] = value.with_operands(operands)
            continue
        rebuilt = value.with_operands(operands)
        if isinstance(value, Get | After | Group) or is_leaf(value) or isinstance(value, Constant):
            table[id(value)] = rebuilt
            continue
        group, _ = close([rebuilt], [rebuilt], value.name, graph)
        group.__dict__["location"], group.__dict__["sequence"] = value.location, value.sequence
        table[id(value)] = Get(group, 0)
    return graph.with_results([table[id(r)] for r in graph.results])
