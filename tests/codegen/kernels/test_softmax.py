"""Programs over rows: reductions, maps back over the rows, again reductions, in one kernel."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_cases import check, graph_of, tensor

from treadle.codegen.cpus import MODELS
from treadle.codegen.kernels import choose
from treadle.codegen.kernels.rows import plan
from treadle.ir.dtypes import bf16, f16, f64
from treadle.ir.errors import TreadleError
from treadle.ir.ops.elementwise import Exp, Log, Sqrt
from treadle.ir.ops.movement import Broadcast, Reshape, Reverse, Transpose
from treadle.ir.ops.reduce import Max, Sum
from treadle.ir.program import KernelDef
from treadle.ir.value import Value

# Where values are dear to evaluate: all that differs between targets differs between these.
TWO = {name: MODELS[name] for name in ("generic", "avx512")}


def over(x: Value, like: Value, axis: int) -> Value:
    """A number per row, back over the rows."""
    return Broadcast(x, like.shape, tuple(i for i in range(like.rank) if i != axis))


def softmax(x: Value, axis: int) -> Value:
    e = Exp(x - over(Max(x, (axis,)), x, axis))
    return e / over(Sum(e, (axis,)), x, axis)


def log_softmax(x: Value, axis: int) -> Value:
    shifted = x - over(Max(x, (axis,)), x, axis)
    return shifted - over(Log(Sum(Exp(shifted), (axis,))), x, axis)


def layer_norm(x: Value, axis: int, n: int) -> Value:
    centered = x - over(Sum(x, (axis,)) * (1 / n), x, axis)
    variance = Sum(centered * centered, (axis,)) * (1 / n)
    return centered / over(Sqrt(variance + 1e-5), x, axis)


# Short rows are written out, longer ones run in rounds, the longest in blocks.
@pytest.mark.parametrize("n", [1, 5, 16, 40, 100, 128, 129, 1000, 9000])
def test_row_lengths(n: int) -> None:
    targets = MODELS if n <= 129 else TWO
    check(graph_of([tensor(3, n)], lambda x: layer_norm(x, 1, n)), ulp=2048, targets=targets)
    if n <= 1000:
        check(graph_of([tensor(3, n)], lambda x: softmax(x, 1)), ulp=2048, targets=targets)


# Along any axis: where it is not the innermost, neighbouring rows are the lanes.
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_axes(axis: int) -> None:
    check(graph_of([tensor(5, 12, 40)], lambda x: softmax(x, axis)), ulp=1024, targets=TWO)
    check(graph_of([tensor(5, 12, 40)], lambda x: log_softmax(x, axis)), ulp=1024, targets=TWO)
    check(graph_of([tensor(5, 12, 40)], lambda x: layer_norm(x, axis, (5, 12, 40)[axis])), ulp=1024)


@pytest.mark.parametrize("dtype", [f16, bf16, f64], ids=str)
def test_dtypes(dtype: object) -> None:
    given = tensor(4, 50, dtype=dtype)  # type: ignore[arg-type]
    check(graph_of([given], lambda x: layer_norm(x, 1, 50)), ulp=1024)
    check(graph_of([given], lambda x: layer_norm(x, 0, 4)), ulp=1024)


def test_sizes_at_run_time() -> None:
    softmaxes = [graph_of([tensor("B", "N")], lambda x, axis=axis: softmax(x, axis)) for axis in (0, 1)]
    for rows, length in ((3, 45), (1, 300), (0, 7)):
        check(softmaxes[1], sizes={"B": rows, "N": length}, ulp=1024, targets=TWO)
        check(softmaxes[0], sizes={"B": length, "N": rows}, ulp=1024, targets=TWO)
    long = graph_of([tensor("B", "N")], lambda x: layer_norm(x, 1, 5000))
    check(long, sizes={"B": 2, "N": 5000}, ulp=1024, targets=TWO)


# Whole rows and numbers per row may both be results, in any order.
def test_several_results() -> None:
    def build(x: Value, y: Value) -> tuple[Value, ...]:
        mean = Sum(x, (1,)) * 0.02
        centered = x - over(mean, x, 1)
        return x * y, mean, centered * y, Sum(centered * y, (1,))

    check(graph_of([tensor(6, 50), tensor(6, 50)], build), ulp=1024)


# Axes of size 1 are no axes: keeping them changes shapes, not the program.
def test_kept_axes() -> None:
    def build(x: Value) -> Value:
        total = Reshape(Sum(x, (1,)), (6, 1))
        return x / Broadcast(Reshape(total, (6,)), (6, 50), (0,))

    check(graph_of([tensor(6, 50)], build), ulp=4096)


# The row may be overwritten by what is made of it, once its last reader is done.
def test_in_place() -> None:
    check(graph_of([tensor(6, 50)], lambda x: layer_norm(x, 1, 50)), updates=((0, 0),), ulp=1024)
    check(graph_of([tensor(6, 500)], lambda x: softmax(x, 1)), updates=((0, 0),), ulp=1024)


def test_in_place_that_would_be_wrong() -> None:
    graph = graph_of([tensor(6, 50)], lambda x: Reverse(x, (0,)) / over(Sum(x, (1,)), x, 1))
    with pytest.raises(TreadleError) as error:
        choose.kernel(KernelDef("kernel", graph, ((0, 0),)), MODELS["avx512"])
    assert error.value.code == "TD0433"


# NaN and infinities stay in their rows.
def test_special_values() -> None:
    x = np.random.default_rng(0).standard_normal((6, 40)).astype(np.float32)
    x[1, 3], x[2, 5], x[3, 7] = np.nan, np.inf, -np.inf
    check(graph_of([tensor(6, 40)], lambda v: softmax(v, 1)), x, ulp=1024)


# What fusion asks: a group is one kernel if every value stands where its row stands.
def test_what_is_a_program() -> None:
    assert plan(graph_of([tensor(6, 50)], lambda x: softmax(x, 1))) is not None
    # Reductions along different axes see different rows.
    assert plan(graph_of([tensor(6, 6)], lambda x: (Sum(x, (0,)), Sum(x, (1,))))) is None
    # A reduced value moved to another row is not at hand there.
    assert plan(graph_of([tensor(6, 6)], lambda x: x - Broadcast(Sum(x, (1,)), (6, 6), (1,)))) is None
    assert plan(graph_of([tensor(6, 50)], lambda x: x - over(Reverse(Sum(x, (1,)), (0,)), x, 1))) is None
    # An operand may be moved as it likes.
    assert plan(graph_of([tensor(50, 6)], lambda x: Sum(Transpose(x, (1, 0)), (1,)))) is not None
