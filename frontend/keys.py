"""Keys of random numbers that are used a second time: found while tracing, and outside of a trace by the array itself.

Two draws by one key are the same bits, which nobody wants and nothing else would tell. Keys are the same when they are
computed alike, so `keys[0]` is `keys[0]` however often it is written. The branches of a `cond`, and a function traced
once more, are no second use; a call of a compiled function is none either, since its key may be another one.
"""

from __future__ import annotations

import functools
import warnings
import weakref
from typing import Any

import numpy as np

from ..ir.location import Location
from ..ir.value import Constant, Parameter, Value
from ..runtime.errors import users_level
from .trace import Trace, current, here

DEPTH = 8  # of the expression by which two keys are compared; what lies deeper is compared by identity


class KeyReuseWarning(UserWarning):
    """A key of random numbers was used a second time."""


_used: dict[int, tuple[weakref.ReferenceType[Any], Location | None]] = {}


def use_array(key: np.ndarray[Any, Any]) -> None:
    """A key is used outside of a trace."""
    known = _used.get(id(key))
    if known is not None and known[0]() is key:
        _warn(known[1], here())
    _used[id(key)] = (weakref.ref(key, functools.partial(_forget, id(key))), here())


def _forget(number: int, reference: object) -> None:
    _used.pop(number, None)


def use(key: Value) -> None:
    """A key is used in the running trace."""
    trace = current()
    if trace is None:
        return
    where = here()
    spelt = _spelt(key, DEPTH)
    known = trace.session.keys.get(spelt)
    if known is None:
        trace.session.keys[spelt] = (trace, where, key)
    elif (known[0] is trace or known[1] != where) and (_within(trace, known[0]) or _within(known[0], trace)):
        _warn(known[1], where)


def _within(inner: Trace, outer: Trace) -> bool:
    trace: Trace | None = inner
    while trace is not None:
        if trace is outer:
            return True
        trace = trace.parent
    return False


def _spelt(value: Value, depth: int) -> tuple[Any, ...]:
    """How a value is computed."""
    if depth == 0 or isinstance(value, Parameter | Constant) or value.bodies:
        return (id(value),)
    fields = tuple((name, repr(content)) for name, content in value.attributes())
    return (value.name, fields, tuple(_spelt(operand, depth - 1) for operand in value.operands))


def _warn(first: Location | None, second: Location | None) -> None:
    lines = [f"{word}{where.excerpt()}" for word, where in (("first", first), ("again", second)) if where is not None]
    warnings.warn(
        "\n".join(
            ["TD0734: a key is used twice, so both draws are the same", *lines, "edit: a, b = td.random.split(key)"]
        ),
        KeyReuseWarning,
        stacklevel=users_level(),
    )
