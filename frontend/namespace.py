"""NumPy's functions under our names: the same call for traced and for concrete arrays.

A function of a namespace looks for traced arrays in every argument, where NumPy looks in some only (`np.take(const,
t)`), and takes symbolic sizes in shapes. On concrete arrays it is NumPy's own function.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from types import ModuleType
from typing import Any, Final

import numpy as np

from ..ir.dtypes import FLOAT8, bf16
from ..ir.errors import UnknownName
from .arrays import any_traced
from .eager import run
from .functions import HANDLERS, call
from .functions.ufuncs import RULES
from .trace import current, here

_OURS: Final = frozenset(dtype.numpy for dtype in (bf16, *FLOAT8))
# Inside a trace these give traced arrays, so that `.at[...]` and symbolic sizes work on what they give.
_CREATORS: Final[frozenset[Any]] = frozenset(
    (np.arange, np.array, np.asarray, np.empty, np.eye, np.full, np.identity, np.linspace, np.ones, np.tri, np.zeros)
)


class Function:
    """One function of NumPy, for traced and concrete arrays alike."""

    def __init__(self, original: Callable[..., Any]) -> None:
        self.__wrapped__ = original
        self.__name__ = getattr(original, "__name__", "function")
        self.__doc__ = original.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        original = self.__wrapped__
        traced = any_traced(args) or (kwargs and any_traced(kwargs))
        if traced or (original in _CREATORS and current() is not None):
            return call(original, args, kwargs)
        ours = _has_ours(args) or (kwargs and _has_ours(tuple(kwargs.values())))
        if ours and (original in HANDLERS or original in RULES):
            return run(lambda *xs, **named: call(original, xs, named), args, kwargs)
        return original(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __repr__(self) -> str:
        return f"<treadle.numpy function {self.__name__}>"


def _has_ours(args: tuple[Any, ...]) -> bool:
    """Whether an array of bfloat16 or fp8, which promote by our table, is among the arguments."""
    return any(
        (isinstance(x, np.ndarray | np.generic) and x.dtype in _OURS)
        or (isinstance(x, list | tuple) and _has_ours(tuple(x)))
        for x in args
    )


_made: dict[Any, Function] = {}


def member(module: ModuleType, name: str, ours: str) -> Any:
    """`module.name` under our roof: functions wrapped, constants and dtypes as they are."""
    if name.startswith("_"):
        raise AttributeError(f"module {ours!r} has no attribute {name!r}")
    found = getattr(module, name, None)
    if found is None and not hasattr(module, name):
        near = get_close_matches(name, names_of(module), 1)
        raise UnknownName(
            f"{ours} has no {name!r}", code="TD0600", edit=f"did you mean {near[0]}?" if near else None, location=here()
        )
    if isinstance(found, ModuleType):
        raise UnknownName(
            f"{ours} has no {name!r}; NumPy's is numpy.{name}", code="TD0600", location=here(), edit=f"numpy.{name}"
        )
    if isinstance(found, np.ufunc) or (callable(found) and not isinstance(found, type)):
        wrapped = _made.get(found)
        if wrapped is None:
            wrapped = _made[found] = Function(found)
        return wrapped
    return found


def names_of(module: ModuleType) -> list[str]:
    """The public names of a NumPy module that `member` gives."""
    return sorted(n for n in dir(module) if not n.startswith("_") and not isinstance(getattr(module, n), ModuleType))


__all__ = ["Function", "member", "names_of"]
