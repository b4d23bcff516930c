"""A size that is not known while tracing, as the user's code meets it: what `x.shape[0]` is where an axis has a name.

The graph compares sizes by their normal forms, and "different" there means "not known to be equal". A user's `n == 3`
asks about every size that the program will be called with. So the user gets a `Size`: with whole numbers and other
sizes `+ - * // %` give sizes again; a comparison is answered where all sizes have the same answer, else refused at the
user's line; with anything else it computes as a traced scalar. Our own code reads plain sizes, and strips given ones.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from ..ir.dims import Dim, SymbolicDim, bounds, floordiv, known_le, known_lt, maximum, minimum, mod, multiple
from ..ir.errors import TypeMismatch
from ..ir.types import Shape
from . import edits
from .trace import current, here, promises
from .userline import is_internal

_HIGHEST_POWER: Final = 8  # n ** 8 and below are sizes; beyond them, no shape is meant


class Size:
    """A size with a name in it."""

    __slots__ = ("dim",)
    dim: SymbolicDim

    def __init__(self, dim: SymbolicDim) -> None:
        self.dim = dim

    def __str__(self) -> str:
        return str(self.dim)

    __repr__ = __str__

    def __hash__(self) -> int:
        # A dict of whole numbers would not find it, and `in` would say no, whatever the size of a call turns out to be.
        raise self._refuse(
            "as a key", "str(n), its formula, as the key; np.where(np.equal(n, m), x, y); or compile for a known size"
        )

    # With whole numbers and sizes: a size again. With anything else: a traced scalar.

    def __add__(self, other: Any) -> Any:
        return _combined(np.add, self, other)

    def __radd__(self, other: Any) -> Any:
        return _combined(np.add, other, self)

    def __sub__(self, other: Any) -> Any:
        return _combined(np.subtract, self, other)

    def __rsub__(self, other: Any) -> Any:
        return _combined(np.subtract, other, self)

    def __mul__(self, other: Any) -> Any:
        return _combined(np.multiply, self, other)

    def __rmul__(self, other: Any) -> Any:
        return _combined(np.multiply, other, self)

    def __floordiv__(self, other: Any) -> Any:
        return _combined(np.floor_divide, self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return _combined(np.floor_divide, other, self)

    def __mod__(self, other: Any) -> Any:
        return _combined(np.remainder, self, other)

    def __rmod__(self, other: Any) -> Any:
        return _combined(np.remainder, other, self)

    def __divmod__(self, other: Any) -> Any:
        return _combined(np.divmod, self, other)

    def __rdivmod__(self, other: Any) -> Any:
        return _combined(np.divmod, other, self)

    def __pow__(self, other: Any) -> Any:
        return _combined(np.power, self, other)

    def __rpow__(self, other: Any) -> Any:
        return _combined(np.power, other, self)

    def __truediv__(self, other: Any) -> Any:
        return _combined(np.true_divide, self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _combined(np.true_divide, other, self)

    def __lshift__(self, other: Any) -> Any:
        return _combined(np.left_shift, self, other)

    def __rlshift__(self, other: Any) -> Any:
        return _combined(np.left_shift, other, self)

    def __rshift__(self, other: Any) -> Any:
        return _combined(np.right_shift, self, other)

    def __rrshift__(self, other: Any) -> Any:
        return _combined(np.right_shift, other, self)

    def __and__(self, other: Any) -> Any:
        return _combined(np.bitwise_and, self, other)

    def __rand__(self, other: Any) -> Any:
        return _combined(np.bitwise_and, other, self)

    def __or__(self, other: Any) -> Any:
        return _combined(np.bitwise_or, self, other)

    def __ror__(self, other: Any) -> Any:
        return _combined(np.bitwise_or, other, self)

    def __xor__(self, other: Any) -> Any:
        return _combined(np.bitwise_xor, self, other)

    def __rxor__(self, other: Any) -> Any:
        return _combined(np.bitwise_xor, other, self)

    def __invert__(self) -> Any:
        return -self - 1

    def __neg__(self) -> Any:
        return Size(-self.dim)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return shown(maximum(self.dim, -self.dim))

    def __trunc__(self) -> Any:
        return self

    def __round__(self, digits: int | None = None) -> Any:
        return self

    __floor__ = __ceil__ = __trunc__

    # NumPy's functions.

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        from .functions import call_ufunc

        if method == "__call__" and not kwargs:
            found = _exact(ufunc, inputs)
            if found is not NotImplemented:
                return found
        return call_ufunc(ufunc, method, inputs, kwargs)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if sys._getframe(1).f_code.co_name == "_wrapreduction":
            # np.prod(x.shape) reduces Python's objects by their own operators, and gives a size.
            itself = np.empty((), object)
            itself[()] = self
            return itself
        raise self._refuse("as an array", edits.for_size("td.numpy.asarray(n)"))

    # Comparisons: answered where every size that the names allow has the same answer.

    def __eq__(self, other: object) -> bool:
        if isinstance(other, complex | np.complexfloating) and other.imag == 0:
            other = float(other.real)
        number = _number(other, lambda x: x)
        if number is None:
            return False if isinstance(other, float | complex | np.inexact) else NotImplemented
        return self._answered(_equal(self.dim, number), "==", other)

    def __lt__(self, other: Any) -> bool:
        number = _number(other, math.ceil)
        return NotImplemented if number is None else self._answered(_less(self.dim, number), "<", other)

    def __le__(self, other: Any) -> bool:
        number = _number(other, math.floor)
        return NotImplemented if number is None else self._answered(_no_more(self.dim, number), "<=", other)

    def __gt__(self, other: Any) -> bool:
        number = _number(other, math.floor)
        return NotImplemented if number is None else self._answered(_less(number, self.dim), ">", other)

    def __ge__(self, other: Any) -> bool:
        number = _number(other, math.ceil)
        return NotImplemented if number is None else self._answered(_no_more(number, self.dim), ">=", other)

    def __bool__(self) -> bool:
        same = _equal(self.dim, 0)
        if same is None:
            raise self._refuse("as true or false", edits.for_size_test())
        return not same

    def _answered(self, answer: bool | None, sign: str, other: Any) -> bool:
        if answer is None:
            raise self._refused(
                f"whether {self} {sign} {other} depends on the size {self}, which is not known while tracing",
                edits.for_size_test(),
            )
        return answer

    # What needs the number, refused.

    def __index__(self) -> int:
        raise self._refuse("as an integer", edits.for_size("keep it as it is: + - * // % give sizes again"))

    def __int__(self) -> int:
        raise self._refuse("as an integer", "leave out int(): + - * // % of sizes give sizes again")

    def __float__(self) -> float:
        raise self._refuse("as a number", edits.for_size("leave out float(): n / 2, n ** 0.5, 0.5 * n are traced"))

    def __complex__(self) -> complex:
        raise self._refuse("as a number", edits.for_size("leave out complex(): 1j * n is traced"))

    def __format__(self, spec: str) -> str:
        return format(str(self), spec.rstrip("dn"))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(int, name):
            raise AttributeError(f"a size has no attribute {name!r}")
        raise self._refuse(f"a number with a {name}", "compile for a known size")

    def __reduce__(self) -> Any:
        return shown, (self.dim,)

    def _refuse(self, wanted: str, edit: str) -> TypeMismatch:
        return self._refused(f"the size {self} is not known while tracing and was asked for {wanted}", edit)

    def _refused(self, message: str, edit: str) -> TypeMismatch:
        refusal = TypeMismatch(message, code="TD0201", edit=edit, location=here())
        trace = current()
        if trace is not None:
            trace.session.refused = refusal  # np.zeros(n) tells of it in words of NumPy's own
        return refusal


def shown(dim: Dim) -> int | Size:
    """A size as the user's code gets it."""
    return dim if type(dim) is int else Size(dim)  # type: ignore[arg-type]


def read(shape: Shape) -> Any:
    """The shape as who asked the caller for it may read it: our own code and NumPy's plain, the user's in `Size`s."""
    for dim in shape:
        if type(dim) is not int:
            if is_internal(sys._getframe(2).f_code.co_filename):
                return shape
            return tuple(map(shown, shape))
    return shape


def plain(x: Any) -> Any:
    """`x` with the plain size in the place of each `Size` in it, and in the lists, tuples, dicts and slices it is
    made of."""
    if not _holds(x):
        return x
    kind = type(x)
    if kind is Size:
        return x.dim
    if kind is dict:
        return {key: plain(value) for key, value in x.items()}
    if kind is slice:
        return slice(plain(x.start), plain(x.stop), plain(x.step))
    return kind(map(plain, x))


def _holds(x: Any) -> bool:
    kind = type(x)
    if kind is list or kind is tuple:
        return any(map(_holds, x))
    if kind is dict:
        return any(map(_holds, x.values()))
    if kind is slice:
        return any(map(_holds, (x.start, x.stop, x.step)))
    return kind is Size


def _whole(x: Any) -> Dim | None:
    """A whole number or a size, plain; None for anything else."""
    if isinstance(x, Size):
        return x.dim
    if isinstance(x, SymbolicDim):
        return x
    return int(x) if isinstance(x, int | np.integer) else None


def _number(x: Any, rounded: Callable[[float], Any]) -> Dim | float | None:
    """What a size is compared with: a float as the whole number that has the same answer, infinite ones as they are."""
    if isinstance(x, float | np.floating):
        value = float(x)
        if math.isnan(value):
            return math.nan
        if math.isinf(value):
            return value
        near = rounded(value)
        return int(near) if near == int(near) else None
    return _whole(x)


def _equal(a: Dim, b: Dim | float) -> bool | None:
    """Whether the sizes are equal; None where that depends on their names."""
    if isinstance(b, float):
        return False
    apart = a - b
    if type(apart) is int:
        return apart == 0
    known = promises()
    low, high = bounds(apart, known)
    if low == high == 0:
        return True
    if (low is not None and low > 0) or (high is not None and high < 0):
        return False
    constant = apart.constant  # type: ignore[union-attr]
    step = multiple(apart - constant, known)
    return False if step and constant % step else None


def _less(a: Dim | float, b: Dim | float) -> bool | None:
    """Whether a < b; None where that depends on their names."""
    if isinstance(a, float) or isinstance(b, float):
        return _beside_infinity(a, b)
    known = promises()
    return True if known_lt(a, b, known) else False if known_le(b, a, known) else None


def _no_more(a: Dim | float, b: Dim | float) -> bool | None:
    """Whether a <= b; None where that depends on their names."""
    if isinstance(a, float) or isinstance(b, float):
        return _beside_infinity(a, b)
    known = promises()
    return True if known_le(a, b, known) else False if known_lt(b, a, known) else None


def _beside_infinity(a: Dim | float, b: Dim | float) -> bool:
    """Whether a < b, one of them infinite or not a number."""
    return (isinstance(b, float) and b == math.inf) or (isinstance(a, float) and a == -math.inf)


_EXACT: Final[dict[np.ufunc, Callable[..., Any]]] = {
    np.add: lambda a, b: a + b,
    np.subtract: lambda a, b: a - b,
    np.multiply: lambda a, b: a * b,
    np.floor_divide: floordiv,
    np.remainder: mod,
    np.divmod: lambda a, b: (floordiv(a, b), mod(a, b)),
    np.maximum: maximum,
    np.minimum: minimum,
    np.negative: lambda a: -a,
    np.positive: lambda a: a,
    np.absolute: lambda a: maximum(a, -a),
}
_DECIDED: Final[dict[np.ufunc, Callable[[Dim, Dim], bool | None]]] = {
    np.equal: _equal,
    np.less: _less,
    np.less_equal: _no_more,
    np.greater: lambda a, b: _less(b, a),
    np.greater_equal: lambda a, b: _no_more(b, a),
}

_SHIFTS: Final[dict[np.ufunc, Callable[[Any, int], Any]]] = {
    np.left_shift: lambda a, b: a * b,
    np.right_shift: lambda a, b: a // b,
}


def _exact(ufunc: np.ufunc, inputs: tuple[Any, ...]) -> Any:
    """What the ufunc gives for sizes and whole numbers where that is known, or a size; else NotImplemented."""
    dims = tuple(map(_whole, inputs))
    if any(dim is None for dim in dims):
        return NotImplemented
    if ufunc in _EXACT:
        found = _EXACT[ufunc](*dims)
        return tuple(map(shown, found)) if isinstance(found, tuple) else shown(found)
    answer = _DECIDED[ufunc](*dims) if ufunc in _DECIDED else None  # type: ignore[arg-type]
    return NotImplemented if answer is None else np.bool_(answer)


def _combined(ufunc: np.ufunc, a: Any, b: Any) -> Any:
    """What a Python operator gives."""
    from .functions import apply_operator

    if isinstance(a, list | tuple | str | bytes) or isinstance(b, list | tuple | str | bytes):
        return NotImplemented  # [0] * n repeats the list, and asks for an integer
    if ufunc in _SHIFTS and isinstance(b, int) and isinstance(a, Size) and 0 <= b < 63:
        return _SHIFTS[ufunc](a, 2**b)
    if ufunc is np.power and isinstance(b, int) and isinstance(a, Size):
        if b < 0:
            b = float(b)  # of Python's ints a float
        elif b <= _HIGHEST_POWER:
            return shown(math.prod([a.dim] * b))
    found = _exact(ufunc, (a, b))
    return apply_operator(ufunc, (a, b)) if found is NotImplemented else found


__all__ = ["Size", "plain", "read", "shown"]
