"""Branches that are computed and not taken: the same graph with a flag, without which nothing fails and nothing waits.

A switch of a batch computes all branches for all members and selects, and a batch of loops goes on for members that are
done. What may fail, an index above all, must not fail for those: each such op says what it is without them
(`Value.spared`). A `while` that is not wanted does not begin. A graph in which there is neither is left alone.
"""

from __future__ import annotations

from ..ir.dtypes import bool_
from ..ir.graph import Graph, inline, rebuild
from ..ir.ops.control import Call, Scan, Switch, While
from ..ir.ops.custom import CustomJvp, CustomVjp
from ..ir.ops.elementwise import And
from ..ir.ops.movement import Broadcast
from ..ir.types import Shape, TensorType
from ..ir.value import Parameter, Value, replace


def needed(graph: Graph) -> bool:
    """Whether something in the graph may fail, or never end."""
    return any(v.can_fail or isinstance(v, While) or any(map(needed, v.bodies)) for v in graph.ops)


def spared(graph: Graph, at: int = 0) -> Graph:
    """The graph with one more parameter, number `at`: a bool scalar that says whether its results are wanted."""
    flag = Parameter("wanted", TensorType((), bool_))

    def wanted(shape: Shape) -> Value:
        return Broadcast(flag, shape, ()) if shape else flag

    def step(value: Value) -> Value | None:
        if value.can_fail:
            return value.spared(wanted)
        if not (isinstance(value, While) or any(map(needed, value.bodies))):
            return None
        match value:
            case CustomJvp() | CustomVjp():
                args, captured = (flag, *value.args), value.captured + 1
                return replace(value, args=args, body=spared(value.body), captured=captured)
            case Call():
                return replace(value, args=(flag, *value.args), body=spared(value.body))
            case Switch():
                return replace(value, args=(flag, *value.args), branches=tuple(map(spared, value.branches)))
            case While():
                condition = spared(value.condition)
                going = And(condition.params[0], condition.results[0])
                consts = (flag, *value.consts)
                return While(consts, value.carry, condition.with_results([going]), spared(value.body))
            case Scan():
                return replace(value, consts=(flag, *value.consts), body=spared(value.body, int(value.counted)))
        return None

    results = rebuild(graph, step).results
    return Graph(graph.name, (*graph.params[:at], flag, *graph.params[at:]), results, graph.dims)


def until(condition: Graph, body: Graph) -> Graph:
    """The body of a loop, of which nothing is wanted where the condition is false."""
    if not needed(body):
        return body
    going = inline(condition, body.params)[0]
    return body.with_results(inline(spared(body), (going, *body.params)))
