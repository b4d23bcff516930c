"""Sizes by formula, and how they follow from the arguments."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.runtime.errors import ArgumentValueError, BadArtifact
from treadle.runtime.signature import DTYPES, Dim, Signature, Tensor, compile_formula, dtype_of, name_of

f32 = np.dtype(np.float32)


def signature(
    *inputs: tuple[int | str, ...], outputs: tuple[tuple[int | str, ...], ...] = (), **dims: Dim
) -> Signature:
    names = sorted({c for shape in inputs for size in shape if isinstance(size, str) for c in size if c.isupper()})
    return Signature(
        [Tensor(f"args[{n}]", f32, shape) for n, shape in enumerate(inputs)],
        [Tensor(f"results[{n}]", f32, shape) for n, shape in enumerate(outputs)],
        [dims.get(name, Dim(name)) for name in names],
    )


@pytest.mark.parametrize(
    ("inputs", "shapes", "dims"),
    [
        ([("B", 4)], [(7, 4)], [7]),
        ([("2*B + 1",)], [(9,)], [4]),
        ([("B*T",), ("B",)], [(12,), (3,)], [3, 4]),
        ([("B*T",), ("T + B",), ("B",)], [(12,), (7,), (3,)], [3, 4]),
        ([("B",), ("(B + 3) // 2",), ("B % 4",), ("min(B, 5)",), ("-B + 20",)], [(9,), (6,), (1,), (5,), (11,)], [9]),
        ([("B*B",), ("B",)], [(9,), (3,)], [3]),
        ([("B",)], [(0,)], [0]),
    ],
)
def test_dims_follow_from_shapes(
    inputs: list[tuple[int | str, ...]], shapes: list[tuple[int, ...]], dims: list[int]
) -> None:
    """Any extent that is affine in one unknown gives it, in whatever order the arguments come."""
    assert signature(*inputs).solve(shapes) == dims


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 9), st.integers(0, 9), st.permutations(range(3)))
def test_solving_inverts_evaluating(b: int, t: int, factor: int, offset: int, order: list[int]) -> None:
    """Whatever the dims were, their extents give them back."""
    shapes = [("B*T",), (f"{factor}*B + {offset}",), ("T + 2*B",)]
    extents = [(b * t,), (factor * b + offset,), (t + 2 * b,)]
    assert signature(*[shapes[i] for i in order]).solve([extents[i] for i in order]) == [b, t]


@pytest.mark.parametrize(
    ("inputs", "shapes", "said"),
    [
        ([("B",), ("B", 4)], [(3,), (5, 4)], r"TD0944.*args\[1\] \(axis 0\) has 5, expected B = 3; B = 3 by args\[0\]"),
        ([("2*B",)], [(9,)], r"TD0944.*args\[0\] \(axis 0\) has 9: 2\*B for no whole B"),
        ([("B",), ("B*T",)], [(0,), (0,)], r"TD0944.*args\[1\]"),
        ([("B",), ("(B + 3) // 2",)], [(9,), (7,)], r"TD0944.*has 7, expected \(B \+ 3\) // 2 = 6; B = 9"),
        ([("B",), ("8 // B",)], [(0,), (7,)], r"TD0944.*8 // B divides by zero for B = 0"),
        ([("B + 3",)], [(1,)], r"TD0945.*makes B = -2, which was promised to be at least 0"),
    ],
)
def test_arguments_that_disagree_are_named(
    inputs: list[tuple[int | str, ...]], shapes: list[tuple[int, ...]], said: str
) -> None:
    """The message says which argument made the dim what it is, and which one does not fit."""
    with pytest.raises(ArgumentValueError, match=said):
        signature(*inputs).solve(shapes)


def test_promises_are_checked() -> None:
    """Native code was compiled on them: a tail that was promised away does not exist."""
    s = signature(("B",), B=Dim("B", 8, 64, 8))
    assert s.solve([(16,)]) == [16]
    for extent, said in ((4, r"in \[8, 64\]"), (72, r"in \[8, 64\]"), (20, "a multiple of 8")):
        with pytest.raises(ArgumentValueError, match=f"TD0945.*B = {extent}, which was promised to be {said}"):
            s.solve([(extent,)])


def test_a_dim_that_no_argument_gives_is_refused_at_once() -> None:
    """Not at the first call."""
    for shapes in ([("B*T",)], [("B // 2",)], [("B*B",)]):
        with pytest.raises(ArgumentValueError, match=r"TD0940.*B"):
            signature(*shapes)


def test_outputs_have_the_shapes_of_their_formulas() -> None:
    """Convolutions and paddings make such shapes."""
    s = signature(("B", "W"), outputs=(("B", "(W + 2*1 - 3) // 2 + 1"), (3,), ("max(B, W)",)))
    assert s.output_shapes(s.solve([(4, 11)])) == [(4, 6), (3,), (11,)]


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "B.real", "B if B else 1", "[B]", "B ** 2", "B / 2", "min()", "min(B, key=B)", "B +", "'x'",
     "lambda: 1", "1.5", "C", "B := 3", "True and B", "min", "min + 1"],
)  # fmt: skip
def test_only_formulas_are_formulas(text: str) -> None:
    """A manifest comes from a file: nothing but arithmetic may be in its formulas."""
    with pytest.raises(BadArtifact, match="TD0961"):
        compile_formula(text, ["B"])


@pytest.mark.parametrize("name", ["in", "2B", "min", "B: print", ""])
def test_only_names_are_names_of_dims(name: str) -> None:
    """For the same reason."""
    with pytest.raises(BadArtifact, match="TD0961"):
        Signature([Tensor("x", f32, (3,))], [], [Dim(name)])


def test_the_manifest_says_everything() -> None:
    """A saved model is called by what its manifest says."""
    s = Signature(
        [Tensor("params['w']", f32, ("B", 4)), Tensor("n", np.dtype(np.int64), ())],
        [Tensor("result", np.dtype(np.complex128), ("2*B",))],
        [Dim("B", 1, 8, 2)],
        donated=[(0, 0)],
        lenient=True,
    )
    back = Signature.from_manifest(json.loads(json.dumps(s.to_manifest())))
    assert (back.inputs, back.outputs, back.dims) == (s.inputs, s.outputs, s.dims)
    assert (back.donated, back.lenient) == (s.donated, s.lenient)


def test_every_element_type_has_one_name() -> None:
    """The names in texts and NumPy's, both ways, including those of ml_dtypes."""
    import ml_dtypes

    assert np.dtype(ml_dtypes.bfloat16) == dtype_of("bf16")
    for name in DTYPES:
        assert name_of(dtype_of(name)) == name
    with pytest.raises(BadArtifact, match="TD0960"):
        dtype_of("f7")
