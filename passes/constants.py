"""Evaluate what is already known, by the reference interpreter.

What depends on constants alone has one value; computing it at every call is waste. Results stay small: at most as many
bytes as the constants that go in, or `bytes`. Work is bounded for the whole graph by a count of operations, not by a
clock, so the same graph always gives the same result. What costs nothing where it is read stays symbolic: fills, iotas,
repetitions, and plain arithmetic on these. Known values of one number become fills. Control flow and what fails is left
alone. A known value that is not evaluated is remarked. Nothing happens to a graph without constants.
"""

from __future__ import annotations

import math

import numpy as np

from ..ir.classes import dataclass
from ..ir.errors import TreadleError
from ..ir.evaluate import evaluate
from ..ir.graph import Graph
from ..ir.loops.nodes import Expr
from ..ir.ops.contract import Dot
from ..ir.ops.families import Control, Movement
from ..ir.ops.movement import Broadcast, Iota
from ..ir.types import TensorType, TupleType
from ..ir.value import After, Array, Constant, Elementwise, Full, Get, Scalar, Value
from .cost import scalar_cost
from .manager import Context, graph_pass
from .rewrite import rewrite


@dataclass(frozen=True)
class ConstantOptions:
    """`bytes` is what a result may take in any case; `work` is how many operations one graph may cost, in all."""

    bytes: int = 65536
    work: int = 1 << 26


@graph_pass(options=ConstantOptions())
def constants(graph: Graph, cx: Context, options: ConstantOptions) -> Graph:
    """Evaluate what depends on constants alone."""
    return rewrite(graph, _Folder(cx, options).known)


@dataclass(frozen=True, slots=True)
class Known:
    """A value that is known and stays symbolic: what it is made from takes `stored` bytes, and it costs `work`."""

    value: Value  # held, so that its id stays its own
    stored: int
    work: int


class _Folder:
    """One run: what is known, and what is left to spend."""

    def __init__(self, cx: Context, options: ConstantOptions) -> None:
        self.cx = cx
        self.options = options
        self.left = options.work
        self.symbolic: dict[int, Known] = {}
        self.remarked: dict[int, Value] = {}

    def known(self, value: Value) -> Value | None:
        match value:
            case Constant(data):
                return uniform(data)
            case Full() | After() | Control():
                return None
            case Broadcast(Full(number)):
                return Full(number, value.tensor)
            case Elementwise() if value.operands and all(isinstance(x, Full) for x in value.operands):
                return of_numbers(value)
        operands = [self.of(x) for x in value.operands]
        if not (operands or isinstance(value, Iota)):
            return None
        found: list[Known] = [x for x in operands if x is not None]
        kinds = [kind for x in (value, *value.operands) for kind in x.tensors]
        if len(found) < len(operands) or not all(kind.is_static for kind in kinds):
            return None
        here = Known(value, sum(x.stored for x in found), work(value) + sum(x.work for x in found))
        # Of several results, those that are read are evaluated.
        several = isinstance(value.type, TupleType)
        if several or isinstance(value, Iota | Broadcast) or (here.stored == 0 and is_plain(value)):
            self.symbolic[id(value)] = here
            return None
        return self.evaluated(here)

    def of(self, value: Value) -> Known | None:
        """What is known of an operand."""
        match value:
            case Constant(data):
                return Known(value, data.nbytes, 0)
            case Full():
                return Known(value, 0, 0)
        return self.symbolic.get(id(value))

    def evaluated(self, here: Known) -> Value | None:
        value = here.value
        size = static_bytes(value)
        limit = max(here.stored, self.options.bytes)
        refusal = None
        if size > limit:
            refusal = f"it takes {size} bytes, what it is made from {here.stored}"
        elif max(map(static_bytes, value.operands)) > limit:
            refusal = "an operand written out takes more than what it is made from"
        elif here.work > self.left:
            refusal = f"it costs {here.work} operations, {self.left} are left"
        if refusal is not None:
            if id(value) not in self.remarked:
                self.remarked[id(value)] = value
                self.cx.remark(value, f"known, but not evaluated: {refusal}")
            return None
        try:
            (found,) = evaluate(Graph("known", (), (value,)))
        except (TreadleError, ArithmeticError, LookupError, ValueError):
            return None  # it must fail when it is run
        self.left -= here.work
        as_fill = uniform(found)
        return Constant(np.ascontiguousarray(found)) if as_fill is None else as_fill


def of_numbers(value: Elementwise) -> Value | None:
    """A map of fills is a fill, whatever the shape."""
    given = (Full(x.value, TensorType((), x.dtype)) for x in value.operands if isinstance(x, Full))
    try:
        (found,) = evaluate(Graph("known", (), (value.with_operands(tuple(given)),)))
    except (TreadleError, ArithmeticError, ValueError):
        return None
    return Full(number(found), value.tensor)


def number(x: Array) -> Scalar:
    """The element of an array of one element, as Python has it."""
    exact: Scalar = float(x) if x.dtype.kind not in "biuc" else x.item()
    return exact


def uniform(data: Array) -> Value | None:
    """A fill, where all elements are one number."""
    given = Constant(data).tensor
    if data.size == 0:
        return Full(0, given)
    flat = np.ascontiguousarray(data).reshape(-1)
    raw = flat.view(np.uint8).reshape(flat.size, -1)
    # Most weights are told apart by their ends.
    if np.any(raw[0] != raw[-1]) or np.any(raw != raw[0]):
        return None
    return Full(number(flat[:1].reshape(())), given)


def is_plain(value: Value) -> bool:
    """A map or a movement without a transcendental function: as cheap as reading its result would be."""
    if isinstance(value, Movement):
        return True
    structure = value.structure() if isinstance(value, Elementwise) else None
    return structure is not None and not transcendentals(structure.body)


def transcendentals(body: tuple[Expr, ...]) -> int:
    return sum(scalar_cost(x)[1] for x in body)


def static_bytes(value: Value) -> int:
    return sum(int(kind.bytes) for kind in value.tensors)


def work(value: Value) -> int:
    """About how many element operations it takes to evaluate one op of known sizes."""
    if isinstance(value, Get):
        return 0
    structure = value.structure()
    if structure is None:
        return 32 * sum(int(kind.size) for x in (value, *value.operands) for kind in x.tensors)
    points = math.prod(int(axis.extent) for axis in structure.axes)
    if isinstance(value, Dot):
        return points // 8 + 1  # by BLAS
    return points * (1 + 8 * transcendentals(structure.body))
