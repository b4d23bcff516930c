"""Sums of products, and windows: dot, convolution, pooling.

`Conv` names its axes as einsum does, with small letters for the axes over which the window slides. So groups, blocked
layouts and batching are letters, not special cases, and both transposes of a convolution are convolutions with the
letters exchanged. Pooling combines windows of one operand with a monoid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np

from ..classes import dataclass
from ..dims import Dim, exact_div, floordiv, known_le
from ..dtypes import ARITHMETIC, NUMBERS, DType, accumulator, bool_, i32
from ..errors import InvalidValue, ShapeMismatch, TypeMismatch
from ..location import current_origin
from ..loops.nodes import Binary, Cast, Const, Expr, Index, Select
from ..structure import (
    Axis,
    Monoid,
    Read,
    Structure,
    arg_monoid,
    element,
    highest,
    lowest,
    max_monoid,
    min_monoid,
    prod_monoid,
    sum_monoid,
    zero,
)
from ..types import Shape, TensorType, Type
from ..value import Array, Full, Value, replace
from .elementwise import convert
from .families import Contraction, Op, Tangent, normalize_axis
from .movement import Concatenate, Pad, Promise, Reshape, Reverse, Slice, Transpose
from .reduce import ORDERED, Prod, converted, stacked

Padding = tuple[tuple[Dim, Dim], ...]


def product_dtype(op: Op, x: Value, y: Value, accumulate: DType | None) -> DType:
    """The dtype of a sum of products, TD0160 where the operands' types do not go together.

    Without `accumulate` both operands have the result's dtype: integers wrap in it, half floats are summed in f32 and
    rounded once. With it, sums are kept and returned in that type: at least as wide, of the same kind; integers of
    different signs may meet in a signed one.
    """
    for v in (x, y):
        if v.dtype not in ARITHMETIC:
            raise op.refuse(f"{v.dtype} is not accepted", code="TD0160", error=TypeMismatch)
    if accumulate is None:
        if x.dtype is not y.dtype:
            raise op.refuse(
                f"dtypes differ: {x.dtype} and {y.dtype}",
                code="TD0160",
                error=TypeMismatch,
                edit="convert one of them, or give accumulate= for integers",
            )
        return x.dtype
    integers = x.dtype.is_integer and y.dtype.is_integer and accumulate.is_integer
    alike = x.dtype is y.dtype and accumulate.kind == x.dtype.kind
    wide = accumulate.bits >= max(x.dtype.bits, y.dtype.bits)
    # A signed operand, or two of different signs, needs a signed sum.
    signed = accumulate.kind == "int" or (x.dtype.kind == "uint" and y.dtype.kind == "uint")
    if not wide or not ((integers and signed) or (alike and not integers)):
        raise op.refuse(
            f"{x.dtype} times {y.dtype} cannot be summed in {accumulate}", code="TD0160", error=TypeMismatch
        )
    return accumulate


def product_body(x: DType, y: DType, result: DType) -> tuple[Expr, ...]:
    """The product of the two elements, in the type in which sums are kept."""
    kept = accumulator(result)
    a, b = element(0, x), element(1, y)
    return (Binary("and" if kept is bool_ else "mul", convert(a, kept), convert(b, kept)),)


def moved(x: Value, order: Sequence[int]) -> Value:
    """`x`, whose axes are those numbered `order` of a result, put in that result's order."""
    if list(order) == sorted(order):
        return x
    return Transpose(x, tuple(order.index(axis) for axis in range(len(order))))


class Dot(Contraction):
    """Sum of products over the contracted axes: result axes are the batch axes, x's free axes, y's free axes.

    `x_batch[i]` goes with `y_batch[i]`, `x_contract[i]` with `y_contract[i]`. Bool: or of ands. Errors: TD0160
    (dtypes), TD0161 (axes), TD0162 (sizes).
    """

    x: Value
    y: Value
    x_batch: tuple[int, ...]
    y_batch: tuple[int, ...]
    x_contract: tuple[int, ...]
    y_contract: tuple[int, ...]
    accumulate: DType | None = None

    linear = (0, 1)

    def result(self) -> Type:
        dtype = product_dtype(self, self.x, self.y, self.accumulate)
        for batch, contract, v in (("x_batch", "x_contract", self.x), ("y_batch", "y_contract", self.y)):
            for name in (batch, contract):
                axes = tuple(normalize_axis(self, axis, v.rank) for axis in self.__dict__[name])
                self.__dict__[name] = axes
            if len(set(used := self.__dict__[batch] + self.__dict__[contract])) != len(used):
                raise self.refuse(f"an axis of {batch[0]} is used twice: {used}", code="TD0161", error=InvalidValue)
        for what in ("batch", "contract"):
            x_axes, y_axes = self.__dict__[f"x_{what}"], self.__dict__[f"y_{what}"]
            if len(x_axes) != len(y_axes):
                raise self.refuse(
                    f"{what} axes {x_axes} of x and {y_axes} of y differ in number",
                    code="TD0161",
                    error=InvalidValue,
                )
            for i, j in zip(x_axes, y_axes, strict=True):
                if self.x.shape[i] != self.y.shape[j]:
                    raise self.refuse(
                        f"{what}ed axes differ: x has {self.x.shape[i]} (axis {i}), y has {self.y.shape[j]} (axis {j})",
                        code="TD0162",
                        error=ShapeMismatch,
                    )
        shape = [self.x.shape[i] for i in self.x_batch]
        shape += [self.x.shape[i] for i in self.x_free]
        shape += [self.y.shape[i] for i in self.y_free]
        return TensorType(tuple(shape), dtype)

    @property
    def x_free(self) -> tuple[int, ...]:
        """Axes of x that are neither batch nor contracted, in order."""
        return tuple(i for i in range(self.x.rank) if i not in self.x_batch and i not in self.x_contract)

    @property
    def y_free(self) -> tuple[int, ...]:
        return tuple(i for i in range(self.y.rank) if i not in self.y_batch and i not in self.y_contract)

    def structure(self) -> Structure | None:
        x_at: list[Dim] = [0] * self.x.rank
        y_at: list[Dim] = [0] * self.y.rank
        axes: list[Axis] = []

        def axis(extent: Dim, x_axis: int | None, y_axis: int | None, reduce: bool = False) -> None:
            axes.append(Axis(f"a{len(axes)}", extent, "reduce" if reduce else "parallel"))
            if x_axis is not None:
                x_at[x_axis] = axes[-1].position
            if y_axis is not None:
                y_at[y_axis] = axes[-1].position

        for i, j in zip(self.x_batch, self.y_batch, strict=True):
            axis(self.x.shape[i], i, j)
        for i in self.x_free:
            axis(self.x.shape[i], i, None)
        for j in self.y_free:
            axis(self.y.shape[j], None, j)
        for i, j in zip(self.x_contract, self.y_contract, strict=True):
            axis(self.x.shape[i], i, j, reduce=True)
        body = product_body(self.x.dtype, self.y.dtype, self.dtype)
        reads = (Read(0, tuple(x_at)), Read(1, tuple(y_at)))
        return Structure(tuple(axes), reads, body, sum_monoid(self.dtype), self.dtype)

    def evaluate(self, x: Array, y: Array) -> Array:
        kept = accumulator(self.dtype).numpy
        x = x.astype(kept).transpose(*self.x_batch, *self.x_free, *self.x_contract)
        y = y.astype(kept).transpose(*self.y_batch, *self.y_contract, *self.y_free)
        batch, inner = len(self.x_batch), len(self.x_contract)
        lead, rows, columns = x.shape[:batch], x.shape[batch : x.ndim - inner], y.shape[batch + inner :]
        k = _size(x.shape[x.ndim - inner :])
        found = np.matmul(x.reshape(*lead, _size(rows), k), y.reshape(*lead, k, _size(columns)))
        return np.asarray(found).reshape((*lead, *rows, *columns)).astype(self.dtype.numpy)

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        batch, free = len(self.x_batch), len(self.x_free)
        mine = tuple(range(batch, batch + free)), tuple(range(batch + free, self.rank))
        if operand == 0:
            other, axes, x_batch, x_free = self.y, self.y_batch, self.x_batch, self.x_free
            contracted, others, free_axes = self.y_contract, self.x_contract, self.y_free
        else:
            other, axes, x_batch, x_free = self.x, self.x_batch, self.y_batch, self.y_free
            contracted, others, free_axes = self.x_contract, self.y_contract, self.x_free
        found = Dot(
            cotangent,
            converted(other, cotangent.dtype),
            tuple(range(batch)),
            axes,
            mine[1 - operand],
            free_axes,
        )
        # What is left free of the other operand are the contracted axes, in the order in which it has them.
        rest = tuple(others[contracted.index(axis)] for axis in sorted(contracted))
        return converted(moved(found, (*x_batch, *x_free, *rest)), self.operands[operand].dtype)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        x, y = operands
        step = [1 if here else 0 for here in batched]
        x_batch, x_contract = (tuple(a + step[0] for a in axes) for axes in (self.x_batch, self.x_contract))
        y_batch, y_contract = (tuple(a + step[1] for a in axes) for axes in (self.y_batch, self.y_contract))
        if all(batched):
            x_batch, y_batch = (0, *x_batch), (0, *y_batch)
            return Dot(x, y, x_batch, y_batch, x_contract, y_contract, self.accumulate)
        # A free axis of one operand makes one larger product; it comes out behind the batch axes, or behind x's own.
        found = Dot(x, y, x_batch, y_batch, x_contract, y_contract, self.accumulate)
        place = len(x_batch) if batched[0] else len(x_batch) + len(self.x_free)
        return moved(found, (*range(1, place + 1), 0, *range(place + 1, found.rank)))


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class ConvAxes:
    """A `spec` that was read: the letters of x, of w and of the result, and the small ones in alphabetical order."""

    x: str
    w: str
    out: str
    windows: str

    @property
    def contracted(self) -> str:
        """Letters that are summed over: in x and w, not in the result."""
        return "".join(c for c in self.x if c in self.w and c not in self.out)


@lru_cache(maxsize=1024)
def conv_axes(spec: str) -> ConvAxes | str:
    """`NIhw,OIhw->NOhw` read, or what is wrong with it."""
    left, arrow, out = spec.partition("->")
    x, comma, w = left.partition(",")
    if not arrow or not comma or not all((part + "a").isalpha() and part.isascii() for part in (x, w, out)):
        return 'it should read like "NIhw,OIhw->NOhw"'
    for part in (x, w, out):
        if len(set(part)) != len(part):
            return f"a letter of {part!r} repeats"
    for c in sorted({*x, *w, *out}):
        found = (c in x) + (c in w) + (c in out)
        if c.islower() and found != 3:
            return f"window axis {c!r} must be in all three parts"
        if found < 2:
            return f"axis {c!r} is in one part only"
    return ConvAxes(x, w, out, "".join(sorted(c for c in x if c.islower())))


def window_size(n: Dim, window: Dim, stride: int, pad: tuple[Dim, Dim], dilation: int, x_dilation: int) -> Dim:
    """How many windows fit: the positions p with p*stride + (window-1)*dilation inside the padded, dilated axis."""
    return floordiv((n - 1) * x_dilation + pad[0] + pad[1] - (window - 1) * dilation, stride) + 1


def _window_numbers(op: Op, rank: int) -> None:
    """Check and complete strides, padding, dilation and x_dilation; () stands for ones, or zeros of padding."""
    fields = op.__dict__
    fields["padding"] = fields["padding"] or ((0, 0),) * rank
    for name in ("strides", "dilation", "x_dilation"):
        fields[name] = fields[name] or (1,) * rank
        if any(number < 1 for number in fields[name]):
            raise op.refuse(f"{name} {fields[name]} must be at least 1", code="TD0165", error=InvalidValue)
    for name in ("strides", "padding", "dilation", "x_dilation"):
        if len(fields[name]) != rank:
            count = len(fields[name])
            raise op.refuse(f"{name} has {count} entries for {rank} axes", code="TD0165", error=InvalidValue)


def _window_count(op: Op, axis: str, n: Dim, window: Dim, i: int) -> Dim:
    """`window_size` of window axis number i, which may be none; TD0166 where it would be negative."""
    fields = op.__dict__
    pad, dilation = fields["padding"][i], fields["dilation"][i]
    size = window_size(n, window, fields["strides"][i], pad, dilation, fields["x_dilation"][i])
    if type(size) is int and size < 0:
        raise op.refuse(
            f"{axis}: a window of {window} (dilation {dilation}) does not fit into {n} with padding {pad}",
            code="TD0166",
            error=ShapeMismatch,
        )
    return size


def window_array(
    x: Array,
    axis: int,
    count: int,
    window: int,
    stride: int,
    low: int,
    dilation: int,
    x_dilation: int,
    fill: object,
) -> Array:
    """`x` with `axis` replaced by two, `count` windows of `window` elements; `fill` where a window reads none."""
    at = np.arange(count)[:, None] * stride + np.arange(window)[None, :] * dilation - low
    inside = (at % x_dilation == 0) & (at >= 0) & (at // x_dilation < x.shape[axis])
    if x.shape[axis] == 0:
        return np.full((*x.shape[:axis], count, window, *x.shape[axis + 1 :]), fill, x.dtype)
    found = np.take(x, np.where(inside, at // x_dilation, 0), axis=axis)
    mask = inside.reshape(*(1,) * axis, count, window, *(1,) * (x.ndim - axis - 1))
    return np.where(mask, found, np.asarray(fill, x.dtype))


class Conv(Contraction):
    """Convolution in the sense of neural networks (the window is not reversed): einsum with sliding axes.

    `spec` names the axes of x, of w and of the result, as in `NIhw,OIhw->NOhw`. A capital letter in all three is a
    batch axis of both (groups: `NGIhw,GOIhw->NGOhw`, depthwise: `NGhw,Ghw->NGhw`), one that the result lacks is summed
    over, the others are free. Small letters are windows: element p of the result sums `x[(p*stride + k*dilation - low)
    / x_dilation] * w[k]` over k, where x is 0 between and outside its elements. `strides`, `padding` (low, high;
    negative crops), `dilation` and `x_dilation` go by the windows in alphabetical order; () is all ones, or zeros.
    Dtypes as `Dot`. Errors: TD0160 (dtypes), TD0163 (spec), TD0164 (sizes), TD0165 (numbers), TD0166 (window too
    large).
    """

    x: Value
    w: Value
    spec: str
    strides: tuple[int, ...] = ()
    padding: tuple[tuple[Dim, Dim], ...] = ()
    dilation: tuple[int, ...] = ()
    x_dilation: tuple[int, ...] = ()
    accumulate: DType | None = None

    linear = (0, 1)

    @property
    def letters(self) -> ConvAxes:
        read = conv_axes(self.spec)
        if isinstance(read, str):
            raise self.refuse(f"spec {self.spec!r}: {read}", code="TD0163", error=InvalidValue)
        return read

    def result(self) -> Type:
        dtype = product_dtype(self, self.x, self.w, self.accumulate)
        letters = self.letters
        for part, v in ((letters.x, self.x), (letters.w, self.w)):
            if len(part) != v.rank:
                raise self.refuse(
                    f"spec {self.spec!r}: {part!r} has {len(part)} axes, the operand is {v.type}",
                    code="TD0164",
                    error=ShapeMismatch,
                )
        _window_numbers(self, len(letters.windows))
        x_size = dict(zip(letters.x, self.x.shape, strict=True))
        w_size = dict(zip(letters.w, self.w.shape, strict=True))
        for c in letters.x:
            if c not in letters.windows and c in w_size and x_size[c] != w_size[c]:
                raise self.refuse(
                    f"axis {c} differs: x has {x_size[c]}, w has {w_size[c]}",
                    code="TD0164",
                    error=ShapeMismatch,
                )
        size = w_size | x_size
        for i, c in enumerate(letters.windows):
            size[c] = _window_count(self, f"axis {c}", x_size[c], w_size[c], i)
        return TensorType(tuple(size[c] for c in letters.out), dtype)

    def structure(self) -> Structure | None:
        letters = self.letters
        x_size = dict(zip(letters.x, self.x.shape, strict=True))
        w_size = dict(zip(letters.w, self.w.shape, strict=True))
        axes = [Axis(f"a{i}", extent) for i, extent in enumerate(self.shape)]
        position = {c: axis.position for c, axis in zip(letters.out, axes, strict=True)}
        for c in letters.contracted:
            axes.append(Axis(f"a{len(axes)}", x_size[c], "reduce"))
            position[c] = axes[-1].position
        x_at: dict[str, Dim] = dict(position)
        w_at: dict[str, Dim] = dict(position)
        divisor = dict.fromkeys(letters.x, 1)
        for i, c in enumerate(letters.windows):
            axes.append(Axis(f"a{len(axes)}", w_size[c], "reduce"))
            w_at[c] = axes[-1].position
            x_at[c] = position[c] * self.strides[i] + w_at[c] * self.dilation[i] - self.padding[i][0]
            divisor[c] = self.x_dilation[i]
        reads = (
            window_read(
                0,
                tuple(x_at[c] for c in letters.x),
                tuple(divisor.values()),
                self.padding,
                _zero(self.x.dtype),
            ),
            Read(1, tuple(w_at[c] for c in letters.w)),
        )
        body = product_body(self.x.dtype, self.w.dtype, self.dtype)
        return Structure(tuple(axes), reads, body, sum_monoid(self.dtype), self.dtype)

    def evaluate(self, x: Array, w: Array) -> Array:
        kept = accumulator(self.dtype).numpy
        x, w = x.astype(kept), w.astype(kept)
        letters = self.letters
        labels = list(letters.x)
        for i, c in enumerate(letters.windows):
            axis = labels.index(c)
            count, window = _int(self.shape[letters.out.index(c)]), w.shape[letters.w.index(c)]
            low = _int(self.padding[i][0])
            x = window_array(
                x,
                axis,
                count,
                window,
                self.strides[i],
                low,
                self.dilation[i],
                self.x_dilation[i],
                kept.type(0),
            )
            labels[axis : axis + 1] = [c, "k" + c]
        w_labels = ["k" + c if c in letters.windows else c for c in letters.w]
        number = {label: i for i, label in enumerate(dict.fromkeys((*labels, *w_labels)))}
        found = np.einsum(
            x, [number[c] for c in labels], w, [number[c] for c in w_labels], [number[c] for c in letters.out],
            optimize=self.dtype is not bool_,
        )  # fmt: skip
        return np.asarray(found).astype(self.dtype.numpy)

    def requires(self) -> tuple[Promise, ...]:
        letters = self.letters
        return tuple((0, self.shape[letters.out.index(c)]) for c in letters.windows)

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        letters = self.letters
        x_size = dict(zip(letters.x, self.x.shape, strict=True))
        w_size = dict(zip(letters.w, self.w.shape, strict=True))
        size = dict(zip(letters.out, self.shape, strict=True))
        padding: list[tuple[Dim, Dim]] = []
        for i, c in enumerate(letters.windows):
            low = self.padding[i][0]
            # The last position of a window, of an element of x, and of an element within the window.
            window = (size[c] - 1) * self.strides[i]
            element = (x_size[c] - 1) * self.x_dilation[i]
            offset = (w_size[c] - 1) * self.dilation[i]
            if operand == 0:
                padding.append((offset - low, element - window + low))
            else:
                padding.append((low, offset + window - element - low))
        if operand == 0:
            axes = tuple(i for i, c in enumerate(letters.w) if c in letters.windows and w_size[c] != 1)
            w = converted(Reverse(self.w, axes) if axes else self.w, cotangent.dtype)
            spec = f"{letters.out},{letters.w}->{letters.x}"
            found = Conv(cotangent, w, spec, self.x_dilation, tuple(padding), self.dilation, self.strides)
        else:
            x = converted(self.x, cotangent.dtype)
            spec = f"{letters.x},{letters.out}->{letters.w}"
            found = Conv(x, cotangent, spec, self.dilation, tuple(padding), self.strides, self.x_dilation)
        return converted(found, self.operands[operand].dtype)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        letters = self.letters
        free = next(c for c in "BDEFHJKLMPQRSTUVWXYZACGINO" if c not in self.spec)
        x, w = (free + part if here else part for part, here in zip((letters.x, letters.w), batched, strict=True))
        return replace(self, x=operands[0], w=operands[1], spec=f"{x},{w}->{free}{letters.out}")


def conv(
    x: Value,
    w: Value,
    strides: tuple[int, ...] = (),
    padding: tuple[tuple[Dim, Dim], ...] = (),
    dilation: tuple[int, ...] = (),
    groups: int = 1,
    layout: str = "NCHW,OIHW->NCHW",
    x_dilation: tuple[int, ...] = (),
    accumulate: DType | None = None,
) -> Value:
    """`Conv` from the layouts people write: N and C of x and of the result, O and I of w, anything else a window.

    `strides` and the others go by the windows in the order in which x has them. With groups the channels of x, and the
    result's, are cut into that many blocks: only the shapes are told so, nothing moves. Errors: TD0163 (layout),
    TD0164 (groups), and those of `Conv`.
    """
    parts = layout.replace("->", ",").split(",")
    spatial = [c for c in parts[0] if c not in "NC"]
    names = [c.lower() for c in spatial]
    if names != sorted(set(names)) or not all(map(str.isalpha, names)):
        names = list("abcdefghijklm"[: len(spatial)])
    small = dict(zip(spatial, names, strict=True))
    wanted = [sorted(("N", "C", *spatial)), sorted(("O", "I", *spatial)), sorted(("N", "C", *spatial))]
    if [sorted(part) for part in parts] != wanted or "->" not in layout:
        raise InvalidValue(
            f'conv: layout {layout!r} should read like "NCHW,OIHW->NCHW"',
            code="TD0163",
            location=current_origin().location,
        )
    given, weights, result = parts
    channels, features = x.shape[given.index("C")], w.shape[weights.index("O")]
    x_letters = "".join(small.get(c, "I" if c == "C" else c) for c in given)
    w_letters = "".join(small.get(c, c) for c in weights)
    out_letters = "".join(small.get(c, "O" if c == "C" else c) for c in result)
    if groups == 1:
        spec = f"{x_letters},{w_letters}->{out_letters}"
        return Conv(x, w, spec, strides, padding, dilation, x_dilation, accumulate)
    inner, outer = exact_div(channels, groups), exact_div(features, groups)
    if inner is None or outer is None:
        raise ShapeMismatch(
            f"conv: {groups} groups do not divide {channels} channels into {features}",
            code="TD0164",
            location=current_origin().location,
        )
    i, o, c = given.index("C"), weights.index("O"), result.index("C")
    x = Reshape(x, (*x.shape[:i], groups, inner, *x.shape[i + 1 :]))
    w = Reshape(w, (*w.shape[:o], groups, outer, *w.shape[o + 1 :]))
    spec = f"{x_letters.replace('I', 'GI')},{w_letters.replace('O', 'GO')}->{out_letters.replace('O', 'GO')}"
    found = Conv(x, w, spec, strides, padding, dilation, x_dilation, accumulate)
    return Reshape(found, (*found.shape[:c], features, *found.shape[c + 2 :]))


def _zero(dtype: DType) -> Const:
    return Const(zero(dtype), dtype)


def window_read(operand: int, index: tuple[Dim, ...], divisors: Sequence[int], padding: Padding, fill: Const) -> Read:
    """A read that slides: with a fill only where a window can leave the operand or fall between its elements."""
    whole = all(divisor == 1 for divisor in divisors)
    inside = whole and all(known_le(low, 0) and known_le(high, 0) for low, high in padding)
    return Read(operand, index, () if whole else tuple(divisors), None if inside else fill)


WindowKind = Literal["sum", "max", "min", "prod"]


def windows_of(op: WindowOp, shape: Shape) -> Shape:
    """The shape of the windows over an operand of `shape`, after the attributes are checked and completed."""
    if len(op.window) != len(shape) or any(k < 1 for k in op.window):
        raise op.refuse(
            f"window {op.window} needs one positive size for each of {len(shape)} axes",
            code="TD0165",
            error=InvalidValue,
        )
    _window_numbers(op, len(shape))
    return tuple(_window_count(op, f"axis {i}", n, op.window[i], i) for i, n in enumerate(shape))


def _window_axes(op: WindowOp, shape: Shape) -> tuple[list[Axis], tuple[Dim, ...], Expr]:
    """Parallel axes over `shape` and the window's; the offset along each axis; that offset counted row-major."""
    axes = [Axis(f"a{i}", extent) for i, extent in enumerate(shape)]
    offsets: list[Dim] = []
    flat: Dim = 0
    for k in op.window:
        if k > 1:
            axes.append(Axis(f"a{len(axes)}", k, "reduce"))
        offsets.append(axes[-1].position if k > 1 else 0)
        flat = flat * k + offsets[-1]
    return axes, tuple(offsets), Cast(Index(flat), i32)


def _sliding(op: WindowOp, axes: Sequence[Axis], offsets: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """Where window number `axes` reads x, before division by x_dilation."""
    here = enumerate(offsets)
    return tuple(axes[i].position * op.strides[i] + k * op.dilation[i] - op.padding[i][0] for i, k in here)


def _window_arrays(op: WindowOp, x: Array, shape: Shape, fill: object) -> Array:
    """All windows of x: the result's axes, then the window's."""
    rank = x.ndim
    for i in reversed(range(rank)):
        x = window_array(
            x, i, _int(shape[i]), op.window[i], op.strides[i], _int(op.padding[i][0]), op.dilation[i],
            op.x_dilation[i], fill,
        )  # fmt: skip
    return x.transpose(*range(0, 2 * rank, 2), *range(1, 2 * rank, 2))


def _adjoint_padding(op: WindowOp, shape: Shape, windows: Shape) -> Padding:
    """The padding with which windows over the windows' result see what each element of `shape` took part in."""
    padding: list[tuple[Dim, Dim]] = []
    for i, k in enumerate(op.window):
        low = op.padding[i][0]
        last = (shape[i] - 1) * op.x_dilation[i] - (windows[i] - 1) * op.strides[i]
        padding.append(((k - 1) * op.dilation[i] - low, last + low))
    return tuple(padding)


def _batched(op: WindowOp, **changes: object) -> Value:
    """The op with a leading axis that the windows leave alone."""
    ones = {name: (1, *getattr(op, name)) for name in ("window", "strides", "dilation", "x_dilation")}
    return replace(op, **ones, padding=((0, 0), *op.padding), **changes)


def _int(dim: Dim) -> int:
    """A size that the evaluator has made a number."""
    assert type(dim) is int
    return dim


class ReduceWindow(Op):
    """Combine each window of `x` by `kind`: sum, max, min or prod. Padding and gaps count as the identity.

    All the axes of x are windowed: 1 in `window` leaves one alone. Element p of the result combines the elements
    `(p*stride + k*dilation - low) / x_dilation` of x for k in the window; () is all ones, or zeros of padding. Errors:
    TD0165 (numbers), TD0166 (window too large), TD0167 (kind).
    """

    x: Value
    kind: WindowKind
    window: tuple[int, ...]
    strides: tuple[int, ...] = ()
    padding: tuple[tuple[Dim, Dim], ...] = ()
    dilation: tuple[int, ...] = ()
    x_dilation: tuple[int, ...] = ()

    def result(self) -> Type:
        if self.kind not in ("sum", "max", "min", "prod"):
            raise self.refuse(f"kind {self.kind!r} is none of sum, max, min, prod", code="TD0167", error=InvalidValue)
        if self.x.dtype not in (NUMBERS if self.kind in ("sum", "prod") else ORDERED):
            raise self.refuse(f"{self.x.dtype} is not accepted", code="TD0114", error=TypeMismatch)
        return TensorType(windows_of(self, self.x.shape), self.x.dtype)

    @property
    def linear(self) -> tuple[int, ...]:  # type: ignore[override]  # only sums are linear
        return (0,) if self.kind == "sum" else ()

    def requires(self) -> tuple[Promise, ...]:
        return tuple((0, size) for size in self.shape)

    def monoid(self) -> Monoid:
        makers = {"sum": sum_monoid, "max": max_monoid, "min": min_monoid, "prod": prod_monoid}
        return makers[self.kind](self.x.dtype)

    def identity(self) -> Const:
        """What padding counts as, in the operand's dtype."""
        return Const(self.monoid().identity[0].value, self.x.dtype)

    def structure(self) -> Structure | None:
        axes, offsets, _ = _window_axes(self, self.shape)
        read = window_read(0, _sliding(self, axes, offsets), self.x_dilation, self.padding, self.identity())
        return Structure(tuple(axes), (read,), (element(0, self.x.dtype),), self.monoid(), self.dtype)

    def evaluate(self, x: Array) -> Array:
        kept = accumulator(self.dtype).numpy
        windows = _window_arrays(self, x.astype(kept), self.shape, self.identity().value)
        axes = tuple(range(x.ndim, 2 * x.ndim))
        match self.kind:
            case "sum":
                found = np.add.reduce(windows, axis=axes, dtype=kept)
            case "prod":
                found = np.multiply.reduce(windows, axis=axes, dtype=kept)
            case "max":
                found = np.maximum.reduce(windows, axis=axes)
            case "min":
                found = np.minimum.reduce(windows, axis=axes)
        return np.asarray(found).astype(self.dtype.numpy)

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        padding = _adjoint_padding(self, self.x.shape, self.shape)
        return ReduceWindow(cotangent, "sum", self.window, self.x_dilation, padding, self.dilation, self.strides)

    def jvp(self, tangents: tuple[Value | None, ...]) -> Tangent:
        (tangent,) = tangents
        if tangent is None:
            return None
        if self.kind == "sum":
            return replace(self, x=tangent)
        numbers = (self.window, self.strides, self.padding, self.dilation, self.x_dilation)
        if self.kind in ("max", "min"):
            return TakeWindow(tangent, ArgWindow(self.x, self.kind == "max", *numbers), *numbers)
        return Prod(self._windows(self.x, 1), (self.rank,)).jvp((self._windows(tangent, 0),))

    def _windows(self, x: Value, fill: int) -> Value:
        """The windows themselves, each laid out along a new last axis."""
        # As far behind the last window as a whole stride reaches: then every slice has as many elements as windows.
        low = tuple(pad[0] for pad in self.padding)
        high = tuple(pad[1] + step - 1 for pad, step in zip(self.padding, self.strides, strict=True))
        value = Full(fill, TensorType((), x.dtype))
        padded = Pad(x, value, low, high, tuple(gap - 1 for gap in self.x_dilation))
        reach = tuple(n * step for n, step in zip(self.shape, self.strides, strict=True))
        slices: list[Value] = []
        for offset in np.ndindex(self.window):
            start = tuple(k * dilation for k, dilation in zip(offset, self.dilation, strict=True))
            stop = tuple(a + n for a, n in zip(start, reach, strict=True))
            slices.append(Reshape(Slice(padded, start, stop, self.strides), (*self.shape, 1)))
        return Concatenate(tuple(slices), self.rank)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        return _batched(self, x=operands[0])


class ArgWindow(Op):
    """Where in each window of `x` its extreme stands: the offset in the window, row-major, as i32.

    The first one, and the first NaN, wins; padding counts as the least (or greatest) value. Windows as `ReduceWindow`.
    """

    x: Value
    largest: bool
    window: tuple[int, ...]
    strides: tuple[int, ...] = ()
    padding: tuple[tuple[Dim, Dim], ...] = ()
    dilation: tuple[int, ...] = ()
    x_dilation: tuple[int, ...] = ()

    flat = True

    def result(self) -> Type:
        if self.x.dtype not in ORDERED:
            raise self.refuse(f"{self.x.dtype} is not accepted", code="TD0114", error=TypeMismatch)
        return TensorType(windows_of(self, self.x.shape), i32)

    def fill(self) -> Const:
        dtype = self.x.dtype
        return Const(lowest(dtype) if self.largest else highest(dtype), dtype)

    def structure(self) -> Structure | None:
        axes, offsets, flat = _window_axes(self, self.shape)
        read = window_read(0, _sliding(self, axes, offsets), self.x_dilation, self.padding, self.fill())
        body = (element(0, self.x.dtype), flat)
        return Structure(tuple(axes), (read,), body, arg_monoid(self.x.dtype, i32, self.largest), i32)

    def evaluate(self, x: Array) -> Array:
        windows = _window_arrays(self, x.astype(accumulator(self.x.dtype).numpy), self.shape, self.fill().value)
        flat = windows.reshape(*windows.shape[: x.ndim], math.prod(self.window))
        return np.asarray((np.argmax if self.largest else np.argmin)(flat, axis=-1), np.int32)

    def requires(self) -> tuple[Promise, ...]:
        return tuple((0, size) for size in self.shape)

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        return _batched(self, x=operands[0])


class TakeWindow(Op):
    """The element of each window of `x` that stands at offset `choice` (see `ArgWindow`); 0 where that is padding, or
    outside the window.

    Linear in x: the tangent of max pooling. Windows as `ReduceWindow`. Errors: TD0169 (choice), and theirs.
    """

    x: Value
    choice: Value
    window: tuple[int, ...]
    strides: tuple[int, ...] = ()
    padding: tuple[tuple[Dim, Dim], ...] = ()
    dilation: tuple[int, ...] = ()
    x_dilation: tuple[int, ...] = ()

    linear = (0,)

    def result(self) -> Type:
        shape = windows_of(self, self.x.shape)
        _choice(self, self.x, self.choice, shape)
        return TensorType(shape, self.x.dtype)

    def structure(self) -> Structure | None:
        axes, offsets, flat = _window_axes(self, self.shape)
        zero = _zero(self.dtype)
        here = tuple(axis.position for axis in axes[: self.rank])
        reads = (
            window_read(0, _sliding(self, axes, offsets), self.x_dilation, self.padding, zero),
            Read(1, here),
        )
        body = Select(Binary("eq", element(1, i32), flat), element(0, self.dtype), zero)
        return Structure(tuple(axes), reads, (body,), sum_monoid(self.dtype), self.dtype)

    def evaluate(self, x: Array, choice: Array) -> Array:
        windows = _window_arrays(self, x, self.shape, 0)
        flat = windows.reshape(*windows.shape[: x.ndim], math.prod(self.window))
        inside = (choice >= 0) & (choice < math.prod(self.window))
        taken = np.take_along_axis(flat, np.where(inside, choice, 0)[..., None].astype(np.int64), axis=-1)[..., 0]
        return np.where(inside, taken, np.zeros((), x.dtype))

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        numbers = (self.window, self.strides, self.padding, self.dilation, self.x_dilation)
        return SpreadWindow(cotangent, self.choice, self.x.shape, *numbers) if operand == 0 else None

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        x, choice = _both(operands, batched)
        return _batched(self, x=x, choice=choice)


class SpreadWindow(Op):
    """The transpose of `TakeWindow`: each element of `x` is added where its choice was read, to zeros of shape `to`."""

    x: Value
    choice: Value
    to: Shape
    window: tuple[int, ...]
    strides: tuple[int, ...] = ()
    padding: tuple[tuple[Dim, Dim], ...] = ()
    dilation: tuple[int, ...] = ()
    x_dilation: tuple[int, ...] = ()

    linear = (0,)

    def result(self) -> Type:
        shape = windows_of(self, self.to)
        _choice(self, self.x, self.choice, shape)
        if self.x.shape != shape:
            raise self.refuse(f"x is {self.x.type}, its shape must be {shape}", code="TD0169", error=ShapeMismatch)
        return TensorType(self.to, self.x.dtype)

    def structure(self) -> Structure | None:
        # Seen from an element of the result: window p reads it at offset k where i*x_dilation + low = p*stride +
        # k*dilation.
        axes, offsets, flat = _window_axes(self, self.shape)
        zero = _zero(self.dtype)
        index = tuple(
            axes[i].position * self.x_dilation[i] + self.padding[i][0] - k * self.dilation[i]
            for i, k in enumerate(offsets)
        )
        reads = (Read(0, index, self.strides, zero), Read(1, index, self.strides, Const(-1, i32)))
        body = Select(Binary("eq", element(1, i32), flat), element(0, self.dtype), zero)
        return Structure(tuple(axes), reads, (body,), sum_monoid(self.dtype), self.dtype)

    def evaluate(self, x: Array, choice: Array) -> Array:
        shape = tuple(map(_int, self.to))
        inside = (choice >= 0) & (choice < math.prod(self.window))
        offset = np.unravel_index(np.where(inside, choice, 0), self.window) if shape else ()
        flat = np.zeros(x.shape, np.int64)
        for i, here in enumerate(np.indices(x.shape)):
            where = here * self.strides[i] + offset[i] * self.dilation[i] - _int(self.padding[i][0])
            inside &= (where % self.x_dilation[i] == 0) & (where >= 0)
            where = where // self.x_dilation[i]
            inside &= where < shape[i]
            flat = flat * shape[i] + where
        kept = accumulator(self.dtype).numpy
        found = np.zeros(math.prod(shape), kept)
        np.add.at(found, flat[inside], x[inside].astype(kept))
        return found.reshape(shape).astype(self.dtype.numpy)

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        numbers = (self.window, self.strides, self.padding, self.dilation, self.x_dilation)
        return TakeWindow(cotangent, self.choice, *numbers) if operand == 0 else None

    def batch(self, operands: tuple[Value, ...], batched: tuple[bool, ...]) -> Value | None:
        x, choice = _both(operands, batched)
        return _batched(self, x=x, choice=choice, to=(x.shape[0], *self.to))


def _both(operands: tuple[Value, ...], batched: tuple[bool, ...]) -> tuple[Value, ...]:
    """The operands, those without the new leading axis repeated along it."""
    count = next(x.shape[0] for x, here in zip(operands, batched, strict=True) if here)
    return tuple(x if here else stacked(x, count) for x, here in zip(operands, batched, strict=True))


def _choice(op: Op, x: Value, choice: Value, shape: Shape) -> None:
    if x.dtype not in ARITHMETIC:
        raise op.refuse(f"{x.dtype} is not accepted", code="TD0114", error=TypeMismatch)
    if choice.type != TensorType(shape, i32):
        raise op.refuse(
            f"choice is {choice.type}, {TensorType(shape, i32)} is needed", code="TD0169", error=ShapeMismatch
        )


WindowOp = ReduceWindow | ArgWindow | TakeWindow | SpreadWindow
