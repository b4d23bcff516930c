"""Fused maps: values on every model target, tails included, and the promises about their loops."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_cases import check, graph_of, tensor, two_threads

from treadle.codegen.cpus import MODELS
from treadle.codegen.kernels import choose
from treadle.ir.dims import symbol
from treadle.ir.dtypes import DTYPES, bf16, bool_, f16, f32, f64, i8, i32, u8
from treadle.ir.errors import TreadleError
from treadle.ir.loops.build import all_exprs, walk
from treadle.ir.loops.nodes import For, Load
from treadle.ir.ops.elementwise import Convert, Maximum, Pow, Select
from treadle.ir.ops.movement import Broadcast, Concatenate, Iota, Pad, Reshape, Reverse, Slice, Transpose
from treadle.ir.program import KernelDef
from treadle.ir.value import Constant, DimSize, Full, Gt, Lt


# Around every multiple of a vector and of a round of vectors there is a different mixture of main loop and tail.
@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 8, 15, 16, 17, 33, 63, 64, 65, 130, 1000])
def test_every_tail(n: int) -> None:
    check(graph_of([tensor(n), tensor(n)], lambda x, y: (x * 2.0 + y, x - y)))


# The same with the size known only at run time: one kernel serves them all.
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 64, 1234, 40000])
def test_sizes_at_run_time(n: int) -> None:
    check(graph_of([tensor("N"), tensor("N")], lambda x, y: x * 2.0 + y), sizes={"N": n})


# Each dtype has its own width, and half floats are widened between load and store.
@pytest.mark.parametrize("dtype", [d for d in DTYPES if d.kind in ("int", "uint", "float")], ids=str)
def test_every_dtype(dtype: object) -> None:
    given = tensor(100, dtype=dtype)  # type: ignore[arg-type]
    check(graph_of([given, given], lambda x, y: (x * y + x, Gt(x, y))))


# A row added to every row: the inner axis is vectorized, the outer one stays.
def test_broadcast_row() -> None:
    check(graph_of([tensor(40, 83), tensor(83)], lambda x, b: x + Broadcast(b, (40, 83), (1,))))


# A column added to every column is a scalar per row.
def test_broadcast_column() -> None:
    check(graph_of([tensor(7, 83), tensor(7)], lambda x, b: x + Broadcast(b, (7, 83), (0,))))


# Movement is arithmetic on positions: no intermediate array, whatever the chain.
MOVES = {
    "transpose": ([tensor(37, 50)], lambda x: Transpose(x, (1, 0)) + 1.0),
    "reverse": ([tensor(37, 50)], lambda x: Reverse(x, (1,))),
    "slice": ([tensor(37, 50)], lambda x: Slice(x, (1, 3), (30, 50), (2, 3))),
    "reshape": ([tensor(6, 4, 5)], lambda x: Reshape(x, (24, 5)) + 1.0),
    "reshape of transpose": ([tensor(6, 20)], lambda x: Reshape(Transpose(x, (1, 0)), (120,))),
    "iota": ([tensor(6, 20)], lambda x: x + Iota(tensor(6, 20), 1)),
    "pad": ([tensor(5, 9)], lambda x: Pad(x * x, Full(1.5, tensor()), (1, 2), (3, 4), (0, 0)) + 1.0),
    "crop": ([tensor(5, 9)], lambda x: Pad(x, Full(1.5, tensor()), (-1, 2), (3, -4), (0, 0))),
    "pad between": ([tensor(5, 9)], lambda x: Pad(x, Full(1.5, tensor()), (1, 2), (3, 4), (1, 2))),
    "pad with a value": ([tensor(5, 9), tensor()], lambda x, v: Pad(x, v, (1, 2), (3, 4), (0, 0))),
    "concatenate": ([tensor(5, 9), tensor(5, 20)], lambda x, y: Concatenate((x, y), 1) * 2.0),
    "concatenate rows": ([tensor(5, 9), tensor(3, 9)], lambda x, y: Concatenate((x, y), 0) * 2.0),
    "constant": ([tensor(4, 3)], lambda x: x + Constant(np.arange(12, dtype=np.float32).reshape(4, 3))),
    "constant of one number": ([tensor(4, 3)], lambda x: x * Constant(np.full((4, 3), 2, np.float32))),
    "nothing but a constant": ([], lambda: Full(3.0, tensor(5))),
    "an operand as it is": ([tensor(5)], lambda x: (x, x + 1.0)),
}


@pytest.mark.parametrize("name", MOVES)
def test_movement(name: str) -> None:
    check(graph_of(*MOVES[name]))


# Lines of an operand across the results are read in tiles; sizes that tiles do not fill have two edges.
@pytest.mark.parametrize("a, b", [(8, 8), (7, 100), (100, 7), (24, 40), (37, 50)])
def test_transposes(a: int, b: int) -> None:
    check(graph_of([tensor(a, b), tensor(b, a)], lambda x, y: Transpose(x, (1, 0)) * y))
    check(graph_of([tensor(2, "A", "B")], lambda x: Transpose(x, (0, 2, 1))), sizes={"A": a, "B": b})


# An axis that a reshape joined is cut again where its parts lie apart: what is left are plain strides.
@pytest.mark.parametrize("given", [(2, 12, 10, 64), (2, 12, "S", 64)])
def test_reshapes_of_transposes(given: tuple[int | str, ...]) -> None:
    steps = symbol("S") if "S" in given else 10
    graph = graph_of([tensor(*given)], lambda x: Reshape(Transpose(x, (0, 2, 1, 3)), (2, steps, 768)))
    kernels = check(graph, sizes={"S": 10} if "S" in given else {})
    loads = [x for x in all_exprs(kernels["avx512"].body) if isinstance(x, Load)]
    assert loads and not any("//" in str(dim) for x in loads for dim in x.index)


# Padding with sizes known at run time is cut into parts whose bounds are symbolic.
def test_cut_at_symbolic_sizes() -> None:
    padded = graph_of([tensor("B", "N")], lambda x: Pad(x, Full(1.5, tensor()), (1, 2), (3, 4), (0, 0)))
    check(padded, sizes={"B": 3, "N": 40})
    check(graph_of([tensor("A", 9), tensor("B", 9)], lambda x, y: Concatenate((x, y), 0)), sizes={"A": 4, "B": 7})


# Cut parts have no conditions left: a padded copy is as fast as a copy.
def test_padding_leaves_no_conditions() -> None:
    graph = graph_of([tensor(30, 30)], lambda x: Pad(x, Full(0.0, tensor()), (1, 1), (1, 1), (0, 0)))
    kernel = choose.kernel(KernelDef("kernel", graph), MODELS["avx512"])
    assert "if" not in str([type(stmt).__name__.lower() for stmt in walk(kernel.body)])


# Elements of several widths share one vector loop; the widest decides its lanes.
def test_mixed_widths() -> None:
    check(graph_of([tensor(100, dtype=bf16)], lambda x: Convert(x, f64)))
    check(graph_of([tensor(100, dtype=u8)], lambda x: Convert(x, f32) * 0.5))
    check(graph_of([tensor(100, dtype=bool_), tensor(100)], lambda p, x: Select(p, x, x * x)))
    check(graph_of([tensor(100, dtype=f16)], lambda x: Lt(x, x + x)))


# A result over its operand: each element is read before it is written, in main loop and tail.
def test_in_place() -> None:
    graph = graph_of([tensor(300), tensor(300)], lambda x, y: (x * y + x, x - y))
    check(graph, updates=((0, 0), (1, 1)))
    check(graph, updates=((1, 0),))


# An operand that is read at other positions than it is written to cannot be overwritten; that is said, not done.
def test_in_place_that_would_be_wrong() -> None:
    graph = graph_of([tensor(300)], lambda x: Reverse(x, (0,)))
    with pytest.raises(TreadleError) as error:
        choose.kernel(KernelDef("kernel", graph, ((0, 0),)), MODELS["avx512"])
    assert error.value.code == "TD0433"


# Contiguous axes become one, so the rest is paid for once and not per row.
def test_contiguous_axes_are_one_loop() -> None:
    graph = graph_of([tensor(6, 7, 3), tensor(6, 7, 3)], lambda x, y: x + y)
    kernel = choose.kernel(KernelDef("kernel", graph), MODELS["avx512"])
    assert len({stmt.var for stmt in walk(kernel.body) if isinstance(stmt, For) and stmt.kind == "vector"}) == 1
    check(graph)


# Sizes enter as numbers; the same kernel serves every batch.
def test_size_as_a_number() -> None:
    batch = symbol("B")
    graph = graph_of([tensor("B", 3)], lambda x: x / Broadcast(Convert(DimSize(batch), f32), (batch, 3), ()))
    check(graph, sizes={"B": 5})


# Pieces of a big array may run on any thread: what is written is the same.
def test_two_threads() -> None:
    context = two_threads()
    check(graph_of([tensor(300, 784), tensor(784)], lambda x, b: x * Broadcast(b, (300, 784), (1,))), context=context)
    check(graph_of([tensor("N"), tensor("N")], lambda x, y: x * y), sizes={"N": 100_003}, context=context)


# A failing element fails the kernel at the site of its op, whether it stands in the main loop or in the tail.
@pytest.mark.parametrize("place", [None, 0, 50, 99])
def test_failure(place: int | None) -> None:
    graph = graph_of([tensor(100, dtype=i32), tensor(100, dtype=i32)], lambda x, y: Pow(x, y))
    x, y = np.full(100, 3, np.int32), np.full(100, 2, np.int32)
    if place is None:
        check(graph, x, y)
        return
    y[place] = -1
    kernel = choose.kernel(KernelDef("kernel", graph), MODELS["avx512"])
    from native import RUNNABLE, Compiled, check_against_evaluator

    bound = {"p0": x, "p1": y}
    for name, target in RUNNABLE.items():
        check_against_evaluator(Compiled([choose.kernel(KernelDef(name, graph), target)], target), name, bound, {})
    from treadle.ir.loops.evaluate import evaluate

    _, failure = evaluate(kernel, bound, {})
    assert failure is not None and failure[0] == 1


# Integers wrap in vectors as they do alone.
def test_integers_wrap() -> None:
    x = np.arange(-128, 128, dtype=np.int8)
    check(graph_of([tensor(256, dtype=i8), tensor(256, dtype=i8)], lambda x, y: x * y + x), x, x[::-1].copy())


# NaN, infinities and the zeros survive the masks and the vectors.
def test_special_values() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0] * 7, np.float32)
    check(graph_of([tensor(35), tensor(35)], lambda x, y: (Maximum(x, y), x + y)), x, x[::-1].copy())
