"""Index arithmetic: how an index moves with a loop variable, what it can reach, what divides it.

An index is a `Dim` whose names are loop variables as well as sizes. A loop variable is told apart only by being asked
about: everything else in the index counts as fixed. An index that is not affine in a variable (it stands under `//`,
`%`, `min`, `max`, or in a power) answers None, and the caller keeps the general form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from ..dims import NOTHING, Dim, DimName, Known, bounds, known_le, multiple, names, simplify, substitute, symbol

Ranges: TypeAlias = Mapping[str, tuple[Dim, Dim]]  # loop variable -> [low, high), in the order of the nest


def depends(index: Dim, var: str) -> bool:
    """Whether the loop variable occurs in the index at all."""
    return var in names(index)


def split(index: Dim, var: str) -> tuple[Dim, Dim] | None:
    """(coefficient, rest), neither with `var` in it, such that index == coefficient*var + rest; None if not affine."""
    if var not in names(index):
        return 0, index
    rest = substitute(index, {var: 0})
    coefficient = substitute(index, {var: 1}) - rest
    if var not in names(coefficient) and index == coefficient * symbol(var) + rest:
        return coefficient, rest
    return None


def coefficient(index: Dim, var: str) -> Dim | None:
    """What the index grows by when `var` grows by one; None if that is not the same everywhere."""
    parts = split(index, var)
    return None if parts is None else parts[0]


def reach(index: Dim, ranges: Ranges, known: Known = NOTHING) -> tuple[Dim, Dim] | None:
    """The least and the greatest value (both attained ends included) while the loop variables run over their ranges.

    None if the index is not affine in a variable of the ranges, or the sign of a coefficient is not known. A range may
    mention the variables before it (`ranges` is in the order of the nest), so inner variables are eliminated first. No
    range may be empty: over an empty one there is no index to bound.
    """
    least = greatest = index
    for var in reversed(list(ranges)):
        low, high = ranges[var]
        below = _end(least, var, low, high - 1, known)
        above = _end(greatest, var, high - 1, low, known)
        if below is None or above is None:
            return None
        least, greatest = below, above
    return least, greatest


def _end(index: Dim, var: str, rising: Dim, falling: Dim, known: Known) -> Dim | None:
    """The index with `var` at `rising` if it grows with `var`, at `falling` if it falls."""
    parts = split(index, var)
    if parts is None:
        return None
    slope, rest = parts
    low, high = bounds(slope, known)
    if low is not None and low >= 0:
        return slope * rising + rest
    if high is not None and high <= 0:
        return slope * falling + rest
    return None


def within(index: Dim, low: Dim, high: Dim, ranges: Ranges, known: Known = NOTHING) -> bool:
    """Whether low <= index < high for all values of the loop variables."""
    ends = reach(index, ranges, known)
    return ends is not None and known_le(low, ends[0], known) and known_le(ends[1] + 1, high, known)


def promises(ranges: Ranges, known: Known = NOTHING) -> dict[str, DimName]:
    """`known` with what constant ends of the ranges say about the loop variables: input to `bounds` and `simplify`."""
    result = dict(known)
    for var, (low, high) in ranges.items():
        least, _ = bounds(low, result)
        _, end = bounds(high, result)
        if least is not None and (end is None or end > least):
            result[var] = DimName(var, least, None if end is None else end - 1)
    return result


def simplified(index: Dim, ranges: Ranges, known: Known = NOTHING) -> Dim:
    """The index without the divisions and extrema that the ranges decide: i // 4 is 0 while i runs over [0, 4)."""
    return simplify(index, promises(ranges, known))


def divisible(index: Dim, k: int, known: Known = NOTHING) -> bool:
    """Whether k divides the index for all values of its names."""
    return multiple(index, known) % k == 0


def strides(shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """Elements between neighbours along each axis of a row-major array."""
    result: list[Dim] = []
    step: Dim = 1
    for extent in reversed(shape):
        result.append(step)
        step = step * extent
    return tuple(reversed(result))


def linearize(indices: Sequence[Dim], shape: Sequence[Dim]) -> Dim:
    """The offset of an element in a row-major array, in elements."""
    assert len(indices) == len(shape)
    offset: Dim = 0
    for index, extent in zip(indices, shape):
        offset = offset * extent + index
    return offset


def delinearize(offset: Dim, shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """The indices of the element at an offset: the inverse of `linearize`. The first index is not reduced."""
    indices: list[Dim] = []
    for extent in reversed(shape[1:]):
        indices.append(offset % extent)
        offset = offset // extent
    if shape:
        indices.append(offset)
    return tuple(reversed(indices))
