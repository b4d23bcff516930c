"""Keys of random numbers that are used a second time: found while tracing, and outside of a trace by the array itself.

Two draws by one key are the same bits, which nobody wants and nothing else would tell. Keys are the same when they are
computed alike, so `keys[0]` is `keys[0]` however often it is written. The branches of a `cond`, and a function traced
once more, are no second use; a call of a compiled function is none either, since its key may be another one. The steps
of a loop are, where the key does not depend on the step: it comes from outside, or the carry hands it on as it is.
"""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir.location import Location
from ..ir.value import Constant, Parameter, Value
from ..passes.autodiff import reachable_from
from ..runtime.errors import users_level
from .trace import Trace, current, here
from .userline import user_location

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


def used_in_steps(before: Sequence[Value], after: Sequence[Value]) -> None:
    """The body of a loop has been traced, whose carry was `before` and is `after`: what it used as a key in every
    step."""
    trace = current()
    if trace is None:
        return
    steady = {id(old) for old, new in zip(before, after, strict=False) if old is new}
    moving = {id(param) for param in trace.params if id(param) not in steady}
    session, where = trace.session, user_location()
    for owner, line, key in list(session.keys.values()):
        if not _within(owner, trace) or (line, where) in session.repeated:
            continue
        # A loop inside has parameters of its own: a key that hangs on those is told apart, or was told of, there.
        inner = {id(param) for each in _between(owner, trace) for param in each.params}
        if not any(id(value) in moving or id(value) in inner for value in reachable_from([key])):
            session.repeated.add((line, where))
            _warn(line, where, "in every step")


def _between(inner: Trace, outer: Trace) -> list[Trace]:
    found = []
    trace: Trace | None = inner
    while trace is not None and trace is not outer:
        found.append(trace)
        trace = trace.parent
    return found


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


def _warn(first: Location | None, second: Location | None, how: str = "again") -> None:
    lines = [f"{word}{where.excerpt()}" for word, where in (("first", first), (how, second)) if where is not None]
    if how == "again":
        said, edit = "a key is used twice, so both draws are the same", "a, b = td.random.split(key)"
    else:
        said, edit = "all steps of a loop use one key, so all draws are the same", "td.random.fold_in(key, i)"
    warnings.warn(
        "\n".join([f"TD0734: {said}", *lines, f"edit: {edit}"]),
        KeyReuseWarning,
        stacklevel=users_level(),
    )
