"""sin, cos, tan and their inverses.

The argument's size is cut to half turns: |x| = n π + r with |r| <= π/2, or for the cosine (n + 1/2) π + r, so that one
odd polynomial serves both; tan counts quarter turns. Up to 2**17 (f32) and 2**20 (f64) n times the first part of π is
taken off exactly by `Fma`. Beyond, n would not be exact: there the fraction of |x|/π is computed from as many digits of
1/π as it needs (Payne and Hanek, 1983), in a branch that vectors without such numbers skip.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

from ...ir.dtypes import DType, f32, f64, i32, i64
from ...ir.loops.build import (
    add,
    and_,
    bits,
    cast,
    copysign,
    div,
    eq,
    fma,
    gt,
    lit,
    lt,
    mul,
    select,
    shl,
    shr,
    sub,
    xor,
)
from ...ir.loops.nodes import Binary, Expr, Unary, Var
from .math_writing import (
    F64,
    Lets,
    fast_two_sum,
    format_of,
    horner,
    looked_up,
    nearest,
    negated,
    odd,
    rarely,
    two_product,
    two_sum,
)

PI: Final[dict[DType, tuple[float, ...]]] = {
    f32: (3.1415927410125732, -8.742277657347586e-08, -3.4302490200117637e-15),
    f64: (math.pi, 1.2246467991473532e-16, -2.9947698097183397e-33),
}
# Up to here n and its products are exact.
LARGE: Final = {f32: 2.0**17, f64: 2.0**20}
# 1/π, 1216 binary places.
INVERSE_PI: Final = int(
    "517cc1b727220a94fe13abe8fa9a6ee06db14acc9e21c820ff28b1d5ef5de2b0db92371d2126e9700324977504e8c90e7f0ef58e5894d39f"
    "74411afa975da24274ce38135a2fbf209cc8eb1cc1a99cfa4e422fc5defc941d8ffc4bffef02cc07f79788c5ad05368fb69b3f6793e584db"
    "a7a31fb34f2ff516ba93dd63f5f2f8bd9e839cfbc529497535fdafd88fc6ae842b0198237e3db5d5",
    16,
)
PLACES: Final = 1216

# sin r = r + r**3 (...) on |r| <= π/2
SIN: Final[dict[DType, tuple[float, ...]]] = {
    # 2**-25.5, all of it next to π/2, against the roundings there: results stay within 2 units up to 1e4
    f32: (
        -0.1666666716337204, 0.008333330973982811, -0.00019840853929053992, 2.752462478383677e-06,
        -2.3875273313933576e-08,
    ),
    # 2**-56.8
    f64: (
        -0.16666666666666666, 0.008333333333333193, -0.0001984126984120865, 2.755731921103699e-06,
        -2.505210686338903e-08, 1.6058939221718979e-10, -7.642978616279066e-13, 2.721036669498551e-15,
    ),
}  # fmt: skip
# The same on |r| <= π/4, and cos r = 1 - r**2/2 + r**4 (...): 2**-57.4, 2**-59.5; for results in f32 2**-37.5, 2**-43.2
SIN_QUARTER: Final = (
    -0.1666666666666663, 0.008333333333321888, -0.00019841269829396892, 2.75573135522961e-06, -2.505073661421907e-08,
    1.5895565831171585e-10,
)  # fmt: skip
COS_QUARTER: Final = (
    0.041666666666666595, -0.0013888888888873836, 2.4801587289293476e-05, -2.755731429550864e-07,
    2.0875715256446873e-09, -1.1359218491633296e-11,
)  # fmt: skip
SIN_SHORT: Final = (-0.16666666640369424, 0.008333329255093083, -0.00019839296219085562, 2.717968205750657e-06)
COS_SHORT: Final = (0.041666666622109605, -0.001388888369045783, 2.4799503166207407e-05, -2.7208829622075273e-07)
# asin s = s + s**3 (...) on |s| <= 1/2
ASIN: Final[dict[DType, tuple[float, ...]]] = {
    # 2**-27.4
    f32: (0.16666752099990845, 0.07495297491550446, 0.045470383018255234, 0.024179482832551003, 0.04216635972261429),
    # 2**-58.9
    f64: (
        0.1666666666666676, 0.07499999999970797, 0.04464285717461442, 0.03038194270767694, 0.022372214990175072,
        0.017351611976431845, 0.01398082090646769, 0.01139890987585305, 0.010780263351785838, 0.0037063765603036537,
        0.021707510269683324, -0.020999134375951956, 0.03262865958656663,
    ),
}  # fmt: skip
# atan t = t + t**3 (...) on |t| <= tan π/8
ATAN: Final[dict[DType, tuple[float, ...]]] = {
    # 2**-25.5
    f32: (-0.3333294987678528, 0.19977708160877228, -0.13877655565738678, 0.08053643256425858),
    # 2**-57.4
    f64: (
        -0.333333333333332, 0.19999999999953233, -0.14285714280165104, 0.11111110782079318, -0.09090897723008426,
        0.07692059676474312, -0.06663098727321577, 0.058478557329149694, -0.05039174161629144, 0.03806171916396069,
        -0.01790457092036251,
    ),
}  # fmt: skip
TAN_EIGHTH: Final = math.sqrt(2.0) - 1.0


# --- turns ------------------------------------------------------------------------------------------------------------


@functools.cache
def pieces_of_inverse_pi(first: int, count: int, parts: int) -> tuple[tuple[float, ...], ...]:
    """For k = 0 ... count - 1 the number 2**(16 k - first)/π modulo 2, as a sum of so many f64; one row per part."""
    rows: list[tuple[float, ...]] = []
    for k in range(count):
        places = PLACES - 16 * k + first
        left = Fraction(INVERSE_PI % (1 << (places + 1)), 1 << places)
        row = []
        for _ in range(parts):
            row.append(float(left))
            left -= Fraction(row[-1])
        rows.append(tuple(row))
    return tuple(zip(*rows))


def remainder(b: Lets, x: Expr, modulus: float) -> Var:
    """x less the nearest multiple of a power of two, exactly."""
    return b.let("m", fma(Unary("rint", mul(x, 1.0 / modulus)), -modulus, x))


def window(b: Lets, size: Expr, fraction: int, count: int, parts: int) -> tuple[Var, list[Var]]:
    """(M, parts of C) for |x| >= 2**16, an f64 with so many bits of fraction: integer M with |x|/π = M C modulo 2."""
    held = b.let("u", bits(size, i64))
    k = b.let("k", and_(shr(sub(shr(held, 52), F64.bias), 4), count - 1))
    whole = bits(sub(held, shl(sub(shl(k, 4), fraction), 52)), f64)
    rows = pieces_of_inverse_pi(fraction, count, parts)
    tables = [b.table(f"inverse_pi_{fraction}_{n}", f64, row) for n, row in enumerate(rows)]
    return b.let("whole", whole), [b.let("c", looked_up(table, k)) for table in tables]


def turns_f32(b: Lets, size: Expr, halves: int, offset: float) -> tuple[Var, Var]:
    """(fraction of a turn in [-1/2, 1/2], number of turns in the low bit of an i32), |x| being at least 2**17. A turn
    is π, or π/2 with `halves` 2. The fraction is an f64 with a relative error of about 2**-28 at worst."""
    whole, (first, second) = window(b, b.let("wide", cast(size, f64)), 23, 8, 2)
    high, low = two_product(b, whole, first)
    near = b.let("y", sub(mul(remainder(b, high, 2.0), float(halves)), offset))
    n, held = nearest(b, near, 1.0)
    rest = mul(fma(whole, second, low), float(halves))
    fraction = b.let("g", add(sub(near, n), rest))
    return fraction, b.let("q", cast(bits(held, i64), i32))


def turns_f64(b: Lets, size: Expr, halves: int, offset: float) -> tuple[Var, Var, Var]:
    """(fraction of a turn, what it lacks, number of turns in the low bit of an i64), |x| being at least 2**20."""
    whole, (c1, c2, c3, c4) = window(b, size, 52, 64, 4)
    h1, l1 = two_product(b, whole, c1)
    h2, l2 = two_product(b, whole, c2)
    h3, l3 = two_product(b, whole, c3)
    # The parts above 2 are dropped exactly; the sum of what is left is exact in four floats.
    s1, e1 = two_sum(b, remainder(b, h1, 2.0), remainder(b, l1, 2.0))
    s2, e2 = two_sum(b, s1, remainder(b, h2, 2.0))
    near, e3 = two_sum(b, mul(s2, float(halves)), lit(-offset, f64))
    n, held = nearest(b, near, 1.0)
    p, q = two_sum(b, l2, h3)
    s4, e4 = two_sum(b, b.let("d", sub(near, n)), b.let("p", mul(p, float(halves))))
    rest = add(add(e1, e2), add(q, fma(whole, c4, l3)))
    fraction, left = fast_two_sum(b, s4, b.let("t", add(add(e3, e4), mul(rest, float(halves)))))
    return fraction, left, b.let("q", bits(held, i64))


def reduced_f32(b: Lets, x: Expr, size: Var, offset: float) -> tuple[Var, Var]:
    """(r, i32 whose low bit is n's) with |x| = (n + offset) π + r."""
    p1, p2, p3 = PI[f32]
    n, held = counted(b, size, 1.0 / math.pi, offset)
    r = b.let("r", fma(n, -p3, fma(n, -p2, fma(n, -p1, size))))

    def large(b: Lets) -> Sequence[Expr]:
        fraction, turns = turns_f32(b, size, 1, offset)
        # Infinity times 0 is NaN.
        return fma(x, 0.0, cast(mul(fraction, math.pi), f32)), turns

    r, q = rarely(b, gt(size, LARGE[f32]), (r, b.let("q", bits(held, i32))), large)
    return r, q


def counted(b: Lets, size: Expr, factor: float, offset: float) -> tuple[Var, Var]:
    """(n + offset, n in the low bits of a float): the nearest such number to size * factor."""
    if not offset:
        return nearest(b, size, factor)
    magic = format_of(size).magic
    held = b.let("s", add(fma(size, factor, -offset), magic))
    return b.let("n", add(sub(held, magic), offset)), held


def reduced_f64(b: Lets, x: Expr, size: Var, halves: int, offset: float) -> tuple[Var, Var, Var]:
    """(r, what it lacks, i64 whose low bit is n's) with |x| = (n + offset) π/halves + r."""
    p1, p2, p3 = [part / halves for part in PI[f64]]
    n, held = counted(b, size, halves / math.pi, offset)
    high, low = two_product(b, n, lit(-p2, f64))
    r, lost = two_sum(b, b.let("r", fma(n, -p1, size)), high)
    tail = b.let("t", fma(n, -p3, add(lost, low)))

    def large(b: Lets) -> Sequence[Expr]:
        fraction, left, turns = turns_f64(b, size, halves, offset)
        high, low = two_product(b, fraction, lit(p1, f64))
        low = b.let("l", fma(left, p1, fma(fraction, p2, low)))
        return fma(x, 0.0, high), low, turns

    usual = (r, tail, b.let("q", bits(held, i64)))
    r, tail, q = rarely(b, gt(size, LARGE[f64]), usual, large)
    return r, tail, q


def flipped(x: Expr, turns: Expr, sign: Expr | None = None) -> Expr:
    """x with its sign changed if the number of turns is odd, and once more if `sign` is negative."""
    form = format_of(x)
    least = -(1 << (form.integer.bits - 1))
    result = xor(bits(x, form.integer), shl(turns, form.integer.bits - 1))
    if sign is not None:
        result = xor(result, and_(bits(sign, form.integer), least))
    return bits(result, form.dtype)


def sin_f32(x: Expr, b: Lets) -> Expr:
    x = b.let("x", x)
    r, turns = reduced_f32(b, x, b.let("a", Unary("abs", x)), 0.0)
    return flipped(odd(b, r, SIN[f32]), turns, x)


def cos_f32(x: Expr, b: Lets) -> Expr:
    """|x| = (n + 1/2) π + r, where the cosine is -sin r times (-1)**n."""
    x = b.let("x", x)
    r, turns = reduced_f32(b, x, b.let("a", Unary("abs", x)), 0.5)
    return flipped(odd(b, b.let("r", negated(r)), SIN[f32]), turns)


def sin_with_tail(b: Lets, r: Var, tail: Expr) -> Expr:
    """sin(r + tail); the tail counts with the cosine, of which two terms show."""
    z = b.let("z", mul(r, r))
    small = fma(z, mul(tail, -0.5), tail)
    return add(r, fma(mul(r, z), horner(z, SIN[f64]), small))


def sin_f64(x: Expr, b: Lets) -> Expr:
    x = b.let("x", x)
    r, tail, turns = reduced_f64(b, x, b.let("a", Unary("abs", x)), 1, 0.0)
    return flipped(sin_with_tail(b, r, tail), turns, x)


def cos_f64(x: Expr, b: Lets) -> Expr:
    x = b.let("x", x)
    r, tail, turns = reduced_f64(b, x, b.let("a", Unary("abs", x)), 1, 0.5)
    return flipped(negated(sin_with_tail(b, r, tail)), turns)


def tan_of_turns(b: Lets, x: Expr, sine: Expr, cosine: Expr, turns: Expr) -> Expr:
    """sine/cosine, or -cosine/sine after an odd number of quarter turns, with the sign of x."""
    sine, cosine = b.let("sine", sine), b.let("cosine", cosine)
    is_odd = b.let("odd", eq(and_(turns, 1), 1))
    ratio = div(select(is_odd, cosine, sine), select(is_odd, sine, cosine))
    return flipped(b.let("ratio", ratio), turns, x)


def tan_f32(x: Expr, b: Lets) -> Expr:
    """In f64, where one product and its tail are enough to 2**17."""
    x = b.let("x", x)
    size = b.let("a", Unary("abs", x))
    wide = b.let("wide", cast(size, f64))
    n, held = nearest(b, wide, 2.0 / math.pi)
    r = b.let("r", fma(n, -PI[f64][1] / 2, fma(n, -PI[f64][0] / 2, wide)))

    def large(b: Lets) -> Sequence[Expr]:
        fraction, turns = turns_f32(b, size, 2, 0.0)
        return fma(cast(x, f64), 0.0, mul(fraction, math.pi / 2)), cast(turns, i64)

    r, turns = rarely(b, gt(size, LARGE[f32]), (r, b.let("q", bits(held, i64))), large)
    z = b.let("z", mul(r, r))
    sine = fma(horner(z, SIN_SHORT), mul(r, z), r)
    cosine = fma(mul(z, z), horner(z, COS_SHORT), fma(z, -0.5, 1.0))
    return cast(tan_of_turns(b, cast(x, f64), sine, cosine, turns), f32)


def of_quarter(b: Lets, r: Var, tail: Expr) -> tuple[Expr, Expr]:
    """(sine, cosine) of r + tail, |r| <= π/4."""
    z = b.let("z", mul(r, r))
    sine = add(r, fma(mul(r, z), horner(z, SIN_QUARTER), fma(z, mul(tail, -0.5), tail)))
    half = b.let("h", mul(z, 0.5))
    high = b.let("v", sub(lit(1.0, f64), half))
    low = sub(sub(lit(1.0, f64), high), half)
    return sine, add(high, fma(mul(z, z), horner(z, COS_QUARTER), fma(negated(r), tail, low)))


def tan_f64(x: Expr, b: Lets) -> Expr:
    x = b.let("x", x)
    r, tail, turns = reduced_f64(b, x, b.let("a", Unary("abs", x)), 2, 0.0)
    sine, cosine = of_quarter(b, r, tail)
    return tan_of_turns(b, x, sine, cosine, turns)


def sine_and_cosine(b: Lets, x: Var) -> tuple[Var, Var]:
    """Both of one f64, its argument reduced once: they change places after an odd number of quarter turns."""
    r, tail, turns = reduced_f64(b, x, b.let("a", Unary("abs", x)), 2, 0.0)
    sine, cosine = of_quarter(b, r, tail)
    sine, cosine = b.let("sine", sine), b.let("cosine", cosine)
    is_odd = b.let("odd", eq(and_(turns, 1), 1))
    first, second = select(is_odd, cosine, sine), select(is_odd, sine, cosine)
    above = shr(add(turns, 1), 1)
    return b.let("sine", flipped(first, shr(turns, 1), x)), b.let("cosine", flipped(second, above))


# --- inverses ---------------------------------------------------------------------------------------------------------


def asin_parts(b: Lets, x: Expr) -> tuple[Var, Var]:
    """(|x| > 1/2, asin s) where s is |x|, or the square root of (1 - |x|)/2 with asin |x| = π/2 - 2 asin s."""
    size = b.let("a", Unary("abs", x))
    big = b.let("big", gt(size, 0.5))
    z = b.let("z", select(big, fma(size, -0.5, 0.5), mul(size, size)))
    s = b.let("s", select(big, Unary("sqrt", z), size))
    return big, b.let("p", fma(mul(s, z), horner(z, ASIN[x.dtype]), s))


def halved_pi(dtype: DType, quarters: int) -> tuple[float, float]:
    """quarters * π/4 in two floats."""
    high, low, _ = PI[dtype]
    return high * quarters / 4, low * quarters / 4


def asin(x: Expr, b: Lets) -> Expr:
    x = b.let("x", x)
    big, p = asin_parts(b, x)
    high, low = halved_pi(x.dtype, 2)
    return copysign(select(big, sub(lit(high, x.dtype), fma(p, 2.0, -low)), p), x)


def acos(x: Expr, b: Lets) -> Expr:
    x = b.let("x", x)
    big, p = asin_parts(b, x)
    signed = b.let("v", copysign(p, x))
    (half, half_low), (pi, pi_low) = halved_pi(x.dtype, 2), halved_pi(x.dtype, 4)
    negative = b.let("negative", lt(x, 0.0))
    base = select(big, select(negative, lit(pi, x.dtype), 0.0), half)
    low = select(big, select(negative, lit(pi_low, x.dtype), 0.0), half_low)
    return add(base, fma(signed, select(big, lit(2.0, x.dtype), -1.0), low))


def atan(x: Expr, b: Lets) -> Expr:
    """In eighths of a turn: atan a = π/2 + atan(-1/a) = π/4 + atan((a - 1)/(a + 1))."""
    x = b.let("x", x)
    dtype = x.dtype
    size = b.let("a", Unary("abs", x))
    big, middle = b.let("big", gt(size, 1.0 / TAN_EIGHTH)), b.let("middle", gt(size, TAN_EIGHTH))
    one = lit(1.0, dtype)
    top = select(big, lit(-1.0, dtype), select(middle, sub(size, one), size))
    bottom = select(big, size, select(middle, add(size, one), one))
    t = b.let("t", div(top, bottom))
    (half, half_low), (quarter, quarter_low) = halved_pi(dtype, 2), halved_pi(dtype, 1)
    base = select(big, lit(half, dtype), select(middle, lit(quarter, dtype), 0.0))
    low = select(big, lit(half_low, dtype), select(middle, lit(quarter_low, dtype), 0.0))
    z = b.let("z", mul(t, t))
    return copysign(add(base, add(fma(mul(t, z), horner(z, ATAN[dtype]), low), t)), x)


def atan2_f64(y: Expr, x: Expr, b: Lets) -> Expr:
    """The angle of (x, y): the lesser size over the greater, one quarter of a turn added where that is not small, then
    mirrored as often as the quadrant asks."""
    y, x = b.let("y", y), b.let("x", x)
    a, c = b.let("a", Unary("abs", x)), b.let("c", Unary("abs", y))
    most, least = b.let("most", Binary("max", a, c)), b.let("least", Binary("min", a, c))
    # Two infinities are as two ones; one makes the other nothing. Halved, sums of the largest numbers are finite.
    infinite = b.let("infinite", eq(most, math.inf))
    least = b.let("least", select(infinite, select(eq(least, math.inf), lit(1.0, f64), 0.0), least))
    most = b.let("most", select(infinite, lit(1.0, f64), most))
    scale = b.let("scale", select(gt(most, 2.0**1000), lit(0.5, f64), 1.0))
    most, least = b.let("most", mul(most, scale)), b.let("least", mul(least, scale))
    middle = b.let("middle", gt(least, mul(most, TAN_EIGHTH)))
    top = select(middle, sub(least, most), least)
    bottom = b.let("bottom", select(middle, add(least, most), most))
    t = b.let("t", div(top, select(eq(bottom, 0.0), lit(1.0, f64), bottom)))
    z = b.let("z", mul(t, t))
    p = b.let("p", fma(mul(t, z), horner(z, ATAN[f64]), t))
    steep, left = b.let("steep", gt(c, a)), b.let("left", Unary("signbit", x))
    quarters: Expr = select(middle, lit(1.0, f64), 0.0)
    quarters = b.let("k", select(steep, sub(lit(2.0, f64), quarters), quarters))
    quarters = b.let("k", select(left, sub(lit(4.0, f64), quarters), quarters))
    signed = select(Binary("ne", steep, left), negated(p), p)
    high, low = halved_pi(f64, 1)
    base = b.let("base", mul(quarters, high))
    rest = fma(quarters, low, fma(quarters, high, negated(base)))
    return copysign(add(base, add(rest, signed)), y)
