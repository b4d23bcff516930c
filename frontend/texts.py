"""The texts of graphs, for users: `td.parse` reads one, `td.evaluate` runs it by the reference interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..ir.errors import TypeMismatch
from ..ir.evaluate import evaluate as evaluate_graph
from ..ir.graph import Graph
from ..ir.parse import parse_graph
from .userline import spoken


@spoken
def parse(text: str, constants: Mapping[str, Any] | None = None) -> Graph:
    """The graph that prints as this text. `constants` are the arrays of its large constants, by their digests.

    TD0260 to TD0269 name the line, the column and what was expected there.
    """
    if not isinstance(text, str):
        raise TypeMismatch(f"a text of a graph is a str, not a {type(text).__name__}", code="TD0603")
    return parse_graph(text, constants)


@spoken
def evaluate(graph: Graph, *args: Any, dims: Mapping[str, int] | None = None) -> tuple[np.ndarray[Any, Any], ...]:
    """The results of a graph on these arrays, computed op by op with NumPy: slowly, and by the definition. Sizes that
    no argument shows are given in `dims`."""
    if not isinstance(graph, Graph):
        raise TypeMismatch(
            f"a graph is needed, not a {type(graph).__name__}", code="TD0603", edit="td.parse(text), f.trace(x).graph"
        )
    return evaluate_graph(graph, *args, dims=dims)
