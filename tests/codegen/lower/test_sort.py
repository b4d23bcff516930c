"""Sorts: their order on every kind of element, rows of every length and direction, runs too long for the buffer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from kernel_cases import check, graph_of, tensor

from treadle.codegen.cpus import MODELS
from treadle.codegen.kernels import choose
from treadle.codegen.kernels import sort as kernels
from treadle.ir.dtypes import i32, i64
from treadle.ir.errors import TreadleError
from treadle.ir.loops.build import walk
from treadle.ir.loops.nodes import For
from treadle.ir.ops.indexing import ArgSort, Sort, TopK
from treadle.ir.program import KernelDef
from treadle.ir.value import Full, Get, Value

AVX2 = {"avx2": MODELS["avx2"]}


def both(x: Value, y: Value, descending: bool = False, keys: int = 1) -> tuple[Value, ...]:
    found = Sort((x, y), 0, keys, descending)
    return Get(found, 0), Get(found, 1)


def arrangements(n: int) -> dict[str, np.ndarray]:
    """What sorts are good and bad at; with repeated elements, whose order is told by what is carried along."""
    rng = np.random.default_rng(n)
    return {
        "random": rng.integers(0, max(n // 3, 1), n),
        "ascending": np.arange(n) // 2,
        "descending": np.arange(n)[::-1] // 2,
        "equal": np.zeros(n),
        "front behind": np.roll(np.arange(n), n // 2),
        "saw": np.arange(n) % 7,
    }


# Around the ends of runs, and of pairs of runs, where one of a pair is short or missing.
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("n", [0, 1, 2, 15, 16, 17, 32, 33, 48, 49, 97])
def test_every_length(n: int, descending: bool) -> None:
    graph = graph_of([tensor("N"), tensor("N", dtype=i32)], lambda x, y: both(x, y, descending))
    for x in arrangements(n).values():
        check(graph, x.astype(np.float32), np.arange(n, dtype=np.int32), sizes={"N": n}, targets=AVX2, native=n > 15)


# A left run longer than the buffer is cut, at any place and in either run, and order stays what it was.
@pytest.mark.parametrize("name", list(arrangements(1)))
def test_runs_longer_than_the_buffer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "BUFFER_BYTES", 12 * 5)
    for n in (50, 200):
        x = arrangements(n)[name].astype(np.float32)
        graph = graph_of([tensor(n), tensor(n, dtype=i64)], both)
        check(graph, x, np.arange(n), targets=AVX2)
        check(graph_of([tensor(n)], lambda x: ArgSort(x, 0)), x, targets=AVX2)


# Rows much longer than the buffer of an ordinary kernel.
def test_long_row() -> None:
    rng = np.random.default_rng(0)
    n = 40000
    from native import Compiled

    kernel = choose.kernel(KernelDef("kernel", graph_of([tensor(n), tensor(n, dtype=i64)], both)), MODELS["avx2"])
    for x in (rng.integers(0, 1000, n), np.roll(np.arange(n), 20001), np.arange(n) % 5):
        found, _ = Compiled([kernel], MODELS["avx2"])("kernel", {"p0": x.astype(np.float32), "p1": np.arange(n)}, {})
        order = np.argsort(x, kind="stable")
        np.testing.assert_array_equal(found["o0"], x[order])
        np.testing.assert_array_equal(found["o1"], order)


# Each row is a sort of its own, along any axis; many rows go to threads.
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_axes(axis: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, (5, 20, 6)).astype(np.float32)
    for make in CASES.values():
        check(graph_of([tensor(5, 20, 6)], lambda x, make=make: make(x, axis)), x, targets=AVX2)


def several(found: Value) -> tuple[Value, ...]:
    return Get(found, 0), Get(found, 1)


CASES: dict[str, Callable[[Value, int], Value | tuple[Value, ...]]] = {
    "sort": lambda x, axis: several(Sort((x, x * 2.0), axis)),
    "sort down": lambda x, axis: several(Sort((x, x * 2.0), axis, 1, True)),
    "arg_sort": lambda x, axis: ArgSort(x, axis),
    "arg_sort down": lambda x, axis: ArgSort(x, axis, True),
    "top_k": lambda x, axis: several(TopK(x, 3, axis)),
    "least": lambda x, axis: several(TopK(x, 4, axis, False)),
}


# Maps before a sort are computed where it reads.
@pytest.mark.parametrize("name", CASES)
def test_maps_before(name: str) -> None:
    graph = graph_of([tensor(3, 40)], lambda x: CASES[name](x * x - Full(1.0, tensor(3, 40)), 1))
    kernel = check(graph, np.random.default_rng(0).integers(-4, 4, (3, 40)).astype(np.float32))["avx512"]
    assert len(kernel.params) == 1 + len(graph.results)


# The first k of every count, ties and NaN included; none; all.
@pytest.mark.parametrize("k", [0, 1, 2, 3, 7, 29, 30])
def test_first(k: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, 30).astype(np.float32)
    x[[3, 20]] = np.nan
    for largest in (True, False):
        check(graph_of([tensor(30)], lambda x, way=largest: several(TopK(x, k, 0, way))), x, targets=AVX2)


# An operand may be sorted in its own memory; one that is also looked at may not.
def test_in_place() -> None:
    rng = np.random.default_rng(0)
    graph = graph_of([tensor(50), tensor(50, dtype=i32)], both)
    x = rng.integers(0, 20, 50).astype(np.float32)
    check(graph, x, np.arange(50, dtype=np.int32), updates=((0, 0), (1, 1)))
    for build in (lambda x: several(Sort((x, x), 0)), lambda x: several(Sort((x * 2.0, x), 0))):
        with pytest.raises(TreadleError) as error:
            choose.kernel(KernelDef("kernel", graph_of([tensor(50)], build), ((0, 0),)), MODELS["avx512"])
        assert error.value.code == "TD0433"


# Long rows are worth a thread each.
def test_rows_in_parallel() -> None:
    kernel = choose.kernel(KernelDef("kernel", graph_of([tensor(9, 20000)], lambda x: ArgSort(x, 1))), MODELS["avx512"])
    (loop,) = kernel.body
    assert isinstance(loop, For) and loop.kind == "parallel"
    assert not any(isinstance(stmt, For) and stmt.kind == "parallel" for stmt in walk(loop.body))
