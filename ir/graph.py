"""A graph: named parameters, results, and everything they reach.

Nodes are immutable, so a graph is a view of some of them: there is no insertion point, no use list to repair, and dead
code is whatever nobody reaches. Walks are iterative; the order is canonical (it depends on the results and operands
alone), so texts do not depend on how a graph was built.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property

from .classes import dataclass
from .dims import DimName
from .errors import CheckFailed, InvalidValue
from .location import at
from .types import TensorType, Type
from .value import Parameter, Value

_AXIS = re.compile(r"a\d+")  # see structure.axes_of


@dataclass(frozen=True, eq=False)
class Graph:
    """What to compute. `dims` are the symbolic sizes with their promises, in the order in which they are passed."""

    name: str
    params: tuple[Parameter, ...]
    results: tuple[Value, ...]
    dims: tuple[DimName, ...] = ()

    def __post_init__(self) -> None:
        for dim in self.dims:
            if _AXIS.fullmatch(dim.name):
                raise InvalidValue(
                    f"{self.name}: a size cannot be called {dim.name}, as the axes of structures are",
                    code="TD0123",
                    edit="use another name than a0, a1, ...",
                )

    @cached_property
    def order(self) -> tuple[Value, ...]:
        """Every reachable value, operands before their readers; parameters first, unused ones included."""
        return topological(self.params, self.results)

    @property
    def result_types(self) -> tuple[TensorType, ...]:
        return tuple(v.tensor for v in self.results)

    @property
    def param_types(self) -> tuple[TensorType, ...]:
        return tuple(p.given for p in self.params)

    @property
    def ops(self) -> tuple[Value, ...]:
        """What is computed: the order without the parameters."""
        return self.order[len(self.params) :]

    @staticmethod
    def in_order(
        name: str,
        params: tuple[Parameter, ...],
        results: tuple[Value, ...],
        dims: tuple[DimName, ...],
        order: tuple[Value, ...],
    ) -> Graph:
        """A graph whose order is known already."""
        graph = Graph(name, params, results, dims)
        graph.__dict__["order"] = order
        return graph

    def with_results(self, results: Sequence[Value]) -> Graph:
        return Graph(self.name, self.params, tuple(results), self.dims)

    def __str__(self) -> str:
        from .text import show

        return show(self)


def topological(
    params: Iterable[Parameter], results: Iterable[Value], *, free: bool = False, known: Iterable[int] = ()
) -> tuple[Value, ...]:
    """Depth-first post-order from the results, operands left to right, after the parameters, no further than the values
    whose ids are `known`. Other parameters are an error (TD0120), unless they are `free` to stand in it as they are."""
    order: list[Value] = list(params)
    done = set(map(id, order))
    done.update(known)
    for root in results:
        if id(root) in done:
            continue
        # Of each value on the way down, the operands that are still to be visited.
        stack = [(root, iter(root.operands))]
        while stack:
            value, operands = stack[-1]
            for operand in operands:
                if id(operand) not in done:
                    stack.append((operand, iter(operand.operands)))
                    break
            else:
                stack.pop()
                if isinstance(value, Parameter) and not free:
                    raise CheckFailed(
                        f"parameter {value.label} is used but does not belong to this graph",
                        code="TD0120",
                        location=value.location,
                    )
                done.add(id(value))
                order.append(value)
    return tuple(order)


def failing(graph: Graph) -> Iterator[Value]:
    """The ops that can fail, in the order in which a kernel numbers its failure sites: the graph's order, what is
    inside the bodies of an op directly after the op itself."""
    for value in graph.ops:
        if value.can_fail:
            yield value
        for body in value.bodies:
            yield from failing(body)


class Uses:
    """Who reads what, within one graph. Results count as one reader each."""

    def __init__(self, graph: Graph) -> None:
        self._readers: dict[int, list[Value]] = {id(v): [] for v in graph.order}
        self._results: dict[int, int] = {}
        for value in graph.order:
            for operand in value.operands:
                readers = self._readers[id(operand)]
                if not readers or readers[-1] is not value:
                    readers.append(value)
        for result in graph.results:
            self._results[id(result)] = self._results.get(id(result), 0) + 1

    def readers(self, value: Value) -> tuple[Value, ...]:
        """The distinct ops that read `value`, in order."""
        return tuple(self._readers[id(value)])

    def is_result(self, value: Value) -> bool:
        return id(value) in self._results

    def count(self, value: Value) -> int:
        return len(self._readers[id(value)]) + self._results.get(id(value), 0)

    def only(self, value: Value) -> bool:
        """Whether exactly one op reads `value` and no result needs it."""
        return self.count(value) == 1 and not self.is_result(value)


Step = Callable[[Value], "Value | None"]


def rebuild(graph: Graph, step: Step, *, memo: dict[int, Value] | None = None) -> Graph:
    """Walk in order: each op is rebuilt on its rebuilt operands and offered to `step`, which may return a replacement.

    New values inherit the location and the sequence of the op they replace. `memo` maps ids of old values to new ones
    and may be given with entries (parameters replaced by others); the graph's own parameters are kept otherwise.
    """
    table: dict[int, Value] = {} if memo is None else memo
    for param in graph.params:
        table.setdefault(id(param), param)
    for value in graph.ops:
        if id(value) in table:
            continue
        with at(value.origin):
            rebuilt = value
            for operand in value.operands:
                if table[id(operand)] is not operand:
                    rebuilt = value.with_operands(tuple([table[id(each)] for each in value.operands]))
                    break
            changed = step(rebuilt)
            table[id(value)] = rebuilt if changed is None else changed
    return graph.with_results([table[id(result)] for result in graph.results])


def inline(graph: Graph, args: Sequence[Value]) -> tuple[Value, ...]:
    """The results of `graph` on `args`, its body copied into the caller's."""
    memo = {id(param): arg for param, arg in zip(graph.params, args, strict=True)}
    return rebuild(graph, lambda value: None, memo=memo).results


def from_function(name: str, types: Sequence[Type], build: Callable[..., Value | Sequence[Value]]) -> Graph:
    """A closed graph from a Python function over values: bodies of control ops, tests, decompositions."""
    params = tuple(Parameter(f"p{i}", kind) for i, kind in enumerate(types))  # type: ignore[arg-type]
    results = build(*params)
    return Graph(name, params, (results,) if isinstance(results, Value) else tuple(results))
