"""Index arithmetic: what is claimed of an index holds in every iteration, found by running the nest."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.ir.dims import DimName, ceildiv, evaluate, maximum, minimum, names, substitute, symbol
from treadle.ir.loops.affine import (
    coefficient,
    delinearize,
    depends,
    divisible,
    linearize,
    reach,
    simplify,
    split,
    strides,
    within,
)

i, j, k, N, T = (symbol(name) for name in "ijkNT")


def iterations(ranges, sizes):
    """Every assignment that the nest goes through, inner ranges depending on outer variables."""
    if not ranges:
        yield dict(sizes)
        return
    *outer, inner = ranges.items()
    for at in iterations(dict(outer), sizes):
        var, (low, high) = inner
        for value in range(evaluate(low, at), evaluate(high, at)):
            yield {**at, var: value}


# The nests a schedule makes: plain, tiled with a tail, triangular, shifted.
NESTS = [
    {"i": (0, N), "j": (0, T)},
    {"i": (0, ceildiv(N, 4)), "j": (0, minimum(4, N - 4 * i))},
    {"i": (0, N), "j": (0, i + 1)},
    {"i": (2, N + 2), "j": (i, i + 8)},
    {"i": (0, 6), "j": (0, 4)},
]

slopes = st.sampled_from((0, 1, 2, 4, 8, -1, -3, N, T, N + 1, -T))
constants = st.sampled_from((0, 1, 5, -2, N, T - 1))
affine = st.builds(lambda a, b, c: a * i + b * j + c, slopes, slopes, constants)
blocks = st.sampled_from((1, 2, 4, 8))
limits = st.sampled_from((3, N, 4 * i + 4))
indices = st.one_of(
    affine,
    st.builds(lambda x, b: x // b, affine, blocks),
    st.builds(lambda x, b: x % b, affine, blocks),
    st.builds(lambda x, b, c: (x % b) * c + x // b, affine, blocks, st.sampled_from((1, 16))),
    st.builds(minimum, affine, limits),
    st.builds(maximum, affine, limits),
)
sizes = st.fixed_dictionaries({"N": st.integers(1, 13), "T": st.integers(1, 9)})


# `reach` decides whether loads need masks and buffers suffice: a wrong end is a wild read.
@given(indices, st.sampled_from(NESTS), sizes)
def test_reach_contains_every_iteration(index, ranges, at):
    ends = reach(index, ranges)
    if ends is not None:
        least, greatest = (evaluate(end, at) for end in ends)
        for here in iterations(ranges, at):
            assert least <= evaluate(index, here) <= greatest


# Simplifying under ranges may use nothing but the ranges.
@given(indices, st.sampled_from(NESTS), sizes)
def test_simplify_changes_no_value(index, ranges, at):
    simpler = simplify(index, ranges)
    for here in iterations(ranges, at):
        assert evaluate(simpler, here) == evaluate(index, here)


lows, highs = st.sampled_from((0, 1, N, T)), st.sampled_from((4, N, N * T, 8 * T + N))


@given(indices, st.sampled_from(NESTS), sizes, lows, highs)
def test_within_is_never_wrong(index, ranges, at, low, high):
    if within(index, low, high, ranges):
        for here in iterations(ranges, at):
            assert evaluate(low, here) <= evaluate(index, here) < evaluate(high, here)


# A pointer that moves by the coefficient reaches the index.
@given(indices, st.sampled_from(("i", "j")))
def test_split_reconstructs(index, var):
    parts = split(index, var)
    if parts is not None:
        slope, rest = parts
        assert slope * symbol(var) + rest == index
        assert not depends(slope, var) and not depends(rest, var)
        assert coefficient(index, var) == slope == substitute(index, {var: symbol(var) + 1}) - index
    else:
        assert coefficient(index, var) is None


@given(affine)
def test_affine_indices_do_split(index):
    assert split(index, "i") is not None and split(index, "j") is not None


# The claims that kernels are scheduled by; losing one is slow code, not wrong code, so each is pinned.
def test_reach_of_the_usual_nests():
    plain, tiled, triangle, _, _ = NESTS
    assert reach(T * i + j, plain) == (0, N * T - 1)
    assert reach(i - j, plain) == (1 - T, N - 1)
    assert reach(4 * i + j, tiled) == (0, N - 1)
    assert reach(j, triangle) == (0, N - 1)
    assert reach(i // 4 * 64 + i % 4, {"i": (0, N)}) == ((0, (N - 1) + 60 * ((N - 1) // 4)))
    assert reach(i % 4, {"i": (0, N)}) == (0, 3)
    assert reach(i * j - N * j, {"j": (0, 4)}) is None
    assert within(T * i + j, 0, N * T, plain)
    assert within(4 * i + j, 0, N, tiled)
    assert not within(T * i + j + 1, 0, N * T, plain)


@pytest.mark.parametrize(
    ("index", "ranges", "expected"),
    [
        ((8 * i + j) // 8, {"j": (0, 8)}, i),
        ((8 * i + j) % 8, {"j": (0, 8)}, j),
        ((8 * i + 4 * j + k) // 8, {"j": (0, 2), "k": (0, 4)}, i),
        ((4 * i + j) // 8, {"j": (0, 4)}, i // 2),
        ((T * i + j) // T, {"j": (0, T)}, i),
        ((T * i + j) % T, {"j": (0, T)}, j),
        (minimum(4 * i + 4, N), {"i": (0, N // 4)}, 4 * i + 4),
        (minimum(4, N - 4 * i), {"i": (0, N // 4)}, 4),
        (i // 4 + i % 4, {"i": (0, 4)}, i),
    ],
)
def test_simplify_under_ranges(index, ranges, expected):
    assert simplify(index, ranges) == expected


# A declared divisibility removes the tail: that is what it is declared for.
def test_simplify_under_promises():
    known = {"N": DimName("N", 8, None, 8)}
    assert simplify(ceildiv(N, 4), known=known) == N // 4
    assert simplify(N % 8, known=known) == 0
    assert simplify(8 * ceildiv(N, 8), known=known) == N
    assert simplify(minimum(4, N - 4 * i), {"i": (0, ceildiv(N, 4))}, known) == 4
    assert simplify(maximum(N, 8), known=known) == N
    assert divisible(8 * i + N, 8, known) and not divisible(8 * i + N, 16, known)
    assert divisible(i * 6 + 3, 3) and not divisible(i, 2)


# NumPy's own offsets, strides and unraveling.
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_row_major_agrees_with_numpy(shape):
    array = np.empty(shape, np.uint8)
    assert strides(shape) == array.strides
    for position in itertools.product(*[range(extent) for extent in shape]):
        offset = linearize(position, shape)
        assert offset == np.ravel_multi_index(position, shape)
        assert delinearize(offset, shape) == position


def test_symbolic_row_major():
    assert strides((N, T, 4)) == (4 * T, 4, 1)
    assert linearize((i, j, k), (N, T, 4)) == 4 * T * i + 4 * j + k
    assert linearize(delinearize(i, (N, T, 4)), (N, T, 4)) == i
    assert strides(()) == () and linearize((), ()) == 0 and delinearize(0, ()) == ()
    assert names(linearize((i, j), (N, T))) == ("T", "i", "j")
