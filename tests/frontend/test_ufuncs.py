"""Every ufunc with every pair of dtypes and Python numbers, on the numbers at the edges: NumPy's dtypes and values.

NumPy itself is run for the answer, and what it refuses must be refused (TD0816, TD0130, TD0112). bfloat16 and fp8 go by
our own table, written out here.
"""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from edges import DTYPES, difference, edges
from tracing import run, traced

import treadle as td
from treadle.frontend.functions.linear import GUFUNCS
from treadle.frontend.functions.ufuncs import RULES
from treadle.ir.errors import TreadleError

UFUNCS = sorted((u for u in RULES if u not in GUFUNCS), key=lambda u: u.__name__)
NUMBERS = (True, 3, 2.5, 1 + 2j)
names = [u.__name__ for u in UFUNCS]


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def combinations(ufunc: np.ufunc) -> list[tuple[Any, ...]]:
    if ufunc.nin == 1:
        return [*((edges(d),) for d in DTYPES), *((n,) for n in NUMBERS)]
    arrays = [(edges(a)[:, None], edges(b)[None, :]) for a in DTYPES for b in DTYPES]
    mixed = [pair for d in DTYPES for n in NUMBERS for pair in ((edges(d), n), (n, edges(d)))]
    return [*arrays, *mixed, *itertools.product(NUMBERS, NUMBERS)]


def outcome(call: Any, *args: Any) -> Any:
    try:
        return call(*args)
    except (TypeError, ValueError, OverflowError) as error:
        return error


def compare(ufunc: np.ufunc, got: Any, expected: Any) -> str | None:
    if isinstance(expected, Exception) or isinstance(got, Exception):
        if isinstance(got, TreadleError) and isinstance(expected, Exception):
            return None if got.code in ("TD0112", "TD0130", "TD0816") else str(got)
        return f"{got!r}, NumPy has {expected!r}"
    results = expected if isinstance(expected, tuple) else (expected,)
    found = got if isinstance(got, tuple) else (got,)
    return next((d for d in map(difference, [ufunc] * len(results), found, results) if d is not None), None)


# Arrays and Python numbers, the numbers traced or known.
@pytest.mark.parametrize("ufunc", UFUNCS, ids=names)
def test_like_numpy(ufunc: np.ufunc) -> None:
    wrong: list[str] = []
    for args in combinations(ufunc):
        expected = outcome(ufunc, *args)
        dynamic = list(range(len(args)))
        arrays = [i for i in dynamic if isinstance(args[i], np.ndarray)]
        for places in [dynamic] if len(arrays) in (0, len(args)) else [dynamic, arrays]:

            def user(*xs: Any, places: list[int] = places, args: tuple[Any, ...] = args) -> Any:
                whole = list(args)
                for i, x in zip(places, xs, strict=True):
                    whole[i] = x
                return ufunc(*whole)

            found = compare(ufunc, outcome(run, user, *(args[i] for i in places)), expected)
            if found is not None:
                wrong.append(f"{[getattr(x, 'dtype', x) for x in args]}, traced {places}: {found}")
    assert wrong == []


MIXED = (
    ("i4", "f4"),
    ("u8", "i8"),
    ("i2", "u2"),
    ("f2", "f8"),
    ("bool", "i1"),
    ("f2", "i1"),
    ("f4", "c8"),
    ("c16", "i4"),
)


# The same as machine code, all dtypes of a ufunc in one program.
@pytest.mark.parametrize("ufunc", UFUNCS, ids=names)
def test_compiled(ufunc: np.ufunc) -> None:
    calls = []
    for each in [(d,) * ufunc.nin for d in DTYPES] + [m for m in MIXED if ufunc.nin == 2]:
        args = [np.ascontiguousarray(a) for a in np.broadcast_arrays(*np.ix_(*map(edges, each)))]
        if ufunc is np.power and args[0].dtype.kind in "bi" and args[1].dtype.kind == "i":
            args[1] = np.where(args[1] < 0, 2, args[1]).astype(args[1].dtype)
        expected = outcome(ufunc, *args)
        if not isinstance(expected, Exception):
            calls.append((each, tuple(args), expected))
    got = td.jit(lambda *xs: [ufunc(*each) for each in xs])(*(args for _, args, _ in calls))
    found = zip(calls, got, strict=True)
    assert [f"{each}: {d}" for (each, _, e), g in found if (d := compare(ufunc, g, e)) is not None] == []


# --- bfloat16 and fp8, by our table -------------------------------------------------------------------------------

BF16 = np.dtype(ml_dtypes.bfloat16)
FP8 = [np.dtype(getattr(ml_dtypes, n)) for n in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")]
INTEGERS = [np.dtype(d) for d in DTYPES[:9]]
F16, F32, F64, C64, C128 = map(np.dtype, ("f2", "f4", "f8", "c8", "c16"))

# Where they meet: integers never widen them, f16 and fp8 of two kinds meet in f32, everything else is wider.
MEETS: dict[tuple[np.dtype, Any], np.dtype] = {
    (BF16, BF16): BF16, (BF16, F16): F32, (BF16, F32): F32, (BF16, F64): F64, (BF16, C64): C64, (BF16, C128): C128,
    (BF16, int): BF16, (BF16, float): BF16, (BF16, complex): C64,
    **{(BF16, d): BF16 for d in INTEGERS}, **{(BF16, d): BF16 for d in FP8},
    **{(d, d): d for d in FP8}, **{(d, i): d for d in FP8 for i in INTEGERS},
    **{(d, e): F32 for d in FP8 for e in FP8 if d != e}, **{(d, e): e for d in FP8 for e in (F16, F32, F64, C64, C128)},
    **{(d, int): d for d in FP8}, **{(d, float): d for d in FP8}, **{(d, complex): C64 for d in FP8},
}  # fmt: skip
SAMPLE = {int: 2, float: 1.5, complex: 1j}


@pytest.mark.parametrize("mine", [BF16, *FP8], ids=str)
def test_short_floats_meet_by_our_table(mine: np.dtype) -> None:
    for (a, b), expected in MEETS.items():
        if a != mine:
            continue
        x = np.ones(3, a)
        y = SAMPLE[b] if b in SAMPLE else np.ones(3, b)
        for args in ((x, y), (y, x)):
            found = traced(lambda p, q: (p * q, np.maximum(p, q), np.where(p > q, p, q)), *args).out_types
            assert [t.dtype.numpy for t in found] == [expected] * 3, (a, b)
            comparison = traced(lambda p, q: p == q, *args).out_types[0].dtype.numpy
            assert comparison == np.bool_


# Each function of a short float is that of f32, rounded once.
@pytest.mark.parametrize("ufunc", UFUNCS, ids=names)
@pytest.mark.parametrize("kind", [BF16, FP8[0]], ids=str)
def test_short_floats_compute_in_f32(ufunc: np.ufunc, kind: np.dtype) -> None:
    x = np.array([-3.0, -1.5, -0.5, 0.0, 0.25, 1.0, 2.0, 6.0], kind)
    args = [x, x[::-1].copy()][: ufunc.nin]
    if ufunc is np.ldexp:
        args[1] = np.array([1, -1, 2, 0, 3, 1, 0, 0], np.int32)
    wide = [a.astype(np.float32) if a.dtype == kind else a for a in args]
    expected = outcome(ufunc, *wide)
    got = outcome(run, lambda *xs: ufunc(*xs), *args)
    if isinstance(expected, Exception):
        assert isinstance(got, TreadleError)
        return
    if ufunc in (np.spacing, np.nextafter):
        return  # of the neighbours of the type itself, see the tests of the op
    for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in (got, expected)), strict=True):
        assert a.dtype == (kind if b.dtype == np.float32 and ufunc is not np.float_power else b.dtype)
        rounded = b.astype(a.dtype).astype(np.float64)
        np.testing.assert_allclose(a.astype(np.float64), rounded, rtol=0.01 if kind == BF16 else 0.13)


# A string is NumPy's word first: "i8" has eight bytes, in a trace as outside of it.
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.astype("i8"),
        lambda x: x.astype("u8"),
        lambda x: x.sum(dtype="i8"),
        lambda x: np.add(x, x, dtype="i8"),
        lambda x: np.ones_like(x, "i8"),
        lambda x: td.numpy.zeros(2, "i8") + x,
        lambda x: td.numpy.arange(3, dtype="u8") * 1,
    ],
)
def test_dtype_strings_are_numpys(function: Any) -> None:
    x = np.array([300], "i2")
    got, expected = td.jit(function)(x), function(x)
    assert got.dtype == expected.dtype and np.array_equal(got, expected)
    assert td.ShapeDtype((3,), "i8").dtype.numpy == np.int64


# Our own short names serve where NumPy has none; where NumPy means a longdouble, the refusal says what to write.
def test_dtype_strings_that_numpy_does_not_know() -> None:
    kinds = {"bf16": ml_dtypes.bfloat16, "f32": np.float32, "i16": np.int16, "bfloat16": ml_dtypes.bfloat16}
    for name, expected in kinds.items():
        assert td.jit(np.astype, static_argnums=1)(np.array([300.0]), name).dtype == expected
    with pytest.raises(TypeError, match=r"TD0101(?s:.*)write 'float16'"):
        td.ShapeDtype((3,), "f16")


# The operator squares bools as i8, where `power` gives i64; other exponents and scalars go by `power`.
@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 2.0, 0.5, 1.0, -1.0, True, 2j, np.int64(2), np.int8(2), np.True_])
@pytest.mark.parametrize("x", [np.array([True, False]), np.True_], ids=["array", "scalar"])
def test_powers_of_bools(x: Any, exponent: Any) -> None:
    for function in (lambda x: x**exponent, lambda x: np.power(x, exponent)):
        got, expected = td.jit(function)(x), function(x)
        assert got.dtype == expected.dtype and np.array_equal(got, expected, equal_nan=True)
