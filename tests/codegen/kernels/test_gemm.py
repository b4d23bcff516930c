"""Matrix products: every arrangement of the operands, ragged and empty sizes, operands that are computed, and dot
products of words, against the evaluator, the naive nest and, bit for bit, the machine code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_cases import bind, check, graph_of, results_of, tensor, two_threads

from treadle.codegen import isa
from treadle.codegen.cpus import MODELS
from treadle.codegen.kernels import choose
from treadle.ir.dtypes import DType, bf16, f8e5m2, f16, f32, f64, i8, i16, i32, u8, u16
from treadle.ir.graph import Graph
from treadle.ir.loops.build import expressions, walk, walk_expr
from treadle.ir.loops.evaluate import evaluate as run_loops
from treadle.ir.loops.nodes import Alloc, Call, Kernel
from treadle.ir.ops.contract import Conv, Dot
from treadle.ir.ops.elementwise import Convert, Exp, Maximum, Tanh
from treadle.ir.ops.movement import Broadcast, Reverse
from treadle.ir.program import KernelDef
from treadle.ir.value import Full

WIDE = {"avx512": MODELS["avx512"]}
VNNI = {"avx512+vnni+bf16": MODELS["avx512+vnni+bf16"]}
WORDS = {name: MODELS[name] for name in ("avx2", "avx512", "avx512+vnni+bf16")}
LAST = "NhwI,hwIO->NhwO"


def product(m: int | str, k: int | str, n: int | str, dtype: DType = f32, turned: str = "", **numbers: Any) -> Graph:
    """x @ y; the operands named in `turned` are given transposed."""
    x = (k, m) if "x" in turned else (m, k)
    y = (n, k) if "y" in turned else (k, n)
    axes = ((), (), (int("x" not in turned),), (int("y" in turned),))
    return graph_of([tensor(*x, dtype=dtype), tensor(*y, dtype=dtype)], lambda x, y: Dot(x, y, *axes, **numbers))


# Sizes round the lanes, the rows of a tile and the columns of a panel, and sizes of nothing.
@pytest.mark.parametrize("m", [0, 1, 2, 7, 15, 29])
@pytest.mark.parametrize("n", [0, 1, 15, 17, 65])
def test_ragged_sizes(m: int, n: int) -> None:
    for k in (0, 1, 9):
        check(product(m, k, n), targets=WIDE)


@pytest.mark.parametrize("turned", ["", "x", "y", "xy"])
@pytest.mark.parametrize("dtype", [f32, f64, bf16, i8, i32, u16], ids=str)
def test_arrangements(dtype: DType, turned: str) -> None:
    check(product(9, 21, 35, dtype, turned))


@pytest.mark.parametrize("turned", ["", "x", "y"])
def test_sizes_known_at_run_time(turned: str) -> None:
    graph = product("M", "K", "N", turned=turned)
    for m, k, n in ((0, 3, 2), (5, 0, 4), (1, 1, 1), (7, 20, 70), (33, 2, 16)):
        check(graph, targets=WIDE, sizes={"M": m, "K": k, "N": n})


# The product of a matrix with itself reads one buffer on both sides.
def test_both_operands_are_one() -> None:
    check(graph_of([tensor(23, 19)], lambda x: Dot(x, x, (), (), (0,), (0,))))
    check(graph_of([tensor(4, 7, 5)], lambda x: Dot(x, x, (0,), (0,), (2,), (2,))), targets=WIDE)


# --- operands that are computed ---------------------------------------------------------------------------------------


def gemm_only(graph: Graph, target: str = "avx512") -> Kernel:
    """The kernel, which must be the fast one's."""
    generator = next(g for g in choose.GENERATORS if g.name == "gemm")
    assert generator.takes(graph, MODELS[target])
    return choose.kernel(KernelDef("kernel", graph, (), choose.workspace(graph, MODELS[target])), MODELS[target])


def scaled(x: Any) -> Any:
    return Maximum(x * Full(0.5, x.tensor) + Full(0.25, x.tensor), Full(0, x.tensor))


@pytest.mark.parametrize("turned", ["", "x", "y"])
@pytest.mark.parametrize("sides", ["x", "y", "xy"])
def test_prologues(sides: str, turned: str) -> None:
    axes = ((), (), (int("x" not in turned),), (int("y" in turned),))
    for m, k, n in ((9, 21, 70), (1, 33, 20), (64, 40, 17)):
        x, y = ((k, m) if "x" in turned else (m, k)), ((n, k) if "y" in turned else (k, n))

        def build(x: Any, y: Any) -> Any:
            return Dot(scaled(x) if "x" in sides else x, scaled(y) if "y" in sides else y, *axes)

        graph = graph_of([tensor(*x), tensor(*y)], build)
        gemm_only(graph)
        check(graph, targets=WIDE if m == 1 else MODELS)


# What is no arithmetic of elements is an array before it is an operand: no kernel would compute it once.
def test_moved_operands_are_no_prologue() -> None:
    graph = graph_of([tensor(9, 8), tensor(8, 20)], lambda x, y: Dot(Reverse(x, (0,)), y, (), (), (1,), (0,)))
    assert not any(choose.accepts(graph, target) for target in MODELS.values())


# What is read along one axis only moves with that axis.
def test_prologue_of_broadcasts() -> None:
    def build(x: Any, gain: Any, shift: Any, y: Any) -> Any:
        x = x * Broadcast(gain, x.shape, (1,)) + Broadcast(shift, x.shape, (0,))
        return Tanh(Dot(x, y, (), (), (1,), (0,)))

    graph = graph_of([tensor(18, 31), tensor(31), tensor(18), tensor(31, 40)], build)
    gemm_only(graph)
    check(graph, ulp=512)


def test_prologue_of_batches_and_sizes_known_at_run_time() -> None:
    def build(x: Any, y: Any) -> Any:
        return Dot(scaled(x), Exp(y), (0,), (0,), (2,), (1,))

    check(graph_of([tensor(3, 5, 8), tensor(3, 8, 20)], build), targets=WIDE, ulp=512)
    graph = graph_of([tensor("B", "M", 8), tensor("B", 8, "N")], build)
    check(graph, targets=WIDE, sizes={"B": 2, "M": 9, "N": 37}, ulp=512)
    check(graph, targets=WIDE, sizes={"B": 0, "M": 9, "N": 3}, ulp=512)


@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 1), (2, 0))])
def test_prologue_of_a_convolution(padding: Any) -> None:
    def build(x: Any, w: Any) -> Any:
        return Conv(scaled(x) + Full(1, x.tensor), scaled(w), LAST, padding=padding)

    graph = graph_of([tensor(2, 5, 6, 3), tensor(3, 3, 3, 18)], build)
    gemm_only(graph)
    check(graph)


# Weights kept in a shorter type are widened as they are packed: no array of them in the wider type is made.
@pytest.mark.parametrize("dtype", [bf16, f16], ids=str)
def test_short_weights_are_widened_in_the_panel(dtype: DType) -> None:
    def build(x: Any, w: Any) -> Any:
        return Dot(x, Convert(w, f32), (), (), (1,), (0,))

    graph = graph_of([tensor(33, 40), tensor(40, 70, dtype=dtype)], build)
    assert all(param.dtype is not f32 or param.shape != (40 * 70,) for param in gemm_only(graph).params)
    check(graph)


# A conversion that rounds is part of what is computed: integers have more digits than the floats that they meet in.
@pytest.mark.parametrize(
    ("narrow", "through", "number"),
    [(u16, bf16, 257), (i16, f8e5m2, -90), (i32, f32, 2**24 + 1), (f64, f32, 0.1)],
    ids=str,
)
def test_conversions_that_round_are_kept(narrow: DType, through: DType, number: float) -> None:
    kept = f64 if through is f32 else f32

    def build(x: Any, y: Any) -> Any:
        return Dot(Convert(Convert(x, through), kept), y, (), (), (1,), (0,))

    graph = graph_of([tensor(30, 4, dtype=narrow), tensor(4, 20, dtype=kept)], build)
    x = np.full((30, 4), number, narrow.numpy)
    check(graph, x, np.ones((4, 20), kept.numpy), targets=WIDE, ulp=1)
    assert 4 * float(x.astype(through.numpy)[0, 0]) != 4 * number


# However few rows there are: the exponential of the right operand is taken once for each element.
@pytest.mark.parametrize("rows", [1, 2, 9, 28, 29])
def test_a_computed_operand_is_computed_once(rows: int) -> None:
    graph = graph_of([tensor(rows, 40), tensor(40, 200)], lambda x, y: Dot(x, Exp(y), (), (), (1,), (0,)))
    kernel = gemm_only(graph)
    panels = [stmt for stmt in walk(kernel.body) if isinstance(stmt, Alloc) and stmt.name.startswith("panel")]
    assert bool(panels) == (rows > 1)


def test_prologue_on_two_threads() -> None:
    graph = graph_of([tensor(300, 64), tensor(64, 96)], lambda x, y: Dot(scaled(x), scaled(y), (), (), (1,), (0,)))
    check(graph, targets=WIDE, context=two_threads())


# --- dot products of words --------------------------------------------------------------------------------------------


def instructions(kernel: Kernel) -> set[str]:
    called = (node for stmt in walk(kernel.body) for node in walk_expr(*expressions(stmt)))
    return {node.instruction for node in called if isinstance(node, Call)}


@pytest.mark.parametrize(
    ("x", "y", "used"),
    [(u8, i8, "dot4_u8i8"), (i8, u8, "dot4_u8i8"), (i8, i8, "dot2_i16"), (u8, u8, "dot2_i16"), (i16, i16, "dot2_i16")],
    ids=str,
)
@pytest.mark.parametrize("turned", ["", "x", "y", "xy"])
def test_short_integers(x: DType, y: DType, used: str, turned: str) -> None:
    """Every element of the types' whole ranges: the sums are exact."""
    axes = ((), (), (int("x" not in turned),), (int("y" in turned),))
    rng = np.random.default_rng(3)
    for m, k, n in ((17, 24, 35), (9, 23, 70)):
        shapes = ((k, m) if "x" in turned else (m, k)), ((n, k) if "y" in turned else (k, n))
        given = [
            rng.integers(np.iinfo(t.numpy).min, np.iinfo(t.numpy).max, shape, t.numpy, endpoint=True)
            for t, shape in zip((x, y), shapes)
        ]
        types = [tensor(*shape, dtype=t) for t, shape in zip((x, y), shapes)]
        direct = graph_of(types, lambda x, y: Dot(x, y, *axes, accumulate=i32))
        converted = graph_of(types, lambda x, y: Dot(Convert(x, i32), Convert(y, i32), *axes))
        assert used in instructions(gemm_only(direct, "avx512+vnni+bf16"))
        check(direct, *given, targets=WORDS if m == 9 else VNNI)
        assert gemm_only(converted, "avx512+vnni+bf16").body == gemm_only(direct, "avx512+vnni+bf16").body


def test_short_integers_of_sizes_known_at_run_time() -> None:
    graph = graph_of(
        [tensor("M", "K", dtype=u8), tensor("K", "N", dtype=i8)],
        lambda x, y: Dot(x, y, (), (), (1,), (0,), accumulate=i32),
    )
    for m, k, n in ((1, 1, 1), (17, 5, 33), (6, 0, 20), (9, 2, 3)):
        check(graph, targets=VNNI, sizes={"M": m, "K": k, "N": n})


def test_short_integers_in_a_convolution() -> None:
    for channels, padding in ((4, ((1, 1), (1, 1))), (4, ((0, 0), (0, 0))), (3, ((1, 1), (1, 1)))):
        graph = graph_of(
            [tensor(2, 5, 4, channels, dtype=u8), tensor(3, 2, channels, 33, dtype=i8)],
            lambda x, w, padding=padding: Conv(x, w, LAST, padding=padding, accumulate=i32),
        )
        kernel = gemm_only(graph, "avx512+vnni+bf16")
        # Words would reach over the end of a row of three channels.
        assert ("dot4_u8i8" in instructions(kernel)) == (channels == 4)
        check(graph, targets=VNNI)


@pytest.mark.parametrize(("k", "turned"), [(40, ""), (40, "x"), (40, "y"), (40, "xy"), (23, ""), (23, "y"), (2100, "")])
def test_bf16_pairs(k: int, turned: str) -> None:
    """Sums in f32 of exact products, in one order on every target: the same bits with and without the instruction."""
    m, n = (20, 40) if k < 100 else (5, 17)
    graph = product(m, k, n, bf16, turned)
    assert "dot2_bf16" in instructions(gemm_only(graph, "avx512+vnni+bf16"))
    check(graph, targets=WORDS)
    wide = product(m, k, n, bf16, turned, accumulate=f32)
    rng = np.random.default_rng(0)
    args = [rng.standard_normal(p.shape).astype(p.dtype.numpy) for p in wide.params]
    found = []
    for target in WORDS.values():
        definition = KernelDef("kernel", wide, (), choose.workspace(wide, target))
        kernel = choose.kernel(definition, target)
        written, _ = run_loops(kernel, bind(kernel, args, {}), {}, isa.meanings())
        found.append(results_of(definition, kernel, written)[0])
    assert all(np.array_equal(each.view(np.uint32), found[0].view(np.uint32)) for each in found)
