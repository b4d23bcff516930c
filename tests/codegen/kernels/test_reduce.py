"""Reductions: every orientation and tail on every model target; the promised error; the fixed order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from kernel_cases import bind, check, graph_of, results_of, sample, tensor, two_threads
from native import RUNNABLE, Compiled

from treadle.codegen import isa
from treadle.codegen.cpus import MODELS
from treadle.codegen.kernels import choose
from treadle.ir.dims import DimName
from treadle.ir.dtypes import DTYPES, bf16, f16, f64, i8, i32
from treadle.ir.loops.evaluate import evaluate as run_loops
from treadle.ir.loops.parse import parse_kernel
from treadle.ir.loops.text import show
from treadle.ir.ops.contract import Dot, ReduceWindow
from treadle.ir.ops.elementwise import Gt
from treadle.ir.ops.movement import Broadcast, Transpose
from treadle.ir.ops.reduce import All, Any, ArgMax, ArgMin, CumMax, CumSum, LinearRecurrence, Max, Min, Prod, Sum
from treadle.ir.program import KernelDef
from treadle.ir.value import Value, lift

# Which axes are summed decides what the lanes are: pieces of a row, or neighbouring rows.
SPACES = {
    "rows": ((5, 100), (1,)),
    "short rows": ((5, 10), (1,)),
    "rows of one": ((5, 1), (1,)),
    "columns": ((5, 100), (0,)),
    "long columns": ((300, 70), (0,)),
    "middle": ((3, 5, 20), (1,)),
    "outside and inside": ((3, 5, 20), (0, 2)),
    "all but channels": ((3, 5, 4, 7), (0, 2, 3)),
    "all but the last": ((30, 5, 4, 7), (0, 1, 2)),
    "everything": ((6, 50), (0, 1)),
    "nothing": ((6, 50), ()),
    "no elements": ((6, 0), (1,)),
    "no rows": ((0, 6), (1,)),
    "a scalar": ((), ()),
}


@pytest.mark.parametrize("name", SPACES)
def test_sums(name: str) -> None:
    shape, axes = SPACES[name]
    check(graph_of([tensor(*shape)], lambda x: Sum(x * x, axes)))


# Around a vector, a round of vectors, and a block of rounds there is a different mixture of loops.
@pytest.mark.parametrize("n", [1, 15, 16, 17, 63, 64, 65, 4095, 4096, 4097, 9000])
def test_lengths(n: int) -> None:
    check(graph_of([tensor(n)], lambda x: Sum(x, (0,))))
    check(graph_of([tensor(2, "N")], lambda x: Sum(x, (1,))), sizes={"N": n}, targets={"avx512": MODELS["avx512"]})


# Sizes at run time, in every place where they can stand.
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_sizes_at_run_time(axes: tuple[int, ...]) -> None:
    check(graph_of([tensor("A", "B")], lambda x: Sum(x, axes)), sizes={"A": 300, "B": 45})


# Every monoid finds its identity, its step and its merge; extremes keep the first of equals and NaN.
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("op", [Sum, Prod, Max, Min, ArgMax, ArgMin])
def test_monoids(op: type[Value], axis: int) -> None:
    def build(x: Value) -> Value:
        return op(x, axis) if op in (ArgMax, ArgMin) else op(x, (axis,))

    check(graph_of([tensor(40, 100)], build), ulp=512)
    rng = np.random.default_rng(1)
    check(graph_of([tensor(40, 100)], build), rng.integers(0, 3, (40, 100)).astype(np.float32), ulp=4096)
    x = rng.standard_normal((40, 100)).astype(np.float32)
    x[::3, ::7] = np.nan
    x[::2, 5] = np.inf
    check(graph_of([tensor(40, 100)], build), x, ulp=512)


# Half floats accumulate in f32, integers wrap in their own type, bools are joined by bits.
@pytest.mark.parametrize("dtype", [d for d in DTYPES if d.kind in ("int", "uint", "float")], ids=str)
def test_dtypes(dtype: object) -> None:
    given = tensor(5, 70, dtype=dtype)  # type: ignore[arg-type]
    check(graph_of([given], lambda x: (Sum(x, (1,)), Max(x, (1,)))))
    check(graph_of([given], lambda x: Sum(x, (0,))))


def test_any_and_all() -> None:
    check(graph_of([tensor(40, 30)], lambda x: (Any(Gt(x, lift(4.0, x)), (1,)), All(Gt(x, lift(-6.0, x)), (1,)))))


# Maps before and after, and several reductions of one array, in one pass.
def test_fused_with_maps() -> None:
    graph = graph_of(
        [tensor(6, 100), tensor(100), tensor(6)],
        lambda x, w, b: (Sum(x * Broadcast(w, (6, 100), (1,)), (1,)) + b, Sum(x * x, (1,)) * 0.01, Max(x, (1,))),
    )
    check(graph)


# Reading along the other axis of a transposed operand is right, if not fast.
def test_transposed_operand() -> None:
    check(graph_of([tensor(30, 40)], lambda x: Sum(Transpose(x, (1, 0)), (1,))))


# The promised bound, with numbers of one sign and with numbers that cancel; 1 and 2 pieces of a row differ in nothing.
@pytest.mark.parametrize("n", [100, 1000, 5000, 100_000])
def test_error_of_sums(n: int) -> None:
    rng = np.random.default_rng(n)
    unit = 2.0**-24
    for x in (rng.random(n), rng.standard_normal(n), rng.standard_normal(n) * 10.0 ** rng.integers(-6, 6, n)):
        given = x.astype(np.float32)
        graph = graph_of([tensor(n)], lambda v: Sum(v, (0,)))
        definition = KernelDef("kernel", graph)
        kernel = choose.kernel(definition, MODELS["avx512"])
        if "avx512" in RUNNABLE:
            written, _ = Compiled([kernel], MODELS["avx512"])("kernel", bind(kernel, [given], {}), {})
        else:
            written, _ = run_loops(kernel, bind(kernel, [given], {}), {}, isa.meanings())
        found = float(results_of(definition, kernel, written)[0].reshape(()))
        wide = given.astype(np.float64)
        bound = (max(math.ceil(math.log2(n / 128)), 0) + 128) * unit * np.abs(wide).sum()
        assert abs(found - math.fsum(wide)) <= bound


# A few long rows are cut into pieces by their length; two threads give the same bits as one.
@pytest.mark.parametrize("given, size", [((2, 20_000), 0), (("N",), 40_001), (("N",), 7), (("N",), 0)])
def test_pieces_for_threads(given: tuple[int | str, ...], size: int) -> None:
    axis = len(given) - 1
    graph = graph_of([tensor(*given)], lambda x: (Sum(x, (axis,)) * 0.5, ArgMax(x, axis)))
    sizes = {"N": size} if "N" in given else {}
    check(graph, sizes=sizes, ulp=1 << 16, targets={"avx512": MODELS["avx512"]})
    if "avx512" in RUNNABLE:
        kernel = choose.kernel(KernelDef("kernel", graph), MODELS["avx512"])
        x = sample(graph.params[0].given, sizes, np.random.default_rng(5))
        compiled = Compiled([kernel], MODELS["avx512"])
        alone, _ = compiled("kernel", bind(kernel, [x], sizes), sizes)
        shared, _ = compiled("kernel", bind(kernel, [x], sizes), sizes, two_threads())
        for name, array in alone.items():
            np.testing.assert_array_equal(array, shared[name])


# One order of summation on every target: the same bits from AVX2, AVX-512, NEON and plain 128-bit vectors.
@pytest.mark.parametrize("shape, axes", [((3, 5000), (1,)), ((700, 40), (0,)), ((20, 33), (0, 1))])
def test_targets_agree(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    graph = graph_of([tensor(*shape)], lambda x: Sum(x, axes))
    definition = KernelDef("kernel", graph)
    x = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    found = []
    for target in MODELS.values():
        kernel = choose.kernel(definition, target)
        written, _ = run_loops(kernel, bind(kernel, [x], {}), {}, isa.meanings())
        found.append(results_of(definition, kernel, written)[0])
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


# The identity of a sum is 0, so a sum of negative zeros is 0, as in the specification.
def test_sum_of_negative_zeros() -> None:
    check(graph_of([tensor(3, 20)], lambda x: Sum(x, (1,))), np.full((3, 20), -0.0, np.float32))


# A sum may overwrite an operand of its own shape: it is read before the rows' ends are written.
def test_in_place() -> None:
    check(graph_of([tensor(6), tensor(6, 50)], lambda x, y: x + Sum(y, (1,))), updates=((0, 0),))


# Windows: the axis of channels is the lanes where it is innermost; padding is read under a mask.
@pytest.mark.parametrize("kind", ["max", "sum"])
def test_windows(kind: str) -> None:
    def pool(x: Value) -> Value:
        return ReduceWindow(x, kind, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))  # type: ignore[arg-type]

    check(graph_of([tensor(2, 9, 9, 20)], pool))
    check(graph_of([tensor("B", 9, 9, 5)], pool), sizes={"B": 3})
    check(
        graph_of(
            [tensor(2, 3, 9, 20)],
            lambda x: ReduceWindow(x, kind, (1, 1, 3, 3), (1, 1, 2, 2), ((0, 0), (0, 0), (1, 1), (1, 1))),  # type: ignore[arg-type]
        )
    )


# A product of matrices is a reduction too; whichever operand has the contracted axis innermost.
def test_products() -> None:
    check(graph_of([tensor(7, 30), tensor(30, 50)], lambda x, y: Dot(x, y, (), (), (1,), (0,))), native=False)
    check(graph_of([tensor(7, 30), tensor(50, 30)], lambda x, y: Dot(x, y, (), (), (1,), (1,)) + 1.0), native=False)


# Prefixes along every axis, forwards and backwards, with the maps around them.
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_prefixes(axis: int) -> None:
    check(graph_of([tensor(5, 30, 7)], lambda x: CumSum(x * x, axis) + 1.0))
    check(graph_of([tensor(5, 30, 7)], lambda x: CumMax(x, axis, True)))
    check(graph_of([tensor("A", "B", 7)], lambda x: CumSum(x, axis)), sizes={"A": 4, "B": 20})


def test_recurrence() -> None:
    check(graph_of([tensor(50, 37), tensor(50, 37)], lambda a, b: LinearRecurrence(a * 0.1, b, 0)))
    for dtype in (f16, bf16, f64, i8, i32):
        check(graph_of([tensor(50, 20, dtype=dtype)], lambda x: CumSum(x, 0)))


# A promise about a size is used: a row of known greatest length needs no blocks. (The result is the same either way.)
def test_promised_sizes() -> None:
    graph = graph_of([tensor("B", "N")], lambda x: Sum(x, (1,)), N=DimName("N", 1, 512))
    check(graph, sizes={"B": 3, "N": 500})


# Asking memory beforehand changes no bit, wherever a row begins and ends. What fits the caches is not asked for.
@pytest.mark.parametrize("name", RUNNABLE)
@pytest.mark.parametrize("shape, axes", [((7, 1000), (1,)), ((3, 4096), (1,)), ((2, 9000), (0, 1)), ((5000,), (0,))])
def test_large_sums_are_prefetched(name: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    target = RUNNABLE[name]
    definition = KernelDef("sums", graph_of([tensor(*shape)], lambda x: Sum(x * x, axes)))
    given = sample(definition.graph.params[0].given, {}, np.random.default_rng(1))
    results = []
    for each, asks in ((target, False), (replace(target, l3_bytes=1 << 12), True)):
        kernel = choose.kernel(definition, each)
        assert ("in prefetched(" in show(kernel)) is asks and parse_kernel(show(kernel)) == kernel
        written, _ = Compiled([kernel], each)("sums", bind(kernel, [given], {}), {})
        results += results_of(definition, kernel, written)
    np.testing.assert_array_equal(*results)
    assert math.isclose(results[0].sum(dtype=float), (given.astype(float) ** 2).sum(), rel_tol=1e-5)


@pytest.mark.parametrize(
    "made",
    [lambda x: Max(x, (1,)), lambda x: ArgMax(x, 1), lambda x: Sum(x * Broadcast(Sum(x, (1,)), (7, 1000), (0,)), (1,))],
)
def test_other_reductions_are_not_prefetched(made: Callable[[Value], Value]) -> None:
    target = replace(MODELS["avx512"], l3_bytes=1 << 12)
    kernel = choose.kernel(KernelDef("sums", graph_of([tensor(7, 1000)], made)), target)
    assert "in prefetched(" not in show(kernel)
