"""The dtypes of layers: operands meet in one float type, and the result goes back to it.

Integers become float64, as NumPy's functions take them. fp8 is storage only: computed in f32, returned as it came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...ir.dtypes import FLOAT8, bool_, f32, f64
from ...ir.errors import InvalidValue, TypeMismatch
from ...ir.value import Value
from ..arrays import convert, described, operands, typed
from ..promotion import result_type
from ..trace import here
from ..tracer import Tracer, wrap


def wrong(message: str, edit: str | None = None) -> InvalidValue:
    return InvalidValue(message, code="TD0830", location=here(), edit=edit)


def floats(*xs: Any) -> list[Value]:
    """The operands in the float type in which they meet: integers as f64, as NumPy's functions take them."""
    if any(x is None for x in xs):
        # What most often stands behind it is a function that returns nothing.
        raise TypeMismatch("None is no array", code="TD0831", location=here(), edit="return a result where it was made")
    given = operands(*xs)
    kind = result_type(*map(described, given))
    if kind is bool_ or kind.is_integer:
        kind = f64
    if kind.kind == "complex":
        raise TypeMismatch(
            f"{kind} is not accepted, a real number is needed",
            code="TD0831",
            location=here(),
            edit="convert it by .astype(np.float32)",
        )
    return [typed(x, kind) for x in given]


def stored(function: Callable[..., Value], *values: Value) -> Tracer:
    """The function's result in the operands' dtype; fp8, which is storage only, by way of f32."""
    if values[0].dtype in FLOAT8:
        return wrap(convert(function(*(convert(v, f32) for v in values)), values[0].dtype))
    return wrap(function(*values))


def mapped(op: Callable[..., Value], x: Any) -> Tracer:
    return stored(op, *floats(x))
