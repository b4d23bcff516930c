"""arm64: the dot product of the i8mm extension.

Only what a plain NEON machine lacks stands here; the primitives of the loops are NEON instructions already.
"""

from __future__ import annotations

from typing import Final

from ...ir.dtypes import i32
from ..llvm.intrinsics import declaration
from ..llvm.routines import joined, pieces
from ..llvm.writer import Value, Writer, register_type
from .spec import Emission


def _dot4(w: Writer, acc: Value, a: Value, b: Value) -> Value:
    lanes = max(acc.lanes, a.lanes, b.lanes)

    def whole(c: Value, x: Value, y: Value) -> Value:
        name = "llvm.aarch64.neon.usdot.v4i32.v16i8"
        w.needs.declare(declaration("<4 x i32>", name, ("<4 x i32>", "<16 x i8>", "<16 x i8>")))
        seen = [w.pure(f"bitcast {v.typed} to <16 x i8>", v.dtype, 4, v.level).text for v in (x, y)]
        text = f"call <4 x i32> @{name}({c.typed}, <16 x i8> {seen[0]}, <16 x i8> {seen[1]})"
        return w.pure(text, i32, 4, max(c.level, x.level, y.level))

    if not lanes:
        firsts = [
            w.pure(f"insertelement {register_type(v.dtype, 4)} zeroinitializer, {v.typed}, i64 0", v.dtype, 4, v.level)
            for v in (acc, a, b)
        ]
        result = whole(*firsts)
        return w.pure(f"extractelement {result.typed}, i64 0", i32, 0, result.level)
    cut = [pieces(w, w.splat(v, lanes), 4) for v in (acc, a, b)]
    return joined(w, [whole(*part) for part in zip(*cut)], lanes)


EMISSIONS: Final[dict[str, Emission]] = {"dot4_u8i8": _dot4}
