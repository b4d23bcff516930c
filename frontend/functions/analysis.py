"""Differences, integrals, interpolation, convolution, polynomials, and the few special functions NumPy has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from ...ir.dims import Dim, product, show
from ...ir.dtypes import bool_, c128, f32, f64, i64, u8
from ...ir.errors import InvalidValue, TypeMismatch, Unsupported
from ...ir.ops import elementwise as e
from ...ir.ops.contract import conv
from ...ir.ops.movement import Iota, Pad, Reverse
from ...ir.ops.reduce import Sum
from ...ir.types import TensorType
from ...ir.value import Full, Mul, Value
from ..arrays import (
    any_traced,
    axes_of,
    axis_of,
    broadcast,
    convert,
    described,
    lift,
    permute,
    reshape,
    size_value,
    static_dim,
    static_int,
    typed,
)  # fmt: skip
from ..promotion import result_type
from ..trace import here
from ..tracer import Tracer, unwrap, wrap
from .creation import arange, astype
from .joining import concatenate
from .reductions import GIVEN, cumsum, sum_
from .selection import take, where
from .shaping import cut
from .sorting import argsort, searchsorted
from .ufuncs import elementwise


def _wrong(message: str, edit: str) -> InvalidValue:
    return InvalidValue(message, code="TD0822", location=here(), edit=edit)


def _sub(x: Any, y: Any) -> Tracer:
    found: Tracer = elementwise(np.subtract, x, y)
    return found


def _mul(x: Any, y: Any) -> Tracer:
    found: Tracer = elementwise(np.multiply, x, y)
    return found


def _add(x: Any, y: Any) -> Tracer:
    found: Tracer = elementwise(np.add, x, y)
    return found


def _div(x: Any, y: Any) -> Tracer:
    found: Tracer = elementwise(np.true_divide, x, y)
    return found


# --- differences and integrals ------------------------------------------------------------------------------------


def diff(a: Any, n: Any = 1, axis: Any = -1, prepend: Any = GIVEN, append: Any = GIVEN) -> Tracer:
    count = static_int(n, "n")
    if count == 0:
        return lift(a)
    if count < 0:
        raise _wrong(f"order must be non-negative but got {count}", "n=0 gives the array itself")
    x = lift(a)
    if x.ndim == 0:
        raise _wrong("diff requires input that is at least one dimensional", "an array, such as x[None]")
    number = axis_of(axis, x.ndim)
    parts = [_beside(prepend, x, number), x, _beside(append, x, number)]
    given = [part for part in parts if part is not None]
    if len(given) > 1:
        x = concatenate(given, number)
    for _ in range(count):
        value = unwrap(x)
        size = value.shape[number]
        first: Dim = 0 if type(size) is int and size == 0 else 1
        high, low = wrap(cut(value, number, first, size)), wrap(cut(value, number, 0, size - first))
        x = elementwise(np.not_equal if value.dtype is bool_ else np.subtract, high, low)
    return x


def _beside(part: Any, x: Tracer, axis: int) -> Tracer | None:
    if part is GIVEN:
        return None
    found = lift(part)
    if found.ndim == 0:
        shape = tuple(1 if i == axis else n for i, n in enumerate(x.shape))
        return wrap(broadcast(unwrap(found), shape))
    return found


def ediff1d(ary: Any, to_end: Any = None, to_begin: Any = None) -> Tracer:
    value = unwrap(lift(ary))
    flat = reshape(value, (value.tensor.size,))
    size = flat.shape[0]
    high = 1 if type(size) is not int else min(1, size)
    parts: list[Tracer] = [_sub(wrap(cut(flat, 0, high, size)), wrap(cut(flat, 0, 0, size - high)))]
    for part, place, name in ((to_begin, 0, "to_begin"), (to_end, 2, "to_end")):
        if part is not None:
            given = unwrap(lift(part))
            if not np.can_cast(given.dtype.numpy, value.dtype.numpy, "same_kind"):
                raise TypeMismatch(
                    f"dtype of `{name}` must be compatible with input `ary` under the `same_kind` rule",
                    code="TD0816",
                    location=here(),
                    edit="convert it to the dtype of `ary` first",
                )
            parts.insert(place, wrap(convert(reshape(given, (given.tensor.size,)), value.dtype)))
    return concatenate(parts) if len(parts) > 1 else parts[0]


def gradient(f: Any, *varargs: Any, axis: Any = None, edge_order: int = 1) -> Any:
    x = lift(f)
    axes = axes_of(axis, x.ndim)
    if len(varargs) == 0:
        steps: list[Any] = [1.0] * len(axes)
    elif len(varargs) == 1 and lift(varargs[0]).ndim == 0:
        steps = list(varargs) * len(axes)
    elif len(varargs) == len(axes):
        steps = list(varargs)
    else:
        raise TypeMismatch(
            "invalid number of arguments",
            code="TD0822",
            location=here(),
            edit="one spacing for all axes, or one for each",
        )
    if edge_order not in (1, 2):
        raise _wrong(f"'edge_order' {edge_order!r} is not supported", "1 or 2")
    kind = x.value.dtype
    if kind is bool_:
        raise TypeMismatch(
            "numpy boolean subtract, the `-` operator, is not supported", code="TD0816", location=here(),
            edit="x.astype(int)",
        )  # fmt: skip
    if kind.is_integer:
        x = astype(x, f64)
    found = [_gradient(x, number, step, edge_order) for number, step in zip(axes, steps, strict=True)]
    return found[0] if len(axes) == 1 else tuple(found)


def _gradient(x: Tracer, axis: int, step: Any, edge_order: int) -> Tracer:
    """Second order inside, one-sided at the ends; the steps are one number or the coordinates themselves."""
    value = unwrap(x)
    size = value.shape[axis]
    if type(size) is int and size < edge_order + 1:
        raise _wrong(
            f"the array is too small for a gradient: axis {axis} has {size}",
            f"at least edge_order + 1 = {edge_order + 1} elements, or axis= of another axis",
        )

    def part(low: Dim, high: Dim) -> Tracer:
        return wrap(cut(value, axis, low, high))

    coordinates = lift(step)
    if coordinates.ndim == 0:
        # A step that is a Python number stays weak: `2.0 * step` is one, too.
        inside = _div(_sub(part(2, size), part(0, size - 2)), 2.0 * step)
        if edge_order == 1:
            first = _div(_sub(part(1, 2), part(0, 1)), step)
            last = _div(_sub(part(size - 1, size), part(size - 2, size - 1)), step)
        else:
            first = _three(part, (0, 1, 2), (-1.5 / step, 2.0 / step, -0.5 / step))
            last = _three(part, (size - 3, size - 2, size - 1), (0.5 / step, -2.0 / step, 1.5 / step))
        return concatenate([first, inside, last], axis)
    if coordinates.ndim != 1 or coordinates.shape[0] != size:
        raise _wrong(
            f"when 1d, distances must match the length of the corresponding dimension, {show(size)}",
            "one coordinate for each element, or one number for a constant spacing",
        )
    if coordinates.value.dtype.is_integer:
        coordinates = astype(coordinates, f64)
    gaps = diff(coordinates)
    before, after = (wrap(cut(unwrap(gaps), 0, low, size - 2 + low)) for low in (0, 1))
    both = _add(before, after)
    spread = tuple(size - 2 if i == axis else 1 for i in range(value.rank))
    weights = [
        _div(elementwise(np.negative, after), _mul(before, both)),
        _div(_sub(after, before), _mul(before, after)),
        _div(before, _mul(after, both)),
    ]
    a, b, c = (wrap(reshape(unwrap(w), spread)) for w in weights)
    inside = _add(_add(_mul(a, part(0, size - 2)), _mul(b, part(1, size - 1))), _mul(c, part(2, size)))
    if edge_order == 1:
        first = _div(_sub(part(1, 2), part(0, 1)), gaps[0])
        last = _div(_sub(part(size - 1, size), part(size - 2, size - 1)), gaps[-1])
    else:
        p, q = gaps[0], gaps[1]
        first = _three(
            part,
            (0, 1, 2),
            (
                elementwise(np.negative, _div(_add(_mul(2.0, p), q), _mul(p, _add(p, q)))),
                _div(_add(p, q), _mul(p, q)),
                elementwise(np.negative, _div(p, _mul(q, _add(p, q)))),
            ),
        )
        p, q = gaps[-2], gaps[-1]
        last = _three(
            part,
            (size - 3, size - 2, size - 1),
            (
                _div(q, _mul(p, _add(p, q))),
                elementwise(np.negative, _div(_add(q, p), _mul(p, q))),
                _div(_add(_mul(2.0, q), p), _mul(q, _add(p, q))),
            ),
        )
    return concatenate([first, inside, last], axis)


def _three(part: Callable[[Dim, Dim], Tracer], places: Sequence[Dim], weights: Sequence[Tracer]) -> Tracer:
    found = _mul(weights[0], part(places[0], places[0] + 1))
    for place, weight in zip(places[1:], weights[1:], strict=True):
        found = _add(found, _mul(weight, part(place, place + 1)))
    return found


def trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: Any = -1) -> Tracer:
    ys = lift(y)
    number = axis_of(axis, ys.ndim)
    value = unwrap(ys)
    size = value.shape[number]
    less = max(size - 1, 0) if type(size) is int else size - 1
    if x is None:
        step: Any = dx
    else:
        xs = lift(x)
        step = diff(xs, axis=0 if xs.ndim == 1 else axis)
        if xs.ndim == 1:
            step = wrap(reshape(unwrap(step), tuple(less if i == number else 1 for i in range(value.rank))))
    high, low = wrap(cut(value, number, size - less, size)), wrap(cut(value, number, 0, less))
    return sum_(_div(_mul(step, _add(high, low)), 2.0), number)


def interp(x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None) -> Tracer:
    complex_ = lift(fp).value.dtype.kind == "complex"
    if any(lift(each).value.dtype.kind == "complex" for each in (x, xp)):
        raise TypeMismatch(
            "interp: x and xp must be real",
            code="TD0816",
            location=here(),
            edit="interpolate the real and the imaginary parts",
        )
    at = wrap(convert(unwrap(lift(x)), f64))
    known, values = wrap(convert(unwrap(lift(xp)), f64)), wrap(convert(unwrap(lift(fp)), c128 if complex_ else f64))
    if known.ndim != 1 or values.ndim != 1:
        raise _wrong(f"interp: xp has {known.ndim} axes, fp {values.ndim}", "vectors; td.vmap interpolates in several")
    if known.shape[0] != values.shape[0]:
        raise _wrong(
            f"interp: xp has {show(known.shape[0])} elements, fp {show(values.shape[0])}", "a value for each point"
        )
    if period is not None:
        width = abs(period)
        at = elementwise(np.remainder, at, width)
        known = elementwise(np.remainder, known, width)
        order = argsort(known)
        known, values = take(known, order), take(values, order)
        known = concatenate([_sub(known[-1:], width), known, _add(known[:1], width)])
        values = concatenate([values[-1:], values, values[:1]])
        left = right = None
    low = values[0] if left is None else left
    high = values[-1] if right is None else right
    last = known.shape[0] - 1
    if type(last) is int and last == 0:
        inside: Any = values[0]
    else:
        place = unwrap(searchsorted(known, at, "right")) - 1
        end = broadcast(size_value(last), place.shape)
        index = wrap(e.Clamp(place, Full(0, place.tensor), end - 1))
        x0, x1 = take(known, index, mode="clip"), take(known, _add(index, 1), mode="clip")
        y0, y1 = take(values, index, mode="clip"), take(values, _add(index, 1), mode="clip")
        slope = _div(_sub(y1, y0), _sub(x1, x0))
        inside = _add(_mul(slope, _sub(at, x0)), y0)
        # Where that is not a number, from the other end, and at equal values the value.
        nan = elementwise(np.isnan, inside)
        again = _add(_mul(slope, _sub(at, x1)), y1)
        level = elementwise(np.logical_and, elementwise(np.isnan, again), elementwise(np.equal, y0, y1))
        inside = where(nan, where(level, y0, again), inside)
        inside = where(elementwise(np.equal, at, known[-1]), values[-1], inside)
    found = where(elementwise(np.greater, at, known[-1]), high, inside)
    found = where(elementwise(np.less, at, known[0]), low, found)
    return lift(where(elementwise(np.isnan, at), at, found))


# --- convolution --------------------------------------------------------------------------------------------------


def _correlated(a: Value, v: Value, mode: str) -> Value:
    """`sum_n a[n + k] * v[n]`, by the convolution op."""
    m, n = a.shape[0], v.shape[0]
    pad: dict[str, tuple[Dim, Dim]] = {"full": (n - 1, n - 1), "valid": (0, 0)}
    if mode == "same":
        half = n // 2 if type(n) is int else None
        if half is None:
            raise Unsupported(
                "mode='same' with a kernel of symbolic size", code="TD0813", location=here(), edit="use mode='full'"
            )
        pad["same"] = (half, n - 1 - half)
    x, w = reshape(a, (1, 1, m)), reshape(v, (1, 1, n))
    found = conv(x, w, (1,), (pad[mode],), (1,), 1, "NCW,OIW->NCW")
    return reshape(found, (found.shape[2],))


def _one_d(a: Any, v: Any, mode: Any) -> tuple[Value, Value]:
    x, y = lift(a), lift(v)
    kind = result_type(x.value.dtype, y.value.dtype)
    if x.ndim > 1 or y.ndim > 1:
        raise _wrong(f"vectors are needed, these have {x.ndim} and {y.ndim} axes", "td.vmap, or td.nn.conv for images")
    for what, each in (("first", x), ("second", y)):
        if type(each.size) is int and each.size == 0:
            raise _wrong(f"{what} argument cannot be empty", "at least one element")
    if mode not in ("full", "same", "valid"):
        raise _wrong(f"mode {mode!r} does not exist", "valid, same or full")
    values = [convert(unwrap(each), kind) for each in (x, y)]
    first, second = (reshape(value, (value.tensor.size,)) for value in values)
    return first, second


def _shorter(a: Value, v: Value) -> bool:
    m, n = a.shape[0], v.shape[0]
    return type(m) is int and type(n) is int and n > m


def convolve(a: Any, v: Any, mode: Any = "full") -> Tracer:
    x, y = _one_d(a, v, mode)
    if _shorter(x, y):
        x, y = y, x
    return wrap(_correlated(x, Reverse(y, (0,)), mode))


def correlate(a: Any, v: Any, mode: Any = "valid") -> Tracer:
    x, y = _one_d(a, v, mode)
    if y.dtype.kind == "complex":
        y = e.Conj(y)
    if _shorter(x, y):
        # As NumPy: the longer one is slid over, the result turned round.
        return wrap(Reverse(_correlated(y, x, mode), (0,)))
    return wrap(_correlated(x, y, mode))


# --- polynomials --------------------------------------------------------------------------------------------------


def polyval(p: Any, x: Any) -> Tracer:
    coefficients, at = lift(p), lift(x)
    found = wrap(typed(0, result_type(described(at)), at.shape))
    for c in coefficients:
        found = _add(_mul(found, at), c)
    return found


def _polynomials(a1: Any, a2: Any) -> tuple[Tracer, Tracer]:
    x, y = (wrap(reshape(unwrap(lift(a)), (lift(a).size,))) for a in (a1, a2))
    sizes = x.shape[0], y.shape[0]
    if not all(type(n) is int for n in sizes):
        if sizes[0] != sizes[1]:
            raise Unsupported(
                "polynomials of symbolic sizes", code="TD0813", location=here(), edit="pad them to one size"
            )
        return x, y
    gap = static_int(sizes[1], "a size") - static_int(sizes[0], "a size")
    return _led(x, max(gap, 0)), _led(y, max(-gap, 0))


def _led(x: Tracer, zeros: int) -> Tracer:
    if zeros == 0:
        return x
    value = unwrap(x)
    return wrap(Pad(value, Full(0, TensorType((), value.dtype)), (zeros,), (0,), (0,)))


def polyadd(a1: Any, a2: Any) -> Tracer:
    return _add(*_polynomials(a1, a2))


def polysub(a1: Any, a2: Any) -> Tracer:
    return _sub(*_polynomials(a1, a2))


def polymul(a1: Any, a2: Any) -> Tracer:
    return convolve(np.atleast_1d(a1), np.atleast_1d(a2))


def polyder(p: Any, m: Any = 1) -> Tracer:
    times = static_int(m, "m")
    x = lift(p)
    for _ in range(times):
        size = static_int(x.shape[0], "the number of coefficients")
        x = _mul(x[:-1], np.arange(size - 1, 0, -1))
    return x


def polyint(p: Any, m: Any = 1, k: Any = None) -> Tracer:
    times = static_int(m, "m")
    x = lift(p)
    constants = [0.0] * times if k is None else [lift(k)[i] if lift(k).ndim else k for i in range(times)]
    for constant in constants:
        size = static_int(x.shape[0], "the number of coefficients")
        x = concatenate([_div(x, np.arange(size, 0, -1)), wrap(reshape(unwrap(lift(constant)), (1,)))])
    return x


def poly(seq_of_zeros: Any) -> Tracer:
    zeros = lift(seq_of_zeros)
    if zeros.ndim != 1:
        raise Unsupported(
            "poly of a matrix needs its eigenvalues", code="TD0810", location=here(), edit="give the roots"
        )
    kind = zeros.value.dtype
    if kind not in (f32, f64) and kind.kind != "complex":
        zeros, kind = astype(zeros, f64), f64
    one = np.ones(1, kind.numpy)
    found = lift(one)
    for zero in zeros:
        found = convolve(found, concatenate([one, wrap(reshape(unwrap(-zero), (1,)))]))
    return found


# --- the rest -----------------------------------------------------------------------------------------------------


def unwrap_angles(p: Any, discont: Any = None, axis: Any = -1, *, period: Any = 2 * math.pi) -> Tracer:
    x = lift(p)
    number = axis_of(axis, x.ndim)
    jumps = diff(x, axis=number)
    if discont is None:
        discont = period / 2
    kind = result_type(jumps.value.dtype, described(period))
    if kind.is_integer:
        high, odd = divmod(period, 2)
        boundary = not odd
    else:
        high, boundary = period / 2, True
    low = -high
    wound = _add(elementwise(np.remainder, _sub(jumps, low), period), low)
    if boundary:
        on_edge = elementwise(np.logical_and, elementwise(np.equal, wound, low), elementwise(np.greater, jumps, 0))
        wound = lift(where(on_edge, high, wound))
    correction = _sub(wound, jumps)
    small = elementwise(np.less, elementwise(np.absolute, jumps), discont)
    correction = lift(where(small, 0, correction))
    value = wrap(convert(unwrap(x), kind))
    size = unwrap(value).shape[number]
    begun = min(size, 1) if type(size) is int else 1
    first = wrap(cut(unwrap(value), number, 0, begun))
    rest = _add(wrap(cut(unwrap(value), number, begun, size)), cumsum(correction, number))
    return concatenate([first, astype(rest, kind)], number)


def sinc(x: Any) -> Tracer:
    import ml_dtypes

    y = _mul(math.pi, x)
    kind = y.value.dtype
    small = float((np.finfo if kind.numpy.kind == "f" else ml_dtypes.finfo)(kind.numpy).eps) if kind.is_float else 1e-20
    y = lift(where(y, y, small))
    return _div(elementwise(np.sin, y), y)


def i0(x: Any) -> Tracer:
    """The modified Bessel function of order 0, by NumPy's Chebyshev series on [0, 8] and beyond."""
    value = unwrap(lift(x))
    if value.dtype.kind == "complex":
        raise TypeMismatch("i0 not supported for complex values", code="TD0816", location=here(), edit="np.i0(x.real)")
    kind = f64 if not value.dtype.is_float else value.dtype
    at = e.Abs(convert(value, kind))
    near = e.Exp(at) * _chebyshev(at / 2.0 - 2.0, _near())
    far = e.Exp(at) * _chebyshev(32.0 / e.Maximum(at, Full(8.0, at.tensor)) - 2.0, _far()) / e.Sqrt(at)
    return wrap(e.Select(at <= 8.0, near, far))


def kaiser(M: Any, beta: Any) -> Tracer:
    """The Kaiser window of M points."""
    n = arange(M, dtype=f64)
    last = static_dim(M, "M") - 1
    single = type(last) is int and last == 0
    turn = _sub(_div(_mul(2.0, n), 1 if single else last), 0 if single else 1)
    edge = elementwise(np.maximum, _sub(1.0, _mul(turn, turn)), 0.0)
    return _div(i0(_mul(beta, elementwise(np.sqrt, edge))), i0(elementwise(np.multiply, beta, 1.0)))


def _coefficients(function: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]], count: int) -> list[float]:
    """The Chebyshev coefficients of a function on [-1, 1], highest first, from its values at the Chebyshev points."""
    nodes = np.cos(np.pi * (np.arange(count) + 0.5) / count)
    values = function(nodes)
    found = [
        2.0 / count * float(np.sum(values * np.cos(np.pi * k * (np.arange(count) + 0.5) / count))) for k in range(count)
    ]
    return found[::-1]


def _near() -> list[float]:
    # exp(-x) * i0(x) for x = 4 (t + 1), t in [-1, 1].
    return _coefficients(lambda t: np.exp(-4 * (t + 1)) * np.i0(4 * (t + 1)), 30)


def _far() -> list[float]:
    # exp(-x) * sqrt(x) * i0(x) for x = 16 / (t + 1), which has a limit at infinity.
    def function(t: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        x = 16.0 / (t + 1)
        series = np.where(
            x < 600.0, np.exp(-np.minimum(x, 600.0)) * np.sqrt(x) * np.i0(np.minimum(x, 600.0)),
            (1 + 1 / (8 * x) + 9 / (128 * x * x) + 225 / (3072 * x**3)) / math.sqrt(2 * math.pi),
        )  # fmt: skip
        return np.asarray(series)

    return _coefficients(function, 25)


def _chebyshev(y: Value, coefficients: list[float]) -> Value:
    """Clenshaw's recurrence at y / 2, coefficients highest first; the last counts half."""
    b0: Value = Full(coefficients[0], y.tensor)
    b1: Value = Full(0.0, y.tensor)
    b2 = b1
    for c in coefficients[1:]:
        b0, b1, b2 = Mul(y, b0) - b1 + c, b0, b1
    return 0.5 * (b0 - b2)


def packbits(a: Any, /, axis: Any = None, bitorder: str = "big") -> Tracer:
    value = unwrap(lift(a))
    if not (value.dtype is bool_ or value.dtype.is_integer):
        raise TypeMismatch(
            "Expected an input array of integer or boolean data type",
            code="TD0816",
            location=here(),
            edit="convert it by .astype(np.uint8)",
        )
    if axis is None:
        value, axis = reshape(value, (value.tensor.size,)), 0
    number = axis_of(axis, value.rank)
    value = convert(convert(value, bool_), u8)
    size = value.shape[number]
    count = (size + 7) // 8
    high = tuple(count * 8 - size if i == number else 0 for i in range(value.rank))
    padded = Pad(value, Full(0, TensorType((), u8)), (0,) * value.rank, high, (0,) * value.rank)
    grouped = reshape(padded, (*value.shape[:number], count, 8, *value.shape[number + 1 :]))
    weights = _bit_weights(grouped, number + 1, bitorder)
    return wrap(Sum(Mul(grouped, weights), (number + 1,)))


def _bit_weights(like: Value, axis: int, bitorder: str) -> Value:
    if bitorder not in ("big", "little"):
        raise _wrong(f"bitorder {bitorder!r} does not exist", "little or big")
    powers = np.array([1, 2, 4, 8, 16, 32, 64, 128], np.uint8)
    row = unwrap(lift(powers[::-1].copy() if bitorder == "big" else powers))
    return broadcast(reshape(row, tuple(8 if i == axis else 1 for i in range(like.rank))), like.shape)


def unpackbits(a: Any, /, axis: Any = None, count: Any = None, bitorder: str = "big") -> Tracer:
    value = unwrap(lift(a))
    if value.dtype is not u8:
        raise TypeMismatch(
            "Expected an input array of unsigned byte data type",
            code="TD0816",
            location=here(),
            edit="convert it by .astype(np.uint8)",
        )
    if axis is None:
        value, axis = reshape(value, (value.tensor.size,)), 0
    number = axis_of(axis, value.rank)
    shape = (*value.shape[: number + 1], 8, *value.shape[number + 1 :])
    wide = broadcast(reshape(value, (*value.shape[: number + 1], 1, *value.shape[number + 1 :])), shape)
    bits = e.Ne(e.And(wide, _bit_weights(wide, number + 1, bitorder)), Full(0, wide.tensor))
    size = value.shape[number] * 8
    flat = convert(reshape(bits, (*value.shape[:number], size, *value.shape[number + 1 :])), u8)
    if count is None:
        return wrap(flat)
    wanted = static_int(count, "count")
    keep: Dim = wanted if wanted >= 0 else size + wanted
    if type(keep) is int and type(size) is int and keep > size:
        high = tuple(keep - size if i == number else 0 for i in range(flat.rank))
        return wrap(Pad(flat, Full(0, TensorType((), u8)), (0,) * flat.rank, high, (0,) * flat.rank))
    return wrap(cut(flat, number, 0, keep))


def fix(x: Any, out: Any = None) -> Tracer:
    found: Tracer = elementwise(np.trunc, x, out=out)
    return found


def apply_over_axes(func: Callable[..., Any], a: Any, axes: Any) -> Tracer:
    x = lift(a)
    for axis in axes if isinstance(axes, tuple | list) else (axes,):
        found = lift(func(x, axis))
        x = found if found.ndim == x.ndim else wrap(_restored(unwrap(found), axis_of(axis, x.ndim)))
    return x


def _restored(value: Value, axis: int) -> Value:
    shape = list(value.shape)
    shape.insert(axis, 1)
    return reshape(value, tuple(shape))


def apply_along_axis(func1d: Callable[..., Any], axis: Any, arr: Any, *args: Any, **kwargs: Any) -> Tracer:
    """As NumPy's, with `func1d` traced once, on one row."""
    from ..lax import map as each_row

    value = unwrap(lift(arr))
    number = axis_of(axis, value.rank)
    rest = [i for i in range(value.rank) if i != number]
    shape = tuple(value.shape[i] for i in rest)
    rows = reshape(permute(value, (*rest, number)), (product(shape), value.shape[number]))
    found = unwrap(each_row(lambda row: func1d(row, *args, **kwargs), wrap(rows)))
    wide = reshape(found, (*shape, *found.shape[1:]))
    lead, rank = len(shape), wide.rank
    return wrap(permute(wide, (*range(number), *range(lead, rank), *range(number, lead))))


def ravel_multi_index(multi_index: Any, dims: Any, mode: Any = "raise", order: Any = "C") -> Tracer:
    indices = list(multi_index) if isinstance(multi_index, Tracer | tuple | list) else list(np.asarray(multi_index))
    sizes = [static_int(n, "dims") for n in (dims if isinstance(dims, tuple | list | np.ndarray) else (dims,))]
    modes = list(mode) if isinstance(mode, tuple | list) else [mode] * len(sizes)
    if not len(indices) == len(sizes) == len(modes):
        raise _wrong(
            f"ravel_multi_index: {len(indices)} indices for {len(sizes)} axes", "one array of indices for each axis"
        )
    pairs = list(zip(indices, sizes, modes, strict=True))
    if order == "C":
        pairs.reverse()
    found: Tracer | None = None
    scale = 1
    for index, size, how in pairs:
        term = _mul(_placed(index, size, how), scale)
        found = term if found is None else _add(found, term)
        scale *= size
    assert found is not None
    return astype(found, np.intp)


def _placed(index: Any, size: int, mode: str) -> Tracer:
    """A position inside 0..size-1 by the mode; `raise` fails at run time, by reading a table that ends there."""
    at = lift(index)
    if at.value.dtype is bool_:
        at = astype(at, i64)
    if not at.value.dtype.is_integer:
        raise TypeMismatch(
            "only int indices permitted", code="TD0816", location=here(), edit="convert it by .astype(int)"
        )
    at = astype(at, np.int64)
    if mode == "wrap":
        found: Tracer = elementwise(np.remainder, at, size)
        return found
    if mode == "clip":
        return lift(elementwise(np.minimum, elementwise(np.maximum, at, 0), size - 1))
    value = unwrap(at)
    forward = e.Select(value < 0, Full(size, value.tensor), value)
    return take(wrap(Iota(TensorType((size,), i64), 0)), wrap(forward))


def unravel_index(indices: Any, shape: Any, order: Any = "C") -> tuple[Tracer, ...]:
    sizes = [static_int(n, "shape") for n in (shape if isinstance(shape, tuple | list | np.ndarray) else (shape,))]
    at = _placed(indices, math.prod(sizes), "raise")
    found: list[Tracer] = []
    for size in reversed(sizes) if order == "C" else sizes:
        found.append(elementwise(np.remainder, at, size))
        at = elementwise(np.floor_divide, at, size)
    return tuple(reversed(found)) if order == "C" else tuple(found)


def ix_(*args: Any) -> tuple[Tracer, ...]:
    found = []
    for i, each in enumerate(args):
        if not any_traced(each):
            known = np.asarray(each)
            each = np.flatnonzero(known) if known.dtype == np.bool_ else known
        x = lift(each)
        if x.ndim != 1:
            raise _wrong(f"ix_: an index has {x.ndim} axes, one is needed", "x.ravel()")
        if x.value.dtype is bool_:
            raise Unsupported("ix_ of a traced mask", code="TD0811", location=here(), edit="give positions")
        found.append(wrap(reshape(unwrap(x), tuple(x.shape[0] if i == j else 1 for j in range(len(args))))))
    return tuple(found)


TABLE: Final[Mapping[Any, Callable[..., Any]]] = {
    np.apply_along_axis: apply_along_axis,
    np.apply_over_axes: apply_over_axes,
    np.convolve: convolve,
    np.correlate: correlate,
    np.diff: diff,
    np.ediff1d: ediff1d,
    np.fix: fix,
    np.gradient: gradient,
    np.i0: i0,
    np.interp: interp,
    np.kaiser: kaiser,
    np.ix_: ix_,
    np.packbits: packbits,
    np.poly: poly,
    np.polyadd: polyadd,
    np.polyder: polyder,
    np.polyint: polyint,
    np.polymul: polymul,
    np.polysub: polysub,
    np.polyval: polyval,
    np.ravel_multi_index: ravel_multi_index,
    np.sinc: sinc,
    np.trapezoid: trapezoid,
    np.unpackbits: unpackbits,
    np.unravel_index: unravel_index,
    np.unwrap: unwrap_angles,
}
