"""Questions about arrays: near, equal, contained; and those about types, which are answered while tracing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from ...ir.dims import SymbolicDim
from ...ir.dtypes import bool_, f64, of, u8
from ...ir.errors import TreadleError, TypeMismatch, Unsupported
from ...ir.ops import elementwise as e
from ...ir.ops.indexing import Gather, SearchSorted
from ...ir.ops.reduce import Any as AnyReduction
from ...ir.value import Full, Value
from ..arrays import broadcast, broadcast_shapes, convert, described, is_number, lift, reshape, size_value, static_int
from ..promotion import result_type
from ..trace import here
from ..tracer import Tracer, unwrap, wrap
from .creation import astype
from .reductions import all_
from .selection import imag
from .sorting import sort
from .ufuncs import elementwise, refuse_out


def isclose(a: Any, b: Any, rtol: Any = 1.0e-5, atol: Any = 1.0e-8, equal_nan: bool = False) -> Tracer:
    x, y = lift(a), lift(b)
    if y.value.dtype.is_integer or y.value.dtype is bool_:
        # Negating the least integer must not wrap, and bool knows no distance: NumPy compares with floats then.
        y = astype(y, result_type(y.value.dtype, float))
    near = elementwise(
        np.less_equal,
        elementwise(np.absolute, elementwise(np.subtract, x, y)),
        elementwise(np.add, atol, elementwise(np.multiply, rtol, elementwise(np.absolute, y))),
    )
    found = elementwise(np.logical_and, near, elementwise(np.isfinite, y))
    found = elementwise(np.logical_or, found, elementwise(np.equal, x, y))
    if equal_nan:
        both = elementwise(np.logical_and, elementwise(np.isnan, x), elementwise(np.isnan, y))
        found = elementwise(np.logical_or, found, both)
    assert isinstance(found, Tracer)
    return found


def allclose(a: Any, b: Any, rtol: Any = 1.0e-5, atol: Any = 1.0e-8, equal_nan: bool = False) -> Tracer:
    return all_(isclose(a, b, rtol, atol, equal_nan))


def array_equal(a1: Any, a2: Any, equal_nan: bool = False) -> Any:
    x, y = lift(a1), lift(a2)
    if x.shape != y.shape:
        return False
    same = elementwise(np.equal, x, y)
    if equal_nan and x.value.dtype.kind in ("float", "float8", "complex"):
        both = elementwise(np.logical_and, elementwise(np.isnan, x), elementwise(np.isnan, y))
        same = elementwise(np.logical_or, same, both)
    return all_(same)


def array_equiv(a1: Any, a2: Any) -> Any:
    x, y = lift(a1), lift(a2)
    try:
        broadcast_shapes(x.shape, y.shape)
    except TreadleError:
        return False
    return all_(elementwise(np.equal, x, y))


def isin(
    element: Any, test_elements: Any, assume_unique: bool = False, invert: bool = False, *, kind: Any = None
) -> Tracer:
    """Searched for in the sorted test elements; a NaN is equal to none."""
    x, y = _apart(element, test_elements)
    shape = lift(element).shape
    if x.dtype is bool_:
        x, y = convert(x, u8), convert(y, u8)
    if type(y.shape[0]) is int and y.shape[0] == 0:
        return wrap(Full(invert, x.tensor.with_shape(shape).with_dtype(bool_)))
    if x.dtype.kind == "complex":
        pairs = (*x.shape, *y.shape)
        each = e.Eq(broadcast(reshape(x, (*x.shape, 1)), pairs), broadcast(y, pairs))
        found: Value = AnyReduction(each, (1,))
    else:
        ordered = unwrap(sort(wrap(y)))
        place = SearchSorted(ordered, x, "left")
        last = broadcast(size_value(y.shape[0] - 1), place.shape)
        found = e.Eq(Gather(ordered, (e.Minimum(place, last),), (0,), "clip"), x)
    if invert:
        found = e.Not(found)
    return wrap(reshape(found, shape))


def _flat(x: Any) -> Value:
    value = unwrap(lift(x))
    return reshape(value, (value.tensor.size,))


def _apart(element: Any, test_elements: Any) -> tuple[Value, Value]:
    x, y = _flat(element), _flat(test_elements)
    kind = result_type(described(element) if is_number(element) else x.dtype, y.dtype)
    return convert(x, kind), convert(y, kind)


def _signed_infinity(sign: float) -> Callable[..., Tracer]:
    def infinite(x: Any, out: Any = None) -> Tracer:
        refuse_out(out, "isposinf" if sign > 0 else "isneginf")
        value = unwrap(lift(x))
        if value.dtype.kind == "complex":
            raise TypeMismatch(
                "this operation is not supported for complex values",
                code="TD0816",
                location=here(),
                edit="its real and imaginary parts one by one",
            )
        if not value.dtype.is_float:
            return wrap(Full(False, value.tensor.with_dtype(bool_)))
        return wrap(e.Eq(value, Full(sign, value.tensor)))

    return infinite


def isreal(x: Any) -> Tracer:
    found: Tracer = elementwise(np.equal, imag(x), 0)
    return found


def iscomplex(x: Any) -> Tracer:
    value = unwrap(lift(x))
    if value.dtype.kind != "complex":
        return wrap(Full(False, value.tensor.with_dtype(bool_)))
    found: Tracer = elementwise(np.not_equal, imag(x), 0)
    return found


def iscomplexobj(x: Any) -> bool:
    return lift(x).value.dtype.kind == "complex"


def isrealobj(x: Any) -> bool:
    return not iscomplexobj(x)


# --- types --------------------------------------------------------------------------------------------------------


def result_type_of(*arrays_and_dtypes: Any) -> np.dtype[Any]:
    kinds: list[Any] = []
    for x in arrays_and_dtypes:
        if isinstance(x, Tracer | np.ndarray | np.generic | SymbolicDim) or is_number(x):
            kinds.append(described(x))
        else:
            kinds.append(of(x))
    return result_type(*kinds).numpy


def can_cast(from_: Any, to: Any, casting: Any = "safe") -> bool:
    return bool(np.can_cast(from_.dtype if isinstance(from_, Tracer) else from_, to, casting))


def min_scalar_type(a: Any, /) -> np.dtype[Any]:
    x = lift(a)
    if x.ndim == 0:
        raise Unsupported(
            "min_scalar_type depends on the value of a traced scalar",
            code="TD0811",
            location=here(),
            edit="use its .dtype",
        )
    return x.dtype


def common_type(*arrays: Any) -> Any:
    kinds = [lift(a).value.dtype for a in arrays]
    if bool_ in kinds:
        raise TypeMismatch(
            "can't get common type for non-numeric array", code="TD0816", location=here(), edit="arrays of numbers"
        )
    kind = result_type(*(f64 if kind.is_integer else kind for kind in kinds))
    return kind.numpy.type


def real_if_close(a: Any, tol: Any = 100) -> Tracer:
    if lift(a).value.dtype.kind != "complex":
        return lift(a)
    raise Unsupported(
        "real_if_close: the dtype of the result depends on traced values",
        code="TD0811",
        location=here(),
        edit="take x.real",
    )


def _at_shape(function: Callable[..., Any]) -> Callable[..., Any]:
    """A NumPy function of an array's shape alone: answered on an array of that shape."""

    def answer(arr: Any, *args: Any, **kwargs: Any) -> Any:
        x = lift(arr)
        shape = tuple(static_int(n, "a size") for n in x.shape)
        return function(np.broadcast_to(np.zeros((), x.dtype), shape), *args, **kwargs)

    return answer


TABLE: Final[Mapping[Any, Callable[..., Any]]] = {
    np.allclose: allclose,
    np.array_equal: array_equal,
    np.array_equiv: array_equiv,
    np.can_cast: can_cast,
    np.common_type: common_type,
    np.diag_indices_from: _at_shape(np.diag_indices_from),
    np.isclose: isclose,
    np.iscomplex: iscomplex,
    np.iscomplexobj: iscomplexobj,
    np.isin: isin,
    np.isneginf: _signed_infinity(-np.inf),
    np.isposinf: _signed_infinity(np.inf),
    np.isreal: isreal,
    np.isrealobj: isrealobj,
    np.min_scalar_type: min_scalar_type,
    np.real_if_close: real_if_close,
    np.result_type: result_type_of,
    np.tril_indices_from: _at_shape(np.tril_indices_from),
    np.triu_indices_from: _at_shape(np.triu_indices_from),
}
