"""Every instruction there is, by its meaning: dot products of packed short integers and floats.

Operands are 32-bit words, each holding the neighbours along the contracted axis (four bytes, or two halves, the first
in the low bits), because that is the unit in which machines take them and in which panels are packed.
"""

from __future__ import annotations

from typing import Final

from ...ir.dtypes import DType, i8, i16, i32, u8, u16, u32
from ...ir.loops.nodes import Binary, Cast, Const, Expr, Var
from .spec import Instruction

_ACC: Final = Var("acc", i32)
_A: Final = Var("a", u32)
_B: Final = Var("b", u32)


def part(word: Expr, number: int, dtype: DType) -> Expr:
    """Element `number` of the elements of `dtype` packed in a u32."""
    moved = Binary("shr", word, Const(number * dtype.bits, u32)) if number else word
    bits = Cast(moved, {8: u8, 16: u16}[dtype.bits])
    return Cast(bits, dtype, bits=True) if dtype not in (u8, u16) else bits


def _products(count: int, left: DType, right: DType) -> Expr:
    total: Expr = _ACC
    for number in range(count):
        product = Binary("mul", Cast(part(_A, number, left), i32), Cast(part(_B, number, right), i32))
        total = Binary("add", total, product)
    return total


DOT4_U8I8: Final = Instruction("dot4_u8i8", (_ACC, _A, _B), (), _products(4, u8, i8), "dot_i8")
DOT2_I16: Final = Instruction("dot2_i16", (_ACC, _A, _B), (), _products(2, i16, i16), "dot_i16")

INSTRUCTIONS: tuple[Instruction, ...] = (DOT4_U8I8, DOT2_I16)
