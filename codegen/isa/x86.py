"""x86-64: the dot products of VNNI, BF16 and of SSE2's pmaddwd, at the widest register the target has.

Vectors of any number of lanes are cut into registers and joined again; LLVM sees plain shuffles that fall away when
the cuts are at register boundaries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ...ir.dtypes import f32, i32
from ..llvm.intrinsics import declaration
from ..llvm.routines import joined, pieces
from ..llvm.writer import Value, Writer, register_type
from .spec import Emission


def _in_registers(w: Writer, args: tuple[Value, ...], whole: Callable[[tuple[Value, ...], int], Value]) -> Value:
    """`whole` on full registers of 32-bit lanes; scalars go in lane 0 of a 128-bit one."""
    lanes = max([arg.lanes for arg in args])
    if not lanes:
        firsts = tuple(
            [
                w.pure(
                    f"insertelement {register_type(arg.dtype, 4)} zeroinitializer, {arg.typed}, i64 0",
                    arg.dtype,
                    4,
                    arg.level,
                )
                for arg in args
            ]
        )
        result = whole(firsts, 128)
        return w.pure(f"extractelement {result.typed}, i64 0", result.dtype, 0, result.level)
    args = tuple([w.splat(arg, lanes) for arg in args])
    bits = min(w.target.vector_bits, 512)
    while bits > 128 and bits // 2 >= lanes * 32:
        bits //= 2
    cut = [pieces(w, arg, bits // 32) for arg in args]
    return joined(w, [whole(part, bits) for part in zip(*cut)], lanes)


def _seen_as(w: Writer, x: Value, type_: str) -> str:
    return w.pure(f"bitcast {x.typed} to {type_}", x.dtype, x.lanes, x.level).text


def _dot4(w: Writer, acc: Value, a: Value, b: Value) -> Value:
    def whole(args: tuple[Value, ...], bits: int) -> Value:
        c, x, y = args
        byte = f"<{bits // 8} x i8>"
        name = f"llvm.x86.avx512.vpdpbusd.{bits}"
        w.needs.declare(declaration(c.type, name, (c.type, byte, byte)))
        text = f"call {c.type} @{name}({c.typed}, {byte} {_seen_as(w, x, byte)}, {byte} {_seen_as(w, y, byte)})"
        return w.pure(text, i32, c.lanes, max(c.level, x.level, y.level))

    return _in_registers(w, (acc, a, b), whole)


_MADD: Final = {128: "llvm.x86.sse2.pmadd.wd", 256: "llvm.x86.avx2.pmadd.wd", 512: "llvm.x86.avx512.pmaddw.d.512"}


def _dot2(w: Writer, acc: Value, a: Value, b: Value) -> Value:
    def whole(args: tuple[Value, ...], bits: int) -> Value:
        c, x, y = args
        short = f"<{bits // 16} x i16>"
        w.needs.declare(declaration(c.type, _MADD[bits], (short, short)))
        text = f"call {c.type} @{_MADD[bits]}({short} {_seen_as(w, x, short)}, {short} {_seen_as(w, y, short)})"
        return w.op("add", c, w.pure(text, i32, c.lanes, max(x.level, y.level)))

    return _in_registers(w, (acc, a, b), whole)


def _dot2_bf16(w: Writer, acc: Value, a: Value, b: Value) -> Value:
    def whole(args: tuple[Value, ...], bits: int) -> Value:
        c, x, y = args
        short = f"<{bits // 16} x bfloat>"
        name = f"llvm.x86.avx512bf16.dpbf16ps.{bits}"
        w.needs.declare(declaration(c.type, name, (c.type, short, short)))
        text = f"call {c.type} @{name}({c.typed}, {short} {_seen_as(w, x, short)}, {short} {_seen_as(w, y, short)})"
        return w.pure(text, f32, c.lanes, max(c.level, x.level, y.level))

    return _in_registers(w, (acc, a, b), whole)


EMISSIONS: Final[dict[str, Emission]] = {"dot4_u8i8": _dot4, "dot2_i16": _dot2, "dot2_bf16": _dot2_bf16}
