"""Conversions between dtypes, with NumPy's result for every input."""

from __future__ import annotations

import math

from ...ir.dtypes import DType, bf16, bool_, f16, f32, f64, i16, i32, i64, u8, u32, u64
from ...ir.errors import Unsupported
from . import short_floats
from .short_floats import as_type, bits_of, from_bits, half_from_memory, half_to_memory, held, narrowed, round_half
from .writer import HALVES, Value, Writer, literal


def narrowed_from_f64(w: Writer, x: Value, dtype: DType) -> Value:
    """An f64 rounded to `dtype` at once. To bf16 it goes through f32, as ml_dtypes does."""
    if dtype is f16:
        return short_floats.half_by_odd_f32(w, x, f16)
    short = w.convert("fptrunc", x, f32)
    return short if dtype is f32 else round_half(w, short, bf16)


def cast(w: Writer, x: Value, dtype: DType, bits: bool = False) -> Value:
    source = x.dtype
    if source is dtype:
        return x
    if bits:
        return _same_bits(w, x, dtype)
    if source.kind == "float8":
        wide = short_floats.from_float8(w, x)
        return _from_float8(w, wide, dtype) if dtype.is_integer else cast(w, wide, dtype)
    if dtype.kind == "float8":
        return short_floats.to_float8(w, cast(w, x, f32), dtype)
    if dtype is bool_:
        if source.is_float:
            wide = as_type(x, held(source))
            return w.op("fcmp une", wide, literal(0.0, wide.dtype), bool_)
        return w.op("icmp ne", x, literal(0, x.dtype), bool_)
    if source.is_float:
        wide = as_type(x, held(source))
        if dtype.is_float:
            return _float_to_float(w, wide, dtype)
        return _to_integer(w, wide, dtype)
    if dtype.is_float:
        opcode = "sitofp" if source.kind == "int" else "uitofp"
        if x.number is not None and not x.lanes:
            return narrowed(w, literal(x.number, held(dtype)), dtype)
        return narrowed(w, w.convert(opcode, x, held(dtype)), dtype)
    if x.number is not None and not x.lanes:
        return literal(x.number, dtype)
    if source.bits == dtype.bits and source is not bool_:
        return as_type(x, dtype)
    if dtype.bits < source.bits:
        return w.convert("trunc", x, dtype)
    return w.convert("sext" if source.kind == "int" else "zext", x, dtype)


def _same_bits(w: Writer, x: Value, dtype: DType) -> Value:
    source = x.dtype
    if source.bits != dtype.bits:
        raise Unsupported(f"{source} and {dtype} have different widths", code="TD0505")
    if source in HALVES:
        x = half_to_memory(w, w.splat(x, x.lanes))
    elif source is bool_:
        x = w.convert("zext", x, u8)
    elif source.is_float and source.kind != "float8":
        x = bits_of(w, x)
    if dtype in HALVES:
        return half_from_memory(w, as_type(x, i16), dtype)
    if dtype is bool_:
        return w.op("icmp ne", x, literal(0, x.dtype), bool_)
    return from_bits(w, x, dtype) if dtype.is_float and dtype.kind != "float8" else as_type(x, dtype)


def _float_to_float(w: Writer, x: Value, dtype: DType) -> Value:
    """`x` is an f32 or f64."""
    if x.dtype is f64:
        return narrowed_from_f64(w, x, dtype)
    if dtype is f64:
        return w.convert("fpext", x, f64)
    return x if dtype is f32 else round_half(w, x, dtype)


def _to_integer(w: Writer, x: Value, dtype: DType) -> Value:
    """Towards zero. Out of range and NaN as the C of NumPy has them on x86-64: 8 and 16 bits are cut from a 32-bit
    conversion, u32 from a 64-bit one, and a signed conversion that cannot hold its value gives the least integer."""
    if dtype is u64:
        # From 2**63 up the difference to 2**63 is converted and the top bit set; all else is a signed conversion.
        half = literal(2.0**63, x.dtype)
        high = w.op("fcmp oge", x, half, bool_)
        low_part = _signed(w, w.select(high, w.op("fsub", x, half), x), i64)
        return as_type(w.op("xor", low_part, w.select(high, literal(-(1 << 63), i64), literal(0, i64))), u64)
    if dtype is u32:
        return w.convert("trunc", _signed(w, x, i64), u32)
    if dtype is i64:
        return _signed(w, x, i64)
    whole = _signed(w, x, i32)
    return whole if dtype is i32 else w.convert("trunc", whole, dtype)


def _from_float8(w: Writer, x: Value, dtype: DType) -> Value:
    """What was an fp8, as an integer: the low bits of what is finite, the ends for the infinities, NaN 0, as ml_dtypes
    has it."""
    whole = cast(w, _signed(w, x, i32), dtype)
    ends = (1 << (dtype.bits - (dtype.kind == "int"))) - 1, -(1 << (dtype.bits - 1)) if dtype.kind == "int" else 0
    for value, end in zip((math.inf, -math.inf), ends):
        at_end = w.op("fcmp oeq", x, literal(value, f32), bool_)
        whole = w.select(at_end, literal(end, dtype), whole)
    return w.select(w.op("fcmp uno", x, x, bool_), literal(0, dtype), whole)


def _signed(w: Writer, x: Value, dtype: DType) -> Value:
    # -2**31 itself fails the test and gets the same answer from the other arm.
    inside = w.op("fcmp olt", w.call("llvm.fabs", (x,), x.dtype), literal(2.0 ** (dtype.bits - 1), x.dtype), bool_)
    return w.select(inside, w.convert("fptosi", x, dtype), literal(-(1 << (dtype.bits - 1)), dtype))
