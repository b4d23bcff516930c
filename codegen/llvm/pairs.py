"""Arithmetic on all values: complex ones are pairs of reals, and reals are handed on.

Products are the schoolbook's, quotients Smith's of scaled operands, every operation rounded by itself, as the loops
define them; order is by the real part and then by the imaginary one, and nothing that holds a NaN is ordered, as in
NumPy. The absolute value and the root are mathematics, opened before emission like `exp`.
"""

from __future__ import annotations

from ...ir.dtypes import DType, bool_, f32, f64, real_of
from ...ir.errors import Unsupported
from ...ir.loops.scalars import EXTREMES
from . import casts, scalars
from .writer import Value, Writer, literal, pair


def unary(w: Writer, op: str, x: Value) -> Value:
    """A function of UNARY."""
    if x.parts is None:
        return scalars.unary(w, op, x)
    a, b = x.parts
    match op:
        case "real":
            return a
        case "imag":
            return b
        case "conj":
            return pair(a, scalars.unary(w, "neg", b))
        case "neg":
            return pair(scalars.unary(w, "neg", a), scalars.unary(w, "neg", b))
        case "rint":
            return pair(scalars.unary(w, op, a), scalars.unary(w, op, b))
        case "isnan" | "isinf":
            return w.op("or", scalars.unary(w, op, a), scalars.unary(w, op, b))
        case "isfinite":
            return w.op("and", scalars.unary(w, op, a), scalars.unary(w, op, b))
        case _:
            raise scalars.refuse(op, x.dtype)


def binary(w: Writer, op: str, x: Value, y: Value) -> Value:
    """A function of BINARY."""
    if op == "complex" and x.dtype in (f32, f64):
        lanes = x.lanes or y.lanes
        return pair(w.splat(x, lanes), w.splat(y, lanes))
    if x.parts is None or y.parts is None:
        return scalars.binary(w, op, x, y)
    a, b = x.parts
    c, d = y.parts
    match op:
        case "add" | "sub":
            return pair(scalars.binary(w, op, a, c), scalars.binary(w, op, b, d))
        case "mul":
            return pair(
                w.op("fsub", w.op("fmul", a, c), w.op("fmul", b, d)),
                w.op("fadd", w.op("fmul", a, d), w.op("fmul", b, c)),
            )
        case "div":
            return _divide(w, a, b, c, d)
        case "eq":
            return w.op("and", scalars.binary(w, "eq", a, c), scalars.binary(w, "eq", b, d))
        case "ne":
            return w.op("or", scalars.binary(w, "ne", a, c), scalars.binary(w, "ne", b, d))
        case "lt" | "le" | "gt" | "ge":
            return _ordered(w, op, a, b, c, d)
        case "min" | "max" | "fmin" | "fmax":
            first = _ordered(w, "lt" if op.endswith("min") else "gt", a, b, c, d)
            # NaN wins, or with fmin and fmax loses.
            if op.startswith("f"):
                return w.select(w.op("or", first, unary(w, "isnan", y)), x, y)
            return w.select(w.op("or", first, unary(w, "isnan", x)), x, y)
        case _:
            raise scalars.refuse(op, x.dtype)


def _ordered(w: Writer, op: str, a: Value, b: Value, c: Value, d: Value) -> Value:
    strict = scalars.binary(w, "lt" if op in ("lt", "le") else "gt", a, c)
    known = w.op("fcmp ord", b, d, bool_)
    tied = w.op("and", scalars.binary(w, "eq", a, c), scalars.binary(w, op, b, d))
    return w.op("or", w.op("and", strict, known), tied)


def _divide(w: Writer, a: Value, b: Value, c: Value, d: Value) -> Value:
    """(a + bi) / (c + di), by the larger part of the divisor. Very large and very small operands are scaled by powers
    of two, so that only what leaves the range itself is infinite or 0."""
    one, zero = literal(1.0, a.dtype), literal(0.0, a.dtype)
    large, small, down, up = (literal(2.0**power, a.dtype) for power in EXTREMES[a.dtype])
    size_a, size_b, size_c, size_d = (scalars.unary(w, "abs", v) for v in (a, b, c, d))

    def factor(size: Value, other: Value) -> tuple[Value, Value]:
        """What scales two parts, and its inverse."""
        above = w.op("or", w.op("fcmp ogt", size, large, bool_), w.op("fcmp ogt", other, large, bool_))
        below = w.op("and", w.op("fcmp olt", size, small, bool_), w.op("fcmp olt", other, small, bool_))
        return (
            w.select(above, down, w.select(below, up, one)),
            w.select(above, up, w.select(below, down, one)),
        )

    (of_top, back), (of_bottom, _) = factor(size_a, size_b), factor(size_c, size_d)
    by_c = w.op("fcmp oge", size_c, size_d, bool_)
    larger, smaller = (w.op("fmul", w.select(by_c, *v), of_bottom) for v in ((c, d), (d, c)))
    top, other = w.op("fmul", a, of_top), w.op("fmul", b, of_top)
    ratio = w.op("fdiv", smaller, larger)
    scale = w.op("fdiv", one, w.op("fadd", larger, w.op("fmul", smaller, ratio)))
    p, q = w.select(by_c, top, other), w.select(by_c, other, top)
    real = w.op("fmul", w.op("fadd", p, w.op("fmul", q, ratio)), scale)
    forward = w.op("fsub", other, w.op("fmul", top, ratio))
    backward = w.op("fsub", w.op("fmul", other, ratio), top)
    imaginary = w.op("fmul", w.select(by_c, forward, backward), scale)
    back = w.op("fmul", back, of_bottom)
    real, imaginary = w.op("fmul", real, back), w.op("fmul", imaginary, back)
    nothing = w.op("and", w.op("fcmp oeq", c, zero, bool_), w.op("fcmp oeq", d, zero, bool_))
    return pair(w.select(nothing, w.op("fdiv", a, size_c), real), w.select(nothing, w.op("fdiv", b, size_c), imaginary))


def cast(w: Writer, x: Value, dtype: DType, bits: bool = False) -> Value:
    """A conversion. To a complex type from its real part; from one to bool, whether it is not 0; to any other type,
    its real part."""
    if x.dtype is dtype or (x.parts is None and dtype.kind != "complex"):
        return casts.cast(w, x, dtype, bits)
    if bits:
        raise Unsupported(f"kernels do not see {x.dtype} as {dtype}", code="TD0501", edit="take the parts one by one")
    a, b = x.parts or (x, None)
    if dtype.kind != "complex":
        real = casts.cast(w, a, dtype)
        return w.op("or", real, casts.cast(w, b, dtype)) if dtype is bool_ and b is not None else real
    kind = real_of(dtype)
    zero = w.splat(literal(0.0, kind), a.lanes)
    return pair(casts.cast(w, a, kind), zero if b is None else casts.cast(w, b, kind))
