"""Running without a trace: the same functions on concrete arrays, by tracing them and evaluating the graph at once.

NumPy's own functions are called as they are wherever they can be; what NumPy does not have (`td.nn`, `td.lax`, bfloat16
and fp8 by our promotion) goes through the reference interpreter. That is exact and unhurried: speed is what `td.jit`
is for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from ..ir.dtypes import of
from ..ir.evaluate import evaluate
from ..ir.types import TensorType
from . import tree
from .arrays import any_traced
from .sizes import plain
from .trace import LeafSpec, current, operation
from .tracer import trace_to_graph
from .userline import called, spoken

F = TypeVar("F", bound=Callable[..., Any])


def run(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The function's results on concrete arrays, as NumPy arrays and scalars."""
    leaves, structure = tree.flatten((args, dict(kwargs)))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, np.ndarray | np.generic)]
    arrays = [np.asarray(leaves[i]) for i in places]
    paths = structure.paths("argument")
    specs = [
        LeafSpec("array", TensorType(array.shape, of(array.dtype)), paths[i])
        for i, array in zip(places, arrays, strict=True)
    ]

    def rebuild(tracers: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        filled = list(leaves)
        for i, tracer in zip(places, tracers, strict=True):
            filled[i] = tracer
        positional, named = structure.unflatten(filled)
        return positional, named

    def one_operation(*positional: Any, **named: Any) -> Any:
        with operation():
            return called(function, positional, named)

    traced = trace_to_graph(one_operation, specs, rebuild, getattr(function, "__name__", "function"))
    results = evaluate(traced.graph, *(array.astype(of(array.dtype).numpy, copy=False) for array in arrays))
    return traced.out_tree.unflatten(result[()] for result in results)


def public(function: F) -> F:
    """A function of ours that users call: traced arrays among the arguments are traced, concrete ones computed at
    once."""

    @functools.wraps(function)
    def either(*args: Any, **kwargs: Any) -> Any:
        if any_traced(args) or any_traced(kwargs):
            with operation():
                return called(function, plain(args), plain(kwargs))
        return run(function, args, kwargs)

    return spoken(either)  # type: ignore[return-value]


def in_trace(function: F) -> F:
    """A function of ours that takes functions: inside a trace always traced, because what they close over may be."""

    @functools.wraps(function)
    def either(*args: Any, **kwargs: Any) -> Any:
        if current() is not None:
            with operation():
                return called(function, plain(args), plain(kwargs))
        return run(function, args, kwargs)

    return spoken(either)  # type: ignore[return-value]
