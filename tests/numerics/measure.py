"""Functions compiled alone, and how far their results are from the truth in units in the last place."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from native import Compiled, Context

from treadle.codegen.kernels.transcendental import open_math
from treadle.codegen.llvm.emit import NO_FAILURE
from treadle.ir.dims import minimum, symbol
from treadle.ir.dtypes import DType
from treadle.ir.loops.build import Builder, load
from treadle.ir.loops.nodes import MATH_BINARY, Binary, For, Kernel, Store, Unary
from treadle.ir.target import Target

Array = np.ndarray[Any, Any]


def map_kernel(op: str, dtype: DType, width: int = 64) -> Kernel:
    """z[i] = op(x[i]) over any number of elements, in vectors of so many bytes."""
    k = Builder(f"{op}_{dtype}", dims=("N",))
    n = symbol("N")
    i = symbol("i")
    given = [k.input(name, dtype, (n,)) for name in (("x", "y") if op in (*MATH_BINARY, "div") else ("x",))]
    args = [load(param, i) for param in given]
    value = Binary(op, *args) if len(args) == 2 else Unary(op, args[0])
    z = k.output("z", value.dtype, (n,))
    lanes = max(width // dtype.bytes, 1)
    first = symbol("b")
    body = (Store(z.name, (i,), value),)
    rest = For("i", first, minimum(first + lanes, n), 1, "vector", body, lanes)
    k.emit(For("b", 0, n, lanes, "serial", (rest,)))
    return k.finish()


class Native:
    """One function as machine code."""

    def __init__(self, op: str, dtype: DType, target: Target) -> None:
        self.kernel = open_math(map_kernel(op, dtype), target)
        self.dtype = self.kernel.params[-1].dtype
        self.compiled = Compiled([self.kernel], target)
        pointers = [ctypes.c_void_p] * len(self.kernel.params)
        function = ctypes.CFUNCTYPE(None, *pointers, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)
        self.function = function(self.compiled.loaded.address(self.kernel.name))
        self.context = Context(1, 1, None, None)
        self.failure = ctypes.c_int64(NO_FAILURE)

    def __call__(self, *args: Array, out: Array | None = None) -> Array:
        args = tuple([np.ascontiguousarray(a) for a in args])
        if out is None:
            out = np.empty(args[0].shape, self.dtype.numpy)
        pointers = [a.ctypes.data for a in (*args, out)]
        self.function(*pointers, out.size, ctypes.addressof(self.context), ctypes.addressof(self.failure))
        return out


@functools.cache
def native(op: str, dtype: DType, target: Target) -> Native:
    return Native(op, dtype, target)


def ulps(found: Array, exact: Array, floor: float = 0.0) -> Array:
    """|found - exact| in units in the last place of `found`'s format at `exact`, which has more digits, or at the
    floor if that is larger. Equal infinities, NaN for NaN, and 0 for what rounds to it count as 0; a wrong one of them
    as infinity."""
    dtype = found.dtype
    info = np.finfo(dtype)
    wide = exact.dtype
    with np.errstate(all="ignore"):
        near = exact.astype(dtype)
        size = np.abs(exact)
        exponent = np.frexp(np.where(np.isfinite(size), np.maximum(size, floor), 1))[1]
        exponent = np.maximum(exponent, info.minexp + 1) - info.nmant - 1
        error = np.abs(found.astype(wide) - exact) / np.ldexp(np.ones((), wide), exponent)
        error = np.where(np.isnan(exact), np.where(np.isnan(found), 0, np.inf), error)
        # Infinity stands for one step beyond the largest number.
        edge = np.isinf(near) | np.isinf(found)
        top = wide.type(info.max)
        step = np.ldexp(np.ones((), wide), int(info.maxexp) - info.nmant - 1)
        cut = lambda v: np.clip(v.astype(wide), -top - step, top + step)  # noqa: E731
        error = np.where(edge, np.where(near == found, 0, np.abs(cut(found) - cut(exact)) / step), error)
    return np.where(np.isnan(found) & ~np.isnan(exact), np.inf, error)


def points_f32(count: int = 1 << 20, seed: int = 0) -> Array:
    """Every exponent and sign with random fractions, and the special values."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 1 << 32, count, dtype=np.uint64).astype(np.uint32)
    return np.concatenate([bits.view(np.float32), special(np.float32)])


def points_f64(count: int = 1 << 20, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 1 << 64, count, dtype=np.uint64)
    return np.concatenate([bits.view(np.float64), special(np.float64)])


def special(dtype: Any) -> Array:
    """±0, infinities, NaN, the least and largest numbers, the neighbours of small whole numbers and halves."""
    info = np.finfo(dtype)
    whole = (np.arange(-40, 41) / 2).astype(dtype)
    edges = [info.smallest_subnormal, info.tiny, np.nextafter(info.tiny, dtype(0)), info.max, info.eps, np.inf, np.nan]
    values = np.concatenate([np.array([0.0, *edges], dtype), whole])
    with np.errstate(over="ignore"):
        values = np.concatenate([values, np.nextafter(values, dtype(np.inf)), np.nextafter(values, dtype(-np.inf))])
    return np.concatenate([values, -values])


def spread(low: float, high: float, count: int, dtype: Any, seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(low, high, count).astype(dtype)


def worst(found: Array, exact: Array, *args: Array) -> str:
    errors = ulps(found, exact)
    k = int(np.argmax(np.where(np.isnan(errors), np.inf, errors)))
    places: Sequence[Any] = [a[k] for a in args]
    return f"{float(errors[k]):.3f} ulp at {places!r}: {found[k]!r} for {exact[k]!r}"
