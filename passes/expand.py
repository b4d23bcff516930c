"""Open the composites that the target has no kernel for.

A composite is by definition equal to its decomposition, so this changes no value beyond rounding. One that `cx.kernels`
keeps stays as it stands, and with it its name. Decompositions are opened in turn. Nothing happens to other ops.
"""

from __future__ import annotations

from ..ir.forms import EXPANDED
from ..ir.graph import Graph
from ..ir.ops.families import Composite
from ..ir.value import Value
from .manager import Context, graph_pass
from .rewrite import rewrite


@graph_pass(gives=[EXPANDED])
def expand(graph: Graph, cx: Context) -> Graph:
    """Open the composites that the target has no kernel for."""

    def opened(value: Value) -> Value | None:
        if not isinstance(value, Composite) or cx.kernels.keeps(value):
            return None
        return value.decompose()

    return rewrite(graph, opened)
