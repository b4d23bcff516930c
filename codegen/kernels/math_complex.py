"""Functions of complex numbers, written in real ones: each takes the parts of its operands and gives those of its
result, in f64; c64 is computed so too and rounded at the end.

What overflows in the formula but not in the result is scaled: exponentials are kept as a number near 1 and an exponent
until the sine or cosine has been multiplied to them, squares are taken of numbers near 1. Where real and imaginary
parts cancel (the logarithm near the unit circle) the sum is kept in two floats. Branch cuts and special values are
those of C99, annex G, which NumPy has too; where the annex leaves a sign open, the real functions decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, TypeAlias

from ...ir.dtypes import f64, real_of
from ...ir.loops.build import (
    add,
    and_,
    cast,
    copysign,
    div,
    eq,
    fma,
    gt,
    lit,
    lt,
    mul,
    not_,
    or_,
    select,
    sub,
)
from ...ir.loops.nodes import Binary, Expr, Unary, Var
from .math_exp import LONG, reduced
from .math_exp import expm1 as real_expm1
from .math_exp import sinh as real_sinh
from .math_log import INVERSE_LN2, INVERSE_LN10, asinh_f64, log1p_f64, log_f64, log_of_sum, split
from .math_root import hypot_f64
from .math_trig import atan2_f64, sine_and_cosine
from .math_writing import (
    Lets,
    at_least,
    at_most,
    fast_two_sum,
    horner,
    negated,
    shifted,
    two_product,
    two_sum,
)  # fmt: skip

Pair: TypeAlias = tuple[Expr, Expr]
INFINITY: Final = lit(math.inf, f64)
NAN: Final = lit(math.nan, f64)
ZERO: Final = lit(0.0, f64)
ONE: Final = lit(1.0, f64)
LN2_TAIL: Final = 2.3190468138462996e-17  # of ln 2, beyond its f64


def size_of(b: Lets, x: Expr) -> Var:
    return b.let("size", Unary("abs", x))


def is_infinite(x: Expr) -> Expr:
    return eq(Unary("abs", x), math.inf)


def signed(size: float, sign: Expr) -> Expr:
    """The number with the sign of another, + for NaN, whose sign is nobody's."""
    return copysign(lit(size, f64), select(Unary("isnan", sign), ONE, sign))


# --- exponentials -----------------------------------------------------------------------------------------------------


def exponential(b: Lets, x: Expr) -> tuple[Var, Var]:
    """(p, n) with e**x = p 2**n and p near 1. Below the cut even 2**53 times the result is 0; above it the result
    times the least number is infinite, so that what is multiplied to p may be as small as that."""
    n, r = reduced(b, b.let("c", at_least(-800.0, at_most(1500.0, x))))
    return b.let("p", horner(r, LONG.exp)), n


def turned(b: Lets, p: Expr, n: Expr, sine: Expr, cosine: Expr, x: Expr, y: Expr) -> Pair:
    """p 2**n (cosine + i sine): e**x at the angle y, with C99's answers where x is infinite or NaN."""
    real: Expr = shifted(mul(p, cosine), n)
    imaginary: Expr = shifted(mul(p, sine), n)
    # e**inf is infinite in a direction that an infinite y leaves open; e**-inf is 0 whatever y is.
    lost = b.let("lost", not_(Unary("isfinite", y)))
    grown, gone = b.let("grown", eq(x, math.inf)), b.let("gone", eq(x, -math.inf))
    real = select(and_(lost, gone), ZERO, select(and_(lost, grown), INFINITY, real))
    imaginary = select(and_(lost, gone), signed(0.0, y), imaginary)
    return real, select(eq(y, 0.0), y, imaginary)


def exp(b: Lets, x: Var, y: Var) -> Pair:
    p, n = exponential(b, x)
    sine, cosine = sine_and_cosine(b, y)
    return turned(b, p, n, sine, cosine, x, y)


def exp2(b: Lets, x: Var, y: Var) -> Pair:
    """2**x at the angle y ln 2. The whole part of x is the exponent."""
    bounded = b.let("c", at_least(-1200.0, at_most(2200.0, x)))
    n = b.let("n", Unary("rint", bounded))
    p = b.let("p", horner(b.let("r", sub(bounded, n)), LONG.exp2))
    # What rounding the angle lost is small up to |y| = 2**20, where its cosine is still 1.
    angle, low = two_product(b, y, lit(math.log(2.0), f64))
    low = b.let("low", fma(y, LN2_TAIL, low))
    lost = b.let("lost", select(lt(Unary("abs", low), 2.0**-10), low, ZERO))
    sine, cosine = sine_and_cosine(b, angle)
    sine, cosine = b.let("s", fma(cosine, lost, sine)), b.let("c", fma(negated(sine), lost, cosine))
    return turned(b, p, n, sine, cosine, x, b.let("y", select(eq(y, 0.0), y, angle)))


def expm1(b: Lets, x: Var, y: Var) -> Pair:
    """(e**x - 1) cos y - 2 sin(y/2)**2 and e**x sin y, which lose no digits near 0. Special values are what the formula
    makes of them, as in NumPy; C has no such function."""
    p, n = exponential(b, x)
    sine, cosine = sine_and_cosine(b, y)
    half, _ = sine_and_cosine(b, b.let("half", mul(y, 0.5)))
    real = fma(mul(half, half), -2.0, mul(b.let("m", real_expm1(x, b)), cosine))
    return real, mul(b.let("e", shifted(p, n)), sine)


# --- logarithms -------------------------------------------------------------------------------------------------------


def log_modulus(b: Lets, x: Var, y: Var) -> Expr:
    """log |x + iy| = e ln 2 + log(m**2 + k**2)/2 with the larger part m 2**e; the sum of squares keeps its digits where
    it is near 1."""
    a, c = size_of(b, x), size_of(b, y)
    swap = b.let("swap", gt(c, a))
    most, least = b.let("most", select(swap, c, a)), b.let("least", select(swap, a, c))
    e, m = split(b, most)
    high, low = squares(b, m, b.let("k", shifted(least, negated(e))))
    finite = mul(log_of_sum(b, high, low, b.let("scale", add(e, e))), 0.5)
    result = select(eq(most, 0.0), lit(-math.inf, f64), finite)
    result = select(or_(Unary("isnan", x), Unary("isnan", y)), NAN, result)
    return select(or_(eq(a, math.inf), eq(c, math.inf)), INFINITY, result)


def squares(b: Lets, x: Var, y: Var) -> tuple[Var, Var]:
    """x**2 + y**2 in two floats, for |x| >= |y|."""
    first, first_low = two_product(b, x, x)
    second, second_low = two_product(b, y, y)
    total, lost = fast_two_sum(b, first, second)
    return fast_two_sum(b, total, b.let("rest", add(lost, add(first_low, second_low))))


def log(b: Lets, x: Var, y: Var) -> Pair:
    return log_modulus(b, x, y), atan2_f64(y, x, b)


def log_in(unit: float) -> Callable[[Lets, Var, Var], Pair]:
    def write(b: Lets, x: Var, y: Var) -> Pair:
        real, imaginary = log(b, x, y)
        return mul(real, unit), mul(imaginary, unit)

    return write


log2, log10 = log_in(INVERSE_LN2[0]), log_in(INVERSE_LN10[0])


def log1p(b: Lets, x: Var, y: Var) -> Pair:
    """|1 + z|**2 = 1 + t with t = 2 x + x**2 + y**2 in two floats; for large numbers the modulus of 1 + z as it is."""
    near = b.let("near", lt(b.let("a", add(size_of(b, x), size_of(b, y))), 2.0**60))
    u, v = b.let("u", select(near, x, ZERO)), b.let("v", select(near, y, ZERO))
    first, first_low = two_product(b, u, u)
    second, second_low = two_product(b, v, v)
    total, lost = two_sum(b, first, second)
    t, more = two_sum(b, b.let("twice", add(u, u)), total)
    rest = b.let("rest", add(add(lost, more), add(first_low, second_low)))
    high, low = two_sum(b, ONE, t)
    high, low = two_sum(b, high, b.let("low", add(low, rest)))
    # So near to -1 the squares would leave the range, but 1 + z is exact.
    near = b.let("near", and_(near, gt(high, 2.0**-900)))
    inside = mul(log_of_sum(b, b.let("high", select(near, high, ONE)), low), 0.5)
    shift = b.let("shift", add(x, 1.0))
    real = select(near, inside, log_modulus(b, shift, y))
    return real, atan2_f64(y, shift, b)


# --- roots and powers -------------------------------------------------------------------------------------------------


def sqrt(b: Lets, x: Var, y: Var) -> Pair:
    """t = sqrt((|x| + |z|)/2) and y/(2 t), one the real and one the imaginary part, as the sign of x has it."""
    a, c = size_of(b, x), size_of(b, y)
    most = b.let("most", select(gt(c, a), c, a))
    small, large = b.let("small", lt(most, 2.0**-500)), b.let("large", gt(most, 2.0**500))
    scale = b.let("scale", select(small, lit(2.0**600, f64), select(large, lit(2.0**-600, f64), 1.0)))
    back = select(small, lit(2.0**-300, f64), select(large, lit(2.0**300, f64), 1.0))
    a_near, c_near = b.let("v", mul(a, scale)), b.let("v", mul(c, scale))
    modulus = Unary("sqrt", fma(a_near, a_near, mul(c_near, c_near)))
    root = b.let("root", mul(Unary("sqrt", mul(add(a_near, modulus), 0.5)), back))
    other = b.let("other", div(mul(c, 0.5), root))
    right = b.let("right", not_(Unary("signbit", x)))
    real: Expr = select(right, root, other)
    imaginary: Expr = copysign(select(right, other, root), y)
    # Infinite parts, zeros.
    flat = eq(a, math.inf)
    real = select(flat, select(right, INFINITY, select(Unary("isnan", y), NAN, ZERO)), real)
    imaginary = select(
        flat, select(right, select(Unary("isnan", y), y, signed(0.0, y)), signed(math.inf, y)), imaginary
    )
    zero = b.let("zero", eq(most, 0.0))
    real, imaginary = select(zero, ZERO, real), select(zero, y, imaginary)
    upright = b.let("upright", eq(c, math.inf))
    lost = and_(or_(Unary("isnan", x), Unary("isnan", y)), not_(flat))
    real, imaginary = select(lost, NAN, real), select(lost, NAN, imaginary)
    return select(upright, INFINITY, real), select(upright, y, imaginary)


def quotient(b: Lets, top: Pair, bottom: Pair) -> Pair:
    found = b.let("q", div(Binary("complex", *top), Binary("complex", *bottom)))
    return Unary("real", found), Unary("imag", found)


def rsqrt(b: Lets, x: Var, y: Var) -> Pair:
    return quotient(b, (ONE, ZERO), sqrt(b, x, y))


def product(b: Lets, p: Pair, q: Pair) -> tuple[Var, Var]:
    (a, c), (d, e) = p, q
    return b.let("u", sub(mul(a, d), mul(c, e))), b.let("v", add(mul(a, e), mul(c, d)))


def power(b: Lets, x: Var, y: Var, s: Var, t: Var) -> Pair:
    """e**(w log z); by products where z is finite and w = s + it a whole number below 100 in size, which is
    exact for small ones. z**0 is 1; 0**w is 0 for a positive real part of w, and else NaN, as in NumPy."""
    length, angle = log_modulus(b, x, y), atan2_f64(y, x, b)
    length, angle = b.let("length", length), b.let("angle", angle)
    # A real exponent leaves the angle finite where the logarithm is not.
    real = b.let("ex", sub(mul(s, length), mul(t, angle)))
    ahead = mul(s, angle)
    flat = and_(eq(t, 0.0), not_(Unary("isfinite", length)))
    turn = b.let("ey", select(flat, ahead, add(ahead, mul(t, length))))
    result = exp(b, real, turn)
    count = size_of(b, s)
    integral = and_(eq(t, 0.0), eq(Unary("rint", s), s))
    whole = b.let("whole", and_(and_(integral, lt(count, 100.0)), lt(length, math.inf)))
    left = b.let("left", select(whole, count, ZERO))
    found: tuple[Expr, Expr] = (ONE, ZERO)
    square: tuple[Var, Var] = (x, y)
    for place in range(7):
        half = b.let("half", Unary("floor", mul(left, 0.5)))
        taken = b.let("taken", gt(fma(half, -2.0, left), 0.5))
        multiplied: Pair = square if place == 0 else product(b, found, square)
        if place == 1:  # a square is itself, not 1 times that, which may lose the sign of a zero
            only = eq(count, 2.0)
            multiplied = (select(only, square[0], multiplied[0]), select(only, square[1], multiplied[1]))
        chosen = [select(taken, new, old) for new, old in zip(multiplied, found)]
        found = (b.let("fx", chosen[0]), b.let("fy", chosen[1]))
        left = half
        if place < 6:
            square = product(b, square, square)
    negative = b.let("negative", lt(s, 0.0))
    inverse = quotient(b, (ONE, ZERO), found)
    by_products = (select(negative, inverse[0], found[0]), select(negative, inverse[1], found[1]))
    nothing = b.let("nothing", and_(eq(x, 0.0), eq(y, 0.0)))
    of_zero = b.let("of", select(gt(s, 0.0), ZERO, NAN))
    one = b.let("one", and_(eq(s, 0.0), eq(t, 0.0)))
    parts = []
    for exponential_, by_product, of_one in zip(result, by_products, (ONE, ZERO)):
        value = select(nothing, of_zero, select(whole, by_product, exponential_))
        parts.append(select(one, of_one, value))
    return parts[0], parts[1]


# --- trigonometric and hyperbolic functions ---------------------------------------------------------------------------


def sinh_and_cosh(b: Lets, x: Var, y: Var) -> tuple[Pair, Pair]:
    """sinh(x + iy) = sinh x cos y + i cosh x sin y, cosh(x + iy) = cosh x cos y + i sinh x sin y."""
    sine, cosine = sine_and_cosine(b, y)
    size = size_of(b, x)
    p, n = exponential(b, size)
    far = b.let("far", gt(size, 40.0))
    n = b.let("n", sub(n, 1.0))
    half = b.let("half", shifted(p, b.let("m", select(far, ZERO, n))))
    quarter = b.let("quarter", div(lit(0.25, f64), half))
    sh = b.let("sh", real_sinh(b.let("near", select(far, ZERO, x)), b))
    ch = b.let("ch", add(half, quarter))
    leading = b.let("leading", copysign(p, x))

    def times(near: Expr, much: Expr, factor: Expr) -> Expr:
        return b.let("part", select(far, shifted(mul(much, factor), n), mul(near, factor)))

    sinh_real, sinh_imaginary = times(sh, leading, cosine), times(ch, p, sine)
    cosh_real, cosh_imaginary = times(ch, p, cosine), times(sh, leading, sine)
    # Nothing times something infinite or unknown is nothing; an infinite size at an unknown angle is infinite.
    lost = b.let("lost", not_(Unary("isfinite", y)))
    endless = b.let("endless", and_(lost, eq(size, math.inf)))
    flat, level = b.let("flat", eq(x, 0.0)), b.let("level", eq(y, 0.0))
    sinh_real = select(and_(flat, lost), x, select(endless, x, sinh_real))
    sinh_imaginary = select(level, y, sinh_imaginary)
    cosh_real = select(endless, INFINITY, cosh_real)
    no_turn = b.let("no", mul(copysign(ONE, x), y))
    cosh_imaginary = select(level, no_turn, select(and_(flat, lost), ZERO, cosh_imaginary))
    return (sinh_real, sinh_imaginary), (cosh_real, cosh_imaginary)


def sinh(b: Lets, x: Var, y: Var) -> Pair:
    return sinh_and_cosh(b, x, y)[0]


def cosh(b: Lets, x: Var, y: Var) -> Pair:
    return sinh_and_cosh(b, x, y)[1]


def sin(b: Lets, x: Var, y: Var) -> Pair:
    """-i sinh(iz)."""
    imaginary, real = sinh(b, y, x)
    return real, imaginary


def cos(b: Lets, x: Var, y: Var) -> Pair:
    """cosh(iz)."""
    return cosh(b, b.let("minus", negated(y)), x)


def tanh(b: Lets, x: Var, y: Var) -> Pair:
    """(sinh x cosh x + i sin y cos y) / (sinh(x)**2 + cos(y)**2)."""
    sine, cosine = sine_and_cosine(b, y)
    size = size_of(b, x)
    far = b.let("far", gt(size, 22.0))
    near = b.let("near", select(far, ZERO, x))
    sh = b.let("sh", real_sinh(near, b))
    half = b.let("half", shifted(*exponential(b, b.let("bounded", at_most(400.0, size)))))
    ch = b.let("ch", mul(add(half, div(ONE, half)), 0.5))
    bottom = b.let("bottom", fma(sh, sh, mul(cosine, cosine)))
    real: Expr = div(mul(sh, ch), bottom)
    imaginary: Expr = div(mul(sine, cosine), bottom)
    # 1, and what is left of the angle: 4 sin y cos y e**-2|x|.
    one = copysign(ONE, x)
    left = div(div(mul(mul(sine, cosine), 4.0), half), half)
    unknown = b.let("unknown", and_(eq(size, math.inf), not_(Unary("isfinite", y))))
    real = select(far, one, real)
    imaginary = select(far, select(unknown, signed(0.0, y), left), imaginary)
    lost = b.let("lost", not_(Unary("isfinite", y)))
    real = select(and_(lost, and_(far, not_(eq(size, math.inf)))), NAN, real)
    real = select(and_(lost, eq(x, 0.0)), x, real)
    return real, select(eq(y, 0.0), y, imaginary)


def tan(b: Lets, x: Var, y: Var) -> Pair:
    """-i tanh(iz)."""
    imaginary, real = tanh(b, y, x)
    return real, imaginary


# --- inverses ---------------------------------------------------------------------------------------------------------


def beside(b: Lets, x: Var, y: Var) -> tuple[Pair, Pair]:
    """The roots of 1 - z and 1 + z (Kahan, "Branch cuts for complex elementary functions", 1987): their imaginary
    parts have opposite signs, so that nothing cancels in their products."""
    minus = sqrt(b, b.let("m", sub(ONE, x)), b.let("i", negated(y)))
    plus = sqrt(b, b.let("p", add(x, 1.0)), y)
    return (b.let("mr", minus[0]), b.let("mi", minus[1])), (b.let("pr", plus[0]), b.let("pi", plus[1]))


# Beyond, 1 shows no more beside the square of the argument, and products of roots might overflow.
FAR: Final = 2.0**60


def asin_and_acos(b: Lets, x: Var, y: Var) -> tuple[Pair, Pair]:
    """Their imaginary parts are opposite; the real ones are angles, each computed by itself so that both keep their
    digits near 0."""
    a, c = size_of(b, x), size_of(b, y)
    (mr, mi), (pr, pi) = beside(b, x, y)
    far = b.let("far", or_(gt(a, FAR), gt(c, FAR)))
    across = b.let("across", select(far, c, sub(mul(mr, pr), mul(mi, pi))))
    along = b.let("along", select(far, ONE, Unary("abs", sub(mul(mr, pi), mul(mi, pr)))))
    distant = add(log_modulus(b, x, y), math.log(2.0))
    length = b.let("length", select(far, distant, asinh_f64(along, b)))
    # acos z = 2 atan(Re sqrt(1 - z) / Re sqrt(1 + z))
    top, bottom = b.let("top", select(far, c, mr)), b.let("bottom", select(far, x, pr))
    arc = mul(atan2_f64(top, bottom, b), select(far, ONE, lit(2.0, f64)))
    # Beside NaN a length is still infinite, and the angle known only on the imaginary axis.
    unknown = b.let("unknown", or_(Unary("isnan", x), Unary("isnan", y)))
    endless = or_(eq(a, math.inf), eq(c, math.inf))
    length = b.let("length", select(unknown, select(endless, INFINITY, NAN), length))
    upright = b.let("upright", eq(x, 0.0))
    imaginary = b.let("imaginary", mul(signed(1.0, y), length))
    first = select(unknown, select(upright, x, NAN), atan2_f64(x, across, b))
    second = select(unknown, select(upright, lit(math.pi / 2, f64), NAN), arc)
    return (first, imaginary), (second, b.let("opposite", negated(imaginary)))


def asin(b: Lets, x: Var, y: Var) -> Pair:
    return asin_and_acos(b, x, y)[0]


def acos(b: Lets, x: Var, y: Var) -> Pair:
    return asin_and_acos(b, x, y)[1]


def acosh(b: Lets, x: Var, y: Var) -> Pair:
    """i acos z or -i acos z, whichever has a real part that is not negative."""
    real, imaginary = acos(b, x, y)
    known = b.let("known", not_(Unary("isnan", y)))
    return Unary("abs", imaginary), select(known, copysign(real, y), real)


def asinh(b: Lets, x: Var, y: Var) -> Pair:
    """-i asin(iz)."""
    imaginary, real = asin(b, y, x)
    return real, imaginary


def atanh(b: Lets, x: Var, y: Var) -> Pair:
    """log(1 + 4 x/((1 - x)**2 + y**2))/4, and half the angle of 1 - x**2 - y**2 + 2 iy."""
    a, c = size_of(b, x), size_of(b, y)
    far = b.let("far", or_(gt(a, FAR), gt(c, FAR)))
    edge = b.let("edge", and_(eq(a, 1.0), lt(c, 2.0**-400)))
    rest = b.let("rest", sub(ONE, a))
    bottom = b.let("bottom", select(edge, ONE, fma(rest, rest, mul(c, c))))
    near = mul(log1p_f64(b.let("ratio", div(mul(a, 4.0), bottom)), b), 0.25)
    pole = mul(sub(lit(math.log(2.0), f64), log_f64(c, b)), 0.5)
    # x/(x**2 + y**2)
    most = b.let("most", select(gt(c, a), c, a))
    u, v = b.let("u", div(a, most)), b.let("v", div(c, most))
    share = div(mul(u, 0.5), mul(mul(most, 0.5), fma(u, u, mul(v, v))))
    away = select(eq(most, math.inf), ZERO, share)
    real = b.let("real", copysign(select(far, away, select(edge, pole, near)), x))
    angle = mul(atan2_f64(add(c, c), b.let("w", fma(negated(c), c, mul(rest, add(a, 1.0)))), b), 0.5)
    quarter = lit(math.pi / 2, f64)
    imaginary = b.let("imaginary", copysign(select(far, quarter, angle), y))
    # Beside NaN, what does not depend on it.
    unknown = b.let("unknown", or_(Unary("isnan", x), Unary("isnan", y)))
    nothing = select(eq(x, 0.0), x, select(eq(a, math.inf), signed(0.0, x), select(eq(c, math.inf), ZERO, NAN)))
    upright = select(eq(c, math.inf), signed(math.pi / 2, y), NAN)
    return select(unknown, nothing, real), select(unknown, upright, imaginary)


def atan(b: Lets, x: Var, y: Var) -> Pair:
    """-i atanh(iz)."""
    imaginary, real = atanh(b, y, x)
    return real, imaginary


UNARY: Final[dict[str, Callable[[Lets, Var, Var], Pair]]] = {
    "exp": exp,
    "exp2": exp2,
    "expm1": expm1,
    "log": log,
    "log2": log2,
    "log10": log10,
    "log1p": log1p,
    "sqrt": sqrt,
    "rsqrt": rsqrt,
    "sin": sin,
    "cos": cos,
    "tan": tan,
    "sinh": sinh,
    "cosh": cosh,
    "tanh": tanh,
    "asin": asin,
    "acos": acos,
    "atan": atan,
    "asinh": asinh,
    "acosh": acosh,
    "atanh": atanh,
}


def parts_of(b: Lets, z: Expr) -> tuple[Var, Var]:
    """The real and the imaginary part, in f64."""
    return b.let("re", cast(Unary("real", z), f64)), b.let("im", cast(Unary("imag", z), f64))


def joined(parts: Pair, like: Expr) -> Expr:
    x, y = parts
    part = real_of(like.dtype)
    return Binary("complex", cast(x, part), cast(y, part))


def of_one(write: Callable[[Lets, Var, Var], Pair]) -> Callable[[Expr, Lets], Expr]:
    return lambda z, b: joined(write(b, *parts_of(b, z)), z)


def modulus(z: Expr, b: Lets) -> Expr:
    return cast(hypot_f64(*parts_of(b, z), b), real_of(z.dtype))


def pow_of(z: Expr, w: Expr, b: Lets) -> Expr:
    return joined(power(b, *parts_of(b, z), *parts_of(b, w)), z)


WRITERS: Final[dict[str, Callable[..., Expr]]] = {
    **{op: of_one(write) for op, write in UNARY.items()},
    "abs": modulus,
    "pow": pow_of,
}
