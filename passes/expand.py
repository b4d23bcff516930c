"""Open the calls, and the composites that the target has no kernel for.

A call is its body on its operands, and a composite is by definition equal to its decomposition, so this changes no
value beyond rounding. A composite that `cx.kernels` keeps stays as it stands, and with it its name, and so does a
group. Decompositions are opened in turn. Nothing happens to other ops.
"""

from __future__ import annotations

from ..ir.forms import EXPANDED
from ..ir.graph import Graph
from ..ir.ops.control import Call, Group
from ..ir.ops.families import Composite
from ..ir.value import Value
from .manager import Context, graph_pass
from .rewrite import opened, rewrite


@graph_pass(gives=[EXPANDED])
def expand(graph: Graph, cx: Context) -> Graph:
    """Open the calls, and the composites that the target has no kernel for."""

    def decomposed(value: Value) -> Value | None:
        if not isinstance(value, Composite) or cx.kernels.keeps(value):
            return None
        return value.decompose()

    return rewrite(opened(graph, called), decomposed)


def called(value: Value) -> Graph | None:
    """The body of a call that is no group."""
    return value.body if isinstance(value, Call) and not isinstance(value, Group) else None
