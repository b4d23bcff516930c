"""Every function of mathematics, f32 and f64, against mpmath at a sample of all exponents and special values."""

from __future__ import annotations

import numpy as np
import pytest
from measure import native, points_f32, points_f64, spread, ulps, worst
from native import RUNNABLE, same
from truth import exact

import treadle as td
from treadle.codegen.kernels.math_bounds import BOUNDS
from treadle.codegen.kernels.transcendental import WRITERS
from treadle.ir.dtypes import DType, f32, f64
from treadle.ir.loops import scalars
from treadle.ir.loops.nodes import MATH, MATH_BINARY

TARGET = RUNNABLE["avx2" if "avx2" in RUNNABLE else next(iter(RUNNABLE))]
CASES = [(op, dtype) for op in BOUNDS for dtype in (f32, f64)]


def sample(op: str, dtype: DType, count: int) -> list[np.ndarray]:
    """Points of every size, and more of them where functions have their shape."""
    rng = np.random.default_rng(sum(op.encode()))
    of = dtype.numpy.type
    every = (points_f32 if dtype is f32 else points_f64)(2 * count, seed=sum(op.encode()))
    spread = [rng.uniform(-1, 1, count), rng.uniform(-20, 20, count), rng.uniform(0.9, 1.1, count)]
    wide = [rng.uniform(-800, 800, count), np.exp(rng.uniform(-18, 18, count))]
    points = np.concatenate([every, *[part.astype(of) for part in (*spread, *wide)]])
    return [points, rng.permutation(points)] if op in MATH_BINARY else [points]


def reference(op: str, args: list[np.ndarray]) -> np.ndarray:
    with np.errstate(all="ignore"):
        return scalars.unary(op, *args) if len(args) == 1 else scalars.binary(op, *args)


# A function without a writer is a call that fails at the user's; threefry is exact.
def test_every_function_is_written_and_bounded() -> None:
    assert set(BOUNDS) == {*MATH, *MATH_BINARY} - {"threefry"}
    assert not [(op, dtype) for op, dtype in CASES if (op, dtype) not in WRITERS]


# The bound that docs promise, by an oracle with twice the digits. Where there is no finite answer, or it is 0, the
# answer is NumPy's, to the sign.
@pytest.mark.parametrize("op, dtype", CASES, ids=[f"{op}-{dtype}" for op, dtype in CASES])
def test_bound(op: str, dtype: DType) -> None:
    args = sample(op, dtype, 120)
    plain = reference(op, args)
    found = native(op, dtype, TARGET)(*args)
    finite = np.isfinite(plain) & ((plain != 0) | (found != 0)) & np.all([np.isfinite(x) for x in args], axis=0)
    finite &= (op != "atan2") | (args[0] != 0)  # mpmath's 0 has no sign
    assert same(found[~finite], plain[~finite]).all(), [x[~finite][~same(found[~finite], plain[~finite])] for x in args]
    args = [x[finite] for x in args]
    truth = exact(op, *args)
    bound = BOUNDS[op]
    errors = ulps(found[finite], truth, bound.floor if dtype is f64 else 0.0)
    assert errors.max() <= bound.of(dtype), worst(found[finite], truth, *args)


# Beyond the table: two units up to 1e4.
@pytest.mark.parametrize("op", ["sin", "cos"])
def test_moderate_turns(op: str) -> None:
    x = np.concatenate([spread(-1e4, 1e4, 1 << 17, np.float32), spread(-20, 20, 1 << 17, np.float32)])
    found = native(op, f32, TARGET)(x)
    assert ulps(found, getattr(np, op)(x.astype(np.longdouble))).max() <= 2.0


# Its left tail is where e**(-x**2/2) would lose its digits.
def test_gelu() -> None:
    x = np.concatenate([spread(-15, 10, 4000, np.float32), np.exp(spread(-60, 2, 1000, np.float32))])
    found = td.jit(td.nn.gelu)(x)
    assert ulps(found, exact("times_normal_cdf", x)).max() <= 2.5
    ends = td.jit(td.nn.gelu)(np.array([np.inf, -np.inf, 0.0, -0.0, np.nan], np.float32))
    assert same(ends, np.array([np.inf, -0.0, 0.0, -0.0, np.nan], np.float32)).all()
