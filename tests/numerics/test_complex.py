"""Functions of complex numbers against mpmath, and at infinities, NaN and zeros against NumPy's C library."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from measure import native, ulps
from native import RUNNABLE
from truth import exact_complex

from treadle.codegen.kernels.math_bounds import COMPLEX_BOUNDS
from treadle.codegen.kernels.transcendental import WRITERS
from treadle.ir.dtypes import DType, c64, c128, real_of
from treadle.ir.loops import scalars
from treadle.ir.loops.check import accepts
from treadle.ir.loops.nodes import BINARY, MATH, MATH_BINARY, UNARY

Array = np.ndarray[Any, Any]
TARGET = RUNNABLE["avx2" if "avx2" in RUNNABLE else next(iter(RUNNABLE))]
CASES = [(op, dtype) for op in COMPLEX_BOUNDS for dtype in (c64, c128)]
IDS = [f"{op}-{dtype}" for op, dtype in CASES]
TWO = ("pow", "div")


def of_parts(real: np.ndarray, imaginary: np.ndarray, dtype: DType = c128) -> np.ndarray:
    made = np.empty(real.shape, dtype.numpy)
    made.real, made.imag = real, imaginary
    return made


def sample(op: str, dtype: DType, count: int) -> list[np.ndarray]:
    """Around 0, the unit circle, -1 and the edges of the exponential; sizes of many orders, one part much smaller."""
    rng = np.random.default_rng(sum(op.encode()))

    def sizes(low: float, high: float) -> np.ndarray:
        return np.exp(rng.uniform(low, high, count)) * rng.choice([-1.0, 1.0], count)

    angle = rng.uniform(-np.pi, np.pi, count)
    near = sizes(-25, -1)
    edge = 88.0 if dtype is c64 else 709.0
    points = [
        of_parts(rng.normal(size=count), rng.normal(size=count)),
        of_parts(sizes(-40, 13), sizes(-40, 13)),
        of_parts(np.cos(angle), np.sin(angle)),
        of_parts(np.cos(angle) - 1, np.sin(angle)),
        of_parts(1 + near, sizes(-25, -1)),
        of_parts(-1 + near, sizes(-25, -1)),
        of_parts(sizes(0, 1) * 0.37 * edge, rng.uniform(-9, 9, count)),
        of_parts(rng.uniform(-9, 9, count), sizes(0, 1) * 0.37 * edge),
    ]
    found = np.concatenate(points)
    if op == "pow":
        whole = of_parts(rng.integers(-20, 21, found.size).astype(float), np.zeros(found.size))
        exponents = np.where(rng.random(found.size) < 0.5, whole, 2 * rng.permutation(points[0].repeat(len(points))))
        return [found.astype(dtype.numpy), exponents.astype(dtype.numpy)]
    args = [found, rng.permutation(found)] if op in TWO else [found]
    return [x.astype(dtype.numpy) for x in args]


# Everything that takes complex numbers is an operation of pairs, or written and bounded here.
def test_every_function_is_written_and_bounded() -> None:
    taken = [op for op in (*UNARY, *MATH, *BINARY, *MATH_BINARY) if accepts(op, c64)]
    pairs = {"neg", "conj", "real", "imag", "add", "sub", "mul", "div", "eq", "ne", "isnan", "isinf", "isfinite"}
    assert set(COMPLEX_BOUNDS) == {op for op in taken if op not in pairs} | {"div"}
    assert not [case for case in CASES if case[0] != "div" and case not in WRITERS]


def error_of(op: str, dtype: DType, args: list[Array], found: Array) -> tuple[float, int]:
    """The largest error in units of the larger part, and at which point; of powers of c128 for every 1 of |y log x|, of
    whole ones for every 1 of |y|."""
    real, imaginary = exact_complex(op, *args)
    part = real_of(dtype).numpy
    size = np.maximum(np.abs(real), np.abs(imaginary))
    info = np.finfo(part)
    inside = (size < info.max / 4) & (size > info.tiny / info.eps)  # whole units of the larger part fit in the smaller
    unit = np.ones(size.shape)
    if op == "pow" and dtype is c128:
        with np.errstate(all="ignore"):
            whole = (args[1].imag == 0) & (np.rint(args[1].real) == args[1].real)
            unit = np.maximum(1, np.abs(args[1] * np.where(whole, 1, np.log(args[0]))))
    parts = [ulps(np.asarray(x, part), y, size) / unit for x, y in ((found.real, real), (found.imag, imaginary))]
    errors = np.where(inside, np.maximum(*parts), 0)
    worst = int(np.argmax(errors))
    return float(errors[worst]), worst


# The error in units of the larger part: what composing real functions costs, without losses by cancellation.
@pytest.mark.parametrize("op, dtype", CASES, ids=IDS)
def test_bound(op: str, dtype: DType) -> None:
    args = sample(op, dtype, 60)
    found = native(op, dtype, TARGET)(*args)
    error, at = error_of(op, dtype, args, found)
    assert error <= COMPLEX_BOUNDS[op].of(dtype), ([x[at] for x in args], found[at])


# NaN, infinities and the signs of zeros are those of C99, annex G, as NumPy's C library has them. Where the annex
# leaves a sign open, either will do.
@pytest.mark.parametrize("op", [op for op in COMPLEX_BOUNDS if op != "div"])
def test_special_values(op: str) -> None:
    values = [0.0, -0.0, 1.0, -1.0, 2.5, -0.5, np.inf, -np.inf, np.nan, 1e300, -1e300, 1000.0, -750.0]
    grid = of_parts(*np.array(list(itertools.product(values, values))).T)
    args = [grid]
    if op == "pow":
        finite = grid[np.isfinite(grid) & (np.abs(grid) < 100)]
        args = list(np.array(list(itertools.product(finite, finite))).T)
    found = native(op, c128, TARGET)(*args)
    with np.errstate(all="ignore"):
        wanted = scalars.unary(op, *args) if len(args) == 1 else scalars.binary(op, *args)
    for got, want in ((found.real, wanted.real), (found.imag, wanted.imag)):
        same = (np.isnan(got) & np.isnan(want)) | ((got == want) & (np.signbit(got) == np.signbit(want)))
        open_sign = (np.abs(got) == np.abs(want)) & ~(np.isfinite(args[0].real) & np.isfinite(args[0].imag))
        near = np.isfinite(got) & np.isfinite(want) & (got != 0) & (want != 0)
        wrong = ~(same | open_sign | near)
        assert not wrong.any(), [(x[wrong], found[wrong], wanted[wrong]) for x in args]
