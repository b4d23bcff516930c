"""Fourier transforms: a product with the matrix of roots for short axes, Cooley and Tukey's split for composite ones.

A length n = a b is a transform of length a, a product with the roots of n, and a transform of length b, so the work is
n times the sum of the factors. A prime that is too long for its matrix is a convolution with a chirp, by transforms of
a power of two (Bluestein 1970). The roots are computed in double precision from exponents reduced exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from ...ir.dtypes import DType, c128, complex_of, f64, real_of
from ...ir.errors import InvalidValue, TypeMismatch
from ...ir.ops import elementwise as e
from ...ir.ops.movement import Concatenate, Pad, Reverse
from ...ir.types import TensorType
from ...ir.value import Array, Constant, Full, Mul, Value
from ..arrays import axis_of, broadcast, convert, entries, lift, permute, reshape, static_int
from ..trace import here
from ..tracer import Tracer, unwrap, wrap
from .linear import contract
from .shaping import cut
from .ufuncs import refuse_out

_MATRIX: Final = 32  # the longest transform by its matrix, if it can be split
_PRIME: Final = 64  # the longest by its matrix if it cannot: Bluestein's convolution costs that of more than 2 n
_SWAPPED: Final = {None: "forward", "backward": "forward", "ortho": "ortho", "forward": "backward"}


def _wrong(message: str, edit: str) -> InvalidValue:
    return InvalidValue(message, code="TD0822", location=here(), edit=edit)


def _no_norm(norm: Any) -> InvalidValue:
    return _wrong(f"invalid norm value {norm!r}", "backward, ortho or forward")


# --- one axis -----------------------------------------------------------------------------------------------------


def _roots(exponents: Array, n: int, kind: DType) -> Array:
    """exp(2 pi i k / n) for whole k: of the remainder of k, so that no precision is lost on turns."""
    turns = np.mod(exponents, n) / n
    # cos and sin of quarter turns are exact that way: 0, 1 and -1 have no rounding errors of pi.
    octant, rest = np.divmod(8 * np.mod(exponents, n), n)
    angle = (rest / n) * (np.pi / 4)
    cosine, sine = np.cos(angle), np.sin(angle)
    diagonal = np.sqrt(0.5)
    real = np.choose(octant, [cosine, diagonal * (cosine - sine), -sine, -diagonal * (cosine + sine)] * 2)
    imag = np.choose(octant, [sine, diagonal * (cosine + sine), cosine, diagonal * (cosine - sine)] * 2)
    sign = np.where(turns >= 0.5, -1.0, 1.0)
    found: Array = (sign * (real + 1j * imag)).astype(kind.numpy)
    return found


def _divisor(n: int) -> int:
    """The largest divisor of n, other than n, that a matrix takes; the least one where all are longer; 1 of a prime."""
    short = [d for d in range(2, min(_MATRIX, n - 1) + 1) if n % d == 0]
    if short:
        return short[-1]
    return next((d for d in range(_MATRIX + 1, int(n**0.5) + 1) if n % d == 0), 1)


def _transform(x: Value, sign: int) -> Value:
    """Sums over the last axis of x[j] exp(sign 2 pi i j k / n)."""
    n = x.shape[-1]
    assert isinstance(n, int)
    if n == 1:
        return x
    divisor = _divisor(n)
    if n <= _MATRIX or (divisor == 1 and n <= _PRIME):
        places = np.arange(n)
        matrix = Constant(_roots(sign * np.outer(places, places), n, x.dtype))
        return contract(x, matrix, (), (), (x.rank - 1,), (0,))
    return _bluestein(x, n, sign) if divisor == 1 else _split(x, divisor, n // divisor, sign)


def _split(x: Value, a: int, b: int, sign: int) -> Value:
    """Position j = i b + l and frequency k = m a + q: over i to q, times the roots of l q, over l to m."""
    lead, rank = x.shape[:-1], x.rank
    swap = (*range(rank - 1), rank, rank - 1)
    across = _transform(permute(reshape(x, (*lead, a, b)), swap), sign)  # [l, q]
    roots = Constant(_roots(sign * np.outer(np.arange(b), np.arange(a)), a * b, x.dtype))
    turned = Mul(across, broadcast(roots, across.shape))
    along = _transform(permute(turned, swap), sign)  # [q, m]
    return reshape(permute(along, swap), x.shape)


def _bluestein(x: Value, n: int, sign: int) -> Value:
    """j k = (j^2 + k^2 - (k - j)^2) / 2: a product with a chirp, a convolution with its conjugate, a product again."""
    size = 1 << (2 * n - 2).bit_length()
    squares = np.arange(n, dtype=np.int64) ** 2
    chirp = _roots(sign * squares, 2 * n, c128)
    filter_ = np.zeros(size, np.complex128)
    filter_[:n] = chirp.conj()
    filter_[size - n + 1 :] = chirp.conj()[:0:-1]
    spectrum = Constant((np.fft.fft(filter_) / size).astype(x.dtype.numpy))
    weight = broadcast(Constant(chirp.astype(x.dtype.numpy)), x.shape)
    seen = _transform(_resized(Mul(x, weight), size), -1)
    found = _transform(Mul(seen, broadcast(spectrum, seen.shape)), 1)
    return Mul(cut(found, x.rank - 1, 0, n), weight)


def _resized(x: Value, n: int) -> Value:
    """The last axis cut, or filled up with zeros, to n."""
    size = static_int(x.shape[-1], "the number of points of a Fourier transform")
    if n <= size:
        return x if n == size else cut(x, x.rank - 1, 0, n)
    none = (0,) * x.rank
    return Pad(x, Full(0, TensorType((), x.dtype)), none, (*none[1:], n - size), none)


def _length(x: Value, axis: int, n: Any) -> int:
    """The number of points: `n`, or those there are."""
    count = static_int(x.shape[axis] if n is None else n, "the number of points of a Fourier transform")
    if count < 1:
        raise _wrong(f"invalid number of FFT data points ({count}) specified", "at least one point")
    return count


def _scaled(x: Value, n: int, norm: Any, inverse: bool) -> Value:
    if norm not in _SWAPPED:
        raise _no_norm(norm)
    backward = norm in (None, "backward")
    if norm != "ortho" and backward is not inverse:
        return x
    factor = 1 / np.sqrt(n) if norm == "ortho" else 1 / n
    return Mul(x, Full(float(factor), x.tensor))


def _read(a: Any) -> Value:
    """The operand in a float or complex type of at least f32."""
    x = unwrap(lift(a))
    if x.rank == 0:
        raise _wrong("a Fourier transform of a scalar", "an array, such as x[None]")
    if x.dtype.kind == "complex":
        return x
    return convert(x, f64 if not x.dtype.is_float else real_of(complex_of(x.dtype)))


def _along(x: Value, axis: int, function: Callable[[Value], Value]) -> Value:
    """`function`, which works on the last axis, on another one."""
    order = (*(i for i in range(x.rank) if i != axis), axis)
    found = function(permute(x, order))
    return permute(found, [order.index(i) for i in range(x.rank)])


def _fft(x: Value, n: int, axis: int, norm: Any, inverse: bool) -> Value:
    def function(x: Value) -> Value:
        given = _resized(x, n)
        found = _transform(convert(given, complex_of(given.dtype)), 1 if inverse else -1)
        return _scaled(found, n, norm, inverse)

    return _along(x, axis, function)


def _rfft(x: Value, n: int, axis: int, norm: Any) -> Value:
    if x.dtype.kind == "complex":
        raise TypeMismatch("rfft takes real numbers", code="TD0816", location=here(), edit="np.fft.fft(x)")
    return cut(_fft(x, n, axis, norm, False), axis, 0, n // 2 + 1)


def _irfft(x: Value, n: int, axis: int, norm: Any) -> Value:
    """The real signal of n points whose spectrum begins with x: the other half are the conjugates of this one."""

    def function(x: Value) -> Value:
        half = _resized(convert(x, complex_of(x.dtype)), n // 2 + 1)
        mirrored = Reverse(e.Conj(cut(half, x.rank - 1, 1, (n + 1) // 2)), (x.rank - 1,)) if n > 2 else None
        whole = half if mirrored is None else Concatenate((half, mirrored), x.rank - 1)
        return e.Real(_scaled(_transform(_resized(whole, n), 1), n, norm, True))

    return _along(x, axis, function)


def fft(a: Any, n: Any = None, axis: Any = -1, norm: Any = None, out: Any = None) -> Tracer:
    return _one("fft", a, n, axis, norm, out)


def ifft(a: Any, n: Any = None, axis: Any = -1, norm: Any = None, out: Any = None) -> Tracer:
    return _one("ifft", a, n, axis, norm, out)


def rfft(a: Any, n: Any = None, axis: Any = -1, norm: Any = None, out: Any = None) -> Tracer:
    return _one("rfft", a, n, axis, norm, out)


def irfft(a: Any, n: Any = None, axis: Any = -1, norm: Any = None, out: Any = None) -> Tracer:
    return _one("irfft", a, n, axis, norm, out)


def hfft(a: Any, n: Any = None, axis: Any = -1, norm: Any = None, out: Any = None) -> Tracer:
    refuse_out(out, "hfft")
    return irfft(wrap(_conjugate(unwrap(lift(a)))), n, axis, _swapped(norm))


def ihfft(a: Any, n: Any = None, axis: Any = -1, norm: Any = None, out: Any = None) -> Tracer:
    refuse_out(out, "ihfft")
    return wrap(_conjugate(unwrap(rfft(a, n, axis, _swapped(norm)))))


def _conjugate(x: Value) -> Value:
    return e.Conj(x) if x.dtype.kind == "complex" else x


def _swapped(norm: Any) -> str:
    if norm not in _SWAPPED:
        raise _no_norm(norm)
    return _SWAPPED[norm]


def _one(name: str, a: Any, n: Any, axis: Any, norm: Any, out: Any) -> Tracer:
    refuse_out(out, name)
    x = _read(a)
    number = axis_of(axis, x.rank)
    if name == "irfft":
        count = static_int(x.shape[number], "an axis") * 2 - 2 if n is None else n
        found = _irfft(x, _length(x, number, count), number, norm)
        short = unwrap(lift(a)).dtype  # of half floats NumPy gives half floats here, though not in the other transforms
        return wrap(convert(found, short) if short.is_float else found)
    count = _length(x, number, n)
    return wrap(_rfft(x, count, number, norm) if name == "rfft" else _fft(x, count, number, norm, name == "ifft"))


# --- several axes -------------------------------------------------------------------------------------------------


def _many(name: str, a: Any, s: Any, axes: Any, norm: Any, out: Any) -> Tracer:
    refuse_out(out, name)
    x = _read(a)
    s = None if s is None else entries(s, "s")
    if axes is None:
        axes = range(x.rank) if s is None else range(-len(s), 0)
    numbers = [axis_of(axis, x.rank) for axis in entries(axes, "axes")]
    if s is not None and len(s) != len(numbers):
        raise _wrong(f"{len(s)} sizes for {len(numbers)} axes", "as many entries of s as of axes")
    sizes = [None] * len(numbers) if s is None else [None if size == -1 else size for size in s]
    if not numbers:
        return wrap(x)
    steps = list(zip(numbers, sizes, strict=True))
    *others, (last, size) = steps
    if name.startswith("rfft"):
        x = _rfft(x, _length(x, last, size), last, norm)
    elif not name.startswith("irfft"):
        others = steps
    for axis, count in reversed(others):
        x = _fft(x, _length(x, axis, count), axis, norm, name.startswith("i"))
    if name.startswith("irfft"):
        count = static_int(x.shape[last], "an axis") * 2 - 2 if size is None else size
        x = _irfft(x, _length(x, last, count), last, norm)
    return wrap(x)


def _plane(name: str) -> Callable[..., Tracer]:
    def transform(a: Any, s: Any = None, axes: Any = (-2, -1), norm: Any = None, out: Any = None) -> Tracer:
        return _many(name, a, s, axes, norm, out)

    return transform


def _space(name: str) -> Callable[..., Tracer]:
    def transform(a: Any, s: Any = None, axes: Any = None, norm: Any = None, out: Any = None) -> Tracer:
        return _many(name, a, s, axes, norm, out)

    return transform


TABLE: Final[Mapping[Any, Callable[..., Any]]] = {
    np.fft.fft: fft,
    np.fft.fft2: _plane("fft2"),
    np.fft.fftn: _space("fftn"),
    np.fft.hfft: hfft,
    np.fft.ifft: ifft,
    np.fft.ifft2: _plane("ifft2"),
    np.fft.ifftn: _space("ifftn"),
    np.fft.ihfft: ihfft,
    np.fft.irfft: irfft,
    np.fft.irfft2: _plane("irfft2"),
    np.fft.irfftn: _space("irfftn"),
    np.fft.rfft: rfft,
    np.fft.rfft2: _plane("rfft2"),
    np.fft.rfftn: _space("rfftn"),
}
