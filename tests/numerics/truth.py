"""What the functions of mathematics are, to twice the digits of f64: mpmath's answer, given as an extended float.

mpmath sums its own series and continued fractions in arithmetic of any length, so nothing here is shared with the
polynomials under test. It is slow (5 to 500 microseconds a value) and has no infinities to speak of: those, and NaN,
are asked of `ir/loops/scalars`, which the fast tests compare with NumPy and C.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import mpmath
import numpy as np
from mpmath import mpf

Array = np.ndarray[Any, Any]
Function = Callable[..., Any]

# 2 log2 of the largest argument would be needed for sines of huge arguments; mpmath takes those digits by itself.
PRECISION: Final = 140


def _logistic(x: Any) -> Any:
    return 1 / (1 + mpmath.exp(-x))


def _softplus(x: Any) -> Any:
    return mpmath.log1p(mpmath.exp(x))


def _logaddexp(x: Any, y: Any) -> Any:
    most, least = max(x, y), min(x, y)
    return most + mpmath.log1p(mpmath.exp(least - most))


def _logaddexp2(x: Any, y: Any) -> Any:
    most, least = max(x, y), min(x, y)
    return most + mpmath.log1p(mpf(2) ** (least - most)) / mpmath.log(2)


def _cbrt(x: Any) -> Any:
    return mpmath.sign(x) * mpmath.cbrt(abs(x))


def _erfinv(x: Any) -> Any:
    """By Newton's steps from below, in the tail on the logarithm, where erfc is nearly a straight line."""
    if x == 0:
        return x
    size = abs(x)
    if size < 0.5:
        return mpmath.erfinv(x)
    rest = 1 - size  # exact
    y = mpmath.sqrt(-mpmath.log(rest))
    for _ in range(60):
        tail = mpmath.erfc(y)
        step = tail * mpmath.log(tail / rest) / (2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-y * y))
        y += step
        if abs(step) < abs(y) * mpf(2) ** (20 - PRECISION):
            break
    return mpmath.sign(x) * y


def _lgamma(x: Any) -> Any:
    """log |gamma x|, with as many more digits as are lost near its zeros."""
    if x > 0:
        return mpmath.loggamma(x)
    return mpmath.log(mpmath.pi / abs(mpmath.sinpi(x))) - mpmath.loggamma(1 - x)


EXACT: Final[dict[str, Function]] = {
    "exp": mpmath.exp,
    "exp2": lambda x: mpf(2) ** x,
    "expm1": mpmath.expm1,
    "log": mpmath.log,
    "log2": lambda x: mpmath.log(x) / mpmath.log(2),
    "log10": mpmath.log10,
    "log1p": mpmath.log1p,
    "rsqrt": lambda x: 1 / mpmath.sqrt(x),
    "cbrt": _cbrt,
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "tan": mpmath.tan,
    "asin": mpmath.asin,
    "acos": mpmath.acos,
    "atan": mpmath.atan,
    "sinh": mpmath.sinh,
    "cosh": mpmath.cosh,
    "tanh": mpmath.tanh,
    "asinh": mpmath.asinh,
    "acosh": mpmath.acosh,
    "atanh": mpmath.atanh,
    "erf": mpmath.erf,
    "erfc": mpmath.erfc,
    "erfinv": _erfinv,
    "normal_cdf": lambda x: mpmath.erfc(-x / mpmath.sqrt(2)) / 2,
    "times_normal_cdf": lambda x: x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2,
    "lgamma": _lgamma,
    "digamma": mpmath.digamma,
    "logistic": _logistic,
    "softplus": _softplus,
    "pow": mpmath.power,
    "atan2": mpmath.atan2,
    "hypot": mpmath.hypot,
    "logaddexp": _logaddexp,
    "logaddexp2": _logaddexp2,
}


COMPLEX: Final[dict[str, Function]] = {
    **{op: EXACT[op] for op in ("exp", "expm1", "log", "log10", "log1p", "rsqrt", "sin", "cos", "tan", "pow")},
    **{op: EXACT[op] for op in ("asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh")},
    "exp2": lambda z: mpmath.exp(z * mpmath.log(2)),
    "log2": lambda z: mpmath.log(z) / mpmath.log(2),
    "sqrt": mpmath.sqrt,
    "abs": abs,
    "div": lambda z, w: z / w,
}


def exact_complex(op: str, *args: Array) -> tuple[Array, Array]:
    """The parts of the function of complex points, where it is finite."""
    function = COMPLEX[op]
    parts = np.empty(args[0].shape, np.longdouble), np.empty(args[0].shape, np.longdouble)
    with mpmath.workprec(PRECISION + 200):
        for place, values in enumerate(zip(*[a.tolist() for a in args])):
            value = mpmath.mpc(function(*[mpmath.mpc(v) for v in values]))
            parts[0][place], parts[1][place] = _rounded(value.real), _rounded(value.imag)
    return parts


def exact(op: str, *args: Array) -> Array:
    """The function at finite points where it is finite and defined; the rest of the answer is NaN."""
    function = EXACT[op]
    results = np.empty(args[0].shape, np.longdouble)
    with mpmath.workprec(PRECISION):
        for place, values in enumerate(zip(*[a.tolist() for a in args])):
            results[place] = _rounded(function(*[mpf(v) for v in values]))
    return results


def _rounded(value: Any) -> Any:
    """The nearest extended float, or nearly: the sum of two f64, scaled where those would leave the range."""
    if not value:
        return np.longdouble(0)
    exponent = mpmath.frexp(value)[1] if mpmath.isfinite(value) else 0
    fraction = mpmath.ldexp(value, -exponent)
    high = float(fraction)
    with np.errstate(over="ignore"):
        return np.ldexp(np.longdouble(high) + np.longdouble(float(fraction - high)), exponent)
