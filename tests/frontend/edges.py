"""Numbers at the edges of every dtype, and how two results of the same ufunc may differ."""

from __future__ import annotations

from typing import Any

import numpy as np

DTYPES = ("bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")


def edges(dtype: str) -> np.ndarray:
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return np.array([False, True])
    if kind.kind == "c":
        parts = np.array([-2.5, -1, -0.0, 0.0, 0.5, 1, 3, np.inf, np.nan])
        return (parts[:, None] + 1j * parts[None, :]).ravel().astype(kind)
    if kind.kind == "f":
        limits = np.finfo(kind)
        numbers = [
            -np.inf, -limits.max, -7.5, -3, -2.5, -1, -0.5, -limits.tiny, -limits.smallest_subnormal, -0.0, 0.0,
            limits.smallest_subnormal, 0.3, 0.5, 1, 2, 2.5, 3, 7.75, 100, limits.max, np.inf, np.nan,
        ]  # fmt: skip
        return np.array(numbers, kind)
    low, high = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    middle = [0, 1, 2, 3, 7, 8, 63, 64, high // 2, high // 2 + 1, high - 1, high]
    below = [] if low == 0 else [low, low + 1, low // 2, -7, -3, -1]
    return np.array([*below, *(n for n in middle if n <= high)], kind)


# The relative error allowed by bytes of the float: two libraries of functions, and f16 by way of f32.
_NEAR = {2: 2e-3, 4: 2e-6, 8: 1e-13}


def difference(ufunc: np.ufunc, got: Any, expected: Any) -> str | None:
    """How a result differs from NumPy's: in dtype, shape, value, or the sign of a zero; None where it does not."""
    a, b = np.asarray(got), np.asarray(expected)
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return f"{a.dtype}{a.shape}, NumPy has {b.dtype}{b.shape}"
    if b.dtype.kind not in "fc":
        wrong = a != b
    elif b.dtype.kind == "f":
        wrong = ~np.isclose(a, b, rtol=_NEAR[b.itemsize], atol=0, equal_nan=True)
        # Of two zeros NumPy itself takes the first or the second, by dtype.
        free = (a == 0) if ufunc in (np.maximum, np.minimum, np.fmax, np.fmin) else np.isnan(a)
        wrong |= (np.signbit(a) != np.signbit(b)) & ~free & ~np.isnan(a)
    elif ufunc in (np.power, np.float_power):
        # NumPy multiplies small powers out, with infinities where others have NaN, and is coarse in large ones.
        tame = np.isfinite(b) & (abs(b) < 1e15) & (abs(b) > 1e-15)
        wrong = tame & ~np.isclose(a, b, rtol=2e-2 if b.itemsize == 8 else 1e-9, atol=0)
    else:
        near = {"rtol": 1e-5 if b.itemsize == 8 else 1e-12, "atol": 0, "equal_nan": True}
        parts = np.isclose(a.real, b.real, **near) & np.isclose(a.imag, b.imag, **near)
        # exp(inf + 0i) - 1 has no imaginary part in C99, and NaN in NumPy.
        free = np.isinf(b.real) & np.isnan(b.imag) if ufunc is np.expm1 else False
        wrong = ~(parts | np.isclose(a, b, **near) | free)
    if not wrong.any():
        return None
    place = tuple(np.argwhere(wrong)[0])
    return f"{int(wrong.sum())} values, the first at {place}: {a[place]!r}, NumPy has {b[place]!r}"
