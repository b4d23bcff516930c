"""Maps: unary and binary functions, comparisons, select, clamp, conversions.

Each member says what it computes on numbers (`evaluate`), on one scalar of a loop (`scalar`) and what its
derivative is (`partials`, or `transpose` for those that are linear over the reals only). The two meanings are
written apart and compared by tests. Derivatives are free of NaN wherever a limit exists: at zeros, ties and
infinities the numbers are chosen before they meet (a select after the fact would still propagate the NaN of the
branch not taken).

Of complex functions the derivative is the complex one; `Abs` and `Sign`, which have none, give tangents as
functions of the real and imaginary parts. Cotangents pair with tangents as Re(cotangent * tangent), JAX's
convention.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from ..dtypes import (
    ARITHMETIC,
    COMPLEX,
    DTYPES,
    FLOATS,
    INEXACT,
    INTEGERS,
    NUMBERS,
    DType,
    bool_,
    complex_of,
    f32,
    f64,
    real_of,
    u8,
)
from ..errors import ArithmeticFault, RunFailed, TreadleError, TypeMismatch
from ..loops import scalars
from ..loops.nodes import Binary, Cast, Const, Expr, Unary
from ..loops.nodes import Select as Choose
from ..structure import Structure, element, pointwise
from ..types import Shape
from ..value import (
    Array,
    BinaryElementwise,
    Comparison,
    Constant,
    Elementwise,
    Full,
    Gt,
    Lt,
    Operand,
    UnaryElementwise,
    Value,
    lift,
    replace,
)

LN2 = math.log(2.0)
LN10 = math.log(10.0)
INTEGRAL = (bool_, *INTEGERS)
REAL = (bool_, *INTEGERS, *FLOATS)


def widely(function: Callable[..., Array], *arrays: Array) -> Array:
    """`function` in double precision, rounded once to the operands' type: the reference of what is smooth."""
    dtype = arrays[0].dtype
    wide = np.complex128 if dtype.kind == "c" else np.float64
    return np.asarray(function(*(np.asarray(x).astype(wide) for x in arrays))).astype(dtype)


def where(predicate: Value, x: Operand, y: Operand, like: Value) -> Value:
    """Select, with Python numbers lifted to `like`'s type."""
    return Select(predicate, lift(x, like), lift(y, like))


def _const(value: bool | int | float, dtype: DType) -> Const:
    if dtype.kind == "complex":
        return Const(complex(value), dtype)
    return Const(float(value) if dtype.is_float else int(value), dtype)


def _parts(x: Expr) -> tuple[Expr, Expr]:
    return Unary("real", x), Unary("imag", x)


class Map(UnaryElementwise):
    """A map of one operand; `primitive` is the loops function where it is not the op's own name."""

    primitive: ClassVar[str] = ""
    accepts = FLOATS

    def scalar(self, *x: Expr) -> Expr:
        return Unary(self.primitive or self.name, x[0])


class Map2(BinaryElementwise):
    """A map of two operands; `primitive` as above."""

    primitive: ClassVar[str] = ""

    def scalar(self, *x: Expr) -> Expr:
        return Binary(self.primitive or self.name, x[0], x[1])


class RealLinear(Elementwise):
    """Maps that are linear over the reals in the operands named in `linear`, all together. Their derivative is
    their `transpose`: a product with a partial would not do, since the type changes or the map is not
    complex-differentiable."""

    joint = True

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        raise TypeError(f"{self.name} has no transpose")


# --- sign and rounding --------------------------------------------------------------------------------------------


class Abs(Map):
    """|x|; the modulus of a complex number, which is real. The least integer wraps to itself. Derivative 0 at 0."""

    accepts = NUMBERS
    unbounded = None

    def result_dtype(self) -> DType:
        return real_of(self.x.dtype)

    def evaluate(self, x: Array) -> Array:
        return np.abs(x)

    def scalar(self, *x: Expr) -> Expr:
        return x[0] if x[0].dtype.kind == "uint" else Unary("abs", x[0])

    def jvp(self, tangents: tuple[Value | None, ...]) -> Value | None:
        (tangent,) = tangents
        if tangent is None or self.x.dtype.is_integer:
            return None
        direction = Sign(self.x)
        if self.x.dtype.kind != "complex":
            return tangent * direction
        return Real(tangent * Conj(direction))


class Sign(Map):
    """-1, 0 or 1, NaN for NaN, 0 for both zeros; x / |x| for complex numbers, infinities along an axis."""

    accepts = NUMBERS

    def evaluate(self, x: Array) -> Array:
        return np.where(x == 0, np.zeros_like(x), np.sign(x))  # ml_dtypes would keep the sign of a zero

    def scalar(self, *x: Expr) -> Expr:
        (value,) = x
        dtype = value.dtype
        if dtype.kind == "complex":
            return _complex_sign(value)
        zero, one = _const(0, dtype), _const(1, dtype)
        positive = Binary("gt", value, zero)
        if dtype.kind == "uint":
            return Choose(positive, one, zero)
        rest: Expr = zero if dtype.is_integer else Choose(Binary("eq", value, zero), zero, value)
        return Choose(positive, one, Choose(Binary("lt", value, zero), _const(-1, dtype), rest))

    def jvp(self, tangents: tuple[Value | None, ...]) -> Value | None:
        (tangent,) = tangents
        if tangent is None or self.x.dtype.kind != "complex":
            return None
        # d(x/|x|) keeps what is at right angles to x: i * s * Im(t * conj(s)) / |x|.
        size = Abs(self.x)
        turned = Imag(tangent * Conj(self)) / where(Eq(size, lift(0, size)), 1, size, size)
        return Complex(lift(0, turned), turned) * self


def _complex_sign(value: Expr) -> Expr:
    re, im = _parts(value)
    size = Unary("abs", value)
    part = re.dtype
    zero, one, infinity = _const(0, part), _const(1, part), Const(math.inf, part)

    def unit(x: Expr) -> Expr:
        return Choose(Binary("gt", x, zero), one, _const(-1, part))

    nan = Const(math.nan, part)
    re_infinite, im_infinite = Unary("isinf", re), Unary("isinf", im)
    along_re = Choose(re_infinite, Choose(im_infinite, nan, unit(re)), zero)
    along_im = Choose(im_infinite, Choose(re_infinite, nan, unit(im)), zero)
    at_zero = Binary("eq", size, zero)
    at_infinity = Binary("eq", size, infinity)

    def component(x: Expr, along: Expr) -> Expr:
        # A modulus of NaN makes both components NaN, also where one of them is 0.
        return Choose(
            at_zero,
            zero,
            Choose(at_infinity, along, Binary("div", Choose(Unary("isnan", size), nan, x), size)),
        )

    return Binary("complex", component(re, along_re), component(im, along_im))


class Rounding(Map):
    """To whole numbers; piecewise constant, so there is no derivative. Infinities and NaN are kept, zeros keep
    their sign."""

    flat = True


class Floor(Rounding):
    """The largest whole number <= x."""

    def evaluate(self, x: Array) -> Array:
        return np.floor(x)


class Ceil(Rounding):
    """The smallest whole number >= x."""

    def evaluate(self, x: Array) -> Array:
        return np.ceil(x)


class Trunc(Rounding):
    """x without its fraction."""

    def evaluate(self, x: Array) -> Array:
        return np.trunc(x)


class Rint(Rounding):
    """The nearest whole number, halves to even; complex numbers by part."""

    accepts = INEXACT

    def evaluate(self, x: Array) -> Array:
        return np.rint(x)

    def scalar(self, *x: Expr) -> Expr:
        if x[0].dtype.kind != "complex":
            return Unary("rint", x[0])
        re, im = _parts(x[0])
        return Binary("complex", Unary("rint", re), Unary("rint", im))


# --- roots, exponentials, logarithms ------------------------------------------------------------------------------


class Sqrt(Map):
    """The square root, correctly rounded; -0 for -0, NaN below zero. The derivative at zero is +inf."""

    accepts = INEXACT
    unbounded = None

    def evaluate(self, x: Array) -> Array:
        return widely(np.sqrt, x)

    def partials(self) -> tuple[Value | None, ...]:
        return (0.5 / (self if self.dtype.kind == "complex" else Abs(self)),)


class Rsqrt(Map):
    """1 / sqrt(x); inf at +0, -inf at -0, 0 at inf, NaN below zero."""

    accepts = INEXACT
    unbounded = True

    def evaluate(self, x: Array) -> Array:
        return widely(lambda v: 1.0 / np.sqrt(v), x)

    def partials(self) -> tuple[Value | None, ...]:
        return (-0.5 * self / self.x,)


class Cbrt(Map):
    """The real cube root, of negative numbers too; zeros and infinities are kept. The derivative at zero is +inf."""

    def evaluate(self, x: Array) -> Array:
        return widely(np.cbrt, x)

    def partials(self) -> tuple[Value | None, ...]:
        return (1.0 / (3.0 * self * self),)


class Exp(Map):
    """e**x: 0 at -inf, inf above the largest exponent, subnormal results kept."""

    accepts = INEXACT
    unbounded = True

    def evaluate(self, x: Array) -> Array:
        return widely(np.exp, x)

    def partials(self) -> tuple[Value | None, ...]:
        return (self,)


class Exp2(Map):
    """2**x; exact for whole x in range."""

    accepts = INEXACT
    unbounded = True

    def evaluate(self, x: Array) -> Array:
        return widely(np.exp2, x)

    def partials(self) -> tuple[Value | None, ...]:
        return (LN2 * self,)


class Expm1(Map):
    """e**x - 1 without cancellation near 0; -1 at -inf, zeros keep their sign."""

    accepts = INEXACT
    unbounded = True

    def evaluate(self, x: Array) -> Array:
        return widely(np.expm1, x)

    def partials(self) -> tuple[Value | None, ...]:
        return (self + 1.0,)


class Log(Map):
    """The natural logarithm: -inf at both zeros, NaN below, inf at inf. Complex: cut along (-inf, 0]."""

    accepts = INEXACT
    unbounded = True

    def evaluate(self, x: Array) -> Array:
        return widely(np.log, x)

    def partials(self) -> tuple[Value | None, ...]:
        return (1.0 / self.x,)


class Log2(Map):
    """The logarithm to base 2; exact at powers of two."""

    accepts = INEXACT
    unbounded = True

    def evaluate(self, x: Array) -> Array:
        return widely(np.log2, x)

    def partials(self) -> tuple[Value | None, ...]:
        return (1.0 / LN2 / self.x,)


class Log10(Map):
    """The logarithm to base 10."""

    accepts = INEXACT
    unbounded = True

    def evaluate(self, x: Array) -> Array:
        return widely(np.log10, x)

    def partials(self) -> tuple[Value | None, ...]:
        return (1.0 / LN10 / self.x,)


class Log1p(Map):
    """log(1 + x) without cancellation near 0: -inf at -1, NaN below, zeros keep their sign."""

    accepts = INEXACT
    unbounded = True

    def evaluate(self, x: Array) -> Array:
        return widely(np.log1p, x)

    def partials(self) -> tuple[Value | None, ...]:
        return (1.0 / (1.0 + self.x),)


# --- circular and hyperbolic functions ----------------------------------------------------------------------------


class Sin(Map):
    """The sine of x in radians, with exact reduction of large arguments; NaN at infinities, zeros keep their sign."""

    accepts = INEXACT

    def evaluate(self, x: Array) -> Array:
        return widely(np.sin, x)

    def partials(self) -> tuple[Value | None, ...]:
        return (Cos(self.x),)


class Cos(Map):
    """The cosine of x in radians; NaN at infinities."""

    accepts = INEXACT

    def evaluate(self, x: Array) -> Array:
        return widely(np.cos, x)

    def partials(self) -> tuple[Value | None, ...]:
        return (-Sin(self.x),)


class Tan(Map):
    """The tangent of x in radians; NaN at infinities, zeros keep their sign."""

    accepts = INEXACT
    unbounded = True

    def evaluate(self, x: Array) -> Array:
        return widely(np.tan, x)

    def partials(self) -> tuple[Value | None, ...]:
        return (1.0 + self * self,)


class Asin(Map):
    """The inverse sine in [-pi/2, pi/2]; NaN outside [-1, 1]. The derivative at the ends is +inf."""

    accepts = INEXACT

    def evaluate(self, x: Array) -> Array:
        return widely(np.arcsin, x)

    def partials(self) -> tuple[Value | None, ...]:
        return (Rsqrt((1.0 - self.x) * (1.0 + self.x)),)


class Acos(Map):
    """The inverse cosine in [0, pi]; NaN outside [-1, 1]. The derivative at the ends is -inf."""

    accepts = INEXACT

    def evaluate(self, x: Array) -> Array:
        return widely(np.arccos, x)

    def partials(self) -> tuple[Value | None, ...]:
        return (-Rsqrt((1.0 - self.x) * (1.0 + self.x)),)


class Atan(Map):
    """The inverse tangent in [-pi/2, pi/2], the ends at infinities; zeros keep their sign."""

    accepts = INEXACT

    def evaluate(self, x: Array) -> Array:
        return widely(np.arctan, x)

    def partials(self) -> tuple[Value | None, ...]:
        return (1.0 / (1.0 + self.x * self.x),)


class Sinh(Map):
    """The hyperbolic sine; infinities and the sign of zeros are kept."""

    accepts = INEXACT
    unbounded = True

    def evaluate(self, x: Array) -> Array:
        return widely(np.sinh, x)

    def partials(self) -> tuple[Value | None, ...]:
        return (Cosh(self.x),)


class Cosh(Map):
    """The hyperbolic cosine; inf at both infinities."""

    accepts = INEXACT
    unbounded = True

    def evaluate(self, x: Array) -> Array:
        return widely(np.cosh, x)

    def partials(self) -> tuple[Value | None, ...]:
        return (Sinh(self.x),)


class Tanh(Map):
    """The hyperbolic tangent. Saturates to ±1 for large |x|, never divides infinities; zeros keep their sign."""

    accepts = INEXACT

    def evaluate(self, x: Array) -> Array:
        return widely(np.tanh, x)

    def partials(self) -> tuple[Value | None, ...]:
        return ((1.0 - self) * (1.0 + self),)  # the result is at hand: no second tanh


class Asinh(Map):
    """The inverse hyperbolic sine; infinities and the sign of zeros are kept."""

    accepts = INEXACT

    def evaluate(self, x: Array) -> Array:
        return widely(np.arcsinh, x)

    def partials(self) -> tuple[Value | None, ...]:
        if self.dtype.kind == "complex":
            return (Rsqrt(self.x * self.x + 1.0),)
        return (1.0 / Hypot(self.x, lift(1.0, self.x)),)  # the square of a large x would overflow


class Acosh(Map):
    """The inverse hyperbolic cosine; 0 at 1, NaN below, inf at inf. The derivative at 1 is +inf."""

    accepts = INEXACT

    def evaluate(self, x: Array) -> Array:
        return widely(np.arccosh, x)

    def partials(self) -> tuple[Value | None, ...]:
        return (Rsqrt(self.x - 1.0) * Rsqrt(self.x + 1.0),)


class Atanh(Map):
    """The inverse hyperbolic tangent; ±inf at ±1, NaN beyond, zeros keep their sign."""

    accepts = INEXACT
    unbounded = True

    def evaluate(self, x: Array) -> Array:
        return widely(np.arctanh, x)

    def partials(self) -> tuple[Value | None, ...]:
        return (1.0 / ((1.0 - self.x) * (1.0 + self.x)),)


# --- the error function, gamma, and what neural networks add ------------------------------------------------------


class Erf(Map):
    """The error function: ±1 at infinities, zeros keep their sign."""

    def evaluate(self, x: Array) -> Array:
        return np.asarray(scalars.unary("erf", x))

    def partials(self) -> tuple[Value | None, ...]:
        return (2.0 / math.sqrt(math.pi) * Exp(-(self.x * self.x)),)


class Erfc(Map):
    """1 - erf(x) without cancellation for large x; 0 at inf, 2 at -inf."""

    def evaluate(self, x: Array) -> Array:
        return np.asarray(scalars.unary("erfc", x))

    def partials(self) -> tuple[Value | None, ...]:
        return (-2.0 / math.sqrt(math.pi) * Exp(-(self.x * self.x)),)


class Erfinv(Map):
    """The inverse of erf: ±inf at ±1, NaN beyond, zeros keep their sign."""

    unbounded = True

    def evaluate(self, x: Array) -> Array:
        return np.asarray(scalars.unary("erfinv", x))

    def partials(self) -> tuple[Value | None, ...]:
        return (math.sqrt(math.pi) / 2.0 * Exp(self * self),)


class NormalCdf(Map):
    """The normal distribution function, erfc(-x/√2)/2, without cancellation for negative x."""

    def evaluate(self, x: Array) -> Array:
        return np.asarray(scalars.unary("normal_cdf", x))

    def partials(self) -> tuple[Value | None, ...]:
        return (math.sqrt(0.5 / math.pi) * Exp(-0.5 * (self.x * self.x)),)


class TimesNormalCdf(Map):
    """x times its normal distribution function, as one: 0 from below at -inf, where the product would be NaN."""

    def evaluate(self, x: Array) -> Array:
        return np.asarray(scalars.unary("times_normal_cdf", x))

    def partials(self) -> tuple[Value | None, ...]:
        return (self.slope(),)

    def slope(self) -> Value:
        """The derivative, which tends to 0 and 1: the density is 0 from 39 on, before its factor is infinite."""
        c = Clamp(self.x, lift(-40.0, self.x), lift(40.0, self.x))
        return NormalCdf(self.x) + c * (math.sqrt(0.5 / math.pi) * Exp(-0.5 * (c * c)))


class Lgamma(Map):
    """log |Γ(x)|; inf at 0, at the negative whole numbers and at both infinities."""

    unbounded = True

    def evaluate(self, x: Array) -> Array:
        return np.asarray(scalars.unary("lgamma", x))

    def partials(self) -> tuple[Value | None, ...]:
        return (Digamma(self.x),)


class Digamma(Map):
    """The derivative of log |Γ(x)|; -inf at +0, inf at -0, NaN at the negative whole numbers and -inf, inf at inf."""

    unbounded = True

    def evaluate(self, x: Array) -> Array:
        return np.asarray(scalars.unary("digamma", x))

    def partials(self) -> tuple[Value | None, ...]:
        return (trigamma(self.x),)


class Logistic(Map):
    """1 / (1 + exp(-x)); tends to 0 and 1 without overflow."""

    def evaluate(self, x: Array) -> Array:
        return np.asarray(scalars.unary("logistic", x))

    def partials(self) -> tuple[Value | None, ...]:
        return (self * (1.0 - self),)


class Softplus(Map):
    """log(1 + exp(x)) without overflow; 0 at -inf, inf at inf."""

    unbounded = None

    def evaluate(self, x: Array) -> Array:
        return widely(lambda v: np.logaddexp(v, 0.0), x)

    def partials(self) -> tuple[Value | None, ...]:
        return (Logistic(self.x),)


def trigamma(x: Value) -> Value:
    """The derivative of digamma, written in other ops: reflection, ten steps of the recurrence, Stirling's series."""
    if x.dtype.bits < 32:
        return Convert(trigamma(Convert(x, f32)), x.dtype)
    reflected = x < 0.5
    start = where(reflected, 1.0 - x, x, x)
    total: Value = 1.0 / (start * start)
    for k in range(1, 10):
        total = total + 1.0 / ((start + float(k)) * (start + float(k)))
    z = 1.0 / (start + 10.0)
    w = z * z
    series: Value = -691.0 / 2730.0 + w * (7.0 / 6.0)
    for coefficient in (5.0 / 66.0, -1.0 / 30.0, 1.0 / 42.0, -1.0 / 30.0, 1.0 / 6.0):
        series = coefficient + w * series
    total = total + z + 0.5 * w + w * z * series
    sine = Sin(math.pi * (x - Rint(x)))
    safe = where(reflected, sine, 1.0, x)
    return where(reflected, math.pi**2 / (safe * safe) - total, total, x)


# --- tests, bits, parts -------------------------------------------------------------------------------------------


class Predicate(Map):
    """A map to bool."""

    flat = True
    accepts = INEXACT

    def result_dtype(self) -> DType:
        return bool_


class IsNan(Predicate):
    """Whether x, or a part of it, is NaN."""

    def evaluate(self, x: Array) -> Array:
        return np.isnan(x)

    def scalar(self, *x: Expr) -> Expr:
        return _by_part("isnan", "or", x[0])


class IsInf(Predicate):
    """Whether x, or a part of it, is infinite."""

    def evaluate(self, x: Array) -> Array:
        return np.isinf(x)

    def scalar(self, *x: Expr) -> Expr:
        return _by_part("isinf", "or", x[0])


class IsFinite(Predicate):
    """Whether x, with both its parts, is neither infinite nor NaN."""

    def evaluate(self, x: Array) -> Array:
        return np.isfinite(x)

    def scalar(self, *x: Expr) -> Expr:
        return _by_part("isfinite", "and", x[0])


def _by_part(test: str, joined: str, x: Expr) -> Expr:
    if x.dtype.kind != "complex":
        return Unary(test, x)
    re, im = _parts(x)
    return Binary(joined, Unary(test, re), Unary(test, im))


class Signbit(Predicate):
    """Whether the sign bit is set; true for -0 and for a NaN with it."""

    accepts = FLOATS

    def evaluate(self, x: Array) -> Array:
        return np.signbit(x)


class Not(Map):
    """The other truth value; of integers, every bit flipped."""

    flat = True
    accepts = INTEGRAL

    def evaluate(self, x: Array) -> Array:
        return np.invert(x)


class PopulationCount(Map):
    """How many bits of |x| are set, as u8 (NumPy's bitwise_count)."""

    flat = True
    accepts = INTEGERS

    def result_dtype(self) -> DType:
        return u8

    def evaluate(self, x: Array) -> Array:
        return np.bitwise_count(x)

    def scalar(self, *x: Expr) -> Expr:
        size = Unary("abs", x[0]) if x[0].dtype.kind == "int" else x[0]
        count = Unary("popcount", size)
        return count if count.dtype is u8 else Cast(count, u8)


class Real(RealLinear):
    """The real part of a complex number."""

    x: Value

    accepts = COMPLEX
    unbounded = None
    linear = (0,)

    def result_dtype(self) -> DType:
        return real_of(self.x.dtype)

    def evaluate(self, x: Array) -> Array:
        return np.real(x).copy()

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        return Complex(cotangent, lift(0, cotangent))


class Imag(RealLinear):
    """The imaginary part of a complex number."""

    x: Value

    accepts = COMPLEX
    unbounded = None
    linear = (0,)

    def result_dtype(self) -> DType:
        return real_of(self.x.dtype)

    def evaluate(self, x: Array) -> Array:
        return np.imag(x).copy()

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        return Complex(lift(0, cotangent), -cotangent)


class Conj(RealLinear):
    """The complex conjugate."""

    x: Value

    accepts = COMPLEX
    unbounded = None
    linear = (0,)

    def evaluate(self, x: Array) -> Array:
        return np.conj(x)

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        return Conj(cotangent)


class Complex(RealLinear):
    """The complex number with these parts: f32 makes c64, f64 makes c128."""

    re: Value
    im: Value

    accepts = (f32, f64)
    unbounded = None
    linear = (0, 1)

    def result_dtype(self) -> DType:
        return complex_of(self.re.dtype)

    def evaluate(self, re: Array, im: Array) -> Array:
        made = np.empty(np.shape(re), complex_of(self.re.dtype).numpy)
        made.real, made.imag = re, im  # re + 1j*im would turn an infinite part into NaN
        return made

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        return Real(cotangent) if operand == 0 else -Imag(cotangent)


# --- arithmetic of two operands -----------------------------------------------------------------------------------


class Pow(Map2):
    """x**y. Integers by repeated products that wrap; a negative exponent of signed integers fails at run time, as
    in NumPy. Floats: x**0 and 1**y are 1, also for NaN; negative x gives NaN unless y is whole. Derivative: 0 in
    x where y is 0, and 0 in y where x or the result is 0."""

    accepts = NUMBERS
    unbounded = True

    @property
    def can_fail(self) -> bool:  # type: ignore[override]  # of this instance, not of the class
        if self.dtype.kind != "int":
            return False
        match self.y:
            case Full(value):
                return not isinstance(value, complex) and value < 0
            case Constant(data):
                return bool((data < 0).any())
            case _:
                return True

    def failure(self) -> TreadleError:
        return self.refuse(
            "integers to negative integer powers are not allowed",
            code="TD0130",
            error=ArithmeticFault,
            edit="convert the base to a float first",
        )

    def spared(self, wanted: Callable[[Shape], Value]) -> Value:
        return replace(self, y=Select(wanted(self.shape), self.y, lift(0, self.y)))

    def evaluate(self, x: Array, y: Array) -> Array:
        if self.dtype.kind == "int" and np.any(y < 0):
            raise self.failure()
        return np.power(x, y) if self.dtype.is_integer else np.asarray(scalars.binary("pow", x, y))

    def structure(self) -> Structure | None:
        x, y = element(0, self.dtype), element(1, self.dtype)
        fault = Binary("lt", y, _const(0, self.dtype)) if self.can_fail else None
        return pointwise(self.shape, (self.dtype, self.dtype), self.scalar(x, y), self.dtype, fault)

    def partials(self) -> tuple[Value | None, ...]:
        if self.dtype.is_integer:
            return (None, None)
        x, y = self.x, self.y
        zero, one = lift(0, self), lift(1, self)
        flat = Eq(y, zero)
        in_x = Select(flat, zero, y) * Pow(Select(flat, one, x), Select(flat, one, y - one))
        # With the factor 0 the logarithm is asked for at 1, so neither 0 * inf nor its derivative appears.
        absent = Or(Eq(self, zero), Eq(x, zero))
        in_y = Select(absent, zero, self) * Log(Select(absent, one, x))
        return (in_x, in_y)


class Mod(Map2):
    """The remainder with the sign of the divisor, x - floor(x/y)*y. Integer division by zero gives 0."""

    accepts = (*INTEGERS, *FLOATS)

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.remainder(x, y)

    def partials(self) -> tuple[Value | None, ...]:
        return (None, None) if self.dtype.is_integer else (lift(1, self), -FloorDiv(self.x, self.y))


class Rem(Map2):
    """The remainder with the sign of the dividend, x - trunc(x/y)*y, exact for floats. 0 for integers by 0."""

    accepts = (*INTEGERS, *FLOATS)

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.fmod(x, y)

    def partials(self) -> tuple[Value | None, ...]:
        return (None, None) if self.dtype.is_integer else (lift(1, self), -Trunc(self.x / self.y))


class FloorDiv(Map2):
    """floor(x / y), for floats consistent with `Mod`. Integers by 0 give 0, the least one by -1 wraps."""

    flat = True
    primitive = "floordiv"
    accepts = (*INTEGERS, *FLOATS)

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.floor_divide(x, y)


class Extremum(Map2):
    """The greater or the lesser operand. Equal operands, zeros of both signs among them, give the second and
    share the derivative equally. Complex numbers are ordered by their real, then their imaginary part, as in
    NumPy."""

    accepts = ARITHMETIC
    unbounded = None
    greatest: ClassVar[bool]
    # Whether a NaN gives way to a number.
    skips_nan: ClassVar[bool] = False

    def evaluate(self, x: Array, y: Array) -> Array:
        better = _complex_order(x, y, self.greatest) if self.dtype.kind == "complex" else self._beats(x, y)
        first, second = np.isnan(x) if self._has_nan else False, np.isnan(y) if self._has_nan else False
        return np.where(better | (second if self.skips_nan else first), x, y)

    @property
    def _has_nan(self) -> bool:
        return self.dtype.is_float or self.dtype.kind == "complex"

    def _beats(self, x: Array, y: Array) -> Array:
        return np.greater(x, y) if self.greatest else np.less(x, y)

    def scalar(self, *x: Expr) -> Expr:
        a, b = x
        if a.dtype is bool_:
            return Binary("or" if self.greatest else "and", a, b)
        if a.dtype.kind != "complex":
            return Binary(self.primitive, a, b)
        (a_re, a_im), (b_re, b_im) = _parts(a), _parts(b)
        strict, loose = ("gt", "ge") if self.greatest else ("lt", "le")
        numbers = Unary("not", Binary("or", Unary("isnan", a_im), Unary("isnan", b_im)))
        better = Binary(
            "or",
            Binary("and", Binary(strict, a_re, b_re), numbers),
            Binary("and", Binary("eq", a_re, b_re), Binary(loose, a_im, b_im)),
        )
        return Choose(Binary("or", better, _by_part("isnan", "or", b if self.skips_nan else a)), a, b)

    def partials(self) -> tuple[Value | None, ...]:
        if self.dtype in INTEGRAL:
            return (None, None)
        chosen: Value
        other: Value
        if self.dtype.kind == "complex":
            chosen = And(Eq(self, self.x), Not(Eq(self.x, self.y)))
            other = And(Eq(self, self.y), Not(Eq(self.x, self.y)))
        else:
            chosen, other = Gt(self.x, self.y), Lt(self.x, self.y)
            if not self.greatest:
                chosen, other = other, chosen
            if self.skips_nan:
                chosen, other = Or(chosen, IsNan(self.y)), Or(other, IsNan(self.x))
        tie = Eq(self.x, self.y)
        half = where(tie, 0.5, 0.0, self)
        return (where(chosen, 1.0, half, self), where(other, 1.0, half, self))


def _complex_order(x: Array, y: Array, greatest: bool) -> Array:
    if not greatest:
        x, y = -x, -y
    numbers = ~(np.isnan(x.imag) | np.isnan(y.imag))
    return np.asarray(((x.real > y.real) & numbers) | ((x.real == y.real) & (x.imag >= y.imag)))


class Maximum(Extremum):
    """The greater operand; NaN if either is."""

    primitive = "max"
    greatest = True


class Minimum(Extremum):
    """The lesser operand; NaN if either is."""

    primitive = "min"
    greatest = False


class Fmax(Extremum):
    """The greater operand; NaN only if both are."""

    primitive = "fmax"
    greatest = True
    skips_nan = True


class Fmin(Extremum):
    """The lesser operand; NaN only if both are."""

    primitive = "fmin"
    greatest = False
    skips_nan = True


class And(Map2):
    """Both; of integers, bit by bit."""

    flat = True
    accepts = INTEGRAL
    commutes = True

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.bitwise_and(x, y)


class Or(Map2):
    """Either; of integers, bit by bit."""

    flat = True
    accepts = INTEGRAL
    commutes = True

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.bitwise_or(x, y)


class Xor(Map2):
    """One but not both; of integers, bit by bit."""

    flat = True
    accepts = INTEGRAL
    commutes = True

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.bitwise_xor(x, y)


class ShiftLeft(Map2):
    """x * 2**y, wrapping; 0 where y is negative or not below the width."""

    flat = True
    primitive = "shl"
    accepts = INTEGERS

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.left_shift(x, y)


class ShiftRight(Map2):
    """x // 2**y; where y is negative or not below the width, 0 or, for negative x, -1."""

    flat = True
    primitive = "shr"
    accepts = INTEGERS

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.right_shift(x, y)


class Atan2(Map2):
    """The angle of the point (y, x) in [-pi, pi]: `x` is the ordinate, as in NumPy. Signed zeros and infinities
    as in C99. The derivative at the origin and at infinity is 0."""

    accepts = FLOATS

    def evaluate(self, x: Array, y: Array) -> Array:
        return widely(np.arctan2, x, y)

    def partials(self) -> tuple[Value | None, ...]:
        # Divided twice by the radius, so that no square overflows.
        radius = Hypot(self.x, self.y)
        apart = Or(Eq(radius, lift(0.0, radius)), IsInf(radius))
        safe = where(apart, 1.0, radius, radius)
        x, y = where(apart, 0.0, self.x, radius), where(apart, 0.0, self.y, radius)
        return (y / safe / safe, -(x / safe) / safe)


class Hypot(Map2):
    """sqrt(x*x + y*y) without overflow; inf if either is infinite, even beside NaN. The derivative at the origin
    is 0."""

    accepts = FLOATS

    def evaluate(self, x: Array, y: Array) -> Array:
        return widely(np.hypot, x, y)

    def partials(self) -> tuple[Value | None, ...]:
        def slope(v: Value) -> Value:
            far = IsInf(self)
            top = where(far, where(IsInf(v), Sign(v), 0.0, v), v, v)
            return top / where(Or(far, Eq(self, lift(0.0, self))), 1.0, self, self)

        return (slope(self.x), slope(self.y))


class Logaddexp(Map2):
    """log(exp(x) + exp(y)) without overflow; -inf only if both are, inf if either is."""

    accepts = FLOATS

    def evaluate(self, x: Array, y: Array) -> Array:
        return widely(np.logaddexp, x, y)

    def partials(self) -> tuple[Value | None, ...]:
        difference = _difference(self.x, self.y)
        return (Logistic(difference), Logistic(-difference))


class Logaddexp2(Map2):
    """log2(2**x + 2**y) without overflow."""

    accepts = FLOATS

    def evaluate(self, x: Array, y: Array) -> Array:
        return widely(np.logaddexp2, x, y)

    def partials(self) -> tuple[Value | None, ...]:
        difference = LN2 * _difference(self.x, self.y)
        return (Logistic(difference), Logistic(-difference))


def _difference(x: Value, y: Value) -> Value:
    """x - y, where equal infinities differ by 0."""
    same = And(IsInf(x), Eq(x, y))
    return where(same, 0.0, x, x) - where(same, 0.0, y, y)


class Copysign(Map2):
    """|x| with the sign bit of y. The derivative at 0 is 0."""

    accepts = FLOATS

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.copysign(x, y)

    def partials(self) -> tuple[Value | None, ...]:
        return (Copysign(lift(1.0, self), self.y) * Sign(self.x), None)


class Nextafter(Map2):
    """The number next to x in the direction of y; y itself where they are equal."""

    flat = True
    accepts = FLOATS

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.nextafter(x, y)


class Ldexp(Map2):
    """x * 2**y with one rounding; y is an integer of any type."""

    accepts = FLOATS

    def check_operands(self) -> None:
        if self.y.dtype not in INTEGERS:
            raise self.refuse(
                f"the exponent is {self.y.dtype}, an integer is wanted", code="TD0132", error=TypeMismatch
            )
        _accepted(self, self.x)

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.ldexp(x, np.clip(y, *_useful_exponents(self.y.dtype)).astype(np.int32))

    def scalar(self, *x: Expr) -> Expr:
        value, exponent = x
        # Beyond ±2200 every result is 0 or infinite in every type, and up to there f32 and f64 hold the integers.
        low, high = _useful_exponents(exponent.dtype)
        whole = Binary("min", Binary("max", exponent, Const(low, exponent.dtype)), Const(high, exponent.dtype))
        narrow = value.dtype.bits < 32
        wide = f32 if narrow else value.dtype
        shifted = Binary("exponent_shift", Cast(value, wide) if narrow else value, Cast(whole, wide))
        return Cast(shifted, value.dtype) if narrow else shifted

    def partials(self) -> tuple[Value | None, ...]:
        return (Ldexp(lift(1.0, self), self.y), None)


def _useful_exponents(dtype: DType) -> tuple[int, int]:
    low, high = (
        (0, 2**dtype.bits - 1) if dtype.kind == "uint" else (-(2 ** (dtype.bits - 1)), 2 ** (dtype.bits - 1) - 1)
    )
    return max(low, -2200), min(high, 2200)


def _accepted(op: Elementwise, operand: Value) -> None:
    if operand.dtype not in op.accepts:
        raise op.refuse(
            f"{operand.dtype} is not accepted; it takes {', '.join(d.name for d in op.accepts)}",
            code="TD0114",
            error=TypeMismatch,
        )


# --- comparisons that Python's `==` does not spell -----------------------------------------------------------------


class Eq(Comparison):
    """Whether x and y are equal; zeros of both signs are, NaN never is."""

    accepts = ARITHMETIC
    commutes = True

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.equal(x, y)


class Ne(Comparison):
    """Whether x and y differ; NaN always does."""

    accepts = ARITHMETIC
    commutes = True

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.not_equal(x, y)


# --- choosing and converting --------------------------------------------------------------------------------------


class Select(RealLinear):
    """`x` where `predicate`, else `y`. Of any dtype, the storage-only ones too."""

    predicate: Value
    x: Value
    y: Value

    accepts = DTYPES
    unbounded = None
    linear = (1, 2)

    def check_operands(self) -> None:
        if self.predicate.dtype is not bool_:
            raise self.refuse(f"the predicate is {self.predicate.dtype}, not bool", code="TD0131", error=TypeMismatch)
        if self.x.dtype is not self.y.dtype:
            raise self.refuse(f"dtypes differ: {self.x.dtype} and {self.y.dtype}", code="TD0115", error=TypeMismatch)

    def result_dtype(self) -> DType:
        return self.x.dtype

    def evaluate(self, predicate: Array, x: Array, y: Array) -> Array:
        return np.where(predicate, x, y)

    def scalar(self, *x: Expr) -> Expr:
        return Choose(*x)

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        zero = lift(0, cotangent)
        return Select(self.predicate, cotangent, zero) if operand == 1 else Select(self.predicate, zero, cotangent)


class Finished(RealLinear):
    """`x`, as a loop of at most `steps` steps left it; fails where it was not `done`. Of any dtype."""

    x: Value
    done: Value
    steps: int

    accepts = DTYPES
    unbounded = None
    linear = (0,)
    can_fail = True

    def check_operands(self) -> None:
        if self.done.dtype is not bool_:
            raise self.refuse(f"done is {self.done.dtype}, not bool", code="TD0131", error=TypeMismatch)

    def failure(self) -> TreadleError:
        return RunFailed(
            f"while_loop: after max_steps={self.steps} its condition is still true",
            code="TD0157",
            location=self.location,
            edit="a greater max_steps, or a condition that counts the steps, too",
        )

    def spared(self, wanted: Callable[[Shape], Value]) -> Value:
        return replace(self, done=Or(self.done, Not(wanted(self.shape))))

    def evaluate(self, x: Array, done: Array) -> Array:
        if not np.all(done):
            raise self.failure()
        return x

    def scalar(self, *x: Expr) -> Expr:
        return x[0]

    def structure(self) -> Structure | None:
        x, done = element(0, self.dtype), element(1, bool_)
        return pointwise(self.shape, (self.dtype, bool_), x, self.dtype, Unary("not", done))

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        return replace(self, x=cotangent)


class Clamp(Elementwise):
    """min(max(x, low), high): `high` wins where the bounds cross; NaN anywhere gives NaN."""

    x: Value
    low: Value
    high: Value

    accepts = (*INTEGERS, *FLOATS)

    def evaluate(self, x: Array, low: Array, high: Array) -> Array:
        raised = np.where((x > low) | (x != x), x, low)
        return np.where((raised < high) | (raised != raised), raised, high)

    def scalar(self, *x: Expr) -> Expr:
        return Binary("min", Binary("max", x[0], x[1]), x[2])

    def partials(self) -> tuple[Value | None, ...]:
        if self.dtype.is_integer:
            return (None, None, None)
        raised = Maximum(self.x, self.low)
        through, high = Minimum(raised, self.high).partials()
        x, low = raised.partials()
        assert through is not None and x is not None and low is not None
        return (x * through, low * through, high)


class Convert(RealLinear):
    """The same number in another type, with NumPy's result for every input: integers wrap, floats lose their
    fraction, the imaginary part is dropped, everything but 0 is True. Out-of-range floats become what NumPy makes
    of them here."""

    x: Value
    to: DType

    accepts = DTYPES
    unbounded = None

    @property
    def linear(self) -> tuple[int, ...]:  # type: ignore[override]  # integers and bools carry no tangents
        exact = ("bool", "int", "uint")
        return () if self.to.kind in exact or self.x.dtype.kind in exact else (0,)

    @property
    def flat(self) -> bool:  # type: ignore[override]
        return not self.linear

    def result_dtype(self) -> DType:
        return self.to

    def evaluate(self, x: Array) -> Array:
        return np.asarray(scalars.cast(x, self.to))

    def scalar(self, *x: Expr) -> Expr:
        return convert(x[0], self.to)

    def transpose(self, cotangent: Value, operand: int) -> Value | None:
        # Towards a real operand the imaginary part of the cotangent falls away, as Convert does by itself.
        return Convert(cotangent, self.x.dtype)


def convert(x: Expr, to: DType) -> Expr:
    """A scalar in another type. Complex numbers are taken apart here, so that `Cast` never meets one."""
    if x.dtype is to:
        return x
    if x.dtype.kind != "complex":
        if to.kind != "complex":
            return Cast(x, to)
        part = real_of(to)
        return Binary("complex", convert(x, part), Const(0.0, part))
    if to is bool_:
        return Binary("ne", x, Const(0j, x.dtype))
    re, im = _parts(x)
    if to.kind != "complex":
        return convert(re, to)
    return Binary("complex", convert(re, real_of(to)), convert(im, real_of(to)))


class Bitcast(Elementwise):
    """The same bits read as another type of the same width. Not of bool, whose bits are not free, nor of complex."""

    x: Value
    to: DType

    flat = True
    accepts = tuple(dtype for dtype in DTYPES if dtype.kind not in ("bool", "complex"))

    def check_operands(self) -> None:
        _accepted(self, self.x)
        if self.to not in self.accepts or self.to.bits != self.x.dtype.bits:
            raise self.refuse(
                f"{self.x.dtype} has {self.x.dtype.bits} bits, {self.to} cannot hold the same ones",
                code="TD0133",
                error=TypeMismatch,
            )

    def result_dtype(self) -> DType:
        return self.to

    def evaluate(self, x: Array) -> Array:
        return np.ascontiguousarray(x).reshape(np.shape(x)).view(self.to.numpy)

    def scalar(self, *x: Expr) -> Expr:
        return x[0] if x[0].dtype is self.to else Cast(x[0], self.to, bits=True)
