"""Reductions and prefixes against NumPy's own, their errors, and their monoids: merged anywhere, they must
agree.
"""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from derive import pull_back
from interpret import interpret
from sample import agree, kind

from treadle.ir import dtypes
from treadle.ir.dtypes import ARITHMETIC, f16, f32, f64, i32, i64
from treadle.ir.errors import InvalidValue, ShapeMismatch, TreadleError, TypeMismatch
from treadle.ir.evaluate import evaluate
from treadle.ir.graph import Graph
from treadle.ir.location import Location, Origin, at
from treadle.ir.ops.reduce import (
    ORDERED,
    All,
    Any,
    ArgMax,
    ArgMin,
    CumMax,
    CumMin,
    CumProd,
    CumSum,
    LinearRecurrence,
    Max,
    Min,
    Prod,
    Sum,
)
from treadle.ir.structure import (
    Axis,
    Monoid,
    Read,
    Structure,
    element,
    logsumexp_monoid,
    online_softmax_monoid,
    welford_monoid,
)
from treadle.ir.value import Parameter, Value

HERE = Location("net.py", 12)


def parameter(text: str) -> Parameter:
    return Parameter("x", kind(text))


def run(make: Callable[..., Value], *arrays: np.ndarray) -> np.ndarray:
    params = tuple(
        Parameter(f"x{i}", kind(f"{dtypes.of(a.dtype)}[{','.join(map(str, a.shape))}]")) for i, a in enumerate(arrays)
    )
    return evaluate(Graph("run", params, (make(*params),)), *arrays)[0]


def whole(dtype: dtypes.DType, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    low = 0 if dtype.kind in ("bool", "uint") else -3
    return np.random.default_rng(seed).integers(low, 4, shape).astype(dtype.numpy)


@pytest.mark.parametrize("dtype", ORDERED, ids=str)
def test_reductions_are_numpys(dtype: dtypes.DType) -> None:
    """The names promise NumPy's functions; NumPy is asked in the wider type where it lacks ours."""
    x = whole(dtype, (4, 5, 3))
    wide = x.astype(np.float64) if dtype.is_float else x
    for axes in ((0,), (1, 2), (0, 1, 2), ()):
        agree(run(lambda v, axes=axes: Max(v, axes), x), np.max(wide, axis=axes).astype(x.dtype))
        agree(run(lambda v, axes=axes: Min(v, axes), x), np.min(wide, axis=axes).astype(x.dtype))
        if dtype.kind != "bool":
            agree(run(lambda v, axes=axes: Sum(v, axes), x), np.sum(wide, axis=axes).astype(x.dtype))
            agree(run(lambda v, axes=axes: Prod(v, axes), x), np.prod(wide, axis=axes).astype(x.dtype))
    for axis in (0, -1):
        agree(run(lambda v, axis=axis: ArgMax(v, axis), x), np.argmax(wide, axis=axis))
        agree(run(lambda v, axis=axis: ArgMin(v, axis), x), np.argmin(wide, axis=axis))
        agree(run(lambda v, axis=axis: CumMax(v, axis), x), np.maximum.accumulate(wide, axis=axis).astype(x.dtype))
        agree(run(lambda v, axis=axis: CumMin(v, axis), x), np.minimum.accumulate(wide, axis=axis).astype(x.dtype))
        if dtype.kind != "bool":
            agree(run(lambda v, axis=axis: CumSum(v, axis), x), np.cumsum(wide, axis=axis).astype(x.dtype))
            agree(run(lambda v, axis=axis: CumProd(v, axis), x), np.cumprod(wide, axis=axis).astype(x.dtype))


def test_bool_reductions_are_logic() -> None:
    """`or` and `and` are bool's sum and product; nothing is counted."""
    x = np.array([[True, False], [True, True], [False, False]])
    agree(run(lambda v: Sum(v, (1,)), x), np.any(x, axis=1))
    agree(run(lambda v: Any(v, (0,)), x), np.any(x, axis=0))
    agree(run(lambda v: Prod(v, (1,)), x), np.all(x, axis=1))
    agree(run(lambda v: All(v, (0, 1)), x), np.all(x))
    agree(run(lambda v: CumSum(v, 0, reverse=True), x), np.array([[True, True], [True, True], [False, False]]))


def test_integers_wrap_in_their_own_type() -> None:
    """Widening is the front end's to insert: the graph does what it says."""
    x = np.array([100, 100, 100], np.int8)
    agree(run(lambda v: Sum(v, (0,)), x), np.asarray(44, np.int8))
    agree(run(lambda v: CumSum(v, 0), x), np.array([100, -56, 44], np.int8))


def test_half_floats_are_accumulated_in_f32() -> None:
    """In f16 a sum of ones would stop at 2048."""
    ones = np.ones(5000, np.float16)
    agree(run(lambda v: Sum(v, (0,)), ones), np.asarray(5000, np.float16))
    agree(run(lambda v: CumSum(v, 0), ones)[-1:], np.array([5000], np.float16))
    halves = np.ones(1000, ml_dtypes.bfloat16)
    agree(run(lambda v: Sum(v, (0,)), halves), np.asarray(1000, ml_dtypes.bfloat16))
    wide = np.array([60000, 60000, -60000, -60000], np.float16)
    agree(run(lambda v: Sum(v, (0,)), wide), np.asarray(0, np.float16))


def test_of_nothing_comes_the_identity() -> None:
    """Compiled code meets an empty axis when a symbolic size is 0, and must have an answer."""
    none = np.empty((0, 2), np.float32)
    agree(run(lambda v: Sum(v, (0,)), none), np.zeros(2, np.float32))
    agree(run(lambda v: Prod(v, (0,)), none), np.ones(2, np.float32))
    agree(run(lambda v: Max(v, (0,)), none), np.full(2, -np.inf, np.float32))
    agree(run(lambda v: Min(v, (0,)), none.astype(np.int16)), np.full(2, 32767, np.int16))
    agree(run(lambda v: ArgMax(v, 0), none), np.full(2, -1))


def test_nan_wins_and_the_first_position_counts() -> None:
    """As in NumPy, from whichever side it is merged."""
    x = np.array([1, np.nan, 3, np.nan, 5], np.float32)
    assert np.isnan(run(lambda v: Max(v, (0,)), x))
    agree(run(lambda v: ArgMax(v, 0), x), np.asarray(1))
    agree(run(lambda v: ArgMin(v, 0), np.array([2.0, 1, 1, 2])), np.asarray(1))
    agree(run(lambda v: CumMin(v, 0, reverse=True), x), np.array([np.nan, np.nan, np.nan, np.nan, 5], np.float32))
    agree(run(lambda v: ArgMax(v, 0), np.full(3, -np.inf)), np.asarray(0))


def test_recurrence_is_the_loop_it_says() -> None:
    """The definition, element by element."""
    a, b = np.random.default_rng(0).standard_normal((2, 3, 6))
    want = np.zeros((3, 7))
    for i in range(6):
        want[:, i + 1] = a[:, i] * want[:, i] + b[:, i]
    agree(run(lambda x, y: LinearRecurrence(x, y, 1), a, b), want[:, 1:], ulp=2.0, atol=1e-15)
    backward = run(lambda x, y: LinearRecurrence(x, y, 1, True), a[:, ::-1].copy(), b[:, ::-1].copy())
    agree(backward[:, ::-1], want[:, 1:], ulp=2.0, atol=1e-15)


def test_ties_share_the_derivative() -> None:
    """Two equal maxima get half each, so that a gradient does not depend on their order."""
    x, t, c = parameter("f64[4]"), Parameter("t", kind("f64[4]")), Parameter("c", kind("f64[]"))
    found = Max(x, (0,)).jvp((t,))
    assert isinstance(found, Value)
    (back,) = pull_back(found, [t], c)
    assert back is not None
    (got,) = evaluate(Graph("back", (x, c), (back,)), np.array([1.0, 3, 3, 2]), np.asarray(1.0))
    agree(got, np.array([0, 0.5, 0.5, 0]))


def test_product_derivative_survives_zeros() -> None:
    """Dividing the product by each factor would give NaN here."""
    x, t = parameter("f64[3]"), Parameter("t", kind("f64[3]"))
    found = Prod(x, (0,)).jvp((t,))
    assert isinstance(found, Value)
    graph = Graph("tangent", (x, t), (found,))
    (got,) = evaluate(graph, np.array([0.0, 2, 3]), np.array([1.0, 10, 100]))
    agree(got, np.asarray(6.0))
    (got,) = evaluate(graph, np.array([0.0, 0, 3]), np.array([1.0, 10, 100]))
    agree(got, np.asarray(0.0))


def test_derivatives_keep_symbolic_sizes() -> None:
    """A rule that needed a number would refuse every model with a free batch size."""
    x, t, c = parameter("f64[B,T]"), Parameter("t", kind("f64[B,T]")), Parameter("c", kind("f64[B,T]"))
    for op in (CumSum(x, 1), CumProd(x, 1), CumMax(x, 0), Sum(x, (0,)), Prod(x, (0, 1)), Max(x, (1,))):
        found = op.jvp((t,)) if not op.linear else op.transpose(c if op.rank == 2 else Parameter("c", op.tensor), 0)
        assert isinstance(found, Value)
        assert found.shape == (x.shape if op.linear else op.shape)


@pytest.mark.parametrize(
    ("make", "code", "error"),
    [
        (lambda: Sum(parameter("f8e5m2[3]"), (0,)), "TD0114", TypeMismatch),
        (lambda: Max(parameter("c64[3]"), (0,)), "TD0114", TypeMismatch),
        (lambda: Any(parameter("i32[3]"), (0,)), "TD0114", TypeMismatch),
        (lambda: ArgMin(parameter("c64[3]"), 0), "TD0114", TypeMismatch),
        (lambda: Sum(parameter("f32[3]"), (1,)), "TD0121", InvalidValue),
        (lambda: ArgMax(parameter("f32[]"), 0), "TD0121", InvalidValue),
        (lambda: CumSum(parameter("f32[3]"), -2), "TD0121", InvalidValue),
        (lambda: Sum(parameter("f32[3,4]"), (0, -2)), "TD0122", InvalidValue),
        (lambda: LinearRecurrence(parameter("f32[3]"), parameter("f32[4]"), 0), "TD0168", ShapeMismatch),
        (lambda: LinearRecurrence(parameter("bool[3]"), parameter("bool[3]"), 0), "TD0114", TypeMismatch),
    ],
)
def test_errors_say_whose_line(make: Callable[[], Value], code: str, error: type[TreadleError]) -> None:
    """A wrong program fails where it was written, with a code that stays."""
    with at(Origin(HERE, 1)), pytest.raises(error) as caught:
        make()
    assert caught.value.code == code
    assert caught.value.location == HERE


# --- monoids
# ------------------------------------------------------------------------------------------------------


def reduced(monoid: Monoid, *arrays: np.ndarray, pieces: int) -> np.ndarray:
    """Along axis 1, cut into pieces."""
    axes = (Axis("a0", arrays[0].shape[0]), Axis("a1", arrays[0].shape[1], "reduce"))
    here = tuple(axis.position for axis in axes)
    reads = tuple(Read(i, here) for i in range(len(arrays)))
    body = tuple(element(i, dtypes.of(a.dtype)) for i, a in enumerate(arrays))
    return interpret(Structure(axes, reads, body, monoid, dtypes.of(arrays[0].dtype)), arrays, pieces=pieces)


@pytest.mark.parametrize("pieces", [1, 2, 5, 13])
def test_states_merge_anywhere(pieces: int) -> None:
    """Threads, shards and split sums cut an axis where they like; more pieces than elements leaves empty
    states.
    """
    x = np.random.default_rng(0).standard_normal((3, 7)).round(1)
    x[1, 2] = np.nan
    for op in (Sum(parameter("f64[3,7]"), (1,)), Max(parameter("f64[3,7]"), (1,)), Prod(parameter("f64[3,7]"), (1,))):
        structure = op.structure()
        assert structure is not None
        agree(interpret(structure, [x], pieces=pieces), op.evaluate(x), ulp=16.0)
    for finder in (ArgMax, ArgMin):
        op = finder(parameter("f64[3,7]"), 1)
        structure = op.structure()
        assert structure is not None
        ties = np.array([[1.0, 3, 3, 1, 3, 1, 1], x[1], np.full(7, -np.inf)])
        agree(interpret(structure, [ties], pieces=pieces), op.evaluate(ties))


@pytest.mark.parametrize("pieces", [1, 3, 9])
def test_logsumexp_does_not_overflow(pieces: int) -> None:
    """exp(1000) is infinite, its logarithm is not; infinities themselves stay what they are."""
    x = np.random.default_rng(1).standard_normal((5, 6)) * 3
    x[1] += 1000
    x[2] = -np.inf
    x[3, 4] = np.inf
    x[4, 0] = -np.inf
    with np.errstate(invalid="ignore"):
        want = np.logaddexp.reduce(x, axis=1)
    np.testing.assert_allclose(reduced(logsumexp_monoid(f64), x, pieces=pieces), want, rtol=1e-14)


@pytest.mark.parametrize("pieces", [1, 3, 9])
def test_welford_keeps_small_variances(pieces: int) -> None:
    """The mean of squares less the square of the mean would lose every digit at this offset."""
    x = np.random.default_rng(2).standard_normal((4, 6)) + 1e8
    centred = x - x.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(reduced(welford_monoid(f64), x, pieces=pieces), np.mean(centred**2, axis=1), rtol=1e-6)
    got = reduced(welford_monoid(f64, correction=1), x, pieces=pieces)
    np.testing.assert_allclose(got, np.var(x, axis=1, ddof=1), rtol=1e-6)


@pytest.mark.parametrize("pieces", [1, 3, 9])
def test_online_softmax_is_the_weighted_mean(pieces: int) -> None:
    """Attention's inner loop in one pass; masked scores are -inf and may come first."""
    rng = np.random.default_rng(3)
    score, value = rng.standard_normal((4, 6)) * 50, rng.standard_normal((4, 6))
    score[0, :3] = -np.inf
    weights = np.exp(score - score.max(axis=1, keepdims=True))
    want = np.sum(weights * value, axis=1) / weights.sum(axis=1)
    np.testing.assert_allclose(reduced(online_softmax_monoid(f64), score, value, pieces=pieces), want, rtol=1e-13)


def test_every_dtype_is_reduced_or_refused() -> None:
    """Nothing in between: no dtype may slip into a kernel that does not exist."""
    for dtype in dtypes.DTYPES:
        if dtype in ARITHMETIC:
            assert Sum(parameter(f"{dtype}[3]"), (0,)).dtype is dtype
        else:
            with pytest.raises(TypeMismatch, match="TD0114"):
                Sum(parameter(f"{dtype}[3]"), (0,))
    assert ArgMax(parameter("f16[3]"), 0).dtype is i64
    assert {f16, f32, i32} < set(ARITHMETIC)
