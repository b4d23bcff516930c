"""lgamma and digamma.

From 8 on Stirling's series; below, the argument is brought to the polynomial's interval by the recurrence, whose
factors (for digamma, fractions) are gathered so that one logarithm (one division) is enough. Negative arguments are
reflected, in a branch that vectors without them skip. Near the zeros at 1 and 2 the result keeps its digits, near
digamma's at 1.46 too; near the zeros at negative arguments the error is small only beside the larger of the two terms
that cancel there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from ...ir.dtypes import f64
from ...ir.loops.build import add, copysign, div, eq, fma, ge, gt, lit, lt, mul, or_, select, sub
from ...ir.loops.nodes import Expr, Unary, Var
from .math_log import joined, log_of, split
from .math_trig import COS_QUARTER, PI, SIN_QUARTER, sin_with_tail
from .math_writing import Lets, horner, negated, rarely, two_product

# lgamma(2 + u)/u on |u| <= 1/2: 2**-55.2
LGAMMA: Final = (
    0.42278433509846713, 0.3224670334241132, -0.06735230105319814, 0.020580808427784925, -0.007385551028668397,
    0.002890510330713682, -0.001192753911991036, 0.0005096695256872754, -0.0002231547509505486,
    9.945749519519956e-05, -4.492634873186511e-05, 2.050740900683967e-05, -9.438474811587209e-06,
    4.373503450428484e-06, -2.0448564909843336e-06, 9.610538557311612e-07, -4.3049164091075397e-07,
    1.9667223569023472e-07, -1.3400754439923027e-07, 6.916018723113742e-08,
)  # fmt: skip
# lgamma x = (x - 1/2) log x - x + log(2 pi)/2 + (...)/x in 1/x**2, x >= 8: 2**-54.0
STIRLING: Final = (
    0.08333333333333333, -0.0027777777777776786, 0.0007936507935156769, -0.0005952380249408872,
    0.0008417328025945469, -0.0019149917512275697, 0.006209337591297534, -0.020877750120115217,
)  # fmt: skip
# digamma(3/2 + u)/(3/2 + u - zero) on |u| <= 1/2: 2**-53.6
DIGAMMA: Final = (
    0.951055876031833, -0.4236274212814606, 0.24054248424077398, -0.14840492305389008, 0.09498872445497249,
    -0.06192213327469521, 0.04076083381081164, -0.026975796691273524, 0.017907252481459128, -0.011908219419038933,
    0.007926944016870198, -0.005279946261844818, 0.003519012142109872, -0.002345420741341044, 0.0015565993616728424,
    -0.0010368423260685743, 0.000723437001467064, -0.00048472980920549676, 0.0002270249647894747,
    -0.0001469784587541502, 0.0002598516973250413, -0.00017656253132131776,
)  # fmt: skip
# digamma x = log x - 1/(2 x) - (...)/x**2 in 1/x**2, x >= 8: 2**-54.0
DIGAMMA_FAR: Final = (
    0.08333333333333333, -0.008333333333331734, 0.003968253966070132, -0.004166665528475235, 0.007575464837522112,
    -0.021051521527753393, 0.08004477846084691, -0.2998162025425557,
)  # fmt: skip
ZERO: Final = (1.4616321449683622, 9.549995429965697e-17)
FAR: Final = 8.0


def log_of_positive(b: Lets, x: Expr) -> Expr:
    e, m = split(b, b.let("v", x))
    return joined(e, log_of(b, sub(m, 1.0)))


def fraction_of_turn(b: Lets, x: Expr) -> Var:
    """x less the nearest integer, exactly: sin(pi x) has the size of sin of pi times that."""
    return b.let("g", sub(x, Unary("rint", x)))


def sin_pi(b: Lets, fraction: Var) -> Expr:
    high, low = two_product(b, fraction, lit(math.pi, f64))
    return sin_with_tail(b, high, b.let("l", fma(fraction, PI[f64][1], low)))


def lgamma_f64(x: Expr, b: Lets) -> Expr:
    x = b.let("x", x)
    negative = b.let("negative", lt(x, 0.0))
    # lgamma(-a) = -lgamma(1 + a) - log |sin(pi a)|/pi
    v = b.let("v", select(negative, sub(lit(1.0, f64), x), x))
    once, twice = b.let("once", lt(v, 1.5)), b.let("twice", lt(v, 0.5))
    # u is the argument less 2 after the recurrence, which never rounds; p gathers its factors.
    u = b.let("u", select(twice, v, select(once, sub(v, 1.0), sub(v, 2.0))))
    p = b.let("p", select(twice, mul(v, add(v, 1.0)), select(once, v, lit(1.0, f64))))
    for _ in range(6):
        more = b.let("more", gt(u, 0.5))
        p = b.let("p", select(more, mul(p, add(u, 1.0)), p))
        u = b.let("u", select(more, sub(u, 1.0), u))
    far = b.let("far", ge(v, FAR))
    log = b.let("log", log_of_positive(b, select(far, v, p)))
    near = fma(u, horner(u, LGAMMA), select(once, negated(log), log))
    inverse = b.let("i", div(lit(1.0, f64), v))
    series = mul(inverse, horner(b.let("z", mul(inverse, inverse)), STIRLING))
    stirling = fma(sub(v, 0.5), sub(log, 1.0), add(series, math.log(2.0 * math.pi) / 2 - 0.5))
    result = b.let("r", select(far, stirling, near))

    def reflected(b: Lets) -> Sequence[Expr]:
        sine = b.let("sine", mul(Unary("abs", sin_pi(b, fraction_of_turn(b, x))), 1.0 / math.pi))
        log = log_of_positive(b, sine)
        value = negated(add(result, log))
        return (select(eq(sine, 0.0), lit(math.inf, f64), value),)

    (result,) = rarely(b, negative, (result,), reflected)
    infinite = or_(eq(x, 0.0), eq(Unary("abs", x), math.inf))
    return select(infinite, lit(math.inf, f64), result)


def digamma_f64(x: Expr, b: Lets) -> Expr:
    x = b.let("x", x)
    negative = b.let("negative", lt(x, 0.0))
    # digamma(-a) = digamma(1 + a) + pi/tan(pi a)
    v = b.let("v", select(negative, sub(lit(1.0, f64), x), x))
    below = b.let("below", lt(v, 1.0))
    y = b.let("y", select(below, add(v, 1.0), v))
    top = b.let("top", select(below, lit(-1.0, f64), 0.0))
    bottom = b.let("bottom", select(below, v, lit(1.0, f64)))
    for _ in range(6):
        more = b.let("more", gt(y, 2.0))
        y = b.let("y", select(more, sub(y, 1.0), y))
        top = b.let("top", select(more, fma(top, y, bottom), top))
        bottom = b.let("bottom", select(more, mul(bottom, y), bottom))
    far = b.let("far", ge(v, FAR))
    ratio = b.let("ratio", div(select(far, lit(-0.5, f64), top), select(far, v, bottom)))
    left = sub(sub(y, ZERO[0]), ZERO[1])
    near = fma(left, horner(b.let("u", sub(y, 1.5)), DIGAMMA), ratio)
    z = b.let("z", mul(mul(ratio, ratio), 4.0))
    log = log_of_positive(b, select(far, v, lit(1.0, f64)))
    series = add(log, fma(negated(z), horner(z, DIGAMMA_FAR), ratio))
    result = b.let("r", select(far, series, near))

    def reflected(b: Lets) -> Sequence[Expr]:
        fraction = fraction_of_turn(b, x)
        # Within a quarter of a turn the cotangent as it is, else the tangent of what is left to a half.
        size = Unary("abs", fraction)
        steep = b.let("steep", gt(size, 0.25))
        part = b.let("part", select(steep, sub(lit(0.5, f64), size), size))
        r, low = two_product(b, part, lit(math.pi, f64))
        z = b.let("z", mul(r, r))
        sine = b.let("sine", add(r, fma(mul(r, z), horner(z, SIN_QUARTER), low)))
        leading = fma(mul(z, z), horner(z, COS_QUARTER), fma(z, -0.5, 1.0))
        cosine = b.let("cosine", fma(negated(r), low, leading))
        cotangent = div(select(steep, sine, cosine), select(steep, cosine, sine))
        value = fma(copysign(cotangent, fraction), -math.pi, result)
        return (select(eq(fraction, 0.0), lit(math.nan, f64), value),)

    (at,) = rarely(b, negative, (result,), reflected)
    found: Expr = select(eq(x, math.inf), x, at)
    return select(eq(x, 0.0), copysign(lit(math.inf, f64), negated(x)), found)
