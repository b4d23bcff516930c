"""pow: 2**(y log2 |x|), and the cases that C99 lists.

With results up to 2**1024 the logarithm needs ten bits more than f64 has, so it is kept in two floats throughout:
log x = 2 (s + s**3/3 + ...) with s = (m - 1)/(m + 1). For results in f32 one f64 is enough.
"""

from __future__ import annotations

import math
from typing import Final

from ...ir.dtypes import f32, f64
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
    ne,
    not_,
    or_,
    select,
    sub,
)  # fmt: skip
from ...ir.loops.nodes import Expr, Unary, Var
from .math_exp import LONG
from .math_log import split
from .math_writing import (
    Lets,
    at_least,
    at_most,
    fast_two_sum,
    horner,
    nearest,
    negated,
    shifted,
    two_product,
)  # fmt: skip

# atanh s = s + s**3/3 + s**5 (...) on |s| <= 1/5: 2**-66.3
ATANH_REST: Final = (
    0.2, 0.14285714285713078, 0.11111111111421136, 0.09090909049040766, 0.0769231104133341, 0.0666649982067584,
    0.058875781781050726, 0.051635062845836854, 0.058070172396387607,
)  # fmt: skip
# For results in f32, atanh s = s + s**3 (...) and 2**r: 2**-35.4, 2**-28.9
ATANH_SHORT: Final = (0.3333333154835833, 0.2000043055473639, 0.1425354750028476, 0.12049604180875531)
EXP2_SHORT: Final = (
    1.0, 0.6931472028547613, 0.2402264791352261, 0.0555033247159439, 0.009618437373103226, 0.0013398874282215185,
    0.00015353357481004732,
)  # fmt: skip
THIRD: Final = (1.0 / 3.0, 1.850371707708594e-17)
TWO_BY_LN2: Final = (2.8853900817779268, 4.0710547481862066e-17)


def log2_in_two(b: Lets, e: Expr, f: Var) -> tuple[Var, Var]:
    """log2((1 + f) 2**e) as a sum of two f64, relative error about 2**-64."""
    bottom = b.let("d", add(f, 2.0))
    lost = sub(f, sub(bottom, 2.0))
    s = b.let("s", div(f, bottom))
    left = fma(negated(s), lost, fma(negated(s), bottom, f))
    # 1/(2 + f) = (1 - s)/2
    s_low = b.let("sl", mul(left, fma(s, -0.5, 0.5)))
    z, z_lost = two_product(b, s, s)
    z_low = b.let("zl", fma(mul(s, 2.0), s_low, z_lost))
    p, p_lost = fast_two_sum(b, lit(THIRD[0], f64), b.let("t", mul(z, horner(z, ATANH_REST))))
    p_low = b.let("pl", add(p_lost, THIRD[1]))
    w, w_lost = two_product(b, z, p)
    w_low = b.let("wl", fma(z, p_low, fma(z_low, p, w_lost)))
    v, v_lost = two_product(b, s, w)
    v_low = fma(s, w_low, fma(s_low, w, v_lost))
    high, lost_sum = fast_two_sum(b, s, v)
    low = b.let("low", add(lost_sum, add(s_low, v_low)))
    t, t_lost = two_product(b, high, lit(TWO_BY_LN2[0], f64))
    t_low = fma(high, TWO_BY_LN2[1], fma(low, TWO_BY_LN2[0], t_lost))
    whole, left_over = fast_two_sum(b, e, t)
    return fast_two_sum(b, whole, b.let("tail", add(left_over, t_low)))


def power(b: Lets, e: Expr, f: Var, y: Var) -> Expr:
    """((1 + f) 2**e) ** y."""
    high, low = log2_in_two(b, e, f)
    product, lost = two_product(b, y, high)
    # Where the result is 0 or infinite anyway the tail is of no use, and may be NaN.
    inside = lt(Unary("abs", product), 1100.0)
    tail = select(inside, fma(y, low, lost), 0.0)
    n, r = exponent(b, product)
    return shifted(horner(b.let("r", add(r, tail)), LONG.exp2), n)


def power_short(b: Lets, e: Expr, f: Var, y: Var) -> Expr:
    """The same for results in f32."""
    s = b.let("s", div(f, add(f, 2.0)))
    z = b.let("z", mul(s, s))
    atanh = fma(mul(s, z), horner(z, ATANH_SHORT), s)
    n, r = exponent(b, b.let("h", mul(y, fma(atanh, TWO_BY_LN2[0], e))))
    return shifted(horner(b.let("r", r), EXP2_SHORT), n)


def exponent(b: Lets, product: Var) -> tuple[Var, Expr]:
    """The nearest whole number and the rest, cut where 2**product leaves the range."""
    bounded = b.let("c", at_least(-1100.0, at_most(1100.0, product)))
    n, _ = nearest(b, bounded, 1.0)
    return n, sub(bounded, n)


def pow_of(x: Var, y: Var, b: Lets, short: bool) -> Expr:
    size = b.let("a", Unary("abs", x))
    e, m = split(b, size)
    finite = (power_short if short else power)(b, e, b.let("f", sub(m, 1.0)), y)
    infinite_y = b.let("infinite", eq(Unary("abs", y), math.inf))
    # 0 and infinity to a power, and all to the power of infinity, are 0 or infinite, but for 1.
    extreme = or_(or_(eq(size, 0.0), eq(size, math.inf)), infinite_y)
    grows = eq(gt(size, 1.0), gt(y, 0.0))
    limit = select(eq(size, 1.0), lit(1.0, f64), select(grows, lit(math.inf, f64), 0.0))
    result: Expr = select(extreme, limit, finite)
    # A negative number has powers with a whole exponent only; odd ones keep its sign.
    half = b.let("half", mul(y, 0.5))
    whole = eq(Unary("rint", y), y)
    odd = and_(whole, ne(Unary("rint", half), half))
    sign = select(and_(odd, not_(infinite_y)), x, 1.0)
    result = copysign(result, sign)
    root = and_(and_(lt(x, 0.0), gt(x, -math.inf)), not_(whole))
    result = select(root, lit(math.nan, f64), result)
    result = select(or_(Unary("isnan", x), Unary("isnan", y)), lit(math.nan, f64), result)
    return select(or_(eq(y, 0.0), eq(x, 1.0)), lit(1.0, f64), result)


def pow_f64(x: Expr, y: Expr, b: Lets) -> Expr:
    return pow_of(b.let("x", x), b.let("y", y), b, short=False)


def pow_f32(x: Expr, y: Expr, b: Lets) -> Expr:
    return cast(pow_of(b.let("x", cast(x, f64)), b.let("y", cast(y, f64)), b, short=True), f32)
