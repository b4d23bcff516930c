"""The reference interpreter: what a graph means, by NumPy, one op at a time.

It is the oracle of every pass and every kernel, and is never called from compiled code. Symbolic sizes are solved from
the arguments' shapes; what an op computes at a size is then asked of the op on concrete types.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .dims import SymbolicDim, names, substitute
from .dims import evaluate as evaluate_dim
from .errors import ShapeMismatch, TypeMismatch
from .graph import Graph
from .ops.families import Control
from .types import TensorType
from .value import Array, Constant, DimSize, Full, Parameter, Value


def evaluate(graph: Graph, *args: Any, dims: Mapping[str, int] | None = None) -> tuple[Array, ...]:
    """The results of `graph` on arrays. Raises ShapeMismatch (TD0102) or TypeMismatch (TD0103) naming the parameter."""
    arrays = _arguments(graph, args)
    sizes = dict(dims or {})
    solve_dims(graph, arrays, sizes)
    with np.errstate(all="ignore"):
        return _run(graph, arrays, sizes)


def _arguments(graph: Graph, args: Sequence[Any]) -> list[Array]:
    if len(args) != len(graph.params):
        raise TypeMismatch(f"{graph.name} takes {len(graph.params)} arrays, {len(args)} were given", code="TD0104")
    arrays = []
    for param, arg in zip(graph.params, args, strict=True):
        array = np.asarray(arg)
        if array.dtype != param.dtype.numpy:
            raise TypeMismatch(
                f"{graph.name}: {param.label} is {param.given}, an array of {array.dtype} was given", code="TD0103"
            )
        arrays.append(array)
    return arrays


def solve_dims(graph: Graph, arrays: Sequence[Array], sizes: dict[str, int]) -> None:
    """Read the sizes off the arguments: first the axes that are a bare name, then everything is checked."""
    for param, array in zip(graph.params, arrays, strict=True):
        if array.ndim != param.rank:
            raise ShapeMismatch(
                f"{graph.name}: {param.label} is {param.given}, an array of shape {array.shape} was given",
                code="TD0102",
            )
        for dim, size in zip(param.shape, array.shape, strict=True):
            if isinstance(dim, SymbolicDim) and str(dim).isidentifier():
                sizes.setdefault(str(dim), size)
    _solve_linear(graph, arrays, sizes)
    for param, array in zip(graph.params, arrays, strict=True):
        if concrete(param.given, sizes).shape != array.shape:
            raise ShapeMismatch(
                f"{graph.name}: {param.label} is {param.given}, an array of shape {array.shape} was given"
                + (f" with {', '.join(f'{n}={v}' for n, v in sorted(sizes.items()))}" if sizes else ""),
                code="TD0102",
            )


def _solve_linear(graph: Graph, arrays: Sequence[Array], sizes: dict[str, int]) -> None:
    """Sizes that occur only inside a sum or product (`2*B + 1`): solved where one unknown remains and it is linear."""
    for param, array in zip(graph.params, arrays, strict=True):
        for dim, size in zip(param.shape, array.shape, strict=True):
            unknown = [name for name in names(dim) if name not in sizes]
            if len(unknown) != 1:
                continue
            zero, one, two = (evaluate_dim(dim, {**sizes, unknown[0]: n}) for n in (0, 1, 2))
            slope = one - zero
            if slope and two - one == slope and (size - zero) % slope == 0:
                sizes[unknown[0]] = (size - zero) // slope


def concrete(given: TensorType, sizes: Mapping[str, int]) -> TensorType:
    """The type at these sizes."""
    return TensorType(tuple(d if type(d) is int else substitute(d, sizes) for d in given.shape), given.dtype)


def _run(graph: Graph, arrays: Sequence[Any], sizes: Mapping[str, int]) -> tuple[Any, ...]:
    known: dict[int, Any] = {id(p): a for p, a in zip(graph.params, arrays, strict=True)}
    last_reader = {id(operand): i for i, value in enumerate(graph.order) for operand in value.operands}
    keep = {id(result) for result in graph.results}
    for i, value in enumerate(graph.order):
        if id(value) not in known:
            known[id(value)] = _value(value, tuple(known[id(operand)] for operand in value.operands), sizes)
        for operand in value.operands:
            if last_reader[id(operand)] == i and id(operand) not in keep:
                known.pop(id(operand), None)
    return tuple(known[id(result)] for result in graph.results)


def _value(value: Value, operands: tuple[Any, ...], sizes: Mapping[str, int]) -> Any:
    match value:
        case Full(number, given):
            return np.full(concrete(given, sizes).shape, number, given.dtype.numpy)
        case DimSize(dim):
            return np.asarray(evaluate_dim(dim, sizes), np.int64)
        case Constant(data):
            return data
        case Control():
            return value.evaluate_bodies(lambda body, args: _run(body, args, sizes), sizes, *operands)
        case _:
            if sizes:
                value = _at_sizes(value, operands, sizes)
            result = value.evaluate(*operands)
            return result if isinstance(result, tuple) else np.asarray(result, value.dtype.numpy)


_concrete_ops: weakref.WeakKeyDictionary[Value, dict[tuple[tuple[str, int], ...], Value]] = weakref.WeakKeyDictionary()


def _at_sizes(value: Value, operands: tuple[Any, ...], sizes: Mapping[str, int]) -> Value:
    """The op with its symbolic attributes and operand types replaced by numbers."""
    table = _concrete_ops.setdefault(value, {})
    key = tuple(sorted(sizes.items()))
    if key not in table:
        kinds = [concrete(v.tensor, sizes) if isinstance(v.type, TensorType) else v.type for v in value.operands]
        stand_ins = tuple(
            v if not isinstance(kind, TensorType) else Parameter(f"p{i}", kind)
            for i, (v, kind) in enumerate(zip(value.operands, kinds, strict=True))
        )
        table[key] = specialize(value, stand_ins, sizes)
    return table[key]


def specialize(value: Value, operands: tuple[Value, ...], sizes: Mapping[str, int]) -> Value:
    """The same op on other operands with every symbolic attribute evaluated."""
    rest = iter(operands)
    fields: list[Any] = []
    for field in value.schema:
        old = value.__dict__[field.name]
        if field.kind == "operand":
            fields.append(next(rest))
        elif field.kind == "operands":
            fields.append(tuple(next(rest) for _ in old))
        else:
            fields.append(_number(old, sizes))
    return type(value)(*fields)


def _number(attribute: Any, sizes: Mapping[str, int]) -> Any:
    if isinstance(attribute, SymbolicDim):
        return substitute(attribute, sizes)
    if isinstance(attribute, tuple):
        return tuple(_number(item, sizes) for item in attribute)
    if isinstance(attribute, TensorType):
        return concrete(attribute, sizes)
    return attribute
