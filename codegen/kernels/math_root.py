"""Roots: rsqrt, cbrt, hypot."""

from __future__ import annotations

import math
from typing import Final

from ...ir.dtypes import f64
from ...ir.loops.build import copysign, div, eq, fma, gt, lit, lt, mul, select, sub
from ...ir.loops.nodes import Binary, Expr, Unary
from .math_log import split
from .math_writing import Lets, horner, negated, shifted

# The cube root on [2/3, 4/3]: 2**-22.5
CBRT: Final = (
    0.3906135573295609, 1.2449847206429763, -1.3094164657323983, 1.1361906931211427, -0.6389307088745385,
    0.2050140091448215, -0.028455739407535024,
)  # fmt: skip


def rsqrt(x: Expr, b: Lets) -> Expr:
    return div(lit(1.0, x.dtype), Unary("sqrt", x))


def cbrt_f64(x: Expr, b: Lets) -> Expr:
    """x = m 2**(3 k + j) with j in {0, 1, 2}: a polynomial for the root of m, a factor for 2**j, and one step of
    Halley's, which triples the digits; the residual r**3 - m is computed to its last bit."""
    x = b.let("x", x)
    size = b.let("a", Unary("abs", x))
    e, m = split(b, size)
    k = b.let("k", Unary("floor", fma(e, 1.0 / 3.0, 1e-9)))
    j = b.let("j", fma(k, -3.0, e))
    one, two = b.let("one", gt(j, 0.5)), b.let("two", gt(j, 1.5))
    factor = select(two, lit(2.0 ** (2.0 / 3.0), f64), select(one, lit(2.0 ** (1.0 / 3.0), f64), 1.0))
    scaled = b.let("m", mul(m, select(two, lit(4.0, f64), select(one, lit(2.0, f64), 1.0))))
    r = b.let("r", mul(horner(m, CBRT), factor))
    square = b.let("w", mul(r, r))
    lost = fma(r, r, negated(square))
    residual = b.let("d", fma(lost, r, fma(square, r, negated(scaled))))
    bottom = fma(mul(square, r), 2.0, scaled)
    root = shifted(sub(r, div(mul(r, residual), bottom)), k)
    # 0, infinity and NaN are their own roots.
    plain = Binary("and", gt(size, 0.0), lt(size, math.inf))
    return select(plain, copysign(root, x), x)


def hypot_f64(x: Expr, y: Expr, b: Lets) -> Expr:
    """The root of the sum of squares, scaled where those would leave the range."""
    a, c = b.let("a", Unary("abs", x)), b.let("c", Unary("abs", y))
    most, least = b.let("most", Binary("max", a, c)), b.let("least", Binary("min", a, c))
    small, large = b.let("small", lt(most, 2.0**-500)), b.let("large", gt(most, 2.0**500))
    scale = b.let("scale", select(small, lit(2.0**600, f64), select(large, lit(2.0**-600, f64), 1.0)))
    back = select(small, lit(2.0**-600, f64), select(large, lit(2.0**600, f64), 1.0))
    most, least = b.let("most", mul(most, scale)), b.let("least", mul(least, scale))
    root = mul(Unary("sqrt", fma(least, least, mul(most, most))), back)
    infinite = Binary("or", eq(a, math.inf), eq(c, math.inf))
    return select(infinite, lit(math.inf, f64), root)
