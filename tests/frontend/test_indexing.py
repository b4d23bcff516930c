"""Indexing as NumPy's: any mixture of slices, numbers, arrays, masks, new axes and ellipses, read and written.

NumPy is the oracle of what is read; of `.at[...]`, its ufunc.at and assignments are. Random indices are made from a
seed, so a failure prints the index that shows it.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from tracing import run, traced

import treadle as td
from treadle.ir.dims import DimName, symbol
from treadle.ir.errors import OutOfRange, TreadleError


class Maker:
    """Random shapes, and indices for them: some that NumPy refuses."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def shape(self) -> tuple[int, ...]:
        return tuple(self.random.choice((0, 1, 2, 3, 4, 5)) for _ in range(self.random.randrange(5)))

    def cut(self, n: int) -> slice:
        def bound() -> int | None:
            return self.random.choice([None, None, None, *range(-n - 2, n + 3)])

        return slice(bound(), bound(), self.random.choice((None, 1, 2, 3, -1, -2, -3)))

    def places(self, n: int, shape: tuple[int, ...]) -> np.ndarray:
        values = [self.random.randrange(-n, n) for _ in range(int(np.prod(shape)))]
        return np.array(values, self.random.choice(("i8", "i4", "i2"))).reshape(shape)

    def mask(self, *shape: int) -> np.ndarray:
        return np.array([self.random.random() < 0.5 for _ in range(int(np.prod(shape)))], bool).reshape(shape)

    def index(self, shape: tuple[int, ...]) -> Any:
        block = self.random.choice(((3,), (2, 3), (1,), (2, 1)))
        found: list[Any] = []
        axis, ellipsis = 0, False
        while axis < len(shape):
            n, kind = shape[axis], self.random.random()
            if kind < 0.35:
                found.append(self.cut(n))
            elif kind < 0.42:
                found.append(None)
                continue
            elif kind < 0.48 and not ellipsis:
                found.append(Ellipsis)
                ellipsis = True
                axis += self.random.randrange(len(shape) - axis + 1)
                continue
            elif kind < 0.53:
                found.append(self.mask(n))
            elif kind < 0.56 and axis + 1 < len(shape):
                found.append(self.mask(n, shape[axis + 1]))
                axis += 1
            elif n == 0 or kind > 0.96:
                break
            elif kind < 0.7:
                found.append(self.random.randrange(-n, n))
            elif kind < 0.74:
                found.append(np.int64(self.random.randrange(-n, n)))
            elif kind < 0.78:
                found.append([self.random.randrange(-n, n) for _ in range(3)])
            else:
                found.append(self.places(n, self.random.choice((block, block[-1:], (1,), ()))))
            axis += 1
        return found[0] if len(found) == 1 and self.random.random() < 0.5 else tuple(found)


def traced_places(index: Any) -> list[int]:
    """Where arrays of integers stand in the index."""
    items = index if isinstance(index, tuple) else (index,)
    return [i for i, x in enumerate(items) if isinstance(x, np.ndarray | np.integer) and np.asarray(x).dtype != bool]


def put(index: Any, places: list[int], new: tuple[Any, ...]) -> Any:
    items = list(index) if isinstance(index, tuple) else [index]
    for place, x in zip(places, new, strict=True):
        items[place] = x
    return tuple(items) if isinstance(index, tuple) else items[0]


def cases(seed: int, count: int) -> list[tuple[np.ndarray, Any, list[int]]]:
    """Arrays, indices, and what of each index is traced: nothing, or every array of integers."""
    make = Maker(seed)
    found = []
    for _ in range(count):
        shape = make.shape()
        x, index = np.arange(1, np.prod(shape) + 1, dtype="f4").reshape(shape), make.index(shape)
        found.append((x, index, []))
        if traced_places(index):
            found.append((x, index, traced_places(index)))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_reads(seed: int) -> None:
    for x, index, places in cases(seed, 250):
        arrays = [at(index, place) for place in places]

        def user(x: Any, *arrays: Any, index: Any = index, places: list[int] = places) -> Any:
            return x[put(index, places, arrays)]

        try:
            expected = x[index]
        except IndexError:
            with pytest.raises(OutOfRange):
                run(user, x, *arrays)
            continue
        np.testing.assert_array_equal(run(user, x, *arrays), expected, err_msg=f"{x.shape}[{index!r}]")


def at(index: Any, place: int) -> Any:
    return index[place] if isinstance(index, tuple) else index


UPDATES = {"set": None, "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "min": np.minimum,
           "max": np.maximum}  # fmt: skip


# What NumPy writes in place, `.at` gives as a new array; of places that are named twice, the last one is set.
@pytest.mark.parametrize("name", UPDATES)
def test_updates(name: str) -> None:
    make = Maker(7)
    for x, index, places in cases(11, 120):
        try:
            shape = x[index].shape
        except IndexError:
            continue
        whole = make.random.random() < 0.5
        v = np.arange(np.prod(shape), dtype="f4").reshape(shape) * 2 + 0.5 if whole else np.float32(2.5)
        expected = x.copy()
        if UPDATES[name] is None:
            expected[index] = v
        else:
            UPDATES[name].at(expected, index, v)
        arrays = [at(index, place) for place in places]

        def user(x: Any, v: Any, *arrays: Any, index: Any = index, places: list[int] = places) -> Any:
            return getattr(x.at[put(index, places, arrays)], name)(v)

        got = run(user, x, v, *arrays)
        np.testing.assert_allclose(got, expected, rtol=1e-6, err_msg=f"{x.shape}.at[{index!r}]")


# The same reads and writes as machine code, many in one program.
def test_compiled() -> None:
    chosen = [(x, i, p) for x, i, p in cases(3, 60) if not isinstance(outcome(x, i), IndexError)]

    def user(arrays: Any, indices: Any) -> Any:
        full = [put(i, p, tuple(new)) for (_, i, p), new in zip(chosen, indices, strict=True)]
        reads = [x[i] for x, i in zip(arrays, full, strict=True)]
        return reads, [x.at[i].add(1.0) for x, i in zip(arrays, full, strict=True)]

    reads, writes = td.jit(user)([x for x, _, _ in chosen], [[at(i, place) for place in p] for _, i, p in chosen])
    for (x, index, _), read, write in zip(chosen, reads, writes, strict=True):
        np.testing.assert_array_equal(read, x[index])
        expected = x.copy()
        np.add.at(expected, index, 1)
        np.testing.assert_array_equal(write, expected)


def outcome(x: np.ndarray, index: Any) -> Any:
    try:
        return x[index]
    except IndexError as error:
        return error


X = np.arange(20.0).reshape(4, 5)


# Indices outside: found while tracing where they are known, else an IndexError from native code with the line.
@pytest.mark.parametrize(
    "read",
    [
        lambda x, i: x[4],
        lambda x, i: x[0, 5],
        lambda x, i: x[0, 0, 0],
        lambda x, i: x[[0, 4]],
        lambda x, i: x[..., ...],
        lambda x, i: x[np.array([1.0])],
        lambda x, i: x[np.array([True, False])],
    ],
)
def test_outside_while_tracing(read: Any) -> None:
    with pytest.raises(IndexError):
        read(X, 0)
    with pytest.raises(OutOfRange) as caught:
        traced(read, X, 0)
    assert caught.value.code == "TD0818"
    assert "lambda x, i" in str(caught.value)


@pytest.mark.parametrize(
    "read",
    [
        lambda x, i: x[i],
        lambda x, i: x[0, i + 1],
        lambda x, i: x[np.array([0, 1]) * i],
        lambda x, i: x[-i - 1],
        lambda x, i: np.take(x, i, axis=0),
        lambda x, i: x.at[i].set(1.0),
        lambda x, i: np.take_along_axis(x, np.full_like(x[:1].astype(int), 1) * i, 0),
    ],
)
def test_outside_at_run_time(read: Any) -> None:
    compiled = td.jit(read)
    compiled(X, 1)
    with pytest.raises(IndexError) as caught:
        compiled(X, 4)
    assert "lambda x, i" in str(caught.value)
    assert compiled.n_compiles == 1


# What an index outside does on request.
def test_modes() -> None:
    places = np.array([0, 6, -7, 2])
    x = np.arange(4.0)

    def f(x: Any, i: Any) -> Any:
        return (
            x.at[i].get(mode="clip"), x.at[i].get(mode="wrap"), x.at[i].get(mode="fill"),
            x.at[i].set(9.0, mode="drop"), x.at[i].add(1.0, mode="clip"),
        )  # fmt: skip

    for got in (run(f, x, places), td.jit(f)(x, places)):
        np.testing.assert_array_equal(got[0], np.take(x, places, mode="clip"))
        np.testing.assert_array_equal(got[1], np.take(x, places, mode="wrap"))
        np.testing.assert_array_equal(got[2], [0, np.nan, np.nan, 2])
        np.testing.assert_array_equal(got[3], [9, 1, 9, 3])
        np.testing.assert_array_equal(got[4], [2, 1, 3, 4])


# What is known while tracing is no other index than what is not: the mode decides, and -1 is the last element.
@pytest.mark.parametrize(
    "index", [3, -1, -4, 4, 9, -5, [0, 4], [-1, -9], (1, 7), (slice(1, 3), -8), (5, [0, 1]), ([1, -7], 2)]
)
def test_modes_of_known_indices(index: Any) -> None:
    x = np.arange(16.0).reshape(4, 4)
    items = index if isinstance(index, tuple) else (index,)
    numbers = [i for i in items if not isinstance(i, slice)]

    def whole(given: list[Any]) -> Any:
        rest = iter(given)
        found = tuple(i if isinstance(i, slice) else next(rest) for i in items)
        return found if isinstance(index, tuple) else found[0]

    def f(x: Any, numbers: Any, mode: str) -> Any:
        place = x.at[whole(numbers)]
        return place.get(mode=mode), place.set(-1.0, mode=mode), place.add(0.5, mode=mode)

    for mode in ("clip", "wrap", "fill", "drop"):
        found = td.jit(lambda x, mode=mode: f(x, numbers, mode))(x)
        traced = td.jit(lambda x, i, mode=mode: f(x, i, mode))(x, [np.array(i) for i in numbers])
        for a, b in zip(found, traced, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=mode)
        np.testing.assert_array_equal(found[0], expected(x, whole, numbers, mode), err_msg=mode)
    for mode in ("raise", None):
        inside = all(-4 <= n < 4 for i in numbers for n in np.ravel(i))
        if inside:
            np.testing.assert_array_equal(td.jit(lambda x, mode=mode: f(x, numbers, mode)[0])(x), x[index])
        else:
            with pytest.raises(IndexError, match="TD0818"):
                td.jit(lambda x, mode=mode: f(x, numbers, mode)[0])(x)


def expected(x: np.ndarray, whole: Any, numbers: list[Any], mode: str) -> np.ndarray:
    """By NumPy: the outside is told by reading, at the nearest places, what is inside."""
    counted = [np.where(np.less(n, 0), np.add(n, 4), n) for n in numbers]
    places = [n % 4 if mode == "wrap" else np.clip(n, 0, 3) for n in counted]
    found = x[whole([int(n) if n.ndim == 0 else n for n in places])]
    if mode in ("clip", "wrap"):
        return found
    within = np.asarray(np.all(np.broadcast_arrays(*((n >= 0) & (n < 4) for n in counted)), axis=0))
    within = within.reshape((*within.shape, *(1,) * (found.ndim - within.ndim)))
    return np.where(within, found, np.nan if mode == "fill" else 0.0)


# A traced mask keeps the shape where it can, and says so where it cannot.
def test_masks() -> None:
    def f(x: Any, m: Any) -> Any:
        return x.at[m].set(0.0), x.at[m].add(1.0), np.where(m, x, -1), x.sum(where=m), x.mean(axis=0, where=m)

    m = X % 3 == 0
    got = td.jit(f)(X, m)
    for a, b in zip(got, (np.where(m, 0, X), X + m, np.where(m, X, -1), X[m].sum(), X.mean(0, where=m)), strict=True):
        np.testing.assert_allclose(a, b)
    for refused in (lambda x, m: x[m], lambda x, m: x.at[m].set(np.ones(7))):
        with pytest.raises(TreadleError) as caught:
            traced(refused, X, m)
        assert caught.value.code == "TD0811"


# Slices of sizes that have names, against the same slices of every size.
@pytest.mark.parametrize(
    "cut",
    [
        slice(1, None), slice(None, -1), slice(-2, None), slice(None, 2), slice(None, None, 2), slice(None, None, -1),
        slice(-1, None, -2), slice(3, 1), slice(1, 100), slice(-100, -1), slice(1, -1, 2), slice(None, 0, -1),
    ],
    ids=str,
)  # fmt: skip
def test_slices_of_sizes_with_names(cut: slice) -> None:
    found = traced(lambda x: x[cut] * 2, np.zeros(3), shapes=((symbol("N"),),), dims=(DimName("N"),))
    for size in range(7):
        x = np.arange(float(size))
        np.testing.assert_array_equal(td.evaluate(found.graph, x)[0], x[cut] * 2, err_msg=f"{size}")


# x[1:] and x[:-1] are of one size, so they can be added, whatever the size is.
def test_neighbours_of_a_size_with_a_name() -> None:
    def user(x: Any) -> Any:
        return x[1:] - x[:-1], np.diff(x), x[1:-1] + x[2:]

    found = traced(user, np.zeros(3), shapes=((symbol("N"),),), dims=(DimName("N", low=2),))
    for size in (2, 3, 6):
        x = np.arange(float(size)) ** 2
        for got, expected in zip(td.evaluate(found.graph, x), (np.diff(x), np.diff(x), x[1:-1] + x[2:]), strict=True):
            np.testing.assert_array_equal(got, expected)
