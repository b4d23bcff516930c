"""Places in one arena: nothing live at once overlaps, and published networks need no more than they must."""

from __future__ import annotations

import networks
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.ir.dims import Dim, DimName, evaluate, symbol
from treadle.passes.arena import align, height, lower_bound, peak, plan, top

MIB = 1 << 20


# What Pisarchyk and Lee report for these networks (arXiv 2001.03288): the bound is met in each.
@pytest.mark.parametrize(
    ("network", "mebibytes"),
    [(networks.mobilenet, 4.594), (networks.mobilenet_with_residuals, 5.742), (networks.inception, 7.913)],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_published_networks_need_no_more_than_the_bound(network, mebibytes):
    records = network()
    assert round(peak(records) / MIB, 3) == mebibytes
    assert height(records, plan(records)) == peak(records)


def assert_apart(records, offsets, values):
    """No two records that are live at once share a byte, by brute force."""
    placed = [
        (evaluate(size, values), evaluate(at, values), first, last)
        for (size, first, last), at in zip(records, offsets, strict=True)
    ]
    for i, (size, at, first, last) in enumerate(placed):
        assert at >= 0
        for other_size, other_at, other_first, other_last in placed[:i]:
            if first <= other_last and other_first <= last:
                assert at + size <= other_at or other_at + other_size <= at


LIVES = st.tuples(st.integers(0, 30), st.integers(0, 12)).map(lambda life: (life[0], life[0] + life[1]))


# The plan is legal for any lives and sizes, never below the bound, and not far above it.
@given(st.lists(st.tuples(st.integers(0, 2000), LIVES), max_size=40))
def test_known_sizes(drawn):
    records = [(align(size), first, last) for size, (first, last) in drawn]
    offsets = plan(records)
    assert_apart(records, offsets, {})
    assert peak(records) <= height(records, offsets) <= sum(size for size, _, _ in records)
    live = {m: sum(s for s, a, b in records if a <= m <= b) for m in range(50)}
    assert lower_bound(records) == max(live.values())


B, T = symbol("B"), symbol("T")
SIZES: tuple[Dim, ...] = (0, 64, 400, 4 * B, 40 * B, 256 * B, 4 * B * T, 256 * B * T, 4 * B * T * T, 12 * T + 4)


# Offsets over names are right for every value of the names, not only for those that the planner tried.
@given(
    st.lists(st.tuples(st.sampled_from(SIZES), LIVES), max_size=16),
    st.sampled_from([{"B": 0, "T": 0}, {"B": 1, "T": 1}, {"B": 3, "T": 50}, {"B": 1000, "T": 1}, {"B": 17, "T": 17}]),
)
def test_sizes_over_names(drawn, values):
    records = [(align(size), first, last) for size, (first, last) in drawn]
    offsets = plan(records)
    assert_apart(records, offsets, values)
    ends = [evaluate(at, values) + evaluate(r[0], values) for r, at in zip(records, offsets, strict=True)]
    total = evaluate(top(records, offsets), values)
    assert total == max(ends, default=0)
    assert evaluate(lower_bound(records), values) <= total


# Values that are proportional to the batch share memory as known sizes do: two of three equal ones, not three.
def test_proportional_sizes_share():
    records = [(256 * B, 0, 1), (256 * B, 1, 2), (256 * B, 2, 3)]
    offsets = plan(records)
    assert top(records, offsets) == 512 * B
    assert lower_bound(records) == 512 * B


# The largest first would put the vector on top: at the moments when it lives, either matrix leaves it no room below.
def test_broad_moments_first():
    matrix, vector = align(64 * B), align(16 * B)
    records = [(matrix, 1, 2), (matrix, 2, 3), (vector, 3, 4), (matrix, 4, 5)]
    assert top(records, plan(records)) == lower_bound(records) == 128 * B


# A vector over the batch fits where a matrix over the batch was, though its size is no multiple of a line.
def test_a_smaller_size_is_proven_to_fit():
    records = [(align(256 * B), 0, 1), (align(4 * B), 2, 3), (align(40 * B), 2, 3)]
    assert top(records, plan(records)) == 256 * B


# What a name promises helps: without it 64*B might be less than 640.
def test_promises_are_used():
    records: list[tuple[Dim, int, int]] = [(64 * B, 0, 1), (640, 2, 3)]
    known = {"B": DimName("B", low=10)}
    assert top(records, plan(records, known), known) == 64 * B


# Ten thousand records are placed in time that a compilation can afford; the time limit of the test says what that is.
@pytest.mark.time_limit(10)
def test_many_records():
    records = [(64 * (1 + i * 7919 % 500), i, i + i * 31 % 9) for i in range(10_000)]
    assert height(records, plan(records)) <= 1.2 * peak(records)
