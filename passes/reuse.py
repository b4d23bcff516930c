"""What groups mean for memory: which are only another view of an operand, which join operands end to end, and which
results may be written over which operands. Read off the structures of the groups' ops; whether it is done, the planner
decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.dims import Dim, product
from ..ir.graph import Graph
from ..ir.ops.indexing import DynamicUpdate, Scatter
from ..ir.ops.movement import Broadcast, Concatenate, Copy, Reshape, Slice, Transpose
from ..ir.types import Shape
from ..ir.value import After, Parameter, Value


@dataclass(frozen=True, slots=True)
class View:
    """The bytes of parameter `param` from `offset` on, under another shape."""

    param: int
    offset: Dim


@dataclass(frozen=True, slots=True)
class Join:
    """The operands end to end: (parameter, byte offset in the result) for each. One operand at 0 is a plain copy."""

    parts: tuple[tuple[int, Dim], ...]


def strides(shape: Shape) -> list[Dim]:
    """Elements from one position to the next, for each axis."""
    return [product(shape[axis + 1 :]) for axis in range(len(shape))]


def view_of(body: Graph) -> View | None:
    """How the one result of `body` lies inside one of its parameters, if it does."""
    if len(body.results) != 1:
        return None
    value = body.results[0]
    offset: Dim = 0
    while not isinstance(value, Parameter):
        step = _lies(value)
        if step is None:
            return None
        offset = offset + step
        value = value.operands[0]
    return View(next(i for i, p in enumerate(body.params) if p is value), offset)


def _lies(value: Value) -> Dim | None:
    """The byte offset of `value` in its first operand, if its elements lie there in order."""
    match value:
        case Reshape():
            return 0
        case Broadcast(x, to) if all(to[axis] == 1 for axis in range(len(to)) if axis not in value.axes):
            return 0
        case Transpose(x, permutation):
            moved = [axis for axis in permutation if x.shape[axis] != 1]
            return 0 if moved == sorted(moved) else None
        case Slice(x, start, _, step):
            cut = [axis for axis in range(x.rank) if start[axis] != 0 or value.shape[axis] != x.shape[axis]]
            if any(step[axis] != 1 and value.shape[axis] != 1 for axis in range(x.rank)):
                return None
            if cut and any(value.shape[axis] != 1 for axis in range(cut[-1])):
                return None
            places = [at * stride for at, stride in zip(start, strides(x.shape), strict=True)]
            return sum(places[1:], places[0]) * x.dtype.bytes if places else 0
        case After():
            return 0
    return None


def join_of(body: Graph) -> Join | None:
    """How `body` joins its parameters end to end, or copies one, if that is all it does."""
    if len(body.results) != 1:
        return None
    numbers = {id(p): i for i, p in enumerate(body.params)}
    match body.results[0]:
        case Copy(x) if id(x) in numbers:
            return Join(((numbers[id(x)], 0),))
        case Concatenate(xs, axis) as value if is_contiguous(value) and all(id(x) in numbers for x in xs):
            width = strides(value.shape)[axis] * value.dtype.bytes
            return Join(tuple((numbers[id(x)], at * width) for x, at in zip(xs, value.offsets, strict=True)))
    return None


def is_contiguous(value: Concatenate) -> bool:
    """Whether the operands lie in the result one after the other."""
    return all(dim == 1 for dim in value.shape[: value.axis])


def updates_of(body: Graph) -> tuple[int, int] | None:
    """(result, parameter) where the one op of `body` changes a part of its operand and leaves the rest."""
    if len(body.ops) != 1 or len(body.results) != 1:
        return None
    op = body.ops[0]
    if not isinstance(op, DynamicUpdate | Scatter):
        return None
    x, *others = op.operands
    if not isinstance(x, Parameter) or any(other is x for other in others):
        return None
    return 0, next(i for i, p in enumerate(body.params) if p is x)


def overwritable(body: Graph) -> tuple[tuple[int, int], ...]:
    """(result, parameter) pairs of one type where every element of the parameter is read at the position of the result
    that replaces it, and nowhere else: maps over one space whose reads of the parameter are in place."""
    shape = body.results[0].shape if body.results else ()
    if any(result.shape != shape for result in body.results):
        return ()
    elsewhere = _read_elsewhere(body.results)
    if elsewhere is None:
        return ()
    reached = {id(value) for value in body.order[len(body.params) :] for value in value.operands}
    return tuple(
        (r, p)
        for p, param in enumerate(body.params)
        if id(param) in reached and id(param) not in elsewhere
        for r, result in enumerate(body.results)
        if result.type == param.type and not isinstance(result, Parameter)
    )


def _read_elsewhere(results: Sequence[Value]) -> set[int] | None:
    """What is read at another position than the result's; None where something is no map."""
    seen: set[tuple[int, bool]] = set()
    elsewhere: set[int] = set()
    pending: list[tuple[Value, bool]] = [(result, True) for result in results]
    while pending:
        value, here = pending.pop()
        if (id(value), here) in seen:
            continue
        seen.add((id(value), here))
        if not here:
            elsewhere.add(id(value))
        if isinstance(value, Parameter):
            continue
        structure = value.structure()
        if structure is None:
            if value.operands:
                return None
            continue
        if structure.combine is not None:
            return None
        position = tuple(axis.position for axis in structure.axes)
        for read in structure.reads:
            operand = value.operands[read.operand]
            same = read.index == position and read.fill is None and operand.shape == structure.shape
            pending.append((operand, here and same))
    return elsewhere
