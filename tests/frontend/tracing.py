"""Trace and evaluate: what the tests of this directory share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from treadle.frontend import tree
from treadle.frontend.trace import LeafSpec
from treadle.frontend.tracer import Traced, trace_to_graph
from treadle.ir.dims import Dim, DimName
from treadle.ir.dtypes import of
from treadle.ir.evaluate import evaluate
from treadle.ir.types import TensorType

WEAK = {int: "int", float: "float", complex: "complex"}


def spec(x: Any, label: str, shape: tuple[Dim, ...] | None = None) -> LeafSpec:
    array = np.asarray(x)
    return LeafSpec(WEAK.get(type(x), "array"), TensorType(shape or array.shape, of(array.dtype)), label)


def traced(fn: Callable[..., Any], *args: Any, shapes: tuple[Any, ...] = (), dims: tuple[DimName, ...] = ()) -> Traced:
    """The trace of `fn` on arguments like these; `shapes` give symbolic ones, `dims` what is promised of them."""
    specs = [spec(x, f"x{i}", shapes[i] if i < len(shapes) else None) for i, x in enumerate(args)]
    return trace_to_graph(fn, specs, lambda tracers: (tracers, {}), getattr(fn, "__name__", "fn"), dims)


def run(fn: Callable[..., Any], *args: Any, shapes: tuple[Any, ...] = ()) -> Any:
    """What the traced `fn` computes on these arguments, by the reference interpreter."""
    found = traced(fn, *args, shapes=shapes)
    return found.out_tree.unflatten(evaluate(found.graph, *(np.asarray(x) for x in args)))


def same(got: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Equal in structure, dtype and shape, and in value within rounding."""
    left, left_shape = tree.flatten(got)
    right, right_shape = tree.flatten(_plain(expected))
    assert len(left) == len(right), f"{left_shape} and {right_shape}"
    for a, b in zip(left, right, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype, f"dtype {a.dtype}, NumPy has {b.dtype}"
        assert a.shape == b.shape, f"shape {a.shape}, NumPy has {b.shape}"
        if b.dtype.kind in "fc" or b.dtype.kind == "V":
            coarse = b.dtype == np.float16
            np.testing.assert_allclose(a, b, rtol=2e-3 if coarse else rtol, atol=2e-3 if coarse else atol)
        else:
            np.testing.assert_array_equal(a, b)


def _plain(x: Any) -> Any:
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return tuple(_plain(each) for each in x)
    if isinstance(x, tuple | list):
        return type(x)(_plain(each) for each in x)
    return x


Path = tuple[Any, ...]


def places(x: Any, kinds: tuple[type, ...] = (np.ndarray, np.generic), path: Path = ()) -> Iterator[Path]:
    """Where in nested containers values of these kinds stand."""
    if isinstance(x, kinds) and not isinstance(x, bool):
        yield path
    elif isinstance(x, list | tuple):
        for i, each in enumerate(x):
            yield from places(each, kinds, (*path, i))
    elif isinstance(x, dict):
        for key, each in x.items():
            yield from places(each, kinds, (*path, key))


def at(x: Any, path: Path) -> Any:
    for key in path:
        x = x[key]
    return x


def put(x: Any, path: Path, new: Any) -> Any:
    """`x` with `new` at that place; nothing is changed in place."""
    if not path:
        return new
    key, rest = path[0], path[1:]
    if isinstance(x, dict):
        return {**x, key: put(x[key], rest, new)}
    return type(x)(put(each, rest, new) if i == key else each for i, each in enumerate(x))
