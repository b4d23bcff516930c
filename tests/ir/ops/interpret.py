"""A structure run directly, in NumPy: the second meaning of a structured op, beside its `evaluate`.

Points of parallel axes are computed at once, points of reduced and scanned axes one after the other, in
order. It knows nothing of ops or loops, so that what it says about either is a second opinion. A read that
claims to need no fill is held to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from treadle.ir import dtypes
from treadle.ir.dims import Atom, Dim
from treadle.ir.dims import evaluate as size_of
from treadle.ir.loops import scalars
from treadle.ir.loops.nodes import Binary, Cast, Const, Expr, Fma, Index, Select, Unary, Var
from treadle.ir.structure import Read, Structure

Positions = Mapping[str, Any]  # axis or size -> int, or int array over the parallel axes


class Fault(Exception):
    """The structure's `fault` is true somewhere."""


def interpret(
    structure: Structure,
    operands: Sequence[np.ndarray],
    sizes: Mapping[str, int] | None = None,
    pieces: int = 1,
) -> np.ndarray:
    """The result of `structure` on arrays. Reduced points are cut into `pieces` runs whose states are then
    merged.
    """
    sizes = dict(sizes or {})
    extents = {axis.name: size_of(axis.extent, sizes) for axis in structure.axes}
    parallel = [axis for axis in structure.axes if axis.kind == "parallel"]
    stepped = [axis for axis in structure.axes if axis.kind != "parallel"]
    scanned = [axis for axis in stepped if axis.kind == "scan"]
    assert len(scanned) <= 1, "prefixes along one axis at a time"
    assert not scanned or len(stepped) == 1, "prefixes of reductions are not structures"
    grid: dict[str, Any] = dict(sizes)
    for i, axis in enumerate(parallel):
        shape = [1] * len(parallel)
        shape[i] = extents[axis.name]
        grid[axis.name] = np.arange(extents[axis.name]).reshape(shape)
    shape = tuple(extents[axis.name] for axis in parallel)

    def state_at(point: Positions) -> tuple[np.ndarray, ...]:
        here = {**grid, **point}
        values = {f"r{i}": read_at(read, operands[read.operand], here) for i, read in enumerate(structure.reads)}
        if structure.fault is not None and np.any(scalar(structure.fault, values, here)):
            raise Fault
        return tuple(np.broadcast_to(scalar(x, values, here), shape) for x in structure.body)

    if structure.combine is None:
        assert not stepped, "there is an axis to combine along and no monoid"
        assert len(structure.body) == 1, "several scalars, and no monoid to take them"
        (result,) = state_at({})
        return finished(result, structure, shape)

    monoid = structure.combine
    identity = tuple(np.full(shape, c.value, c.dtype.numpy) for c in monoid.identity)

    def combine(rule: Any, a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        values = {f"a{i}": x for i, x in enumerate(a)} | {f"b{i}": x for i, x in enumerate(b)}
        left = tuple(Var(f"a{i}", dtypes.of(x.dtype)) for i, x in enumerate(a))
        right = tuple(Var(f"b{i}", dtypes.of(x.dtype)) for i, x in enumerate(b))
        return tuple(np.broadcast_to(scalar(x, values, {}), shape) for x in rule(left, right))

    def finish(state: Sequence[np.ndarray]) -> np.ndarray:
        names = tuple(Var(f"a{i}", dtypes.of(x.dtype)) for i, x in enumerate(state))
        values = {f"a{i}": x for i, x in enumerate(state)}
        return finished(scalar(monoid.finish(names), values, {}), structure, shape)

    points = [
        dict(zip([axis.name for axis in stepped], point, strict=True))
        for point in itertools.product(*(range(extents[axis.name]) for axis in stepped))
    ]
    if scanned:
        state = identity
        prefixes: dict[int, np.ndarray] = {}
        for point in reversed(points) if scanned[0].reverse else points:
            state = combine(monoid.step, state, state_at(point))
            prefixes[point[scanned[0].name]] = finish(state)
        where = [axis.name for axis in structure.axes].index(scanned[0].name)
        if not prefixes:
            return np.empty((*shape[:where], 0, *shape[where:]), structure.dtype.numpy)
        return np.stack([prefixes[i] for i in range(len(prefixes))], axis=where)

    total = identity
    for piece in np.array_split(np.arange(len(points)), pieces):
        state = identity
        for i in piece:
            state = combine(monoid.step, state, state_at(points[i]))
        total = state if pieces == 1 else combine(monoid.merge, total, state)
    return finish(total)


def finished(x: np.ndarray, structure: Structure, shape: tuple[int, ...]) -> np.ndarray:
    assert x.dtype == structure.dtype.numpy, f"the body makes {x.dtype}, the structure says {structure.dtype}"
    return np.broadcast_to(x, shape).copy()


def read_at(read: Read, operand: np.ndarray, here: Positions) -> np.ndarray:
    """The values of one read at all parallel points."""
    index = [np.asarray(position(dim, here)) for dim in read.index]
    inside: Any = np.asarray(True)
    for axis, divisor in enumerate(read.divisors or (1,) * len(index)):
        inside = inside & (index[axis] % divisor == 0)
        index[axis] = index[axis] // divisor
        inside = inside & (index[axis] >= 0) & (index[axis] < operand.shape[axis])
    if read.fill is None:
        assert np.all(inside), f"a read without a fill leaves {operand.shape}"
    if operand.size == 0 or not index:
        fill = 0 if read.fill is None else read.fill.value
        return (
            np.where(inside, operand, fill).astype(operand.dtype)
            if not index
            else np.full(np.broadcast_shapes(inside.shape), fill, operand.dtype)
        )
    found = operand[tuple(np.where(inside, at, 0) for at in index)]
    return found if read.fill is None else np.where(inside, found, np.asarray(read.fill.value, operand.dtype))


def position(dim: Dim, here: Positions) -> Any:
    """A size over arrays of positions, by NumPy's arithmetic."""
    if isinstance(dim, int):
        return dim
    total: Any = dim.constant
    for factors, coefficient in dim.terms:
        product: Any = coefficient
        for factor in factors:
            product = product * (atom(factor, here) if isinstance(factor, Atom) else here[factor])
        total = total + product
    return total


def atom(factor: Atom, here: Positions) -> Any:
    x, *rest = (position(operand, here) for operand in factor.operands)
    for y in rest:
        match factor.kind:
            case "floordiv":
                x = np.floor_divide(x, y)
            case "mod":
                x = np.mod(x, y)
            case "min":
                x = np.minimum(x, y)
            case "max":
                x = np.maximum(x, y)
    return x


def scalar(x: Expr, values: Mapping[str, np.ndarray], here: Positions) -> Any:
    """A scalar expression over arrays of values."""
    with np.errstate(all="ignore"):
        match x:
            case Const(value, dtype):
                return np.asarray(value, dtype.numpy)
            case Var(name, dtype):
                assert values[name].dtype == dtype.numpy, f"{name} is {values[name].dtype}, the body says {dtype}"
                return values[name]
            case Index(dim, dtype):
                return np.asarray(position(dim, here), dtype.numpy)
            case Unary(op, a):
                return scalars.unary(op, scalar(a, values, here))
            case Binary(op, a, b):
                left, right = scalar(a, values, here), scalar(b, values, here)
                assert left.dtype == right.dtype, f"{op} of {left.dtype} and {right.dtype}"
                return scalars.binary(op, left, right)
            case Fma(a, b, c):
                return scalars.fma(scalar(a, values, here), scalar(b, values, here), scalar(c, values, here))
            case Cast(a, dtype, bits):
                return (scalars.bits if bits else scalars.cast)(scalar(a, values, here), dtype)
            case Select(condition, a, b):
                chosen = scalar(condition, values, here)
                return scalars.select(chosen, scalar(a, values, here), scalar(b, values, here))
    raise AssertionError(f"{x} cannot stand in a body")
