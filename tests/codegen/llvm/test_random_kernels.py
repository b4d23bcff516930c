"""Random kernels: whatever nest is written, the machine code computes what the evaluator says.

Nests walk a matrix by rows and columns in every mixture of serial, unrolled, vector and parallel loops, with tails,
branches, inner loops, local arrays and data-dependent reads. Iterations are independent by construction: each writes
its own element, and reads of the matrix written are of that element.
"""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from native import RUNNABLE, Compiled, Context, check_against_evaluator

from treadle.ir.dims import Dim, minimum, symbol
from treadle.ir.dtypes import DType, bf16, f32, f64, i32, i64, u8
from treadle.ir.loops.nodes import (
    Alloc,
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
    Param,
    Select,
    Stmt,
    Store,
    Unary,
    Var,
)

N, M = symbol("n"), symbol("m")
DTYPES = (f32, f64, i32, u8, bf16)


class Nest:
    """Draws one kernel."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.count = 0
        self.dtype: DType = draw(st.sampled_from(DTYPES))
        self.lanes: int = draw(st.sampled_from([1, 3, 4, 8, 16]))
        self.names: list[tuple[str, DType]] = []

    def pick(self, *choices: object) -> object:
        return self.draw(st.sampled_from(choices))

    def fresh(self, word: str) -> str:
        self.count += 1
        return f"{word}{self.count}"

    def number(self, dtype: DType) -> Const:
        value = self.draw(st.integers(0, 3))
        return Const(float(value) - 0.5 if dtype.is_float else value, dtype)

    # --- positions, all inside by construction ---

    def row(self, at: Dim) -> Dim:
        return self.pick(at, N - 1 - at, minimum(at + 2, N - 1), (3 * at + 1) % N, at // 2)  # type: ignore[return-value]

    def column(self, at: Dim) -> Dim:
        choices = (at, M - 1 - at, minimum(at + 1, M - 1), (2 * at + 3) % M, at // 3)
        return self.pick(*choices)  # type: ignore[return-value]

    # --- values ---

    def value(self, dtype: DType, i: Dim, j: Dim, depth: int) -> Expr:
        bound = [name for name, kind in self.names if kind is dtype]
        leaves = ["const", "x", "own", *["name"] * (2 * bool(bound))]
        if dtype is self.dtype:
            leaves += ["b", "gathered"]
        inner = ["binary", "select", "cast", "fma"] if depth else []
        match self.pick(*leaves, *inner, *inner):
            case "const":
                return self.number(dtype)
            case "name":
                return Var(self.pick(*bound), dtype)  # type: ignore[arg-type]
            case "x":
                return self.as_type(Load("x", (self.row(i), self.column(j)), self.dtype), dtype)
            case "own":
                return self.as_type(Load("y", (i, j), self.dtype), dtype)
            case "b":
                return Load("b", (self.column(j),), dtype)
            case "gathered":
                return Load("x", (self.row(i), symbol("at")), dtype)
            case "binary":
                op = self.pick("add", "sub", "mul", "min", "max")
                x, y = (self.value(dtype, i, j, depth - 1) for _ in range(2))
                return Binary(op, x, y)  # type: ignore[arg-type]
            case "fma":
                x, y, z = (self.value(dtype, i, j, depth - 1) for _ in range(3))
                return Fma(x, y, z) if dtype.is_float else Binary("add", Binary("mul", x, y), z)
            case "select":
                x, y = (self.value(dtype, i, j, depth - 1) for _ in range(2))
                return Select(self.condition(i, j, depth - 1), x, y)
            case _:
                return self.as_type(self.value(self.pick(f32, i64), i, j, depth - 1), dtype)  # type: ignore[arg-type]

    def as_type(self, x: Expr, dtype: DType) -> Expr:
        return x if x.dtype is dtype else Cast(x, dtype)

    def condition(self, i: Dim, j: Dim, depth: int) -> Expr:
        match self.pick("index", "value", "not"):
            case "index":
                place = self.pick(i, j, i + j)
                return Binary(self.pick("lt", "eq", "ge"), Index(place), Const(3, i64))  # type: ignore[arg-type]
            case "value":
                return Binary("lt", self.value(self.dtype, i, j, depth), self.number(self.dtype))
            case _:
                return Unary("not", Binary("ne", Index(i % 2), Const(0, i64)))

    # --- statements at one element ---

    def element(self, i: Dim, j: Dim, depth: int, vector: bool) -> tuple[Stmt, ...]:
        known = list(self.names)
        bounded = minimum(M - 1, j + 1)
        stmts: list[Stmt] = [Let("at", Select(self.low(j), Index(j), Index(bounded)))]
        for _ in range(self.draw(st.integers(0, 2))):
            name, dtype = self.fresh("t"), self.pick(self.dtype, f32)
            stmts.append(Let(name, self.value(dtype, i, j, 2)))  # type: ignore[arg-type]
            self.names.append((name, dtype))  # type: ignore[arg-type]
        match self.pick("store", "if", "loop", "sum") if depth else "store":
            case "store":
                stmts.append(Store("y", (i, j), self.value(self.dtype, i, j, 3)))
            case "if":
                then = self.element(i, j, depth - 1, vector)
                other = self.element(i, j, depth - 1, vector) if self.draw(st.booleans()) else ()
                stmts.append(If(self.condition(i, j, 1), then, other))
            case "loop":
                var = self.fresh("l")
                trip = self.pick(2, N % 3)
                more = Binary("add", Load("y", (i, j), self.dtype), self.value(self.dtype, i, j, 1))
                kind = self.pick("serial", "unrolled") if trip == 2 else "serial"
                stmts.append(For(var, 0, trip, 1, kind, (Store("y", (i, j), more),)))  # type: ignore[arg-type]
            case _:
                # A sum in a register over a row, then stored.
                name, var = self.fresh("s"), self.fresh("l")
                place = (symbol(vector_var),) if vector and (vector_var := self.vector_var) else ()
                shape = (self.lanes,) if place else ()
                old = Load(name, place, self.dtype)
                step = Store(name, place, Binary("add", old, Load("x", (i, symbol(var)), self.dtype)))
                inside: Stmt = step
                if self.draw(st.booleans()):
                    other = Store(name, place, Binary("sub", old, self.value(self.dtype, i, j, 1)))
                    sides = ((step,), (other,) if self.draw(st.booleans()) else ())
                    even = Binary("eq", Index(symbol(var) % 2), Const(0, i64))
                    inside = If(self.pick(even, self.condition(i, j, 1)), *sides)  # type: ignore[arg-type]
                stmts += [
                    Alloc(name, self.dtype, shape, "registers"),
                    Store(name, place, self.number(self.dtype)),
                    For(var, 0, M, 1, "serial", (inside,)),
                    Store("y", (i, j), old),
                ]
        self.names = known
        return tuple(stmts)

    vector_var = ""

    def low(self, j: Dim) -> Expr:
        return Binary("lt", Load("x", (0, j), self.dtype), self.number(self.dtype))

    # --- nests ---

    def columns(self, i: Dim) -> tuple[Stmt, ...]:
        match self.pick("serial", "vector", "split", "parallel"):
            case "vector":
                t, v = self.fresh("t"), self.fresh("v")
                self.vector_var = v
                j = symbol(t) + symbol(v)
                body = self.element(i, j, 2, True)
                inner = For(v, 0, minimum(self.lanes, M - symbol(t)), 1, "vector", body, self.lanes)
                return (For(t, 0, M, self.lanes, "serial", (inner,)),)
            case "split":
                # Whole vectors, then what is left.
                full = M // self.lanes * self.lanes
                t, v, r = self.fresh("t"), self.fresh("v"), self.fresh("v")
                self.vector_var = v
                main = For(v, 0, self.lanes, 1, "vector", self.element(i, symbol(t) + symbol(v), 2, True), self.lanes)
                self.vector_var = r
                tail = For(r, 0, M - full, 1, "vector", self.element(i, full + symbol(r), 2, True), self.lanes)
                return (For(t, 0, full, self.lanes, "serial", (main,)), tail)
            case kind:
                var = self.fresh("j")
                body = self.element(i, symbol(var), 2, False)
                return (For(var, 0, M, 1, kind, body),)  # type: ignore[arg-type]

    def kernel(self) -> Kernel:
        var = self.fresh("i")
        kind = self.pick("serial", "parallel")
        step = self.pick(1, 1, 2)
        outer = For(var, 0, N, step, kind, self.columns(symbol(var)))  # type: ignore[arg-type]
        dtype = self.dtype
        params = (Param("x", dtype, (N, M), "in"), Param("b", dtype, (M,), "in"), Param("y", dtype, (N, M), "inout"))
        return Kernel("random", params, ("n", "m"), (outer,))


@st.composite
def kernels(draw: st.DrawFn) -> Kernel:
    return Nest(draw).kernel()


@pytest.mark.fuzz
@pytest.mark.time_limit(600)
@given(kernel=kernels(), n=st.integers(1, 5), m=st.integers(1, 21), seed=st.integers(0, 1000))
def test_random_kernels(kernel: Kernel, n: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dtype = kernel.params[0].dtype
    args = {}
    for name, shape in (("x", (n, m)), ("b", (m,)), ("y", (n, m))):
        values = rng.standard_normal(shape) * 2 if dtype.is_float else rng.integers(0, 9, shape)
        args[name] = values.astype(dtype.numpy)
    for target in ("generic", "avx2", "avx512"):
        if target in RUNNABLE:
            compiled = Compiled([kernel], RUNNABLE[target])
            check_against_evaluator(compiled, "random", args, {"n": n, "m": m}, Context(1, 1, None, None))
