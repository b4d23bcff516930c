"""Control flow: ops whose bodies are closed graphs.

All of them yield a tuple, read by `Get`. Bodies see nothing but their parameters, so an op's meaning is in its fields
alone. Derivatives and batching of all of them are written once, in passes/autodiff_control and passes/batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..dims import Dim, evaluate, known_equal
from ..dtypes import bool_, i32, i64
from ..errors import TypeMismatch
from ..graph import Graph
from ..types import TensorType, TupleType, Type
from ..value import Array, Value
from .families import Control, RunBody


def same_types(op: Control, body: Graph, given: tuple[TensorType, ...], what: str) -> None:
    """The body's parameters are of the given types; TD0200 names the first that is not."""
    if len(body.params) != len(given):
        raise op.refuse(
            f"{what} takes {len(body.params)} values, {len(given)} are given", code="TD0200", error=TypeMismatch
        )
    for param, kind in zip(body.params, given, strict=True):
        if param.given != kind:
            raise op.refuse(
                f"{what}: {param.label} is {param.given}, the value given is {kind}", code="TD0200", error=TypeMismatch
            )


def types_of(values: tuple[Value, ...]) -> tuple[TensorType, ...]:
    return tuple(v.tensor for v in values)


def _carried(op: Control, body: Graph, carry: tuple[Value, ...]) -> None:
    """A loop's results begin with its carry, unchanged in type; TD0201 names the element and both types."""
    for i, (before, after) in enumerate(zip(types_of(carry), body.result_types, strict=False)):
        if before != after:
            label = body.params[i].label
            raise op.refuse(
                f"carry {label} changes its type: {before} goes in, {after} comes out",
                code="TD0220",
                error=TypeMismatch,
            )
    if len(body.results) < len(carry):
        raise op.refuse(
            f"the body returns {len(body.results)} of {len(carry)} carries", code="TD0220", error=TypeMismatch
        )


class Call(Control):
    """The results of `body` on the operands: a named piece of a graph."""

    args: tuple[Value, ...]
    body: Graph

    def result(self) -> Type:
        same_types(self, self.body, types_of(self.args), "the body")
        return TupleType(self.body.result_types)

    def evaluate_bodies(self, run: RunBody, sizes: Mapping[str, int], *operands: Any) -> tuple[Any, ...]:
        return run(self.body, operands)


class Group(Call):
    """A fusion group: evaluated like `call`, run as one kernel, specified by the sequence of its members' nests."""


class Checkpoint(Call):
    """The results of `body` on the operands. A derivative backward computes the body's values again where it needs
    them, instead of keeping them, but for those that `policy` keeps (see passes/remat)."""

    policy: str = "nothing"


class Switch(Control):
    """Branch number `selector` (a bool, i32 or i64 scalar; false is 0) on the operands; clamped to the branches."""

    selector: Value
    args: tuple[Value, ...]
    branches: tuple[Graph, ...]

    def result(self) -> Type:
        if self.selector.rank != 0 or self.selector.dtype not in (bool_, i32, i64):
            raise self.refuse(
                f"the selector is {self.selector.type}; a bool or integer scalar is needed",
                code="TD0221",
                error=TypeMismatch,
            )
        if not self.branches:
            raise self.refuse("there is no branch", code="TD0221", error=TypeMismatch)
        first = self.branches[0].result_types
        for i, branch in enumerate(self.branches):
            same_types(self, branch, types_of(self.args), f"branch {i}")
            if branch.result_types != first:
                raise self.refuse(
                    f"branch {i} yields {TupleType(branch.result_types)}, branch 0 yields {TupleType(first)}",
                    code="TD0222",
                    error=TypeMismatch,
                )
        return TupleType(first)

    def evaluate_bodies(self, run: RunBody, sizes: Mapping[str, int], *operands: Any) -> tuple[Any, ...]:
        chosen = min(max(int(operands[0]), 0), len(self.branches) - 1)
        return run(self.branches[chosen], operands[1:])


class While(Control):
    """While `condition(consts, carry)` yields true: carry = `body(consts, carry)`. Yields the last carry."""

    consts: tuple[Value, ...]
    carry: tuple[Value, ...]
    condition: Graph
    body: Graph

    def result(self) -> Type:
        given = types_of(self.consts) + types_of(self.carry)
        same_types(self, self.condition, given, "the condition")
        same_types(self, self.body, given, "the body")
        if self.condition.result_types != (TensorType((), bool_),):
            raise self.refuse("the condition must yield one bool scalar", code="TD0223", error=TypeMismatch)
        inner = Graph(self.body.name, self.body.params[len(self.consts) :], self.body.results, self.body.dims)
        _carried(self, inner, self.carry)
        return TupleType(types_of(self.carry))

    def evaluate_bodies(self, run: RunBody, sizes: Mapping[str, int], *operands: Any) -> tuple[Any, ...]:
        consts, carry = operands[: len(self.consts)], tuple(operands[len(self.consts) :])
        while bool(run(self.condition, (*consts, *carry))[0]):
            carry = run(self.body, (*consts, *carry))
        return carry


class Scan(Control):
    """For each step t in 0..length-1 (downwards with `reverse`): (carry, y) = `body(t?, consts, carry, x[t])`.

    `xs` are stacked along their first axis of `length`; results are the last carry, then each y stacked likewise. With
    `counted`, the body's first parameter is the step number, an i64 scalar. Zero steps yield the initial carry.

    For passes: at most `chunk` steps may be taken at once (0: any number), and with `any_order` what the carries add up
    may be added in any order.
    """

    consts: tuple[Value, ...]
    carry: tuple[Value, ...]
    xs: tuple[Value, ...]
    body: Graph
    length: Dim
    reverse: bool = False
    counted: bool = False
    chunk: int = 0
    any_order: bool = False

    def result(self) -> Type:
        for x in self.xs:
            if x.rank == 0 or not known_equal(x.shape[0], self.length):
                raise self.refuse(
                    f"{x.type} is scanned over, but the loop has {self.length} steps", code="TD0224", error=TypeMismatch
                )
        slices = tuple(x.tensor.with_shape(x.shape[1:]) for x in self.xs)
        number = (TensorType((), i64),) if self.counted else ()
        same_types(self, self.body, number + types_of(self.consts) + types_of(self.carry) + slices, "the body")
        before = len(number) + len(self.consts)
        inner = Graph(self.body.name, self.body.params[before:], self.body.results, self.body.dims)
        _carried(self, inner, self.carry)
        stacked = tuple(t.with_shape((self.length, *t.shape)) for t in self.body.result_types[len(self.carry) :])
        return TupleType(types_of(self.carry) + stacked)

    def evaluate_bodies(self, run: RunBody, sizes: Mapping[str, int], *operands: Any) -> tuple[Any, ...]:
        n, m = len(self.consts), len(self.consts) + len(self.carry)
        consts, carry, xs = operands[:n], tuple(operands[n:m]), operands[m:]
        length = len(xs[0]) if xs else evaluate(self.length, sizes)
        stacked: list[Array] = [
            np.zeros((length, *(evaluate(dim, sizes) for dim in kind.shape)), kind.dtype.numpy)
            for kind in self.body.result_types[len(carry) :]
        ]
        for t in reversed(range(length)) if self.reverse else range(length):
            number = (np.asarray(t, np.int64),) if self.counted else ()
            found = run(self.body, (*number, *consts, *carry, *(x[t] for x in xs)))
            carry = found[: len(carry)]
            for target, y in zip(stacked, found[len(carry) :], strict=True):
                target[t] = y
        return (*carry, *stacked)
