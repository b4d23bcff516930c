"""exp, exp2, expm1 and what is made of them: logistic, softplus, the hyperbolic functions, logaddexp.

x = n ln 2 + r with |r| <= ln 2 / 2; a polynomial gives e**r, the exponent gets n. The argument is cut where the result
is 0 or infinite anyway, so that n stays an exponent and r small; the cut lets NaN through. Errors of the coefficients
are relative ones and stand beside them; those of the functions are in docs/numerics.md. Where f32 has no form of its
own it is computed in f64 and rounded.
"""

from __future__ import annotations

import math
from typing import Final

from ...ir.classes import dataclass
from ...ir.dtypes import f32
from ...ir.loops.build import add, copysign, div, eq, fma, lit, lt, maximum, mul, select, sub
from ...ir.loops.nodes import Expr, Unary, Var
from .math_log import log1p_f64, log2_plus_f64
from .math_writing import Lets, at_least, at_most, format_of, horner, nearest, negated, odd, shifted

LOG2E: Final = 1.4426950408889634


@dataclass(frozen=True, slots=True)
class Exponential:
    """The constants of one format. ln 2 is in two parts, the first short enough that n times it is exact."""

    low: float  # below, e**x is 0
    high: float  # above, e**x / 2 is infinite
    ln2_high: float
    ln2_low: float
    exp: tuple[float, ...]  # e**r = c0 + c1 r + ...
    expm1: tuple[float, ...]  # e**r - 1 = r + r**2 (c0 + c1 r + ...)
    exp2: tuple[float, ...]  # 2**r = c0 + c1 r + ...
    sinh: tuple[float, ...]  # sinh x = x + x**3 (c0 + c1 x**2 + ...) for |x| <= 1
    saturated: float  # above, tanh is 1


SHORT: Final = Exponential(
    -105.0,
    90.0,
    0.693145751953125,
    1.4286068203094172e-06,
    # 2**-28.0
    (1.0, 1.0, 0.4999999403953552, 0.1666652113199234, 0.04166838526725769, 0.008368728682398796,
     0.0013815296115353703),
    # 2**-28.2
    (0.5, 0.1666666865348816, 0.04166659712791443, 0.008332272060215473, 0.0013924515806138515,
     0.00020610593492165208),
    # 2**-25.9
    (1.0, 0.6931471824645996, 0.24022647738456726, 0.055503323674201965, 0.00961843691766262, 0.0013398873852565885,
     0.00015353357593994588),
    # 2**-27.5
    (0.1666666716337204, 0.008333349600434303, 0.0001983615948120132, 2.8169513370812638e-06),
    10.0,
)  # fmt: skip
LONG: Final = Exponential(
    -746.0,
    711.0,
    0.6931471803691238,
    1.9082149292705877e-10,
    # 2**-56.4
    (1.0, 1.0, 0.5000000000000011, 0.16666666666666413, 0.04166666666653005, 0.008333333333494595,
     0.0013888888943662627, 0.00019841269506368111, 2.4801493061518316e-05, 2.7557586490209854e-06,
     2.763026287706583e-07, 2.5000047988068225e-08),
    # 2**-58.9
    (0.5, 0.16666666666666677, 0.041666666666666574, 0.00833333333332215, 0.001388888888894271,
     0.00019841269884970887, 2.4801587198156823e-05, 2.7557245262253327e-06, 2.755738707379686e-07,
     2.5108698657821043e-08, 2.087891181499016e-09),
    # 2**-55.5
    (1.0, 0.6931471805599453, 0.24022650695910072, 0.05550410866482157, 0.009618129107628237, 0.001333355814642984,
     0.00015403530394150362, 1.5252733808350754e-05, 1.3215485839253423e-06, 1.0178075532936138e-07,
     7.055397424782993e-09, 4.4523984028023893e-10, 2.484108503956123e-11),
    # 2**-56.8
    (0.16666666666666666, 0.008333333333333333, 0.000198412698412696, 2.7557319224116293e-06,
     2.5052108346508556e-08, 1.6059050601321163e-10, 7.64648289172136e-13, 2.8482331178622212e-15),
    22.0,
)  # fmt: skip


def constants_of(x: Expr) -> Exponential:
    return SHORT if x.dtype is f32 else LONG


def reduced(b: Lets, x: Expr) -> tuple[Var, Var]:
    """(n, r) with x = n ln 2 + r."""
    c = constants_of(x)
    n, _ = nearest(b, x, LOG2E)
    return n, b.let("r", fma(n, -c.ln2_low, fma(n, -c.ln2_high, x)))


def cut(b: Lets, x: Expr) -> Var:
    c = constants_of(x)
    return b.let("x", at_least(c.low, at_most(c.high, x)))


def exp(x: Expr, b: Lets) -> Expr:
    n, r = reduced(b, cut(b, x))
    return shifted(horner(r, constants_of(x).exp), n)


def decaying(size: Expr, b: Lets) -> Var:
    """e**-size for size >= 0, where nothing overflows."""
    c = constants_of(size)
    n, r = reduced(b, b.let("x", at_least(c.low, negated(size))))
    return b.let("e", shifted(horner(r, c.exp), n))


def exp2(x: Expr, b: Lets) -> Expr:
    least, most = (-151.0, 129.0) if x.dtype is f32 else (-1076.0, 1025.0)
    x = b.let("x", at_least(least, at_most(most, x)))
    n, _ = nearest(b, x, 1.0)
    r = b.let("r", sub(x, n))
    return shifted(horner(r, constants_of(x).exp2), n)


def expm1_parts(b: Lets, x: Expr) -> tuple[Var, Expr]:
    """(n, e**r - 1) for x that is cut already."""
    n, r = reduced(b, x)
    return n, fma(horner(r, constants_of(x).expm1), b.let("w", mul(r, r)), r)


def expm1(x: Expr, b: Lets) -> Expr:
    """2**n (e**r - 1) + (2**n - 1). The largest n is one more than an exponent can be, so it is given in two parts."""
    x = b.let("x", x)
    bounded = b.let("c", at_least(-40.0, at_most(constants_of(x).high, x)))
    n, p = expm1_parts(b, bounded)
    most = b.let("m", at_most(float(format_of(x).bias), n))
    scale = b.let("q", shifted(lit(1.0, x.dtype), most))
    result = fma(p, scale, sub(scale, 1.0))
    return copysign(shifted(result, sub(n, most)), x)


def logistic(x: Expr, b: Lets) -> Expr:
    """1 / (1 + e**-x), from e**-|x| so that nothing overflows and the left tail keeps its digits."""
    x = b.let("x", x)
    small = decaying(Unary("abs", x), b)
    top = select(lt(x, 0.0), small, 1.0)
    return div(top, add(small, 1.0))


def tanh(x: Expr, b: Lets) -> Expr:
    """t / (t + 2) with t = e**2|x| - 1, which keeps the digits near 0."""
    x = b.let("x", x)
    size = at_most(constants_of(x).saturated, Unary("abs", x))
    n, p = expm1_parts(b, b.let("y", mul(size, 2.0)))
    scale = b.let("q", shifted(lit(1.0, x.dtype), n))
    t = b.let("t", fma(p, scale, sub(scale, 1.0)))
    return copysign(div(t, add(t, 2.0)), x)


def half_exp(b: Lets, size: Expr) -> Var:
    """e**x / 2 for x >= 0."""
    n, r = reduced(b, b.let("c", at_most(constants_of(size).high, size)))
    return b.let("e", shifted(horner(r, constants_of(size).exp), sub(n, 1.0)))


def sinh(x: Expr, b: Lets) -> Expr:
    x = b.let("x", x)
    size = b.let("a", Unary("abs", x))
    half = half_exp(b, size)
    large = sub(half, div(lit(0.25, x.dtype), half))
    small = odd(b, size, constants_of(x).sinh)
    return copysign(select(lt(size, 1.0), small, large), x)


def cosh(x: Expr, b: Lets) -> Expr:
    half = half_exp(b, b.let("a", Unary("abs", x)))
    return add(half, div(lit(0.25, x.dtype), half))


def softplus_f64(x: Expr, b: Lets) -> Expr:
    """log(1 + e**x) = max(x, 0) + log(1 + e**-|x|)."""
    x = b.let("x", x)
    small = decaying(Unary("abs", x), b)
    return add(at_least(0.0, x), log1p_f64(small, b))


def logaddexp_f64(x: Expr, y: Expr, b: Lets) -> Expr:
    """log(e**x + e**y). Equal operands, infinite ones too, go their own way: their difference may be NaN."""
    x, y = b.let("x", x), b.let("y", y)
    small = decaying(Unary("abs", sub(x, y)), b)
    return select(eq(x, y), add(x, math.log(2.0)), add(maximum(x, y), log1p_f64(small, b)))


def logaddexp2_f64(x: Expr, y: Expr, b: Lets) -> Expr:
    """log2(2**x + 2**y)."""
    x, y = b.let("x", x), b.let("y", y)
    small = b.let("e", exp2(b.let("a", negated(Unary("abs", sub(x, y)))), b))
    return select(eq(x, y), add(x, 1.0), add(maximum(x, y), log2_plus_f64(small, b)))
