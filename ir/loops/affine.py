"""Index arithmetic: how an index moves with a loop variable, what it can reach, what divides it.

An index is a `Dim` whose names are loop variables as well as sizes. A loop variable is told apart only by
being asked about: everything else in the index counts as fixed. Where an answer is not known (the variable
stands under `//`, `%`, `min`, `max` or in a power; the sign of a coefficient depends on a size) it is None or
False, and the caller keeps the general form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd
from types import MappingProxyType
from typing import Final, TypeAlias

from ..dims import (
    NOTHING,
    Atom,
    Dim,
    DimName,
    Known,
    SymbolicDim,
    apply,
    bounds,
    exact_div,
    factor_value,
    linear,
    multiple,
    names,
    substitute,
    symbol,
)

Ranges: TypeAlias = Mapping[str, tuple[Dim, Dim]]  # loop variable -> [low, high), in the order of the nest
NO_LOOPS: Final[Ranges] = MappingProxyType({})
_BELOW_ALL: Final = -(2**63)  # stands for an unknown lower end: every index is an i64


def depends(index: Dim, var: str) -> bool:
    """Whether the loop variable occurs in the index at all."""
    return var in names(index)


def split(index: Dim, var: str) -> tuple[Dim, Dim] | None:
    """(coefficient, rest), both free of `var`, where index == coefficient*var + rest; None if not affine."""
    return linear(index, var)


def coefficient(index: Dim, var: str) -> Dim | None:
    """What the index grows by when `var` grows by one; None if the index is not affine in it."""
    parts = linear(index, var)
    return None if parts is None else parts[0]


def promises(ranges: Ranges, known: Known = NOTHING) -> dict[str, DimName]:
    """`known` together with what the ranges say in numbers about the loop variables, as `bounds` takes it."""
    result = dict(known)
    for var, (low, high) in ranges.items():
        least, _ = bounds(low, result)
        _, end = bounds(high, result)
        least = _BELOW_ALL if least is None else least
        if end is None or end > least:
            result[var] = DimName(var, least, None if end is None else end - 1)
    return result


def reach(index: Dim, ranges: Ranges, known: Known = NOTHING) -> tuple[Dim, Dim] | None:
    """(least, greatest): between these the index stays, both included, while the loop variables run.

    They are attained where the index is affine. A range may mention the variables before it, so the inner
    ones are eliminated first; it must not be empty, for over an empty range there is no index to bound. None
    if the index neither grows nor falls with some variable and has no bounds in numbers either.
    """
    if type(index) is int:
        return index, index
    least = _extreme(index, ranges, known, greatest=False)
    greatest = _extreme(index, ranges, known, greatest=True)
    return None if least is None or greatest is None else (least, greatest)


def _extreme(index: Dim, ranges: Ranges, known: Known, greatest: bool) -> Dim | None:
    for var in reversed(list(ranges)):
        inside = names(index)
        if var not in inside:
            continue
        low, high = ranges[var]
        parts = linear(index, var)
        # What one step adds: the coefficient, or else a difference whose sign may still be known.
        step = substitute(index, {var: symbol(var) + 1}) - index if parts is None else parts[0]
        moving = any(name in ranges for name in names(step))
        lower, upper = bounds(step, promises(ranges, known) if moving else known)
        if lower is not None and lower >= 0:
            end = high - 1 if greatest else low
        elif upper is not None and upper <= 0:
            end = low if greatest else high - 1
        else:
            return bounds(index, promises(ranges, known))[1 if greatest else 0]
        index = substitute(index, {var: end}) if parts is None else step * end + parts[1]
    return index


def _at_least(index: Dim, floor: Dim, ranges: Ranges, known: Known) -> bool:
    least = _extreme(index - floor, ranges, known, greatest=False)
    if least is None:
        return False
    low, _ = bounds(least, known)
    return low is not None and low >= 0


def within(index: Dim, low: Dim, high: Dim, ranges: Ranges, known: Known = NOTHING) -> bool:
    """Whether low <= index < high for all values of the loop variables."""
    return _at_least(index, low, ranges, known) and _at_least(high, index + 1, ranges, known)


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
    """The indices of the element at an offset: the inverse of `linearize`. The first takes what is left."""
    indices: list[Dim] = []
    for extent in reversed(shape[1:]):
        indices.append(offset % extent)
        offset = offset // extent
    if shape:
        indices.append(offset)
    return tuple(reversed(indices))


def simplify(index: Dim, ranges: Ranges = NO_LOOPS, known: Known = NOTHING) -> Dim:
    """The index without the divisions and extrema that the ranges and promises decide.

    `i // 4` is 0 and `i % 4` is i while i runs over [0, 4); `(4*i + j) // 8` is `i // 2` while j does;
    `min(4*i + 4, N)` is `4*i + 4` where that is known to be at most N.
    """
    # What one round uncovers the next may use; to stop early is only to leave more standing.
    for _ in range(4):
        if type(index) is int:
            break
        simpler = _simplified(index, ranges, known)
        if simpler == index:
            break
        index = simpler
    return index


def _simplified(index: Dim, ranges: Ranges, known: Known) -> Dim:
    if not isinstance(index, SymbolicDim):
        return index
    total: Dim = index.constant
    for factors, count in index.terms:
        term: Dim = count
        for factor in factors:
            if not isinstance(factor, Atom):
                term = term * symbol(factor)
                continue
            operands = [simplify(operand, ranges, known) for operand in factor.operands]
            if factor.kind == "floordiv":
                term = _times_quotient(term, operands[0], operands[1], ranges, known)
            elif factor.kind == "mod":
                whole = _times_quotient(operands[1], operands[0], operands[1], ranges, known)
                term = (operands[0] - whole) * term
            else:
                term = apply(factor.kind, _contenders(operands, factor.kind == "min", ranges, known)) * term
        total = total + term
    return total


def _times_quotient(scale: Dim, dividend: Dim, divisor: Dim, ranges: Ranges, known: Known) -> Dim:
    """scale * (dividend // divisor)."""
    if within(dividend, 0, divisor, ranges, known):
        return 0
    if type(divisor) is int and isinstance(dividend, SymbolicDim):
        dividend = _without_fine_part(dividend, divisor, ranges, known)
        whole = exact_div(scale, divisor)
        if whole is not None and divisible(dividend, divisor, known):
            return whole * dividend  # b * (x // b) is x where b divides x
        low, high = bounds(dividend // divisor, promises(ranges, known))
        if low is not None and low == high:
            return scale * low
    return scale * (dividend // divisor)


def _without_fine_part(dividend: SymbolicDim, divisor: int, ranges: Ranges, known: Known) -> Dim:
    """x where floor((x + y) / b) == floor(x / b): some g divides b and x, and 0 <= y < g."""
    parts: list[tuple[Dim, int]] = []
    for factors, count in dividend.terms:
        part: Dim = count
        for factor in factors:
            part = part * factor_value(factor)
        parts.append((part, gcd(multiple(part, known), divisor)))
    for g in sorted({g for _, g in parts if g > 1}, reverse=True):
        coarse = sum((part for part, common in parts if common % g == 0), dividend.constant // g * g)
        fine = dividend - coarse
        if within(fine, 0, g, ranges, known):
            return coarse
    return dividend


def _contenders(operands: Sequence[Dim], least: bool, ranges: Ranges, known: Known) -> list[Dim]:
    """The operands of a min (max) that are not known to be at least (at most) another one."""
    kept: list[Dim] = []
    for place, operand in enumerate(operands):
        rivals = (*kept, *operands[place + 1 :])
        if not any(
            _at_least(operand, rival, ranges, known) if least else _at_least(rival, operand, ranges, known)
            for rival in rivals
        ):
            kept.append(operand)
    return kept
