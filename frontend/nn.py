"""`treadle.nn`: what neural networks are made of: activations, convolutions, pooling, norms, attention, losses.

All are functions of arrays; parameters are arguments. Names and defaults follow `jax.nn` and `torch.nn.functional`,
images are channels first unless `layout` says otherwise. Those with care in their numbers are ops of their own
(softmax, gelu, norms, attention), which keep their names until a target has no kernel for them. Outside a trace they
run at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..ir.dims import Dim, exact_div, floordiv, show
from ..ir.dtypes import FLOAT8, DType, accumulator, bool_, f32, f64, i64, of
from ..ir.errors import InvalidValue, ShapeMismatch, TypeMismatch, Unsupported
from ..ir.ops import composite as c
from ..ir.ops import elementwise as e
from ..ir.ops.contract import ReduceWindow, WindowKind
from ..ir.ops.contract import conv as conv_value
from ..ir.ops.movement import Iota, Reverse
from ..ir.ops.reduce import Max, Sum
from ..ir.types import Shape, TensorType
from ..ir.value import Full, Mul, Value
from . import random
from .arrays import (
    axes_of,
    axis_of,
    broadcast,
    broadcast_shapes,
    convert,
    described,
    expand,
    lift,
    operands,
    permute,
    reshape,
    static_dim,
    static_int,
    typed,
)
from .eager import public
from .functions.reductions import front, keep, mean, sum_
from .functions.selection import take, take_along_axis
from .functions.selection import where as where_
from .functions.shaping import split
from .functions.ufuncs import elementwise
from .promotion import result_type
from .trace import here
from .tracer import Tracer, unwrap, wrap


def _wrong(message: str, edit: str | None = None) -> InvalidValue:
    return InvalidValue(message, code="TD0830", location=here(), edit=edit)


def _float(*xs: Any) -> list[Value]:
    """The operands in the float type in which they meet: integers as f64, as NumPy's functions take them."""
    given = operands(*(x for x in xs if x is not None))
    kind = result_type(*map(described, given))
    if kind is bool_ or kind.is_integer:
        kind = f64
    if kind.kind == "complex":
        raise TypeMismatch(f"{kind} is not accepted, a real number is needed", code="TD0831", location=here())
    return [typed(x, kind) for x in given]


def _stored(function: Callable[..., Value], *values: Value) -> Tracer:
    """The function's result in the operands' dtype; fp8, which is storage only, by way of f32."""
    if values[0].dtype in FLOAT8:
        return wrap(convert(function(*(convert(v, f32) for v in values)), values[0].dtype))
    return wrap(function(*values))


def _map(op: Callable[..., Value], x: Any) -> Tracer:
    return _stored(op, *_float(x))


# --- activations --------------------------------------------------------------------------------------------------


@public
def relu(x: Any) -> Tracer:
    """max(x, 0), with derivative 0 at 0."""
    value = unwrap(lift(x))
    return _stored(c.Relu, value) if value.dtype is not bool_ else wrap(value)


@public
def relu6(x: Any) -> Tracer:
    """min(max(x, 0), 6)."""
    (value,) = _float(x)
    return _stored(lambda v: e.Clamp(v, Full(0, v.tensor), Full(6, v.tensor)), value)


@public
def gelu(x: Any, approximate: bool | str = False) -> Tracer:
    """x times the normal distribution function of x; `approximate=True` (or "tanh") uses the usual fit by tanh."""
    if approximate not in (True, False, "tanh", "none"):
        raise _wrong(f"gelu: approximate is {approximate!r}", "use False (erf) or True (tanh)")
    fit = approximate in (True, "tanh")
    return _map(lambda v: c.Gelu(v, fit), x)


@public
def silu(x: Any) -> Tracer:
    """x * sigmoid(x), also called swish."""
    return _map(c.Silu, x)


@public
def sigmoid(x: Any) -> Tracer:
    """1 / (1 + exp(-x))."""
    return _map(e.Logistic, x)


@public
def log_sigmoid(x: Any) -> Tracer:
    """log(sigmoid(x)), without underflow."""
    return _map(lambda v: -e.Softplus(-v), x)


@public
def softplus(x: Any, beta: float = 1.0) -> Tracer:
    """log(1 + exp(beta * x)) / beta, without overflow."""
    if beta == 1.0:
        return _map(e.Softplus, x)
    return _map(lambda v: e.Softplus(v * float(beta)) / float(beta), x)


@public
def tanh(x: Any) -> Tracer:
    """The hyperbolic tangent."""
    return _map(e.Tanh, x)


def _below(value: Value, negative: Value) -> Value:
    """The value itself above 0, `negative` elsewhere."""
    return e.Select(value > 0, value, negative)


@public
def leaky_relu(x: Any, negative_slope: Any = 0.01) -> Tracer:
    """x above 0, negative_slope * x below."""
    value, slope = _float(x, negative_slope)
    return _stored(lambda v, s: _below(v, Mul(v, broadcast(s, v.shape))), value, slope)


@public
def prelu(x: Any, slope: Any, axis: int = 1) -> Tracer:
    """x above 0, slope * x below; `slope` is one number, or one for each element of `axis`."""
    value, s = _float(x, slope)
    if s.rank == 1 and s.shape[0] != 1:
        number = axis_of(axis, value.rank)
        s = reshape(s, tuple(s.shape[0] if i == number else 1 for i in range(value.rank)))
    elif s.rank == 1:
        s = reshape(s, ())
    return _stored(lambda v, w: _below(v, Mul(v, broadcast(w, v.shape))), value, s)


def _expm1_below(value: Value) -> Value:
    """exp(x) - 1 at or below 0, and 0 above, where exp would overflow and spoil the derivative."""
    return e.Expm1(e.Select(value > 0, Full(0, value.tensor), value))


@public
def elu(x: Any, alpha: float = 1.0) -> Tracer:
    """x above 0, alpha * (exp(x) - 1) below."""
    return _map(lambda v: _below(v, _expm1_below(v) * float(alpha)), x)


@public
def celu(x: Any, alpha: float = 1.0) -> Tracer:
    """x above 0, alpha * (exp(x / alpha) - 1) below."""
    return _map(lambda v: _below(v, _expm1_below(v / float(alpha)) * float(alpha)), x)


@public
def selu(x: Any) -> Tracer:
    """Scaled elu, whose scale and alpha keep mean 0 and variance 1."""
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    return _map(lambda v: _below(v, _expm1_below(v) * alpha) * scale, x)


@public
def soft_sign(x: Any) -> Tracer:
    """x / (1 + |x|)."""
    return _map(lambda v: v / (e.Abs(v) + 1.0), x)


@public
def mish(x: Any) -> Tracer:
    """x * tanh(softplus(x))."""
    return _map(lambda v: v * e.Tanh(e.Softplus(v)), x)


@public
def hard_tanh(x: Any, low: float = -1.0, high: float = 1.0) -> Tracer:
    """x cut off at low and high."""
    return _map(lambda v: e.Clamp(v, Full(low, v.tensor), Full(high, v.tensor)), x)


@public
def hard_sigmoid(x: Any) -> Tracer:
    """relu6(x + 3) / 6."""
    return _map(lambda v: e.Clamp(v + 3.0, Full(0, v.tensor), Full(6, v.tensor)) / 6.0, x)


@public
def hard_silu(x: Any) -> Tracer:
    """x * hard_sigmoid(x)."""
    return _map(lambda v: v * (e.Clamp(v + 3.0, Full(0, v.tensor), Full(6, v.tensor)) / 6.0), x)


@public
def glu(x: Any, axis: int = -1) -> Tracer:
    """The first half along `axis` times the sigmoid of the second."""
    (value,) = _float(x)
    first, second = split(wrap(value), 2, axis)
    return _stored(lambda a, b: a * e.Logistic(b), unwrap(first), unwrap(second))


swish = silu
hard_swish = hard_silu


# --- exponentials along axes --------------------------------------------------------------------------------------


def _along(op: Callable[[Value, int], Value], x: Any, axis: Any, mask: Any, hidden: float) -> Tracer:
    """An op of one axis along one or several; where `mask` is false elements take no part and become `hidden`."""
    (value,) = _float(x)
    if mask is not None:
        shape = broadcast_shapes(value.shape, lift(mask).shape)
        chosen = broadcast(typed(mask, bool_), shape)
        value = broadcast(value, shape)
        value = e.Select(chosen, value, Full(-math.inf, value.tensor))
    axes = axes_of(axis, value.rank)
    if value.rank == 0:
        found = reshape(unwrap(_stored(lambda v: op(v, 0), reshape(value, (1,)))), ())
    elif len(axes) == 1:
        found = unwrap(_stored(lambda v: op(v, axes[0]), value))
    else:
        joined = front(value, axes)
        kept = tuple(i for i in range(value.rank) if i not in axes)
        order = (*axes, *kept)
        moved = unwrap(_stored(lambda v: op(v, 0), joined))
        found = permute(
            reshape(moved, tuple(value.shape[i] for i in order)), [order.index(i) for i in range(value.rank)]
        )
    return wrap(found if mask is None else e.Select(chosen, found, Full(hidden, found.tensor)))


@public
def softmax(x: Any, axis: Any = -1, where: Any = None) -> Tracer:
    """exp(x) / sum(exp(x)) along `axis`; elements where `where` is false take no part and give 0."""
    return _along(c.Softmax, x, axis, where, 0.0)


@public
def log_softmax(x: Any, axis: Any = -1, where: Any = None) -> Tracer:
    """log(softmax(x)), without underflow; elements where `where` is false take no part and give -inf."""
    return _along(c.LogSoftmax, x, axis, where, -math.inf)


@public
def logsumexp(
    a: Any, axis: Any = None, b: Any = None, keepdims: bool = False, return_sign: bool = False, where: Any = None
) -> Any:
    """log(sum(b * exp(a))), without overflow; with `return_sign`, (log of the size of the sum, its sign)."""
    if b is None and not return_sign:
        (value,) = _float(a)
        if where is not None:
            mask = typed(where, bool_)
            shape = broadcast_shapes(value.shape, mask.shape)
            value = broadcast(value, shape)
            value = e.Select(broadcast(mask, shape), value, Full(-math.inf, value.tensor))
        axes = axes_of(axis, value.rank)
        return wrap(keep(unwrap(_stored(lambda v: c.LogSumExp(v, axes), value)), axes, keepdims))
    value, weights = _float(a, 1.0 if b is None else b)
    shape = broadcast_shapes(value.shape, weights.shape)
    value, weights = broadcast(value, shape), broadcast(weights, shape)
    if where is not None:
        weights = e.Select(broadcast(typed(where, bool_), shape), weights, Full(0, weights.tensor))
    axes = axes_of(axis, value.rank)
    absent = e.Eq(weights, Full(0, weights.tensor))
    seen = e.Select(absent, Full(-math.inf, value.tensor), value)
    top = Max(seen, axes)
    shift = e.Select(e.IsFinite(top), top, Full(0, top.tensor))
    spread = broadcast(expand(shift, axes), shape)
    total = Sum(Mul(e.Exp(seen - spread), weights), axes)
    size = keep(e.Log(e.Abs(total)) + shift, axes, keepdims)
    if return_sign:
        return wrap(size), wrap(keep(e.Sign(total), axes, keepdims))
    negative = keep(total < 0, axes, keepdims)
    return wrap(e.Select(negative, Full(math.nan, size.tensor), size))


# --- convolution and pooling --------------------------------------------------------------------------------------

_SPATIAL = {1: "W", 2: "HW", 3: "DHW"}


def _numbers(given: Any, rank: int, what: str) -> tuple[int, ...]:
    if isinstance(given, int | np.integer) or hasattr(given, "__index__"):
        return (static_int(given, what),) * rank
    found = tuple(static_int(n, what) for n in given)
    if len(found) == 1:
        found = found * rank
    if len(found) != rank:
        raise _wrong(f"{what} has {len(found)} entries for {rank} axes")
    return found


def _padding(
    given: Any, sizes: Sequence[Dim], window: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[Dim, Dim], ...]:
    """(low, high) per axis from a number, a number or a pair per axis, or "valid", "same", "same_lower"."""
    rank = len(sizes)
    if isinstance(given, str):
        name = given.lower()
        if name == "valid":
            return ((0, 0),) * rank
        if name not in ("same", "same_lower"):
            raise _wrong(f"padding {given!r} is none of valid, same, same_lower")
        found: list[tuple[Dim, Dim]] = []
        for n, k, s, d in zip(sizes, window, stride, dilation, strict=True):
            reach = (k - 1) * d + 1
            if s == 1:
                total: Dim = reach - 1
            elif type(n) is int:
                total = max((-(-n // s) - 1) * s + reach - n, 0)
            else:
                raise Unsupported(
                    f"padding='same' with stride {s} along an axis of size {show(n)}",
                    code="TD0813",
                    location=here(),
                    edit="give the padding as numbers",
                )
            half = floordiv(total, 2)
            found.append((half, total - half) if name == "same" else (total - half, half))
        return tuple(found)
    if isinstance(given, int | np.integer) or not hasattr(given, "__iter__"):
        width = static_dim(given, "padding")
        return ((width, width),) * rank
    entries = list(given)
    if len(entries) == 1:
        entries = entries * rank
    if len(entries) != rank:
        raise _wrong(f"padding has {len(entries)} entries for {rank} axes")
    pairs: list[tuple[Dim, Dim]] = []
    for entry in entries:
        if hasattr(entry, "__iter__"):
            low, high = entry
            pairs.append((static_dim(low, "padding"), static_dim(high, "padding")))
        else:
            width = static_dim(entry, "padding")
            pairs.append((width, width))
    return tuple(pairs)


def _layout(given: str | None, rank: int) -> str:
    """The full layout `NCHW,OIHW->NCHW` from a name of it (`NCHW`, `NHWC`), which says where the channels stand."""
    if given is None:
        if rank not in _SPATIAL:
            raise _wrong(f"a convolution over {rank} axes needs its layout named")
        given = "NC" + _SPATIAL[rank]
    if "->" in given:
        return given
    spatial = given.replace("N", "").replace("C", "")
    if sorted(given) != sorted("NC" + spatial) or len(spatial) != rank:
        raise _wrong(
            f"layout {given!r} does not name N, C and {rank} more axes", 'use "NCHW", "NHWC" or "NCHW,OIHW->NCHW"'
        )
    weights = "OI" + spatial if given.index("C") == 1 else spatial + "IO"
    return f"{given},{weights}->{given}"


def _with_bias(found: Value, bias: Any, layout: str) -> Tracer:
    if bias is None:
        return wrap(found)
    channels = layout.partition("->")[2].index("C")
    row = unwrap(lift(bias))
    shape = tuple(row.shape[0] if i == channels else 1 for i in range(found.rank))
    if row.rank != 1:
        raise ShapeMismatch(f"the bias is {row.type}, one number per channel is needed", code="TD0832", location=here())
    out: Tracer = elementwise(np.add, wrap(found), wrap(reshape(row, shape)))
    return out


def _convolved(x: Any, w: Any) -> tuple[Value, Value, DType | None]:
    """Both operands in one dtype; fp8 in f32, which is also the dtype to return to."""
    given = operands(x, w)
    kind = result_type(*map(described, given))
    inner = f32 if kind in FLOAT8 else kind
    return typed(given[0], inner), typed(given[1], inner), kind if kind in FLOAT8 else None


@public
def conv(
    x: Any,
    w: Any,
    bias: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    layout: str | None = None,
) -> Tracer:
    """Convolution in the sense of neural networks (the window is not reversed), over 1, 2, 3 or more axes.

    `x` is [N, C, ...], `w` [O, C/groups, ...] unless `layout` says otherwise (`"NHWC"` takes w as [..., I, O]; or
    spell it out: `"NCHW,OIHW->NHWC"`). `padding` is a number, one or a pair per axis, "valid" or "same".
    """
    value, weights, storage = _convolved(x, w)
    rank = value.rank - 2
    if rank < 1 or weights.rank != value.rank:
        raise ShapeMismatch(f"conv: {value.type} and {weights.type} do not go together", code="TD0832", location=here())
    spelt = _layout(layout, rank)
    given, mine = spelt.partition("->")[0].split(",")
    spatial = [letter for letter in given if letter not in "NC"]
    window = tuple(static_int(weights.shape[mine.index(letter)], "the window") for letter in spatial)
    strides, dilations = _numbers(stride, rank, "stride"), _numbers(dilation, rank, "dilation")
    sizes = [value.shape[given.index(letter)] for letter in spatial]
    pads = _padding(padding, sizes, window, strides, dilations)
    channels, wanted = value.shape[given.index("C")], weights.shape[mine.index("I")]
    if channels != wanted * groups:
        raise ShapeMismatch(
            f"conv: {value.type} has {show(channels)} channels, {weights.type} with {groups} groups wants "
            f"{show(wanted * groups)}",
            code="TD0832",
            location=here(),
        )
    found = conv_value(value, weights, strides, pads, dilations, groups, spelt)
    return _with_bias(found if storage is None else convert(found, storage), bias, spelt)


@public
def conv_transpose(
    x: Any,
    w: Any,
    bias: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tracer:
    """The transpose of a convolution of these numbers, as `torch.nn.functional.conv_transpose2d`.

    `x` is [N, C, ...], `w` [C, O/groups, ...]; the result's size is (n - 1)*stride - 2*padding + dilation*(k - 1) +
    output_padding + 1.
    """
    value, weights, storage = _convolved(x, w)
    rank = value.rank - 2
    if rank < 1 or weights.rank != value.rank or weights.shape[0] != value.shape[1]:
        raise ShapeMismatch(
            f"conv_transpose: {value.type} and {weights.type} do not go together", code="TD0832", location=here()
        )
    window = tuple(static_int(n, "the window") for n in weights.shape[2:])
    strides, dilations = _numbers(stride, rank, "stride"), _numbers(dilation, rank, "dilation")
    pads = _padding(padding, value.shape[2:], window, strides, dilations)
    extra = _numbers(output_padding, rank, "output_padding")
    reach = [(k - 1) * d for k, d in zip(window, dilations, strict=True)]
    around = tuple((r - low, r - high + more) for r, (low, high), more in zip(reach, pads, extra, strict=True))
    inputs, outputs = value.shape[1], weights.shape[1]
    share = exact_div(inputs, groups)
    if share is None:
        raise _wrong(f"conv_transpose: {groups} groups do not divide {show(inputs)} channels")
    turned = Reverse(weights, tuple(range(2, weights.rank)))
    cut = reshape(turned, (groups, share, outputs, *window))
    moved = permute(cut, (0, 2, 1, *range(3, cut.rank)))
    kernel = reshape(moved, (outputs * groups, share, *window))
    spelt = _layout(None, rank)
    ones = (1,) * rank
    found = conv_value(value, kernel, ones, around, dilations, groups, spelt, x_dilation=strides)
    return _with_bias(found if storage is None else convert(found, storage), bias, spelt)


def _windowed(
    x: Any, window: Any, stride: Any, padding: Any, dilation: Any, layout: str | None, ceil_mode: bool
) -> Any:
    """The value, and the window's numbers over all its axes, with ones at N and C."""
    (value,) = _float(x) if unwrap(lift(x)).dtype is bool_ else (unwrap(lift(x)),)
    rank = value.rank - 2
    if rank < 1:
        raise ShapeMismatch(
            f"pooling needs N, C and at least one more axis, not {value.type}", code="TD0832", location=here()
        )
    name = (layout or "NC" + _SPATIAL.get(rank, "")).partition("->")[0].split(",")[0]
    if len(name) != value.rank or "N" not in name or "C" not in name:
        raise _wrong(f"layout {name!r} does not name the {value.rank} axes of {value.type}", 'use "NCHW" or "NHWC"')
    axes = [i for i, letter in enumerate(name) if letter not in "NC"]
    sizes = _numbers(window, rank, "window")
    strides = sizes if stride is None else _numbers(stride, rank, "stride")
    dilations = _numbers(dilation, rank, "dilation")
    pads = _padding(padding, [value.shape[i] for i in axes], sizes, strides, dilations)
    grown = pads
    if ceil_mode:
        grown = tuple(
            (low, high + _missing(value.shape[i], k, s, low, high, d))
            for i, k, s, (low, high), d in zip(axes, sizes, strides, pads, dilations, strict=True)
        )

    def over(numbers: Sequence[Any], one: Any) -> tuple[Any, ...]:
        return tuple(numbers[axes.index(i)] if i in axes else one for i in range(value.rank))

    numbers = (over(sizes, 1), over(strides, 1), over(grown, (0, 0)), over(dilations, 1))
    return value, numbers, over(pads, (0, 0)), over(grown, (0, 0))


def _missing(n: Dim, k: int, s: int, low: Dim, high: Dim, d: int) -> int:
    """How much more padding a last window needs that begins inside, where the plain count would drop it."""
    size, before, after = (static_int(v, "a size with ceil_mode") for v in (n, low, high))
    span = size + before + after - d * (k - 1) - 1
    count = -(-span // s) + 1
    if (count - 1) * s >= size + before:
        count -= 1
    return max((count - 1) * s - span, 0)


def _pooled(value: Value, kind: WindowKind, numbers: tuple[Any, ...]) -> Value:
    if value.dtype in FLOAT8:
        return convert(ReduceWindow(convert(value, f32), kind, *numbers), value.dtype)
    return ReduceWindow(value, kind, *numbers)


@public
def max_pool(
    x: Any,
    window: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    *,
    ceil_mode: bool = False,
    layout: str | None = None,
) -> Tracer:
    """The greatest element of each window; `stride` is the window's size unless given. Padding counts as -inf."""
    value, numbers, _, _ = _windowed(x, window, stride, padding, dilation, layout, ceil_mode)
    return wrap(_pooled(value, "max", numbers))


@public
def min_pool(
    x: Any, window: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, *, layout: str | None = None
) -> Tracer:
    """The least element of each window. Padding counts as inf."""
    value, numbers, _, _ = _windowed(x, window, stride, padding, dilation, layout, False)
    return wrap(_pooled(value, "min", numbers))


@public
def avg_pool(
    x: Any,
    window: Any,
    stride: Any = None,
    padding: Any = 0,
    *,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    layout: str | None = None,
) -> Tracer:
    """The mean of each window; with `count_include_pad=False`, of its elements that are not padding."""
    value, numbers, pads, grown = _windowed(x, window, stride, padding, 1, layout, ceil_mode)
    if not value.dtype.is_float:
        value = convert(value, f64)
    inner = accumulator(value.dtype)
    total = ReduceWindow(convert(value, inner), "sum", *numbers)
    if count_include_pad and pads == grown:
        return wrap(convert(total / float(math.prod(numbers[0])), value.dtype))
    # How many elements each window has: counted over ones, the padding among them where it counts.
    shape = value.shape
    counted = numbers
    if count_include_pad:
        shape = tuple(n + low + high for n, (low, high) in zip(shape, pads, strict=True))
        rest = tuple((0, g[1] - p[1]) for p, g in zip(pads, grown, strict=True))
        counted = (numbers[0], numbers[1], rest, numbers[3])
    ones = ReduceWindow(Full(1, TensorType(shape, inner)), "sum", *counted)
    return wrap(convert(total / ones, value.dtype))


@public
def global_avg_pool(x: Any, *, keepdims: bool = False, layout: str | None = None) -> Tracer:
    """The mean over all axes but N and C."""
    given = lift(x)
    name = layout or "NC" + "W" * (given.ndim - 2)
    return mean(given, tuple(i for i, letter in enumerate(name) if letter not in "NC"), keepdims=keepdims)


@public
def adaptive_avg_pool(x: Any, output_size: Any) -> Tracer:
    """The mean over windows chosen so that the result, [N, C, ...], has `output_size` along the other axes."""
    value = _float(x)[0]
    sizes = _numbers(output_size, value.rank - 2, "output_size")
    kind = value.dtype
    value = convert(value, accumulator(kind))
    for axis, out in enumerate(sizes, 2):
        whole = exact_div(value.shape[axis], out)
        if whole is not None:
            shape = (*value.shape[:axis], out, whole, *value.shape[axis + 1 :])
            value = unwrap(mean(wrap(reshape(value, shape)), axis + 1))
            continue
        n = static_int(value.shape[axis], "a size that the output does not divide")
        weights = np.zeros((n, out))
        for i in range(out):
            low, high = i * n // out, -(-(i + 1) * n // out)
            weights[low:high, i] = 1.0 / (high - low)
        table = unwrap(lift(weights.astype(value.dtype.numpy)))
        moved = permute(value, (*(i for i in range(value.rank) if i != axis), axis))
        found = unwrap(lift(wrap(moved) @ wrap(table)))
        value = permute(found, (*range(axis), value.rank - 1, *range(axis, value.rank - 1)))
    return wrap(convert(value, kind))


# --- normalization ------------------------------------------------------------------------------------------------


def _filled(x: Value, given: Sequence[Any], fills: Sequence[float], shape: Shape) -> list[Value]:
    """Parameters of a norm in x's dtype, constants where none is given."""
    return [
        Full(fill, TensorType(shape, x.dtype)) if each is None else each
        for each, fill in zip(given, fills, strict=True)
    ]


def _norm(x: Any, *parameters: Any) -> tuple[Value, list[Value | None], DType]:
    """x and the parameters in the dtype in which they meet; fp8 in f32. The dtype to return comes last."""
    met = iter(_float(x, *parameters))
    value = next(met)
    rows = [None if p is None else next(met) for p in parameters]
    kind = value.dtype
    if kind in FLOAT8:
        return convert(value, f32), [None if r is None else convert(r, f32) for r in rows], kind
    return value, rows, kind


@public
def layer_norm(x: Any, scale: Any = None, shift: Any = None, *, axis: Any = -1, eps: float = 1e-5) -> Tracer:
    """(x - mean) / sqrt(variance + eps) * scale + shift, the statistics along `axis` (one or several)."""
    value, rows, kind = _norm(x, scale, shift)
    axes = tuple(sorted(axes_of(axis, value.rank)))
    gain, offset = _filled(value, rows, (1.0, 0.0), tuple(value.shape[i] for i in axes))
    return wrap(convert(c.LayerNorm(value, gain, offset, axes, float(eps)), kind))


@public
def rms_norm(x: Any, scale: Any = None, *, axis: Any = -1, eps: float = 1e-6) -> Tracer:
    """x / sqrt(mean(x * x) + eps) * scale, the mean along `axis` (one or several)."""
    value, rows, kind = _norm(x, scale)
    axes = tuple(sorted(axes_of(axis, value.rank)))
    (gain,) = _filled(value, rows, (1.0,), tuple(value.shape[i] for i in axes))
    return wrap(convert(c.RmsNorm(value, gain, axes, float(eps)), kind))


@public
def batch_norm(
    x: Any, mean: Any, var: Any, scale: Any = None, shift: Any = None, *, axis: int = 1, eps: float = 1e-5
) -> Tracer:
    """(x - mean) / sqrt(var + eps) * scale + shift, one number of each for each element of `axis`.

    In training the statistics are those of the batch: `batch_stats(x)`.
    """
    value, rows, kind = _norm(x, mean, var, scale, shift)
    number = axis_of(axis, value.rank)
    filled = _filled(value, rows, (0.0, 1.0, 1.0, 0.0), (value.shape[number],))
    return wrap(convert(c.BatchNorm(value, filled[0], filled[1], filled[2], filled[3], number, float(eps)), kind))


@public
def batch_stats(x: Any, *, axis: int = 1) -> tuple[Tracer, Tracer]:
    """Mean and variance (of the whole population) over all axes but `axis`: what `batch_norm` takes in training."""
    (value,) = _float(x)
    number = axis_of(axis, value.rank)
    axes = tuple(i for i in range(value.rank) if i != number)
    return mean(wrap(value), axes), _stored(lambda v: c.Variance(v, axes), value)


@public
def group_norm(
    x: Any, groups: int, scale: Any = None, shift: Any = None, *, axis: int = 1, eps: float = 1e-5
) -> Tracer:
    """Layer norm within each of `groups` runs of channels, together with all axes but the first and `axis`."""
    value, rows, kind = _norm(x, scale, shift)
    number = axis_of(axis, value.rank)
    axes = tuple(i for i in range(1, value.rank) if i != number)
    gain, offset = _filled(value, rows, (1.0, 0.0), (value.shape[number],))
    count = static_int(groups, "groups")
    return wrap(convert(c.GroupNorm(value, gain, offset, count, number, axes, float(eps)), kind))


@public
def instance_norm(x: Any, scale: Any = None, shift: Any = None, *, axis: int = 1, eps: float = 1e-5) -> Tracer:
    """Each channel of each example normalized by itself."""
    channels = static_int(lift(x).shape[axis], "the number of channels")
    return lift(group_norm(x, channels, scale, shift, axis=axis, eps=eps))


@public
def standardize(x: Any, axis: Any = -1, eps: float = 1e-5) -> Tracer:
    """(x - mean) / sqrt(variance + eps) along `axis`."""
    return lift(layer_norm(x, axis=axis, eps=eps))


@public
def normalize(x: Any, axis: Any = -1, eps: float = 1e-12) -> Tracer:
    """x / max(|x|, eps), the Euclidean norm along `axis`."""
    (value,) = _float(x)
    axes = axes_of(axis, value.rank)

    def unit(v: Value) -> Value:
        wide = convert(v, accumulator(v.dtype))
        size = e.Sqrt(Sum(Mul(wide, wide), axes))
        safe = e.Maximum(size, Full(eps, size.tensor))
        return convert(wide / broadcast(expand(safe, axes), wide.shape), v.dtype)

    return _stored(unit, value)


# --- attention ----------------------------------------------------------------------------------------------------


def _bias_and_mask(bias: Any, mask: Any, kind: DType) -> Value | None:
    """One mask for the op: bool alone, or a bias, -inf where the mask is false."""
    if bias is None and mask is None:
        return None
    if bias is None:
        found = unwrap(lift(mask))
        if found.dtype is not bool_:
            raise TypeMismatch(
                f"the mask is {found.type}, bool is needed", code="TD0833", location=here(), edit="bias="
            )
        return found
    added = typed(bias, kind)
    if mask is None:
        return added
    chosen = typed(mask, bool_)
    shape = broadcast_shapes(added.shape, chosen.shape)
    added = broadcast(added, shape)
    return e.Select(broadcast(chosen, shape), added, Full(-math.inf, added.tensor))


def _attended(q: Value, k: Value, v: Value, mask: Value | None, scale: Any, causal: bool, offset: Dim) -> Value:
    """Attention of q [..., N, T, D] to k [..., K, S, D], v [..., K, S, E]: the heads of q share those of k in
    groups."""
    heads, shared = q.shape[-3], k.shape[-3]
    group = exact_div(heads, shared)
    if group is None or v.shape[-3] != shared:
        raise ShapeMismatch(
            f"attention: {show(heads)} heads of queries, {show(shared)} of keys, {show(v.shape[-3])} of values",
            code="TD0833",
            location=here(),
        )
    one = type(group) is int and group == 1
    lead = q.shape[:-3]
    split_q = q if one else reshape(q, (*lead, shared, group, *q.shape[-2:]))
    scores: Shape = (*lead, heads, q.shape[-2], k.shape[-2])
    masks: tuple[Value, ...] = ()
    axes: tuple[int, ...] = ()
    if mask is not None:
        if mask.rank > len(scores) or broadcast_shapes(mask.shape, scores) != scores:
            raise ShapeMismatch(
                f"attention: a mask of {mask.type} does not stretch to the scores ({', '.join(map(show, scores))})",
                code="TD0833",
                location=here(),
            )
        mask = expand(mask, range(len(scores) - mask.rank))
        kept = [i for i, n in enumerate(mask.shape) if not (type(n) is int and n == 1)]
        shape: list[Dim] = []
        places: list[int] = []
        head = len(lead)
        for i in kept:
            if i == head and not one:
                shape += [shared, group]
                places += [head, head + 1]
            else:
                shape.append(mask.shape[i])
                places.append(i if i <= head or one else i + 1)
        masks, axes = (reshape(mask, tuple(shape)),), tuple(places)
    factor = 1.0 / math.sqrt(static_int(q.shape[-1], "the size of a head")) if scale is None else float(scale)
    found = c.Attention(split_q, k, v, masks, factor, causal, offset, axes)
    return found if one else reshape(found, (*lead, heads, *found.shape[-2:]))


def _three(query: Any, key: Any, value: Any) -> tuple[Value, Value, Value, DType]:
    q, k, v = _float(query, key, value)
    kind = q.dtype
    if kind in FLOAT8:
        q, k, v = convert(q, f32), convert(k, f32), convert(v, f32)
    return q, k, v, kind


@public
def dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    mask: Any = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
    offset: Any = 0,
) -> Tracer:
    """softmax(scale * query @ key^T + bias) @ value, as `jax.nn.dot_product_attention`.

    `query` is [..., T, N, H], `key` and `value` [..., S, K, H] with N a multiple of K: heads stand before last. `bias`
    and the bool `mask` (false: not attended to) stretch to [..., N, T, S]. With `is_causal`, query i attends to keys
    up to i + `offset`; `offset` is S - T for queries at the end of the keys. `scale` is 1 / sqrt(H) unless given.
    """
    q, k, v, kind = _three(query, key, value)
    if q.rank < 3 or k.rank != q.rank or v.rank != q.rank:
        raise ShapeMismatch(
            f"attention: query {q.type}, key {k.type}, value {v.type} must be [..., T, N, H]",
            code="TD0833",
            location=here(),
        )
    rank = q.rank
    order = (*range(rank - 3), rank - 2, rank - 3, rank - 1)
    q, k, v = (permute(x, order) for x in (q, k, v))
    joined = _bias_and_mask(bias, mask, q.dtype)
    found = _attended(q, k, v, joined, scale, is_causal, static_dim(offset, "offset"))
    return wrap(convert(permute(found, order), kind))


@public
def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    offset: Any = 0,
) -> Tracer:
    """softmax(scale * query @ key^T + mask) @ value, as `torch.nn.functional.scaled_dot_product_attention`.

    `query` is [..., N, T, H], `key` and `value` [..., K, S, H] with N a multiple of K: heads stand before positions.
    The mask is bool (false: not attended to) or is added. With `is_causal`, query i attends to keys up to i + `offset`.
    """
    q, k, v, kind = _three(query, key, value)
    bare = q.rank == 2
    if bare:
        q, k, v = (expand(x, (0,)) for x in (q, k, v))
    if q.rank < 3 or k.rank != q.rank or v.rank != q.rank:
        raise ShapeMismatch(
            f"attention: query {q.type}, key {k.type}, value {v.type} must be [..., N, T, H]",
            code="TD0833",
            location=here(),
        )
    mask: Value | None = None
    if attn_mask is not None:
        given = unwrap(lift(attn_mask))
        mask = given if given.dtype is bool_ else convert(given, q.dtype)
    found = _attended(q, k, v, mask, scale, is_causal, static_dim(offset, "offset"))
    return wrap(convert(reshape(found, found.shape[1:]) if bare else found, kind))


# --- tables, dropout ----------------------------------------------------------------------------------------------


@public
def one_hot(x: Any, num_classes: Any, *, dtype: Any = np.float32, axis: int = -1) -> Tracer:
    """1 where the position along a new `axis` is x, 0 elsewhere; all 0 where x is no class."""
    index = unwrap(lift(x))
    if not index.dtype.is_integer:
        raise TypeMismatch(f"one_hot: {index.type} is not made of integers", code="TD0831", location=here())
    number = axis_of(axis, index.rank + 1)
    classes = static_dim(num_classes, "num_classes")
    wide = expand(convert(index, i64), (number,))
    shape = tuple(classes if i == number else n for i, n in enumerate(wide.shape))
    same = e.Eq(broadcast(wide, shape), Iota(TensorType(shape, i64), number))
    return wrap(convert(same, of(dtype)))


@public
def embedding(indices: Any, table: Any, *, mode: str = "raise") -> Tracer:
    """Rows of `table` at `indices`. `mode` says what an index outside does: raise, clip or wrap."""
    return take(table, indices, 0, mode=mode)


@public
def dropout(x: Any, rate: float, key: Any = None, *, deterministic: bool = False) -> Tracer:
    """Each element is 0 with probability `rate`, else divided by 1 - rate. `key` is one of td.random's."""
    if not 0.0 <= rate <= 1.0:
        raise _wrong(f"dropout: the rate {rate} is not between 0 and 1")
    (value,) = _float(x)
    if deterministic or rate == 0.0:
        return wrap(value)
    if key is None:
        raise _wrong("dropout: a key is needed", "pass key=td.random.key(seed), split for every use")
    kept = unwrap(lift(random.bernoulli(key, 1.0 - rate, value.shape)))
    scaled = value / (1.0 - rate) if rate < 1.0 else value
    return wrap(e.Select(kept, scaled, Full(0, value.tensor)))


# --- losses -------------------------------------------------------------------------------------------------------


def _reduced(losses: Tracer, reduction: str, weights: Tracer | None = None) -> Tracer:
    """None, the sum, or the mean (weighted, where elements have weights)."""
    if reduction == "none":
        return losses
    if reduction == "sum":
        return sum_(losses)
    if reduction != "mean":
        raise _wrong(f"reduction {reduction!r} is none of mean, sum, none")
    if weights is None:
        return mean(losses)
    return lift(sum_(losses) / sum_(weights))


@public
def cross_entropy(
    logits: Any,
    labels: Any,
    *,
    axis: int = -1,
    weight: Any = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tracer:
    """-log softmax(logits) at the labels: integers (one axis fewer than the logits) or probabilities (same shape).

    `weight` has one number per class; examples whose label is `ignore_index` take no part. The mean is over examples,
    weighted if there are weights.
    """
    (scores,) = _float(logits)
    number = axis_of(axis, scores.rank)
    classes = scores.shape[number]
    logs = lift(log_softmax(wrap(scores), number))
    given = lift(labels)
    row: Tracer | None = None
    if weight is not None:
        shape = tuple(classes if i == number else 1 for i in range(scores.rank))
        row = wrap(reshape(typed(weight, scores.dtype), shape))
    if given.value.dtype.is_float:
        target = given
        if label_smoothing:
            share = 1.0 / static_int(classes, "the number of classes")
            target = lift(given * (1.0 - label_smoothing) + label_smoothing * share)
        losses = lift(-sum_(lift(logs * target * row if row is not None else logs * target), number))
        return _reduced(losses, reduction)
    if not given.value.dtype.is_integer or given.ndim != scores.rank - 1:
        raise TypeMismatch(
            f"cross_entropy: the labels are {given.value.type}; integers with the shape of the logits {scores.type} "
            f"without axis {number} are needed, or probabilities of their shape",
            code="TD0831",
            location=here(),
        )
    ignored = None if ignore_index is None else lift(given == ignore_index)
    safe = given if ignored is None else lift(where_(ignored, 0, given))
    at = wrap(expand(unwrap(safe), (number,)))
    weighted = logs if row is None else lift(logs * row)
    picked = take_along_axis(weighted, at, number)
    value = unwrap(picked)
    losses = lift(-wrap(reshape(value, tuple(n for i, n in enumerate(value.shape) if i != number))))
    counts: Tracer | None = None
    if row is not None:
        flat = wrap(reshape(unwrap(row), (classes,)))
        counts = take(flat, safe)
    if label_smoothing:
        share = label_smoothing / static_int(classes, "the number of classes")
        losses = lift(losses * (1.0 - label_smoothing) - sum_(weighted, number) * share)
    if ignored is not None:
        losses = lift(where_(ignored, 0, losses))
        counts = lift(where_(ignored, 0, 1.0 if counts is None else counts))
        counts = wrap(convert(unwrap(counts), losses.value.dtype))
    return _reduced(losses, reduction, counts)


@public
def binary_cross_entropy(logits: Any, labels: Any, *, reduction: str = "mean") -> Tracer:
    """-(y log sigmoid(x) + (1 - y) log(1 - sigmoid(x))), from the logits x, without overflow."""
    x, y = _float(logits, labels)
    shape = broadcast_shapes(x.shape, y.shape)
    x, y = broadcast(x, shape), broadcast(y, shape)
    return _reduced(_stored(lambda a, b: e.Softplus(a) - Mul(a, b), x, y), reduction)


def _difference(predictions: Any, targets: Any) -> Value:
    x, y = _float(predictions, targets)
    shape = broadcast_shapes(x.shape, y.shape)
    x, y = broadcast(x, shape), broadcast(y, shape)
    if x.dtype in FLOAT8:
        return convert(x, f32) - convert(y, f32)
    return x - y


@public
def mse(predictions: Any, targets: Any, *, reduction: str = "mean") -> Tracer:
    """The mean squared difference."""
    apart = _difference(predictions, targets)
    return _reduced(wrap(Mul(apart, apart)), reduction)


@public
def mae(predictions: Any, targets: Any, *, reduction: str = "mean") -> Tracer:
    """The mean absolute difference."""
    return _reduced(wrap(e.Abs(_difference(predictions, targets))), reduction)


@public
def huber(predictions: Any, targets: Any, delta: float = 1.0, *, reduction: str = "mean") -> Tracer:
    """Half the squared difference up to `delta`, a straight line beyond."""
    apart = _difference(predictions, targets)
    size = e.Abs(apart)
    near = Mul(apart, apart) * 0.5
    far = (size - 0.5 * delta) * float(delta)
    return _reduced(wrap(e.Select(size <= float(delta), near, far)), reduction)


@public
def kl_divergence(log_predictions: Any, targets: Any, *, axis: Any = -1, reduction: str = "mean") -> Tracer:
    """sum(p * (log p - log q)) along `axis`, from log q and p; terms with p = 0 are 0."""
    logs, p = _float(log_predictions, targets)
    shape = broadcast_shapes(logs.shape, p.shape)
    logs, p = broadcast(logs, shape), broadcast(p, shape)

    def terms(q: Value, p: Value) -> Value:
        none = e.Eq(p, Full(0, p.tensor))
        safe = e.Select(none, Full(1.0, p.tensor), p)
        return e.Select(none, Full(0, p.tensor), Mul(p, e.Log(safe) - q))

    return _reduced(sum_(_stored(terms, logs, p), axis), reduction)


@public
def cosine_similarity(x: Any, y: Any, axis: int = -1, eps: float = 1e-8) -> Tracer:
    """The cosine of the angle between x and y along `axis`."""
    a, b = _float(x, y)
    shape = broadcast_shapes(a.shape, b.shape)
    kind = a.dtype
    a, b = (convert(broadcast(v, shape), accumulator(kind)) for v in (a, b))
    number = axis_of(axis, len(shape))

    def size(v: Value) -> Value:
        found = e.Sqrt(Sum(Mul(v, v), (number,)))
        return e.Maximum(found, Full(eps, found.tensor))

    return wrap(convert(Sum(Mul(a, b), (number,)) / Mul(size(a), size(b)), kind))


__all__ = [
    "adaptive_avg_pool", "avg_pool", "batch_norm", "batch_stats", "binary_cross_entropy", "celu", "conv",
    "conv_transpose", "cosine_similarity", "cross_entropy", "dot_product_attention", "dropout", "elu", "embedding",
    "gelu", "global_avg_pool", "glu", "group_norm", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "huber",
    "instance_norm", "kl_divergence", "layer_norm", "leaky_relu", "log_sigmoid", "log_softmax", "logsumexp", "mae",
    "max_pool", "min_pool", "mish", "mse", "normalize", "one_hot", "prelu", "relu", "relu6", "rms_norm",
    "scaled_dot_product_attention", "selu", "sigmoid", "silu", "soft_sign", "softmax", "softplus", "standardize",
    "swish", "tanh",
]  # fmt: skip
