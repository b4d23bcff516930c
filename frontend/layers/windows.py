"""Windows that slide over axes: convolutions, their transposes, pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.dims import Dim, exact_div, floordiv, show
from ...ir.dtypes import FLOAT8, DType, accumulator, bool_, f32, f64
from ...ir.errors import ShapeMismatch, Unsupported
from ...ir.ops.contract import ReduceWindow, WindowKind
from ...ir.ops.contract import conv as conv_value
from ...ir.ops.movement import Reverse
from ...ir.types import TensorType
from ...ir.value import Full, Value
from ..arrays import convert, described, lift, operands, permute, reshape, static_dim, static_int, typed
from ..eager import public
from ..functions.reductions import max_, mean
from ..functions.shaping import taken
from ..functions.ufuncs import elementwise
from ..promotion import result_type
from ..trace import here
from ..tracer import Tracer, unwrap, wrap
from .floats import floats, wrong

_SPATIAL = {1: "W", 2: "HW", 3: "DHW"}


def _numbers(given: Any, rank: int, what: str) -> tuple[int, ...]:
    if isinstance(given, int | np.integer) or hasattr(given, "__index__"):
        return (static_int(given, what),) * rank
    found = tuple(static_int(n, what) for n in given)
    if len(found) == 1:
        found = found * rank
    if len(found) != rank:
        raise wrong(f"{what} has {len(found)} entries for {rank} axes")
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
            raise wrong(f"padding {given!r} is none of valid, same, same_lower")
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
        raise wrong(f"padding has {len(entries)} entries for {rank} axes")
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
            raise wrong(f"a convolution over {rank} axes needs its layout named")
        given = "NC" + _SPATIAL[rank]
    if "->" in given:
        return given
    spatial = given.replace("N", "").replace("C", "")
    if sorted(given) != sorted("NC" + spatial) or len(spatial) != rank:
        raise wrong(
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
        raise ShapeMismatch(
            f"the bias is {row.type}, one number per channel is needed",
            code="TD0832",
            location=here(),
            edit="a bias of the shape (channels,)",
        )
    out: Tracer = elementwise(np.add, wrap(found), wrap(reshape(row, shape)))
    return out


def _convolved(name: str, x: Any, w: Any) -> tuple[Value, Value, DType | None, int]:
    """Both operands in one dtype; fp8 in f32, which is also the dtype to return to; and over how many axes."""
    given = operands(x, w)
    kind = result_type(*map(described, given))
    inner = f32 if kind in FLOAT8 else kind
    value, weights = typed(given[0], inner), typed(given[1], inner)
    if value.rank < 3 or weights.rank != value.rank:
        raise _apart(name, value, weights)
    return value, weights, kind if kind in FLOAT8 else None, value.rank - 2


def _apart(name: str, value: Value, weights: Value) -> ShapeMismatch:
    return ShapeMismatch(
        f"{name}: {value.type} and {weights.type} do not go together",
        code="TD0832",
        location=here(),
        edit="an input [N, C, *spatial] and weights of as many axes",
    )


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

    x [N, C, *n], w [O, C/groups, *k], bias [O] give [N, O, *m] with m = (n + padding - dilation (k - 1) - 1) // stride
    + 1, unless `layout` says otherwise: "NHWC" takes w as [*k, C/groups, O]; "NCHW,OIHW->NHWC" spells all of it out.
    `stride` and `dilation` are numbers or one per axis; `padding` a number, one or a pair per axis, "valid", "same"
    (ceil(n / stride) positions, the odd one of padding at the end) or "same_lower". Every number's dtype, in which both
    meet; sums of half floats are kept in f32. As `torch.nn.functional.conv2d`, `jax.lax.conv_general_dilated`.

    TD0832 where shapes do not go together, TD0830 where the other arguments do not.
    """
    value, weights, storage, rank = _convolved("conv", x, w)
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
            edit="weights of that many channels, or groups= to fit",
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

    x [N, C, *n], w [C, O/groups, *k], bias [O] give [N, O, *m] with m = (n - 1) stride - 2 padding + dilation (k - 1) +
    output_padding + 1: every element of x adds its window to the result. Dtypes as those of `conv`.

    TD0832 where shapes do not go together, TD0830 where the other arguments do not.
    """
    value, weights, storage, rank = _convolved("conv_transpose", x, w)
    if weights.shape[0] != value.shape[1]:
        raise _apart("conv_transpose", value, weights)
    window = tuple(static_int(n, "the window") for n in weights.shape[2:])
    strides, dilations = _numbers(stride, rank, "stride"), _numbers(dilation, rank, "dilation")
    pads = _padding(padding, value.shape[2:], window, strides, dilations)
    extra = _numbers(output_padding, rank, "output_padding")
    reach = [(k - 1) * d for k, d in zip(window, dilations, strict=True)]
    around = tuple((r - low, r - high + more) for r, (low, high), more in zip(reach, pads, extra, strict=True))
    inputs, outputs = value.shape[1], weights.shape[1]
    share = exact_div(inputs, groups)
    if share is None:
        raise wrong(f"conv_transpose: {groups} groups do not divide {show(inputs)} channels")
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
    (value,) = floats(x) if unwrap(lift(x)).dtype is bool_ else (unwrap(lift(x)),)
    rank = value.rank - 2
    if rank < 1:
        raise ShapeMismatch(
            f"pooling needs N, C and at least one more axis, not {value.type}",
            code="TD0832",
            location=here(),
            edit="x[None] puts an axis before the others",
        )
    name = (layout or "NC" + _SPATIAL.get(rank, "")).partition("->")[0].split(",")[0]
    if len(name) != value.rank or "N" not in name or "C" not in name:
        raise wrong(f"layout {name!r} does not name the {value.rank} axes of {value.type}", 'use "NCHW" or "NHWC"')
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
    """The greatest element of each window: [N, C, *n] gives [N, C, *m], as `torch.nn.functional.max_pool2d`.

    `window`, `stride` (the window unless given), `padding` and `dilation` are numbers or one per axis, or as those of
    `conv`; padding counts as -inf. `ceil_mode` keeps a last window that begins inside. Every real dtype, and bool as
    float64. TD0832 for an array without N and C, TD0830 for arguments that do not go together.
    """
    value, numbers, _, _ = _windowed(x, window, stride, padding, dilation, layout, ceil_mode)
    return wrap(_pooled(value, "max", numbers))


@public
def min_pool(
    x: Any, window: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, *, layout: str | None = None
) -> Tracer:
    """The least element of each window: `max_pool` with the order turned round; padding counts as inf."""
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
    """The mean of each window: [N, C, *n] gives [N, C, *m], as `torch.nn.functional.avg_pool2d`.

    Padding counts as zeros, or with `count_include_pad=False` not at all. Arguments and errors as those of `max_pool`;
    integers give float64.
    """
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
    """The mean over all axes but N and C: [N, C, *n] gives [N, C], with `keepdims` [N, C, 1, ...]."""
    given = lift(x)
    name = layout or "NC" + "W" * (given.ndim - 2)
    return mean(given, tuple(i for i, letter in enumerate(name) if letter not in "NC"), keepdims=keepdims)


@public
def adaptive_avg_pool(x: Any, output_size: Any) -> Tracer:
    """The mean over windows chosen so that [N, C, *n] gives [N, C, *output_size], a number or one per axis.

    Window i of m reads from floor(i n / m) to ceil((i + 1) n / m), as `torch.nn.functional.adaptive_avg_pool2d`.
    TD0201 where n has a name and m does not divide it.
    """
    value = floats(x)[0]
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


@public
def adaptive_max_pool(x: Any, output_size: Any) -> Tracer:
    """The greatest element of the windows of `adaptive_avg_pool`: [N, C, *n] gives [N, C, *output_size]."""
    value = unwrap(lift(x))
    for axis, out in enumerate(_numbers(output_size, value.rank - 2, "output_size"), 2):
        whole = exact_div(value.shape[axis], out)
        if whole is not None:
            shape = (*value.shape[:axis], out, whole, *value.shape[axis + 1 :])
            value = unwrap(max_(wrap(reshape(value, shape)), axis + 1))
            continue
        n = static_int(value.shape[axis], "a size that the output does not divide")
        low, high = (np.arange(out) * n // out)[:, None], (-(-(np.arange(out) + 1) * n // out))[:, None]
        # Shorter windows read their last element twice.
        places = np.minimum(low + np.arange(np.max(high - low)), high - 1)
        value = unwrap(max_(wrap(taken(value, places, axis)), axis + 1))
    return wrap(value)
