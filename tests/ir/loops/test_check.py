"""The rules of the loops: what is refused, with which statement, and what must not be refused."""

from __future__ import annotations

import contextlib
import itertools
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_kernels import Sample, samples

from treadle.ir import dtypes as d
from treadle.ir.dims import Dim, symbol
from treadle.ir.errors import CheckFailed
from treadle.ir.loops.build import Builder, lit
from treadle.ir.loops.check import check
from treadle.ir.loops.nodes import (
    Alloc,
    Binary,
    Call,
    Cast,
    Const,
    Expr,
    Fail,
    Fma,
    Index,
    Kernel,
    Let,
    Load,
    Param,
    Select,
    Stmt,
    Store,
    Table,
    Unary,
    Var,
)
from treadle.ir.loops.parse import parse_kernel

N = symbol("N")
HEAD = "kernel k(x: f32[N], z: f32[16], y: out f32[N], s: inout f32[]) where N:\n"


def refused(kernel: Kernel, code: str, *words: str) -> None:
    with pytest.raises(CheckFailed) as caught:
        check(kernel)
    assert caught.value.code == code, caught.value.message
    for word in words:
        assert word in caught.value.message, caught.value.message


# No rule may refuse what keeps them all.
@given(samples())
def test_rules_are_kept_by_what_keeps_them(sample: Sample) -> None:
    check(sample.kernel)


# Texts that parse and break one rule each; the message quotes the statement.
@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("for i in range(N):\n  y[i + 1] = 0.0", "TD0413", ("i + 1 is outside axis 0 of y", "of size N, at i = N - 1")),
        ("y[N + 1] = 0.0", "TD0413", ("N + 1 is outside axis 0 of y, of size N, in `y[N + 1] = 0.0`",)),
        ("for i in range(20):\n  s[] = z[i]", "TD0413", ("at i = 19", "`s[] = z[i]`")),
        ("for i in range(0, 20, 16):\n  s[] = z[i]", "TD0413", ("at i = 16",)),
        ("for i in range(2):\n  for j in range(i, i + 15):\n    s[] = z[i + j]", "TD0413", ("at i = 1, j = 15",)),
        ("s[] = z[16]", "TD0413", ("16 is outside axis 0 of z",)),
        ("for i in range(N):\n  s[] = x[i - N]", "TD0413", ("i - N is outside axis 0 of x",)),
        ("for i in parallel(N):\n  s[] = x[i]", "TD0415", ("every iteration of the parallel loop over i writes",)),
        ("for i in parallel(N):\n  for j in range(3):\n    y[j] = x[i]", "TD0415", ("`y[j] = x[i]`",)),
        ("for i in vector(16):\n  s[] = s[] + z[i]", "TD0415", ("the vector loop over i",)),
        ("for i in parallel(1, N):\n  y[i] = 1.0\n  y[i - 1] = 2.0", "TD0415", ("writes what another writes",)),
        ("y[0] = 0.0\nfor i in parallel(1, N):\n  y[i] = y[i - 1]", "TD0415", ("reads what another writes: y[i - 1]",)),
        ("for i in vector(32, lanes=16):\n  y[i] = 1.0", "TD0416", ("more iterations than 16 lanes",)),
        ("for i in vector(2, lanes=0):\n  y[i] = 1.0", "TD0416", ("at least one lane",)),
        ("for i in range(2, lanes=4):\n  y[i] = 1.0", "TD0416", ("lanes belong to vector loops",)),
        ("for i in vector(4):\n  for j in vector(4):\n    y[i + j] = 1.0", "TD0416", ("a vector loop inside",)),
        ("acc: registers f32[4]\nfor i in range(4):\n  acc[i] = 0.0", "TD0414", ("i is no unrolled",)),
        ("acc: registers f32[4]\nfor i in unrolled(4):\n  let t: i64 = i\n  acc[t] = 0.0", "TD0414", ("t is no",)),
        ("acc: registers f32[N]", "TD0414", ("its shape is constant",)),
        ("t: stack f32[4]\ns[] = t[0]", "TD0417", ("t is read before anything is written to it",)),
        ("s[] = y[0]", "TD0417", ("y is read before",)),
        ("for i in range(N):\n  let t: f32 = x[i]", "TD0417", ("out parameter y is never written",)),
        ("let t: f32 = popcount(s[])", "TD0411", ("popcount does not take f32: popcount(s[])",)),
        ("let t: f32 = s[] & s[]", "TD0411", ("and does not take f32",)),
        ("let t: bool = isnan(i32(s[]))", "TD0411", ("isnan does not take i32",)),
        ("let t: f32 = s[] + f64(s[])", "TD0411", ("operands differ: f32 and f64 in s[] + f64(s[])",)),
        ("let t: i32 = fma(i32(s[]), 1, 2)", "TD0411", ("fma does not take i32",)),
        ("let t: f32 = select(s[], s[], s[])", "TD0411", ("the condition of select is f32",)),
        ("let t: i64 = i64.bits(s[])", "TD0411", ("the bits of f32 are not those of any i64",)),
        ("let t: f8e5m2 = f8e5m2(s[])\nlet u: f8e5m2 = t + t", "TD0411", ("add does not take f8e5m2",)),
        ("s[] = f64(s[])", "TD0411", ("an element of s is f32, not f64",)),
        ("if s[]:\n  pass", "TD0411", ("a condition is bool, not f32", "`if s[]:`")),
        ("do:\n  pass\nwhile s[]", "TD0411", ("a condition is bool, not f32", "`while s[]`")),
        ("fail 1 if s[]", "TD0411", ("a condition is bool, not f32",)),
        ("fail 0 if True", "TD0418", ("the number of a failure is 0",)),
        ("fail 1 (s[]) if True", "TD0411", ("a number that a failure tells is i64, not f32",)),
        ("fail 1 (1, 2, 3, 4) if True", "TD0418", ("a failure tells at most 3 numbers",)),
        ("x[0] = 1.0", "TD0412", ("x is read-only",)),
        ("s[0] = 1.0", "TD0412", ("s has 0 axes, was given 1 positions",)),
        ("s[] = x[0, 0]", "TD0412", ("x has 1 axes, was given 2 positions",)),
        ("for i in range(0, N, 0):\n  pass", "TD0418", ("the step of a loop is 0",)),
        ("for i in range(-1, N):\n  pass", "TD0418", ("i starts at -1",)),
        ("for i in unrolled(N):\n  pass", "TD0418", ("N is not constant",)),
        ("for i in range(3):\n  for j in unrolled(i, i + 2):\n    pass", "TD0418", ("i is not constant",)),
        ("for i in range(3):\n  for i in range(3):\n    pass", "TD0410", ("the name i is bound already",)),
        ("let t: f32 = s[]\nlet t: f32 = s[]", "TD0410", ("the name t is bound already",)),
        ("let x: f32 = s[]", "TD0410", ("the name x is bound already",)),
        ("s: stack f32[2]", "TD0410", ("the name s is bound already",)),
        ("let min: f32 = s[]", "TD0410", ("'min' cannot name",)),
        ("let f32: f32 = s[]", "TD0410", ("'f32' cannot name",)),
        ("let t: f32 = " + " + ".join(["s[]"] * 151), "TD0419", ("deeper than 150 levels",)),
    ],
)  # fmt: skip
def test_refused(body: str, code: str, words: tuple[str, ...]) -> None:
    refused(parse_kernel(HEAD + textwrap.indent(body, "  ") + "\n"), code, *words)


# What is not known to be wrong passes: conditions that guard, sizes that may fit, iterations that may not meet.
@pytest.mark.parametrize(
    "body",
    [
        "for i in range(N):\n  if index(i + 1) < N:\n    y[i] = x[i + 1]",
        "for i in range(N - 1):\n  y[i] = x[i + 1]",
        "for i in range(0, N, 16):\n  for l in vector(16):\n    y[i + l] = x[i + l]",
        "for i in range(N):\n  y[i] = z[i]",
        "for i in range(0):\n  y[i] = z[i + 20]",
        "for i in range(N):\n  if index(i) >= 1:\n    y[i] = z[i + 20]",
        "if index(0) >= 1:\n  y[0] = z[-1 + 0]",
        "for i in range(1):\n  for j in range(i):\n    y[0] = z[j + 30]",
        "for i in parallel(N):\n  if i == 0:\n    y[0] = 1.0",
        "for i in parallel(1):\n  y[0] = 1.0",
        "for i in parallel(0, 4, 4):\n  y[0] = 1.0",
        "for i in parallel(0, N, 2):\n  y[i] = x[i + 1]\n  y[i + 1] = x[i]",
        "for i in parallel(N):\n  t: stack f32[1]\n  t[0] = x[i]\n  y[i] = t[0]",
        "for i in parallel(N):\n  let j: i64 = i % 7\n  y[j] = x[i]",
        "t: stack f32[1]\nfor i in range(N):\n  if i > 0:\n    y[i] = t[0]\n  t[0] = x[i]",
        "for i in range(2):\n  let t: f32 = x[i]\nlet t: f32 = x[0]\ny[0] = t",
        "for i in vector(20, lanes=32):\n  y[i] = 1.0",
        "for i in unrolled(3):\n  for j in unrolled(i, i + 2):\n    y[i + j] = 1.0",
    ],
)
def test_accepted(body: str) -> None:
    check(parse_kernel(HEAD + textwrap.indent(body + "\ny[0] = 0.0\ns[] = 0.0", "  ") + "\n"))


# What the parser cannot even say, but a generator can build.
def test_built_wrong() -> None:
    y = Param("y", d.f32, (4,), "out")

    def kernel(
        *body: Stmt, params: tuple[Param, ...] = (y,), name: str = "k", tables: tuple[Table, ...] = ()
    ) -> Kernel:
        return Kernel(name, params, ("N",), body, tables)

    def of(x: Expr) -> Kernel:
        return kernel(Let("t", x))

    one = lit(1.0, d.f32)
    refused(of(Var("q", d.f32)), "TD0410", "q is not bound here")
    refused(of(Var("N", d.i64)), "TD0411", "N is a position: as a scalar it is an Index")
    refused(kernel(Let("a", one), Let("b", Var("a", d.f64))), "TD0411", "a is f32, not f64")
    refused(of(Index(symbol("q"))), "TD0410", "q in the position q is not bound here")
    refused(of(Index(0, d.i32)), "TD0411", "is i64, not i32")
    refused(kernel(Let("a", one), Let("b", Index(symbol("a")))), "TD0411", "a in the position a is f32, not an integer")
    refused(of(Load("q", (), d.f32)), "TD0412", "the buffer q is not known here")
    refused(kernel(Store("y", (0,), one), Let("t", Load("y", (0,), d.f64))), "TD0411", "y holds f32, not f64")
    refused(of(Unary("cosine", one)), "TD0411", "no function cosine of one operand")
    refused(of(Binary("exp", one, one)), "TD0411", "no function exp of two operands")
    refused(of(Fma(one, one, lit(1.0, d.f64))), "TD0411", "operands differ")
    refused(of(Select(Const(True, d.bool_), one, lit(1, d.i32))), "TD0411", "operands differ")
    refused(of(Call("bits", (), d.f32)), "TD0410", "'bits' cannot name an instruction")
    refused(of(Cast(Const(True, d.bool_), d.u8, True)), "TD0411", "the bits of bool")
    refused(kernel(Fail(Const(True, d.bool_), 2**31)), "TD0418")
    refused(kernel(name="let"), "TD0410", "'let' cannot name a kernel")
    refused(kernel(params=(y, y)), "TD0410", "the name y is bound already")
    refused(kernel(params=(Param("y", d.f32, (symbol("Q"),), "out"),)), "TD0410", "Q in the position Q")
    refused(kernel(tables=(Table("t", d.f32, (0.1,)),)), "TD0411", "0.1 is not a value of f32")
    refused(kernel(Alloc("a", d.f32, (N * -1 - 1,), "stack")), "TD0412", "negative size")


# A constant is exactly a value of its type, or two targets would round it differently.
@pytest.mark.parametrize(
    ("value", "dtype", "fits"),
    [
        (0.1, d.f32, False),
        (0.1, d.f64, True),
        (0, d.f32, True),
        (0.0, d.i32, False),
        (True, d.i32, False),
        (1, d.bool_, False),
        (256, d.u8, False),
        (-1, d.u8, False),
        (2**64 - 1, d.u64, True),
        (float("nan"), d.f16, True),
        (float("inf"), d.f8e4m3fn, False),
        (1e5, d.f16, False),
        (1.0 + 1j, d.c64, True),
        (0.1j, d.c64, False),
        (1.0, d.c64, False),
        (1j, d.f32, False),
    ],
)
def test_constants(value: complex, dtype: d.DType, fits: bool) -> None:
    kernel = Kernel("k", (), (), (Let("t", Const(value, dtype)),))
    if fits:
        check(kernel)
    else:
        refused(kernel, "TD0411", "is not a value of")


_RANGE = st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(1, 3), st.integers(-2, 3))


# For constant ranges and affine positions nothing is unknown: refused exactly if some iteration leaves the buffer.
@given(st.lists(_RANGE, min_size=1, max_size=3), st.integers(-3, 6), st.integers(1, 12))
def test_bounds_are_exact_where_all_is_constant(loops: list[tuple[int, int, int, int]], offset: int, size: int) -> None:
    k = Builder("k")
    y = k.output("y", d.f32, (size,))
    with contextlib.ExitStack() as nest:
        at: Dim = offset
        for start, stop, step, factor in loops:
            at = at + factor * nest.enter_context(k.loop("i", stop, start=start, step=step))
        k.store(y, (at,), 1.0)
    places = [
        offset + sum(factor * i for (_, _, _, factor), i in zip(loops, point))
        for point in itertools.product(*[range(start, stop, step) for start, stop, step, _ in loops])
    ]
    if all(0 <= place < size for place in places):
        check(k.finish())
    else:
        refused(k.finish(), "TD0413", "is outside axis 0 of y")


# A word is inside only if all its neighbours are.
@pytest.mark.parametrize("at, fits", [(0, True), (4, True), (5, False), (-1, False)])
def test_words(at: int, fits: bool) -> None:
    k = Builder("k")
    x, y = k.input("x", d.u8, (8,)), k.output("y", d.u32, (2,))
    k.store(y, (0,), Load(x.name, (at,), d.u32))
    if fits:
        check(k.finish())
    else:
        refused(k.finish(), "TD0413", "is outside axis 0 of x")
    for held, word in ((d.bool_, d.u32), (d.u8, d.i32), (d.c64, d.u64), (d.u32, d.u8)):
        k = Builder("k")
        x, y = k.input("x", held, (32,)), k.output("y", word, (2,))
        k.store(y, (0,), Load(x.name, (0,), word))
        refused(k.finish(), "TD0411", "holds")
