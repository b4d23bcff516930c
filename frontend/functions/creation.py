"""New arrays: filled, counted, copied in another type.

In a trace they are values of the graph, so their shapes may have names. NumPy does not dispatch the functions that make
arrays from nothing: they come here through `td.numpy`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from ...ir.dims import Dim, SymbolicDim, ceildiv, maximum
from ...ir.dtypes import DType, f64, i64, of, promote, real_of
from ...ir.errors import InvalidValue, TypeMismatch, Unsupported
from ...ir.ops import elementwise as e
from ...ir.ops.movement import Concatenate, Iota
from ...ir.ops.reduce import CumProd
from ...ir.types import TensorType
from ...ir.value import Full, Value
from ..arrays import (
    any_traced,
    axis_of,
    broadcast,
    broadcast_shapes,
    convert,
    described,
    dtype_argument,
    expand,
    is_number,
    lift,
    permute,
    reshape,
    shape_of,
    size_value,
    static_dim,
    static_int,
    static_shape,
    typed,
)  # fmt: skip
from ..promotion import result_type
from ..trace import here
from ..tracer import Tracer, unwrap, wrap
from .shaping import flip, triangle_mask
from .ufuncs import elementwise


def astype(x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None, casting: str = "unsafe") -> Tracer:
    value = unwrap(lift(x))
    kind = of(dtype)
    if casting != "unsafe" and not np.can_cast(value.dtype.numpy, kind.numpy, casting):  # type: ignore[arg-type]
        raise TypeMismatch(
            f"cannot cast from {value.dtype} to {kind} according to the rule {casting!r}",
            code="TD0816",
            location=here(),
            edit="casting='unsafe'",
        )
    return wrap(convert(value, kind))


def view(x: Any, dtype: Any) -> Tracer:
    """`x.view(dtype)`: the bits read as another type; of another width, the last axis is regrouped."""
    value = unwrap(lift(x))
    if dtype is None:
        return wrap(value)
    kind = of(dtype)
    if kind.bits != value.dtype.bits or ("complex" in (kind.kind, value.dtype.kind) and kind is not value.dtype):
        raise Unsupported(
            f"view of {value.dtype} as {kind}, which has another width",
            code="TD0813",
            location=here(),
            edit="use .astype for numbers; views keep the number of bits",
        )
    return wrap(value if kind is value.dtype else e.Bitcast(value, kind))


def asarray(
    a: Any, dtype: Any = None, order: Any = None, *, device: Any = None, copy: Any = None, like: Any = None
) -> Tracer:
    x = lift(a)
    value = unwrap(x)
    kind = dtype_argument(dtype)
    return wrap(convert(value, value.dtype if kind is None else kind))


def array(
    object: Any, dtype: Any = None, *, copy: Any = True, order: Any = "K", subok: bool = False, ndmin: int = 0, ndmax:
    int = 0, like: Any = None,
) -> Tracer:  # fmt: skip
    found = asarray(object, dtype)
    return wrap(expand(found.value, range(ndmin - found.ndim))) if found.ndim < ndmin else found


def full_of(shape: Any, fill: Any, dtype: Any, default: DType | None = None) -> Tracer:
    """An array of `shape` filled with a number or a traced value; of `default`'s dtype, or its own."""
    kind = dtype_argument(dtype) or default
    if kind is None:
        given = described(fill)
        kind = given if isinstance(given, DType) else result_type(given)
    to = static_shape(shape)
    if is_number(fill):
        return wrap(Full(np.asarray(fill).astype(kind.numpy).item(), TensorType(to, kind)))
    return wrap(broadcast(convert(unwrap(lift(fill)), kind), to))


def zeros(shape: Any, dtype: Any = float, order: Any = "C", *, device: Any = None, like: Any = None) -> Tracer:
    return full_of(shape, 0, dtype, f64)


def ones(shape: Any, dtype: Any = None, order: Any = "C", *, device: Any = None, like: Any = None) -> Tracer:
    return full_of(shape, 1, dtype, f64)


def full(
    shape: Any, fill_value: Any, dtype: Any = None, order: Any = "C", *, device: Any = None, like: Any = None
) -> Tracer:
    return full_of(shape, fill_value, dtype)


def _like(a: Any, fill: Any, dtype: Any, shape: Any) -> Tracer:
    x = lift(a)
    return full_of(x.shape if shape is None else shape, fill, dtype, x.value.dtype)


def zeros_like(
    a: Any, dtype: Any = None, order: Any = "K", subok: bool = True, shape: Any = None, *, device: Any = None
) -> Tracer:
    return _like(a, 0, dtype, shape)


def ones_like(
    a: Any, dtype: Any = None, order: Any = "K", subok: bool = True, shape: Any = None, *, device: Any = None
) -> Tracer:
    return _like(a, 1, dtype, shape)


def full_like(
    a: Any, fill_value: Any, dtype: Any = None, order: Any = "K", subok: bool = True, shape: Any = None, *,
    device: Any = None,
) -> Tracer:  # fmt: skip
    return _like(a, fill_value, dtype, shape)


def identity(n: Any, dtype: Any = None, *, like: Any = None) -> Tracer:
    return eye(n, None, 0, float if dtype is None else dtype)


def eye(
    N: Any, M: Any = None, k: Any = 0, dtype: Any = float, order: Any = "C", *, device: Any = None, like: Any = None
) -> Tracer:
    rows = static_dim(N, "N")
    columns = rows if M is None else static_dim(M, "M")
    place = TensorType((rows, columns), i64)
    shift = broadcast(size_value(static_dim(k, "k")), place.shape)
    on = e.Eq(Iota(place, 1), Iota(place, 0) + shift)
    return wrap(convert(on, dtype_argument(dtype) or f64))


def tri(N: Any, M: Any = None, k: Any = 0, dtype: Any = float, *, like: Any = None) -> Tracer:
    rows = static_dim(N, "N")
    columns = rows if M is None else static_dim(M, "M")
    return wrap(convert(triangle_mask(rows, columns, static_dim(k, "k")), dtype_argument(dtype) or f64))


def arange(*bounds: Any, dtype: Any = None, device: Any = None, like: Any = None, **named: Any) -> Tracer:
    """`arange(stop)`, `arange(start, stop, step)`; the length must be known or a size."""
    given = list(bounds)
    for name, place in (("start", 0), ("stop", 1), ("step", 2)):
        if name in named:
            given = given if len(given) > place else [*given, *[None] * (place + 1 - len(given))]
            given[place] = named.pop(name)
    if named:
        raise TypeMismatch(
            f"arange() got an unexpected keyword argument {next(iter(named))!r}",
            code="TD0822",
            location=here(),
            edit="it takes start, stop, step and dtype",
        )
    if len(given) == 4:
        dtype = given.pop()
    if len(given) == 1 or (len(given) > 1 and given[1] is None):
        given = [0, given[0], *given[2:]]
    start, stop = given[0] if given[0] is not None else 0, given[1]
    step = given[2] if len(given) > 2 and given[2] is not None else 1
    for x in (start, stop, step):
        if isinstance(x, Tracer):
            raise Unsupported(
                "arange: the length of the result depends on a traced number",
                code="TD0811",
                location=here(),
                edit="count to a known size, then start + step * np.arange(n)",
            )
    if not any_traced((start, stop, step)):
        return lift(np.arange(start, stop, step, dtype=None if dtype is None else of(dtype).numpy))
    low, high, by = static_dim(start, "start"), static_dim(stop, "stop"), static_int(step, "step")
    if by == 0:
        raise InvalidValue(
            "arange: the step is 0", code="TD0822", location=here(), edit="a step that is not 0, or np.full(n, start)"
        )
    count = maximum(ceildiv(high - low, by) if by > 0 else ceildiv(low - high, -by), 0)
    kind = dtype_argument(dtype) or i64
    number: Value = Iota(TensorType((count,), i64), 0)
    if by != 1:
        number = number * by
    if not (type(low) is int and low == 0):
        number = number + broadcast(size_value(low), number.shape)
    return wrap(convert(number, kind))


def linspace(
    start: Any, stop: Any, num: Any = 50, endpoint: bool = True, retstep: bool = False, dtype: Any = None, axis: Any =
    0, *, device: Any = None,
) -> Any:  # fmt: skip
    count = static_dim(num, "num")
    if type(count) is int and count < 0:
        raise InvalidValue(
            f"Number of samples, {count}, must be non-negative.", code="TD0822", location=here(), edit="num=0 or more"
        )
    kinds = [described(x) for x in (start, stop)]
    inner = result_type(*kinds, float)
    kind = dtype_argument(dtype) or inner
    shape = broadcast_shapes(*map(shape_of, (start, stop)))
    begin, end = typed(start, inner, shape), typed(stop, inner, shape)
    steps = count - 1 if endpoint else count
    whole = (count, *shape)
    place = convert(Iota(TensorType(whole, i64), 0), real_of(inner))
    place = convert(place, inner)
    width = end - begin
    if type(steps) is int:
        parts = max(steps, 1)
        step = width / float(parts) if steps > 0 else Full(float("nan"), width.tensor)
        divided = width / float(parts)
    else:
        divided = width / broadcast(convert(size_value(steps), inner), shape)
        step = divided
    if type(steps) is int and steps <= 0:
        spread = place * broadcast(width, whole)
    else:
        # As NumPy: by the step, or where it vanishes, first divided and then scaled.
        plain = place * broadcast(divided, whole)
        lost = broadcast(e.Eq(divided, Full(0, divided.tensor)), whole)
        parts_value = broadcast(convert(size_value(steps), inner), whole)
        spread = e.Select(lost, (place / parts_value) * broadcast(width, whole), plain)
    found = spread + broadcast(begin, whole)
    if endpoint and (not isinstance(count, int) or count > 1):
        last = broadcast(size_value(count - 1), whole)
        found = e.Select(e.Eq(Iota(TensorType(whole, i64), 0), last), broadcast(end, whole), found)
    if kind.is_integer and not inner.is_integer:
        found = e.Floor(found) if inner.kind != "complex" else found
    found = convert(found, kind)
    number = axis_of(axis, found.rank)
    found = permute(found, [*range(1, number + 1), 0, *range(number + 1, found.rank)])
    return (wrap(found), wrap(step)) if retstep else wrap(found)


def logspace(
    start: Any, stop: Any, num: Any = 50, endpoint: bool = True, base: Any = 10.0, dtype: Any = None, axis: Any = 0
) -> Tracer:
    if isinstance(base, Tracer | np.ndarray) and base.ndim > 0:
        shape = broadcast_shapes(*map(shape_of, (start, stop, base)))
        rank = len(shape)
        start, stop = wrap(broadcast(unwrap(lift(start)), shape)), wrap(broadcast(unwrap(lift(stop)), shape))
        base = wrap(expand(broadcast(unwrap(lift(base)), shape), (axis_of(axis, rank + 1),)))
    powers = linspace(start, stop, num, endpoint, axis=axis)
    found: Tracer = elementwise(np.power, base, powers)
    return found if dtype is None else astype(found, dtype)


def geomspace(start: Any, stop: Any, num: Any = 50, endpoint: bool = True, dtype: Any = None, axis: Any = 0) -> Tracer:
    kinds = [described(x) for x in (start, stop)]
    inner = result_type(*kinds, f64)
    if inner.kind == "complex":
        raise Unsupported(
            "geomspace of complex numbers",
            code="TD0810",
            location=here(),
            edit="np.exp(np.linspace(np.log(a), np.log(b)))",
        )
    shape = broadcast_shapes(*map(shape_of, (start, stop)))
    begin, end = typed(start, inner, shape), typed(stop, inner, shape)
    sign = e.Sign(begin)
    low, high = e.Log10(begin * sign), e.Log10(end * sign)
    powers = unwrap(linspace(wrap(low), wrap(high), num, endpoint, axis=0))
    count = powers.shape[0]
    found = unwrap(elementwise(np.power, 10.0, wrap(powers)))
    place = Iota(TensorType(powers.shape, i64), 0)
    ends: list[tuple[Value, Value]] = [(Full(0, place.tensor), begin * sign)]
    if endpoint:
        ends.append((broadcast(size_value(count - 1), place.shape), end * sign))
    for where, edge in ends:
        found = e.Select(e.Eq(place, where), broadcast(edge, powers.shape), found)
    found = found * broadcast(sign, powers.shape)
    number = axis_of(axis, found.rank)
    found = permute(found, [*range(1, number + 1), 0, *range(number + 1, found.rank)])
    return wrap(convert(found, dtype_argument(dtype) or inner))


def meshgrid(*xi: Any, copy: bool = True, sparse: bool = False, indexing: str = "xy") -> tuple[Tracer, ...]:
    if indexing not in ("xy", "ij"):
        raise InvalidValue(
            "Valid values for `indexing` are 'xy' and 'ij'.", code="TD0822", location=here(), edit="indexing='ij'"
        )
    values = [unwrap(lift(x)) for x in xi]
    flat = [reshape(value, (value.tensor.size,)) for value in values]
    rank = len(flat)
    places = list(range(rank))
    if indexing == "xy" and rank > 1:
        places[0], places[1] = 1, 0
    shape: list[Dim] = [1] * rank
    for value, place in zip(flat, places, strict=True):
        shape[place] = value.shape[0]
    found = []
    for value, place in zip(flat, places, strict=True):
        thin = reshape(value, tuple(value.shape[0] if i == place else 1 for i in range(rank)))
        found.append(wrap(thin if sparse else broadcast(thin, tuple(shape))))
    return tuple(found)


def indices(dimensions: Any, dtype: Any = int, sparse: bool = False) -> Any:
    shape = static_shape(dimensions)
    kind = dtype_argument(dtype) or i64
    rank = len(shape)
    if sparse:
        return tuple(
            wrap(Iota(TensorType(tuple(n if i == axis else 1 for i, n in enumerate(shape)), kind), axis))
            for axis in range(rank)
        )
    if rank == 0:
        return wrap(Full(0, TensorType((0,), kind)))
    return wrap(Concatenate(tuple(expand(Iota(TensorType(shape, kind), axis), (0,)) for axis in range(rank)), 0))


def vander(x: Any, N: Any = None, increasing: bool = False) -> Tracer:
    value = unwrap(lift(x))
    if value.rank != 1:
        raise InvalidValue(
            "x must be a one-dimensional array or sequence.", code="TD0822", location=here(), edit="np.ravel(x)"
        )
    columns = value.shape[0] if N is None else static_dim(N, "N")
    kind = promote(value.dtype, i64)  # as NumPy has it, so f32 becomes f64
    size = value.shape[0]
    if type(columns) is not int:
        raise Unsupported("vander of a size that is a name", code="TD0811", location=here(), edit="give N as a number")
    ones_ = Full(1, TensorType((size, 1), kind))
    parts: list[Value] = [ones_] if columns > 0 else []
    if columns > 1:
        parts.append(broadcast(expand(convert(value, kind), (1,)), (size, columns - 1)))
    if not parts:
        return wrap(Full(0, TensorType((size, 0), kind)))
    whole = Concatenate(tuple(parts), 1) if len(parts) > 1 else parts[0]
    powers = wrap(CumProd(whole, 1))
    return powers if increasing else flip(powers, 1)


def fromfunction(
    function: Callable[..., Any], shape: Any, *, dtype: Any = float, like: Any = None, **kwargs: Any
) -> Any:
    return function(*(indices(shape, dtype)), **kwargs)


def require(a: Any, dtype: Any = None, requirements: Any = None, *, like: Any = None) -> Tracer:
    return asarray(a, dtype)


def diag_indices(n: Any, ndim: int = 2) -> tuple[Tracer, ...]:
    index = arange(n)
    return (index,) * ndim


def _window(build: Callable[[Value, Value], Value], name: str) -> Callable[..., Tracer]:
    """A window function of M points: `build(n, last)` on the numbers 0..M-1 and the last of them."""

    def window(M: Any) -> Tracer:
        count = static_dim(M, "M")
        if not isinstance(count, SymbolicDim):
            return lift(getattr(np, name)(count))
        n = convert(Iota(TensorType((count,), i64), 0), f64)
        last = broadcast(convert(size_value(count - 1), f64), n.shape)
        single = e.Eq(last, Full(0, last.tensor))
        return wrap(e.Select(single, Full(1.0, n.tensor), build(n, e.Select(single, Full(1.0, n.tensor), last))))

    return window


def _cosine(a: float, b: float, c: float) -> Callable[[Value, Value], Value]:
    def build(n: Value, last: Value) -> Value:
        turn = n / last * (2 * np.pi)
        found: Value = a - b * e.Cos(turn)
        return found if c == 0 else found + c * e.Cos(turn * 2.0)

    return build


def _bartlett(n: Value, last: Value) -> Value:
    return 1.0 - e.Abs(n * 2.0 / last - 1.0)


# Those that take an array dispatch by NumPy's protocol; those that make one from sizes come by way of td.numpy.
TABLE: Final[Mapping[Any, Callable[..., Any]]] = {
    np.arange: arange,
    np.array: array,
    np.asanyarray: asarray,
    np.asarray: asarray,
    np.ascontiguousarray: asarray,
    np.asfortranarray: asarray,
    getattr(np, "astype", None): astype,  # from NumPy 2.1 on
    np.bartlett: _window(_bartlett, "bartlett"),
    np.blackman: _window(_cosine(0.42, 0.5, 0.08), "blackman"),
    np.empty: zeros,
    np.empty_like: zeros_like,
    np.eye: eye,
    np.fromfunction: fromfunction,
    np.full: full,
    np.full_like: full_like,
    np.geomspace: geomspace,
    np.hamming: _window(_cosine(0.54, 0.46, 0.0), "hamming"),
    np.hanning: _window(_cosine(0.5, 0.5, 0.0), "hanning"),
    np.identity: identity,
    np.indices: indices,
    np.linspace: linspace,
    np.logspace: logspace,
    np.meshgrid: meshgrid,
    np.ones: ones,
    np.ones_like: ones_like,
    np.require: require,
    np.tri: tri,
    np.vander: vander,
    np.zeros: zeros,
    np.zeros_like: zeros_like,
}
