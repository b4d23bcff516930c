"""exp, exp2, expm1 and what is made of them: logistic, softplus, tanh, sinh, cosh.

x = n ln 2 + r with |r| <= ln 2 / 2; a polynomial gives e**r, the exponent gets n. The argument is cut where the result
is 0 or infinite anyway, so that n stays an exponent and r small; the cut lets NaN through. Errors are stated per
function, in units in the last place, with the coefficients' own error; see docs/numerics.md.
"""

from __future__ import annotations

from typing import Final

from ...ir.loops.build import add, copysign, div, fma, lit, lt, mul, select, sub
from ...ir.loops.nodes import Expr, Unary
from .math_writing import Lets, at_least, at_most, horner, nearest, negated, shifted

LOG2E: Final = 1.4426950408889634
# ln 2 in two parts, the first short enough that n times it is exact.
LN2_F32: Final = (0.693145751953125, 1.4286068203094172e-06)

# e**r = 1 + r + r**2 (...); relative error 2**-28.0.
EXP_F32: Final = (
    1.0, 1.0, 0.4999999403953552, 0.1666652113199234, 0.04166838899254799, 0.008368750102818012, 0.0013815253041684628,
)  # fmt: skip
# e**r - 1 = r + r**2 (...); relative error 2**-28.7.
EXPM1_F32: Final = (
    0.5, 0.1666666567325592, 0.04166635870933533, 0.008333389647305012, 0.0013940668432042003,
    0.00019845881615765393,
)  # fmt: skip


def reduced_f32(b: Lets, x: Expr) -> tuple[Expr, Expr]:
    """(n, r) with x = n ln 2 + r, for |x| < 2**20."""
    n, _ = nearest(b, x, LOG2E)
    high, low = LN2_F32
    return n, b.let("r", fma(n, -low, fma(n, -high, x)))


def exp_f32(x: Expr, b: Lets) -> Expr:
    x = b.let("x", at_least(-105.0, at_most(89.0, x)))
    n, r = reduced_f32(b, x)
    return shifted(horner(b, r, EXP_F32), n)


def logistic_f32(x: Expr, b: Lets) -> Expr:
    """1 / (1 + e**-x), from e**-|x| so that nothing overflows and the left tail keeps its digits."""
    x = b.let("x", x)
    small = b.let("e", exp_f32(b.let("a", negated(Unary("abs", x))), b))
    top = select(lt(x, 0.0), small, 1.0)
    return div(top, add(small, 1.0))


def tanh_f32(x: Expr, b: Lets) -> Expr:
    """t / (t + 2) with t = e**2|x| - 1, which keeps the digits near 0. From 10 on it is 1."""
    x = b.let("x", x)
    t = b.let("t", expm1_large_f32(b, b.let("y", mul(at_most(10.0, Unary("abs", x)), 2.0))))
    return copysign(div(t, add(t, 2.0)), x)


def expm1_large_f32(b: Lets, x: Expr) -> Expr:
    """e**x - 1 for |x| <= 80 or so: 2**n - 1 is exact or as good as 2**n."""
    n, r = reduced_f32(b, x)
    p = fma(horner(b, r, EXPM1_F32), b.let("w", mul(r, r)), r)
    scale = b.let("q", shifted(lit(1.0, x.dtype), n))
    return fma(p, scale, sub(scale, 1.0))
