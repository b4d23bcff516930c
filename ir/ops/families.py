"""The families of ops: what their members have in common, said once.

A family supplies the type rule, the structure and the derivative of its members where these follow from what the member
says about itself; policy tables of other rooms dispatch on the family first. (`Elementwise` lives beside `Value`.)

Rules about derivatives, for all families: an op has `partials()` (maps), `transpose(cotangent, i)` (linear in operand
i, for each i in `linear`; multilinear where there are several, like a product, unless it is `joint`, like a
concatenation) or `jvp(tangents)` (the rest), or it says that it is `flat`. An op linear in some operands only has both,
and its jvp holds for all. Integers and bools carry no tangents. `batch(operands, batched)`: the operands named in
`batched` carry one new leading axis of one size, and so must the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from ..dims import Dim
from ..dtypes import ARITHMETIC, DTYPES, DType
from ..errors import InvalidValue, TypeMismatch
from ..graph import Graph
from ..structure import Axis, Monoid, Read, Structure, axes_of, element
from ..types import Shape, TensorType, TupleType, Type
from ..value import Array, Value, replace

RunBody = Callable[[Graph, Sequence[Any]], tuple[Any, ...]]
Tangent = Value | tuple[Value | None, ...] | None


class Op(Value):
    """What the chapters define."""

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        """The cotangent of a linear operand, given the result's."""
        return None

    def accumulate_transpose(self, into: Value, cotangent: Value, operand: int) -> Value:
        """`into` plus the operand's cotangent; reads of a part add to that part and leave the rest of `into` alone."""
        found = self.transpose(cotangent, operand)
        return into if found is None else into + found

    def jvp(self, tangents: tuple[Value | None, ...]) -> Tangent:
        """The tangent of the result, given those of the operands (None: zero); a tuple where the op yields one."""
        if not self.flat:
            raise TypeError(f"{type(self).__name__} has no derivative rule")
        return None

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        """The op on operands of which some carry a new leading axis; None where the structure says it all."""
        return None


def normalize_axis(op: Value, axis: int, rank: int) -> int:
    """`axis` counted from the front; TD0121 when it is outside."""
    if not -rank <= axis < rank:
        raise op.refuse(f"axis {axis} is outside a value of rank {rank}", code="TD0121", error=InvalidValue)
    return axis % rank


class Movement(Op):
    """Linear ops that only move elements: each result element is one operand element, or a fill. Any dtype."""

    x: Value

    linear: ClassVar[tuple[int, ...]] = (0,)
    accepts: ClassVar[tuple[DType, ...]] = DTYPES
    unbounded = None

    def read(self, at: tuple[Dim, ...]) -> Read:
        """Where the result element at `at` is read from."""
        raise TypeError(f"{type(self).__name__} has no read")

    def structure(self) -> Structure | None:
        axes = axes_of(self.shape)
        read = self.read(tuple(axis.position for axis in axes))
        return Structure(axes, (read,), (element(0, self.dtype),), None, self.dtype)


class Reduction(Op):
    """Combine the elements along `axes` with a monoid; the axes disappear from the result."""

    x: Value
    axes: tuple[int, ...]

    accepts: ClassVar[tuple[DType, ...]] = ARITHMETIC

    def monoid(self) -> Monoid:
        raise TypeError(f"{type(self).__name__} has no monoid")

    def result_dtype(self) -> DType:
        return self.x.dtype

    def result(self) -> Type:
        if self.x.dtype not in self.accepts:
            raise self.refuse(f"{self.x.dtype} is not accepted", code="TD0114", error=TypeMismatch)
        axes = tuple(sorted(normalize_axis(self, axis, self.x.rank) for axis in self.axes))
        if len(set(axes)) != len(axes):
            raise self.refuse(f"axes {self.axes} repeat", code="TD0122", error=InvalidValue)
        self.__dict__["axes"] = axes
        kept = tuple(dim for i, dim in enumerate(self.x.shape) if i not in axes)
        return TensorType(kept, self.result_dtype())

    def element(self, axes: tuple[Axis, ...]) -> tuple[Any, ...]:
        """The body: the value read, for most."""
        return (element(0, self.x.dtype),)

    def structure(self) -> Structure | None:
        axes = tuple(
            Axis(f"a{i}", dim, "reduce" if i in self.axes else "parallel") for i, dim in enumerate(self.x.shape)
        )
        here = tuple(axis.position for axis in axes)
        return Structure(axes, (Read(0, here),), self.element(axes), self.monoid(), self.dtype)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        return replace(self, x=operands[0], axes=tuple(axis + 1 for axis in self.axes))


class Contraction(Op):
    """Sums of products: dot, convolution. Members give their structure."""


class Indexing(Op):
    """Ops whose positions are data. Irregular: they have no structure, their lowering is in codegen/lower/indexing."""


class Control(Op):
    """Ops with closed bodies. They yield a tuple, read by `Get`; their bodies see nothing but their parameters."""

    def evaluate_bodies(self, run: RunBody, sizes: Mapping[str, int], *operands: Any) -> tuple[Any, ...]:
        """The reference; `run(graph, args)` evaluates a body, `sizes` are the values of the symbolic sizes."""
        raise TypeError(f"{type(self).__name__} has no reference")

    def evaluate(self, *operands: Any) -> Any:
        raise TypeError("a control op is evaluated with its bodies: see evaluate_bodies")


class Composite(Op):
    """Named functions that keep their names until a target without a kernel opens them: `decompose()` is their meaning
    in other ops, from which type, derivative and batching follow; each may be overridden for the sake of numerics."""

    def decompose(self) -> Value:
        """The same value written in ops that are not this one."""
        raise TypeError(f"{type(self).__name__} has no decomposition")

    def result(self) -> Type:
        return self.decompose().type


__all__ = [
    "Array", "Composite", "Contraction", "Control", "Indexing", "Movement", "Op", "Reduction", "RunBody", "Shape",
    "Tangent", "TupleType", "normalize_axis",
]  # fmt: skip
