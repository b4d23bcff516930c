"""Small products: their chains of sums, their lanes, and results that overwrite an operand.

The oracles are NumPy, the naive nest, and the loops of every model target for each other: they round alike."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_cases import bind, check, graph_of, results_of, run_loops, tensor

import treadle as td
from treadle.codegen import isa
from treadle.codegen.cpus import MODELS
from treadle.codegen.kernels import choose, small_product
from treadle.ir.dtypes import DType, f32, f64
from treadle.ir.errors import Unsupported
from treadle.ir.graph import Graph
from treadle.ir.ops.contract import Dot
from treadle.ir.ops.elementwise import Tanh
from treadle.ir.ops.movement import Reverse
from treadle.ir.program import KernelDef
from treadle.ir.value import Add, Value

TARGET = MODELS["avx512"]


def product(m: int, k: int, n: int, dtype: DType = f32) -> Graph:
    """tanh(x w + b) on one row for m = 0."""
    rows = (m,) if m else ()

    def build(x: Value, w: Value, b: Value) -> Value:
        return Tanh(Add(Dot(x, w, (), (), (len(rows),), (0,)), b))

    return graph_of([tensor(*rows, k, dtype=dtype), tensor(k, n, dtype=dtype), tensor(*rows, n, dtype=dtype)], build)


# One row and several; fewer columns than a vector has lanes, whole vectors and ragged ones; chains that do not divide
# the contracted axis; one element; sums too many for the registers of the smaller targets.
@pytest.mark.parametrize(
    ("m", "k", "n"), [(0, 32, 32), (0, 9, 16), (0, 40, 100), (4, 4, 4), (3, 7, 5), (2, 2, 2), (8, 16, 16), (0, 1, 3)]
)
def test_products(m: int, k: int, n: int) -> None:
    graph = product(m, k, n)
    assert small_product.takes(graph, TARGET)
    check(graph)


def test_double_precision() -> None:
    graph = product(0, 16, 24, f64)
    assert small_product.takes(graph, TARGET)
    check(graph)


# A matrix times a vector whose matrix lies across the lanes, and large products, are other kernels' work.
@pytest.mark.parametrize(
    "graph",
    [
        graph_of([tensor(8, 8), tensor(8)], lambda w, x: Dot(w, x, (), (), (1,), (0,))),
        product(16, 16, 16),
        product(0, 4096, 16),
    ],
    ids=["across", "large", "deep"],
)
def test_left_alone(graph: Graph) -> None:
    assert not small_product.takes(graph, TARGET)


# All sums are made before the first result is stored: the vector may be overwritten, as a carry is.
def test_a_result_overwrites_the_vector() -> None:
    graph = product(0, 32, 32)
    check(graph, updates=((0, 0),), targets={"avx512": TARGET})
    with pytest.raises(Unsupported) as error:
        # 16 registers hold half of the sums.
        choose.kernel(KernelDef("kernel", graph, ((0, 0),)), MODELS["avx2"])
    assert error.value.code == "TD0433"


# What the maps after it read elsewhere than where they store is not overwritten.
def test_an_operand_read_elsewhere_is_kept() -> None:
    def build(x: Value, w: Value) -> Value:
        return Add(Dot(x, w, (), (), (0,), (0,)), Reverse(x, (0,)))

    graph = graph_of([tensor(32), tensor(32, 32)], build)
    check(graph)
    with pytest.raises(Unsupported) as error:
        choose.kernel(KernelDef("kernel", graph, ((0, 0),)), TARGET)
    assert error.value.code == "TD0433"


# A row's result does not depend on how many rows there are, known beforehand or not.
def test_rows_are_alike() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((64, 40)).astype("f4"), rng.standard_normal((40, 16)).astype("f4")
    f = td.jit(lambda x, w: x @ w)
    whole, open_ = f(x, w), f.compile(td.ShapeDtype(("n", 40), "float32"), w)
    for rows in (1, 2, 5):
        np.testing.assert_array_equal(f(x[:rows], w), whole[:rows])
        np.testing.assert_array_equal(open_(x[:rows], w), whole[:rows])


# Every target with a fused multiply-add sums in the same order: the same bits.
def test_targets_agree() -> None:
    graph = product(0, 33, 20)
    rng = np.random.default_rng(0)
    args = [rng.standard_normal(kind.shape).astype("f4") for kind in graph.param_types]
    found = []
    for name, kernel in check(graph, *args).items():
        if MODELS[name].has("fma"):
            written, _ = run_loops(kernel, bind(kernel, args, {}), {}, isa.meanings())
            found.append(results_of(KernelDef("kernel", graph), kernel, written)[0])
    assert len(found) > 2
    for each in found:
        np.testing.assert_array_equal(each, found[0])
