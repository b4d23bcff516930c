"""Kernels as text: what is printed reads like Python, says every type, and comes back as the same kernel."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from random_kernels import Sample, samples

from treadle.ir import dtypes as d
from treadle.ir.dims import symbol
from treadle.ir.loops.build import Builder, absolute, add, cast, eq, fma, lit, load, mul, neg, select, sqrt, var
from treadle.ir.loops.nodes import Binary, Call, Cast, Const, Expr, Index, Kernel, Let, Load, Unary, Var
from treadle.ir.loops.parse import parse_kernel
from treadle.ir.loops.text import show, show_expr, show_head, show_number


# The language's promise: every kernel that keeps the rules is its text, exactly, and printing settles at once.
@given(samples())
def test_round_trip(sample: Sample) -> None:
    text = show(sample.kernel)
    again = parse_kernel(text)
    assert again == sample.kernel
    assert show(again) == text


# What a person sees: one kernel with every statement, exactly as it is printed.
def test_every_statement() -> None:
    n = symbol("N")
    k = Builder("every", dims=("N",))
    x, y = k.input("x", d.f32, (1, n)), k.output("y", d.f32, (n,))
    s = k.inout("s", d.i32, ())
    t = k.table("t", d.f32, (0.5, 0.1))
    with k.parallel("i", n, step=16) as i:
        acc = k.registers("acc", d.f32, (16,))
        with k.vector("l", 16) as lane:
            k.store(acc, lane, 0.0)
        with k.vector("l", 8, n - i) as lane:
            v = k.let("v", fma(load(x, 0, lane), 2.0, load(t, 1)))
            k.store(y, i + lane, select(eq(v, 1.0), neg(v), absolute(v)))
        with k.unrolled("u", 4):
            pass
        with k.if_(eq(i, 0)):
            k.fail(eq(Index(i + 1), n), 3, Index(i), n)
        with k.else_():
            with k.if_(eq(i, 16)):
                k.store(s, (), 1)
            with k.else_():
                k.store(s, (), add(load(s), 1))
    with k.do() as again:
        w = k.let("w", load(s))
        again(eq(w, 7))
    with k.if_(eq(load(s), 1)):
        k.store(s, (), 2)
    with k.else_():
        with k.if_(eq(load(s), 2)):
            k.store(s, (), 3)
        with k.else_():
            k.store(s, (), 4)
    assert (
        show(k.finish())
        == """\
kernel every(x: f32[1,N], y: out f32[N], s: inout i32[]) where N:
  table t: f32 = [0.5, 0.1]
  for i in parallel(0, N, 16):
    acc: registers f32[16]
    for l in vector(16):
      acc[l] = 0.0
    for l_1 in vector(N - i, lanes=8):
      let v: f32 = fma(x[0, l_1], 2.0, t[1])
      y[i + l_1] = select(v == 1.0, -v, abs(v))
    for u in unrolled(4):
      pass
    if i == 0:
      fail 3 (i, N) if index(i + 1) == N
    elif i == 16:
      s[] = 1
    else:
      s[] = s[] + 1
  do:
    let w: i32 = s[]
  while w == 7
  if s[] == 1:
    s[] = 2
  elif s[] == 2:
    s[] = 3
  else:
    s[] = 4
"""
    )
    assert parse_kernel(show(k.finish())) == k.finish()


X, Y = var("x", d.f32), var("y", d.f32)
B, WHOLE = var("b", d.bool_), var("i", d.i32)

# Parentheses stand where Python would need them and nowhere else; a literal says its type only where nobody else does.
EXPRESSIONS: list[tuple[Expr, str]] = [
    (mul(add(X, Y), 2.0), "(x + y) * 2.0"),
    (add(X, mul(Y, 2.0)), "x + y * 2.0"),
    (Binary("sub", X, Binary("sub", Y, X)), "x - (y - x)"),
    (Binary("sub", Binary("sub", X, Y), X), "x - y - x"),
    (Binary("pow", Binary("pow", X, Y), X), "(x ** y) ** x"),
    (Binary("pow", X, Binary("pow", Y, X)), "x ** (y ** x)"),
    (neg(Binary("pow", X, Y)), "-x ** y"),
    (Binary("pow", neg(X), Y), "(-x) ** y"),
    (Binary("pow", X, neg(Y)), "x ** (-y)"),
    (Binary("pow", lit(-2.0, d.f32), X), "(-2.0) ** x"),
    (neg(lit(2.0, d.f32)), "-(2.0)"),
    (neg(lit(-2.0, d.f32)), "-(-2.0)"),
    (neg(neg(X)), "--x"),
    (Binary("sub", X, lit(-2.0, d.f32)), "x - -2.0"),
    (cast(lit(2.0, d.f64), d.f32), "f32(f64(2.0))"),
    (cast(cast(X, d.f64), d.f32), "f32(f64(x))"),
    (Cast(WHOLE, d.f32, True), "f32.bits(i)"),
    (Call("x86.dot", (X, lit(1, d.i8)), d.f32), "f32.x86.dot(x, i8(1))"),
    (select(B, 1.0, X), "select(b, 1.0, x)"),
    (select(Unary("not", B), X, 1.0), "select(~b, x, 1.0)"),
    (select(eq(lit(1, d.i32), lit(2, d.i32)), X, Y), "select(i32(1) == 2, x, y)"),
    (Unary("isnan", lit(1.0, d.f32)), "isnan(f32(1.0))"),
    (Binary("and", eq(X, 1.0), Binary("or", B, Const(True, d.bool_))), "(x == 1.0) & (b | True)"),
    (eq(eq(X, Y), B), "(x == y) == b"),
    (Binary("shl", Binary("and", WHOLE, lit(255, d.i32)), lit(8, d.i32)), "(i & 255) << 8"),
    (Binary("min", WHOLE, lit(-1, d.i32)), "min(i, -1)"),
    (Binary("complex", X, lit(-0.0, d.f32)), "complex(x, -0.0)"),
    (lit(complex(-0.0, math.inf), d.c64), "c64(-0.0, inf)"),
    (Unary("real", lit(1j, d.c128)), "real(c128(0.0, 1.0))"),
    (sqrt(sqrt(X)), "sqrt(sqrt(x))"),
]


@pytest.mark.parametrize(("expr", "text"), EXPRESSIONS, ids=[text for _, text in EXPRESSIONS])
def test_expressions(expr: Expr, text: str) -> None:
    assert show_expr(expr, expr.dtype) == text
    lets = (
        Let("x", Load("p", (), d.f32)),
        Let("y", Load("p", (), d.f32)),
        Let("b", eq(Var("x", d.f32), 0.0)),
        Let("i", cast(Var("x", d.f32), d.i32)),
        Let("result", expr),
    )
    k = Builder("e")
    k.input("p", d.f32, ())
    k.emit(*lets)
    kernel = k.finish()
    assert parse_kernel(show(kernel)) == kernel


# A constant's text is the shortest one that its own dtype reads back: 0.1 in f32 is not 0.10000000149011612.
@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (0.1, d.f32, "0.1"),
        (0.1, d.f64, "0.1"),
        (0.1, d.f16, "0.1"),
        (16777217, d.f32, "16777216.0"),
        (1e20, d.f32, "1e+20"),
        (-0.0, d.f32, "-0.0"),
        (-math.inf, d.bf16, "-inf"),
        (math.nan, d.f64, "nan"),
        (5e-324, d.f64, "5e-324"),
        (1e-45, d.f32, "1e-45"),
        (3.4028234663852886e38, d.f32, "3.4028235e+38"),
        (-128, d.i8, "-128"),
        (2**64 - 1, d.u64, "18446744073709551615"),
        (True, d.bool_, "True"),
    ],
)
def test_numbers(value: float, dtype: d.DType, text: str) -> None:
    assert show_number(lit(value, dtype).value, dtype) == text
    kernel = Kernel("k", (), (), (Let("c", lit(value, dtype)),))
    assert parse_kernel(show(kernel)) == kernel


# Messages show single statements, where the names around are not known.
def test_heads() -> None:
    k = Builder("h")
    y = k.output("y", d.f32, (4,))
    with k.loop("i", 4) as i:
        k.store(y, i, cast(i, d.f32))
    with k.do() as again:
        again(Const(False, d.bool_))
    kernel = k.finish()
    assert [show_head(stmt) for stmt in kernel.body] == ["for i in range(4):", "while False"]
    assert show_head(kernel.body[0].body[0]) == "y[i] = f32(i)"  # type: ignore[union-attr]
