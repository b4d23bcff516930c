"""Logarithms.

x = m 2**e with m in [2/3, 4/3), found by integer arithmetic on the bits; a polynomial gives log m. Subnormals are
scaled into the normal range first.
"""

from __future__ import annotations

import math
from typing import Final

from ...ir.dtypes import f32
from ...ir.loops.build import add, and_, bits, cast, eq, fma, gt, lit, lt, mul, select, shr, sub
from ...ir.loops.nodes import Expr, Var
from .math_writing import Lets, format_of, horner

# log(1 + t) = t + t**2 (...) on |t| <= 1/3; relative error 2**-26.6.
LOG_F32: Final = (
    -0.5, 0.3333320915699005, -0.24999716877937317, 0.20010748505592346, -0.16682302951812744, 0.14001156389713287,
    -0.12167178094387054, 0.14004775881767273, -0.12948882579803467,
)  # fmt: skip


def split(b: Lets, x: Expr) -> tuple[Var, Var]:
    """(e, m) with x = m 2**e and m in [2/3, 4/3), for finite x > 0; both as floats."""
    form = format_of(x)
    integer = form.integer
    tiny = b.let("tiny", lt(x, form.tiny))
    scaled = bits(select(tiny, mul(x, 2.0 ** form.fraction), x), integer)
    # The bits of 2/3 as the origin: what is left of it counts whole exponents.
    origin = int(lit(2.0 / 3.0, x.dtype).dtype.numpy.type(2.0 / 3.0).view(integer.numpy))
    i = b.let("i", sub(b.let("u", scaled), origin))
    m = bits(add(and_(i, (1 << form.fraction) - 1), origin), x.dtype)
    e = sub(cast(shr(i, form.fraction), x.dtype), select(tiny, lit(float(form.fraction), x.dtype), 0.0))
    return b.let("e", e), b.let("m", m)


def log_cases(x: Expr, finite: Expr) -> Expr:
    """The logarithm for every x, given what it is for finite x > 0."""
    inside = select(lt(x, math.inf), finite, x)
    below = select(eq(x, 0.0), lit(-math.inf, x.dtype), math.nan)
    return select(gt(x, 0.0), inside, below)


def log_f32(x: Expr, b: Lets) -> Expr:
    x = b.let("x", x)
    e, m = split(b, x)
    t = b.let("t", sub(m, 1.0))
    p = fma(horner(b, t, LOG_F32), b.let("w", mul(t, t)), t)
    return log_cases(x, fma(e, lit(math.log(2.0), f32), p))
