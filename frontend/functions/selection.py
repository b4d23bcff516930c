"""Choosing: where, select, clip, take and put by position."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from ...ir.dtypes import FLOAT8, DType, bool_, f32, f64, i64
from ...ir.errors import InvalidValue, OutOfRange, ShapeMismatch, TypeMismatch, Unsupported
from ...ir.ops import elementwise as e
from ...ir.ops.indexing import Gather, Mode, Scatter, take_along
from ...ir.ops.movement import Concatenate
from ...ir.value import Full, Value
from ..arrays import (
    any_traced,
    axis_of,
    broadcast,
    broadcast_shapes,
    convert,
    described,
    entries,
    expand,
    is_number,
    lift,
    operands,
    permute,
    reshape,
    shape_of,
    static_int,
    together,
    typed,
)  # fmt: skip
from ..indexing import out_of_bounds
from ..promotion import result_type
from ..trace import here
from ..tracer import Tracer, unwrap, wrap
from .refusal import Refusal
from .shaping import taken
from .ufuncs import elementwise, refuse_out

GIVEN: Final = np._NoValue


_no_positions = Refusal("where with one argument", "TD0811", "np.where(condition, x, y) keeps the shape")


def where(condition: Any, x: Any = GIVEN, y: Any = GIVEN, /) -> Any:
    if x is GIVEN and y is GIVEN:
        return _no_positions()
    if x is GIVEN or y is GIVEN:
        raise InvalidValue(
            "either both or neither of x and y should be given",
            code="TD0822",
            location=here(),
            edit="np.where(condition, x, y)",
        )
    chosen = operands(x, y)
    kind = result_type(*map(described, chosen))
    mask = lift(condition)
    shape = broadcast_shapes(mask.shape, *map(shape_of, chosen))
    truth = broadcast(convert(unwrap(mask), bool_), shape)
    return wrap(e.Select(truth, typed(chosen[0], kind, shape), typed(chosen[1], kind, shape)))


def select(condlist: Any, choicelist: Any, default: Any = 0) -> Tracer:
    conditions, choices = list(condlist), list(choicelist)
    if len(conditions) != len(choices):
        raise InvalidValue(
            "list of cases must be same length as list of conditions",
            code="TD0822",
            location=here(),
            edit="a choice for each condition",
        )
    if not conditions:
        raise InvalidValue(
            "select with an empty condition list is not possible",
            code="TD0822",
            location=here(),
            edit="np.full_like(x, default)",
        )
    for condition in conditions:
        if lift(condition).value.dtype is not bool_:
            raise TypeMismatch(
                "invalid entry in condlist: should be boolean array",
                code="TD0816",
                location=here(),
                edit="conditions such as x > 0",
            )
    if is_number(default):
        # NumPy's default wraps where the choices cannot hold it.
        kind = result_type(*(described(choice) for choice in choices), described(default))
        default = np.asarray(default).astype(kind.numpy)[()]
    values = together(*choices, default)
    masks = [unwrap(lift(condition)) for condition in conditions]
    shape = broadcast_shapes(values[0].shape, *(mask.shape for mask in masks))
    found = broadcast(values[-1], shape)
    for mask, value in zip(reversed(masks), reversed(values[:-1]), strict=True):
        found = e.Select(broadcast(mask, shape), broadcast(value, shape), found)
    return wrap(found)


def piecewise(x: Any, condlist: Any, funclist: Sequence[Any], *args: Any, **kw: Any) -> Tracer:
    """As NumPy's, with every function applied to the whole array."""
    value = unwrap(lift(x))
    conditions = condlist
    if not isinstance(condlist, list | tuple) or (
        value.rank and not isinstance(condlist[0], list | np.ndarray | Tracer)
    ):
        conditions = [condlist]
    masks = [broadcast(convert(unwrap(lift(c)), bool_), value.shape) for c in conditions]
    functions = list(entries(funclist, "funclist"))
    if len(functions) == len(masks) + 1:
        rest = masks[0]
        for mask in masks[1:]:
            rest = e.Or(rest, mask)
        masks.append(e.Not(rest))
    if len(functions) != len(masks):
        raise InvalidValue(
            f"with {len(masks)} conditions, as many or one more functions are needed",
            code="TD0822",
            location=here(),
            edit="one function for each condition, and one for the rest",
        )
    found: Value = Full(0, value.tensor)
    for mask, function in zip(masks, functions, strict=True):
        piece = function(wrap(value), *args, **kw) if callable(function) else function
        found = e.Select(mask, broadcast(convert(typed(piece, value.dtype), value.dtype), value.shape), found)
    return wrap(found)


def clip(
    a: Any, a_min: Any = GIVEN, a_max: Any = GIVEN, out: Any = None, *, min: Any = GIVEN, max: Any = GIVEN, dtype: Any
    = None,
    **kwargs: Any,
) -> Tracer:  # fmt: skip
    refuse_out(out, "clip")
    low = a_min if a_min is not GIVEN else (None if min is GIVEN else min)
    high = a_max if a_max is not GIVEN else (None if max is GIVEN else max)
    if low is None and high is None:
        return lift(a)
    found: Tracer
    if low is None:
        found = elementwise(np.minimum, a, _within(a, high), dtype=dtype)
    elif high is None:
        found = elementwise(np.maximum, a, _within(a, low), dtype=dtype)
    else:
        xs = operands(a, _within(a, low), _within(a, high))
        kind = result_type(*map(described, xs))
        if kind is bool_ or kind.kind == "complex" or kind in FLOAT8:
            inner = elementwise(np.maximum, xs[0], xs[1], dtype=dtype)
            found = elementwise(np.minimum, inner, xs[2], dtype=dtype)
        else:
            shape = broadcast_shapes(*map(shape_of, xs))
            found = wrap(e.Clamp(*(typed(x, kind, shape) for x in xs)))
    return found


def _within(a: Any, bound: Any) -> Any:
    """A bound that a's integer type cannot hold clips nothing: the end of the type stands for it."""
    kind = described(a)
    if isinstance(kind, type) or not kind.is_integer or described(bound) is not int:
        return bound
    low, high = (0, 2**kind.bits - 1) if kind.kind == "uint" else (-(2 ** (kind.bits - 1)), 2 ** (kind.bits - 1) - 1)
    if is_number(bound):
        return low if bound < low else high if bound > high else bound
    number = unwrap(lift(bound))
    ends = (Full(max(low, -(2**63)), number.tensor), Full(min(high, 2**63 - 1), number.tensor))
    return wrap(e.Clamp(number, *ends), "int")


def _mode(mode: Any) -> Mode:
    if mode not in ("raise", "wrap", "clip"):
        raise InvalidValue(
            f"clipmode must be one of 'clip', 'raise', or 'wrap' (got {mode!r})",
            code="TD0822",
            location=here(),
            edit="mode='clip'",
        )
    found: Mode = mode
    return found


def _index(indices: Any) -> Value:
    value = unwrap(lift(indices))
    if isinstance(indices, list | tuple) and not indices:
        value = convert(value, i64)
    if value.dtype is bool_:
        value = convert(value, i64)
    if not value.dtype.is_integer:
        raise TypeMismatch(
            f"an index is {value.type}, integers are needed",
            code="TD0818",
            location=here(),
            edit="convert it by .astype(int)",
        )
    return value


def take(a: Any, indices: Any, axis: Any = None, out: Any = None, mode: Any = "raise") -> Tracer:
    refuse_out(out, "take")
    value = unwrap(lift(a))
    if axis is None:
        value = reshape(value, (value.tensor.size,))
        axis = 0
    number = axis_of(axis, value.rank)
    index = _index(indices)
    size = value.shape[number]
    if mode == "raise" and type(size) is int and not any_traced(indices):
        known = np.asarray(indices)
        wrong = known[(known < -size) | (known >= size)]
        if wrong.size:
            raise out_of_bounds(int(wrong.flat[0]), number, size)
    found = Gather(value, (index,), (number,), _mode(mode))
    elements = found.tensor.size
    if mode != "raise" and size == 0 and type(elements) is int and elements:
        raise OutOfRange(
            "cannot do a non-empty take from an empty axes",
            code="TD0818",
            location=here(),
            edit="an axis that has elements",
        )
    rank = index.rank
    return wrap(permute(found, [*range(rank, rank + number), *range(rank), *range(rank + number, found.rank)]))


def take_along_axis(arr: Any, indices: Any, axis: Any = -1) -> Tracer:
    value, index = unwrap(lift(arr)), unwrap(lift(indices))
    if axis is None:
        if index.rank != 1:
            raise InvalidValue(
                "when axis=None, indices must have a single dimension",
                code="TD0822",
                location=here(),
                edit="np.ravel(indices)",
            )
        value = reshape(value, (value.tensor.size,))
        axis = 0
    number = axis_of(axis, value.rank)
    _same_rank(value, index)
    if not index.dtype.is_integer:
        raise OutOfRange(
            "`indices` must be an integer array", code="TD0818", location=here(), edit="convert it by .astype(int)"
        )
    shape = broadcast_shapes(_with(value.shape, number, 1), _with(index.shape, number, 1))
    value = broadcast(value, _with(shape, number, value.shape[number]))
    index = broadcast(_index(wrap(index)), _with(shape, number, index.shape[number]))
    return wrap(take_along(value, index, number))


def _same_rank(value: Value, index: Value) -> None:
    if index.rank != value.rank:
        raise InvalidValue(
            "`indices` and `arr` must have the same number of dimensions",
            code="TD0822",
            location=here(),
            edit="np.take, or indices[..., None] for the axes that are missing",
        )


def _with(shape: tuple[Any, ...], axis: int, size: Any) -> tuple[Any, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def along_axis_set(arr: Any, indices: Any, values: Any, axis: Any) -> Tracer:
    """What `put_along_axis` would have written, as a new array."""
    value = unwrap(lift(arr))
    number = axis_of(axis, value.rank)
    order = (*(i for i in range(value.rank) if i != number), number)
    back = [order.index(i) for i in range(value.rank)]
    index = unwrap(lift(indices))
    shape = _with(value.shape, number, index.shape[number])
    last = value.rank - 1
    moved = permute(value, order)
    at = permute(broadcast(index, shape), order)
    news = permute(broadcast(typed(values, value.dtype), shape), order)
    return wrap(permute(Scatter(moved, (at,), news, (last,), "set", "raise", last), back))


def choose(a: Any, choices: Any, out: Any = None, mode: Any = "raise") -> Tracer:
    refuse_out(out, "choose")
    index = _index(a)
    values = together(*entries(choices, "choices"))
    if not values:
        raise InvalidValue("choose: nothing to choose from", code="TD0822", location=here(), edit="at least one choice")
    shape = broadcast_shapes(index.shape, values[0].shape)
    table = Concatenate(tuple(expand(broadcast(v, shape), (0,)) for v in values), 0)
    where_ = broadcast(index, shape)
    # The table's first axis is indexed, its others go with the index's: as one batch, with that axis last.
    moved = permute(table, (*range(1, table.rank), 0))
    rank = len(shape)
    signed = where_ if where_.dtype.kind == "int" else convert(where_, i64)
    # Negative numbers are not positions for choose: beyond every choice.
    if mode == "raise":
        low = e.Select(signed < 0, Full(len(values), signed.tensor), signed)
        signed = low
    return wrap(Gather(moved, (signed,), (rank,), _mode(mode), rank))


def compress(condition: Any, a: Any, axis: Any = None, out: Any = None) -> Tracer:
    refuse_out(out, "compress")
    if any_traced(condition):
        raise Unsupported(
            "compress: the shape of the result depends on a traced condition",
            code="TD0811",
            location=here(),
            edit="np.where(condition, a, 0) keeps the shape",
        )
    value = unwrap(lift(a))
    if axis is None:
        value = reshape(value, (value.tensor.size,))
        axis = 0
    number = axis_of(axis, value.rank)
    places = np.flatnonzero(np.asarray(condition))
    size = value.shape[number]
    if places.size and type(size) is int and places[-1] >= size:
        raise ShapeMismatch(
            "condition is longer than the axis",
            code="TD0818",
            location=here(),
            edit="at most one bool for each position",
        )
    return wrap(taken(value, places, number))


def extract(condition: Any, arr: Any) -> Tracer:
    if any_traced(condition):
        raise Unsupported(
            "extract: the shape of the result depends on a traced condition",
            code="TD0811",
            location=here(),
            edit="np.where(condition, arr, 0) keeps the shape",
        )
    return compress(np.ravel(condition), arr)


def nan_to_num(x: Any, copy: bool = True, nan: Any = 0.0, posinf: Any = None, neginf: Any = None) -> Tracer:
    value = unwrap(lift(x))
    if not value.dtype.is_float and value.dtype.kind != "complex":
        return wrap(value)
    if value.dtype.kind == "complex":
        parts = [unwrap(nan_to_num(wrap(part(value)), True, nan, posinf, neginf)) for part in (e.Real, e.Imag)]
        return wrap(e.Complex(*parts))
    storage = value.dtype
    if storage in FLOAT8:
        value = convert(value, f32)
    most = _largest(storage)
    high = typed(most if posinf is None else posinf, value.dtype, value.shape)
    low = typed(-most if neginf is None else neginf, value.dtype, value.shape)
    infinite = e.IsInf(value)
    found = e.Select(e.IsNan(value), typed(nan, value.dtype, value.shape), value)
    found = e.Select(e.And(infinite, value > 0.0), high, e.Select(e.And(infinite, value < 0.0), low, found))
    return wrap(convert(found, storage))


def _largest(dtype: DType) -> float:
    import ml_dtypes

    return float((np.finfo if dtype.numpy.kind == "f" else ml_dtypes.finfo)(dtype.numpy).max)


def real(val: Any) -> Tracer:
    value = unwrap(lift(val))
    return wrap(e.Real(value)) if value.dtype.kind == "complex" else wrap(value)


def imag(val: Any) -> Tracer:
    value = unwrap(lift(val))
    return wrap(e.Imag(value)) if value.dtype.kind == "complex" else wrap(Full(0, value.tensor))


def angle(z: Any, deg: bool = False) -> Tracer:
    x = lift(z)
    if x.value.dtype.kind == "complex":
        found = elementwise(np.arctan2, imag(x), real(x))
    else:
        found = elementwise(np.arctan2, 0, x)
    out: Tracer = elementwise(np.multiply, found, 180 / np.pi) if deg else found
    return out


def round_(a: Any, decimals: Any = 0, out: Any = None) -> Tracer:
    refuse_out(out, "round")
    x = lift(a)
    digits = static_int(decimals, "decimals")
    kind = x.value.dtype
    if kind.is_integer:
        if digits >= 0:
            return x
        power = 10**-digits
        value = unwrap(x)
        scaled = e.Rint(convert(value, f64) / float(power))
        return wrap(convert(scaled, kind) * power)
    if digits == 0:
        found: Tracer = elementwise(np.rint, x)
        return found
    if kind is bool_:
        raise TypeMismatch("round of bool to digits", code="TD0816", location=here(), edit="x.astype(float)")
    scale = 10.0 ** abs(digits)
    if digits > 0:
        found = elementwise(np.true_divide, elementwise(np.rint, elementwise(np.multiply, x, scale)), scale)
    else:
        found = elementwise(np.multiply, elementwise(np.rint, elementwise(np.true_divide, x, scale)), scale)
    return found


TABLE: Final[Mapping[Any, Callable[..., Any]]] = {
    np.angle: angle,
    np.around: round_,
    np.choose: choose,
    np.clip: clip,
    np.compress: compress,
    np.extract: extract,
    np.imag: imag,
    np.nan_to_num: nan_to_num,
    np.piecewise: piecewise,
    np.real: real,
    np.round: round_,
    np.select: select,
    np.take: take,
    np.take_along_axis: take_along_axis,
    np.where: where,
}
