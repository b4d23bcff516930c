"""Images of another size: resampled, or with their channels as pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.dims import exact_div, show
from ...ir.errors import ShapeMismatch
from ...ir.value import Mul, Value
from ..arrays import broadcast, lift, permute, reshape, static_int, typed
from ..eager import public
from ..functions.shaping import taken
from ..trace import here
from ..tracer import Tracer, unwrap, wrap
from .floats import floats, wrong

_LINEAR = ("linear", "bilinear", "trilinear")


@public
def interpolate(
    x: Any, size: Any = None, *, scale: Any = None, mode: str = "nearest", align_corners: bool = False
) -> Tracer:
    """Resampled images: [N, C, *n] gives [N, C, *size], as `torch.nn.functional.interpolate`.

    `size` is a number or one per axis; or `scale`, the quotient of new and old size, is. "nearest" reads position
    floor(i n / m), of every dtype; "linear" (also "bilinear", "trilinear") weighs two neighbours per axis, whose
    positions are (i + 1/2) n / m - 1/2, or with `align_corners` i (n - 1) / (m - 1); integers give float64.

    TD0830 for another mode, or where neither or both of size and scale are given; TD0201 for sizes with names.
    """
    if mode != "nearest" and mode not in _LINEAR:
        raise wrong(f"mode {mode!r} is none of nearest, linear, bilinear, trilinear")
    value = unwrap(lift(x)) if mode == "nearest" else floats(x)[0]
    rank = value.rank - 2
    if rank < 1:
        raise ShapeMismatch(
            f"interpolate: {value.type} has no axis after N and C",
            code="TD0832",
            location=here(),
            edit="an array [N, C, H, W], for example",
        )
    if (size is None) == (scale is None):
        raise wrong("interpolate: give either size or scale")
    sizes = [static_int(n, "a size that is resampled") for n in value.shape[2:]]
    given = size if size is not None else scale
    entries = list(given) if hasattr(given, "__iter__") else [given] * rank
    if len(entries) != rank:
        raise wrong(f"interpolate: {len(entries)} sizes for {rank} axes")
    wanted = [
        static_int(each, "size") if size is not None else int(n * float(each))
        for n, each in zip(sizes, entries, strict=True)
    ]
    for axis, (n, m) in enumerate(zip(sizes, wanted, strict=True), 2):
        if mode == "nearest":
            value = taken(value, np.arange(m) * n // m, axis)
        elif n != m:
            value = _between(value, axis, n, m, align_corners)
    return wrap(value)


def _between(value: Value, axis: int, n: int, m: int, corners: bool) -> Value:
    """The axis read at m places between its n elements."""
    if corners:
        places = np.arange(m) * ((n - 1) / max(m - 1, 1))
    else:
        places = np.maximum((np.arange(m) + 0.5) * n / m - 0.5, 0)
    low = np.minimum(places.astype(np.int64), n - 1)
    shape = tuple(m if i == axis else 1 for i in range(value.rank))
    part = typed((places - low).reshape(shape), value.dtype)
    before, after = taken(value, low, axis), taken(value, np.minimum(low + 1, n - 1), axis)
    return before + Mul(after - before, broadcast(part, before.shape))


@public
def pixel_shuffle(x: Any, factor: int) -> Tracer:
    """Channels as pixels: [N, C r^2, H, W] gives [N, C, H r, W r], as `torch.nn.functional.pixel_shuffle`.

    Every dtype. TD0832 where r^2 does not divide the channels (Shi et al. 2016).
    """
    value, r = _image(x, "pixel_shuffle"), static_int(factor, "factor")
    n, channels, height, width = value.shape
    share = exact_div(channels, r * r)
    if share is None:
        raise ShapeMismatch(
            f"pixel_shuffle: {show(channels)} channels are no multiple of {r * r}",
            code="TD0832",
            location=here(),
            edit="a number of channels that r * r divides",
        )
    split = reshape(value, (n, share, r, r, height, width))
    return wrap(reshape(permute(split, (0, 1, 4, 2, 5, 3)), (n, share, height * r, width * r)))


@public
def pixel_unshuffle(x: Any, factor: int) -> Tracer:
    """Pixels as channels: [N, C, H r, W r] gives [N, C r^2, H, W], what `pixel_shuffle` came from.

    Every dtype. TD0832 where r does not divide the height and the width.
    """
    value, r = _image(x, "pixel_unshuffle"), static_int(factor, "factor")
    n, channels, height, width = value.shape
    rows, columns = exact_div(height, r), exact_div(width, r)
    if rows is None or columns is None:
        raise ShapeMismatch(
            f"pixel_unshuffle: {r} does not divide {show(height)} and {show(width)}",
            code="TD0832",
            location=here(),
            edit="pad it to a multiple, by np.pad",
        )
    split = reshape(value, (n, channels, rows, r, columns, r))
    return wrap(reshape(permute(split, (0, 1, 3, 5, 2, 4)), (n, channels * r * r, rows, columns)))


def _image(x: Any, name: str) -> Value:
    value = unwrap(lift(x))
    if value.rank != 4:
        raise ShapeMismatch(
            f"{name}: {value.type} is not [N, C, H, W]",
            code="TD0832",
            location=here(),
            edit="x[None] puts an axis before the others",
        )
    return value
