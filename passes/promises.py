"""What the sizes of a call must keep, where it could not be proven when the graph was made.

A slice or a crop over symbolic sizes is accepted unless it is provably outside. What is left open is carried by the
program and checked once per call, before anything runs.
"""

from __future__ import annotations

from ..ir.dims import Dim, known_le, show
from ..ir.errors import OutOfRange, ShapeMismatch
from ..ir.forms import everywhere
from ..ir.graph import Graph
from ..ir.ops.movement import Slice
from ..ir.program import Promise
from ..ir.value import Value


def promises_of(graph: Graph) -> tuple[Promise, ...]:
    """The open promises of all ops, each once, with the line of the first op that needs it."""
    known = {dim.name: dim for dim in graph.dims}
    found: dict[tuple[Dim, Dim], Promise] = {}
    for value in everywhere(graph):
        requires = getattr(value, "requires", None)
        if requires is None:
            continue
        for low, high in requires():
            if (low, high) in found or known_le(low, high, known):
                continue
            error = value.refuse(
                f"it needs {show(low)} <= {show(high)}",
                code="TD0351",
                error=OutOfRange if _indexes(value, low, high) else ShapeMismatch,
                edit="pass other sizes",
            )
            found[low, high] = Promise(low, high, error)
    return tuple(found.values())


def _indexes(value: Value, low: Dim, high: Dim) -> bool:
    """Whether this is asked of an axis of which one element is taken, as `x[3]` and `x[-4]` do: slices are clamped, so
    only an index asks more of an axis than it may have."""
    return isinstance(value, Slice) and any(
        stop - start == 1 and ((low, high) == (0, start) or (low, high) == (stop, size))
        for size, start, stop in zip(value.x.shape, value.start, value.stop, strict=True)
    )
