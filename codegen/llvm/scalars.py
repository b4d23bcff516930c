"""The emission table: every primitive of the loops on every dtype, spelt out until no library is needed.

Each function writes straight code for scalars and vectors alike, total and equal on every target: integer division by
zero gives 0, shifts by the width or more give 0 or the sign, `min` and `max` pass NaN on and return the second of two
equal operands. Where a target lacks the instruction and LLVM would call libm or its compiler library, arithmetic stands
here instead. Half floats are held as f32 and rounded after each operation.
"""

from __future__ import annotations

import math
from typing import Final

from ...ir.dtypes import DType, bool_, f16, f32, f64, i32, i64
from ...ir.errors import Unsupported
from ...ir.loops.nodes import COMPARISONS, MATH, MATH_BINARY
from . import routines
from .short_floats import (
    as_type,
    bits_of,
    from_bits,
    half_by_odd_f32,
    half_from_memory,
    half_to_memory,
    held,
    narrowed,
)
from .writer import HALVES, Value, Writer, literal


def refuse(op: str, dtype: DType) -> Unsupported:
    if op in MATH or op in MATH_BINARY:
        return Unsupported(
            f"{op} is not a primitive of the emitter: open it before emission", code="TD0503", edit=f"expand {op} first"
        )
    return Unsupported(f"no target computes {op} on {dtype}", code="TD0504")


def number(value: bool | int | float, like: Value) -> Value:
    """A literal of the dtype of `like`; it spreads by itself where a vector is wanted."""
    return literal(value, like.dtype)


# --- one operand ------------------------------------------------------------------------------------------------------


def unary(w: Writer, op: str, x: Value) -> Value:
    dtype = x.dtype
    if dtype.kind == "float8":
        raise refuse(op, dtype)
    if op in ("real", "conj"):
        return x
    if op == "imag":
        return number(0, x)
    if dtype.is_float:
        return _unary_float(w, op, x)
    return _unary_integer(w, op, x)


def _unary_integer(w: Writer, op: str, x: Value) -> Value:
    dtype = x.dtype
    if op in ("floor", "ceil", "trunc", "rint"):
        return x
    if op in ("isnan", "isinf"):
        return literal(False, bool_)
    if op == "isfinite":
        return literal(True, bool_)
    if op == "signbit":
        return w.op("icmp slt", x, number(0, x), bool_) if dtype.kind == "int" else literal(False, bool_)
    if op == "not":
        return w.op("xor", x, literal(True if dtype is bool_ else -1, dtype))
    if op == "abs":
        return w.call("llvm.abs", (x,), dtype, extra="i1 false") if dtype.kind == "int" else x
    if op == "neg" and dtype is not bool_:
        return w.op("sub", number(0, x), x)
    if op == "popcount":
        if dtype is bool_:
            return x
        return w.call("llvm.ctpop", (x,), dtype)
    raise refuse(op, dtype)


def _unary_float(w: Writer, op: str, x: Value) -> Value:
    dtype = x.dtype
    wide = as_type(x, held(dtype))
    if op == "neg":
        return w.pure(f"fneg {x.typed}", dtype, x.lanes, x.level)
    if op == "abs":
        return w.call("llvm.fabs", (x,), dtype)
    if op == "isnan":
        return w.op("fcmp uno", wide, number(0.0, wide), bool_)
    if op == "isinf":
        return w.op("fcmp oeq", w.call("llvm.fabs", (wide,), wide.dtype), number(math.inf, wide), bool_)
    if op == "isfinite":
        return w.op("fcmp olt", w.call("llvm.fabs", (wide,), wide.dtype), number(math.inf, wide), bool_)
    if op == "signbit":
        bits = bits_of(w, wide)
        return w.op("icmp slt", bits, number(0, bits), bool_)
    if op in ("floor", "ceil", "trunc", "rint"):
        return as_type(round_to_integer(w, op, wide), dtype)
    if op == "sqrt":
        return narrowed(w, w.call("llvm.sqrt", (wide,), wide.dtype), dtype)
    raise refuse(op, dtype)


_ROUNDINGS: Final = {"floor": "llvm.floor", "ceil": "llvm.ceil", "trunc": "llvm.trunc", "rint": "llvm.roundeven"}


def round_to_integer(w: Writer, op: str, x: Value) -> Value:
    """floor, ceil, trunc or rint of an f32 or f64. Without the instruction: adding and taking off 2**23 (2**52) rounds
    to even, and a step of one mends the direction; the sign is put back so that -0.5 gives -0."""
    if w.target.has("round"):
        return w.call(_ROUNDINGS[op], (x,), x.dtype)
    size = w.call("llvm.fabs", (x,), x.dtype)
    whole = number(2.0**23 if x.dtype is f32 else 2.0**52, x)
    near = w.op("fsub", w.op("fadd", size, whole), whole)
    if op == "trunc":
        above = w.op("fcmp ogt", near, size, bool_)
        near = w.op("fsub", near, w.select(above, number(1.0, x), number(0.0, x)))
    # Beyond 2**23 every float is whole; NaN and infinity also stay as they are.
    signed = w.call("llvm.copysign", (near, x), x.dtype)
    result = w.select(w.op("fcmp olt", size, whole, bool_), signed, x)
    if op in ("floor", "ceil"):
        past = w.op("fcmp ogt" if op == "floor" else "fcmp olt", result, x, bool_)
        step = w.select(past, number(1.0 if op == "floor" else -1.0, x), number(0.0, x))
        result = w.call("llvm.copysign", (w.op("fsub", result, step), x), x.dtype)
    return result


# --- two operands -----------------------------------------------------------------------------------------------------

_INTEGER: Final = {"add": "add", "sub": "sub", "mul": "mul", "and": "and", "or": "or", "xor": "xor"}
_BOOLEAN: Final = {
    "add": "or", "mul": "and", "and": "and", "or": "or", "xor": "xor",
    "min": "and", "max": "or", "fmin": "and", "fmax": "or",
}  # fmt: skip
_FLOAT: Final = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_FLOAT_COMPARE: Final = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}


def binary(w: Writer, op: str, x: Value, y: Value) -> Value:
    dtype = x.dtype
    if dtype.kind == "float8":
        raise refuse(op, dtype)
    if dtype.is_float:
        return _binary_float(w, op, x, y)
    if op in COMPARISONS:
        sign = "" if op in ("eq", "ne") else "s" if dtype.kind == "int" else "u"
        return w.op(f"icmp {sign}{op}", x, y, bool_)
    if dtype is bool_:
        if op in _BOOLEAN:
            return w.op(_BOOLEAN[op], x, y)
        raise refuse(op, dtype)
    return _binary_integer(w, op, x, y)


def _binary_integer(w: Writer, op: str, x: Value, y: Value) -> Value:
    dtype = x.dtype
    if op in _INTEGER:
        result = w.op(_INTEGER[op], x, y)
        if op == "and" and y.number is not None:
            w.low_bits[result.text] = (x, y.number)
        return result
    if op in ("min", "max", "fmin", "fmax"):
        return w.call(f"llvm.{'s' if dtype.kind == 'int' else 'u'}{op[-3:]}", (x, y), dtype)
    if op in ("floordiv", "mod", "truncdiv", "rem"):
        return _divide_integer(w, op, x, y)
    if op in ("shl", "shr"):
        if y.number is not None and 0 <= y.number < dtype.bits:
            return w.op("shl" if op == "shl" else "ashr" if dtype.kind == "int" else "lshr", x, y)
        width = literal(dtype.bits, dtype)
        inside = w.op("icmp ult", y, width, bool_)
        if op == "shr" and dtype.kind == "int":
            # The sign fills what is beyond the width, and a negative count is beyond it.
            return w.op("ashr", x, w.select(inside, y, literal(dtype.bits - 1, dtype)))
        shifted = w.op("shl" if op == "shl" else "lshr", x, w.select(inside, y, literal(0, dtype)))
        return w.select(inside, shifted, literal(0, dtype))
    raise refuse(op, dtype)


def _divide_integer(w: Writer, op: str, x: Value, y: Value) -> Value:
    """Quotients and remainders; x / 0 is 0 both ways, and the least integer by -1 is itself, remainder 0."""
    dtype = x.dtype
    zero, one = number(0, x), number(1, x)
    quotient_wanted = op in ("floordiv", "truncdiv")
    known = y.number
    if dtype.kind == "uint":
        safe = y
        if known is None or known == 0:
            safe = w.select(w.op("icmp eq", y, zero, bool_), one, y)
        result = w.op("udiv" if quotient_wanted else "urem", x, safe)
        return result if safe is y else w.select(w.op("icmp eq", y, zero, bool_), zero, result)
    plain = known is not None and known not in (0, -1)
    if plain:
        safe, is_zero, is_minus_one = y, None, None
    else:
        is_zero = w.op("icmp eq", y, zero, bool_)
        is_minus_one = w.op("icmp eq", y, number(-1, x), bool_)
        safe = w.select(w.op("or", is_zero, is_minus_one), one, y)
    quotient = w.op("sdiv", x, safe) if quotient_wanted else zero
    remainder = w.op("srem", x, safe) if op != "truncdiv" else zero
    if op in ("floordiv", "mod"):
        # Round down: where there is a remainder of the other sign than the divisor, one step further.
        opposite = w.op("icmp slt", w.op("xor", remainder, safe), zero, bool_)
        apart = w.op("and", w.op("icmp ne", remainder, zero, bool_), opposite)
        if op == "floordiv":
            quotient = w.op("sub", quotient, w.select(apart, one, zero))
        else:
            remainder = w.op("add", remainder, w.select(apart, safe, zero))
    if is_zero is None or is_minus_one is None:
        return quotient if quotient_wanted else remainder
    if quotient_wanted:
        quotient = w.select(is_minus_one, w.op("sub", zero, x), quotient)
        return w.select(is_zero, zero, quotient)
    return w.select(is_zero, zero, remainder)  # by -1 and by 1 the remainder is 0 alike


def _binary_float(w: Writer, op: str, x: Value, y: Value) -> Value:
    dtype = x.dtype
    wide = held(dtype)
    a, b = as_type(x, wide), as_type(y, wide)
    if op in _FLOAT:
        return narrowed(w, w.op(_FLOAT[op], a, b), dtype)
    if op in _FLOAT_COMPARE:
        return w.op(f"fcmp {_FLOAT_COMPARE[op]}", a, b, bool_)
    if op in ("min", "max"):
        chosen = w.select(w.op("fcmp ogt" if op == "max" else "fcmp olt", x, y, bool_), x, y)
        return w.select(w.op("fcmp uno", x, x, bool_), x, chosen)
    if op in ("fmin", "fmax"):
        chosen = w.select(w.op("fcmp ogt" if op == "fmax" else "fcmp olt", x, y, bool_), x, y)
        return w.select(w.op("fcmp uno", y, y, bool_), x, chosen)
    if op == "copysign":
        return w.call("llvm.copysign", (x, y), dtype)
    if op == "nextafter":
        return _nextafter(w, x, y)
    if op == "exponent_shift":
        return narrowed(w, exponent_shift(w, a, b), dtype)
    if op in ("floordiv", "mod", "rem"):
        return narrowed(w, _divide_float(w, op, a, b), dtype)
    raise refuse(op, dtype)


def _divide_float(w: Writer, op: str, x: Value, y: Value) -> Value:
    """NumPy's floor_divide, remainder and fmod: from the exact remainder, then mended towards the divisor's sign."""
    zero = number(0.0, x)
    rem = routines.call(w, "fmod", (x, y))
    if op == "rem":
        return rem
    nonzero = w.op("fcmp une", rem, zero, bool_)
    opposite = w.op("xor", w.op("fcmp olt", y, zero, bool_), w.op("fcmp olt", rem, zero, bool_))
    apart = w.op("and", nonzero, opposite)
    by_zero = w.op("fcmp oeq", y, zero, bool_)
    if op == "mod":
        mended = w.select(apart, w.op("fadd", rem, y), rem)
        signed = w.call("llvm.copysign", (zero, y), x.dtype)
        # By zero the remainder is NaN, which `une` calls nonzero and the comparisons leave alone.
        return w.select(nonzero, mended, signed)
    quotient = w.op("fdiv", w.op("fsub", x, rem), y)
    quotient = w.op("fsub", quotient, w.select(apart, number(1.0, x), zero))
    floor = round_to_integer(w, "floor", quotient)
    past_half = w.op("fcmp ogt", w.op("fsub", quotient, floor), number(0.5, x), bool_)
    floor = w.op("fadd", floor, w.select(past_half, number(1.0, x), zero))
    plain = w.op("fdiv", x, y)
    signed_zero = w.call("llvm.copysign", (zero, plain), x.dtype)
    whole = w.select(w.op("fcmp une", quotient, zero, bool_), floor, signed_zero)
    return w.select(by_zero, plain, whole)


def _nextafter(w: Writer, x: Value, y: Value) -> Value:
    """One step along the number line of the storage type from x towards y."""
    dtype = x.dtype
    wide = held(dtype)
    a, b = as_type(x, wide), as_type(y, wide)
    if dtype in HALVES:
        bits = half_to_memory(w, x)
        bits_y = half_to_memory(w, y)
    else:
        bits, bits_y = bits_of(w, a), bits_of(w, b)
    integer = bits.dtype
    one = literal(1, integer)
    least = literal(-(1 << (integer.bits - 1)), integer)
    zero = number(0.0, a)
    # Larger in size if x and y lie so: bits count up away from zero.
    away = w.op("xor", w.op("fcmp olt", a, b, bool_), w.op("icmp slt", bits, literal(0, integer), bool_))
    stepped = w.op("add", bits, w.select(away, one, literal(-1, integer)))
    tiny = w.op("or", w.op("and", bits_y, least), one)
    moved = w.select(w.op("fcmp oeq", a, zero, bool_), tiny, stepped)
    result = half_from_memory(w, moved, dtype) if dtype in HALVES else from_bits(w, moved, dtype)
    # Of two equal zeros C's function gives the second, NumPy's for f16 the first.
    result = w.select(w.op("fcmp oeq", a, b, bool_), x if dtype is f16 else y, result)
    nan = w.op("fcmp uno", a, b, bool_)
    return w.select(nan, as_type(w.op("fadd", a, b), dtype), result)


def exponent_shift(w: Writer, x: Value, y: Value) -> Value:
    """x * 2**y, rounded once, for integral y."""
    dtype = x.dtype
    if w.target.has("scalef"):
        return routines.scalef(w, x, y)
    limit = 400.0 if dtype is f32 else 2200.0
    nan = w.op("fcmp uno", y, number(0.0, y), bool_)
    low = w.select(w.op("fcmp ogt", y, number(-limit, y), bool_), y, number(-limit, y))
    bounded = w.select(w.op("fcmp olt", low, number(limit, y), bool_), low, number(limit, y))
    n = w.convert("fptosi", bounded, i32)
    if dtype is f32:
        # In f64 neither the power nor the product leaves the range, so the only rounding is the last one.
        exponent = w.op("add", w.convert("sext", n, i64), literal(1023, i64))
        power = from_bits(w, w.op("shl", exponent, literal(52, i64)), f64)
        product = w.op("fmul", w.convert("fpext", x, f64), power)
        return w.select(nan, y, w.convert("fptrunc", product, f32))
    # Two steps of 2**1023, or of 2**-969, which leaves a subnormal 53 bits to be rounded by the last step alone.
    result = x
    for _ in range(2):
        up = w.op("icmp sgt", n, literal(1023, i32), bool_)
        down = w.op("icmp slt", n, literal(-1022, i32), bool_)
        factor = w.select(up, number(2.0**1023, x), w.select(down, number(2.0**-969, x), number(1.0, x)))
        taken = w.select(up, literal(1023, i32), w.select(down, literal(-969, i32), literal(0, i32)))
        result = w.op("fmul", result, factor)
        n = w.op("sub", n, taken)
    n = w.select(w.op("icmp slt", n, literal(-1022, i32), bool_), literal(-1022, i32), n)
    n = w.select(w.op("icmp sgt", n, literal(1023, i32), bool_), literal(1023, i32), n)
    exponent = w.op("add", w.convert("sext", n, i64), literal(1023, i64))
    power = from_bits(w, w.op("shl", exponent, literal(52, i64)), f64)
    return w.select(nan, y, w.op("fmul", result, power))


def fma(w: Writer, x: Value, y: Value, z: Value) -> Value:
    """x * y + z with one rounding."""
    dtype = x.dtype
    if not dtype.is_float or dtype.kind == "float8":
        raise refuse("fma", dtype)
    if dtype is f64:
        if w.target.has("fma"):
            return w.call("llvm.fma", (x, y, z), f64)
        return routines.call(w, "fma", (x, y, z))
    a, b, c = (as_type(v, f32) for v in (x, y, z))
    if dtype is f32 and w.target.has("fma"):
        return w.call("llvm.fma", (a, b, c), f32)
    # The product is exact in f64; the sum is rounded to odd, so that rounding it again loses nothing.
    product = w.op("fmul", w.convert("fpext", a, f64), w.convert("fpext", b, f64))
    addend = w.convert("fpext", c, f64)
    total = w.op("fadd", product, addend)
    part = w.op("fsub", total, product)
    error = w.op("fadd", w.op("fsub", product, w.op("fsub", total, part)), w.op("fsub", addend, part))
    odd = _odd_towards(w, total, error)
    return w.convert("fptrunc", odd, f32) if dtype is f32 else half_by_odd_f32(w, odd, dtype)


def _odd_towards(w: Writer, total: Value, error: Value) -> Value:
    """`total`, moved one step towards the exact total + error if it is inexact and even."""
    bits = bits_of(w, total)
    one = literal(1, bits.dtype)
    inexact = w.op("fcmp one", error, number(0.0, error), bool_)
    even = w.op("icmp eq", w.op("and", bits, one), literal(0, bits.dtype), bool_)
    negative = w.op("icmp slt", bits, literal(0, bits.dtype), bool_)
    inwards = w.op("xor", w.op("fcmp olt", error, number(0.0, error), bool_), negative)
    step = w.select(inwards, literal(-1, bits.dtype), one)
    moved = w.op("add", bits, w.select(w.op("and", inexact, even), step, literal(0, bits.dtype)))
    return from_bits(w, moved, total.dtype)
