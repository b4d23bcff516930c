"""Building and rebuilding nests: what is written is what was meant, and what is rebuilt computes the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from random_kernels import INSTRUCTIONS, Sample, samples

from treadle.ir import dtypes as d
from treadle.ir.dims import Dim, symbol
from treadle.ir.errors import InvalidValue, TypeMismatch
from treadle.ir.loops import build as b
from treadle.ir.loops.build import Block, Builder, Names, add, lit, load, mul, var
from treadle.ir.loops.check import check
from treadle.ir.loops.evaluate import evaluate
from treadle.ir.loops.nodes import (
    Binary,
    Cast,
    Const,
    Expr,
    Fma,
    For,
    If,
    Index,
    Kernel,
    Let,
    Load,
    Select,
    Stmt,
    Store,
    Unary,
    Var,
)
from treadle.ir.loops.text import show

I, J = symbol("i"), symbol("j")  # noqa: E741
X, Y = var("x", d.f32), var("y", d.f32)


# A literal is the nearest value of its type, as a Python number that the type holds exactly; or there is none.
def test_literals() -> None:
    assert lit(0.1, d.f32).value == float(np.float32(0.1))
    assert lit(0.1, d.bf16).value == 0.10009765625
    assert lit(1, d.f32) == Const(1.0, d.f32)
    assert type(lit(1, d.f32).value) is float
    assert type(lit(2.0, d.i8).value) is int
    assert type(lit(np.int64(3), d.u16).value) is int
    assert lit(True, d.i32) == Const(1, d.i32)
    assert lit(1e300, d.f32).value == math.inf
    assert lit(1, d.c64) == Const(1 + 0j, d.c64)
    assert lit(math.nan, d.f16) == lit(-math.nan, d.f16)
    assert lit(-0.0, d.f32) != lit(0.0, d.f32)
    for value, dtype in (
        (300, d.u8),
        (-1, d.u8),
        (0.5, d.i32),
        (1j, d.f32),
        (2, d.bool_),
        (math.inf, d.i64),
        (math.nan, d.i8),
    ):
        with pytest.raises(InvalidValue) as caught:
            lit(value, dtype)
        assert caught.value.code == "TD0402"


# A Python number beside an expression takes its type, on either side; a position is an i64.
def test_operands() -> None:
    assert add(X, 1) == Binary("add", X, Const(1.0, d.f32))
    assert b.sub(1, X) == Binary("sub", Const(1.0, d.f32), X)
    assert mul(I, 2) == Binary("mul", Index(I), Const(2, d.i64))
    assert b.fma(2.0, X, 1.0) == Fma(Const(2.0, d.f32), X, Const(1.0, d.f32))
    assert b.select(True, X, 0) == Select(Const(True, d.bool_), X, Const(0.0, d.f32))
    assert b.multiply_add(X, 2, Y) == Fma(X, Const(2.0, d.f32), Y)
    assert b.multiply_add(I, 2, 3) == add(mul(I, 2), 3)
    assert b.cast(X, d.f32) is X
    assert b.cast(X, d.f64) == Cast(X, d.f64)
    assert b.combine("add", [X, Y, X]) == add(add(X, Y), X)
    assert b.unary("exp", X) == Unary("exp", X)
    with pytest.raises(TypeMismatch):
        add(1.0, 2.0)


def test_names() -> None:
    names = Names(["i", "i_1"])
    assert [names.fresh("i"), names.fresh("i"), names.fresh("j"), names.fresh("i_2")] == ["i_2", "i_3", "j", "i_2_1"]


# The builder puts every statement where its `with` stands, and never binds a name twice.
def test_builder() -> None:
    n = symbol("N")
    k = Builder("scale", dims=("N",))
    x, y = k.input("x", d.f32, (n,)), k.output("x", d.f32, (n,))
    with k.loop("i", n) as i:
        t = k.let("t", mul(load(x, i), 2.0))
        with k.if_(b.lt(t, 0.0)):
            k.store(y, i, 0.0)
        with k.else_():
            k.store(y, i, t)
    with k.loop("i", 3) as i:
        k.let("t", b.index(i))
    kernel = k.finish()
    assert (
        show(kernel)
        == """\
kernel scale(x: f32[N], x_1: out f32[N]) where N:
  for i in range(N):
    let t: f32 = x[i] * 2.0
    if t < 0.0:
      x_1[i] = 0.0
    else:
      x_1[i] = t
  for i_1 in range(3):
    let t_1: i64 = i_1
"""
    )
    assert b.names_of(kernel).fresh("t") == "t_2"
    with pytest.raises(InvalidValue), k.else_():
        pass
    with pytest.raises(InvalidValue), k.do():
        pass


def test_loops_and_nests() -> None:
    store = Store("y", (I, J), X)
    assert b.nest(("i", "j"), (2, 3), [store], "parallel") == (
        For("i", 0, 2, 1, "parallel", (For("j", 0, 3, 1, "serial", (store,)),)),
    )
    assert b.nest((), (), [store]) == (store,)
    assert b.loop("i", 4, lambda i: [Store("y", (i,), X)], kind="vector", lanes=4) == For(
        "i", 0, 4, 1, "vector", (Store("y", (I,), X),), 4
    )


# Outer before inner, left before right, at any depth: walks keep no Python stack.
def test_walks() -> None:
    inner = (Let("t", add(X, mul(Y, X))), Store("y", (I,), X))
    branch = If(b.lt(X, Y), inner, (Store("z", (), Y),))
    loop = For("i", 0, 4, 1, "serial", (branch,))
    assert list(b.walk([loop])) == [loop, branch, *inner, branch.otherwise[0]]
    assert list(b.walk_expr(inner[0].value)) == [inner[0].value, X, mul(Y, X), Y, X]  # type: ignore[union-attr]
    assert b.stored([loop]) == ("y", "z")
    assert b.loaded([Let("t", add(Load("a", (), d.f32), Load("b", (), d.f32)))]) == ("a", "b")
    assert b.used_names([loop]) == ("x", "y", "i")
    assert list(b.bound_names([loop])) == ["i", "t"]
    deep: Expr = X
    for _ in range(50_000):
        deep = Unary("neg", deep)
    assert sum(1 for _ in b.walk_expr(deep)) == 50_001


# What is not changed stays the same object, so that passes can see that nothing happened.
def test_maps_keep_identity() -> None:
    body = b.nest(("i",), (4,), [Let("t", add(X, 1.0)), If(b.lt(X, Y), (Store("y", (I,), Y),))])
    assert b.map_exprs(body, lambda x: x) is body
    assert b.map_stmts(body, lambda stmt: stmt) is body
    assert b.substitute(body, {"q": 3}) is body
    changed = b.map_exprs(body, lambda x: Y if x == X else x)
    assert changed == b.nest(("i",), (4,), [Let("t", add(Y, 1.0)), If(b.lt(Y, Y), (Store("y", (I,), Y),))])
    assert changed[0].body[1].then is body[0].body[1].then  # type: ignore[union-attr]


# A statement may become several or none.
def test_map_statements() -> None:
    body = b.nest(("i",), (4,), [Store("y", (I,), X), Let("t", X)])

    def twice(stmt: Stmt) -> Stmt | Block:
        return (stmt, stmt) if isinstance(stmt, Store) else () if isinstance(stmt, Let) else stmt

    assert b.map_stmts(body, twice) == b.nest(("i",), (4,), [Store("y", (I,), X), Store("y", (I,), X)])


# A loop variable becomes a position, a scalar an expression, a buffer another one.
def test_substitute() -> None:
    body = (
        Store("y", (I + J,), add(Load("x", (I,), d.f32), b.cast(Index(I), d.f32))),
        Let("t", add(var("i", d.i64), 1)),
    )
    assert b.substitute(body, {"i": 2 * J}, {"x": "z"}) == (
        Store("y", (3 * J,), add(Load("z", (2 * J,), d.f32), b.cast(Index(2 * J), d.f32))),
        Let("t", add(Index(2 * J), 1)),
    )
    assert b.substitute((Store("y", (I,), X),), {"i": var("k", d.i32), "x": add(Y, 1.0)}) == (
        Store("y", (symbol("k"),), add(Y, 1.0)),
    )
    assert b.substitute_expr(add(var("k", d.i32), 1), {"k": I}) == add(Cast(Index(I), d.i32), 1)
    with pytest.raises(InvalidValue, match="x stands in the position x, where a scalar cannot"):
        b.substitute_expr(Index(symbol("x")), {"x": Y})


# A name must not come to mean something else on its way in.
def test_substitution_is_not_caught() -> None:
    body = b.nest(("j",), (4,), [Store("y", (I, J), X)])
    with pytest.raises(InvalidValue, match="j is bound inside") as caught:
        b.substitute(body, {"i": J + 1})
    assert caught.value.code == "TD0403"
    with pytest.raises(InvalidValue):
        b.substitute(body, {"j": 1})


# Renaming everything inside changes no number, and renaming back gives the nest again.
@given(samples())
def test_rename(sample: Sample) -> None:
    kernel = sample.kernel
    there = {name: f"{name}_new" for name in b.bound_names(kernel.body)}
    renamed = b.rename(kernel.body, there)
    assert b.rename(renamed, {new: old for old, new in there.items()}) == kernel.body
    other = Kernel(kernel.name, kernel.params, kernel.dims, renamed, kernel.tables)
    check(other)
    a, first = evaluate(kernel, sample.args, sample.dims, INSTRUCTIONS)
    c, second = evaluate(other, sample.args, sample.dims, INSTRUCTIONS)
    assert first == second
    assert all(str(a[name]) == str(c[name]) for name in a)


# A scalar may be called as no size may: the formulas of sizes keep `max` for themselves.
def test_rename_to_a_word_of_formulas() -> None:
    body = (Let("top", X), Store("y", (0,), Var("top", d.f32)))
    assert b.rename(body, {"top": "max"}) == (Let("max", X), Store("y", (0,), Var("max", d.f32)))


# Unrolling by substitution, with fresh names for what is bound inside, computes what the loop did.
@given(samples())
def test_unrolling(sample: Sample) -> None:
    kernel = sample.kernel
    names = b.names_of(kernel)

    def unrolled(stmt: Stmt) -> Stmt | Block:
        if not isinstance(stmt, For) or type(stmt.start) is not int or type(stmt.stop) is not int:
            return stmt
        copies: list[Stmt] = []
        for i in range(stmt.start, stmt.stop, stmt.step):
            fresh = b.rename(stmt.body, {name: names.fresh(name) for name in b.bound_names(stmt.body)})
            values: dict[str, Dim | Expr] = {stmt.var: i}
            copies.extend(b.substitute(fresh, values))
        return tuple(copies)

    flat = Kernel(kernel.name, kernel.params, kernel.dims, b.map_stmts(kernel.body, unrolled), kernel.tables)
    a, first = evaluate(kernel, sample.args, sample.dims, INSTRUCTIONS)
    c, second = evaluate(flat, sample.args, sample.dims, INSTRUCTIONS)
    assert (first and first[0]) == (second and second[0])  # positions name fewer loops
    assert all(str(a[name]) == str(c[name]) for name in a)


# Constants are numbers, not what Python's == makes of them: a set of them must not lose the sign of a zero.
def test_constants_are_numbers() -> None:
    assert Const(0.0, d.f32) != Const(-0.0, d.f32)
    assert Const(0, d.f32) == Const(0.0, d.f32)
    assert Const(0.0, d.f32) != Const(0.0, d.f64)
    assert Const(math.nan, d.f32) == Const(float("nan"), d.f32)
    assert hash(Const(math.nan, d.f32)) == hash(Const(float("nan"), d.f32))
    assert Const(complex(0, -0.0), d.c64) != Const(0j, d.c64)
    assert Var("x", d.f32) == X
