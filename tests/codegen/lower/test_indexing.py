"""Gathers, scatters, dynamic slices and updates, searches: fused with maps, in place, at every size; and what they may
not do.
"""

from __future__ import annotations

import numpy as np
import pytest
from kernel_cases import check, graph_of, tensor

from treadle.codegen.cpus import MODELS
from treadle.codegen.kernels import choose
from treadle.ir.dtypes import DType, bf16, f32, f64, i8, i32, i64, u8, u16, u32, u64
from treadle.ir.errors import TreadleError
from treadle.ir.loops.build import stored, walk
from treadle.ir.loops.nodes import Fail, For, If
from treadle.ir.ops.elementwise import Maximum
from treadle.ir.ops.indexing import DynamicSlice, DynamicUpdate, Gather, Scatter, SearchSorted
from treadle.ir.ops.movement import Broadcast, Pad, Transpose
from treadle.ir.program import KernelDef
from treadle.ir.value import Full, Value


def indices(rng: np.random.Generator, low: int, high: int, *shape: int, dtype: object = np.int64) -> np.ndarray:
    return rng.integers(low, high, shape).astype(dtype)  # type: ignore[call-overload]


def start(*numbers: int) -> list[np.ndarray]:
    return [np.array(number, np.int64) for number in numbers]


# Rows of a table, as an embedding takes them: the index is scalar, the row a vector; around each vector's end.
@pytest.mark.parametrize("width", [1, 3, 16, 17, 130])
def test_rows(width: int) -> None:
    rng = np.random.default_rng(0)
    graph = graph_of([tensor(20, width), tensor(5, 2, dtype=i64)], lambda x, i: Gather(x, (i,), (0,)) * 2.0)
    check(graph, rng.standard_normal((20, width), np.float32), indices(rng, -20, 20, 5, 2))


# Single elements: the index is a vector, whatever its type; narrow ones are computed in narrow lanes.
@pytest.mark.parametrize("dtype", [i8, u8, u16, i32, u32, i64, u64], ids=str)
@pytest.mark.parametrize("mode", ["raise", "clip", "wrap", "fill", "promised"])
def test_elements(dtype: object, mode: str) -> None:
    rng = np.random.default_rng(0)
    for count in (1, 40, 100):
        graph = graph_of(
            [tensor(10), tensor(count, dtype=dtype)],  # type: ignore[arg-type]
            lambda x, i: Gather(x + 1.0, (i,), (0,), mode),  # type: ignore[arg-type]
        )
        check(
            graph,
            rng.standard_normal(10, np.float32),
            indices(rng, 0, 10 if mode in ("raise", "promised") else 120, count, dtype=dtype.numpy),  # type: ignore[attr-defined]
        )


# What a 64-bit index may be at worst, and what does not fit into an i64 at all.
@pytest.mark.parametrize("mode", ["clip", "wrap", "fill", "drop"])
def test_extreme_indices(mode: str) -> None:
    x = np.arange(10, dtype=np.float32)
    for dtype in (i64, u64):
        info = np.iinfo(dtype.numpy)
        wild = np.array([info.min, info.max, info.max - 1, info.max // 2 + 1, 0, 9, 10], dtype.numpy)
        graph = graph_of([tensor(10), tensor(7, dtype=dtype)], lambda x, i: Gather(x, (i,), (0,), mode))  # type: ignore[arg-type]
        check(graph, x, wild)


# Sizes known at run time, none among them: then there is nothing that may be read.
@pytest.mark.parametrize("mode", ["raise", "clip", "wrap", "fill"])
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_symbolic_sizes(mode: str, rows: int) -> None:
    rng = np.random.default_rng(0)
    graph = graph_of([tensor("V", "D"), tensor("B", dtype=i64)], lambda x, i: Gather(x, (i,), (0,), mode))  # type: ignore[arg-type]
    count = 0 if mode == "raise" and rows == 0 else 9
    args = rng.standard_normal((rows, 5), np.float32), indices(rng, -rows, rows or 4, count)
    check(graph, *args, sizes={"V": rows, "D": 5, "B": count})


# Of an axis of no elements every index is outside: that is a failure, not a read.
def test_index_into_nothing_fails() -> None:
    graph = graph_of([tensor("V"), tensor(3, dtype=i64)], lambda x, i: Gather(x, (i,), (0,)))
    failing((0, 0, 0), graph, np.zeros(0, np.float32), np.zeros(3, np.int64), sizes={"V": 0})


def failing(told: tuple[int, int, int], graph: object, *args: np.ndarray, sizes: dict[str, int] | None = None) -> None:
    """Every form of the kernel notes failure site 1, and tells the index, its axis and the size of that."""
    from kernel_cases import bind
    from native import RUNNABLE, Compiled

    from treadle.codegen import isa
    from treadle.codegen.lower.structured import specification
    from treadle.ir.loops.evaluate import evaluate as run_loops

    definition = KernelDef("kernel", graph)  # type: ignore[arg-type]
    dims = sizes or {}
    naive = specification(definition)
    _, failure = run_loops(naive, bind(naive, args, dims), dims, isa.meanings())
    assert failure is not None and (failure[0], failure[2]) == (1, told)
    for name, target in MODELS.items():
        kernel = choose.kernel(definition, target)
        _, failure = run_loops(kernel, bind(kernel, args, dims), dims, isa.meanings())
        assert failure is not None and (failure[0], failure[2]) == (1, told), name
        if name in RUNNABLE:
            _, failure = Compiled([kernel], target)(kernel.name, bind(kernel, args, dims), dims)
            assert failure is not None and (failure[0], failure[2]) == (1, told), name


# One index outside among many is enough, in any lane, main loop and tail; nothing outside is read or written meanwhile.
@pytest.mark.parametrize("place", [0, 37, 99])
@pytest.mark.parametrize("wrong", [10, -11, 2**62])
def test_outside(place: int, wrong: int) -> None:
    where = np.arange(100) % 10
    where[place] = wrong
    x, news = np.arange(10, dtype=np.float32), np.ones(100, np.float32)
    told = (wrong, 0, 10)
    failing(told, graph_of([tensor(10), tensor(100, dtype=i64)], lambda x, i: Gather(x, (i,), (0,))), x, where)
    types = [tensor(10), tensor(100, dtype=i64), tensor(100)]
    scatter = graph_of(types, lambda x, i, u: Scatter(x, (i,), u, (0,), "add"))
    failing(told, scatter, x, where, news)


# Of several indexed axes the first that is left, by the index as it was given: of any width and sign.
@pytest.mark.parametrize(
    ("i", "j", "told"), [(3, 1, (3, 0, 3)), (1, -6, (-6, 2, 5)), (-4, 5, (-4, 0, 3)), (2, 7, (7, 2, 5))]
)
@pytest.mark.parametrize("dtype", [i8, i64])
def test_which_axis_is_left(i: int, j: int, told: tuple[int, int, int], dtype: DType) -> None:
    types = [tensor("V", 2, 5), tensor(9, dtype=dtype), tensor(9, dtype=dtype)]
    graph = graph_of(types, lambda x, i, j: Gather(x, (i, j), (0, 2)))
    at = np.zeros((2, 9), dtype.numpy)
    at[:, 6] = i, j
    failing(told, graph, np.zeros((3, 2, 5), np.float32), *at, sizes={"V": 3})


# Maps fuse into a gather and out of it: nothing is written but the result.
def test_gather_fuses() -> None:
    def build(x: Value, i: Value, b: Value) -> Value:
        rows = Gather(Maximum(Transpose(x, (1, 0)), Full(0.0, tensor(9, 20))), (i * i,), (0,), "wrap")
        return rows * 2.0 + Broadcast(b, (6, 20), (1,))

    rng = np.random.default_rng(0)
    graph = graph_of([tensor(20, 9), tensor(6, dtype=i32), tensor(20)], build)
    args = rng.standard_normal((20, 9), np.float32), indices(rng, -9, 9, 6, dtype=np.int32)
    kernels = check(graph, *args, rng.standard_normal(20, np.float32))
    assert stored(kernels["avx512"].body) == (kernels["avx512"].params[-1].name,)


# A gather from a padded operand: the condition whether a position is inside depends on data and goes down to the load.
def test_gather_from_padding() -> None:
    rng = np.random.default_rng(0)
    graph = graph_of(
        [tensor(5, 30), tensor(12, dtype=i64)],
        lambda x, i: Gather(Pad(x, Full(1.5, tensor()), (1, 2), (3, 4), (0, 0)), (i,), (0,)),
    )
    check(graph, rng.standard_normal((5, 30), np.float32), indices(rng, -9, 9, 12))
    # And padding around a gather: where it is outside, no index is looked at.
    graph = graph_of(
        [tensor(5), tensor(12, dtype=i64)],
        lambda x, i: Pad(Gather(x, (i,), (0,)), Full(1.5, tensor()), (3,), (30,), (1,)),
    )
    check(graph, rng.standard_normal(5, np.float32), indices(rng, -5, 5, 12))


# An index that is itself gathered.
def test_gather_of_gather() -> None:
    rng = np.random.default_rng(0)
    graph = graph_of(
        [tensor(50), tensor(20, dtype=i64), tensor(33, dtype=i64)],
        lambda x, i, j: Gather(x, (Gather(i, (j,), (0,)),), (0,)),
    )
    check(graph, rng.standard_normal(50, np.float32), indices(rng, 0, 50, 20), indices(rng, 0, 20, 33))


# Two gathers at the same indices work the positions out once.
def test_positions_are_shared() -> None:
    graph = graph_of(
        [tensor(50, 3), tensor(50, 3), tensor(33, dtype=i64)],
        lambda x, y, i: Gather(x, (i,), (0,), "clip") + Gather(y, (i,), (0,), "clip"),
    )
    kernel = choose.kernel(KernelDef("kernel", graph), MODELS["avx512"])
    from treadle.ir.loops.nodes import Let

    assert len([stmt for stmt in kernel_bodies(kernel) if isinstance(stmt, Let) and stmt.name.startswith("at")]) == 1


def kernel_bodies(kernel: object) -> list[object]:
    """The statements of the first innermost vector loop."""
    loops = [stmt for stmt in walk(kernel.body) if isinstance(stmt, For) and stmt.kind == "vector"]  # type: ignore[attr-defined]
    return list(loops[0].body)


# Starts move inside, in every axis; a slice that is an axis whole needs none.
@pytest.mark.parametrize("at", [(-5, 0), (0, 3), (2, 99), (7, 2)])
def test_dynamic_slice(at: tuple[int, int]) -> None:
    graph = graph_of(
        [tensor(9, 40), tensor(dtype=i64), tensor(dtype=i64)],
        lambda x, i, j: DynamicSlice(x * x, (i, j), (3, 33)) + 1.0,
    )
    check(graph, np.random.default_rng(0).standard_normal((9, 40), np.float32), *start(*at))


# An update over its operand writes the block and nothing else.
@pytest.mark.parametrize("at", [(-5, 0), (0, 3), (2, 99), (7, 2)])
def test_dynamic_update(at: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    graph = graph_of(
        [tensor(9, 40), tensor(3, 33), tensor(dtype=i64), tensor(dtype=i64)],
        lambda x, u, i, j: DynamicUpdate(x, u * 2.0, (i, j)),
    )
    args = rng.standard_normal((9, 40), np.float32), rng.standard_normal((3, 33), np.float32), *start(*at)
    check(graph, *args)
    kernels = check(graph, *args, updates=((0, 0),))
    assert sizes_of_loops(kernels["avx512"]) <= {3, 33, 32}


def sizes_of_loops(kernel: object) -> set[int]:
    return {stmt.stop for stmt in walk(kernel.body) if isinstance(stmt, For) and type(stmt.stop) is int}  # type: ignore[attr-defined]


# Adding to a block in place reads and writes the same places, so it may overwrite; reading another block may not.
def test_block_added_in_place() -> None:
    rng = np.random.default_rng(0)
    types = [tensor(30, 20), tensor(1, 20), tensor(dtype=i64), tensor(dtype=i64)]
    args = rng.standard_normal((30, 20), np.float32), rng.standard_normal((1, 20), np.float32), *start(7, 3)

    def added(x: Value, u: Value, i: Value, j: Value, at: Value) -> Value:
        zero = Full(0, tensor(dtype=i64))
        return DynamicUpdate(x, DynamicSlice(x, (at, zero), (1, 20)) + u, (i, zero))

    check(graph_of(types, lambda x, u, i, j: added(x, u, i, j, i)), *args, updates=((0, 0),))
    moved = graph_of(types, lambda x, u, i, j: added(x, u, i, j, j))
    check(moved, *args)
    with pytest.raises(TreadleError) as error:
        choose.kernel(KernelDef("kernel", moved, ((0, 0),)), MODELS["avx512"])
    assert error.value.code == "TD0433"


# Repeated places meet in the order of the indices, in place and not; half floats round each time.
@pytest.mark.parametrize("combine", ["set", "add", "mul", "max", "min"])
@pytest.mark.parametrize("dtype", [f32, f64, bf16, i8], ids=str)
def test_scatter(combine: str, dtype: object) -> None:
    rng = np.random.default_rng(0)
    graph = graph_of(
        [tensor(6, 19, dtype=dtype), tensor(40, dtype=i64), tensor(40, 19, dtype=dtype)],  # type: ignore[arg-type]
        lambda x, i, u: Scatter(x, (i,), u, (0,), combine),  # type: ignore[arg-type]
    )
    low, high = (-2, 3) if dtype is i8 else (1, 2)
    args = [
        rng.uniform(low, high, (6, 19)).astype(dtype.numpy),  # type: ignore[attr-defined]
        indices(rng, -6, 6, 40),
        rng.uniform(low, high, (40, 19)).astype(dtype.numpy),  # type: ignore[attr-defined]
    ]
    check(graph, *args)
    check(graph, *args, updates=((0, 0),))


# Batches of a scatter are independent of each other and may run on any thread; within one, order counts.
def test_batched_scatter() -> None:
    rng = np.random.default_rng(0)
    graph = graph_of(
        [tensor(50, 8), tensor(50, 300, dtype=i64), tensor(50, 300)],
        lambda x, i, u: Scatter(x, (i,), u * 0.5, (1,), "set", "drop", 1),
    )
    args = rng.standard_normal((50, 8), np.float32), indices(rng, -3, 12, 50, 300)
    news = rng.standard_normal((50, 300), np.float32)
    kernel = check(graph, *args, news, targets={"avx2": MODELS["avx2"]})["avx2"]
    loops = [stmt for stmt in kernel.body if isinstance(stmt, For)]
    assert [stmt.kind for stmt in loops][-1] == "parallel"


# Distinct places may be written in any order: the lanes of vectors.
def test_distinct_places() -> None:
    rng = np.random.default_rng(0)
    for mode in ("raise", "drop"):
        graph = graph_of(
            [tensor(100), tensor(37, dtype=i64), tensor(37)],
            lambda x, i, u, mode=mode: Scatter(x, (i,), u, (0,), "add", mode, 0, True),
        )
        order = rng.permutation(100)[:37]
        args = rng.standard_normal(100, np.float32), order, rng.standard_normal(37, np.float32)
        kernels = check(graph, *args, updates=((0, 0),))
        assert any(isinstance(stmt, For) and stmt.kind == "vector" for stmt in walk(kernels["avx512"].body))


# What a scatter overwrites nothing else may read: where it writes is not known beforehand.
def test_scatter_in_place_that_would_be_wrong() -> None:
    graph = graph_of(
        [tensor(9), tensor(9, dtype=i64)], lambda x, i: Scatter(x, (i,), Gather(x, (i,), (0,)), (0,), "add")
    )
    rng = np.random.default_rng(0)
    check(graph, rng.standard_normal(9, np.float32), indices(rng, 0, 9, 9))
    with pytest.raises(TreadleError) as error:
        choose.kernel(KernelDef("kernel", graph, ((0, 0),)), MODELS["avx512"])
    assert error.value.code == "TD0433"


# A promised index is taken at its word: no check, no failure, no condition.
def test_promised_indices_are_not_checked() -> None:
    graph = graph_of([tensor(10), tensor(40, dtype=i64)], lambda x, i: Gather(x, (i,), (0,), "promised"))
    kernel = choose.kernel(KernelDef("kernel", graph), MODELS["avx512"])
    assert not any(isinstance(stmt, Fail | If) for stmt in walk(kernel.body))


# Every length of what is searched, in lanes that finish at different times; the values computed on the way.
@pytest.mark.parametrize("side", ["left", "right"])
def test_search(side: str) -> None:
    rng = np.random.default_rng(0)
    graph = graph_of([tensor("N"), tensor(70)], lambda x, v: SearchSorted(x, v * 2.0, side))  # type: ignore[arg-type]
    for count in (0, 1, 2, 3, 8, 31):
        check(
            graph,
            np.sort(rng.integers(0, 9, count)).astype(np.float32),
            rng.integers(-1, 6, 70).astype(np.float32),
            sizes={"N": count},
        )
