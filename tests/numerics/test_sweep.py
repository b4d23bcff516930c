"""What docs/numerics.md says was measured: f32 functions at all 2**32 floats, the others at large samples.

The sweep compares with f64 arithmetic of NumPy and SciPy; where that is near to the bound or has no finite answer,
mpmath decides. Hours long, hence marked slow; `--update` writes what was found into the page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import page
import pytest
import scipy.special
from measure import Native, native, ulps
from native import RUNNABLE
from test_bounds import reference, sample
from test_complex import error_of
from test_complex import sample as complex_sample
from truth import exact

from treadle.codegen.kernels.math_bounds import BOUNDS, COMPLEX_BOUNDS
from treadle.ir.dtypes import DType, c64, c128, f32, f64
from treadle.ir.loops.nodes import MATH_BINARY

Array = np.ndarray[Any, Any]
TARGET: Final = RUNNABLE[[name for name in RUNNABLE if "+" not in name][-1]]
BLOCK: Final = 1 << 20
UNARY: Final = [op for op in BOUNDS if op not in MATH_BINARY]


def _erfinv(x: Array) -> Array:
    inside = np.abs(x) <= 1
    return np.copysign(np.where(inside, scipy.special.erfinv(np.where(inside, x, 0.0)), np.nan), x)


def _digamma(x: Array) -> Array:
    """Reflected here: SciPy's is slow for negative numbers, and coarse near their poles."""
    negative = x < 0
    fraction = x - np.rint(x)
    positive = scipy.special.psi(np.where(negative, 1 - x, x))
    reflected = np.where(fraction == 0, np.nan, positive - np.pi / np.tan(np.pi * fraction))
    return np.where(x == 0, np.copysign(np.inf, -x), np.where(negative, reflected, positive))


def _lgamma(x: Array) -> Array:
    return np.where(np.isinf(x), np.inf, scipy.special.gammaln(x))


# In f64, to many more digits than f32 has.
QUICK: Final[dict[str, Callable[[Array], Array]]] = {
    **{op: getattr(np, op) for op in ("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "cbrt")},
    **{op: getattr(np, op) for op in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{"a" + op: getattr(np, "arc" + op) for op in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "erf": scipy.special.erf,
    "erfc": scipy.special.erfc,
    "erfinv": _erfinv,
    "normal_cdf": scipy.special.ndtr,
    "times_normal_cdf": lambda x: np.maximum(x, -40) * scipy.special.ndtr(x),
    "lgamma": _lgamma,
    "digamma": _digamma,
    "logistic": scipy.special.expit,
    "softplus": lambda x: np.logaddexp(x, 0.0),
}


def measured_errors(op: str, x: Array, found: Array, quick: Array) -> tuple[float, float]:
    """(largest error, where) among f32 results that are not the quick answer rounded. mpmath is asked about those that
    come within a hundredth of the bound."""
    wide = quick.astype(np.float64)
    errors = ulps(found, wide)
    doubtful = np.nonzero(~(errors <= BOUNDS[op].f32 - 0.01))[0]
    assert doubtful.size < 100_000, f"{doubtful.size} of {x.size} seem wrong, such as {x[doubtful[0]]!r}"
    sure = np.isfinite(x[doubtful]) & np.isfinite(found[doubtful])
    if sure.any():
        asked = doubtful[sure]
        errors[asked] = ulps(found[asked], exact(op, x[asked]))
    worst = int(np.argmax(np.where(np.isnan(errors), np.inf, errors)))
    return float(errors[worst]), float(x[worst])


@pytest.mark.slow
@pytest.mark.time_limit(7200)
@pytest.mark.parametrize("op", UNARY)
def test_every_f32(op: str, update: bool) -> None:
    function = native(op, f32, TARGET)
    bits = np.arange(BLOCK, dtype=np.uint32)
    out = np.empty(BLOCK, np.float32)
    largest, at = 0.5, 0.0
    for start in range(0, 1 << 32, BLOCK):
        x = (bits + np.uint32(start)).view(np.float32)
        found = function(x, out=out)
        with np.errstate(all="ignore"):
            quick = QUICK[op](x.astype(np.float64))
            near = quick.astype(np.float32)
        other = np.nonzero((found.view(np.uint32) != near.view(np.uint32)) & ~((found != found) & (near != near)))[0]
        if other.size:
            assert (np.abs(near[other]) + np.abs(found[other]) > 0).all(), f"a zero's sign, {x[other]}"
            error, place = measured_errors(op, x[other], found[other], quick[other])
            if error > largest:
                largest, at = error, place
            assert error <= 2 or op not in ("sin", "cos") or abs(place) > 1e4, (error, place)
    assert largest <= BOUNDS[op].f32, (largest, at)
    page.keep(op, f32, largest, repr(np.float32(at)).removeprefix("np.float32(").removesuffix(")"), update)


SAMPLED: Final = [(op, f64) for op in BOUNDS] + [(op, f32) for op in BOUNDS if op in MATH_BINARY]


@pytest.mark.slow
@pytest.mark.parametrize("op, dtype", SAMPLED, ids=[f"{op}-{dtype}" for op, dtype in SAMPLED])
def test_many(op: str, dtype: DType, update: bool) -> None:
    args = sample(op, dtype, 12_000)
    found = native(op, dtype, TARGET)(*args)
    plain = reference(op, args)
    fine = np.isfinite(plain) & ((plain != 0) | (found != 0)) & np.all([np.isfinite(x) for x in args], axis=0)
    fine &= (op != "atan2") | (args[0] != 0)  # mpmath's 0 has no sign
    args = [x[fine] for x in args]
    errors = ulps(found[fine], exact(op, *args), BOUNDS[op].floor if dtype is f64 else 0.0)
    worst = int(np.argmax(errors))
    assert errors[worst] <= BOUNDS[op].of(dtype)
    page.keep(op, dtype, float(errors[worst]), ", ".join([str(x[worst]) for x in args]), update)


COMPLEX: Final = [(op, dtype) for op in COMPLEX_BOUNDS for dtype in (c64, c128)]


@pytest.mark.slow
@pytest.mark.parametrize("op, dtype", COMPLEX, ids=[f"{op}-{dtype}" for op, dtype in COMPLEX])
def test_many_complex(op: str, dtype: DType, update: bool) -> None:
    args = complex_sample(op, dtype, 3_000)
    function: Native = native(op, dtype, TARGET)
    error, at = error_of(op, dtype, args, function(*args))
    assert error <= COMPLEX_BOUNDS[op].of(dtype)
    page.keep(op, dtype, error, ", ".join([str(complex(x[at])) for x in args]), update)
