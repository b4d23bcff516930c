"""Every instruction there is, by its meaning: dot products of packed short integers and floats.

Operands are 32-bit words, each holding the neighbours along the contracted axis (four bytes, or two halves, the first
in the low bits), because that is the unit in which machines take them and in which panels are packed.
"""

from __future__ import annotations

from typing import Final

from ...ir.dtypes import DType, bf16, f32, i8, i16, i32, u8, u16, u32
from ...ir.loops.nodes import Binary, Cast, Const, Expr, Fma, Let, Select, Unary, Var
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


def _flushed(x: Expr) -> Expr:
    """A subnormal as a zero of its sign."""
    tiny = Binary("lt", Unary("abs", x), Const(2.0**-126, f32))
    return Select(tiny, Binary("copysign", Const(0.0, f32), x), x)


def _bf16_dot() -> Instruction:
    acc = Var("acc", f32)
    words = {"a": _A, "b": _B}
    lets = [Let("c", _flushed(acc))]
    for name, word in words.items():
        for number in (0, 1):
            lets.append(Let(f"{name}{number}w", Cast(part(word, number, bf16), f32)))
            lets.append(Let(f"{name}{number}", _flushed(Var(f"{name}{number}w", f32))))
    a0, a1, b0, b1 = (Var(name, f32) for name in ("a0", "a1", "b0", "b1"))
    lets.append(Let("first", Fma(a1, b1, Var("c", f32))))
    lets.append(Let("kept", _flushed(Var("first", f32))))
    lets.append(Let("second", Fma(a0, b0, Var("kept", f32))))
    return Instruction(
        "dot2_bf16",
        (acc, _A, _B),
        tuple(lets),
        _flushed(Var("second", f32)),
        "dot_bf16",
        needs="no sum within 2**-24 of the least normal number, where machines flush before or after rounding",
    )


DOT4_U8I8: Final = Instruction("dot4_u8i8", (_ACC, _A, _B), (), _products(4, u8, i8), "dot_i8")
DOT2_I16: Final = Instruction("dot2_i16", (_ACC, _A, _B), (), _products(2, i16, i16), "dot_i16")
# The odd product first, each sum rounded once, subnormals taken and given as zeros: as measured on Zen 4 and as Intel
# describes it.
DOT2_BF16: Final = _bf16_dot()

INSTRUCTIONS: tuple[Instruction, ...] = (DOT4_U8I8, DOT2_I16, DOT2_BF16)
