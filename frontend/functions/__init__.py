"""What NumPy's functions mean on traced arrays, one chapter per file, and how a call finds its chapter.

`HANDLERS` finds the traced form of a NumPy function; each chapter lists its own in a `TABLE`, and the chapters are
listed here. A handler has NumPy's signature, takes traced arrays and anything concrete, and gives traced arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from ...ir.dims import SymbolicDim
from ..arrays import is_number
from ..sizes import Size, plain
from ..trace import operation
from ..tracer import Tracer
from ..userline import called
from . import (
    analysis,
    comparing,
    creation,
    eigen,
    joining,
    linear,
    norms,
    reductions,
    refused,
    selection,
    shaping,
    solve,
    sorting,
    spectra,
    statistics,
)
from .ufuncs import RULES, elementwise, in_place, not_traced, operator, path_of, refuse_out

CHAPTERS: Final = (
    analysis, comparing, creation, eigen, joining, linear, norms, reductions, refused, selection, shaping, solve,
    sorting, spectra, statistics,
)  # fmt: skip
HANDLERS: Final[Mapping[Any, Callable[..., Any]]] = {
    function: handler for chapter in CHAPTERS for function, handler in chapter.TABLE.items()
}


_AT: Final[Mapping[Any, str]] = {
    np.add: "x = td.numpy.asarray(x).at[i].add(v) instead of np.add.at(x, i, v)",
    np.subtract: "x = td.numpy.asarray(x).at[i].subtract(v) instead of np.subtract.at(x, i, v)",
    np.multiply: "x = td.numpy.asarray(x).at[i].multiply(v) instead of np.multiply.at(x, i, v)",
    np.divide: "x = td.numpy.asarray(x).at[i].divide(v) instead of np.divide.at(x, i, v)",
    np.maximum: "x = td.numpy.asarray(x).at[i].max(v) instead of np.maximum.at(x, i, v)",
    np.minimum: "x = td.numpy.asarray(x).at[i].min(v) instead of np.minimum.at(x, i, v)",
    np.power: "x = td.numpy.asarray(x).at[i].power(v) instead of np.power.at(x, i, v)",
}


def handler_of(function: Any) -> Callable[..., Any] | None:
    """The traced form of a function or ufunc of NumPy; None where there is none."""
    if isinstance(function, np.ufunc):
        if function in linear.GUFUNCS:
            return linear.GUFUNCS[function]
        return (lambda *xs, **kw: elementwise(function, *xs, **kw)) if function in RULES else None
    return HANDLERS.get(function)


def call(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A NumPy function on arguments among which there are traced arrays."""
    with operation():
        handler = handler_of(function)
        if handler is None:
            raise not_traced(path_of(function))
        return called(handler, plain(args), plain(kwargs))


def call_ufunc(ufunc: np.ufunc, method: str, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A ufunc, or one of its methods, on operands among which there are traced arrays."""
    inputs, kwargs = plain(inputs), plain(kwargs)
    with operation():
        if method == "__call__":
            return _compute(ufunc, *inputs, **kwargs)
        refuse_out(kwargs.get("out"), f"{ufunc.__name__}.{method}")
        if method == "at":
            refuse_out(inputs[0], f"{ufunc.__name__}.at", _AT.get(ufunc, "x = x.at[i].set(v)"))
        if ufunc not in RULES or ufunc.nout != 1:
            raise not_traced(f"{path_of(ufunc)}.{method}")
        rest = {name: value for name, value in kwargs.items() if name != "out"}
        if method == "reduce":
            return reductions.ufunc_reduce(ufunc, *inputs, **rest)
        if method == "accumulate":
            return reductions.ufunc_accumulate(ufunc, *inputs, **rest)
        if method == "reduceat":
            return reductions.ufunc_reduceat(ufunc, *inputs, **rest)
        return reductions.ufunc_outer(ufunc, *inputs, **rest)


def _compute(ufunc: np.ufunc, *inputs: Any, **kwargs: Any) -> Any:
    gufunc = linear.GUFUNCS.get(ufunc)
    if gufunc is not None:
        if kwargs.get("out") is not None:
            refuse_out(kwargs["out"], ufunc.__name__)
        return gufunc(*inputs, **kwargs)
    return elementwise(ufunc, *inputs, **kwargs)


_CONTAINERS = (np.ndarray, np.generic, list, tuple)


def _is_operand(x: Any) -> bool:
    return (
        type(x) is Tracer
        or isinstance(x, _CONTAINERS)
        or is_number(x)
        or isinstance(x, SymbolicDim | Size)
        or hasattr(x, "__array__")
    )


def apply_operator(ufunc: np.ufunc, operands: tuple[Any, ...]) -> Any:
    """What a Python operator gives; NotImplemented for what is no operand of an array, so that its own method is
    asked."""
    if not all(map(_is_operand, operands)):
        return NotImplemented
    with operation():
        if ufunc in linear.GUFUNCS:
            return linear.GUFUNCS[ufunc](*operands)
        return operator(ufunc, plain(operands))


def apply_in_place(ufunc: np.ufunc, x: Tracer, y: Any) -> Any:
    """What `x += y` binds the name to."""
    if not _is_operand(y):
        return NotImplemented
    with operation():
        return in_place(ufunc, x, plain(y), _compute)
