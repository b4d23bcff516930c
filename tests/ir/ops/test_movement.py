"""Ops that move elements: random shapes against loops in Python, positions that stay affine, sizes, errors.

What is true of all ops is tested in `test_table.py`; here the oracle is NumPy's indexing, or every element by hand.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from interpret import interpret
from sample import kind

from treadle.ir.dims import Atom, SymbolicDim, evaluate, names, substitute
from treadle.ir.errors import TreadleError
from treadle.ir.evaluate import evaluate as run
from treadle.ir.graph import Graph
from treadle.ir.location import Location, Origin, at
from treadle.ir.loops.nodes import Select
from treadle.ir.ops.movement import Broadcast, Concatenate, Copy, Iota, Pad, Reshape, Reverse, Slice, Transpose
from treadle.ir.types import TensorType
from treadle.ir.value import Full, Parameter, Value


def param(text: str, label: str = "x") -> Parameter:
    return Parameter(label, kind(text))


def both(value: Value, *arrays: np.ndarray, **sizes: int) -> np.ndarray:
    """The value by its reference, after its structure has given the same."""
    graph = Graph("g", tuple(v for v in value.operands if isinstance(v, Parameter)), (value,))
    (want,) = run(graph, *arrays[: len(graph.params)])
    structure = value.structure()
    assert structure is not None
    np.testing.assert_array_equal(interpret(structure, arrays, sizes), want)
    return want


small = st.integers(0, 4)


@st.composite
def two_shapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes of one size: factors dealt out twice, with ones and an occasional zero between."""
    factors = draw(st.lists(st.sampled_from([1, 2, 2, 3, 5]), max_size=5))
    if draw(st.integers(0, 9)) == 0:
        factors.append(0)

    def deal() -> tuple[int, ...]:
        dealt = draw(st.permutations(factors))
        cuts = sorted(draw(st.lists(st.integers(0, len(dealt)), max_size=4)))
        return tuple(math.prod(dealt[a:b]) for a, b in itertools.pairwise([0, *cuts, len(dealt)]))

    return deal(), deal()


@given(two_shapes())
def test_reshape_keeps_the_row_major_order(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Positions are found group by group; every way of cutting two shapes into groups must meet NumPy's one order."""
    before, after = shapes
    x = np.arange(math.prod(before), dtype=np.int64).reshape(before)
    value = Reshape(Parameter("x", TensorType(before, kind("i64[]").dtype)), after)
    np.testing.assert_array_equal(both(value, x), x.reshape(after))


def divisions(index: tuple[int | SymbolicDim, ...]) -> int:
    """How many divisions the positions hold."""
    factors = [f for dim in index if isinstance(dim, SymbolicDim) for term, _ in dim.terms for f in term]
    return sum(isinstance(factor, Atom) for factor in factors)


@pytest.mark.parametrize(
    ("before", "after", "most"),
    [
        ("f32[2,3]", "f32[2,1,3,1]", 0),
        ("f32[1,2,1,3]", "f32[2,3]", 0),
        ("f32[6]", "f32[2,3]", 0),
        ("f32[4*B,6]", "f32[B,4,2,3]", 0),
        ("f32[2,3]", "f32[6]", 2),
        ("f32[5,2,3,7]", "f32[5,6,7]", 2),
        ("f32[B,C,8]", "f32[B*C,8]", 2),
        ("f32[B,H,64]", "f32[B,64*H]", 2),
    ],
)
def test_reshape_divides_no_more_than_it_must(before: str, after: str, most: int) -> None:
    """Splitting an axis and moving ones are free; joining axes costs one division and one remainder of that position
    alone. A reshape that divided the whole linear position would keep every fused reader from vectorizing."""
    structure = Reshape(param(before), kind(after).shape).structure()
    assert structure is not None
    (read,) = structure.reads
    assert divisions(read.index) <= most
    assert read.fill is None


@given(st.data())
def test_pad_puts_every_element_where_it_belongs(data: st.DataObject) -> None:
    """Low, high and interior padding, negative ones included, against one element at a time."""
    rank = data.draw(st.integers(0, 3))
    shape = tuple(data.draw(small) for _ in range(rank))
    low, interior = [tuple(data.draw(st.integers(-3 * k, 3)) for _ in range(rank)) for k in (1, 0)]
    inner = [max((n - 1) * (gap + 1) + 1, 0) if n else 0 for n, gap in zip(shape, interior, strict=True)]
    high = tuple(data.draw(st.integers(max(-3, -n - a), 9)) for n, a in zip(inner, low, strict=True))
    x = np.arange(1, math.prod(shape) + 1, dtype=np.int64).reshape(shape)
    type_ = TensorType(shape, kind("i64[]").dtype)
    want = np.full([a + n + b for a, n, b in zip(low, inner, high, strict=True)], -7)
    for place in np.ndindex(*shape):
        target = tuple(a + p * (gap + 1) for a, p, gap in zip(low, place, interior, strict=True))
        if all(0 <= t < n for t, n in zip(target, want.shape, strict=True)):
            want[target] = x[place]
    fixed = Pad(Parameter("x", type_), Full(-7, type_.with_shape(())), low, high, interior)
    computed = Pad(Parameter("x", type_), Parameter("v", type_.with_shape(())), low, high, interior)
    np.testing.assert_array_equal(both(fixed, x), want)
    np.testing.assert_array_equal(both(computed, x, np.asarray(-7)), want)


@given(st.data())
def test_slice_and_its_transpose_are_inverse_on_what_was_taken(data: st.DataObject) -> None:
    """The cotangent of a slice has the operand's shape whatever the step leaves over at the end."""
    shape = tuple(data.draw(st.integers(0, 7)) for _ in range(data.draw(st.integers(0, 3))))
    start = tuple(data.draw(st.integers(0, n)) for n in shape)
    stop = tuple(data.draw(st.integers(a, n)) for a, n in zip(start, shape, strict=True))
    step = tuple(data.draw(st.integers(1, 4)) for _ in shape)
    x = np.arange(1, math.prod(shape) + 1, dtype=np.int64).reshape(shape)
    operand = Parameter("x", TensorType(shape, kind("i64[]").dtype))
    value = Slice(operand, start, stop, step)
    taken = both(value, x)
    where = tuple(slice(*bound) for bound in zip(start, stop, step, strict=True))
    np.testing.assert_array_equal(taken, x[where])
    back = value.transpose(cotangent := Parameter("c", value.tensor), 0)
    assert back is not None and back.type == operand.type
    want = np.zeros_like(x)
    want[where] = taken
    np.testing.assert_array_equal(run(Graph("g", (cotangent,), (back,)), taken)[0], want)
    into = Parameter("into", operand.given)
    added = value.accumulate_transpose(into, cotangent, 0)
    assert added.type == operand.type
    np.testing.assert_array_equal(run(Graph("g", (into, cotangent), (added,)), x, taken)[0], x + want)


@pytest.mark.parametrize(
    "value",
    [
        Broadcast(param("f32[B]"), kind("f32[3,B,C]").shape, (1,)),
        Reshape(param("f32[B,4]"), kind("f32[2*B,2]").shape),
        Transpose(param("f32[B,C,2]"), (2, 0, 1)),
        Slice(param("f32[B]"), (0,), kind("f32[B]").shape, (3,)),
        Slice(param("f32[B,C]"), kind("f32[B//2,0]").shape, kind("f32[B,C]").shape, (2, 1)),
        Pad(param("f32[B]"), Full(0, kind("f32[]")), (1,), (2,), (3,)),
        Pad(param("f32[B+2]"), Full(0, kind("f32[]")), (-1,), kind("f32[B]").shape, (2,)),
        Concatenate((param("f32[B,2]"), param("f32[C,2]")), 0),
        Reverse(param("f32[B]"), (0,)),
        Copy(param("f32[B]")),
    ],
    ids=lambda value: value.name,
)
def test_cotangents_of_symbolic_shapes_have_the_operands_type(value: Value) -> None:
    """Types are compared by normal form: a size that only equals the operand's for every B would be an error in reverse
    mode, at a line the user did not write."""
    cotangent = Parameter("c", value.tensor)
    for i, operand in enumerate(value.operands):
        back = value.transpose(cotangent, i)  # type: ignore[attr-defined]
        assert back is not None and back.type == operand.type


def test_requirements_name_what_sizes_must_keep() -> None:
    """x[:3] of f32[B] is in bounds for B >= 3 alone: who knows the promises about B checks these pairs, and nothing
    else stands between native code and memory that is not its own."""
    value = Slice(param("f32[B,4]"), (0, 1), (3, 4), (1, 1))
    pairs = value.requires()
    assert {"B"} == {name for a, b in pairs for name in (*names(a), *names(b))}
    assert all(evaluate(a, {"B": 3}) <= evaluate(b, {"B": 3}) for a, b in pairs)
    assert not all(evaluate(a, {"B": 2}) <= evaluate(b, {"B": 2}) for a, b in pairs)
    crop = Pad(param("f32[B]"), Full(0, kind("f32[]")), (-2,), (-1,), (0,))
    assert [evaluate(b, {"B": 2}) - evaluate(a, {"B": 2}) for a, b in crop.requires()] == [-1]
    with pytest.raises(TreadleError, match="TD0138"):
        run(Graph("g", (value.x,), (value,)), np.zeros((2, 4), np.float32))  # type: ignore[arg-type]


def test_joining_many_nests_few_selects() -> None:
    """np.stack of a list of a thousand is common; its body must stay shallow enough to walk."""
    xs = tuple(param(f"i64[{1 + i % 3}]", f"x{i}") for i in range(200))
    arrays = [np.arange(1 + i % 3) + 10 * i for i in range(200)]
    value = Concatenate(xs, 0)
    both(value, *arrays)

    def depth(x: object) -> int:
        return 1 + max(depth(x.x), depth(x.y)) if isinstance(x, Select) else 0

    structure = value.structure()
    assert structure is not None and depth(structure.body[0]) <= 8


def test_a_constant_padding_is_a_fill() -> None:
    """Zero padding is everywhere; it must cost a bound check, not a read and a select."""
    fixed = Pad(param("f32[4]"), Full(0, kind("f32[]")), (1,), (1,), (0,)).structure()
    computed = Pad(param("f32[4]"), param("f32[]", "v"), (1,), (1,), (0,)).structure()
    assert fixed is not None and computed is not None
    assert (len(fixed.reads), len(computed.reads)) == (1, 2)


def test_axes_are_kept_counted_from_the_front() -> None:
    """Passes compare attributes: -1 and 2 must not be two spellings of one op."""
    assert Transpose(param("f32[2,3,4]"), (-1, 0, 1)).permutation == (2, 0, 1)
    assert Concatenate((param("f32[2,3]"),), -1).axis == 1
    assert Reverse(param("f32[2,3]"), (-1, 0)).axes == (0, 1)
    assert Broadcast(param("f32[3]"), (2, 3), (-1,)).axes == (1,)
    assert Iota(kind("i32[2,3]"), -1).axis == 1


X = "f32[2,3]"
NOTHING = Full(0, kind("f32[]"))

# An op that cannot be built, its code, and a word of the message.
REFUSED: list[tuple[Callable[[], Value], str, str]] = [
    (lambda: Broadcast(param(X), (2, 3), (0,)), "TD0134", "for each of 2"),
    (lambda: Broadcast(param(X), (3, 2), (1, 0)), "TD0134", "increasing"),
    (lambda: Broadcast(param("f32[3]"), (), (0,)), "TD0134", "one of 0 axes"),
    (lambda: Broadcast(param(X), (2, 3), (0, 2)), "TD0121", "axis 2"),
    (lambda: Broadcast(param("f32[1]"), (3,), (0,)), "TD0135", "axis 0"),
    (lambda: Broadcast(param("f32[B]"), kind("f32[C]").shape, (0,)), "TD0135", r"f32\[B\].*\(C\)"),
    (lambda: Broadcast(param("f32[]"), (-1,), ()), "TD0147", "-1"),
    (lambda: Reshape(param(X), (7,)), "TD0136", "6 elements.*7"),
    (lambda: Reshape(param("f32[B,4]"), kind("f32[C,4]").shape), "TD0136", r"4\*B elements.*4\*C"),
    (lambda: Reshape(param("f32[0]"), (0, -2)), "TD0147", "-2"),
    (lambda: Transpose(param(X), (0, 0)), "TD0137", "each of 2 axes once"),
    (lambda: Transpose(param(X), (0,)), "TD0137", "each of 2 axes once"),
    (lambda: Transpose(param(X), (0, 2)), "TD0121", "axis 2"),
    (lambda: Slice(param(X), (0,), (2,), (1,)), "TD0138", "for 2 axes"),
    (lambda: Slice(param(X), (0, 0), (2, 4), (1, 1)), "TD0138", "0:4 is not inside axis 1 of size 3"),
    (lambda: Slice(param(X), (-1, 0), (2, 3), (1, 1)), "TD0138", "-1:2"),
    (lambda: Slice(param("f32[B]"), (0,), kind("f32[B+1]").shape, (1,)), "TD0138", "axis 0 of size B"),
    (lambda: Slice(param(X), (0, 0), (2, 3), (1, 0)), "TD0139", "step 0 of axis 1"),
    (lambda: Pad(param(X), NOTHING, (0,), (0,), (0,)), "TD0140", "for 2 axes"),
    (lambda: Pad(param("f32[3]"), NOTHING, (0,), (0,), (-1,)), "TD0140", "negative"),
    (lambda: Pad(param("f32[3]"), NOTHING, (-2,), (-2,), (0,)), "TD0141", "-1"),
    (lambda: Pad(param("f32[3]"), Full(0, kind("i32[]")), (0,), (0,), (0,)), "TD0142", "i32"),
    (lambda: Pad(param("f32[3]"), Full(0, kind("f32[1]")), (0,), (0,), (0,)), "TD0142", r"f32\[1\]"),
    (lambda: Concatenate((), 0), "TD0143", "nothing"),
    (lambda: Concatenate((param(X), param("f32[2,3,1]")), 0), "TD0144", "differ"),
    (lambda: Concatenate((param(X), param("f32[2,4]")), 0), "TD0144", "axis 0"),
    (lambda: Concatenate((param(X), param("i32[2,3]")), 0), "TD0115", "f32 and i32"),
    (lambda: Concatenate((param("f32[]"),), 0), "TD0121", "rank 0"),
    (lambda: Reverse(param(X), (1, -1)), "TD0122", "repeat"),
    (lambda: Reverse(param(X), (2,)), "TD0121", "axis 2"),
    (lambda: Iota(kind("f32[]"), 0), "TD0121", "rank 0"),
    (lambda: Iota(kind("bool[3]"), 0), "TD0114", "bool"),
]


@pytest.mark.parametrize(("make", "code", "words"), REFUSED)
def test_wrong_shapes_are_refused_where_they_were_written(make: Callable[[], Value], code: str, words: str) -> None:
    """An error names what was asked and found, has a stable code, and stands at the user's line."""
    with at(Origin(Location("net.py", 12, "loss"))), pytest.raises(TreadleError, match=words) as caught:
        make()
    assert caught.value.code == code
    assert "net.py:12" in str(caught.value)


def test_substitution_commutes_with_building() -> None:
    """The evaluator, and a specialised compile, put numbers for names into a built op: the result must be what would
    have been built from the numbers."""
    symbolic = Slice(param("f32[B]"), (1,), kind("f32[B]").shape, (2,))
    for b in range(1, 8):
        known = Slice(param(f"f32[{b}]"), (1,), (b,), (2,))
        assert tuple(substitute(dim, {"B": b}) for dim in symbolic.shape) == known.shape
