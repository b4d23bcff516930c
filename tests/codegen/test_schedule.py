"""Verbs on loops: the nest computes the same after each, looks as its docstring says, and a verb that would change a
result refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from treadle.codegen import schedule
from treadle.codegen.schedule import Axis, Block
from treadle.codegen.tidy import placed_fma, tidied, widened
from treadle.ir.dims import Dim, symbol
from treadle.ir.dtypes import bf16, f32
from treadle.ir.errors import TreadleError
from treadle.ir.loops.build import Names, add, load, loop, mul, sub
from treadle.ir.loops.evaluate import evaluate
from treadle.ir.loops.nodes import Cast, Fma, For, Kernel, Let, Load, Param, Store, Var
from treadle.ir.loops.text import show_stmt

N, M = symbol("N"), symbol("M")
X, Y = Param("x", f32, (N * M,), "in"), Param("y", f32, (N * M,), "out")


def row(body: Callable[[Dim], Store] | None = None) -> Block:
    """for i in range(N*M): y[i] = x[i] * 2"""
    return (loop("i", N * M, lambda i: [Store("y", (i,), mul(load(X, i), 2.0))]),)


def grid(transposed: bool = False) -> Block:
    """for i in range(N): for j in range(M): y[...] = x[...]"""

    def inner(i: Dim) -> list[For]:
        def store(j: Dim) -> list[Store]:
            return [Store("y", (j * N + i if transposed else i * M + j,), load(X, i * M + j))]

        return [loop("j", M, store)]

    return (loop("i", N, inner),)


def run(block: Block, n: int, m: int) -> np.ndarray:
    kernel = Kernel("k", (X, Y), ("N", "M"), block)
    x = np.arange(n * m, dtype=np.float32)
    return evaluate(kernel, {"x": x}, {"N": n, "M": m})[0]["y"]


def same(before: Block, after: Block) -> None:
    """Both compute the same, for sizes around the factors used."""
    for n, m in ((1, 1), (2, 3), (16, 16), (5, 33), (1, 0)):
        np.testing.assert_array_equal(run(before, n, m), run(after, n, m))


def lines(block: Block) -> list[str]:
    return [line for stmt in block for line in show_stmt(stmt).split("\n")]


# A split that does not divide leaves a shorter last piece.
def test_split() -> None:
    after = schedule.split(row(), "i", 16, "o", "k")
    assert lines(after)[:2] == ["for o in range((M*N + 15) // 16):", "  for k in range(min(16*o + 16, M*N) - 16*o):"]
    same(row(), after)


def test_reorder() -> None:
    after = schedule.reorder(grid(True), "i", "j")
    assert lines(after)[:2] == ["for j in range(M):", "  for i in range(N):"]


# Positions that fall together again are simplified at once: a fused loop over a whole array is one index.
def test_fuse_loops() -> None:
    x, y = Param("x", f32, (3, 8), "in"), Param("y", f32, (3, 8), "out")
    before: Block = (loop("i", 3, lambda i: [loop("j", 8, lambda j: [Store("y", (i, j), load(x, i, j))])]),)
    after = schedule.fuse_loops(before, "i", "j")
    assert lines(after) == ["for j in range(24):", "  y[j // 8, j % 8] = x[j // 8, j % 8]"]
    given = np.arange(24, dtype=np.float32).reshape(3, 8)
    for block in (before, after):
        np.testing.assert_array_equal(evaluate(Kernel("k", (x, y), (), block), {"x": given}, {})[0]["y"], given)


# What is staged is read from the copy; reads that may leave the part are refused.
def test_stage() -> None:
    x, y = Param("x", f32, (12,), "in"), Param("y", f32, (4, 8), "out")
    before: Block = (loop("i", 4, lambda i: [loop("j", 8, lambda j: [Store("y", (i, j), load(x, i + j))])]),)
    after = schedule.stage(before, "i", "x", (symbol("i"),), (8,), "t")
    assert lines(after)[1:4] == ["  t: stack f32[8]", "  for t_0 in range(8):", "    t[t_0] = x[i + t_0]"]
    given = np.arange(12, dtype=np.float32)
    found = [evaluate(Kernel("k", (x, y), (), block), {"x": given}, {})[0]["y"] for block in (before, after)]
    np.testing.assert_array_equal(*found)
    refused("TD0437", lambda: schedule.stage(before, "i", "x", (symbol("i"),), (7,), "t"))


def test_unroll() -> None:
    before: Block = (loop("i", 3, lambda i: [Store("y", (i,), load(X, i))]),)
    assert lines(schedule.unroll(before, "i"))[0] == "for i in unrolled(3):"
    refused("TD0437", lambda: schedule.unroll(row(), "i"))


# Main loop and tail share one body, and the tail may be empty.
def test_vectorize() -> None:
    after = schedule.vectorize(row(), "i", 16, Names(("i",)), 2)
    vectors = [stmt for stmt in schedule.walk(after) if isinstance(stmt, For) and stmt.kind == "vector"]
    assert len(vectors) == 2 and vectors[0].body is vectors[1].body
    same(row(), after)


def test_parallelize() -> None:
    after = schedule.parallelize(row(), "i", 1 << 14, Names(("i",)))
    assert lines(after)[0] == "for c in parallel((M*N + 7) // 8):"
    same(row(), after)
    # What is too short for two pieces stays as it is.
    short: Block = (loop("i", 8, lambda i: [Store("y", (i,), load(X, i))]),)
    assert schedule.parallelize(short, "i", 4, Names(("i",))) == short


def test_stream() -> None:
    after = schedule.stream(row(), "y")
    assert [stmt.stream for stmt in schedule.walk(after) if isinstance(stmt, Store)] == [True]
    refused("TD0437", lambda: schedule.stream((loop("i", N, lambda i: [Store("y", (i,), load(Y, i))]),), "y"))


# Iterations that touch each other's elements are not run at once.
@pytest.mark.parametrize(
    "index, other",
    [(symbol("i") + 1, symbol("i")), (symbol("i") * 0, symbol("i")), (symbol("i") // 2, symbol("i") // 2)],
)
def test_dependent_iterations_are_refused(index: Dim, other: Dim) -> None:
    block: Block = (loop("i", N, [Store("y", (index,), add(load(Y, other), load(X, symbol("i"))))]),)
    refused("TD0438", lambda: schedule.vectorize(block, "i", 4, Names(("i",))))
    refused("TD0438", lambda: schedule.parallelize(block, "i", 4, Names(("i",))))


# An inner loop that covers less than a step of the outer one cannot reach into the next iteration.
def test_blocks_of_a_row_are_independent() -> None:
    def nest(width: int) -> For:
        return loop("i", N, lambda i: [loop("j", width, lambda j: [Store("y", (i * 8 + j,), load(X, j))])])

    assert schedule.independent(nest(8))
    assert not schedule.independent(nest(9))


def test_no_such_loop() -> None:
    refused("TD0437", lambda: schedule.unroll(row(), "q"))


# Axes run on as one only where every access does.
def test_merged() -> None:
    axes = [Axis("i", 0, N), Axis("j", 0, M)]
    body = (Store("y", (symbol("i") * M + symbol("j"),), Load("x", (symbol("i") * M + symbol("j"),), f32)),)
    joined, (moved,) = schedule.merged(axes, (body,))
    assert joined == [Axis("j", 0, N * M)] and moved == (Store("y", (symbol("j"),), Load("x", (symbol("j"),), f32)),)
    crossing = (Store("y", (symbol("i") * M + symbol("j"),), Load("x", (symbol("j") * N + symbol("i"),), f32)),)
    assert schedule.merged(axes, (crossing,))[0] == axes


# A product that is added becomes one rounding; what is read twice has a name and stays.
def test_placed_fma() -> None:
    x, y, z = Var("x", f32), Var("y", f32), Var("z", f32)
    block = (
        Let("p", mul(x, y)),
        Let("a", add(mul(x, y), z)),
        Let("b", sub(z, mul(x, y))),
        Let("c", add(Var("p", f32), z)),
    )
    placed = placed_fma(block)
    assert placed[1] == Let("a", Fma(x, y, z))
    assert isinstance(placed[2], Let) and isinstance(placed[2].value, Fma)
    assert placed[0] == block[0] and placed[3] == block[3]


# Half floats are f32 between a load and a store; a conversion that the program asks for still rounds.
def test_widened() -> None:
    x = Load("x", (0,), bf16)
    (store,) = widened((Store("y", (0,), add(mul(x, x), x)),))
    wide = Cast(x, f32)
    assert store == Store("y", (0,), Cast(add(mul(wide, wide), wide), bf16))
    rounded = Cast(Load("z", (0,), f32), bf16)
    (store,) = widened((Store("y", (0,), add(rounded, x)),))
    assert store == Store("y", (0,), Cast(add(Cast(rounded, f32), wide), bf16))


# Tidying keeps the meaning: simpler positions, no dead lets, equal lets joined.
def test_tidied() -> None:
    i = symbol("i")
    block: Block = (
        loop("i", 8, [
            Let("a", mul(load(X, i % 8), 2.0)),
            Let("b", mul(load(X, i), 2.0)),
            Let("unused", load(X, i)),
            Store("y", (i // 8 * 8 + i,), add(Var("a", f32), Var("b", f32))),
        ]),
    )  # fmt: skip
    after = tidied(block)
    assert lines(after) == ["for i in range(8):", "  let a: f32 = x[i] * 2.0", "  y[i] = a + a"]
    np.testing.assert_array_equal(run(block, 2, 4), run(after, 2, 4))


def refused(code: str, verb: Callable[[], object]) -> None:
    with pytest.raises(TreadleError) as error:
        verb()
    assert error.value.code == code
