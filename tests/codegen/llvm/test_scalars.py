"""Every primitive on every dtype it takes, on every model target this machine runs, against the loops' own definition.

Inputs are all pairs of the values at which such operations go wrong, and random bits; the count is no multiple of the
lanes, so every case also runs its masked tail. One module holds all kernels of a dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from native import RUNNABLE, Compiled, same

from treadle.ir.dims import symbol
from treadle.ir.dtypes import (
    COMPLEX,
    FLOAT8,
    FLOATS,
    INTEGERS,
    DType,
    bf16,
    bool_,
    f16,
    f32,
    f64,
    i8,
    i32,
    i64,
    u8,
    u32,
)
from treadle.ir.errors import Unsupported
from treadle.ir.loops import scalars
from treadle.ir.loops.nodes import (
    BINARY,
    UNARY,
    Binary,
    Cast,
    Const,
    Expr,
    Fma,
    For,
    Kernel,
    Load,
    Param,
    Select,
    Store,
    Unary,
)

N = symbol("n")
P, V = symbol("p"), symbol("v")
# The fourth model differs from AVX-512 in its dot products alone.
TARGETS = [name for name in RUNNABLE if name != "avx512+vnni+bf16"]
TYPES = (bool_, *INTEGERS, *FLOATS, *COMPLEX)
RNG = np.random.default_rng(7)


def edges(dtype: DType) -> np.ndarray:
    if dtype is bool_:
        return np.array([False, True])
    if dtype.is_integer:
        info = np.iinfo(dtype.numpy)
        values = [0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 33, 63, 64, 100, info.max, info.max - 1, info.max // 2]
        values += [-1, -2, -3, -7, -8, -64, info.min, info.min + 1, info.min // 2] if info.min else []
        return np.array([value for value in values if info.min <= value <= info.max], dtype.numpy)
    if dtype.kind == "complex":
        few = [0.0, -0.0, 1.0, -2.5, 3e-39, 1e30, -1e200, 5e-324, np.inf, -np.inf, np.nan]
        with np.errstate(all="ignore"):
            return np.array([complex(a, b) for a in few for b in few]).astype(dtype.numpy)
    sizes = [
        0.0,
        1.0,
        0.5,
        1.5,
        2.5,
        3.0,
        3.7,
        0.1,
        1e-3,
        7.0,
        100.0,
        127.5,
        128.0,
        255.9,
        300.0,
        2049.0,
        65504.0,
        65519.0,
    ]
    sizes += [65520.0, 1e5, 8388607.5, 8388609.0, 2.0**24 + 2, 2.0**31, 2.0**31 - 1, 2.0**32, 5e9, 2.0**52 + 1, 2.0**53]
    sizes += [
        2.0**62,
        2.0**63,
        1.5 * 2.0**63,
        2.0**64,
        1e30,
        3.4e38,
        1e300,
        2.0**-14,
        2.0**-15,
        6e-8,
        2.9e-8,
        2.0**-126,
    ]
    sizes += [2.0**-127, 1e-40, 1.4e-45, 2.0**-1022, 5e-324, 1e-310, np.inf, np.nan]
    # What lies half way between two f16 or bf16, and just beside it.
    sizes += [
        1 + 2.0**-11,
        1 + 2.0**-11 + 2.0**-40,
        1 + 3 * 2.0**-11,
        1 + 2.0**-8,
        1 + 2.0**-8 + 2.0**-40,
        1 + 3 * 2.0**-8,
    ]
    with np.errstate(all="ignore"):
        both = np.array([*sizes, *[-size for size in sizes]]).astype(dtype.numpy)
    return np.unique(both.view(f"u{dtype.bytes}")).view(dtype.numpy)


def random_bits(dtype: DType, count: int) -> np.ndarray:
    if dtype is bool_:
        return RNG.integers(0, 2, count).astype(bool)
    return RNG.integers(0, 256, (count, dtype.bytes), dtype=np.uint8).view(dtype.numpy).reshape(-1)


def some(dtype: DType, count: int = 301) -> np.ndarray:
    return np.concatenate([edges(dtype), random_bits(dtype, count)])


def pairs(dtype: DType) -> tuple[np.ndarray, np.ndarray]:
    values = edges(dtype)
    if dtype.kind == "complex":
        values = values[RNG.permutation(len(values))[:40]]
    if len(values) > 60:
        values = values[:: max(1, len(values) // 60)]
    x, y = (part.reshape(-1) for part in np.meshgrid(values, values))
    extra = 205
    small = RNG.integers(-3, 4, extra).astype(np.float64).astype(dtype.numpy)
    x = np.concatenate([x, random_bits(dtype, extra), random_bits(dtype, extra), small])
    y = np.concatenate([y, random_bits(dtype, extra), small, random_bits(dtype, extra)])
    return x, y


def mapped(name: str, types: tuple[DType, ...], result: DType, body: Callable[..., Expr], lanes: int) -> Kernel:
    """y[i] = body(x0[i], x1[i], ...) in vectors of `lanes` with a masked tail, or one by one where that is 0."""
    params = tuple(Param(f"x{number}", dtype, (N,), "in") for number, dtype in enumerate(types))

    def at(place: object) -> Store:
        loads = [Load(param.name, (place,), param.dtype) for param in params]
        return Store("y", (place,), body(*loads))

    if lanes:
        full = N // lanes * lanes
        loops = (
            For("p", 0, full, lanes, "serial", (For("v", 0, lanes, 1, "vector", (at(P + V),), lanes),)),
            For("v", 0, N - full, 1, "vector", (at(full + V),), lanes),
        )
    else:
        loops = (For("p", 0, N, 1, "serial", (at(P),)),)
    return Kernel(name, (*params, Param("y", result, (N,), "out")), ("n",), loops)


def check(compiled: Compiled, name: str, args: tuple[np.ndarray, ...], want: np.ndarray) -> None:
    found, _ = compiled(name, {f"x{number}": arg for number, arg in enumerate(args)}, {"n": len(args[0])})
    agree = same(found["y"], np.asarray(want))
    if not agree.all():
        at = int(np.nonzero(~agree)[0][0])
        given = ", ".join(repr(arg[at]) for arg in args)
        raise AssertionError(
            f"{name}({given}) is {found['y'][at]!r}, should be {want[at]!r}; {int((~agree).sum())} differ"
        )


def takes(op: str, dtype: DType, count: int) -> bool:
    """Whether the language gives the op a meaning on that dtype: what NumPy refuses is refused here too."""
    if (
        (op == "complex" and dtype not in (f32, f64))
        or (dtype.kind == "complex" and op in ("abs", "sqrt"))
        or (op == "popcount" and dtype.kind in ("float", "complex"))
        or (op == "exponent_shift" and not dtype.is_float)
    ):
        return False
    sample = tuple(np.array([1], dtype.numpy) for _ in range(count))
    try:
        with np.errstate(all="ignore"):
            result = (scalars.unary if count == 1 else scalars.binary)(op, *sample)
    except (TypeError, KeyError, ValueError):
        return False
    expected = Unary(op, Load("x", (0,), dtype)) if count == 1 else Binary(op, *[Load("x", (0,), dtype)] * 2)
    return np.asarray(result).dtype == expected.dtype.numpy


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_one_operand(target: str, dtype: DType) -> None:
    ops = [op for op in UNARY if takes(op, dtype, 1)]
    kernels = []
    for op in ops:
        result = Unary(op, Load("x", (0,), dtype)).dtype
        kernels += [mapped(f"{op}.{lanes}", (dtype,), result, partial(Unary, op), lanes) for lanes in (0, 16)]
    compiled = Compiled(kernels, RUNNABLE[target])
    x = some(dtype)
    for op in ops:
        with np.errstate(all="ignore"):
            want = scalars.unary(op, x)
        for lanes in (0, 16):
            check(compiled, f"{op}.{lanes}", (x,), want)


def operands(op: str, dtype: DType) -> tuple[np.ndarray, np.ndarray]:
    x, y = pairs(dtype)
    if op == "exponent_shift":
        # Its second operand is integral and finite, or NaN: that is its contract.
        steps = np.array(
            [0, 1, -1, 5, -5, 20, -24, 60, -75, 120, -126, 127, -127, -130, 150, -149, -151, 300, -300, 1000]
        )
        steps = np.concatenate([steps, [-1022, -1070, -1074, -1076, -1100, 2000, -2000, 4000, -4000]]).astype(float)
        with np.errstate(all="ignore"):
            steps = steps[np.abs(steps) <= float(np.finfo(np.float16 if dtype is f16 else np.float32).max)]
        left = some(dtype, 53)
        x, y = (part.reshape(-1) for part in np.meshgrid(left, np.append(steps, np.nan).astype(dtype.numpy)))
    return x, y


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_two_operands(target: str, dtype: DType) -> None:
    ops = [op for op in BINARY if takes(op, dtype, 2)]
    kernels = []
    for op in ops:
        result = Binary(op, *[Load("x", (0,), dtype)] * 2).dtype
        kernels += [mapped(f"{op}.{lanes}", (dtype, dtype), result, partial(Binary, op), lanes) for lanes in (0, 16)]
    compiled = Compiled(kernels, RUNNABLE[target])
    for op in ops:
        x, y = operands(op, dtype)
        with np.errstate(all="ignore"):
            want = scalars.binary(op, x, y)
        for lanes in (0, 16):
            check(compiled, f"{op}.{lanes}", (x, y), want)


# A divisor known while emitting takes shorter paths than one that may be zero.
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_division_by_a_constant(target: str, dtype: DType) -> None:
    divisors = [1, 2, 3, 7, 10, 64, 0] + ([-1, -2, -7] if dtype.kind == "int" else [])
    cases = [(op, d) for op in ("floordiv", "mod", "truncdiv", "rem") for d in divisors]
    kernels = [
        mapped(f"{op}.{d}", (dtype,), dtype, lambda x, op=op, d=d: Binary(op, x, Const(d, dtype)), 16)
        for op, d in cases
    ]
    compiled = Compiled(kernels, RUNNABLE[target])
    x = some(dtype)
    for op, d in cases:
        with np.errstate(all="ignore"):
            want = scalars.binary(op, x, np.full(len(x), d, dtype.numpy))
        check(compiled, f"{op}.{d}", (x,), want)


# fp8 is storage: every code is read, and what is rounded to it falls on and between its numbers.
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", FLOAT8, ids=str)
def test_fp8(target: str, dtype: DType) -> None:
    others = [bool_, i8, u32, i64, f16, bf16, f32, f64, FLOAT8[FLOAT8.index(dtype) - 1]]
    out = [mapped(f"to.{to}", (dtype,), to, lambda x, to=to: Cast(x, to), 16) for to in others]
    back = [mapped(f"from.{to}", (to,), dtype, lambda x: Cast(x, dtype), 16) for to in others]
    moved = mapped("moved", (bool_, dtype), dtype, lambda c, x: Select(c, x, Const(1.0, dtype)), 16)
    seen = mapped(
        "seen", (dtype,), u8, lambda x: Cast(Cast(Cast(x, u8, bits=True), dtype, bits=True), u8, bits=True), 0
    )
    compiled = Compiled([*out, *back, moved, seen], RUNNABLE[target])
    codes = np.arange(256, dtype=np.uint8).view(dtype.numpy)
    for to in others:
        with np.errstate(all="ignore"):
            check(compiled, f"to.{to}", (codes,), scalars.cast(codes, to))
            numbers = some(to, 900) if to.kind != "float8" else np.arange(256, dtype=np.uint8).view(to.numpy)
            if to is f32:
                exact = codes.astype(np.float32)
                between = np.concatenate([(exact[1:] + exact[:-1]) / 2, exact * 1.06, exact * 0.97]).astype(np.float32)
                numbers = np.concatenate(
                    [numbers, exact, between, np.nextafter(between, 0), np.nextafter(between, 9e9)]
                )
            check(compiled, f"from.{to}", (numbers.astype(to.numpy),), scalars.cast(numbers.astype(to.numpy), dtype))
    c = random_bits(bool_, 256)
    check(compiled, "moved", (c, codes), np.where(c, codes, np.ones(256, dtype.numpy)))
    check(compiled, "seen", (codes,), codes.view(np.uint8))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_conversions(target: str, dtype: DType) -> None:
    kernels = [
        mapped(f"{to}.{lanes}", (dtype,), to, lambda x, to=to: Cast(x, to), lanes) for to in TYPES for lanes in (0, 16)
    ]
    plain = [to for to in TYPES if to is not bool_ and to.kind != "complex"]
    same_width = [to for to in plain if to.bits == dtype.bits] if dtype in plain else []
    kernels += [mapped(f"bits.{to}", (dtype,), to, lambda x, to=to: Cast(x, to, bits=True), 16) for to in same_width]
    compiled = Compiled(kernels, RUNNABLE[target])
    x = some(dtype, 701)
    for to in TYPES:
        with np.errstate(all="ignore"):
            want = scalars.cast(x, to)
        for lanes in (0, 16):
            check(compiled, f"{to}.{lanes}", (x,), want)
    for to in same_width:
        check(compiled, f"bits.{to}", (x,), scalars.bits(x, to))


# One rounding, also where the machine has no such instruction: cancellation, ties, subnormal results, overflow.
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_fma(target: str, dtype: DType) -> None:
    compiled = Compiled(
        [mapped(f"fma.{lanes}", (dtype,) * 3, dtype, Fma, lanes) for lanes in (0, 16)], RUNNABLE[target]
    )
    x, y = pairs(dtype)
    z = np.resize(some(dtype, 211), len(x))
    with np.errstate(all="ignore"):
        product = x.astype(np.float64) * y.astype(np.float64)
        near = (-product).astype(dtype.numpy)  # almost cancels
    a, b, c = np.concatenate([x, x]), np.concatenate([y, y]), np.concatenate([z, near])
    with np.errstate(all="ignore"):
        want = scalars.fma(a, b, c)
    for lanes in (0, 16):
        check(compiled, f"fma.{lanes}", (a, b, c), want)


@pytest.mark.parametrize("target", TARGETS)
def test_select_takes_whole_lanes(target: str) -> None:
    for dtype in (bool_, i32, bf16, f64, *COMPLEX):
        kernel = mapped(f"select.{dtype}", (bool_, dtype, dtype), dtype, Select, 16)
        compiled = Compiled([kernel], RUNNABLE[target])
        x, y = some(dtype), some(dtype)[::-1].copy()
        c = random_bits(bool_, len(x))
        check(compiled, kernel.name, (c, x, y), np.where(c, x, y))


# What the emitter does not compute is refused by name, never miscomputed.
@pytest.mark.parametrize("op", ["exp", "tanh", "erf"])
def test_mathematics_is_refused(op: str) -> None:
    with pytest.raises(Unsupported, match=op) as caught:
        Compiled([mapped("k", (f32,), f32, lambda x: Unary(op, x), 16)], RUNNABLE["generic"])
    assert caught.value.code == "TD0503"


@pytest.mark.parametrize("dtype", FLOAT8, ids=str)
def test_storage_only_types_are_refused(dtype: DType) -> None:
    with pytest.raises(Unsupported) as caught:
        Compiled([mapped("k", (dtype, dtype), dtype, lambda x, y: Binary("add", x, y), 16)], RUNNABLE["generic"])
    assert caught.value.code == "TD0504"


@pytest.mark.parametrize("op", ["abs", "sqrt"])
def test_mathematics_of_complex_numbers_is_refused(op: str) -> None:
    with pytest.raises(Unsupported, match=op):
        Compiled(
            [mapped("k", (COMPLEX[0],), Unary(op, Load("x", (0,), COMPLEX[0])).dtype, partial(Unary, op), 16)],
            RUNNABLE["generic"],
        )
