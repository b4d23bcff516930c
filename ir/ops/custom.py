"""Functions whose derivative the user wrote. They live while a function is traced and no longer: no text knows them.

Such an op is its body on its operands; its rule is a thunk, called for each derivative that is taken, so that a rule
may call the function whose rule it is. When the outermost trace ends the bodies are left in their places (see
passes/autodiff_custom, and decisions/01 there).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import TreadleError, Unsupported
from ..graph import Graph
from ..types import TupleType, Type
from ..value import Value
from .control import same_types, types_of
from .families import Control, RunBody


class Custom(Control):
    """`body` on the operands, whose derivative is what `rule` makes. The first `captured` operands are closed over and
    have none."""

    args: tuple[Value, ...]
    body: Graph
    rule: Callable[[], Any]
    captured: int = 0

    def result(self) -> Type:
        same_types(self, self.body, types_of(self.args), "the body")
        return TupleType(self.body.result_types)

    def evaluate_bodies(self, run: RunBody, sizes: Mapping[str, int], *operands: Any) -> tuple[Any, ...]:
        return run(self.body, operands)


class CustomJvp(Custom):
    """`rule()` is a graph: operands that are not captured and a tangent for each float among them, to a tangent for
    each float among the results."""


class CustomVjp(Custom):
    """`rule()` is two graphs: operands that are not captured, to results and residuals; residuals and a cotangent for
    each float among the results, to a cotangent for each float among those operands."""


class CustomTangent(Control):
    """The tangents of a function with a rule backward: linear in `tangents`, and `backward` (residuals, cotangents of
    the results, to cotangents of `tangents`) is its transpose. `forward`, (residuals, tangents) to results, is there if
    that could be turned round; only backward is possible otherwise."""

    residuals: tuple[Value, ...]
    tangents: tuple[Value, ...]
    backward: Graph
    forward: tuple[Graph, ...] = ()

    def result(self) -> Type:
        given = types_of(self.residuals)
        results = tuple(param.given for param in self.backward.params[len(given) :])
        same_types(self, self.backward, given + results, "the rule backward")
        for graph in self.forward:
            same_types(self, graph, given + types_of(self.tangents), "the rule forward")
        return TupleType(results)

    def evaluate_bodies(self, run: RunBody, sizes: Mapping[str, int], *operands: Any) -> tuple[Any, ...]:
        if not self.forward:
            raise self.one_way()
        return run(self.forward[0], operands)

    def one_way(self) -> TreadleError:
        return self.refuse(
            "the rule backward is not linear in the cotangent, so it has no derivative forward",
            code="TD0225",
            error=Unsupported,
            edit="differentiate backward (td.grad, td.vjp, td.jacrev), or give a rule by td.custom_jvp",
        )
