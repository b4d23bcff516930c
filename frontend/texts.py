"""The texts of graphs, programs and loops, for users: `td.parse` reads one, `td.evaluate` runs a graph or a program by
the reference evaluators. The first word of a text says which it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..ir.errors import InvalidValue, TypeMismatch
from ..ir.evaluate import evaluate as evaluate_graph
from ..ir.graph import Graph
from ..ir.loops.nodes import Kernel
from ..ir.loops.parse import parse_kernels
from ..ir.parse import parse_graph
from ..ir.program import Program
from ..ir.program_evaluate import run
from ..ir.program_text import parse_program
from .userline import spoken


@spoken
def parse(text: str, constants: Mapping[str, Any] | None = None) -> Graph | Program | tuple[Kernel, ...]:
    """What prints as this text: a graph, a program, or the kernels of loops. `constants` are the arrays of the large
    constants of graphs, by their digests.

    TD0260 to TD0269, TD0282 and TD0401 name the line, the column and what was expected there.
    """
    if not isinstance(text, str):
        raise TypeMismatch(
            f"a text is a str, not a {type(text).__name__}", code="TD0603", edit="str(graph), or what dump printed"
        )
    lines = (line.split() for line in text.splitlines())
    match next((words[0] for words in lines if words and not words[0].startswith("#")), ""):
        case "program":
            return parse_program(text, constants)
        case "kernel":
            return parse_kernels(text)
    return parse_graph(text, constants)


@spoken
def evaluate(
    graph: Graph | Program, *args: Any, dims: Mapping[str, int] | None = None
) -> tuple[np.ndarray[Any, Any], ...]:
    """The results of a graph or a program on these arrays, computed op by op with NumPy: slowly, and by the definition.
    Sizes that no argument shows are given in `dims`. TD0604 for a program whose constants are elsewhere."""
    if isinstance(graph, Program):
        if graph.constants:
            raise InvalidValue(
                f"the text of {graph.name} names its constants and does not hold them",
                code="TD0604",
                edit="pass them as arguments, or evaluate its graph",
            )
        return run(graph, (), *args, dims=dims)
    if not isinstance(graph, Graph):
        raise TypeMismatch(
            f"a graph or a program is needed, not a {type(graph).__name__}",
            code="TD0603",
            edit="td.parse(text), f.trace(x).graph",
        )
    return evaluate_graph(graph, *args, dims=dims)
