"""Places in one arena: offsets for pieces of memory that are live for a while, such that none that are live at once
overlap.

Known sizes go by greedy rules (the largest first, or the moments with the most live bytes first, into the tightest
gap or the first one), and the plan with the lowest top is kept; the least any plan can need, the largest sum of bytes
live at once, is known, so the search ends where it is met. See Pisarchyk and Lee, "Efficient Memory Management for
Deep Neural Net Inference", arXiv 2001.03288. Sizes over names share a place where the order of the ends can be proven
for all values of the names; elsewhere they stand above everything that is live with them. This knows nothing of
graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..ir.dims import NOTHING, Dim, DimName, Known, apply, ceildiv, known_le, names, substitute
from ..ir.dims import evaluate as evaluate_dim

ALIGNMENT = 64
LARGE = 4096  # records beyond which only two of the four rules are tried

Record: TypeAlias = tuple[Dim, int, int]  # bytes, first moment, last moment; both moments included


def align(size: Dim) -> Dim:
    """`size` rounded up to whole cache lines."""
    return ceildiv(size, ALIGNMENT) * ALIGNMENT


def lower_bound(records: Sequence[Record], known: Known = NOTHING) -> Dim:
    """The largest sum of bytes live at one moment: what no plan can be below."""
    begins: dict[int, list[Dim]] = {}
    ends: dict[int, list[Dim]] = {}
    for size, first, last in records:
        begins.setdefault(first, []).append(size)
        ends.setdefault(last + 1, []).append(size)
    live: Dim = 0
    peaks: list[Dim] = [0]
    rising = False
    for moment in sorted({**begins, **ends}):
        if moment in ends and rising:
            peaks.append(live)
            rising = False
        for size in ends.get(moment, ()):
            live = live - size
        for size in begins.get(moment, ()):
            live, rising = live + size, True
    return greatest(peaks, known)


def peak(records: Sequence[tuple[int, int, int]]) -> int:
    """`lower_bound` of known sizes."""
    found = lower_bound(records)
    assert type(found) is int
    return found


def greatest(sizes: Sequence[Dim], known: Known = NOTHING, most: int = 6) -> Dim:
    """The greatest of sizes. Of those whose order is not known at most `most` are compared: the greatest at large
    sizes, which is a bound from below where there are more."""
    if all(type(size) is int for size in sizes):
        return max(size for size in sizes if type(size) is int)
    large = samples(sizes, known)[-1]
    ordered = sorted(dict.fromkeys(sizes), key=lambda size: -evaluate_dim(size, large))
    kept: list[Dim] = []
    for size in ordered:
        if len(kept) < most and not any(provably_at_most(size, other, known) for other in kept):
            kept.append(size)
    return apply("max", kept)


def samples(sizes: Sequence[Dim], known: Known) -> tuple[dict[str, int], dict[str, int]]:
    """Two values for every name, small and large, each within its promise: where two sizes are compared at first."""
    small: dict[str, int] = {}
    large: dict[str, int] = {}
    for name in sorted({name for size in sizes for name in names(size)}):
        promise = known.get(name)
        low, step, high = (promise.least, promise.multiple_of, promise.high) if promise else (0, 1, None)
        small[name] = low
        more = low + max(96 // step, 1) * step
        large[name] = more if high is None else min(more, high - high % step)
    return small, large


def plan(records: Sequence[Record], known: Known = NOTHING) -> list[Dim]:
    """An offset for every record, in the order given. Sizes are used as they are: align them before."""
    if any(type(size) is not int for size, _, _ in records):
        return _Provable(records, known).offsets()
    sized = [(size, first, last) for size, first, last in records if type(size) is int]
    bound = peak(sized)
    best: list[int] = []
    least = -1
    orders: tuple[Callable[[Sequence[tuple[int, int, int]]], list[int]], ...] = (by_size, by_breadth)
    for tight in (True,) if len(sized) > LARGE else (True, False):
        for order in orders:
            offsets = place(sized, order(sized), tight=tight)
            top = height(sized, offsets)
            if least < 0 or top < least:
                best, least = offsets, top
            if least == bound:
                return list(best)
    return list(best)


def height(records: Sequence[tuple[int, int, int]], offsets: Sequence[int]) -> int:
    """Where the topmost record ends."""
    return max((offset + size for (size, _, _), offset in zip(records, offsets, strict=True)), default=0)


def by_size(records: Sequence[tuple[int, int, int]]) -> list[int]:
    """The largest first; of equal ones the one that lives longest."""
    return sorted(range(len(records)), key=lambda i: (-records[i][0], records[i][1] - records[i][2], records[i][1], i))


def by_breadth(records: Sequence[tuple[int, int, int]]) -> list[int]:
    """The records live at the moments with the most live bytes first; at one moment, the largest first."""
    if not records:
        return []
    moments = sorted({first for _, first, _ in records})
    number = {moment: i for i, moment in enumerate(moments)}
    first = np.array([number[record[1]] for record in records])
    # A record is live at the beginnings up to its last moment.
    last = np.searchsorted(np.array(moments), np.array([record[2] for record in records]), side="right") - 1
    change = np.zeros(len(moments) + 1, np.int64)
    sizes = np.array([record[0] for record in records], np.int64)
    np.add.at(change, first, sizes)
    np.add.at(change, last + 1, -sizes)
    breadth = np.cumsum(change)[:-1]
    rank = np.empty(len(moments), np.int64)
    rank[np.lexsort((np.arange(len(moments)), -breadth))] = np.arange(len(moments))
    # The broadest moment at which each record lives: a sparse table of minima over ranges of ranks.
    table = [rank]
    while 2 * (width := 1 << (len(table) - 1)) <= len(moments):
        table.append(np.minimum(table[-1][:-width], table[-1][width:]))
    best = []
    for low, high in zip(first.tolist(), last.tolist(), strict=True):
        level = (high - low + 1).bit_length() - 1
        best.append(int(min(table[level][low], table[level][high + 1 - (1 << level)])))
    return sorted(range(len(records)), key=lambda i: (best[i], -records[i][0], records[i][1], i))


def place(records: Sequence[tuple[int, int, int]], order: Sequence[int], *, tight: bool) -> list[int]:
    """Offsets of records placed in this order: in the smallest gap that holds one, or in the first (not `tight`)."""
    count = len(records)
    firsts, lasts = np.empty(count, np.int64), np.empty(count, np.int64)
    lows, highs = np.empty(count, np.int64), np.empty(count, np.int64)
    offsets = [0] * count
    for done, i in enumerate(order):
        size, first, last = records[i]
        busy = np.flatnonzero((firsts[:done] <= last) & (lasts[:done] >= first))
        if len(busy):
            ordered = busy[np.argsort(lows[busy], kind="stable")]
            # What is taken below each busy piece; the gap before it lies between that and its beginning.
            taken = np.maximum.accumulate(np.concatenate(([0], highs[ordered])))
            gaps = lows[ordered] - taken[:-1]
            wide = np.flatnonzero(gaps >= size)
            if not len(wide):
                offsets[i] = int(taken[-1])
            else:
                offsets[i] = int(taken[wide[np.argmin(gaps[wide])] if tight else wide[0]])
        firsts[done], lasts[done] = first, last
        lows[done], highs[done] = offsets[i], offsets[i] + size
    return offsets


class _Provable:
    """A plan for sizes over names. What is tried is chosen by two sample values of the names, what is kept is
    proven."""

    TRIES = 6  # proofs begun for one record before it goes on top

    def __init__(self, records: Sequence[Record], known: Known) -> None:
        self.records = records
        self.known = known
        self.samples = samples([size for size, _, _ in records], known)
        self.proven: dict[Dim, bool] = {}

    def at_most(self, a: Dim, b: Dim) -> bool:
        # The same few differences stand between most pairs.
        apart = b - a
        if type(apart) is int:
            return apart >= 0
        found = self.proven.get(apart)
        if found is None:
            found = self.proven[apart] = provably_at_most(0, apart, self.known)
        return found

    def offsets(self) -> list[Dim]:
        """The plan with the lower top at large sizes: the largest first, or the broadest moments first."""
        small, large = self.samples
        weight = [(evaluate_dim(size, large), evaluate_dim(size, small)) for size, _, _ in self.records]
        by_weight = sorted(
            range(len(self.records)), key=lambda i: ((-weight[i][0], -weight[i][1]), self.records[i][1], i)
        )
        at_large = [(size, first, last) for (size, _), (_, first, last) in zip(weight, self.records, strict=True)]
        best: list[Dim] = []
        least = -1
        for order in (by_weight, by_breadth(at_large)):
            found = self.placed(order)
            height_at_large = height(at_large, [evaluate_dim(at, large) for at in found])
            if least < 0 or height_at_large < least:
                best, least = found, height_at_large
            if least == peak(at_large):
                break
        return best

    def placed(self, order: Sequence[int]) -> list[Dim]:
        """Offsets of records placed in this order."""
        found: list[Dim] = [0] * len(self.records)
        lows: list[Dim] = []
        highs: list[Dim] = []
        lives = np.empty((2, len(order)), np.int64)
        # Where each placed record begins and ends, at small and at large sizes.
        ends = np.empty((2, 2, len(order)), np.int64)
        for done, i in enumerate(order):
            size, first, last = self.records[i]
            busy = np.flatnonzero((lives[0, :done] <= last) & (lives[1, :done] >= first))
            at = self.gap(size, [lows[b] for b in busy], [highs[b] for b in busy], ends[:, :, busy])
            found[i] = at
            lows.append(at)
            highs.append(at + size)
            lives[:, done] = first, last
            for k, sample in enumerate(self.samples):
                ends[k, 0, done] = evaluate_dim(at, sample)
                ends[k, 1, done] = ends[k, 0, done] + evaluate_dim(size, sample)
        return found

    def gap(self, size: Dim, lows: Sequence[Dim], highs: Sequence[Dim], busy: NDArray[np.int64]) -> Dim:
        """The lowest place, at large sizes, that is free for all sizes. What is `busy` is given at both samples."""
        if not lows:
            return 0
        small, large = (evaluate_dim(size, sample) for sample in self.samples)
        # Where there is room at large sizes: behind what is busy, as in `place`.
        ordered = np.argsort(busy[1, 0], kind="stable")
        taken = np.maximum.accumulate(np.concatenate(([0], busy[1, 1][ordered])))
        room = np.flatnonzero(np.concatenate((busy[1, 0][ordered] - taken[:-1] >= large, [True])))
        tries = 0
        for place in dict.fromkeys(taken[room].tolist()):
            behind = np.flatnonzero(busy[1, 1] == place).tolist()
            for at in dict.fromkeys([*([0] if place == 0 else []), *(highs[b] for b in behind)]):
                here = evaluate_dim(at, self.samples[0])
                if not np.all((here + small <= busy[0, 0]) | (busy[0, 1] <= here)):
                    continue
                below = [b for b in ordered[::-1].tolist() if busy[1, 1, b] <= place]
                others = [b for b in ordered.tolist() if busy[1, 1, b] > place]
                if self.stacked(at, [(highs[b], lows[b]) for b in below], self.at_most) and self.stacked(
                    at + size, [(lows[b], highs[b]) for b in others], lambda low, end: self.at_most(end, low)
                ):
                    return at
                tries += 1
                if tries == self.TRIES:
                    return self.above(highs)
        return self.above(highs)

    def stacked(self, at: Dim, pieces: Sequence[tuple[Dim, Dim]], beyond: Callable[[Dim, Dim], bool]) -> bool:
        """Whether all pieces, (near end, far end) each and nearest first, are beyond a place. What touches a piece that
        is, is."""
        known = {at}
        for near, far in pieces:
            if near not in known and not beyond(near, at):
                return False
            known.add(far)
        return True

    def above(self, highs: Sequence[Dim]) -> Dim:
        """A place above all that is busy."""
        found: list[Dim] = []
        for end in dict.fromkeys(highs):
            if not any(self.at_most(end, other) for other in found):
                found = [*(other for other in found if not self.at_most(other, end)), end]
        return apply("max", found)


def provably_at_most(a: Dim, b: Dim, known: Known, split: tuple[str, ...] | None = None) -> bool:
    """`known_le`, with the least value of a name or two looked at by itself: what is rounded up to lines is small
    beside 256*B only where B is not 0, and where it is, both are."""
    if known_le(a, b, known):
        return True
    if split is None:
        involved = names(b - a)
        split = involved if len(involved) <= 2 else ()
    if not split:
        return False
    name, *others = split
    promise = known.get(name, DimName(name))
    least, rest = {name: promise.least}, tuple(others)
    if not provably_at_most(substitute(a, least), substitute(b, least), known, rest):
        return False
    if promise.high is not None and promise.least + promise.multiple_of > promise.high:
        return True
    above = {**known, name: replace(promise, low=promise.least + 1)}
    return provably_at_most(a, b, above, rest)


def top(records: Sequence[Record], offsets: Sequence[Dim], known: Known = NOTHING) -> Dim:
    """The bytes of the arena: where the topmost record ends, for all values of the names."""
    ends = [offset + size for (size, _, _), offset in zip(records, offsets, strict=True)]
    return greatest(ends, known, most=len(ends)) if ends else 0
