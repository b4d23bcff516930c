"""What groups mean for memory: which are only another view of an operand, which join operands end to end, and which
results may be written over which operands. Read off the structures of the groups' ops; whether it is done, the planner
decides.
"""

from __future__ import annotations

from typing import Any

from ..ir.classes import dataclass
from ..ir.dims import Dim, SymbolicDim, names, product
from ..ir.graph import Graph
from ..ir.ops.control import Group, Switch
from ..ir.ops.families import Contraction
from ..ir.ops.indexing import DynamicUpdate, Scatter
from ..ir.ops.movement import Broadcast, Concatenate, Copy, Reshape, Slice, Transpose
from ..ir.types import Shape, TensorType
from ..ir.value import After, Get, Parameter, Value


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
        step = lies_in(value)
        if step is None:
            return None
        offset = offset + step
        value = value.operands[0]
    return View(next(i for i, p in enumerate(body.params) if p is value), offset)


def lies_in(value: Value) -> Dim | None:
    """The byte offset of `value` in its first operand, if its elements lie there in order: then it is only a view."""
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


def updates_of(body: Graph) -> tuple[tuple[int, int], ...]:
    """(result, parameter) pairs where the result is the parameter with a part of it written anew, and nothing else in
    `body` reads the parameter."""
    numbers = {id(p): i for i, p in enumerate(body.params)}
    found: list[tuple[int, int]] = []
    for i, result in enumerate(body.results):
        if isinstance(result, Get) and isinstance(result.x, Switch):
            x = _kept_by(result.x, result.index)
            if id(x) in numbers and sum(operand is x for value in body.ops for operand in value.operands) == 1:
                found.append((i, numbers[id(x)]))
            continue
        if not is_update(result) or id(result.operands[0]) not in numbers:
            continue
        x = result.operands[0]
        reads = sum(operand is x for value in body.ops for operand in value.operands)
        if reads == 1 and not any(other is x for other in body.results):
            found.append((i, numbers[id(x)]))
    return tuple(found)


def _kept_by(op: Switch, index: int) -> Value | None:
    """The argument of which every branch gives parts written anew, one of them none: what result `index` is made of."""
    whole, found = False, dict.fromkeys(range(len(op.args)))
    for branch in op.branches:
        value = branch.results[index]
        whole |= isinstance(value, Parameter)
        value = _before_updates(value)
        found = {i: None for i in found if branch.params[i] is value}
    return op.args[next(iter(found))] if found and whole else None


def _before_updates(value: Value) -> Value:
    """What updates, in groups or not, are made in, one after the other."""
    while True:
        if isinstance(value, Get) and isinstance(value.x, Group):
            inner = _before_updates(value.x.body.results[value.index])
            number = next((i for i, param in enumerate(value.x.body.params) if param is inner), None)
            if number is None or inner is value.x.body.results[value.index]:
                return value
            value = value.x.args[number]
        elif is_update(value):
            value = value.operands[0]
        else:
            return value


def is_update(value: Value) -> bool:
    """Whether an op yields its first operand with a part written anew."""
    return isinstance(value, DynamicUpdate | Scatter)


def written_by(value: Value) -> Value | None:
    """What an update writes into its operand, each element once."""
    match value:
        case DynamicUpdate(_, update):
            return update
        case Scatter(_, _, updates):
            return updates
    return None


def overwritable(body: Graph) -> tuple[tuple[int, int], ...]:
    """(result, parameter) pairs of one type where the parameter may be lost as the result is written: each element is
    read at the position of the result, and otherwise only by reductions of whole rows that end before it. The operands
    of a contraction are read again and again; what is added to its result is not."""
    shape = body.results[0].shape if body.results else ()
    if any(result.shape != shape for result in body.results):
        return ()
    elsewhere = _read_elsewhere(body)
    if elsewhere is None:
        return ()
    read = {id(operand) for value in body.ops for operand in value.operands}
    return tuple(
        (r, p)
        for p, param in enumerate(body.params)
        if id(param) in read and id(param) not in elsewhere
        for r, result in enumerate(body.results)
        if result.type == param.type and not isinstance(result, Parameter)
    )


def _read_elsewhere(body: Graph) -> set[int] | None:
    """Ids of what is read at another position than the results'; None where that is not known."""
    shape = body.results[0].shape
    kinds: tuple[str, ...] | None = None
    seen: set[tuple[int, bool]] = set()
    elsewhere: set[int] = set()
    pending: list[tuple[Value, bool]] = [(result, True) for result in body.results]
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
        if structure is None or (isinstance(value, Contraction) and not (here and value.shape == shape)):
            if value.operands:
                return None
            continue
        if isinstance(value, Contraction):
            pending.extend((operand, False) for operand in value.operands)
            continue
        position = tuple(axis.position for axis in structure.axes)
        over = tuple(axis.extent for axis in structure.axes)
        if structure.combine is not None:
            # All reductions go along the same rows of the results' space, or order among them is not known.
            mine = tuple(axis.kind for axis in structure.axes)
            if over != shape or (kinds is not None and mine != kinds):
                return None
            kinds, here = mine, True
        for read in structure.reads:
            operand = value.operands[read.operand]
            same = read.index == position and read.fill is None and not read.divisors and operand.shape == over
            pending.append((operand, here and same))
    return elsewhere


def sizes_in(value: Value) -> list[str]:
    """The names of sizes that a value's type or attributes mention."""
    found: dict[str, None] = {}

    def look(content: Any) -> None:
        if isinstance(content, tuple):
            for item in content:
                look(item)
        elif isinstance(content, TensorType):
            look(content.shape)
        elif isinstance(content, SymbolicDim):
            found.update(dict.fromkeys(names(content)))

    kind = value.type
    look(kind if isinstance(kind, TensorType) else kind.elements)
    for _, attribute in value.attributes():
        look(attribute)
    return list(found)
