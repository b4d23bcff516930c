"""Short floats: what the 16 and 8 bits in memory stand for, and rounding to them.

f16 and bf16 are held as f32 that are values of the half type, so a conversion happens where they enter and leave
memory; the bits of what was loaded are remembered, and a copy does not convert at all. fp8 is held as its bits, since
nothing computes on it. Rounding is to nearest, ties to even, spelt in integers wherever LLVM would call its compiler
library; the float adder rounds subnormals.
"""

from __future__ import annotations

import struct
from typing import Final

from ...ir.classes import dataclass
from ...ir.dtypes import DType, bf16, bool_, f16, f32, f64, i8, i16, i32, i64, u8, u16
from .writer import HALVES, Value, Writer, literal

_SIGNED: Final = {8: i8, 16: i16, 32: i32, 64: i64}


def held(dtype: DType) -> DType:
    """The dtype whose arithmetic stands for that of `dtype`."""
    return f32 if dtype in HALVES else dtype


def as_type(x: Value, dtype: DType) -> Value:
    """The same register seen as `dtype`, which has the same register type."""
    return Value(x.text, dtype, x.lanes, x.level, x.number)


def bits_of(w: Writer, x: Value) -> Value:
    """The bits of an f32 or f64 as a signed integer of that width."""
    return w.convert("bitcast", x, _SIGNED[x.dtype.bits])


def from_bits(w: Writer, x: Value, dtype: DType) -> Value:
    return w.convert("bitcast", x, dtype)


# --- f16 and bf16 -----------------------------------------------------------------------------------------------------


def half_from_memory(w: Writer, bits: Value, dtype: DType) -> Value:
    """The f32 that a half float's 16 bits stand for."""
    if dtype is f16 and w.target.has("f16c"):
        half = _half_type(bits.lanes)
        seen = w.pure(f"bitcast {bits.typed} to {half}", i16, bits.lanes, bits.level)
        text = f"fpext {half} {seen.text} to {_float_type(bits.lanes)}"
        x = w.pure(text, dtype, bits.lanes, bits.level)
    else:
        wide = w.convert("zext", as_type(bits, u16), i32)
        if dtype is bf16:
            x = as_type(from_bits(w, w.op("shl", wide, literal(16, i32)), f32), bf16)
        else:
            x = as_type(_f16_bits_to_f32(w, wide), f16)
    w.half_bits[x.text] = bits
    return x


def half_to_memory(w: Writer, x: Value) -> Value:
    """The 16 bits of a half float, as i16."""
    if x.is_literal:
        if x.text == "poison":
            return Value("poison", i16, x.lanes)
        scalar = x.text.removeprefix("splat (float ").removesuffix(")")
        return w.splat(literal(_half_literal_bits(scalar, x.dtype), i16), x.lanes)
    known = w.half_bits.get(x.text)
    if known is not None:
        return known
    if x.dtype is bf16:
        bits = w.op("lshr", bits_of(w, as_type(x, f32)), literal(16, i32))
        return w.convert("trunc", bits, i16)
    if w.target.has("f16c"):
        return _f16_bits_by_hardware(w, x)
    return w.convert("trunc", _f32_to_f16_bits(w, as_type(x, f32)), i16)


def _half_literal_bits(text: str, dtype: DType) -> int:
    return int.from_bytes(dtype.numpy.type(_literal_number(text)).tobytes(), "little")


def _literal_number(text: str) -> float:
    number: float = struct.unpack("<d", int(text, 16).to_bytes(8, "little"))[0]
    return number


def _half_type(lanes: int) -> str:
    return f"<{lanes} x half>" if lanes else "half"


def _float_type(lanes: int) -> str:
    return f"<{lanes} x float>" if lanes else "float"


def _f16_bits_by_hardware(w: Writer, x: Value) -> Value:
    half = _half_type(x.lanes)
    short = w.pure(f"fptrunc {x.typed} to {half}", i16, x.lanes, x.level)
    return w.pure(f"bitcast {half} {short.text} to {literal_type(i16, x.lanes)}", i16, x.lanes, x.level)


def literal_type(dtype: DType, lanes: int) -> str:
    return f"<{lanes} x i{dtype.bits}>" if lanes else f"i{dtype.bits}"


def round_half(w: Writer, x: Value, dtype: DType) -> Value:
    """An f32 rounded to the nearest half float, ties to even, still held as f32."""
    if x.is_literal and not x.lanes:
        return literal(_literal_number(x.text), dtype)
    x = as_type(x, f32)
    if dtype is bf16:
        bits = bits_of(w, x)
        # Adding 0x7fff, and one more if the kept part is odd, carries exactly when rounding goes up.
        odd = w.op("and", w.op("lshr", bits, literal(16, i32)), literal(1, i32))
        up = w.op("add", w.op("add", bits, literal(0x7FFF, i32)), odd)
        rounded = from_bits(w, w.op("and", up, literal(-0x10000, i32)), f32)
        nan = w.op("fcmp uno", x, x, bool_)
        quiet = w.op("or", bits, literal(0x400000, i32))
        kept = from_bits(w, w.op("and", quiet, literal(-0x10000, i32)), f32)
        return as_type(w.select(nan, kept, rounded), bf16)
    if w.target.has("f16c"):
        bits = _f16_bits_by_hardware(w, x)
    else:
        bits = w.convert("trunc", _f32_to_f16_bits(w, x), i16)
    return half_from_memory(w, bits, f16)


def _f32_to_f16_bits(w: Writer, x: Value) -> Value:
    """The bits of the nearest f16 as an i32, by integer arithmetic."""
    bits = bits_of(w, x)
    sign = w.op("and", bits, literal(-0x80000000, i32))
    size = w.op("xor", bits, sign)
    # Below 2**-14 the float adder does the rounding: 0.5 + |x| has its last bit where a subnormal f16 has it.
    shifted = w.op("fadd", from_bits(w, size, f32), literal(0.5, f32))
    small = w.op("sub", bits_of(w, shifted), literal(0x3F000000, i32))
    odd = w.op("and", w.op("lshr", size, literal(13, i32)), literal(1, i32))
    rebased = w.op("add", size, literal(((15 - 127) << 23) + 0xFFF, i32))
    normal = w.op("lshr", w.op("add", rebased, odd), literal(13, i32))
    is_nan = w.op("icmp ugt", size, literal(0x7F800000, i32), bool_)
    beyond = w.select(is_nan, literal(0x7E00, i32), literal(0x7C00, i32))
    finite = w.select(w.op("icmp ult", size, literal(113 << 23, i32), bool_), small, normal)
    is_large = w.op("icmp uge", size, literal((127 + 16) << 23, i32), bool_)
    return w.op("or", w.select(is_large, beyond, finite), w.op("lshr", sign, literal(16, i32)))


def _f16_bits_to_f32(w: Writer, wide: Value) -> Value:
    """The f32 equal to the f16 in the low half of an i32."""
    size = w.op("shl", w.op("and", wide, literal(0x7FFF, i32)), literal(13, i32))
    exponent = w.op("and", size, literal(0x7C00 << 13, i32))
    normal = w.op("add", size, literal((127 - 15) << 23, i32))
    special = w.op("add", size, literal((127 - 15 + 128 - 16) << 23, i32))
    # A subnormal is its bits as an integer below an implicit one that is then taken off again.
    raised = from_bits(w, w.op("add", size, literal((127 - 14) << 23, i32)), f32)
    small = bits_of(w, w.op("fsub", raised, literal(2.0**-14, f32)))
    is_small = w.op("icmp eq", exponent, literal(0, i32), bool_)
    is_special = w.op("icmp eq", exponent, literal(0x7C00 << 13, i32), bool_)
    finite = w.select(is_small, small, normal)
    sign = w.op("shl", w.op("and", wide, literal(0x8000, i32)), literal(16, i32))
    return from_bits(w, w.op("or", w.select(is_special, special, finite), sign), f32)


def half_by_odd_f32(w: Writer, x: Value, dtype: DType) -> Value:
    """An f64 rounded to a half float once, through an f32 rounded to odd: 24 bits are more than 11 + 2."""
    short = w.convert("fptrunc", x, f32)
    back = w.convert("fpext", short, f64)
    bits = bits_of(w, short)
    inexact = w.op("fcmp one", back, x, bool_)
    even = w.op("icmp eq", w.op("and", bits, literal(1, i32)), literal(0, i32), bool_)
    size_back = w.call("llvm.fabs", (back,), f64)
    grow = w.op("fcmp olt", size_back, w.call("llvm.fabs", (x,), f64), bool_)
    step = w.select(grow, literal(1, i32), literal(-1, i32))
    moved = w.op("add", bits, w.select(w.op("and", inexact, even), step, literal(0, i32)))
    return round_half(w, from_bits(w, moved, f32), dtype)


def narrowed(w: Writer, x: Value, dtype: DType) -> Value:
    """The result of arithmetic in the type held, rounded to `dtype`."""
    return round_half(w, x, dtype) if dtype in HALVES else x


# --- fp8 --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Format:
    """An 8-bit float: the width of its fraction, the bias of its exponent, its largest finite code, and the code that
    takes what lies beyond, NaN included. `signed_zero`: there is a -0; else that code is the only NaN."""

    fraction: int
    bias: int
    largest: int
    beyond: int
    nan: int
    signed_zero: bool


_FORMATS: Final = {
    "f8e4m3fn": Format(3, 7, 0x7E, 0x7F, 0x7F, True),
    "f8e5m2": Format(2, 15, 0x7B, 0x7C, 0x7E, True),
    "f8e4m3fnuz": Format(3, 8, 0x7F, 0x80, 0x80, False),
    "f8e5m2fnuz": Format(2, 16, 0x7F, 0x80, 0x80, False),
    "f8e4m3b11fnuz": Format(3, 11, 0x7F, 0x80, 0x80, False),
}


def from_float8(w: Writer, x: Value) -> Value:
    """The f32 equal to an fp8."""
    form = _FORMATS[x.dtype.name]
    code = w.convert("zext", as_type(x, u8), i32)
    size = w.op("and", code, literal(0x7F, i32))
    placed = w.op("shl", size, literal(23 - form.fraction, i32))
    normal = w.op("add", placed, literal((127 - form.bias) << 23, i32))
    # A subnormal is read as if it had its leading bit, which is then taken off again.
    raised = from_bits(w, w.op("add", placed, literal((128 - form.bias) << 23, i32)), f32)
    small = bits_of(w, w.op("fsub", raised, literal(2.0 ** (1 - form.bias), f32)))
    bits = w.select(w.op("icmp ult", placed, literal(1 << 23, i32), bool_), small, normal)
    if form.signed_zero:
        special = w.op("icmp ugt", size, literal(form.largest, i32), bool_)
        infinite = literal(0x7F800000 if form.beyond != form.nan else 0x7FC00000, i32)
        fraction = w.op("and", placed, literal(0x7FFFFF, i32))
        bits = w.select(special, w.op("or", infinite, fraction), bits)
    else:
        bits = w.select(w.op("icmp eq", code, literal(form.nan, i32), bool_), literal(0x7FC00000, i32), bits)
    sign = w.op("shl", w.op("and", code, literal(0x80, i32)), literal(24, i32))
    return from_bits(w, w.op("or", bits, sign), f32)


def to_float8(w: Writer, x: Value, dtype: DType) -> Value:
    """An f32 rounded to an fp8. What lies beyond the largest becomes infinity, or NaN where there is none."""
    form = _FORMATS[dtype.name]
    shift = 23 - form.fraction
    bits = bits_of(w, x)
    size = w.op("and", bits, literal(0x7FFFFFFF, i32))
    odd = w.op("and", w.op("lshr", size, literal(shift, i32)), literal(1, i32))
    rebased = w.op("add", size, literal(((form.bias - 127) << 23) + (1 << (shift - 1)) - 1, i32))
    normal = w.op("lshr", w.op("add", rebased, odd), literal(shift, i32))
    # Below the least normal number, adding a power of two whose last place is that of a subnormal rounds.
    anchor = literal(2.0 ** (1 - form.bias - form.fraction + 23), f32)
    shifted = w.op("fadd", from_bits(w, size, f32), anchor)
    small = w.op("sub", bits_of(w, shifted), bits_of(w, anchor))
    tiny = w.op("icmp ult", size, literal((128 - form.bias) << 23, i32), bool_)
    code = w.select(tiny, small, normal)
    code = w.select(w.op("icmp ugt", code, literal(form.largest, i32), bool_), literal(form.beyond, i32), code)
    code = w.select(w.op("icmp ugt", size, literal(0x7F800000, i32), bool_), literal(form.nan, i32), code)
    sign = w.op("and", w.op("lshr", bits, literal(24, i32)), literal(0x80, i32))
    if not form.signed_zero:
        sign = w.select(w.op("icmp eq", code, literal(0, i32), bool_), literal(0, i32), sign)
    return as_type(w.convert("trunc", w.op("or", code, sign), i8), dtype)
