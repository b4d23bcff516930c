"""Forms: named invariants of graphs, each one sentence and a check.

Passes say which forms they need and which they give; the pipeline table is checked when it is built, and with
`TREADLE_CHECK=1`, or in tests, each form is checked between passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .classes import dataclass
from .errors import CheckFailed
from .graph import Graph
from .ops.control import Call, Group
from .ops.families import Composite
from .types import TensorType
from .value import After, Constant, DimSize, Full, Get, Parameter, Value

Keeps = Callable[[Value], bool]  # whether the target has a kernel for a composite as it stands


def nothing(value: Value) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Form:
    """`find` yields what breaks the form, with the reason. What it may ask of the target is handed in."""

    name: str
    sentence: str
    find: Callable[[Graph, Keeps], Iterator[tuple[Value, str]]]

    def check(self, graph: Graph, keeps: Keeps = nothing, *, after: str = "") -> None:
        """CheckFailed (TD0250) names the first value that breaks the form, and the pass after which it does."""
        for value, reason in self.find(graph, keeps):
            when = f" after {after}" if after else ""
            raise CheckFailed(
                f"{graph.name} is not {self.name}{when}: {value!r} {reason}", code="TD0250", location=value.location
            )

    def holds(self, graph: Graph, keeps: Keeps = nothing) -> bool:
        return next(self.find(graph, keeps), None) is None

    def __str__(self) -> str:
        return self.name


def everywhere(graph: Graph) -> Iterator[Value]:
    """Every value of a graph and of all closed bodies inside it."""
    pending = [graph]
    while pending:
        for value in pending.pop().order:
            yield value
            pending.extend(value.bodies)


def _well_formed(graph: Graph, keeps: Keeps) -> Iterator[tuple[Value, str]]:
    for value in everywhere(graph):
        if not isinstance(value, Parameter) and value.result() != value.type:
            yield value, f"has type {value.type}, its rule says {value.result()}"


def _composites(graph: Graph, keeps: Keeps) -> Iterator[tuple[Value, str]]:
    for value in everywhere(graph):
        if isinstance(value, Composite) and not keeps(value):
            yield value, "is a composite without a kernel"


def _ungrouped(graph: Graph, keeps: Keeps) -> Iterator[tuple[Value, str]]:
    """A grouped graph computes only by groups and control flow; the rest are leaves, reads of tuples and order
    marks."""
    allowed = (Call, Constant, Full, DimSize, Get, Parameter, After)
    for value in graph.order:
        if not isinstance(value, allowed) and not value.bodies:
            yield value, "computes outside a group"
        for body in value.bodies:
            if not isinstance(value, Group):
                yield from _ungrouped(body, keeps)


def _typed(graph: Graph, keeps: Keeps) -> Iterator[tuple[Value, str]]:
    for value in graph.results:
        if not isinstance(value.type, TensorType):
            yield value, "is a tuple among the results"


WELL_FORMED = Form("WELL_FORMED", "every value has the type its rule gives", _well_formed)
PLAIN = Form("PLAIN", "results are tensors", _typed)
EXPANDED = Form("EXPANDED", "no composite is left that the target has no kernel for", _composites)
GROUPED = Form("GROUPED", "all computation is inside groups, each of which is one kernel", _ungrouped)

FORMS = (WELL_FORMED, PLAIN, EXPANDED, GROUPED)
