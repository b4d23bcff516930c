"""Contractions and windows against plain loops and NumPy; closure of their transposes; layouts; errors."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from interpret import interpret
from sample import agree, kind

from treadle.ir import dtypes
from treadle.ir.dims import DimName
from treadle.ir.dtypes import f32, f64, i8, i32, i64, u8
from treadle.ir.errors import InvalidValue, ShapeMismatch, TreadleError, TypeMismatch
from treadle.ir.evaluate import evaluate
from treadle.ir.graph import Graph
from treadle.ir.location import Location, Origin, at
from treadle.ir.ops.contract import ArgWindow, Conv, Dot, ReduceWindow, SpreadWindow, TakeWindow, conv, conv_axes
from treadle.ir.parse import parse_graph
from treadle.ir.text import show
from treadle.ir.value import Parameter, Value

HERE = Location("net.py", 12)
Numbers = tuple[int, ...]


def parameter(text: str, label: str = "x") -> Parameter:
    return Parameter(label, kind(text))


def typed(array: np.ndarray, label: str) -> Parameter:
    return parameter(f"{dtypes.of(array.dtype)}[{','.join(map(str, array.shape))}]", label)


def run(make: Callable[..., Value], *arrays: np.ndarray) -> np.ndarray:
    params = tuple(typed(a, f"x{i}") for i, a in enumerate(arrays))
    return evaluate(Graph("run", params, (make(*params),)), *arrays)[0]


def small(*shape: int, dtype: object = np.float64, seed: int = 0) -> np.ndarray:
    """Small whole numbers: sums of their products are exact in any order."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(dtype)


# --- dot
# ----------------------------------------------------------------------------------------------------------


def test_dot_is_einsum() -> None:
    """Result axes are batch, x's free, y's free, in that order: einsum's letters say the same."""
    x, y = small(2, 3, 4, 5), small(4, 2, 6, 5)
    got = run(lambda a, b: Dot(a, b, (2, 0), (0, 1), (3,), (3,)), x, y)
    agree(got, np.einsum("bmak,abnk->abmn", x, y))
    agree(
        run(lambda a, b: Dot(a, b, (), (), (1, 0), (0, 1)), small(3, 4), small(4, 3)),
        np.einsum("ij,ji->", small(3, 4), small(4, 3)),
    )


def test_integers_wrap_unless_a_wider_sum_is_asked_for() -> None:
    """Quantized products need i32 sums; a plain product of int8 arrays in NumPy wraps."""
    x, y = np.full((1, 3), 100, np.int8), np.full((3, 1), 2, np.int8)
    agree(run(lambda a, b: Dot(a, b, (), (), (1,), (0,)), x, y), x @ y)
    agree(run(lambda a, b: Dot(a, b, (), (), (1,), (0,), i32), x, y), np.array([[600]], np.int32))
    agree(run(lambda a, b: Dot(a, b, (), (), (1,), (0,), i32), x.view(np.uint8), -y), np.array([[-600]], np.int32))


def test_half_floats_are_summed_in_f32_and_rounded_once() -> None:
    """Storage types: 4096 ones sum to 4096, and `accumulate` hands the f32 sum out."""
    ones = np.ones((1, 4097), np.float16)
    agree(run(lambda a, b: Dot(a, b, (), (), (1,), (1,)), ones, ones), np.array([[4096]], np.float16))
    agree(run(lambda a, b: Dot(a, b, (), (), (1,), (1,), f32), ones, ones), np.array([[4097]], np.float32))
    halves = np.full((1, 300), 1.0, ml_dtypes.bfloat16)
    agree(run(lambda a, b: Dot(a, b, (), (), (1,), (1,)), halves, halves), np.array([[300]], ml_dtypes.bfloat16))


def test_dot_cotangents_come_back_in_the_operands_type() -> None:
    """With `accumulate` the cotangent is f32 and the operands are not."""
    x, y = parameter("bf16[3,4]"), parameter("bf16[4,5]")
    op = Dot(x, y, (), (), (1,), (0,), f32)
    cotangent = Parameter("c", op.tensor)
    for operand, v in ((0, x), (1, y)):
        back = op.transpose(cotangent, operand)
        assert back is not None and back.type == v.type


def test_dot_of_symbolic_sizes() -> None:
    """Batch and inner sizes may be names; each must be the same on both sides."""
    op = Dot(parameter("f32[B,T,K]"), parameter("f32[B,K,2*T]"), (0,), (0,), (2,), (1,))
    assert str(op.type) == "f32[B,T,2*T]"
    back = op.transpose(Parameter("c", op.tensor), 1)
    assert back is not None and back.type == op.y.type


# --- convolution
# --------------------------------------------------------------------------------------------------


def by_definition(
    x: np.ndarray, w: np.ndarray, numbers: tuple[Numbers, tuple[tuple[int, int], ...], Numbers, Numbers]
) -> np.ndarray:
    """NI..., OI... -> NO... by its definition, one product after the other."""
    strides, padding, dilation, x_dilation = numbers
    spatial = range(len(strides))
    padded = [(n - 1) * g + 1 + low + high for n, g, (low, high) in zip(x.shape[2:], x_dilation, padding, strict=True)]
    sizes = [(padded[i] - ((w.shape[2 + i] - 1) * dilation[i] + 1)) // strides[i] + 1 for i in spatial]
    result = np.zeros((x.shape[0], w.shape[0], *sizes))
    for n, o, c in itertools.product(range(x.shape[0]), range(w.shape[0]), range(x.shape[1])):
        for p in itertools.product(*map(range, sizes)):
            for k in itertools.product(*map(range, w.shape[2:])):
                place = [p[i] * strides[i] + k[i] * dilation[i] - padding[i][0] for i in spatial]
                if any(a % g for a, g in zip(place, x_dilation, strict=True)):
                    continue
                place = [a // g for a, g in zip(place, x_dilation, strict=True)]
                if all(0 <= a < n for a, n in zip(place, x.shape[2:], strict=True)):
                    result[(n, o, *p)] += x[(n, c, *place)] * w[(o, c, *k)]
    return result


@given(data=st.data())
def test_convolution_by_definition(data: st.DataObject) -> None:
    """Any combination of numbers, in one and two dimensions; value, structure and both transposes."""
    rank = data.draw(st.integers(1, 2))
    each = lambda low, high: tuple(data.draw(st.integers(low, high)) for _ in range(rank))  # noqa: E731
    strides, dilation, x_dilation = each(1, 3), each(1, 3), each(1, 2)
    padding = tuple((data.draw(st.integers(-1, 2)), data.draw(st.integers(-1, 2))) for _ in range(rank))
    window = each(1, 3)
    # At least one window, so that the definition has something to say.
    least = [
        -(-((k - 1) * d - low - high) // g) + 1
        for k, d, g, (low, high) in zip(window, dilation, x_dilation, padding, strict=True)
    ]
    extents = tuple(max(n, 1) + data.draw(st.integers(0, 3)) for n in least)
    x, w = small(2, 2, *extents), small(3, 2, *window, seed=1)
    letters = "hw"[:rank]
    params = typed(x, "x"), typed(w, "w")
    op = Conv(*params, f"NI{letters},OI{letters}->NO{letters}", strides, padding, dilation, x_dilation)
    want = by_definition(x, w, (strides, padding, dilation, x_dilation))
    agree(op.evaluate(x, w), want)
    structure = op.structure()
    assert structure is not None
    agree(interpret(structure, (x, w)), want)
    cotangent = Parameter("c", op.tensor)
    c = small(*want.shape, seed=2)
    for operand, v in ((0, x), (1, w)):
        back = op.transpose(cotangent, operand)
        assert back is not None and back.type == params[operand].type
        (pulled,) = evaluate(Graph("back", (*params, cotangent), (back,)), x, w, c)
        assert np.sum(pulled * v) == np.sum(want * c)


def test_transposes_of_a_convolution_are_convolutions() -> None:
    """Closed under transposition, so that a second derivative needs no third kind of op: grouped and dilated
    included.
    """
    x, w = parameter("f64[2,3,2,7,6]"), parameter("f64[3,4,2,3,2]", "w")
    op = Conv(x, w, "NGIhw,GOIhw->NGOhw", (2, 1), ((1, 2), (0, -1)), (1, 2), (2, 1))
    for operand in (0, 1):
        back = op.transpose(Parameter("c", op.tensor), operand)
        assert isinstance(back, Conv)
        twice = back.transpose(Parameter("d", back.tensor), operand)
        assert isinstance(twice, Conv) and twice.type == op.type
        for name in ("strides", "dilation", "x_dilation", "spec"):
            assert getattr(twice, name) == getattr(op, name)
        assert [low for low, _ in twice.padding] == [low for low, _ in op.padding]


def test_transposes_have_symbolic_padding() -> None:
    """The padding that restores the operand's size may depend on names; where it does not, it is a number."""
    op = Conv(parameter("f32[B,3,H]"), parameter("f32[4,3,3]"), "NIw,OIw->NOw", padding=((1, 1),))
    back = op.transpose(Parameter("c", op.tensor), 0)
    assert isinstance(back, Conv) and back.type == op.x.type and back.padding == ((1, 1),)
    strided = Conv(parameter("f64[B,2,H]"), parameter("f64[3,2,3]", "w"), "NIw,OIw->NOw", (2,), ((1, 0),))
    x, w = small(2, 2, 6), small(3, 2, 3)
    c = Parameter("c", strided.tensor)
    cotangent = small(2, 3, 3, seed=4)
    for operand, v in ((0, x), (1, w)):
        back = strided.transpose(c, operand)
        assert back is not None and back.type == strided.operands[operand].type
        graph = Graph("back", (strided.x, strided.w, c), (back,))  # type: ignore[arg-type]
        (pulled,) = evaluate(graph, x, w, cotangent)
        assert np.sum(pulled * v) == np.sum(by_definition(x, w, ((2,), ((1, 0),), (1,), (1,))) * cotangent)


def test_groups_are_blocks_of_channels() -> None:
    """What `groups` means elsewhere: each block of channels is convolved alone. Nothing but shapes may
    change.
    """
    x, w = small(2, 6, 5, 4), small(9, 2, 3, 3, seed=1)
    got = run(lambda a, b: conv(a, b, padding=((1, 1), (0, 0)), groups=3), x, w)
    numbers = ((1, 1), ((1, 1), (0, 0)), (1, 1), (1, 1))
    want = np.concatenate(
        [by_definition(x[:, 2 * g : 2 * g + 2], w[3 * g : 3 * g + 3], numbers) for g in range(3)], axis=1
    )
    agree(got, want)
    last = run(
        lambda a, b: conv(a, b, padding=((1, 1), (0, 0)), groups=3, layout="NHWC,HWIO->NHWC"),
        np.ascontiguousarray(x.transpose(0, 2, 3, 1)),
        np.ascontiguousarray(w.transpose(2, 3, 1, 0)),
    )
    agree(last, np.ascontiguousarray(want.transpose(0, 2, 3, 1)))


def test_layouts_name_windows_in_the_order_of_x() -> None:
    """`strides` belong to H and W as x has them, whatever the other parts do and whatever the letters are."""
    x, w = small(1, 2, 6, 5), small(3, 2, 2, 3, seed=1)
    want = by_definition(x, w, ((2, 1), ((0, 0), (1, 0)), (1, 1), (1, 1)))
    agree(run(lambda a, b: conv(a, b, (2, 1), ((0, 0), (1, 0)), layout="NCWH,OIWH->NCWH"), x, w), want)
    agree(
        run(
            lambda a, b: conv(a, b, (2, 1), ((0, 0), (1, 0)), layout="NC01,OI10->N0C1"),
            x,
            w.transpose(0, 1, 3, 2).copy(),
        ),
        want.transpose(0, 2, 1, 3).copy(),
    )


def test_specs_are_read_or_explained() -> None:
    """The spec is a word of the graph's text; whoever mistypes it should learn where."""
    read = conv_axes("NGIhw,GOIhw->NGOhw")
    assert not isinstance(read, str)
    assert (read.windows, read.contracted) == ("hw", "I")
    for spec, what in (
        ("NIhw", "should read like"), ("NIhw,OIhw", "should read like"), ("N1,O1->NO", "should read like"),
        ("NIIh,OIh->NOh", "repeats"), ("NIhw,OIh->NOhw", "all three"), ("NIh,OIh->NOhZ", "one part only"),
    ):  # fmt: skip
        found = conv_axes(spec)
        assert isinstance(found, str) and what in found


def test_complex_transposes_do_not_conjugate() -> None:
    """Cotangents pair by Re(a*b), so the transpose of a product is the product with the other factor as it
    stands.
    """
    x, w = parameter("c128[1,1,2]"), parameter("c128[1,1,2]", "w")
    op = Conv(x, w, "NIw,OIw->NOw")
    cotangent = Parameter("c", op.tensor)
    back = op.transpose(cotangent, 0)
    assert back is not None
    weights = np.array([[[1j, 2.0]]])
    (pulled,) = evaluate(Graph("back", (w, cotangent), (back,)), weights, np.array([[[1.0 + 0j]]]))
    agree(pulled, weights)


# --- windows
# ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind_", ["sum", "max", "min", "prod"])
def test_windows_are_numpys_sliding_windows(kind_: str) -> None:
    """Without padding, `sliding_window_view` and a stride say what is combined."""
    x = small(2, 7, 6)
    view = np.lib.stride_tricks.sliding_window_view(x, (3, 2), axis=(1, 2))[:, ::2, ::3]
    want = {"sum": np.sum, "max": np.max, "min": np.min, "prod": np.prod}[kind_](view, axis=(3, 4))
    agree(run(lambda v: ReduceWindow(v, kind_, (1, 3, 2), (1, 2, 3)), x), want)  # type: ignore[arg-type]


def test_padding_is_the_identity() -> None:
    """Padding a maximum with zeros would hide that everything is negative."""
    x = -np.ones((1, 3))
    agree(run(lambda v: ReduceWindow(v, "max", (1, 3), (1, 3), ((0, 0), (1, 2))), x), -np.ones((1, 2)))
    agree(run(lambda v: ReduceWindow(v, "sum", (1, 2), (1, 2), ((0, 0), (1, 0))), x), np.array([[-1.0, -2]]))


def test_max_pooling_sends_the_cotangent_to_the_first_maximum() -> None:
    """One place per window, also when neighbouring windows share it; sums where several chose it."""
    x, t, c = parameter("f64[5]"), Parameter("t", kind("f64[5]")), Parameter("c", kind("f64[3]"))
    op = ReduceWindow(x, "max", (3,))
    tangent = op.jvp((t,))
    assert isinstance(tangent, TakeWindow)
    back = tangent.transpose(c, 0)
    assert isinstance(back, SpreadWindow)
    (got,) = evaluate(Graph("back", (x, c), (back,)), np.array([1.0, 5, 5, 2, 3]), np.array([1.0, 10, 100]))
    agree(got, np.array([0.0, 11, 100, 0, 0]))


def test_choices_count_offsets_row_major() -> None:
    """Kernels store offsets, not places: they fit 32 bits whatever the operand's size."""
    x = np.array([[1.0, 2, 9], [7, 3, 4]])
    agree(run(lambda v: ArgWindow(v, True, (2, 2)), x), np.array([[2, 1]], np.int32))
    agree(run(lambda v: ArgWindow(v, False, (2, 3)), x), np.array([[0]], np.int32))


def test_symbolic_windows() -> None:
    """(W + 2p - k) // s + 1, and what the entry must check."""
    op = ReduceWindow(parameter("f32[B,H]"), "max", (1, 3), (1, 2), ((0, 0), (1, 1)))
    assert str(op.type) == "f32[B,(H + 1) // 2]"
    assert op.requires() == ((0, op.shape[0]), (0, op.shape[1]))


@pytest.mark.parametrize("height", [2, 3, 4, 7])
def test_derivatives_of_symbolic_windows_read_back(height: int) -> None:
    """Sizes under strides make paddings and bounds that depend on names, in texts too, even where no window fits."""
    x, t = parameter("f64[B,H]"), parameter("f64[B,H]", "t")
    for kind_ in ("sum", "max", "prod"):
        op = ReduceWindow(x, kind_, (1, 3), (1, 2))  # type: ignore[arg-type]
        found = op.jvp((t,))
        assert isinstance(found, Value) and found.type == op.type
        graph = Graph("tangent", (x, t), (op, found), (DimName("B"), DimName("H")))
        again = parse_graph(show(graph))
        assert show(again) == show(graph)
        a, b = small(2, height), small(2, height, seed=1)
        value, slope = evaluate(again, a, b)
        step = 1e-6
        ahead, _ = evaluate(graph, a + step * b, b)
        if kind_ != "max":  # whole numbers tie, and the first maximum need not be the one that grows
            np.testing.assert_allclose((ahead - value) / step, slope, atol=1e-4)


F = "f32[3,4]"


@pytest.mark.parametrize(
    ("make", "code", "error"),
    [
        (lambda: Dot(parameter(F), parameter("f64[4,5]"), (), (), (1,), (0,)), "TD0160", TypeMismatch),
        (lambda: Dot(parameter("f8e5m2[3]"), parameter("f8e5m2[3]"), (), (), (0,), (0,)), "TD0160", TypeMismatch),
        (lambda: Dot(parameter("u8[3]"), parameter("i8[3]"), (), (), (0,), (0,)), "TD0160", TypeMismatch),
        (lambda: Dot(parameter("i32[3]"), parameter("i32[3]"), (), (), (0,), (0,), i8), "TD0160", TypeMismatch),
        (lambda: Dot(parameter("i8[3]"), parameter("u8[3]"), (), (), (0,), (0,), u8), "TD0160", TypeMismatch),
        (lambda: Dot(parameter("i8[3]"), parameter("i8[3]"), (), (), (0,), (0,), f64), "TD0160", TypeMismatch),
        (lambda: Dot(parameter("f16[3]"), parameter("bf16[3]"), (), (), (0,), (0,), f32), "TD0160", TypeMismatch),
        (lambda: Dot(parameter(F), parameter(F), (), (), (1,), (1, 0)), "TD0161", InvalidValue),
        (lambda: Dot(parameter(F), parameter(F), (0,), (0,), (0,), (1,)), "TD0161", InvalidValue),
        (lambda: Dot(parameter(F), parameter(F), (), (), (2,), (1,)), "TD0121", InvalidValue),
        (lambda: Dot(parameter(F), parameter(F), (), (), (1,), (0,)), "TD0162", ShapeMismatch),
        (lambda: Dot(parameter("f32[B,3]"), parameter("f32[C,3]"), (0,), (0,), (1,), (1,)), "TD0162", ShapeMismatch),
        (lambda: Conv(parameter("f32[1,2,5]"), parameter("f32[3,2,3]"), "NIw,OIw"), "TD0163", InvalidValue),
        (lambda: Conv(parameter("f32[1,2,5]"), parameter("f32[3,2,3]"), "NIhw,OIhw->NOhw"), "TD0164", ShapeMismatch),
        (lambda: Conv(parameter("f32[1,2,5]"), parameter("f32[3,4,3]"), "NIw,OIw->NOw"), "TD0164", ShapeMismatch),
        (
            lambda: Conv(parameter("f32[1,2,5]"), parameter("f32[3,2,3]"), "NIw,OIw->NOw", (1, 1)),
            "TD0165",
            InvalidValue,
        ),
        (lambda: Conv(parameter("f32[1,2,5]"), parameter("f32[3,2,3]"), "NIw,OIw->NOw", (0,)), "TD0165", InvalidValue),
        (lambda: Conv(parameter("f32[1,2,1]"), parameter("f32[3,2,4]"), "NIw,OIw->NOw"), "TD0166", ShapeMismatch),
        (
            lambda: conv(parameter("f32[1,3,5]"), parameter("f32[4,1,3]"), groups=2, layout="NCW,OIW->NCW"),
            "TD0164",
            ShapeMismatch,
        ),
        (lambda: conv(parameter("f32[1,3,5]"), parameter("f32[4,3,3]"), layout="NCW,OIW"), "TD0163", InvalidValue),
        (lambda: ReduceWindow(parameter(F), "mean", (1, 2)), "TD0167", InvalidValue),  # type: ignore[arg-type]
        (lambda: ReduceWindow(parameter(F), "max", (2,)), "TD0165", InvalidValue),
        (lambda: ReduceWindow(parameter(F), "max", (0, 1)), "TD0165", InvalidValue),
        (lambda: ReduceWindow(parameter(F), "max", (6, 1)), "TD0166", ShapeMismatch),
        (lambda: ReduceWindow(parameter("c64[3]"), "max", (2,)), "TD0114", TypeMismatch),
        (lambda: ArgWindow(parameter("c64[3]"), True, (2,)), "TD0114", TypeMismatch),
        (lambda: TakeWindow(parameter(F), parameter("i64[3,4]"), (1, 1)), "TD0169", ShapeMismatch),
        (lambda: SpreadWindow(parameter(F), parameter("i32[3,4]"), (3, 5), (1, 1)), "TD0169", ShapeMismatch),
    ],
)
def test_errors_say_whose_line(make: Callable[[], Value], code: str, error: type[TreadleError]) -> None:
    """A wrong program fails where it was written, with a code that stays."""
    with at(Origin(HERE, 1)), pytest.raises(error) as caught:
        make()
    assert caught.value.code == code
    assert caught.value.location == HERE


def test_wide_sums() -> None:
    """Every pair that `accumulate` allows has a signed sum where one operand is signed."""
    for x, y, sums in (("u8", "i8", i32), ("u8", "u8", i32), ("i16", "i8", i64), ("f32", "f32", f64)):
        assert Dot(parameter(f"{x}[3]"), parameter(f"{y}[3]"), (), (), (0,), (0,), sums).dtype is sums
