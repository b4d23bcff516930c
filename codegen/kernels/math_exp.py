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
from ...ir.dtypes import f32, i32
from ...ir.loops.build import add, bits, copysign, div, eq, fma, lit, lt, maximum, mul, select, shl, sub
from ...ir.loops.nodes import Expr, Unary, Var
from .math_log import log1p_f64, log2_plus_f64
from .math_writing import (
    F32,
    Lets,
    at_least,
    at_most,
    format_of,
    horner,
    looked_up,
    low_bits,
    nearest,
    negated,
    octave_piece,
    odd,
    piecewise,
    shifted,
)

LOG2E: Final = 1.4426950408889634
LN2_F32: Final = 0.6931471824645996


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

# tanh(a) by powers of a - left, on the eighths of the powers of two of a + 5/8, for 0 <= a <= 9.2, in the order of the
# bits that number them: 2**-24.6
TANH_F32: Final = (
    (0.8798267245292664, 0.9253461956977844, 0.9540452361106873, 0.9718727469444275, 0.9828450083732605,
     0.9895597696304321, 0.9936546087265015, 0.996146559715271, 0.9976609945297241, 0.9991388916969299,
     0.999683141708374, 0.9998834133148193, 0.9999570846557617, 0.9999842047691345, 0.9999942183494568,
     0.9999978542327881, 0.9999992251396179, 0.9999998807907104, 0.0, 0.06241874769330025, 0.12435299903154373,
     0.18533320724964142, 0.24491865932941437, 0.3027097284793854, 0.35835739970207214, 0.46211716532707214,
     0.5545997023582458, 0.6351489424705505, 0.7039055824279785, 0.7615941762924194, 0.8093010783195496,
     0.8482836484909058),
    (0.22590526938438416, 0.143733948469162, 0.08979637920856476, 0.05546138808131218, 0.034015171229839325,
     0.02076951414346695, 0.012651198543608189, 0.007689967285841703, 0.004669311922043562, 0.0017202646704390645,
     0.0006329197203740478, 0.0002330923598492518, 8.64801841089502e-05, 3.2036816264735535e-05,
     1.0908556760114152e-05, 4.57991973235039e-06, 1.3981428992337896e-06, 4.4723623204845353e-07, 1.0,
     0.9961034655570984, 0.9845368266105652, 0.9656495451927185, 0.9400154948234558, 0.9083669781684875,
     0.8715800046920776, 0.7864482402801514, 0.6924229860305786, 0.5965884327888489, 0.504520833492279,
     0.4199734628200531, 0.3450317978858948, 0.2804144024848938),
    (-0.19879281520843506, -0.13296930491924286, -0.08561296761035919, -0.05384247750043869, -0.03340015560388565,
     -0.020510343834757805, -0.012569582089781761, -0.007624585647135973, -0.004612503107637167,
     -0.0017016064375638962, -0.0006247884011827409, -0.000231294019613415, -9.040198347065598e-05,
     -3.488796210149303e-05, -6.390105227183085e-06, -6.515532277262537e-06, -8.829327953208121e-07,
     -1.2526708133009379e-06, 8.09573339211056e-06, -0.062135953456163406, -0.12244689464569092,
     -0.17883151769638062, -0.2302584946155548, -0.2749751806259155, -0.31234011054039, -0.36348849534988403,
     -0.3841857612133026, -0.3790556490421295, -0.355300635099411, -0.31986886262893677, -0.279263436794281,
     -0.23787418007850647),
    (0.10012031346559525, 0.07474084198474884, 0.051126740872859955, 0.03326179087162018, 0.021115364506840706,
     0.013025028631091118, 0.008166622370481491, 0.004802271723747253, 0.0028300248086452484, 0.0010461484780535102,
     0.0003807197790592909, 0.00014358412590809166, 6.69226938043721e-05, 2.8967217076569796e-05,
     -6.532000043080188e-06, 8.704937499715015e-06, -1.1131237265260552e-08, 1.8085605688611395e-06,
     -0.33398163318634033, -0.32960113883018494, -0.3131054937839508, -0.29210329055786133, -0.25657740235328674,
     -0.21964827179908752, -0.17860020697116852, -0.09285029023885727, -0.014880960807204247, 0.04441523551940918,
     0.08465856313705444, 0.10461672395467758, 0.1118132472038269, 0.10864624381065369),
    (-0.024740075692534447, -0.023468220606446266, -0.017826832830905914, -0.012193246744573116,
     -0.008057461120188236, -0.004897570703178644, -0.0032986116129904985, -0.0016813463298603892,
     -0.0009184555383399129, -0.00034028381924144924, -0.00012122140469728038, -4.759488729177974e-05,
     -2.993507223436609e-05, -1.4857091628073249e-05, 9.736724678077735e-06, -6.242408289836021e-06,
     1.6565601868023805e-07, -9.380393066749093e-07, 0.016620351001620293, 0.06383676081895828, 0.09164935350418091,
     0.14640407264232635, 0.14345315098762512, 0.16264155507087708, 0.1695750653743744, 0.15312084555625916,
     0.11608728766441345, 0.07824654132127762, 0.039697084575891495, 0.01570216566324234, -0.005347912199795246,
     -0.017057357355952263),
)  # fmt: skip
# For exponentials by sixteenths of a power of two: ln 2 / 16 in two parts, the first of 12 bits, so that n times it is
# exact; e**r = 1 + r (c0 + c1 r + ...) for |r| <= ln 2 / 32, 2**-29.2. The powers of a scale times 2**(j/16) stand as
# bits less j << 19, which come with the bits of the number that is looked up. A scale is such that its sixteen are
# nearly f32, and that the roundings of the function in which they stand meet where they count least.
SIXTEENTH: Final = (0.0433197021484375, 1.9966364561696537e-06)
SIXTEENTH_EXP: Final = (1.0, 0.5000162124633789, 0.16667219996452332)
POWERS_UNIT: Final = 2.0**-25
LOGISTIC_SCALE: Final = 0.7220522165298462 / POWERS_UNIT
LOGISTIC_POWERS: Final = (
    1270405226, 1270417272, 1270453063, 1270513651, 1270600134, 1270713658, 1270855420, 1271026671, 1271051414,
    1270906371, 1270778119, 1270667401, 1270574993, 1270501706, 1270448387, 1270415919,
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


def power_of_sixteenths(b: Lets, powers: tuple[int, ...], held: Var) -> Var:
    """The scale of the table times 2**(n/16) for the n which `nearest` holds; it must be a normal number."""
    fraction = looked_up(b.table("powers", i32, powers), low_bits(b, held, 4))
    return b.let("p", bits(add(fraction, shl(bits(held, i32), F32.fraction - 4)), f32))


def logistic_f32(x: Expr, b: Lets) -> Expr:
    """s e**x / (s e**x + s) with a scale s, so large that the power is a normal number wherever the result is not 0:
    the division alone rounds a result that is not normal. e**x = 2**(n/16) e**r; the sixteenths are looked up."""
    x = b.let("x", at_most(20.0, at_least(-104.0, x)))
    n, held = nearest(b, x, 16 * LOG2E)
    r = b.let("r", fma(n, -SIXTEENTH[1], fma(n, -SIXTEENTH[0], x)))
    rest = b.let("q", mul(r, horner(r, SIXTEENTH_EXP)))
    power = power_of_sixteenths(b, LOGISTIC_POWERS, held)
    scaled = b.let("e", fma(power, rest, power))
    return div(scaled, add(scaled, LOGISTIC_SCALE))


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


def tanh_f32(x: Expr, b: Lets) -> Expr:
    """Piece by piece: a few cycles of latency, which a recurrence waits for in every step."""
    x = b.let("x", x)
    size = b.let("a", at_most(9.2, Unary("abs", x)))
    piece, t = octave_piece(b, size, 0.625, 3)
    return copysign(piecewise(b, "tanh", TANH_F32, piece, t), x)


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
