"""Logarithms and powers.

x = m 2**e with m in [2/3, 4/3), found by integer arithmetic on the bits; subnormals are scaled into the normal range
first. f32 takes log m from a polynomial in m - 1; f64 from log m = 2 atanh s, s = (m - 1)/(m + 1), arranged as
f - (f**2/2 - s (f**2/2 + R)) with f = m - 1, where only what is small is rounded. `Log` keeps its value in two floats
for those who need more digits than one has.
"""

from __future__ import annotations

import math
from typing import Final

from ...ir.classes import dataclass
from ...ir.dtypes import f32, f64
from ...ir.loops.build import add, and_, bits, cast, copysign, div, eq, fma, gt, lit, lt, mul, select, shr, sub
from ...ir.loops.nodes import Expr, Unary, Var
from .math_writing import Lets, fast_two_sum, format_of, horner, negated, shifted, two_sum

# log(1 + t) = t + t**2 (...) on |t| <= 1/3: 2**-26.6
LOG_F32: Final = (
    -0.5, 0.3333320915699005, -0.24999716877937317, 0.20010748505592346, -0.16682302951812744, 0.14001156389713287,
    -0.12167178094387054, 0.14004775881767273, -0.12948882579803467,
)  # fmt: skip
# atanh s = s + s**3 (...) on |s| <= 1/5: 2**-61.6
ATANH_F64: Final = (
    0.333333333333333, 0.20000000000028054, 0.14285714277981543, 0.11111112140795601, 0.09090833372904233,
    0.07695542084348465, 0.06587028283037089, 0.0692000164347053,
)  # fmt: skip
# The first parts end in zeros, so that e times them is exact.
LN2: Final = (0.6931471803691238, 1.9082149292705877e-10)
LOG10_2: Final = (0.30102999566361177, 3.694239077158931e-13)
# 1/ln 2 and 1/ln 10 to twice the digits.
INVERSE_LN2: Final = (1.4426950408889634, 2.0355273740931033e-17)
INVERSE_LN10: Final = (0.4342944819032518, 1.098319650216765e-17)


def split(b: Lets, x: Expr, normal: bool = False) -> tuple[Var, Var]:
    """(e, m) with x = m 2**e and m in [2/3, 4/3), for finite x > 0; both as floats. `normal`: x is never subnormal."""
    form = format_of(x)
    # The bits of 2/3 as the origin: what is left of it counts whole exponents.
    origin = int(x.dtype.numpy.type(2.0 / 3.0).view(form.integer.numpy))
    tiny = None if normal else b.let("tiny", lt(x, form.tiny))
    scaled = x if tiny is None else select(tiny, mul(x, 2.0**form.fraction), x)
    i = b.let("i", sub(bits(scaled, form.integer), origin))
    m = b.let("m", bits(add(and_(i, (1 << form.fraction) - 1), origin), x.dtype))
    e = cast(shr(i, form.fraction), x.dtype)
    if tiny is not None:
        e = sub(e, select(tiny, lit(float(form.fraction), x.dtype), 0.0))
    return b.let("e", e), m


def log_cases(x: Expr, finite: Expr) -> Expr:
    """The logarithm for every x, given what it is for finite x > 0."""
    inside = select(lt(x, math.inf), finite, x)
    below = select(eq(x, 0.0), lit(-math.inf, x.dtype), math.nan)
    return select(gt(x, 0.0), inside, below)


def log_f32(x: Expr, b: Lets) -> Expr:
    x = b.let("x", x)
    e, m = split(b, x)
    t = b.let("t", sub(m, 1.0))
    p = fma(horner(t, LOG_F32), mul(t, t), t)
    return log_cases(x, fma(e, lit(math.log(2.0), f32), p))


@dataclass(frozen=True, slots=True)
class Log:
    """log m = f - (half - small), with half = f**2/2 and |small| < 0.012."""

    f: Var
    s: Var
    z: Var
    half: Var
    small: Var


def log_of(b: Lets, f: Expr) -> Log:
    """log(1 + f) for |f| <= 1/3."""
    f = b.let("f", f)
    s = b.let("s", div(f, add(f, 2.0)))
    z = b.let("z", mul(s, s))
    half = b.let("w", mul(mul(f, 0.5), f))
    rest = fma(horner(z, ATANH_F64), add(z, z), half)
    return Log(f, s, z, half, b.let("c", mul(s, rest)))


def joined(e: Expr, log: Log, tail: Expr | None = None) -> Expr:
    """e ln 2 + log m, plus a small tail."""
    small: Expr = fma(e, LN2[1], log.small)
    if tail is not None:
        small = add(small, tail)
    return fma(e, LN2[0], sub(log.f, sub(log.half, small)))


def log_f64(x: Expr, b: Lets) -> Expr:
    x = b.let("x", x)
    e, m = split(b, x)
    return log_cases(x, joined(e, log_of(b, sub(m, 1.0))))


def log_of_sum(b: Lets, high: Expr, low: Expr, scale: Expr | None = None) -> Expr:
    """log(high + low) + scale ln 2 for a normal high > 0 and a low of less than half its last place."""
    e, m = split(b, high, normal=True)
    low = b.let("l", shifted(low, negated(e)))
    log = log_of(b, sub(m, 1.0))
    # low/m to two digits, which are all that show: 1/m = 1 - 2 s + 2 s**2 - ...
    tail = fma(low, mul(sub(log.z, log.s), 2.0), low)
    if scale is not None:
        e = b.let("e", add(e, scale))
    return joined(e, log, tail)


def log1p_f64(x: Expr, b: Lets) -> Expr:
    x = b.let("x", x)
    high, low = two_sum(b, lit(1.0, f64), x)
    finite = log_of_sum(b, high, low)
    inside = select(lt(x, math.inf), finite, x)
    below = select(eq(x, -1.0), lit(-math.inf, f64), math.nan)
    return copysign(select(gt(x, -1.0), inside, below), x)


def log_in_base(
    b: Lets, e: Expr, log: Log, unit: tuple[float, float], base: tuple[float, float], low: Expr | None = None
) -> Expr:
    """(log m) * unit + e * base, unit and base in two parts each: exact where the result is whole."""
    high, lost = fast_two_sum(b, log.f, negated(log.half))
    rounding = fma(mul(log.f, 0.5), log.f, negated(log.half))
    rest = add(sub(lost, rounding), log.small)
    if low is not None:
        rest = add(rest, low)
    value = b.let("v", mul(high, unit[0]))
    tail = fma(high, unit[0], negated(value))
    tail = fma(high, unit[1], fma(rest, unit[0], tail))
    whole, left = fast_two_sum(b, b.let("k", mul(e, base[0])), value)
    return add(whole, add(left, fma(e, base[1], tail)))


def log2_f64(x: Expr, b: Lets) -> Expr:
    x = b.let("x", x)
    e, m = split(b, x)
    return log_cases(x, log_in_base(b, e, log_of(b, sub(m, 1.0)), INVERSE_LN2, (1.0, 0.0)))


def log10_f64(x: Expr, b: Lets) -> Expr:
    x = b.let("x", x)
    e, m = split(b, x)
    return log_cases(x, log_in_base(b, e, log_of(b, sub(m, 1.0)), INVERSE_LN10, LOG10_2))


def log2_plus_f64(x: Expr, b: Lets) -> Expr:
    """log2(1 + x) for 0 <= x <= 1."""
    high, low = two_sum(b, lit(1.0, f64), b.let("x", x))
    e, m = split(b, high, normal=True)
    low = b.let("l", shifted(low, negated(e)))
    log = log_of(b, sub(m, 1.0))
    return log_in_base(b, e, log, INVERSE_LN2, (1.0, 0.0), fma(low, mul(sub(log.z, log.s), 2.0), low))


# --- inverse hyperbolic functions -------------------------------------------------------------------------------------

# From here on asinh x and acosh x are log 2x to the last bit.
FAR: Final = 2.0**28


def log_of_one_more(b: Lets, x: Expr, w: Expr) -> Expr:
    """log(1 + w), or log 2x for large x."""
    far = b.let("far", gt(x, FAR))
    high, low = two_sum(b, lit(1.0, f64), b.let("w", w))
    high, low = b.let("h", select(far, x, high)), b.let("l", select(far, lit(0.0, f64), low))
    return log_of_sum(b, high, low, select(far, lit(1.0, f64), 0.0))


def asinh_f64(x: Expr, b: Lets) -> Expr:
    """log(1 + w) with w = a + a**2/(1 + sqrt(1 + a**2)), a = |x|."""
    x = b.let("x", x)
    size = b.let("a", Unary("abs", x))
    square = b.let("w", mul(size, size))
    w = add(size, div(square, add(Unary("sqrt", add(square, 1.0)), 1.0)))
    result = log_of_one_more(b, size, w)
    return copysign(select(lt(size, math.inf), result, size), x)


def acosh_f64(x: Expr, b: Lets) -> Expr:
    """log(1 + w) with w = t + sqrt(t (t + 2)), t = x - 1."""
    x = b.let("x", x)
    t = b.let("t", sub(x, 1.0))
    w = add(t, Unary("sqrt", fma(t, t, add(t, t))))
    result = log_of_one_more(b, x, w)
    inside = select(lt(x, math.inf), result, x)
    return select(lt(x, 1.0), lit(math.nan, f64), inside)


def atanh_f64(x: Expr, b: Lets) -> Expr:
    """log((1 + a)/(1 - a)) / 2 as that of 1 + 2a/(1 - a)."""
    x = b.let("x", x)
    size = b.let("a", Unary("abs", x))
    w = b.let("w", div(add(size, size), sub(lit(1.0, f64), size)))
    high, low = two_sum(b, lit(1.0, f64), w)
    result = mul(log_of_sum(b, high, low), 0.5)
    inside = select(lt(size, 1.0), result, select(eq(size, 1.0), lit(math.inf, f64), math.nan))
    return copysign(inside, x)
