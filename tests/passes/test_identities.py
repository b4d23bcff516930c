"""Algebra: what each rule makes of its line, and that values stay the same to the last bit.

The oracle is the reference interpreter, on numbers among which are both zeros, both infinities, NaN, the least and the
greatest: where an identity of numbers is not one of floats, it fails on these.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample import agree, around, at_sizes, kind
from text_cases import AllKernels

from treadle.ir import dtypes, target
from treadle.ir.dims import DimName, symbol
from treadle.ir.dtypes import DTYPES, FLOATS, INTEGERS, DType, bool_, f16, f32, f64, holds, i32, i64, u8
from treadle.ir.evaluate import evaluate
from treadle.ir.fingerprint import same
from treadle.ir.forms import WELL_FORMED
from treadle.ir.graph import Graph, from_function
from treadle.ir.ops.contract import Dot
from treadle.ir.ops.elementwise import (
    Abs,
    And,
    Bitcast,
    Clamp,
    Complex,
    Conj,
    Convert,
    Eq,
    Exp,
    Floor,
    FloorDiv,
    Fmax,
    Fmin,
    Imag,
    IsNan,
    Maximum,
    Minimum,
    Ne,
    Not,
    Or,
    Pow,
    Real,
    Rint,
    Rsqrt,
    Select,
    ShiftLeft,
    Sqrt,
    Xor,
)
from treadle.ir.ops.movement import Broadcast, Concatenate, Pad, Reshape, Reverse, Slice, StopGradient, Transpose
from treadle.ir.ops.reduce import Any, Max, Min, Prod, Sum
from treadle.ir.structure import highest, lowest
from treadle.ir.types import TensorType
from treadle.ir.value import Add, After, DimSize, Full, Ge, Gt, Le, Lt, Mul, Neg, Sub, Value, lift
from treadle.passes.identities import identities
from treadle.passes.manager import Context

Make = Callable[..., Value]
LOOSE = identities.with_options(exact=False)


def context() -> Context:
    return Context(target.parse("generic:v128"), AllKernels(False))


def special(dtype: DType, shape: tuple[int, ...], turn: int) -> np.ndarray:
    """Numbers at which identities of floats fail, in an order of its own for each operand."""
    if dtype is bool_:
        numbers: list[object] = [False, True, True]
    elif dtype.is_integer:
        least = 0 if dtype.kind == "uint" else -(2 ** (dtype.bits - 1))
        numbers = [0, 1, 2, 5, highest(dtype), least, highest(dtype) - 1, 77]
        numbers += [] if dtype.kind == "uint" else [-1, -7]
    else:
        top = float(np.finfo(np.float16).max) if dtype is f16 else 3e38
        numbers = [0.0, -0.0, 1.0, -1.0, 1.5, -2.75, np.inf, -np.inf, np.nan, top, -top, 1e-7, 3.0, -5.0]
        if dtype.kind == "complex":
            numbers = [complex(x, y) for x in numbers for y in (0.0, -0.0, 1.0, np.inf, np.nan)]
    count = int(np.prod(shape))
    step = next(s for s in (3, 5, 7, 11) if len(numbers) % s)
    picked = [numbers[(step * turn + i * (1 + step * (turn % 2))) % len(numbers)] for i in range(count)]
    return np.array(picked).astype(dtype.numpy).reshape(shape)


def check(before: Make, after: Make | None, *types: str, loose: bool = False, ulp: float = 0.0) -> None:
    """`before` becomes `after` (None: itself), and both have the same values, to the last bit unless `ulp` is given."""
    graph = around(before, *types)()
    wanted = graph if after is None else around(after, *types)()
    found = (LOOSE if loose else identities)(graph, context())
    assert same(found, wanted), f"{graph}\nbecomes\n{found}\nand not\n{wanted}"
    WELL_FORMED.check(found)
    if loose:
        return
    sizes = {"B": 3}
    arrays = [special(kind(text).dtype, at_sizes(text, sizes), i) for i, text in enumerate(types)]
    (want,), (got,) = evaluate(graph, *arrays, dims=sizes), evaluate(found, *arrays, dims=sizes)
    agree(got, want, ulp, about=str(graph))


def full(number: object, like: Value) -> Value:
    return lift(number, like)  # type: ignore[arg-type]


WHOLE = [d.name for d in INTEGERS]
REAL = [*WHOLE, *(d.name for d in FLOATS)]
FLOAT = [d.name for d in FLOATS]

# (of which dtypes, before, after); None where the line of the textbook is not true of these.
ONE_OPERAND: list[tuple[list[str], Make, Make | None]] = [
    (WHOLE, lambda x: x + 0, lambda x: x),
    (WHOLE, lambda x: 0 + x, lambda x: x),
    (FLOAT, lambda x: x + 0.0, None),
    (FLOAT, lambda x: x + -0.0, lambda x: x),
    (FLOAT, lambda x: -0.0 + x, lambda x: x),
    (["bool"], lambda x: Add(x, full(False, x)), lambda x: x),
    (["c64"], lambda x: x + 0, None),
    (REAL, lambda x: x - 0, lambda x: x),
    (FLOAT, lambda x: x - -0.0, None),
    (FLOAT, lambda x: -0.0 - x, lambda x: -x),
    (FLOAT, lambda x: 0.0 - x, None),
    (WHOLE, lambda x: 0 - x, lambda x: -x),
    (WHOLE, lambda x: x - x, lambda x: full(0, x)),
    (FLOAT, lambda x: x - x, None),
    (REAL, lambda x: x * 1, lambda x: x),
    (REAL, lambda x: 1 * x, lambda x: x),
    (["c64", "c128"], lambda x: x * 1, None),
    ([*FLOAT, "i8", "i64"], lambda x: x * -1, lambda x: -x),
    (WHOLE, lambda x: x * 0, lambda x: full(0, x)),
    (FLOAT, lambda x: x * 0.0, None),
    (["i32", "u8"], lambda x: (x + 100) + 100, lambda x: x + 200),
    (["i8"], lambda x: (x + 100) + 100, lambda x: x + -56),
    (["i8"], lambda x: (x * 50) * 7, lambda x: x * 94),
    (FLOAT, lambda x: (x + 0.1) + 0.2, None),
    (FLOAT, lambda x: -x * 3.0, lambda x: x * -3.0),
    (["i16"], lambda x: -x * -(2**15), lambda x: x * -(2**15)),
    (["u8"], lambda x: -x * 3, lambda x: x * 253),
    (FLOAT, lambda x: -(x * 3.0), lambda x: x * -3.0),
    (FLOAT, lambda x: x / 1.0, lambda x: x),
    (FLOAT, lambda x: x / -1.0, lambda x: -x),
    (FLOAT, lambda x: x / 4.0, lambda x: x * 0.25),
    (FLOAT, lambda x: x / 3.0, None),
    (FLOAT, lambda x: -x / 3.0, lambda x: x / -3.0),
    (FLOAT, lambda x: -(x / 3.0), lambda x: x / -3.0),
    (FLOAT, lambda x: x / 0.0, None),
    (FLOAT, lambda x: x / x, None),
    ([*REAL, "c64"], lambda x: Neg(Neg(x)), lambda x: x),
    (["c64"], lambda x: Abs(Neg(x)), lambda x: Abs(x)),
    ([*FLOAT, "i8", "i64"], lambda x: Abs(Abs(Neg(x))), lambda x: Abs(x)),
    (["u8", "u64"], lambda x: Abs(Abs(Neg(x))), lambda x: -x),
    (WHOLE, lambda x: FloorDiv(x, full(1, x)), lambda x: x),
    (FLOAT, lambda x: FloorDiv(x, full(1, x)), None),
    (REAL, lambda x: Pow(x, full(0, x)), lambda x: full(1, x)),
    (REAL, lambda x: Pow(x, full(1, x)), lambda x: x),
    (REAL, lambda x: Pow(x, full(2, x)), lambda x: x * x),
    (FLOAT, lambda x: Pow(x, full(-1, x)), lambda x: 1.0 / x),
    (FLOAT, lambda x: Pow(x, full(3, x)), None),
    (FLOAT, lambda x: Pow(x, full(0.5, x)), None),
    (FLOAT, lambda x: Floor(Rint(x)), lambda x: Rint(x)),
    (WHOLE, lambda x: Floor(Convert(x, f32)), lambda x: Convert(x, f32)),
    (REAL, lambda x: Maximum(x, x), lambda x: x),
    (REAL, lambda x: Maximum(x, full(lowest(x.dtype), x)), lambda x: x),
    (REAL, lambda x: Minimum(full(highest(x.dtype), x), x), lambda x: x),
    (WHOLE, lambda x: Maximum(x, full(highest(x.dtype), x)), lambda x: full(highest(x.dtype), x)),
    (FLOAT, lambda x: Maximum(x, full(np.inf, x)), None),
    (FLOAT, lambda x: Maximum(x, full(0.0, x)), None),
    (FLOAT, lambda x: Fmax(x, full(-np.inf, x)), None),
    (FLOAT, lambda x: Fmin(x, full(-np.inf, x)), lambda x: full(-np.inf, x)),
    (REAL, lambda x: Clamp(x, full(lowest(x.dtype), x), full(1, x)), lambda x: Minimum(x, full(1, x))),
    (REAL, lambda x: Clamp(x, full(1, x), full(highest(x.dtype), x)), lambda x: Maximum(x, full(1, x))),
    (["bool", *WHOLE], lambda x: Or(And(x, x), x), lambda x: x),
    (["bool", *WHOLE], lambda x: Xor(x, x), lambda x: full(0, x)),
    (["bool", *WHOLE], lambda x: Or(x, full(0, x)), lambda x: x),
    (["bool", *WHOLE], lambda x: And(full(0, x), x), lambda x: full(0, x)),
    (["i8", "i64"], lambda x: And(x, full(-1, x)), lambda x: x),
    (["u8"], lambda x: Xor(full(255, x), x), lambda x: Not(x)),
    (WHOLE, lambda x: ShiftLeft(x, full(0, x)), lambda x: x),
    (["bool", *WHOLE], lambda x: Not(Not(x)), lambda x: x),
    (["bool", *WHOLE], lambda x: Eq(x, x), lambda x: Full(True, x.tensor.with_dtype(bool_))),
    (["bool", *WHOLE], lambda x: Lt(x, x), lambda x: Full(False, x.tensor.with_dtype(bool_))),
    (FLOAT, lambda x: Lt(x, x), lambda x: Full(False, x.tensor.with_dtype(bool_))),
    (FLOAT, lambda x: Le(x, x), None),
    (FLOAT, lambda x: Eq(x, x), None),
    (FLOAT, lambda x: Ne(x, x), IsNan),
    (["bool"], lambda x: Eq(x, full(True, x)), lambda x: x),
    (["bool"], lambda x: Ne(full(True, x), x), Not),
    (["u8", "u64"], lambda x: Lt(x, full(0, x)), lambda x: Full(False, x.tensor.with_dtype(bool_))),
    (["u8", "u64"], lambda x: Ge(x, full(0, x)), lambda x: Full(True, x.tensor.with_dtype(bool_))),
    (["i8"], lambda x: Ge(x, full(0, x)), None),
    (["bool"], lambda x: Select(x, full(True, x), full(False, x)), lambda x: x),
    (["bool"], lambda x: Select(x, full(False, x), full(True, x)), Not),
    (REAL, lambda x: Select(Eq(x, x + 1), x, x), lambda x: x),
    (["f32"], lambda x: Convert(Convert(x, f64), f32), lambda x: x),
    (["f16"], lambda x: Convert(Convert(x, f32), i32), lambda x: Convert(x, i32)),
    (["f64"], lambda x: Convert(Convert(x, f32), f16), None),
    (["f32"], lambda x: Convert(Convert(x, f16), f32), None),
    (["i64"], lambda x: Convert(Convert(x, i32), u8), lambda x: Convert(x, u8)),
    (["i64"], lambda x: Convert(Convert(x, u8), i32), None),
    (["bool"], lambda x: Convert(Convert(x, f32), bool_), lambda x: x),
    (["i8", "u8"], lambda x: Convert(Convert(x, f16), f32), lambda x: Convert(x, f32)),
    (["i32"], lambda x: Convert(Convert(x, f32), f64), None),
    (["f32"], lambda x: Bitcast(Bitcast(x, i32), f32), lambda x: x),
    (["c64"], lambda x: Complex(Real(x), Imag(x)), lambda x: x),
    (["c64"], lambda x: Conj(Conj(x)), lambda x: x),
    (["c64"], lambda x: Real(Conj(x)), lambda x: Real(x)),
    (["f32"], StopGradient, lambda x: x),
    (["f32"], lambda x: After(x, ()), lambda x: x),
    (["f32"], lambda x: Exp(x), None),
]


@pytest.mark.parametrize("number", range(len(ONE_OPERAND)))
def test_one_operand(number: int) -> None:
    """The rules of one operand, and those that are not true of floats."""
    names, before, after = ONE_OPERAND[number]
    for name in names:
        check(before, after, f"{name}[15]")


TWO_OPERANDS: list[tuple[list[str], Make, Make | None]] = [
    ([*REAL, "c64"], lambda x, y: x + -y, lambda x, y: x - y),
    ([*REAL, "c64"], lambda x, y: -x + y, lambda x, y: y - x),
    ([*REAL, "c64"], lambda x, y: x - -y, lambda x, y: x + y),
    (REAL, lambda x, y: -x * -y, lambda x, y: x * y),
    (FLOAT, lambda x, y: -x / -y, lambda x, y: x / y),
    (WHOLE, lambda x, y: -(x - y), lambda x, y: y - x),
    (FLOAT, lambda x, y: -(x - y), None),
    (["bool", *REAL, "c64"], lambda x, y: Not(Eq(x, y)), Ne),
    (["bool", *REAL, "c64"], lambda x, y: Not(Ne(x, y)), Eq),
    (["bool", *WHOLE], lambda x, y: Not(Lt(x, y)), Ge),
    (["bool", *WHOLE], lambda x, y: Not(Le(x, y)), Gt),
    (FLOAT, lambda x, y: Not(Lt(x, y)), None),
    (REAL, lambda x, y: Select(Not(Lt(x, y)), x, y),
     lambda x, y: Select(Ge(x, y), x, y) if x.dtype.is_integer else Select(Lt(x, y), y, x)),
    (["f32"], lambda x, y: Select(Full(True, x.tensor.with_dtype(bool_)), x, y), lambda x, y: x),
    (["f32"], lambda x, y: (lambda p: Select(p, Select(p, x, y), y))(Lt(x, y)), lambda x, y: Select(Lt(x, y), x, y)),
    (["f32"], lambda x, y: (lambda p: Select(p, x, Select(p, x, y)))(Lt(x, y)), lambda x, y: Select(Lt(x, y), x, y)),
    (["f32"], lambda x, y: Real(Complex(x, y)), lambda x, y: x),
    (["f64"], lambda x, y: Imag(Complex(x, y)), lambda x, y: y),
    (["f32"], lambda x, y: After(After(x, (y,)), (x,)), lambda x, y: After(x, (y, x))),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(TWO_OPERANDS)))
def test_two_operands(number: int) -> None:
    """The rules of two operands, at every pair of special numbers."""
    names, before, after = TWO_OPERANDS[number]
    for name in names:
        check(before, after, f"{name}[210]", f"{name}[210]")


def cut(x: Value, *bounds: tuple[object, object, int]) -> Value:
    start, stop, step = zip(*bounds, strict=True)
    return Slice(x, start, stop, step)


def pad(
    x: Value, low: tuple[int, ...], high: tuple[int, ...], gap: tuple[int, ...] | None = None, number: float = 7
) -> Value:
    return Pad(x, Full(number, TensorType((), x.dtype)), low, high, gap or (0,) * x.rank)


B = symbol("B")

MOVEMENT: list[tuple[str, Make, Make | None]] = [
    ("f32[2,3]", lambda x: Broadcast(x, (2, 3), (0, 1)), lambda x: x),
    ("f32[3]", lambda x: Broadcast(Broadcast(x, (2, 3), (1,)), (2, 4, 3), (0, 2)),
     lambda x: Broadcast(x, (2, 4, 3), (2,))),
    ("f32[3]", lambda x: x + Broadcast(Full(-0.0, TensorType((), f32)), (3,), ()), lambda x: x),
    ("f32[B]", lambda x: x * Broadcast(Full(1.0, TensorType((), f32)), (B,), ()), lambda x: x),
    ("f32[3]", lambda x: Exp(Broadcast(x, (2, 3), (1,))), lambda x: Broadcast(Exp(x), (2, 3), (1,))),
    ("f32[]", lambda x: 2.0 / Broadcast(x, (B,), ()), lambda x: Broadcast(2.0 / x, (B,), ())),
    ("f32[3]", lambda x: Broadcast(x, (3, 3), (0,)) + Broadcast(x, (3, 3), (1,)), None),
    ("f32[2,3]", lambda x: Reshape(x, (2, 3)), lambda x: x),
    ("f32[2,6]", lambda x: Reshape(Reshape(x, (3, 4)), (12,)), lambda x: Reshape(x, (12,))),
    ("f32[2,6]", lambda x: Reshape(Reshape(x, (3, 4)), (2, 6)), lambda x: x),
    ("f32[]", lambda x: Reshape(Broadcast(x, (2, 3), ()), (6,)), lambda x: Broadcast(x, (6,), ())),
    ("f32[2,3]", lambda x: Transpose(x, (0, 1)), lambda x: x),
    ("f32[2,3,4]", lambda x: Transpose(Transpose(x, (1, 2, 0)), (2, 0, 1)), lambda x: x),
    ("f32[2,3,4]", lambda x: Transpose(Transpose(x, (1, 2, 0)), (0, 2, 1)), lambda x: Transpose(x, (1, 0, 2))),
    ("f32[3]", lambda x: Transpose(Broadcast(x, (2, 3), (1,)), (1, 0)), lambda x: Broadcast(x, (3, 2), (0,))),
    ("f32[3,4]", lambda x: Transpose(Broadcast(x, (2, 3, 4), (1, 2)), (2, 0, 1)),
     lambda x: Broadcast(Transpose(x, (1, 0)), (4, 2, 3), (0, 2))),
    ("f32[2,3]", lambda x: x + Transpose(Full(-0.0, TensorType((3, 2), f32)), (1, 0)), lambda x: x),
    ("f32[4,B]", lambda x: cut(x, (0, 4, 1), (0, B, 1)), lambda x: x),
    ("f32[20]", lambda x: cut(cut(x, (2, 18, 3)), (1, 5, 2)), lambda x: cut(x, (5, 12, 6))),
    ("f32[20]", lambda x: cut(cut(x, (2, 18, 3)), (1, 1, 2)), lambda x: cut(x, (5, 5, 6))),
    ("f32[B + 9]", lambda x: cut(cut(x, (2, B + 8, 1)), (1, B + 3, 1)), lambda x: cut(x, (3, B + 5, 1))),
    ("f32[2*B + 9]", lambda x: cut(cut(x, (0, 2 * B, 2)), (1, B, 1)), None),
    ("f32[3]", lambda x: cut(Broadcast(x, (5, 3), (1,)), (1, 4, 2), (1, 3, 1)),
     lambda x: Broadcast(cut(x, (1, 3, 1)), (2, 2), (1,))),
    ("f32[5]", lambda x: cut(pad(x, (2,), (3,)), (3, 6, 2)), lambda x: cut(x, (1, 4, 2))),
    ("f32[5]", lambda x: cut(pad(x, (2,), (3,)), (2, 7, 1)), lambda x: x),
    ("f32[B]", lambda x: cut(pad(x, (2,), (3,)), (2, B + 2, 1)), lambda x: x),
    ("f32[5]", lambda x: cut(pad(x, (2,), (3,)), (1, 6, 1)), None),
    ("f32[5]", lambda x: cut(pad(x, (2,), (3,), (1,)), (2, 7, 1)), None),
    ("f32[5]", lambda x: pad(x, (0,), (0,)), lambda x: x),
    ("f32[5]", lambda x: pad(x, (-1,), (-2,)), lambda x: cut(x, (1, 3, 1))),
    ("f32[5]", lambda x: pad(pad(x, (1,), (2,), (1,)), (3,), (0,)), lambda x: pad(x, (4,), (2,), (1,))),
    ("f32[5]", lambda x: pad(pad(x, (-1,), (2,)), (3,), (0,)), None),
    ("f32[5]", lambda x: pad(pad(x, (1,), (2,)), (3,), (0,), None, 8), None),
    ("f32[5]", lambda x: pad(x, (1,), (0,)) * pad(Full(7.0, x.tensor), (1,), (0,)),
     lambda x: pad(x, (1,), (0,)) * Full(7.0, TensorType((6,), f32))),
    ("f32[2,3]", lambda x: Concatenate((x,), 1), lambda x: x),
    ("f32[2,3]", lambda x: Concatenate((x, Concatenate((x, x), 1)), 1), lambda x: Concatenate((x, x, x), 1)),
    ("f32[2,3]", lambda x: Concatenate((x, Concatenate((x, x), 0)), 0), lambda x: Concatenate((x, x, x), 0)),
    ("f32[2,3]", lambda x: Concatenate((x, cut(x, (0, 2, 1), (1, 1, 1))), 1), lambda x: x),
    ("f32[6]", lambda x: Concatenate((cut(x, (0, 2, 1)), cut(x, (2, 5, 1)), cut(x, (5, 6, 1))), 0), lambda x: x),
    ("f32[6]", lambda x: Concatenate((cut(x, (2, 5, 1)), cut(x, (0, 2, 1))), 0), None),
    ("f32[2,B]", lambda x: Concatenate((cut(x, (0, 1, 1), (0, B, 1)), cut(x, (1, 2, 1), (0, B, 1))), 0), lambda x: x),
    ("f32[6,3]", lambda x: Concatenate((cut(x, (0, 2, 1), (0, 2, 1)), cut(x, (2, 6, 1), (1, 3, 1))), 0), None),
    ("f32[2]", lambda x: Concatenate((Full(1.0, x.tensor), Full(1.0, x.tensor), x), 0),
     lambda x: Concatenate((Full(1.0, TensorType((4,), f32)), x), 0)),
    ("f32[4,3]", lambda x: cut(Concatenate((x, Exp(x)), 0), (5, 8, 2), (0, 3, 1)),
     lambda x: cut(Exp(x), (1, 4, 2), (0, 3, 1))),
    ("f32[4,3]", lambda x: cut(Concatenate((x, Exp(x)), 0), (3, 8, 2), (0, 3, 1)), None),
    ("f32[1,3]", lambda x: Reverse(x, (0,)), lambda x: x),
    ("f32[2,3]", lambda x: Reverse(Reverse(x, (0, 1)), (1,)), lambda x: Reverse(x, (0,))),
    ("f32[2,3]", lambda x: Sum(x, ()), None),
    ("i32[2,3]", lambda x: Sum(x, ()), lambda x: x),
    ("f32[2,3]", lambda x: Prod(x, ()), lambda x: x),
    ("f32[2,3,4]", lambda x: Max(Max(x, (1,)), (1,)), lambda x: Max(x, (1, 2))),
    ("i32[2,3,4]", lambda x: Sum(Sum(x, (0,)), (0,)), lambda x: Sum(x, (0, 1))),
    ("f32[2,3,4]", lambda x: (lambda s: Concatenate((s, Reshape(Max(s, (0,)), (1, 4))), 0))(Max(x, (1,))), None),
    ("bf16[2,3]", lambda x: Sum(Sum(x, (0,)), (0,)), None),
    ("f32[2,3,4]", lambda x: Max(Transpose(x, (2, 0, 1)), (0, 2)), lambda x: Max(x, (1, 2))),
    ("f32[2,3,4]", lambda x: Max(Transpose(x, (2, 1, 0)), (0,)), None),
    ("f32[3]", lambda x: Max(Broadcast(x, (4, 3), (1,)), (0,)), lambda x: x),
    ("f32[3]", lambda x: Min(Broadcast(x, (4, 3), (1,)), (0, 1)), lambda x: Min(x, (0,))),
    ("f32[3]", lambda x: Max(Broadcast(x, (4, 3), (1,)), (1,)), lambda x: Broadcast(Max(x, (0,)), (4,), ())),
    ("f32[3]", lambda x: Max(Broadcast(x, (0, 3), (1,)), (0,)), None),
    ("i32[3]", lambda x: Sum(Broadcast(x, (5, 3), (1,)), (0,)), lambda x: x * 5),
    ("f32[3]", lambda x: Sum(Broadcast(x, (4, 3), (1,)), (0,)), None),
    ("f32[3]", lambda x: Sum(Broadcast(x, (B, 3), (1,)), (1,)), lambda x: Broadcast(Sum(x, (0,)), (B,), ())),
    ("i32[3]", lambda x: Sum(Broadcast(x, (B, 3), (1,)), (0,)), None),
    ("bool[3]", lambda x: Any(Broadcast(x, (5, 3), (1,)), (0,)), lambda x: x),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(MOVEMENT)))
def test_movement(number: int) -> None:
    """Movements compose and cancel; sizes may be symbols, as long as nothing has to be guessed."""
    text, before, after = MOVEMENT[number]
    check(before, after, text)


def dot(x: Value, y: Value, *axes: tuple[int, ...], accumulate: DType | None = None) -> Value:
    return Dot(x, y, *axes, accumulate)


PRODUCTS: list[tuple[str, str, Make, Make | None]] = [
    ("f64[2,3]", "f64[4,3]", lambda x, y: dot(x, Transpose(y, (1, 0)), (), (), (1,), (0,)),
     lambda x, y: dot(x, y, (), (), (1,), (1,))),
    ("f64[3,2]", "f64[3,4]", lambda x, y: dot(Transpose(x, (1, 0)), y, (), (), (1,), (0,)),
     lambda x, y: dot(x, y, (), (), (0,), (0,))),
    ("f64[2,3]", "f64[3,4]", lambda x, y: Transpose(dot(x, y, (), (), (1,), (0,)), (1, 0)),
     lambda x, y: dot(y, x, (), (), (0,), (1,))),
    ("f64[5,2,3]", "f64[5,3,4]", lambda x, y: Transpose(dot(x, y, (0,), (0,), (2,), (1,)), (0, 2, 1)),
     lambda x, y: dot(y, x, (0,), (0,), (1,), (2,))),
    ("f64[5,2,3]", "f64[5,3,4]", lambda x, y: Transpose(dot(x, y, (0,), (0,), (2,), (1,)), (1, 0, 2)), None),
    ("f64[2,5,3]", "f64[3,4]", lambda x, y: dot(Transpose(x, (1, 0, 2)), y, (), (), (2,), (0,)), None),
    ("f64[5,2,3]", "f64[3,4]", lambda x, y: dot(x, Broadcast(y, (5, 3, 4), (1, 2)), (0,), (0,), (2,), (1,)),
     lambda x, y: dot(x, y, (), (), (2,), (0,))),
    ("f64[5,6,2,3]", "f64[6,3,4]",
     lambda x, y: dot(x, Broadcast(y, (5, 6, 3, 4), (1, 2, 3)), (0, 1), (0, 1), (3,), (2,)),
     None),
    ("f64[5,6,2,3]", "f64[5,3,4]",
     lambda x, y: dot(x, Broadcast(y, (5, 6, 3, 4), (0, 2, 3)), (0, 1), (0, 1), (3,), (2,)),
     lambda x, y: dot(x, y, (0,), (0,), (3,), (1,))),
    ("bf16[2,3]", "bf16[3,4]", lambda x, y: dot(Convert(x, f32), Convert(y, f32), (), (), (1,), (0,)),
     lambda x, y: dot(x, y, (), (), (1,), (0,), accumulate=f32)),
    ("u8[2,3]", "i8[3,4]", lambda x, y: dot(Convert(x, i32), Convert(y, i32), (), (), (1,), (0,)),
     lambda x, y: dot(x, y, (), (), (1,), (0,), accumulate=i32)),
    ("f16[2,3]", "bf16[3,4]", lambda x, y: dot(Convert(x, f32), Convert(y, f32), (), (), (1,), (0,)), None),
    ("f32[2,3]", "f32[3,4]", lambda x, y: dot(Convert(x, f64), Convert(y, f64), (), (), (1,), (0,)), None),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(PRODUCTS)))
def test_products(number: int) -> None:
    """What moves an operand of a product becomes a question of its axes."""
    x, y, before, after = PRODUCTS[number]
    check(before, after, x, y, ulp=2.0)


def test_a_product_that_others_read_is_not_computed_twice() -> None:
    """(x y)ᵀ as a product of its own is cheaper only where x y is not needed anyway."""

    def both(x: Value, y: Value) -> Value:
        product = dot(x, y, (), (), (1,), (0,))
        return product + Transpose(Transpose(product, (1, 0)) + 1.0, (1, 0))

    check(both, None, "f64[2,3]", "f64[3,2]", ulp=2.0)


LOOSE_RULES: list[tuple[Make, Make]] = [
    (lambda x: x + 0.0, lambda x: x),
    (lambda x: x * 0.0, lambda x: full(0.0, x)),
    (lambda x: x - x, lambda x: full(0.0, x)),
    (lambda x: x / x, lambda x: full(1.0, x)),
    (lambda x: x / 3.0, lambda x: x * (1.0 / np.float32(3.0)).item()),
    (lambda x: (x * 3.0) * 5.0, lambda x: x * 15.0),
    (lambda x: (x + 3.0) + 5.0, lambda x: x + 8.0),
    (lambda x: 1.0 / Sqrt(x), lambda x: Rsqrt(x)),
    (lambda x: Pow(x, full(0.5, x)), lambda x: Sqrt(x)),
    (lambda x: Pow(x, full(-0.5, x)), lambda x: Rsqrt(x)),
    (lambda x: Pow(x, full(3.0, x)), lambda x: (lambda y: x * y)(x * x)),
    (lambda x: Pow(x, full(-2.0, x)), lambda x: 1.0 / (x * x)),
    (lambda x: x / 0.0, lambda x: x / 0.0),
    (lambda x: -(x - 1.0), lambda x: full(1.0, x) - x),
]


@pytest.mark.parametrize("number", range(len(LOOSE_RULES)))
def test_loose_rules(number: int) -> None:
    """What only `exact=False` does, to ordinary numbers within a few roundings."""
    before, after = LOOSE_RULES[number]
    check(before, after, "f32[15]", loose=True)
    graph = around(before, "f32[40]")()
    x = np.random.default_rng(0).uniform(0.5, 2, 40).astype(np.float32)
    (want,), (got,) = evaluate(graph, x), evaluate(LOOSE(graph, context()), x)
    if np.isfinite(want).all():
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_known_choice_is_made() -> None:
    """Control flow on known numbers disappears, with everything that only other branches needed."""
    from treadle.ir.parse import parse_graph

    graph = parse_graph("""
graph f(%x: f32[4], %y: f32[2,4], %z: f32[1,4]) -> (f32[4], f32[4], f32[4], f32[2,4], f32[1,4], f32[0,4]):
  %k = full 7 : i32[]
  %0 = switch %k, [%x] : (f32[4])
    branches[0] = graph a(%a: f32[4]) -> f32[4]:
      return %a
    branches[1] = graph b(%a: f32[4]) -> f32[4]:
      %0 = add %a, %a : f32[4]
      return %0
  %1 = get %0 {index=0} : f32[4]
  %2 = while [], [%x] : (f32[4])
    condition = graph c(%a: f32[4]) -> bool[]:
      %0 = full False : bool[]
      return %0
    body = graph d(%a: f32[4]) -> f32[4]:
      %0 = add %a, %a : f32[4]
      return %0
  %3 = get %2 {index=0} : f32[4]
  %4 = scan [%x], [%x], [%z] {length=1 counted=True} : (f32[4], f32[1,4])
    body = graph e(%t: i64[], %b: f32[4], %c: f32[4], %z: f32[4]) -> (f32[4], f32[4]):
      %0 = convert %t {to=f32} : f32[]
      %1 = broadcast %0 {to=(4,) axes=()} : f32[4]
      %2 = add %1, %z : f32[4]
      %3 = mul %c, %b : f32[4]
      return %3, %2
  %5 = get %4 {index=0} : f32[4]
  %6 = get %4 {index=1} : f32[1,4]
  %n = slice %y {start=(0,0) stop=(0,4) step=(1,1)} : f32[0,4]
  %7 = scan [], [%x], [%n] {length=0} : (f32[4], f32[0,4])
    body = graph g(%c: f32[4], %z: f32[4]) -> (f32[4], f32[4]):
      %0 = add %c, %z : f32[4]
      return %0, %0
  %8 = get %7 {index=1} : f32[0,4]
  return %1, %3, %5, %y, %6, %8
""")
    found = identities(graph, context())
    assert not any(value.bodies for value in found.ops)
    arrays = [special(f32, shape, i) for i, shape in enumerate(((4,), (2, 4), (1, 4)))]
    for got, want in zip(evaluate(found, *arrays), evaluate(graph, *arrays), strict=True):
        agree(got, want)


def test_which_types_hold_which() -> None:
    """`holds` lets two conversions become one, so it must be right for every pair: tried on every number of 16 bits or
    less, and on the edges of the others."""
    for narrow in DTYPES:
        if narrow.bits <= 16:
            numbers = np.arange(2**narrow.bits, dtype=f"u{narrow.bits // 8}").view(narrow.numpy)
            if narrow is bool_:
                numbers = np.array([False, True])
        elif narrow.is_integer:
            low, high = np.iinfo(narrow.numpy).min, np.iinfo(narrow.numpy).max
            near = [2**k + d for k in range(narrow.bits) for d in (-1, 0, 1)]
            numbers = np.array([n for n in (*near, *(-n for n in near), low, high) if low <= n <= high], narrow.numpy)
        else:
            numbers = special(narrow, (60,), 1)
        for wide in DTYPES:
            if not holds(wide, narrow):
                continue
            back = Convert(Convert(_param(narrow, numbers.shape), wide), narrow)
            graph = Graph("back", (back.x.x,), (back,))  # type: ignore[attr-defined]
            (got,) = evaluate(graph, numbers)
            agree(got, numbers, about=f"{narrow} through {wide}")


def _param(dtype: DType, shape: tuple[int, ...]) -> Value:
    from treadle.ir.value import Parameter

    return Parameter("x", TensorType(shape, dtype))


@given(st.data())
def test_towers_of_conversions(data: st.DataObject) -> None:
    """Any tower of conversions gives the same number after it is cut down."""
    tower = data.draw(st.lists(st.sampled_from([d for d in DTYPES if d.kind != "complex"]), min_size=2, max_size=5))
    first = tower[0]
    x = _param(first, (30,))
    value = x
    for to in tower[1:]:
        value = Convert(value, to)
    graph = Graph("tower", (x,), (value,))  # type: ignore[arg-type]
    found = identities(graph, context())
    assert len(found.ops) <= len(graph.ops)
    if first.kind == "float8":
        numbers = np.arange(30, dtype=np.uint8).view(first.numpy)
    else:
        numbers = special(first, (30,), 1)
    (got,), (want,) = evaluate(found, numbers), evaluate(graph, numbers)
    agree(got, want, about=str(graph))


def test_dims_that_are_numbers() -> None:
    """A size that is known is a number like any other."""
    check(lambda x: x + Convert(DimSize(0), i64), lambda x: x, "i64[]")
    assert dtypes.i64 is i64 and issubclass(Sub, Value) and issubclass(Prod, Value) and issubclass(Mul, Value)


@pytest.mark.parametrize("names", [(), ("B", "T")], ids=["known", "named"])
@pytest.mark.parametrize("heads", [0, 1, 3])
def test_products_over_joined_axes(heads: int, names: tuple[str, ...]) -> None:
    """Heads of attention, joined before the last product: no array is moved, whatever the sizes."""
    b, t = tuple(map(symbol, names)) or (2, 4)

    def build(x: Value, w: Value) -> Value:
        x = Reshape(Transpose(x, (0, 2, 1, 3)), (b, t, heads * 5))
        return Dot(x, w, (), (), (2,), (0,))

    made = from_function("joined", [TensorType((b, heads, t, 5), f64), TensorType((heads * 5, 6), f64)], build)
    graph = Graph(made.name, made.params, made.results, tuple(DimName(name) for name in names))
    found = identities(graph, context())
    if heads:
        assert not any(isinstance(value, Transpose) for value in found.ops)
    rng = np.random.default_rng(0)
    for sizes in [(2, 4)] if not names else [(2, 4), (1, 1), (0, 3)]:
        args = rng.standard_normal((sizes[0], heads, sizes[1], 5)), rng.standard_normal((heads * 5, 6))
        np.testing.assert_allclose(evaluate(found, *args)[0], evaluate(graph, *args)[0], rtol=1e-12, atol=1e-12)
