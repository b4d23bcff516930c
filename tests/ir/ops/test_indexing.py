"""Ops whose positions are data, against NumPy and plain loops: modes, order of updates, clamping, sorts,
errors.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from derive import pull_back
from sample import agree, kind

from treadle.ir import dtypes
from treadle.ir.errors import CheckFailed, InvalidValue, OutOfRange, ShapeMismatch, TreadleError, TypeMismatch
from treadle.ir.evaluate import evaluate
from treadle.ir.graph import Graph
from treadle.ir.location import Location, Origin, at
from treadle.ir.ops.indexing import (
    ArgSort,
    DynamicSlice,
    DynamicUpdate,
    Gather,
    Scatter,
    SearchSorted,
    Sort,
    TopK,
    add_to_block,
    take_along,
)
from treadle.ir.ops.reduce import ORDERED
from treadle.ir.value import Full, Get, Parameter, Value

HERE = Location("net.py", 12)


def parameter(text: str, label: str = "x") -> Parameter:
    return Parameter(label, kind(text))


def run_all(make: Callable[..., Value | list[Value]], *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    params = tuple(
        parameter(f"{dtypes.of(a.dtype)}[{','.join(map(str, a.shape))}]", f"x{i}") for i, a in enumerate(arrays)
    )
    made = make(*params)
    return evaluate(Graph("run", params, tuple(made) if isinstance(made, list) else (made,)), *arrays)


def run(make: Callable[..., Value], *arrays: np.ndarray) -> np.ndarray:
    return run_all(make, *arrays)[0]


def counted(*shape: int) -> np.ndarray:
    return np.arange(1.0, 1 + np.prod(shape)).reshape(shape)


# --- gather
# -------------------------------------------------------------------------------------------------------


def test_gather_is_fancy_indexing() -> None:
    """The front end writes x[..., i, j] as this; NumPy says what it means, negative indices included."""
    x, i, j = counted(4, 3, 5), np.array([[0, -1], [2, 3]]), np.array([[1, 4], [-5, 0]])
    agree(run(lambda v, a: Gather(v, (a,), (0,)), x, i), x[i])
    agree(run(lambda v, a: Gather(v, (a,), (2,)), x, i), np.moveaxis(x, 2, 0)[i])
    agree(run(lambda v, a, b: Gather(v, (a, b), (0, 2)), x, i, j), np.moveaxis(x, 2, 1)[i, j])
    agree(run(lambda v, a, b: Gather(v, (b, a), (2, 0)), x, i, j), np.moveaxis(x, 2, 1)[i, j])
    agree(run(lambda v, a: Gather(v, (a,), (0,)), x, np.asarray(-2)), x[-2])


def test_batch_axes_go_together() -> None:
    """Each member of the batch has its own positions in its own part of x."""
    x, i = counted(2, 3, 4, 2), np.array([[[0, 3], [1, 1], [2, 0]], [[3, 3], [0, 2], [1, 0]]])
    got = run(lambda v, a: Gather(v, (a,), (2,), "raise", 2), x, i)
    want = np.stack([[x[a, b][i[a, b]] for b in range(3)] for a in range(2)])
    agree(got, want)


def test_modes_say_what_an_index_outside_does() -> None:
    """One table, for reads and for updates."""
    x, i = np.array([10.0, 20, 30]), np.array([-4, -1, 0, 2, 3, 7])
    agree(run(lambda v, a: Gather(v, (a,), (0,), "clip"), x, i), np.take(x, i, mode="clip"))
    agree(run(lambda v, a: Gather(v, (a,), (0,), "wrap"), x, i), np.take(x, i, mode="wrap"))
    agree(run(lambda v, a: Gather(v, (a,), (0,), "fill"), x, i), np.array([np.nan, np.nan, 10, 30, np.nan, np.nan]))
    agree(run(lambda v, a: Gather(v, (a,), (0,), "drop"), x, i), np.array([0.0, 0, 10, 30, 0, 0]))
    agree(
        run(lambda v, a: Gather(v, (a,), (0,), "fill"), x.astype(np.int8), i), np.array([0, 0, 10, 30, 0, 0], np.int8)
    )
    ones = np.ones(6)
    agree(run(lambda v, a, u: Scatter(v, (a,), u, (0,), "add", "clip"), x, i, ones), np.array([13.0, 20, 33]))
    agree(run(lambda v, a, u: Scatter(v, (a,), u, (0,), "add", "wrap"), x, i, ones), np.array([12.0, 21, 33]))
    for mode in ("fill", "drop"):
        got = run(lambda v, a, u, mode=mode: Scatter(v, (a,), u, (0,), "add", mode), x, i, ones)
        agree(got, np.array([11.0, 20, 31]))


def test_an_index_outside_raises_like_numpy() -> None:
    """-n to n-1 is inside; the message names the index, the axis and its size, at the user's line."""
    x = counted(3)
    for mode in ("raise", "promised"):
        with at(Origin(HERE, 1)):
            op = Gather(parameter("f64[3]"), (parameter("i64[2]"),), (0,), mode)  # type: ignore[arg-type]
        assert op.can_fail == (mode == "raise")
        error, code = (OutOfRange, "TD0170") if mode == "raise" else (CheckFailed, "TD0180")
        with pytest.raises(error, match="index 3 is outside axis 0 of size 3") as caught:
            op.evaluate(x, np.array([0, 3]))
        assert caught.value.code == code and caught.value.location == HERE
    # Native code reports the op, not the index.
    failure = Gather(parameter("f64[3]"), (parameter("i64[2]"),), (0,)).failure()
    assert failure.code == "TD0170" and "axis 0 of size 3" in failure.message
    with pytest.raises(IndexError):
        run(lambda v, a: Gather(v, (a,), (0,)), x, np.array([-4]))
    with pytest.raises(IndexError):
        run(lambda v, a, u: Scatter(v, (a,), u, (0,)), x, np.array([3]), np.array([1.0]))
    with pytest.raises(CheckFailed):
        run(lambda v, a: Gather(v, (a,), (0,), "promised"), x, np.array([-1]))


def test_large_unsigned_indices_stay_outside() -> None:
    """2**64 - 1 must not become -1 on its way to an i64 position."""
    x, i = counted(3), np.array([2**64 - 1, 2**63, 1], np.uint64)
    agree(run(lambda v, a: Gather(v, (a,), (0,), "clip"), x, i), np.array([3.0, 3, 2]))
    agree(run(lambda v, a: Gather(v, (a,), (0,), "drop"), x, i), np.array([0.0, 0, 2]))
    agree(run(lambda v, a: Gather(v, (a,), (0,), "wrap"), x, i), x[[(2**64 - 1) % 3, 2**63 % 3, 1]])
    with pytest.raises(OutOfRange):
        run(lambda v, a: Gather(v, (a,), (0,)), x, i)


def test_take_along_is_numpys() -> None:
    """Sorts, top-k and their derivatives read through it."""
    x = counted(3, 4, 2)
    for axis in (0, 1, 2, -3):
        i = np.argsort(-x, axis=axis)
        agree(run(lambda v, a, axis=axis: take_along(v, a, axis), x, i), np.take_along_axis(x, i, axis))


# --- scatter
# ------------------------------------------------------------------------------------------------------


def test_the_last_update_wins() -> None:
    """In row-major order of the positions, whatever order a kernel takes them in."""
    x, i = np.zeros(3), np.array([[1, 1], [0, 1]])
    updates = np.array([[1.0, 2], [3, 4]])
    agree(run(lambda v, a, u: Scatter(v, (a,), u, (0,)), x, i, updates), np.array([3.0, 4, 0]))


@pytest.mark.parametrize("combine", ["add", "mul", "max", "min"])
def test_updates_meet_one_after_the_other(combine: str) -> None:
    """The definition as a loop, with repeated positions and whole slices."""
    rng = np.random.default_rng(0)
    x, updates, i = rng.standard_normal((4, 2)), rng.standard_normal((9, 2)), rng.integers(0, 4, 9)
    want = x.copy()
    meet = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[combine]
    for place, news in zip(i, updates, strict=True):
        want[place] = meet(want[place], news)
    agree(run(lambda v, a, u: Scatter(v, (a,), u, (0,), combine), x, i, updates), want)  # type: ignore[arg-type]


def test_cotangents_of_half_floats_are_summed_in_f32() -> None:
    """Updates round each time, as NumPy's do, and would stop at 256; the cotangent of a row read 600 times must not."""
    i, ones = np.zeros(600, np.int64), np.ones(600, ml_dtypes.bfloat16)
    stopped = run(lambda v, a, u: Scatter(v, (a,), u, (0,), "add"), np.zeros(1, ml_dtypes.bfloat16), i, ones)
    agree(stopped, np.array([256], ml_dtypes.bfloat16))
    x, at_, c = parameter("bf16[1]"), parameter("i64[600]", "i"), parameter("bf16[600]", "c")
    read = Gather(x, (at_,), (0,))
    back = read.transpose(c, 0)
    assert back is not None and back.type == x.type
    agree(evaluate(Graph("back", (at_, c), (back,)), i, ones)[0], np.array([600], ml_dtypes.bfloat16))
    more = Graph("more", (x, at_, c), (read.accumulate_transpose(x, c, 0),))
    agree(evaluate(more, np.array([8], ml_dtypes.bfloat16), i, ones)[0], np.array([608], ml_dtypes.bfloat16))


def test_only_the_last_update_has_a_derivative() -> None:
    """The others were overwritten; so was x."""
    x, i, u = parameter("f64[3]"), parameter("i64[4]", "i"), parameter("f64[4]", "u")
    op = Scatter(x, (i,), u, (0,))
    c = parameter("f64[3]", "c")
    backs = (op.transpose(c, 0), op.transpose(c, 2))
    assert all(back is not None for back in backs)
    results = evaluate(Graph("back", (i, c), backs), np.array([1, 0, 1, 1]), np.array([1.0, 10, 100]))  # type: ignore[arg-type]
    agree(results[0], np.array([0.0, 0, 100]))
    agree(results[1], np.array([0.0, 1, 0, 10]))


# --- dynamic slices
# -----------------------------------------------------------------------------------------------


def test_blocks_stay_inside() -> None:
    """A start outside moves the block, as XLA does: the sizes are fixed and nothing can fail."""
    x = counted(3, 5)
    for i, j in itertools.product((-4, 0, 1, 9), repeat=2):
        a, b = min(max(i, 0), 1), min(max(j, 0), 2)
        starts = np.asarray(i), np.asarray(j)
        agree(run(lambda v, *s: DynamicSlice(v, s, (2, 3)), x, *starts), x[a : a + 2, b : b + 3])
        want = x.copy()
        want[a : a + 2, b : b + 3] = -1
        agree(run(lambda v, u, *s: DynamicUpdate(v, u, s), x, np.full((2, 3), -1.0), *starts), want)


def test_reads_of_parts_accumulate_in_place() -> None:
    """n reads of one array must cost n parts, not n arrays: no zeros of x's shape are made or added."""
    x, i = parameter("f64[100,3]"), parameter("i64[]", "i")
    zero = Full(0, kind("i64[]"))
    reads: list[Value] = [DynamicSlice(x, (i, zero), (2, 3)), Gather(x, (i,), (0,))]
    total = reads[0] + DynamicSlice(x, (zero, zero), (2, 3))
    c = parameter("f64[2,3]", "c")
    (back,) = pull_back(total, [x], c)
    assert back is not None
    order = Graph("back", (i, c), (back,)).order
    assert sum(isinstance(v, Full) and v.shape == x.shape for v in order) == 1
    assert not any(v.name == "add" and v.shape == x.shape for v in order)
    into = parameter("f64[100,3]", "into")
    added = Gather(x, (i,), (0,)).accumulate_transpose(into, parameter("f64[3]", "d"), 0)
    assert isinstance(added, Scatter) and added.x is into


def test_accumulating_is_adding_the_transpose() -> None:
    """The cheap form and the plain one are the same sum."""
    x = parameter("f64[4,3]")
    i, zero = parameter("i64[]", "i"), Full(0, kind("i64[]"))
    into = parameter("f64[4,3]", "into")
    for op in (Gather(x, (i,), (0,)), DynamicSlice(x, (i, zero), (2, 2))):
        c = Parameter("c", op.tensor)
        back = op.transpose(c, 0)
        assert back is not None
        got, want = evaluate(
            Graph("both", (i, into, c), (op.accumulate_transpose(into, c, 0), into + back)),
            np.asarray(2),
            counted(4, 3),
            counted(*op.shape),  # type: ignore[arg-type]
        )
        agree(got, want)
    (block,) = evaluate(Graph("block", (into, c), (add_to_block(into, c, (1, 1)),)), np.zeros((4, 3)), counted(2, 2))
    agree(block, np.array([[0, 0, 0], [0, 1.0, 2], [0, 3, 4], [0, 0, 0]]))


# --- sorting and searching
# ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ORDERED, ids=str)
def test_sorts_are_numpys(dtype: dtypes.DType) -> None:
    """Ascending is np.sort with NaN last; descending is its mirror, except that equal elements keep their
    order.
    """
    low = 0 if dtype.kind in ("bool", "uint") else -3
    x = np.random.default_rng(0).integers(low, 4, (3, 20)).astype(dtype.numpy)
    if dtype.kind == "float":
        x[:, 3] = np.nan
        x[0, 4] = -np.inf
    wide = x.astype(np.float64) if dtype.kind == "float" else x
    up = np.sort(wide, axis=1).astype(x.dtype)
    agree(run(lambda v: Get(Sort((v,), 1), 0), x), up)
    agree(run(lambda v: Get(Sort((v,), 1, descending=True), 0), x), np.ascontiguousarray(up[:, ::-1]))
    agree(run(lambda v: ArgSort(v, 1), x), np.argsort(wide, axis=1, kind="stable"))
    down = run(lambda v: ArgSort(v, -1, descending=True), x)
    # Among equals the order is kept in both directions: reversing the reversed array's order says so.
    mirrored = x.shape[1] - 1 - np.argsort(wide[:, ::-1], axis=1, kind="stable")[:, ::-1]
    agree(down, np.ascontiguousarray(mirrored))


def test_integer_extremes_sort_both_ways() -> None:
    """Negating the least integer would leave it the least."""
    x = np.array([0, -128, 127, -1], np.int8)
    agree(run(lambda v: Get(Sort((v,), 0, descending=True), 0), x), np.array([127, 0, -1, -128], np.int8))
    big = np.array([0, 2**64 - 1, 2**63], np.uint64)
    agree(run(lambda v: ArgSort(v, 0, descending=True), big), np.array([1, 2, 0]))


def test_keys_compare_lexicographically_and_carry_the_rest() -> None:
    """The first operand decides, the next one among equals; what is not a key is only carried along."""
    a, b, c = np.array([2, 1, 2, 1]), np.array([0.5, 3, 0.25, 3]), np.array([10, 20, 30, 40])
    make = lambda *v, keys: [Get(s := Sort(v, 0, keys), 0), Get(s, 1), Get(s, 2)]  # noqa: E731
    one = run_all(lambda *v: make(*v, keys=1), a, b, c)
    two = run_all(lambda *v: make(*v, keys=2), a, b, c)
    agree(one[2], np.array([20, 40, 10, 30]))
    agree(two[2], np.array([20, 40, 30, 10]))
    rows = sorted(zip(a, b, c, strict=True), key=lambda row: row[:2])
    agree(two[2], np.array([row[2] for row in rows]))


def test_top_k_is_the_head_of_the_sort() -> None:
    """The first of equal elements comes first, NaN is the greatest."""
    x = np.array([[1.0, 5, 5, 2], [np.nan, 1, 2, 9]])
    values, places = run_all(lambda v: [Get(t := TopK(v, 3), 0), Get(t, 1)], x)
    agree(values, np.array([[5, 5, 2], [np.nan, 9, 2]]))
    agree(places, np.array([[1, 2, 3], [0, 3, 2]]))
    values, places = run_all(lambda v: [Get(t := TopK(v, 1, 0, largest=False), 0), Get(t, 1)], x)
    agree(values, np.array([[1.0, 1, 2, 2]]))
    agree(places, np.array([[0, 1, 1, 0]]))


@pytest.mark.parametrize("side", ["left", "right"])
def test_search_is_numpys(side: str) -> None:
    """With repeated elements, NaN on both sides, and a table per member of a batch."""
    table = np.array([-1.0, 0, 0, 2, np.nan])
    wanted = np.array([[-2.0, -1, 0], [1, 5, np.nan]])
    agree(run(lambda a, v: SearchSorted(a, v, side), table, wanted), np.searchsorted(table, wanted, side))  # type: ignore[arg-type]
    tables = np.stack([table, table - 1])
    want = np.stack([np.searchsorted(tables[i], wanted[i], side) for i in (0, 1)])  # type: ignore[call-overload]
    agree(run(lambda a, v: SearchSorted(a, v, side), tables, wanted), want)  # type: ignore[arg-type]


def test_symbolic_sizes() -> None:
    """Embeddings, caches and beams have free batch sizes; what cannot be proved is promised to the entry."""
    x, i = parameter("f32[V,D]"), parameter("i64[B,T]", "i")
    assert str(Gather(x, (i,), (0,)).type) == "f32[B,T,D]"
    back = Gather(x, (i,), (0,)).transpose(parameter("f32[B,T,D]", "c"), 0)
    assert back is not None and back.type == x.type
    zero = Full(0, kind("i64[]"))
    block = DynamicSlice(x, (zero, zero), (4, parameter("f32[D]").shape[0]))
    assert (4, x.shape[0]) in block.requires()
    top = TopK(x, 3, 0)
    assert str(top.type) == "(f32[3,D], i64[3,D])" and (3, x.shape[0]) in top.requires()
    assert str(Sort((x,), 1).type) == "(f32[V,D])"


X, AT = "f32[3,4]", "i64[2]"


@pytest.mark.parametrize(
    ("make", "code", "error"),
    [
        (lambda: Gather(parameter(X), (parameter(AT),), (0,), "nearest"), "TD0174", InvalidValue),  # type: ignore[arg-type]
        (lambda: Gather(parameter(X), (parameter(AT),), (0, 1)), "TD0171", InvalidValue),
        (lambda: Gather(parameter(X), (), ()), "TD0171", InvalidValue),
        (lambda: Gather(parameter(X), (parameter("f32[2]"),), (0,)), "TD0171", TypeMismatch),
        (lambda: Gather(parameter(X), (parameter("bool[2]"),), (0,)), "TD0171", TypeMismatch),
        (lambda: Gather(parameter(X), (parameter(AT), parameter("i64[3]")), (0, 1)), "TD0171", ShapeMismatch),
        (lambda: Gather(parameter(X), (parameter(AT),), (1,), "raise", 1), "TD0171", ShapeMismatch),
        (lambda: Gather(parameter(X), (parameter("i64[3]"),), (0,), "raise", 1), "TD0172", InvalidValue),
        (lambda: Gather(parameter(X), (parameter("i64[3]"),), (1,), "raise", 3), "TD0172", InvalidValue),
        (lambda: Gather(parameter(X), (parameter(AT), parameter(AT)), (1, 1)), "TD0172", InvalidValue),
        (lambda: Gather(parameter(X), (parameter(AT),), (2,)), "TD0121", InvalidValue),
        (lambda: Scatter(parameter(X), (parameter(AT),), parameter("f32[2,3]"), (0,)), "TD0173", ShapeMismatch),
        (lambda: Scatter(parameter(X), (parameter(AT),), parameter("f64[2,4]"), (0,)), "TD0173", ShapeMismatch),
        (lambda: Scatter(parameter(X), (parameter(AT),), parameter("f32[2,4]"), (0,), "sub"), "TD0174", InvalidValue),  # type: ignore[arg-type]
        (
            lambda: Scatter(parameter("c64[3]"), (parameter(AT),), parameter("c64[2]"), (0,), "max"),
            "TD0114",
            TypeMismatch,
        ),
        (lambda: DynamicSlice(parameter(X), (parameter("i64[]"),), (2, 2)), "TD0175", ShapeMismatch),
        (lambda: DynamicSlice(parameter("f32[3]"), (parameter("i32[]"),), (2,)), "TD0175", TypeMismatch),
        (lambda: DynamicSlice(parameter("f32[3]"), (parameter("i64[]"),), (4,)), "TD0175", ShapeMismatch),
        (
            lambda: DynamicUpdate(parameter("f32[3]"), parameter("f32[4]"), (parameter("i64[]"),)),
            "TD0175",
            ShapeMismatch,
        ),
        (
            lambda: DynamicUpdate(parameter("f32[3]"), parameter("f64[2]"), (parameter("i64[]"),)),
            "TD0176",
            ShapeMismatch,
        ),
        (
            lambda: DynamicUpdate(parameter("f32[3]"), parameter("f32[]"), (parameter("i64[]"),)),
            "TD0176",
            ShapeMismatch,
        ),
        (lambda: Sort((parameter("c64[3]"),), 0), "TD0177", TypeMismatch),
        (lambda: Sort((parameter(X), parameter("f32[4,3]")), 0), "TD0177", ShapeMismatch),
        (lambda: Sort((parameter(X),), 0, 2), "TD0177", InvalidValue),
        (lambda: Sort((), 0, 0), "TD0177", InvalidValue),
        (lambda: ArgSort(parameter("f8e5m2[3]"), 0), "TD0177", TypeMismatch),
        (lambda: ArgSort(parameter(X), 2), "TD0121", InvalidValue),
        (lambda: TopK(parameter(X), 5), "TD0178", InvalidValue),
        (lambda: TopK(parameter(X), -1), "TD0178", InvalidValue),
        (lambda: SearchSorted(parameter("f32[3]"), parameter("f64[2]")), "TD0179", TypeMismatch),
        (lambda: SearchSorted(parameter("f32[2,3]"), parameter("f32[3]")), "TD0179", ShapeMismatch),
        (lambda: SearchSorted(parameter("f32[]"), parameter("f32[3]")), "TD0179", ShapeMismatch),
        (lambda: SearchSorted(parameter("f32[3]"), parameter("f32[3]"), "middle"), "TD0179", InvalidValue),  # type: ignore[arg-type]
    ],
)
def test_errors_say_whose_line(make: Callable[[], Value], code: str, error: type[TreadleError]) -> None:
    """A wrong program fails where it was written, with a code that stays."""
    with at(Origin(HERE, 1)), pytest.raises(error) as caught:
        make()
    assert caught.value.code == code
    assert caught.value.location == HERE
