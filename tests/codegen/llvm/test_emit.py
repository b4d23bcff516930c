"""The emitter against the loops evaluator: what each structure of the language becomes, on every model target.

Inputs end at a page that may not be read and outputs stand between guard bytes, so an access outside its array ends
the test. Kernels are written out by hand, as small as shows the point.
"""

from __future__ import annotations

import ctypes
import itertools

import ml_dtypes
import numpy as np
import pytest
from native import RUNNABLE, Compiled, Context, check_against_evaluator

from treadle.codegen.cpus import MODELS
from treadle.codegen.llvm.emit import Module, emit_kernel
from treadle.codegen.llvm.optimize import assembly, object_code
from treadle.ir.dims import Dim, minimum, symbol
from treadle.ir.dtypes import DType, bf16, bool_, c64, c128, f16, f32, f64, i8, i32, i64, u8, u16, u32, u64
from treadle.ir.errors import Unsupported
from treadle.ir.loops.evaluate import evaluate
from treadle.ir.loops.nodes import (
    Alloc,
    Binary,
    Cast,
    Const,
    Expr,
    Fail,
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
    Table,
    Unary,
    Var,
    While,
)
from treadle.runtime.elf import undefined_symbols
from treadle.runtime.loader import BLOCK_OPERATIONS

N, M, K = symbol("n"), symbol("m"), symbol("k")
U, J, T, V, P, Q = (symbol(name) for name in "ujtvpq")
RNG = np.random.default_rng(11)
targets = pytest.mark.parametrize("target", RUNNABLE)


def numbers(dtype: DType, *shape: int) -> np.ndarray:
    if dtype is bool_:
        return RNG.integers(0, 2, shape).astype(bool)
    if dtype.is_integer:
        return RNG.integers(0, 100, shape).astype(dtype.numpy)
    if dtype.kind == "complex":
        return (RNG.standard_normal(shape) + 1j * RNG.standard_normal(shape)).astype(dtype.numpy)
    return RNG.standard_normal(shape).astype(dtype.numpy)


def load(name: str, *index: Dim, dtype: DType = f32) -> Load:
    return Load(name, index, dtype)


def add(x: Expr, y: Expr) -> Binary:
    return Binary("add", x, y)


def mul(x: Expr, y: Expr) -> Binary:
    return Binary("mul", x, y)


def c(value: float, dtype: DType = f32) -> Const:
    return Const(value, dtype)


def array(name: str, *shape: Dim, dtype: DType = f32, role: str = "in") -> Param:
    return Param(name, dtype, shape, role)  # type: ignore[arg-type]


def vector(var: str, start: Dim, stop: Dim, lanes: int, *body: Stmt, step: int = 1) -> For:
    return For(var, start, stop, step, "vector", body, lanes)


def serial(var: str, start: Dim, stop: Dim, *body: Stmt, step: int = 1) -> For:
    return For(var, start, stop, step, "serial", body)


def unrolled(var: str, start: Dim, stop: Dim, *body: Stmt) -> For:
    return For(var, start, stop, 1, "unrolled", body)


def parallel(var: str, start: Dim, stop: Dim, *body: Stmt, step: int = 1) -> For:
    return For(var, start, stop, step, "parallel", body)


def kernel(name: str, params: list[Param], dims: str, *body: Stmt, tables: tuple[Table, ...] = ()) -> Kernel:
    return Kernel(name, tuple(params), tuple(dims.split()), body, tables)


def agree(target: str, what: Kernel, args: dict[str, np.ndarray], context: Context | None = None, **dims: int) -> None:
    check_against_evaluator(Compiled([what], RUNNABLE[target]), what.name, args, dims, context)


# --- vectors, masks, ways to reach memory -----------------------------------------------------------------------------


# A tail of any length reads and writes exactly its elements, for every width of element and register.
@targets
@pytest.mark.parametrize("lanes", [4, 8, 16, 32])
def test_masked_tails_of_every_length(target: str, lanes: int) -> None:
    kernels = []
    for dtype in (f32, f64, i8, bf16, bool_, c64):
        value = load("x", J + V, dtype=dtype)
        body = Unary("not", value) if dtype is bool_ else add(value, value)
        kernels.append(
            kernel(
                f"tail.{dtype}",
                [array("x", N, dtype=dtype), array("y", N, dtype=dtype, role="out")],
                "n",
                serial("j", 0, N, vector("v", 0, minimum(N - J, lanes), lanes, Store("y", (J + V,), body)), step=lanes),
            )
        )
    compiled = Compiled(kernels, RUNNABLE[target])
    for n in range(41):
        for dtype in (f32, f64, i8, bf16, bool_, c64):
            check_against_evaluator(compiled, f"tail.{dtype}", {"x": numbers(dtype, n)}, {"n": n})


# Neighbours read as one word: scalar, side by side, apart, under a mask; never aligned like a word, never past the end.
@targets
@pytest.mark.parametrize("held, word", [(u8, u32), (i8, u16), (bf16, u32), (f32, u64), (u8, u64)], ids=str)
def test_words(target: str, held: DType, word: DType) -> None:
    count = word.bytes // held.bytes
    lanes, rest = 8, 5
    k = kernel(
        "words",
        [
            array("x", 40 * count + 1, dtype=held),
            array("y", 60, dtype=word, role="out"),
        ],
        "",
        vector("v", 0, lanes, lanes, Store("y", (V,), Load("x", (1 + count * V,), word))),
        vector("v", 0, lanes, lanes, Store("y", (lanes + V,), Load("x", (3 + 2 * count * V,), word))),
        vector("v", 0, rest, lanes, Store("y", (2 * lanes + V,), Load("x", (1 + count * (35 + V),), word))),
        vector("v", 0, lanes, lanes, Store("y", (3 * lanes + V,), Load("x", (2,), word))),
        serial("j", 0, 40, If(Binary("lt", Index(J), Index(20)), (Store("y", (40 + J,), Load("x", (J,), word)),))),
        *[Store("y", (at,), Load("x", (at,), word)) for at in range(21, 24)],
        *[Store("y", (at,), Load("x", (at,), word)) for at in range(32, 40)],
    )
    x = RNG.integers(0, 256, (40 * count + 1) * held.bytes, np.uint8).view(held.numpy)
    agree(target, k, {"x": x})
    (written, _) = evaluate(k, {"x": x}, {})
    raw = x.view(np.uint8)
    for lane in range(lanes):
        first = (1 + count * lane) * held.bytes
        assert written["y"][lane] == raw[first : first + word.bytes].view(word.numpy)[0]


# A trip count known to be short is a mask known while emitting.
@targets
def test_fixed_short_trip_counts(target: str) -> None:
    for trips in range(1, 17):
        k = kernel(
            f"short{trips}",
            [array("x", trips), array("y", trips, role="out")],
            "",
            vector("v", 0, trips, 16, Store("y", (V,), mul(load("x", V), c(3.0)))),
        )
        agree(target, k, {"x": numbers(f32, trips)})


# Every way in which an index can move with the lanes: along it, against it, not at all, by steps, by a size, at random.
@targets
@pytest.mark.parametrize("trips", [1, 5, 16])
@pytest.mark.parametrize("dtype", [f32, f16, c64, c128], ids=str)
def test_ways_to_load(target: str, trips: int, dtype: DType) -> None:
    size = 64

    def load(name: str, *index: Dim, dtype: DType = dtype) -> Load:
        return Load(name, index, dtype)

    chosen = Let("at", load("where", V, dtype=i32))
    loads = {
        "along": load("x", V + 3),
        "against": load("x", 40 - V),
        "same": load("x", 7),
        "third": load("x", 3 * V + 1),
        "back": load("x", 50 - 3 * V),
        "column": load("x2", V, 2),
        "strided": load("xm", V, 1),
        "divided": load("x", V // 3),
        "wrapped": load("x", V % 5),
        "bounded": load("x", minimum(V, 9)),
        "gathered": load("x", symbol("at")),
        "gathered row": load("xm", symbol("at"), 2),
        "diagonal": load("x2", V // 2, V % 3),
    }
    params = [
        array("x", size, dtype=dtype),
        array("x2", 16, 4, dtype=dtype),
        array("xm", 16, M, dtype=dtype),
        array("where", 16, dtype=i32),
        array("y", len(loads), trips, dtype=dtype, role="out"),
    ]
    stores = [Store("y", (number, V), value) for number, value in enumerate(loads.values())]
    k = kernel("loads", params, "m", vector("v", 0, trips, 16, chosen, *stores))
    args = {
        "x": numbers(dtype, size),
        "x2": numbers(dtype, 16, 4),
        "xm": numbers(dtype, 16, 5),
        "where": RNG.integers(0, 16, 16).astype(np.int32),
    }
    agree(target, k, args, m=5)


@targets
@pytest.mark.parametrize("dtype", [f32, f64, i8, bf16, f16, bool_, c64, c128], ids=str)
def test_ways_to_store(target: str, dtype: DType) -> None:
    k = kernel(
        "stores",
        [array("x", 16, dtype=dtype), array("w", 16, dtype=i64)]
        + [array(name, 64, dtype=dtype, role="inout") for name in ("a", "b", "s", "g")],
        "n",
        vector(
            "v",
            0,
            N,
            16,
            Let("at", load("w", V, dtype=i64)),
            Store("a", (V + 5,), load("x", V, dtype=dtype)),
            Store("b", (30 - V,), load("x", V, dtype=dtype)),
            Store("s", (2 * V + 1,), load("x", 15 - V, dtype=dtype)),
            Store("g", (symbol("at"),), load("x", V, dtype=dtype)),
        ),
    )
    args = {name: numbers(dtype, 64) for name in ("a", "b", "s", "g")}
    args |= {"x": numbers(dtype, 16), "w": RNG.permutation(64)[:16].astype(np.int64)}
    for n in (1, 7, 16):
        agree(target, k, args, n=n)


# A vector loop's own variable as a number, with a start and a step other than 0 and 1.
@targets
def test_lane_numbers(target: str) -> None:
    k = kernel(
        "numbers",
        [array("y", 64, dtype=i64, role="inout")],
        "n",
        vector("v", N, N + 2 * 16, 16, Store("y", (V,), Index(V * V - 3 * N)), step=2),
        vector("v", 1, 8, 8, Store("y", (V,), Index((V + 5) // 3 * N % 7))),
    )
    agree(target, k, {"y": np.zeros(64, np.int64)}, n=9)


# Tables of up to 32 words are looked up by permuting registers where the machine can, longer ones by gathering.
@targets
@pytest.mark.parametrize("size", [3, 16, 21, 32, 40])
@pytest.mark.parametrize("dtype", [f32, i32, f64, bf16], ids=str)
def test_tables(target: str, size: int, dtype: DType) -> None:
    values = numbers(dtype, size)
    table = Table("t", dtype, tuple(float(v) if dtype.is_float else int(v) for v in values))
    k = kernel(
        "tables",
        [array("w", 48, dtype=i32), array("y", 48, dtype=dtype, role="out")],
        "",
        *[
            vector("v", start, start + trips, 16, Let("at", load("w", V, dtype=i32)), Store("y", (V,), look))
            for start, trips, look in [
                (0, 16, Load("t", (symbol("at"),), dtype)),
                (16, 9, Load("t", (symbol("at"),), dtype)),
                (25, 16, Load("t", (2,), dtype)),
                (41, 7, Load("t", (symbol("at") // 2,), dtype)),
            ]
        ],
        tables=(table,),
    )
    agree(target, k, {"w": RNG.integers(0, size, 48).astype(np.int32)})


# A vector inside a longer loop whose sizes and strides are all known only at run time.
@targets
def test_symbolic_strides(target: str) -> None:
    body = Store("y", (J, U, T + V), Fma(load("x", U, J, T + V), load("r", T + V), load("s", U)))
    k = kernel(
        "transposed",
        [array("x", N, M, K), array("r", K), array("s", N), array("y", M, N, K, role="out")],
        "n m k",
        serial("u", 0, N, serial("j", 0, M, serial("t", 0, K, vector("v", 0, minimum(K - T, 8), 8, body), step=8))),
    )
    for n, m, kk in [(3, 4, 19), (1, 1, 1), (0, 5, 5), (2, 3, 0), (2, 2, 8)]:
        args = {"x": numbers(f32, n, m, kk), "r": numbers(f32, kk), "s": numbers(f32, n)}
        agree(target, k, args, n=n, m=m, k=kk)


# A scalar that all lanes share is read once, and not at all where the loop does not run: its array may be empty then.
@targets
def test_shared_scalars_of_empty_loops(target: str) -> None:
    k = kernel(
        "empty",
        [array("x", N), array("b", M), array("y", N, role="out")],
        "n m",
        vector("v", 0, N, 16, Store("y", (V,), add(load("x", V), load("b", 0)))),
        serial("u", 0, N, Store("y", (U,), add(load("y", U), load("b", 0)))),
    )
    agree(target, k, {"x": numbers(f32, 0), "b": numbers(f32, 0)}, n=0, m=0)
    agree(target, k, {"x": numbers(f32, 5), "b": numbers(f32, 1)}, n=5, m=1)


# Positions of unrolled variables are numbers while emitting, whatever is done to them.
@targets
def test_arithmetic_on_unrolled_positions(target: str) -> None:
    place = (P * 7 % 5) + minimum(P // 2, 1)
    k = kernel(
        "numbers",
        [array("y", 12, dtype=i64, role="out")],
        "",
        unrolled("p", 0, 12, Store("y", (P,), Index(place))),
    )
    agree(target, k, {})


# --- registers --------------------------------------------------------------------------------------------------------


def gemm(mr: int, nv: int, lanes: int) -> Kernel:
    """One tile of a matrix product: the accumulators live in registers over the whole of k."""
    acc = (P, Q * lanes + V)
    body = Store("acc", acc, Fma(load("a", P, T), load("b", T, Q * lanes + V), load("acc", *acc)))
    zero = Store("acc", acc, c(0.0))
    out = Store("y", acc, load("acc", *acc))

    def tile(stmt: Stmt) -> For:
        return unrolled("p", 0, mr, unrolled("q", 0, nv, vector("v", 0, lanes, lanes, stmt)))

    return kernel(
        f"gemm{mr}x{nv}x{lanes}",
        [array("a", mr, K), array("b", K, nv * lanes), array("y", mr, nv * lanes, role="out")],
        "k",
        Alloc("acc", f32, (mr, nv * lanes), "registers"),
        tile(zero),
        serial("t", 0, K, tile(body)),
        tile(out),
    )


@targets
def test_accumulators(target: str) -> None:
    for mr, nv, lanes in [(1, 1, 4), (2, 3, 8), (6, 4, 16), (3, 1, 5)]:
        for k in (0, 1, 7):
            args = {"a": numbers(f32, mr, k), "b": numbers(f32, k, nv * lanes)}
            agree(target, gemm(mr, nv, lanes), args, k=k)


# The register allocator keeps every accumulator: the loop holds fused multiply-adds, no store and no move.
@pytest.mark.skipif("avx512" not in MODELS, reason="model target")
def test_accumulators_stay_in_registers() -> None:
    target = MODELS["avx512"]
    text = emit_kernel(gemm(6, 4, 16), target, linkage="external")
    assert "alloca" not in text
    lines = assembly(text, target.triple, target.llvm_cpu, target.llvm_features).splitlines()
    first = next(i for i, line in enumerate(lines) if "vfmadd" in line)
    last = max(i for i, line in enumerate(lines) if "vfmadd" in line)
    inside = lines[first:last]
    assert sum("vfmadd" in line for line in inside) == 23
    assert not [line for line in inside if "rsp" in line or "vmovaps" in line]


# Parts of a register: the halving tree that reduces 16 lanes, single lanes, rows that are no multiple of the width.
@targets
def test_parts_of_registers(target: str) -> None:
    acc = "acc"
    tree: list[Stmt] = [Alloc(acc, f32, (16,), "registers"), vector("v", 0, 16, 16, Store(acc, (V,), load("x", V)))]
    for half in (8, 4, 2, 1):
        step = Store(acc, (V,), add(load(acc, V), load(acc, V + half)))
        tree.append(vector("v", 0, half, half, step))
    tree += [
        Store("y", (0,), load(acc, 0)),
        Store(acc, (5,), c(2.0)),
        vector("v", 0, 16, 16, Store("y", (V + 1,), load(acc, 15 - V))),
        vector("v", 0, 8, 8, Store("y", (V + 17,), load(acc, 2 * V))),
        vector("v", 0, 8, 8, Store(acc, (2 * V + 1,), load("x", V))),
        vector("v", 0, 4, 4, Store("y", (V + 25,), load(acc, V + 3))),
        Alloc("r", f32, (3, 10), "registers"),
        unrolled("p", 0, 3, vector("v", 0, 10, 16, Store("r", (P, V), mul(load("x", V), Cast(Index(P), f32))))),
        unrolled("p", 0, 3, vector("v", 0, 3, 3, Store("y", (29 + 3 * P + V,), load("r", P, V + 7)))),
        Alloc("e", f32, (2, 2), "registers"),
        unrolled("p", 0, 2, unrolled("q", 0, 2, Store("e", (P, Q), load("x", 2 * P + Q)))),
        vector("v", 0, 2, 2, Store("y", (38 + V,), load("e", V, 1))),
    ]
    k = kernel("parts", [array("x", 16), array("y", 40, role="out")], "", *tree)
    agree(target, k, {"x": numbers(f32, 16)})


# A mask leaves the other lanes of a register as they were.
@targets
def test_masked_registers(target: str) -> None:
    k = kernel(
        "masked",
        [array("x", N), array("y", 16, role="out")],
        "n",
        Alloc("acc", f32, (16,), "registers"),
        vector("v", 0, 16, 16, Store("acc", (V,), c(1.0))),
        serial(
            "u",
            0,
            N,
            vector("v", 0, minimum(N - U, 16), 16, Store("acc", (V,), add(load("acc", V), load("x", U + V)))),
            step=16,
        ),
        vector("v", 0, 16, 16, Store("y", (V,), load("acc", V))),
    )
    for n in (0, 1, 15, 16, 17, 40):
        agree(target, k, {"x": numbers(f32, n)}, n=n)


# Carried through nested loops, branches and loops that do not run, a register has the value of the way taken.
@targets
def test_registers_through_control_flow(target: str) -> None:
    odd = Binary("eq", Binary("and", Index(U), c(1, i64)), c(1, i64))
    k = kernel(
        "ways",
        [array("x", N, M), array("y", N, role="out")],
        "n m",
        Alloc("s", f32, (), "registers"),
        Alloc("u", f64, (2,), "registers"),
        Store("s", (), c(0.5)),
        Store("u", (1,), c(1.0, f64)),
        serial(
            "u",
            0,
            N,
            serial("j", 0, M, Store("s", (), add(load("s"), load("x", U, J)))),
            If(
                odd,
                (Store("s", (), mul(load("s"), c(2.0))),),
                (Store("u", (1,), add(load("u", 1, dtype=f64), c(1.0, f64))),),
            ),
            If(
                odd, (Store("u", (0,), c(3.0, f64)), Store("s", (), add(load("s"), Cast(load("u", 0, dtype=f64), f32))))
            ),
            Store("y", (U,), add(load("s"), Cast(load("u", 1, dtype=f64), f32))),
        ),
    )
    for n, m in [(0, 3), (1, 0), (4, 3), (5, 1)]:
        agree(target, k, {"x": numbers(f32, n, m)}, n=n, m=m)


@targets
def test_local_arrays_on_the_stack(target: str) -> None:
    k = kernel(
        "stack",
        [array("x", N), array("y", N, role="out")],
        "n",
        Alloc("t", f32, (4, 8), "stack"),
        serial(
            "u",
            0,
            N,
            serial("j", 0, 4, vector("v", 0, 8, 8, Store("t", (J, V), mul(load("x", U), Cast(Index(J * 8 + V), f32))))),
            Store("y", (U,), c(0.0)),
            serial("j", 0, 8, Store("y", (U,), add(load("y", U), load("t", J // 2, (J * 3) % 8)))),
        ),
    )
    agree(target, k, {"x": numbers(f32, 9)}, n=9)


def test_large_and_dynamic_stack_arrays_are_refused() -> None:
    for shape in ((N,), (1 << 20,)):
        k = kernel("k", [array("y", N, role="out")], "n", Alloc("t", f32, shape, "stack"))
        with pytest.raises(Unsupported) as caught:
            emit_kernel(k, MODELS["generic"])
        assert caught.value.code == "TD0515"


def test_registers_indexed_at_run_time_are_refused() -> None:
    k = kernel(
        "k",
        [array("y", 4, role="out")],
        "n",
        Alloc("r", f32, (4,), "registers"),
        serial("u", 0, N, Store("r", (U,), c(1.0))),
    )
    with pytest.raises(Unsupported, match="is indexed by u") as caught:
        emit_kernel(k, MODELS["generic"])
    assert caught.value.code == "TD0513"


# --- control flow -----------------------------------------------------------------------------------------------------


# A condition that differs between lanes: each side acts on its own lanes, and guards its own accesses.
@targets
@pytest.mark.parametrize("n", [3, 16])
def test_branches_between_lanes(target: str, n: int) -> None:
    inside = Binary("lt", Index(V), load("count", 0, dtype=i64))
    k = kernel(
        "lanes",
        [array("x", M), array("b", M), array("count", 1, dtype=i64), array("y", 16, role="inout")],
        "n m",
        Alloc("r", f32, (16,), "registers"),
        vector("v", 0, 16, 16, Store("r", (V,), c(-1.0))),
        vector(
            "v",
            0,
            N,
            16,
            If(
                inside,
                (
                    Let("q", load("x", V)),
                    Store("r", (V,), add(Var("q", f32), load("b", 0))),
                    If(Binary("gt", Var("q", f32), c(0.0)), (Store("y", (V,), load("r", V)),)),
                ),
                (Store("y", (V,), c(7.0)),),
            ),
        ),
        vector("v", 0, 16, 16, Store("y", (V,), add(load("y", V), load("r", V)))),
    )
    for m in (0, 1, 2, 11):
        args = {"x": numbers(f32, m), "b": numbers(f32, m), "count": np.array([m]), "y": numbers(f32, 16)}
        agree(target, k, args, n=n, m=m)


@targets
def test_while(target: str) -> None:
    """Collatz steps, one number at a time and sixteen at once: lanes leave the loop one by one."""

    def steps(place: tuple[Dim, ...]) -> tuple[Stmt, ...]:
        now = load("x", *place, dtype=i64)
        even = Binary("eq", Binary("and", Var("z", i64), c(1, i64)), c(0, i64))
        following = Select(even, Binary("shr", Var("z", i64), c(1, i64)), add(mul(Var("z", i64), c(3, i64)), c(1, i64)))
        return (
            While(
                (
                    Let("z", now),
                    Store("y", place, add(load("y", *place, dtype=i64), c(1, i64))),
                    Store("x", place, following),
                ),
                Binary("ne", now, c(1, i64)),
            ),
        )

    x, y = array("x", N, dtype=i64, role="inout"), array("y", N, dtype=i64, role="inout")
    one = kernel("one", [x, y], "n", serial("u", 0, N, *steps((U,))))
    many = kernel("many", [x, y], "n", vector("v", 0, N, 16, *steps((V,))))
    args = {"x": np.arange(2, 15), "y": np.zeros(13, np.int64)}
    agree(target, one, args, n=13)
    agree(target, many, args, n=13)


# In a loop, a value read before a store to its array is not used after it.
@targets
def test_loads_follow_stores(target: str) -> None:
    k = kernel(
        "order",
        [array("y", 8, role="inout"), array("z", N, role="out")],
        "n",
        serial(
            "u",
            0,
            N,
            Let("before", load("y", 3)),
            Store("y", (3,), add(load("y", 3), c(1.0))),
            Store("z", (U,), add(mul(Var("before", f32), c(100.0)), load("y", 3))),
            serial("j", 0, 2, Store("y", (J + 2,), add(load("y", 3), load("y", 2)))),
            Store("z", (U,), add(load("z", U), load("y", 3))),
        ),
    )
    agree(target, k, {"y": numbers(f32, 8)}, n=4)


# The smallest site wins, and its numbers are told; execution goes on; a mask hides what is outside.
@targets
@pytest.mark.parametrize("lanes", [5, 16, 64, 80])
def test_failures(target: str, lanes: int) -> None:
    wrong = Binary("ge", load("w", V, dtype=i32), c(10, i32))
    told = Cast(load("w", V, dtype=i32), i64)
    bad = Binary("lt", load("w", U, dtype=i32), c(0, i32))
    k = kernel(
        "fails",
        [array("w", N, dtype=i32), array("y", N, dtype=i32, role="out")],
        "n",
        vector("v", 0, N, lanes, Fail(wrong, 4, (told, Index(N), Index(V))), Store("y", (V,), load("w", V, dtype=i32))),
        serial("u", 0, N, Fail(bad, 2)),
    )
    compiled = Compiled([k], RUNNABLE[target])
    for values in ([1, 2, 3], [1, 10, 3, 11], [1, -1, 12], [-5, -6]):
        check_against_evaluator(compiled, "fails", {"w": np.array(values, np.int32)}, {"n": len(values)})
    _, failure = compiled("fails", {"w": np.array([1, 2, 10, 11], np.int32)}, {"n": 4})
    assert failure == (4, 2, (10, 4, 2))


# A caller that sets the stop word gets its thread back, whatever is still to be done.
@targets
def test_stopping(target: str) -> None:
    k = kernel(
        "forever",
        [array("y", 1, role="inout")],
        "n",
        While((Store("y", (0,), add(load("y", 0), c(1.0))),), Binary("ge", load("y", 0), c(0.0))),
    )
    word = ctypes.c_int32(1)
    context = Context(1, 1, None, ctypes.addressof(word))
    found, _ = Compiled([k], RUNNABLE[target])("forever", {"y": np.zeros(1, np.float32)}, {"n": 3}, context)
    assert found["y"][0] == 0


# --- parallel loops ---------------------------------------------------------------------------------------------------

RUN = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64
)
TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


class StubPool:
    """A pool that runs pieces on this thread, last one first, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []
        self.function = RUN(self.run)
        self.struct = (ctypes.c_void_p * 1)(ctypes.cast(self.function, ctypes.c_void_p))

    def run(self, pool: int, task: int, args: int, lo: int, hi: int, threads: int) -> None:
        self.asked.append((lo, hi, threads))
        cuts = sorted({lo, lo + (hi - lo) // 3, lo + (hi - lo) // 2, hi})
        for first, last in reversed(list(itertools.pairwise(cuts))):
            TASK(task)(args, first, last)

    def context(self, threads: int) -> Context:
        return Context(1, threads, ctypes.addressof(self.struct), None)


def rows(extra: tuple[Stmt, ...] = ()) -> Kernel:
    body = Store("y", (U, J, V), Fma(load("x", U, J, V), Var("scale", f32), load("t", J, V)))
    return kernel(
        "rows",
        [array("x", N, M, 12), array("s", 1), array("y", N, M, 12, role="out")],
        "n m",
        Let("scale", load("s", 0)),
        Alloc("t", f32, (8, 12), "stack"),
        serial("j", 0, 8, vector("v", 0, 12, 16, Store("t", (J, V), Cast(Index(J - V), f32)))),
        parallel("u", 0, N, parallel("j", 0, M, vector("v", 0, 12, 16, body), *extra)),
    )


@targets
def test_parallel_loops(target: str) -> None:
    compiled = Compiled([rows()], RUNNABLE[target])
    for n, m in [(3, 4), (1, 7), (5, 1), (0, 3), (1, 1)]:
        args = {"x": numbers(f32, n, m, 12), "s": numbers(f32, 1)}
        for threads, asked in [(1, []), (4, [(0, n * m, 4)] if n * m > 1 else [])]:
            pool = StubPool()
            check_against_evaluator(compiled, "rows", args, {"n": n, "m": m}, pool.context(threads))
            assert pool.asked == asked


# Steps and starts other than 1 and 0, sizes that depend on an outer loop, parallel loops inside a task and after it.
@targets
def test_parallel_shapes(target: str) -> None:
    k = kernel(
        "shapes",
        [array("y", 40, 40, role="inout")],
        "n",
        parallel("u", 2, N, serial("j", 0, U, parallel("p", 0, 3, Store("y", (U, J + P), c(2.0)))), step=3),
        serial("t", 0, 2, parallel("u", T, N, Store("y", (T, U), Cast(Index(U + T), f32)))),
        parallel("u", 0, 1, Store("y", (39, U), c(1.0))),
    )
    for n in (2, 3, 11, 30):
        pool = StubPool()
        agree(target, k, {"y": np.zeros((40, 40), np.float32)}, pool.context(2), n=n)
        assert n < 6 or pool.asked


# Complex values are two: in registers, through loops and branches, captured by a task, under masks.
@targets
@pytest.mark.parametrize("dtype", [c64, c128], ids=str)
def test_complex_kernels(target: str, dtype: DType) -> None:
    acc = load("acc", V, dtype=dtype)
    product = mul(load("x", U, J + V, dtype=dtype), Var("factor", dtype))
    later = Binary("gt", Index(U), c(1, i64))
    k = kernel(
        "complex",
        [
            array("x", N, M, dtype=dtype),
            array("w", 1, dtype=dtype),
            array("y", M, dtype=dtype, role="out"),
            array("z", N, 3, dtype=dtype, role="out"),
        ],
        "n m",
        Let("factor", mul(load("w", 0, dtype=dtype), Const(0.5 - 2j, dtype))),
        serial(
            "j",
            0,
            M,
            Alloc("acc", dtype, (8,), "registers"),
            vector("v", 0, 8, 8, Store("acc", (V,), Const(1j, dtype))),
            serial(
                "u",
                0,
                N,
                vector("v", 0, minimum(M - J, 8), 8, Store("acc", (V,), add(acc, product))),
                If(later, (vector("v", 0, 8, 8, Store("acc", (V,), Unary("conj", acc))),)),
            ),
            vector("v", 0, minimum(M - J, 8), 8, Store("y", (J + V,), acc)),
            step=8,
        ),
        parallel(
            "u",
            0,
            N,
            Store("z", (U, 0), Binary("div", Var("factor", dtype), load("x", U, 0, dtype=dtype))),
            vector("v", 0, 2, 4, Store("z", (U, V + 1), add(Var("factor", dtype), load("x", U, 1 - V, dtype=dtype)))),
        ),
    )
    for n, m in [(0, 3), (1, 8), (4, 11), (3, 19)]:
        pool = StubPool()
        agree(target, k, {"x": numbers(dtype, n, m), "w": numbers(dtype, 1)}, pool.context(3), n=n, m=m)


# Both parts are one value: lanes picked from it a second time are still its lanes.
@targets
def test_complex_of_one_value(target: str) -> None:
    twice = Binary("complex", Var("x_v", f32), Var("x_v", f32))
    body = vector("v", 0, 5, 8, Let("x_v", load("x", V)), Store("y", (V,), twice))
    k = kernel("twice", [array("x", 5), array("y", 5, dtype=c64, role="out")], "", body)
    agree(target, k, {"x": numbers(f32, 5)})


@targets
def test_failures_inside_tasks(target: str) -> None:
    k = kernel(
        "checked",
        [array("w", N, dtype=i32), array("y", N, dtype=i32, role="out")],
        "n",
        parallel(
            "u",
            0,
            N,
            Fail(Binary("gt", load("w", U, dtype=i32), c(5, i32)), 3, (Cast(load("w", U, dtype=i32), i64), Index(U))),
            Store("y", (U,), load("w", U, dtype=i32)),
        ),
    )
    compiled = Compiled([k], RUNNABLE[target])
    w = np.array([1, 6, 2, 9, 9], np.int32)
    for threads in (1, 3):
        pool = StubPool()
        _, failure = compiled("checked", {"w": w}, {"n": 5}, pool.context(threads))
        assert failure is not None and failure[:2] == (3, 1) and failure[2][:2] == (6, 1)


# --- streams ----------------------------------------------------------------------------------------------------------


# A store that passes the caches by is only used where its address is aligned; what is written is the same.
@targets
@pytest.mark.parametrize("offset", [0, 1, 4, 16])
def test_streaming_stores(target: str, offset: int) -> None:
    value = mul(load("x", U + V), c(2.0))
    k = kernel(
        "stream",
        [array("x", N), array("y", N + 32, role="inout")],
        "n",
        serial(
            "u",
            0,
            N,
            vector("v", 0, minimum(N - U, 16), 16, Store("y", (U + V + offset,), value, stream=True)),
            step=16,
        ),
        serial(
            "u", 0, N // 16, vector("v", 0, 16, 16, Store("y", (16 * U + V + offset,), load("x", 16 * U + V), True))
        ),
    )
    agree(target, k, {"x": numbers(f32, 77), "y": numbers(f32, 109)}, n=77)
    if RUNNABLE[target].has("stream"):
        assert "nontemporal" in emit_kernel(k, RUNNABLE[target])


# --- the text ---------------------------------------------------------------------------------------------------------


# What does not move with a loop is computed ahead of it, once, though no pass runs after the emitter.
def test_invariants_leave_loops() -> None:
    k = kernel(
        "invariant",
        [array("x", N, M), array("b", N), array("y", N, M, role="out")],
        "n m",
        serial(
            "u",
            0,
            N,
            serial("j", 0, M, Store("y", (U, J), mul(load("x", U, J), Unary("sqrt", add(load("b", U), c(1.0)))))),
        ),
    )
    text = emit_kernel(k, MODELS["avx2"])
    inner = text[text.rindex("loop") :]
    innermost = [block for block in text.split("\n\n")[0].split("loop") if "fmul" in block]
    assert text.count("sqrt.f32(float") == 2  # the declaration, the call
    assert innermost and "sqrt" not in innermost[-1].split("phi")[-1]
    assert inner


def test_equal_kernels_give_equal_texts() -> None:
    for target in MODELS.values():
        assert emit_kernel(gemm(6, 4, 16), target) == emit_kernel(gemm(6, 4, 16), target)


def test_a_module_holds_each_kernel_and_table_once() -> None:
    module = Module(MODELS["generic"])
    table = Table("t", f32, (1.0, 2.0))
    for name in ("one", "two", "one"):
        body = vector("v", 0, 4, 4, Store("y", (V,), Load("t", (V // 2,), f32)))
        module.add(kernel(name, [array("y", 4, role="out")], "", body, tables=(table,)))
    text = module.text()
    assert text.count("define internal void") == 2
    assert text.count("constant [16 x float]") == 1
    with pytest.raises(Unsupported, match="two different kernels"):
        module.add(kernel("one", [], ""))


# Nothing the emitter writes may need a maths or compiler library, on any target, runnable here or not.
@pytest.mark.parametrize("target", MODELS)
def test_nothing_is_left_undefined(target: str) -> None:
    floats = ["neg", "abs", "floor", "ceil", "trunc", "rint", "sqrt"]
    pairs = ["add", "div", "floordiv", "mod", "rem", "min", "max", "fmin", "copysign", "nextafter", "exponent_shift"]
    module = Module(MODELS[target])
    for dtype in (f16, bf16, f32, f64, i8, u8, i32, i64):
        x, y = load("x", V, dtype=dtype), load("x", V + 1, dtype=dtype)
        values: list[Expr] = []
        if dtype.is_float:
            values += [Unary(op, x) for op in floats] + [Binary(op, x, y) for op in pairs] + [Fma(x, y, x)]
        else:
            values += [Binary(op, x, y) for op in ("mul", "floordiv", "mod", "truncdiv", "shl", "shr", "min")]
            values += [Unary("popcount", x)]
        values += [Cast(Cast(x, to), dtype) for to in (bool_, i8, u8, i32, i64, f16, bf16, f32, f64) if to is not dtype]
        stores = [Store("y", (number, V), value) for number, value in enumerate(values)]
        params = [array("x", 17, dtype=dtype), array("y", len(values), 16, dtype=dtype, role="out")]
        module.add(kernel(f"vector.{dtype}", params, "", vector("v", 0, 16, 16, *stores)), linkage="external")
        module.add(kernel(f"scalar.{dtype}", params, "", serial("v", 0, 16, *stores)), linkage="external")
    model = MODELS[target]
    code = object_code(module.text(), model.triple, model.llvm_cpu, model.llvm_features)
    assert set(undefined_symbols(code)) <= set(BLOCK_OPERATIONS)


@targets
def test_half_floats_are_copied_bit_for_bit(target: str) -> None:
    """NaN payloads and all: a copy is not a computation."""
    for dtype, numpy_type in ((bf16, ml_dtypes.bfloat16), (f16, np.float16)):
        bits = RNG.integers(0, 1 << 16, 100).astype(np.uint16)
        k = kernel(
            "copy",
            [array("x", 100, dtype=dtype), array("y", 100, dtype=dtype, role="out")],
            "",
            serial("u", 0, 96, vector("v", 0, 16, 16, Store("y", (U + V,), load("x", U + V, dtype=dtype))), step=16),
            serial("u", 96, 100, Store("y", (U,), load("x", U, dtype=dtype))),
        )
        found, _ = Compiled([k], RUNNABLE[target])("copy", {"x": bits.view(numpy_type)}, {})
        assert (found["y"].view(np.uint16) == bits).all()


# More invariants than registers: those beyond stay in the loop instead of being stored ahead of it and loaded again.
def test_invariants_do_not_fill_the_registers() -> None:
    target = MODELS["avx2"]
    total: Expr = load("x", U, V)
    for number in range(24):
        total = Fma(total, load("w", number, V), load("b", number))
    k = kernel(
        "many",
        [array("x", N, 8), array("w", 24, 8), array("b", 24), array("y", N, 8, role="out")],
        "n",
        serial("u", 0, N, vector("v", 0, 8, 8, Store("y", (U, V), total))),
    )
    text = emit_kernel(k, target, linkage="external")
    code = assembly(text, target.triple, target.llvm_cpu, target.llvm_features)
    assert "rsp" not in code
